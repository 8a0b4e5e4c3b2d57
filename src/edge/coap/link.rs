//! What lies between a door's socket and its CoAP machine: who a datagram is from, and what is
//! done to its bytes on the way.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;

use super::sticky::Keep;
use crate::{api::Door, base::Timestamp, session::coap::Peer};

/// Datagrams of a socket on one side, CoAP messages of peers on the other. Does no I/O.
pub(in crate::edge) trait Link: Send + 'static {
    /// Whoever is at the other end, by a name that lasts as long as what it stands for.
    type Peer: Peer + Send + Sync;

    /// Which door this is.
    const DOOR: Door;

    /// How long, and for how many, the words of peers are kept.
    const WORDS: Keep;

    /// Takes in a datagram.
    fn handle_datagram(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]);

    /// Sends a message; one that cannot be sent is as if lost on the way.
    fn send(&mut self, now: Timestamp, peer: &Self::Peer, message: Bytes);

    /// Does what is due.
    fn handle_timeout(&mut self, _now: Timestamp) {}

    /// When to call `handle_timeout`.
    fn poll_timeout(&self) -> Option<Timestamp> {
        None
    }

    /// A datagram to send.
    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)>;

    /// Something that came.
    fn poll_arrived(&mut self) -> Option<Arrived<Self::Peer>>;

    /// Where a peer is, as long as it is there.
    fn address(&self, peer: &Self::Peer) -> Option<IpAddr>;

    /// Whether what a peer says holds for its later requests, too.
    fn keeps_words(&self, peer: &Self::Peer) -> bool;

    /// Says farewell to every peer.
    fn close(&mut self, _now: Timestamp) {}
}

/// What came through a link.
pub(in crate::edge) enum Arrived<P> {
    /// A CoAP message, if its bytes are one.
    Message {
        peer: P,
        bytes: Bytes,
        /// Whether the peer is known to receive where it says it is.
        is_proved: bool,
    },
    /// The peer will not be heard of again.
    Gone { peer: P },
}

/// No security: a peer is an address.
#[derive(Debug, Default)]
pub(super) struct Plain {
    up: VecDeque<(SocketAddr, Bytes)>,
    down: VecDeque<(SocketAddr, Bytes)>,
}

impl Link for Plain {
    type Peer = SocketAddr;

    const DOOR: Door = Door::Coap;

    // Even on loopback a port changes hands when a program ends, so what was said is forgotten
    // soon after its last use. lb's clients show themselves each minute; a port that was silent
    // for longer may belong to another program.
    const WORDS: Keep = Keep {
        peers_max: 4096, // at most a kilobyte each, and a machine has few programs
        idle_max: Duration::from_mins(5),
    };

    fn handle_datagram(&mut self, _: Timestamp, from: SocketAddr, datagram: &[u8]) {
        self.up.push_back((from, Bytes::copy_from_slice(datagram)));
    }

    fn send(&mut self, _: Timestamp, peer: &SocketAddr, message: Bytes) {
        self.down.push_back((*peer, message));
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.down.pop_front()
    }

    fn poll_arrived(&mut self) -> Option<Arrived<SocketAddr>> {
        let (peer, bytes) = self.up.pop_front()?;
        Some(Arrived::Message {
            peer,
            bytes,
            is_proved: peer.ip().is_loopback(), // nobody far away can send from there
        })
    }

    fn address(&self, peer: &SocketAddr) -> Option<IpAddr> {
        Some(peer.ip())
    }

    /// Plain UDP has no connection; the nearest thing is an address and port that nobody else can
    /// send from, which holds on loopback only.
    // spec: msc3079 §Access-Tokens
    fn keeps_words(&self, peer: &SocketAddr) -> bool {
        peer.ip().is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_remembered_of_a_peer_that_is_not_on_loopback() {
        let plain = Plain::default();

        assert!(plain.keeps_words(&SocketAddr::from(([127, 0, 0, 1], 5683))));
        assert!(!plain.keeps_words(&SocketAddr::from(([192, 0, 2, 1], 5683))));
    }
}
