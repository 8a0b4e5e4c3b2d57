//! The machine as a server, outward: answers and notifications, cut into blocks, sent the way
//! their requests ask for. Requests come in through `server`.

use bytes::Bytes;

use super::{
    block::{KeptKey, Representation},
    config::FULL_MAX_AGE_SECS,
    key::etag_of,
    machine::Machine,
    reliability::{Owner, SentCon},
    server::{Duty, Origin, State},
    types::{Event, ExchangeId, GoneReason, ObservationId, Peer, RespondError, Response},
};
use crate::{
    base::Timestamp,
    wire::coap::{Code, Kind, Message, Szx, Token, options::number},
};

/// Answering.
impl<P: Peer> Machine<P> {
    /// Answers a request: piggy-backed if its acknowledgement is still owed, else as a confirmable
    /// message of its own. A body of more than a block is kept, and the client fetches the rest.
    ///
    /// On an error other than `Unknown` the client has been told so in place of the answer.
    pub fn respond(
        &mut self,
        now: Timestamp,
        exchange: ExchangeId,
        response: Response,
    ) -> Result<(), RespondError> {
        let open = self
            .server
            .open
            .get(&exchange)
            .filter(|open| open.state != State::Answered);
        let open = open.cloned().ok_or(RespondError::Unknown)?;
        let accepts = response.observing;
        // Nothing is kept for an address that may be made up.
        let is_validated = self.peers.is_trusted(&open.origin.peer);
        let response = if is_validated || response.payload.len() <= open.szx.bytes() {
            response
        } else {
            self.challenge(now, &open.origin.peer)
        };
        let (mut part, more, result) =
            match self.first_block(now, &open.kept_key, open.szx, response) {
                Ok((part, more, body_bytes)) => {
                    let mut part = part;
                    if more && open.wants_size2 {
                        part.options.push_uint(number::SIZE2, body_bytes);
                    }
                    (part, more, Ok(()))
                }
                Err((part, error)) => (part, false, Err(error)),
            };
        if let Some(block1) = open.block1 {
            part.options.push_block(number::BLOCK1, block1);
        }
        if let Some(observation) = open.observation {
            self.settle_registration(now, observation, accepts, more, &mut part);
        }
        let separate = (open.state == State::Acknowledged).then_some(exchange);
        let sent = self.reply(now, &open.origin, part, separate);
        if sent != Ok(Sent::InFlight) {
            self.close(exchange);
        } else if let Some(open) = self.server.open.get_mut(&exchange) {
            open.state = State::Answered;
            self.server.duties.clear(&(exchange, Duty::Abandon));
        }
        result?;
        sent.map(|_| ())
    }

    /// Tells an observer the resource's new state. While the last notification is not
    /// acknowledged, or its body still being fetched, the newest state waits and replaces older
    /// waiting ones; [`Event::Delivered`] says when a state arrived.
    pub fn notify(
        &mut self,
        now: Timestamp,
        observation: ObservationId,
        response: Response,
    ) -> Result<(), RespondError> {
        let bytes_max = self.config.response_bytes_max;
        let active = self
            .server
            .observations
            .get_mut(observation)
            .filter(|one| one.is_active);
        let waiting = active.ok_or(RespondError::Unknown)?;
        if response.payload.len() > bytes_max {
            return Err(RespondError::TooLarge {
                bytes: response.payload.len(),
                bytes_max,
            });
        }
        let peer = waiting.peer.clone();
        self.server.observations.wait(observation, response);
        self.flush(now, &peer);
        Ok(())
    }

