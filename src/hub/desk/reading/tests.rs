//! Who may read what, for every membership, visibility and moment; and how pages run.

use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        Direction,
        client::{
            context,
            directory::{get_public_rooms, get_room_visibility, set_room_visibility},
            membership,
            read_marker::set_read_marker,
            receipt::create_receipt,
            room::{self, Visibility},
            state,
        },
    },
};
use serde_json::{Value, json};

use crate::{
    api::Refusal,
    hub::{
        desk::{
            reading,
            rooms::testing::{body, ids, texts, wish},
        },
        testing::{Person, TestHub, ask, hub},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Never,
    Invited,
    Joined,
    Left,
    Banned,
    Knocked,
    Kicked,
}

impl Is {
    const ALL: [Self; 7] = [
        Self::Never,
        Self::Invited,
        Self::Joined,
        Self::Left,
        Self::Banned,
        Self::Knocked,
        Self::Kicked,
    ];

    fn was_joined(self) -> bool {
        !matches!(self, Self::Never | Self::Invited | Self::Knocked)
    }

    /// Whether an event is seen: sent before the reader had anything to do with the room, while
    /// they were in it, or at the end.
    fn sees(self, visibility: &str) -> [bool; 3] {
        let open = visibility == "world_readable";
        [
            open || (visibility == "shared" && self.was_joined()),
            open || self.was_joined(),
            open || self == Self::Joined || (visibility == "invited" && self == Self::Invited),
        ]
    }
}

struct Scene {
    room: OwnedRoomId,
    reader: Person,
    /// Before, between and after; without anything between for who was never in.
    events: [Option<OwnedEventId>; 3],
}

async fn scene(hub: &TestHub, ana: &Person, reader: Person, is: Is, visibility: &str) -> Scene {
    let state = json!([
        { "type": "m.room.history_visibility", "content": { "history_visibility": visibility } },
        { "type": "m.room.join_rules", "content": { "join_rule": "knock" } },
        { "type": "m.room.name", "content": { "name": "before" } },
    ]);
    let room = hub.create(ana, wish("private_chat", &state)).await.unwrap();
    let before = hub.say(ana, &room, "before").await;
    let mut between = None;
    match is {
        Is::Never => {}
        Is::Knocked => hub.knock(&reader, &room).await.unwrap(),
        _ => hub.invite(ana, &room, &reader).await.unwrap(),
    }
    if is.was_joined() {
        hub.join(&reader, &room).await.unwrap();
        between = Some(hub.say(&reader, &room, "between").await);
    }
    match is {
        Is::Left => hub.leave(&reader, &room).await.unwrap(),
        Is::Banned => hub.ban(ana, &room, &reader).await.unwrap(),
        Is::Kicked => hub.kick(ana, &room, &reader).await.unwrap(),
        _ => {}
    }
    let name = json!({ "name": "after" });
    hub.set(ana, &room, ("m.room.name", ""), name)
        .await
        .unwrap();
    let after = hub.say(ana, &room, "after").await;
    Scene {
        room,
        reader,
        events: [Some(before), between, Some(after)],
    }
}

fn status(result: &Result<Value, Refusal>) -> u16 {
    result.as_ref().err().map_or(200, |refusal| refusal.status)
}

#[tokio::test]
async fn everyone_reads_what_the_visibility_gives_them_and_no_more() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    for is in Is::ALL {
        let reader = hub.account(&format!("{is:?}").to_lowercase()).await;
        for visibility in ["world_readable", "shared", "invited", "joined"] {
            let scene = scene(&hub, &ana, reader.clone(), is, visibility).await;
            reads_events(&hub, &scene, is, visibility).await;
            reads_pages(&hub, &scene, is, visibility).await;
            reads_state(&hub, &scene, is, visibility).await;
        }
    }
}

async fn reads_events(hub: &TestHub, scene: &Scene, is: Is, visibility: &str) {
    let case = format!("{is:?} {visibility}");
    for (event, sees) in scene.events.iter().zip(is.sees(visibility)) {
        let Some(event) = event else { continue };
        let expected = if sees { 200 } else { 404 };
        let found = hub.event(&scene.reader, &scene.room, event).await;
        assert_eq!(status(&found), expected, "event: {case}");
        let request = context::get_context::v3::Request::new(scene.room.clone(), event.clone());
        let around = reading::context(&hub.hub, &scene.reader.caller(), request).await;
        let around = around.map(body);
        assert_eq!(status(&around), expected, "context: {case}");
    }
}

