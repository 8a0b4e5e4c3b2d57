//! A stored event as a client sees it: no hashes, no signatures, no graph; `unsigned` added.
//!
//! Works on the stored bytes: content is copied as it stands, never read into event types, so that
//! an event of a kind nobody knows costs what any other costs. Who may see it is decided elsewhere.

use std::{borrow::Cow, collections::HashMap};

use ruma::{EventId, OwnedEventId, RoomId, serde::Raw};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    api::Caller,
    base::Timestamp,
    hub::desk::reading::{page::Seen, pieces, visibility::Standing},
    room::{Membership, StateKey},
    store::{EventNid, EventRecord, OutsideRecord, RoomRecord, SharedStore, StoreError},
    wire::matrix::{Pdu, check_intact, event_id},
};

/// What the hub looks at in a stored event, borrowed from its bytes.
#[derive(Debug, Deserialize)]
pub(in crate::hub::desk) struct Stored<'a> {
    #[serde(rename = "type", borrow)]
    pub(in crate::hub::desk) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::hub::desk) sender: Cow<'a, str>,
    pub(in crate::hub::desk) state_key: Option<String>,
    #[serde(borrow)]
    pub(in crate::hub::desk) content: &'a RawValue,
    origin_server_ts: u64,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

impl<'a> Stored<'a> {
    /// Reads a stored event; a damaged one is logged and gives nothing, so that it never takes its
    /// neighbours with it.
    pub(in crate::hub::desk) fn read(event: &'a EventRecord) -> Option<Self> {
        match serde_json::from_str(&event.json) {
            Ok(stored) => Some(stored),
            Err(error) => {
                let id = event_id(event.hash);
                tracing::error!(event = %id, %error, "a stored event cannot be read; it is left out");
                None
            }
        }
    }

    /// Reads a stored event that is about to be shown to somebody.
    ///
    /// A disk, a backup or a hand may have changed it since it was acknowledged, and a client has no
    /// way to see that: it gets no hashes and no signatures. So every event is checked against its
    /// own id on its way out (some 4 µs), and one that does not fit is left out of a page and
    /// refused where it was asked for by name; a wrong message is worse than a missing one. `fsck`
    /// says where it is. What the rules are decided on is not checked again here.
    pub(in crate::hub::desk) fn intact(room: &RoomRecord, event: &'a EventRecord) -> Option<Self> {
        if let Err(error) = check_intact(&event.json, event.hash, room.version) {
            let (id, error) = (event_id(event.hash), &error as &dyn std::error::Error);
            metrics::counter!("tramline_changed_events_total").increment(1);
            tracing::error!(
                code = "EVENT_CHANGED", room = %room.id, event = %id, error,
                "a stored event was changed since it was sent; it is not delivered: run fsck"
            );
            return None;
        }
        Self::read(event)
    }

    /// What piece of state it is, if it is state.
    pub(in crate::hub::desk) fn key(&self) -> Option<StateKey> {
        let key = self.state_key.as_ref()?;
        Some(StateKey::new(self.kind.as_ref(), key))
    }

    /// A text member of the content.
    pub(in crate::hub::desk) fn text(&self, member: &str) -> Option<String> {
        let content: HashMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(self.content.get()).ok()?;
        serde_json::from_str(content.get(member)?.get()).ok()
    }
}

/// For whom, when and in what shape events are shown.
#[derive(Clone, Copy)]
pub(in crate::hub::desk) struct Viewer<'a> {
    pub(in crate::hub::desk) caller: &'a Caller,
    pub(in crate::hub::desk) standing: &'a Standing,
    pub(in crate::hub::desk) now: Timestamp,
    /// Whether each event names its room; in a sync the section it stands in does.
    pub(in crate::hub::desk) names_room: bool,
}

#[derive(Serialize)]
struct ClientEvent<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    unsigned: Unsigned<'a>,
}

#[derive(Serialize)]
struct Unsigned<'a> {
    age: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<OwnedEventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a str>,
}

/// What surrounds the events of a page: the redactions of some, the predecessors of others.
struct Surroundings {
    redactions: HashMap<EventNid, EventRecord>,
    replaced: HashMap<EventNid, EventRecord>,
}

