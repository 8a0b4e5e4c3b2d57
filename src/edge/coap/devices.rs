//! What the driver of a door keeps of linked devices: what each observes, how far it has been
//! told, and what sleeps because the device did not acknowledge.
//!
//! Nothing here waits or sends. An idle observation is one record in the list of pushes, no task.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::link::Kept;
use crate::{
    api::{DeviceName, Registration},
    base::{Short, Timestamp},
    edge::thin::{Bell, Pushes, Reach, Watch},
    session::coap::{GoneReason, ObservationId, Peer, Request},
    wire::coap::{Kind, Message, Token, options::number},
};

/// The observations of a door's devices.
pub(super) struct Devices<P> {
    pub(super) bell: Arc<Bell>,
    pub(super) pushes: Pushes<ObservationId, Observed<P>>,
    asleep: BTreeMap<P, Vec<Asleep>>,
    /// Those to whom nothing may be sent until more is heard of them.
    starved: BTreeMap<P, Vec<ObservationId>>,
}

/// An observation as its door knows it.
pub(super) struct Observed<P> {
    pub(super) peer: P,
    pub(super) token: Token,
    /// What was asked, as [`written`] by us.
    request: Written,
    /// Where it was before the push that is not yet acknowledged.
    before: Option<Box<Watch>>,
    /// Resets in a row: one may be forged, two are meant.
    resets: u8,
    /// Pushes acknowledged since it was stored how far the device was told.
    unsaved: u8,
    /// Pushes in a row that the device was not to confirm.
    asides: u8,
}

/// A request as bytes. The usual one is a path of one number, and two numbers: in place.
type Written = Short<22>;

/// One whose device is silent. It goes on when the device is heard of again.
struct Asleep {
    token: Token,
    request: Written,
    watch: Watch,
    resets: u8,
    until: Timestamp,
}

/// An observation that goes on, for the machine to take up.
pub(super) struct Awake {
    pub(super) token: Token,
    pub(super) request: Box<Request>,
    pub(super) watch: Watch,
    resets: u8,
}

/// What is to be done about one that ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended<P> {
    /// Nothing: it sleeps, or another took its place.
    Kept,
    /// Nobody will ask for it again.
    Over { peer: P, token: Token },
}

impl<P: Peer> Devices<P> {
    pub(super) fn new(reach: Arc<Reach>, watches_max: usize) -> Self {
        Self {
            bell: Bell::new(),
            pushes: Pushes::new(reach, watches_max),
            asleep: BTreeMap::new(),
            starved: BTreeMap::new(),
        }
    }

    /// Begins an observation; false when there is no place for it.
    pub(super) fn begin(
        &mut self,
        device: &Arc<DeviceName>,
        (observation, peer): (ObservationId, &P),
        awake: Awake,
    ) -> bool {
        let Some(request) = written(&awake.request) else {
            return false; // it came in a datagram, so it fits into one
        };
        let observed = Observed {
            peer: peer.clone(),
            token: awake.token,
            request,
            before: None,
            resets: awake.resets,
            unsaved: 0,
            asides: 0,
        };
        let device = Arc::clone(device);
        let watched = self
            .pushes
            .watch(device, observation, awake.watch, observed);
        if let Err(full) = watched {
            tracing::debug!(%full, "not observed");
            return false;
        }
        true
    }

    pub(super) fn get(&self, observation: ObservationId) -> Option<&Observed<P>> {
        self.pushes.own(observation)
    }

    /// A push is on its way.
    pub(super) fn pushed(&mut self, observation: ObservationId, next: Watch, more: bool) {
        let before = self.pushes.get(observation).map(|(_, watch)| *watch);
        if let Some(observed) = self.pushes.own_mut(observation) {
            observed.before = before.map(Box::new);
            self.pushes.pushed(observation, next, more);
        }
    }

