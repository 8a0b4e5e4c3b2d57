//! Two hubs that speak over real TLS connections on loopback, under names that only they know.

mod answers;
mod events;
mod files;
mod notaries;
mod world;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use ruma::{CanonicalJsonObject, ServerName, server_name as name};
use serde_json::json;

use self::world::{Hub, Kept, World};
use super::{
    incoming::Arrived,
    keys::{Checked, EventError},
    outgoing::{Ask, AskError, ConnectError},
};
use crate::{
    api::{Code, Refusal},
    base::Timestamp,
    session::server_list::ServerList,
    wire::{
        json::{self, SignedText},
        matrix::{Glob, KeyId, PublicKey, Signed, Version, XMatrix},
    },
};

/// A request of `from` to `to`, as it arrives there.
async fn arrives(from: &Hub, to: &Hub, destination: &ServerName) -> Result<String, Refusal> {
    arrives_as(from, to, destination, b"{\"n\":0.5}").await
}

/// The same with another body, of which the canonical text is signed.
async fn arrives_as(
    from: &Hub,
    to: &Hub,
    destination: &ServerName,
    body: &[u8],
) -> Result<String, Refusal> {
    let content = SignedText::of_body(body).unwrap();
    let request = Signed {
        method: "PUT",
        uri: "/_matrix/federation/v1/send/1",
        content: Some(content.as_str()),
    };
    let header = XMatrix::sign(&from.key, destination, request).header();
    let arrived = Arrived {
        method: request.method,
        uri: request.uri,
        body,
    };
    let headers = [header.as_bytes()].into_iter();
    let known = to
        .federation
        .incoming
        .authenticate([127, 0, 0, 1].into(), arrived, headers)
        .await?;
    Ok(known.origin().to_string())
}

async fn two() -> (World, Hub, Hub) {
    let world = World::new();
    let a = world.hub("a.example").await;
    let b = world.hub("b.example:8449").await;
    (world, a, b)
}

