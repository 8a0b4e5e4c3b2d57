//! How much state the hot rooms of all shards hold together.
//!
//! Shards do not wait for each other. So half of the ceiling is split among them, and what one holds
//! beyond its share it takes of the other half, as long as there is some: one large room fits in. Who has
//! had nothing to do for a while gives that back. What is on its way to the store comes on top.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many pieces of state the hot rooms of the whole hub hold.
///
/// A member event with its keys is about 3 kB in memory: 200 MB where all rooms are large. What a batch
/// brings comes on top until it is stored; a room that was joined elsewhere is that while whole.
pub(in crate::hub::writer) const HOT_STATE_MAX: usize = 65_536;

/// One shard's part of the ceiling.
pub(in crate::hub::writer) struct Ceiling {
    /// What shards hold beyond their shares.
    lent: Arc<AtomicUsize>,
    lent_max: usize,
    share: usize,
    /// What of `lent` is this one's.
    mine: usize,
}

impl Ceiling {
    /// The parts of `shards` shards.
    pub(in crate::hub::writer) fn split(max: usize, shards: usize) -> impl Iterator<Item = Self> {
        let lent = Arc::new(AtomicUsize::new(0));
        let lent_max = max / 2;
        let share = (max - lent_max) / shards.max(1);
        (0..shards).map(move |_| Self {
            lent: Arc::clone(&lent),
            lent_max,
            share,
            mine: 0,
        })
    }

    /// Notes how much the shard holds. Whether it may; if not, it holds less and says so again.
    pub(in crate::hub::writer) fn holds(&mut self, held: usize) -> bool {
        let wanted = held.saturating_sub(self.share);
        let (more, less) = (
            wanted.saturating_sub(self.mine),
            self.mine.saturating_sub(wanted),
        );
        let before = self.lent.fetch_add(more, Ordering::AcqRel);
        self.lent.fetch_sub(less, Ordering::AcqRel);
        self.mine = wanted;
        wanted == 0 || (before + more).saturating_sub(less) <= self.lent_max
    }

    /// Whether the shard holds more than its share.
    pub(in crate::hub::writer) const fn is_beyond_share(&self) -> bool {
        self.mine > 0
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        self.lent.fetch_sub(self.mine, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds as much as it may, in rooms of this size.
    fn fill(ceiling: &mut Ceiling, room: usize) -> usize {
        let mut held = 0;
        while ceiling.holds(held + room) {
            held += room;
        }
        assert!(ceiling.holds(held), "less than it held is always fine");
        held
    }

    #[test]
    fn shards_hold_no_more_together_than_one_ceiling_and_each_has_a_share() {
        for shards in [1, 2, 8, 256] {
            let mut all: Vec<Ceiling> = Ceiling::split(65_536, shards).collect();
            let held: Vec<usize> = all.iter_mut().map(|one| fill(one, 100)).collect();
            let sum: usize = held.iter().sum();
            assert!(sum <= 65_536, "{shards}: {sum}");
            assert!(sum >= 65_536 - 100 * (shards + 1), "{shards}: {sum}");
            assert!(held[0] >= 32_768, "one has what nobody else needs");
            let least = held.iter().min().unwrap();
            assert!(*least + 100 >= 32_768 / shards, "{shards}: {least}");
        }
    }

    #[test]
    fn what_one_lets_go_of_others_may_hold() {
        let [mut one, mut two]: [Ceiling; 2] = Ceiling::split(1000, 2)
            .collect::<Vec<_>>()
            .try_into()
            .ok()
            .unwrap();
        assert!(one.holds(750));
        assert!(!two.holds(251));
        assert!(two.holds(250));
        assert!(one.holds(600));
        assert!(two.holds(400));
        drop(one);
        assert!(two.holds(750));
        assert!(!two.holds(751));
    }
}
