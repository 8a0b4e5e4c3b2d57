//! The ways in and out: sockets and tasks around the session machines. Knows no rules.
//!
//! A door turns bytes into a [`crate::api::Command`], hands it to the hub through
//! [`crate::api::Service`] and turns what comes back into bytes. What a path and a body mean is
//! the same on every door and lives in [`client_api`]; [`front`] counts, logs and contains what
//! goes wrong on the way.
//!
//! `app` makes one [`Front`] and opens each door on a socket it has bound, all with the same
//! shutdown signal; each `serve` returns when its door is closed and drained:
//!
//! ```text
//! http::serve(TcpListener, watch of tls::server_config(…), Https { front, limits, well_known }, shutdown)
//! quic::serve(quic::open(UdpSocket, Quic { front, answering, links, key, certificate, limits })?, shutdown)
//! coap::serve(Sockets::new(…)?, Coap { front, clock, rng, timers, limits, plainly, linked, exchanges }, shutdown)
//! coaps::serve(Sockets, Coaps { coap: Coap { … }, dtls, certificate, base }, shutdown)?
//! ```

mod address;
pub mod client_api;
pub mod coap;
pub mod coaps;
pub mod credential_file;
mod files;
pub mod front;
pub mod http;
pub mod linked;
pub mod quic;
pub mod thin;
pub mod wake;
pub mod websocket;

#[cfg(test)]
mod fake;

pub use front::Front;
