//! Who sees whom, and who is woken.

use std::sync::atomic::{AtomicUsize, Ordering};

use ruma::api::client::{message::send_message_event, sync::sync_events::v3 as syncing};
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Beside, Command, Deliver, DeviceName, Reply},
    base::Position,
    hub::{
        Settings,
        desk::rooms::testing::{body, next},
        testing::{self, Person, TestHub, ask},
    },
};

async fn hub() -> TestHub {
    let settings = Settings {
        presence: true,
        ..Settings::default()
    };
    testing::hub_with(settings).await
}

async fn says(
    hub: &TestHub,
    who: &Person,
    state: PresenceState,
    status: Option<&str>,
) -> Result<(), Refusal> {
    let mut request = set_presence::v3::Request::new(who.user.clone(), state);
    request.status_msg = status.map(ToOwned::to_owned);
    ask!(hub, who.origin, SetPresence(request)).map(drop)
}

async fn asks(hub: &TestHub, who: &Person, whom: &UserId) -> Result<(String, Value), Refusal> {
    let request = get_presence::v3::Request::new(whom.to_owned());
    let told = ask!(hub, who.origin, Presence(request))?;
    Ok((told.presence.to_string(), json!(told.status_msg)))
}

/// A sync of one who does not want to be seen.
async fn peeks(hub: &TestHub, who: &Person, since: Option<&str>) -> Value {
    let mut request = syncing::Request::new();
    request.since = since.map(ToOwned::to_owned);
    request.set_presence = PresenceState::Offline;
    body(ask!(hub, who.origin, Sync(request)).unwrap())
}

/// Who is told of in a sync, and how they are.
fn told(answer: &Value) -> Vec<(String, String)> {
    let events = answer["presence"]["events"].as_array();
    let events = events.into_iter().flatten();
    events
        .map(|event| {
            assert_eq!(event["type"], "m.presence");
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&event["sender"]), text(&event["content"]["presence"]))
        })
        .collect()
}

fn is(who: &Person, state: &str) -> (String, String) {
    (who.user.to_string(), state.to_owned())
}

#[tokio::test]
async fn who_shares_a_room_sees_who_is_there_and_nobody_else_does() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let eve = hub.account("eve").await;
    hub.public_room(&ana, &[&bob]).await;
    let (before, evens) = (peeks(&hub, &bob, None).await, peeks(&hub, &eve, None).await);
    assert_eq!(told(&before), []);
    assert_eq!(asks(&hub, &bob, &ana.user).await.unwrap().0, "offline");

    says(&hub, &ana, PresenceState::Unavailable, Some("lunch"))
        .await
        .unwrap();

    let answer = peeks(&hub, &bob, Some(&next(&before))).await;
    assert_eq!(told(&answer), [is(&ana, "unavailable")]);
    let content = &answer["presence"]["events"][0]["content"];
    assert_eq!(content["status_msg"], "lunch");
    assert_eq!(content["currently_active"], false);
    assert_eq!(content["last_active_ago"], 0);
    assert_eq!(told(&peeks(&hub, &bob, Some(&next(&answer))).await), []);
    assert_eq!(
        told(&peeks(&hub, &bob, None).await),
        [is(&ana, "unavailable")]
    );
    let lunch = ("unavailable".to_owned(), json!("lunch"));
    assert_eq!(asks(&hub, &bob, &ana.user).await.unwrap(), lunch);
    assert_eq!(asks(&hub, &ana, &ana.user).await.unwrap(), lunch);

    assert_eq!(told(&peeks(&hub, &eve, Some(&next(&evens))).await), []);
    assert_eq!(told(&peeks(&hub, &eve, None).await), []);
    let refusal = asks(&hub, &eve, &ana.user).await.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
}

