//! Devices, keys, mailboxes, aliases and files, from the door's side.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use ruma::{
    OneTimeKeyAlgorithm, OwnedRoomId, UInt,
    api::client::{
        alias::{create_alias, delete_alias, get_alias},
        device::{delete_device, delete_devices, get_device, get_devices, update_device},
        keys::{claim_keys, get_key_changes, get_keys, upload_keys},
        membership::join_room_by_id,
        profile::set_profile_field,
        room::create_room,
        state::get_state_event_for_key,
        to_device::send_event_to_device,
        uiaa::AuthData,
    },
    events::StateEventType,
    profile::ProfileFieldValue,
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde_json::{Value, json};

use crate::{
    api::{Code, Refusal, Service, Upload},
    base::Position,
    hub::{
        Settings,
        fanout::Woken,
        testing::{Person, TestHub, ask, bearer, hub, hub_with, stranger},
    },
    store::{Batch, Write},
};

fn password_of(user: &str, password: &str) -> AuthData {
    let shown = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
        "session": "S",
    });
    serde_json::from_value(shown).unwrap()
}

async fn shared_room(hub: &TestHub, ana: &Person, bob: &Person) -> OwnedRoomId {
    let mut request = create_room::v3::Request::new();
    request.preset = Some(create_room::v3::RoomPreset::PublicChat);
    let room = ask!(hub, ana.origin, CreateRoom(request)).unwrap().room_id;
    let join = join_room_by_id::v3::Request::new(room.clone());
    ask!(hub, bob.origin, Join(join)).unwrap();
    room
}

fn device_keys(person: &Person) -> Value {
    json!({
        "user_id": person.user,
        "device_id": person.device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("curve25519:{}", person.device): "abc" },
        "signatures": { person.user.as_str(): { format!("ed25519:{}", person.device): "def" } },
        "unsigned": { "device_display_name": "not mine to say" },
    })
}

fn upload(keys: Option<Value>, one_time: Value, fallback: Value) -> upload_keys::v3::Request {
    let mut request = upload_keys::v3::Request::new();
    request.device_keys = keys.map(|keys| Raw::new(&keys).unwrap().cast_unchecked());
    request.one_time_keys = serde_json::from_value(one_time).unwrap();
    request.fallback_keys = serde_json::from_value(fallback).unwrap();
    request
}

fn key(text: &str) -> Value {
    json!({ "key": text, "signatures": { "@ana:hub.example": { "ed25519:PHONE": "s" } } })
}

async fn claim(hub: &TestHub, by: &Person, of: &Person) -> Option<(String, Value)> {
    let wanted = BTreeMap::from([(of.device.clone(), OneTimeKeyAlgorithm::SignedCurve25519)]);
    let request = claim_keys::v3::Request::new([(of.user.clone(), wanted)].into());
    let mut reply = ask!(hub, by.origin, ClaimKeys(request)).unwrap();
    let mut devices = reply.one_time_keys.remove(&of.user)?;
    let (id, key) = devices.remove(&of.device)?.pop_first()?;
    Some((
        id.to_string(),
        serde_json::from_str(key.json().get()).unwrap(),
    ))
}

async fn mail(hub: &TestHub, person: &Person) -> Vec<Value> {
    let store = hub.hub.store();
    let letters = store
        .mail(
            &person.user,
            person.device.as_str(),
            Position::ZERO,
            Position(u64::MAX >> 1),
            100,
        )
        .await
        .unwrap();
    let read = |json: &String| serde_json::from_str(json).unwrap();
    letters.iter().map(|letter| read(&letter.json)).collect()
}

