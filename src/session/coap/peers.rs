//! What is known of each peer apart from its exchanges: whether its address is proved, what may
//! still be sent there when not, and the message ids used with it.
//!
//! An address is proved by an Echo value that comes back, or by the caller (loopback, a security
//! layer, an address we chose to call ourselves). An acknowledgement of our message id is not
//! taken as proof: ids have sixteen bits and run in sequence, so an attacker could guess one for a
//! victim's address at less cost than the amplification it would open.

use std::{collections::BTreeMap, time::Duration};

use super::{
    config::{PEERS_UNVALIDATED_MAX, PEERS_VALIDATED_MAX},
    types::Peer,
};
use crate::base::{Rng, Timestamp};

/// Bytes sent per byte received before the address is proved. spec: rfc9175 §2.4.
const AMPLIFICATION_MAX: u64 = 3;

#[derive(Debug)]
pub(super) struct Peers<P> {
    by_peer: BTreeMap<P, Box<Known>>,
    /// Client: an Echo value to send with the next request.
    echoes: BTreeMap<P, Box<[u8]>>,
    /// How many of them nobody vouches for.
    unvalidated: usize,
}

/// What is known of a peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Anybody may have written it.
    Unproved,
    /// A security layer knows who it is, and not whether it receives there.
    Authenticated,
    /// It receives there.
    Proved,
}

/// There is one for each peer, and nearly all are idle: at most 40 bytes.
#[derive(Debug)]
struct Known {
    standing: Standing,
    /// See [`Timers::of_class`](super::Timers::of_class).
    class: u8,
    /// Which address it is at, where peers are not keyed by address.
    path: u64,
    /// When it was last in use, in seconds: enough to tell who is idle.
    touched: u32,
    /// Bytes that may be sent while its address is not proved.
    allowance: u64,
    ids: MessageIds,
}

impl<P: Peer> Peers<P> {
    pub(super) const fn new() -> Self {
        Self {
            by_peer: BTreeMap::new(),
            echoes: BTreeMap::new(),
            unvalidated: 0,
        }
    }

    /// Counts a datagram that came in.
    pub(super) fn received(&mut self, now: Timestamp, rng: &mut dyn Rng, peer: &P, bytes: usize) {
        let known = self.touch(now, rng, peer);
        let earned = (bytes as u64).saturating_mul(AMPLIFICATION_MAX);
        known.allowance = known.allowance.saturating_add(earned);
    }

    /// Counts a datagram that is to go out, or says that it may not.
    pub(super) fn may_send(&mut self, peer: &P, bytes: usize) -> bool {
        if bytes as u64 > self.budget(peer) {
            return false;
        }
        if let Some(known) = self.by_peer.get_mut(peer) {
            known.allowance = known.allowance.saturating_sub(bytes as u64);
        }
        true
    }

    /// How many bytes may be sent to the peer now.
    pub(super) fn budget(&self, peer: &P) -> u64 {
        self.by_peer.get(peer).map_or(0, |known| {
            if known.standing == Standing::Proved {
                u64::MAX
            } else {
                known.allowance
            }
        })
    }

    pub(super) fn is_validated(&self, peer: &P) -> bool {
        self.by_peer
            .get(peer)
            .is_some_and(|known| known.standing == Standing::Proved)
    }

    /// Whether what the peer asks is done: a challenge before it would protect nobody.
    pub(super) fn is_trusted(&self, peer: &P) -> bool {
        self.by_peer
            .get(peer)
            .is_some_and(|known| known.standing != Standing::Unproved)
    }

    /// The peer receives at its address.
    pub(super) fn validate(&mut self, now: Timestamp, rng: &mut dyn Rng, peer: &P) {
        self.trust(now, rng, peer).standing = Standing::Proved;
    }

    /// An authenticated peer is at an address, which is to be proved if it is another than before.
    pub(super) fn is_at(&mut self, now: Timestamp, rng: &mut dyn Rng, peer: &P, path: u64) {
        let was_trusted = self.is_trusted(peer);
        let known = self.trust(now, rng, peer);
        if !was_trusted || known.path != path {
            known.standing = Standing::Authenticated;
            known.path = path;
            known.allowance = 0;
        }
    }

    /// What a challenge to the peer is bound to, besides the peer.
    pub(super) fn path(&self, peer: &P) -> u64 {
        self.by_peer.get(peer).map_or(0, |known| known.path)
    }

    /// The class of its link.
    pub(super) fn class(&self, peer: &P) -> u8 {
        self.by_peer.get(peer).map_or(0, |known| known.class)
    }

    /// Notes the class of its link.
    pub(super) fn set_class(&mut self, now: Timestamp, rng: &mut dyn Rng, peer: &P, class: u8) {
        self.touch(now, rng, peer).class = class;
    }