#[tokio::test]
async fn a_sync_makes_online_and_its_end_offline_after_a_while() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    hub.public_room(&ana, &[&bob]).await;
    let since = next(&peeks(&hub, &bob, None).await);
    let own = hub.sync(&ana, None, json!({})).await;
    assert_eq!(told(&own), [is(&ana, "online")]);
    let answer = peeks(&hub, &bob, Some(&since)).await;
    assert_eq!(told(&answer), [is(&ana, "online")]);

    hub.clock.advance(GRACE_AND_MORE);
    look(&hub.hub).await;
    let answer = peeks(&hub, &bob, Some(&next(&answer))).await;
    assert_eq!(told(&answer), [is(&ana, "offline")]);
}

const GRACE_AND_MORE: Duration = Duration::from_secs(31);

#[tokio::test]
async fn a_change_wakes_those_who_share_a_room_and_nobody_else() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let eve = hub.account("eve").await;
    hub.public_room(&ana, &[&bob]).await;
    let since = next(&hub.sync(&bob, None, json!({})).await);
    let mut eves = hub.hub.fanout.listen(&eve.user);

    let wait = hub.sync_waiting(&bob, Some(&since), json!({}), 60_000);
    let (answer, set) = tokio::join!(wait, says(&hub, &ana, PresenceState::Online, None));
    set.unwrap();

    assert_eq!(told(&answer), [is(&ana, "online")]);
    tokio::select! {
        biased;
        _ = eves.woken() => panic!("eve shares no room with ana"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn who_changes_all_the_time_wakes_the_others_now_and_then_only() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    hub.public_room(&ana, &[&bob]).await;
    let since = next(&peeks(&hub, &bob, None).await);
    let mut woken = 0;
    let mut bobs = hub.hub.fanout.listen(&bob.user);
    for turn in 0..30 {
        says(&hub, &ana, PresenceState::Online, Some(&turn.to_string()))
            .await
            .unwrap();
        tokio::select! {
            biased;
            _ = bobs.woken() => woken += 1,
            () = std::future::ready(()) => {}
        }
    }
    assert_eq!(woken, 10);
    let answer = peeks(&hub, &bob, Some(&since)).await;
    assert_eq!(
        answer["presence"]["events"][0]["content"]["status_msg"],
        "29"
    );
}

#[tokio::test]
async fn filters_choose_whose_presence_is_told_and_how_many() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let cyd = hub.account("cyd").await;
    hub.public_room(&ana, &[&bob, &cyd]).await;
    for who in [&ana, &bob] {
        says(&hub, who, PresenceState::Online, None).await.unwrap();
    }
    let ask = async |filter: Value| {
        let filter = json!({ "presence": filter });
        let mut request = syncing::Request::new();
        let filter: ruma::api::client::filter::FilterDefinition =
            serde_json::from_value(filter).unwrap();
        request.filter = Some(filter.into());
        request.set_presence = PresenceState::Offline;
        let answer = body(ask!(hub, cyd.origin, Sync(request)).unwrap());
        let told = told(&answer).into_iter();
        told.map(|(user, _)| user).collect::<Vec<_>>()
    };
    let (a, b) = (ana.user.as_str(), bob.user.as_str());
    assert_eq!(ask(json!({})).await, [a, b]);
    assert_eq!(ask(json!({ "types": ["m.*"] })).await, [a, b]);
    assert!(ask(json!({ "types": [] })).await.is_empty());
    assert!(ask(json!({ "not_types": ["m.presence"] })).await.is_empty());
    assert_eq!(ask(json!({ "not_senders": [a] })).await, [b]);
    assert_eq!(ask(json!({ "senders": [a] })).await, [a]);
    assert_eq!(ask(json!({ "limit": 1 })).await, [b], "who changed last");
}

