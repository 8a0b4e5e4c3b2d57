//! The machine: sorts what comes in, sends what goes out, and knows when to be woken.
//! What it does as a server is in `server`, as a client in `client`.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    client::Client,
    config::{
        Config, OUTBOX_MAX, SEEN_MAX, SEEN_SLOW_MAX, SEEN_UNVALIDATED_MAX, Timers, szx_of_class,
    },
    dedup::{Before, Seen},
    echo::EchoKey,
    peers::Peers,
    reliability::{Due, Flights, Owner, SentCon},
    server::Server,
    types::{Event, ExchangeId, ObservationId, Peer},
};
use crate::{
    base::{Rng, Timestamp},
    wire::coap::{Answer, Code, Kind, Message, Szx, Token},
};

/// One end of any number of CoAP conversations.
pub struct Machine<P> {
    pub(super) config: Config,
    pub(super) rng: Box<dyn Rng + Send>,
    pub(super) echo: EchoKey,
    pub(super) peers: Peers<P>,
    pub(super) seen: Seen<P>,
    pub(super) seen_unvalidated: Seen<P>,
    /// Of peers on slow links, whose message ids live longer.
    seen_slow: Seen<P>,
    pub(super) flights: Flights<P>,
    pub(super) server: Server<P>,
    pub(super) client: Client<P>,
    outbox: VecDeque<(P, Bytes)>,
    events: VecDeque<Event<P>>,
    next_exchange: u64,
    /// Whose messages come once: what lies below lets no copies of theirs through.
    come_once: fn(&P) -> bool,
}

impl<P: Peer> Machine<P> {
    /// A machine that has met nobody. `rng` must be unpredictable outside tests: tokens and first
    /// message ids come from it.
    pub fn new(config: Config, rng: Box<dyn Rng + Send>) -> Self {
        Self {
            echo: EchoKey::new(config.echo_key),
            config,
            rng,
            peers: Peers::new(),
            seen: Seen::new(SEEN_MAX),
            seen_unvalidated: Seen::new(SEEN_UNVALIDATED_MAX),
            seen_slow: Seen::new(SEEN_SLOW_MAX),
            flights: Flights::new(),
            server: Server::new(),
            client: Client::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            next_exchange: 0,
            come_once: |_| false,
        }
    }

    /// The same, with nothing remembered of what these peers sent: what lies below the machine tells
    /// copies of their messages from new ones, and answers them.
    #[must_use]
    pub fn without_copies_of(mut self, come_once: fn(&P) -> bool) -> Self {
        self.come_once = come_once;
        self
    }

    /// The first message id for this peer, instead of a random one: for who remembers, from an earlier
    /// process, which ids the peer may still know.
    pub fn begin_ids_at(&mut self, now: Timestamp, peer: &P, id: u16) {
        self.peers.begin_ids_at(now, &mut *self.rng, peer, id);
    }

    /// Takes a peer's address as proved: it is loopback, or a security layer has seen to it.
    pub fn mark_validated(&mut self, now: Timestamp, peer: &P) {
        self.peers.validate(now, &mut *self.rng, peer);
    }

    /// An authenticated peer's datagram came from this address, given as any number that names it.
    /// What may be sent there is bounded until an Echo value comes back from it.
    pub fn peer_is_at(&mut self, now: Timestamp, peer: &P, path: u64) {
        self.peers.is_at(now, &mut *self.rng, peer, path);
    }

    /// The class of the peer's link, which sets timers and block sizes. spec: thin-profile §11
    pub fn set_link_class(&mut self, now: Timestamp, peer: &P, class: u8) {
        self.peers.set_class(now, &mut *self.rng, peer, class);
    }

    /// How many bytes may be sent to the peer now; without bound once its address is proved.
    pub fn budget(&self, peer: &P) -> u64 {
        self.peers.budget(peer)
    }

    /// Whether a message id was met within its lifetime: then the datagram is a copy.
    pub fn has_seen(&mut self, now: Timestamp, peer: &P, id: u16) -> bool {
        let all = [
            &mut self.seen,
            &mut self.seen_unvalidated,
            &mut self.seen_slow,
        ];
        all.into_iter()
            .any(|seen| seen.recall(now, peer, id).is_some())
    }

    /// The token that an observation was registered with.
    pub fn token_of(&mut self, observation: ObservationId) -> Option<Token> {
        let observation = self.server.observations.get_mut(observation)?;
        Some(observation.token)
    }

    pub(super) fn timers(&self, peer: &P) -> Timers {
        Timers::of_class(self.peers.class(peer), self.config.timers)
    }

    pub(super) fn szx(&self, peer: &P) -> Szx {
        szx_of_class(self.peers.class(peer), self.config.szx)
    }