/// Shows events of a page, each with its redaction and the state it replaced.
pub(in crate::hub::desk) async fn show<T>(
    store: &SharedStore,
    viewer: Viewer<'_>,
    page: &[Seen],
) -> Result<Vec<Raw<T>>, StoreError> {
    let around = surroundings(store, viewer.standing, page).await?;
    let shown = page.iter().filter_map(|seen| {
        let replaced = around.replaced.get(&seen.event.nid);
        let membership = Some(seen.membership);
        client_event(
            viewer,
            &seen.event,
            replaced,
            &around.redactions,
            membership,
        )
    });
    Ok(shown.map(Raw::from_json).collect())
}

/// Shows pieces of state, without what surrounds them.
pub(in crate::hub::desk) async fn show_state<T>(
    store: &SharedStore,
    viewer: Viewer<'_>,
    state: &[EventRecord],
) -> Result<Vec<Raw<T>>, StoreError> {
    let redactions = redactions(store, viewer.standing, state.iter()).await?;
    let shown = state
        .iter()
        .filter_map(|event| client_event(viewer, event, None, &redactions, None));
    Ok(shown.map(Raw::from_json).collect())
}

/// Shows a piece of state to someone who is not in the room.
///
/// spec: client-server-sync §Stripped-state
pub(in crate::hub::desk) fn strip<T>(room: &RoomRecord, event: &EventRecord) -> Option<Raw<T>> {
    #[derive(Serialize)]
    struct Stripped<'a> {
        content: &'a RawValue,
        sender: &'a str,
        state_key: &'a str,
        #[serde(rename = "type")]
        kind: &'a str,
    }
    let stored = Stored::intact(room, event)?;
    let stripped = Stripped {
        content: stored.content,
        sender: &stored.sender,
        state_key: stored.state_key.as_deref()?,
        kind: &stored.kind,
    };
    to_raw_value(&stripped).ok().map(Raw::from_json)
}

/// Shows the event that put a user out of a room that this hub is not in.
pub(in crate::hub::desk) fn out_of_room<T>(
    record: &OutsideRecord,
    now: Timestamp,
) -> Option<Raw<T>> {
    let event = Pdu::read(&record.event, record.version).ok()?;
    let stored: Stored<'_> = serde_json::from_str(&record.event).ok()?;
    let kept: Vec<Piece<'_>> = serde_json::from_str(&record.state).unwrap_or_default();
    let mut own = kept
        .iter()
        .filter(|piece| piece.kind == "m.room.member" && piece.state_key == record.user.as_str());
    let shown = ClientEvent {
        content: stored.content,
        event_id: event.id(),
        origin_server_ts: stored.origin_server_ts,
        redacts: None,
        room_id: None,
        sender: &stored.sender,
        state_key: stored.state_key.as_deref(),
        kind: &stored.kind,
        unsigned: Unsigned {
            age: now.0.saturating_sub(stored.origin_server_ts),
            membership: Some(record.membership.as_str()),
            prev_content: own.next().map(|before| before.content),
            redacted_because: None,
            replaces_state: None,
            transaction_id: None,
        },
    };
    to_raw_value(&shown).ok().map(Raw::from_json)
}

/// A piece of what is kept of a room elsewhere.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    state_key: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

