//! `tramline doctor`: whether this hub can be found, believed and spoken with, and whether others
//! can.
//!
//! What is looked at is looked at with the code that the hub runs: names are resolved, connections
//! made, keys fetched and lists read as it does that. Nothing is changed. The hub need not run; what
//! needs it is left out, and said.

mod behind;
mod gaps;
mod ours;
mod reached;

use std::collections::HashSet;

use futures_util::{StreamExt as _, stream};
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value as Json, json};

use super::{
    config::{Config, ConfigError, Inputs, Loaded},
    explain::of_this_hub,
    failure::Failure,
    federation,
    in_force::{self, Running},
    obstacles::{Obstacle, Step},
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
    /// What it is about in single, a line each for people.
    each: Vec<String>,
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
            each: Vec::new(),
            mend: None,
        }
    }

    fn ok(code: impl Into<String>, about: impl ToString, cause: String) -> Self {
        Self::new(code, Level::Ok, about, cause)
    }

    fn skipped(code: impl Into<String>, about: impl ToString, cause: &str) -> Self {
        Self::new(code, Level::Skip, about, format!("not looked at: {cause}"))
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
            "about": self.about, "cause": self.whole_cause(), "do": self.mend,
        })
    }

    fn whole_cause(&self) -> String {
        if self.each.is_empty() {
            return self.cause.clone();
        }
        format!("{} {}", self.cause, self.each.join(", "))
    }

    fn text(&self) -> String {
        let Self {
            code, about, cause, ..
        } = self;
        let (about, cause) = (output::visible(about), output::visible(cause));
        let mut line = format!("{:<4}  {code} {about}: {cause}", self.level.as_str());
        for one in &self.each {
            line = format!("{line}\n        {}", output::visible(one));
        }
        match &self.mend {
            Some(mend) => format!("{line}\n      do: {}", output::visible(mend)),
            None => line,
        }
    }
}

/// Looks at everything. Ends well only when nothing fails.
pub async fn run(inputs: &Inputs, peers: Vec<String>, format: Format) -> Result<(), Failure> {
    let findings = look(inputs, peers).await?;
    print(&findings, format)?;
    match count(&findings, Level::Fail) {
        0 => Ok(()),
        failing => {
            let reason = format!("{failing} of what was looked at fails; each is listed on stdout");
            Err(Failure::failed("DOCTOR_FINDINGS", reason))
        }
    }
}

async fn look(inputs: &Inputs, peers: Vec<String>) -> Result<Vec<Finding>, Failure> {
    let (loaded, running) = in_force::look(inputs).await?;
    let config = &loaded.config;
    let mut findings = ours::of_files(config).await;
    findings.push(hub_runs(&loaded, &running));
    let mut running = running.unwrap_or_default();
    let is_running = running.is_some();
    findings.extend(running.iter().flat_map(broken));
    findings.extend(running.iter().flat_map(obstacles));
    let (peers, wrong) = named(peers, &config.server_name);
    findings.extend(wrong);
    if config.federation.enabled {
        findings.extend(among_others(config, peers, &mut running).await);
    } else {
        let cause = "other servers are neither asked nor answered".to_owned();
        let off = Finding::new("FEDERATION_OFF", Level::Warn, &config.server_name, cause);
        findings.push(off.mended_by("set `federation.enabled = true` and start the hub again"));
        let off = |peer| Finding::skipped("PEER", peer, "federation is off");
        findings.extend(peers.iter().map(off));
    }
    tidy(&mut findings, is_running);
    if let Some(file) = &inputs.file {
        for mend in findings.iter_mut().filter_map(|one| one.mend.as_mut()) {
            *mend = of_this_hub(mend, file);
        }
    }
    Ok(findings)
}

/// What is wrong is said once, and no advice is for a hub that does not run or must not.
fn tidy(findings: &mut Vec<Finding>, is_running: bool) {
    let mut said = HashSet::new();
    findings.retain(|one| {
        one.level != Level::Fail || said.insert((one.code.clone(), one.cause.clone()))
    });
    let restores = |mend: &String| mend.starts_with("tramline restore");
    let is_backup = findings
        .iter()
        .any(|one| one.mend.as_ref().is_some_and(restores));
    for one in findings {
        if is_backup && one.mend.as_deref() == Some(SERVE) {
            one.mend = None;
        }
        if let (false, Some(mend)) = (is_running, &mut one.mend) {
            *mend = mend.replace(", then `kill -HUP` the hub", "");
        }
    }
}

