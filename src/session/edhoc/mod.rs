//! EDHOC (RFC 9528): how a device and the hub come by fresh keys for OSCORE, and RFC 9668, which
//! sends the last message together with the first request.
//!
//! Method 3 (both ends have static Diffie–Hellman keys) with suite 2 (P-256, AES-CCM with tags of
//! eight bytes, SHA-256), credentials by kid, and nothing else: it is the smallest on the wire and
//! what `lakers`, which does the computing, has.
//!
//! ```text
//! client   Initiator::begin → message 1 … message_2 → Third: message 3, keys
//! hub      Responder::message_1 → message 2 … message_3 → NeedCredential(kid) → verify → Done
//! both     combine / take_combined: message 3 in front of the first protected request
//! ```
//!
//! Nothing is sent or stored here. Duplicates are the message layer's; who a kid is, and whether
//! it is revoked, the caller's. There are no keys before message 3 is verified.
//!
//! [`key`] has the keys and what they are known by, [`responder`] and [`initiator`] the two ends,
//! [`combined`] the request with option 21, [`refused`] the answers to what does not go, and
//! `shape` and `guarded` what keeps hostile bytes from `lakers`, whose buffers are of fixed size.

pub mod combined;
mod guarded;
pub mod initiator;
pub mod key;
mod keying;
pub mod refused;
pub mod responder;
mod shape;

#[cfg(test)]
mod tests;

pub use combined::{Combined, EDHOC_OPTION, combine, take_combined};
pub use initiator::{Initiator, Third};
pub use key::{HUB_KID, Kid, PublicKey, StaticKey};
pub use keying::Keying;
pub use refused::{PeerError, Refused};
pub use responder::{Done, HALF_OPEN_MAX, NeedCredential, Responder};
pub use shape::{identifier, split_identifier};

/// Where exchanges begin, by the segments of the path.
pub const PATH: [&str; 2] = [".well-known", "edhoc"];

/// IANA's number of the method: static Diffie–Hellman keys at both ends.
const METHOD: u8 = 3;

/// IANA's number of the only suite: AES-CCM-16-64-128, SHA-256, 8, P-256, ES256, the same for OSCORE.
const SUITE: u8 = 2;

/// `true`, before message 1: a new exchange. spec: rfc9528 §A.2
pub const NEW_EXCHANGE: u8 = 0xf5;

/// The content format of messages and errors to the client, application/edhoc+cbor-seq.
pub const CONTENT_FORMAT: u16 = 64;

/// The content format of what the client sends, application/cid-edhoc+cbor-seq.
pub const CONTENT_FORMAT_WITH_ID: u16 = 65;
