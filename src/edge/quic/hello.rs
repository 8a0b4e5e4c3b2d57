//! One port for two kinds of clients: those with raw public keys, and those with X.509 only.
//!
//! rustls fixes per configuration which kind it speaks. What a client speaks shows in the first
//! message of its handshake, by ALPN; so a session looks at that message before it decides.

use std::{any::Any, sync::Arc};

use quinn::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig as _,
    Session, UnsupportedVersion, rustls::QuicServerConfig,
};
use quinn_proto::{ConnectionId, Side, TransportError, transport_parameters::TransportParameters};

use super::tls::ALPN_X509;

/// Both configurations.
pub(super) struct ByHello {
    /// For all but the others.
    pub(super) raw_keys: Arc<QuicServerConfig>,
    /// For clients that name [`ALPN_X509`]; none: the hub has no certificate.
    pub(super) x509: Option<Arc<QuicServerConfig>>,
}

impl crypto::ServerConfig for ByHello {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.raw_keys.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.raw_keys.retry_tag(version, id, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn Session> {
        let raw_keys = Arc::clone(&self.raw_keys).start_session(version, parameters);
        let waiting = self.x509.clone().map(|x509| Waiting {
            x509,
            version,
            parameters: *parameters,
            bytes: Vec::new(),
        });
        Box::new(Choosing {
            session: raw_keys,
            waiting,
        })
    }
}

/// A session that becomes another one if the client's first message asks for it.
struct Choosing {
    session: Box<dyn Session>,
    waiting: Option<Waiting>,
}

/// What is kept until the first message is whole.
struct Waiting {
    x509: Arc<QuicServerConfig>,
    version: u32,
    parameters: TransportParameters,
    bytes: Vec<u8>,
}

impl Session for Choosing {
    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let Some(waiting) = &mut self.waiting else {
            return self.session.read_handshake(bytes);
        };
        waiting.bytes.extend_from_slice(bytes);
        let hello = Hello::read(&waiting.bytes);
        if hello == Hello::Short && waiting.bytes.len() <= HELLO_BYTES_MAX {
            return Ok(false);
        }
        if let Some(waiting) = self.waiting.take() {
            if hello == Hello::X509 {
                self.session = waiting
                    .x509
                    .start_session(waiting.version, &waiting.parameters);
            }
            return self.session.read_handshake(&waiting.bytes);
        }
        Ok(false)
    }

    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.session.initial_keys(id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.session.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.transport_parameters()
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        if self.waiting.is_some() {
            return None;
        }
        self.session.write_handshake(bytes)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.session.next_1rtt_keys()
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.session.is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.session.export_keying_material(output, label, context)
    }
}

/// The longest first message we wait for, in bytes. Post-quantum key shares and a ticket come to a
/// quarter of it; what is longer goes to rustls as it is.
const HELLO_BYTES_MAX: usize = 16 * 1024;

/// What the client's first message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hello {
    /// It is not whole.
    Short,
    /// X.509.
    X509,
    /// Something else; rustls will say what is wrong with it, if anything is.
    Other,
}

impl Hello {
    /// Looks for the ALPN of X.509 clients. rfc8446 §4.1.2 has the layout.
    fn read(bytes: &[u8]) -> Self {
        let &[kind, a, b, c, ref rest @ ..] = bytes else {
            return Self::Short;
        };
        if kind != CLIENT_HELLO {
            return Self::Other;
        }
        let length = u32::from_be_bytes([0, a, b, c]);
        let Some(body) = usize::try_from(length).ok().and_then(|len| rest.get(..len)) else {
            return Self::Short;
        };
        if names_x509(body) == Some(true) {
            Self::X509
        } else {
            Self::Other
        }
    }
}

/// Nothing if the message is malformed.
fn names_x509(body: &[u8]) -> Option<bool> {
    let rest = body.get(VERSION_AND_RANDOM_BYTES..)?;
    let (_session, rest) = short(rest)?;
    let (_suites, rest) = long(rest)?;
    let (_compression, rest) = short(rest)?;
    let (mut extensions, _) = long(rest)?;
    while let Some((kind, rest)) = extensions.split_first_chunk() {
        let (value, rest) = long(rest)?;
        extensions = rest;
        if u16::from_be_bytes(*kind) == ALPN {
            let (mut names, _) = long(value)?;
            while let Some((name, rest)) = short(names) {
                if name == ALPN_X509 {
                    return Some(true);
                }
                names = rest;
            }
        }
    }
    Some(false)
}

/// A vector with a length of one byte, and what follows.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// The same with a length of two bytes.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

const CLIENT_HELLO: u8 = 1;
const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
const ALPN: u16 = 16;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A hello with an empty session id, one suite, no compression and one ALPN.
    fn hello(alpn: &[u8]) -> Vec<u8> {
        let with_u8 = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
        let with_u16 = |bytes: &[u8]| {
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            [length.as_slice(), bytes].concat()
        };
        let names = with_u16(&with_u8(alpn));
        let extensions = [
            &[0, 43],
            &with_u16(&[2, 3, 4])[..],
            &[0, 16],
            &with_u16(&names),
        ]
        .concat();
        let body = [
            vec![3; VERSION_AND_RANDOM_BYTES],
            with_u8(&[]),
            with_u16(&[0x13, 1]),
            with_u8(&[0]),
            with_u16(&extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO], &length[1..], &body].concat()
    }

    #[test]
    fn a_client_that_names_x509_gets_it_and_nobody_else() {
        assert_eq!(Hello::read(&hello(ALPN_X509)), Hello::X509);
        assert_eq!(Hello::read(&hello(b"tramline-thin/1")), Hello::Other);
        assert_eq!(Hello::read(&[2, 0, 0, 0]), Hello::Other);
    }

    #[test]
    fn a_hello_in_pieces_is_waited_for() {
        let whole = hello(ALPN_X509);
        for cut in 0..whole.len() {
            assert_eq!(Hello::read(&whole[..cut]), Hello::Short, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_harm(
            bytes in vec(any::<u8>(), 0..100),
            at in 0_usize..90,
            byte in any::<u8>(),
        ) {
            let mut near = hello(ALPN_X509);
            if let Some(place) = near.get_mut(at) {
                *place = byte;
            }
            Hello::read(&bytes);
            Hello::read(&near);
        }
    }
}
