//! What is refused, and the error message that says so; what a peer's error message says.

use lakers::EDHOCError;
use thiserror::Error;

use super::{Kid, SUITE};
use crate::{session::oscore::Id, wire::coap::Code};

/// Why an exchange ends, or does not begin.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// Not the bytes of this message.
    #[error("EDHOC message {message}, offset {at}: {what}")]
    Malformed {
        /// Which of the four; 0 for what is around them.
        message: u8,
        /// Where in it.
        at: usize,
        /// What should be there.
        what: &'static str,
    },
    /// We have one method.
    #[error("EDHOC method {0} is not supported, only 3")]
    Method(u8),
    /// We have one suite, and the peer selects another or prefers it less than what it selects.
    #[error("EDHOC suites {0:?}: 2 is supported, and must be the last and nowhere else")]
    Suites(Vec<u8>),
    /// An ephemeral key that is no point of the curve.
    #[error("EDHOC message {0}: the ephemeral key is not on the curve")]
    NotOnCurve(u8),
    /// Something the peer insists on, and we do not know.
    #[error("EDHOC message {message}: external authorisation data {label} is critical and unknown")]
    CriticalData {
        /// Which of the four.
        message: u8,
        /// Without its sign.
        label: u8,
    },
    /// A credential itself, not the kid of one.
    #[error("EDHOC message {0}: credentials are named by kid only")]
    CredentialKind(u8),
    /// Nobody linked, or no longer.
    #[error("EDHOC: no linked device is known by {0:?}")]
    UnknownCredential(Kid),
    /// Someone without the key, another exchange, or bytes that changed on their way.
    #[error("EDHOC message {0} is not authentic")]
    NotAuthentic(u8),
    /// No exchange waits for this: never begun, over, or too long ago.
    #[error("EDHOC: no exchange is known by {0:?}")]
    NoExchange(Id),
    /// Both ends chose one identifier.
    #[error("EDHOC: both ends chose {0:?}")]
    SameIds(Id),
    /// Ours to mend: another identifier is needed, and then the same message again.
    #[error("EDHOC: {0:?} is in use, another identifier is needed")]
    IdInUse(Id),
    /// Too many have begun and not ended.
    #[error("EDHOC: {0} exchanges are half open, no more are begun")]
    Crowded(usize),
    /// This peer has begun too many.
    #[error("EDHOC: this address has {0} half-open exchanges, no more are begun")]
    CrowdedHere(usize),
}

/// An error message of the peer. It is not authentic, and a reason to give up this exchange only.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PeerError {
    /// Code 1.
    #[error("the peer ended the exchange: {0}")]
    Unspecified(String),
    /// Code 2.
    #[error("the peer does not have cipher suite 2")]
    Suite,
    /// Code 3.
    #[error("the peer does not know our credential")]
    UnknownCredential,
    /// Any other code.
    #[error("the peer ended the exchange with EDHOC error code {0}")]
    Other(u8),
}

impl Refused {
    pub(super) const fn malformed(message: u8, at: usize, what: &'static str) -> Self {
        Self::Malformed { message, at, what }
    }

    /// What `lakers` says about bytes whose shape we have seen to.
    pub(super) fn lakers(message: u8, error: &EDHOCError) -> Self {
        match error {
            EDHOCError::MacVerificationFailed => Self::NotAuthentic(message),
            EDHOCError::UnexpectedCredential => Self::CredentialKind(message),
            _ => Self::malformed(message, 0, "not readable"),
        }
    }

    /// The code of the CoAP answer.
    ///
    /// spec: rfc9528 §A.2.3
    pub const fn code(&self) -> Code {
        match self {
            Self::IdInUse(_) => Code::INTERNAL_ERROR,
            Self::Crowded(_) => Code::UNAVAILABLE,
            Self::CrowdedHere(_) => Code::TOO_MANY_REQUESTS,
            _ => Code::BAD_REQUEST,
        }
    }

    /// The EDHOC error message, for the body of the answer.
    ///
    /// spec: rfc9528 §6
    pub fn error_message(&self) -> Vec<u8> {
        match self {
            Self::Suites(_) => vec![2, SUITE],
            Self::UnknownCredential(_) => vec![3, 0xf5],
            _ => self.unspecified(),
        }
    }

    /// The same with error code 1 whatever it is: the answer to a combined request.
    ///
    /// spec: rfc9668 §3.3.1
    pub fn unspecified(&self) -> Vec<u8> {
        let text = self.short();
        let len = u8::try_from(text.len()).unwrap_or(0).min(23);
        let mut message = vec![1, 0x60 | len];
        message.extend(text.bytes().take(len.into()));
        message
    }

    /// At most 23 bytes: an answer must not be much larger than what a stranger sent.
    const fn short(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::Method(_) => "only method 3",
            Self::Suites(_) => "only suite 2",
            Self::NotOnCurve(_) => "no point of the curve",
            Self::CriticalData { .. } => "critical EAD unknown",
            Self::CredentialKind(_) => "name the credential",
            Self::UnknownCredential(_) | Self::NotAuthentic(_) => "not authentic",
            Self::NoExchange(_) => "begin again",
            Self::SameIds(_) => "equal identifiers",
            Self::IdInUse(_) | Self::Crowded(_) | Self::CrowdedHere(_) => "try again later",
        }
    }
}

impl PeerError {
    /// Reads an error message; none if it is none.
    pub fn decode(body: &[u8]) -> Option<Self> {
        match body {
            [1, head @ 0x60..=0x77, text @ ..] => {
                let text = text.get(..usize::from(head & 0x1f))?;
                Some(Self::Unspecified(
                    String::from_utf8_lossy(text).into_owned(),
                ))
            }
            [1, 0x78, len, text @ ..] => {
                let text = text.get(..usize::from(*len))?;
                Some(Self::Unspecified(
                    String::from_utf8_lossy(text).into_owned(),
                ))
            }
            [2, _, ..] => Some(Self::Suite),
            [3, 0xf5] => Some(Self::UnknownCredential),
            [code @ 4..=23, ..] => Some(Self::Other(*code)),
            _ => None,
        }
    }
}