    /// Whether the next push may be one that is not confirmed; counts it. Now and then it may not: or
    /// a device that is gone would be told of receipts for ever.
    ///
    /// spec: rfc7641 §4.5
    pub(super) fn may_tell_aside(&mut self, observation: ObservationId) -> bool {
        let Some(observed) = self.pushes.own_mut(observation) else {
            return false;
        };
        observed.asides = observed.asides.saturating_add(1);
        observed.asides <= ASIDES_MAX
    }

    /// It was acknowledged. True if it is time to store how far the device was told.
    pub(super) fn delivered(&mut self, now: Timestamp, observation: ObservationId) -> bool {
        let Some(observed) = self.pushes.own_mut(observation) else {
            return false;
        };
        observed.before = None;
        observed.resets = 0;
        observed.asides = 0;
        observed.unsaved = observed.unsaved.saturating_add(1);
        let is_time = observed.unsaved >= UNSAVED_MAX;
        self.pushes.delivered(now, observation);
        is_time
    }

    /// What to store of an observation; its request says how far the device was told.
    pub(super) fn registration(
        &mut self,
        observation: ObservationId,
        kept: Kept,
    ) -> Option<Registration> {
        let watch = *self.pushes.get(observation)?.1;
        let observed = self.pushes.own_mut(observation)?;
        observed.unsaved = 0;
        let watch = observed.before.as_deref().copied().unwrap_or(watch);
        let request = read(observed.request.as_slice())?;
        registration(kept, observed.token, &request, &watch)
    }

    /// Those of which the store knows too little.
    pub(super) fn unsaved(&self) -> Vec<ObservationId> {
        let unsaved = self.pushes.iter().filter(|(_, one)| one.unsaved > 0);
        unsaved.map(|(observation, _)| observation).collect()
    }

    /// An observation ended in the machine. One whose device fell silent sleeps, if it may.
    pub(super) fn ended(
        &mut self,
        now: Timestamp,
        observation: ObservationId,
        reason: GoneReason,
        may_sleep: bool,
    ) -> Option<Ended<P>> {
        let resets = self.pushes.own(observation)?.resets + u8::from(reason == GoneReason::Reset);
        let is_silent = match reason {
            GoneReason::TimedOut => true,
            GoneReason::Reset => resets < RESETS_MAX,
            _ => false,
        };
        let (watch, observed) = if is_silent {
            self.pushes.gave_up(observation)?
        } else {
            self.pushes.forget(observation)?
        };
        let (peer, token) = (observed.peer, observed.token);
        match Some(watch).filter(|_| is_silent && may_sleep) {
            Some(watch) => {
                let asleep = self.asleep.entry(peer).or_default();
                asleep.push(Asleep {
                    token,
                    request: observed.request,
                    watch: observed.before.as_deref().copied().unwrap_or(watch),
                    resets,
                    until: now + SLEEP_MAX,
                });
                Some(Ended::Kept)
            }
            None if reason == GoneReason::Replaced => Some(Ended::Kept),
            None => Some(Ended::Over { peer, token }),
        }
    }

    /// Nothing may be sent to its device now.
    pub(super) fn starves(&mut self, now: Timestamp, observation: ObservationId) {
        self.pushes.nothing(now, observation);
        if let Some(observed) = self.pushes.own(observation) {
            let starved = self.starved.entry(observed.peer.clone()).or_default();
            starved.push(observation);
        }
    }

    /// Something may be sent to a device again.
    pub(super) fn fed(&mut self, now: Timestamp, peer: &P) {
        for observation in self.starved.remove(peer).into_iter().flatten() {
            self.pushes.look_at(now, observation);
        }
    }

    /// A device is heard of: what of it slept goes on.
    pub(super) fn wakes(&mut self, peer: &P) -> Vec<Awake> {
        let asleep = self.asleep.remove(peer).unwrap_or_default();
        let awake = asleep.into_iter().filter_map(|one| {
            Some(Awake {
                token: one.token,
                request: Box::new(read(one.request.as_slice())?),
                watch: one.watch,
                resets: one.resets,
            })
        });
        awake.collect()
    }

