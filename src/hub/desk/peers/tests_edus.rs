//! What another server asks of devices here, and what it tells beside events.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OneTimeKeyAlgorithm, OwnedUserId,
    api::{
        client::{keys::upload_keys, to_device::send_event_to_device},
        federation::{
            device::get_devices,
            keys::{claim_keys, get_keys},
        },
    },
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde_json::{Value, json};

use crate::{
    api::{Code, PeerCommand, PeerReply, Refusal},
    base::Position,
    hub::{
        desk::{
            cross_signing::tests::{Keys, device, publish, sign},
            devices_elsewhere::tests::{END, Two, upload},
        },
        testing::{Person, TestHub, ask},
    },
    store::Write,
};

fn direct(sender: &OwnedUserId, id: &str, messages: Value) -> Value {
    json!({ "edu_type": "m.direct_to_device", "content": {
        "sender": sender, "type": "m.x", "message_id": id, "messages": messages } })
}

fn typing(two: &Two, user: &OwnedUserId, types: bool) -> Value {
    json!({ "edu_type": "m.typing", "content": {
        "room_id": two.room, "user_id": user, "typing": types } })
}

fn receipt(two: &Two, user: &OwnedUserId, event: &str) -> Value {
    json!({ "edu_type": "m.receipt", "content": { two.room.as_str(): {
        "m.read": { user.as_str(): { "data": { "ts": 5 }, "event_ids": [event] } } } } })
}

async fn mail(hub: &TestHub, who: &Person) -> Vec<Value> {
    let end = Position(u64::MAX >> 1);
    let store = hub.hub.store();
    let mail = store.mail(&who.user, who.device.as_str(), Position::ZERO, end, 100);
    let mail = mail.await.unwrap().into_iter();
    mail.map(|mail| serde_json::from_str(&mail.json).unwrap())
        .collect()
}

