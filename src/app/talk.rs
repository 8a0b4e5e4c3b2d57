//! The client's verbs: sign in or take a credential file, do the verb, print what came of it.
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value gives null where there is nothing"
)]

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Value as Json, json};

use super::{
    cli::{ClientArgs, ClientVerb},
    clock::{self, world},
    failure::Failure,
    output::{self, Format},
    users,
};
use crate::{
    base::{Clock as _, Rng as _},
    client::{Call, Client, ClientError, Credentials, Method, Target},
};

/// Does a client's verb.
pub async fn client(args: ClientArgs, format: Format) -> Result<(), Failure> {
    // A login that nothing keeps is ended again, so that scripts do not leave sessions behind.
    let (mut client, me, keep) = if let Some(login) = args.login()? {
        let (client, credentials) = log_in(&args, &login.user).await?;
        (client, credentials, args.save.is_some())
    } else {
        if args.verb.is_none() && args.credentials.is_some() {
            return Err(nothing_to_do());
        }
        let (client, credentials) = resume(args.credentials.as_deref()).await?;
        (client, credentials, true)
    };
    let outcome = match args.verb {
        Some(wanted) => verb(&mut client, &me, wanted, format).await,
        None => saved(&me, args.save.as_deref(), format),
    };
    if !keep {
        client.logout().await.map_err(failed)?;
    }
    outcome
}

/// Without a verb, signing in was what was wanted.
fn saved(me: &Credentials, file: Option<&Path>, format: Format) -> Result<(), Failure> {
    let Some(file) = file else {
        return Err(nothing_to_do());
    };
    let (user, device, path) = (&me.user_id, &me.device_id, file.display().to_string());
    format.print(
        &format!("saved the session of {user} (device {device}) in {path}"),
        &json!({"user_id": user, "device_id": device, "file": path}),
    )
}

fn nothing_to_do() -> Failure {
    let reason = "say what to do (see `tramline client --help`), or --save FILE to sign in only";
    Failure::usage("CLIENT_VERB", reason)
}

async fn log_in(args: &ClientArgs, user: &str) -> Result<(Client, Credentials), Failure> {
    if args.verb.is_none() && args.save.is_none() {
        return Err(nothing_to_do()); // before anyone is asked for a password
    }
    if let Some(file) = args.save.as_ref().filter(|file| file.exists()) {
        let reason = format!("{} exists already; choose another name", file.display());
        return Err(Failure::failed("CREDENTIALS", reason));
    }
    let target = target(args)?;
    let password = match &args.password_file {
        Some(file) => users::password_from(file)?,
        None => users::prompt(&format!("Password of {user}"))?,
    };
    let mut client = Client::open(&target, &world()).await.map_err(failed)?;
    let signed_in = client.login(user, password.reveal(), None).await;
    let mut credentials = signed_in.map_err(failed)?;
    credentials.reached(&target);
    if let Some(file) = &args.save
        && let Err(error) = credentials.write(file)
    {
        client.logout().await.map_err(failed)?; // a session nobody has must not stay
        return Err(Failure::failed("CREDENTIALS", error));
    }
    Ok((client, credentials))
}

fn target(args: &ClientArgs) -> Result<Target, Failure> {
    let url = args
        .login
        .as_ref()
        .and_then(|login| login.first())
        .map_or("", String::as_str);
    let ca = args.ca.as_deref().map(read_ca).transpose()?;
    Target::parse(url, ca.as_deref()).map_err(|error| Failure::usage("LOGIN_URL", error))
}

fn read_ca(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::usage("CA_FILE", format!("{}: {error}", path.display())))
}

const SESSION_WANTED: &str = "who are you? Give --credentials FILE, or --login URL USER (with --save FILE to keep the session)";

async fn resume(file: Option<&Path>) -> Result<(Client, Credentials), Failure> {
    let file = file.ok_or_else(|| Failure::usage("CREDENTIALS", SESSION_WANTED))?;
    let wrong = |error| Failure::usage("CREDENTIALS", error);
    let credentials = Credentials::read(file).map_err(wrong)?;
    let target = credentials.target(file).map_err(wrong)?;
    let client = Client::resume(&target, &credentials.access_token, &world()).await;
    Ok((client.map_err(failed)?, credentials))
}