#[tokio::test]
async fn a_device_is_seen_named_and_only_by_its_user() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let mut rename = update_device::v3::Request::new("PHONE".into());
    rename.display_name = Some("pocket".to_owned());
    ask!(hub, ana.origin, UpdateDevice(rename)).unwrap();

    let listed = ask!(hub, ana.origin, Devices(get_devices::v3::Request::new())).unwrap();
    assert_eq!(listed.devices.len(), 1);
    let phone = get_device::v3::Request::new("PHONE".into());
    let phone = ask!(hub, ana.origin, Device(phone)).unwrap().device;
    assert_eq!(phone.display_name.as_deref(), Some("pocket"));
    assert_eq!(phone.last_seen_ip.as_deref(), Some("192.0.2.1"));
    assert!(phone.last_seen_ts.is_some());

    let none = get_device::v3::Request::new("TABLET".into());
    let refusal = ask!(hub, ana.origin, Device(none.clone())).unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
    let theirs = ask!(hub, bob.origin, Devices(get_devices::v3::Request::new())).unwrap();
    assert_eq!(theirs.devices[0].display_name, None);
}

#[tokio::test]
async fn removing_a_device_needs_the_password_and_ends_its_session_at_once() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    hub.password(&ana, "s3cret").await;
    let tablet = hub.device(&ana.user, "TABLET").await;
    let list = get_devices::v3::Request::new;
    ask!(hub, tablet.origin, Devices(list())).unwrap();

    let remove = |auth| {
        let mut request = delete_device::v3::Request::new("TABLET".into());
        request.auth = auth;
        request
    };
    let asked = ask!(hub, ana.origin, DeleteDevice(remove(None))).unwrap_err();
    assert_eq!(asked.status, 401);
    assert_eq!(
        asked.body.unwrap()["flows"],
        json!([{ "stages": ["m.login.password"] }])
    );
    for wrong in [
        Some(password_of("ana", "guess")),
        Some(password_of("bob", "s3cret")),
    ] {
        let refusal = ask!(hub, ana.origin, DeleteDevice(remove(wrong))).unwrap_err();
        assert_eq!(refusal.status, 401);
        assert_eq!(refusal.body.unwrap()["session"], "S");
    }
    ask!(hub, tablet.origin, Devices(list())).unwrap();

    let right = remove(Some(password_of("@ana:hub.example", "s3cret")));
    ask!(hub, ana.origin, DeleteDevice(right)).unwrap();
    let refusal = ask!(hub, tablet.origin, Devices(list())).unwrap_err();
    assert_eq!(refusal.code, Code::UnknownToken);

    let mut several = delete_devices::v3::Request::new(vec!["NONE".into(), "PHONE".into()]);
    several.auth = Some(password_of("ana", "s3cret"));
    ask!(hub, ana.origin, DeleteDevices(several)).unwrap();
    ask!(hub, ana.origin, Devices(list())).unwrap_err();
}

#[tokio::test]
async fn device_keys_must_be_of_the_device_that_uploads_them() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let good = device_keys(&ana);
    let with = |field: &str, value: Value| {
        let mut keys = good.clone();
        keys[field] = value;
        keys
    };
    for bad in [
        with("user_id", json!("@bob:hub.example")),
        with("device_id", json!("TABLET")),
        with("keys", json!({ "curve25519:TABLET": "abc" })),
        with("keys", json!({ "curve25519:PHONE": 7 })),
        with("keys", json!(null)),
        with("algorithms", json!([1])),
        with("signatures", json!([])),
        with("note", json!(0.5)),
        with("note", json!("x".repeat(20_000))),
    ] {
        let request = upload(Some(bad.clone()), json!({}), json!({}));
        let refusal = ask!(hub, ana.origin, UploadKeys(request)).unwrap_err();
        assert!(matches!(refusal.status, 400 | 413), "{bad}");
    }
    for (name, wanted) in [
        ("user_id", "`device_keys.user_id` is missing"),
        ("algorithms", "`device_keys.algorithms` is missing"),
        ("keys", "`device_keys.keys` is missing"),
    ] {
        let mut without = good.clone();
        without.as_object_mut().unwrap().remove(name);
        let request = upload(Some(without), json!({}), json!({}));
        let refusal = ask!(hub, ana.origin, UploadKeys(request)).unwrap_err();
        assert_eq!(
            (refusal.code, &*refusal.message),
            (Code::MissingParam, wanted)
        );
    }
    let bobs = with("user_id", json!("@bob:hub.example"));
    let request = upload(Some(bobs), json!({}), json!({}));
    let refusal = ask!(hub, ana.origin, UploadKeys(request)).unwrap_err();
    let wanted = "`device_keys.user_id` is `@bob:hub.example`, yours is `@ana:hub.example`";
    assert_eq!(refusal.message, wanted);
    for (bad, said) in [
        (
            json!(1),
            "`device_keys`: expected an object, found a number",
        ),
        (
            with("note", json!([0.5])),
            "`device_keys.note[0]`: 0.5 is not an integer",
        ),
        (
            with("signatures", json!([])),
            "`device_keys.signatures`: expected an object, found a list",
        ),
        (
            with("keys", json!("x")),
            "`device_keys.keys`: expected an object, found a text",
        ),
    ] {
        let request = upload(Some(bad), json!({}), json!({}));
        let refusal = ask!(hub, ana.origin, UploadKeys(request)).unwrap_err();
        assert_eq!((refusal.status, &*refusal.message), (400, said));
    }
    ask!(
        hub,
        ana.origin,
        UploadKeys(upload(Some(good), json!({}), json!({})))
    )
    .unwrap();
}

