//! The verbs themselves, once it is known who speaks.

use std::{fmt::Write as _, time::Duration};

use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{Map, Value as Json, json};

use super::{
    Said,
    cost::Spent,
    deliveries, failed,
    happened::{Happened, end_of_sync, lines_of_sync},
    labels::Labels,
    leaving, link, rooms,
    tell::{self, Absence},
    thin,
};
use crate::{
    app::{
        cli::ClientVerb,
        clock,
        failure::Failure,
        output::{self, Format, visible},
        signals::Interrupts,
    },
    base::{Clock as _, Rng as _},
    client::{Call, Client, ClientError, Cost, Credentials, Method},
};

const NOT_LINKED: &str = "this is for linked devices, and these credentials are a session: `tramline client approve` makes a code for a device, and `tramline client link` makes it one";

/// Does a verb; one with many results prints them as they come.
pub(super) async fn verb(
    client: &mut Client,
    me: &Credentials,
    verb: ClientVerb,
    format: Format,
    wants_cost: bool,
) -> Result<Said, Failure> {
    if let Some(door) = client.thin()
        && let Some(said) = thin::verb(door, me, &verb, (format, wants_cost)).await?
    {
        return Ok(said);
    }
    match verb {
        ClientVerb::Rooms => rooms::rooms(client, format).await,
        ClientVerb::Create {
            name,
            alias,
            invite,
            public,
            room_version,
        } => {
            let preset = if public {
                "public_chat"
            } else {
                "private_chat"
            };
            let optional = [
                ("name", name),
                ("room_alias_name", alias),
                ("room_version", room_version),
            ];
            create(
                client,
                json!({ "preset": preset, "invite": invite }),
                optional,
            )
            .await
        }
        ClientVerb::Invite { room, user } => invite(client, &room, &user).await,
        ClientVerb::Join { room, via } => join(client, &room, &via).await,
        ClientVerb::Alias {
            room,
            alias,
            remove,
        } => {
            let wish = (&*room, alias.as_deref(), remove);
            super::alias::alias(client, me, wish, format).await
        }
        ClientVerb::Leave { room } => leaving::leave(client, &room).await,
        ClientVerb::Send { room, text, txn } => {
            let room = room_id(client, &room).await?;
            let txn = txn.unwrap_or_else(fresh_txn);
            let event = client.say(&room, &txn, &text).await;
            let event = event.map_err(|error| may_have_arrived(error, &txn))?;
            let said = json!({"room_id": room, "event_id": event, "txn": txn, "seq": null,
                "counter": null, "queued": false, "waiting": 0});
            Ok(Said::one(event.as_str(), said))
        }
        ClientVerb::Read { room, limit, from } => {
            let room = room_id(client, &room).await?;
            let asked = (&room, limit, from.as_deref());
            read(client, &me.user_id, asked, format).await
        }
        ClientVerb::Sync {
            since,
            timeout,
            follow,
        } => {
            let wait = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let wish = Wish {
                since,
                wait_ms: wait,
                wants_cost,
            };
            if follow {
                return self::follow(client, &me.user_id, wish, format).await;
            }
            once(client, &me.user_id, wish, format).await
        }
        ClientVerb::Status { room: None } => status(client, me, wants_cost).await,
        ClientVerb::Status { room: Some(room) } => {
            let room = room_id(client, &room).await?;
            deliveries::of_room(client, &room, format).await
        }
        ClientVerb::Ledger
        | ClientVerb::LinkClass { .. }
        | ClientVerb::Upload { .. }
        | ClientVerb::Download { .. } => Err(Failure::usage("CLIENT_VERB", NOT_LINKED)),
        ClientVerb::Approve { device } => link::approve(client, &device).await,
        ClientVerb::Link { .. } | ClientVerb::Logout => {
            Err(Failure::failed("CLIENT_VERB", "this is done elsewhere"))
        }
    }
}

async fn invite(client: &mut Client, room: &str, user: &str) -> Result<Said, Failure> {
    let room = room_id(client, room).await?;
    let user = OwnedUserId::try_from(user).map_err(|error| Failure::usage("USER_ID", error))?;
    client.invite(&room, &user).await.map_err(failed)?;
    let said = json!({"room_id": room, "user_id": user});
    Ok(Said::one(format!("invited {user}"), said))
}

