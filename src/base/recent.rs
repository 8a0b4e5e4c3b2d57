//! A map with a ceiling: what was used least recently makes room for what is new.

use std::collections::BTreeMap;

/// Values by key, at most a fixed number of them.
#[derive(Clone, Debug)]
pub struct Recent<K, V> {
    max: usize,
    uses: u64,
    values: BTreeMap<K, (u64, V)>,
    /// Keys by their last use, oldest first.
    order: BTreeMap<u64, K>,
}

impl<K: Clone + Ord, V> Recent<K, V> {
    /// An empty one for at most `max` values (at least one).
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            uses: 0,
            values: BTreeMap::new(),
            order: BTreeMap::new(),
        }
    }

    /// The value of a key, made when it is not there; this is a use.
    pub fn entry(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        let used = self.uses;
        if let Some((last, _)) = self.values.get_mut(key) {
            let key = self.order.remove(last).unwrap_or_else(|| key.clone());
            *last = used;
            self.order.insert(used, key);
        } else {
            while self.values.len() >= self.max.max(1) {
                let Some((_, oldest)) = self.order.pop_first() else {
                    break;
                };
                self.values.remove(&oldest);
            }
            self.order.insert(used, key.clone());
        }
        let (_, value) = self
            .values
            .entry(key.clone())
            .or_insert_with(|| (used, make()));
        value
    }

    /// The value of a key; this is no use.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.values.get_mut(key).map(|(_, value)| value)
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (used, value) = self.values.remove(key)?;
        self.order.remove(&used);
        Some(value)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_least_recently_makes_room() {
        let mut recent = Recent::new(2);
        for key in ["a", "b", "a", "c"] {
            *recent.entry(&key, || 0) += 1;
        }

        let kept: Vec<_> = recent.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(kept, [("a", 2), ("c", 1)]);
        assert_eq!(recent.remove(&"a"), Some(2));
        assert_eq!((recent.len(), recent.order.len()), (1, 1));
    }
}
