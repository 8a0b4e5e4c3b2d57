//! The link: two lanes with a NAT at their far end.

use bytes::Bytes;

use super::{
    chance::Chance,
    lane::{Airtime, Lane},
    nat::{Nat, Port},
    profile::{Profile, on_link},
    stats::{ClientStats, NatStats, Stats},
    time::Micros,
};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From a client to the hub.
    Up,
    /// From the hub to a client.
    Down,
}

/// Where a datagram was put in: a client is whatever the caller tells clients apart by, the hub
/// sends to a port of the NAT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin<C> {
    /// This client sent it.
    Client(C),
    /// The hub sent it to this port.
    Hub(Port),
}

/// A datagram that came through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<C> {
    /// Which way it went.
    pub direction: Direction,
    /// The client at this end or that.
    pub client: C,
    /// The port on the hub's side it went through.
    pub via: Port,
    /// Its bytes, unchanged.
    pub datagram: Bytes,
}

/// A two-way link between clients and a hub.
pub struct Link<C> {
    profile: Profile,
    up: Lane<C>,
    down: Lane<(C, Port)>,
    nat: Nat<C>,
}

impl<C: Clone + Ord> Link<C> {
    /// A link of this kind; the same seed and the same offers give the same deliveries.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Self {
            up: Lane::new(profile.up, Chance::new(seed, 1)),
            down: Lane::new(profile.down, Chance::new(seed, 2)),
            nat: Nat::new(),
            profile,
        }
    }

    /// Puts a datagram in.
    pub fn offer(&mut self, now: Micros, from: Origin<C>, datagram: Bytes) {
        let (profile, size) = (&self.profile, on_link(&datagram));
        match from {
            Origin::Client(client) => {
                let air = self.up.offer(profile, now, client.clone(), datagram);
                self.nat.sent(now, &client, size, air);
            }
            Origin::Hub(port) => {
                if let Some(client) = self.nat.inbound(profile, now, port) {
                    self.down.offer(profile, now, (client, port), datagram);
                } else {
                    self.down.stats.offered.add(size);
                    self.down.stats.lost.nat.add(size);
                }
            }
        }
    }

    /// Takes a datagram out that has arrived by `now`.
    pub fn poll(&mut self, now: Micros) -> Option<Delivery<C>> {
        let is_up_first = match (self.up.poll_timeout(), self.down.poll_timeout()) {
            (Some(up), Some(down)) => up <= down,
            (up, _) => up.is_some(),
        };
        if is_up_first {
            let (at, arrived) = self.up.poll(now)?;
            let via = self.nat.outbound(&self.profile, at, &arrived.to);
            return Some(Delivery {
                direction: Direction::Up,
                client: arrived.to,
                via,
                datagram: arrived.datagram,
            });
        }
        let (at, arrived) = self.down.poll(now)?;
        let (client, via) = arrived.to;
        let own_us = super::time::micros(self.down.time_for(&arrived.datagram));
        let air = Airtime {
            from: Micros(at.0.saturating_sub(own_us)),
            until: at,
        };
        self.nat.received(&client, on_link(&arrived.datagram), air);
        Some(Delivery {
            direction: Direction::Down,
            client,
            via,
            datagram: arrived.datagram,
        })
    }

    /// When `poll` will give something; none when nothing is on its way.
    pub fn poll_timeout(&self) -> Option<Micros> {
        let both = [self.up.poll_timeout(), self.down.poll_timeout()];
        both.into_iter().flatten().min()
    }

    /// A NAT port that was given up: whoever keeps a socket for it may close that.
    pub fn poll_closed(&mut self) -> Option<Port> {
        self.nat.poll_closed()
    }

    /// What the link is like.
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What happened in one direction so far.
    pub const fn stats(&self, direction: Direction) -> &Stats {
        match direction {
            Direction::Up => &self.up.stats,
            Direction::Down => &self.down.stats,
        }
    }

    /// Bytes, headers included, that wait to be clocked out.
    pub fn waiting_bytes(&mut self, now: Micros, direction: Direction) -> u64 {
        match direction {
            Direction::Up => self.up.waiting_bytes(now),
            Direction::Down => self.down.waiting_bytes(now),
        }
    }

    /// What the NAT did so far.
    pub const fn nat_stats(&self) -> &NatStats {
        &self.nat.stats
    }

    /// How often a client's radio woke up: a burst after more than ten seconds of silence is one.
    pub const fn wakeups(&self) -> u64 {
        self.nat.wakeups
    }

    /// Everyone who is remembered, at most [`super::CLIENTS_MAX`].
    pub fn clients(&self) -> impl Iterator<Item = (&C, &ClientStats)> {
        self.nat.clients()
    }

    /// Datagrams that have neither arrived nor been lost, second copies apart.
    #[cfg(test)]
    pub(super) fn on_its_way(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Up => self.up.on_its_way(),
            Direction::Down => self.down.on_its_way(),
        }
    }
}
