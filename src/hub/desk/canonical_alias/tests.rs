use ruma::{
    OwnedRoomId,
    api::client::alias::{create_alias, delete_alias},
};
use serde_json::{Value, json};

use crate::{
    api::{Code, Refusal},
    hub::{
        desk::{remote::testing::net, rooms::testing::wish},
        testing::{Person, TestHub, ask, hub},
    },
    room::StateKey,
};

const KIND: (&str, &str) = (super::KIND, "");

async fn make(hub: &TestHub, who: &Person, alias: &str, room: &OwnedRoomId) {
    let request = create_alias::v3::Request::new(alias.try_into().unwrap(), room.clone());
    ask!(hub, who.origin, CreateAlias(request)).unwrap();
}

async fn remove(hub: &TestHub, who: &Person, alias: &str) {
    let request = delete_alias::v3::Request::new(alias.try_into().unwrap());
    ask!(hub, who.origin, DeleteAlias(request)).unwrap();
}

/// What the room shows.
async fn shown(hub: &TestHub, room: &OwnedRoomId) -> Value {
    let store = hub.hub.store();
    let record = store.room(room).await.unwrap().unwrap();
    let key = [StateKey::new(super::KIND, "")];
    let found = store.current(record.nid, &key).await.unwrap();
    let event = found.into_iter().next().flatten().unwrap();
    let event: Value = serde_json::from_str(&event.json).unwrap();
    event["content"].clone()
}

fn told(refusal: &Refusal) -> (&'static str, u16) {
    (refusal.code.errcode(), refusal.status)
}

#[tokio::test]
async fn what_a_room_newly_shows_must_be_an_alias_of_it() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let other = hub.public_room(&ana, &[]).await;
    make(&hub, &ana, "#here:hub.example", &room).await;
    make(&hub, &ana, "#there:hub.example", &other).await;

    for (content, place) in [
        (
            json!({"alias": "#none:hub.example"}),
            "`alias`: #none:hub.example",
        ),
        (
            json!({"alias": "#there:hub.example"}),
            "`alias`: #there:hub.example",
        ),
        (
            json!({"alias": "#here:hub.example", "alt_aliases": ["#here:hub.example", "#none:hub.example"]}),
            "`alt_aliases[1]`: #none:hub.example",
        ),
    ] {
        let refusal = hub.set(&ana, &room, KIND, content).await.unwrap_err();
        assert_eq!(told(&refusal), ("M_BAD_ALIAS", 400), "{place}");
        assert!(refusal.message.starts_with(place), "{}", refusal.message);
    }
    for (content, place) in [
        (json!({"alias": "here"}), "`alias`: \"here\" is no alias"),
        (json!({"alias": "#:hub.example"}), "`alias`: "),
        (json!({"alias": 5}), "`alias`: "),
        (
            json!({"alt_aliases": "#here:hub.example"}),
            "`alt_aliases` ",
        ),
        (json!({"alt_aliases": [null]}), "`alt_aliases[0]`: "),
    ] {
        let refusal = hub.set(&ana, &room, KIND, content).await.unwrap_err();
        assert_eq!(told(&refusal), ("M_INVALID_PARAM", 400), "{place}");
        assert!(refusal.message.starts_with(place), "{}", refusal.message);
    }
    let both = json!({"alias": "#here:hub.example", "alt_aliases": ["#here:hub.example"]});
    hub.set(&ana, &room, KIND, both).await.unwrap();
    for none in [json!({"alias": null}), json!({"alias": ""}), json!({})] {
        hub.set(&ana, &room, KIND, none).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_room_shows_already_is_not_looked_at_again() {
    let hub = hub().await;
    let (ana, bob) = (hub.account("ana").await, hub.account("bob").await);
    let room = hub.public_room(&ana, &[&bob]).await;
    make(&hub, &bob, "#old:hub.example", &room).await;
    let alias = json!({"alias": "#old:hub.example"});
    hub.set(&ana, &room, KIND, alias).await.unwrap();
    // Bob may remove what he made, but not change what the room shows.
    remove(&hub, &bob, "#old:hub.example").await;
    assert_eq!(shown(&hub, &room).await["alias"], "#old:hub.example");

    let moved = json!({"alt_aliases": ["#old:hub.example"]});
    hub.set(&ana, &room, KIND, moved).await.unwrap();
    hub.set(&ana, &room, KIND, json!({})).await.unwrap();
    let again = json!({"alt_aliases": ["#old:hub.example"]});
    let refusal = hub.set(&ana, &room, KIND, again).await.unwrap_err();
    assert_eq!(refusal.code, Code::BadAlias);
}

#[tokio::test]
async fn an_alias_that_is_removed_is_no_longer_shown() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    for alias in ["#one:hub.example", "#two:hub.example"] {
        make(&hub, &ana, alias, &room).await;
    }
    let both = json!({"alias": "#one:hub.example", "alt_aliases": ["#one:hub.example", "#two:hub.example"], "x": 1});
    hub.set(&ana, &room, KIND, both).await.unwrap();
    remove(&hub, &ana, "#one:hub.example").await;
    let left = json!({"alt_aliases": ["#two:hub.example"], "x": 1});
    assert_eq!(shown(&hub, &room).await, left);
}

