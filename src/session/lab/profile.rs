//! What a link is like. Numbers only; what they do to a datagram is in `lane` and `nat`.

use std::{num::NonZeroU64, time::Duration};

use super::{
    stats::HEADER_BYTES,
    time::{Micros, micros},
};

/// What a link is like. [`Profile::PERFECT`] changes nothing; the named ones are in `profiles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Bandwidth from the clients to the hub.
    pub up: Rate,
    /// Bandwidth from the hub to the clients.
    pub down: Rate,
    /// Propagation delay, one way, beside the time the bits take.
    pub delay: Duration,
    /// Up to so much is added to the delay, evenly spread. Order is kept: later datagrams wait.
    pub jitter: Duration,
    /// Independent loss, each way.
    pub loss: Ppm,
    /// Loss in bursts, each way, beside the independent one.
    pub burst: Option<Burst>,
    /// How many datagrams are held back so that later ones overtake them.
    pub reorder: Ppm,
    /// How many datagrams arrive twice.
    pub duplicate: Ppm,
    /// The largest datagram in bytes, its 28 of IPv4 and UDP included; larger ones vanish.
    pub mtu: Option<u32>,
    /// What may wait for its turn, per direction, in bytes with headers; the rest is dropped at the
    /// tail. One datagram of any size always may.
    pub queue_bytes: u64,
    /// The NAT forgets everything this often.
    pub rebind: Option<Duration>,
    /// The NAT forgets a client that has sent nothing for so long.
    pub nat_timeout: Option<Duration>,
    /// When the radio is away: whatever would leave then, either way, is lost.
    pub blackouts: Vec<Blackout>,
}

impl Profile {
    /// A link that changes nothing.
    pub const PERFECT: Self = Self {
        up: Rate::UNLIMITED,
        down: Rate::UNLIMITED,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: Ppm::NEVER,
        burst: None,
        reorder: Ppm::NEVER,
        duplicate: Ppm::NEVER,
        mtu: None,
        queue_bytes: QUEUE_BYTES_MAX,
        rebind: None,
        nat_timeout: None,
        blackouts: Vec::new(),
    };

    /// Whether the radio is away.
    pub(super) fn is_dark(&self, at: Micros) -> bool {
        self.blackouts.iter().any(|blackout| blackout.covers(at))
    }
}

/// What may wait in one direction at most, in bytes: the deepest buffer anyone would model, and
/// what keeps an unlimited queue from taking all memory.
pub const QUEUE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Black-outs of one profile; a run that needs more is better scripted.
pub const BLACKOUTS_MAX: usize = 16;

/// Bits per second, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<NonZeroU64>);

impl Rate {
    /// Bits take no time.
    pub const UNLIMITED: Self = Self(None);

    /// So many bits per second; 0 is no limit.
    pub const fn bits(per_second: u64) -> Self {
        Self(NonZeroU64::new(per_second))
    }

    /// Bits per second; none is no limit.
    pub const fn per_second(self) -> Option<NonZeroU64> {
        self.0
    }

    /// How long so many bytes take to clock out, rounded up to a microsecond.
    pub fn time_for(self, bytes: u64) -> Duration {
        let Some(rate) = self.0 else {
            return Duration::ZERO;
        };
        let bit_micros = bytes.saturating_mul(8).saturating_mul(MICROS_PER_SECOND);
        Duration::from_micros(bit_micros.div_ceil(rate.get()))
    }
}

const MICROS_PER_SECOND: u64 = 1_000_000;

/// Parts per million; at most all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ppm(u32);

impl Ppm {
    /// Nothing.
    pub const NEVER: Self = Self(0);
    /// Everything.
    pub const ALWAYS: Self = Self(1_000_000);

    /// So many in a million; none when that is more than all.
    pub const fn new(parts: u32) -> Option<Self> {
        if parts <= Self::ALWAYS.0 {
            Some(Self(parts))
        } else {
            None
        }
    }

    /// So many in a hundred, at most a hundred.
    pub const fn percent(parts: u32) -> Self {
        if parts < 100 {
            Self(parts * 10_000)
        } else {
            Self::ALWAYS
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Loss in bursts: a Gilbert–Elliott chain that takes one step per datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// From good to bad.
    pub enter: Ppm,
    /// From bad to good: a burst takes 1/`leave` datagrams on average.
    pub leave: Ppm,
    /// What is lost while it is bad.
    pub loss: Ppm,
}

/// A time without a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blackout {
    /// The last `length` of every `period`, so that a run begins with a link.
    Every {
        /// From one black-out's end to the next one's.
        period: Duration,
        /// How long each takes.
        length: Duration,
    },
    /// Once.
    Once {
        /// When, after the laboratory opened.
        at: Duration,
        /// How long.
        length: Duration,
    },
}

impl Blackout {
    fn covers(self, at: Micros) -> bool {
        match self {
            Self::Every { period, length } => {
                let (period, length) = (micros(period), micros(length));
                at.0.checked_rem(period)
                    .is_some_and(|phase| phase >= period.saturating_sub(length))
            }
            Self::Once { at: start, length } => {
                let start = Micros::ZERO + start;
                start <= at && at < start + length
            }
        }
    }
}

/// What a datagram takes on the link: its bytes and the headers in front of them.
pub(super) fn on_link(datagram: &[u8]) -> u64 {
    u64::try_from(datagram.len())
        .unwrap_or(u64::MAX)
        .saturating_add(HEADER_BYTES)
}
