//! A request's body before ruma reads it, and what to say when ruma cannot.
//!
//! A refusal names the field and what was expected there. It never repeats a text: it may be a
//! password.

use ruma::api::error::{DeserializationError, FromHttpRequestError};
use serde_json::Value;

use super::{endpoint::Endpoint, place};
use crate::{
    api::{Code, Refusal},
    base::limits::BODY_BYTES_MAX,
    wire::{DecodeError, json},
};

/// The body for ruma: strict JSON, an object, `{}` where it is absent and that means the same.
// spec: client-server §API-Standards
pub(super) fn checked(endpoint: Endpoint, body: &[u8]) -> Result<&[u8], Refusal> {
    if body.len() > BODY_BYTES_MAX {
        return Err(too_large(BODY_BYTES_MAX));
    }
    if endpoint.method() == http::Method::GET {
        return Ok(b""); // a GET's body means nothing (rfc9110 9.3.1)
    }
    let absent = body.is_empty() && !endpoint.keeps_body();
    let body = if absent { b"{}" } else { body };
    strict(endpoint, body)?;
    Ok(body)
}

/// The refusal of a body beyond so many bytes.
pub(in crate::edge) fn too_large(max: usize) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("the body is larger than {max} bytes"),
    )
}

/// Whether it reads as an object, in one way only; and, if it becomes an event, as canonical JSON.
fn strict(endpoint: Endpoint, body: &[u8]) -> Result<(), Refusal> {
    if endpoint.makes_event() {
        return json::read_object(body)
            .map(drop)
            .map_err(|error| unreadable(&error));
    }
    let Value::Object(object) = json::read_lax(body).map_err(|error| unreadable(&error))? else {
        return Err(Refusal::bad_json("the body must be a JSON object"));
    };
    if endpoint == Endpoint::Login {
        // ruma-client-api 0.25.2 panics over a login without a type
        return match object.get("type") {
            Some(Value::String(_)) => Ok(()),
            Some(_) => Err(Refusal::bad_json("`type`: expected a string")),
            None => Err(missing("`type`")),
        };
    }
    Ok(())
}

fn unreadable(error: &DecodeError) -> Refusal {
    let code = if error.is_well_formed() {
        Code::BadJson
    } else {
        Code::NotJson
    };
    Refusal::new(code, error.to_string())
}

fn missing(what: &str) -> Refusal {
    Refusal::new(Code::MissingParam, format!("{what} is missing"))
}

/// What ruma's error says to whoever sent `body`. `wrong` names the parameter that is meant where it is
/// not the body.
pub(in crate::edge) fn refusal(
    error: FromHttpRequestError,
    body: &[u8],
    wrong: impl FnOnce() -> Option<String>,
) -> Refusal {
    let error = match error {
        FromHttpRequestError::Deserialization(error) => error,
        FromHttpRequestError::MethodMismatch { expected, .. } => {
            return Refusal::wrong_method(&super::routes::allow([expected]));
        }
        _ => return Refusal::bad_json("the request cannot be read"),
    };
    let (code, message, field) = match error {
        DeserializationError::Json(error) => {
            let field = place::named(body, error.line(), error.column());
            (Code::BadJson, error.to_string(), field)
        }
        other => (Code::InvalidParam, other.to_string(), wrong()),
    };
    let said = without_values(&message);
    if let Some(field) = said.strip_prefix("missing field ") {
        return missing(field);
    }
    match field {
        Some(field) => Refusal::new(code, format!("`{field}`: {said}")),
        None => Refusal::new(code, said),
    }
}

/// serde's message without the value it met and without its line and column.
fn without_values(message: &str) -> String {
    let end = message.rfind(" at line ").unwrap_or(message.len());
    let message = message.get(..end).unwrap_or(message);
    let repeats_a_value = ["invalid type", "invalid value", "unknown variant"]
        .iter()
        .any(|start| message.starts_with(start));
    if !repeats_a_value {
        return message.chars().take(MESSAGE_CHARS_MAX).collect();
    }
    let expected = message
        .rfind(", expected ")
        .and_then(|at| message.get(at + 2..));
    let expected = expected.unwrap_or("a value of another kind is expected here");
    expected.chars().take(MESSAGE_CHARS_MAX).collect()
}

/// How much of a message of ruma's or serde's is passed on, in characters: more than any of
/// theirs, unless it repeats something of the client's.
const MESSAGE_CHARS_MAX: usize = 200;
