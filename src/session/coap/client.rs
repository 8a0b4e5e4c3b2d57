//! The machine as a client: requests out one at a time per peer, answers and notifications in.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{
    alarms::Alarms,
    client_exchange::{Call, Outcome, Purpose, whole_response},
    config::WAITING_PER_PEER_MAX,
    machine::Machine,
    observe::is_newer,
    reliability::{Owner, SentCon},
    types::{Event, ExchangeId, FailReason, Peer, Progress, Request, Response},
};
use crate::{
    base::Timestamp,
    wire::coap::{Code, Kind, Message, Token, options::number},
};

/// How often a challenge to one message is answered: once for the address, once for a server that
/// restarted in between, and more where the address changes faster than messages pass: on a radio that
/// loses a third of them, behind a NAT that forgets every minute, more than half of the rounds are in vain.
const ECHO_ROUNDS_MAX: u32 = 8;

/// What a client remembers.
pub(super) struct Client<P> {
    calls: BTreeMap<ExchangeId, Call<P>>,
    watches: BTreeMap<ExchangeId, Watch<P>>,
    by_token: BTreeMap<(P, Token), Waiting>,
    lines: BTreeMap<P, Line>,
    /// Requests that were acknowledged and wait for their separate answers.
    answers_due: Alarms<ExchangeId>,
    /// Peers with whom all message ids are in use.
    ids_due: Alarms<P>,
}

/// Who waits for a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Call(ExchangeId),
    Watch(ExchangeId),
}

/// An observation of ours.
struct Watch<P> {
    peer: P,
    token: Token,
    request: Request,
    newest: (u32, Timestamp),
    /// The transfer of the newest notification's rest.
    rest: Option<ExchangeId>,
}

/// One request in transit per peer, the others in order. spec: rfc7252 §4.7 (NSTART).
#[derive(Default)]
struct Line {
    busy: Option<ExchangeId>,
    waiting: VecDeque<ExchangeId>,
}

impl<P: Peer> Client<P> {
    pub(super) const fn new() -> Self {
        Self {
            calls: BTreeMap::new(),
            watches: BTreeMap::new(),
            by_token: BTreeMap::new(),
            lines: BTreeMap::new(),
            answers_due: Alarms::new(),
            ids_due: Alarms::new(),
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        [self.answers_due.next(), self.ids_due.next()]
            .into_iter()
            .flatten()
            .min()
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 4] {
        [
            self.calls.len(),
            self.watches.len(),
            self.by_token.len(),
            self.lines.len(),
        ]
    }
}

/// What the caller asks for.
impl<P: Peer> Machine<P> {
    /// Sends a request when its turn comes; bodies of any size travel in blocks.
    ///
    /// The peer's address counts as proved: we chose to call it.
    pub fn request(&mut self, now: Timestamp, peer: P, request: Request) -> ExchangeId {
        let exchange = self.new_exchange();
        self.peers.validate(now, &mut *self.rng, &peer);
        let waiting = self
            .client
            .lines
            .get(&peer)
            .map_or(0, |line| line.waiting.len());
        if waiting >= WAITING_PER_PEER_MAX {
            self.emit(Event::Failed {
                exchange,
                reason: FailReason::Busy,
            });
            return exchange;
        }
        let random = self.rng.next_u32();
        let call = Call::new(peer, request, Purpose::Ask, &self.config, random);
        if call
            .message(0, Token::LONGEST, &self.config)
            .encode()
            .is_err()
        {
            self.emit(Event::Failed {
                exchange,
                reason: FailReason::Unsendable,
            });
            return exchange;
        }
        self.enqueue(now, exchange, call);
        exchange
    }

    /// How far a request's body, or its answer's, has got; none where neither is in blocks.
    pub fn progress(&self, exchange: ExchangeId) -> Option<Progress> {
        self.client.calls.get(&exchange)?.progress()
    }