    /// Tells an observer something once, unconfirmed, that is not worth a retransmission. False: it
    /// was not sent, because it does not fit into one datagram, or something that is confirmed is
    /// under way to the peer, which it would make an old state if it overtook it.
    ///
    /// spec: rfc7641 §4.5
    pub fn notify_once(
        &mut self,
        now: Timestamp,
        observation: ObservationId,
        mut response: Response,
    ) -> Result<bool, RespondError> {
        let observations = &mut self.server.observations;
        let Some(one) = observations
            .get_mut(observation)
            .filter(|one| one.is_active)
        else {
            return Err(RespondError::Unknown);
        };
        let (peer, token, szx) = (one.peer.clone(), one.token, one.szx);
        if !observations.is_free(observation, &peer) || response.payload.len() > szx.bytes() {
            return Ok(false);
        }
        let Some(id) = self.fresh_id(now, &peer) else {
            return Ok(false);
        };
        if let Some(one) = self.server.observations.get_mut(observation) {
            response
                .options
                .push_uint(number::OBSERVE, one.next_number());
        }
        let bytes = encode(Kind::Non, id, token, response)?;
        if bytes.len() as u64 > self.peers.budget(&peer) {
            return Ok(false);
        }
        self.send(&peer, bytes);
        Ok(true)
    }

    /// Sends a peer the state that waits for it longest, if nothing is in its way.
    pub(super) fn flush(&mut self, now: Timestamp, peer: &P) {
        while let Some((id, response)) = self.server.observations.take_ready(peer) {
            self.push(now, id, response);
        }
    }

    fn push(&mut self, now: Timestamp, id: ObservationId, response: Response) {
        let Some(observation) = self.server.observations.get_mut(id) else {
            return;
        };
        let (key, szx) = (observation.kept_key(), observation.szx);
        let (peer, token) = (observation.peer.clone(), observation.token);
        let (mut part, more) = match self.first_block(now, &key, szx, response) {
            Ok((part, more, _)) => (part, more),
            Err((part, _)) => (part, false),
        };
        // spec: rfc7641 §4.2. An error ends the observation and carries no Observe.
        let goes_on = part.code.is_success();
        if let Some(observation) = self.server.observations.get_mut(id)
            && goes_on
        {
            part.options
                .push_uint(number::OBSERVE, observation.next_number());
        }
        let Some(message_id) = self.fresh_id(now, &peer) else {
            return self.end_observation(id, GoneReason::TimedOut);
        };
        let Ok(bytes) = encode(Kind::Con, message_id, token, part) else {
            return self.end_observation(id, GoneReason::Refused);
        };
        let owner = Owner::Notification(id);
        self.send_reliably(
            now,
            SentCon {
                peer,
                id: message_id,
                bytes,
                owner,
            },
        );
        if !goes_on {
            // Not landed by its end: the error itself is still sent until acknowledged.
            self.server.observations.remove(id);
            return self.emit(Event::ObserverGone {
                observation: id,
                reason: GoneReason::Refused,
            });
        }
        self.server.observations.sent(id, message_id);
        if more {
            self.server.observations.fetching(now, id, true);
        }
    }

    /// The answer to a registration decides about it.
    ///
    /// spec: rfc7641 §3.1. Without Observe in the answer the client is not registered (lb sent
    /// none: defect 1), so it is there exactly when notifications will follow.
    fn settle_registration(
        &mut self,
        now: Timestamp,
        id: ObservationId,
        accepts: bool,
        more: bool,
        part: &mut Response,
    ) {
        if !accepts || !part.code.is_success() {
            self.server.observations.remove(id);
            if accepts {
                self.emit(Event::ObserverGone {
                    observation: id,
                    reason: GoneReason::Refused,
                });
            }
        } else if let Some(observation) = self.server.observations.get_mut(id) {
            observation.is_active = true;
            part.options
                .push_uint(number::OBSERVE, observation.next_number());
            if more {
                self.server.observations.fetching(now, id, true);
            }
        }
    }

