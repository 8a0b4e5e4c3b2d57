//! Promises about other servers' users.

use ruma::{OwnedServerName, OwnedUserId};

use super::{Pen, commit, pen::user, try_commit};
use crate::{
    base::{Position, Timestamp},
    room::Membership,
    store::{REMOTE_MESSAGES_MAX, RemoteDevice, RemoteUser, Store, Write},
};

fn far(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:far.example")).expect("a user id")
}

fn device(user: &OwnedUserId, device: &str, keys: Option<&str>) -> Write {
    Write::RemoteDevice {
        user: user.clone(),
        device: device.into(),
        known: keys.map(|keys| (Some(format!("{device}'s name")), keys.to_owned())),
    }
}

pub(super) async fn a_device_list_is_kept_whole(store: &dyn Store) {
    let [zed, yan] = ["zed", "yan"].map(far);
    assert_eq!(store.remote_list(&zed).await.expect("read"), None);
    let state = RemoteUser {
        stream: 7,
        stale: false,
        asked: Position(3),
        master_key: Some("{}".to_owned()),
        self_signing_key: None,
    };
    let stands = |user: &OwnedUserId, state: &RemoteUser| Write::RemoteUser {
        user: user.clone(),
        state: state.clone(),
    };
    commit(
        store,
        vec![
            stands(&zed, &state),
            device(&zed, "B", Some("1")),
            device(&zed, "A", Some("2")),
            device(&yan, "A", Some("3")),
            stands(&yan, &RemoteUser::default()),
        ],
    )
    .await;
    let list = store.remote_list(&zed).await.expect("read").expect("kept");
    assert_eq!(list.user, state);
    let known = |device: &str, keys: &str| RemoteDevice {
        device: device.into(),
        name: Some(format!("{device}'s name")),
        keys: keys.to_owned(),
    };
    assert_eq!(list.devices, [known("A", "2"), known("B", "1")]);

    let later = RemoteUser {
        stale: true,
        stream: 8,
        ..state
    };
    commit(
        store,
        vec![
            stands(&zed, &later),
            device(&zed, "A", None),
            device(&zed, "B", Some("4")),
        ],
    )
    .await;
    let list = store.remote_list(&zed).await.expect("read").expect("kept");
    assert_eq!((list.user, list.devices), (later, vec![known("B", "4")]));

    commit(
        store,
        vec![Write::ForgetRemoteDevices { user: zed.clone() }],
    )
    .await;
    let list = store.remote_list(&zed).await.expect("read").expect("kept");
    assert!(list.devices.is_empty());
    let other = store.remote_list(&yan).await.expect("read").expect("kept");
    assert_eq!(other.devices, [known("A", "3")]);
}

pub(super) async fn a_message_of_another_server_is_taken_once(store: &dyn Store) {
    let message = |origin: &str, id: &str, at: u64| Write::RemoteMessage {
        origin: OwnedServerName::try_from(origin).expect("a server name"),
        id: id.to_owned(),
        at: Timestamp(at),
    };
    assert!(try_commit(store, vec![message("far.example", "one", 5)]).await);
    assert!(try_commit(store, vec![message("near.example", "one", 5)]).await);
    let with_mail = vec![
        Write::DevicesChanged { user: user("ana") },
        message("far.example", "one", 9),
    ];
    assert!(!try_commit(store, with_mail).await);
    let changed = store.devices_changed_at(&user("ana")).await.expect("read");
    assert_eq!(changed, Position::ZERO, "nothing of what came with it");

    // Forgotten by time, and when newer ones are too many.
    commit(
        store,
        vec![Write::ForgetRemoteMessages {
            before: Timestamp(6),
        }],
    )
    .await;
    assert!(try_commit(store, vec![message("far.example", "one", 9)]).await);
    let many =
        (1..REMOTE_MESSAGES_MAX).map(|number| message("far.example", &number.to_string(), 9));
    commit(store, many.collect()).await;
    assert!(!try_commit(store, vec![message("far.example", "one", 9)]).await);
    commit(store, vec![message("far.example", "last", 9)]).await;
    assert!(try_commit(store, vec![message("far.example", "one", 9)]).await);
    assert!(
        !try_commit(
            store,
            vec![
                message("near.example", "x", 9),
                message("near.example", "x", 9)
            ]
        )
        .await
    );
}

pub(super) async fn being_in_touch_is_without_a_break(store: &dyn Store) {
    let [ana, bob, cid] = ["ana", "bob", "cid"].map(user);
    let [zed, yan] = ["zed", "yan"].map(far);
    let mut room = Pen::new(store, "touch");
    for member in [&ana, &zed, &yan] {
        room.member(store, member, Membership::Join);
    }
    room.member(store, &bob, Membership::Invite);
    let met = commit(store, room.take()).await.position;
    let in_touch = async |caller: &OwnedUserId, since: Position| {
        store
            .in_touch_since(&zed, caller, since)
            .await
            .expect("read")
    };
    assert!(in_touch(&ana, met).await);
    assert!(in_touch(&cid, met).await, "through ana");
    assert!(!in_touch(&ana, Position(met.0 - 1)).await);
    let near = store.neighbours_of(&zed, ana.server_name(), 9).await;
    assert_eq!(near.expect("read"), std::slice::from_ref(&ana));
    let theirs = store.neighbours_of(&zed, yan.server_name(), 9).await;
    assert_eq!(theirs.expect("read"), std::slice::from_ref(&yan));

    // Ana is back after a while in which nobody was there to be told.
    room.member(store, &ana, Membership::Leave);
    commit(store, room.take()).await;
    assert!(!in_touch(&ana, met).await);
    room.member(store, &ana, Membership::Join);
    let again = commit(store, room.take()).await.position;
    assert!(!in_touch(&ana, met).await && !in_touch(&cid, met).await);
    assert!(in_touch(&cid, again).await);

    let changed = async |user: &OwnedUserId| store.devices_changed_at(user).await.expect("read");
    assert_eq!(changed(&zed).await, Position::ZERO);
    let write = Write::DevicesChanged { user: zed.clone() };
    let first = commit(store, vec![write.clone()]).await.position;
    assert_eq!(changed(&zed).await, first);
    let second = commit(store, vec![write]).await.position;
    assert_eq!(
        (changed(&zed).await, changed(&ana).await),
        (second, Position::ZERO)
    );
}
