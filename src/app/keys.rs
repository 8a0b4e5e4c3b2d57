//! The hub's signing key: made once by `init`, read at each start.
//!
//! The file is PKCS#8 in PEM. The key's id is a hash of its public half: it needs no second
//! place to be written down, and a restored or copied key cannot meet another key's id.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ruma::{ServerName, signatures::Ed25519KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};

use super::{
    clock,
    config::{self, OldKeys},
    failure::Failure,
    secrets::{self, Secret},
};
use crate::{
    edge::quic::HubKey,
    room::POLICY_KEY_VERSION,
    store::SigningKeyNote,
    wire::matrix::{KeyId, OldKey, ServerKey},
};

/// The hub's Ed25519 signing key.
pub struct SigningKey {
    /// The key; its `version` is the part of the key id behind `ed25519:`.
    pub pair: Ed25519KeyPair,
}

impl SigningKey {
    /// The Matrix key id, like `ed25519:a1b2c3d4`.
    pub fn id(&self) -> String {
        format!("ed25519:{}", self.pair.version())
    }

    /// What a store remembers of it.
    pub fn note(&self) -> SigningKeyNote {
        SigningKeyNote {
            id: self.id(),
            public: self.pair.public_key(),
        }
    }

    /// Reads the key from its file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = secrets::read_file(path).map_err(|error| {
            let fix = "put it back from a backup; `signing_key_file` names it";
            Failure::usage(error.code(), format!("the signing key: {error}; {fix}"))
        })?;
        Self::from_pem(text.reveal()).map_err(|reason| {
            Failure::usage(
                "SIGNING_KEY",
                format!("{}: no Ed25519 key in PEM: {reason}", path.display()),
            )
        })
    }

    fn from_pem(pem: &str) -> Result<Self, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
        Self::from_der(der.secret_pkcs8_der())
    }

    fn from_der(der: &[u8]) -> Result<Self, String> {
        let parse = |version: String| {
            Ed25519KeyPair::from_der(der, version).map_err(|error| error.to_string())
        };
        let public = parse("unnamed".to_owned())?.public_key();
        let name = hex::encode(Sha256::digest(public));
        let pair = parse(name.chars().take(KEY_NAME_CHARS).collect())?;
        Ok(Self { pair })
    }
}

/// The keys that this hub signed with before: those of the configuration and those that
/// [`super::rotate`] has written down.
pub fn old(federation: &config::Federation) -> Result<BTreeMap<KeyId, OldKey>, Failure> {
    let file: &Path = federation.old_keys_file.as_ref();
    let wrong = |reason: String| {
        let file = file.display();
        Failure::usage(
            "OLD_KEYS",
            format!("`federation.old_keys_file`: {file}: {reason}"),
        )
    };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let OldKeys(mut keys) = OldKeys::of_lines(lines).map_err(wrong)?;
    let written = federation.old_keys.iter().flat_map(|old| &old.0);
    keys.extend(written.map(|(id, old)| (id.clone(), old.clone())));
    Ok(keys)
}

/// The key that devices know the hub by on QUIC; made where there is none, since hubs are older than it.
pub fn quic_key(path: &Path) -> Result<HubKey, Failure> {
    let wrong = |reason: String| {
        Failure::usage(
            "QUIC_KEY",
            format!("`quic.key_file`: {}: {reason}", path.display()),
        )
    };
    let pem = read_or_make(path).map_err(wrong)?;
    let key = PrivateKeyDer::from_pem_slice(pem.reveal().as_bytes())
        .map_err(|error| wrong(format!("no key in PEM: {error}")))?;
    HubKey::new(&key).map_err(|error| wrong(error.to_string()))
}

/// The key that this hub vouches for events with, where rooms name it their policy server; made where
/// there is none.
pub fn policy_key(path: &Path, name: &ServerName) -> Result<ServerKey, Failure> {
    let wrong = |reason: String| {
        Failure::usage(
            "POLICY_KEY",
            format!("`policy.key_file`: {}: {reason}", path.display()),
        )
    };
    let pem = read_or_make(path).map_err(wrong)?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.reveal().as_bytes())
        .map_err(|error| wrong(format!("no key in PEM: {error}")))?;
    ServerKey::from_der(name.to_owned(), der.secret_pkcs8_der(), POLICY_KEY_VERSION)
        .map_err(|error| wrong(error.to_string()))
}

fn read_or_make(path: &Path) -> Result<Secret, String> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(mut file) => {
            let pem = generate().map_err(|error| error.to_string())?;
            let written = file
                .write_all(pem.as_bytes())
                .and_then(|()| file.sync_all());
            written.map_err(|error| error.to_string())?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.to_string()),
    }
    secrets::read_file(path).map_err(|error| error.to_string())
}

/// Makes a key from the operating system's randomness, as PEM.
pub fn generate() -> io::Result<String> {
    let mut seed = [0; 32];
    clock::fill_from_system(&mut seed)?;
    Ok(pem(&[PKCS8_ED25519.as_slice(), &seed].concat()))
}

/// A private key in PKCS#8 as PEM. It must be short, as an Ed25519 key is: it stands on one line.
pub fn pem(pkcs8: &[u8]) -> String {
    let body = STANDARD.encode(pkcs8);
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}

/// Makes a key from the operating system's randomness: as PKCS#8, and its public half as
/// `SubjectPublicKeyInfo`.
pub fn generate_raw() -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut seed = [0; 32];
    clock::fill_from_system(&mut seed)?;
    let pkcs8 = [PKCS8_ED25519.as_slice(), &seed].concat();
    let pair = Ed25519KeyPair::from_der(&pkcs8, String::new()).map_err(io::Error::other)?;
    let spki = [SPKI_ED25519.as_slice(), &pair.public_key()].concat();
    Ok((pkcs8, spki))
}

/// What stands before the public key by RFC 8410 §4.
const SPKI_ED25519: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// What stands before the seed in an Ed25519 key by RFC 8410 §7, without the public half: the
/// form that every other tool reads (`openssl pkey -in keys/signing.pem -text`).
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// How much of the public key's hash names the key, in hex digits: enough for one server's few.
const KEY_NAME_CHARS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_reads_back_under_the_same_id() {
        let pem = generate().unwrap();

        let key = SigningKey::from_pem(&pem).unwrap();

        assert_eq!(key.id(), SigningKey::from_pem(&pem).unwrap().id());
        assert_eq!(key.id().len(), "ed25519:".len() + KEY_NAME_CHARS);
        assert_eq!(pem.lines().nth(1).unwrap().len(), 64); // RFC 7468's line
    }

    #[test]
    fn a_known_key_gives_its_known_public_half() {
        // RFC 8032 §7.1, test 1
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let der = [PKCS8_ED25519.as_slice(), &hex::decode(seed).unwrap()].concat();

        let public = SigningKey::from_der(&der).unwrap().pair.public_key();

        assert_eq!(
            hex::encode(public),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }

    #[test]
    fn two_keys_have_two_ids() {
        let id = || SigningKey::from_pem(&generate().unwrap()).unwrap().id();

        assert_ne!(id(), id());
    }

    #[test]
    fn a_file_that_is_no_key_says_so_without_its_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "planted-secret").unwrap();

        let failure = SigningKey::read(file.path()).err().unwrap().to_string();

        assert!(failure.starts_with("error[SIGNING_KEY]"), "{failure}");
        assert!(!failure.contains("planted-secret"), "{failure}");
    }
}
