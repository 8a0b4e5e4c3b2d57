//! States of a room while events are woven into its graph: stored ones, and layers over them that
//! are not stored yet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    hub::writer::Piece,
    room::StateKey,
    store::{
        EventNid, EventRecord, NewState, RoomRecord, SNAPSHOT_DELTAS_MIN, SharedStore, StateHead,
        StateNid, StoreError,
    },
    wire::matrix::Pdu,
};

/// The states of one room.
pub(super) struct States<'a> {
    store: &'a SharedStore,
    room: &'a RoomRecord,
    layers: HashMap<StateNid, Layer>,
    new: Vec<NewState>,
    /// Events that are not stored yet, and stored ones that were read.
    events: HashMap<EventNid, Arc<Pdu>>,
    /// Pieces of stored states that were read; what a state's number stands for never changes.
    entries: HashMap<StateNid, HashMap<StateKey, Option<EventNid>>>,
}

/// A state that is not stored yet: another one with some pieces changed.
struct Layer {
    parent: StateNid,
    changes: BTreeMap<StateKey, Option<EventNid>>,
    head: StateHead,
}

impl<'a> States<'a> {
    pub(super) fn of(store: &'a SharedStore, room: &'a RoomRecord) -> Self {
        Self {
            store,
            room,
            layers: HashMap::new(),
            new: Vec::new(),
            events: HashMap::new(),
            entries: HashMap::new(),
        }
    }

    /// Makes an event known that is not stored yet.
    pub(super) fn know(&mut self, nid: EventNid, event: &Arc<Pdu>) {
        self.events.insert(nid, Arc::clone(event));
    }

    /// An event by its row.
    pub(super) async fn event(&mut self, nid: EventNid) -> Result<Arc<Pdu>, StoreError> {
        if let Some(event) = self.events.get(&nid) {
            return Ok(Arc::clone(event));
        }
        let read = self.store.events(&[nid]).await?;
        let record = read.into_iter().next();
        let record = record.ok_or_else(|| damaged(format!("there is no event {}", nid.0)))?;
        self.read(&record)
    }

    /// An event as a typed value.
    pub(super) fn read(&mut self, record: &EventRecord) -> Result<Arc<Pdu>, StoreError> {
        if let Some(event) = self.events.get(&record.nid) {
            return Ok(Arc::clone(event));
        }
        let event = record
            .pdu(self.room)
            .map_err(|error| damaged(format!("event {}: {error}", record.nid.0)))?;
        let event = Arc::new(event);
        self.events.insert(record.nid, Arc::clone(&event));
        Ok(event)
    }

    /// Pieces of a state, in the order asked for.
    pub(super) async fn pieces(
        &mut self,
        state: StateNid,
        keys: &[StateKey],
    ) -> Result<Vec<Option<Piece>>, StoreError> {
        let mut found: Vec<Option<Option<EventNid>>> = vec![None; keys.len()];
        let mut at = state;
        while let Some(layer) = self.layers.get(&at) {
            for (key, slot) in keys.iter().zip(&mut found) {
                if slot.is_none() {
                    *slot = layer.changes.get(key).copied();
                }
            }
            at = layer.parent;
        }
        if at != StateNid::default() {
            let open = keys.iter().zip(&found).filter(|(_, slot)| slot.is_none());
            self.read_entries(at, open.map(|(key, _)| key)).await?;
        }
        let stored = self.entries.get(&at);
        let mut pieces = Vec::with_capacity(keys.len());
        let rows: Vec<Option<EventNid>> = keys
            .iter()
            .zip(found)
            .map(|(key, slot)| {
                slot.unwrap_or_else(|| stored.and_then(|read| read.get(key).copied().flatten()))
            })
            .collect();
        for row in rows {
            pieces.push(match row {
                Some(nid) => Some((nid, self.event(nid).await?)),
                None => None,
            });
        }
        Ok(pieces)
    }

