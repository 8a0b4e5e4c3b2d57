//! Times at which something is due, one per key.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::Timestamp;

/// One time per key, and the earliest of all at hand.
#[derive(Debug)]
pub(super) struct Alarms<K> {
    by_key: BTreeMap<K, Timestamp>,
    by_time: BTreeSet<(Timestamp, K)>,
}

impl<K: Clone + Ord> Alarms<K> {
    pub(super) const fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// Sets or moves the key's time.
    pub(super) fn set(&mut self, key: K, at: Timestamp) {
        self.clear(&key);
        self.by_key.insert(key.clone(), at);
        self.by_time.insert((at, key));
    }

    pub(super) fn clear(&mut self, key: &K) {
        if let Some((key, at)) = self.by_key.remove_entry(key) {
            self.by_time.remove(&(at, key));
        }
    }

    /// When the earliest is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The key that is due first of all.
    pub(super) fn first(&self) -> Option<(Timestamp, &K)> {
        self.by_time.first().map(|(at, key)| (*at, key))
    }

    /// The key's time.
    pub(super) fn at(&self, key: &K) -> Option<Timestamp> {
        self.by_key.get(key).copied()
    }

    /// Takes one that is due.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}