const SERVE: &str = "tramline serve";

/// The servers that are named, and what is to be said of those whose names are none.
fn named(peers: Vec<String>, own: &ServerName) -> (Vec<OwnedServerName>, Vec<Finding>) {
    let (mut named, mut wrong) = (Vec::new(), Vec::new());
    for peer in peers {
        match OwnedServerName::try_from(peer.as_str()) {
            Ok(peer) if peer == own => {
                let cause = "it is this hub's own name: what others see of it is looked at as OUR_, without \
                             --peer"
                    .to_owned();
                let finding = Finding::new("PEER_NAME", Level::Warn, peer, cause);
                wrong.push(finding.mended_by("name another server"));
            }
            Ok(peer) => named.push(peer),
            Err(error) => {
                let cause = format!("it is no server's name: {error}");
                let finding = Finding::new("PEER_NAME", Level::Fail, format!("\"{peer}\""), cause);
                let mend = "write the name as it stands behind the colon of user ids";
                wrong.push(finding.mended_by(mend));
            }
        }
    }
    (named, wrong)
}

/// What keeps the configuration here from being gone by, while a hub runs that says what counts.
fn broken(running: &Running) -> Vec<Finding> {
    let errors = running.broken.iter().flat_map(|broken| &broken.0);
    let finding = |error: &ConfigError| {
        let about = "the configuration";
        let finding = Finding::new(error.code(), Level::Fail, about, error.to_string());
        finding
            .mended_by("mend it: the hub takes no reload of it, and would not start again with it")
    };
    errors.map(finding).collect()
}

/// What keeps the configuration here from being reloaded, or the hub from starting again with it.
fn obstacles(running: &Running) -> Vec<Finding> {
    let finding = |one: &Obstacle| {
        let finding = Finding::of_failure("the configuration", &one.failure);
        let then = match one.to {
            Step::Reload => {
                "the hub takes no reload of what is configured here, and would not start again with it"
            }
            Step::Start => "the hub would not start again with what is configured here",
        };
        let mend = one.mend.as_deref().unwrap_or("mend it");
        finding.mended_by(format!("{mend}: {then}"))
    };
    running.obstacles.iter().map(finding).collect()
}

fn hub_runs(loaded: &Loaded, running: &Result<Option<Running>, Failure>) -> Finding {
    let config = &loaded.config;
    let name = &config.server_name;
    let running = match running {
        Ok(running) => running,
        Err(failure) => {
            let mut finding = Finding::of_failure(name, failure);
            finding.cause +=
                ": whether a hub runs is not known, and settings are as configured here";
            return finding.mended_by("run this as the user whom the hub runs as");
        }
    };
    let Some(running) = running else {
        let socket = config.admin.socket.as_ref().display();
        let cause = format!(
            "nobody answers on {socket}: what it shows over the network, and the servers it has to do with, \
             are not looked at"
        );
        return Finding::new("HUB_NOT_RUNNING", Level::Skip, name, cause).mended_by(SERVE);
    };
    if let Some(why) = &running.silent {
        let cause = format!(
            "it answers on its socket, and does not tell its settings ({why}): those configured here are gone by"
        );
        let finding = Finding::new("HUB_RUNS", Level::Warn, name, cause);
        return finding.mended_by("start the hub again, with the same version as this program");
    }
    let otherwise = loaded.said_otherwise();
    let cause = match otherwise.len() {
        0 if running.broken.is_some() => {
            "it answers on its socket; settings are as the running hub has them".to_owned()
        }
        0 => "it answers on its socket; its settings are those configured here".to_owned(),
        _ => "it answers on its socket; settings are as the running hub has them, and configured otherwise here:"
            .to_owned(),
    };
    Finding {
        each: otherwise,
        ..Finding::ok("HUB_RUNS", name, cause)
    }
}