async fn reads_pages(hub: &TestHub, scene: &Scene, is: Is, visibility: &str) {
    let case = format!("{is:?} {visibility}");
    let open = visibility == "world_readable";
    let page = hub.back(&scene.reader, &scene.room, None, 100).await;
    if !open && !is.was_joined() {
        assert_eq!(status(&page), 403, "messages: {case}");
        return;
    }
    let mut expected: Vec<&str> = ["before", "between", "after"]
        .into_iter()
        .zip(&scene.events)
        .zip(is.sees(visibility))
        .filter(|((_, event), sees)| *sees && event.is_some())
        .map(|((text, _), _)| text)
        .collect();
    let forward = hub
        .pages(&scene.reader, &scene.room, Direction::Forward, None, 3)
        .await;
    assert_eq!(texts(&forward.into()), expected, "forward: {case}");
    expected.reverse();
    assert_eq!(texts(&page.unwrap()["chunk"]), expected, "backward: {case}");
    let backward = hub
        .pages(&scene.reader, &scene.room, Direction::Backward, None, 2)
        .await;
    assert_eq!(texts(&backward.into()), expected, "by twos: {case}");
}

async fn reads_state(hub: &TestHub, scene: &Scene, is: Is, visibility: &str) {
    let case = format!("{is:?} {visibility}");
    let open = visibility == "world_readable";
    let caller = scene.reader.caller();
    let room = || scene.room.clone();
    let expected = match is {
        _ if open => Some("after"),
        Is::Joined => Some("after"),
        Is::Left | Is::Banned | Is::Kicked => Some("before"),
        _ => None,
    };
    let code = if expected.is_some() { 200 } else { 403 };

    let request = state::get_state_events::v3::Request::new(room());
    let all = reading::state(&hub.hub, &caller, request).await.map(body);
    assert_eq!(status(&all), code, "state: {case}");
    let name = state::get_state_event_for_key::v3::Request::new(
        room(),
        "m.room.name".into(),
        String::new(),
    );
    let name = reading::state_for_key(&hub.hub, &caller, name)
        .await
        .map(body);
    assert_eq!(status(&name), code, "state for key: {case}");
    let request = membership::get_member_events::v3::Request::new(room());
    let members = reading::members(&hub.hub, &caller, request).await.map(body);
    assert_eq!(status(&members), code, "members: {case}");
    if let Some(expected) = expected {
        let all = all.unwrap();
        let found = all.as_array().unwrap().iter();
        let mut found = found.filter(|event| event["type"] == "m.room.name");
        assert_eq!(found.next().unwrap()["content"]["name"], expected, "{case}");
        assert_eq!(name.unwrap()["name"], expected, "{case}");
    }

    let code = if is == Is::Joined { 200 } else { 403 };
    let request = membership::joined_members::v3::Request::new(room());
    let joined = reading::joined_members(&hub.hub, &caller, request)
        .await
        .map(body);
    assert_eq!(status(&joined), code, "joined members: {case}");
    let code = if open || is == Is::Joined { 200 } else { 403 };
    let request = room::aliases::v3::Request::new(room());
    let aliases = reading::room_aliases(&hub.hub, &caller, request)
        .await
        .map(body);
    assert_eq!(status(&aliases), code, "aliases: {case}");
    reads_directory(hub, scene, is, &case).await;
}

