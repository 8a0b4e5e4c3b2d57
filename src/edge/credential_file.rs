//! What a device is told when it is linked: the credential file, without the keys that the device
//! made itself.

use serde_json::{Map, Value, json};

use crate::{api::DeviceCredentials, wire::link_code::KEY_HASH_BYTES};

/// What a hub tells of itself to a device that is linked.
pub struct HubFacts {
    /// Its server name.
    pub name: String,
    /// `host:port` of each door, by its name: `https`, `coap`, `coaps`, `quic`.
    pub doors: Vec<(&'static str, String)>,
    /// Those of them whose host is only taken from the server name.
    pub guessed: Vec<&'static str>,
    /// Its QUIC public key as `SubjectPublicKeyInfo`, where it serves QUIC.
    pub quic_spki: Option<Vec<u8>>,
    /// What the HTTPS door shows now; a reload may replace it.
    pub certificate: Box<dyn Fn() -> Option<ShownCertificate> + Send + Sync>,
}

/// What a linked device has to know of the HTTPS door's certificate.
#[derive(Clone, Debug)]
pub struct ShownCertificate {
    /// The beginning of the SHA-256 of its `SubjectPublicKeyInfo`.
    pub key_hash: [u8; KEY_HASH_BYTES],
    /// The certificate itself as PEM, when no authority vouches for it.
    pub pem: Option<String>,
}

impl HubFacts {
    /// The section `server`.
    fn server(&self) -> Value {
        let mut server = Map::new();
        server.insert("name".to_owned(), self.name.clone().into());
        for (door, address) in &self.doors {
            server.insert((*door).to_owned(), address.clone().into());
        }
        let shown = (self.certificate)();
        let pem = shown.and_then(|shown| shown.pem);
        server.insert("ca_pem".to_owned(), pem.into());
        Value::Object(server)
    }
}

/// The credential file of a device that was linked.
pub fn credential_file(device: &DeviceCredentials, hub: &HubFacts) -> Value {
    let text = |secret: &[u8]| String::from_utf8_lossy(secret).into_owned();
    json!({
        "version": 1,
        "user_id": device.device.user,
        "device_id": device.device.device,
        "access_token": text(&device.access_token.0),
        "server": hub.server(),
        "oscore": {
            "master_secret": hex::encode(&device.master_secret.0),
            "master_salt": hex::encode(&device.master_salt),
            "sender_id": hex::encode(&device.sender_id),
            "recipient_id": hex::encode(&device.recipient_id),
            "id_context": null,
            "aead": "AES-CCM-16-64-128",
            "hkdf": "SHA-256",
        },
        "edhoc": {
            "hub_key": hex::encode(device.hub_edhoc_public_x),
            "kid": hex::encode(&device.edhoc_kid),
        },
        "psk": {
            "identity": device.psk_identity,
            "key": hex::encode(&device.psk.0),
        },
        "quic": {"server_spki": hub.quic_spki.as_ref().map(hex::encode)},
    })
}
