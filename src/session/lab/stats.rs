//! What a link did, counted.

use std::time::Duration;

use serde::Serialize;

use super::nat::Port;

/// What stands before each datagram on the link: 20 bytes of IPv4, 8 of UDP.
pub const HEADER_BYTES: u64 = 28;

/// The radio has slept when nothing went either way for longer than this, and then wakes up.
pub const RADIO_SLEEPS_AFTER: Duration = Duration::from_secs(10);

/// Datagrams and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many.
    pub datagrams: u64,
    /// UDP payloads.
    pub bytes: u64,
    /// The same with IPv4 and UDP headers.
    pub bytes_with_headers: u64,
}

impl Tally {
    pub(super) fn add(&mut self, on_link: u64) {
        self.datagrams += 1;
        self.bytes += on_link.saturating_sub(HEADER_BYTES);
        self.bytes_with_headers += on_link;
    }
}

/// What was lost, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Larger than the MTU.
    pub mtu: Tally,
    /// No room to wait.
    pub queue: Tally,
    /// By independent loss.
    pub chance: Tally,
    /// In a burst.
    pub burst: Tally,
    /// In a black-out.
    pub blackout: Tally,
    /// Sent to a NAT mapping that does not exist any more.
    pub nat: Tally,
}

impl Lost {
    /// All of them, with their names.
    pub const fn by_cause(&self) -> [(&'static str, Tally); 6] {
        [
            ("mtu", self.mtu),
            ("queue", self.queue),
            ("chance", self.chance),
            ("burst", self.burst),
            ("blackout", self.blackout),
            ("nat", self.nat),
        ]
    }

    /// How many datagrams in all.
    pub fn datagrams(&self) -> u64 {
        self.by_cause()
            .iter()
            .map(|(_, tally)| tally.datagrams)
            .sum()
    }
}

/// One direction of a link.
///
/// Always: `offered` = `delivered` − `duplicated` + lost + what is still on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Put in.
    pub offered: Tally,
    /// Taken out, second copies included.
    pub delivered: Tally,
    /// Second copies taken out.
    pub duplicated: u64,
    /// Taken out after one that was put in later.
    pub reordered: u64,
    /// What never came out.
    pub lost: Lost,
    /// What had to wait for its turn in the queue.
    pub queued: u64,
    /// How long they waited, together.
    pub queue_us_total: u64,
    /// The longest wait.
    pub queue_us_max: u64,
}

/// What the NAT did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NatStats {
    /// Ports given out.
    pub ports: u64,
    /// Times a client's port was replaced by another.
    pub rebindings: u64,
    /// Clients forgotten to make room for new ones.
    pub evicted: u64,
}

/// One client of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Its newest NAT mapping; it may have run out.
    pub port: Option<Port>,
    /// How often its radio had to wake up.
    pub wakeups: u64,
    /// What it sent.
    pub up: Tally,
    /// What reached it.
    pub down: Tally,
}
