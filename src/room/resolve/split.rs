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
    /// The others, and which of the states have them.
    pub(super) conflicted: BTreeMap<EventHash, Forks>,
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
        let mut conflicted: BTreeMap<_, Forks> = BTreeMap::new();
        for (number, state) in states.iter().enumerate() {
            for event in keys.iter().filter_map(|key| state.get(key)) {
                let forks = conflicted.entry(*event);
                forks.or_insert_with(|| Forks::none(count)).add(number);
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

/// A set of states, by their numbers.
#[derive(Clone, Debug)]
pub(super) struct Forks(Vec<u64>);

impl Forks {
    pub(super) fn none(states: usize) -> Self {
        Self(vec![0; states.div_ceil(64)])
    }

    fn add(&mut self, state: usize) {
        if let Some(word) = self.0.get_mut(state / 64) {
            *word |= 1 << (state % 64);
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own |= other;
        }
    }

    pub(super) fn count(&self) -> usize {
        let ones = self.0.iter().map(|word| word.count_ones());
        ones.fold(0, |sum, ones| sum + ones as usize)
    }
}
