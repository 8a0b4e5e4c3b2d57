//! The hub's OSCORE door as a node of the laboratory: its link, its machine, its list of pushes and
//! the thin profile, tied together as its driver does around a socket. Nothing is restarted here, so
//! no registration is stored.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use bytes::Bytes;
use rand::{SeedableRng as _, rngs::StdRng};

use super::place::Place;
use crate::{
    api::{DeviceName, Door as Way, OscoreLink},
    base::Timestamp,
    edge::thin::{Bell, News, Pushes, Reach, Thin, Watch, Who},
    session::{
        coap::{Config, Event, ExchangeId, GoneReason, Machine, ObservationId, Request},
        lab::Node,
        oscore::{
            Id, Parameters, SecurityContext,
            link::{Arrived, Link, Plainly, UdpPeer, Want},
        },
    },
    wire::coap::{Code, Token},
};

/// What a message has beside its body, in bytes; less than the other is nothing to push.
const OVERHEAD_BYTES: usize = 48;
const PUSH_BYTES_MIN: usize = 8;

pub(super) struct Door {
    pub(super) place: Place,
    thin: Arc<Thin>,
    link: Link,
    machine: Machine<UdpPeer>,
    devices: BTreeMap<Id, Arc<DeviceName>>,
    bell: Arc<Bell>,
    pushes: Pushes<ObservationId>,
    observed: BTreeMap<ObservationId, Observed>,
    /// Those whose device fell silent, and those to whom nothing more may be sent at their address.
    asleep: Vec<(Observed, Watch)>,
    starved: Vec<ObservationId>,
    out: VecDeque<(SocketAddr, Bytes)>,
    /// Where the device was last, and how often that was another place than before.
    pub(super) at: Option<SocketAddr>,
    pub(super) moves: usize,
    /// A thief takes what the hub sends of itself; here it is.
    pub(super) stolen: Option<Vec<Bytes>>,
}

struct Observed {
    peer: UdpPeer,
    token: Token,
    request: Request,
    /// Where it was before the push that is not acknowledged.
    before: Option<Watch>,
}

impl Door {
    pub(super) fn new(place: Place) -> Self {
        let bell = Bell::new();
        place.links().tell(Arc::clone(&bell) as _);
        Self {
            thin: place.thin(),
            place,
            link: Link::new(16, [3; 32], Plainly::Nobody),
            machine: Machine::new(Config::new([3; 32]), Box::new(StdRng::seed_from_u64(21)))
                .without_copies_of(UdpPeer::is_told_apart),
            devices: BTreeMap::new(),
            bell,
            pushes: Pushes::new(Reach::new(), 16),
            observed: BTreeMap::new(),
            asleep: Vec::new(),
            starved: Vec::new(),
            out: VecDeque::new(),
            at: None,
            moves: 0,
            stolen: None,
        }
    }

    /// Somebody elsewhere says something.
    pub(super) fn hears(&mut self, now: Timestamp, text: String) {
        self.place.is_now(now);
        self.place.says(text);
        self.go_on(now);
    }

