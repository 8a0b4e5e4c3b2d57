//! What changed in a room's state between two entries of its log.

use std::collections::{BTreeSet, HashMap};

use crate::{
    base::Seq,
    hub::desk::{reading::visibility::state_at, sync::view::Stored},
    room::StateKey,
    store::{EventNid, EventRecord, Logged, Order, RoomNid, SharedStore, StoreError},
};

/// Up to how many entries it is cheaper to read the log between than to compare two whole states.
const WALK_MAX: u64 = 256;

/// The pieces of state at `to` that are not the same at `from`.
pub(super) async fn between(
    store: &SharedStore,
    room: RoomNid,
    from: Seq,
    to: Seq,
) -> Result<Vec<EventRecord>, StoreError> {
    if from >= to {
        return Ok(Vec::new());
    }
    let old = state_at(store, room, from).await?;
    let new = state_at(store, room, to).await?;
    if old == new {
        return Ok(Vec::new());
    }
    if to.0 - from.0 <= WALK_MAX
        && let Some(events) = walk(store, room, from, to).await?
    {
        return Ok(events);
    }
    let old: BTreeSet<EventNid> = store.state(old).await?.into_iter().collect();
    let new = store.state(new).await?;
    let added: Vec<EventNid> = new.into_iter().filter(|nid| !old.contains(nid)).collect();
    store.events(&added).await
}

/// The last event for each piece of state on the way; nothing when the log alone cannot tell.
async fn walk(
    store: &SharedStore,
    room: RoomNid,
    from: Seq,
    to: Seq,
) -> Result<Option<Vec<EventRecord>>, StoreError> {
    let limit = u32::try_from(to.0 - from.0).unwrap_or(u32::MAX);
    let entries = store.log(room, from, to, Order::Forward, limit).await?;
    let mut last: HashMap<StateKey, EventRecord> = HashMap::new();
    for entry in entries {
        let Logged::Event(event) = entry.what else {
            return Ok(None); // a marker: state resolution changed more than the log shows
        };
        if let Some(key) = Stored::read(&event).and_then(|stored| stored.key()) {
            last.insert(key, event);
        }
    }
    let mut events: Vec<_> = last.into_values().collect();
    events.sort_by_key(|event| event.seq);
    Ok(Some(events))
}
