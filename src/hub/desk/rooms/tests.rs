//! Founding rooms, being in them and speaking in them.

use ruma::{
    OwnedRoomAliasId, OwnedUserId,
    api::client::membership::{invite_user, join_room_by_id_or_alias},
};
use serde_json::json;

use crate::{
    api::Code,
    hub::{
        desk::rooms::{
            self,
            testing::{next, texts, wish},
        },
        testing::{SERVER, hub},
    },
};

#[tokio::test]
async fn a_new_room_holds_what_was_asked_for_in_the_order_of_the_specification() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let mut request = wish(
        "public_chat",
        &json!([{ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }]),
    );
    request.name = Some("Mill".to_owned());
    request.topic = Some("grinding".to_owned());
    request.invite = vec![bob.user.clone()];
    request.room_alias_name = Some("mill".to_owned());
    let room = hub.create(&ana, request).await.unwrap();

    let log = hub
        .pages(&ana, &room, ruma::api::Direction::Forward, None, 50)
        .await;
    let kinds: Vec<_> = log
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "m.room.create",
            "m.room.member",
            "m.room.power_levels",
            "m.room.canonical_alias",
            "m.room.join_rules",
            "m.room.history_visibility",
            "m.room.guest_access",
            "m.room.encryption",
            "m.room.name",
            "m.room.topic",
            "m.room.member",
        ]
    );
    assert!(log.iter().all(|event| event["room_id"] == room.as_str()));
    let alias = OwnedRoomAliasId::try_from(format!("#mill:{SERVER}")).unwrap();
    let request = join_room_by_id_or_alias::v3::Request::new(alias.into());
    let joined = rooms::join_by_id_or_alias(&hub.hub, &bob.caller(), request).await;
    assert_eq!(joined.unwrap().room_id, room);
}

#[tokio::test]
async fn a_taken_alias_and_an_unknown_version_are_refused_by_name() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let mut first = wish("private_chat", &json!([]));
    first.room_alias_name = Some("mill".to_owned());
    hub.create(&ana, first.clone()).await.unwrap();
    let taken = hub.create(&ana, first).await.unwrap_err();
    assert_eq!((taken.code, taken.status), (Code::RoomInUse, 400));

    let mut odd = wish("private_chat", &json!([]));
    odd.room_version = Some("9".try_into().unwrap());
    let odd = hub.create(&ana, odd).await.unwrap_err();
    assert_eq!(odd.code, Code::UnsupportedRoomVersion);
}

#[tokio::test]
async fn a_room_that_cannot_be_made_leaves_its_alias_free() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let mut bad = wish(
        "private_chat",
        &json!([{ "type": "m.room.create", "content": {} }]),
    );
    bad.room_alias_name = Some("mill".to_owned());
    let refusal = hub.create(&ana, bad).await.unwrap_err();
    assert_eq!(refusal.code, Code::InvalidRoomState);
    let mut good = wish("private_chat", &json!([]));
    good.room_alias_name = Some("mill".to_owned());
    hub.create(&ana, good).await.unwrap();
}

#[tokio::test]
async fn every_version_makes_a_room_with_an_id_of_its_form() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    for version in ["10", "11", "12"] {
        let mut request = wish("private_chat", &json!([]));
        request.room_version = Some(version.try_into().unwrap());
        let room = hub.create(&ana, request).await.unwrap();
        let named = room.server_name().is_some();
        assert_eq!(named, version != "12", "{room}");
        hub.say(&ana, &room, "hello").await;
    }
}

#[tokio::test]
async fn rooms_wanted_alike_in_one_millisecond_are_different_rooms() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let caller = ana.caller();
    let want = || rooms::create_room(&hub.hub, &caller, wish("private_chat", &json!([])));
    let one = want().await.unwrap().room_id;
    let other = want().await.unwrap().room_id;
    assert_ne!(one, other);
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_and_sends_nothing() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let first = hub.say(&ana, &room, "once").await;
    let second = hub.say(&ana, &room, "once").await;
    assert_eq!(first, second);
    let other = hub.device(&ana.user, "TABLET").await;
    assert_ne!(hub.say(&other, &room, "once").await, first);
}

#[tokio::test]
async fn content_that_two_servers_could_read_differently_is_refused() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    for (txn, content) in [
        ("a", r#"{"n":1.5}"#),
        ("b", r#"{"k":1,"k":2}"#),
        ("c", r#"{"n":9007199254740993}"#),
    ] {
        let refusal = hub
            .send(&ana, &room, "m.test", txn, content)
            .await
            .unwrap_err();
        assert_eq!(
            (refusal.code, refusal.status),
            (Code::BadJson, 400),
            "{content}"
        );
    }
}

#[tokio::test]
async fn names_on_other_servers_are_refused_with_the_reason() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let alias = OwnedRoomAliasId::try_from("#mill:elsewhere.example").unwrap();
    let request = join_room_by_id_or_alias::v3::Request::new(alias.into());
    let refusal = rooms::join_by_id_or_alias(&hub.hub, &ana.caller(), request).await;
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
    assert!(
        refusal.message.contains("federation is off on this hub"),
        "{refusal}"
    );

    let far = OwnedUserId::try_from("@eve:elsewhere.example").unwrap();
    let recipient = invite_user::v3::InviteUserId::new(far).into();
    let request = invite_user::v3::Request::new(room, recipient);
    let refusal = rooms::invite(&hub.hub, &ana.caller(), request)
        .await
        .unwrap_err();
    assert_eq!((refusal.code, refusal.status), (Code::Forbidden, 403));
    assert!(
        refusal.message.contains("federation is off on this hub"),
        "{refusal}"
    );
}

#[tokio::test]
async fn outsiders_cannot_speak_and_members_without_power_cannot_ban() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[]).await;
    let refusal = hub
        .send(&bob, &room, "m.test", "t", "{}")
        .await
        .unwrap_err();
    assert_eq!((refusal.code, refusal.status), (Code::Forbidden, 403));
    hub.join(&bob, &room).await.unwrap();
    let refusal = hub.ban(&bob, &room, &ana).await.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
    hub.ban(&ana, &room, &bob).await.unwrap();
    assert_eq!(
        hub.join(&bob, &room).await.unwrap_err().code,
        Code::Forbidden
    );
}

#[tokio::test]
async fn a_join_shows_the_profile() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    hub.write(vec![crate::store::Write::Profile {
        user: ana.user.clone(),
        field: "displayname".to_owned(),
        json: Some("\"Ana\"".to_owned()),
    }])
    .await;
    let room = hub.public_room(&ana, &[]).await;
    hub.say(&ana, &room, "hi").await;
    let answer = hub.sync(&ana, None, json!({})).await;
    let section = &answer["rooms"]["join"][room.as_str()];
    let events = section["timeline"]["events"].as_array().unwrap();
    let member = events.iter().find(|event| event["type"] == "m.room.member");
    assert_eq!(member.unwrap()["content"]["displayname"], "Ana");
    assert_eq!(texts(&section["timeline"]["events"]), ["hi"]);
    assert!(next(&answer).starts_with('s'));
}