    /// The entry of a peer that a flood of strangers is not to push out.
    fn trust(&mut self, now: Timestamp, rng: &mut dyn Rng, peer: &P) -> &mut Known {
        if !self.is_trusted(peer) {
            let is_new = !self.by_peer.contains_key(peer);
            if self.by_peer.len() - self.unvalidated >= PEERS_VALIDATED_MAX {
                self.forget_idle(|standing| standing != Standing::Unproved);
            }
            self.unvalidated -= usize::from(!is_new);
            let known = self.known(now, rng, peer);
            known.standing = Standing::Authenticated;
        }
        self.touch(now, rng, peer)
    }

    /// A message id not used with this peer within `lifetime`; none when all were.
    pub(super) fn next_id(
        &mut self,
        now: Timestamp,
        rng: &mut dyn Rng,
        peer: &P,
        lifetime: Duration,
    ) -> Option<u16> {
        self.touch(now, rng, peer).ids.next(now, lifetime)
    }

    /// Goes on with this message id.
    pub(super) fn begin_ids_at(&mut self, now: Timestamp, rng: &mut dyn Rng, peer: &P, id: u16) {
        self.touch(now, rng, peer).ids.begin_at(id);
    }

    /// When [`Peers::next_id`] will give an id again, should it give none now.
    pub(super) fn id_free_at(&self, peer: &P, lifetime: Duration) -> Option<Timestamp> {
        self.by_peer
            .get(peer)
            .map(|known| known.ids.free_at(lifetime))
    }

    /// Client: an Echo value to send with the next request.
    pub(super) fn keep_echo(&mut self, peer: &P, value: &[u8]) {
        if self.by_peer.contains_key(peer) {
            self.echoes.insert(peer.clone(), value.into());
        }
    }

    /// Client: takes the Echo value to send.
    pub(super) fn take_echo(&mut self, peer: &P) -> Option<Vec<u8>> {
        self.echoes.remove(peer).map(Vec::from)
    }

    fn touch(&mut self, now: Timestamp, rng: &mut dyn Rng, peer: &P) -> &mut Known {
        if !self.by_peer.contains_key(peer) {
            if self.unvalidated >= PEERS_UNVALIDATED_MAX {
                self.forget_idle(|standing| standing == Standing::Unproved);
            }
            self.unvalidated += 1;
        }
        let known = self.known(now, rng, peer);
        known.touched = in_seconds(now);
        known
    }

    fn known(&mut self, now: Timestamp, rng: &mut dyn Rng, peer: &P) -> &mut Known {
        let entry = self.by_peer.entry(peer.clone());
        entry.or_insert_with(|| {
            Box::new(Known {
                standing: Standing::Unproved,
                class: 0,
                path: 0,
                touched: in_seconds(now),
                allowance: 0,
                ids: MessageIds::starting_at(rng.next_u32()),
            })
        })
    }

