//! The hub's signing key: made once by `init`, read at each start.
//!
//! The file is PKCS#8 in PEM. The key's id is a hash of its public half: it needs no second
//! place to be written down, and a restored or copied key cannot meet another key's id.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ruma::signatures::Ed25519KeyPair;
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};

use super::{failure::Failure, secrets};

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

    /// Reads the key from its file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = secrets::read_file(path).map_err(|error| {
            let fix = "`tramline init` makes one; `signing_key_file` names it";
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

/// Makes a key from the operating system's randomness, as PEM.
pub fn generate() -> String {
    let body = STANDARD.encode(&*Ed25519KeyPair::generate());
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    let mut rest = body.as_str();
    while let Some((line, after)) = rest.split_at_checked(PEM_LINE_CHARS) {
        pem.extend([line, "\n"]);
        rest = after;
    }
    if !rest.is_empty() {
        pem.extend([rest, "\n"]);
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

/// How much of the public key's hash names the key, in hex digits: enough for one server's few.
const KEY_NAME_CHARS: usize = 8;

/// The length of a PEM line (RFC 7468).
const PEM_LINE_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_reads_back_under_the_same_id() {
        let pem = generate();

        let key = SigningKey::from_pem(&pem).unwrap();

        assert_eq!(key.id(), SigningKey::from_pem(&pem).unwrap().id());
        assert_eq!(key.id().len(), "ed25519:".len() + KEY_NAME_CHARS);
        assert!(pem.lines().all(|line| line.len() <= PEM_LINE_CHARS));
    }

    #[test]
    fn two_keys_have_two_ids() {
        let id = || SigningKey::from_pem(&generate()).unwrap().id();

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
