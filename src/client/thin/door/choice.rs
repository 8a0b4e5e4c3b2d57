//! Which door a device speaks through.

use std::net::{SocketAddr, ToSocketAddrs as _};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::ThinError;
use crate::client::{Credentials, quic::Quic};

/// Which door is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DoorChoice {
    /// OSCORE for what is small, QUIC for files from [`QUIC_FROM_BYTES`] on, and each in the other's place
    /// where it does not get through.
    #[default]
    Auto,
    /// OSCORE alone.
    Oscore,
    /// QUIC alone.
    Quic,
}

/// From this size on a file goes over QUIC, handshake included, for fewer bytes than in blocks over OSCORE.
pub const QUIC_FROM_BYTES: u64 = 48 * 1024;

/// Whether a link of this class is for QUIC unasked: its first timer is a second, so that it sends its
/// handshake of 1200 bytes several times where an answer takes longer.
///
/// spec: thin-profile §11
pub(super) const fn is_quick(class: u8) -> bool {
    matches!(class, 0 | 5 | 6)
}

/// Where QUIC leads, by which keys.
pub(super) struct QuicDoor {
    place: String,
    hub_spki: Vec<u8>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl QuicDoor {
    /// What a credential file has for it.
    pub(super) fn of(credentials: &Credentials) -> Option<Self> {
        let keys = credentials.quic.as_ref()?;
        let bytes = |text: &Option<String>| hex::decode(text.as_ref()?).ok();
        Some(Self {
            place: credentials.server.quic.clone()?,
            hub_spki: bytes(&keys.server_spki)?,
            key: bytes(&keys.client_key)?.into(),
        })
    }

    /// A socket for it. Sends nothing yet.
    pub(super) fn open(&self) -> Result<(Quic, SocketAddr), ThinError> {
        let address = resolve("quic", &self.place)?;
        let key = PrivateKeyDer::Pkcs8(self.key.clone_key());
        let quic = Quic::new(address, &self.hub_spki, &key).map_err(ThinError::Quic)?;
        Ok((quic, address))
    }
}

/// The address of `host:port`.
pub(super) fn resolve(scheme: &str, place: &str) -> Result<SocketAddr, ThinError> {
    let nowhere = |reason: String| ThinError::Unreachable {
        at: format!("{scheme}://{place}"),
        reason,
    };
    let mut found = place
        .to_socket_addrs()
        .map_err(|error| nowhere(error.to_string()))?;
    found
        .next()
        .ok_or_else(|| nowhere("the name has no address".to_owned()))
}

/// Bytes of the IP and UDP headers of a datagram.
pub(super) const fn header_bytes(address: SocketAddr) -> u64 {
    if address.is_ipv4() { 28 } else { 48 }
}
