//! The iterative auth checks: a state grows event by event, each allowed by what is there.

use std::{collections::BTreeMap, sync::Arc};

use super::{ResolveError, StateMap, chain::Known};
use crate::{
    base::EventHash,
    room::{StateKey, auth_state_keys, check_auth},
    wire::matrix::{Pdu, Version},
};

/// The partially resolved state.
pub(super) struct Partial<'a> {
    version: Version,
    known: &'a Known,
    begin: Option<&'a StateMap>,
    changes: StateMap,
}

impl<'a> Partial<'a> {
    /// Begins with a state, or with nothing.
    pub(super) fn new(version: Version, known: &'a Known, begin: Option<&'a StateMap>) -> Self {
        Self {
            version,
            known,
            begin,
            changes: StateMap::new(),
        }
    }

    /// The power levels in force.
    pub(super) fn power_levels(&self) -> Option<EventHash> {
        self.in_force(&StateKey::new("m.room.power_levels", ""))
    }

    /// What was added to the state it began with.
    pub(super) fn into_changes(self) -> StateMap {
        self.changes
    }

    /// Takes the events that the rules allow, and passes over the others.
    ///
    /// spec: matrix-v12 §State-resolution
    pub(super) fn check_all(&mut self, events: &[EventHash]) -> Result<(), ResolveError> {
        for hash in events {
            let entry = self.known.entry(*hash)?;
            // See matrix-v12-resolve-h in the notes.
            let Some(key) = self.known.state_key(*hash).filter(|_| !entry.rejected) else {
                continue;
            };
            let state = self.seen_by(*hash)?;
            let look = |kind: &str, key: &str| state.get(&StateKey::new(kind, key)).cloned();
            if check_auth(entry.event.fields(), self.version, &look).is_ok() {
                self.changes.insert(key, *hash);
            }
        }
        Ok(())
    }

    /// What an event is checked against: the state so far, and its own auth events where that has
    /// nothing. Nothing that was rejected.
    fn seen_by(&self, hash: EventHash) -> Result<BTreeMap<StateKey, Arc<Pdu>>, ResolveError> {
        let fields = self.known.fields(hash)?;
        let in_force = auth_state_keys(fields, self.version)
            .into_iter()
            .filter_map(|key| self.in_force(&key));
        // Since v12 no event names the create event; it is always part of the state.
        let events = self.known.auth(hash).chain(self.known.create());
        let mut state = BTreeMap::new();
        for hash in events.chain(in_force) {
            let entry = self.known.entry(hash)?;
            if let Some(key) = self.known.state_key(hash).filter(|_| !entry.rejected) {
                state.insert(key, Arc::clone(&entry.event));
            }
        }
        Ok(state)
    }

    fn in_force(&self, key: &StateKey) -> Option<EventHash> {
        let begin = || self.begin?.get(key);
        self.changes.get(key).or_else(begin).copied()
    }
}
