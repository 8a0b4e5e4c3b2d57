//! Why something was refused, in the words every wire shares.

use std::time::Duration;

use thiserror::Error;

use super::Why;

/// A stable code: the same on every door and in every release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    missing_docs,
    reason = "the Matrix specification defines each code by its name"
)]
pub enum Code {
    Forbidden,
    Unauthorized,
    UnknownToken,
    MissingToken,
    UserDeactivated,
    BadJson,
    NotJson,
    NotFound,
    LimitExceeded,
    Unrecognized,
    Unknown,
    UserInUse,
    InvalidUsername,
    RoomInUse,
    InvalidRoomState,
    UnsupportedRoomVersion,
    IncompatibleRoomVersion,
    BadState,
    BadAlias,
    GuestAccessForbidden,
    MissingParam,
    InvalidParam,
    InvalidSignature,
    TooLarge,
    ResourceLimitExceeded,
    WeakPassword,
    UnableToAuthoriseJoin,
    DuplicateTxn,
    /// The request came too late or too early for what it names; ours, on top of the spec's.
    Busy,
}

impl Code {
    /// The Matrix error code.
    pub const fn errcode(self) -> &'static str {
        match self {
            Self::Forbidden => "M_FORBIDDEN",
            Self::Unauthorized => "M_UNAUTHORIZED",
            Self::UnknownToken => "M_UNKNOWN_TOKEN",
            Self::MissingToken => "M_MISSING_TOKEN",
            Self::UserDeactivated => "M_USER_DEACTIVATED",
            Self::BadJson => "M_BAD_JSON",
            Self::NotJson => "M_NOT_JSON",
            Self::NotFound => "M_NOT_FOUND",
            Self::LimitExceeded | Self::Busy => "M_LIMIT_EXCEEDED",
            Self::Unrecognized => "M_UNRECOGNIZED",
            Self::Unknown => "M_UNKNOWN",
            Self::UserInUse => "M_USER_IN_USE",
            Self::InvalidUsername => "M_INVALID_USERNAME",
            Self::RoomInUse => "M_ROOM_IN_USE",
            Self::InvalidRoomState => "M_INVALID_ROOM_STATE",
            Self::UnsupportedRoomVersion => "M_UNSUPPORTED_ROOM_VERSION",
            Self::IncompatibleRoomVersion => "M_INCOMPATIBLE_ROOM_VERSION",
            Self::BadState => "M_BAD_STATE",
            Self::BadAlias => "M_BAD_ALIAS",
            Self::GuestAccessForbidden => "M_GUEST_ACCESS_FORBIDDEN",
            Self::MissingParam => "M_MISSING_PARAM",
            Self::InvalidParam => "M_INVALID_PARAM",
            Self::InvalidSignature => "M_INVALID_SIGNATURE",
            Self::TooLarge => "M_TOO_LARGE",
            Self::ResourceLimitExceeded => "M_RESOURCE_LIMIT_EXCEEDED",
            Self::WeakPassword => "M_WEAK_PASSWORD",
            Self::UnableToAuthoriseJoin => "M_UNABLE_TO_AUTHORISE_JOIN",
            Self::DuplicateTxn => "M_DUPLICATE_TXN",
        }
    }

    /// The HTTP status that goes with it when nothing more exact is known.
    pub const fn status(self) -> u16 {
        match self {
            Self::Unauthorized | Self::UnknownToken | Self::MissingToken => 401,
            Self::Forbidden
            | Self::UserDeactivated
            | Self::GuestAccessForbidden
            | Self::ResourceLimitExceeded => 403,
            Self::NotFound | Self::Unrecognized => 404,
            Self::DuplicateTxn => 409,
            Self::TooLarge => 413,
            Self::LimitExceeded => 429,
            Self::Unknown => 500,
            Self::Busy => 503,
            _ => 400,
        }
    }
}

/// A refusal, safe to show to whoever asked.
#[derive(Clone, Debug, Error)]
#[error("{}: {message}", code.errcode())]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// The HTTP status; [`Code::status`] unless the endpoint's specification names another.
    pub status: u16,
    /// What was wrong, and where, for a person.
    pub message: String,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// Further members of the error body (user-interactive authentication, `soft_logout`,
    /// `room_version`).
    pub body: Option<serde_json::Map<String, serde_json::Value>>,
    /// The methods that a path knows, where it was asked by another one; as HTTP writes them.
    pub allow: Option<Box<str>>,
    /// What only the operator is told.
    pub why: Option<Box<Why>>,
}

/// Two that tell whoever asked the same are the same.
impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        (self.code, self.status, &self.message) == (other.code, other.status, &other.message)
            && (self.retry_after, &self.body) == (other.retry_after, &other.body)
    }
}

impl Refusal {
    /// A refusal with its code's usual status.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            status: code.status(),
            message: message.into(),
            retry_after: None,
            body: None,
            allow: None,
            why: None,
        }
    }

    /// The same with what the operator is told beside it.
    #[must_use]
    pub fn because(mut self, why: Why) -> Self {
        self.why = Some(Box::new(why));
        self
    }

    /// The same with what is known further on: what is known already stays.
    #[must_use]
    pub fn known(mut self, add: impl FnOnce(&mut Why)) -> Self {
        add(self.why.get_or_insert_default());
        self
    }

    /// The same with another HTTP status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same with the time after which a retry makes sense.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The same with a further member of the error body.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        let body = self.body.get_or_insert_default();
        body.insert(name.to_owned(), value.into());
        self
    }

    /// Something is served at this path, by these methods only, and it was asked by another one.
    // spec: client-server §Common-error-codes
    pub fn wrong_method(allow: &str) -> Self {
        let message = "this path does not take this method";
        let mut refusal = Self::new(Code::Unrecognized, message).with_status(405);
        refusal.allow = Some(allow.into());
        refusal
    }

    /// `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Code::Forbidden, message)
    }

    /// `M_UNAUTHORIZED`: another server has not shown who it is.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(Code::Unauthorized, message)
    }

    /// `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// `M_BAD_JSON`.
    pub fn bad_json(message: impl Into<String>) -> Self {
        Self::new(Code::BadJson, message)
    }

    /// `M_INVALID_PARAM`.
    pub fn invalid_param(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidParam, message)
    }

    /// Ours to fix: the cause is in our log, not here.
    pub fn internal() -> Self {
        Self::new(
            Code::Unknown,
            "internal error; the hub's log has the cause under the request id",
        )
    }

    /// Ours, and over in a moment.
    pub fn busy(after: Duration) -> Self {
        Self::new(Code::Busy, "the hub is busy; try again").retry_after(after)
    }
}
