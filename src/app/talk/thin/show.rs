//! What a linked device is told, for a person and for a program.

use serde_json::{Value as Json, json};

use super::{
    super::happened::{self, Happened},
    note, wrong,
};
use crate::{
    app::{
        clock::SystemClock,
        failure::Failure,
        output::{self, Format, visible},
    },
    base::{Clock as _, Timestamp},
    client::{
        Credentials,
        thin::{Answer, Ask, ThinDoor, ThinError, door::aliases_of, places::elsewhere},
    },
    wire::{
        cbor,
        thin::{
            Alias, Body, FIXED_EVENT_TYPES, Membership, NameKind, Record, Shown, deflate::inflate,
        },
    },
};

/// Prints records, with the names they speak of.
pub(super) async fn show(
    door: &mut ThinDoor,
    me: &Credentials,
    records: &[Record],
    format: Format,
) -> Result<(), Failure> {
    door.learn(&aliases_of(records)).await.map_err(wrong)?;
    if records.iter().any(is_title) {
        door.forget_titles().map_err(wrong)?;
    }
    let now = SystemClock::new().now();
    let mut room_before = None;
    for record in records {
        let record = whole(door, record, format).await?;
        let Some((text, json)) = told(door, me, &record, now) else {
            continue;
        };
        if format == Format::Text && record.room != room_before {
            room_before = record.room;
            output::line(&visible(&room_of(door, &record)))?;
        }
        format.print(&format!("  {text}"), &json)?;
    }
    Ok(())
}

/// The entry itself, where its record says only that it is large.
async fn whole(door: &mut ThinDoor, record: &Record, format: Format) -> Result<Record, Failure> {
    let Shown::Entry {
        seq,
        sender,
        age,
        body: Body::TooLarge { size, .. },
        ..
    } = record.what
    else {
        return Ok(record.clone());
    };
    let Some(room) = record.room else {
        return Ok(record.clone());
    };
    note(format, &format!("-- fetching an entry of {size} bytes"));
    let answer = door.ask("entry", Ask::Entry { room, seq }).await;
    let Answer::Entry(entry) = answer.map_err(wrong)? else {
        return Err(wrong(ThinError::OtherAnswer));
    };
    let what = Shown::Entry {
        seq,
        sender,
        age,
        target: entry.target,
        counter: entry.counter,
        body: entry.body,
    };
    Ok(Record {
        room: record.room,
        what,
    })
}

fn room_of(door: &ThinDoor, record: &Record) -> String {
    if let Shown::Entry { body, .. } = &record.what
        && let Some((room, _)) = elsewhere(body)
    {
        return room.to_owned();
    }
    let alias = record.room.unwrap_or_default();
    name(door, NameKind::Room, alias)
}

