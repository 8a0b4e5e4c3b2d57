//! The server's signing key.

use ruma::{
    CanonicalJsonObject, OwnedServerName,
    signatures::{Ed25519KeyPair, Ed25519KeyPairParseError, JsonError, sign_json},
};
use thiserror::Error;

use super::{KeyId, KeyIdError};

/// The name this hub signs as, and the key it signs with.
#[derive(Debug)]
pub struct ServerKey {
    name: OwnedServerName,
    pair: Ed25519KeyPair,
}

/// A signing key could not be read.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Not a PKCS#8 document of an Ed25519 key.
    #[error("the signing key is not a PKCS#8 Ed25519 key")]
    Parse(#[from] Ed25519KeyPairParseError),
    /// Its version is not of the grammar of key ids.
    #[error(transparent)]
    Version(#[from] KeyIdError),
}

impl ServerKey {
    /// Reads a PKCS#8 document (DER). `version` is what stands after `ed25519:` in the key id.
    pub fn from_der(name: OwnedServerName, der: &[u8], version: &str) -> Result<Self, KeyError> {
        format!("ed25519:{version}").parse::<KeyId>()?;
        Ok(Self {
            name,
            pair: Ed25519KeyPair::from_der(der, version.to_owned())?,
        })
    }

    /// A name and its key, whose version must be of the grammar of key ids.
    pub fn new(name: OwnedServerName, pair: Ed25519KeyPair) -> Self {
        Self { name, pair }
    }

    /// The server's name.
    pub fn name(&self) -> &OwnedServerName {
        &self.name
    }

    /// The pair, for ruma's signing functions.
    pub fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }

    /// The key id, such as `ed25519:a1`.
    pub fn id(&self) -> String {
        format!("ed25519:{}", self.pair.version())
    }

    /// The same as a value.
    pub fn key_id(&self) -> KeyId {
        let id = self.id().parse();
        id.expect("the version of a key of ours is letters and digits")
    }

    /// Adds our signature to an object, beside those of others that it may carry.
    pub fn sign_object(&self, object: &mut CanonicalJsonObject) -> Result<(), JsonError> {
        sign_json(self.name.as_str(), &self.pair, object)
    }

    /// The public half, 32 bytes.
    pub fn public(&self) -> [u8; 32] {
        self.pair.public_key()
    }
}
