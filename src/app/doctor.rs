//! `tramline doctor`: whether this hub can be found, believed and spoken with, and whether others
//! can.
//!
//! What is looked at is looked at with the code that the hub runs: names are resolved, connections
//! made, keys fetched and lists read as it does that. Nothing is changed. The hub need not run; what
//! needs it is left out, and said.

mod ours;
mod reached;

use futures_util::{StreamExt as _, stream};
use ruma::OwnedServerName;
use serde_json::{Value as Json, json};

use super::{
    config::Config,
    failure::Failure,
    operator::{Client, Request},
    output::{self, Format},
};
use reached::Reach;

/// How a finding is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, or works for now.
    Warn,
    /// It does not work.
    Fail,
    /// Not looked at.
    Skip,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    code: String,
    level: Level,
    /// Of whom or of what: a server, a file.
    about: String,
    /// What was found.
    cause: String,
    /// A command or setting that mends it.
    mend: Option<String>,
}

impl Finding {
    fn new(code: impl Into<String>, level: Level, about: impl ToString, cause: String) -> Self {
        Self {
            code: code.into(),
            level,
            about: about.to_string(),
            cause,
            mend: None,
        }
    }

    fn ok(code: impl Into<String>, about: impl ToString, cause: String) -> Self {
        Self::new(code, Level::Ok, about, cause)
    }

    fn mended_by(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// What another part of the program says of the same.
    fn of_failure(about: impl ToString, failure: &Failure) -> Self {
        let told = failure.json();
        let text = |name: &str| {
            let text = told.get("error").and_then(|error| error.get(name));
            text.and_then(Json::as_str).unwrap_or_default().to_owned()
        };
        Self::new(text("code"), Level::Fail, about, text("message"))
    }

    fn json(&self) -> Json {
        json!({
            "event": "finding", "code": self.code, "level": self.level.as_str(),
            "about": self.about, "cause": self.cause, "do": self.mend,
        })
    }

    fn text(&self) -> String {
        let Self {
            code, about, cause, ..
        } = self;
        let cause = output::visible(cause);
        let line = format!("{:<4}  {code} {about}: {cause}", self.level.as_str());
        match &self.mend {
            Some(mend) => format!("{line}\n      do: {}", output::visible(mend)),
            None => line,
        }
    }
}

/// Looks at everything. Ends well only when nothing fails.
pub async fn run(
    config: &Config,
    peers: Vec<OwnedServerName>,
    format: Format,
) -> Result<(), Failure> {
    let running = Client::connect(config.admin.socket.as_ref()).await;
    let mut hub = running.ok().flatten();
    let mut findings = ours::of_files(config).await;
    findings.push(hub_runs(config, hub.is_some()));
    if config.federation.enabled {
        findings.extend(among_others(config, peers, &mut hub).await);
    } else {
        let cause = "other servers are neither asked nor answered".to_owned();
        let off = Finding::new("FEDERATION_OFF", Level::Warn, &config.server_name, cause);
        findings.push(off.mended_by("set `federation.enabled = true` and start the hub again"));
    }
    print(&findings, format)?;
    match count(&findings, Level::Fail) {
        0 => Ok(()),
        failing => {
            let reason = format!("{failing} of what was looked at fails; each is listed on stdout");
            Err(Failure::failed("DOCTOR_FINDINGS", reason))
        }
    }
}

fn hub_runs(config: &Config, runs: bool) -> Finding {
    let name = &config.server_name;
    if runs {
        return Finding::ok("HUB_RUNS", name, "it answers on its socket".to_owned());
    }
    let socket = config.admin.socket.as_ref().display();
    let cause = format!(
        "nobody answers on {socket}: what it shows over the network, and the servers it has to do with, \
         are not looked at"
    );
    Finding::new("HUB_NOT_RUNNING", Level::Skip, name, cause).mended_by("tramline serve")
}

/// What is to be seen from the network.
async fn among_others(
    config: &Config,
    mut peers: Vec<OwnedServerName>,
    hub: &mut Option<Client>,
) -> Vec<Finding> {
    let reach = match Reach::new(config, hub.is_some()) {
        Ok(reach) => reach,
        Err(failure) => return vec![Finding::of_failure("federation", &failure)],
    };
    let mut findings = Vec::new();
    if let Some(hub) = hub {
        findings.extend(ours::from_outside(config, &reach).await);
        match known_peers(hub).await {
            Ok(known) => peers.extend(known),
            Err(error) => findings.push(Finding::new("PEERS", Level::Warn, "peers", error)),
        }
    }
    peers.sort_unstable();
    peers.dedup();
    peers.retain(|peer| *peer != config.server_name);
    let reach = &reach;
    let looked_at = stream::iter(peers.iter().map(|peer| reach.look_at(peer)));
    let looked_at: Vec<_> = looked_at.buffered(PEERS_AT_ONCE).collect().await;
    findings.extend(looked_at.into_iter().flatten());
    findings
}

/// The servers that the hub has told something or is to.
async fn known_peers(hub: &mut Client) -> Result<Vec<OwnedServerName>, String> {
    let mut known = Vec::new();
    let mut after = None;
    loop {
        let asked = Request::ListPeers {
            server: None,
            after,
        };
        let page = hub.ask(&asked, |_| {}).await;
        let page = page.map_err(|error| error.to_string())?;
        let peers = page.get("peers").and_then(Json::as_array);
        let names = peers.into_iter().flatten();
        let names = names.filter_map(|peer| peer.get("server")?.as_str()?.try_into().ok());
        known.extend(names);
        let next = page.get("next").and_then(Json::as_str);
        after = match next.map(OwnedServerName::try_from) {
            Some(Ok(next)) if known.len() < PEERS_MAX => Some(next),
            _ => break,
        };
    }
    known.truncate(PEERS_MAX);
    Ok(known)
}

/// Servers that are looked at without being named: a silent one takes half a minute.
const PEERS_MAX: usize = 200;

/// How many at a time.
const PEERS_AT_ONCE: usize = 8;

fn count(findings: &[Finding], level: Level) -> usize {
    let of_level = findings.iter().filter(|finding| finding.level == level);
    of_level.count()
}

fn print(findings: &[Finding], format: Format) -> Result<(), Failure> {
    for finding in findings {
        format.print(&finding.text(), &finding.json())?;
    }
    let [ok, warn, fail, skip] =
        [Level::Ok, Level::Warn, Level::Fail, Level::Skip].map(|level| count(findings, level));
    format.print(
        &format!("{ok} ok, {warn} to be watched, {fail} failing, {skip} not looked at"),
        &json!({"event": "summary", "ok": ok, "warn": warn, "fail": fail, "skip": skip}),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::app::{
        config::{Inputs, load},
        init, open,
    };

    async fn config(dir: &Path, options: &[&str]) -> Config {
        init::init("hub.example", dir).unwrap();
        let file = dir.join("tramline.toml");
        open::create(&file).await.unwrap();
        let inputs = Inputs {
            file: Some(file),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Inputs::default()
        };
        load(&inputs).unwrap().config
    }

    fn level(findings: &[Finding], code: &str) -> Option<Level> {
        let found = findings.iter().find(|finding| finding.code == code);
        found.map(|finding| finding.level)
    }

    #[tokio::test]
    async fn a_new_hub_is_well_though_it_does_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), &[]).await;

