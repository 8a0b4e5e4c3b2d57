use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ruma::{
    OwnedRoomId, ServerName,
    api::{
        client::alias::{create_alias, delete_alias},
        federation::query::get_room_information,
    },
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    api::{
        Code, Command, PeerCommand, PeerReply, Refusal, Remote, RemoteError, Reply, Thin,
        ThinReply, Unverified,
    },
    base::Seq,
    hub::{
        desk::{remote::testing::net, rooms::testing::wish},
        testing::{Person, TestHub, ask, hub, hub_among},
    },
    room::StateKey,
    wire::{
        cbor::{self, KeyForm},
        matrix::{Pdu, Version},
        thin::{Alias, Body, Draft, NameKind},
    },
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

/// A server that answers when it is let: with the room that its aliases name, or a refusal.
struct Slow {
    asked: Semaphore,
    may_answer: Semaphore,
    names: Mutex<Result<OwnedRoomId, u16>>,
}

impl Slow {
    fn answering(names: Result<OwnedRoomId, u16>, times: usize) -> Arc<Self> {
        Arc::new(Self {
            asked: Semaphore::new(0),
            may_answer: Semaphore::new(times),
            names: Mutex::new(names),
        })
    }
}

#[async_trait::async_trait]
impl Remote for Slow {
    async fn ask(
        &self,
        server: &ServerName,
        _: PeerCommand,
        _: Duration,
    ) -> Result<PeerReply, RemoteError> {
        self.asked.add_permits(1);
        self.may_answer.acquire().await.unwrap().forget();
        let names = self.names.lock().unwrap().clone();
        let room = names.map_err(|status| RemoteError::Refused {
            server: server.to_string(),
            status,
            code: "M_X".to_owned(),
            message: "no".to_owned(),
        })?;
        let told = get_room_information::v1::Response::new(room, Vec::new());
        Ok(PeerReply::PeerAlias(Box::new(told)))
    }

    async fn verified(&self, _: &str, _: Version) -> Result<Pdu, Unverified> {
        unreachable!("no event is told")
    }
}

#[tokio::test]
async fn who_may_not_write_the_state_or_writes_too_much_makes_no_server_be_asked() {
    let [us, _far] = net(["hub.example", "far.example"]).await;
    let (ana, bob) = (us.hub.account("ana").await, us.hub.account("bob").await);
    let room = us.hub.public_room(&ana, &[&bob]).await;
    let alias = |n: usize| json!({ "alias": format!("#{n}:far.example") });
    us.wire.asked();

    let refusal = us.hub.set(&bob, &room, KIND, alias(0)).await.unwrap_err();
    assert_eq!(told(&refusal), ("M_FORBIDDEN", 403));
    assert!(us.wire.asked().is_empty());

    for n in 0..10_000 {
        let refusal = us.hub.set(&ana, &room, KIND, alias(n)).await.unwrap_err();
        let asked = us.wire.asked().len();
        if refusal.code == Code::LimitExceeded {
            assert_eq!(asked, 0);
            return;
        }
        assert_eq!((told(&refusal), asked), (("M_BAD_ALIAS", 400), 1));
    }
    panic!("any server may be asked any number of times");
}

#[tokio::test]
async fn what_another_server_refuses_the_hub_is_wrong_with_the_alias_and_not_with_the_caller() {
    let slow = Slow::answering(Err(403), 1000);
    let hub = hub_among(Arc::clone(&slow) as Arc<dyn Remote>).await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    for (status, expected) in [
        (400, ("M_BAD_ALIAS", 400)),
        (401, ("M_BAD_ALIAS", 400)),
        (403, ("M_BAD_ALIAS", 400)),
        (500, ("M_UNKNOWN", 502)),
    ] {
        *slow.names.lock().unwrap() = Err(status);
        let alias = json!({"alias": "#a:far.example"});
        let refusal = hub.set(&ana, &room, KIND, alias).await.unwrap_err();
        assert_eq!(told(&refusal), expected, "{status}");
        assert!(
            refusal.message.contains("far.example"),
            "{}",
            refusal.message
        );
    }
}

#[tokio::test]
async fn a_devices_drafts_do_not_wait_for_a_slow_server_and_the_same_one_is_taken_once() {
    let slow = Slow::answering(Err(500), 0);
    let hub = hub_among(Arc::clone(&slow) as Arc<dyn Remote>).await;
    let ana = hub.account("ana").await;
    let id = hub.public_room(&ana, &[]).await;
    *slow.names.lock().unwrap() = Ok(id.clone());
    let named = Thin::Alias {
        kind: NameKind::Room,
        text: id.to_string(),
    };
    let named = hub.ask(&ana.origin, Command::Thin(named)).await.unwrap();
    let Reply::Thin(ThinReply::Alias(room)) = named else {
        panic!("{named:?}")
    };
    let shows = Body::State {
        event_type: 13, // m.room.canonical_alias
        state_key: String::new(),
        content: cbor::encode(&json!({"alias": "#a:far.example"}), KeyForm::Integer),
        deflated: false,
    };
    let meanwhile = async {
        slow.asked.acquire_many(2).await.unwrap().forget();
        let text = Body::Text("meanwhile".to_owned());
        let seq = append(&hub, &ana, room, draft(2, text)).await;
        slow.may_answer.add_permits(2);
        seq
    };
    let all = async {
        tokio::join!(
            append(&hub, &ana, room, draft(1, shows.clone())),
            append(&hub, &ana, room, draft(1, shows.clone())),
            meanwhile
        )
    };
    let all = tokio::time::timeout(Duration::from_secs(30), all).await;
    let (first, again, said) = all.expect("the second draft waits for the first one's server");
    assert_eq!(first, again);
    assert!(said < first, "{said:?} {first:?}");
}

async fn append(hub: &TestHub, who: &Person, room: Alias, draft: Draft) -> Seq {
    let append = Command::Thin(Thin::Append { room, draft });
    match hub.ask(&who.origin, append).await.unwrap() {
        Reply::Thin(ThinReply::Appended(seq)) => seq,
        other => panic!("{other:?}"),
    }
}

fn draft(counter: u64, body: Body) -> Draft {
    Draft {
        counter,
        target: None,
        body,
        read: None,
    }
}