/// Whether the room can be found is for members; that it is there at all, too.
async fn reads_directory(hub: &TestHub, scene: &Scene, is: Is, case: &str) {
    let joined = is == Is::Joined;
    let asked = get_room_visibility::v3::Request::new(scene.room.clone());
    let told = ask!(hub, scene.reader.origin, RoomVisibility(asked)).map(body);
    assert_eq!(
        status(&told),
        if joined { 200 } else { 404 },
        "visibility: {case}"
    );
    let asked = set_room_visibility::v3::Request::new(scene.room.clone(), Visibility::Public);
    let done = ask!(hub, scene.reader.origin, SetRoomVisibility(asked)).map(body);
    assert_eq!(status(&done), 403, "set visibility: {case}");
    let rooms = get_public_rooms::v3::Request::new();
    let rooms = ask!(hub, scene.reader.origin, PublicRooms(rooms)).map(body);
    assert_eq!(rooms.unwrap()["chunk"], json!([]), "rooms: {case}");
    let event = scene.events[0].clone().unwrap();
    let mut marks = set_read_marker::v3::Request::new(scene.room.clone());
    marks.fully_read = Some(event.clone());
    let marked = ask!(hub, scene.reader.origin, ReadMarkers(marks)).map(body);
    assert_eq!(
        status(&marked),
        if joined { 200 } else { 403 },
        "markers: {case}"
    );
    let receipt = create_receipt::v3::Request::new(scene.room.clone(), "m.read".into(), event);
    let sent = ask!(hub, scene.reader.origin, Receipt(receipt)).map(body);
    assert_eq!(
        status(&sent),
        if joined { 200 } else { 403 },
        "receipt: {case}"
    );
}

#[tokio::test]
async fn pages_in_both_directions_hold_every_event_once() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    for n in 0..23 {
        hub.say(&ana, &room, &format!("m{n}")).await;
    }
    for limit in [1, 4, 10, 250] {
        let forward = hub
            .pages(&ana, &room, Direction::Forward, None, limit)
            .await;
        let mut backward = hub
            .pages(&ana, &room, Direction::Backward, None, limit)
            .await;
        backward.reverse();
        assert_eq!(ids(&forward), ids(&backward));
        assert_eq!(texts(&forward.into()).len(), 23);
    }
}

#[tokio::test]
async fn hidden_and_redacted_events_do_not_stop_a_page() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let state = json!([
        { "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } },
    ]);
    let room = hub.create(&ana, wish("public_chat", &state)).await.unwrap();
    hub.join(&bob, &room).await.unwrap();
    hub.say(&bob, &room, "first").await;
    hub.leave(&bob, &room).await.unwrap();
    for n in 0..40 {
        hub.say(&ana, &room, &format!("hidden {n}")).await;
    }
    hub.join(&bob, &room).await.unwrap();
    let gone = hub.say(&bob, &room, "redacted").await;
    hub.redact(&ana, &room, &gone).await.unwrap();

    let all = hub.pages(&bob, &room, Direction::Backward, None, 2).await;
    assert_eq!(texts(&all.clone().into()), ["first"]);
    let redacted = all.iter().find(|event| event["event_id"] == gone.as_str());
    let redacted = redacted.unwrap();
    assert_eq!(redacted["content"], json!({}));
    let because = &redacted["unsigned"]["redacted_because"];
    assert_eq!(because["redacts"], gone.as_str());
    assert_eq!(because["content"]["redacts"], gone.as_str());
}

#[tokio::test]
async fn who_left_before_a_redaction_learns_that_it_was_redacted_and_not_by_whom_or_why() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    let topic = json!({ "topic": "a secret" });
    let topic = hub.set(&ana, &room, ("m.room.topic", ""), topic).await;
    let gone = [hub.say(&ana, &room, "a mistake").await, topic.unwrap()];
    hub.leave(&bob, &room).await.unwrap();
    for event in &gone {
        hub.redact(&ana, &room, event).await.unwrap();
    }
    let left = hub
        .sync(&bob, None, json!({ "room": { "include_leave": true } }))
        .await;
    let left = left["rooms"]["leave"][room.as_str()].to_string();
    assert!(left.contains(gone[0].as_str()));
    assert!(!left.contains("redacted_because"));
    let page = hub.back(&bob, &room, None, 100).await.unwrap();
    assert!(!page.to_string().contains("redacted_because"));
    for event in &gone {
        let mine = hub.event(&bob, &room, event).await.unwrap();
        assert_eq!(mine["content"], json!({}));
        assert_eq!(mine["unsigned"].get("redacted_because"), None);
        let anas = hub.event(&ana, &room, event).await.unwrap();
        assert_eq!(
            anas["unsigned"]["redacted_because"]["redacts"],
            event.as_str()
        );
    }

    // Someone who comes later sees the redaction, as the history of the room lets them.
    let eve = hub.account("eve").await;
    hub.join(&eve, &room).await.unwrap();
    let late = hub.event(&eve, &room, &gone[0]).await.unwrap();
    assert_eq!(
        late["unsigned"]["redacted_because"]["redacts"],
        gone[0].as_str()
    );
}

