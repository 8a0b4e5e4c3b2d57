//! The NAT at the link's far end, and what is remembered of each client.
//!
//! A client's first datagram opens a mapping: a port on the hub's side. Only what the client sends
//! keeps it open (rfc4787 lets a NAT count inbound traffic too; the strict ones are those that
//! break programs). A new mapping always has a port that was never used before.

use std::{collections::BTreeMap, time::Duration};

use super::{
    lane::Airtime,
    profile::Profile,
    stats::{ClientStats, NatStats, RADIO_SLEEPS_AFTER},
    time::{Micros, micros},
};

/// A port on the hub's side of the NAT; never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

/// Clients remembered at once; the one silent for longest makes room.
///
/// Each may cost `tramline lab` a socket, and processes are commonly allowed 1024.
pub const CLIENTS_MAX: usize = 512;

/// All clients and their mappings.
pub(super) struct Nat<C> {
    pub(super) stats: NatStats,
    /// Of all clients ever, the forgotten ones too.
    pub(super) wakeups: u64,
    clients: BTreeMap<C, Client>,
    owners: BTreeMap<Port, C>,
    closed: Vec<Port>,
    next_port: u32,
}

#[derive(Default)]
struct Client {
    stats: ClientStats,
    /// When the mapping was last used from inside.
    refreshed: Micros,
    /// When the radio was last busy; none before its first datagram.
    awake_until: Option<Micros>,
}

impl<C: Clone + Ord> Nat<C> {
    pub(super) const fn new() -> Self {
        Self {
            stats: NatStats {
                ports: 0,
                rebindings: 0,
                evicted: 0,
            },
            wakeups: 0,
            clients: BTreeMap::new(),
            owners: BTreeMap::new(),
            closed: Vec::new(),
            next_port: 1,
        }
    }

    /// The port a client's datagram comes out of at `at`; a fresh one if the old mapping is gone.
    pub(super) fn outbound(&mut self, profile: &Profile, at: Micros, client: &C) -> Port {
        let (old, refreshed) = {
            let known = self.client(at, client);
            let before = (known.stats.port, known.refreshed);
            known.refreshed = at;
            before
        };
        if let Some(port) = old
            && is_open(profile, refreshed, at)
        {
            return port;
        }
        let port = Port(self.next_port);
        self.next_port = self.next_port.wrapping_add(1);
        self.stats.ports += 1;
        if let Some(old) = old {
            self.stats.rebindings += 1;
            self.close(old);
        }
        self.owners.insert(port, client.clone());
        self.client(at, client).stats.port = Some(port);
        port
    }

    /// Whose port it is, while its mapping is open.
    pub(super) fn inbound(&self, profile: &Profile, at: Micros, port: Port) -> Option<C> {
        let owner = self.owners.get(&port)?;
        let known = self.clients.get(owner)?;
        is_open(profile, known.refreshed, at).then(|| owner.clone())
    }

    /// A port that was given up; nothing will ever come out of it again.
    pub(super) fn poll_closed(&mut self) -> Option<Port> {
        self.closed.pop()
    }

    /// A client sent something of this size; `air` is when its radio was busy with it, if ever.
    pub(super) fn sent(&mut self, now: Micros, client: &C, size: u64, air: Option<Airtime>) {
        self.client(now, client).stats.up.add(size);
        if let Some(air) = air {
            self.woke(now, client, air);
        }
    }

    /// Something of this size reached a client.
    pub(super) fn received(&mut self, client: &C, size: u64, air: Airtime) {
        if self.clients.contains_key(client) {
            self.client(air.until, client).stats.down.add(size);
            self.woke(air.until, client, air);
        }
    }

    /// Everyone who is remembered.
    pub(super) fn clients(&self) -> impl Iterator<Item = (&C, &ClientStats)> {
        self.clients
            .iter()
            .map(|(name, client)| (name, &client.stats))
    }

    fn woke(&mut self, now: Micros, client: &C, air: Airtime) {
        let known = self.client(now, client);
        let slept = known
            .awake_until
            .is_none_or(|until| air.from.since(until) > RADIO_SLEEPS_AFTER);
        known.stats.wakeups += u64::from(slept);
        known.awake_until = known.awake_until.max(Some(air.until));
        self.wakeups += u64::from(slept);
    }

    fn client(&mut self, now: Micros, client: &C) -> &mut Client {
        if !self.clients.contains_key(client) && self.clients.len() >= CLIENTS_MAX {
            self.evict();
        }
        self.clients
            .entry(client.clone())
            .or_insert_with(|| Client {
                refreshed: now,
                ..Client::default()
            })
    }

    fn evict(&mut self) {
        let silent = self
            .clients
            .iter()
            .min_by_key(|(_, client)| client.refreshed)
            .map(|(name, _)| name.clone());
        let Some(client) = silent.and_then(|name| self.clients.remove(&name)) else {
            return;
        };
        self.stats.evicted += 1;
        if let Some(port) = client.stats.port {
            self.close(port);
        }
    }

    fn close(&mut self, port: Port) {
        self.owners.remove(&port);
        // Somebody who never asks for them must not pile them up.
        if self.closed.len() < CLOSED_MAX {
            self.closed.push(port);
        }
    }
}

/// Closed ports kept for whoever asks; every caller that has sockets asks after each datagram.
const CLOSED_MAX: usize = 2 * CLIENTS_MAX;

/// Whether a mapping last used from inside at `refreshed` still stands.
fn is_open(profile: &Profile, refreshed: Micros, now: Micros) -> bool {
    let is_fresh = |timeout: Duration| now.since(refreshed) < timeout;
    profile.nat_timeout.is_none_or(is_fresh)
        && generation(profile, refreshed) == generation(profile, now)
}

/// How often the NAT has forgotten everything by then.
fn generation(profile: &Profile, at: Micros) -> u64 {
    let every = profile.rebind.map_or(0, micros);
    at.0.checked_div(every).unwrap_or(0)
}