async fn join(client: &mut Client, wanted: &str, via: &[String]) -> Result<Said, Failure> {
    let room = client.join_via(wanted, via).await.map_err(failed)?;
    if let Some(door) = client.thin() {
        let alias = wanted.strip_prefix('#').map(|_| wanted.to_owned());
        let noted = door.note_room(room.as_str(), |noted| {
            if let Some(alias) = alias {
                noted.alias = alias;
            }
            "join".clone_into(&mut noted.membership);
        });
        noted.map_err(thin::wrong)?;
    }
    let text = format!("joined {room}");
    Ok(Said::one(text, json!({ "room_id": room })))
}

async fn create(
    client: &mut Client,
    mut wish: Json,
    optional: [(&str, Option<String>); 3],
) -> Result<Said, Failure> {
    for (key, value) in optional {
        if let Some(value) = value {
            wish[key] = value.into();
        }
    }
    let is_plain = wish["room_alias_name"].is_null();
    let name = wish["name"].as_str().unwrap_or_default().to_owned();
    let room = client.create_room(wish).await.map_err(failed)?;
    if let Some(door) = client.thin().filter(|_| is_plain) {
        door.made(room.as_str(), &name).map_err(thin::wrong)?;
    }
    Ok(Said::one(room.as_str(), json!({ "room_id": room })))
}

async fn read(
    client: &mut Client,
    me: &str,
    (room, limit, from): (&OwnedRoomId, u32, Option<&str>),
    format: Format,
) -> Result<Said, Failure> {
    let page = client.messages(room, from, true, limit).await;
    let page = page.map_err(|error| about("--from", from, error))?;
    let mut events = events_of(&page["chunk"]);
    events.reverse();
    if events.is_empty() && format == Format::Text {
        output::note("-- nothing that you may read here");
    }
    let mut absence = Absence::default();
    for event in &events {
        if absence.ends_with(event, me) && format == Format::Text {
            output::line(tell::ABSENT)?;
        }
        let json = Happened::by_event(room.as_str(), event).json();
        format.print(&tell::event(event), &json)?;
    }
    if let Some(ended) = tell::ended(&events, me).filter(|_| from.is_none()) {
        output::tell(format, &ended);
    }
    if let Some(end) = page["end"].as_str() {
        let text = format!("-- older: --from {end}");
        format.print(&text, &json!({ "end": end }))?;
    }
    Ok(Said::Lines)
}

/// What the hub says of a place is said of the parameter that it was given in.
fn about(parameter: &str, given: Option<&str>, error: ClientError) -> Failure {
    match &error {
        ClientError::Refused {
            errcode,
            error: why,
            ..
        } if given.is_some() && errcode == "M_INVALID_PARAM" => {
            Failure::failed(errcode, format!("{parameter}: {why}"))
        }
        _ => failed(error),
    }
}

/// What a sync is wanted for.
struct Wish {
    since: Option<String>,
    wait_ms: u64,
    wants_cost: bool,
}

async fn once(client: &mut Client, me: &str, wish: Wish, format: Format) -> Result<Said, Failure> {
    let news = client.sync(wish.since.as_deref(), wish.wait_ms).await;
    let news = news.map_err(|error| about("--since", wish.since.as_deref(), error))?;
    match format {
        Format::Json => {
            for line in lines_of_sync(&news) {
                format.print("", &line)?;
            }
        }
        Format::Text => {
            for line in told(client, me, &news, &mut Labels::default()).await {
                output::line(&line)?;
            }
        }
    }
    let next = news["next_batch"].as_str().unwrap_or_default();
    Ok(Said::one(
        format!("-- next: --since {next}"),
        end_of_sync(next.into()),
    ))
}

