//! Rooms one is invited to or knocks on: a few pieces of state, stripped.

use ruma::{events::AnyStrippedStateEvent, serde::Raw};

use crate::{
    hub::desk::{
        reading::pieces,
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

/// The stripped state of a room at an invite or knock: what it was then, the user's own membership,
/// and that of whoever gave it to them. What was set later is not theirs to see.
pub(super) async fn stripped(
    round: &Round<'_>,
    room: &RoomRecord,
    record: &MembershipRecord,
) -> Result<Vec<Raw<AnyStrippedStateEvent>>, StoreError> {
    let store = &round.hub.store;
    let Some(own) = store.events(&[record.event]).await?.into_iter().next() else {
        return Ok(Vec::new());
    };
    let mut keys: Vec<_> = SHOWN.map(|kind| StateKey::new(kind, "")).into();
    if let Some(stored) = Stored::read(&own)
        && stored.sender != record.user.as_str()
    {
        keys.push(StateKey::new("m.room.member", stored.sender.as_ref()));
    }
    let found = pieces(store, room, own.state_after, &keys).await?;
    Ok(found
        .iter()
        .flatten()
        .chain([&own])
        .filter_map(|event| strip(room, event))
        .collect())
}
