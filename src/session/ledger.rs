//! What every device's traffic cost: exchanges, bytes and datagrams by operation, and wake-ups.
//!
//! Bytes are those of the socket with IP and UDP headers. Doors count; nothing here decides
//! anything. spec: thin-profile §13

use std::{borrow::Borrow, net::SocketAddr, ops::AddAssign, time::Duration};

use crate::{
    base::{Recent, Short, Timestamp},
    wire::thin::{decode_numbers, encode_numbers},
};

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
    /// By name.
    lines: Vec<(&'static str, Cost)>,
    wakeups: u64,
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
}

/// An account as it is kept: at most 40 bytes, because there is one for each device, and nearly all
/// are idle.
#[derive(Clone, Debug, Default)]
struct Kept {
    /// The number of each operation and its figures, one behind the other. Of two operations this is
    /// in place; most devices have two or three.
    lines: Short<22>,
    /// When the last datagram passed, if one did: then there is a wake-up.
    heard: Timestamp,
    wakeups: u32,
    /// What was done last.
    last: u16,
}

/// A line: the operation's number, and [`Cost::figures`].
const LINE_NUMBERS: usize = 6;

impl Kept {
    /// Counts; true if that woke the device's radio.
    fn count(&mut self, now: Timestamp, operation: u16, cost: Cost) -> bool {
        let mut lines: Vec<(u16, Cost)> = self.lines().collect();
        match lines.iter_mut().find(|(number, _)| *number == operation) {
            Some((_, before)) => *before += cost,
            None => lines.push((operation, cost)),
        }
        self.write(&lines);
        if cost.up.datagrams == 0 && cost.down.datagrams == 0 {
            return false;
        }
        let last = std::mem::replace(&mut self.heard, now);
        let woke = self.wakeups == 0 || now.since(last) >= SILENCE;
        self.wakeups = self.wakeups.saturating_add(u32::from(woke));
        woke
    }

    fn lines(&self) -> impl Iterator<Item = (u16, Cost)> + use<> {
        let bytes = self.lines.as_slice();
        let numbers = decode_numbers(bytes, bytes.len()).unwrap_or_default(); // we wrote them
        let (lines, _) = numbers.as_chunks::<LINE_NUMBERS>();
        let lines: Vec<_> = lines.iter().map(|line| line_of(*line)).collect();
        lines.into_iter()
    }

    fn write(&mut self, lines: &[(u16, Cost)]) {
        let numbers = lines.iter().flat_map(|(operation, cost)| {
            let operation = std::iter::once(u64::from(*operation));
            operation.chain(cost.figures())
        });
        let numbers: Vec<u64> = numbers.collect();
        self.lines = encode_numbers(&numbers).as_slice().into();
    }
}

/// See [`Cost::figures`].
fn line_of(numbers: [u64; LINE_NUMBERS]) -> (u16, Cost) {
    let [
        operation,
        exchanges,
        bytes_up,
        bytes_down,
        datagrams_up,
        datagrams_down,
    ] = numbers;
    let traffic = |datagrams, bytes| Traffic { datagrams, bytes };
    let cost = Cost {
        exchanges,
        up: traffic(datagrams_up, bytes_up),
        down: traffic(datagrams_down, bytes_down),
    };
    (u16::try_from(operation).unwrap_or(u16::MAX), cost)
}

/// After a silence this long, a datagram wakes the radio: what cellular networks grant after traffic.
pub const SILENCE: Duration = Duration::from_secs(10);

/// Devices with an account, some 100 bytes each.
pub const ACCOUNTS_MAX: usize = 65_536;

/// What is counted before anything was done.
pub const CONNECTION: &str = "Connection";

/// The accounts of all devices; the least recently used goes when there are too many.
#[derive(Clone, Debug)]
pub struct Ledger<D> {
    accounts: Recent<D, Kept>,
    /// The names that operations have numbers for, in the order of these; there are a few dozen.
    operations: Vec<&'static str>,
}

