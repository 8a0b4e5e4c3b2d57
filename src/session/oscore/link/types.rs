//! What goes in and out of the link.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, SocketAddrV6},
};

use bytes::Bytes;

use crate::{
    session::{ledger::Traffic, oscore::Id},
    wire::coap::Message,
};

/// Whoever is at the other end. Maps of peers are what a hub with many devices has in memory, and
/// devices are smaller than addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UdpPeer {
    /// Somebody at an address.
    Plain(Box<Place>),
    /// A device, wherever it is.
    Device(ContextKey),
}

/// An address, in fewer bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    ip: [u16; 8],
    port: u16,
    scope: [u16; 2],
    is_v4: bool,
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        let port = address.port();
        match address {
            SocketAddr::V4(v4) => Self {
                ip: v4.ip().to_ipv6_mapped().segments(),
                port,
                scope: [0; 2],
                is_v4: true,
            },
            SocketAddr::V6(v6) => {
                let [a, b, c, d] = v6.scope_id().to_be_bytes();
                Self {
                    ip: v6.ip().segments(),
                    port,
                    scope: [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])],
                    is_v4: false,
                }
            }
        }
    }
}

impl From<Place> for SocketAddr {
    fn from(place: Place) -> Self {
        let [.., high, low] = place.ip;
        if place.is_v4 {
            let bits = u32::from(high) << 16 | u32::from(low);
            return Self::from((Ipv4Addr::from_bits(bits), place.port));
        }
        let [high, low] = place.scope;
        let scope = u32::from(high) << 16 | u32::from(low);
        SocketAddrV6::new(place.ip.into(), place.port, 0, scope).into()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_small_and_its_address_comes_back() {
        assert!(size_of::<UdpPeer>() <= 16);
        for text in ["192.0.2.7:5683", "[2001:db8::7]:1", "[fe80::1%3]:5683"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Place::from(address)), address);
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:5683".parse().unwrap();
        assert_eq!(SocketAddr::from(Place::from(mapped)), mapped);
    }
}
