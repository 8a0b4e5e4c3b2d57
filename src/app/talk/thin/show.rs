//! What a linked device is told, for a person and for a program.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::{
    super::{
        happened::{self, Happened},
        labels::Label,
        tell,
    },
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
            Alias, Body, FIXED_EVENT_TYPES, MEMBER, Membership, NameKind, Record, Shown,
            deflate::inflate,
        },
    },
};

/// Where records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// They are what came since the last time.
    News,
    /// They are a page of a room's log.
    Page,
}

/// Prints records, with the names they speak of.
pub(super) async fn show(
    door: &mut ThinDoor,
    me: &Credentials,
    (records, from): (&[Record], From),
    format: Format,
) -> Result<(), Failure> {
    learn(door, me, records).await?;
    for (room, title) in records.iter().filter_map(title) {
        retitle(door, room, title)?;
    }
    if records.iter().any(|record| is_own(me, record, "knock")) {
        door.forget_titles().map_err(wrong)?;
    }
    let now = SystemClock::new().now();
    let mut heading = String::new();
    let mut gaps = match from {
        From::News => Gaps(door.state().through.clone()),
        From::Page => Gaps::default(),
    };
    for (at, record) in records.iter().enumerate() {
        let is_gap = gaps.end_with(me, record);
        let is_open = from == From::News && is_open(door, me, &records[at..]);
        let record = whole(door, record, format).await?;
        if from == From::News {
            note_membership(door, me, &record)?;
        }
        let Some((text, json)) = told(door, me, (&record, is_open), now) else {
            continue;
        };
        // Of rooms elsewhere there are many in one log.
        let room = heading_of(door, &record);
        if format == Format::Text && room != heading {
            output::line(&room)?;
            heading = room;
        }
        if is_gap && format == Format::Text {
            output::line(&format!("  {}", tell::ABSENT))?;
        }
        format.print(&format!("  {text}"), &json)?;
    }
    Ok(())
}

/// Since when the user is in the room no more, where these are the last entries they may read of it.
pub(super) fn ended_in(door: &ThinDoor, me: &Credentials, records: &[Record]) -> Option<String> {
    let now = SystemClock::new().now();
    let told = records
        .iter()
        .filter_map(|one| told(door, me, (one, false), now));
    let told: Vec<_> = told.map(|(_, json)| json).collect();
    tell::ended(&told, &me.user_id)
}

/// Whether these are the first entries that a room has here, and it began at another server.
pub(super) fn begins_elsewhere(door: &ThinDoor, me: &Credentials, records: &[Record]) -> bool {
    let now = SystemClock::new().now();
    let first = records.first();
    let first = first.and_then(|first| told(door, me, (first, false), now));
    first.is_some_and(|(_, first)| is_arrival(&first))
}

/// A room that was made here begins with its making, which all may read who may read what comes next to it;
/// one that was joined elsewhere, with what it was then, of which no entry tells, and with the join.
fn is_arrival(first: &Json) -> bool {
    let is_early = first["seq"].as_u64().is_some_and(|seq| seq <= 2);
    is_early && first["type"] != "m.room.create"
}

/// Whether the first of these records is an invitation of the device's user that none of the others
/// answers.
fn is_open(door: &ThinDoor, me: &Credentials, records: &[Record]) -> bool {
    let Some((first, later)) = records.split_first() else {
        return false;
    };
    if own_membership(me, first).as_deref() != Some("invite") {
        return false;
    }
    let room = room_of(door, first);
    let mut later = later.iter();
    !later.any(|one| own_membership(me, one).is_some() && room_of(door, one) == room)
}

/// What a record makes of the device's own user, in a room of the hub or elsewhere.
fn own_membership(me: &Credentials, record: &Record) -> Option<String> {
    let Shown::Entry { body, .. } = &record.what else {
        return None;
    };
    if let Some((_, content)) = elsewhere(body) {
        let content = content_of(content, false);
        return content["membership"].as_str().map(ToOwned::to_owned);
    }
    let own = ["invite", "join", "leave", "ban", "knock"];
    let own = own.into_iter().find(|one| is_own(me, record, one));
    own.map(ToOwned::to_owned)
}

/// Keeps what an invitation says of its room, for when the user is in, and what became of it.
fn note_membership(door: &mut ThinDoor, me: &Credentials, record: &Record) -> Result<(), Failure> {
    let Some(membership) = own_membership(me, record) else {
        return Ok(());
    };
    let name = match &record.what {
        Shown::Entry { body, .. } => elsewhere(body).and_then(|(_, content)| {
            content_of(content, false)["name"]
                .as_str()
                .map(str::to_owned)
        }),
        _ => None,
    };
    let noted = door.note_room(&room_of(door, record), |noted| {
        if let Some(name) = name {
            noted.name = name;
        }
        noted.membership = membership;
    });
    noted.map_err(wrong)
}

