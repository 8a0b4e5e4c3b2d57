//! Promises about other servers' users.

use ruma::{OwnedServerName, OwnedUserId};

use super::{Pen, commit, pen::user, try_commit};
use crate::{
    base::{Position, Timestamp},
    room::Membership,
    store::{
        DEVICE_CHANGES_MAX, KeysChange, REMOTE_MESSAGES_MAX, RemoteDevice, RemoteUser, Store, Write,
    },
};

/// Behind everything.
const END: Position = Position(i64::MAX as u64);

fn changed(user: &OwnedUserId, what: KeysChange) -> Write {
    let user = user.clone();
    Write::DevicesChanged { user, what }
}

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
        changed(&user("ana"), KeysChange::Devices),
        message("far.example", "one", 9),
    ];
    assert!(!try_commit(store, with_mail).await);
    let changed = store
        .devices_changed_at(&user("ana"), END)
        .await
        .expect("read");
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

    let changed =
        async |user: &OwnedUserId| store.devices_changed_at(user, END).await.expect("read");
    assert_eq!(changed(&zed).await, Position::ZERO);
    let write = self::changed(&zed, KeysChange::Devices);
    let first = commit(store, vec![write.clone()]).await.position;
    assert_eq!(changed(&zed).await, first);
    let second = commit(store, vec![write]).await.position;
    assert_eq!(
        (changed(&zed).await, changed(&ana).await),
        (second, Position::ZERO)
    );
}

pub(super) async fn what_changed_is_told_apart_and_forgotten_when_it_is_said_again(
    store: &dyn Store,
) {
    let [ana, bob] = ["ana", "bob"].map(user);
    let mut room = Pen::new(store, "changes");
    room.member(store, &ana, Membership::Join);
    room.member(store, &bob, Membership::Join);
    let start = commit(store, room.take()).await.position;
    let device = |name: &str| KeysChange::Device(name.into());
    let at = async |what: KeysChange| commit(store, vec![changed(&ana, what)]).await.position;
    let first = at(device("A")).await;
    let second = at(device("B")).await;
    let cross = at(KeysChange::CrossSigning).await;
    let secret = at(KeysChange::SeenBy(bob.clone())).await;
    let listed = async |to| store.devices_changed_at(&ana, to).await.expect("read");
    assert_eq!((listed(first).await, listed(END).await), (first, second));
    let seen =
        async |who: &OwnedUserId, since| store.device_changes(who, since, END).await.expect("read");
    assert_eq!(seen(&bob, cross).await, std::slice::from_ref(&ana));
    assert!(seen(&ana, cross).await.is_empty(), "only bob sees it");
    assert_eq!(seen(&bob, second).await, std::slice::from_ref(&ana));

    let third = at(device("A")).await;
    let forget = |before| Write::ForgetDeviceChanges { before };
    commit(store, vec![forget(third)]).await;
    assert_eq!(listed(first).await, first, "what says it again is too new");
    commit(store, vec![forget(third.next())]).await;
    assert_eq!(listed(first).await, Position::ZERO);
    assert_eq!((listed(second).await, listed(END).await), (second, third));
    assert_eq!(seen(&bob, secret).await, std::slice::from_ref(&ana));
    assert!(seen(&bob, third).await.is_empty());
    assert_eq!(seen(&bob, start).await, std::slice::from_ref(&ana));

    let many = 0..DEVICE_CHANGES_MAX;
    commit(
        store,
        many.map(|n| changed(&bob, device(&n.to_string())))
            .collect(),
    )
    .await;
    let last = commit(store, vec![changed(&bob, device("last"))])
        .await
        .position;
    commit(store, vec![forget(last.next())]).await;
    assert_eq!(
        store.devices_changed_at(&bob, END).await.expect("read"),
        last
    );
}

pub(super) async fn who_shares_no_room_any_more_is_found_and_forgotten(store: &dyn Store) {
    let ana = user("ana");
    let [zed, yan, xia] = ["zed", "yan", "xia"].map(far);
    let account = Write::NewUser {
        user: ana.clone(),
        password: None,
        admin: false,
        at: Timestamp(1),
    };
    let mut room = Pen::new(store, "kept");
    for member in [&ana, &zed] {
        room.member(store, member, Membership::Join);
    }
    let mut apart = Pen::new(store, "apart");
    for member in [&zed, &yan] {
        apart.member(store, member, Membership::Join);
    }
    let stands = |user: &OwnedUserId| Write::RemoteUser {
        user: user.clone(),
        state: RemoteUser::default(),
    };
    let mut writes = vec![
        account,
        stands(&zed),
        stands(&yan),
        device(&yan, "A", Some("1")),
    ];
    writes.push(changed(&xia, KeysChange::Devices));
    writes.push(changed(&ana, KeysChange::Devices));
    writes.extend(room.take());
    writes.extend(apart.take());
    commit(store, writes).await;
    let strangers = async |after: Option<&OwnedUserId>, limit| {
        let after = after.map(|user| &**user);
        let found = store.strangers(ana.server_name(), after, limit).await;
        found.expect("read")
    };
    assert_eq!(strangers(None, 9).await, [xia.clone(), yan.clone()]);
    assert_eq!(strangers(None, 1).await, std::slice::from_ref(&xia));
    assert_eq!(strangers(Some(&xia), 9).await, std::slice::from_ref(&yan));

    let gone = [&xia, &yan].map(|user| Write::ForgetRemoteUser { user: user.clone() });
    commit(store, gone.to_vec()).await;
    assert!(strangers(None, 9).await.is_empty());
    assert_eq!(store.remote_list(&yan).await.expect("read"), None);
    assert_eq!(
        store.devices_changed_at(&xia, END).await.expect("read"),
        Position::ZERO
    );
    assert!(store.remote_list(&zed).await.expect("read").is_some());
}
