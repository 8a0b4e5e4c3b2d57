//! A stored event as the thin profile shows it.

use ruma::{CanonicalJsonObject, EventId};
use sha2::{Digest, Sha256};

use super::{
    append::counter_of,
    before::before,
    names::Numbers,
    shape::{self, Facts, numbered},
};
use crate::{
    api::{Caller, Refusal},
    base::{Seq, Timestamp},
    hub::{Hub, desk::sync::view::Stored},
    room::StateKey,
    store::{EventRecord, RoomNid, RoomRecord, StateNid, StoreError, hash_of},
    wire::{
        json,
        thin::{Body, MlsGroup, NameKind, Record, Shown, WholeEntry},
    },
};

/// An entry before its names have numbers.
pub(super) struct Entry {
    pub(super) seq: Seq,
    sender: String,
    at: u64,
    id: [u8; 32],
    /// The number of what it refers to: an entry, or what a membership was before.
    target: Option<u64>,
    counter: Option<u64>,
    body: Body,
    named: Option<(NameKind, String)>,
}

impl Entry {
    /// Reads an event the caller may see, which came after `state`; nothing for one that is damaged.
    pub(super) async fn of(
        hub: &Hub,
        caller: &Caller,
        room: &RoomRecord,
        (event, state): (&EventRecord, StateNid),
    ) -> Result<Option<Self>, StoreError> {
        let Some(stored) = Stored::intact(room, event) else {
            return Ok(None);
        };
        let Ok(whole) = json::read_object(event.json.as_bytes()) else {
            return Ok(None); // `intact` has read it: it is JSON, and no other is stored
        };
        let empty = CanonicalJsonObject::new();
        let facts = Facts {
            kind: &stored.kind,
            state_key: stored.state_key.as_deref(),
            content: match whole.get("content") {
                Some(ruma::CanonicalJsonValue::Object(content)) => content,
                _ => &empty,
            },
            redacts: whole.get("redacts").and_then(|id| id.as_str()),
        };
        let mut shape = shape::of(&facts);
        let mut target = None;
        if let Some(id) = &shape.target {
            target = place(hub, room.nid, id).await?.map(|seq| seq.0);
            if target.is_none() {
                shape = shape::general(&facts);
            }
        }
        if let ("m.room.member", Some(user)) = (facts.kind, facts.state_key) {
            let was = before(hub, state, (event, &whole), user).await?;
            target = was.map(|was| was.number().into());
        }
        let at = whole.get("origin_server_ts").and_then(|at| match at {
            ruma::CanonicalJsonValue::Integer(at) => u64::try_from(i64::from(*at)).ok(),
            _ => None,
        });
        Ok(Some(Self {
            seq: event.seq.unwrap_or_default(),
            at: at.unwrap_or_default(),
            id: event.hash.0,
            target,
            counter: counter_of(event, &stored.sender, caller),
            sender: stored.sender.into_owned(),
            body: shape.body,
            named: shape.named,
        }))
    }

    /// The names that must have numbers before it is shown.
    pub(super) fn names(&self) -> impl Iterator<Item = (NameKind, String)> {
        let sender = (NameKind::User, self.sender.clone());
        [Some(sender), self.named.clone()].into_iter().flatten()
    }

    /// Whether an elided body may be shorter.
    pub(super) const fn is_mls(&self) -> bool {
        matches!(self.body, Body::MlsWhole(_))
    }

    /// About the least bytes its record has.
    pub(super) fn least_bytes(&self) -> usize {
        match &self.body {
            // All that is left out at most: framing, a group id of some bytes.
            Body::MlsWhole(message) => message.len().saturating_sub(512),
            Body::Text(text) | Body::Notice(text) | Body::Emote(text) => text.len(),
            Body::Event { content, .. } | Body::State { content, .. } => content.len(),
            _ => 4,
        }
    }

    /// The record, which does not name its room.
    pub(super) fn record(
        &self,
        numbers: &Numbers,
        now: Timestamp,
        group: Option<&MlsGroup>,
    ) -> Result<Record, Refusal> {
        let body = self.numbered(numbers)?;
        let elided = match (&body, group) {
            (Body::MlsWhole(message), Some(group)) => group.elide(message),
            _ => None,
        };
        let body = elided.map_or(body, Body::MlsElided);
        self.with_body(numbers, now, self.target, body)
    }

    /// The record that stands for one that is too large.
    pub(super) fn too_large(&self, numbers: &Numbers, now: Timestamp) -> Result<Record, Refusal> {
        let whole = self.whole(numbers)?.encode();
        let hash: [u8; 32] = Sha256::digest(&whole).into();
        let etag = *hash.first_chunk().ok_or_else(Refusal::internal)?;
        let size = whole.len() as u64;
        let body = Body::TooLarge { size, etag };
        self.with_body(numbers, now, None, body)
    }

    /// The entry in full. An MLS message is whole in it, so that its bytes stay what they are when
    /// the group moves on.
    pub(super) fn whole(&self, numbers: &Numbers) -> Result<WholeEntry, Refusal> {
        Ok(WholeEntry {
            seq: self.seq.0,
            sender: numbers.get(NameKind::User, &self.sender)?,
            time_ms: self.at,
            target: self.target,
            counter: self.counter,
            id: self.id,
            body: self.numbered(numbers)?,
        })
    }

    fn numbered(&self, numbers: &Numbers) -> Result<Body, Refusal> {
        let number = match &self.named {
            Some((kind, name)) => numbers.get(*kind, name)?,
            None => 0,
        };
        Ok(numbered(self.body.clone(), number))
    }

    fn with_body(
        &self,
        numbers: &Numbers,
        now: Timestamp,
        target: Option<u64>,
        body: Body,
    ) -> Result<Record, Refusal> {
        Ok(Record {
            room: None,
            what: Shown::Entry {
                seq: self.seq.0,
                sender: numbers.get(NameKind::User, &self.sender)?,
                age: now.since(Timestamp(self.at)).as_secs(),
                target,
                counter: self.counter,
                body,
            },
        })
    }
}

/// The place of an event in a room's log.
async fn place(hub: &Hub, room: RoomNid, id: &str) -> Result<Option<Seq>, StoreError> {
    let Some(hash) = <&EventId>::try_from(id).ok().and_then(hash_of) else {
        return Ok(None);
    };
    let event = hub.store.event(hash).await?;
    Ok(event
        .filter(|event| event.room == room)
        .and_then(|event| event.seq))
}

/// The group that a room's state names now.
pub(super) async fn group(hub: &Hub, room: RoomNid) -> Result<Option<MlsGroup>, StoreError> {
    let key = StateKey::new("m.room.encryption", "");
    let found = hub.store.current(room, &[key]).await?;
    let content = found.first().and_then(Option::as_ref).and_then(|event| {
        let stored = Stored::read(event)?;
        json::read_object(stored.content.get().as_bytes()).ok()
    });
    Ok(content.as_ref().and_then(shape::mls_group))
}