#[tokio::test]
async fn keys_are_told_as_uploaded_with_the_devices_name_beside_them() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let request = upload(Some(device_keys(&ana)), json!({}), json!({}));
    ask!(hub, ana.origin, UploadKeys(request)).unwrap();
    let mut rename = update_device::v3::Request::new("PHONE".into());
    rename.display_name = Some("pocket".to_owned());
    ask!(hub, ana.origin, UpdateDevice(rename)).unwrap();

    let mut query = get_keys::v3::Request::new();
    query.device_keys.insert(ana.user.clone(), vec![]);
    query
        .device_keys
        .insert("@nobody:hub.example".try_into().unwrap(), vec![]);
    query
        .device_keys
        .insert("@eve:elsewhere.example".try_into().unwrap(), vec![]);
    let told = ask!(hub, bob.origin, QueryKeys(query)).unwrap();
    let failed: Vec<_> = told.failures.keys().collect();
    assert_eq!(failed, ["elsewhere.example"], "this hub speaks with nobody");
    assert_eq!(told.device_keys.len(), 2);
    assert!(told.device_keys["@nobody:hub.example"].is_empty());
    let phone = told.device_keys[&ana.user]["PHONE"].json().get();
    let mut wanted = device_keys(&ana);
    wanted["unsigned"] = json!({ "device_display_name": "pocket" });
    assert_eq!(serde_json::from_str::<Value>(phone).unwrap(), wanted);

    let mut other = get_keys::v3::Request::new();
    other
        .device_keys
        .insert(ana.user.clone(), vec!["TABLET".into()]);
    let told = ask!(hub, bob.origin, QueryKeys(other)).unwrap();
    assert!(told.device_keys[&ana.user].is_empty());
}

#[tokio::test]
async fn a_one_time_key_is_taken_once_and_then_the_fallback_key_again_and_again() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let one_time = json!({ "signed_curve25519:A": key("a"), "signed_curve25519:B": key("b") });
    let fallback = json!({ "signed_curve25519:F": key("f") });
    let request = upload(None, one_time.clone(), fallback);
    let counts = ask!(hub, ana.origin, UploadKeys(request))
        .unwrap()
        .one_time_key_counts;
    let signed = OneTimeKeyAlgorithm::SignedCurve25519;
    assert_eq!(counts[&signed], UInt::from(2_u8));

    // The same again is no change; another key under the same id is refused.
    let again = upload(None, one_time, json!({}));
    let counts = ask!(hub, ana.origin, UploadKeys(again))
        .unwrap()
        .one_time_key_counts;
    assert_eq!(counts[&signed], UInt::from(2_u8));
    let changed = upload(None, json!({ "signed_curve25519:A": key("z") }), json!({}));
    let refusal = ask!(hub, ana.origin, UploadKeys(changed)).unwrap_err();
    assert_eq!(refusal.status, 400);

    let mut got = Vec::new();
    for _ in 0..4 {
        got.push(claim(&hub, &bob, &ana).await.unwrap().0);
    }
    let ids = ["A", "B", "F", "F"].map(|id| format!("signed_curve25519:{id}"));
    assert_eq!(got, ids);
    let none = upload(None, json!({}), json!({}));
    let counts = ask!(hub, ana.origin, UploadKeys(none))
        .unwrap()
        .one_time_key_counts;
    assert_eq!(counts[&signed], UInt::MIN);
    assert_eq!(claim(&hub, &ana, &bob).await, None);
}

