//! OSCORE as a link below a CoAP machine: datagrams of addresses on one side, CoAP messages of
//! peers on the other. For the end that answers requests; it sends none of its own.
//!
//! A device is its context, wherever it is: only its newest request moves it. Messages without
//! protection are a plain peer's, named by its address. An Empty message never has protection, so
//! one that acknowledges or resets is given to everyone at its address; it can end the sending
//! again of one message, and nothing else. What acknowledged a device's request is given to its copies,
//! too; the machine above sees no copies of devices.
//!
//! Contexts are fetched and numbers reserved by the caller, when [`Link::poll_want`] says so. What
//! needs them waits here, for a while.

mod combined;
mod contexts;
mod device;
mod devices;
mod held;
mod refusing;
mod sent;
#[cfg(test)]
mod tests;
mod types;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;

pub use self::types::{Arrived, ContextKey, Outgoing, Place, Plainly, UdpPeer, Want};
use self::{
    combined::{EXCHANGE_BURST, EXCHANGE_INTERVAL, is_combined, is_of_exchange},
    device::{AMPLIFICATION_MAX, Device},
    devices::Devices,
    held::Held,
    refusing::{REFUSAL_BURST, REFUSAL_INTERVAL, Refusal},
    sent::Sent,
};
use super::{
    Freshness, Id, Piv, PivUse, ProtectError, Refused, RequestBinding, SequenceError, Unprotected,
    addressee,
};
use crate::{
    base::{Few, Timestamp},
    session::{
        coap::echo::EchoKey,
        dtls::rates::{Prefix, Rates},
        ledger::Traffic,
    },
    wire::coap::{Code, Kind, Message, Token, options::number},
};

/// All devices and strangers at one socket. `N` is what the user calls a device.
pub struct Link<N = ()> {
    devices: Devices<N>,
    /// Who is at an address, for messages that do not say.
    neighbours: BTreeMap<Place, Few<Id>>,
    life: u32,
    echo: EchoKey,
    plainly: Plainly,
    held: Held,
    sent: Sent,
    fetches: Rates,
    refusals: Rates,
    exchanges: Rates,
    /// Bytes of acknowledgements kept since devices were last swept, and when that was.
    answers_bytes: usize,
    swept: Timestamp,
    arrived: VecDeque<Arrived>,
    outbox: VecDeque<Outgoing>,
    wants: VecDeque<Want>,
}

/// A request as it came.
#[derive(Clone, Copy)]
struct Came<'a> {
    now: Timestamp,
    from: SocketAddr,
    bytes: usize,
    message: &'a Message,
}

/// In.
impl<N> Link<N> {
    /// A link that knows nobody. The key must be unpredictable, and another one in each process.
    pub fn new(contexts_max: usize, echo_key: [u8; 32], plainly: Plainly) -> Self {
        Self {
            devices: Devices::new(contexts_max),
            neighbours: BTreeMap::new(),
            life: 0,
            echo: EchoKey::new(echo_key),
            plainly,
            held: Held::default(),
            sent: Sent::default(),
            fetches: Rates::new(FETCH_INTERVAL, FETCH_BURST),
            refusals: Rates::new(REFUSAL_INTERVAL, REFUSAL_BURST),
            exchanges: Rates::new(EXCHANGE_INTERVAL, EXCHANGE_BURST),
            answers_bytes: 0,
            swept: Timestamp(0),
            arrived: VecDeque::new(),
            outbox: VecDeque::new(),
            wants: VecDeque::new(),
        }
    }

    /// Takes in a datagram.
    pub fn handle_datagram(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        let Ok(message) = Message::decode(datagram) else {
            return self.plain(from, datagram); // the machine knows what it is owed
        };
        let came = Came {
            now,
            from,
            bytes: datagram.len(),
            message: &message,
        };
        self.sweep(now);
        match (message.kind, message.code) {
            (Kind::Ack | Kind::Rst, Code::EMPTY) => self.offer(from, datagram, message.id),
            (Kind::Con | Kind::Non, code) if code.is_request() => {
                if is_combined(&message) {
                    if self.may_combine(now, from) {
                        let request = Box::new(message);
                        let arrived = Arrived::Combined { from, request };
                        self.arrived.push_back(arrived);
                    }
                } else if message.options.has(number::OSCORE) {
                    self.protected(came, datagram);
                } else if self.may_speak_plainly(from) || is_of_exchange(&message) {
                    self.plain(from, datagram);
                } else {
                    self.refuse(came, Refusal::new(Code::UNAUTHORIZED, "OSCORE needed"));
                }
            }
            _ => self.plain(from, datagram),
        }
    }

    /// Something that came.
    pub fn poll_arrived(&mut self) -> Option<Arrived> {
        self.arrived.pop_front()
    }