/// What is to be seen from the network.
async fn among_others(
    config: &Config,
    mut peers: Vec<OwnedServerName>,
    running: &mut Option<Running>,
) -> Vec<Finding> {
    let mut findings = vec![authorities(config), behind::lists(config)];
    if let Some(running) = running {
        match known_peers(&mut running.hub).await {
            Ok(known) => {
                findings.extend(behind::behind(&known, &config.federation.lists()));
                let names = known.iter();
                let names = names.filter_map(|peer| peer.get("server")?.as_str()?.try_into().ok());
                peers.extend(names);
            }
            Err(error) => findings.push(Finding::new("PEERS", Level::Warn, "peers", error)),
        }
        findings.extend(gaps::open(&mut running.hub).await);
    }
    peers.sort_unstable();
    peers.dedup();
    peers.retain(|peer| *peer != config.server_name);
    let reach = match Reach::new(config, running.is_some()) {
        Ok(reach) => reach,
        Err(failure) => {
            let is_said = findings.iter().any(|one| one.level == Level::Fail);
            let failed = Finding::of_failure("federation", &failure);
            findings.extend((!is_said).then_some(failed));
            let ours = running.as_ref().map(|_| &config.server_name);
            let ours = ours.map(|own| Finding::skipped("OUR", own, UNASKED));
            let theirs = peers.iter();
            let theirs = theirs.map(|peer| Finding::skipped("PEER", peer, UNASKED));
            findings.extend(ours.into_iter().chain(theirs));
            return findings;
        }
    };
    if let Some(running) = running {
        findings.extend(ours::from_outside(config, &reach, &running.https).await);
    }
    let reach = &reach;
    let looked_at = stream::iter(peers.iter().map(|peer| reach.look_at(peer)));
    let looked_at: Vec<_> = looked_at.buffered(PEERS_AT_ONCE).collect().await;
    findings.extend(looked_at.into_iter().flatten());
    findings
}

const UNASKED: &str = "nobody can be asked before what fails above is mended";

/// By which authorities the certificates of other servers are believed.
fn authorities(config: &Config) -> Finding {
    let code = "FEDERATION_CA";
    let file = config.federation.ca_file.as_ref();
    let about = file.map_or_else(
        || "the system".to_owned(),
        |file| file.0.display().to_string(),
    );
    match federation::authorities(&config.federation) {
        Ok(believed) if believed.is_empty() => {
            let cause = "no certificate of another server is believed: the system has no roots".to_owned();
            Finding::new(code, Level::Fail, about, cause).mended_by(
                "install the system's roots (apt install ca-certificates), or name some in `federation.ca_file`",
            )
        }
        Ok(believed) => Finding::ok(code, about, format!("certificates are believed by {believed}")),
        Err(failure) => Finding {
            about,
            ..Finding::of_failure("", &failure)
        }
        .mended_by(
            "put roots into that file, in PEM, or name another one in `federation.ca_file`, and start the hub again",
        ),
    }
}