/// Learns the names that records speak of: also what the rooms are called that the user is invited to, which
/// nothing else tells.
async fn learn(door: &mut ThinDoor, me: &Credentials, records: &[Record]) -> Result<(), Failure> {
    let mut aliases = aliases_of(records);
    let invited = records.iter().filter(|record| is_own(me, record, "invite"));
    for room in invited.filter_map(|record| record.room) {
        let known = door.state().name(NameKind::Room, room);
        if known.is_none_or(|known| door.called(known).is_none()) {
            aliases.push((NameKind::RoomName, room));
        }
    }
    door.learn(&aliases).await.map_err(wrong)
}

/// Whether a record makes this of the device's own user, in a room of the hub.
fn is_own(me: &Credentials, record: &Record, wanted: &str) -> bool {
    let Shown::Entry { body, .. } = &record.what else {
        return false;
    };
    match body {
        Body::Member {
            user, membership, ..
        } => *user == 0 && membership_name(*membership) == wanted,
        Body::State {
            event_type: MEMBER,
            state_key,
            content,
            deflated,
        } => *state_key == me.user_id && content_of(content, *deflated)["membership"] == wanted,
        _ => false,
    }
}

/// How far each room was told, to see where entries are left out because the user was not in.
#[derive(Default)]
struct Gaps(BTreeMap<Alias, u64>);

impl Gaps {
    /// Whether the user comes in with this record, and something before it is not told.
    fn end_with(&mut self, me: &Credentials, record: &Record) -> bool {
        let (Some(room), Shown::Entry { seq, .. }) = (record.room, &record.what) else {
            return false;
        };
        let last = self.0.get(&room).copied();
        let is_gap = last.is_some_and(|last| last.saturating_add(1) < *seq);
        // Being invited is told although what comes before it is not.
        let waits = is_own(me, record, "invite") || is_own(me, record, "knock");
        if !(is_gap && waits) {
            self.0.insert(room, *seq);
        }
        let changed = record.what.membership_before() == Some(Membership::Join);
        is_gap && is_own(me, record, "join") && !changed
    }
}

