//! The unconflicted state map and the conflicted state set.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use super::StateMap;
use crate::{base::EventHash, room::StateKey};

/// States, taken apart into what all of them say and what only some do.
#[derive(Debug)]
pub(super) struct Split {
    /// What every state says.
    pub(super) unconflicted: StateMap,
    /// The others, with the numbers of the states that have them.
    pub(super) conflicted: BTreeMap<EventHash, BTreeSet<usize>>,
    /// How many different states there are.
    pub(super) states: usize,
}

impl Split {
    /// spec: matrix-v12 §State-resolution
    pub(super) fn of(mut states: Vec<StateMap>) -> Self {
        states.sort_unstable();
        states.dedup();
        let count = states.len();
        let mut keys = BTreeSet::new();
        if let Some((first, others)) = states.split_first() {
            for other in others {
                disputed(first, other, &mut keys);
            }
        }
        let mut conflicted: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (number, state) in states.iter().enumerate() {
            for event in keys.iter().filter_map(|key| state.get(key)) {
                conflicted.entry(*event).or_default().insert(number);
            }
        }
        let mut unconflicted = states.into_iter().next().unwrap_or_default();
        for key in &keys {
            unconflicted.remove(key);
        }
        Self {
            unconflicted,
            conflicted,
            states: count,
        }
    }

    pub(super) fn conflicted_events(&self) -> impl Iterator<Item = EventHash> + '_ {
        self.conflicted.keys().copied()
    }
}

/// Adds the keys at which two states differ: in one pass, for most of them are the same.
fn disputed(one: &StateMap, other: &StateMap, keys: &mut BTreeSet<StateKey>) {
    let (mut ours, mut theirs) = (one.iter().peekable(), other.iter().peekable());
    loop {
        let order = match (ours.peek(), theirs.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((our, _)), Some((their, _))) => our.cmp(their),
        };
        let left = if order.is_le() { ours.next() } else { None };
        let right = if order.is_ge() { theirs.next() } else { None };
        if let Some((key, _)) = left.or(right)
            && left != right
        {
            keys.insert(key.clone());
        }
    }
}
