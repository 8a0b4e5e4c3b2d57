//! The authorization rules, clause by clause; versions differ by data.

use std::sync::Arc;

use crate::{
    room::StateKey,
    wire::matrix::{Pdu, PduFields, Version},
};

/// The clause that refused an event.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{rule} ({clause})")]
pub struct Clause {
    /// The clause's number in the room version's text, such as `5.3.2`.
    pub clause: &'static str,
    /// The rule in our words, with the values that disagreed.
    pub rule: String,
}

/// Which state an event's `auth_events` are taken from.
///
/// spec: server-server §Auth-events-selection
pub fn auth_state_keys(fields: &PduFields, version: Version) -> Vec<StateKey> {
    let _ = (fields, version);
    unimplemented!("being written")
}

/// Whether `state` (looked up by type and key) allows the event.
///
/// spec: matrix-v12 §Authorization-rules
pub fn check_auth(
    fields: &PduFields,
    version: Version,
    state: &dyn Fn(&str, &str) -> Option<Arc<Pdu>>,
) -> Result<(), Clause> {
    let _ = (fields, version, state);
    unimplemented!("being written")
}
