//! The machine as a server, inward: which requests are delivered, and what time and acknowledgements
//! bring. Answers and notifications leave through `answering`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    alarms::Alarms,
    block::{BlockRefusal, Gathered, Kept, KeptKey, Uploads},
    config::{EXCHANGES_MAX, EXCHANGES_PER_PEER_MAX, EXCHANGES_UNVALIDATED_MAX, FULL_MAX_AGE_SECS},
    key::{BodyKey, RequestKey},
    machine::Machine,
    observe::Observations,
    types::{Event, ExchangeId, GoneReason, ObservationId, Peer, Request, Response},
};
use crate::{
    base::Timestamp,
    wire::coap::{Block, BlockError, Code, Kind, Message, Options, Szx, Token, options::number},
};

/// What a server remembers.
pub(super) struct Server<P> {
    pub(super) open: BTreeMap<ExchangeId, Open<P>>,
    open_per_peer: BTreeMap<P, usize>,
    open_unvalidated: usize,
    pub(super) duties: Alarms<(ExchangeId, Duty)>,
    uploads: Uploads<P>,
    pub(super) kept: Kept<P>,
    pub(super) observations: Observations<P>,
}

/// A request that was delivered and whose answer is not yet sent, or not yet acknowledged.
#[derive(Clone)]
pub(super) struct Open<P> {
    pub(super) origin: Origin<P>,
    pub(super) kept_key: KeptKey<P>,
    pub(super) szx: Szx,
    /// The last block of the request body, which the answer confirms.
    pub(super) block1: Option<Block>,
    pub(super) wants_size2: bool,
    pub(super) observation: Option<ObservationId>,
    /// The peer's address was proved when the request came.
    pub(super) is_validated: bool,
    pub(super) state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing was sent.
    Fresh,
    /// An Empty acknowledgement was sent; the answer goes separately.
    Acknowledged,
    /// The separate answer is in flight.
    Answered,
}

