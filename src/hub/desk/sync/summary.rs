//! What a client needs to name a room whose members it does not load.

use ruma::{OwnedUserId, UInt, api::client::sync::sync_events::v3::RoomSummary};

use crate::{
    hub::desk::sync::{Round, view::Stored},
    room::{Membership, StateKey},
    store::{EventRecord, RoomNid, StoreError},
};

/// How many members stand for a room without a name.
const HEROES: usize = 5;

/// Of how many users who are told of a room without being in it the membership is looked up; each
/// costs a read. More invites than this are counted as this many.
const INVITED_LOOKED_UP_MAX: usize = 256;

/// The summary of a room.
///
/// spec: client-server-sync §Lazy-loading-room-members
pub(super) async fn of(round: &Round<'_>, room: RoomNid) -> Result<RoomSummary, StoreError> {
    let joined = round.hub.store.joined(room, None).await?;
    let invited = invited(round, room, &joined).await?;
    let mut summary = RoomSummary::new();
    summary.joined_member_count = UInt::try_from(joined.len()).ok();
    summary.invited_member_count = UInt::try_from(invited.len()).ok();
    if !is_named(round, room).await? {
        summary.heroes = heroes(round, room, joined, invited).await?;
    }
    Ok(summary)
}

/// Whether a change of this piece of state may change the summary.
pub(super) fn is_told_by(event: &EventRecord) -> bool {
    Stored::read(event).is_some_and(|stored| {
        matches!(
            stored.kind.as_ref(),
            "m.room.member" | "m.room.name" | "m.room.canonical_alias"
        )
    })
}

/// All of our users who are told of the room and are not in it were invited, or knock.
async fn invited(
    round: &Round<'_>,
    room: RoomNid,
    joined: &[OwnedUserId],
) -> Result<Vec<OwnedUserId>, StoreError> {
    let store = &round.hub.store;
    let told = store.audience(room, round.hub.key.name()).await?;
    let joined: std::collections::BTreeSet<_> = joined.iter().collect();
    let outside = told.into_iter().filter(|user| !joined.contains(user));
    let mut invited = Vec::new();
    for user in outside.take(INVITED_LOOKED_UP_MAX) {
        let record = store.membership(&user, room).await?;
        if record.is_some_and(|record| record.membership == Membership::Invite) {
            invited.push(user);
        }
    }
    Ok(invited)
}

async fn is_named(round: &Round<'_>, room: RoomNid) -> Result<bool, StoreError> {
    let keys = [
        StateKey::new("m.room.name", ""),
        StateKey::new("m.room.canonical_alias", ""),
    ];
    let found = round.hub.store.current(room, &keys).await?;
    Ok(found.iter().flatten().any(|event| {
        Stored::read(event).is_some_and(|stored| {
            ["name", "alias"]
                .iter()
                .any(|member| stored.text(member).is_some_and(|text| !text.is_empty()))
        })
    }))
}

/// Others in the room or invited; without any, those who have left.
async fn heroes(
    round: &Round<'_>,
    room: RoomNid,
    joined: Vec<OwnedUserId>,
    invited: Vec<OwnedUserId>,
) -> Result<Vec<OwnedUserId>, StoreError> {
    let own = &round.caller.user;
    let there = joined.into_iter().chain(invited).filter(|user| user != own);
    let heroes: Vec<_> = there.take(HEROES).collect();
    if !heroes.is_empty() {
        return Ok(heroes);
    }
    let members = round
        .hub
        .store
        .current_all(room, Some("m.room.member"))
        .await?;
    let gone = members
        .iter()
        .filter_map(|event| OwnedUserId::try_from(Stored::read(event)?.state_key?).ok())
        .filter(|user| user != own);
    Ok(gone.take(HEROES).collect())
}
