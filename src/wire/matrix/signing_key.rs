//! The public half of a server's key, its id, and what a signature of it is over.

use std::{fmt, str::FromStr};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, SigningKeyAlgorithm,
    signatures::{self, to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The id of an Ed25519 key: `ed25519:` and its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyId(String);

/// A text that is no id of a key which can be used here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no id of an Ed25519 key, such as ed25519:a1")]
pub struct KeyIdError(pub String);

impl KeyId {
    /// As it stands in JSON.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let version = text.strip_prefix(ALGORITHM).unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let ok = (1..=VERSION_BYTES_MAX).contains(&version.len()) && version.bytes().all(is_plain);
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyIdError(text.chars().take(VERSION_BYTES_MAX).collect()))
        }
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyIdError;

    fn try_from(text: String) -> Result<Self, KeyIdError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The public half of an Ed25519 key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey(pub [u8; 32]);

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not 32 bytes in base64")]
pub struct PublicKeyError;

impl PublicKey {
    /// As it stands in JSON.
    pub fn base64(&self) -> String {
        general_purpose::STANDARD_NO_PAD.encode(self.0)
    }

    /// Whether `signature` is this key's over `text`.
    pub fn verify(&self, text: &str, signature: &Signature) -> Result<(), Forged> {
        let algorithm = SigningKeyAlgorithm::Ed25519;
        verify_canonical_json_bytes(&algorithm, &self.0, &signature.0, text.as_bytes())
            .map_err(|error| Forged(Box::new(error)))
    }

    /// Whether `object` carries a signature of this key, as `entity`'s key with this id.
    pub fn verify_object(
        &self,
        object: &CanonicalJsonObject,
        entity: &str,
        id: &KeyId,
    ) -> Result<(), ObjectError> {
        let signature = signature_of(object, entity, id)?;
        self.verify(&text_to_sign(object)?, &signature)?;
        Ok(())
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let bytes = LENIENT.decode(text).map_err(|_| PublicKeyError)?;
        bytes.try_into().map(Self).map_err(|_| PublicKeyError)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = PublicKeyError;

    fn try_from(text: String) -> Result<Self, PublicKeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.base64()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.base64())
    }
}

/// A signature, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// Reads what stands in JSON or in a header.
    pub fn parse(text: &str) -> Option<Self> {
        LENIENT.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// As it stands in JSON.
    pub fn base64(&self) -> String {
        general_purpose::STANDARD_NO_PAD.encode(self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", self.base64())
    }
}

/// A signature that is not the key's over the text.
#[derive(Debug, Error)]
#[error("the signature is not the key's over what came")]
pub struct Forged(#[source] Box<signatures::VerificationError>);

/// An object does not carry the signature that was looked for.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// It has none.
    #[error("it carries no signature of {entity} with {id}")]
    Absent {
        /// Whose signature.
        entity: String,
        /// By which key.
        id: KeyId,
    },
    /// It has one that cannot be read.
    #[error("its signature of {entity} with {id} is not 64 bytes in base64")]
    Form {
        /// Whose signature.
        entity: String,
        /// By which key.
        id: KeyId,
    },
    /// It has one of something else.
    #[error(transparent)]
    Forged(#[from] Forged),
    /// It cannot be written as JSON.
    #[error("it cannot be written as canonical JSON: {0}")]
    Text(#[from] signatures::JsonError),
}

/// What a signature of an object covers: all of it but signatures and `unsigned`.
// spec: server-server §Retrieving-server-keys
pub fn text_to_sign(object: &CanonicalJsonObject) -> Result<String, signatures::JsonError> {
    to_canonical_json_string_for_signing(object)
}

fn signature_of(
    object: &CanonicalJsonObject,
    entity: &str,
    id: &KeyId,
) -> Result<Signature, ObjectError> {
    let within = |value: Option<&CanonicalJsonValue>, key: &str| match value {
        Some(CanonicalJsonValue::Object(inner)) => inner.get(key).cloned(),
        _ => None,
    };
    let by_entity = within(object.get("signatures"), entity);
    let (entity, id) = (entity.to_owned(), id.clone());
    match within(by_entity.as_ref(), id.as_str()) {
        Some(CanonicalJsonValue::String(text)) => {
            Signature::parse(&text).ok_or(ObjectError::Form { entity, id })
        }
        Some(_) => Err(ObjectError::Form { entity, id }),
        None => Err(ObjectError::Absent { entity, id }),
    }
}

const ALGORITHM: &str = "ed25519:";

/// The version in a key's id, in bytes. The grammar has no end to it; ids are map keys here.
const VERSION_BYTES_MAX: usize = 255;

/// The specification wants base64 without padding; some write it with padding, and with bits left
/// over at the end.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