    fn may_speak_plainly(&self, from: SocketAddr) -> bool {
        match self.plainly {
            Plainly::Nobody => false,
            Plainly::Loopback => from.ip().is_loopback(),
            Plainly::Anyone => true,
        }
    }

    fn plain(&mut self, from: SocketAddr, datagram: &[u8]) {
        let arrived = Arrived::Message {
            peer: UdpPeer::Plain(Box::new(from.into())),
            bytes: Bytes::copy_from_slice(datagram),
            path: None,
            is_proved: from.ip().is_loopback(), // nobody far away can send from there
            came: Traffic::datagram(&from, datagram.len()),
        };
        self.arrived.push_back(arrived);
    }

    /// An Empty message acknowledges or resets the message of anyone at its address who was sent
    /// one with its id.
    fn offer(&mut self, from: SocketAddr, datagram: &[u8], id: u16) {
        let mut came = Traffic::datagram(&from, datagram.len());
        let mut is_somebodys = false;
        let neighbours = self.neighbours.get(&from.into());
        for kid in neighbours.into_iter().flat_map(Few::iter) {
            let Some(device) = self.devices.get(*kid) else {
                continue;
            };
            let key = device.key(*kid);
            if !self.sent.landed(key, id) {
                continue; // it is not this one's
            }
            is_somebodys = true;
            let arrived = Arrived::Message {
                peer: UdpPeer::Device(key),
                bytes: Bytes::copy_from_slice(datagram),
                path: None,
                is_proved: false,
                came: std::mem::replace(&mut came, Traffic::NONE),
            };
            self.arrived.push_back(arrived);
        }
        if !is_somebodys {
            self.plain(from, datagram);
        }
    }

    fn protected(&mut self, came: Came<'_>, datagram: &[u8]) {
        let kid = match addressee(came.message) {
            Ok(id) => id.kid,
            Err(refused) => return self.refused(came, &refused),
        };
        match self.devices.context(kid) {
            Some(context) if context.sequence().has_reserved() => self.open(came, kid),
            // Even its first request waits until something of it is stored: a context of which
            // nothing is stored was never used, and needs no challenge after a restart.
            Some(_) => {
                self.held.hold(came.now, kid, came.from, datagram);
                self.reserve(kid);
            }
            None => {
                if self.held.is_absent(came.now, kid) {
                    return self.refused(came, &Refused::ContextNotFound);
                }
                let is_awaited = self.held.is_awaited(kid);
                if !is_awaited && !self.fetches.allow(came.now, Prefix::of(&came.from)) {
                    return;
                }
                if self.held.hold(came.now, kid, came.from, datagram) && !is_awaited {
                    self.wants.push_back(Want::Context(kid));
                }
            }
        }
    }

    fn open(&mut self, came: Came<'_>, kid: Id) {
        let Some(context) = self.devices.context(kid) else {
            return;
        };
        match context.unprotect_request(came.message) {
            Ok(unprotected) => self.authentic(came, kid, unprotected),
            Err(Refused::Replay(replay)) => match context.reopen_request(came.message) {
                Ok((piv, _)) => {
                    if !self.is_copy(came, kid, piv) {
                        self.refused(came, &Refused::Replay(replay));
                    }
                }
                Err(refused) => self.refused(came, &refused),
            },
            Err(refused) => self.refused(came, &refused),
        }
    }

    fn authentic(&mut self, came: Came<'_>, kid: Id, mut unprotected: Unprotected) {
        let mut is_proved = came.from.ip().is_loopback();
        if unprotected.freshness == Freshness::Unverified {
            let Some(context) = self.devices.context(kid) else {
                return;
            };
            let about = (kid, context.incarnation(), came.from);
            let echo = unprotected.message.options.first(number::ECHO);
            if !echo.is_some_and(|echo| self.echo.proves(came.now, &about, echo)) {
                return self.challenge(came, kid, unprotected);
            }
            if context.confirm_fresh(&mut unprotected).is_err() {
                return;
            }
            is_proved = true;
        }
        let moves = unprotected.freshness == Freshness::Newest;
        let Ok(bytes) = unprotected.message.encode() else {
            return self.refused(came, &Refused::Decryption); // larger inside than any message
        };
        let path = moves.then(|| self.move_to(kid, came.from)).flatten();
        let Some(device) = self.devices.get_mut(kid) else {
            return;
        };
        if moves || device.address() == Some(came.from) {
            device.received(came.bytes);
        }
        let (key, piv) = (device.key(kid), unprotected.binding.piv());
        device.meet(came.now, piv, came.message.id);
        device.bind(came.message, unprotected.binding);
        self.sent.asked(key, came.message.id, piv);
        let arrived = Arrived::Message {
            peer: UdpPeer::Device(key),
            bytes: bytes.into(),
            path,
            is_proved: moves && is_proved,
            came: Traffic::datagram(&came.from, came.bytes),
        };
        self.arrived.push_back(arrived);
    }

