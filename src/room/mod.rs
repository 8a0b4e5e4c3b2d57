//! One room's rules, as plain functions over a staged value. Pure: no I/O, no clock, no async.
//!
//! A [`Room`] holds its heads and the part of its current state that has been asked for. To take
//! a [`Draft`], the shard asks [`Room::needs`] for each part, gives what is missing with
//! [`Room::learn`], calls [`Room::decide`] and then [`Room::apply`] for every effect, so that the
//! next draft of the batch sees this one. A room that was staged and not stored is dropped.

mod acl;
mod auth;
mod content;
mod decide;
mod draft;
mod found;
mod graph;
mod membership;
mod policy;
mod presets;
mod refusal;
mod resolve;
mod staged;
mod state_key;
mod visibility;

#[cfg(test)]
mod random;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use acl::{AclRefusal, Host, ServerAcl};
pub use auth::{AuthEntry, Clause, Level, auth_state_keys, check_auth, check_auth_events};
pub use decide::{Effect, Evidence};
pub use draft::{Draft, MemberChange, Part};
pub use found::{Founding, found};
pub use graph::{Grounds, TIPS_MAX, Verdict, crowding, judge, may_invite, may_redact, tips_after};
pub use policy::{POLICY_KEY_VERSION, PolicyRefusal, PolicyRules, PolicyServer};
pub use presets::{InitialState, Preset, RoomWish, founding, initial_parts};
pub use refusal::Refusal;
pub use resolve::{
    AuthChain, Budget, Cost, Resolution, ResolveError, StateMap, auth_chain, resolve,
};
pub use staged::{Applied, Heads, Needs, Room};
pub use state_key::StateKey;
pub use visibility::{HistoryVisibility, Membership, Reader, UnknownWord, may_see, may_see_change};
