//! Reading rooms: events, pages of the log, state, members.
//!
//! Every answer is of what [`visibility`] lets the caller see; [`page`] moves along the log.

mod by_time;
mod context;
mod event;
mod members;
mod messages;
pub(super) mod outsider;
pub(super) mod page;
mod state;
#[cfg(test)]
mod tests;
pub(super) mod visibility;

use ruma::RoomId;

pub(super) use self::{
    by_time::event_by_time,
    context::context,
    event::{event, room_aliases},
    members::{joined_members, joined_rooms, members},
    messages::messages,
    state::{state, state_for_key},
};
use crate::{
    api::{Caller, Refusal},
    hub::{
        Hub,
        desk::{access::ours, reading::visibility::Standing, sync::view::Viewer},
    },
    room::StateKey,
    store::{EventRecord, RoomRecord, SharedStore, StateNid, StoreError},
};

/// How many events of a state are read at once.
const STATE_CHUNK: usize = 512;

/// Every event of a state for which `wanted` holds. Reads in chunks, so that a large room's
/// members are never all in memory for someone who wants none of them.
pub(super) async fn state_events(
    store: &SharedStore,
    state: StateNid,
    wanted: &(dyn Fn(&EventRecord) -> bool + Send + Sync),
) -> Result<Vec<EventRecord>, StoreError> {
    if state == StateNid::default() {
        return Ok(Vec::new());
    }
    let nids = store.state(state).await?;
    let mut kept = Vec::new();
    for chunk in nids.chunks(STATE_CHUNK) {
        let events = store.events(chunk).await?;
        kept.extend(events.into_iter().filter(|event| wanted(event)));
    }
    Ok(kept)
}

/// Pieces of a state of a room, in the order asked for.
///
/// Where the state is the current one it is asked for as that, which costs the same in a large
/// room as in a small one.
pub(super) async fn pieces(
    store: &SharedStore,
    room: &RoomRecord,
    state: StateNid,
    keys: &[StateKey],
) -> Result<Vec<Option<EventRecord>>, StoreError> {
    if state == StateNid::default() || keys.is_empty() {
        return Ok(vec![None; keys.len()]);
    }
    if state == room.state.nid {
        let found = store.current(room.nid, keys).await?;
        let head = Some(room.heads.seq);
        // Another state may have become current since the room was looked at.
        if found
            .iter()
            .flatten()
            .all(|event| event.seq.is_some() && event.seq <= head)
        {
            return Ok(found);
        }
    }
    store.state_entries(room.nid, state, keys).await
}

/// The member events of some users in a state.
pub(super) async fn members_of(
    store: &SharedStore,
    room: &RoomRecord,
    state: StateNid,
    users: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<Vec<EventRecord>, StoreError> {
    let keys: Vec<_> = users
        .into_iter()
        .map(|user| StateKey::new("m.room.member", user.as_ref()))
        .collect();
    let found = pieces(store, room, state, &keys).await?;
    Ok(found.into_iter().flatten().collect())
}

async fn standing(hub: &Hub, caller: &Caller, room: &RoomId) -> Result<Standing, Refusal> {
    outsider::standing(hub, &caller.user, room).await
}

fn viewer<'a>(hub: &Hub, caller: &'a Caller, standing: &'a Standing) -> Viewer<'a> {
    Viewer {
        caller,
        standing,
        now: hub.now(),
        names_room: true,
    }
}

/// A count a client asks for, no larger than `max`.
fn at_most(wanted: ruma::UInt, max: usize) -> usize {
    usize::try_from(u64::from(wanted)).map_or(max, |wanted| wanted.min(max))
}

/// The state after an entry.
async fn state_after(
    hub: &Hub,
    standing: &Standing,
    seq: crate::base::Seq,
) -> Result<StateNid, Refusal> {
    visibility::state_at(&hub.store, standing.room.nid, seq)
        .await
        .map_err(ours)
}
