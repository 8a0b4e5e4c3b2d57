//! Any number of clients on one socket: sorts datagrams to connections, makes new ones, finds
//! those whose address has changed.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dimpl::Dtls;

use super::{
    channel::{Channel, Said, Step},
    client_hello::{self, ClientHello},
    credentials::{Certificate, PskSource, Resolver},
    established::{Connection, Established},
    half_open::{HANDSHAKE_MAX, HalfOpen, Handshake},
    rates::{Prefix, Rates},
    record::{self, Record, Sort},
    times::Times,
    types::{
        CloseReason, ConfigError, ConnId, DATAGRAM_BYTES_MAX, Event, PAYLOAD_BYTES_MAX, SendError,
    },
};
use crate::base::Timestamp;

/// How many and how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Handshakes at a time; the oldest gives way.
    pub half_open_max: usize,
    /// Connections at a time; the longest silent gives way.
    pub established_max: usize,
    /// How long a connection may be silent.
    pub idle_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            half_open_max: 4096,     // 4.5 kB each: 18 MB
            established_max: 16_384, // 6.5 kB each: 106 MB
            // A device that reports once a day keeps its connection; what it costs to keep is
            // less than the 500 bytes and four round trips of another handshake.
            idle_max: Duration::from_hours(25),
        }
    }
}

/// What a server proves itself with, and its ceilings.
#[derive(Clone, Default)]
pub struct ServerConfig {
    /// For clients that check a certificate.
    pub certificate: Option<Certificate>,
    /// For clients that share a key with us.
    pub psk: Option<Arc<dyn PskSource>>,
    /// The ceilings.
    pub limits: Limits,
}

/// One end of any number of connections.
pub struct Server {
    library: Arc<dimpl::Config>,
    certificate: Option<Certificate>,
    resolver: Option<Arc<Resolver>>,
    limits: Limits,
    times: Times,
    half_open: HalfOpen,
    established: Established,
    hellos: Rates,
    trials: Rates,
    /// When to wake which connection's library object.
    due: BTreeSet<(Timestamp, ConnId)>,
    next_id: u64,
    outbox: VecDeque<(SocketAddr, Bytes)>,
    events: VecDeque<Event>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (half_open, established) = (self.half_open.len(), self.established.len());
        write!(
            f,
            "Server({half_open} half open, {established} established)"
        )
    }
}