#[tokio::test]
async fn a_device_leaves_a_bounded_number_of_keys_of_bounded_size() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let many: serde_json::Map<_, _> = (0..1001)
        .map(|n| (format!("signed_curve25519:{n}"), key("k")))
        .collect();
    let refusal = ask!(
        hub,
        ana.origin,
        UploadKeys(upload(None, many.into(), json!({})))
    );
    assert_eq!(refusal.unwrap_err().code, Code::ResourceLimitExceeded);
    for bad in [
        key(&"x".repeat(5000)),
        json!("a"),
        json!({}),
        json!({ "key": 1 }),
        json!(null),
    ] {
        let one = json!({ "signed_curve25519:A": bad });
        let refusal = ask!(
            hub,
            ana.origin,
            UploadKeys(upload(None, one.clone(), json!({})))
        );
        assert!(matches!(refusal.unwrap_err().status, 400 | 413), "{one}");
        let refusal = ask!(hub, ana.origin, UploadKeys(upload(None, json!({}), one)));
        refusal.unwrap_err();
    }
}

#[tokio::test]
async fn who_shares_a_room_hears_of_changed_keys_and_is_woken() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let eve = hub.account("eve").await;
    shared_room(&hub, &ana, &bob).await;
    // As a sync would say them: what is stored a moment before all are told is in no token.
    let before = hub.hub.fanout.position();
    let mut listener = hub.hub.fanout.listen(&bob.user);

    let request = || upload(Some(device_keys(&ana)), json!({}), json!({}));
    ask!(hub, ana.origin, UploadKeys(request())).unwrap();

    assert_eq!(listener.woken().await, Woken::News);
    let after = hub.hub.fanout.position();
    let changes = |from: Position, to: Position| {
        get_key_changes::v3::Request::new(format!("s{from}_0"), format!("s{to}_0"))
    };
    let told = ask!(hub, bob.origin, KeyChanges(changes(before, after))).unwrap();
    assert_eq!(told.changed, std::slice::from_ref(&ana.user));
    let told = ask!(hub, eve.origin, KeyChanges(changes(before, after))).unwrap();
    assert!(told.changed.is_empty());
    // The same keys again are no change.
    ask!(hub, ana.origin, UploadKeys(request())).unwrap();
    let later = hub.hub.fanout.position();
    let told = ask!(hub, bob.origin, KeyChanges(changes(after, later))).unwrap();
    assert!(told.changed.is_empty());
    let bad = get_key_changes::v3::Request::new("x".to_owned(), "s1_0".to_owned());
    let refusal = ask!(hub, bob.origin, KeyChanges(bad)).unwrap_err();
    assert_eq!(refusal.code, Code::InvalidParam);
}