async fn devices(two: &Two, user: &OwnedUserId) -> get_devices::v1::Response {
    let asked = get_devices::v1::Request::new(user.clone());
    let told = two.peer(PeerCommand::UserDevices(Box::new(asked))).await;
    match told.unwrap() {
        PeerReply::UserDevices(told) => *told,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_devices_of_a_user_here_are_told_with_a_count_that_rises_with_each_change() {
    let two = Two::apart().await;
    let none = devices(&two, &two.ana.user).await;
    assert!(none.devices.is_empty());
    upload(&two.here, &two.ana, "one").await;
    let told = devices(&two, &two.ana.user).await;
    assert_eq!(told.devices.len(), 1);
    assert!(told.stream_id > none.stream_id);
    let store = two.here.hub.store();
    let changed = store.devices_changed_at(&two.ana.user, END).await;
    assert_eq!(u64::from(told.stream_id), changed.unwrap().0);

    for nobody in ["@nobody:hub.example", "@zed:far.example"] {
        let asked = get_devices::v1::Request::new(nobody.try_into().unwrap());
        let refused = two.peer(PeerCommand::UserDevices(Box::new(asked))).await;
        assert_eq!(refused.unwrap_err().code, Code::NotFound);
    }
}

#[tokio::test]
async fn keys_of_users_here_are_told_and_claimed_and_of_nobody_else() {
    let two = Two::apart().await;
    upload(&two.here, &two.ana, "one").await;
    let (ana, zed) = (&two.ana.user, &two.zed.user);
    let all = BTreeMap::from([(ana.clone(), Vec::new()), (zed.clone(), Vec::new())]);
    let asked = get_keys::v1::Request::new(all);
    let told = two.peer(PeerCommand::UserKeys(Box::new(asked))).await;
    let PeerReply::UserKeys(told) = told.unwrap() else {
        panic!("another answer");
    };
    assert_eq!(told.device_keys.keys().collect::<Vec<_>>(), [ana]);

    let mut one = upload_keys::v3::Request::new();
    let key = json!({ "signed_curve25519:A": { "key": "k", "signatures": {} } });
    one.one_time_keys = serde_json::from_value(key).unwrap();
    ask!(two.here, two.ana.origin, UploadKeys(one)).unwrap();
    let mut counts = Vec::new();
    for _ in 0..2 {
        let wanted = BTreeMap::from([("PHONE".into(), OneTimeKeyAlgorithm::SignedCurve25519)]);
        let all = [(ana.clone(), wanted.clone()), (zed.clone(), wanted)];
        let asked = claim_keys::v1::Request::new(all.into());
        let told = two.peer(PeerCommand::UserKeyClaim(Box::new(asked))).await;
        let PeerReply::UserKeyClaim(told) = told.unwrap() else {
            panic!("another answer");
        };
        counts.push(told.one_time_keys.len());
    }
    assert_eq!(counts, [1, 0]);
}

async fn claim(two: &Two, device: &str) -> Result<Vec<String>, Refusal> {
    let wanted = BTreeMap::from([(device.into(), OneTimeKeyAlgorithm::SignedCurve25519)]);
    let asked = claim_keys::v1::Request::new([(two.ana.user.clone(), wanted)].into());
    let told = two.peer(PeerCommand::UserKeyClaim(Box::new(asked))).await?;
    let PeerReply::UserKeyClaim(told) = told else {
        panic!("another answer");
    };
    let devices = told.one_time_keys.into_values().flatten();
    let keys = devices.flat_map(|(_, keys)| keys.into_keys());
    Ok(keys.map(|id| id.to_string()).collect())
}

#[tokio::test]
async fn one_server_cannot_take_all_keys_of_a_device() {
    let two = Two::apart().await;
    upload(&two.here, &two.ana, "one").await;
    let key = json!({ "key": "k", "signatures": {} });
    let leave = async |one_time: Value, fallback: Value| {
        let mut request = upload_keys::v3::Request::new();
        request.one_time_keys = serde_json::from_value(one_time).unwrap();
        request.fallback_keys = serde_json::from_value(fallback).unwrap();
        ask!(two.here, two.ana.origin, UploadKeys(request)).unwrap();
    };
    let keys = (10..50).map(|n| (format!("signed_curve25519:{n}"), key.clone()));
    leave(Value::Object(keys.collect()), json!({})).await;
    let left = async || {
        let store = two.here.hub.store();
        let counts = store.one_time_counts(&two.ana.user, "PHONE").await;
        counts.unwrap().first().unwrap().1
    };
    for taken in 1..=25 {
        assert_eq!(claim(&two, "PHONE").await.unwrap().len(), 1);
        assert_eq!(left().await, 40 - taken);
        assert!(claim(&two, "NONE").await.unwrap().is_empty());
    }
    let refused = claim(&two, "PHONE").await.unwrap_err();
    assert_eq!(refused.code, Code::LimitExceeded);
    assert_eq!(refused.why.unwrap().code, Some("KEY_CLAIMS"));
    assert!(refused.retry_after.is_some());

    let fallback = "signed_curve25519:fallback";
    leave(json!({}), json!({ fallback: key })).await;
    assert_eq!(claim(&two, "PHONE").await.unwrap(), [fallback]);
    assert_eq!(left().await, 15, "the others' share");
    two.here.clock.advance(Duration::from_hours(1));
    assert_ne!(claim(&two, "PHONE").await.unwrap(), [fallback]);
    assert_eq!(left().await, 14);
}

#[tokio::test]
async fn other_servers_see_by_which_keys_a_user_here_vouches() {
    let two = Two::apart().await;
    let ana = &two.ana.user;
    let (_, phone) = device(&two.here, &two.ana).await;
    let before = devices(&two, ana).await;
    assert!(before.master_key.is_none());
    let own = Keys::of(ana);
    publish(&two.here, &two.ana, own.request()).await.unwrap();
    let id = own.self_signing.public();
    let signed = own.self_signing.signed(ana, &id, phone);

    let told = devices(&two, ana).await;
    assert_eq!(told.stream_id, before.stream_id, "no device changed");
    assert_eq!(json!(told.master_key), own.master_key());
    assert_eq!(
        sign(&two.here, &two.ana, ana, "PHONE", &signed).await,
        json!({})
    );
    let told = devices(&two, ana).await;
    assert!(told.stream_id > before.stream_id);
    assert_eq!(json!(told.devices[0].keys), signed);

    let asked = get_keys::v1::Request::new([(ana.clone(), Vec::new())].into());
    let asked = two.peer(PeerCommand::UserKeys(Box::new(asked))).await;
    let PeerReply::UserKeys(answer) = asked.unwrap() else {
        panic!("another answer");
    };
    assert_eq!(json!(answer.master_keys[ana]), own.master_key());
    assert_eq!(
        json!(answer.self_signing_keys[ana]),
        json!(told.self_signing_key)
    );
    let device = &answer.device_keys[ana][ruma::device_id!("PHONE")];
    assert_eq!(json!(device)["signatures"], signed["signatures"]);
}

#[tokio::test]
async fn a_message_of_another_server_reaches_its_devices_once() {
    let two = Two::apart().await;
    let tablet = two.here.device(&two.ana.user, "TABLET").await;
    let ana = two.ana.user.as_str();
    let first = direct(
        &two.zed.user,
        "m1",
        json!({ ana: { "PHONE": { "n": 1 }, "GONE": { "n": 1 } } }),
    );
    let all = direct(&two.zed.user, "m2", json!({ ana: { "*": { "n": 2 } } }));
    two.edus(&[first.clone(), all.clone()]).await.unwrap();
    two.edus(&[first, all]).await.unwrap();
    let told = |mail: &[Value]| {
        mail.iter()
            .map(|one| one["content"]["n"].clone())
            .collect::<Vec<_>>()
    };
    let phone = mail(&two.here, &two.ana).await;
    assert_eq!(told(&phone), [1, 2]);
    assert_eq!(
        phone[0],
        json!({ "type": "m.x", "sender": two.zed.user, "content": { "n": 1 } })
    );
    assert_eq!(told(&mail(&two.here, &tablet).await), [2]);
}

#[tokio::test]
async fn a_server_that_fills_a_mailbox_leaves_room_for_others_and_for_users_here() {
    let two = Two::apart().await;
    let flood = |origin: &str, count: usize| {
        let mail = Write::Mail {
            user: two.ana.user.clone(),
            device: two.ana.device.clone(),
            origin: Some(origin.try_into().unwrap()),
            json: "{}".to_owned(),
        };
        two.here.write(vec![mail; count])
    };
    let waiting = async || {
        let store = two.here.hub.store();
        let waiting = store.mail_waiting(&two.ana.user, two.ana.device.as_str(), None);
        waiting.await.unwrap().all.count
    };
    let to_ana = |n: u32| json!({ two.ana.user.as_str(): { "PHONE": { "n": n } } });
    let said = async |id: &str| {
        let before = waiting().await;
        let edu = direct(&two.zed.user, id, to_ana(1));
        two.edus(&[edu]).await.unwrap();
        waiting().await - before
    };
    // What is left free is as much as one server may have.
    flood("evil.example", 1250).await;
    assert_eq!(said("while another has half").await, 1);
    flood("far.example", 623).await;
    assert_eq!(said("as much as is free").await, 1);
    assert_eq!(said("more than is free").await, 0);
    flood("far.example", 625).await;
    assert_eq!(said("nothing is free").await, 0);

    let mut request = send_event_to_device::v3::Request::new_raw(
        "1".into(),
        "m.x".into(),
        [(two.ana.user.clone(), BTreeMap::new())].into(),
    );
    let content = Raw::new(&json!({})).unwrap().cast_unchecked();
    let devices = request.messages.get_mut(&two.ana.user).unwrap();
    let phone = DeviceIdOrAllDevices::DeviceId(two.ana.device.clone());
    devices.insert(phone, content);
    let before = waiting().await;
    ask!(two.here, two.ana.origin, SendToDevice(request)).unwrap();
    assert_eq!(waiting().await - before, 1);
}

#[tokio::test]
async fn what_is_wrong_or_unknown_spoils_nothing_beside_it() {
    let two = Two::apart().await;
    let ana = two.ana.user.as_str();
    let to_ana = json!({ ana: { "PHONE": { "n": 1 } } });
    let edus = [
        direct(&two.ana.user, "forged", to_ana.clone()),
        direct(&two.zed.user, &"x".repeat(300), to_ana.clone()),
        direct(&two.zed.user, "no object", json!({ ana: { "PHONE": 7 } })),
        direct(
            &two.zed.user,
            "large",
            json!({ ana: { "PHONE": { "x": "x".repeat(70_000) } } }),
        ),
        json!({ "edu_type": "m.direct_to_device", "content": [] }),
        json!({ "edu_type": "m.presence", "content": { "push": [] } }),
        json!({ "edu_type": "org.example.new", "content": {} }),
        json!("no EDU at all"),
        typing(&two, &two.zed.user, true), // who is not in the room
        direct(&two.zed.user, "good", to_ana),
    ];
    two.edus(&edus).await.unwrap();
    assert_eq!(mail(&two.here, &two.ana).await.len(), 1);
}

#[tokio::test]
async fn who_types_elsewhere_is_seen_here_for_a_while() {
    let two = Two::together().await;
    let store = two.here.hub.store();
    let room = store.room(&two.room).await.unwrap().unwrap().nid;
    let who = || two.here.hub.desk.typing.in_room(room);
    two.edus(&[typing(&two, &two.ana.user, true)])
        .await
        .unwrap();
    assert_eq!(who(), None, "only its own users");
    two.edus(&[typing(&two, &two.zed.user, true)])
        .await
        .unwrap();
    assert_eq!(who(), Some(vec![two.zed.user.clone()]));
    two.edus(&[typing(&two, &two.zed.user, false)])
        .await
        .unwrap();
    assert_eq!(who(), None);
    two.edus(&[typing(&two, &two.zed.user, true)])
        .await
        .unwrap();
    tokio::time::pause();
    two.here.clock.advance(Duration::from_mins(1));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(who(), None);
}

#[tokio::test]
async fn what_was_read_elsewhere_is_told_here_and_never_goes_back() {
    let two = Two::together().await;
    let mut events = Vec::new();
    for txn in ["1", "2"] {
        let said = two
            .here
            .send(&two.ana, &two.room, "m.room.message", txn, "{}")
            .await;
        events.push(said.unwrap().to_string());
    }
    let read = async || {
        let store = two.here.hub.store();
        let room = store.room(&two.room).await.unwrap().unwrap().nid;
        let all = store.receipts(room, Position::ZERO).await.unwrap();
        let told = all.into_iter();
        told.map(|one| (one.user.to_string(), one.event.to_string(), one.at.0))
            .collect::<Vec<_>>()
    };
    let zed = &two.zed.user;
    for (edu, seen) in [
        (receipt(&two, &two.ana.user, &events[0]), None),
        (receipt(&two, zed, "$unknown"), None),
        (receipt(&two, zed, &events[1]), Some(&events[1])),
        (receipt(&two, zed, &events[0]), Some(&events[1])),
    ] {
        two.edus(&[edu]).await.unwrap();
        let seen = seen.map(|event| (zed.to_string(), event.clone(), 5));
        assert_eq!(read().await, seen.into_iter().collect::<Vec<_>>());
    }
}
