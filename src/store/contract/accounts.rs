//! Promises about accounts, devices, keys, mailboxes and media.

use std::{slice, sync::Arc};

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, ServerName};

use super::{Pen, commit, pen::user, try_commit};
use crate::{
    base::{Position, Timestamp},
    room::Membership,
    store::{Claimed, Committed, KeysChange, MediaRecord, Store, TxnAnswer, TxnKey, Write},
};

pub(super) fn new_user(user: &OwnedUserId) -> Write {
    Write::NewUser {
        user: user.clone(),
        password: None,
        admin: true,
        at: Timestamp(5),
    }
}

pub(super) fn session(user: &OwnedUserId, device: &str, token: u8, name: Option<&str>) -> Write {
    Write::Session {
        user: user.clone(),
        device: device.into(),
        token: [token; 32],
        name: name.map(str::to_owned),
        at: Timestamp(6),
    }
}

pub(super) async fn an_account_is_made_once(store: &dyn Store) {
    let ana = user("ana");
    assert_eq!(store.user(&ana).await.expect("read"), None);
    assert!(try_commit(store, vec![new_user(&ana)]).await);
    assert!(!try_commit(store, vec![new_user(&ana)]).await);
    commit(
        store,
        vec![
            Write::Password {
                user: ana.clone(),
                password: "$argon2id$x".to_owned(),
            },
            profile(&ana, "displayname", Some("\"Ana\"")),
            profile(&ana, "avatar_url", Some("\"mxc://a\"")),
            Write::Filter {
                user: ana.clone(),
                id: 3,
                json: "{}".to_owned(),
            },
        ],
    )
    .await;
    commit(
        store,
        vec![
            profile(&ana, "avatar_url", None),
            profile(&ana, "displayname", Some("\"A\"")),
        ],
    )
    .await;
    let account = store.user(&ana).await.expect("read").expect("stored");
    assert_eq!(account.password.as_deref(), Some("$argon2id$x"));
    assert_eq!((account.admin, account.created), (true, Timestamp(5)));
    assert_eq!(
        store.profile(&ana).await.expect("read"),
        [("displayname".to_owned(), "\"A\"".to_owned())]
    );
    assert_eq!(
        store.filter(&ana, 3).await.expect("read").as_deref(),
        Some("{}")
    );
    assert_eq!(store.filter(&ana, 4).await.expect("read"), None);
    assert_eq!(store.totals().await.expect("read").users, 1);
}

pub(super) async fn accounts_are_listed_and_a_disabled_one_has_no_session(store: &dyn Store) {
    let [ana, bob, cid] = ["ana", "bob", "cid"].map(user);
    let seen = Write::DeviceSeen {
        user: bob.clone(),
        device: "PHONE".into(),
        at: Timestamp(77),
        from: None,
    };
    commit(
        store,
        vec![
            new_user(&cid),
            new_user(&ana),
            new_user(&bob),
            session(&bob, "PHONE", 1, None),
            session(&bob, "TABLET", 2, None),
            seen,
        ],
    )
    .await;
    let disable = |disabled| Write::Disabled {
        user: bob.clone(),
        disabled,
    };
    commit(store, vec![disable(true)]).await;

    let all = store.users(None, 9).await.expect("read");
    let told: Vec<_> = all
        .iter()
        .map(|known| (&known.user, known.disabled, known.devices, known.seen))
        .collect();
    assert_eq!(
        told,
        [
            (&ana, false, 0, None),
            (&bob, true, 2, Some(Timestamp(77))),
            (&cid, false, 0, None)
        ]
    );
    assert_eq!(all.first().map(|known| known.created), Some(Timestamp(5)));
    let page = store.users(Some(&ana), 1).await.expect("read");
    assert_eq!(page.first().map(|known| &known.user), Some(&bob));
    assert_eq!(page.len(), 1);

    let account = store.user(&bob).await.expect("read").expect("stored");
    assert!(account.disabled);
    assert_eq!(store.session(&[1; 32]).await.expect("read"), None);
    commit(store, vec![disable(false)]).await;
    assert!(store.session(&[1; 32]).await.expect("read").is_some());
}

