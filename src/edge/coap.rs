//! The plain CoAP door, and what every CoAP door is made of.
//!
//! `driver` is the one task of a door: it owns a UDP socket and the session machine in
//! [`crate::session::coap`], which does reliability, blocks and the order of notifications. What
//! lies between socket and machine is a `link`: nothing here, DTLS in [`super::coaps`].
//! `asking` takes a request through the hub, `profile` reads requests and writes answers as
//! MSC3079 has them, `sticky` knows what a client said before, `observe` keeps an observed sync
//! going. Plain CoAP has no secrecy: [`bind`] opens it on loopback only, unless it is told
//! otherwise.

mod asking;
pub(super) mod driver;
pub(super) mod link;
mod observe;
pub(super) mod profile;
pub(super) mod sticky;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::UdpSocket, sync::watch};

use super::front::Front;
use crate::{
    base::{Clock, Rng},
    session::coap::Timers,
};

/// From where the door may be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposure {
    /// From this machine only.
    #[default]
    Loopback,
    /// From anywhere, in clear: tokens included.
    Any,
}

/// Opens the socket, where that is allowed.
pub async fn bind(address: SocketAddr, exposure: Exposure) -> io::Result<UdpSocket> {
    if exposure == Exposure::Loopback && !address.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "plain CoAP is for loopback, and {address} is not; coap.plain = \"any\" allows it"
            ),
        ));
    }
    UdpSocket::bind(address).await
}

/// How much and how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests at a time, long-polls included. More are told 5.03.
    pub requests_max: usize,
    /// Observed syncs at a time. More are answered, and told that nothing will follow.
    pub observers_max: usize,
    /// How long one wait for news of an observed sync lasts: how late a revoked token shows.
    pub observe_poll: Duration,
    /// Time that requests under way get when the hub shuts down.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 4096, // each a task and at most a body of 256 KiB, most of them idle
            observers_max: 8192,
            observe_poll: Duration::from_mins(1),
            drain: Duration::from_secs(10),
        }
    }
}

/// What the door needs to be opened.
pub struct Coap {
    /// The hub and what the doors share.
    pub front: Arc<Front>,
    /// The time for retransmissions.
    pub clock: Arc<dyn Clock>,
    /// Chance for message ids and time-outs.
    pub rng: Box<dyn Rng + Send>,
    /// How patient the links are.
    pub timers: Timers,
    /// The ceilings.
    pub limits: Limits,
}

/// Serves until `shutdown` becomes true (or its sender is gone), then drains.
pub async fn serve(socket: UdpSocket, door: Coap, shutdown: watch::Receiver<bool>) {
    driver::serve(socket, link::Plain::default(), door, shutdown).await;
}