    /// Whether a request came before; then it is answered as it was, to where it came from now.
    fn is_copy(&mut self, came: Came<'_>, kid: Id, piv: Piv) -> bool {
        let Some(device) = self.devices.get(kid) else {
            return false;
        };
        let Some(answer) = device.answer_to(piv, came.message.id) else {
            return false;
        };
        let (key, answer) = (device.key(kid), Bytes::copy_from_slice(answer));
        // Anyone may have sent it. Where the device is known to be, that harms nobody; and it would
        // wait in vain there for an answer that was lost on its way.
        let is_known_there = device.is_known_at(came.from);
        self.arrived.push_back(Arrived::Copy {
            peer: UdpPeer::Device(key),
            came: Traffic::datagram(&came.from, came.bytes),
        });
        let bytes_max = came.bytes.saturating_mul(AMPLIFICATION_MAX);
        if !answer.is_empty() && (is_known_there || answer.len() <= bytes_max) {
            self.goes(Some(key), came.from, answer);
        }
        true
    }

    /// Forgets acknowledgements that nobody will ask for again, and others when there are too many.
    fn sweep(&mut self, now: Timestamp) {
        if self.answers_bytes <= ANSWERS_BYTES_MAX && now.since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        for age in [ANSWER_KEPT, ANSWER_KEPT_LEAST, Duration::ZERO] {
            let since = Timestamp(now.0.saturating_sub(in_ms(age)));
            let devices = self.devices.iter_mut();
            self.answers_bytes = devices.map(|device| device.forget_answers(since)).sum();
            if self.answers_bytes <= ANSWERS_BYTES_MAX / 2 {
                return;
            }
        }
    }

    /// The device is there from now on; gives the address as a number.
    fn move_to(&mut self, kid: Id, address: SocketAddr) -> Option<u64> {
        let device = self.devices.get_mut(kid)?;
        // A keyed hash: nobody can choose an address that is taken for another.
        let path = u64::from_be_bytes(self.echo.challenge(Timestamp(0), &address));
        if device.address() == Some(address) {
            return Some(path);
        }
        let left = device.is_at(address);
        self.leave(kid, left);
        let neighbours = self.neighbours.entry(address.into()).or_default();
        if neighbours.len() >= NEIGHBOURS_MAX {
            neighbours.remove(0);
        }
        neighbours.push(kid);
        Some(path)
    }

    fn leave(&mut self, kid: Id, address: Option<SocketAddr>) {
        let Some(place) = address.map(Place::from) else {
            return;
        };
        if let Some(neighbours) = self.neighbours.get_mut(&place) {
            neighbours.retain(|neighbour| *neighbour != kid);
            if neighbours.is_empty() {
                self.neighbours.remove(&place);
            }
        }
    }
}

/// Out.
impl<N> Link<N> {
    /// Protects and sends a message; one that cannot be sent is as if lost on the way. To an
    /// address that is not proved go at most three times the bytes that came from there, and to one
    /// that is not the device's at most three times a copy's.
    pub fn send(&mut self, now: Timestamp, peer: &UdpPeer, message: Bytes, is_proved: bool) {
        let key = match peer {
            UdpPeer::Plain(place) => return self.goes(None, (**place).into(), message),
            UdpPeer::Device(key) => *key,
        };
        let Ok(inner) = Message::decode(&message) else {
            return;
        };
        let Some(outer) = self.outer(now, key, &inner, &message, is_proved) else {
            return;
        };
        if let Some(device) = self.devices.get_mut(key.kid)
            && let Some(address) = device.address()
            && device.may_send(outer.len(), is_proved)
        {
            self.goes(Some(key), address, outer);
        }
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.outbox.pop_front()
    }

    fn goes(&mut self, device: Option<ContextKey>, to: SocketAddr, bytes: Bytes) {
        self.outbox.push_back(Outgoing { device, to, bytes });
    }

