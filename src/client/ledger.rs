//! What requests cost, counted at the socket.

use std::collections::BTreeMap;

/// Bytes and datagrams, in both directions.
///
/// Over UDP these are datagram payloads; over TCP what the socket carried, TLS records included.
/// IP and transport headers come on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes to the hub.
    pub up: u64,
    /// Bytes from the hub.
    pub down: u64,
    /// Datagrams to the hub; for TCP, writes.
    pub datagrams_up: u64,
    /// Datagrams from the hub; for TCP, reads.
    pub datagrams_down: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.up += other.up;
        self.down += other.down;
        self.datagrams_up += other.datagrams_up;
        self.datagrams_down += other.datagrams_down;
    }
}

impl std::ops::Sub for Cost {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            up: self.up - earlier.up,
            down: self.down - earlier.down,
            datagrams_up: self.datagrams_up - earlier.datagrams_up,
            datagrams_down: self.datagrams_down - earlier.datagrams_down,
        }
    }
}

impl Cost {
    /// Both directions together.
    pub fn total(&self) -> u64 {
        self.up + self.down
    }
}

/// How often an operation was done and what it cost altogether.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    lines: BTreeMap<String, (u64, Cost)>,
}

impl Ledger {
    /// Notes one operation.
    pub fn add(&mut self, operation: &str, cost: Cost) {
        let line = self.lines.entry(operation.to_owned()).or_default();
        line.0 += 1;
        line.1 += cost;
    }

    /// Everything together.
    pub fn total(&self) -> Cost {
        let mut total = Cost::default();
        for (_, cost) in self.lines.values() {
            total += *cost;
        }
        total
    }

    /// Operation, how often, and the cost of all of them.
    pub fn lines(&self) -> impl Iterator<Item = (&str, u64, Cost)> {
        self.lines
            .iter()
            .map(|(operation, (count, cost))| (operation.as_str(), *count, *cost))
    }
}
