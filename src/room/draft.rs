//! What someone wants appended.

use ruma::{CanonicalJsonObject, OwnedEventId, OwnedUserId};

/// One or more parts by one sender, taken all or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Who wants it; always the authenticated caller.
    pub sender: OwnedUserId,
    /// What is wanted, in order; at least one.
    pub parts: Vec<Part>,
}

/// One wanted event.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// An event as the client wrote it: a message, or state when it has a state key.
    Event {
        /// Its type. `m.room.create` is never accepted here; see [`super::found`].
        kind: String,
        /// Its state key, for state.
        state_key: Option<String>,
        /// Its content.
        content: CanonicalJsonObject,
    },
    /// A redaction.
    Redact {
        /// The event to redact.
        target: OwnedEventId,
        /// Why.
        reason: Option<String>,
    },
    /// A change of someone's membership.
    Member {
        /// Whose.
        target: OwnedUserId,
        /// To what.
        change: MemberChange,
        /// Further content (`displayname`, `avatar_url`, `reason`, `is_direct`, …).
        content: CanonicalJsonObject,
    },
}

/// What a membership call asks for. The rules decide; these also carry the preconditions that the
/// client API names (one can only unban who is banned).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// The sender joins; no effect when already joined with the same content. Another content, such
    /// as a new `displayname`, is written.
    Join,
    /// The sender invites the target.
    Invite,
    /// The sender leaves or turns an invite or knock down; no effect when already out.
    Leave,
    /// The sender removes the target, who must be joined, invited or knocking.
    Kick,
    /// The sender bans the target.
    Ban,
    /// The sender lifts a ban; the target must be banned.
    Unban,
    /// The sender knocks.
    Knock,
}
