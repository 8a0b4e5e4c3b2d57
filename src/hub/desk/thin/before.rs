//! What somebody was in a room before an entry changed it, where what happened cannot be told without:
//! who leaves may have been in, invited, knocking or banned.

use crate::{
    hub::{
        Hub,
        desk::reading::{pieces, visibility::membership_in},
    },
    room::{Membership, StateKey},
    store::{EventRecord, RoomRecord, StateNid, StoreError},
    wire::thin,
};

/// The membership of a user that a member event ended; `state` is the room's before it.
///
/// spec: thin-profile §7
pub(super) async fn before(
    hub: &Hub,
    room: &RoomRecord,
    state: StateNid,
    (event, user): (&EventRecord, &str),
) -> Result<Option<thin::Membership>, StoreError> {
    let now = membership_in(event);
    if matches!(now, Membership::Ban | Membership::Knock) {
        return Ok(None);
    }
    let key = StateKey::new("m.room.member", user);
    let found = pieces(&hub.store, room, state, &[key]).await?;
    let old = found.into_iter().flatten().next();
    let was = old.filter(|old| old.nid != event.nid);
    Ok(was.and_then(|was| told(membership_in(&was), now)))
}

/// The number is there only where it makes another sentence of it.
pub(super) const fn told(was: Membership, now: Membership) -> Option<thin::Membership> {
    match (was, now) {
        (Membership::Invite, Membership::Leave) => Some(thin::Membership::Invite),
        (Membership::Ban, Membership::Leave) => Some(thin::Membership::Ban),
        (Membership::Knock, Membership::Leave | Membership::Invite) => {
            Some(thin::Membership::Knock)
        }
        (Membership::Join, Membership::Join) => Some(thin::Membership::Join),
        _ => None,
    }
}