impl<D: Ord> Default for Ledger<D> {
    fn default() -> Self {
        Self {
            accounts: Recent::new(ACCOUNTS_MAX),
            operations: vec![CONNECTION],
        }
    }
}

impl<D: Ord + Clone> Ledger<D> {
    /// Counts; true if that woke the device's radio.
    pub fn count(
        &mut self,
        now: Timestamp,
        device: &D,
        operation: &'static str,
        cost: Cost,
    ) -> bool {
        let operation = self.number(operation);
        self.kept(device).count(now, operation, cost)
    }

    /// Counts for what was done last, and says what that was.
    pub fn count_on(&mut self, now: Timestamp, device: &D, cost: Cost) -> (&'static str, bool) {
        let kept = self.kept(device);
        let operation = kept.last;
        let woke = kept.count(now, operation, cost);
        (self.name(operation), woke)
    }

    /// This was done: what is counted without a name from now on is that.
    pub fn did(&mut self, device: &D, operation: &'static str) {
        self.kept(device).last = self.number(operation);
    }

    fn kept(&mut self, device: &D) -> &mut Kept {
        self.accounts
            .entry(device, || device.clone(), Kept::default)
    }

    fn number(&mut self, operation: &'static str) -> u16 {
        let known = self.operations.iter().position(|one| *one == operation);
        let at = known.unwrap_or_else(|| {
            self.operations.push(operation);
            self.operations.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    }
}

impl<D: Ord> Ledger<D> {
    fn name(&self, operation: u16) -> &'static str {
        let name = self.operations.get(usize::from(operation));
        name.copied().unwrap_or(CONNECTION)
    }

    fn shown(&self, kept: &Kept) -> Account {
        let lines = kept.lines();
        let mut lines: Vec<_> = lines
            .map(|(number, cost)| (self.name(number), cost))
            .collect();
        lines.sort_unstable_by_key(|(name, _)| *name);
        Account {
            lines,
            wakeups: kept.wakeups.into(),
        }
    }

    /// A device's account.
    pub fn account<Q: Ord + ?Sized>(&self, device: &Q) -> Option<Account>
    where
        D: Borrow<Q>,
    {
        self.accounts.get(device).map(|kept| self.shown(kept))
    }

    /// All accounts, by device.
    pub fn accounts(&self) -> impl Iterator<Item = (&D, Account)> {
        let accounts = self.accounts.iter();
        accounts.map(|(device, kept)| (device, self.shown(kept)))
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
    fn what_has_no_name_is_of_what_was_done_last() {
        let mut ledger = Ledger::default();
        let cost = Cost {
            exchanges: 0,
            up: Traffic {
                datagrams: 1,
                bytes: 300_000,
            },
            down: Traffic::NONE,
        };
        let now = Timestamp(0);
        assert_eq!(ledger.count_on(now, &"device", cost), (CONNECTION, true));
        ledger.did(&"device", "b");
        assert_eq!(ledger.count_on(now, &"device", cost), ("b", false));
        ledger.count(now, &"device", "a", cost);
        assert_eq!(ledger.count_on(now, &"device", cost), ("b", false));

        let account = ledger.account("device").unwrap();
        let lines: Vec<_> = account
            .lines()
            .map(|(name, cost)| (name, cost.up.bytes))
            .collect();
        assert_eq!(
            lines,
            [(CONNECTION, 300_000), ("a", 300_000), ("b", 600_000)]
        );
    }

    #[test]
    fn an_account_is_kept_in_few_bytes_and_two_usual_operations_in_place() {
        assert!(size_of::<Kept>() <= 40);
        let mut kept = Kept::default();
        let usual = Cost {
            exchanges: 100,
            up: Traffic {
                datagrams: 120,
                bytes: 9000,
            },
            down: Traffic {
                datagrams: 120,
                bytes: 9000,
            },
        };
        kept.count(Timestamp(0), 1, usual);
        kept.count(Timestamp(0), 2, usual);
        assert!(kept.lines.as_slice().len() <= 22);
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