fn letter(
    txn: &str,
    to: &Person,
    device: DeviceIdOrAllDevices,
) -> send_event_to_device::v3::Request {
    let content = Raw::from_json_string(r#"{"hello":1}"#.to_owned()).unwrap();
    let messages = [(to.user.clone(), [(device, content)].into())].into();
    send_event_to_device::v3::Request::new_raw("org.example.hi".into(), txn.into(), messages)
}

#[tokio::test]
async fn a_message_to_a_device_arrives_once_however_often_it_is_sent() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let tablet = hub.device(&bob.user, "TABLET").await;
    let mut listener = hub.hub.fanout.listen(&bob.user);
    let to_phone = || letter("1", &bob, DeviceIdOrAllDevices::DeviceId("PHONE".into()));
    let (one, two) = tokio::join!(
        async { ask!(hub, ana.origin, SendToDevice(to_phone())) },
        async { ask!(hub, ana.origin, SendToDevice(to_phone())) },
    );
    one.unwrap();
    two.unwrap();
    ask!(hub, ana.origin, SendToDevice(to_phone())).unwrap();

    assert_eq!(listener.woken().await, Woken::News);
    let wanted = json!({
        "type": "org.example.hi", "sender": ana.user, "content": { "hello": 1 },
    });
    assert_eq!(mail(&hub, &bob).await, [wanted]);
    assert!(mail(&hub, &tablet).await.is_empty());

    let to_all = letter("2", &bob, DeviceIdOrAllDevices::AllDevices);
    ask!(hub, ana.origin, SendToDevice(to_all)).unwrap();
    assert_eq!(mail(&hub, &bob).await.len(), 2);
    assert_eq!(mail(&hub, &tablet).await.len(), 1);
}

#[tokio::test]
async fn a_message_that_is_too_large_or_no_object_is_refused() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(65_536));
    for content in [large.as_str(), "[]", "7"] {
        let mut request = letter("1", &ana, DeviceIdOrAllDevices::AllDevices);
        for messages in request.messages.values_mut() {
            let content = Raw::from_json_string(content.to_owned()).unwrap();
            messages.insert(DeviceIdOrAllDevices::AllDevices, content);
        }
        ask!(hub, ana.origin, SendToDevice(request)).unwrap_err();
    }
    assert!(mail(&hub, &ana).await.is_empty());
}

#[tokio::test]
async fn a_mailbox_that_nobody_empties_takes_no_more() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let device = bob.device.clone();
    let full = (0..5000).map(|_| Write::Mail {
        user: bob.user.clone(),
        device: device.clone(),
        origin: None,
        json: "{}".to_owned(),
    });
    let batch = Batch {
        writes: full.collect(),
        may_conflict: false,
    };
    hub.hub.writer.write(batch, Vec::new()).await.unwrap();

    let to_bob = letter("1", &bob, DeviceIdOrAllDevices::DeviceId(device));
    let refusal = ask!(hub, ana.origin, SendToDevice(to_bob)).unwrap_err();

    assert_eq!(refusal.code, Code::LimitExceeded);
    assert!(refusal.retry_after.is_some());
}

fn name(alias: &str, room: &OwnedRoomId) -> create_alias::v3::Request {
    create_alias::v3::Request::new(alias.try_into().unwrap(), room.clone())
}

#[tokio::test]
async fn an_alias_is_made_by_a_member_and_found_by_anyone() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let eve = hub.account("eve").await;
    let room = shared_room(&hub, &ana, &bob).await;
    ask!(
        hub,
        bob.origin,
        CreateAlias(name("#tea:hub.example", &room))
    )
    .unwrap();

    let find = || get_alias::v3::Request::new("#tea:hub.example".try_into().unwrap());
    let found = ask!(hub, stranger(), Alias(find())).unwrap();
    assert_eq!(found.room_id, room);
    assert_eq!(found.servers, ["hub.example"]);

    let taken = ask!(
        hub,
        ana.origin,
        CreateAlias(name("#tea:hub.example", &room))
    )
    .unwrap_err();
    assert_eq!((taken.code, taken.status), (Code::RoomInUse, 409));
    let refusal = ask!(
        hub,
        eve.origin,
        CreateAlias(name("#cake:hub.example", &room))
    );
    let outside = refusal.unwrap_err();
    let nowhere: OwnedRoomId = "!nowhere:hub.example".try_into().unwrap();
    let refusal = ask!(
        hub,
        eve.origin,
        CreateAlias(name("#cake:hub.example", &nowhere))
    );
    assert_eq!(outside.code, Code::Forbidden);
    assert_eq!(refusal.unwrap_err().code, outside.code);
    for bad in [
        "#tea:elsewhere.example",
        "#a b:hub.example",
        "#:hub.example",
        "#a\u{85}:hub.example",
    ] {
        let refusal = ask!(hub, ana.origin, CreateAlias(name(bad, &room))).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidParam, "{bad}");
    }
}