    /// Reads those pieces of a stored state that were not read before.
    async fn read_entries(
        &mut self,
        state: StateNid,
        keys: impl Iterator<Item = &StateKey>,
    ) -> Result<(), StoreError> {
        let read = self.entries.get(&state);
        let is_read = |key: &StateKey| read.is_some_and(|read| read.contains_key(key));
        let open: Vec<StateKey> = keys.filter(|key| !is_read(key)).cloned().collect();
        if open.is_empty() {
            return Ok(());
        }
        let stored = self.store.state_entries(self.room.nid, state, &open);
        let stored = stored.await?;
        let mut rows = Vec::with_capacity(open.len());
        for record in &stored {
            rows.push(match record {
                Some(record) => {
                    self.read(record)?;
                    Some(record.nid)
                }
                None => None,
            });
        }
        let entries = self.entries.entry(state).or_default();
        entries.extend(open.into_iter().zip(rows));
        Ok(())
    }

    /// One piece of a state.
    pub(super) async fn piece(
        &mut self,
        state: StateNid,
        key: &StateKey,
    ) -> Result<Option<Piece>, StoreError> {
        let found = self.pieces(state, std::slice::from_ref(key)).await?;
        Ok(found.into_iter().flatten().next())
    }

    /// The rows of a whole state.
    async fn rows(&self, state: StateNid) -> Result<BTreeSet<EventNid>, StoreError> {
        let mut changed: BTreeMap<&StateKey, Option<EventNid>> = BTreeMap::new();
        let mut removed = BTreeSet::new();
        let mut at = state;
        while let Some(layer) = self.layers.get(&at) {
            for (key, event) in &layer.changes {
                changed.entry(key).or_insert(*event);
            }
            let new = self.new.iter().find(|new| new.nid == at);
            removed.extend(new.into_iter().flat_map(|new| new.removed.iter().copied()));
            at = layer.parent;
        }
        let mut rows: BTreeSet<EventNid> = match at {
            StateNid(0) => BTreeSet::new(),
            stored => self.store.state(stored).await?.into_iter().collect(),
        };
        rows.retain(|nid| !removed.contains(nid));
        rows.extend(changed.into_values().flatten());
        Ok(rows)
    }

    /// A whole state by its keys.
    pub(super) async fn whole(
        &mut self,
        state: StateNid,
    ) -> Result<BTreeMap<StateKey, Piece>, StoreError> {
        let rows: Vec<EventNid> = self.rows(state).await?.into_iter().collect();
        self.keyed(&rows).await
    }

    async fn keyed(&mut self, rows: &[EventNid]) -> Result<BTreeMap<StateKey, Piece>, StoreError> {
        let unread: Vec<EventNid> = rows
            .iter()
            .copied()
            .filter(|nid| !self.events.contains_key(nid))
            .collect();
        for record in self.store.events(&unread).await? {
            self.read(&record)?;
        }
        let mut keyed = BTreeMap::new();
        for nid in rows {
            let event = self.event(*nid).await?;
            let key =
                key_of(&event).ok_or_else(|| damaged(format!("event {} is no state", nid.0)))?;
            keyed.insert(key, (*nid, event));
        }
        Ok(keyed)
    }

    /// The keys of a state's events that are not among `kept`.
    pub(super) async fn gone(
        &mut self,
        state: StateNid,
        kept: &BTreeSet<EventNid>,
    ) -> Result<Vec<StateKey>, StoreError> {
        let rows = self.rows(state).await?;
        let gone: Vec<EventNid> = rows.difference(kept).copied().collect();
        Ok(self.keyed(&gone).await?.into_keys().collect())
    }