    /// Makes room: of those of a kind the idle ones go, a sixteenth at once, so that all are looked
    /// through seldom. A flood of unproved addresses never pushes out a proved one.
    fn forget_idle(&mut self, is_of_kind: fn(Standing) -> bool) {
        let of_kind = self.by_peer.values();
        let of_kind = of_kind.filter(|known| is_of_kind(known.standing));
        let mut touched: Vec<u32> = of_kind.map(|known| known.touched).collect();
        let mut to_go = (touched.len() / 16).max(1);
        if touched.len() < to_go {
            return;
        }
        let (_, until, _) = touched.select_nth_unstable(to_go - 1);
        let until = *until;
        let (unvalidated, echoes) = (&mut self.unvalidated, &mut self.echoes);
        self.by_peer.retain(|peer, known| {
            let goes = to_go > 0 && is_of_kind(known.standing) && known.touched <= until;
            if goes {
                to_go -= 1;
                *unvalidated -= usize::from(known.standing == Standing::Unproved);
                echoes.remove(peer);
            }
            !goes
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let unproved = |known: &&Known| known.standing == Standing::Unproved;
        let count = self
            .by_peer
            .values()
            .map(|known| &**known)
            .filter(unproved)
            .count();
        assert_eq!(count, self.unvalidated);
        self.by_peer.len()
    }
}

fn in_seconds(time: Timestamp) -> u32 {
    u32::try_from(time.0 / 1000).unwrap_or(u32::MAX)
}

/// Message ids in sequence from a random start, none twice within their lifetime.
///
/// spec: rfc7252 §4.4. The last use is noted per eighth of the number space: enough to be strict,
/// small enough to be kept for every peer. Most peers never see a second eighth.
#[derive(Debug)]
struct MessageIds {
    next: u16,
    /// When the id before `next` was given, in seconds, rounded up; 0 if it never was.
    last_used: u32,
    /// The same for the eighths that were left.
    left: Option<Box<[u32; EIGHTHS]>>,
}

const EIGHTHS: usize = 8;
const EIGHTH_IDS: u16 = 8192;

impl MessageIds {
    const fn starting_at(random: u32) -> Self {
        let [high, low, ..] = random.to_be_bytes();
        Self {
            next: u16::from_be_bytes([high, low]),
            last_used: 0,
            left: None,
        }
    }

    fn begin_at(&mut self, id: u16) {
        self.leave();
        self.next = id;
        self.last_used = self.left_at(id.wrapping_sub(1));
    }

    fn next(&mut self, now: Timestamp, lifetime: Duration) -> Option<u16> {
        let id = self.next;
        if id.is_multiple_of(EIGHTH_IDS) {
            if self.free_at(lifetime) > now {
                return None;
            }
            self.leave();
        }
        self.last_used = in_seconds(now).saturating_add(1);
        self.next = id.wrapping_add(1);
        Some(id)
    }

    /// Notes the last use of the eighth that ends here.
    fn leave(&mut self) {
        let eighth = usize::from(self.next.wrapping_sub(1) / EIGHTH_IDS);
        if self.last_used != 0
            && let Some(noted) = self.left.get_or_insert_default().get_mut(eighth)
        {
            *noted = self.last_used;
        }
    }

    fn left_at(&self, id: u16) -> u32 {
        let left = self.left.as_ref();
        let noted = left.and_then(|left| left.get(usize::from(id / EIGHTH_IDS)));
        noted.copied().unwrap_or_default()
    }

    fn free_at(&self, lifetime: Duration) -> Timestamp {
        let last_used = if self.next.is_multiple_of(EIGHTH_IDS) {
            self.left_at(self.next)
        } else {
            self.last_used
        };
        match last_used {
            0 => Timestamp(0),
            seconds => Timestamp(u64::from(seconds) * 1000) + lifetime,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn a_message_id_is_not_used_twice_within_its_lifetime() {
        let lifetime = Duration::from_secs(247);
        let mut peers = Peers::new();
        let mut rng = StdRng::seed_from_u64(3);
        let mut used: BTreeMap<u16, Timestamp> = BTreeMap::new();
        let mut now = Timestamp(0);
        let mut refused = 0;
        for round in 0..200_000_u64 {
            if round % 2 == 0 {
                now.0 += 1;
            }
            let Some(id) = peers.next_id(now, &mut rng, &"ana", lifetime) else {
                refused += 1;
                now = peers.id_free_at(&"ana", lifetime).unwrap();
                continue;
            };
            if let Some(before) = used.insert(id, now) {
                assert!(now.since(before) >= lifetime);
            }
        }
        assert!(refused > 0, "the space must have been used up");
    }

    #[test]
    fn ids_that_go_on_elsewhere_leave_their_own_eighth_used() {
        let lifetime = Duration::from_secs(247);
        let mut ids = MessageIds::starting_at(0);
        assert_eq!(ids.next(Timestamp(0), lifetime), Some(0));
        ids.begin_at(u16::MAX);

        assert_eq!(ids.next(Timestamp(0), lifetime), Some(u16::MAX));
        assert_eq!(ids.next(Timestamp(0), lifetime), None);
        let free = ids.free_at(lifetime);
        assert_eq!(ids.next(free, lifetime), Some(0));
    }

    #[test]
    fn a_peer_that_is_known_takes_little() {
        assert!(size_of::<Known>() <= 40);
    }

    #[test]
    fn a_flood_of_unproved_addresses_pushes_out_no_proved_one() {
        let mut peers = Peers::new();
        let mut rng = StdRng::seed_from_u64(3);
        peers.validate(Timestamp(0), &mut rng, &0);
        for peer in 1..10_000_u32 {
            peers.received(Timestamp(u64::from(peer)), &mut rng, &peer, 10);
        }

        assert!((PEERS_UNVALIDATED_MAX - 300..=PEERS_UNVALIDATED_MAX + 1).contains(&peers.len()));
        assert!(peers.is_validated(&0));
    }

    #[test]
    fn an_authenticated_peer_at_a_new_address_gets_three_times_what_came_from_there() {
        let mut peers = Peers::new();
        let mut rng = StdRng::seed_from_u64(3);
        let now = Timestamp(0);
        peers.is_at(now, &mut rng, &1, 7);
        peers.validate(now, &mut rng, &1);
        peers.is_at(now, &mut rng, &1, 7);
        assert!(peers.is_validated(&1), "it is where it was");

        peers.is_at(now, &mut rng, &1, 8);
        peers.received(now, &mut rng, &1, 10);

        assert!(peers.is_trusted(&1) && !peers.is_validated(&1));
        assert_eq!(peers.budget(&1), 30);
        peers.validate(now, &mut rng, &1);
        assert_eq!(peers.budget(&1), u64::MAX);
    }

    #[test]
    fn an_unproved_address_gets_three_times_what_came_from_it() {
        let mut peers = Peers::new();
        let mut rng = StdRng::seed_from_u64(3);
        peers.received(Timestamp(0), &mut rng, &1, 10);

        assert!(peers.may_send(&1, 20));
        assert!(!peers.may_send(&1, 11));
        assert!(peers.may_send(&1, 10));
        assert!(!peers.may_send(&1, 1));
        peers.validate(Timestamp(0), &mut rng, &1);
        assert!(peers.may_send(&1, 100_000));
    }
}
