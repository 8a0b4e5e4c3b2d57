//! Request methods and response codes: one byte, class.detail.

use std::fmt;

/// A method, a response code, or Empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u8);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $class:literal, $detail:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($class << 5 | $detail);)*
        }
    };
}

codes! {
    /// No request and no response: acknowledgement, reset or ping.
    EMPTY = 0, 0;
    /// Read.
    GET = 0, 1;
    /// Process the body.
    POST = 0, 2;
    /// Store the body.
    PUT = 0, 3;
    /// Remove.
    DELETE = 0, 4;
    /// Read with a query in the body.
    FETCH = 0, 5;
    /// Change in part.
    PATCH = 0, 6;
    /// Change in part, idempotent.
    IPATCH = 0, 7;
    /// Something new exists.
    CREATED = 2, 1;
    /// It is gone.
    DELETED = 2, 2;
    /// What the client has is still right.
    VALID = 2, 3;
    /// It was changed.
    CHANGED = 2, 4;
    /// Here it is.
    CONTENT = 2, 5;
    /// Send the next block.
    CONTINUE = 2, 31;
    /// The request makes no sense.
    BAD_REQUEST = 4, 0;
    /// No or wrong credential; with Echo, a challenge.
    UNAUTHORIZED = 4, 1;
    /// A critical option is not understood.
    BAD_OPTION = 4, 2;
    /// Not for this client.
    FORBIDDEN = 4, 3;
    /// Nothing there.
    NOT_FOUND = 4, 4;
    /// Not with this method.
    METHOD_NOT_ALLOWED = 4, 5;
    /// Not in a form the client accepts.
    NOT_ACCEPTABLE = 4, 6;
    /// Blocks are missing.
    INCOMPLETE = 4, 8;
    /// It clashes with what is there.
    CONFLICT = 4, 9;
    /// A condition of the request does not hold.
    PRECONDITION_FAILED = 4, 12;
    /// The request body is too large.
    TOO_LARGE = 4, 13;
    /// The request body has a format we do not read.
    UNSUPPORTED_FORMAT = 4, 15;
    /// Well formed, but not possible.
    UNPROCESSABLE = 4, 22;
    /// Early data could be a replay (RFC 8470): once more when the handshake is over.
    TOO_EARLY = 4, 25;
    /// This client asks too often (RFC 8516); Max-Age says when to come back.
    TOO_MANY_REQUESTS = 4, 29;
    /// Our fault.
    INTERNAL_ERROR = 5, 0;
    /// We have no such method.
    NOT_IMPLEMENTED = 5, 1;
    /// The server behind us failed.
    BAD_GATEWAY = 5, 2;
    /// Not now; Max-Age says when to come back.
    UNAVAILABLE = 5, 3;
    /// The server behind us did not answer.
    GATEWAY_TIMEOUT = 5, 4;
    /// We are no proxy.
    PROXYING_NOT_SUPPORTED = 5, 5;
}

impl Code {
    /// The class: 0 is requests and Empty, 2, 4 and 5 are responses, the others are reserved.
    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    /// The detail within the class.
    pub const fn detail(self) -> u8 {
        self.0 & 0x1f
    }

    /// A method.
    pub const fn is_request(self) -> bool {
        self.class() == 0 && self.detail() != 0
    }

    /// An answer of any outcome. Class 3 is unassigned, yet not reserved.
    pub const fn is_response(self) -> bool {
        matches!(self.class(), 2..=5)
    }

    /// An answer that grants the request.
    pub const fn is_success(self) -> bool {
        self.class() == 2
    }

    /// A method that asks for nothing but an answer: repeating it harms nobody.
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::GET | Self::FETCH)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.class(), self.detail())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
