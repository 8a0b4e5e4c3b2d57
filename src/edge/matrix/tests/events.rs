//! Other servers as the hub sees them: what it asks, and what it believes of what they sent.

use std::time::Duration;

use ruma::{
    CanonicalJsonObject,
    api::federation::{membership::prepare_join_event, query::get_profile_information},
    owned_user_id, server_name as name,
};
use serde_json::json;

use super::{event, two, world::Hub};
use crate::{
    api::{PeerCommand, PeerReply, Remote as _, RemoteError, Unverified},
    session::server_list::ServerList,
    wire::{
        json as wire_json,
        matrix::{Glob, Version},
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

fn text(event: &CanonicalJsonObject) -> String {
    wire_json::canonical(event)
}

fn with(event: &CanonicalJsonObject, key: &str, value: serde_json::Value) -> String {
    let mut changed = event.clone();
    changed.insert(key.to_owned(), serde_json::from_value(value).unwrap());
    text(&changed)
}

async fn verified(hub: &Hub, json: &str) -> Result<String, Unverified> {
    let one = hub.federation.verified(json, Version::V11).await;
    let many = hub
        .federation
        .verified_many(&[json, json], Version::V11)
        .await;
    let told = |result: Result<crate::wire::matrix::Pdu, Unverified>| {
        result.map(|pdu| pdu.json().to_string())
    };
    let (one, many) = (told(one), told(many.into_iter().next().unwrap()));
    match (&one, &many) {
        (Ok(one), Ok(many)) => assert_eq!(one, many),
        (Err(Unverified::Wrong(_)), Err(Unverified::Wrong(_)))
        | (Err(Unverified::Form(_)), Err(Unverified::Form(_)))
        | (Err(Unverified::NoKey { .. }), Err(Unverified::NoKey { .. })) => {}
        _ => panic!("{one:?}, and among many {many:?}"),
    }
    one
}

#[tokio::test]
async fn a_question_of_the_hub_goes_out_signed_and_its_answer_comes_back() {
    let (_world, a, b) = two().await;
    let ana = owned_user_id!("@ana:b.example:8449");
    let asked = get_profile_information::v1::Request::new(ana.clone());
    let command = PeerCommand::PeerProfile(Box::new(asked));

    let reply = a.federation.ask(b.name(), command, PATIENCE).await;

    let Ok(PeerReply::PeerProfile(profile)) = reply else {
        panic!("{:?}", reply.err())
    };
    assert_eq!(profile.get("displayname").unwrap(), "Ana");
    let origin = b.fake.last_origin();
    assert_eq!(
        origin.credentials,
        crate::api::Credentials::Server(a.name().to_owned())
    );
    let room = ruma::owned_room_id!("!room:b.example");
    let asked = prepare_join_event::v1::Request::new(room, ana);
    let command = PeerCommand::MakeJoin(Box::new(asked));
    let refused = a.federation.ask(b.name(), command.clone(), PATIENCE).await;
    let Err(RemoteError::Refused { status, code, .. }) = refused else {
        panic!("{:?}", refused.err())
    };
    assert_eq!((status, &*code), (403, "M_FORBIDDEN"));
    let gone = a
        .federation
        .ask(name!("c.example"), command.clone(), PATIENCE);
    assert!(matches!(
        gone.await,
        Err(RemoteError::Unconnected {
            code: "PEER_DNS",
            ..
        })
    ));
    a.federation.lists.replace(ServerList {
        allow: None,
        deny: vec![Glob::new("b.*")],
    });
    let denied = a.federation.ask(b.name(), command, PATIENCE).await;
    assert!(matches!(denied, Err(RemoteError::NotAllowed { .. })));
}

#[tokio::test]
async fn an_event_that_was_changed_loses_what_redaction_removes() {
    let (world, a, b) = two().await;
    let good = event(&a, world.now());

    assert_eq!(verified(&b, &text(&good)).await.unwrap(), text(&good));
    let changed = with(&good, "content", json!({"body": "bye"}));
    let left = verified(&b, &changed).await.unwrap();
    assert!(left.contains("\"content\":{}"), "{left}");
    let added = with(&good, "room_name", json!("x"));
    let left = verified(&b, &added).await.unwrap();
    assert!(!left.contains("room_name"), "{left}");
}

#[tokio::test]
async fn an_event_that_is_not_to_be_believed_is_wrong_or_has_no_key() {
    let (world, a, b) = two().await;
    let good = event(&a, world.now());
    let twice = text(&good).replace("{\"auth_events\"", "{\"depth\":1,\"auth_events\"");

    for wrong in [
        with(&good, "depth", json!(2)),
        with(&good, "signatures", json!({})),
    ] {
        let verdict = verified(&b, &wrong).await;
        assert!(matches!(verdict, Err(Unverified::Wrong(_))), "{wrong}");
    }
    for wrong in [
        with(&good, "type", json!("x".repeat(256))),
        with(&good, "content", json!({"body": "x".repeat(65_536)})),
        twice,
        "[]".to_owned(),
        String::new(),
    ] {
        let verdict = verified(&b, &wrong).await;
        assert!(matches!(verdict, Err(Unverified::Form(_))), "{wrong}");
    }
    world.forget("a.example", 8448);
    world.pass(Duration::from_hours(24 * 9));
    let later = event(&a, world.now());
    let verdict = verified(&b, &text(&later)).await;
    let Err(Unverified::NoKey { told, whole }) = verdict else {
        panic!("{verdict:?}")
    };
    assert!(told.starts_with("no key of a.example: "), "{told}");
    assert!(!told.contains("has no address"), "{told}");
    assert!(whole.contains("a.example has no address"), "{whole}");
}

#[tokio::test]
async fn many_events_keep_their_order_and_fetch_each_servers_keys_once() {
    let (world, a, b) = two().await;
    let c = world.hub("c.example").await;
    let before = world.connections();
    let mut texts = Vec::new();
    for number in 0..300_u64 {
        let from = if number % 2 == 0 { &a } else { &c };
        let good = event(from, crate::base::Timestamp(world.now().0 + number));
        texts.push(match number % 10 {
            9 => with(&good, "depth", json!(2)),
            _ => text(&good),
        });
    }
    let all: Vec<&str> = texts.iter().map(String::as_str).collect();

    let verdicts = b.federation.verified_many(&all, Version::V11).await;

    assert_eq!(verdicts.len(), all.len());
    for (number, (verdict, json)) in verdicts.iter().zip(&all).enumerate() {
        match verdict {
            Ok(pdu) => assert_eq!((&**pdu.json(), number % 10 == 9), (*json, false)),
            Err(why) => assert!(number % 10 == 9, "{number}: {why}"),
        }
    }
    assert_eq!(world.connections() - before, 2);
}
