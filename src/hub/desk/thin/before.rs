//! What somebody was in a room before an entry changed it, where what happened cannot be told without:
//! who leaves may have been in, invited, knocking or banned.

use ruma::{CanonicalJsonObject, EventId};

use crate::{
    hub::{Hub, desk::reading::visibility::membership_in, desk::sync::view::Stored},
    room::Membership,
    store::{EventRecord, StateNid, StoreError, hash_of},
    wire::{matrix::AUTH_EVENTS_MAX, thin},
};

/// The membership of a user that a member event ended; `whole` is that event, `state` the room's before
/// it.
///
/// Events name the membership that they end among what they lean on, so that not all are looked through
/// that this user ever had; whether it was in force is for the state to say.
///
/// spec: thin-profile §7
pub(super) async fn before(
    hub: &Hub,
    state: StateNid,
    (event, whole): (&EventRecord, &CanonicalJsonObject),
    user: &str,
) -> Result<Option<thin::Membership>, StoreError> {
    let now = membership_in(event);
    if matches!(now, Membership::Ban | Membership::Knock) {
        return Ok(None);
    }
    let leans_on = whole.get("auth_events").and_then(|named| named.as_array());
    let leans_on = leans_on.into_iter().flatten().take(AUTH_EVENTS_MAX);
    let leans_on: Vec<_> = leans_on
        .filter_map(|id| <&EventId>::try_from(id.as_str()?).ok())
        .filter_map(hash_of)
        .collect();
    let stored = hub.store.numbered(&leans_on).await?;
    let stored: Vec<_> = stored.into_iter().map(|(_, nid)| nid).collect();
    let leans_on = hub.store.events(&stored).await?;
    let Some(was) = leans_on.iter().find(|event| is_member(event, user)) else {
        return Ok(None);
    };
    let is_ended = !hub.store.in_state(state, &[was.nid]).await?.is_empty();
    Ok(told(membership_in(was), now).filter(|_| is_ended))
}

fn is_member(event: &EventRecord, user: &str) -> bool {
    Stored::read(event).is_some_and(|stored| {
        stored.kind == "m.room.member" && stored.state_key.as_deref() == Some(user)
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::Seq,
        hub::testing,
        store::{Logged, Order},
        wire::json::read_object,
    };

    #[tokio::test]
    async fn a_membership_that_was_over_before_is_not_the_one_that_an_entry_ended() {
        let test = testing::hub().await;
        let [ana, bob] = [test.account("ana").await, test.account("bob").await];
        let room = test.public_room(&ana, &[&bob]).await;
        test.leave(&bob, &room).await.unwrap();
        test.join(&bob, &room).await.unwrap();
        let store = &test.hub.store;
        let room = store.room(&room).await.unwrap().unwrap();
        let log = store.log(room.nid, Seq::ZERO, room.heads.seq, Order::Backward, 3);
        let [again, leave, first] = &log.await.unwrap()[..] else {
            panic!("there are more");
        };
        let (Logged::Event(again), Logged::Event(first_join)) = (&again.what, &first.what) else {
            panic!("they are events");
        };
        let id = first_join.pdu(&room).unwrap().id().clone();
        let whole = serde_json::json!({ "auth_events": [id] }).to_string();
        let whole = read_object(whole.as_bytes()).unwrap();
        for (state, wanted) in [
            (first.state, Some(thin::Membership::Join)),
            (leave.state, None),
        ] {
            let was = before(&test.hub, state, (again, &whole), bob.user.as_str()).await;
            assert_eq!(was.unwrap(), wanted);
        }
    }
}
