//! Which messages were seen, and what they were answered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{config::SEEN_PER_PEER_MAX, types::Peer};
use crate::base::Timestamp;

/// Message ids of the last `EXCHANGE_LIFETIME`, oldest out first when there are too many.
#[derive(Debug)]
pub(super) struct Seen<P> {
    by_id: BTreeMap<(P, u16), Entry>,
    /// By arrival, which is also by expiry: all live equally long.
    order: BTreeMap<u64, (P, u16)>,
    per_peer: BTreeMap<P, VecDeque<u64>>,
    next_serial: u64,
    max: usize,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    expires: Timestamp,
    answer: Option<Bytes>,
}

/// What to do with a message that came before.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing was answered (yet).
    Unanswered,
    /// These bytes were.
    Answered(Bytes),
}

impl<P: Peer> Seen<P> {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            by_id: BTreeMap::new(),
            order: BTreeMap::new(),
            per_peer: BTreeMap::new(),
            next_serial: 0,
            max,
        }
    }

    /// Whether the message came before, and what became of it then.
    ///
    /// spec: rfc7252 §4.5
    pub(super) fn recall(&mut self, now: Timestamp, peer: &P, id: u16) -> Option<Before> {
        self.forget_expired(now);
        let entry = self.by_id.get(&(peer.clone(), id))?;
        Some(
            entry
                .answer
                .clone()
                .map_or(Before::Unanswered, Before::Answered),
        )
    }

    /// Remembers a message not met before until `expires`, which never runs backwards.
    pub(super) fn remember(&mut self, expires: Timestamp, peer: &P, id: u16) {
        if self
            .per_peer
            .get(peer)
            .is_some_and(|serials| serials.len() >= SEEN_PER_PEER_MAX)
        {
            self.forget_oldest_of(peer);
        }
        if self.by_id.len() >= self.max {
            self.forget_oldest();
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        self.by_id.insert(
            (peer.clone(), id),
            Entry {
                serial,
                expires,
                answer: None,
            },
        );
        self.order.insert(serial, (peer.clone(), id));
        self.per_peer
            .entry(peer.clone())
            .or_default()
            .push_back(serial);
    }

    /// What duplicates of this message are answered from now on.
    pub(super) fn answered(&mut self, peer: &P, id: u16, answer: Bytes) {
        if let Some(entry) = self.by_id.get_mut(&(peer.clone(), id)) {
            entry.answer = Some(answer);
        }
    }

    /// When the oldest is forgotten.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let (_, key) = self.order.first_key_value()?;
        self.by_id.get(key).map(|entry| entry.expires)
    }

    pub(super) fn forget_expired(&mut self, now: Timestamp) {
        while self.next_timeout().is_some_and(|expires| expires <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        // The oldest of all is also its peer's oldest.
        if let Some((_, (peer, _))) = self.order.first_key_value() {
            self.forget_oldest_of(&peer.clone());
        }
    }

    fn forget_oldest_of(&mut self, peer: &P) {
        let Some(serials) = self.per_peer.get_mut(peer) else {
            return;
        };
        let serial = serials.pop_front();
        if serials.is_empty() {
            self.per_peer.remove(peer);
        }
        if let Some(key) = serial.and_then(|serial| self.order.remove(&serial)) {
            let entry = self.by_id.remove(&key);
            debug_assert_eq!(
                entry.map(|entry| entry.serial),
                serial,
                "one serial per entry"
            );
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.by_id.len(), self.order.len());
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(247);

    impl<P: Peer> Seen<P> {
        fn meet(&mut self, now: Timestamp, peer: &P, id: u16) -> Option<Before> {
            let before = self.recall(now, peer, id);
            if before.is_none() {
                self.remember(now + LIFETIME, peer, id);
            }
            before
        }
    }

    #[test]
    fn a_message_is_met_once_within_its_lifetime() {
        let mut seen = Seen::new(5000);
        let now = Timestamp(0);

        assert_eq!(seen.meet(now, &"ana", 1), None);
        assert_eq!(seen.meet(now, &"bob", 1), None);
        assert_eq!(seen.meet(now, &"ana", 1), Some(Before::Unanswered));
        seen.answered(&"ana", 1, Bytes::from_static(b"ack"));
        let answered = Before::Answered(Bytes::from_static(b"ack"));
        assert_eq!(seen.meet(now, &"ana", 1), Some(answered));
        let later = now + LIFETIME;
        assert_eq!(seen.meet(later, &"ana", 1), None);
    }

    #[test]
    fn a_busy_peer_forgets_its_own_oldest_messages_and_no_one_elses() {
        let mut seen = Seen::new(5000);
        let now = Timestamp(0);
        seen.meet(now, &"bob", 7);
        for id in 0..3000 {
            seen.meet(now, &"ana", id);
        }

        assert_eq!(seen.len(), SEEN_PER_PEER_MAX + 1);
        assert!(seen.meet(now, &"bob", 7).is_some());
        assert!(seen.meet(now, &"ana", 2999).is_some());
        seen.forget_expired(now + LIFETIME);
        assert_eq!(seen.len(), 0);
    }
}
