//! Rooms one is invited to or knocks on: a few pieces of state, stripped.

use ruma::{events::AnyStrippedStateEvent, serde::Raw};

use crate::{
    base::Seq,
    hub::desk::{
        reading::{pieces, visibility::state_at},
        sync::{
            Round,
            view::{Stored, strip},
        },
    },
    room::StateKey,
    store::{MembershipRecord, RoomRecord, StoreError},
};

/// What tells someone outside what a room is.
///
/// spec: client-server-sync §Stripped-state
const SHOWN: [&str; 7] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// The stripped state of a room as of an entry: what it is, the user's own membership, and that of
/// whoever gave it to them.
pub(super) async fn stripped(
    round: &Round<'_>,
    room: &RoomRecord,
    record: &MembershipRecord,
    head: Seq,
) -> Result<Vec<Raw<AnyStrippedStateEvent>>, StoreError> {
    let store = &round.hub.store;
    let own = store.events(&[record.event]).await?.into_iter().next();
    let mut keys: Vec<_> = SHOWN.map(|kind| StateKey::new(kind, "")).into();
    if let Some(stored) = own.as_ref().and_then(Stored::read)
        && stored.sender != record.user.as_str()
    {
        keys.push(StateKey::new("m.room.member", stored.sender.as_ref()));
    }
    let state = state_at(store, room.nid, head).await?;
    let found = pieces(store, room, state, &keys).await?;
    Ok(found
        .iter()
        .flatten()
        .chain(&own)
        .filter_map(|event| strip(room, event))
        .collect())
}