/// Prints what is new until it is interrupted, and what each round cost where that is wanted.
async fn follow(
    client: &mut Client,
    me: &str,
    wish: Wish,
    format: Format,
) -> Result<Said, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let mut since = wish.since;
    let mut labels = Labels::default();
    let mut spent: Option<Spent> = None;
    let mut silence = Silence::default();
    let wait = if wish.wait_ms == 0 {
        FOLLOW_WAIT_MS
    } else {
        wish.wait_ms
    };
    loop {
        let news = tokio::select! {
            biased;
            () = interrupts.next() => return Ok(end(format, since)),
            news = client.sync(since.as_deref(), wait) => news,
        };
        let news = match news {
            Ok(news) => news,
            Err(error) if error.is_temporary() => {
                silence.begins(&error, format);
                tokio::select! {
                    biased;
                    () = interrupts.next() => return Ok(end(format, since)),
                    () = tokio::time::sleep(FOLLOW_PAUSE) => continue,
                }
            }
            Err(error) => return Err(about("--since", since.as_deref(), error)),
        };
        silence.ends(format);
        since = news["next_batch"].as_str().map(ToOwned::to_owned);
        let lines = match format {
            Format::Text => told(client, me, &news, &mut labels).await,
            Format::Json => Vec::new(),
        };
        for line in lines {
            output::line(&line)?;
        }
        let json = match format {
            Format::Text => Vec::new(),
            Format::Json => lines_of_sync(&news),
        };
        let now = Spent::by(client);
        let round = spent
            .as_ref()
            .map_or_else(|| Spent::by(client), |spent| now.since(spent));
        spent = Some(now);
        match format {
            Format::Text if wish.wants_cost => output::note(&round.line()),
            Format::Text => {}
            Format::Json => {
                for line in &json {
                    format.print("", line)?;
                }
                let mut end = end_of_sync(since.as_deref().into());
                if let (true, Some(end)) = (wish.wants_cost, end.as_object_mut()) {
                    end.insert("cost".to_owned(), round.json());
                }
                format.print("", &end)?;
            }
        }
    }
}

/// Whether the hub was said not to answer, which is said once, and when it does again.
#[derive(Default)]
struct Silence(bool);

impl Silence {
    fn begins(&mut self, error: &ClientError, format: Format) {
        if !std::mem::replace(&mut self.0, true) {
            output::tell(format, &Self::told(error));
        }
    }

    fn told(error: &ClientError) -> String {
        match error {
            ClientError::Unreachable { .. } => "-- the hub does not answer; trying on".to_owned(),
            ClientError::Refused { error, .. } => {
                format!("-- the hub refuses for now: {}; trying on", visible(error))
            }
            error => format!("-- {error}; trying on"),
        }
    }

    fn ends(&mut self, format: Format) {
        if std::mem::take(&mut self.0) {
            output::tell(format, "-- the hub answers again");
        }
    }
}

/// The last line of what was followed.
fn end(format: Format, since: Option<String>) -> Said {
    match format {
        Format::Text => Said::Lines,
        Format::Json => Said::one("", end_of_sync(since.into())),
    }
}

/// What a sync tells a person, room by room: invites and knocks, then what happened.
async fn told(client: &mut Client, me: &str, news: &Json, labels: &mut Labels) -> Vec<String> {
    let mut lines = Vec::new();
    for (room, invited) in section_of(news, "invite") {
        let events = events_of(&invited["invite_state"]);
        let label = labels.of(client, room, events.iter().collect()).await;
        let inviter = tell::inviter(&events);
        let by = inviter.map_or(String::new(), |user| format!(" by {}", visible(&user)));
        lines.push(format!("{label}\n  you are invited{by}"));
    }
    for (room, knocked) in section_of(news, "knock") {
        let events = events_of(&knocked["knock_state"]);
        let label = labels.of(client, room, events.iter().collect()).await;
        lines.push(format!("{label}\n  you have asked to join"));
    }
    for (section, nothing) in [("join", ""), ("leave", "  you are out")] {
        for (room, told) in section_of(news, section) {
            let (state, timeline) = (
                events_of(&told["state"]["events"]),
                events_of(&told["timeline"]["events"]),
            );
            if section == "join" && timeline.is_empty() {
                continue; // somebody types, or has read something
            }
            let at_hand = state.iter().chain(&timeline).collect();
            lines.push(labels.of(client, room, at_hand).await);
            if told["timeline"]["limited"] == true {
                lines.push("  ... (there is more than fits: `read` shows it)".to_owned());
            }
            let mut absence = Absence::default();
            for event in &timeline {
                if absence.ends_with(event, me) {
                    lines.push(format!("  {}", tell::ABSENT));
                }
                lines.push(format!("  {}", tell::event(event)));
            }
            if timeline.is_empty() {
                lines.push(nothing.to_owned());
            }
        }
    }
    lines
}

/// The rooms of a sync's section.
pub(super) fn section_of<'a>(
    news: &'a Json,
    section: &str,
) -> impl Iterator<Item = (&'a str, &'a Json)> {
    let rooms: Option<&Map<_, _>> = news["rooms"][section].as_object();
    rooms
        .into_iter()
        .flatten()
        .map(|(room, told)| (room.as_str(), told))
}

