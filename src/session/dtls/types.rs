//! What goes in and out of the machines: connection names, events and errors.

use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;

use super::credentials::Identity;

/// One connection, from its handshake to its end; never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(super) u64);

/// What happened at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A handshake is done; from now on `send` reaches the client.
    Connected {
        /// Its name.
        conn: ConnId,
        /// Where it is.
        from: SocketAddr,
        /// Whom its pre-shared key belongs to; absent after a handshake with our certificate,
        /// which says nothing about the client.
        identity: Option<Identity>,
    },
    /// Authenticated bytes, as the client sent them in one record.
    Data {
        /// Who sent them.
        conn: ConnId,
        /// What.
        bytes: Bytes,
    },
    /// The client is reached at another address from now on: its newest record came from there.
    Moved {
        /// Which.
        conn: ConnId,
        /// Where it was.
        from: SocketAddr,
        /// Where it is.
        to: SocketAddr,
    },
    /// A connection is over.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed it.
    Peer,
    /// We were asked to close it.
    Local,
    /// A new handshake from its address was finished.
    Replaced,
    /// Nothing came for too long.
    Idle,
    /// There was no room for a newer one, and this had been silent the longest.
    Evicted,
    /// The protocol was broken, by a peer that holds the keys.
    Failed,
}

/// Why bytes were not sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SendError {
    /// Closed, or never there.
    #[error("no such connection is open")]
    Unknown,
    /// Above [`PAYLOAD_BYTES_MAX`].
    #[error("{bytes} bytes, at most {PAYLOAD_BYTES_MAX} fit into one record")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
}

/// Why a machine cannot be made.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Without either no handshake can succeed.
    #[error("neither a certificate nor pre-shared keys")]
    NothingToShow,
    /// The private key is of another kind.
    #[error("the private key is not one for ECDSA on P-256 or P-384, which DTLS here needs: {0}")]
    PrivateKey(dimpl::CryptoError), // no std Error
    /// The certificate is empty.
    #[error("the certificate is empty")]
    NoCertificate,
    /// The authority or the name to check a certificate against is no good.
    #[error("no certificate can be checked against this: {0}")]
    Anchor(String),
    /// The library refuses its settings.
    #[error("the DTLS library refuses its settings: {0}")]
    Library(#[source] dimpl::Error),
}

/// The largest UDP payload that is sent, in bytes: with IPv6 and UDP headers below 1200, which
/// crosses nearly every path, mobile networks and tunnels included.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1150;

/// What a record adds to its payload at most, in bytes: header 13, explicit nonce 8, tag 16.
const RECORD_OVERHEAD_BYTES_MAX: usize = 37;

/// The largest payload of one record, in bytes. One record is one datagram.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - RECORD_OVERHEAD_BYTES_MAX;
