//! A CoAP client whose every message is protected by OSCORE; without I/O.
//!
//! The machine of `session::coap` speaks in clear on the inside, datagrams are protected on the
//! outside. Numbers must be reserved from outside ([`SecureLink::reserve_wanted`]); until they are,
//! requests wait. What comes unprotected is a hint and changes nothing.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    base::{Rng, Timestamp},
    session::{
        coap::{Config, Event, ExchangeId, Machine, Progress, Request},
        edhoc::combine,
        oscore::{
            Hint, ProtectError, RESERVE_CLIENT, RequestBinding, ResponseRefused, SecurityContext,
            SequenceError,
        },
    },
    wire::coap::{Code, Kind, Message, Options, Token},
};

/// Datagrams remembered for their retransmission: one is in flight at a time (NSTART), and a few
/// cancelled ones before it.
const SENT_MAX: usize = 16;

/// Hints kept for whoever asks.
const HINTS_MAX: usize = 16;

/// A datagram to the hub, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The ledger's line.
    pub operation: &'static str,
    /// The datagram.
    pub bytes: Bytes,
}

/// Our end of an OSCORE link.
pub struct SecureLink {
    machine: Machine<()>,
    context: SecurityContext,
    bindings: BTreeMap<Token, Bound>,
    sent: VecDeque<Sent>,
    /// What the machine gave out and no number was there for.
    unnumbered: VecDeque<Bytes>,
    outbox: VecDeque<Outgoing>,
    hints: VecDeque<Hint>,
    /// What the last message that came in was for: an empty acknowledgement is for the same.
    answering: &'static str,
    is_exhausted: bool,
    /// Goes in front of each request until the hub has shown that it has the context.
    message_3: Option<Vec<u8>>,
}

struct Bound {
    binding: RequestBinding,
    operation: &'static str,
}

struct Sent {
    id: u16,
    inner: Bytes,
    outgoing: Outgoing,
}

impl SecureLink {
    /// A link over this context. `rng` must be unpredictable outside tests.
    pub fn new(context: SecurityContext, mut rng: Box<dyn Rng + Send>) -> Self {
        let mut echo_key = [0; 32]; // a client challenges nobody
        rng.fill_bytes(&mut echo_key);
        let mut config = Config::new(echo_key);
        config.serves_requests = false;
        // Answers are bound to their requests by OSCORE; a token only tells them apart.
        config.token_bytes = 1;
        Self {
            machine: Machine::new(config, rng),
            context,
            bindings: BTreeMap::new(),
            sent: VecDeque::new(),
            unnumbered: VecDeque::new(),
            outbox: VecDeque::new(),
            hints: VecDeque::new(),
            answering: UNASKED,
            is_exhausted: false,
            message_3: None,
        }
    }

    /// The context was just agreed, and the hub does not have it before it has this.
    ///
    /// spec: rfc9668 §3.2.1
    pub fn bring(&mut self, message_3: Vec<u8>) {
        self.message_3 = Some(message_3);
    }

    /// Takes message ids that no earlier process can have used: the hub knows a device by its context, at
    /// whatever port, and would take what has an id of minutes ago for a copy. Each message has a
    /// number of its own, and numbers begin above all that were used; each context has them from elsewhere
    /// on.
    ///
    /// spec: rfc7252 §4.4
    pub fn begin_ids(&mut self, now: Timestamp) {
        let hash = Sha256::digest(self.context.id().kid.as_bytes());
        let from = hash.iter().take(2);
        let from = from.fold(0_u16, |from, byte| (from << 8) | u16::from(*byte));
        let [.., high, low] = self.context.incarnation().to_be_bytes();
        let number = u16::from_be_bytes([high, low]);
        self.machine
            .begin_ids_at(now, &(), from.wrapping_add(number));
    }

    /// Sets the timers for a class of links. spec: thin-profile §11
    pub fn set_link_class(&mut self, now: Timestamp, class: u8) {
        self.machine.mark_validated(now, &());
        self.machine.set_link_class(now, &(), class);
    }

    /// Sends a request when its turn comes.
    pub fn request(&mut self, now: Timestamp, request: Request) -> ExchangeId {
        let exchange = self.machine.request(now, (), request);
        self.pump();
        exchange
    }

    /// How far the bodies of an exchange have got, where they are in blocks.
    pub fn progress(&self, exchange: ExchangeId) -> Option<Progress> {
        self.machine.progress(exchange)
    }

    /// Gives a request up, or ends an observation.
    pub fn cancel(&mut self, now: Timestamp, exchange: ExchangeId) {
        self.machine.cancel(now, exchange);
        self.pump();
    }

    /// Sends one byte that keeps a NAT's mapping open. spec: thin-profile §11
    pub fn keep_alive(&mut self) {
        self.outbox.push_back(Outgoing {
            operation: "keep-alive",
            bytes: Bytes::from_static(&[0]),
        });
    }

    /// The ceiling to store before it is told to [`SecureLink::reserved`].
    pub fn reserve_wanted(&self) -> Option<u64> {
        self.context.reserve_wanted(RESERVE_CLIENT)
    }

    /// Numbers below this are ours, durably.
    pub fn reserved(&mut self, ceiling: u64) {
        self.context.reserved(ceiling);
        let waiting = std::mem::take(&mut self.unnumbered);
        for inner in waiting {
            self.protect(inner);
        }
    }