/// Where an answer goes.
#[derive(Clone)]
pub(super) struct Origin<P> {
    pub(super) peer: P,
    pub(super) kind: Kind,
    pub(super) id: u16,
    pub(super) token: Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Duty {
    /// No answer yet: say at least that the request arrived.
    Acknowledge,
    /// No answer in all this time: give it up.
    Abandon,
}

/// A request that is not delivered.
enum Turned {
    /// It is ignored.
    Silence,
    /// It is answered by us.
    Down(Response),
}

impl From<Response> for Turned {
    fn from(response: Response) -> Self {
        Self::Down(response)
    }
}

impl<P: Peer> Server<P> {
    pub(super) const fn new() -> Self {
        Self {
            open: BTreeMap::new(),
            open_per_peer: BTreeMap::new(),
            open_unvalidated: 0,
            duties: Alarms::new(),
            uploads: Uploads::new(),
            kept: Kept::new(),
            observations: Observations::new(),
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        [
            self.duties.next(),
            self.uploads.next_timeout(),
            self.kept.next_timeout(),
            self.observations.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn has_room_for(&self, peer: &P, is_validated: bool) -> bool {
        let own = self.open_per_peer.get(peer).copied().unwrap_or(0);
        own < EXCHANGES_PER_PEER_MAX
            && self.open.len() < EXCHANGES_MAX
            && (is_validated || self.open_unvalidated < EXCHANGES_UNVALIDATED_MAX)
    }

    fn insert(&mut self, id: ExchangeId, open: Open<P>) {
        *self
            .open_per_peer
            .entry(open.origin.peer.clone())
            .or_default() += 1;
        self.open_unvalidated += usize::from(!open.is_validated);
        self.open.insert(id, open);
    }

    fn remove(&mut self, id: ExchangeId) -> Option<Open<P>> {
        self.duties.clear(&(id, Duty::Acknowledge));
        self.duties.clear(&(id, Duty::Abandon));
        let open = self.open.remove(&id)?;
        self.open_unvalidated -= usize::from(!open.is_validated);
        if let Some(own) = self.open_per_peer.get_mut(&open.origin.peer) {
            *own -= 1;
            if *own == 0 {
                self.open_per_peer.remove(&open.origin.peer);
            }
        }
        Some(open)
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 6] {
        let (uploads, upload_bytes) = self.uploads.len();
        let (kept, kept_bytes) = self.kept.len();
        let observations = self.observations.len();
        [
            self.open.len(),
            uploads,
            upload_bytes,
            kept,
            kept_bytes,
            observations,
        ]
    }
}

/// Taking requests in.
impl<P: Peer> Machine<P> {
    pub(super) fn on_request(&mut self, now: Timestamp, peer: P, message: Message) {
        if !self.is_first_copy(now, &peer, message.kind, message.id) {
            return;
        }
        let origin = Origin {
            peer,
            kind: message.kind,
            id: message.id,
            token: message.token,
        };
        if let Err(Turned::Down(response)) = self.admit(now, &origin, message) {
            // Our own answers always fit; there is nobody to tell if one did not.
            let _sent = self.reply(now, &origin, response, None);
        }
    }

    /// A request in one datagram larger than we read is told to come in blocks, and of which size.
    ///
    /// spec: rfc7959 §2.9
    pub(super) fn on_oversized_request(
        &mut self,
        now: Timestamp,
        peer: P,
        (kind, id, token): (Kind, u16, Token),
    ) {
        if !self.is_first_copy(now, &peer, kind, id) {
            return;
        }
        let mut response = self.too_large();
        if let Ok(hint) = Block::new(0, true, self.config.szx) {
            response.options.push_block(number::BLOCK1, hint);
        }
        let origin = Origin {
            peer,
            kind,
            id,
            token,
        };
        // Our own answers always fit; there is nobody to tell if one did not.
        let _sent = self.reply(now, &origin, response, None);
    }

    /// 4.13, and what would not be.
    fn too_large(&self) -> Response {
        let mut response = Response::new(Code::TOO_LARGE);
        let bytes_max = u32::try_from(self.config.request_bytes_max).unwrap_or(u32::MAX);
        response.options.push_uint(number::SIZE1, bytes_max);
        response
    }

    fn admit(
        &mut self,
        now: Timestamp,
        origin: &Origin<P>,
        mut message: Message,
    ) -> Result<(), Turned> {
        self.check_options(&mut message)?;
        self.check_address(now, origin, &message)?;
        let block2 = block(&message.options, number::BLOCK2)?;
        if let Some(block2) = block2.filter(|block| block.num() > 0) {
            return self.serve_block(now, origin, &message, block2);
        }
        let block1 = block(&message.options, number::BLOCK1)?;
        let key = RequestKey::of(message.code, &message.options);
        let body = self.gather(now, origin, key, block1, &mut message)?;
        let is_validated = self.peers.is_trusted(&origin.peer);
        if !self.server.has_room_for(&origin.peer, is_validated) {
            return Err(Response::unavailable(FULL_MAX_AGE_SECS).into());
        }
        let kept_key = (origin.peer.clone(), key, BodyKey::of(&body));
        let asked = block2.map_or(Szx::MAX, Block::szx);
        let open = Open {
            origin: origin.clone(),
            kept_key,
            szx: asked.min(self.szx(&origin.peer)),
            block1,
            wants_size2: message.options.has(number::SIZE2),
            observation: None,
            is_validated,
            state: State::Fresh,
        };
        self.deliver(now, open, message.code, message.options, body);
        Ok(())
    }

    /// spec: rfc7252 §5.4.1, §5.10.2
    fn check_options(&self, message: &mut Message) -> Result<(), Turned> {
        let options = &mut message.options;
        if options.has(number::PROXY_URI) || options.has(number::PROXY_SCHEME) {
            return Err(Response::new(Code::PROXYING_NOT_SUPPORTED).into());
        }
        let mut known = self.config.known_critical.clone();
        known.extend([number::BLOCK1, number::BLOCK2]);
        if let Some(fault) = options.fault(&known) {
            return Err(match message.kind {
                Kind::Con => Response::new(Code::BAD_OPTION)
                    .saying(fault.to_string())
                    .into(),
                _ => Turned::Silence,
            });
        }
        options.drop_unusable();
        Ok(())
    }

    /// Lets through who has shown to receive at its address, and safe requests of others, whose
    /// answers are kept small. The rest is challenged before it has any effect: an answer that
    /// must be withheld afterwards would leave the client to repeat what was done.
    fn check_address(
        &mut self,
        now: Timestamp,
        origin: &Origin<P>,
        message: &Message,
    ) -> Result<(), Turned> {
        if self.peers.is_validated(&origin.peer) {
            return Ok(());
        }
        let options = &message.options;
        if let Some(value) = options.first(number::ECHO)
            && self.echo.proves(
                now,
                &(origin.peer.clone(), self.peers.path(&origin.peer)),
                value,
            )
        {
            self.peers.validate(now, &mut *self.rng, &origin.peer);
            return Ok(());
        }
        // Who registers at an address that is not proved would soon be told nothing: notifications
        // are answers to no request of theirs.
        let registers = options.observe() == Some(0);
        if self.peers.is_trusted(&origin.peer) && !registers {
            return Ok(());
        }
        let leaves_state = !message.code.is_safe() || registers || options.has(number::BLOCK1);
        if leaves_state {
            Err(self.challenge(now, &origin.peer).into())
        } else {
            Ok(())
        }
    }

    /// Serves a later block of a body we keep. Never of another one: what is not kept is 4.08.
    fn serve_block(
        &mut self,
        now: Timestamp,
        origin: &Origin<P>,
        message: &Message,
        asked: Block,
    ) -> Result<(), Turned> {
        let request = RequestKey::of(message.code, &message.options);
        let (key, kept) = self
            .server
            .kept
            .find(&origin.peer, request, &message.payload)
            .ok_or_else(|| Response::new(Code::INCOMPLETE))?;
        let szx = asked.szx().min(self.szx(&origin.peer));
        let (block, payload) = kept
            .block(asked.offset(), szx)
            .ok_or_else(|| Response::new(Code::BAD_REQUEST).saying("no such block"))?;
        let lifetime = self.timers(&origin.peer).exchange_lifetime();
        self.server.kept.served(now, lifetime, &key, block.more());
        let mut response = Response::new(kept.code);
        response.options = kept.options;
        response.options.push_block(number::BLOCK2, block);
        response.payload = payload;
        let _sent = self.reply(now, origin, response, None);
        for observation in self.server.observations.of_body(&key) {
            self.server
                .observations
                .fetching(now, observation, block.more());
        }
        self.flush(now, &origin.peer);
        Ok(())
    }

    /// The whole request body, or the answer to one of its blocks.
    fn gather(
        &mut self,
        now: Timestamp,
        origin: &Origin<P>,
        key: RequestKey,
        block1: Option<Block>,
        message: &mut Message,
    ) -> Result<Bytes, Turned> {
        let bytes_max = self.config.request_bytes_max;
        let stated = message.options.uint(number::SIZE1).unwrap_or(0);
        let stated = usize::try_from(stated).unwrap_or(usize::MAX);
        let payload = std::mem::take(&mut message.payload);
        if stated > bytes_max || payload.len() > bytes_max {
            return Err(self.too_large().into());
        }
        let Some(block) = block1 else {
            return Ok(payload.into());
        };
        let lifetime = self.timers(&origin.peer).exchange_lifetime();
        let place = (origin.peer.clone(), key);
        let mut answer = match self
            .server
            .uploads
            .gather(now, lifetime, &place, block, &payload, bytes_max)
        {
            Ok(Gathered::Whole(body)) => return Ok(body.into()),
            Ok(Gathered::Partly) => Response::new(Code::CONTINUE),
            Err(BlockRefusal::Gap) => Response::new(Code::INCOMPLETE),
            Err(BlockRefusal::Length) => {
                Response::new(Code::BAD_REQUEST).saying("not the stated block size")
            }
            Err(BlockRefusal::TooLarge) => self.too_large(),
            Err(BlockRefusal::Full) => Response::unavailable(FULL_MAX_AGE_SECS),
        };
        let szx = block.szx().min(self.szx(&origin.peer));
        if answer.code == Code::CONTINUE
            && let Ok(control) = Block::new(block.num(), true, szx)
        {
            answer.options.push_block(number::BLOCK1, control);
        }
        Err(answer.into())
    }

    fn deliver(
        &mut self,
        now: Timestamp,
        mut open: Open<P>,
        method: Code,
        mut options: Options,
        payload: Bytes,
    ) {
        let exchange = self.new_exchange();
        let peer = open.origin.peer.clone();
        open.observation = self.observe(&open, method, options.observe());
        for ours in [
            number::OBSERVE,
            number::BLOCK1,
            number::BLOCK2,
            number::SIZE1,
            number::SIZE2,
            number::ECHO,
            number::REQUEST_TAG,
        ] {
            options.remove(ours);
        }
        let timers = self.timers(&peer);
        if open.origin.kind == Kind::Con {
            let at = now + timers.piggyback_within;
            self.server.duties.set((exchange, Duty::Acknowledge), at);
        }
        self.server
            .duties
            .set((exchange, Duty::Abandon), now + timers.response_within);
        let (observation, is_validated) = (open.observation, open.is_validated);
        self.server.insert(exchange, open);
        self.emit(Event::Request {
            exchange,
            peer: peer.clone(),
            request: Request {
                method,
                options,
                payload,
                observe: observation.is_some(),
            },
            observation,
            validated: is_validated,
        });
        // A deregistration may have made room for another observation's state.
        self.flush(now, &peer);
    }

    /// Takes up an observation that was made before a restart: as if `request` had come with `token`
    /// and been accepted. None when there is no room for it.
    pub fn restore_observation(
        &mut self,
        peer: &P,
        token: Token,
        request: &Request,
    ) -> Option<ObservationId> {
        let key = RequestKey::of(request.method, &request.options);
        let kept_key = (peer.clone(), key, BodyKey::of(&request.payload));
        let szx = self.szx(peer);
        let observations = &mut self.server.observations;
        let id = observations.register(token, kept_key, szx, None)?;
        observations.get_mut(id)?.is_active = true;
        Some(id)
    }

    /// Registers or deregisters as the request asks.
    ///
    /// spec: rfc7641 §4.1
    fn observe(
        &mut self,
        open: &Open<P>,
        method: Code,
        value: Option<u32>,
    ) -> Option<ObservationId> {
        let (peer, token) = (&open.origin.peer, open.origin.token);
        let value = value.filter(|value| method.is_safe() && *value <= 1)?;
        let before = self.server.observations.of_token(peer, token);
        let replaced = before.and_then(|id| {
            let reason = if value == 0 {
                GoneReason::Replaced
            } else {
                GoneReason::Deregistered
            };
            self.take_observation(id, reason)
        });
        if value != 0 {
            return None;
        }
        let kept_key = open.kept_key.clone();
        let observations = &mut self.server.observations;
        observations.register(token, kept_key, open.szx, replaced.as_ref())
    }
}

/// What time and acknowledgements bring.
impl<P: Peer> Machine<P> {
    pub(super) fn server_timeout(&mut self, now: Timestamp) {
        while let Some((exchange, duty)) = self.server.duties.pop_due(now) {
            match duty {
                Duty::Acknowledge => self.acknowledge(exchange),
                Duty::Abandon => self.abandon(now, exchange),
            }
        }
        self.server.uploads.forget_expired(now);
        self.server.kept.forget_expired(now);
        while let Some(peer) = self.server.observations.due(now) {
            self.flush(now, &peer);
        }
    }

    /// Drops an exchange whose answer is sent and needs no acknowledgement any more.
    pub(super) fn close(&mut self, exchange: ExchangeId) {
        self.server.remove(exchange);
    }

    pub(super) fn notification_landed(
        &mut self,
        now: Timestamp,
        id: ObservationId,
        was_reset: bool,
    ) {
        let Some(peer) = self.server.observations.landed(id) else {
            return;
        };
        if was_reset {
            self.end_observation(id, GoneReason::Reset);
        } else {
            self.emit(Event::Delivered { observation: id });
        }
        self.flush(now, &peer);
    }

    /// spec: rfc7641 §4.5. lb went on every minute for ever: defect 9.
    pub(super) fn notification_lost(&mut self, now: Timestamp, id: ObservationId) {
        let Some(peer) = self.server.observations.landed(id) else {
            return;
        };
        self.end_observation(id, GoneReason::TimedOut);
        self.flush(now, &peer);
    }

    fn acknowledge(&mut self, exchange: ExchangeId) {
        let Some(open) = self.server.open.get_mut(&exchange) else {
            return;
        };
        open.state = State::Acknowledged;
        let (peer, id) = (open.origin.peer.clone(), open.origin.id);
        let bytes = self.send_empty(&peer, Kind::Ack, id);
        self.remember_answer(&peer, id, bytes);
    }

    fn abandon(&mut self, now: Timestamp, exchange: ExchangeId) {
        if self
            .respond(now, exchange, Response::unavailable(FULL_MAX_AGE_SECS))
            .is_ok()
        {
            self.emit(Event::Cancelled { exchange });
        }
    }

    pub(super) fn end_observation(&mut self, id: ObservationId, reason: GoneReason) {
        self.take_observation(id, reason);
    }

    fn take_observation(
        &mut self,
        id: ObservationId,
        reason: GoneReason,
    ) -> Option<super::observe::Observation<P>> {
        let observation = self.server.observations.remove(id)?;
        if let Some(message_id) = observation.in_flight {
            self.flights.land(&observation.peer, message_id);
        }
        self.emit(Event::ObserverGone {
            observation: id,
            reason,
        });
        Some(observation)
    }
}

/// A block option; the reserved size is 4.00 and not 4.02. spec: rfc7959 §2.2.
fn block(options: &Options, number: u16) -> Result<Option<Block>, Turned> {
    options.block(number).map_err(|wrong| {
        let code = match wrong {
            BlockError::Long(_) => Code::BAD_OPTION,
            BlockError::ReservedSize | BlockError::Number(_) => Code::BAD_REQUEST,
        };
        Response::new(code).saying(wrong.to_string()).into()
    })
}