#[tokio::test]
async fn a_request_of_another_server_is_authenticated_with_its_key() {
    let (_world, a, b) = two().await;

    let uri = "/_matrix/federation/v1/query/profile?user_id=%40ana%3Ab.example%3A8449";
    let outgoing = &a.federation.outgoing;
    let whole = outgoing.ask(b.name(), &Ask::get(uri)).await.unwrap();
    let field = Ask::get(format!("{uri}&field=avatar_url"));
    let field = outgoing.ask(b.name(), &field).await.unwrap();

    assert_eq!(&*whole.body, br#"{"displayname":"Ana"}"#);
    assert_eq!(&*field.body, b"{}");
    assert_eq!(b.fake.count(), 2);
    assert_eq!(arrives(&a, &b, b.name()).await.unwrap(), "a.example");
}

#[tokio::test]
async fn the_log_names_the_server_that_asks_and_says_which_was_not_verified() {
    use tracing::{Instrument as _, field::Empty};

    use crate::base::test_log::Log;

    let (_world, a, b) = two().await;
    let request = || tracing::error_span!("request", server = Empty, server_unverified = Empty);
    let logged = async |destination: &ServerName| {
        Log::begin();
        async {
            let _ = arrives(&a, &b, destination).await;
            tracing::info!("the request is done");
        }
        .instrument(request())
        .await;
        Log::text()
    };

    let verified = logged(b.name()).await;
    let for_another = logged(name!("c.example")).await;
    b.federation.lists.replace(deny("a.example"));
    let barred = logged(b.name()).await;

    let line = |log: &str| {
        log.lines()
            .find(|line| line.contains("the request is done"))
            .unwrap()
            .to_owned()
    };
    assert!(
        line(&verified).contains("request{server=\"a.example\"}"),
        "{verified}"
    );
    for log in [for_another, barred] {
        let line = line(&log);
        assert!(
            line.contains("request{server_unverified=\"a.example\"}"),
            "{log}"
        );
    }
}

fn deny(pattern: &str) -> ServerList {
    ServerList {
        allow: None,
        deny: vec![Glob::new(pattern)],
    }
}

#[tokio::test]
async fn a_body_may_be_written_in_another_way_than_it_was_signed() {
    let (_world, a, b) = two().await;

    for body in [
        &b"{\"b\": 1, \"a\": [0.50]}"[..],
        b" {\"a\":\"\\u00e9\"}\n",
        b"{}",
    ] {
        assert!(arrives_as(&a, &b, b.name(), body).await.is_ok());
    }
}

#[tokio::test]
async fn a_request_without_a_signature_is_refused_with_its_reason() {
    let (_world, a, b) = two().await;

    let uri = "/_matrix/federation/v1/query/profile?user_id=%40ana%3Ab.example%3A8449";
    let told = a
        .federation
        .outgoing
        .ask(b.name(), &Ask::get(uri).unsigned())
        .await;

    let refused = told.unwrap().object().unwrap_err();
    let AskError::Refused {
        status: 401,
        errcode,
        ..
    } = &refused
    else {
        panic!("{refused}")
    };
    assert_eq!(errcode, "M_UNAUTHORIZED");
    assert!(refused.is_sign_of_life());
    assert_eq!(b.fake.count(), 0);
}

#[tokio::test]
async fn who_sends_what_cannot_be_read_is_named_as_who_it_claims_to_be() {
    let (_world, a, b) = two().await;
    let request = |content| Signed {
        method: "PUT",
        uri: "/_matrix/federation/v1/send/1",
        content,
    };
    let header = XMatrix::sign(&a.key, b.name(), request(Some("{}"))).header();
    let arrived = Arrived {
        method: "PUT",
        uri: "/_matrix/federation/v1/send/1",
        body: br#"{"a":"#,
    };

    let headers = [header.as_bytes()].into_iter();
    let known = &b.federation.incoming;
    let refused = known.authenticate([127, 0, 0, 1].into(), arrived, headers);
    let refusal = refused.await.map(drop).unwrap_err();

    assert_eq!(refusal.code, Code::NotJson);
    let why = refusal.why.unwrap();
    assert_eq!(why.who.as_deref(), Some(a.name().as_str()));
    assert!(why.is_claimed);
}

#[tokio::test]
async fn a_request_for_another_server_is_refused() {
    let (_world, a, b) = two().await;

    let refusal = arrives(&a, &b, name!("c.example")).await.unwrap_err();

    assert_eq!((refusal.status, refusal.code), (401, Code::Unauthorized));
    assert!(refusal.message.contains("c.example"), "{refusal}");
}

#[tokio::test]
async fn a_key_that_its_server_does_not_have_is_refused() {
    let (world, a, b) = two().await;
    let mut posing = world.hub("a.example").await;
    posing.key = Arc::new(world.another_key("a.example"));
    let real = a; // what is at a.example now is the second one

    assert!(arrives(&posing, &b, b.name()).await.is_err());
    drop(real);
}

#[tokio::test]
async fn who_does_not_show_who_it_is_has_one_answer_whatever_is_wrong() {
    let world = World::new();
    let b = world.hub("b.example:8449").await;
    let sig = "A".repeat(86);
    let unknown = format!(r#"X-Matrix origin=nobody.example,key="ed25519:1",sig="{sig}""#);
    for (header, said) in [
        (None, "there is no Authorization header"),
        (Some("X-Matrix"), "`sig` is missing"),
        (Some("Bearer x"), "not of the scheme X-Matrix"),
        (Some("X-Matrix origin=a"), "`sig` is missing"),
        (Some(unknown.as_str()), "no key of nobody.example"),
    ] {
        let arrived = Arrived {
            method: "GET",
            uri: "/",
            body: b"",
        };
        let headers = header.into_iter().map(str::as_bytes);
        let incoming = &b.federation.incoming;
        let outcome = incoming
            .authenticate([127, 0, 0, 1].into(), arrived, headers)
            .await;
        let refusal = outcome.unwrap_err();
        assert_eq!((refusal.status, refusal.code), (401, Code::Unauthorized));
        assert!(refusal.message.contains(said), "{refusal}");
    }
}

#[tokio::test]
async fn what_came_of_asking_a_server_for_its_key_is_told_to_the_operator_only() {
    let world = World::new();
    let b = world.hub("b.example:8449").await;
    let a = world.hub("a.example").await;
    world.forget("a.example", 8448);

    let refusal = arrives(&a, &b, b.name()).await.unwrap_err();

    assert_eq!(refusal.status, 401);
    let told = &refusal.message;
    assert!(told.starts_with("no key of a.example: the key "), "{told}");
    assert!(!told.contains("has no address"), "{told}");
    let why = refusal.why.unwrap();
    assert_eq!(why.code, Some("SIGNATURE_KEY"));
    let rule = why.rule.unwrap();
    assert!(rule.contains("a.example has no address"), "{rule}");
}

#[tokio::test]
async fn a_server_on_the_lists_is_refused_and_not_asked() {
    let (world, a, b) = two().await;
    b.federation.lists.replace(ServerList {
        allow: None,
        deny: vec![Glob::new("a.*")],
    });
    let before = world.connections();

    let refusal = arrives(&a, &b, b.name()).await.unwrap_err();
    let asked = b.federation.outgoing.ask(a.name(), &Ask::get("/")).await;

    assert_eq!((refusal.status, refusal.code), (403, Code::Forbidden));
    assert!(matches!(asked, Err(AskError::Unwelcome { .. })));
    assert_eq!(world.connections(), before);
    b.federation.lists.replace(ServerList::default());
    assert!(arrives(&a, &b, b.name()).await.is_ok());
}

#[tokio::test]
async fn a_hundred_requests_of_a_server_fetch_its_keys_once() {
    let (world, a, b) = two().await;
    let before = world.connections();

    let all = join_all((0..100).map(|_| arrives(&a, &b, b.name()))).await;

    assert!(all.iter().all(Result::is_ok));
    assert_eq!(world.connections() - before, 1);
}

#[tokio::test]
async fn a_pinned_key_counts_and_no_other() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let key = PublicKey(a.key.public());
    let id = a.key.key_id();
    let pinned = |key| [(a.name().to_owned(), [(id.clone(), key)].into())].into();
    let right = world.pinning("b.example:8449", pinned(key)).await;
    let wrong = world
        .pinning("c.example:8449", pinned(PublicKey([3; 32])))
        .await;
    let before = world.connections();

    assert!(arrives(&a, &right, right.name()).await.is_ok());
    assert!(arrives(&a, &wrong, wrong.name()).await.is_err());
    assert_eq!(world.connections(), before);
}

#[tokio::test]
async fn keys_that_were_kept_count_after_a_restart_though_their_server_is_gone() {
    let world = World::new();
    let kept = Arc::new(Kept::default());
    let a = world.hub("a.example").await;
    let b = world.keeping("b.example:8449", &kept).await;
    arrives(&a, &b, b.name()).await.unwrap();
    drop(b);
    world.forget("a.example", 8448);
    let again = world.keeping("b.example:8449", &kept).await;

    assert!(arrives(&a, &again, again.name()).await.is_ok());
    assert!(
        again
            .federation
            .keys
            .vouched(a.name(), None)
            .await
            .is_some()
    );
    world.pass(Duration::from_hours(25)); // past what its server said
    assert!(arrives(&a, &again, again.name()).await.is_err());
    let (id, before) = (a.key.key_id(), Timestamp(world.now().0 - 90_000_000));
    let ring = &again.federation.keys;
    assert!(ring.for_event(a.name(), &id, before).await.is_ok());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (world, a, b) = two().await;
    world.lead("c.example", 8448, b.address);

    let error = a
        .federation
        .outgoing
        .ask(name!("c.example"), &Ask::get("/"))
        .await;

    let error = error.unwrap_err();
    assert!(
        matches!(error, AskError::Connect(ConnectError::Tls { .. })),
        "{error}"
    );
    assert!(!error.is_sign_of_life());
}

#[tokio::test]
async fn private_addresses_are_refused_after_their_names_were_looked_up() {
    let world = World::new();
    let _b = world.hub("b.example:8449").await;
    let a = world.public_only("a.example").await;

    for server in [
        name!("b.example:8449"),
        name!("127.0.0.1:8449"),
        name!("[::1]"),
    ] {
        let error = a
            .federation
            .outgoing
            .ask(server, &Ask::get("/"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, AskError::Connect(ConnectError::Private { .. })),
            "{error}"
        );
    }
}

#[tokio::test]
async fn keys_that_are_held_are_vouched_for_and_others_are_not_fetched() {
    let (world, a, b) = two().await;
    let c = world.hub("c.example").await;
    arrives(&a, &b, b.name()).await.unwrap();
    let before = world.connections();
    let ring = &b.federation.keys;

    let answer = b.federation.incoming.query("a.example", "").await.unwrap();
    let none = b.federation.incoming.query("c.example", "").await.unwrap();
    let far = "minimum_valid_until_ts=9999999999999";
    let late = b.federation.incoming.query("a.example", far).await.unwrap();
    let many = json!({"server_keys": {"a.example": {}, "c.example": {}, "no name": {}, b.name().as_str(): {}}});
    let many = b
        .federation
        .incoming
        .query_many(many.to_string().as_bytes())
        .await
        .unwrap();

    assert_eq!(world.connections(), before);
    let vouched: CanonicalJsonObject =
        serde_json::from_value(answer["server_keys"][0].clone()).unwrap();
    for (hub, entity) in [(&a, a.name()), (&b, b.name())] {
        let key = PublicKey(hub.key.public());
        key.verify_object(&vouched, entity.as_str(), &hub.key.key_id())
            .unwrap();
    }
    assert_eq!(none, json!({"server_keys": []}));
    assert_eq!(late, json!({"server_keys": []}));
    assert_eq!(many["server_keys"].as_array().unwrap().len(), 2);
    assert!(ring.vouched(c.name(), None).await.is_none());
}

/// An event of `hub`'s user, with its hash and signature.
fn event(hub: &Hub, at: Timestamp) -> CanonicalJsonObject {
    let event = json!({
        "type": "m.room.message",
        "sender": format!("@ana:{}", hub.name()),
        "room_id": "!room:a.example",
        "origin_server_ts": at.0,
        "depth": 1,
        "prev_events": [],
        "auth_events": [],
        "content": {"body": "hello"},
    });
    let mut event: CanonicalJsonObject = serde_json::from_value(event).unwrap();
    let rules = &Version::V11.rules().redaction;
    ruma::signatures::hash_and_sign_event(hub.name().as_str(), hub.key.pair(), &mut event, rules)
        .unwrap();
    event
}

#[tokio::test]
async fn an_event_is_checked_with_the_key_of_its_time() {
    let (world, a, b) = two().await;
    let ring = &b.federation.keys;
    let good = event(&a, world.now());

    assert_eq!(
        ring.check_event(&good, Version::V11).await.unwrap(),
        Checked::Whole
    );

    let mut changed = good.clone();
    changed.insert(
        "content".to_owned(),
        serde_json::from_value(json!({"body": "bye"})).unwrap(),
    );
    assert_eq!(
        ring.check_event(&changed, Version::V11).await.unwrap(),
        Checked::Changed
    );
    let mut forged = good.clone();
    forged.insert(
        "depth".to_owned(),
        serde_json::from_value(json!(2)).unwrap(),
    );
    let forged = ring.check_event(&forged, Version::V11).await;
    assert!(matches!(forged, Err(EventError::Forged(_))));
    let mut unsigned = good;
    unsigned.insert(
        "signatures".to_owned(),
        serde_json::from_value(json!({})).unwrap(),
    );
    let unsigned = ring.check_event(&unsigned, Version::V11).await;
    assert!(matches!(unsigned, Err(EventError::Unsigned { .. })));
    let ahead = event(&a, world.now() + Duration::from_hours(24 * 8));
    let ahead = ring.check_event(&ahead, Version::V11).await;
    assert!(matches!(ahead, Err(EventError::Key(_))));
}

#[tokio::test]
async fn an_event_past_the_known_end_of_a_key_makes_us_ask_again() {
    let (world, a, b) = two().await;
    let id: KeyId = a.key.key_id();
    let ring = &b.federation.keys;
    ring.for_event(a.name(), &id, world.now()).await.unwrap();
    world.pass(Duration::from_hours(30)); // its answer was valid for a day
    let before = world.connections();

    ring.for_event(a.name(), &id, world.now()).await.unwrap();
    ring.for_request(a.name(), &id).await.unwrap();

    assert_eq!(world.connections() - before, 1);
}

#[tokio::test]
async fn our_own_answer_is_read_by_others_through_the_door() {
    let (_world, a, b) = two().await;
    let get = async |uri: &str| {
        let ask = Ask::get(uri).unsigned();
        let told = a.federation.outgoing.ask(b.name(), &ask).await.unwrap();
        (told.status, json::read_lax(&told.body).unwrap())
    };

    let (_, keys) = get("/_matrix/key/v2/server").await;
    let (_, queried) = get("/_matrix/key/v2/query/b.example%3A8449").await;
    let (_, version) = get("/_matrix/federation/v1/version").await;
    let (unknown, body) = get("/_matrix/federation/v1/no_join/a/b").await;
    let (wrong_method, _) = get("/_matrix/key/v2/query").await;
    let (slash, told) = get("/_matrix/federation/v1/version/").await;

    assert_eq!(keys["server_name"], "b.example:8449");
    assert_eq!(
        queried["server_keys"][0]["verify_keys"],
        keys["verify_keys"]
    );
    assert_eq!(version["server"]["name"], "Tramline");
    assert_eq!(
        (unknown, body["errcode"].as_str()),
        (404, Some("M_UNRECOGNIZED"))
    );
    assert_eq!(wrong_method, 405);
    assert_eq!((slash, told), (404, body));
}
