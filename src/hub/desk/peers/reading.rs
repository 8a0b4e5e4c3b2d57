//! What a server that is in a room may read of it: events, their state, what they lean on and
//! what came before them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
        query::{get_profile_information, get_room_information},
    },
    profile::UserProfile,
};
use serde_json::value::RawValue;

use super::{damaged, raw, raw_json, room_of};
use crate::{
    api::Refusal,
    base::EventHash,
    hub::{Hub, desk::access::ours, graph},
    room::{AuthChain, AuthEntry, Budget, HistoryVisibility, Membership, StateKey},
    store::{EventRecord, Kinds, RoomRecord, Status, hash_of},
    wire::matrix::Pdu,
};

/// How many events one answer has at most.
const EVENTS_MAX: usize = 100;

/// How many events are looked at for one answer: those a server may not see and those it has are
/// passed over.
const LOOKED_AT_MAX: usize = 1000;

/// See `api::PeerCommand::PeerEvent`.
pub(super) async fn event(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: get_event::v1::Request,
) -> Result<get_event::v1::Response, Refusal> {
    let event = stored(hub, &asked.event_id).await?;
    let room = hub.store.room_by_nid(event.room).await.map_err(ours)?;
    let room = room.ok_or_else(|| unknown(&asked.event_id))?;
    let room = room_of(hub, peer, &room.id).await?;
    let pdu = shown(hub, &room, peer, &event).await?;
    Ok(get_event::v1::Response::new(
        hub.key.name().clone(),
        now(hub),
        pdu,
    ))
}

/// See `api::PeerCommand::StateBefore`.
pub(super) async fn state(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: get_room_state::v1::Request,
) -> Result<get_room_state::v1::Response, Refusal> {
    let room = room_of(hub, peer, &asked.room_id).await?;
    let state = state_before(hub, &room, &asked.event_id).await?;
    let chain = auth_chain(hub, &room, &state).await?;
    let auth_chain = chain.iter().map(|event| raw_json(event.json().to_string()));
    let pdus = state.iter().map(|event| raw_json(event.json().to_string()));
    Ok(get_room_state::v1::Response::new(
        auth_chain.collect::<Result<_, _>>()?,
        pdus.collect::<Result<_, _>>()?,
    ))
}

/// See `api::PeerCommand::StateIdsBefore`.
pub(super) async fn state_ids(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: get_room_state_ids::v1::Request,
) -> Result<get_room_state_ids::v1::Response, Refusal> {
    let room = room_of(hub, peer, &asked.room_id).await?;
    let state = state_before(hub, &room, &asked.event_id).await?;
    let chain = auth_chain(hub, &room, &state).await?;
    let id = |event: &Arc<Pdu>| event.id().clone();
    Ok(get_room_state_ids::v1::Response::new(
        chain.iter().map(id).collect(),
        state.iter().map(id).collect(),
    ))
}

/// See `api::PeerCommand::EventAuth`.
pub(super) async fn event_auth(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: get_event_authorization::v1::Request,
) -> Result<get_event_authorization::v1::Response, Refusal> {
    let room = room_of(hub, peer, &asked.room_id).await?;
    let event = in_room(hub, &room, &asked.event_id).await?;
    let event = Arc::new(event.pdu(&room).map_err(|error| damaged(&error))?);
    let chain = auth_chain(hub, &room, &[event]).await?;
    let chain = chain.iter().map(|event| raw_json(event.json().to_string()));
    let chain = chain.collect::<Result<_, _>>()?;
    Ok(get_event_authorization::v1::Response::new(chain))
}

/// See `api::PeerCommand::Backfill`.
pub(super) async fn backfill(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: get_backfill::v1::Request,
) -> Result<get_backfill::v1::Response, Refusal> {
    let room = room_of(hub, peer, &asked.room_id).await?;
    let want = at_most(asked.limit);
    let events = older(hub, &room, peer, &asked.v, &[], want).await?;
    Ok(get_backfill::v1::Response::new(
        hub.key.name().clone(),
        now(hub),
        events,
    ))
}

