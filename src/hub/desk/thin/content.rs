//! An event's content, between CBOR with integer keys and canonical JSON.

use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::Value;

use crate::{
    api::Refusal,
    wire::{
        cbor::{self, KeyForm},
        json,
        thin::deflate,
    },
};

/// spec: thin-profile §6
pub(super) fn of_cbor(bytes: &[u8], deflated: bool) -> Result<CanonicalJsonObject, Refusal> {
    let inflated;
    let bytes = if deflated {
        inflated = deflate::inflate(bytes).map_err(|error| bad(&error))?;
        &inflated
    } else {
        bytes
    };
    match cbor::decode(bytes).map_err(|error| bad(&error))?.value {
        Value::Object(members) => json::strict_object(members).map_err(|error| bad(&error)),
        _ => Err(Refusal::bad_json("the content is not a map")),
    }
}

/// spec: thin-profile §6
pub(super) fn to_cbor(content: &CanonicalJsonObject) -> Vec<u8> {
    let value = Value::from(CanonicalJsonValue::Object(content.clone()));
    cbor::encode(&value, KeyForm::Integer)
}

fn bad(error: &dyn std::error::Error) -> Refusal {
    Refusal::bad_json(format!("the content: {error}"))
}
