//! A request's body before ruma reads it. What to say when ruma cannot is [`super::unread`]'s.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::endpoint::Endpoint;
use crate::{
    api::{Code, Refusal},
    base::limits::BODY_BYTES_MAX,
    wire::{DecodeError, json},
};

/// The body for ruma: strict JSON, an object, `{}` where it is absent and that means the same.
// spec: client-server §API-Standards
pub(super) fn checked(endpoint: Endpoint, body: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if body.len() > BODY_BYTES_MAX {
        return Err(too_large(BODY_BYTES_MAX));
    }
    if endpoint.method() == http::Method::GET {
        return Ok(Cow::Borrowed(b"")); // a GET's body means nothing (rfc9110 9.3.1)
    }
    let absent = body.is_empty() && !endpoint.keeps_body();
    let body = if absent { b"{}" } else { body };
    strict(endpoint, body)
}

/// The refusal of a body beyond so many bytes.
pub(in crate::edge) fn too_large(max: usize) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("the body is larger than {max} bytes"),
    )
}

/// Whether it reads as an object, in one way only; and, if it becomes an event, as canonical JSON.
fn strict(endpoint: Endpoint, body: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if endpoint.makes_event() {
        return json::read_object(body)
            .map(|_| Cow::Borrowed(body))
            .map_err(|error| unreadable(&error));
    }
    let mut object = json::read_lax_object(body).map_err(|error| unreadable(&error))?;
    bearable(endpoint, &object)?;
    match (endpoint, object.get("typing")) {
        // of this one ruma says only that it is of neither of two forms
        (Endpoint::Invite, _) if !INVITED.iter().any(|name| object.contains_key(*name)) => {
            Err(Refusal::new(Code::MissingParam, "`user_id` is missing"))
        }
        // ruma wants it, the specification does not
        // spec: client-server-sync §Typing-notifications
        (Endpoint::Typing, Some(Value::Bool(true)))
            if object.get("timeout").is_none_or(Value::is_null) =>
        {
            object.insert("timeout".to_owned(), TYPING_MS.into());
            Ok(Cow::Owned(Value::Object(object).to_string().into_bytes()))
        }
        _ => Ok(Cow::Borrowed(body)),
    }
}

/// Whether ruma bears to read it: ruma-client-api 0.25.2 panics over a login without a type.
fn bearable(endpoint: Endpoint, object: &Map<String, Value>) -> Result<(), Refusal> {
    match object.get("type") {
        _ if endpoint != Endpoint::Login => Ok(()),
        Some(Value::String(_)) => Ok(()),
        Some(other) => {
            let found = json::kind_lax(other);
            Err(Refusal::bad_json(format!(
                "`type`: expected a text, found {found}"
            )))
        }
        None => Err(Refusal::new(Code::MissingParam, "`type` is missing")),
    }
}

/// The same of a text, as ruma would say it.
pub(super) fn bearable_text(endpoint: Endpoint, body: &[u8]) -> Result<(), serde_json::Error> {
    if endpoint != Endpoint::Login {
        return Ok(());
    }
    let object = serde_json::from_slice(body)?;
    bearable(endpoint, &object).map_err(|_| serde::de::Error::missing_field("type"))
}

/// By which an invite names whom it is for.
const INVITED: [&str; 3] = ["user_id", "address", "medium"];

/// For how long somebody types who does not say for how long, in milliseconds: as the specification's
/// example says, and Synapse assumes.
const TYPING_MS: u64 = 30_000;

/// The refusal of a text that is not JSON, or says something twice, or cannot be kept.
pub(in crate::edge) fn unreadable(error: &DecodeError) -> Refusal {
    let code = if error.is_well_formed() {
        Code::BadJson
    } else {
        Code::NotJson
    };
    Refusal::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_that_ruma_panics_over_is_neither_read_nor_tried() {
        for body in [
            "{}",
            r#"{"type":5}"#,
            r#"{"type":null}"#,
            "[]",
            r#"{"type":{}}"#,
        ] {
            let body = body.as_bytes();
            assert!(strict(Endpoint::Login, body).is_err());
            assert!(bearable_text(Endpoint::Login, body).is_err());
            assert!(bearable_text(Endpoint::Typing, body).is_ok());
        }
        let body = br#"{"type":"m.login.password"}"#;
        assert!(strict(Endpoint::Login, body).is_ok());
        assert!(bearable_text(Endpoint::Login, body).is_ok());
    }
}
