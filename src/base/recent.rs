//! A map with a ceiling: what was used least recently makes room for what is new.

use std::{borrow::Borrow, collections::BTreeMap};

/// Values by key, at most a fixed number of them. Each key is kept once: where that is a pointer to
/// a shared name, an entry takes two words beside its value.
#[derive(Clone, Debug)]
pub struct Recent<K, V> {
    max: usize,
    uses: u64,
    /// With its last use.
    values: BTreeMap<K, (u64, V)>,
}

/// When it is full, one in so many goes at once: those used least recently are looked for among all.
const PART_THAT_GOES: usize = 16;

impl<K: Ord, V> Recent<K, V> {
    /// An empty one for at most `max` values (at least one).
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            uses: 0,
            values: BTreeMap::new(),
        }
    }

    /// The value of a key, made when it is not there; this is a use. `own` gives the key to keep.
    pub fn entry<Q: Ord + ?Sized>(
        &mut self,
        key: &Q,
        own: impl FnOnce() -> K,
        make: impl FnOnce() -> V,
    ) -> &mut V
    where
        K: Borrow<Q>,
    {
        self.uses += 1;
        let used = self.uses;
        if !self.values.contains_key(key) {
            self.make_room();
            let entry = self.values.entry(own());
            return &mut entry.or_insert_with(|| (used, make())).1;
        }
        let entry = self.values.get_mut(key);
        let (last, value) = entry.expect("it was there one statement ago");
        *last = used;
        value
    }

    /// The value of a key; this is no use.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.values.get(key).map(|(_, value)| value)
    }

    /// The value of a key that is there; this is a use.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (last, value) = self.values.get_mut(key)?;
        self.uses += 1;
        *last = self.uses;
        Some(value)
    }

    /// Forgets a key.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.values.remove(key).map(|(_, value)| value)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.values.iter().map(|(key, (_, value))| (key, value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn make_room(&mut self) {
        if self.values.len() < self.max.max(1) {
            return;
        }
        let last_to_go = (self.values.len() / PART_THAT_GOES).max(1) - 1;
        let mut uses: Vec<u64> = self.values.values().map(|(used, _)| *used).collect();
        let (_, until, _) = uses.select_nth_unstable(last_to_go);
        self.values.retain(|_, (used, _)| *used > *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_least_recently_makes_room() {
        let mut recent = Recent::new(2);
        for key in ["a", "b", "a", "c"] {
            *recent.entry(key, || key, || 0) += 1;
        }

        let kept: Vec<_> = recent.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(kept, [("a", 2), ("c", 1)]);
        assert_eq!(recent.remove("a"), Some(2));
        assert_eq!((recent.len(), recent.get("c")), (1, Some(&1)));
    }

    #[test]
    fn of_many_some_go_at_once_and_those_in_use_stay() {
        let mut recent = Recent::new(64);
        for key in 0..64 {
            recent.entry(&key, || key, || ());
        }
        assert!(recent.get_mut(&0).is_some());
        recent.entry(&64, || 64, || ());

        let kept: Vec<_> = recent.iter().map(|(key, ())| *key).collect();
        let expected: Vec<_> = std::iter::once(0).chain(5..=64).collect();
        assert_eq!(kept, expected);
    }
}