impl Server {
    /// A server that has met nobody. `base` is the library's name for the moment `now`; both must
    /// be of clocks that go at the same speed.
    pub fn new(config: ServerConfig, base: Instant, now: Timestamp) -> Result<Self, ConfigError> {
        if config.certificate.is_none() && config.psk.is_none() {
            return Err(ConfigError::NothingToShow);
        }
        let resolver = config.psk.map(Resolver::new).map(Arc::new);
        let mut library = dimpl::Config::builder()
            .mtu(DATAGRAM_BYTES_MAX)
            .require_client_certificate(false)
            .handshake_timeout(HANDSHAKE_MAX);
        if let Some(resolver) = &resolver {
            library = library.with_psk_server(None, Arc::clone(resolver) as _);
        }
        let library = library.build().map_err(ConfigError::Library)?;
        if let Some(certificate) = &config.certificate {
            certificate.check(&library)?;
        }
        Ok(Self {
            library: Arc::new(library),
            certificate: config.certificate,
            resolver,
            limits: config.limits,
            times: Times::new(base, now),
            half_open: HalfOpen::new(config.limits.half_open_max),
            established: Established::default(),
            hellos: Rates::new(HELLO_INTERVAL, HELLO_BURST),
            trials: Rates::new(TRIAL_INTERVAL, TRIAL_BURST),
            due: BTreeSet::new(),
            next_id: 1,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// Shows another certificate from now on; handshakes under way end with the old one.
    pub fn set_certificate(&mut self, certificate: Certificate) -> Result<(), ConfigError> {
        certificate.check(&self.library)?;
        self.certificate = Some(certificate);
        Ok(())
    }

    /// How many handshakes are under way.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// How many connections there are.
    pub fn established(&self) -> usize {
        self.established.len()
    }

    /// Where a connection's client is.
    pub fn address(&self, conn: ConnId) -> Option<SocketAddr> {
        self.established.get(conn).map(|found| found.address)
    }

    /// Takes in a datagram.
    pub fn handle_datagram(&mut self, now: Timestamp, from: SocketAddr, bytes: &[u8]) {
        match record::sort(bytes) {
            Sort::Handshake => match client_hello::peek(bytes) {
                Some(hello) if hello.message_seq == 0 => self.greeted(now, from, &hello, bytes),
                _ => self.shaken(now, from, bytes),
            },
            Sort::Protected => self.protected(now, from, bytes),
            Sort::Hidden => {
                if let Some(id) = self.half_open.at(&from) {
                    self.feed_handshake(now, id, bytes);
                }
                if let Some(id) = self.established.at(&from) {
                    self.feed(now, id, bytes, 0);
                }
            }
            Sort::Unknown => {}
        }
    }

    /// Sends bytes in one record.
    pub fn send(&mut self, now: Timestamp, conn: ConnId, bytes: &[u8]) -> Result<(), SendError> {
        let count = bytes.len();
        if count > PAYLOAD_BYTES_MAX {
            return Err(SendError::TooLarge { bytes: count });
        }
        let instant = self.times.instant(now);
        let found = self.established.get_mut(conn).ok_or(SendError::Unknown)?;
        let step = found
            .channel
            .step(instant, |dtls| dtls.send_application_data(bytes).map(drop));
        self.stepped(now, conn, step);
        Ok(())
    }

    /// Closes a connection and tells the client.
    pub fn close(&mut self, now: Timestamp, conn: ConnId) {
        self.end(now, conn, CloseReason::Local);
    }

    /// Closes every connection and tells the clients.
    pub fn close_all(&mut self, now: Timestamp) {
        for conn in self.established.ids() {
            self.close(now, conn);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let later = self
            .due
            .split_off(&(now + Duration::from_millis(1), ConnId(0)));
        let due = std::mem::replace(&mut self.due, later);
        for (_, id) in due {
            self.wake(now, id);
        }
        while let Some((id, handshake)) = self.half_open.remove_expired(now) {
            self.forget_due(id, handshake.due);
        }
        while let Some(id) = self.established.expired(now, self.limits.idle_max) {
            self.end(now, id, CloseReason::Idle);
        }
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        [
            self.due.first().map(|(due, _)| *due),
            self.half_open.next_timeout(),
            self.established.next_timeout(self.limits.idle_max),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.outbox.pop_front()
    }

    /// Something that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The first message of a handshake. At an established address it runs aside: only when it
    /// is finished does it take the other's place, because anyone can write an address on it.
    // spec: rfc6347 §4.2.8
    fn greeted(&mut self, now: Timestamp, from: SocketAddr, hello: &ClientHello<'_>, bytes: &[u8]) {
        if let Some(id) = self.half_open.at(&from) {
            let same = self.half_open.get(id);
            if same.is_some_and(|handshake| !handshake.gives_way_to(hello)) {
                return self.feed_handshake(now, id, bytes);
            }
        }
        let is_near = from.ip().to_canonical().is_loopback();
        if !is_near && !self.hellos.allow(now, Prefix::of(&from)) {
            return;
        }
        let instant = self.times.instant(now);
        let Some(dtls) = self.machine_for(hello, instant) else {
            return;
        };
        if let Some(id) = self.half_open.at(&from) {
            self.drop_handshake(id);
        }
        let id = ConnId(self.next_id);
        self.next_id += 1;
        let handshake = Handshake::new(Channel::new(dtls), from, now, hello);
        if let Some((oldest, handshake)) = self.half_open.insert(id, handshake) {
            self.forget_due(oldest, handshake.due);
        }
        self.feed_handshake(now, id, bytes);
    }

    /// With a key for whoever can, and else with our certificate.
    fn machine_for(&self, hello: &ClientHello<'_>, now: Instant) -> Option<Dtls> {
        let has_keys = self.resolver.as_ref().is_some_and(|keys| !keys.is_empty());
        let library = Arc::clone(&self.library);
        let mut dtls = if hello.offers_psk && has_keys {
            Dtls::new_12_psk(library, now)
        } else {
            let Certificate(certificate) = self.certificate.clone()?;
            Dtls::new_auto(library, certificate, now)
        };
        dtls.set_active(false);
        Some(dtls)
    }

    /// A later message of a handshake, or one sent again after its end.
    fn shaken(&mut self, now: Timestamp, from: SocketAddr, bytes: &[u8]) {
        if let Some(id) = self.half_open.at(&from) {
            self.feed_handshake(now, id, bytes);
        } else if let Some(id) = self.established.at(&from) {
            self.feed(now, id, bytes, 0);
        }
    }

    /// Records under keys: of whoever is at that address, or of somebody who has moved there.
    fn protected(&mut self, now: Timestamp, from: SocketAddr, bytes: &[u8]) {
        let at = self.established.at(&from);
        let mut may_have_moved = at.is_none_or(|id| {
            let found = self.established.get(id);
            found.is_none_or(|connection| connection.is_idle(now))
        });
        // One by one, so that each is judged by its own sequence number.
        for record in record::records(bytes) {
            let at = self.established.at(&from);
            let is_known =
                at.is_some_and(|id| self.feed(now, id, record.bytes, record.sequence_number));
            if is_known {
                may_have_moved = false;
            } else if may_have_moved {
                may_have_moved = false; // one trial for each datagram
                self.seek(now, from, record);
            }
        }
    }

    /// Looks for the connection that a record from an unknown address belongs to. Without keys
    /// nothing but trying can tell; so it is tried on few, not often, and only with a record
    /// that is newer than all before: an old one, caught and sent again from elsewhere, moves
    /// nobody.
    // spec: rfc6347 §4.1.2.6
    fn seek(&mut self, now: Timestamp, from: SocketAddr, record: Record<'_>) {
        if !record.is_application_data() {
            return;
        }
        let candidates = self
            .established
            .candidates(now, &from, record.sequence_number);
        if candidates.is_empty() || !self.trials.allow(now, Prefix::of(&from)) {
            return;
        }
        let instant = self.times.instant(now);
        for id in candidates {
            let Some(found) = self.established.get_mut(id) else {
                continue;
            };
            let step = found
                .channel
                .step(instant, |dtls| dtls.handle_packet(record.bytes));
            let is_its_own = step.as_ref().is_ok_and(Step::is_authenticated);
            if is_its_own {
                self.established.used(now, id, record.sequence_number);
                if let Some(was) = self.established.moved(id, from) {
                    self.events.push_back(Event::Moved {
                        conn: id,
                        from: was,
                        to: from,
                    });
                }
            }
            self.stepped(now, id, step);
            if is_its_own {
                return;
            }
        }
    }

    /// Gives a connection bytes; whether its client wrote them.
    fn feed(&mut self, now: Timestamp, id: ConnId, bytes: &[u8], sequence_number: u64) -> bool {
        let instant = self.times.instant(now);
        let Some(found) = self.established.get_mut(id) else {
            return false;
        };
        let step = found
            .channel
            .step(instant, |dtls| dtls.handle_packet(bytes));
        let is_authenticated = step.as_ref().is_ok_and(Step::is_authenticated);
        if is_authenticated {
            self.established.used(now, id, sequence_number);
        }
        self.stepped(now, id, step);
        is_authenticated
    }

    fn feed_handshake(&mut self, now: Timestamp, id: ConnId, bytes: &[u8]) {
        let instant = self.times.instant(now);
        let Some(handshake) = self.half_open.get_mut(id) else {
            return;
        };
        handshake.received(bytes.len());
        let step = handshake
            .channel
            .step(instant, |dtls| dtls.handle_packet(bytes));
        self.handshake_stepped(now, id, step);
    }

    fn wake(&mut self, now: Timestamp, id: ConnId) {
        let instant = self.times.instant(now);
        if let Some(handshake) = self.half_open.get_mut(id) {
            handshake.due = None; // it was taken out of the list
            let step = handshake.channel.step(instant, |_| Ok(()));
            self.handshake_stepped(now, id, step);
        } else if let Some(found) = self.established.get_mut(id) {
            found.due = None;
            let step = found.channel.step(instant, |_| Ok(()));
            self.stepped(now, id, step);
        }
    }

    fn handshake_stepped(&mut self, now: Timestamp, id: ConnId, step: Result<Step, dimpl::Error>) {
        // taken after each step, so that it is of this handshake and no other
        let identity = self.resolver.as_ref().and_then(|keys| keys.take());
        let Some(handshake) = self.half_open.get_mut(id) else {
            return;
        };
        let Ok(mut step) = step else {
            return self.drop_handshake(id); // also a wrong key: the client is told nothing
        };
        handshake.identity = identity.or_else(|| handshake.identity.take());
        handshake.hold_back(&mut step);
        let is_done = step.said.iter().any(|said| matches!(said, Said::Connected));
        if is_done && !self.promote(now, id) {
            return;
        }
        if is_done {
            return self.said(now, id, step);
        }
        let address = self.half_open.get(id).map(|handshake| handshake.address);
        self.note_due(id, step.due);
        for said in step.said {
            if let (Said::Packet(packet), Some(address)) = (said, address) {
                self.transmit(address, packet);
            }
        }
    }

    /// Makes a connection of a finished handshake, unless there is no room for it.
    fn promote(&mut self, now: Timestamp, id: ConnId) -> bool {
        let Some(handshake) = self.half_open.remove(id) else {
            return false;
        };
        self.forget_due(id, handshake.due);
        if let Some(old) = self.established.at(&handshake.address) {
            self.end(now, old, CloseReason::Replaced);
        }
        if self.established.len() >= self.limits.established_max {
            let Some(evicted) = self.established.to_evict(handshake.identity.is_some()) else {
                return false;
            };
            self.end(now, evicted, CloseReason::Evicted);
        }
        let (address, identity) = (handshake.address, handshake.identity);
        let connection = Connection::new(handshake.channel, address, identity.clone(), now);
        self.established.insert(id, connection);
        self.events.push_back(Event::Connected {
            conn: id,
            from: address,
            identity,
        });
        true
    }

    fn stepped(&mut self, now: Timestamp, id: ConnId, step: Result<Step, dimpl::Error>) {
        if let Some(keys) = &self.resolver {
            keys.take(); // a connection asks for no key, and no handshake may find one left over
        }
        match step {
            Ok(step) => self.said(now, id, step),
            Err(_) => self.end(now, id, CloseReason::Failed),
        }
    }

    /// Passes on what a connection said.
    fn said(&mut self, now: Timestamp, id: ConnId, step: Step) {
        let Some(address) = self.address(id) else {
            return;
        };
        self.note_due(id, step.due);
        let mut is_over = false;
        for said in step.said {
            match said {
                Said::Packet(packet) => self.transmit(address, packet),
                Said::Data(bytes) if !bytes.is_empty() => {
                    self.events.push_back(Event::Data { conn: id, bytes });
                }
                Said::Closed => is_over = true,
                Said::Connected | Said::PeerCert(_) | Said::Data(_) => {}
            }
        }
        if is_over {
            self.end(now, id, CloseReason::Peer);
        }
    }

    /// Ends a connection, with a farewell where somebody is left to read it.
    fn end(&mut self, now: Timestamp, id: ConnId, reason: CloseReason) {
        let instant = self.times.instant(now);
        let Some(mut connection) = self.established.remove(id) else {
            return;
        };
        self.forget_due(id, connection.due);
        if matches!(
            reason,
            CloseReason::Local | CloseReason::Idle | CloseReason::Evicted
        ) && let Ok(step) = connection.channel.step(instant, Dtls::close)
        {
            for said in step.said {
                if let Said::Packet(packet) = said {
                    self.transmit(connection.address, packet);
                }
            }
        }
        self.events.push_back(Event::Closed { conn: id, reason });
    }

    fn drop_handshake(&mut self, id: ConnId) {
        if let Some(handshake) = self.half_open.remove(id) {
            self.forget_due(id, handshake.due);
        }
    }

    fn note_due(&mut self, id: ConnId, due: Instant) {
        let due = self.times.timestamp(due);
        let place = if let Some(handshake) = self.half_open.get_mut(id) {
            &mut handshake.due
        } else if let Some(connection) = self.established.get_mut(id) {
            &mut connection.due
        } else {
            return;
        };
        let before = std::mem::replace(place, due);
        self.forget_due(id, before);
        if let Some(due) = due {
            self.due.insert((due, id));
        }
    }

    fn forget_due(&mut self, id: ConnId, due: Option<Timestamp>) {
        if let Some(due) = due {
            self.due.remove(&(due, id));
        }
    }

    fn transmit(&mut self, to: SocketAddr, packet: Bytes) {
        if self.outbox.len() >= OUTBOX_MAX {
            self.outbox.pop_front();
        }
        self.outbox.push_back((to, packet));
    }
}

/// Handshakes that one neighbourhood may begin: 64 at once, as after a restart of ours, then 16
/// a second. Each costs 0.1 ms and 4.5 kB until it is finished or given up.
const HELLO_BURST: u32 = 64;
const HELLO_INTERVAL: Duration = Duration::from_millis(62);

/// Records of a neighbourhood that are tried on its silent connections: 32 at once, then 8 a
/// second, each on 16 of them.
const TRIAL_BURST: u32 = 32;
const TRIAL_INTERVAL: Duration = Duration::from_millis(125);

/// Datagrams waiting to be taken out. The caller takes them out after each call; what is above
/// this is as if lost on the way.
const OUTBOX_MAX: usize = 8192;
