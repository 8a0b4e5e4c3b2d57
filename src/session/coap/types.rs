//! What goes in and out of the machine: requests, responses and events with whole bodies.

use std::{fmt::Debug, hash::Hash};

use bytes::Bytes;
use thiserror::Error;

use crate::wire::coap::{Code, EncodeError, Options, options::number};

/// Whoever is at the other end: an address, or a security context that moves between addresses.
pub trait Peer: Clone + Eq + Hash + Ord + Debug {}

impl<T: Clone + Eq + Hash + Ord + Debug> Peer for T {}

/// One request and what becomes of it, at either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub(super) u64);

/// One registration to be told about a resource's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObservationId(pub(super) u64);

/// A request with its whole body. Block, Echo, Request-Tag, Size and Observe options are the
/// machine's and not in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which method.
    pub method: Code,
    /// Path, query, formats and the like.
    pub options: Options,
    /// The whole body.
    pub payload: Bytes,
    /// Client: ask to be told about changes.
    pub observe: bool,
}

impl Request {
    /// A request for a path, without a body.
    pub fn new(method: Code, path: &[&str]) -> Self {
        let mut options = Options::new();
        for segment in path {
            options.push(number::URI_PATH, *segment);
        }
        Self {
            method,
            options,
            payload: Bytes::new(),
            observe: false,
        }
    }

    /// The same with one option more.
    #[must_use]
    pub fn option(mut self, number: u16, value: impl Into<Vec<u8>>) -> Self {
        self.options.push(number, value);
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn body(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The same, asking to be told about changes.
    #[must_use]
    pub const fn observing(mut self) -> Self {
        self.observe = true;
        self
    }
}

/// A response with its whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// How it went.
    pub code: Code,
    /// Content-Format, Max-Age, `ETag` and the like.
    pub options: Options,
    /// The whole body.
    pub payload: Bytes,
    /// Server: this answer accepts the observation the request asked for. Client: it was accepted.
    pub observing: bool,
}

impl Response {
    /// A response without a body.
    pub const fn new(code: Code) -> Self {
        Self {
            code,
            options: Options::new(),
            payload: Bytes::new(),
            observing: false,
        }
    }

    /// The same with a body of a content format.
    #[must_use]
    pub fn body(mut self, content_format: u16, payload: impl Into<Bytes>) -> Self {
        self.options.remove(number::CONTENT_FORMAT);
        self.options
            .push_uint(number::CONTENT_FORMAT, u32::from(content_format));
        self.payload = payload.into();
        self
    }

    /// The same with a diagnostic text. spec: rfc7252 §5.5.
    #[must_use]
    pub fn saying(mut self, text: impl Into<String>) -> Self {
        self.payload = Bytes::from(text.into());
        self
    }

    /// The same with one option more.
    #[must_use]
    pub fn option(mut self, number: u16, value: impl Into<Vec<u8>>) -> Self {
        self.options.push(number, value);
        self
    }

    /// Accepts the observation the request asked for: from now on `notify` reaches it.
    #[must_use]
    pub const fn observing(mut self) -> Self {
        self.observing = true;
        self
    }

    /// 4.29: this client asks too often and may come back after `seconds`. spec: rfc7252 §5.10.
    pub fn too_many_requests(seconds: u32) -> Self {
        let mut response = Self::new(Code::TOO_MANY_REQUESTS);
        response.options.push_uint(number::MAX_AGE, seconds);
        response
    }

    /// 5.03: we are full; anyone may come back after `seconds`.
    pub fn unavailable(seconds: u32) -> Self {
        let mut response = Self::new(Code::UNAVAILABLE);
        response.options.push_uint(number::MAX_AGE, seconds);
        response
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<P> {
    /// Server: a whole request. Answer it with `respond`.
    Request {
        /// To answer it by.
        exchange: ExchangeId,
        /// Who asks.
        peer: P,
        /// What.
        request: Request,
        /// Set when it asks to observe and may; answer with [`Response::observing`] to accept.
        observation: Option<ObservationId>,
        /// Whether the peer has shown that it receives at its address. When not, the method is
        /// safe, and an answer above three times the bytes received becomes a challenge.
        validated: bool,
    },
    /// Server: the answer took too long and the client was told 5.03; `respond` would be refused.
    /// An observation that came with the request is gone too.
    Cancelled {
        /// Which.
        exchange: ExchangeId,
    },
    /// Server: the observer acknowledged the last notification: the next may be computed.
    Delivered {
        /// Which.
        observation: ObservationId,
    },
    /// Server: `notify` reaches nobody any more.
    ObserverGone {
        /// Which.
        observation: ObservationId,
        /// Why.
        reason: GoneReason,
    },
    /// Client: the answer.
    Response {
        /// To which request.
        exchange: ExchangeId,
        /// From whom.
        peer: P,
        /// What; `observing` says whether notifications will follow.
        response: Response,
    },
    /// Client: the observed resource changed.
    Notification {
        /// The request that registered.
        exchange: ExchangeId,
        /// The new state. An error code ends the observation.
        response: Response,
    },
    /// Client: there will be no answer, or no further notification.
    Failed {
        /// To which request.
        exchange: ExchangeId,
        /// Why.
        reason: FailReason,
    },
}

/// How far a body in blocks has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there.
    pub done: usize,
    /// Bytes in all; of an answer, where the request asked for its size (Size2).
    pub total: Option<usize>,
}

/// Why an observation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// The client rejected a notification.
    Reset,
    /// No acknowledgement after the last retransmission.
    TimedOut,
    /// The client asked for it.
    Deregistered,
    /// The client registered again with the same token.
    Replaced,
    /// The answer or a notification was an error, which ends an observation.
    Refused,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FailReason {
    /// No acknowledgement after the last retransmission.
    #[error("the peer does not answer")]
    TimedOut,
    /// It was acknowledged, and then nothing came.
    #[error("the peer took the request and never answered it")]
    NoResponse,
    /// The peer could not make sense of it.
    #[error("the peer rejected the message")]
    Reset,
    /// What came back breaks the protocol.
    #[error("the peer's answer breaks the protocol")]
    BadResponse,
    /// The body changed between its blocks, more often than we try again.
    #[error("the body changed while it was being transferred")]
    BodyChanged,
    /// Whether we receive at our address was asked again each time we had shown it: it changes faster
    /// than messages pass.
    #[error("the peer asked again and again whether we receive at our address")]
    Challenged,
    /// The answer is larger than we take.
    #[error("the answer is larger than the configured ceiling")]
    TooLarge,
    /// The request does not fit: too many or too long options.
    #[error("the request's options do not fit into a message")]
    Unsendable,
    /// Too many requests wait for this peer already.
    #[error("too many requests are waiting for this peer")]
    Busy,
}

/// Why an answer or notification was not sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RespondError {
    /// Answered, cancelled or never there.
    #[error("no such exchange or observation is open")]
    Unknown,
    /// Above `response_bytes_max`; the client was told 5.00.
    #[error("a body of {bytes} bytes, at most {bytes_max} can be sent")]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// The ceiling.
        bytes_max: usize,
    },
    /// Its options do not fit into a message; the client was told 5.00.
    #[error("the response's options do not fit into a message")]
    Unsendable(#[source] EncodeError),
    /// No room to keep the body while it is fetched; the client was told 5.03.
    #[error("no room to keep another body")]
    Full,
}