/// See `api::PeerCommand::MissingEvents`.
pub(super) async fn missing_events(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: get_missing_events::v1::Request,
) -> Result<get_missing_events::v1::Response, Refusal> {
    let room = room_of(hub, peer, &asked.room_id).await?;
    let mut from = Vec::new();
    for id in asked.latest_events.iter().take(EVENTS_MAX) {
        if let Ok(event) = in_room(hub, &room, id).await {
            let event = event.pdu(&room).map_err(|error| damaged(&error))?;
            from.extend(event.fields().prev.iter().cloned());
        }
    }
    let want = at_most(asked.limit);
    let mut events = older(hub, &room, peer, &from, &asked.earliest_events, want).await?;
    events.reverse(); // oldest first, as they are to be taken
    Ok(get_missing_events::v1::Response::new(events))
}

/// See `api::PeerCommand::PeerProfile`.
// spec: server-server §Querying-profiles
pub(super) async fn profile(
    hub: &Hub,
    asked: get_profile_information::v1::Request,
) -> Result<get_profile_information::v1::Response, Refusal> {
    if asked.user_id.server_name() != hub.key.name() {
        let message = format!("`user_id` is not of a user of {}", hub.key.name());
        return Err(Refusal::invalid_param(message));
    }
    let fields = crate::hub::desk::profile::fields(hub, &asked.user_id).await?;
    let wanted = asked.field.as_ref().map(AsRef::as_ref);
    let fields = fields
        .into_iter()
        .filter(|(name, _)| wanted.is_none_or(|wanted: &str| wanted == name));
    Ok(fields.collect::<UserProfile>().into())
}

/// See `api::PeerCommand::PeerAlias`.
pub(super) async fn alias(
    hub: &Hub,
    asked: get_room_information::v1::Request,
) -> Result<get_room_information::v1::Response, Refusal> {
    let record = crate::hub::desk::aliases::find(hub, &asked.room_alias).await?;
    let servers = vec![hub.key.name().clone()];
    Ok(get_room_information::v1::Response::new(
        record.room_id,
        servers,
    ))
}

/// The state before an event, in the graph.
async fn state_before(
    hub: &Hub,
    room: &RoomRecord,
    id: &EventId,
) -> Result<Vec<Arc<Pdu>>, Refusal> {
    let event = in_room(hub, room, id).await?;
    let event = event.pdu(room).map_err(|error| damaged(&error))?;
    let state = graph::state_before(&hub.store, room, &event).await;
    Ok(state
        .map_err(|error| failed(&error))?
        .into_values()
        .collect())
}

/// Events and everything that they lean on, without the events themselves.
pub(super) async fn auth_chain(
    hub: &Hub,
    room: &RoomRecord,
    events: &[Arc<Pdu>],
) -> Result<Vec<Arc<Pdu>>, Refusal> {
    let mut known: BTreeMap<EventHash, Arc<Pdu>> = events
        .iter()
        .map(|event| (event.hash(), Arc::clone(event)))
        .collect();
    let named = events.iter().flat_map(|event| &event.fields().auth);
    let named: HashSet<EventHash> = named.filter_map(|id| hash_of(id)).collect();
    let mut chain = AuthChain::of(room.version, named, Budget::DEFAULT);
    loop {
        let needs = chain.needs().map_err(|error| failed(&error))?;
        if needs.is_empty() {
            break;
        }
        for hash in needs {
            let event = if let Some(event) = known.remove(&hash) {
                event
            } else {
                let record = hub.store.event(hash).await.map_err(ours)?;
                let record = record.ok_or_else(Refusal::internal)?;
                Arc::new(record.pdu(room).map_err(|error| damaged(&error))?)
            };
            let entry = AuthEntry {
                event,
                rejected: false,
            };
            chain.learn(entry).map_err(|error| failed(&error))?;
        }
    }
    Ok(chain
        .finish()
        .into_iter()
        .map(|entry| entry.event)
        .collect())
}

