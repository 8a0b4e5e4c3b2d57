//! What a door sends back: a status and a JSON body, from a reply or a refusal.

use std::time::Duration;

use serde_json::Value;

use super::endpoint::written;
use crate::api::{Refusal, Reply};

/// A status, as HTTP numbers them, and a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// JSON.
    pub body: Vec<u8>,
    /// When to try again, for the header or option that says so.
    pub retry_after: Option<Duration>,
    /// The methods that the path knows, for the header that says so.
    pub allow: Option<Box<str>>,
}

impl Answer {
    /// The answer that a reply or refusal is.
    pub fn of(outcome: Result<Reply, Refusal>) -> Self {
        let refusal = match outcome {
            Ok(reply) => match written(reply) {
                Ok((status, body)) => {
                    return Self {
                        status,
                        body,
                        retry_after: None,
                        allow: None,
                    };
                }
                Err(error) => {
                    tracing::error!(%error, "a reply could not be written as JSON");
                    Refusal::internal()
                }
            },
            Err(refusal) => refusal,
        };
        Self::of_refusal(refusal)
    }

    /// The answer that a refusal is.
    // spec: client-server §Standard-error-response
    pub fn of_refusal(refusal: Refusal) -> Self {
        let retry_ms = refusal
            .retry_after
            .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let mut body = refusal.body.unwrap_or_default();
        body.insert("errcode".into(), refusal.code.errcode().into());
        body.insert("error".into(), refusal.message.into());
        if let Some(retry_ms) = retry_ms {
            body.insert("retry_after_ms".into(), retry_ms.into());
        }
        Self {
            status: refusal.status,
            body: Value::Object(body).to_string().into_bytes(),
            retry_after: refusal.retry_after,
            allow: refusal.allow,
        }
    }

    /// An answer that is a small object.
    pub fn of_object(object: &Value) -> Self {
        Self {
            status: 200,
            body: object.to_string().into_bytes(),
            retry_after: None,
            allow: None,
        }
    }
}
