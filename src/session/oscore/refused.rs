//! Messages that do not pass, and what to say about it.

use std::fmt;

use thiserror::Error;

use super::{nonce::Piv, option::OptionError, window::Replay};
use crate::wire::coap::{Code, DecodeError, Message, Options, options::number};

/// A request that does not pass. It is answered without protection, if at all.
///
/// spec: rfc8613 §8.2
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// No OSCORE option, or more than one.
    #[error("{0} OSCORE options in a request, not one")]
    Options(usize),
    /// The option cannot be read.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A request must say who sends it, and under which number.
    #[error("an OSCORE request without {0}")]
    Missing(&'static str),
    /// Nothing to decrypt.
    #[error("an OSCORE message without a payload")]
    NoPayload,
    /// A proxy cut it in pieces, which we do not put together.
    #[error("option {0} outside: fragments made by proxies are not supported")]
    Fragment(u16),
    /// Nobody has this kid with this kid context.
    #[error("no security context for this kid and kid context")]
    ContextNotFound,
    /// It was received before.
    #[error(transparent)]
    Replay(#[from] Replay),
    /// It was not made with this context.
    #[error("decryption failed")]
    Decryption,
    /// It was made with this context, and what is in it is no request.
    #[error(transparent)]
    Inner(#[from] InnerFault),
}

/// What was decrypted is no message of the kind it should be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InnerFault {
    /// Not even a code.
    #[error("an empty plaintext")]
    Empty,
    /// A format error. The offset counts from a header of four bytes, of which the code is one.
    #[error("inside: {0}")]
    Format(#[from] DecodeError),
    /// A response in a request, or the other way round, or neither.
    #[error("code {0} inside is of the wrong kind")]
    Code(Code),
    /// OSCORE in OSCORE.
    #[error("an OSCORE option inside")]
    Nested,
}

/// A response that does not pass: the request still waits for one that does.
///
/// An observation goes on, and must not be registered again at once. spec: rfc8613 §8.4.2.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ResponseRefused {
    /// Anyone may have sent it. It may be shown, and another try may be made; no context, binding
    /// or registration may be given up for it.
    #[error("an unprotected answer: {0}")]
    Unprotected(Hint),
    /// The option cannot be read, or is there twice.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// More than one OSCORE option.
    #[error("{0} OSCORE options")]
    Options(usize),
    /// It names another context.
    #[error("an answer of another context")]
    OtherContext,
    /// Nothing to decrypt.
    #[error("an OSCORE message without a payload")]
    NoPayload,
    /// A proxy cut it in pieces, which we do not put together.
    #[error("option {0} outside: fragments made by proxies are not supported")]
    Fragment(u16),
    /// It was not made with this context for this request.
    #[error("decryption failed")]
    Decryption,
    /// What is in it is no response.
    #[error(transparent)]
    Inner(#[from] InnerFault),
    /// The one answer there can be, or the last, was taken already.
    #[error("the request is answered already")]
    Answered,
    /// A second answer under the request's own nonce.
    #[error("a second answer without a partial IV")]
    NonceSpent,
    /// A notification not newer than the newest.
    #[error("notification {:?} is not newer than {}", .piv.map(Piv::number), .newest.number())]
    Stale {
        /// Its number; none is the oldest of all.
        piv: Option<Piv>,
        /// The Notification Number.
        newest: Piv,
    },
    /// A notification where none was asked for.
    #[error("a notification for a request that observes nothing")]
    NotObserved,
}

/// What an unprotected answer says. Unproved, and so worth a retry at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The hub may have lost the context, or wants the kid context said.
    ContextNotFound,
    /// The hub may have seen this number: try again under the next.
    Replay,
    /// The hub may have other keys.
    DecryptionFailed,
    /// The hub may not have understood the option.
    NotUnderstood,
    /// Any other error, of the hub or of something in between.
    Other(Code),
    /// A success without protection can only be a forgery or a mistake.
    Success(Code),
}

impl Refused {
    /// The code to answer with.
    pub const fn code(&self) -> Code {
        match self {
            Self::ContextNotFound | Self::Replay(_) => Code::UNAUTHORIZED,
            Self::Decryption | Self::Inner(_) => Code::BAD_REQUEST,
            Self::Options(_)
            | Self::Option(_)
            | Self::Missing(_)
            | Self::NoPayload
            | Self::Fragment(_) => Code::BAD_OPTION,
        }
    }

    /// The text to answer with.
    pub const fn diagnostic(&self) -> &'static str {
        match self {
            Self::ContextNotFound => CONTEXT_NOT_FOUND,
            Self::Replay(_) => "Replay detected",
            Self::Decryption => "Decryption failed",
            Self::Inner(_) => "Protected message not understood",
            Self::Options(_)
            | Self::Option(_)
            | Self::Missing(_)
            | Self::NoPayload
            | Self::Fragment(_) => "Failed to decode COSE",
        }
    }

    /// The options to answer with: nobody may keep the answer for the next request.
    pub fn options(&self) -> Options {
        Options::new().with_uint(number::MAX_AGE, 0)
    }
}

const CONTEXT_NOT_FOUND: &str = "Security context not found";

impl Hint {
    /// What an answer without an OSCORE option may mean.
    pub(super) fn of(answer: &Message) -> Self {
        match answer.code {
            // The text may be cut or left out: a refusal is never larger than its request.
            Code::UNAUTHORIZED if CONTEXT_NOT_FOUND.as_bytes().starts_with(&answer.payload) => {
                Self::ContextNotFound
            }
            Code::UNAUTHORIZED => Self::Replay,
            Code::BAD_OPTION => Self::NotUnderstood,
            Code::BAD_REQUEST => Self::DecryptionFailed,
            code if code.is_success() => Self::Success(code),
            code => Self::Other(code),
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContextNotFound => f.write_str("4.01, the context may not be known there"),
            Self::Replay => f.write_str("4.01, the request may have been received before"),
            Self::DecryptionFailed => f.write_str("4.00, the keys may differ"),
            Self::NotUnderstood => f.write_str("4.02, OSCORE may not be understood there"),
            Self::Other(code) => write!(f, "{code}"),
            Self::Success(code) => write!(f, "{code}, a success without protection"),
        }
    }
}