fn client_event(
    viewer: Viewer<'_>,
    event: &EventRecord,
    replaced: Option<&EventRecord>,
    redactions: &HashMap<EventNid, EventRecord>,
    membership: Option<Membership>,
) -> Option<Box<RawValue>> {
    let stored = Stored::intact(&viewer.standing.room, event)?;
    let before = replaced.and_then(|before| Stored::intact(&viewer.standing.room, before));
    let redaction = event.redacted_because.and_then(|nid| redactions.get(&nid));
    let unsigned = Unsigned {
        age: viewer.now.0.saturating_sub(stored.origin_server_ts),
        prev_content: before.as_ref().map(|before| before.content),
        redacted_because: redaction.and_then(|event| {
            // A redaction that is itself redacted is shown as it stands, not followed further.
            client_event(viewer, event, None, &HashMap::new(), None)
        }),
        replaces_state: replaced.map(|event| event_id(event.hash)),
        transaction_id: transaction_id(viewer.caller, event, &stored),
        membership: membership.map(Membership::as_str),
    };
    let redacts = Redacts::of(&stored);
    let shown = ClientEvent {
        content: redacts.content.as_deref().unwrap_or(stored.content),
        event_id: &event_id(event.hash),
        origin_server_ts: stored.origin_server_ts,
        redacts: redacts.top_level.as_deref().or(stored.redacts),
        room_id: viewer.names_room.then_some(&*viewer.standing.room.id),
        sender: &stored.sender,
        state_key: stored.state_key.as_deref(),
        kind: &stored.kind,
        unsigned,
    };
    to_raw_value(&shown).ok()
}

/// Clients look for `redacts` where their own time had it: it is shown in both places.
///
/// spec: client-server-sync §Redactions
#[derive(Default)]
struct Redacts {
    top_level: Option<Box<RawValue>>,
    content: Option<Box<RawValue>>,
}

impl Redacts {
    fn of(stored: &Stored<'_>) -> Self {
        if stored.kind != "m.room.redaction" {
            return Self::default();
        }
        let Ok(mut content) = serde_json::from_str::<
            std::collections::BTreeMap<String, Box<RawValue>>,
        >(stored.content.get()) else {
            return Self::default();
        };
        match (stored.redacts, content.get("redacts")) {
            (Some(top), None) => {
                content.insert("redacts".to_owned(), top.to_owned());
                Self {
                    top_level: None,
                    content: to_raw_value(&content).ok(),
                }
            }
            (None, Some(inner)) => Self {
                top_level: Some(inner.clone()),
                content: None,
            },
            _ => Self::default(),
        }
    }
}

/// Only the device that sent an event learns under which transaction id.
fn transaction_id<'a>(
    caller: &Caller,
    event: &'a EventRecord,
    stored: &Stored<'_>,
) -> Option<&'a str> {
    let sent = event.sent_by.as_ref()?;
    (sent.device == caller.device && stored.sender == caller.user.as_str())
        .then_some(sent.txn.as_str())
}

async fn surroundings(
    store: &SharedStore,
    standing: &Standing,
    page: &[Seen],
) -> Result<Surroundings, StoreError> {
    let mut replaced = HashMap::new();
    for seen in page.iter().filter(|seen| seen.before.0 != 0) {
        let Some(key) = Stored::read(&seen.event).and_then(|stored| stored.key()) else {
            continue;
        };
        let found = pieces(store, &standing.room, seen.before, &[key]).await?;
        if let Some(before) = found.into_iter().flatten().next()
            && before.nid != seen.event.nid
        {
            replaced.insert(seen.event.nid, before);
        }
    }
    Ok(Surroundings {
        redactions: redactions(store, standing, page.iter().map(|seen| &seen.event)).await?,
        replaced,
    })
}

/// The redactions of some events, as far as the reader may see them. What was redacted is told as
/// that to everyone; who took it back when, and why, only to who may read that event as well.
///
/// spec: client-server-sync §Redactions
async fn redactions(
    store: &SharedStore,
    standing: &Standing,
    events: impl Iterator<Item = &EventRecord>,
) -> Result<HashMap<EventNid, EventRecord>, StoreError> {
    let nids: Vec<_> = events.filter_map(|event| event.redacted_because).collect();
    if nids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut seen = HashMap::new();
    let mut looked_up = 0;
    for event in store.events(&nids).await? {
        let is_seen = if standing
            .joined_after
            .is_some_and(|joined| event.seq > Some(joined))
        {
            true
        } else {
            looked_up += 1;
            looked_up <= LOOKED_UP_MAX && standing.sees(store, &event).await?.is_some()
        };
        if is_seen {
            seen.insert(event.nid, event);
        }
    }
    Ok(seen)
}

/// How many redactions of one answer are looked up one by one, for a reader who was not in the
/// room all along; the others are left out. More than a page of events has.
const LOOKED_UP_MAX: usize = 256;
