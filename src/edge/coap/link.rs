//! What lies between a door's socket and its CoAP machine: who a datagram is from, and what is
//! done to its bytes on the way.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;

use super::sticky::Keep;
use crate::{
    api::{DeviceName, Door, OscoreLink, Registration},
    base::Timestamp,
    edge::thin::Which,
    session::{
        coap::{Peer, Response},
        ledger::Traffic,
        oscore::{Id, link::Want},
    },
    wire::coap::{Message, Token},
};

/// Datagrams of a socket on one side, CoAP messages of peers on the other. Does no I/O.
pub(in crate::edge) trait Link: Send + 'static {
    /// Whoever is at the other end, by a name that lasts as long as what it stands for.
    type Peer: Peer + Send + Sync;

    /// Which door this is.
    const DOOR: Door;

    /// Whether observations are stored, and taken up after a restart.
    const KEEPS: bool = false;

    /// How long, and for how many, the words of peers are kept.
    const WORDS: Keep;

    /// Takes in a datagram.
    fn handle_datagram(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]);

    /// Sends a message; one that cannot be sent is as if lost on the way. `is_proved` says whether
    /// the peer receives where it is.
    fn send(&mut self, now: Timestamp, peer: &Self::Peer, message: Bytes, is_proved: bool);

    /// Does what is due.
    fn handle_timeout(&mut self, _now: Timestamp) {}

    /// When to call `handle_timeout`.
    fn poll_timeout(&self) -> Option<Timestamp> {
        None
    }

    /// A datagram to send.
    fn poll_transmit(&mut self) -> Option<Outgoing<Self::Peer>>;

    /// Something that came.
    fn poll_arrived(&mut self) -> Option<Arrived<Self::Peer>>;

    /// Whether the link lets no copies of a peer's messages through.
    fn is_told_apart(_peer: &Self::Peer) -> bool {
        false
    }

    /// Where a peer is, as long as it is there.
    fn address(&self, peer: &Self::Peer) -> Option<SocketAddr>;

    /// Whether what a peer says holds for its later requests, too.
    fn keeps_words(&self, peer: &Self::Peer) -> bool;

    /// The way in that a peer's requests took.
    fn door(&self, _peer: &Self::Peer) -> Door {
        Self::DOOR
    }

    /// The linked device that a peer is, if it is one.
    fn device(&self, _peer: &Self::Peer) -> Option<Arc<DeviceName>> {
        None
    }

    /// These devices are revoked: nothing of them is left.
    fn revoke(&mut self, _now: Timestamp, _devices: &Which<DeviceName>) {}

    /// What is to be looked up or stored.
    fn poll_want(&mut self) -> Option<Want> {
        None
    }

    /// What came of a want.
    fn had(&mut self, _now: Timestamp, _had: Had) {}

    /// What an observation is to be kept with over a restart, where that is possible.
    fn keep(&self, _peer: &Self::Peer, _token: Token) -> Option<Kept> {
        None
    }

    /// Takes up an observation from before a restart: whose, and where that is, as a number.
    fn restore(
        &mut self,
        _now: Timestamp,
        _link: OscoreLink,
        _registration: &Registration,
    ) -> Option<(Self::Peer, u64)> {
        None
    }

    /// An observation will not be told of anything any more.
    fn unbind(&mut self, _peer: &Self::Peer, _token: Token) {}

    /// Takes in a request whose EDHOC message 3 was verified.
    fn onward(&mut self, _now: Timestamp, _from: SocketAddr, _rest: &Message) {}

    /// Answers one whose message 3 was not taken.
    fn decline(&mut self, _now: Timestamp, _from: SocketAddr, _request: &Message, _: Response) {}

    /// Says farewell to every peer.
    fn close(&mut self, _now: Timestamp) {}
}

/// What came through a link.
pub(in crate::edge) enum Arrived<P> {
    /// A CoAP message, if its bytes are one.
    Message {
        peer: P,
        bytes: Bytes,
        /// Where the peer is now, as a number, where that may have changed.
        path: Option<u64>,
        /// Whether the peer is known to receive where it says it is.
        is_proved: bool,
        /// The datagram; nothing where another message has come with the same.
        came: Traffic,
    },
    /// A message that came before, and was answered as it was then or not at all.
    Copy { peer: P, came: Traffic },
    /// A peer is there, and what came and went until it was known to be.
    Shaken { peer: P, up: Traffic, down: Traffic },
    /// A request with EDHOC's message 3 in front.
    Combined {
        from: SocketAddr,
        request: Box<Message>,
    },
    /// The peer will not be heard of again.
    Gone { peer: P },
}

/// A datagram to send.
pub(in crate::edge) struct Outgoing<P> {
    /// To whom, where that is one message's.
    pub(in crate::edge) peer: Option<P>,
    pub(in crate::edge) to: SocketAddr,
    pub(in crate::edge) bytes: Bytes,
}

/// What came of a [`Want`].
pub(in crate::edge) enum Had {
    /// The context, if there is one.
    Context(Id, Option<Box<OscoreLink>>),
    /// Numbers below are reserved.
    Reserved { kid: Id, below: u64 },
    /// It could not be done.
    Failed(Id),
}

/// What to store of an observation, beside its request and token.
pub(in crate::edge) struct Kept {
    pub(in crate::edge) recipient_id: Vec<u8>,
    pub(in crate::edge) binding: Vec<u8>,
    pub(in crate::edge) address: SocketAddr,
}
