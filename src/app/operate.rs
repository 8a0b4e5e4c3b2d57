//! The operator's verbs: asked of the running hub through its socket, or done on the store when
//! there is none.

use std::path::Path;

use ruma::{OwnedServerName, ServerName};
use serde_json::Value as Json;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    config::Config,
    facts,
    failure::Failure,
    open::{self, OpenHub},
    operations::Operations,
    operator::{self, Operator as _, Progress, Request},
    output::{self, Format, counted},
    run::Material,
};

/// Does an operator's verb and prints its result.
pub async fn operate(config: &Config, request: Request, format: Format) -> Result<(), Failure> {
    let mut desk = Desk::open(config).await?;
    let result = desk.ask(request.clone()).await;
    desk.close().await;
    let result = result?;
    format.print(&as_sentence(&request, &result), &result)
}

/// Prints every account, a line each.
pub async fn list_users(config: &Config, format: Format) -> Result<(), Failure> {
    let mut desk = Desk::open(config).await?;
    let listed = list(&mut desk, format).await;
    desk.close().await;
    listed
}

async fn list(desk: &mut Desk, format: Format) -> Result<(), Failure> {
    let (mut after, mut any) = (None, false);
    loop {
        let page = desk.ask(Request::ListUsers { after }).await?;
        let users = page.get("users").and_then(Json::as_array);
        for user in users.into_iter().flatten() {
            format.print(&account_line(user), user)?;
            any = true;
        }
        after = match page
            .get("next")
            .and_then(Json::as_str)
            .map(TryInto::try_into)
        {
            Some(Ok(next)) => Some(next),
            _ => break,
        };
    }
    say_none(any, format, || {
        "there is no account yet: `tramline user add NAME` makes one".to_owned()
    });
    Ok(())
}

/// Says to people that a list has nothing in it; a program sees that.
fn say_none(any: bool, format: Format, none: impl FnOnce() -> String) {
    if !any && format == Format::Text {
        output::note(&none());
    }
}

/// Prints the devices of an account, a line each.
pub async fn list_devices(
    config: &Config,
    localpart: String,
    format: Format,
) -> Result<(), Failure> {
    let mut desk = Desk::open(config).await?;
    let told = desk.ask(Request::ListDevices { localpart }).await;
    desk.close().await;
    let told = told?;
    let devices = told.get("devices").and_then(Json::as_array);
    for device in devices.into_iter().flatten() {
        format.print(&device_line(device), device)?;
    }
    let any = devices.is_some_and(|devices| !devices.is_empty());
    say_none(any, format, || {
        let user = told.get("user_id").and_then(Json::as_str);
        let user = user.unwrap_or_default();
        format!("{user} has no device: it is logged in nowhere, and none is linked")
    });
    Ok(())
}

/// Prints how other servers take what is for them, a line each.
pub async fn list_peers(
    config: &Config,
    server: Option<OwnedServerName>,
    format: Format,
) -> Result<(), Failure> {
    let mut desk = Desk::open(config).await?;
    let listed = peers(&mut desk, server, format).await;
    desk.close().await;
    listed
}

async fn peers(
    desk: &mut Desk,
    server: Option<OwnedServerName>,
    format: Format,
) -> Result<(), Failure> {
    let (mut after, mut any, mut at_rest) = (None, false, false);
    let one = server;
    loop {
        let server = one.clone();
        let page = desk.ask(Request::ListPeers { server, after }).await?;
        let peers = page.get("peers").and_then(Json::as_array);
        for peer in peers.into_iter().flatten() {
            format.print(&peer_line(peer), peer)?;
            any = true;
            at_rest |= peer.get("state").and_then(Json::as_str) == Some("at rest");
        }
        let next = page.get("next").and_then(Json::as_str);
        after = match next.map(OwnedServerName::try_from) {
            Some(Ok(next)) => Some(next),
            _ => break,
        };
    }
    if let (Some(one), false) = (&one, any) {
        return Err(Failure::failed("PEER_UNKNOWN", never_heard_of(one)));
    }
    say_none(any, format, || {
        "no other server is known yet: nothing was for one".to_owned()
    });
    if at_rest && format == Format::Text {
        output::note(AT_REST);
    }
    Ok(())
}

fn never_heard_of(server: &ServerName) -> String {
    format!(
        "{server} was never heard of: nothing was ever for it; whether it can be reached, \
         `tramline doctor --peer {server}` says"
    )
}

/// What the state means: nobody sends, so that nothing more can be said.
const AT_REST: &str = "-- at rest: no hub runs here, or it runs with `federation.enabled = false`; nothing is sent, and what waits goes out when it is started with it";