#[tokio::test]
async fn who_joins_learns_who_is_there_and_is_seen() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[]).await;
    for who in [&ana, &bob] {
        says(&hub, who, PresenceState::Online, None).await.unwrap();
    }
    let anas = next(&peeks(&hub, &ana, None).await);
    let bobs = next(&peeks(&hub, &bob, None).await);

    let join = ruma::api::client::membership::join_room_by_id::v3::Request::new(room);
    ask!(hub, bob.origin, Join(join)).unwrap();

    let answer = peeks(&hub, &bob, Some(&bobs)).await;
    assert!(told(&answer).contains(&is(&ana, "online")), "{answer}");
    let answer = peeks(&hub, &ana, Some(&anas)).await;
    assert_eq!(told(&answer), [is(&bob, "online")]);
}

#[tokio::test]
async fn a_status_that_is_too_long_and_a_state_nobody_knows_are_refused() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let long = "x".repeat(513);
    let refusal = says(&hub, &ana, PresenceState::Online, Some(&long)).await;
    assert_eq!(refusal.unwrap_err().code, Code::TooLarge);
    let refusal = says(&hub, &ana, "busy".into(), None).await;
    assert_eq!(refusal.unwrap_err().code, Code::InvalidParam);
    let fits = "x".repeat(512);
    says(&hub, &ana, PresenceState::Online, Some(&fits))
        .await
        .unwrap();
    assert_eq!(asks(&hub, &ana, &ana.user).await.unwrap().1, json!(fits));
}

/// Counts what a door that pushes is told beside the logs.
#[derive(Default)]
struct Pushes(AtomicUsize);

impl Deliver for Pushes {
    fn news(&self, _: Position, _: &mut dyn Iterator<Item = &UserId>) {}

    fn news_for_all(&self, _: Position) {}

    fn beside(&self, _: Beside, _: &mut dyn Iterator<Item = &UserId>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn revoked(&self, _: &DeviceName) {}
}

#[tokio::test]
async fn a_thin_link_is_told_nothing_of_it_and_shows_nothing_by_what_is_done_there() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    let pushes = Arc::new(Pushes::default());
    hub.hub
        .fanout
        .tell(&(Arc::clone(&pushes) as Arc<dyn Deliver>));
    says(&hub, &bob, PresenceState::Online, None).await.unwrap();
    let version = hub.hub.desk.typing.version();

    for door in [
        Door::Coap,
        Door::Oscore,
        Door::Coaps,
        Door::Quic,
        Door::WebSocket,
    ] {
        let origin = crate::api::Origin {
            door,
            ..ana.origin.clone()
        };
        let answer = body(ask!(hub, origin, Sync(syncing::Request::new())).unwrap());
        assert_eq!(answer.get("presence"), None, "{door:?}");
        let state = PresenceState::Online;
        let set = set_presence::v3::Request::new(ana.user.clone(), state);
        ask!(hub, origin, SetPresence(set)).unwrap();
        let text = ruma::serde::Raw::from_json_string("{}".to_owned()).unwrap();
        let said = send_message_event::v3::Request::new_raw(
            room.clone(),
            door.as_str().into(),
            "m.room.message".into(),
            text,
        );
        ask!(hub, origin, Send(said)).unwrap();
    }

    assert_eq!(asks(&hub, &bob, &ana.user).await.unwrap().0, "offline");
    assert_eq!(hub.hub.desk.typing.version(), version, "nothing changed");
    assert_eq!(pushes.0.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn where_presence_is_off_nothing_is_kept_counted_or_told() {
    let hub = testing::hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    hub.public_room(&ana, &[&bob]).await;
    says(&hub, &ana, PresenceState::Online, Some("here"))
        .await
        .unwrap();
    let answer = hub.sync(&bob, None, json!({})).await;
    assert_eq!(answer.get("presence"), None);
    assert!(next(&answer).ends_with("_0"), "{}", next(&answer));
    assert_eq!(
        asks(&hub, &bob, &ana.user).await.unwrap(),
        ("offline".to_owned(), Value::Null)
    );
    assert!(hub.hub.desk.presences.is_none());
    let reply = hub
        .ask(
            &bob.origin,
            Command::Sync(Box::new(syncing::Request::new())),
        )
        .await;
    assert!(matches!(reply, Ok(Reply::Sync(_))));
}
