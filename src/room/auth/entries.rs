//! The rules about the `auth_events` list itself: for events that others made.

use std::{collections::BTreeSet, sync::Arc};

use super::{At, Clause, auth_state_keys};
use crate::{
    room::StateKey,
    wire::matrix::{Pdu, PduFields, Version},
};

/// One event that `auth_events` names, or in v12 the create event that the room id names.
#[derive(Clone, Debug)]
pub struct AuthEntry {
    /// The event.
    pub event: Arc<Pdu>,
    /// Whether it was rejected when it came in.
    pub rejected: bool,
}

/// Rule 2 of v10 and v11, rules 2 and 3 of v12: whether an event may name these `entries` as its
/// `auth_events`. `create` is the event whose id the room id is, for v12; ignored otherwise.
///
/// spec: matrix-v12 §Authorization-rules
pub fn check_auth_events(
    fields: &PduFields,
    version: Version,
    entries: &[AuthEntry],
    create: Option<&AuthEntry>,
) -> Result<(), Clause> {
    if fields.kind == "m.room.create" {
        return Ok(());
    }
    if version.room_id_is_create_hash() {
        by_room_id(fields, version, create)?;
    }
    let expected: BTreeSet<_> = auth_state_keys(fields, version).into_iter().collect();
    let mut seen = BTreeSet::new();
    for entry in entries {
        one_entry(fields, version, entry, &expected, &mut seen)?;
    }
    // 2.4, until v11. There must be a create event among them.
    if !version.room_id_is_create_hash() && !seen.contains(&StateKey::new("m.room.create", "")) {
        return Err(At("2.4", "2").refuse(version, "`auth_events` names no create event"));
    }
    Ok(())
}

/// 2, since v12. The room id must be that of an accepted create event.
fn by_room_id(
    fields: &PduFields,
    version: Version,
    create: Option<&AuthEntry>,
) -> Result<(), Clause> {
    let accepted = create.is_some_and(|entry| {
        !entry.rejected
            && entry.event.fields().kind == "m.room.create"
            && entry.event.fields().room_id == fields.room_id
    });
    if accepted {
        return Ok(());
    }
    Err(At("2", "2").refuse(
        version,
        format!(
            "the room id {} is that of no accepted create event",
            fields.room_id
        ),
    ))
}

fn one_entry(
    fields: &PduFields,
    version: Version,
    entry: &AuthEntry,
    expected: &BTreeSet<StateKey>,
    seen: &mut BTreeSet<StateKey>,
) -> Result<(), Clause> {
    let (id, theirs) = (entry.event.id(), entry.event.fields());
    let key = theirs.state_key.as_deref();
    let key = key.map(|key| StateKey::new(&theirs.kind, key));
    // 2.2 / 3.2. Only what the selection names; what is no state is never named.
    let Some(key) = key.filter(|key| expected.contains(key)) else {
        return Err(At("2.2", "3.2").refuse(
            version,
            format!(
                "`auth_events` names {id}, a {} it has no use for",
                theirs.kind
            ),
        ));
    };
    // 2.1 / 3.1. No two for one piece of state.
    if !seen.insert(key.clone()) {
        return Err(At("2.1", "3.1").refuse(version, format!("`auth_events` names {key} twice")));
    }
    // 2.3 / 3.3. None that was rejected.
    if entry.rejected {
        return Err(At("2.3", "3.3").refuse(
            version,
            format!("`auth_events` names {id}, which was rejected"),
        ));
    }
    // 2.5 / 3.5. None of another room.
    if theirs.room_id != fields.room_id {
        return Err(At("2.5", "3.5").refuse(
            version,
            format!(
                "`auth_events` names {id} of room {}, the event is for {}",
                theirs.room_id, fields.room_id
            ),
        ));
    }
    Ok(())
}