/// The servers that the hub has told something or is to, and how they fare.
async fn known_peers(hub: &mut Client) -> Result<Vec<Json>, String> {
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
        known.extend(peers.into_iter().flatten().cloned());
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
        config::{FilePath, load},
        init, open,
    };

    async fn config(dir: &Path, options: &[&str]) -> Config {
        init::init("hub.example", dir).unwrap();
        let file = dir.join("tramline.toml");
        open::create(&file).await.unwrap();
        load(&inputs(dir, options)).unwrap().config
    }

    fn inputs(dir: &Path, options: &[&str]) -> Inputs {
        Inputs {
            file: Some(dir.join("tramline.toml")),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Inputs::default()
        }
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_asked_is_said_and_is_no_hub_that_does_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let _config = config(dir.path(), &[]).await;
        let socket = format!("admin.socket={}/tramline.toml/s", dir.path().display());

        let findings = look(&inputs(dir.path(), &[&socket]), Vec::new()).await;

        let findings = findings.unwrap();
        assert_eq!(level(&findings, "OPERATOR_SOCKET"), Some(Level::Fail));
        assert_eq!(level(&findings, "HUB_NOT_RUNNING"), None, "{findings:?}");
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
        run(&inputs(dir.path(), &[]), Vec::new(), Format::Json)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_command_that_mends_something_names_the_configuration_that_was_named() {
        let dir = tempfile::tempdir().unwrap();
        let _config = config(dir.path(), &[]).await;

        let findings = look(&inputs(dir.path(), &[]), Vec::new()).await.unwrap();

        let mut findings = findings.into_iter();
        let stopped = findings.find(|one| one.code == "HUB_NOT_RUNNING").unwrap();
        let file = dir.path().join("tramline.toml");
        let command = format!("tramline serve --config {}", file.display());
        assert_eq!(stopped.mend, Some(command));
    }

    #[test]
    fn this_hubs_own_name_and_an_empty_one_are_said_to_be_no_peers() {
        let own = ruma::server_name!("hub.example");
        let given = ["hub.example", "", "a.example"].map(str::to_owned).to_vec();

        let (peers, wrong) = named(given, own);

        assert_eq!(peers, ["a.example"]);
        let about: Vec<_> = wrong
            .iter()
            .map(|one| (one.level, one.about.as_str()))
            .collect();
        assert_eq!(about, [(Level::Warn, "hub.example"), (Level::Fail, "\"\"")]);
    }

    #[tokio::test]
    async fn one_name_that_is_none_and_a_wrong_authority_leave_the_rest_counted() {
        let dir = tempfile::tempdir().unwrap();
        let _config = config(dir.path(), &[]).await;
        std::fs::write(dir.path().join("none.pem"), "").unwrap();
        let ca = format!("federation.ca_file={}/none.pem", dir.path().display());
        let inputs = inputs(dir.path(), &["federation.enabled=true", &ca]);
        let peers = ["no name", "a.example", "b.example"];

        let findings = look(&inputs, peers.map(str::to_owned).to_vec()).await;

        let findings = findings.unwrap();
        let of = |code: &str| {
            findings
                .iter()
                .filter(|one| one.code == code)
                .collect::<Vec<_>>()
        };
        let [wrong] = of("PEER_NAME")[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(
            (wrong.about.as_str(), wrong.level),
            ("\"no name\"", Level::Fail)
        );
        let [ca] = of("FEDERATION_CA")[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(ca.level, Level::Fail);
        assert!(
            ca.about.ends_with("none.pem") && ca.mend.is_some(),
            "{ca:?}"
        );
        assert_eq!(of("PEER").len(), 2, "{findings:?}");
        // the two of them, and the hub that does not run
        assert_eq!(count(&findings, Level::Skip), 3, "{findings:?}");
    }

    #[tokio::test]
    async fn the_authorities_are_named_and_servers_are_left_out_while_federation_is_off() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), &["federation.ca_file=unused"]).await;
        let ca = dir.path().join("keys/https.cert.pem");
        let mut federation = config.clone();
        federation.federation.ca_file = Some(FilePath(ca.clone()));

        let found = authorities(&federation);
        let off = look(&inputs(dir.path(), &[]), vec!["a.example".to_owned()]).await;

        assert_eq!(found.level, Level::Ok);
        assert!(
            found.cause.contains(&format!("1 of {}", ca.display())),
            "{found:?}"
        );
        assert_eq!(level(&off.unwrap(), "PEER"), Some(Level::Skip));
    }

    #[tokio::test]
    async fn a_store_of_another_name_or_a_backup_is_told_with_what_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), &[]).await;
        let named = inputs(dir.path(), &["server_name=other.example"]);
        let mend = |findings: Vec<Finding>, code: &str| {
            let mut found = findings.into_iter().filter(|one| one.code == code);
            let (first, second) = (found.next().unwrap(), found.next());
            assert_eq!(second, None, "it is said once");
            first.mend.unwrap_or_default()
        };

        let other = look(&named, Vec::new()).await.unwrap();
        let mended = mend(other, "STORE_OF_ANOTHER_SERVER");
        assert!(
            mended.contains("`server_name` back to \"hub.example\""),
            "{mended}"
        );
        let keys: &Path = config.federation.old_keys_file.as_ref();
        std::fs::write(keys, "junk\n").unwrap();
        let junk = look(
            &inputs(dir.path(), &["federation.enabled=true"]),
            Vec::new(),
        )
        .await;
        let mended = mend(junk.unwrap(), "OLD_KEYS");
        assert!(mended.contains(&keys.display().to_string()), "{mended}");
        std::fs::remove_file(keys).unwrap();
        let store = open::store_file(&config);
        let copy = store.with_extension("copy");
        open::copy(&config, &copy).await.unwrap();
        std::fs::rename(copy, store).unwrap();
        let backup = look(&inputs(dir.path(), &[]), Vec::new()).await.unwrap();
        let serves = |one: &Finding| {
            one.mend
                .as_ref()
                .is_some_and(|mend| mend.contains("tramline serve"))
        };
        assert!(!backup.iter().any(serves), "{backup:?}");
        let mended = mend(backup, "STORE_FORMAT");
        assert!(mended.starts_with("tramline restore "), "{mended}");
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
