//! Connections: by name, by address, by neighbourhood, and by how long they have been silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::{channel::Channel, credentials::Identity, rates::Prefix, types::ConnId};
use crate::base::Timestamp;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) address: SocketAddr,
    pub(super) identity: Option<Identity>,
    pub(super) due: Option<Timestamp>,
    /// When the client last proved that it is there.
    used: Timestamp,
    /// The highest sequence number of a record that the client proved to be its own.
    newest: u64,
}

impl Connection {
    pub(super) const fn new(
        channel: Channel,
        address: SocketAddr,
        identity: Option<Identity>,
        now: Timestamp,
    ) -> Self {
        Self {
            channel,
            address,
            identity,
            due: None,
            used: now,
            newest: 0,
        }
    }

    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        now.since(self.used) > MOVES_AFTER
    }
}

/// All connections. What an index goes by is changed by [`Established::change`] and nowhere else.
#[derive(Debug, Default)]
pub(super) struct Established {
    connections: BTreeMap<ConnId, Connection>,
    by_address: BTreeMap<SocketAddr, ConnId>,
    /// For trial decryption: who was in a neighbourhood, the most recent last.
    by_prefix: BTreeSet<(Prefix, Timestamp, ConnId)>,
    /// For time-out and eviction: those that anyone can open first, then the longest silent.
    by_use: BTreeSet<(bool, Timestamp, ConnId)>,
}

impl Established {
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn ids(&self) -> Vec<ConnId> {
        self.connections.keys().copied().collect()
    }

    pub(super) fn at(&self, address: &SocketAddr) -> Option<ConnId> {
        self.by_address.get(address).copied()
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    pub(super) fn insert(&mut self, id: ConnId, connection: Connection) {
        self.by_address.insert(connection.address, id);
        self.index(id, &connection);
        self.connections.insert(id, connection);
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        self.unindex(id, &connection);
        // another may have come to that address in between
        if self.at(&connection.address) == Some(id) {
            self.by_address.remove(&connection.address);
        }
        Some(connection)
    }

    /// The client proved that it is there, with a record that was its `newest` or an older one.
    pub(super) fn used(&mut self, now: Timestamp, id: ConnId, newest: u64) {
        self.change(id, |connection| {
            connection.used = now;
            connection.newest = connection.newest.max(newest);
        });
    }

    /// The client is at another address from now on; gives the former one.
    pub(super) fn moved(&mut self, id: ConnId, to: SocketAddr) -> Option<SocketAddr> {
        let from = self.get(id)?.address;
        if self.at(&from) == Some(id) {
            self.by_address.remove(&from);
        }
        self.by_address.insert(to, id);
        self.change(id, |connection| connection.address = to);
        Some(from)
    }

    fn change(&mut self, id: ConnId, act: impl FnOnce(&mut Connection)) {
        let Some(mut connection) = self.connections.remove(&id) else {
            return;
        };
        self.unindex(id, &connection);
        act(&mut connection);
        self.index(id, &connection);
        self.connections.insert(id, connection);
    }

    fn index(&mut self, id: ConnId, connection: &Connection) {
        let prefix = Prefix::of(&connection.address);
        self.by_prefix.insert((prefix, connection.used, id));
        let has_identity = connection.identity.is_some();
        self.by_use.insert((has_identity, connection.used, id));
    }

    fn unindex(&mut self, id: ConnId, connection: &Connection) {
        let prefix = Prefix::of(&connection.address);
        self.by_prefix.remove(&(prefix, connection.used, id));
        let has_identity = connection.identity.is_some();
        self.by_use.remove(&(has_identity, connection.used, id));
    }

    /// Whose record this could be, the likeliest first: connections of the neighbourhood that
    /// are silent and have not sent that far.
    // spec: rfc6347 §4.1.2.6
    pub(super) fn candidates(
        &self,
        now: Timestamp,
        from: &SocketAddr,
        sequence_number: u64,
    ) -> Vec<ConnId> {
        let prefix = Prefix::of(from);
        let first = (prefix, Timestamp(0), ConnId(0));
        let last = (prefix, Timestamp(u64::MAX), ConnId(u64::MAX));
        let mut found: Vec<_> = self
            .by_prefix
            .range(first..=last)
            .rev()
            .take(LOOKED_AT_MAX)
            .filter_map(|(_, _, id)| Some((*id, self.get(*id)?)))
            .filter(|(_, connection)| {
                connection.is_idle(now)
                    && connection.newest < sequence_number
                    && connection.channel.is_dtls12()
            })
            .map(|(id, connection)| {
                let is_elsewhere = connection.address.ip() != from.ip();
                (is_elsewhere, sequence_number - connection.newest, id)
            })
            .collect();
        found.sort_unstable();
        found.truncate(CANDIDATES_MAX);
        found.into_iter().map(|(_, _, id)| id).collect()
    }

    /// Which must go so that another one fits, if any may: nobody whom we know for somebody whom
    /// we do not.
    pub(super) fn to_evict(&self, is_for_identity: bool) -> Option<ConnId> {
        let (has_identity, _, id) = self.by_use.first()?;
        (is_for_identity || !has_identity).then_some(*id)
    }

    /// One that has been silent for `idle_max`.
    pub(super) fn expired(&self, now: Timestamp, idle_max: Duration) -> Option<ConnId> {
        let mut longest = self.longest_silent();
        longest.find_map(|(used, id)| (now.since(used) >= idle_max).then_some(id))
    }

    /// When the next one will have been silent for `idle_max`.
    pub(super) fn next_timeout(&self, idle_max: Duration) -> Option<Timestamp> {
        self.longest_silent().map(|(used, _)| used + idle_max).min()
    }

    /// The longest silent of either class.
    fn longest_silent(&self) -> impl Iterator<Item = (Timestamp, ConnId)> {
        [false, true].into_iter().filter_map(|has_identity| {
            let first = (has_identity, Timestamp(0), ConnId(0));
            let (class, used, id) = self.by_use.range(first..).next()?;
            (*class == has_identity).then_some((*used, *id))
        })
    }
}

/// A connection that was used more recently does not move: its client has no reason to, and its
/// records need not be tried on it.
const MOVES_AFTER: Duration = Duration::from_secs(30);

/// On how many connections a record from an unknown address is tried: two microseconds each.
const CANDIDATES_MAX: usize = 16;

/// How many of a neighbourhood are looked at to find the candidates, the most recently heard
/// first: behind one NAT of a mobile network there can be thousands.
const LOOKED_AT_MAX: usize = 512;
