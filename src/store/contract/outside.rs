//! What users are to rooms that the hub is not in.

use ruma::{OwnedRoomId, OwnedUserId};

use super::commit;
use crate::{
    base::Position,
    room::Membership,
    store::{OutsideRecord, Store, Write},
    wire::matrix::Version,
};

pub(super) async fn what_a_user_is_outside_is_told_since(store: &dyn Store) {
    let (ana, ben) = (user("ana"), user("ben"));
    commit(store, vec![invited(&ana, "one"), invited(&ben, "one")]).await;
    let first = store.position().await.expect("read");
    commit(store, vec![invited(&ana, "two")]).await;

    let all = told(store, &ana, Position::ZERO).await;
    assert_eq!(
        all,
        [("one", Membership::Invite), ("two", Membership::Invite)]
    );
    assert_eq!(
        told(store, &ana, first).await,
        [("two", Membership::Invite)]
    );
    let one = store.outside_of(&ana, &room("one")).await.expect("read");
    let one = one.expect("kept");
    assert_eq!((&*one.event, &*one.state), ("{\"e\":\"one\"}", "[]"));
    assert_eq!(
        (one.version, one.via.as_str()),
        (Version::V11, "far.example")
    );
    assert_eq!(one.position, first);

    // What comes later stands in its place.
    let mut left = outside(&ana, "one");
    left.membership = Membership::Leave;
    commit(store, vec![Write::Outside(Box::new(left))]).await;
    let last = store.position().await.expect("read");
    let new = told(store, &ana, Position(last.0 - 1)).await;
    assert_eq!(new, [("one", Membership::Leave)]);

    let gone = Write::NotOutside {
        user: ana.clone(),
        room_id: room("one"),
    };
    commit(store, vec![gone.clone(), gone]).await;
    assert_eq!(
        told(store, &ana, Position::ZERO).await,
        [("two", Membership::Invite)]
    );
    assert_eq!(
        told(store, &ben, Position::ZERO).await,
        [("one", Membership::Invite)]
    );
    assert_eq!(
        store.outside_of(&ana, &room("one")).await.expect("read"),
        None
    );
}

async fn told(
    store: &dyn Store,
    user: &OwnedUserId,
    since: Position,
) -> Vec<(&'static str, Membership)> {
    let all = store.outside(user, since).await.expect("read");
    let name = |record: &OutsideRecord| {
        if record.room_id == room("one") {
            "one"
        } else {
            "two"
        }
    };
    all.iter()
        .map(|record| (name(record), record.membership))
        .collect()
}

fn invited(user: &OwnedUserId, name: &str) -> Write {
    Write::Outside(Box::new(outside(user, name)))
}

fn outside(user: &OwnedUserId, name: &str) -> OutsideRecord {
    OutsideRecord {
        user: user.clone(),
        room_id: room(name),
        membership: Membership::Invite,
        version: Version::V11,
        via: "far.example".try_into().expect("a name"),
        event: format!("{{\"e\":\"{name}\"}}").into(),
        state: "[]".into(),
        position: Position::ZERO,
    }
}

fn room(name: &str) -> OwnedRoomId {
    OwnedRoomId::try_from(format!("!{name}:far.example")).expect("an id")
}

fn user(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:hub.example")).expect("an id")
}
