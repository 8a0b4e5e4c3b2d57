//! What can go wrong for a client.

use thiserror::Error;

use super::plain;

/// A request that was not answered as wanted.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The hub said no; its stable code and its reason.
    #[error("{errcode}: {error} (HTTP {status})")]
    Refused {
        /// The HTTP status, or what the CoAP code stands for.
        status: u16,
        /// The Matrix error code.
        errcode: String,
        /// The reason, for a person.
        error: String,
        /// When to try again.
        retry_after_ms: Option<u64>,
    },
    /// The hub could not be reached, or the connection broke.
    #[error("cannot reach the hub at {at}: {}", plain::words(.source.as_ref()))]
    Unreachable {
        /// Where.
        at: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Whether something of the request may have left: then it may have been done.
        is_sent: bool,
    },
    /// The answer's bytes were wrong.
    #[error("the answer is not what this request is answered with: {0}")]
    Decode(String),
    /// A field is missing from the answer.
    #[error("the answer has no usable `{wanted}`")]
    Shape {
        /// The field.
        wanted: &'static str,
    },
    /// A field of the answer is not what it should be.
    #[error("`{field}` in the answer: {reason}")]
    Field {
        /// The field.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// What a linked device's own files or link say.
    #[error(transparent)]
    Thin(crate::client::thin::ThinError),
    /// The certificate authority file cannot be used.
    #[error("cannot use the certificate file: {0}")]
    Ca(String),
}

impl ClientError {
    /// The hub's error code, when it was the hub that refused.
    pub fn errcode(&self) -> Option<&str> {
        match self {
            Self::Refused { errcode, .. } => Some(errcode),
            _ => None,
        }
    }

    /// Whether nobody who is trusted vouches for the hub's certificate.
    pub fn is_unvouched(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if plain::is_unvouched(source.as_ref()))
    }

    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 429 | 500..=599),
            Self::Unreachable { .. } => true,
            Self::Thin(error) => error.is_temporary(),
            _ => false,
        }
    }
}

impl From<crate::client::thin::ThinError> for ClientError {
    fn from(error: crate::client::thin::ThinError) -> Self {
        use crate::{
            client::thin::{AskError, ThinError},
            wire::coap::status_for_code,
        };
        match error {
            ThinError::Ask(AskError::Refused {
                code,
                errcode,
                text,
                retry_after_s,
            }) => Self::Refused {
                status: status_for_code(code),
                errcode,
                error: text,
                retry_after_ms: retry_after_s.map(|seconds| u64::from(seconds) * 1000),
            },
            other => Self::Thin(other),
        }
    }
}
