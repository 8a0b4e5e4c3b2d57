//! DTLS 1.2 and 1.3 as machines without I/O, around `dimpl`, which does handshake and records.
//!
//! [`Server`] serves any number of clients on one socket; [`Client`] is one connection outward.
//! The caller owns socket and clock and drives both alike:
//!
//! ```text
//! datagram in → handle_datagram      poll_transmit → datagram out
//! timer due   → handle_timeout       poll_timeout  → when to call it
//! bytes out   → send                 poll_event    → what happened
//! ```
//!
//! After each call of a method with `now`, drain `poll_transmit` and `poll_event`, then ask
//! `poll_timeout`. A connection is named by its [`ConnId`], never by an address: a client behind
//! a NAT keeps its connection when its address changes ([`Event::Moved`]).
//!
//! `client_hello` and `record` read what can be read without keys, `channel` wraps one `dimpl`
//! object, `half_open` and `established` hold connections with their ceilings, `rates` slows
//! down whoever asks too much, `credentials` is what either side proves itself with. What a
//! connection may do is not decided here.

mod channel;
pub mod client;
mod client_hello;
pub mod credentials;
mod established;
mod half_open;
pub(super) mod rates;
mod record;
pub mod server;
mod times;
pub mod types;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientCloseReason, ClientEvent, Proof};
pub use credentials::{Anchored, Certificate, Identity, LeafCheck, Pinned, PskSource, Secret};
pub use server::{Limits, Server, ServerConfig};
pub use types::{CloseReason, ConfigError, ConnId, Event, PAYLOAD_BYTES_MAX, SendError};
