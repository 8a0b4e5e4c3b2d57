//! What goes in and out of the link.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::{
    session::{ledger::Traffic, oscore::Id},
    wire::coap::Message,
};

/// Whoever is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UdpPeer {
    /// Somebody at an address.
    Plain(SocketAddr),
    /// A device, wherever it is.
    Device(ContextKey),
}

/// A context as long as it is not revoked: one made later with the same id is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextKey {
    pub(super) kid: Id,
    pub(super) life: u32,
}

impl UdpPeer {
    /// Whether its link knows copies from new messages, and answers them.
    pub const fn is_told_apart(&self) -> bool {
        matches!(self, Self::Device(_))
    }
}

impl ContextKey {
    /// The id that the device's requests say.
    pub const fn kid(&self) -> Id {
        self.kid
    }
}

/// Who may speak without protection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plainly {
    /// Nobody.
    Nobody,
    /// Programs on this machine.
    #[default]
    Loopback,
    /// Anyone.
    Anyone,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A CoAP message, if its bytes are one.
    Message {
        /// From whom.
        peer: UdpPeer,
        /// The message, without protection.
        bytes: Bytes,
        /// Set in the newest message of a device: where it is now.
        path: Option<u64>,
        /// Whether the peer is known to receive where it is.
        is_proved: bool,
        /// The datagram; nothing in all but one of the messages that were made of the same.
        came: Traffic,
    },
    /// A device's request that came before. It was answered as it was then, if it was.
    Copy {
        /// From whom.
        peer: UdpPeer,
        /// The datagram.
        came: Traffic,
    },
    /// A request with EDHOC's message 3 in front: to be verified, then given to `onward` or
    /// `decline`.
    Combined {
        /// From where.
        from: SocketAddr,
        /// The whole of it. Nothing in it is authentic yet.
        request: Box<Message>,
    },
    /// The device will not be heard of again under this name.
    Gone {
        /// Which.
        peer: UdpPeer,
    },
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// To whom, if that is a device.
    pub device: Option<ContextKey>,
    /// Where it goes.
    pub to: SocketAddr,
    /// What goes there.
    pub bytes: Bytes,
}

/// What the caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Look for the context of this id, then call `found`, `absent` or `failed`.
    Context(Id),
    /// Store that numbers below may have been used, then call `reserved` or `failed`.
    Reserve {
        /// Whose.
        kid: Id,
        /// Numbers below this one.
        below: u64,
    },
}
