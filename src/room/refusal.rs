//! Why a draft is not taken.

use ruma::OwnedUserId;
use thiserror::Error;

use crate::{room::Clause, wire::matrix::PduError};

/// Why a draft is not taken; the caller's to fix, and safe to show.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The room's authorization rules say no. The clause's number is for whoever runs the hub.
    #[error("not allowed: {}", .0.rule)]
    Rules(#[from] Clause),
    /// The sender is not in the room.
    #[error("{0} is not in this room")]
    NotMember(OwnedUserId),
    /// A membership call whose precondition does not hold, such as lifting a ban nobody laid.
    #[error("{0}")]
    Membership(&'static str),
    /// The event to redact is not known in this room.
    #[error("the event to redact is not known in this room")]
    UnknownTarget,
    /// The sender may not redact that event.
    #[error("redacting someone else's event needs power level {needed}, the sender has {has}")]
    MayNotRedact {
        /// The level asked for.
        needed: i64,
        /// The sender's level.
        has: i64,
    },
    /// The content is not what the type asks for.
    #[error("`{kind}` cannot have this content: {wrong}")]
    Content {
        /// The event type.
        kind: String,
        /// What is wrong with it.
        wrong: String,
    },
    /// A second create event, or another type that clients cannot send this way.
    #[error("`{0}` cannot be sent by a client")]
    NotForClients(String),
    /// The event could not be made: too large, or not canonical.
    #[error(transparent)]
    Pdu(#[from] PduError),
}
