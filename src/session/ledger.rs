//! What every device's traffic cost: exchanges, bytes and datagrams by operation, and wake-ups.
//!
//! Bytes are those of the socket with IP and UDP headers. Doors count; nothing here decides
//! anything. spec: thin-profile §13

use std::{borrow::Borrow, net::SocketAddr, ops::AddAssign, time::Duration};

use crate::base::{Recent, Timestamp};

/// Datagrams in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many.
    pub datagrams: u64,
    /// Their bytes, with IP and UDP headers.
    pub bytes: u64,
}

/// IP and UDP headers of a datagram, in bytes: 20 + 8 and 40 + 8.
const HEADER_BYTES_V4: u64 = 28;
const HEADER_BYTES_V6: u64 = 48;

impl Traffic {
    /// Nothing.
    pub const NONE: Self = Self {
        datagrams: 0,
        bytes: 0,
    };

    /// One UDP datagram with this many bytes of payload, from or to `peer`.
    pub fn datagram(peer: &SocketAddr, payload_bytes: usize) -> Self {
        Self::datagrams(peer, 1, u64::try_from(payload_bytes).unwrap_or(u64::MAX))
    }

    /// Several UDP datagrams with this many bytes of payload together.
    pub fn datagrams(peer: &SocketAddr, datagrams: u64, payload_bytes: u64) -> Self {
        let is_v4 = peer.ip().to_canonical().is_ipv4();
        let header = if is_v4 {
            HEADER_BYTES_V4
        } else {
            HEADER_BYTES_V6
        };
        Self {
            datagrams,
            bytes: payload_bytes.saturating_add(header.saturating_mul(datagrams)),
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.datagrams = self.datagrams.saturating_add(other.datagrams);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What one operation cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often it was done.
    pub exchanges: u64,
    /// To the hub.
    pub up: Traffic,
    /// From the hub.
    pub down: Traffic,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.exchanges = self.exchanges.saturating_add(other.exchanges);
        self.up += other.up;
        self.down += other.down;
    }
}

impl Cost {
    /// `[exchanges, bytes up, bytes down, datagrams up, datagrams down]`.
    pub const fn figures(&self) -> [u64; 5] {
        [
            self.exchanges,
            self.up.bytes,
            self.down.bytes,
            self.up.datagrams,
            self.down.datagrams,
        ]
    }
}

/// One device's traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// By name. Most devices have two or three, and nearly all devices are idle.
    lines: Vec<(&'static str, Cost)>,
    wakeups: u64,
    heard: Option<Timestamp>,
}

impl Account {
    /// Operations and their cost, by name.
    pub fn lines(&self) -> impl Iterator<Item = (&'static str, &Cost)> {
        self.lines.iter().map(|(name, cost)| (*name, cost))
    }

    /// All of them together.
    pub fn total(&self) -> Cost {
        let mut total = Cost::default();
        self.lines.iter().for_each(|(_, cost)| total += *cost);
        total
    }

    /// First datagrams after a silence.
    pub const fn wakeups(&self) -> u64 {
        self.wakeups
    }

    /// Counts; true if that woke the device's radio.
    fn count(&mut self, now: Timestamp, operation: &'static str, cost: Cost) -> bool {
        *self.line(operation) += cost;
        if cost.up.datagrams == 0 && cost.down.datagrams == 0 {
            return false;
        }
        let last = self.heard.replace(now);
        let woke = last.is_none_or(|last| now.since(last) >= SILENCE);
        self.wakeups += u64::from(woke);
        woke
    }

    fn line(&mut self, operation: &'static str) -> &mut Cost {
        let found = self
            .lines
            .binary_search_by_key(&operation, |(name, _)| *name);
        let at = found.unwrap_or_else(|at| {
            self.lines.reserve_exact(1);
            self.lines.insert(at, (operation, Cost::default()));
            at
        });
        let (_, cost) = self.lines.get_mut(at).expect("found or put there");
        cost
    }
}

/// After a silence this long, a datagram wakes the radio: what cellular networks grant after traffic.
pub const SILENCE: Duration = Duration::from_secs(10);

/// Devices with an account: 120 bytes each, and 60 for each operation.
pub const ACCOUNTS_MAX: usize = 65_536;

/// The accounts of all devices; the least recently used goes when there are too many.
#[derive(Clone, Debug)]
pub struct Ledger<D> {
    accounts: Recent<D, Account>,
}

impl<D: Ord> Default for Ledger<D> {
    fn default() -> Self {
        Self {
            accounts: Recent::new(ACCOUNTS_MAX),
        }
    }
}

impl<D: Ord> Ledger<D> {
    /// Counts; true if that woke the device's radio.
    pub fn count(&mut self, now: Timestamp, device: &D, operation: &'static str, cost: Cost) -> bool
    where
        D: Clone,
    {
        let account = self
            .accounts
            .entry(device, || device.clone(), Account::default);
        account.count(now, operation, cost)
    }

    /// A device's account.
    pub fn account<Q: Ord + ?Sized>(&self, device: &Q) -> Option<&Account>
    where
        D: Borrow<Q>,
    {
        self.accounts.get(device)
    }

    /// All accounts, by device.
    pub fn accounts(&self) -> impl Iterator<Item = (&D, &Account)> {
        self.accounts.iter()
    }

    /// Forgets a device that is gone.
    pub fn forget<Q: Ord + ?Sized>(&mut self, device: &Q)
    where
        D: Borrow<Q>,
    {
        self.accounts.remove(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_count_28_and_48_bytes_a_datagram() {
        let v4 = "192.0.2.1:5684".parse().unwrap();
        let v6 = "[2001:db8::1]:5684".parse().unwrap();
        let mapped = "[::ffff:192.0.2.1]:5684".parse().unwrap();

        assert_eq!(Traffic::datagram(&v4, 10).bytes, 38);
        assert_eq!(Traffic::datagram(&v6, 10).bytes, 58);
        assert_eq!(Traffic::datagram(&mapped, 10).bytes, 38);
        assert_eq!(Traffic::datagrams(&v4, 3, 10).bytes, 94);
    }

    #[test]
    fn a_first_datagram_after_ten_seconds_is_a_wake_up_and_the_sums_are_right() {
        let peer = "192.0.2.1:5684".parse().unwrap();
        let mut ledger = Ledger::default();
        let up = Cost {
            exchanges: 0,
            up: Traffic::datagram(&peer, 20),
            down: Traffic::NONE,
        };
        let down = Cost {
            exchanges: 1,
            up: Traffic::NONE,
            down: Traffic::datagram(&peer, 12),
        };
        for (ms, operation, cost) in [
            (0, "a", up),
            (9_999, "a", down),
            (19_998, "b", up),
            (29_998, "b", down),
        ] {
            ledger.count(Timestamp(ms), &"device", operation, cost);
        }
        let only_counted = Cost {
            exchanges: 1,
            ..Cost::default()
        };
        ledger.count(Timestamp(90_000), &"device", "c", only_counted);

        let account = ledger.account("device").unwrap();
        let lines: Vec<_> = account
            .lines()
            .map(|(name, cost)| (name, cost.figures()))
            .collect();
        assert_eq!(
            lines,
            [
                ("a", [1, 48, 40, 1, 1]),
                ("b", [1, 48, 40, 1, 1]),
                ("c", [1, 0, 0, 0, 0])
            ]
        );
        assert_eq!(account.total().figures(), [3, 96, 80, 2, 2]);
        assert_eq!(account.wakeups(), 2);
    }
}
