//! Whether the bytes of an event are still those that its id was given to.
//!
//! The id is the hash of the event without most of its content, and covers the hash of the content;
//! so two hashes tell, without a signature or anything kept beside the event.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, canonical_json::RedactingSerializer,
    signatures::content_hash,
};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::Version;
use crate::base::EventHash;

/// Bytes that are not those of the event they are kept as.
#[derive(Debug, Error)]
pub enum NotIntact {
    /// They are no canonical JSON, or not of an event.
    #[error("not an event: {0}")]
    Form(#[from] serde_json::Error),
    /// They are those of another event.
    #[error("it has the id of another event, {}", super::event_id(*found))]
    Id {
        /// The reference hash of the bytes.
        found: EventHash,
    },
    /// The content was changed.
    #[error("its content hashes to {found}, the event says {expected}")]
    Content {
        /// What the event says.
        expected: String,
        /// The content hash of the bytes.
        found: String,
    },
}

/// Checks an event against the hash that is its id. Events that were redacted keep their id, and
/// the hash of a content that is gone: they pass when nothing but what redaction leaves is there.
///
/// Some 4 µs of processor for a message, half of it for reading the JSON.
///
/// spec: server-server §Signing-events
pub fn check_intact(json: &str, hash: EventHash, version: Version) -> Result<(), NotIntact> {
    let object: CanonicalJsonObject = serde_json::from_str(json)?;
    let kept = |without: &[&str]| {
        RedactingSerializer::new()
            .rules(&version.rules().redaction)
            .custom_redacted_root_fields(without)
            .serialize(&object)
    };
    let found = EventHash(Sha256::digest(kept(&["signatures", "unsigned"])?).into());
    if found != hash {
        return Err(NotIntact::Id { found });
    }
    let expected = hash_said(&object).unwrap_or_default();
    let found = content_hash(&object).map_or_else(|error| error.to_string(), |hash| hash.encode());
    if expected == found || kept(&[])? == json {
        return Ok(());
    }
    Err(NotIntact::Content {
        expected: expected.to_owned(),
        found,
    })
}

fn hash_said(object: &CanonicalJsonObject) -> Option<&str> {
    let CanonicalJsonValue::Object(hashes) = object.get("hashes")? else {
        return None;
    };
    match hashes.get("sha256")? {
        CanonicalJsonValue::String(hash) => Some(hash),
        _ => None,
    }
}