#[tokio::test]
async fn an_alias_is_removed_by_its_maker_or_by_who_may_rename_the_room() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = shared_room(&hub, &ana, &bob).await;
    let remove = |alias: &str| delete_alias::v3::Request::new(alias.try_into().unwrap());
    ask!(hub, ana.origin, CreateAlias(name("#a:hub.example", &room))).unwrap();
    ask!(hub, bob.origin, CreateAlias(name("#b:hub.example", &room))).unwrap();
    ask!(hub, bob.origin, CreateAlias(name("#c:hub.example", &room))).unwrap();

    let refusal = ask!(hub, bob.origin, DeleteAlias(remove("#a:hub.example"))).unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
    ask!(hub, bob.origin, DeleteAlias(remove("#b:hub.example"))).unwrap();
    ask!(hub, ana.origin, DeleteAlias(remove("#c:hub.example"))).unwrap();
    let refusal = ask!(hub, ana.origin, DeleteAlias(remove("#c:hub.example"))).unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
}

#[tokio::test]
async fn a_new_name_is_told_in_the_rooms_one_is_in() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = shared_room(&hub, &ana, &bob).await;
    let value = ProfileFieldValue::DisplayName("Bobby".to_owned());
    let request = set_profile_field::v3::Request::new(bob.user.clone(), value);
    ask!(hub, bob.origin, SetProfileField(request)).unwrap();

    let read = get_state_event_for_key::v3::Request::new(
        room,
        StateEventType::RoomMember,
        bob.user.to_string(),
    );
    let member = ask!(hub, ana.origin, StateForKey(read)).unwrap();
    let content = member.into_content();
    let content: Value = serde_json::from_str(content.json().get()).unwrap();
    assert_eq!(
        content,
        json!({ "membership": "join", "displayname": "Bobby" })
    );
}

fn file(parts: &[&'static str], length: Option<u64>) -> Upload {
    let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from(*part))).collect();
    Upload {
        content_type: Some("text/plain".to_owned()),
        filename: Some("note.txt".to_owned()),
        length,
        body: stream::iter(parts).boxed(),
    }
}

async fn put(hub: &TestHub, person: &Person, upload: Upload) -> Result<String, Refusal> {
    hub.hub.upload(person.origin.clone(), upload).await
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_sent_to_whoever_has_an_account() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let uri = put(&hub, &ana, file(&["he", "llo"], Some(5)))
        .await
        .unwrap();
    let id = uri.strip_prefix("mxc://hub.example/").unwrap();
    assert_eq!(id.len(), 24);

    let get = async |origin, server, id| hub.hub.download(origin, server, id).await;
    let object = get(bob.origin.clone(), "hub.example", id).await.unwrap();
    assert_eq!(object.content_type.as_deref(), Some("text/plain"));
    assert_eq!(object.filename.as_deref(), Some("note.txt"));
    assert_eq!(object.length, 5);
    let parts: Vec<Bytes> = object.body.try_collect().await.unwrap();
    assert_eq!(parts.concat(), b"hello");

    for (server, id) in [
        ("elsewhere.example", id),
        ("hub.example", "../../etc/passwd"),
    ] {
        let refusal = get(bob.origin.clone(), server, id).await.err().unwrap();
        assert_eq!(refusal.code, Code::NotFound);
    }
    let refusal = get(stranger(), "hub.example", id).await.err().unwrap();
    assert_eq!(refusal.code, Code::MissingToken);
    let refusal = hub.hub.upload(bearer("tl_x"), file(&["x"], None)).await;
    assert_eq!(refusal.unwrap_err().code, Code::UnknownToken);
}