#[tokio::test]
async fn an_event_shows_nothing_of_the_graph_and_the_transaction_to_its_device_only() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let event = hub.say(&ana, &room, "hello").await;

    let shown = hub.event(&ana, &room, &event).await.unwrap();
    let mut keys: Vec<_> = shown.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    assert_eq!(
        keys,
        [
            "content",
            "event_id",
            "origin_server_ts",
            "room_id",
            "sender",
            "type",
            "unsigned"
        ]
    );
    assert_eq!(shown["unsigned"]["transaction_id"], "hello");
    let tablet = hub.device(&ana.user, "TABLET").await;
    let shown = hub.event(&tablet, &room, &event).await.unwrap();
    assert_eq!(shown["unsigned"].get("transaction_id"), None);
}

#[tokio::test]
async fn replaced_state_shows_what_it_replaced() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let first = hub
        .set(&ana, &room, ("m.room.topic", ""), json!({ "topic": "one" }))
        .await
        .unwrap();
    let second = hub
        .set(&ana, &room, ("m.room.topic", ""), json!({ "topic": "two" }))
        .await
        .unwrap();
    let shown = hub.event(&ana, &room, &second).await.unwrap();
    assert_eq!(shown["unsigned"]["prev_content"]["topic"], "one");
    assert_eq!(shown["unsigned"]["replaces_state"], first.as_str());
}

#[tokio::test]
async fn a_forgotten_room_is_like_one_never_entered() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    assert_eq!(hub.forget(&bob, &room).await.unwrap_err().status, 400);
    hub.leave(&bob, &room).await.unwrap();
    assert!(hub.back(&bob, &room, None, 10).await.is_ok());
    hub.forget(&bob, &room).await.unwrap();
    assert_eq!(status(&hub.back(&bob, &room, None, 10).await), 403);
}

#[tokio::test]
async fn context_has_events_on_both_sides_and_tokens_that_go_on() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let mut sent = Vec::new();
    for n in 0..9 {
        sent.push(hub.say(&ana, &room, &format!("m{n}")).await);
    }
    let mut request = context::get_context::v3::Request::new(room.clone(), sent[4].clone());
    request.limit = 4_u32.into();
    let around = reading::context(&hub.hub, &ana.caller(), request).await;
    let around = around.map(body).unwrap();
    assert_eq!(texts(&around["events_before"]), ["m3", "m2"]);
    assert_eq!(around["event"]["content"]["body"], "m4");
    assert_eq!(texts(&around["events_after"]), ["m5", "m6"]);
    let (start, end) = (around["start"].as_str(), around["end"].as_str());
    let older = hub
        .page(&ana, &room, Direction::Backward, start, 1)
        .await
        .unwrap();
    let newer = hub
        .page(&ana, &room, Direction::Forward, end, 1)
        .await
        .unwrap();
    assert_eq!(texts(&older["chunk"]), ["m1"]);
    assert_eq!(texts(&newer["chunk"]), ["m7"]);
}

#[tokio::test]
async fn members_are_filtered_by_either_word_and_by_time() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[]).await;
    let start = hub.back(&ana, &room, None, 1).await.unwrap()["start"].clone();
    hub.join(&bob, &room).await.unwrap();
    hub.leave(&bob, &room).await.unwrap();
    let ask = async |change: &dyn Fn(&mut membership::get_member_events::v3::Request)| {
        let mut request = membership::get_member_events::v3::Request::new(room.clone());
        change(&mut request);
        let found = reading::members(&hub.hub, &ana.caller(), request).await;
        body(found.unwrap())["chunk"].as_array().unwrap().len()
    };
    assert_eq!(ask(&|_| {}).await, 2);
    assert_eq!(
        ask(&|request| request.membership = Some("join".into())).await,
        1
    );
    assert_eq!(
        ask(&|request| request.not_membership = Some("join".into())).await,
        1
    );
    let at = start.as_str().unwrap().to_owned();
    assert_eq!(ask(&|request| request.at = Some(at.clone())).await, 1);
}
