//! What the driver of a door keeps of linked devices: what each observes, how far it has been
//! told, and what sleeps because the device did not acknowledge.
//!
//! Nothing here waits or sends. An idle observation is an entry in three maps, no task.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::link::Kept;
use crate::{
    api::{DeviceName, Registration},
    base::Timestamp,
    edge::thin::{Bell, Pushes, Reach, Watch},
    session::coap::{GoneReason, ObservationId, Peer, Request},
    wire::coap::{Kind, Message, Token, options::number},
};

/// The observations of a door's devices.
pub(super) struct Devices<P> {
    pub(super) bell: Arc<Bell>,
    pub(super) pushes: Pushes<ObservationId>,
    observed: BTreeMap<ObservationId, Box<Observed<P>>>,
    asleep: BTreeMap<P, Vec<Asleep>>,
    /// Those to whom nothing may be sent until more is heard of them.
    starved: BTreeMap<P, Vec<ObservationId>>,
}

/// An observation as its door knows it.
pub(super) struct Observed<P> {
    pub(super) peer: P,
    pub(super) token: Token,
    /// What was asked, as [`written`] by us.
    request: Box<[u8]>,
    /// Where it was before the push that is not yet acknowledged.
    before: Option<Box<Watch>>,
    /// Resets in a row: one may be forged, two are meant.
    resets: u8,
    /// Pushes acknowledged since it was stored how far the device was told.
    unsaved: u8,
    /// Pushes in a row that the device was not to confirm.
    asides: u8,
}

/// One whose device is silent. It goes on when the device is heard of again.
struct Asleep {
    token: Token,
    request: Box<[u8]>,
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
            observed: BTreeMap::new(),
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
        let watched = self
            .pushes
            .watch(Arc::clone(device), observation, awake.watch);
        if let Err(full) = watched {
            tracing::debug!(%full, "not observed");
            return false;
        }
        let Some(request) = written(&awake.request) else {
            self.pushes.forget(observation);
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
        self.observed.insert(observation, Box::new(observed));
        true
    }

    pub(super) fn get(&self, observation: ObservationId) -> Option<&Observed<P>> {
        self.observed.get(&observation).map(|observed| &**observed)
    }

    /// A push is on its way.
    pub(super) fn pushed(&mut self, observation: ObservationId, next: Watch, more: bool) {
        let before = self.pushes.get(observation).map(|(_, watch)| *watch);
        if let Some(observed) = self.observed.get_mut(&observation) {
            observed.before = before.map(Box::new);
            self.pushes.pushed(observation, next, more);
        }
    }

    /// Whether the next push may be one that is not confirmed; counts it. Now and then it may not: or
    /// a device that is gone would be told of receipts for ever.
    ///
    /// spec: rfc7641 §4.5
    pub(super) fn may_tell_aside(&mut self, observation: ObservationId) -> bool {
        let Some(observed) = self.observed.get_mut(&observation) else {
            return false;
        };
        observed.asides = observed.asides.saturating_add(1);
        observed.asides <= ASIDES_MAX
    }

    /// It was acknowledged. True if it is time to store how far the device was told.
    pub(super) fn delivered(&mut self, now: Timestamp, observation: ObservationId) -> bool {
        let Some(observed) = self.observed.get_mut(&observation) else {
            return false;
        };
        observed.before = None;
        observed.resets = 0;
        observed.asides = 0;
        observed.unsaved = observed.unsaved.saturating_add(1);
        self.pushes.delivered(now, observation);
        observed.unsaved >= UNSAVED_MAX
    }

    /// What to store of an observation; its request says how far the device was told.
    pub(super) fn registration(
        &mut self,
        observation: ObservationId,
        kept: Kept,
    ) -> Option<Registration> {
        let observed = self.observed.get_mut(&observation)?;
        let watch = *self.pushes.get(observation)?.1;
        observed.unsaved = 0;
        let watch = observed.before.as_deref().copied().unwrap_or(watch);
        registration(kept, observed.token, &read(&observed.request)?, &watch)
    }

    /// Those of which the store knows too little.
    pub(super) fn unsaved(&self) -> Vec<ObservationId> {
        let unsaved = self.observed.iter().filter(|(_, one)| one.unsaved > 0);
        unsaved.map(|(observation, _)| *observation).collect()
    }

    /// An observation ended in the machine. One whose device fell silent sleeps, if it may.
    pub(super) fn ended(
        &mut self,
        now: Timestamp,
        observation: ObservationId,
        reason: GoneReason,
        may_sleep: bool,
    ) -> Option<Ended<P>> {
        let observed = *self.observed.remove(&observation)?;
        let resets = observed.resets + u8::from(reason == GoneReason::Reset);
        let is_silent = match reason {
            GoneReason::TimedOut => true,
            GoneReason::Reset => resets < RESETS_MAX,
            _ => false,
        };
        let watch = if is_silent {
            self.pushes.gave_up(observation)
        } else {
            self.pushes.forget(observation)
        };
        let (peer, token) = (observed.peer, observed.token);
        match watch.filter(|_| is_silent && may_sleep) {
            Some(watch) => {
                self.asleep.entry(peer).or_default().push(Asleep {
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
        if let Some(observed) = self.observed.get(&observation) {
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
                request: Box::new(read(&one.request)?),
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
        let own = self.observed.iter().filter(|(_, one)| one.peer == *peer);
        let own: Vec<_> = own.map(|(observation, _)| *observation).collect();
        for observation in &own {
            self.observed.remove(observation);
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
fn written(request: &Request) -> Option<Box<[u8]>> {
    Some(message_of(request).encode().ok()?.into())
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
