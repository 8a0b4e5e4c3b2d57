//! A virtual clock: one hub and any number of clients, connection machines without I/O, on a link.
//!
//! Nothing waits: [`World::step`] jumps to when something happens next, so a night on a 100 bit/s
//! radio takes a moment. What the nodes mean by their datagrams is their own affair; the caller
//! looks at them between steps ([`World::client`], [`World::hub`]) and lets them act.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;

use super::{
    link::{Delivery, Direction, Link, Origin},
    nat::Port,
    profile::Profile,
    time::Micros,
};
use crate::base::Timestamp;

/// One end of the link: a machine that is told the time and never waits.
pub trait Node {
    /// Takes in a datagram that came from this address.
    fn handle(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]);
    /// A datagram to send, and where to.
    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)>;
    /// When to call `handle_timeout`.
    fn poll_timeout(&self) -> Option<Timestamp>;
    /// Does what is due.
    fn handle_timeout(&mut self, now: Timestamp);
}

/// A CoAP machine whose peers are addresses is a node as it is.
impl Node for crate::session::coap::Machine<SocketAddr> {
    fn handle(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        self.handle_datagram(now, from, datagram);
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        Self::poll_transmit(self)
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        Self::poll_timeout(self)
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        Self::handle_timeout(self, now);
    }
}

/// Where the hub is, for every client.
pub const HUB: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 5683);

/// When the laboratory opens, for nodes that want wall time: late in 2023.
pub const OPENS: Timestamp = Timestamp(1_700_000_000_000);

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something happened: look at the nodes.
    Moved,
    /// Nothing more happens until then; the clock stands there now.
    Reached,
}

/// One hub, its clients, the link between them, and the time.
pub struct World<C, H> {
    link: Link<usize>,
    clients: Vec<C>,
    hub: H,
    now: Micros,
    /// Whose timers were already seen to at `now`: who is still due then waits for the next
    /// millisecond, and the world goes on.
    timed: Micros,
    strays: u64,
    fingerprint: u64,
}

impl<C: Node, H: Node> World<C, H> {
    /// A hub and its clients, the first of them number 0.
    pub fn new(profile: Profile, seed: u64, hub: H, clients: Vec<C>) -> Self {
        Self {
            link: Link::new(profile, seed),
            clients,
            hub,
            now: Micros::ZERO,
            timed: Micros::ZERO,
            strays: 0,
            fingerprint: FINGERPRINT_START,
        }
    }

    /// The time, as the nodes see it.
    pub const fn now(&self) -> Timestamp {
        Timestamp(OPENS.0.saturating_add(self.now.0 / MICROS_PER_MS))
    }

    /// The time since the laboratory opened.
    pub const fn elapsed(&self) -> Micros {
        self.now
    }

    /// A client.
    pub fn client(&mut self, number: usize) -> Option<&mut C> {
        self.clients.get_mut(number)
    }

    /// The hub.
    pub const fn hub(&mut self) -> &mut H {
        &mut self.hub
    }

    /// The link, for its figures.
    pub const fn link(&self) -> &Link<usize> {
        &self.link
    }

    /// Datagrams to where nobody is.
    pub const fn strays(&self) -> u64 {
        self.strays
    }

    /// A number that two runs have in common only if every delivery of theirs was the same.
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Sends what the nodes have to send, then lets the next thing happen, not after `until`.
    pub fn step(&mut self, until: Micros) -> Step {
        self.collect();
        if let Some(delivery) = self.link.poll(self.now) {
            self.deliver(&delivery);
            return Step::Moved;
        }
        let ready = if self.timed == self.now {
            Micros(self.now.0.saturating_add(MICROS_PER_MS))
        } else {
            self.now
        };
        let timer = self.next_timer().map(|at| at.max(ready));
        let arrival = self.link.poll_timeout();
        let next = [timer, arrival].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= until) else {
            self.now = self.now.max(until);
            return Step::Reached;
        };
        self.now = self.now.max(next);
        if timer == Some(next) {
            self.timed = self.now;
            self.handle_timeouts();
        }
        Step::Moved
    }

    fn collect(&mut self) {
        for (number, client) in self.clients.iter_mut().enumerate() {
            while let Some((to, datagram)) = client.poll_transmit() {
                if to == HUB {
                    self.link.offer(self.now, Origin::Client(number), datagram);
                } else {
                    self.strays += 1;
                }
            }
        }
        while let Some((to, datagram)) = self.hub.poll_transmit() {
            match port_at(to) {
                Some(port) => self.link.offer(self.now, Origin::Hub(port), datagram),
                None => self.strays += 1,
            }
        }
    }

    fn deliver(&mut self, delivery: &Delivery<usize>) {
        self.note(delivery);
        let now = self.now();
        match delivery.direction {
            Direction::Up => {
                let from = address_of(delivery.via);
                self.hub.handle(now, from, &delivery.datagram);
            }
            Direction::Down => {
                if let Some(client) = self.clients.get_mut(delivery.client) {
                    client.handle(now, HUB, &delivery.datagram);
                }
            }
        }
    }

    fn handle_timeouts(&mut self) {
        let now = self.now();
        let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        for client in &mut self.clients {
            if is_due(client.poll_timeout()) {
                client.handle_timeout(now);
            }
        }
        if is_due(self.hub.poll_timeout()) {
            self.hub.handle_timeout(now);
        }
    }

    fn next_timer(&self) -> Option<Micros> {
        let timers = self.clients.iter().map(Node::poll_timeout);
        timers
            .chain([self.hub.poll_timeout()])
            .flatten()
            .min()
            .map(|at| Micros(at.0.saturating_sub(OPENS.0).saturating_mul(MICROS_PER_MS)))
    }

    /// FNV-1a over time, way and bytes: for comparing runs, not for anyone who means harm.
    fn note(&mut self, delivery: &Delivery<usize>) {
        let way = u8::from(delivery.direction == Direction::Down);
        let head = (self.now.0.to_be_bytes(), delivery.via.0.to_be_bytes());
        let bytes = head.0.iter().chain(&head.1).chain([&way]);
        for byte in bytes.chain(delivery.datagram.iter()) {
            let mixed = self.fingerprint ^ u64::from(*byte);
            self.fingerprint = mixed.wrapping_mul(FINGERPRINT_STEP);
        }
    }
}

const MICROS_PER_MS: u64 = 1000;
const FINGERPRINT_START: u64 = 0xcbf2_9ce4_8422_2325;
const FINGERPRINT_STEP: u64 = 0x0100_0000_01b3;

/// The NAT's outside addresses, 198.18.0.0/15 (set apart for tests of network gear); each carries
/// so many ports.
const NAT_BASE: u32 = 0xc612_0000;
const NAT_ADDRESSES: u32 = 1 << 17;
const PORTS_PER_ADDRESS: u32 = 32_768;

/// What the hub sees of a NAT port.
pub fn address_of(port: Port) -> SocketAddr {
    let host = NAT_BASE | (port.0 / PORTS_PER_ADDRESS % NAT_ADDRESSES);
    let number = u16::try_from(port.0 % PORTS_PER_ADDRESS).unwrap_or(0) | 0x8000;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(host)), number)
}

/// The NAT port behind an address; none where no NAT is.
pub fn port_at(address: SocketAddr) -> Option<Port> {
    let IpAddr::V4(ip) = address.ip() else {
        return None;
    };
    let host = ip.to_bits() ^ NAT_BASE;
    let number = u32::from(address.port()).checked_sub(PORTS_PER_ADDRESS)?;
    (host < NAT_ADDRESSES).then_some(Port(host * PORTS_PER_ADDRESS + number))
}
