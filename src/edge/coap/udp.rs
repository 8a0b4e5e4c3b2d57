//! The link of the UDP port: OSCORE for linked devices, nothing for others. Adds to
//! [`crate::session::oscore::link`] whose each context is.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    link::{Arrived, Had, Kept, Link, Outgoing},
    sticky::Keep,
};
use crate::{
    api::{DeviceName, Door, OscoreLink, Registration},
    base::Timestamp,
    edge::thin::Which,
    session::{
        coap::Response,
        oscore::{
            DeriveError, Id, OuterObserve, Parameters, RequestBinding, SecurityContext,
            link::{self, ContextKey, Plainly, UdpPeer, Want},
        },
    },
    wire::coap::{Message, Token},
};

pub(super) struct Udp {
    link: link::Link<Arc<DeviceName>>,
}

impl Udp {
    pub(super) fn new(echo_key: [u8; 32], plainly: Plainly) -> Self {
        Self {
            link: link::Link::new(CONTEXTS_MAX, echo_key, plainly),
        }
    }

    /// A context as it was stored. One of which no number was ever reserved was never used: the
    /// link reserves some before it takes the first request.
    fn found(&mut self, now: Timestamp, stored: OscoreLink) -> Option<ContextKey> {
        match context_of(&stored) {
            Ok(context) => Some(self.link.found(now, context, stored.device)),
            Err(error) => {
                tracing::error!(device = ?stored.device, %error, "a stored context is none");
                None
            }
        }
    }
}

fn context_of(stored: &OscoreLink) -> Result<SecurityContext, DeriveError> {
    let id = |id: &[u8]| Id::new(id).unwrap_or_default();
    let secret = &stored.master_secret.0;
    let mut parameters = Parameters::new(secret, id(&stored.sender_id), id(&stored.recipient_id));
    parameters.master_salt = &stored.master_salt;
    parameters.id_context = stored.id_context.as_deref();
    let context = if stored.reserved_below == 0 {
        SecurityContext::new(&parameters)
    } else {
        SecurityContext::resumed(&parameters, stored.reserved_below)
    };
    let outer = if stored.outer_observe_counted {
        OuterObserve::Counted
    } else {
        OuterObserve::Empty
    };
    Ok(context?.observe_outside(outer))
}

impl Link for Udp {
    type Peer = UdpPeer;

    const DOOR: Door = Door::Coap;

    const KEEPS: bool = true;

    // Even on loopback a port changes hands when a program ends, so what was said is forgotten
    // soon after its last use. lb's clients show themselves each minute; a port that was silent
    // for longer may belong to another program.
    const WORDS: Keep = Keep {
        peers_max: 4096, // at most a kilobyte each, and a machine has few programs
        idle_max: Duration::from_mins(5),
    };

    fn handle_datagram(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        self.link.handle_datagram(now, from, datagram);
    }

    fn send(&mut self, now: Timestamp, peer: &UdpPeer, message: Bytes, is_proved: bool) {
        self.link.send(now, peer, message, is_proved);
    }

    fn poll_transmit(&mut self) -> Option<Outgoing<UdpPeer>> {
        let link::Outgoing { device, to, bytes } = self.link.poll_transmit()?;
        let peer = device.map(UdpPeer::Device);
        Some(Outgoing { peer, to, bytes })
    }

    fn poll_arrived(&mut self) -> Option<Arrived<UdpPeer>> {
        Some(match self.link.poll_arrived()? {
            link::Arrived::Message {
                peer,
                bytes,
                path,
                is_proved,
                came,
            } => Arrived::Message {
                peer,
                bytes,
                path,
                is_proved,
                came,
            },
            link::Arrived::Copy { peer, came } => Arrived::Copy { peer, came },
            link::Arrived::Combined { from, request } => Arrived::Combined { from, request },
            link::Arrived::Gone { peer } => Arrived::Gone { peer },
        })
    }

    fn is_told_apart(peer: &UdpPeer) -> bool {
        peer.is_told_apart()
    }

    fn address(&self, peer: &UdpPeer) -> Option<SocketAddr> {
        self.link.address(peer)
    }

    /// Plain UDP has no connection; the nearest thing is an address and port that nobody else can
    /// send from, which holds on loopback only. A device's identity is in each request.
    // spec: msc3079 §Access-Tokens
    fn keeps_words(&self, peer: &UdpPeer) -> bool {
        matches!(peer, UdpPeer::Plain(place) if SocketAddr::from(**place).ip().is_loopback())
    }

    fn door(&self, peer: &UdpPeer) -> Door {
        match peer {
            UdpPeer::Plain(_) => Door::Coap,
            UdpPeer::Device(_) => Door::Oscore,
        }
    }

    fn device(&self, peer: &UdpPeer) -> Option<Arc<DeviceName>> {
        match peer {
            UdpPeer::Plain(_) => None,
            UdpPeer::Device(key) => self.link.name(key).cloned(),
        }
    }

    fn revoke(&mut self, _: Timestamp, devices: &Which<DeviceName>) {
        let is_revoked = |device: &DeviceName| match devices {
            Which::All => true, // those still linked are looked up again
            Which::These(these) => these.contains(device),
        };
        for kid in self.link.called(|device| is_revoked(device)) {
            self.link.forget(kid);
        }
    }

    fn poll_want(&mut self) -> Option<Want> {
        self.link.poll_want()
    }

    fn had(&mut self, now: Timestamp, had: Had) {
        match had {
            Had::Context(kid, found) => {
                let found = found.and_then(|stored| self.found(now, *stored));
                if found.is_none() {
                    self.link.absent(now, kid);
                }
            }
            Had::Reserved { kid, below } => self.link.reserved(now, kid, below),
            Had::Failed(kid) => self.link.failed(now, kid),
        }
    }

    fn keep(&self, peer: &UdpPeer, token: Token) -> Option<Kept> {
        let UdpPeer::Device(key) = peer else {
            return None;
        };
        Some(Kept {
            recipient_id: key.kid().as_bytes().to_vec(),
            binding: self.link.binding(peer, token)?,
            address: self.link.address(peer)?,
        })
    }

    fn restore(
        &mut self,
        now: Timestamp,
        stored: OscoreLink,
        registration: &Registration,
    ) -> Option<(UdpPeer, u64)> {
        let binding = RequestBinding::from_bytes(&registration.binding).ok()?;
        let token = Token::new(&registration.token)?;
        let key = self.found(now, stored)?;
        self.link
            .restore(key.kid(), registration.address, token, binding)
    }

    fn unbind(&mut self, peer: &UdpPeer, token: Token) {
        self.link.unbind(peer, token);
    }

    fn onward(&mut self, now: Timestamp, from: SocketAddr, rest: &Message) {
        self.link.onward(now, from, rest);
    }

    fn decline(&mut self, now: Timestamp, from: SocketAddr, request: &Message, response: Response) {
        self.link.decline(now, from, request, response);
    }
}

/// How many contexts are at hand, 350 bytes each with what is known of their devices. One more puts
/// away another, which is then looked up again, and asked for an Echo.
const CONTEXTS_MAX: usize = 131_072;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_remembered_of_a_peer_that_is_not_on_loopback() {
        let udp = Udp::new([1; 32], Plainly::Anyone);

        let peer =
            |address: [u8; 4]| UdpPeer::Plain(Box::new(SocketAddr::from((address, 5683)).into()));
        assert!(udp.keeps_words(&peer([127, 0, 0, 1])));
        assert!(!udp.keeps_words(&peer([192, 0, 2, 1])));
    }
}