/// The room that has another name or main alias, and which.
fn title(record: &Record) -> Option<(Alias, (&'static str, String))> {
    let Shown::Entry {
        body:
            Body::State {
                event_type,
                content,
                deflated,
                ..
            },
        ..
    } = &record.what
    else {
        return None;
    };
    let event_type = FIXED_EVENT_TYPES.get(usize::try_from(*event_type).ok()?)?;
    let field = match *event_type {
        "m.room.name" => "name",
        "m.room.canonical_alias" => "alias",
        _ => return None,
    };
    let content = content_of(content, *deflated);
    let text = content[field].as_str().unwrap_or_default();
    Some((record.room?, (field, text.to_owned())))
}

fn retitle(door: &mut ThinDoor, room: Alias, (field, text): (&str, String)) -> Result<(), Failure> {
    let changed = door.retitle(room, |(name, alias)| match field {
        "name" => *name = text,
        _ => *alias = text,
    });
    changed.map_err(wrong)
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

/// The room's id, and what it is called where that is known.
fn heading_of(door: &ThinDoor, record: &Record) -> String {
    let room = room_of(door, record);
    let told = match &record.what {
        Shown::Entry { body, .. } => elsewhere(body).map(|(_, content)| content_of(content, false)),
        _ => None,
    };
    heading(&room, told.as_ref(), door.called(&room))
}

/// `elsewhere` is what is told of a room that the hub is not in.
fn heading(room: &str, elsewhere: Option<&Json>, title: Option<(String, String)>) -> String {
    let (name, alias) = match elsewhere {
        Some(told) => (
            told["name"].as_str().unwrap_or_default().to_owned(),
            String::new(),
        ),
        None => title.unwrap_or_default(),
    };
    format!("{}{}", visible(room), Label { name, alias }.shown())
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
    (record, is_open): (&Record, bool),
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
            let was = record.what.membership_before();
            let target = target.filter(|_| !body.is_membership());
            let (event_type, state_key, content) = match elsewhere(body) {
                Some((_, content)) => {
                    let content = content_of(content, false);
                    ("m.room.member".into(), me.user_id.as_str().into(), content)
                }
                None => event_of(door, body, &user),
            };
            let happened = Happened {
                room_id: room_id.as_str().into(),
                // Of a room elsewhere nobody here knows how far its log is.
                seq: elsewhere(body).map_or_else(|| (*seq).into(), |_| Json::Null),
                sender: sender.as_str().into(),
                at_ms: at.0.into(),
                event_type,
                state_key,
                content,
                unsigned: was.map_or(Json::Null, ended),
                target_seq: target.into(),
                ..Happened::default()
            };
            let is_elsewhere = elsewhere(body).is_some();
            let called = door.called(&room_id).map(|(name, _)| name);
            let room = match called.filter(|name| !name.is_empty()) {
                Some(name) => format!("\"{}\"", visible(&name)),
                None => visible(&room_id),
            };
            let words = invitation(&happened, (&me.user_id, &room), (is_elsewhere, is_open))
                .unwrap_or_else(|| words(body, &happened, target));
            let number = match elsewhere(body) {
                Some(_) => String::new(),
                None => format!(" {seq}"),
            };
            let text = format!("{}{number} {words}", at.rfc3339());
            Some((text, happened.json()))
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

/// The membership that an entry ended, as far as it is told.
fn ended(was: Membership) -> Json {
    json!({"prev_content": {"membership": membership_name(was)}})
}

/// An invitation of the device's user, with what to do where it stands, and its end; nothing for anything else.
fn invitation(
    happened: &Happened,
    (me, room): (&str, &str),
    (is_elsewhere, is_open): (bool, bool),
) -> Option<String> {
    if happened.event_type != "m.room.member" || happened.state_key != me {
        return None;
    }
    let who = visible(happened.sender.as_str().unwrap_or_default());
    let why = tell::because(&happened.content);
    let was = &happened.unsigned["prev_content"]["membership"];
    // Earlier hubs do not say what has ended elsewhere; mostly it was an invitation.
    let was_invited = was == "invite" || (is_elsewhere && was.is_null());
    match happened.content["membership"].as_str()? {
        "invite" if !is_open && was == "knock" => Some(format!("{who} let you in{why}")),
        "invite" if !is_open => Some(format!("{who} invited you{why}")),
        "invite" if was == "knock" => {
            Some(format!("{who} lets you in: `join` it, or `leave` it{why}"))
        }
        "invite" => Some(format!("{who} invites you: `join` it, or `leave` it{why}")),
        "leave" | "ban" if happened.sender == me && was_invited => {
            Some(format!("you declined the invitation to {room}{why}"))
        }
        "leave" if was_invited => Some(format!(
            "your invitation to {room} was taken back by {who}{why}"
        )),
        _ => None,
    }
}

/// Who did what: by kind where the kind is all there is, otherwise in the words for any event.
fn words(body: &Body, happened: &Happened, target: Option<u64>) -> String {
    let sender = visible(happened.sender.as_str().unwrap_or_default());
    let about = target.map_or(String::new(), |target| format!(" (to {target})"));
    let who = format!("{sender}{about}");
    match body {
        Body::Text(text) | Body::Notice(text) => format!("{who}: {}", visible(text)),
        Body::Emote(text) => format!("* {who} {}", visible(text)),
        Body::Reaction(key) => {
            let key = tell::quoted(&key.as_str().into());
            let to = target.map_or(String::new(), |target| format!(" to {target}"));
            format!("{sender} reacted with {key}{to}")
        }
        Body::Redaction(_) => {
            let what = target.map_or_else(
                || "what has no number here".to_owned(),
                |target| target.to_string(),
            );
            format!(
                "{sender} redacted {what}{}",
                tell::because(&happened.content)
            )
        }
        Body::MlsElided(_) | Body::MlsWhole(_) => format!("{who}: (encrypted)"),
        Body::TooLarge { size, .. } => format!("{who}: (an entry of {size} bytes)"),
        Body::Member { .. } | Body::State { .. } if is_renamed(happened) => {
            let name = happened.content["displayname"].as_str();
            let name = name.map_or_else(String::new, |name| format!(", \"{}\"", visible(name)));
            format!("{who} changed their name or picture{name}")
        }
        Body::Event { .. } if target.is_some() => {
            let target = target.unwrap_or_default().to_string();
            tell::edit(&sender, &target, &happened.content)
        }
        Body::Member { .. } | Body::State { .. } | Body::Event { .. } => {
            tell::words(&event(happened, &happened.unsigned))
        }
    }
}

/// A member who joins has changed something else: what it was before is not told.
fn is_renamed(happened: &Happened) -> bool {
    let was = &happened.unsigned["prev_content"]["membership"];
    happened.event_type == "m.room.member"
        && happened.content["membership"] == "join"
        && was == "join"
}

/// What words are made of.
fn event(happened: &Happened, unsigned: &Json) -> Json {
    json!({"type": happened.event_type, "sender": happened.sender, "state_key": happened.state_key,
        "content": happened.content, "unsigned": unsigned})
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

const fn membership_name(membership: Membership) -> &'static str {
    match membership {
        Membership::Join => "join",
        Membership::Invite => "invite",
        Membership::Leave => "leave",
        Membership::Ban => "ban",
        Membership::Knock => "knock",
    }
}

#[cfg(test)]
mod tests;