    /// Takes in a datagram.
    pub fn handle_datagram(&mut self, now: Timestamp, peer: P, bytes: &[u8]) {
        self.peers.received(now, &mut *self.rng, &peer, bytes.len());
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(wrong) => {
                match wrong.answer {
                    Answer::TooLarge { kind, id, token } if self.config.serves_requests => {
                        self.on_oversized_request(now, peer, (kind, id, token));
                    }
                    Answer::TooLarge {
                        kind: Kind::Con,
                        id,
                        ..
                    }
                    | Answer::Reset { id } => {
                        self.send_empty(&peer, Kind::Rst, id);
                    }
                    Answer::Silence | Answer::TooLarge { .. } => {}
                }
                return;
            }
        };
        match (message.kind, message.code) {
            (Kind::Ack | Kind::Rst, Code::EMPTY) => {
                self.landed(now, &peer, message.kind, message.id);
            }
            (Kind::Con | Kind::Non, code) if code.is_request() && self.config.serves_requests => {
                self.on_request(now, peer, message);
            }
            (Kind::Con | Kind::Non | Kind::Ack, code) if code.is_response() => {
                self.on_response(now, &peer, message);
            }
            // spec: rfc7252 §4.2, §4.3. An Empty one is a ping; the rest are reserved classes.
            (Kind::Con, _) => {
                self.send_empty(&peer, Kind::Rst, message.id);
            }
            _ => {}
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(due) = self.flights.due(now) {
            match due {
                Due::Again(peer, bytes) => self.send(&peer, bytes),
                Due::GivenUp(_, Owner::Answer(exchange)) => self.close(exchange),
                Due::GivenUp(_, Owner::Notification(id)) => self.notification_lost(now, id),
                Due::GivenUp(_, Owner::Request(exchange)) => self.request_lost(now, exchange),
            }
        }
        self.seen.forget_expired(now);
        self.seen_unvalidated.forget_expired(now);
        self.seen_slow.forget_expired(now);
        self.server_timeout(now);
        self.client_timeout(now);
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        [
            self.flights.next_timeout(),
            self.seen.next_timeout(),
            self.seen_unvalidated.next_timeout(),
            self.seen_slow.next_timeout(),
            self.server.next_timeout(),
            self.client.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(P, Bytes)> {
        self.outbox.pop_front()
    }

    /// Something that happened.
    pub fn poll_event(&mut self) -> Option<Event<P>> {
        self.events.pop_front()
    }

    fn landed(&mut self, now: Timestamp, peer: &P, kind: Kind, id: u16) {
        let was_reset = kind == Kind::Rst;
        match self.flights.land(peer, id) {
            None => {}
            // Either way nobody needs the answer again.
            Some(Owner::Answer(exchange)) => self.close(exchange),
            Some(Owner::Notification(observation)) => {
                self.notification_landed(now, observation, was_reset);
            }
            Some(Owner::Request(exchange)) => self.request_landed(now, exchange, was_reset),
        }
    }

    pub(super) fn new_exchange(&mut self) -> ExchangeId {
        self.next_exchange += 1;
        ExchangeId(self.next_exchange)
    }

    pub(super) fn emit(&mut self, event: Event<P>) {
        self.events.push_back(event);
    }

    /// Puts a datagram out, unless the peer's address is unproved and has had its share.
    pub(super) fn send(&mut self, peer: &P, bytes: Bytes) {
        if !self.peers.may_send(peer, bytes.len()) {
            return;
        }
        if self.outbox.len() >= OUTBOX_MAX {
            self.outbox.pop_front();
        }
        self.outbox.push_back((peer.clone(), bytes));
    }

    /// Puts a confirmable message out, to be sent again until acknowledged.
    pub(super) fn send_reliably(&mut self, now: Timestamp, sent: SentCon<P>) {
        self.send(&sent.peer, sent.bytes.clone());
        let timers = self.timers(&sent.peer);
        self.flights.begin(now, timers, &mut *self.rng, sent);
    }

    /// Sends an Empty message: four bytes, no token (lb sent one: defect 2).
    pub(super) fn send_empty(&mut self, peer: &P, kind: Kind, id: u16) -> Bytes {
        let bytes = Message::empty(kind, id)
            .encode()
            .expect("an Empty message is four bytes");
        let bytes = Bytes::from(bytes);
        self.send(peer, bytes.clone());
        bytes
    }

    /// Whether the message is new; a duplicate is answered as the first time.
    pub(super) fn is_first_copy(&mut self, now: Timestamp, peer: &P, kind: Kind, id: u16) -> bool {
        if (self.come_once)(peer) {
            return true;
        }
        // Looked for in all: the address may have been proved in between.
        let before = self.seen.recall(now, peer, id);
        let before = before.or_else(|| self.seen_unvalidated.recall(now, peer, id));
        let before = before.or_else(|| self.seen_slow.recall(now, peer, id));
        match before {
            None => {
                let lifetime = self.timers(peer).exchange_lifetime();
                let usual = self.config.timers.exchange_lifetime();
                // Each list holds one lifetime, so that its oldest is the first to expire.
                let (seen, lifetime) = if !self.peers.is_trusted(peer) {
                    (&mut self.seen_unvalidated, usual)
                } else if lifetime > usual {
                    let slowest = Timers::of_class(1, self.config.timers);
                    (&mut self.seen_slow, slowest.exchange_lifetime())
                } else {
                    (&mut self.seen, usual)
                };
                seen.remember(now + lifetime, peer, id);
                true
            }
            Some(Before::Answered(bytes)) if kind == Kind::Con => {
                self.send(peer, bytes);
                false
            }
            Some(_) => false,
        }
    }

    /// What duplicates of a message are answered from now on.
    pub(super) fn remember_answer(&mut self, peer: &P, id: u16, bytes: Bytes) {
        if (self.come_once)(peer) {
            return;
        }
        self.seen.answered(peer, id, bytes.clone());
        self.seen_slow.answered(peer, id, bytes.clone());
        self.seen_unvalidated.answered(peer, id, bytes);
    }
}