        let findings = ours::of_files(&config).await;

        assert_eq!(count(&findings, Level::Fail), 0, "{findings:?}");
        assert_eq!(level(&findings, "SIGNING_KEY"), Some(Level::Ok));
        assert_eq!(level(&findings, "STORE_KEY"), Some(Level::Ok));
        run(&config, Vec::new(), Format::Json).await.unwrap();
    }

    #[tokio::test]
    async fn a_key_of_another_hub_and_one_that_all_may_read_are_found() {
        use std::os::unix::fs::PermissionsExt as _;

        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = config(dir.path(), &[]).await;
        init::init("hub.example", other.path()).unwrap();
        let opened = open::store(&config, Some(ours::note(&config).unwrap())).await;
        opened.unwrap().close().await;
        let key: &Path = config.signing_key_file.as_ref();
        std::fs::copy(other.path().join("keys/signing.pem"), key).unwrap();
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o644)).unwrap();

        let findings = ours::of_files(&config).await;

        let store = level(&findings, "STORE_OF_ANOTHER_KEY");
        assert_eq!(store, Some(Level::Fail), "{findings:?}");
        let mode = findings.iter().find(|finding| finding.code == "KEY_MODE");
        let mend = mode
            .and_then(|mode| mode.mend.as_deref())
            .unwrap_or_default();
        assert!(mend.starts_with("chmod 600 "), "{findings:?}");
    }
}
