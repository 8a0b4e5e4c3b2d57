//! Confirmable messages in flight: sent again with doubling pauses until acknowledged.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    alarms::Alarms,
    config::Timers,
    types::{ExchangeId, ObservationId, Peer},
};
use crate::base::{Rng, Timestamp};

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A separate response.
    Answer(ExchangeId),
    /// A notification.
    Notification(ObservationId),
    /// A request of ours.
    Request(ExchangeId),
}

/// A confirmable message just sent.
pub(super) struct SentCon<P> {
    pub(super) peer: P,
    pub(super) id: u16,
    pub(super) bytes: Bytes,
    pub(super) owner: Owner,
}

/// Everything sent and not acknowledged.
#[derive(Debug)]
pub(super) struct Flights<P> {
    by_id: BTreeMap<(P, u16), Flight>,
    alarms: Alarms<(P, u16)>,
}

#[derive(Debug)]
struct Flight {
    bytes: Bytes,
    owner: Owner,
    retransmissions_left: u32,
    timeout: Duration,
    span_ends: Timestamp,
}

/// What became due.
#[derive(Debug)]
pub(super) enum Due<P> {
    /// Send these bytes once more.
    Again(P, Bytes),
    /// There will be no acknowledgement.
    GivenUp(P, Owner),
}

impl<P: Peer> Flights<P> {
    pub(super) const fn new() -> Self {
        Self {
            by_id: BTreeMap::new(),
            alarms: Alarms::new(),
        }
    }

    /// Begins to wait for an acknowledgement of a message just sent.
    ///
    /// spec: rfc7252 §4.2. The first timeout is random, so that many clients do not fall in step.
    pub(super) fn begin(
        &mut self,
        now: Timestamp,
        timers: Timers,
        rng: &mut dyn Rng,
        sent: SentCon<P>,
    ) {
        let SentCon {
            peer,
            id,
            bytes,
            owner,
        } = sent;
        let spread = timers
            .first_timeout_max()
            .saturating_sub(timers.ack_timeout);
        let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        let extra_ms = rng.next_u64() % spread_ms.saturating_add(1).max(1);
        let timeout = timers.ack_timeout + Duration::from_millis(extra_ms);
        let span_ends = now + timers.max_transmit_span();
        let key = (peer, id);
        self.alarms.set(key.clone(), now + timeout);
        self.by_id.insert(
            key,
            Flight {
                bytes,
                owner,
                retransmissions_left: timers.max_retransmit,
                timeout,
                span_ends,
            },
        );
    }

    /// Whose message this is, if it is in flight.
    pub(super) fn owner(&self, peer: &P, id: u16) -> Option<Owner> {
        self.by_id
            .get(&(peer.clone(), id))
            .map(|flight| flight.owner)
    }

    /// Acknowledged, reset, or no longer wanted.
    pub(super) fn land(&mut self, peer: &P, id: u16) -> Option<Owner> {
        let key = (peer.clone(), id);
        self.alarms.clear(&key);
        self.by_id.remove(&key).map(|flight| flight.owner)
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.alarms.next()
    }

    /// One message whose pause is over.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Due<P>> {
        let key = self.alarms.pop_due(now)?;
        let flight = self.by_id.get_mut(&key)?;
        // A machine that slept must not send beyond the span, even if attempts are left.
        if flight.retransmissions_left > 0 && now <= flight.span_ends {
            flight.retransmissions_left -= 1;
            flight.timeout = flight.timeout.saturating_mul(2);
            let bytes = flight.bytes.clone();
            self.alarms.set(key.clone(), now + flight.timeout);
            return Some(Due::Again(key.0, bytes));
        }
        let flight = self.by_id.remove(&key)?;
        Some(Due::GivenUp(key.0, flight.owner))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn pauses_double_and_then_it_gives_up() {
        let timers = Timers {
            ack_random_percent: 100,
            ..Timers::default()
        };
        let mut flights = Flights::new();
        let mut rng = StdRng::seed_from_u64(1);
        let owner = Owner::Answer(ExchangeId(1));
        flights.begin(
            Timestamp(0),
            timers,
            &mut rng,
            SentCon {
                peer: "ana",
                id: 5,
                bytes: Bytes::from_static(b"x"),
                owner,
            },
        );

        let mut sent_at = Vec::new();
        let given_up_at = loop {
            let at = flights.next_timeout().unwrap();
            match flights.due(at).unwrap() {
                Due::Again(_, bytes) => {
                    assert_eq!(&bytes[..], b"x");
                    sent_at.push(at.0 / 1000);
                }
                Due::GivenUp(peer, whose) => {
                    assert_eq!((peer, whose), ("ana", owner));
                    break at;
                }
            }
        };

        assert_eq!(sent_at, [2, 6, 14, 30]);
        assert_eq!(given_up_at, Timestamp(62_000));
        assert_eq!(flights.next_timeout(), None);
    }

    #[test]
    fn the_first_pause_lies_between_the_timeout_and_the_random_factor() {
        let timers = Timers::default();
        for seed in 0..50 {
            let mut flights = Flights::new();
            let mut rng = StdRng::seed_from_u64(seed);
            let owner = Owner::Answer(ExchangeId(1));
            flights.begin(
                Timestamp(0),
                timers,
                &mut rng,
                SentCon {
                    peer: 1,
                    id: 5,
                    bytes: Bytes::new(),
                    owner,
                },
            );
            let at = flights.next_timeout().unwrap().0;
            assert!((2000..=3000).contains(&at), "{at}");
        }
    }

    #[test]
    fn a_late_ack_is_ignored_and_an_early_one_ends_it() {
        let timers = Timers::default();
        let mut flights = Flights::new();
        let mut rng = StdRng::seed_from_u64(1);
        let owner = Owner::Request(ExchangeId(1));
        flights.begin(
            Timestamp(0),
            timers,
            &mut rng,
            SentCon {
                peer: 1,
                id: 5,
                bytes: Bytes::new(),
                owner,
            },
        );

        assert_eq!(flights.land(&2, 5), None);
        assert_eq!(flights.land(&1, 5), Some(owner));
        assert_eq!(flights.land(&1, 5), None);
        assert_eq!(flights.next_timeout(), None);
    }

    #[test]
    fn the_default_timers_give_the_specifications_derived_values() {
        let timers = Timers::default();
        assert_eq!(timers.max_transmit_span(), Duration::from_secs(45));
        assert_eq!(timers.exchange_lifetime(), Duration::from_secs(247));
    }
}
