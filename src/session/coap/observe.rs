//! Who watches what, as a server sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    alarms::Alarms,
    block::KeptKey,
    config::{FETCH_PATIENCE_SECS, OBSERVATIONS_MAX, OBSERVATIONS_PER_PEER_MAX},
    key::{BodyKey, RequestKey},
    types::{ObservationId, Peer, Response},
};
use crate::{
    base::{Slab, Timestamp},
    wire::coap::{Szx, Token},
};

/// Observe values have 24 bits.
const NUMBER_MAX: u32 = 0x00ff_ffff;

const PATIENCE: Duration = Duration::from_secs(FETCH_PATIENCE_SECS);

/// The observers.
#[derive(Debug)]
pub(super) struct Observations<P> {
    by_id: Slab<Observation<P>>,
    by_peer: BTreeSet<(P, ObservationId)>,
    /// Until when each waits for its client to finish fetching a body.
    held: Alarms<ObservationId>,
    /// The observation of each peer whose notification is in flight.
    busy: BTreeMap<P, ObservationId>,
    next_turn: u64,
}

/// At most 80 bytes for peers of 16: there is one for each device, and nearly all are idle.
#[derive(Debug)]
pub(super) struct Observation<P> {
    pub(super) peer: P,
    pub(super) token: Token,
    /// The request, under which the rest of a large notification is asked for.
    request: (RequestKey, BodyKey),
    pub(super) szx: Szx,
    /// The registration was answered with success.
    pub(super) is_active: bool,
    /// The message id of the notification that is not yet acknowledged.
    pub(super) in_flight: Option<u16>,
    /// The newest state, to be sent when nothing is in flight, and its turn.
    pending: Option<Box<(u64, Response)>>,
    last_number: Option<u32>,
}

impl<P: Peer> Observations<P> {
    pub(super) const fn new() -> Self {
        Self {
            by_id: Slab::new(),
            by_peer: BTreeSet::new(),
            held: Alarms::new(),
            busy: BTreeMap::new(),
            next_turn: 0,
        }
    }

    /// Notes a registration that is still to be answered, in place of `replaced` if there was one.
    /// Gives nothing when there is no room: the client is then answered as if it had not asked.
    ///
    /// spec: rfc7641 §4.1
    pub(super) fn register(
        &mut self,
        token: Token,
        kept_key: KeptKey<P>,
        szx: Szx,
        replaced: Option<&Observation<P>>,
    ) -> Option<ObservationId> {
        let (peer, request, body) = kept_key;
        let own = self.of_peer(&peer).count();
        if own >= OBSERVATIONS_PER_PEER_MAX || self.by_peer.len() >= OBSERVATIONS_MAX {
            return None;
        }
        let observation = Observation {
            peer: peer.clone(),
            token,
            request: (request, body),
            szx,
            is_active: false,
            in_flight: None,
            pending: None,
            // Numbers go on, or the client would take the answer for an old notification.
            last_number: replaced.and_then(|old| old.last_number),
        };
        let id = ObservationId(self.by_id.insert(observation).ok()?);
        self.by_peer.insert((peer, id));
        Some(id)
    }

    fn of_peer(&self, peer: &P) -> impl Iterator<Item = (ObservationId, &Observation<P>)> {
        let (first, last) = (ObservationId(0), ObservationId(u64::MAX));
        let own = (peer.clone(), first)..=(peer.clone(), last);
        let own = self.by_peer.range(own);
        own.filter_map(|(_, id)| Some((*id, self.by_id.get(id.0)?)))
    }

    pub(super) fn of_token(&self, peer: &P, token: Token) -> Option<ObservationId> {
        let mut own = self.of_peer(peer);
        own.find(|(_, one)| one.token == token).map(|(id, _)| id)
    }

    pub(super) fn get_mut(&mut self, id: ObservationId) -> Option<&mut Observation<P>> {
        self.by_id.get_mut(id.0)
    }

    pub(super) fn remove(&mut self, id: ObservationId) -> Option<Observation<P>> {
        let observation = self.by_id.remove(id.0)?;
        self.by_peer.remove(&(observation.peer.clone(), id));
        self.held.clear(&id);
        self.free(&observation.peer, id);
        Some(observation)
    }

    /// A large body was pushed or one of its blocks fetched: newer states wait a little, so that
    /// the client can finish. `more` false: it has the last block.
    pub(super) fn fetching(&mut self, now: Timestamp, id: ObservationId, more: bool) {
        if more {
            self.held.set(id, now + PATIENCE);
        } else {
            self.held.clear(&id);
        }
    }