#[tokio::test]
async fn files_have_a_size_and_an_account_has_room_for_so_many_bytes() {
    let mut settings = Settings::default();
    settings.limits.media_bytes_max = 6;
    settings.limits.media_bytes_per_account = 10;
    let hub = hub_with(settings).await;
    let ana = hub.account("ana").await;
    let long = put(&hub, &ana, file(&["never read"], Some(7)))
        .await
        .unwrap_err();
    assert_eq!((long.code, long.status), (Code::TooLarge, 413));
    let long = put(&hub, &ana, file(&["abcd", "efg"], None))
        .await
        .unwrap_err();
    assert_eq!(long.code, Code::TooLarge);
    // Who says less than comes gets no further.
    let long = put(&hub, &ana, file(&["abcd", "efg"], Some(1)))
        .await
        .unwrap_err();
    assert_eq!(long.code, Code::TooLarge);
    put(&hub, &ana, file(&["abcdef"], None)).await.unwrap();
    let full = put(&hub, &ana, file(&["abcde"], None)).await.unwrap_err();
    assert_eq!(full.code, Code::ResourceLimitExceeded);
    put(&hub, &ana, file(&["abcd"], None)).await.unwrap();
    put(&hub, &ana, file(&[""], Some(0))).await.unwrap();
}

#[tokio::test]
async fn two_uploads_side_by_side_do_not_get_past_the_quota() {
    let mut settings = Settings::default();
    settings.limits.media_bytes_per_account = 6;
    let hub = hub_with(settings).await;
    let ana = hub.account("ana").await;
    let (one, two) = tokio::join!(
        put(&hub, &ana, file(&["abcd"], None)),
        put(&hub, &ana, file(&["efgh"], None)),
    );
    assert!(one.is_ok() != two.is_ok());
    assert_eq!(hub.hub.store().media_used(&ana.user).await.unwrap(), 4);
    // And the refused one leaves nothing on disk.
    assert_eq!(files_below(&hub.dir.path().join("media")), 1);
}

fn files_below(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { files_below(&path) } else { 1 })
        .sum()
}

#[tokio::test]
async fn a_file_name_that_could_not_be_a_header_is_refused() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    for bad in ["a\r\nb".to_owned(), "x".repeat(256)] {
        let mut upload = file(&["x"], None);
        upload.filename = Some(bad);
        let refusal = put(&hub, &ana, upload).await.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidParam);
    }
}

#[tokio::test]
async fn last_seen_is_written_again_after_minutes() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let seen = async || {
        let list = get_devices::v3::Request::new();
        ask!(hub, ana.origin, Devices(list)).unwrap();
        // The write is not waited for; the next one stands behind it.
        hub.write(vec![]).await;
        let devices = hub.hub.store().devices(&ana.user).await.unwrap();
        devices[0].seen.unwrap()
    };
    let first = seen().await;
    hub.clock.advance(Duration::from_secs(200));
    assert_eq!(seen().await, first);
    hub.clock.advance(Duration::from_secs(200));
    assert_eq!(seen().await.since(first), Duration::from_secs(400));
}

#[tokio::test]
async fn one_fallback_key_of_an_algorithm_is_kept() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let two = json!({ "signed_curve25519:F": key("f"), "signed_curve25519:G": key("g") });
    let refusal = ask!(hub, ana.origin, UploadKeys(upload(None, json!({}), two))).unwrap_err();
    assert_eq!(refusal.code, Code::InvalidParam);
    for id in ["F", "G"] {
        let one = json!({ format!("signed_curve25519:{id}"): key(id) });
        ask!(hub, ana.origin, UploadKeys(upload(None, json!({}), one))).unwrap();
    }
    let (id, given) = claim(&hub, &ana, &ana).await.unwrap();
    assert_eq!((id.as_str(), given), ("signed_curve25519:G", key("G")));
}