fn profile(user: &OwnedUserId, field: &str, json: Option<&str>) -> Write {
    Write::Profile {
        user: user.clone(),
        field: field.to_owned(),
        json: json.map(str::to_owned),
    }
}

pub(super) async fn account_data_is_told_since(store: &dyn Store) {
    let ana = user("ana");
    let room = OwnedRoomId::try_from("!r:hub.example").expect("a room id");
    let data = |room: Option<&OwnedRoomId>, kind: &str, json: &str| Write::AccountData {
        user: ana.clone(),
        room: room.cloned(),
        kind: kind.to_owned(),
        json: json.to_owned(),
    };
    let first = commit(
        store,
        vec![data(None, "m.direct", "1"), data(Some(&room), "m.tag", "2")],
    )
    .await;
    commit(store, vec![data(Some(&room), "m.tag", "3")]).await;
    let new = store
        .account_data(&ana, first.position)
        .await
        .expect("read");
    let told: Vec<_> = new
        .iter()
        .map(|piece| (piece.room.clone(), piece.kind.as_str(), piece.json.as_str()))
        .collect();
    assert_eq!(told, [(Some(room.clone()), "m.tag", "3")]);
    let all = store
        .account_data(&ana, Position::ZERO)
        .await
        .expect("read");
    assert_eq!(all.len(), 2);
    let global = store
        .account_data_of(&ana, None, "m.direct")
        .await
        .expect("read");
    assert_eq!(global.as_deref(), Some("1"));
    let none = store
        .account_data_of(&ana, Some(&room), "m.direct")
        .await
        .expect("read");
    assert_eq!(none, None);
}