    /// The whole response if it fits into a block, else its first block, with the rest kept.
    /// Says whether more follow and how large the body is.
    fn first_block(
        &mut self,
        now: Timestamp,
        key: &KeptKey<P>,
        szx: Szx,
        mut response: Response,
    ) -> Result<(Response, bool, u32), (Response, RespondError)> {
        let bytes = response.payload.len();
        let bytes_max = self.config.response_bytes_max;
        if bytes > bytes_max {
            let told = Response::new(Code::INTERNAL_ERROR).saying("answer too large");
            return Err((told, RespondError::TooLarge { bytes, bytes_max }));
        }
        if bytes <= szx.bytes() {
            self.server.kept.drop(key);
            return Ok((response, false, u32::try_from(bytes).unwrap_or(u32::MAX)));
        }
        if !response.options.has(number::ETAG) {
            let format = response.options.content_format();
            let tag = etag_of(response.code, format, &response.payload);
            response.options.push(number::ETAG, tag);
        }
        let whole = Representation {
            code: response.code,
            options: response.options.clone(),
            body: response.payload.clone(),
        };
        let Some((block, part)) = whole.block(0, szx) else {
            let told = Response::new(Code::INTERNAL_ERROR);
            return Err((told, RespondError::TooLarge { bytes, bytes_max }));
        };
        let lifetime = self.timers(&key.0).exchange_lifetime();
        if self
            .server
            .kept
            .keep(now, lifetime, key.clone(), whole)
            .is_err()
        {
            return Err((Response::unavailable(FULL_MAX_AGE_SECS), RespondError::Full));
        }
        response.options.push_block(number::BLOCK2, block);
        response.payload = part;
        Ok((response, true, u32::try_from(bytes).unwrap_or(u32::MAX)))
    }

    /// Sends an answer the way its request asks for.
    pub(super) fn reply(
        &mut self,
        now: Timestamp,
        origin: &Origin<P>,
        response: Response,
        separate: Option<ExchangeId>,
    ) -> Result<Sent, RespondError> {
        let peer = &origin.peer;
        let kind = match (origin.kind, separate) {
            (Kind::Con, None) => Kind::Ack,
            // lb sent these unconfirmed, and a lost one was lost: defect 3.
            (Kind::Con, Some(_)) => Kind::Con,
            _ => Kind::Non,
        };
        let id = if kind == Kind::Ack {
            Some(origin.id)
        } else {
            self.fresh_id(now, peer)
        };
        let Some(id) = id else { return Ok(Sent::Done) };
        let (bytes, result) = match encode(kind, id, origin.token, response) {
            Ok(bytes) => (bytes, Ok(())),
            Err(error) => {
                let told = Response::new(Code::INTERNAL_ERROR);
                (encode(kind, id, origin.token, told)?, Err(error))
            }
        };
        if bytes.len() as u64 > self.peers.budget(peer) {
            // spec: rfc9175 §2.4. Never confirmable, which would repeat it to a victim.
            let kind = if kind == Kind::Ack {
                Kind::Ack
            } else {
                Kind::Non
            };
            let challenge = self.challenge(now, peer);
            let bytes = encode(kind, id, origin.token, challenge)?;
            self.remember_answer(peer, origin.id, bytes.clone());
            self.send(peer, bytes);
            return result.map(|()| Sent::Done);
        }
        if let (Kind::Con, Some(exchange)) = (kind, separate) {
            let owner = Owner::Answer(exchange);
            self.send_reliably(
                now,
                SentCon {
                    peer: peer.clone(),
                    id,
                    bytes,
                    owner,
                },
            );
            return result.map(|()| Sent::InFlight);
        }
        if kind == Kind::Ack {
            self.remember_answer(peer, origin.id, bytes.clone());
        }
        self.send(peer, bytes);
        result.map(|()| Sent::Done)
    }

    pub(super) fn challenge(&self, now: Timestamp, peer: &P) -> Response {
        let value = self
            .echo
            .challenge(now, &(peer.clone(), self.peers.path(peer)));
        Response::new(Code::UNAUTHORIZED).option(number::ECHO, value)
    }

    pub(super) fn fresh_id(&mut self, now: Timestamp, peer: &P) -> Option<u16> {
        let lifetime = self.timers(peer).exchange_lifetime();
        self.peers.next_id(now, &mut *self.rng, peer, lifetime)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// There is nothing more to do.
    Done,
    /// It is sent again until acknowledged.
    InFlight,
}

fn encode(kind: Kind, id: u16, token: Token, response: Response) -> Result<Bytes, RespondError> {
    let Response {
        code,
        options,
        payload,
        ..
    } = response;
    let message = Message {
        kind,
        code,
        id,
        token,
        options,
        payload: payload.to_vec(),
    };
    message
        .encode()
        .map(Bytes::from)
        .map_err(RespondError::Unsendable)
}