    /// Those that have slept for so long that nobody waits for them.
    pub(super) fn overslept(&mut self, now: Timestamp) -> Vec<(P, Token)> {
        let mut over = Vec::new();
        self.asleep.retain(|peer, asleep| {
            asleep.retain(|one| {
                let sleeps_on = one.until > now;
                if !sleeps_on {
                    over.push((peer.clone(), one.token));
                }
                sleeps_on
            });
            !asleep.is_empty()
        });
        over
    }

    /// A device is gone: gives the observations it had.
    pub(super) fn gone(&mut self, peer: &P) -> Vec<ObservationId> {
        self.asleep.remove(peer);
        self.starved.remove(peer);
        let own = self.pushes.iter().filter(|(_, one)| one.peer == *peer);
        let own: Vec<_> = own.map(|(observation, _)| observation).collect();
        for observation in &own {
            self.pushes.forget(*observation);
        }
        own
    }
}

impl Awake {
    pub(super) const fn new(token: Token, request: Box<Request>, watch: Watch) -> Self {
        Self {
            token,
            request,
            watch,
            resets: 0,
        }
    }
}

/// A registration as it is stored: the request as it came, which also names the blocks of large
/// notifications, and in an option of our own the body it would have to go on from here.
pub(super) fn registration(
    kept: Kept,
    token: Token,
    request: &Request,
    watch: &Watch,
) -> Option<Registration> {
    let mut message = message_of(request);
    message
        .options
        .push(POSITION, watch.request().payload.to_vec());
    Some(Registration {
        recipient_id: kept.recipient_id,
        token: token.as_bytes().to_vec(),
        binding: kept.binding,
        request: message.encode().ok()?,
        address: kept.address,
    })
}

fn message_of(request: &Request) -> Message {
    Message {
        kind: Kind::Non,
        code: request.method,
        id: 0,
        token: Token::EMPTY,
        options: request.options.clone(),
        payload: request.payload.to_vec(),
    }
}

/// A registration's request in as few bytes as it came in.
fn written(request: &Request) -> Option<Written> {
    Some(message_of(request).encode().ok()?.as_slice().into())
}

fn read(written: &[u8]) -> Option<Request> {
    let message = Message::decode(written).ok()?;
    Some(Request {
        method: message.code,
        options: message.options,
        payload: message.payload.into(),
        observe: true,
    })
}

/// Reads it back: what was asked, and where to go on.
pub(super) fn restored(registration: &Registration) -> Option<Awake> {
    let token = Token::new(&registration.token)?;
    let mut request = read(&registration.request)?;
    let position = request.options.first(POSITION).map(<[u8]>::to_vec);
    request.options.remove(POSITION);
    request.options.remove(number::OBSERVE);
    let mut from_here = request.clone();
    if let Some(position) = position {
        from_here.payload = position.into();
    }
    let watch = Watch::of(&from_here).ok()?;
    Some(Awake::new(token, Box::new(request), watch))
}

/// The option that says where to go on: elective, and of the range for experiments.
const POSITION: u16 = 65_000;

/// Pushes that may be told again after a crash. Each store is a write of the hub's.
const UNSAVED_MAX: u8 = 16;

/// Pushes in a row that are not confirmed.
const ASIDES_MAX: u8 = 15;

/// Resets in a row that end an observation.
const RESETS_MAX: u8 = 2;

/// How long an observation sleeps. spec: thin-profile §7
const SLEEP_MAX: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_door_keeps_of_an_observation_is_small_and_the_usual_request_in_place() {
        assert!(size_of::<Observed<[u64; 2]>>() <= 64);
        let usual =
            Request::new(crate::wire::coap::Code::FETCH, &["BA"]).body(vec![0xac, 2, 0x80, 8]);
        let bytes = message_of(&usual).encode().unwrap().len();
        assert!(bytes <= 22, "{bytes}");
        let written = written(&usual.clone().observing()).unwrap();
        assert_eq!(read(written.as_slice()), Some(usual.observing()));
    }
}