async fn verb(
    client: &mut Client,
    me: &Credentials,
    verb: ClientVerb,
    format: Format,
) -> Result<(), Failure> {
    match verb {
        ClientVerb::Rooms => rooms(client, format).await,
        ClientVerb::Create {
            name,
            alias,
            invite,
            public,
            room_version,
        } => {
            let mut wish = json!({
                "preset": if public { "public_chat" } else { "private_chat" },
                "invite": invite,
            });
            let optional = [
                ("name", name),
                ("room_alias_name", alias),
                ("room_version", room_version),
            ];
            if let Some(wish) = wish.as_object_mut() {
                wish.extend(
                    optional
                        .into_iter()
                        .filter_map(|(key, value)| Some((key.to_owned(), value?.into()))),
                );
            }
            let room = client.create_room(wish).await.map_err(failed)?;
            format.print(room.as_str(), &json!({ "room_id": room }))
        }
        ClientVerb::Invite { room, user } => {
            let room = room_id(client, &room).await?;
            let user = OwnedUserId::try_from(user.as_str())
                .map_err(|error| Failure::usage("USER_ID", format!("{user:?}: {error}")))?;
            client.invite(&room, &user).await.map_err(failed)?;
            format.print(
                &format!("invited {user}"),
                &json!({"room_id": room, "user_id": user}),
            )
        }
        ClientVerb::Join { room } => {
            let room = client.join(&room).await.map_err(failed)?;
            format.print(&format!("joined {room}"), &json!({ "room_id": room }))
        }
        ClientVerb::Leave { room } => {
            let room = room_id(client, &room).await?;
            client.leave(&room).await.map_err(failed)?;
            format.print(&format!("left {room}"), &json!({ "room_id": room }))
        }
        ClientVerb::Send { room, text, txn } => {
            let room = room_id(client, &room).await?;
            let txn = txn.unwrap_or_else(fresh_txn);
            let event = client.say(&room, &txn, &text).await;
            let event = event.map_err(|error| may_have_arrived(error, &txn))?;
            format.print(event.as_str(), &json!({"event_id": event, "txn": txn}))
        }
        ClientVerb::Read { room, limit, from } => {
            let room = room_id(client, &room).await?;
            read(client, &room, limit, from.as_deref(), format).await
        }
        ClientVerb::Sync {
            since,
            timeout,
            follow,
        } => {
            let wait = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            sync(client, since, wait, follow, format).await
        }
        ClientVerb::Status => status(client, me, format).await,
    }
}

async fn rooms(client: &mut Client, format: Format) -> Result<(), Failure> {
    for room in client.joined_rooms().await.map_err(failed)? {
        let path = ["rooms", room.as_str(), "state", "m.room.name", ""];
        let name = client.call("room name", Call::get(&path, Vec::new())).await;
        let name = match name {
            Ok(content) => content["name"].as_str().unwrap_or_default().to_owned(),
            Err(ClientError::Refused { status: 404, .. }) => String::new(), // it has none
            Err(error) => return Err(failed(error)),
        };
        format.print(
            format!("{room}  {}", for_terminal(&name)).trim_end(),
            &json!({"room_id": room, "name": name}),
        )?;
    }
    Ok(())
}

async fn read(
    client: &mut Client,
    room: &OwnedRoomId,
    limit: u32,
    from: Option<&str>,
    format: Format,
) -> Result<(), Failure> {
    let page = client
        .messages(room, from, true, limit)
        .await
        .map_err(failed)?;
    let events = page["chunk"].as_array().cloned().unwrap_or_default();
    for event in events.iter().rev() {
        format.print(&line(event), event)?;
    }
    if let Some(end) = page["end"].as_str() {
        let text = format!("-- older: --from {end}");
        format.print(&text, &json!({ "end": end }))?;
    }
    Ok(())
}