    /// Forgets a request, or ends an observation and tells the server so.
    pub fn cancel(&mut self, now: Timestamp, exchange: ExchangeId) {
        self.finish(now, exchange);
        let Some(watch) = self.drop_watch(now, exchange) else {
            return;
        };
        let Watch {
            peer,
            token,
            mut request,
            ..
        } = watch;
        request.observe = false;
        let random = self.rng.next_u32();
        let mut call = Call::new(peer, request, Purpose::Deregister, &self.config, random);
        call.token = token;
        let exchange = self.new_exchange();
        self.enqueue(now, exchange, call);
    }
}

/// Sending.
impl<P: Peer> Machine<P> {
    fn enqueue(&mut self, now: Timestamp, exchange: ExchangeId, call: Call<P>) {
        let peer = call.peer.clone();
        self.client
            .lines
            .entry(peer.clone())
            .or_default()
            .waiting
            .push_back(exchange);
        self.client.calls.insert(exchange, call);
        self.advance(now, &peer);
    }

    /// Sends the next waiting request if none is in transit.
    fn advance(&mut self, now: Timestamp, peer: &P) {
        while let Some(line) = self.client.lines.get_mut(peer) {
            if line.busy.is_some() || self.client.ids_due.at(peer).is_some() {
                return;
            }
            let Some(exchange) = line.waiting.pop_front() else {
                self.client.lines.remove(peer);
                return;
            };
            if self.client.calls.contains_key(&exchange) {
                line.busy = Some(exchange);
                self.send_step(now, exchange);
            }
        }
    }

    /// Sends the message a request has come to, with a fresh token: an answer that comes late is
    /// then not taken for the next block's.
    fn send_step(&mut self, now: Timestamp, exchange: ExchangeId) {
        let Some(call) = self.client.calls.get(&exchange) else {
            return;
        };
        let (peer, old_token) = (call.peer.clone(), call.token);
        let is_registration_token = call.purpose == Purpose::Deregister;
        let Some(id) = self.fresh_id(now, &peer) else {
            return self.wait_for_id(now, &peer, exchange);
        };
        let token = if is_registration_token {
            Some(old_token)
        } else {
            self.fresh_token(&peer)
        };
        let Some(call) = self.client.calls.get_mut(&exchange) else {
            return;
        };
        let Some(token) = token else {
            return self.fail(now, exchange, FailReason::Busy);
        };
        let mut message = call.message(id, token, &self.config);
        if let Some(echo) = self.peers.take_echo(&peer) {
            message.options.push(number::ECHO, echo);
        }
        call.token = token;
        call.in_flight = Some(id);
        let old = (peer.clone(), old_token);
        if self.client.by_token.get(&old) == Some(&Waiting::Call(exchange)) {
            self.client.by_token.remove(&old);
        }
        self.client
            .by_token
            .insert((peer.clone(), token), Waiting::Call(exchange));
        let Ok(bytes) = message.encode().map(Bytes::from) else {
            return self.fail(now, exchange, FailReason::Unsendable);
        };
        let owner = Owner::Request(exchange);
        self.send_reliably(
            now,
            SentCon {
                peer,
                id,
                bytes,
                owner,
            },
        );
    }

    /// spec: rfc7252 §4.4. Rather late than with an id the peer may still remember.
    fn wait_for_id(&mut self, now: Timestamp, peer: &P, exchange: ExchangeId) {
        let lifetime = self.timers(peer).exchange_lifetime();
        let at = self.peers.id_free_at(peer, lifetime).unwrap_or(now);
        self.client.ids_due.set(peer.clone(), at);
        if let Some(line) = self.client.lines.get_mut(peer) {
            line.busy = None;
            line.waiting.push_front(exchange);
        }
    }

    fn fresh_token(&mut self, peer: &P) -> Option<Token> {
        let len = self.config.token_bytes.clamp(1, 8);
        // With one-byte tokens and many long-polls a few draws may be taken.
        for _ in 0..64 {
            let mut bytes = [0; 8];
            self.rng.fill_bytes(&mut bytes);
            let token = bytes.get(..len).and_then(Token::new)?;
            if !self.client.by_token.contains_key(&(peer.clone(), token)) {
                return Some(token);
            }
        }
        None
    }
}

/// Taking answers in.
impl<P: Peer> Machine<P> {
    pub(super) fn on_response(&mut self, now: Timestamp, peer: &P, mut message: Message) {
        let waiting = self
            .client
            .by_token
            .get(&(peer.clone(), message.token))
            .copied();
        if message.kind == Kind::Ack {
            // spec: rfc7252 §5.3.2. Message id and token must both be the request's.
            let in_flight = self.flights.owner(peer, message.id);
            match waiting {
                Some(Waiting::Call(call)) if in_flight == Some(Owner::Request(call)) => {}
                _ => return,
            }
        } else if !self.is_first_copy(now, peer, message.kind, message.id) {
            return;
        }
        let fault = message.options.fault(&[number::BLOCK1, number::BLOCK2]);
        let is_understood = fault.is_none();
        if message.kind != Kind::Ack {
            self.confirm(peer, &message, waiting.is_some() && is_understood);
        }
        message.options.drop_unusable();
        match waiting {
            None => {}
            Some(Waiting::Call(call)) if !is_understood => {
                self.fail(now, call, FailReason::BadResponse);
            }
            Some(Waiting::Call(call)) => self.call_answered(now, call, message),
            Some(Waiting::Watch(watch)) if !is_understood => {
                self.watch_lost(now, watch, FailReason::BadResponse);
            }
            Some(Waiting::Watch(watch)) => self.notified(now, watch, message),
        }
    }

