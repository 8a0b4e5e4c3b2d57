//! What a resolution, or gathering an auth chain, may cost.

use std::fmt;

use super::ResolveError;

/// The ceilings of one resolution or one auth chain. What forks and auth chains cost, the
/// servers that make them decide: past a ceiling it is refused by name, not begun and dragged on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How many states are resolved at once.
    pub states: usize,
    /// How many pieces of state these have, all together.
    pub entries: usize,
    /// How many events are held.
    pub events: usize,
    /// How many bytes of JSON these events have.
    pub bytes: usize,
    /// How often it asks: as often as the longest chain is deep that is not yet known.
    pub rounds: usize,
    /// How many conflicted invites carry a third party's signature.
    pub third_party_invites: usize,
}

impl Budget {
    /// What any one event or request of a peer may cause.
    ///
    /// * An event has at most 20 `prev_events`; more states only come from forward extremities
    ///   that nobody joined. With the events below, telling which fork leans on what takes
    ///   1,024 × 50,000 bits, 6.4 MB.
    /// * 1,000,000 entries: 20 states of a room of 50,000 members, and already some 150 MB.
    /// * 50,000 events: a room of 10,000 members, each invited and then joined, twice over.
    /// * 64 MiB of them: events that matter here are small, and each is read into some five times
    ///   its size.
    /// * 10,000 rounds: each is a look into the store. A line of power levels or of one person's
    ///   memberships in a busy room has hundreds.
    /// * 256 third-party invites: each can cost 64 signatures, so that this is one second.
    pub const DEFAULT: Self = Self {
        states: 1024,
        entries: 1_000_000,
        events: 50_000,
        bytes: 64 * 1024 * 1024,
        rounds: 10_000,
        third_party_invites: 256,
    };

    pub(super) fn check(&self, cost: Cost, is: usize) -> Result<(), ResolveError> {
        let max = match cost {
            Cost::States => self.states,
            Cost::Entries => self.entries,
            Cost::Events => self.events,
            Cost::Bytes => self.bytes,
            Cost::Rounds => self.rounds,
            Cost::ThirdPartyInvites => self.third_party_invites,
        };
        if is > max {
            return Err(ResolveError::OverBudget { cost, is, max });
        }
        Ok(())
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a [`Budget`] bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of `Budget`, by name")]
pub enum Cost {
    States,
    Entries,
    Events,
    Bytes,
    Rounds,
    ThirdPartyInvites,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::States => "the number of states",
            Self::Entries => "the number of pieces of state in all states",
            Self::Events => "the number of events",
            Self::Bytes => "the size of the events in bytes",
            Self::Rounds => "the depth of the auth chains not yet known",
            Self::ThirdPartyInvites => "the number of signed third-party invites",
        })
    }
}