    /// The pieces that are not the same in two states: what they are in each.
    pub(super) async fn difference(
        &mut self,
        old: StateNid,
        new: StateNid,
    ) -> Result<BTreeMap<StateKey, (Option<Piece>, Option<Piece>)>, StoreError> {
        let mut difference = BTreeMap::new();
        if old == new {
            return Ok(difference);
        }
        let (before, after) = (self.rows(old).await?, self.rows(new).await?);
        let gone: Vec<EventNid> = before.difference(&after).copied().collect();
        let come: Vec<EventNid> = after.difference(&before).copied().collect();
        for (key, piece) in self.keyed(&gone).await? {
            difference.insert(key, (Some(piece), None));
        }
        for (key, piece) in self.keyed(&come).await? {
            let (_, new) = difference.entry(key).or_insert((None, None));
            *new = Some(piece);
        }
        Ok(difference)
    }

    /// The state after a state event.
    pub(super) async fn after(
        &mut self,
        before: StateNid,
        key: StateKey,
        event: EventNid,
    ) -> Result<StateNid, StoreError> {
        self.changed(before, BTreeMap::from([(key, Some(event))]))
            .await
    }

    /// A state with pieces changed.
    pub(super) async fn changed(
        &mut self,
        parent: StateNid,
        changes: BTreeMap<StateKey, Option<EventNid>>,
    ) -> Result<StateNid, StoreError> {
        let keys: Vec<StateKey> = changes.keys().cloned().collect();
        let before = self.pieces(parent, &keys).await?;
        let mut removed = Vec::new();
        let mut added = Vec::new();
        for (old, new) in before.iter().zip(changes.values()) {
            let old = old.as_ref().map(|(nid, _)| *nid);
            if old != *new {
                removed.extend(old);
                added.extend(*new);
            }
        }
        if removed.is_empty() && added.is_empty() {
            return Ok(parent);
        }
        let head = self.head(parent).await?;
        let (more, fewer) = (count(added.len()), count(removed.len()));
        let size = head.size.saturating_add(more).saturating_sub(fewer);
        // A change as large as the state itself is not worth a delta.
        let snapshot = head.snapshot_due() || more >= size.max(SNAPSHOT_DELTAS_MIN);
        let nid = self.store.numbers().state();
        let head = StateHead {
            nid,
            size,
            deltas: if snapshot { 0 } else { head.deltas + 1 },
        };
        self.new.push(NewState {
            nid,
            room: self.room.nid,
            parent,
            added,
            removed,
            snapshot,
        });
        let layer = Layer {
            parent,
            changes,
            head,
        };
        self.layers.insert(nid, layer);
        Ok(nid)
    }

    /// What coding a state has cost.
    pub(super) async fn head(&self, state: StateNid) -> Result<StateHead, StoreError> {
        if let Some(layer) = self.layers.get(&state) {
            return Ok(layer.head);
        }
        if state == self.room.state.nid || state == StateNid::default() {
            return Ok(StateHead {
                nid: state,
                ..if state == self.room.state.nid {
                    self.room.state
                } else {
                    StateHead::default()
                }
            });
        }
        // Of a branch's state it is not noted: the next one off it is written whole.
        let size = count(self.store.state(state).await?.len());
        Ok(StateHead {
            nid: state,
            size,
            deltas: size.max(SNAPSHOT_DELTAS_MIN),
        })
    }

    /// How many states there are to store.
    pub(super) fn mark(&self) -> usize {
        self.new.len()
    }

    /// Forgets those that came after.
    pub(super) fn back_to(&mut self, mark: usize) {
        for gone in self.new.drain(mark.min(self.new.len())..) {
            self.layers.remove(&gone.nid);
        }
    }

    /// The states to store, each after its parent.
    pub(super) fn into_new(self) -> Vec<NewState> {
        self.new
    }
}

/// Which piece of state an event is.
pub(super) fn key_of(event: &Pdu) -> Option<StateKey> {
    let key = event.fields().state_key.as_ref()?;
    Some(StateKey::new(&event.fields().kind, key))
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

pub(super) fn damaged(what: String) -> StoreError {
    StoreError::Damaged { what }
}
