//! The CoAP door on UDP, and what every CoAP door is made of.
//!
//! `driver` is the one task of a door: it owns its UDP sockets and the session machine in
//! [`crate::session::coap`], which does reliability, blocks and the order of notifications. What
//! lies between socket and machine is a `link`: OSCORE in `udp`, DTLS in [`super::coaps`].
//! `asking` takes a request through the hub, `profile` reads requests and writes answers as
//! MSC3079 has them, `sticky` knows what a client said before, `observe` keeps an observed sync
//! going. Linked devices speak the thin profile: `devices` keeps what they observe. Plain CoAP has
//! no secrecy: it is answered to programs on this machine only, unless the door is told otherwise.

mod asking;
mod devices;
pub(super) mod driver;
mod edhoc;
pub(super) mod link;
mod observe;
pub(super) mod profile;
mod sockets;
pub(super) mod sticky;
#[cfg(test)]
mod tests;
mod udp;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::UdpSocket, sync::watch};

pub use self::{edhoc::Exchanges, sockets::Sockets};
use super::{front::Front, thin::Thin};
use crate::{
    api::Links,
    base::{Clock, Rng},
    session::{coap::Timers, oscore::link::Plainly},
};

/// Opens the socket. Who is answered there is [`Coap::plainly`]'s to say.
pub async fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
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
    /// Who may speak without protection, on the plain port.
    pub plainly: Plainly,
    /// The devices that are recognised by their keys; without it there are none.
    pub linked: Option<Linked>,
    /// How they come by new keys, on the plain port; without it they do not.
    pub exchanges: Option<Arc<Exchanges>>,
}

/// What a door needs to serve linked devices.
#[derive(Clone)]
pub struct Linked {
    /// Their keys.
    pub links: Arc<dyn Links>,
    /// What they speak.
    pub thin: Arc<Thin>,
}

/// Serves until `shutdown` becomes true (or its sender is gone), then drains.
pub async fn serve(sockets: Sockets, mut door: Coap, shutdown: watch::Receiver<bool>) {
    let mut echo_key = [0; 32];
    door.rng.fill_bytes(&mut echo_key);
    let link = udp::Udp::new(echo_key, door.plainly);
    driver::serve(sockets, link, door, shutdown).await;
}
