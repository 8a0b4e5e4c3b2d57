//! Timers and ceilings of a machine.

use std::time::Duration;

use crate::{
    base::limits::BODY_BYTES_MAX,
    wire::coap::{Szx, options::number},
};

/// Transmission parameters. spec: rfc7252 §4.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// How long to wait for the first acknowledgement, before the random factor.
    pub ack_timeout: Duration,
    /// The random factor's upper end in percent; never below 100.
    pub ack_random_percent: u32,
    /// How often a confirmable message is sent again.
    pub max_retransmit: u32,
    /// How long a datagram may wander.
    pub max_latency: Duration,
    /// How long an answer may take to be piggy-backed; then an Empty acknowledgement goes first.
    /// Must stay well below the client's own `ack_timeout`.
    pub piggyback_within: Duration,
    /// Server: how long an answer may take at all. Client: how long to wait after an Empty
    /// acknowledgement. Above any long-poll.
    pub response_within: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            ack_timeout: Duration::from_secs(2),
            ack_random_percent: 150,
            max_retransmit: 4,
            max_latency: Duration::from_secs(100),
            piggyback_within: Duration::from_secs(1),
            response_within: Duration::from_mins(6),
        }
    }
}

impl Timers {
    /// For links below 300 bit/s, where the default would send a message again while its first
    /// copy is still being clocked out.
    pub fn slow_link() -> Self {
        Self {
            ack_timeout: Duration::from_secs(30),
            piggyback_within: Duration::from_secs(10),
            ..Self::default()
        }
    }

    /// The timers of a class of links, as a device announces it.
    ///
    /// spec: thin-profile §11
    pub fn of_class(class: u8, default: Self) -> Self {
        let first = match class {
            1 => 60,
            2 => 15,
            3 => 8,
            4 => 10,
            5 => 5,
            _ => return default,
        };
        let ack_timeout = Duration::from_secs(first);
        Self {
            ack_timeout,
            piggyback_within: ack_timeout / 4,
            ..default
        }
    }

    /// The longest first timeout: `ack_timeout` times the random factor's upper end.
    pub(super) fn first_timeout_max(&self) -> Duration {
        self.ack_timeout
            .saturating_mul(self.ack_random_percent.max(100))
            / 100
    }

    /// From the first transmission of a message to its last.
    pub fn max_transmit_span(&self) -> Duration {
        let doublings = 1_u32.checked_shl(self.max_retransmit).unwrap_or(u32::MAX);
        self.first_timeout_max()
            .saturating_mul(doublings.saturating_sub(1))
    }

    /// How long a message id means the same message. 247 s by default.
    pub fn exchange_lifetime(&self) -> Duration {
        let latencies = self.max_latency.saturating_mul(2);
        self.max_transmit_span()
            .saturating_add(latencies)
            .saturating_add(self.ack_timeout)
    }
}

/// The largest block of a class of links. spec: thin-profile §11
pub(super) fn szx_of_class(class: u8, default: Szx) -> Szx {
    let exponent = match class {
        1 => 3,
        2 => 4,
        3 | 4 => 5,
        _ => return default,
    };
    Szx::new(exponent).map_or(default, |szx| szx.min(default))
}

/// How a machine behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Retransmission and waiting.
    pub timers: Timers,
    /// The largest block we send or ask for.
    pub szx: Szx,
    /// Whether requests are taken in. A pure client resets them.
    pub serves_requests: bool,
    /// Server: the largest request body, in bytes.
    pub request_bytes_max: usize,
    /// The largest response body, in bytes: sent as server, taken as client.
    pub response_bytes_max: usize,
    /// Server: the critical options the caller understands. Block1 and Block2 are ours.
    pub known_critical: Vec<u16>,
    /// Client: bytes of a fresh token, 1 to 8. Fewer are cheaper and easier to guess; without a
    /// security layer stay at 4 or above (spec: rfc7252 §5.3).
    pub token_bytes: usize,
    /// The key of Echo challenges: random, per process.
    pub echo_key: [u8; 32],
}