/// Events at and before some, newest first, as far as the server may see them.
async fn older(
    hub: &Hub,
    room: &RoomRecord,
    peer: &ServerName,
    from: &[OwnedEventId],
    until: &[OwnedEventId],
    want: usize,
) -> Result<Vec<Box<RawValue>>, Refusal> {
    let mut seen: HashSet<EventHash> = until.iter().filter_map(|id| hash_of(id)).collect();
    let mut open: BinaryHeap<(u64, Reverse<i64>, EventHash)> = BinaryHeap::new();
    let mut found = Vec::new();
    let mut next: Vec<EventHash> = from.iter().filter_map(|id| hash_of(id)).collect();
    let mut looked_at = 0;
    loop {
        for hash in std::mem::take(&mut next) {
            if !seen.insert(hash) || looked_at >= LOOKED_AT_MAX {
                continue;
            }
            looked_at += 1;
            let event = hub.store.event(hash).await.map_err(ours)?;
            if let Some(event) = event.filter(|event| event.room == room.nid) {
                open.push((event.depth, Reverse(event.nid.0), hash));
            }
        }
        let Some((_, _, hash)) = open.pop() else {
            return Ok(found);
        };
        let Some(event) = hub.store.event(hash).await.map_err(ours)? else {
            continue;
        };
        if event.status == Status::Accepted {
            found.push(shown(hub, room, peer, &event).await?);
            if found.len() >= want {
                return Ok(found);
            }
        }
        let event = event.pdu(room).map_err(|error| damaged(&error))?;
        next.extend(event.fields().prev.iter().filter_map(|id| hash_of(id)));
    }
}

/// An event as a server in the room may have it: what its users could not have seen, without what
/// redaction removes.
// spec: server-server §Backfilling
async fn shown(
    hub: &Hub,
    room: &RoomRecord,
    peer: &ServerName,
    event: &EventRecord,
) -> Result<Box<RawValue>, Refusal> {
    if may_see(hub, room, peer, event).await? {
        return raw(event);
    }
    let pdu = event.pdu(room).map_err(|error| damaged(&error))?;
    let redacted = pdu.redacted_json(room.version);
    raw_json(redacted.map_err(|error| damaged(&error))?)
}

pub(super) async fn may_see(
    hub: &Hub,
    room: &RoomRecord,
    peer: &ServerName,
    event: &EventRecord,
) -> Result<bool, Refusal> {
    let key = StateKey::new("m.room.history_visibility", "");
    let keys = std::slice::from_ref(&key);
    let found = hub.store.state_entries(room.nid, event.state_after, keys);
    let found = found.await.map_err(ours)?.into_iter().flatten().next();
    let visibility = match found {
        Some(event) => {
            let event = event.pdu(room).map_err(|error| damaged(&error))?;
            let word = event.fields().content.get("history_visibility");
            let word = word.and_then(|word| word.as_str()?.parse().ok());
            word.unwrap_or_default()
        }
        None => HistoryVisibility::default(),
    };
    let is_enough = |membership| match visibility {
        HistoryVisibility::WorldReadable | HistoryVisibility::Shared => true,
        HistoryVisibility::Invited => {
            matches!(membership, Membership::Join | Membership::Invite)
        }
        HistoryVisibility::Joined => membership == Membership::Join,
    };
    if is_enough(Membership::Leave) {
        return Ok(true);
    }
    let kinds = Kinds::Only(&["m.room.member"]);
    let members = hub.store.state_events(room.nid, event.state_after, kinds);
    for member in members.await.map_err(ours)? {
        let member = member.pdu(room).map_err(|error| damaged(&error))?;
        let user = member.fields().state_key.as_deref().unwrap_or_default();
        let is_theirs =
            <&ruma::UserId>::try_from(user).is_ok_and(|user| user.server_name() == peer);
        if is_theirs && is_enough(Membership::of(member.fields())) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn stored(hub: &Hub, id: &EventId) -> Result<EventRecord, Refusal> {
    let hash = hash_of(id).ok_or_else(|| unknown(id))?;
    let event = hub.store.event(hash).await.map_err(ours)?;
    event.ok_or_else(|| unknown(id))
}

/// An event of this room that is part of its graph.
pub(super) async fn in_room(
    hub: &Hub,
    room: &RoomRecord,
    id: &EventId,
) -> Result<EventRecord, Refusal> {
    let event = stored(hub, id).await?;
    if event.room == room.nid && event.status == Status::Accepted {
        return Ok(event);
    }
    Err(unknown(id))
}

fn unknown(id: &EventId) -> Refusal {
    Refusal::not_found(format!("{id} is not known here"))
}

pub(super) fn failed(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::warn!(error, "a room's graph could not be read");
    Refusal::internal()
}

fn at_most(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).map_or(EVENTS_MAX, |limit| limit.min(EVENTS_MAX))
}

fn now(hub: &Hub) -> MilliSecondsSinceUnixEpoch {
    let ms = UInt::try_from(hub.now().0).unwrap_or(UInt::MAX);
    MilliSecondsSinceUnixEpoch(ms)
}