/// One server for a person.
fn peer_line(peer: &Json) -> String {
    let text = |name: &str| peer.get(name).and_then(Json::as_str);
    let server = text("server").unwrap_or_default();
    let state = text("state").unwrap_or_default();
    let waiting = peer.get("waiting").and_then(Json::as_u64).unwrap_or(0);
    let is_all = peer.get("waiting_is_all").and_then(Json::as_bool) == Some(true);
    let at_least = if is_all { "" } else { "at least " };
    let waiting = counted(waiting, "event");
    let mut line = format!("{server:<32}  {state:<9}  {at_least}{waiting} waiting");
    for (name, said) in [
        ("failing_since", "failing since"),
        ("next_try", "next try"),
        ("last_error", "last error:"),
    ] {
        if let Some(value) = text(name) {
            line = line + ", " + said + " " + value;
        }
    }
    line
}

/// One device for a person.
fn device_line(device: &Json) -> String {
    let text = |name: &str| device.get(name).and_then(Json::as_str);
    let mut line = format!("{:<24}", text("device_id").unwrap_or_default());
    if device.get("linked").and_then(Json::as_bool) == Some(true) {
        line.push_str("  linked");
    }
    if let Some(name) = text("name") {
        line.push_str("  ");
        line.push_str(name);
    }
    match (text("last_seen"), text("last_address")) {
        (None, _) => line + "  never used",
        (Some(seen), None) => line + "  last seen " + seen,
        (Some(seen), Some(from)) => line + "  last seen " + seen + " from " + from,
    }
}

/// One account for a person.
fn account_line(user: &Json) -> String {
    let text = |name: &str| user.get(name).and_then(Json::as_str);
    let is = |name: &str| user.get(name).and_then(Json::as_bool) == Some(true);
    let mut line = format!("{:<32}", text("user_id").unwrap_or_default());
    for (state, word) in [("admin", "admin"), ("disabled", "disabled")] {
        if is(state) {
            line.push_str("  ");
            line.push_str(word);
        }
    }
    let devices = user.get("devices").and_then(Json::as_u64).unwrap_or(0);
    let devices = counted(devices, "device");
    let made = text("created").unwrap_or_default();
    let seen = text("last_seen").map_or(String::new(), |seen| format!(", last seen {seen}"));
    format!("{line}  {devices}, made {made}{seen}")
}

/// Whoever does what is asked.
pub(super) enum Desk {
    /// The hub that runs.
    Running(operator::Client),
    /// Nobody else: the store is ours until this is closed.
    Alone {
        hub: OpenHub,
        operations: Box<Operations>,
        progress: Progress,
        told: JoinHandle<()>,
    },
}

impl Desk {
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        if let Some(running) = running(config).await? {
            return Ok(Self::Running(running));
        }
        open::refuse_foreign(config).await?; // before keys are made beside it
        let material = Material::read(config)?;
        // Who has the store for a moment begins no talk with other servers.
        let mut quiet = config.clone();
        quiet.federation.enabled = false;
        let hub = OpenHub::open(&quiet, &material).await?;
        let (sender, mut steps) = mpsc::channel(PROGRESS_WAITING_MAX);
        let told = tokio::spawn(async move {
            while let Some(step) = steps.recv().await {
                tell_progress(&step);
            }
        });
        Ok(Self::Alone {
            operations: Box::new(hub.alone(facts::of_configured(config, &material))),
            hub,
            progress: Progress::to(sender),
            told,
        })
    }

    pub(super) async fn ask(&mut self, request: Request) -> Result<Json, Failure> {
        match self {
            Self::Running(hub) => hub
                .ask(&request, |step| tell_progress(&step))
                .await
                .map_err(asked_in_vain),
            Self::Alone {
                operations,
                progress,
                ..
            } => Ok(operations.ask(request, progress.clone()).await?),
        }
    }

    pub(super) async fn close(self) {
        if let Self::Alone {
            hub,
            operations,
            progress,
            told,
        } = self
        {
            drop((operations, progress));
            hub.close().await;
            let _ = told.await; // it only prints
        }
    }
}

/// How many steps of progress may wait to be printed.
const PROGRESS_WAITING_MAX: usize = 16;

/// The hub that runs; none where nobody answers on its socket.
pub(super) async fn running(config: &Config) -> Result<Option<operator::Client>, Failure> {
    running_at(config.admin.socket.as_ref()).await
}

/// The hub that answers on a socket.
pub(super) async fn running_at(path: &Path) -> Result<Option<operator::Client>, Failure> {
    operator::Client::connect(path).await.map_err(|error| {
        let path = path.display();
        Failure::failed("OPERATOR_SOCKET", format!("{path}: {error}"))
    })
}

pub(super) fn asked_in_vain(error: operator::ClientError) -> Failure {
    match error {
        operator::ClientError::Refused { code, message } => Failure::failed(&code, message),
        operator::ClientError::Io(_) => Failure::failed("OPERATOR_SOCKET", error),
    }
}

fn tell_progress(step: &Json) {
    output::note(&as_lines(step).replace('\n', ", "));
}