    /// Acknowledges a separate response, or rejects one that nobody waits for.
    fn confirm(&mut self, peer: &P, message: &Message, is_expected: bool) {
        let kind = match (is_expected, message.kind) {
            (false, _) => Kind::Rst,
            (true, Kind::Con) => Kind::Ack,
            (true, _) => return,
        };
        let bytes = self.send_empty(peer, kind, message.id);
        self.remember_answer(peer, message.id, bytes);
    }

    fn call_answered(&mut self, now: Timestamp, exchange: ExchangeId, message: Message) {
        self.client.answers_due.clear(&exchange);
        let random = self.rng.next_u32();
        let Some(call) = self.client.calls.get_mut(&exchange) else {
            return;
        };
        let peer = call.peer.clone();
        if let Some(id) = call.in_flight.take() {
            self.flights.land(&peer, id);
        }
        if let Some(value) = message.options.first(number::ECHO) {
            self.peers.keep_echo(&peer, value);
            if message.code == Code::UNAUTHORIZED {
                if call.echo_rounds >= ECHO_ROUNDS_MAX {
                    return self.fail(now, exchange, FailReason::Challenged);
                }
                call.echo_rounds += 1;
                return self.go_on(now, exchange);
            }
        }
        call.echo_rounds = 0; // a transfer of many blocks may meet many addresses
        let registers = call.request.observe && message.code.is_success();
        if let Some(order) = message.options.observe().filter(|_| registers) {
            let watch = Watch {
                peer: peer.clone(),
                token: call.token,
                request: call.request.clone(),
                newest: (order, now),
                rest: None,
            };
            let token = call.token;
            self.client.watches.insert(exchange, watch);
            self.client
                .by_token
                .insert((peer, token), Waiting::Watch(exchange));
        }
        match call.answered(message, &self.config, random) {
            Outcome::Next => self.go_on(now, exchange),
            Outcome::Done(response) => self.succeed(now, exchange, response),
            Outcome::Failed(reason) => self.fail(now, exchange, reason),
        }
    }

    /// Sends a request's next message: at once if the line is its own or free.
    fn go_on(&mut self, now: Timestamp, exchange: ExchangeId) {
        let Some(call) = self.client.calls.get(&exchange) else {
            return;
        };
        let peer = call.peer.clone();
        let line = self.client.lines.entry(peer.clone()).or_default();
        if line.busy == Some(exchange) {
            self.send_step(now, exchange);
        } else {
            line.waiting.push_front(exchange);
        }
        self.advance(now, &peer);
    }