pub(super) async fn a_session_replaces_the_devices_token(store: &dyn Store) {
    let ana = user("ana");
    commit(
        store,
        vec![new_user(&ana), session(&ana, "PHONE", 1, Some("phone"))],
    )
    .await;
    let found = store
        .session(&[1; 32])
        .await
        .expect("read")
        .expect("stored");
    assert_eq!(
        (&found.user, found.device.as_str(), found.admin),
        (&ana, "PHONE", true)
    );
    commit(store, vec![keys(&ana, "PHONE")]).await;

    commit(store, vec![session(&ana, "PHONE", 2, None)]).await;
    assert_eq!(store.session(&[1; 32]).await.expect("read"), None);
    assert!(store.session(&[2; 32]).await.expect("read").is_some());
    let known = store.device_keys(&ana).await.expect("read");
    assert_eq!(known.len(), 1, "its keys are kept");
    assert_eq!(
        known.first().and_then(|keys| keys.name.as_deref()),
        Some("phone")
    );

    let device = OwnedDeviceId::from("PHONE");
    commit(
        store,
        vec![
            Write::DeviceName {
                user: ana.clone(),
                device: device.clone(),
                name: Some("new".to_owned()),
            },
            Write::DeviceSeen {
                user: ana.clone(),
                device,
                at: Timestamp(77),
                from: Some("192.0.2.1".to_owned()),
            },
        ],
    )
    .await;
    let devices = store.devices(&ana).await.expect("read");
    let told: Vec<_> = devices
        .iter()
        .map(|device| {
            (
                device.name.as_deref(),
                device.seen,
                device.seen_at.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [(Some("new"), Some(Timestamp(77)), Some("192.0.2.1"))]
    );
}

fn keys(user: &OwnedUserId, device: &str) -> Write {
    Write::DeviceKeys {
        user: user.clone(),
        device: device.into(),
        json: "{}".to_owned(),
    }
}

fn one_time(user: &OwnedUserId, device: &str, key_id: &str) -> Write {
    Write::OneTimeKey {
        user: user.clone(),
        device: device.into(),
        key_id: key_id.to_owned(),
        json: format!("\"{key_id}\""),
    }
}

fn fallback(user: &OwnedUserId, device: &str, key_id: &str) -> Write {
    Write::FallbackKey {
        user: user.clone(),
        device: device.into(),
        key_id: key_id.to_owned(),
        json: format!("\"{key_id}\""),
    }
}

fn mail(user: &OwnedUserId, device: &str, json: &str) -> Write {
    mail_from(None, user, device, json)
}

fn mail_from(origin: Option<&str>, user: &OwnedUserId, device: &str, json: &str) -> Write {
    Write::Mail {
        user: user.clone(),
        device: device.into(),
        origin: origin.map(|name| name.try_into().expect("a server name")),
        json: json.to_owned(),
    }
}

pub(super) async fn a_removed_device_leaves_nothing(store: &dyn Store) {
    let ana = user("ana");
    let txn = TxnKey {
        user: ana.clone(),
        device: "PHONE".into(),
        endpoint: "send".to_owned(),
        txn: "1".to_owned(),
    };
    commit(
        store,
        vec![
            new_user(&ana),
            session(&ana, "PHONE", 1, None),
            session(&ana, "OTHER", 2, None),
            keys(&ana, "PHONE"),
            one_time(&ana, "PHONE", "a:1"),
            fallback(&ana, "PHONE", "a:2"),
            mail(&ana, "PHONE", "1"),
            Write::Txn {
                key: Arc::new(txn.clone()),
                answer: TxnAnswer::Done,
                at: Timestamp(1),
            },
        ],
    )
    .await;
    commit(
        store,
        vec![
            mail(&ana, "PHONE", "2"),
            Write::RemoveDevice {
                user: ana.clone(),
                device: "PHONE".into(),
            },
        ],
    )
    .await;
    assert_eq!(store.session(&[1; 32]).await.expect("read"), None);
    assert_eq!(store.devices(&ana).await.expect("read").len(), 1);
    commit(store, vec![session(&ana, "PHONE", 3, None)]).await;
    assert!(store.device_keys(&ana).await.expect("read").is_empty());
    assert!(
        store
            .one_time_counts(&ana, "PHONE")
            .await
            .expect("read")
            .is_empty()
    );
    assert!(
        store
            .unused_fallbacks(&ana, "PHONE")
            .await
            .expect("read")
            .is_empty()
    );
    assert_eq!(store.txn(&txn).await.expect("read"), None);
    assert!(read_mail(store, &ana, Position::ZERO, 9).await.is_empty());
}

async fn read_mail(store: &dyn Store, user: &OwnedUserId, after: Position, to: u64) -> Vec<String> {
    let found = store.mail(user, "PHONE", after, Position(to), 100).await;
    found
        .expect("read")
        .into_iter()
        .map(|mail| mail.json)
        .collect()
}

pub(super) async fn mail_waits_until_it_is_read(store: &dyn Store) {
    let ana = user("ana");
    let first = commit(
        store,
        vec![
            new_user(&ana),
            session(&ana, "PHONE", 1, None),
            mail(&ana, "PHONE", "1"),
            mail(&ana, "NOBODY", "x"),
            mail(&ana, "PHONE", "2"),
        ],
    )
    .await;
    let second = commit(store, vec![mail(&ana, "PHONE", "3")]).await;
    let (one, two) = (first.position.0, second.position.0);
    assert_eq!(
        read_mail(store, &ana, Position::ZERO, one).await,
        ["1", "2"]
    );
    assert_eq!(
        read_mail(store, &ana, Position::ZERO, two).await,
        ["1", "2", "3"]
    );
    assert_eq!(read_mail(store, &ana, first.position, two).await, ["3"]);
    let few = store
        .mail(&ana, "PHONE", Position::ZERO, second.position, 1)
        .await;
    assert_eq!(few.expect("read").len(), 1);
    commit(
        store,
        vec![Write::MailRead {
            user: ana.clone(),
            device: "PHONE".into(),
            to: first.position,
        }],
    )
    .await;
    assert_eq!(read_mail(store, &ana, Position::ZERO, 99).await, ["3"]);
    // A device made later under the name does not get what was dropped.
    commit(store, vec![session(&ana, "NOBODY", 2, None)]).await;
    let none = store
        .mail(&ana, "NOBODY", Position::ZERO, Position(99), 9)
        .await;
    assert!(none.expect("read").is_empty());
}

/// What each other server has brought is counted, in bytes, until it is read.
pub(super) async fn mail_is_counted_by_where_it_came_from(store: &dyn Store) {
    let ana = user("ana");
    let first = commit(
        store,
        vec![
            new_user(&ana),
            session(&ana, "PHONE", 1, None),
            session(&ana, "OTHER", 2, None),
            mail(&ana, "PHONE", "\"\u{e9}\""),
            mail_from(Some("far.example"), &ana, "PHONE", "\"\u{e9}\u{e9}\""),
            mail_from(Some("near.far.example"), &ana, "PHONE", "12"),
            mail_from(Some("far.example"), &ana, "OTHER", "1"),
        ],
    )
    .await;
    let last = mail_from(Some("far.example"), &ana, "PHONE", "123");
    commit(store, vec![last]).await;
    let told = async |origin: Option<&str>| {
        let origin = origin.map(|name| <&ServerName>::try_from(name).expect("a server name"));
        let waiting = store.mail_waiting(&ana, "PHONE", origin).await;
        let waiting = waiting.expect("read");
        [waiting.all, waiting.elsewhere, waiting.origin].map(|pile| (pile.count, pile.bytes))
    };
    assert_eq!(told(None).await, [(4, 15), (3, 11), (0, 0)]);
    assert_eq!(told(Some("far.example")).await, [(4, 15), (3, 11), (2, 9)]);
    assert_eq!(told(Some("example")).await, [(4, 15), (3, 11), (0, 0)]);

    let read = Write::MailRead {
        user: ana.clone(),
        device: "PHONE".into(),
        to: first.position,
    };
    commit(store, vec![read]).await;
    assert_eq!(told(Some("far.example")).await, [(1, 3), (1, 3), (1, 3)]);
}

pub(super) async fn a_key_is_claimed_once(store: &dyn Store) {
    let ana = user("ana");
    commit(
        store,
        vec![
            new_user(&ana),
            session(&ana, "PHONE", 1, None),
            one_time(&ana, "PHONE", "a:1"),
            one_time(&ana, "PHONE", "a:2"),
            one_time(&ana, "PHONE", "b:1"),
            fallback(&ana, "PHONE", "a:f"),
        ],
    )
    .await;
    let counts = store.one_time_counts(&ana, "PHONE").await.expect("read");
    assert_eq!(counts, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    let known = store
        .one_time_key(&ana, "PHONE", "a:2")
        .await
        .expect("read");
    assert_eq!(known.as_deref(), Some("\"a:2\""));
    let claim = || Write::ClaimKey {
        user: ana.clone(),
        device: "PHONE".into(),
        algorithm: "a".to_owned(),
        spare: false,
    };
    let spared = Write::ClaimKey {
        user: ana.clone(),
        device: "PHONE".into(),
        algorithm: "a".to_owned(),
        spare: true,
    };
    assert_eq!(claimed(&commit(store, vec![spared]).await), ["a:f"]);
    let left = store.one_time_counts(&ana, "PHONE").await.expect("read");
    assert_eq!(left, counts, "the one-time keys are left to others");
    commit(store, vec![fallback(&ana, "PHONE", "a:f")]).await;
    // Two in one commit, one in the next: three claims of two keys.
    let first = claimed(&commit(store, vec![claim(), claim()]).await);
    assert_eq!(
        store.unused_fallbacks(&ana, "PHONE").await.expect("read"),
        ["a"]
    );
    let second = claimed(&commit(store, vec![claim()]).await);
    let third = claimed(&commit(store, vec![claim()]).await);
    let mut got: Vec<_> = first.into_iter().chain(second).chain(third).collect();
    got.get_mut(..2).expect("four claims").sort();
    assert_eq!(
        got,
        ["a:1", "a:2", "a:f", "a:f"],
        "one-time keys before the fallback key"
    );
    assert!(
        store
            .unused_fallbacks(&ana, "PHONE")
            .await
            .expect("read")
            .is_empty()
    );
    commit(store, vec![fallback(&ana, "PHONE", "a:g")]).await;
    assert_eq!(
        store.unused_fallbacks(&ana, "PHONE").await.expect("read"),
        ["a"]
    );
    let done = commit(
        store,
        vec![Write::ClaimKey {
            user: ana.clone(),
            device: "PHONE".into(),
            algorithm: "none".to_owned(),
            spare: false,
        }],
    )
    .await;
    let nothing = Claimed {
        user: ana,
        device: "PHONE".into(),
        key: None,
    };
    assert_eq!(done.outcomes, [Ok(vec![nothing])]);
}

fn claimed(done: &Committed) -> Vec<String> {
    let claims = done.outcomes.iter().flatten().flatten();
    claims
        .filter_map(|claim| claim.key.clone())
        .map(|(id, _)| id)
        .collect()
}

pub(super) async fn device_changes_reach_neighbours_only(store: &dyn Store) {
    let [ana, bob, cid] = ["ana", "bob", "cid"].map(user);
    let mut room = Pen::new(store, "devices");
    room.member(store, &ana, Membership::Join);
    room.member(store, &bob, Membership::Join);
    room.member(store, &cid, Membership::Invite);
    commit(store, room.take()).await;
    let changed = |user: &OwnedUserId| Write::DevicesChanged {
        user: user.clone(),
        what: KeysChange::Devices,
    };
    let first = commit(store, vec![changed(&bob), changed(&bob), changed(&cid)]).await;
    let second = commit(store, vec![changed(&ana), changed(&bob)]).await;
    let told = async |user: &OwnedUserId, since: Position, to: Position| {
        store.device_changes(user, since, to).await.expect("read")
    };
    let (one, two) = (first.position, second.position);
    assert_eq!(told(&ana, Position::ZERO, one).await, slice::from_ref(&bob));
    assert_eq!(
        told(&ana, Position::ZERO, two).await,
        [ana.clone(), bob.clone()]
    );
    assert_eq!(told(&ana, one, two).await, [ana.clone(), bob.clone()]);
    assert_eq!(told(&cid, Position::ZERO, two).await, slice::from_ref(&cid));
    assert!(told(&ana, two, Position(99)).await.is_empty());
}

pub(super) async fn media_is_counted(store: &dyn Store) {
    let ana = user("ana");
    let media = |id: &str, size| MediaRecord {
        id: id.to_owned(),
        user: ana.clone(),
        hash: [9; 32],
        size,
        content_type: Some("image/png".to_owned()),
        filename: None,
        created: Timestamp(8),
    };
    assert_eq!(store.media_used(&ana).await.expect("read"), 0);
    let writes = [media("one", 10), media("two", 32)].map(Write::Media);
    commit(store, writes.to_vec()).await;
    assert_eq!(store.media_used(&ana).await.expect("read"), 42);
    assert_eq!(
        store.media("one").await.expect("read"),
        Some(media("one", 10))
    );
    assert_eq!(store.media("none").await.expect("read"), None);
    let rows = async |after: &str, limit| -> Vec<_> {
        let rows = store.media_rows(after.as_bytes(), limit).await;
        let rows = rows.expect("read").into_iter();
        rows.map(|row| (row.key, row.record.expect("it can be read")))
            .collect()
    };
    let [one, two] =
        [media("one", 10), media("two", 32)].map(|file| (file.id.clone().into(), file));
    assert_eq!(rows("", 9).await, [one.clone(), two.clone()]);
    assert_eq!(rows("", 1).await, [one]);
    assert_eq!(rows("one", 9).await, [two]);
}