fn name(door: &ThinDoor, kind: NameKind, alias: Alias) -> String {
    let fixed = usize::try_from(alias)
        .ok()
        .and_then(|at| FIXED_EVENT_TYPES.get(at))
        .filter(|_| kind == NameKind::EventType);
    match (fixed, door.state().name(kind, alias)) {
        (Some(fixed), _) => (*fixed).to_owned(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => format!("(number {alias})"),
    }
}

/// A record for a person and for a program; none where it says nothing to either.
fn told(
    door: &ThinDoor,
    me: &Credentials,
    record: &Record,
    now: Timestamp,
) -> Option<(String, Json)> {
    let user = |alias| match alias {
        0 => me.user_id.clone(),
        alias => name(door, NameKind::User, alias),
    };
    let room_id = room_of(door, record);
    match &record.what {
        Shown::Entry {
            seq,
            sender,
            age,
            target,
            body,
            ..
        } => {
            let at = Timestamp(now.0.saturating_sub(age.saturating_mul(1000)));
            let sender = user(*sender);
            if let Some((room, content)) = elsewhere(body) {
                return Some(told_elsewhere(me, (room, content), &sender, at));
            }
            let words = words(door, body, &user);
            let about = target.map_or(String::new(), |target| format!(" (to {target})"));
            let text = format!("{} {seq} {}{about}{words}", at.rfc3339(), visible(&sender));
            let (event_type, state_key, content) = event_of(door, body, &user);
            let happened = Happened {
                room_id: room_id.into(),
                seq: (*seq).into(),
                sender: sender.into(),
                at_ms: at.0.into(),
                event_type,
                state_key,
                content,
                target_seq: (*target).into(),
                ..Happened::default()
            };
            let json = happened.json();
            Some((text, json))
        }
        Shown::Receipt { seq, user: who } => {
            let who = user(*who);
            let text = format!("{} has read up to {seq}", visible(&who));
            let json = happened::receipt(&room_id, Json::Null, (*seq).into(), &who);
            Some((text, json))
        }
        Shown::Typing(who) => {
            let who: Vec<_> = who.iter().map(|one| user(*one)).collect();
            let shown = visible(&who.join(", "));
            let json = happened::typing(&room_id, &who.into());
            Some((format!("typing: {shown}"), json))
        }
        Shown::Covered { .. } => None,
    }
}

/// What the user is to a room that the hub is not in.
fn told_elsewhere(
    me: &Credentials,
    (room, content): (&str, &[u8]),
    sender: &str,
    at: Timestamp,
) -> (String, Json) {
    let content = content_of(content, false);
    let said = |name: &str| visible(content[name].as_str().unwrap_or_default());
    let (membership, title) = (said("membership"), said("name"));
    let (time, who, id) = (at.rfc3339(), visible(sender), visible(room));
    let text = match membership.as_str() {
        "invite" => {
            format!("{time} {who} invites you into {id} \"{title}\": `join` it, or `leave` it")
        }
        membership => format!("{time} {who}: {membership}, {id}"),
    };
    let happened = Happened {
        room_id: room.into(),
        sender: sender.into(),
        at_ms: at.0.into(),
        event_type: "m.room.member".into(),
        state_key: me.user_id.as_str().into(),
        content,
        ..Happened::default()
    };
    (text, happened.json())
}

fn words(door: &ThinDoor, body: &Body, user: &dyn Fn(Alias) -> String) -> String {
    let event = |event_type: Alias, content: &[u8], deflated: bool, verb: &str| {
        let event_type = name(door, NameKind::EventType, event_type);
        let content = content_of(content, deflated).to_string();
        format!(" {verb} {} {}", visible(&event_type), visible(&content))
    };
    match body {
        Body::Text(text) | Body::Notice(text) => format!(": {}", visible(text)),
        Body::Emote(text) => format!(" {}", visible(text)),
        Body::Reaction(text) => format!(" reacted with {}", visible(text)),
        Body::Redaction(text) => format!(" redacted it: {}", visible(text)),
        Body::MlsElided(_) | Body::MlsWhole(_) => ": (encrypted)".to_owned(),
        Body::Event {
            event_type,
            content,
            deflated,
        } => event(*event_type, content, *deflated, "sent"),
        Body::State {
            event_type,
            content,
            deflated,
            ..
        } => event(*event_type, content, *deflated, "set"),
        Body::Member {
            user: whose,
            membership,
            ..
        } => format!(
            ": {} of {}",
            membership_name(*membership),
            visible(&user(*whose))
        ),
        Body::TooLarge { size, .. } => format!(": (an entry of {size} bytes)"),
    }
}

/// Type, state key and content, as they are in the event that this is.
fn event_of(door: &ThinDoor, body: &Body, user: &dyn Fn(Alias) -> String) -> (Json, Json, Json) {
    let message = |kind: &str, text: &str| {
        let content = json!({"msgtype": kind, "body": text});
        ("m.room.message".into(), Json::Null, content)
    };
    let event_type = |alias: Alias| Json::from(name(door, NameKind::EventType, alias));
    match body {
        Body::Text(text) => message("m.text", text),
        Body::Notice(text) => message("m.notice", text),
        Body::Emote(text) => message("m.emote", text),
        Body::Reaction(key) => {
            let relation = json!({"rel_type": "m.annotation", "key": key});
            let content = json!({ "m.relates_to": relation });
            ("m.reaction".into(), Json::Null, content)
        }
        Body::Redaction(reason) => {
            let content = json!({ "reason": reason });
            ("m.room.redaction".into(), Json::Null, content)
        }
        Body::MlsElided(bytes) | Body::MlsWhole(bytes) => {
            let content = json!({ "mls": hex::encode(bytes) });
            ("m.room.encrypted".into(), Json::Null, content)
        }
        Body::Event {
            event_type: alias,
            content,
            deflated,
        } => (
            event_type(*alias),
            Json::Null,
            content_of(content, *deflated),
        ),
        Body::State {
            event_type: alias,
            state_key,
            content,
            deflated,
        } => (
            event_type(*alias),
            state_key.as_str().into(),
            content_of(content, *deflated),
        ),
        Body::Member {
            user: whose,
            membership,
            display_name,
        } => {
            let mut content = json!({"membership": membership_name(*membership)});
            if let (false, Some(content)) = (display_name.is_empty(), content.as_object_mut()) {
                let name = display_name.as_str().into();
                content.insert("displayname".to_owned(), name);
            }
            ("m.room.member".into(), user(*whose).into(), content)
        }
        Body::TooLarge { size, .. } => (Json::Null, Json::Null, json!({ "bytes": size })),
    }
}

fn content_of(content: &[u8], deflated: bool) -> Json {
    let inflated = if deflated {
        inflate(content).unwrap_or_default()
    } else {
        content.to_vec()
    };
    cbor::decode(&inflated).map_or(Json::Null, |body| body.value)
}

/// Whether it says what a room is called.
fn is_title(record: &Record) -> bool {
    let Shown::Entry {
        body: Body::State { event_type, .. },
        ..
    } = &record.what
    else {
        return false;
    };
    let event_type = usize::try_from(*event_type).ok();
    let event_type = event_type.and_then(|at| FIXED_EVENT_TYPES.get(at));
    event_type.is_some_and(|fixed| ["m.room.name", "m.room.canonical_alias"].contains(fixed))
}

const fn membership_name(membership: Membership) -> &'static str {
    match membership {
        Membership::Join => "join",
        Membership::Invite => "invite",
        Membership::Leave => "leave",
        Membership::Ban => "ban",
        Membership::Knock => "knock",
    }
}