/// What was done, for people.
fn as_sentence(request: &Request, result: &Json) -> String {
    let text = |name: &str| result.get(name).and_then(Json::as_str).unwrap_or_default();
    let user = text("user_id");
    let ended = result.get("sessions_ended").and_then(Json::as_u64);
    let ended = counted(ended.unwrap_or(0), "session");
    match request {
        Request::AddUser { admin: true, .. } => format!("made {user}, an operator's account"),
        Request::AddUser { .. } => format!("made {user}"),
        Request::SetPassword { .. } => {
            format!("{user} has another password now; {ended} ended")
        }
        Request::DisableUser { .. } => {
            format!("{user} is disabled: nobody logs in to it; {ended} ended")
        }
        Request::EnableUser { .. } => format!("{user} is enabled: it can be logged in to"),
        Request::RemoveDevice { .. } => format!(
            "unlinked {} of {user}: it is no device any more, on any door",
            text("device_id")
        ),
        Request::Status
        | Request::ListUsers { .. }
        | Request::ListPeers { .. }
        | Request::LinkDevice { .. }
        | Request::Explain { .. }
        | Request::RecentRefusals
        | Request::ListGaps
        | Request::Settings { .. }
        | Request::ListDevices { .. } => as_lines(result),
    }
}

/// A result for people: `name: value`, a line each.
fn as_lines(result: &Json) -> String {
    let Json::Object(members) = result else {
        return result.to_string();
    };
    let line = |(name, value): (&String, &Json)| match value {
        Json::String(text) => format!("{name}: {text}"),
        other => format!("{name}: {other}"),
    };
    members.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_server_that_was_never_heard_of_is_an_error_and_no_servers_are_none() {
        let dir = tempfile::tempdir().unwrap();
        crate::app::init::init("hub.example", dir.path()).unwrap();
        let file = dir.path().join("tramline.toml");
        open::create(&file).await.unwrap();
        let inputs = crate::app::config::Inputs {
            file: Some(file),
            ..Default::default()
        };
        let config = crate::app::config::load(&inputs).unwrap().config;

        let one = OwnedServerName::try_from("far.example").unwrap();
        let failure = list_peers(&config, Some(one), Format::Json).await;
        list_peers(&config, None, Format::Json).await.unwrap();

        let said = failure.unwrap_err().to_string();
        assert!(
            said.starts_with("error[PEER_UNKNOWN]: far.example was never heard of"),
            "{said}"
        );
    }

    #[test]
    fn what_was_done_is_a_sentence() {
        let name = || "ana".to_owned();
        for (request, result, said) in [
            (
                Request::RemoveDevice {
                    localpart: name(),
                    device: "TAB".to_owned(),
                },
                json!({"user_id": "@ana:hub.example", "device_id": "TAB", "removed": true}),
                "unlinked TAB of @ana:hub.example: it is no device any more, on any door",
            ),
            (
                Request::EnableUser { localpart: name() },
                json!({"user_id": "@ana:hub.example", "disabled": false}),
                "@ana:hub.example is enabled: it can be logged in to",
            ),
            (
                Request::DisableUser { localpart: name() },
                json!({"user_id": "@ana:hub.example", "disabled": true, "sessions_ended": 1}),
                "@ana:hub.example is disabled: nobody logs in to it; 1 session ended",
            ),
        ] {
            assert_eq!(as_sentence(&request, &result), said);
        }
    }

    #[test]
    fn a_device_is_one_line_that_says_when_it_was_used() {
        let mut device = json!({"device_id": "TAB", "name": null, "linked": true,
            "last_seen": null, "last_address": null});
        assert_eq!(
            device_line(&device),
            "TAB                       linked  never used"
        );

        device["last_seen"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(
            device_line(&device),
            "TAB                       linked  last seen 2026-01-01T00:00:00Z"
        );

        device["last_address"] = "192.0.2.1".into();
        device["linked"] = false.into();
        assert_eq!(
            device_line(&device),
            "TAB                       last seen 2026-01-01T00:00:00Z from 192.0.2.1"
        );
    }

    #[test]
    fn an_account_is_one_line_that_says_what_is_special() {
        let plain = json!({"user_id": "@ana:hub.example", "admin": false, "disabled": false,
            "devices": 1, "created": "2026-01-01T00:00:00Z", "last_seen": null});
        let special = json!({"user_id": "@bob:hub.example", "admin": true, "disabled": true,
            "devices": 0, "created": "2026-01-01T00:00:00Z", "last_seen": "2026-02-01T00:00:00Z"});

        assert_eq!(
            account_line(&plain),
            "@ana:hub.example                  1 device, made 2026-01-01T00:00:00Z"
        );
        assert_eq!(
            account_line(&special),
            "@bob:hub.example                  admin  disabled  0 devices, \
             made 2026-01-01T00:00:00Z, last seen 2026-02-01T00:00:00Z"
        );
    }
}