/// A list of events, which some sections wrap in an object.
pub(super) fn events_of(told: &Json) -> Vec<Json> {
    let list = told.as_array().or_else(|| told["events"].as_array());
    list.cloned().unwrap_or_default()
}

/// How long `sync --follow` rests when the hub does not answer.
const FOLLOW_PAUSE: Duration = Duration::from_secs(2);

/// How long one round of `sync --follow` waits for news.
const FOLLOW_WAIT_MS: u64 = 30_000;

/// `wants_cost` has the cost told anyway.
async fn status(client: &mut Client, me: &Credentials, wants_cost: bool) -> Result<Said, Failure> {
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
    let (door, address) = match (&me.server.coap, &me.server.https) {
        (Some(coap), _) => ("coap", Some(coap)),
        (None, https) => ("https", https.as_ref()),
    };
    let _ = write!(text, "door: {door}"); // a String takes it
    if !wants_cost {
        let Cost { up, down, .. } = cost;
        let _ = write!(text, "\nthis question cost: {up} bytes up, {down} down");
    }
    Ok(Said::one(
        text,
        // A session has neither a link class nor a queue of its own.
        json!({"user_id": answer["user_id"], "device_id": answer["device_id"], "door": door,
            "address": address, "hub_time_ms": null, "link_class": null,
            "daily_kilobytes": null, "bytes_today": null, "nat_timer_s": null, "waiting": 0,
            "bytes_up": cost.up, "bytes_down": cost.down}),
    ))
}

/// The room a user means: an id, or an alias to look up.
pub(super) async fn room_id(client: &mut Client, room: &str) -> Result<OwnedRoomId, Failure> {
    if let Ok(id) = OwnedRoomId::try_from(room) {
        return Ok(id);
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

/// A transaction id nobody has used: the time and some chance.
fn fresh_txn() -> String {
    format!(
        "{}.{:08x}",
        clock::SystemClock::new().now().0,
        clock::rng().next_u32()
    )
}

/// A send that left and was not answered may have been done: whoever sends it again needs its transaction
/// id.
fn may_have_arrived(error: ClientError, txn: &str) -> Failure {
    if let ClientError::Unreachable { is_sent: true, .. } = &error {
        let hint = format!(
            "{error}; it may have arrived. Send it again with --txn {txn}: it is not sent twice"
        );
        return Failure::failed("UNREACHABLE", hint);
    }
    failed(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_the_hub_refuses_is_said_with_its_parameter() {
        let refused = |errcode: &str| ClientError::Refused {
            status: 400,
            errcode: errcode.to_owned(),
            error: "\"x\" is not a token of this hub".to_owned(),
            retry_after_ms: None,
        };
        let said = |given, code| about("--from", given, refused(code)).to_string();
        let wanted = "error[M_INVALID_PARAM]: --from: \"x\" is not a token of this hub";
        assert_eq!(said(Some("x"), "M_INVALID_PARAM"), wanted);
        assert!(!said(None, "M_INVALID_PARAM").contains("--from"));
        assert!(!said(Some("x"), "M_FORBIDDEN").contains("--from"));
    }

    #[test]
    fn only_what_left_may_have_arrived() {
        let said = |is_sent| {
            let source = std::io::Error::from_raw_os_error(111);
            let error = ClientError::Unreachable {
                at: "https://127.0.0.1:8448".to_owned(),
                source: source.into(),
                is_sent,
            };
            may_have_arrived(error, "t1").to_string()
        };
        assert!(said(true).contains("it may have arrived. Send it again with --txn t1"));
        assert_eq!(
            said(false),
            "error[UNREACHABLE]: cannot reach the hub at https://127.0.0.1:8448: nobody listens \
             there (connection refused)"
        );
    }

    #[test]
    fn a_hub_that_does_not_answer_is_told_of_in_the_words_of_every_door() {
        let error = ClientError::Unreachable {
            at: "https://h".to_owned(),
            source: std::io::Error::from_raw_os_error(111).into(),
            is_sent: false,
        };
        assert_eq!(
            Silence::told(&error),
            "-- the hub does not answer; trying on"
        );
        let mut silence = Silence::default();
        silence.begins(&error, Format::Text);
        silence.begins(&error, Format::Text);
        assert!(silence.0);
        silence.ends(Format::Text);
        assert!(!silence.0);
    }

    #[test]
    fn two_transaction_ids_differ() {
        assert_ne!(fresh_txn(), fresh_txn());
    }
}
