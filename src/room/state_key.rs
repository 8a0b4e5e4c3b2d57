//! The name of one piece of a room's state.

use std::fmt;

/// An event type and a state key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    /// The event type.
    pub kind: String,
    /// The state key; often empty.
    pub key: String,
}

impl StateKey {
    /// Names a piece of state.
    pub fn new(kind: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            key: key.into(),
        }
    }

    /// The membership of `user`.
    pub fn member(user: &ruma::UserId) -> Self {
        Self::new("m.room.member", user.as_str())
    }
}

impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind, self.key)
    }
}
