//! From a wanted part to the effects it has. Changes nothing; see [`Room::apply`].

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedUserId, UserId};

use crate::{
    base::Timestamp,
    room::{Part, Refusal, Room},
    wire::matrix::{Pdu, ServerKey},
};

/// What the decision may look at besides the staged room.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The time of the decision; becomes `origin_server_ts`.
    pub now: Timestamp,
    /// The name and key our events are signed with.
    pub key: &'a ServerKey,
    /// The event a redaction names, when it is stored in this room.
    pub target: Option<&'a Pdu>,
}

/// One thing that follows from a part.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The event becomes the next entry of the log.
    Append(Arc<Pdu>),
    /// The stored event loses what redaction removes; follows the `Append` of the redaction.
    Redact {
        /// The event redacted.
        target: OwnedEventId,
        /// The redaction.
        because: OwnedEventId,
    },
    /// Nothing is to be done: the room is already as wanted (a second join).
    Already {
        /// The event that made it so, where there is one.
        event: Option<OwnedEventId>,
        /// Whose membership it is.
        user: OwnedUserId,
    },
}

impl Room {
    /// Turns a part into its effects, or says why not. Everything [`Room::needs`] named must have
    /// been learnt.
    pub fn decide(
        &self,
        sender: &UserId,
        part: &Part,
        evidence: &Evidence<'_>,
    ) -> Result<Vec<Effect>, Refusal> {
        let _ = (sender, part, evidence);
        unimplemented!("being written")
    }
}