    fn outer(
        &mut self,
        now: Timestamp,
        key: ContextKey,
        inner: &Message,
        message: &Bytes,
        is_proved: bool,
    ) -> Option<Bytes> {
        let device = self.devices.get_mut(key.kid)?;
        if device.life != key.life {
            return None;
        }
        if inner.code == Code::EMPTY {
            if inner.kind == Kind::Ack {
                device.acknowledged(inner.id, message);
            }
            return Some(message.clone());
        }
        if let Some(outer) = self.sent.again(key, inner.kind, inner.id, message) {
            return Some(outer);
        }
        let (bound, context) = device.answering(inner)?;
        let piv = bound.binding.piv();
        let Some(context) = context else {
            device.wait(message.clone(), is_proved);
            self.wants.push_back(Want::Context(key.kid));
            return None;
        };
        let piv_use = if bound.is_answered {
            PivUse::Own
        } else {
            PivUse::Reuse
        };
        match context.protect_response(&mut bound.binding, inner, piv_use) {
            Ok(outer) => {
                device.answered(inner);
                let outer = Bytes::from(outer.encode().ok()?);
                match inner.kind {
                    Kind::Ack => {
                        device.acknowledged(inner.id, &outer);
                        self.answers_bytes += outer.len();
                    }
                    Kind::Con => {
                        let name = (key, inner.kind, inner.id);
                        self.sent.keep(now, name, piv, message, outer.clone());
                    }
                    Kind::Non | Kind::Rst => {} // the machine sends none again
                }
                self.reserve(key.kid);
                Some(outer)
            }
            Err(ProtectError::Sequence(SequenceError::NotReserved(_))) => {
                device.wait(message.clone(), is_proved);
                self.reserve(key.kid);
                None
            }
            Err(_) => None, // no message of ours is like that, and no number is left when all are used
        }
    }
}

/// What the machine's user asks.
impl<N> Link<N> {
    /// Where a peer is.
    pub fn address(&self, peer: &UdpPeer) -> Option<SocketAddr> {
        match peer {
            UdpPeer::Plain(place) => Some((**place).into()),
            UdpPeer::Device(key) => self.of(key)?.address(),
        }
    }

    /// What an observation must be kept with to go on after a restart.
    pub fn binding(&self, peer: &UdpPeer, token: Token) -> Option<Vec<u8>> {
        let UdpPeer::Device(key) = peer else {
            return None;
        };
        Some(self.of(key)?.observing(token)?.to_bytes())
    }

    /// Takes up an observation from before a restart, of a context that was just found. Gives who
    /// observes, and its address as a number; nothing if it was registered anew meanwhile.
    pub fn restore(
        &mut self,
        kid: Id,
        address: SocketAddr,
        token: Token,
        binding: RequestBinding,
    ) -> Option<(UdpPeer, u64)> {
        let device = self.devices.get(kid)?;
        if device.observing(token).is_some() {
            return None;
        }
        let (key, at) = (device.key(kid), device.address());
        // A device that was heard of since is where it was heard of.
        let path = self.move_to(kid, at.unwrap_or(address))?;
        self.devices.get_mut(kid)?.bind_again(token, binding);
        Some((UdpPeer::Device(key), path))
    }

    /// The observation is over.
    pub fn unbind(&mut self, peer: &UdpPeer, token: Token) {
        if let UdpPeer::Device(key) = peer
            && let Some(device) = self.devices.get_mut(key.kid)
            && device.life == key.life
        {
            device.unbind(token);
        }
    }

    /// How many contexts are here.
    pub fn contexts(&self) -> usize {
        self.devices.contexts()
    }

    /// What a device was called when its context was found.
    pub fn name(&self, key: &ContextKey) -> Option<&N> {
        self.of(key).map(|device| &device.name)
    }

    /// The devices called like this.
    pub fn called(&self, is_meant: impl Fn(&N) -> bool) -> Vec<Id> {
        let meant = self.devices.iter();
        let meant = meant.filter(|(_, device)| is_meant(&device.name));
        meant.map(|(kid, _)| kid).collect()
    }

    fn of(&self, key: &ContextKey) -> Option<&Device<N>> {
        let device = self.devices.get(key.kid)?;
        (device.life == key.life).then_some(device)
    }
}

impl<N> Device<N> {
    const fn key(&self, kid: Id) -> ContextKey {
        ContextKey {
            kid,
            life: self.life,
        }
    }
}

/// How many devices share an address at most, to be asked whose an acknowledgement is. A device
/// more pushes out the first, whose acknowledgements are then in vain until it is heard of again.
const NEIGHBOURS_MAX: usize = 16;

/// The bytes of all acknowledgements that are kept. When they are used up, those of devices that were
/// not heard of for long go; should their requests come again, their answers are lost on the way.
const ANSWERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How long an acknowledgement may be asked for: `EXCHANGE_LIFETIME` of the slowest class of links,
/// rounded up; and of the usual one, down to its last retransmission. spec: rfc7252 §4.8
const ANSWER_KEPT: Duration = Duration::from_mins(30);
const ANSWER_KEPT_LEAST: Duration = Duration::from_secs(100);

/// How often acknowledgements are looked through for old ones.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

fn in_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How often the addresses of a prefix may make us look for a context.
const FETCH_INTERVAL: Duration = Duration::from_millis(5);
const FETCH_BURST: u32 = 1024; // devices behind one network after a restart