    /// The observations whose bodies are kept under this key.
    pub(super) fn of_body(&self, key: &KeptKey<P>) -> Vec<ObservationId> {
        self.of_peer(&key.0)
            .filter(|(_, one)| one.request == (key.1, key.2))
            .map(|(id, _)| id)
            .collect()
    }

    /// Notes a new state, in place of an older one that still waits; that one's turn is kept.
    pub(super) fn wait(&mut self, id: ObservationId, response: Response) {
        let Some(observation) = self.by_id.get_mut(id.0) else {
            return;
        };
        if let Some(older) = &mut observation.pending {
            older.1 = response;
        } else {
            observation.pending = Some(Box::new((self.next_turn, response)));
            self.next_turn += 1;
        }
    }

    /// Takes the state to send to a peer now: the one that waits longest, if nothing is in flight
    /// to that peer.
    ///
    /// spec: rfc7641 §4.5. One unacknowledged notification per client, not per observation.
    pub(super) fn take_ready(&mut self, peer: &P) -> Option<(ObservationId, Response)> {
        if self.busy.contains_key(peer) {
            return None;
        }
        let ready = self.of_peer(peer).filter_map(|(id, one)| {
            let turn = one.pending.as_ref()?.0;
            (one.is_active && self.held.at(&id).is_none()).then_some((turn, id))
        });
        let (_, id) = ready.min()?;
        let pending = self.by_id.get_mut(id.0)?.pending.take()?;
        Some((id, pending.1))
    }

    /// Whether nothing of this observation waits, and nothing is in flight to its peer.
    pub(super) fn is_free(&self, id: ObservationId, peer: &P) -> bool {
        let waits = self
            .by_id
            .get(id.0)
            .is_some_and(|one| one.pending.is_some());
        !waits && !self.busy.contains_key(peer) && self.held.at(&id).is_none()
    }

    /// A notification was sent.
    pub(super) fn sent(&mut self, id: ObservationId, message_id: u16) {
        if let Some(observation) = self.by_id.get_mut(id.0) {
            observation.in_flight = Some(message_id);
            self.busy.insert(observation.peer.clone(), id);
        }
    }

    /// It was acknowledged or reset; gives whose turn it is now.
    pub(super) fn landed(&mut self, id: ObservationId) -> Option<P> {
        let observation = self.by_id.get_mut(id.0)?;
        observation.in_flight = None;
        let peer = observation.peer.clone();
        self.free(&peer, id);
        Some(peer)
    }

    fn free(&mut self, peer: &P, id: ObservationId) {
        if self.busy.get(peer) == Some(&id) {
            self.busy.remove(peer);
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.held.next()
    }

    /// A peer that has had time enough to fetch.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<P> {
        let id = self.held.pop_due(now)?;
        self.by_id
            .get(id.0)
            .map(|observation| observation.peer.clone())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.by_id.len(), self.by_peer.len());
        self.by_id.len()
    }
}

impl<P: Clone> Observation<P> {
    /// Under which the rest of a large notification is kept.
    pub(super) fn kept_key(&self) -> KeptKey<P> {
        let (request, body) = self.request;
        (self.peer.clone(), request, body)
    }

    /// The number of the next notification: larger than all before, in 24 bits that wrap.
    ///
    /// spec: rfc7641 §4.4. Counted, not taken from the clock: it starts with no byte at all and
    /// stays at one for 255 notifications.
    pub(super) fn next_number(&mut self) -> u32 {
        let number = self.last_number.map_or(0, |last| (last + 1) & NUMBER_MAX);
        self.last_number = Some(number);
        number
    }
}

/// Whether a notification is newer than the one before, as a client decides it.
///
/// spec: rfc7641 §3.4
pub(super) fn is_newer(before: (u32, Timestamp), now: (u32, Timestamp)) -> bool {
    const HALF: u32 = 1 << 23;
    const WINDOW: Duration = Duration::from_secs(128);
    (before.0 < now.0 && now.0 - before.0 < HALF)
        || (before.0 > now.0 && before.0 - now.0 > HALF)
        || now.1.since(before.1) > WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_takes_little() {
        assert!(size_of::<Observation<[u64; 2]>>() <= 80);
    }

    #[test]
    fn order_is_told_across_the_wrap_and_not_after_two_minutes() {
        let at = Timestamp;

        assert!(is_newer((1, at(0)), (2, at(0))));
        assert!(!is_newer((2, at(0)), (1, at(0))));
        assert!(!is_newer((2, at(0)), (2, at(0))));
        assert!(is_newer((NUMBER_MAX, at(0)), (0, at(0))));
        assert!(!is_newer((0, at(0)), (NUMBER_MAX, at(0))));
        assert!(is_newer((2, at(0)), (1, at(128_001))));
    }
}
