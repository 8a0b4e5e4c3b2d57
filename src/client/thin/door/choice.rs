//! Which door a device speaks through.

use std::net::{SocketAddr, ToSocketAddrs as _};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::ThinError;
use crate::client::{Credentials, plain, quic::Quic};

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

/// From this size on a file goes over QUIC for fewer bytes than in blocks over OSCORE.
///
/// Measured at the socket, with IP headers, by `thin_client::a_file_goes_both_ways` over loopback: a
/// connection of its own takes 4.2 kB more than OSCORE, which needs none; then each kilobyte takes 118
/// bytes of headers and acknowledgements in blocks, and 52 (down) to 61 (up) in QUIC's packets. That is
/// even at 63 kB down and 73 kB up, and asking in blocks how large a file is takes 1.2 kB more.
pub const QUIC_FROM_BYTES: u64 = 80_000;

/// What comes with a file, from the same measurement: a connection over QUIC, and each kilobyte there; each
/// block over OSCORE.
const QUIC_BYTES: u64 = 4200;
const QUIC_BYTES_PER_KILOBYTE: u64 = 61;
const OSCORE_BYTES_PER_BLOCK: u64 = 118;

/// About what a file of so many bytes takes, headers included, where a block has so many.
pub(super) const fn file_cost(bytes: u64, is_quic: bool, block: u64) -> u64 {
    let block = if block == 0 { 1024 } else { block };
    let beside = if is_quic {
        QUIC_BYTES.saturating_add(bytes.div_ceil(1024).saturating_mul(QUIC_BYTES_PER_KILOBYTE))
    } else {
        bytes.div_ceil(block).saturating_mul(OSCORE_BYTES_PER_BLOCK)
    };
    bytes.saturating_add(beside)
}

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
        .map_err(|error| nowhere(plain::io(&error)))?;
    found
        .next()
        .ok_or_else(|| nowhere("the name has no address".to_owned()))
}

/// Bytes of the IP and UDP headers of a datagram.
pub(super) const fn header_bytes(address: SocketAddr) -> u64 {
    if address.is_ipv4() { 28 } else { 48 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::QuicKeys;

    #[test]
    fn quic_takes_an_address_and_the_keys_of_both_ends() {
        let mut credentials =
            Credentials::new("@ana:h".to_owned(), "K1".to_owned(), "t".to_owned());
        credentials.server.quic = Some("127.0.0.1:8449".to_owned());
        assert!(QuicDoor::of(&credentials).is_none());
        let keys = |server: Option<&str>, client: Option<&str>| QuicKeys {
            server_spki: server.map(str::to_owned),
            client_key: client.map(str::to_owned),
        };
        for (server, client, is_door) in [
            (None, Some("01"), false),
            (Some("01"), None, false), // another program has the device's key
            (Some("no hex"), Some("01"), false),
            (Some("01"), Some("02"), true),
        ] {
            credentials.quic = Some(keys(server, client));
            assert_eq!(QuicDoor::of(&credentials).is_some(), is_door);
        }
        // A key that is none is found when it is wanted.
        assert!(matches!(
            QuicDoor::of(&credentials).unwrap().open(),
            Err(ThinError::Quic(_))
        ));
    }

    #[test]
    fn what_a_file_takes_is_more_than_its_bytes_and_least_by_the_door_that_is_taken() {
        assert_eq!(file_cost(3000, false, 1024), 3000 + 3 * 118);
        assert_eq!(file_cost(3000, false, 128), 3000 + 24 * 118);
        let [small, large] = [3000, 200_000].map(|bytes| {
            let by = |is_quic| file_cost(bytes, is_quic, 1024);
            (by(true), by(false))
        });
        assert!(small.0 > small.1 && large.0 < large.1);
        assert_eq!(file_cost(u64::MAX, true, 0), u64::MAX);
    }

    #[test]
    fn radio_links_keep_to_oscore() {
        let quick = (0..=6).filter(|class| is_quick(*class));
        assert_eq!(quick.collect::<Vec<u8>>(), [0, 5, 6]);
    }
}