async fn sync(
    client: &mut Client,
    mut since: Option<String>,
    wait_ms: u64,
    follow: bool,
    format: Format,
) -> Result<(), Failure> {
    loop {
        let wait = if follow && wait_ms == 0 {
            FOLLOW_WAIT_MS
        } else {
            wait_ms
        };
        let news = match client.sync(since.as_deref(), wait).await {
            Ok(news) => news,
            Err(error) if follow && error.is_temporary() => {
                output::note(&format!("-- {error}; trying again"));
                tokio::time::sleep(FOLLOW_PAUSE).await;
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        if format == Format::Json {
            format.print("", &news)?;
        } else {
            for text in told(&news) {
                format.print(&text, &Json::Null)?;
            }
        }
        since = news["next_batch"].as_str().map(ToOwned::to_owned);
        if !follow {
            let next = since.unwrap_or_default();
            return match format {
                Format::Text => format.print(&format!("-- next: --since {next}"), &Json::Null),
                Format::Json => Ok(()),
            };
        }
    }
}

/// What a sync tells a person: invites, then messages room by room.
fn told(news: &Json) -> Vec<String> {
    let rooms = |section: &str| {
        news["rooms"][section]
            .as_object()
            .cloned()
            .unwrap_or_default()
            .into_iter()
    };
    let mut lines: Vec<_> = rooms("invite")
        .map(|(room, _)| format!("{room}  you are invited"))
        .collect();
    for (room, joined) in rooms("join") {
        if joined["timeline"]["limited"] == true {
            lines.push(format!("{room}  ... (more than fits: `read` shows it)"));
        }
        let events = joined["timeline"]["events"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        lines.extend(
            events
                .iter()
                .map(|event| format!("{room}  {}", line(event))),
        );
    }
    lines.extend(rooms("leave").map(|(room, _)| format!("{room}  you are out")));
    lines
}

/// How long `sync --follow` rests when the hub does not answer.
const FOLLOW_PAUSE: Duration = Duration::from_secs(2);

/// How long one round of `sync --follow` waits for news.
const FOLLOW_WAIT_MS: u64 = 30_000;

async fn status(client: &mut Client, me: &Credentials, format: Format) -> Result<(), Failure> {
    let answer = client.whoami().await.map_err(failed)?;
    let cost = client
        .ledger()
        .lines()
        .last()
        .map(|(_, _, cost)| cost)
        .unwrap_or_default();
    let mut text = String::new();
    for (name, value) in [
        ("user", &answer["user_id"]),
        ("device", &answer["device_id"]),
    ] {
        let _ = writeln!(text, "{name}: {}", value.as_str().unwrap_or_default());
    }
    let door = if me.server.coap.is_some() {
        "coap"
    } else {
        "https"
    };
    let _ = write!(
        text,
        "door: {door}\nthis question cost: {} bytes up, {} down",
        cost.up, cost.down
    );
    format.print(
        &text,
        &json!({"user_id": answer["user_id"], "device_id": answer["device_id"], "door": door,
            "bytes_up": cost.up, "bytes_down": cost.down}),
    )
}

/// The room a user means: an id, or an alias to look up.
async fn room_id(client: &mut Client, room: &str) -> Result<OwnedRoomId, Failure> {
    if let Ok(id) = OwnedRoomId::try_from(room) {
        return Ok(id);
    }
    if !room.starts_with('#') {
        let reason = format!("{room:?} is neither a room id (!…) nor an alias (#name:server)");
        return Err(Failure::usage("ROOM_ID", reason));
    }
    let call = Call {
        method: Method::Get,
        path: vec!["directory", "room", room],
        query: Vec::new(),
        body: None,
    };
    let answer = client.call("find alias", call).await.map_err(failed)?;
    answer["room_id"]
        .as_str()
        .and_then(|id| OwnedRoomId::try_from(id).ok())
        .ok_or_else(|| Failure::failed("M_UNKNOWN", "the hub's answer names no room"))
}

/// One event for a person.
fn line(event: &Json) -> String {
    let text = |value: &Json| for_terminal(value.as_str().unwrap_or_default());
    let sender = text(&event["sender"]);
    let content = &event["content"];
    let kind = event["type"].as_str().unwrap_or_default();
    match (kind, &content["body"]) {
        ("m.room.message", Json::String(body)) => format!("{sender}: {}", for_terminal(body)),
        ("m.room.message", _) => format!("{sender}: (redacted)"),
        ("m.room.member", _) => {
            format!(
                "{sender} -- {} {}",
                text(&content["membership"]),
                text(&event["state_key"])
            )
        }
        _ => format!("{sender} -- {}", for_terminal(kind)),
    }
}

/// What others wrote must not steer this terminal.
fn for_terminal(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A transaction id nobody has used: the time and some chance.
fn fresh_txn() -> String {
    format!(
        "{}.{:08x}",
        clock::SystemClock::new().now().0,
        clock::rng().next_u32()
    )
}

/// An unanswered send may have been done: whoever sends it again needs its transaction id.
fn may_have_arrived(error: ClientError, txn: &str) -> Failure {
    if let ClientError::Unreachable { .. } = &error {
        let hint = format!(
            "{error}; it may have arrived. Send it again with --txn {txn}: it is not sent twice"
        );
        return Failure::failed("UNREACHABLE", hint);
    }
    failed(error)
}

fn failed(error: ClientError) -> Failure {
    match &error {
        ClientError::Refused { errcode, error, .. } => Failure::failed(errcode, error),
        ClientError::Unreachable { .. } => Failure::failed("UNREACHABLE", &error),
        ClientError::Ca(_) => Failure::usage("CA_FILE", &error),
        ClientError::Decode(_) | ClientError::Shape { .. } | ClientError::Field { .. } => {
            Failure::failed("BAD_ANSWER", &error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        let event = json!({"type": "m.room.message", "sender": "@eve:hub.example",
            "content": {"body": "\u{1b}[2Jhi\nthere"}});

        assert_eq!(line(&event), "@eve:hub.example: \u{fffd}[2Jhi\u{fffd}there");
    }

    #[test]
    fn two_transaction_ids_differ() {
        assert_ne!(fresh_txn(), fresh_txn());
    }
}
