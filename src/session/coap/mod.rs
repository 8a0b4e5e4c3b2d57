//! CoAP reliability, block-wise transfer and Observe as a machine without I/O.
//!
//! [`Machine`] is used by both ends of a link: the server edge takes its [`Event::Request`]s and
//! answers with [`Machine::respond`] and [`Machine::notify`]; the client library calls
//! [`Machine::request`] and takes [`Event::Response`]. The caller owns socket and clock:
//!
//! ```text
//! datagram in → handle_datagram      poll_transmit → datagram out
//! timer due   → handle_timeout       poll_timeout  → when to call it
//!                                    poll_event    → what happened
//! ```
//!
//! After each call of a method with `now`, drain `poll_transmit` and `poll_event`, then ask
//! `poll_timeout`. A peer is any ordered key: an address today, a security context later.
//!
//! Each part owns its data: `dedup` what was seen, `reliability` what is in flight, `block`
//! bodies in pieces, `observe` who watches, `echo` and `peers` whose address is proved.
//! [`machine`] ties them together, `server` (outward `answering`) and `client` are its two roles. What a request means,
//! and who may ask, is not decided here.

mod alarms;
mod answering;
mod block;
mod client;
mod client_exchange;
pub mod config;
mod dedup;
pub(super) mod echo;
mod key;
pub mod machine;
mod observe;
mod peers;
mod reliability;
mod server;
pub mod types;

#[cfg(test)]
mod tests;

pub use config::{Config, RESPONSE_BYTES_MAX, Timers};
pub use machine::Machine;
pub use types::{
    Event, ExchangeId, FailReason, GoneReason, ObservationId, Peer, Progress, Request,
    RespondError, Response,
};
