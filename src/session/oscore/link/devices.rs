//! The devices a link knows, by the id that their requests say. There is one record for each, with
//! its security context as long as that is at hand: a hub has tens of thousands of them.
//!
//! A hub gives each context an id of its own, so a request without ID context finds its own, too.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use super::device::Device;
use crate::session::oscore::{Id, SecurityContext};

/// A bounded number of contexts, and who they are of. `N` is what the caller calls a device.
pub(super) struct Devices<N> {
    by_kid: BTreeMap<Id, Box<Device<N>>>,
    /// How many have their context at hand, now and at most.
    at_hand: usize,
    contexts_max: usize,
    /// Where the search for a context that is not in use goes on.
    hand: Id,
}

impl<N> Devices<N> {
    /// None yet, and never more contexts than this.
    pub(super) fn new(contexts_max: usize) -> Self {
        Self {
            by_kid: BTreeMap::new(),
            at_hand: 0,
            contexts_max: contexts_max.max(1),
            hand: Id::default(),
        }
    }

    /// How many contexts are at hand.
    pub(super) const fn contexts(&self) -> usize {
        self.at_hand
    }

    pub(super) fn get(&self, kid: Id) -> Option<&Device<N>> {
        self.by_kid.get(&kid).map(|device| &**device)
    }

    pub(super) fn get_mut(&mut self, kid: Id) -> Option<&mut Device<N>> {
        self.by_kid.get_mut(&kid).map(|device| &mut **device)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Device<N>)> {
        self.by_kid.iter().map(|(kid, device)| (*kid, &**device))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Device<N>> {
        self.by_kid.values_mut().map(|device| &mut **device)
    }

    /// The context of a device, which is in use by that.
    pub(super) fn context(&mut self, kid: Id) -> Option<&mut SecurityContext> {
        self.get_mut(kid)?.context()
    }

    /// Enters a device, unless it is there.
    pub(super) fn enter(&mut self, kid: Id, new: impl FnOnce() -> Device<N>) -> &mut Device<N> {
        let entry = self.by_kid.entry(kid);
        entry.or_insert_with(|| Box::new(new()))
    }

    /// Puts the context of a device at hand, unless one is. Tells whose is not at hand any more: it
    /// was not used for long, and must come back as [`SecurityContext::resumed`].
    pub(super) fn put_at_hand(&mut self, context: SecurityContext) -> Option<Id> {
        let kid = context.id().kid;
        if self.get(kid).is_none_or(Device::has_context) {
            return None;
        }
        let gone = self.make_room();
        if let Some(device) = self.get_mut(kid) {
            device.give(context);
            self.at_hand += 1;
        }
        gone
    }

    /// Takes a device out, and its context with it.
    pub(super) fn remove(&mut self, kid: Id) -> Option<Device<N>> {
        let device = *self.by_kid.remove(&kid)?;
        self.at_hand -= usize::from(device.has_context());
        Some(device)
    }

    /// Drops a context not used since the hand passed it last, if there is no room.
    fn make_room(&mut self) -> Option<Id> {
        if self.at_hand < self.contexts_max {
            return None;
        }
        // Once to the end and twice around: the first time may only clear marks.
        for _ in 0..3 {
            let behind = (Excluded(self.hand), Unbounded);
            for (kid, device) in self.by_kid.range_mut(behind) {
                if device.drop_context_if_idle() {
                    self.hand = *kid;
                    self.at_hand -= 1;
                    return Some(*kid);
                }
            }
            self.hand = Id::default(); // before all that a hub gives
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::oscore::Parameters;

    fn id(number: u8) -> Id {
        Id::new(&[number]).unwrap()
    }

    fn known(devices: &mut Devices<()>, number: u8) -> Option<Id> {
        devices.enter(id(number), || Device::new(0, ()));
        let parameters = Parameters::new(&[7; 16], Id::default(), id(number));
        devices.put_at_hand(SecurityContext::new(&parameters).unwrap())
    }

    #[test]
    fn the_context_not_used_makes_room() {
        let mut devices = Devices::new(3);
        for number in 1..=3 {
            assert_eq!(known(&mut devices, number), None);
        }
        // All are marked as used: this clears the marks and takes one.
        let first = known(&mut devices, 4).unwrap();
        let mut others = (1..=3).map(id).filter(|kid| *kid != first);
        let (used, idle) = (others.next().unwrap(), others.next().unwrap());
        assert!(devices.context(used).is_some());

        assert_eq!(known(&mut devices, 5), Some(idle));

        assert_eq!(devices.contexts(), 3);
        assert!(devices.context(used).is_some());
        assert!(devices.context(idle).is_none());
        assert!(devices.get(idle).is_some(), "its device is the caller's");
    }

    #[test]
    fn a_context_that_is_at_hand_stays_and_a_removed_one_is_gone() {
        let mut devices = Devices::new(2);
        known(&mut devices, 1);
        let context = devices.context(id(1)).unwrap();
        context.reserved(64);
        context.sequence.take().unwrap();

        assert_eq!(known(&mut devices, 1), None);

        let taken = devices.context(id(1)).unwrap().sequence.take().unwrap();
        assert_eq!((taken.number(), devices.contexts()), (1, 1));
        assert!(devices.remove(id(1)).is_some());
        assert_eq!(devices.contexts(), 0);
        assert!(devices.context(id(1)).is_none());
    }

    #[test]
    fn each_of_many_devices_takes_little() {
        // With its place in the map: nodes hold 6 to 11 entries, and one in seven the edges to the
        // others; and what an allocator adds.
        let map = size_of::<(Id, Box<Device<std::sync::Arc<()>>>)>() * 11 / 7 + 12;

        let each = size_of::<Device<std::sync::Arc<()>>>() + 16 + map;

        assert!(each <= 320, "{each} bytes");
    }
}