    /// Whether no number is left, and a fresh context is needed.
    pub const fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// Takes in a datagram; gives the ledger's line it belongs to.
    pub fn handle_datagram(&mut self, now: Timestamp, datagram: &[u8]) -> &'static str {
        let Ok(outer) = Message::decode(datagram) else {
            return UNASKED; // of nobody who speaks CoAP
        };
        let operation = self.sort(now, &outer, datagram);
        self.answering = operation;
        self.pump();
        operation
    }

    fn sort(&mut self, now: Timestamp, outer: &Message, datagram: &[u8]) -> &'static str {
        if outer.code == Code::EMPTY {
            let id = outer.id;
            let sent = self.sent.iter().find(|sent| sent.id == id);
            let operation = sent.map_or(UNASKED, |sent| sent.outgoing.operation);
            // Not authenticated: it stops retransmission at most, and the request is asked again.
            self.machine.handle_datagram(now, (), datagram);
            return operation;
        }
        if !outer.code.is_response() {
            return UNASKED; // we serve nobody
        }
        let known = self.bindings.get_mut(&outer.token);
        let operation = known.as_ref().map_or(UNASKED, |bound| bound.operation);
        let is_copy = outer.kind != Kind::Ack && self.machine.has_seen(now, &(), outer.id);
        let Some(bound) = known.filter(|_| !is_copy) else {
            // Acknowledged as before, or rejected as nobody's: nothing in it is looked at.
            self.machine.handle_datagram(now, (), datagram);
            return operation;
        };
        match self.context.unprotect_response(&mut bound.binding, outer) {
            Ok(inner) => {
                self.message_3 = None;
                if let Ok(inner) = inner.encode() {
                    self.machine.handle_datagram(now, (), &inner);
                }
            }
            Err(ResponseRefused::Unprotected(hint)) => {
                if self.hints.len() < HINTS_MAX {
                    self.hints.push_back(hint);
                }
            }
            // Authentic and overtaken: the hub need not say it again.
            Err(ResponseRefused::Stale { .. } | ResponseRefused::Answered)
                if outer.kind == Kind::Con =>
            {
                self.acknowledge(outer.id, operation);
            }
            Err(refused) => tracing::debug!(%refused, "a message is not what it claims to be"),
        }
        operation
    }

    fn acknowledge(&mut self, id: u16, operation: &'static str) {
        let empty = Message::empty(Kind::Ack, id).encode();
        let bytes = Bytes::from(empty.expect("an Empty message is four bytes"));
        self.outbox.push_back(Outgoing { operation, bytes });
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.machine.handle_timeout(now);
        self.pump();
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.machine.poll_timeout()
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.outbox.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event<()>> {
        self.machine.poll_event()
    }

    /// What somebody said without proof. spec: rfc8613 §8.4
    pub fn poll_hint(&mut self) -> Option<Hint> {
        self.hints.pop_front()
    }

    fn pump(&mut self) {
        while let Some(((), inner)) = self.machine.poll_transmit() {
            self.protect(inner);
        }
    }

    fn protect(&mut self, inner: Bytes) {
        let Ok(message) = Message::decode(&inner) else {
            return; // the machine encoded it
        };
        if !message.code.is_request() {
            // Acknowledgements and resets have nothing to protect.
            let operation = self.answering;
            return self.outbox.push_back(Outgoing {
                operation,
                bytes: inner,
            });
        }
        // The same again is the same again: another number would make it another message.
        if let Some(sent) = self.sent.iter().find(|sent| sent.inner == inner) {
            return self.outbox.push_back(sent.outgoing.clone());
        }
        if !self.unnumbered.is_empty() {
            return self.unnumbered.push_back(inner);
        }
        match self.context.protect_request(&message) {
            Ok((outer, binding)) => self.send(&message, inner, &outer, binding),
            Err(ProtectError::Sequence(SequenceError::NotReserved(_))) => {
                self.unnumbered.push_back(inner);
            }
            Err(ProtectError::Sequence(SequenceError::Exhausted)) => self.is_exhausted = true,
            Err(error) => tracing::warn!(%error, "a request cannot be protected"),
        }
    }

    fn send(&mut self, message: &Message, inner: Bytes, outer: &Message, binding: RequestBinding) {
        let combined = self.message_3.as_ref();
        let combined = combined.map(|message_3| combine(outer, message_3));
        let outer = combined.as_ref().unwrap_or(outer);
        let Ok(bytes) = outer.encode().map(Bytes::from) else {
            return tracing::warn!("a protected request does not fit into a message");
        };
        let operation = operation_of(&message.options, message.code);
        let outgoing = Outgoing { operation, bytes };
        self.bindings
            .insert(message.token, Bound { binding, operation });
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent {
            id: message.id,
            inner,
            outgoing: outgoing.clone(),
        });
        self.outbox.push_back(outgoing);
    }
}

/// Nothing we asked for.
const UNASKED: &str = "unasked";

/// The ledger's line of a request.
pub(super) fn operation_of(options: &Options, method: Code) -> &'static str {
    let mut path = options.path();
    match (path.next(), path.next(), method) {
        (None, ..) => "hello",
        (Some("*"), ..) => "sync",
        (Some("@"), ..) => "names",
        (Some("="), ..) => "link profile",
        (Some("^"), ..) => "wake hook",
        (Some("$"), ..) => "ledger",
        (Some("~"), ..) => "other",
        (Some("~m"), ..) => "file",
        (Some(_), Some("!"), _) => "typing",
        (Some(_), Some(_), _) => "entry",
        (Some(_), None, Code::POST) => "send",
        (Some(_), None, Code::PUT) => "read receipt",
        (Some(_), None, _) => "read",
    }
}