    /// Does all that follows, until there is no more of it.
    fn go_on(&mut self, now: Timestamp) {
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            let rung = self.bell.take();
            self.pushes.heard(now, &rung);
            self.push(now);
            while let Some(want) = self.link.poll_want() {
                self.wanted(now, want);
            }
            if let Some(arrived) = self.link.poll_arrived() {
                is_quiet = false;
                self.arrived(now, arrived);
            }
            while let Some((peer, message)) = self.machine.poll_transmit() {
                is_quiet = false; // numbers may be wanted for it
                let is_proved = self.machine.budget(&peer) == u64::MAX;
                self.link.send(now, &peer, message, is_proved);
            }
            while let Some(outgoing) = self.link.poll_transmit() {
                self.out.push_back((outgoing.to, outgoing.bytes));
            }
            while let Some(event) = self.machine.poll_event() {
                is_quiet = false;
                self.happened(now, event);
            }
        }
    }

    fn wanted(&mut self, now: Timestamp, want: Want) {
        let links = self.place.links();
        match want {
            Want::Context(kid) => match self.place.wait(links.oscore(kid.as_bytes())).unwrap() {
                Some(stored) => {
                    let key = self.link.found(now, context_of(&stored), ());
                    self.devices.insert(key.kid(), stored.device);
                }
                None => self.link.absent(now, kid),
            },
            Want::Reserve { kid, below } => {
                let stored = self.place.wait(links.reserve(kid.as_bytes(), below));
                stored.unwrap();
                self.link.reserved(now, kid, below);
            }
        }
    }

    fn arrived(&mut self, now: Timestamp, arrived: Arrived) {
        match arrived {
            Arrived::Message {
                peer,
                bytes,
                path,
                is_proved,
                ..
            } => {
                if let Some(path) = path {
                    self.machine.peer_is_at(now, &peer, path);
                }
                if is_proved {
                    self.machine.mark_validated(now, &peer);
                }
                if path.is_some() {
                    self.heard_of(now, &peer);
                }
                self.machine.handle_datagram(now, peer, &bytes);
            }
            Arrived::Copy { .. } => {} // the link has answered it again
            Arrived::Combined { .. } | Arrived::Gone { .. } => {
                panic!("nobody agrees on a context here, and nobody is revoked")
            }
        }
    }

    /// A device is there: what waits for it goes on.
    fn heard_of(&mut self, now: Timestamp, peer: &UdpPeer) {
        let at = self.link.address(peer);
        self.moves += usize::from(self.at.is_some() && self.at != at);
        self.at = at;
        for observation in std::mem::take(&mut self.starved) {
            self.pushes.look_at(now, observation);
        }
        for (mut observed, watch) in std::mem::take(&mut self.asleep) {
            let (token, request) = (observed.token, &observed.request);
            let taken_up = self.machine.restore_observation(peer, token, request);
            let observation = taken_up.expect("it has one observation");
            observed.before = None;
            let device = self.device(peer);
            self.pushes.watch(device, observation, watch, ()).unwrap();
            self.observed.insert(observation, observed);
            self.pushes.look_at(now, observation);
        }
    }

    fn happened(&mut self, now: Timestamp, event: Event<UdpPeer>) {
        match event {
            Event::Request {
                exchange,
                peer,
                request,
                observation,
                ..
            } => self.answer(now, exchange, peer, request, observation),
            Event::Delivered { observation } => {
                if let Some(observed) = self.observed.get_mut(&observation) {
                    observed.before = None;
                    self.pushes.delivered(now, observation);
                }
            }
            Event::ObserverGone {
                observation,
                reason,
            } => {
                let watch = self.pushes.forget(observation).map(|(watch, ())| watch);
                let observed = self.observed.remove(&observation);
                if let (Some(observed), Some(watch), GoneReason::TimedOut) =
                    (observed, watch, reason)
                {
                    let watch = observed.before.unwrap_or(watch);
                    self.asleep.push((observed, watch));
                }
            }
            _ => {}
        }
    }

    fn answer(
        &mut self,
        now: Timestamp,
        exchange: ExchangeId,
        peer: UdpPeer,
        request: Request,
        observation: Option<ObservationId>,
    ) {
        let who = self.who(&peer);
        let answered = self.place.wait(self.thin.answer(&who, &request));
        let mut response = answered.response;
        if (request.method, request.options.path().next()) == (Code::PUT, Some("=")) {
            let class = request.payload.first().copied().unwrap();
            self.machine.set_link_class(now, &peer, class);
        }
        if let (Some(observation), Some(watch)) = (observation, answered.watch) {
            let token = self.machine.token_of(observation).unwrap();
            let device = self.device(&peer);
            self.pushes.watch(device, observation, watch, ()).unwrap();
            let observed = Observed {
                peer,
                token,
                request,
                before: None,
            };
            self.observed.insert(observation, observed);
            response = response.observing();
            self.pushes.look_at(now, observation);
        }
        let _ = self.machine.respond(now, exchange, response); // cancelled: asked again
    }

    fn push(&mut self, now: Timestamp) {
        while let Some(due) = self.pushes.due(now) {
            let observation = due.key;
            let Some(peer) = self.observed.get(&observation).map(|one| one.peer.clone()) else {
                continue;
            };
            let budget = self.machine.budget(&peer);
            let bytes_max = usize::try_from(budget).unwrap_or(usize::MAX);
            let bytes_max = bytes_max.saturating_sub(OVERHEAD_BYTES);
            if bytes_max < PUSH_BYTES_MIN {
                self.pushes.nothing(now, observation);
                self.starved.push(observation);
                continue;
            }
            let who = self.who(&peer);
            let news = self.thin.news(&who, &due.watch, due.sought, bytes_max);
            let (response, next, more) = match self.place.wait(news) {
                News::Nothing { next } => {
                    self.pushes.passed(now, observation, next);
                    continue;
                }
                News::Aside { response, next } => {
                    self.pushes.passed(now, observation, next);
                    self.machine
                        .notify_once(now, observation, response)
                        .expect("it is observed");
                    continue;
                }
                News::Entries {
                    response,
                    next,
                    more,
                } => (response, next, more),
            };
            self.machine.set_link_class(now, &peer, next.class());
            if let Some(observed) = self.observed.get_mut(&observation) {
                observed.before = Some(due.watch);
            }
            self.pushes.pushed(observation, next, more);
            self.machine
                .notify(now, observation, response)
                .expect("it is observed");
        }
    }

    fn who(&self, peer: &UdpPeer) -> Who {
        Who {
            device: self.device(peer),
            door: Way::Oscore,
            address: self.link.address(peer),
        }
    }

    fn device(&self, peer: &UdpPeer) -> Arc<DeviceName> {
        match peer {
            UdpPeer::Device(key) => Arc::clone(&self.devices[&key.kid()]),
            UdpPeer::Plain(_) => panic!("whoever has no context asks nothing here"),
        }
    }
}

fn context_of(stored: &OscoreLink) -> SecurityContext {
    let id = |id: &[u8]| Id::new(id).unwrap();
    let ids = (id(&stored.sender_id), id(&stored.recipient_id));
    let mut parameters = Parameters::new(&stored.master_secret.0, ids.0, ids.1);
    parameters.master_salt = &stored.master_salt;
    SecurityContext::new(&parameters).unwrap()
}

impl Node for Door {
    fn handle(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        self.place.is_now(now);
        self.link.handle_datagram(now, from, datagram);
        self.go_on(now);
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        if let Some(stolen) = &mut self.stolen {
            stolen.extend(self.out.drain(..).map(|(_, datagram)| datagram));
        }
        self.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        let both = [self.machine.poll_timeout(), self.pushes.next_due()];
        both.into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.place.is_now(now);
        self.machine.handle_timeout(now);
        self.go_on(now);
    }
}