#[tokio::test]
async fn who_is_not_in_the_room_learns_nothing_of_its_aliases() {
    let hub = hub().await;
    let (ana, eve) = (hub.account("ana").await, hub.account("eve").await);
    let room = hub.public_room(&ana, &[]).await;
    let content = json!({"alias": "#none:hub.example"});
    let refusal = hub.set(&eve, &room, KIND, content).await.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
}

#[tokio::test]
async fn a_new_room_shows_no_alias_but_the_one_made_with_it() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let state = |alias: &str| {
        let mut wished = wish(
            "private_chat",
            &json!([{"type": super::KIND, "content": {"alias": alias}}]),
        );
        wished.room_alias_name = Some("mine".to_owned());
        wished
    };
    let refusal = hub.create(&ana, state("#other:hub.example")).await;
    let refusal = refusal.unwrap_err();
    assert_eq!(told(&refusal), ("M_BAD_ALIAS", 400));
    assert!(refusal.message.starts_with("`initial_state[0]`: `alias`: "));
    let room = hub.create(&ana, state("#mine:hub.example")).await.unwrap();
    assert_eq!(
        shown(&hub, &room).await,
        json!({"alias": "#mine:hub.example"})
    );
}

#[tokio::test]
async fn an_alias_of_another_server_is_asked_for_there() {
    let [us, far] = net(["hub.example", "far.example"]).await;
    let ana = us.hub.account("ana").await;
    let zed = far.hub.account("zed").await;
    let mut wished = wish("public_chat", &json!([]));
    wished.room_alias_name = Some("teahouse".to_owned());
    far.hub.create(&zed, wished).await.unwrap();
    let room = us.hub.public_room(&ana, &[]).await;

    for (alias, why) in [
        ("#teahouse:far.example", "names another room"),
        ("#none:far.example", "names no room"),
    ] {
        let refusal = us
            .hub
            .set(&ana, &room, KIND, json!({ "alias": alias }))
            .await;
        let refusal = refusal.unwrap_err();
        assert_eq!(told(&refusal), ("M_BAD_ALIAS", 400), "{alias}");
        assert!(refusal.message.contains(why), "{}", refusal.message);
    }
    us.wire.asked();
    us.wire.cut("far.example");
    let alias = json!({"alias": "#more:far.example"});
    let refusal = us.hub.set(&ana, &room, KIND, alias).await.unwrap_err();
    assert_eq!(refusal.status, 502);
    assert!(
        refusal.message.contains("far.example"),
        "{}",
        refusal.message
    );
    assert_eq!(us.wire.asked().len(), 1);
    let many: Vec<_> = (0..9).map(|n| format!("#{n}:far.example")).collect();
    let many = json!({ "alt_aliases": many });
    let refusal = us.hub.set(&ana, &room, KIND, many).await.unwrap_err();
    assert_eq!(told(&refusal), ("M_INVALID_PARAM", 400));
    assert!(us.wire.asked().is_empty());
}