impl Config {
    /// The usual, with the key of Echo challenges.
    pub fn new(echo_key: [u8; 32]) -> Self {
        Self {
            timers: Timers::default(),
            szx: Szx::MAX,
            serves_requests: true,
            request_bytes_max: BODY_BYTES_MAX,
            response_bytes_max: RESPONSE_BYTES_MAX,
            known_critical: vec![
                number::URI_HOST,
                number::URI_PORT,
                number::URI_PATH,
                number::URI_QUERY,
                number::ACCEPT,
                number::KEY_TABLE_VERSION,
            ],
            token_bytes: 4,
            echo_key,
        }
    }
}

/// The largest response body, in bytes.
///
/// An initial sync of a large account; at 1024 bytes a block it is 8192 round trips, beyond which
/// nobody should use block-wise transfer.
pub const RESPONSE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Server: requests of one peer that may wait for their answers.
///
/// A client with NSTART 1 has one in transit and a few long-polls acknowledged.
pub const EXCHANGES_PER_PEER_MAX: usize = 32;

/// Server: requests that may wait for their answers, in all.
pub const EXCHANGES_MAX: usize = 16_384;

/// The part of them that peers with unproved addresses may hold: a spoofed flood of long-polls
/// leaves room for everyone else.
pub const EXCHANGES_UNVALIDATED_MAX: usize = 1024;

/// Server: observations of one peer: one per room in view and the inbox.
pub const OBSERVATIONS_PER_PEER_MAX: usize = 16;

/// Server: observations in all; about 300 bytes each.
pub const OBSERVATIONS_MAX: usize = 65_536;

/// Message ids remembered of one peer, each with the answer to replay.
///
/// A peer that sends more than this within `EXCHANGE_LIFETIME` (over four a second) is not on a thin
/// link, and does not retransmit what lies a thousand messages back.
pub const SEEN_PER_PEER_MAX: usize = 1024;

/// Message ids remembered of peers with proved addresses, in all. At most about 1.2 kB each,
/// usually below 100 bytes.
pub const SEEN_MAX: usize = 65_536;

/// Message ids remembered of peers on slow links, in all: they live up to half an hour, and a link of
/// 300 bit/s carries a message in seconds.
pub const SEEN_SLOW_MAX: usize = 65_536;

/// Message ids remembered of all other peers; a spoofed flood pushes out only its like. What is
/// forgotten here was safe to repeat.
pub const SEEN_UNVALIDATED_MAX: usize = 8192;

/// Server: request bodies of one peer that may be incomplete at once.
pub const UPLOADS_PER_PEER_MAX: usize = 4;

/// Server: bytes of incomplete request bodies, in all.
pub const UPLOAD_BYTES_TOTAL_MAX: usize = 64 * 1024 * 1024;

/// Server: response bodies of one peer kept for their later blocks.
pub const KEPT_PER_PEER_MAX: usize = 16;

/// Server: bytes of them. Twice the largest body.
pub const KEPT_BYTES_PER_PEER_MAX: usize = 2 * RESPONSE_BYTES_MAX;

/// Server: bytes of kept response bodies, in all.
pub const KEPT_BYTES_TOTAL_MAX: usize = 128 * 1024 * 1024;

/// How long nobody must have touched a body before another may push it out.
pub const IDLE_BEFORE_EVICTION_SECS: u64 = 30;

/// Peers whose address is not proved, remembered at once. A spoofed flood pushes out only these.
pub const PEERS_UNVALIDATED_MAX: usize = 4096;

/// Peers whose address is proved, remembered at once; about 200 bytes each.
pub const PEERS_VALIDATED_MAX: usize = 65_536;

/// Client: requests that may wait for one peer.
pub const WAITING_PER_PEER_MAX: usize = 256;

/// Client: how often a body that changed under us, or a lost upload, is begun again.
pub const RESTARTS_MAX: u32 = 3;

/// Datagrams waiting for `poll_transmit`; beyond, the oldest is dropped as a network would.
pub const OUTBOX_MAX: usize = 8192;

/// What a client is told to wait when we are full, in seconds.
pub const FULL_MAX_AGE_SECS: u32 = 10;

/// How long a notification waits for the client to finish fetching the previous body, counted
/// from the last block it asked for. Longer than a lost block takes to be asked for again.
pub const FETCH_PATIENCE_SECS: u64 = 20;