    fn notified(&mut self, now: Timestamp, id: ExchangeId, message: Message) {
        let Some(watch) = self.client.watches.get_mut(&id) else {
            return;
        };
        match message
            .options
            .observe()
            .filter(|_| message.code.is_success())
        {
            Some(order) if !is_newer(watch.newest, (order, now)) => return,
            Some(order) => watch.newest = (order, now),
            // An error, or no Observe: it is the last one.
            None => {
                self.drop_watch(now, id);
                let response = whole_response(message);
                return self.emit(Event::Notification {
                    exchange: id,
                    response,
                });
            }
        }
        let (peer, old_rest) = (watch.peer.clone(), watch.rest.take());
        let mut request = watch.request.clone();
        request.observe = false;
        if let Some(rest) = old_rest {
            self.finish(now, rest);
        }
        let random = self.rng.next_u32();
        let mut call = Call::new(peer, request, Purpose::Rest(id), &self.config, random);
        match call.first_part(message, &self.config) {
            Outcome::Next => {
                let rest = self.new_exchange();
                if let Some(watch) = self.client.watches.get_mut(&id) {
                    watch.rest = Some(rest);
                }
                self.enqueue(now, rest, call);
            }
            Outcome::Done(response) => {
                self.emit(Event::Notification {
                    exchange: id,
                    response,
                });
            }
            Outcome::Failed(reason) => self.watch_lost(now, id, reason),
        }
    }
}

/// How requests end.
impl<P: Peer> Machine<P> {
    pub(super) fn client_timeout(&mut self, now: Timestamp) {
        while let Some(exchange) = self.client.answers_due.pop_due(now) {
            self.fail(now, exchange, FailReason::NoResponse);
        }
        while let Some(peer) = self.client.ids_due.pop_due(now) {
            self.advance(now, &peer);
        }
    }

    pub(super) fn request_landed(&mut self, now: Timestamp, exchange: ExchangeId, was_reset: bool) {
        if was_reset {
            return self.fail(now, exchange, FailReason::Reset);
        }
        let Some(call) = self.client.calls.get_mut(&exchange) else {
            return;
        };
        call.in_flight = None;
        let peer = call.peer.clone();
        let at = now + self.config.timers.response_within;
        self.client.answers_due.set(exchange, at);
        self.free_line(&peer, exchange);
        self.advance(now, &peer);
    }

    pub(super) fn request_lost(&mut self, now: Timestamp, exchange: ExchangeId) {
        self.fail(now, exchange, FailReason::TimedOut);
    }

    fn succeed(&mut self, now: Timestamp, exchange: ExchangeId, mut response: Response) {
        let Some(call) = self.finish(now, exchange) else {
            return;
        };
        match call.purpose {
            Purpose::Ask => {
                response.observing = self.client.watches.contains_key(&exchange);
                self.emit(Event::Response {
                    exchange,
                    peer: call.peer,
                    response,
                });
            }
            Purpose::Rest(watch) => {
                if let Some(watch) = self.client.watches.get_mut(&watch) {
                    watch.rest = None;
                }
                self.emit(Event::Notification {
                    exchange: watch,
                    response,
                });
            }
            Purpose::Deregister => {}
        }
    }

    fn fail(&mut self, now: Timestamp, exchange: ExchangeId, reason: FailReason) {
        let Some(call) = self.finish(now, exchange) else {
            return;
        };
        match call.purpose {
            Purpose::Ask => {
                self.drop_watch(now, exchange);
                self.emit(Event::Failed { exchange, reason });
            }
            Purpose::Rest(watch) => self.watch_lost(now, watch, reason),
            Purpose::Deregister => {}
        }
    }

    fn watch_lost(&mut self, now: Timestamp, id: ExchangeId, reason: FailReason) {
        if self.drop_watch(now, id).is_some() {
            self.emit(Event::Failed {
                exchange: id,
                reason,
            });
        }
    }

    fn drop_watch(&mut self, now: Timestamp, id: ExchangeId) -> Option<Watch<P>> {
        let watch = self.client.watches.remove(&id)?;
        self.client
            .by_token
            .remove(&(watch.peer.clone(), watch.token));
        if let Some(rest) = watch.rest {
            self.finish(now, rest);
        }
        Some(watch)
    }

    /// Takes a request out of everything that knows it.
    fn finish(&mut self, now: Timestamp, exchange: ExchangeId) -> Option<Call<P>> {
        let call = self.client.calls.remove(&exchange)?;
        self.client.answers_due.clear(&exchange);
        let place = (call.peer.clone(), call.token);
        if self.client.by_token.get(&place) == Some(&Waiting::Call(exchange)) {
            self.client.by_token.remove(&place);
        }
        if let Some(id) = call.in_flight {
            self.flights.land(&call.peer, id);
        }
        self.free_line(&call.peer, exchange);
        self.advance(now, &call.peer);
        Some(call)
    }

    fn free_line(&mut self, peer: &P, exchange: ExchangeId) {
        if let Some(line) = self.client.lines.get_mut(peer)
            && line.busy == Some(exchange)
        {
            line.busy = None;
        }
    }
}
