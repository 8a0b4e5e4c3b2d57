//! What the user is to rooms that this hub is not in, in the order of all rooms: a log of its own under
//! the name `+`, whose seqs are positions of the hub.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId};
use serde_json::Value;

use super::{
    before,
    content::to_cbor,
    inbox::Place,
    names::{self, Numbers},
};
use crate::{
    api::{Caller, Refusal},
    base::{Position, Timestamp},
    hub::{Hub, desk::remote},
    room::Membership,
    store::{OutsideRecord, RoomNid},
    wire::{
        matrix::Pdu,
        thin::{self, Alias, Body, MEMBER, NameKind, Record, Shown},
    },
};

/// The name of the log.
pub(super) const NAME: &str = "+";

/// Where it stands among the rooms of one commit: behind them.
pub(super) const LAST: RoomNid = RoomNid(i64::MAX);

/// How much is told of a room's name, in characters: the rest is told once the user is in.
pub(super) const NAME_CHARS_MAX: usize = 40;

/// One invitation, or its end.
pub(super) struct Notice {
    pub(super) position: Position,
    room: OwnedRoomId,
    sender: String,
    at: Timestamp,
    membership: Membership,
    /// What it ended, where that is known.
    was: Option<thin::Membership>,
    name: Option<String>,
}

/// What is new after a place, up to a moment, in order.
pub(super) async fn notices(
    hub: &Hub,
    caller: &Caller,
    after: Place,
    now: Position,
) -> Result<Vec<Notice>, Refusal> {
    let since = if after.1 == LAST {
        after.0
    } else {
        Position(after.0.0.saturating_sub(1))
    };
    let all = remote::standings(hub, &caller.user, since).await?;
    let told = all.into_iter().filter(|record| record.position <= now);
    let mut notices: Vec<_> = told.filter_map(|record| notice(&record)).collect();
    notices.sort_by(|one, other| (one.position, &one.room).cmp(&(other.position, &other.room)));
    Ok(notices)
}

fn notice(record: &OutsideRecord) -> Option<Notice> {
    let event = Pdu::read(&record.event, record.version).ok()?;
    let fields = event.fields();
    Some(Notice {
        position: record.position,
        room: record.room_id.clone(),
        sender: fields.sender.to_string(),
        at: fields.at,
        membership: record.membership,
        was: was(record),
        name: name(&record.state),
    })
}

/// What the room calls itself, in another server's words.
pub(super) fn name(state: &str) -> Option<String> {
    let name = said(state, "m.room.name", "", "name")?;
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    (!name.is_empty()).then_some(name)
}

/// What the user was to the room before: kept beside the end of it.
fn was(record: &OutsideRecord) -> Option<thin::Membership> {
    before::told(remote::was(record)?, record.membership)
}

/// A text in what is kept of a room's state.
fn said(state: &str, kind: &str, key: &str, member: &str) -> Option<String> {
    let state: Vec<Value> = serde_json::from_str(state).ok()?;
    let is = |piece: &Value, name: &str, wanted: &str| {
        piece.get(name).and_then(Value::as_str) == Some(wanted)
    };
    let found = state
        .iter()
        .find(|piece| is(piece, "type", kind) && is(piece, "state_key", key))?;
    let said = found.get("content")?.get(member)?.as_str()?;
    Some(said.to_owned())
}

impl Notice {
    /// The names that must have numbers before it is shown.
    pub(super) fn names(&self) -> [(NameKind, String); 1] {
        [(NameKind::User, self.sender.clone())]
    }

    /// The record, which does not name its log.
    // spec: thin-profile §7
    pub(super) fn record(&self, numbers: &Numbers, now: Timestamp) -> Result<Record, Refusal> {
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let mut content = CanonicalJsonObject::new();
        content.insert("membership".to_owned(), text(self.membership.as_str()));
        if let (Some(name), Membership::Invite | Membership::Knock) = (&self.name, self.membership)
        {
            content.insert("name".to_owned(), text(name));
        }
        Ok(Record {
            room: None,
            what: Shown::Entry {
                seq: self.position.0,
                sender: numbers.get(NameKind::User, &self.sender)?,
                age: now.since(self.at).as_secs(),
                target: self.was.map(|was| was.number().into()),
                counter: None,
                body: Body::State {
                    event_type: MEMBER,
                    state_key: self.room.to_string(),
                    content: to_cbor(&content),
                    deflated: false,
                },
            },
        })
    }
}

/// Whether a number is that of this log.
pub(super) async fn is_this(hub: &Hub, caller: &Caller, alias: Alias) -> Result<bool, Refusal> {
    let name = names::name(hub, caller, NameKind::Room, alias).await?;
    Ok(name.as_deref() == Some(NAME))
}
