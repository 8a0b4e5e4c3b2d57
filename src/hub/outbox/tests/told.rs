//! Who is told what, when, and what is made of the answers.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::world::{Mood, World};
use crate::{
    api::{Command, Deliveries, Delivery, Reply},
    base::Seq,
    hub::{
        fanout::{ForServers, Touched},
        housekeeping::{FAILURES, ago},
        outbox::PeerState,
    },
    store::{Batch, Order, OutboxWrite, Write, hash_of},
};

const FAR: &str = "far.example";
const WEST: &str = "west.example";

impl World {
    async fn fate(&self, event: &ruma::EventId) -> Vec<(String, Delivery)> {
        let record = self
            .store
            .event(hash_of(event).unwrap())
            .await
            .unwrap()
            .unwrap();
        let outbox = self.hub.hub.outbox().unwrap();
        let seq = record.seq.unwrap();
        let before = Seq(seq.0 - 1);
        let log = self.store.log(record.room, before, seq, Order::Forward, 1);
        let entry = &log.await.unwrap()[0];
        let found = outbox.deliveries(record.room, entry).await.unwrap();
        let found = found.into_iter();
        found
            .map(|one| (one.server.to_string(), one.delivery))
            .collect()
    }

    /// What Ana is told of what she sent, as a client reads it.
    async fn told(&self) -> serde_json::Value {
        let room = self.room.clone();
        let asked = Command::Deliveries(Deliveries { room, event: None });
        match self.hub.ask(&self.ana.origin, asked).await.unwrap() {
            Reply::Deliveries(told) => serde_json::to_value(told).unwrap()["messages"].take(),
            other => panic!("{other:?}"),
        }
    }

    async fn state(&self, server: &str) -> PeerState {
        let server = ruma::OwnedServerName::try_from(server).unwrap();
        let found = self.hub.hub.peers(Some(&server), None, 9).await;
        let mut found = found.unwrap();
        found.pop().unwrap().state
    }

    /// Waits until what was told is noted durably.
    async fn until_noted(&self, event: &ruma::EventId, wanted: &Delivery) {
        let is_kept_out = |fate: &Delivery| matches!(fate, Delivery::Refused(why) if why.starts_with("SERVER_ACL"));
        let wait = async {
            while self
                .fate(event)
                .await
                .iter()
                .any(|(_, fate)| fate != wanted && !is_kept_out(fate))
            {
                tokio::task::yield_now().await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(came.is_ok(), "{:?}", self.fate(event).await);
    }
}

#[tokio::test]
async fn a_server_is_told_what_is_said_since_it_joined() {
    let world = World::with(&[]).await;
    world.say("before").await;
    world.join(FAR).await;
    let event = world.say("hello").await;
    world.say("again").await;

    world.until_has(FAR, &["hello", "again"]).await;
    world.until_noted(&event, &Delivery::Acked).await;
    assert_eq!(
        world.fate(&event).await,
        [(FAR.to_owned(), Delivery::Acked)]
    );
}

#[tokio::test]
async fn a_join_made_here_is_relayed_to_the_others_only() {
    let world = World::with(&[FAR]).await;
    let join = world.join(WEST).await;
    world.say("hello").await;

    world.until_has(FAR, &["hello"]).await;
    world.until_has(WEST, &["hello"]).await;
    let count = |server| {
        let heard = world.others.heard(server).into_iter();
        let pdus = heard.flat_map(|heard| heard.pdus);
        pdus.filter(|pdu| pdu["type"] == "m.room.member").count()
    };
    assert_eq!((count(FAR), count(WEST)), (1, 0));
    assert_eq!(join.fields().sender, "@zed:west.example");
}

#[tokio::test]
async fn a_server_whose_last_user_is_kicked_is_told_that_and_no_more() {
    let world = World::with(&[FAR, WEST]).await;
    let content = json!({ "membership": "leave", "reason": "enough" });
    let key = ("m.room.member", "@zed:far.example");
    world
        .hub
        .set(&world.ana, &world.room, key, content)
        .await
        .unwrap();
    world.say("without far").await;

    world.until_has(WEST, &["without far"]).await;
    let is_kick = |pdu: &serde_json::Value| pdu["content"]["reason"] == "enough";
    world
        .others
        .until(|others| {
            let mut heard = others.heard(FAR).into_iter().flat_map(|one| one.pdus);
            heard.any(|pdu| is_kick(&pdu))
        })
        .await;
    assert!(world.others.texts(FAR).is_empty());
}

#[tokio::test]
async fn a_server_that_left_is_told_nothing_and_its_leave_is_relayed() {
    let world = World::with(&[FAR, WEST]).await;
    world.leave(FAR).await;
    world.say("without far").await;

    world.until_has(WEST, &["without far"]).await;
    let told: Vec<_> = world
        .others
        .heard(WEST)
        .into_iter()
        .flat_map(|one| one.pdus)
        .collect();
    assert_eq!(told[0]["content"]["membership"], "leave");
    assert!(world.others.texts(FAR).is_empty());
}

#[tokio::test]
async fn who_is_away_is_left_alone_and_gets_all_in_order_later() {
    let world = World::with(&[FAR]).await;
    world.others.mood(FAR, [Mood::Away]);
    let first = world.say("one").await;
    world
        .others
        .until(|others| !others.heard(FAR).is_empty())
        .await;
    world.say_all(&["two", "three"]).await;
    assert_eq!(
        world.fate(&first).await,
        [(FAR.to_owned(), Delivery::Queued)]
    );

    world.others.mood(FAR, [Mood::Takes]);
    world.wait(Duration::from_mins(1));
    world.until_has(FAR, &["one", "two", "three"]).await;
    world.until_noted(&first, &Delivery::Acked).await;
}

#[tokio::test]
async fn who_waits_for_a_server_is_told_why_and_until_when() {
    let all = [FAR, "north.example", WEST];
    let world = World::with(&all).await;
    let moods = [Mood::Away, Mood::Barred, Mood::Refuses(403)];
    for (server, mood) in all.iter().zip(moods) {
        world.others.mood(server, [mood]);
    }
    world.say("one").await;
    let mut until = Vec::new();
    for server in all {
        until.push(loop {
            if let PeerState::Waiting(until) = world.state(server).await {
                break until;
            }
            tokio::task::yield_now().await;
        });
    }

    let reasons = ["PEER_UNREACHABLE", "FEDERATION_DENY", "PEER_REFUSED"];
    let told = world.told().await;
    for (n, server) in all.iter().enumerate() {
        let wanted = json!({ "server": server, "state": "queued", "reason": reasons[n],
            "next_try_ts": until[n] });
        assert_eq!(told[0]["servers"][n], wanted);
    }
}

#[tokio::test]
async fn whom_the_operator_lets_in_again_is_tried_at_once_and_who_is_away_is_not() {
    let world = World::with(&[FAR, WEST]).await;
    world.others.mood(FAR, [Mood::Barred]);
    world.others.mood(WEST, [Mood::Away]);
    world.say("one").await;
    for server in [FAR, WEST] {
        while !matches!(world.state(server).await, PeerState::Waiting(_)) {
            tokio::task::yield_now().await;
        }
    }
    let away = world.state(WEST).await;

    world.others.mood(FAR, [Mood::Takes]);
    world.hub.hub.outbox().unwrap().relisted();

    world.until_has(FAR, &["one"]).await;
    assert_eq!(world.state(WEST).await, away);
}

#[tokio::test]
async fn a_change_of_state_that_a_server_does_not_take_is_told_beside_the_messages() {
    let world = World::with(&[FAR]).await;
    world.others.mood(FAR, [Mood::Dislikes("bad")]);
    for (key, said) in [("one", "bad"), ("two", "good")] {
        let key = ("com.example.state", key);
        let content = json!({ "body": said });
        let set = world.hub.set(&world.ana, &world.room, key, content).await;
        set.unwrap();
    }
    let last = world.say("hello").await;
    world.until_noted(&last, &Delivery::Acked).await;

    let told = world.told().await;
    let kinds: Vec<_> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["type"])
        .collect();
    assert_eq!(kinds, ["m.room.message", "com.example.state"]);
    assert_eq!(
        told[0]["servers"],
        json!([{ "server": FAR, "state": "acked" }])
    );
    let refused = json!([{ "server": FAR, "state": "refused", "reason": "not that" }]);
    assert_eq!(told[1]["servers"], refused);
}

#[tokio::test]
async fn the_same_is_sent_again_under_the_same_id() {
    let world = World::with(&[FAR]).await;
    world.others.mood(FAR, [Mood::TakesSilently, Mood::Takes]);
    world.say("one").await;
    world
        .others
        .until(|others| !others.heard(FAR).is_empty())
        .await;
    world.wait(Duration::from_mins(1));
    world.until_has(FAR, &["one"]).await;

    let heard = world.others.heard(FAR);
    assert_eq!(heard[0].id, heard[1].id);
}

#[tokio::test]
async fn a_sign_of_life_ends_the_wait() {
    let world = World::with(&[FAR]).await;
    world.others.mood(FAR, [Mood::Away]);
    world.say("one").await;
    for tries in 1..=5 {
        world
            .others
            .until(|others| others.heard(FAR).len() >= tries)
            .await;
        while !matches!(world.state(FAR).await, PeerState::Waiting(_)) {
            tokio::task::yield_now().await;
        }
        world.wait(Duration::from_mins(2));
    }
    world
        .others
        .until(|others| others.heard(FAR).len() >= 6)
        .await;
    while !matches!(world.state(FAR).await, PeerState::Waiting(_)) {
        tokio::task::yield_now().await;
    }
    world.others.mood(FAR, [Mood::Takes]);
    world.wait(Duration::from_secs(3));
    tokio::task::yield_now().await;
    assert!(
        world.others.texts(FAR).is_empty(),
        "it is left alone for longer"
    );
    world.is_heard_of(FAR).await;
    world.until_has(FAR, &["one"]).await;
}

#[tokio::test]
async fn one_refused_event_is_noted_and_holds_nothing_up() {
    let world = World::with(&[FAR]).await;
    world.others.mood(FAR, [Mood::Dislikes("bad")]);
    let bad = world.say("bad").await;
    let good = world.say("good").await;

    world.until_noted(&good, &Delivery::Acked).await;
    let refused = Delivery::Refused("not that".to_owned());
    world.until_noted(&bad, &refused).await;
}

#[tokio::test]
async fn a_transaction_that_is_refused_whole_is_cut_down_to_the_event_it_is_about() {
    let world = World::with(&[FAR]).await;
    world.others.mood(FAR, [Mood::Away]);
    world.say("0").await;
    world
        .others
        .until(|others| !others.heard(FAR).is_empty())
        .await;
    for n in 1..30 {
        world.say(&n.to_string()).await;
    }
    let bad = world.say("bad").await;
    for n in 30..60 {
        world.say(&n.to_string()).await;
    }
    world.others.mood(FAR, [Mood::Chokes("bad")]);
    world.wait(Duration::from_mins(1));

    let all: Vec<_> = (0..60).map(|n| n.to_string()).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    world.until_has(FAR, &all).await;
    let fate = world.fate(&bad).await;
    assert!(
        matches!(&fate[0].1, Delivery::Refused(_) | Delivery::Queued),
        "{fate:?}"
    );
    world.say("61").await;
}

#[tokio::test]
async fn what_is_too_old_for_who_was_not_reached_is_given_up_and_said_so() {
    let world = World::with(&[FAR]).await;
    world.others.mood(FAR, [Mood::Away]);
    let old = world.say("old").await;
    world
        .others
        .until(|others| !others.heard(FAR).is_empty())
        .await;
    while !matches!(world.state(FAR).await, PeerState::Waiting(_)) {
        tokio::task::yield_now().await;
    }
    world.wait(Duration::from_hours(24 * 8));
    world.say("new").await;
    world.others.mood(FAR, [Mood::Takes]);
    world.wait(Duration::from_hours(2));

    world.until_noted(&old, &Delivery::Expired).await;
    world.until_has(FAR, &["new"]).await;
}

#[tokio::test]
async fn a_room_that_keeps_a_server_out_is_not_told_to_it() {
    let world = World::with(&[FAR, WEST]).await;
    let acl = json!({ "allow": ["*"], "deny": ["far.example"] });
    let key = ("m.room.server_acl", "");
    world
        .hub
        .set(&world.ana, &world.room, key, acl)
        .await
        .unwrap();
    world.say("hello").await;

    world.until_has(WEST, &["hello"]).await;
    world
        .others
        .until(|others| {
            let heard = others.heard(FAR).into_iter();
            heard
                .flat_map(|one| one.pdus)
                .any(|pdu| pdu["type"] == "m.room.server_acl")
        })
        .await;
    assert!(world.others.texts(FAR).is_empty());
}

#[tokio::test]
async fn what_became_of_a_message_does_not_change_with_the_acl() {
    let world = World::with(&[FAR, WEST]).await;
    let key = ("m.room.server_acl", "");
    let to_both = world.say("to both").await;
    world.until_noted(&to_both, &Delivery::Acked).await;
    let shut = json!({ "allow": ["*"], "deny": ["far.example"] });
    let shut = world.hub.set(&world.ana, &world.room, key, shut).await;
    shut.unwrap();
    let to_one = world.say("to one").await;
    world.until_noted(&to_one, &Delivery::Acked).await;
    let both = [FAR, WEST].map(|server| (server.to_owned(), Delivery::Acked));
    assert_eq!(world.fate(&to_both).await, both);
    let kept_out =
        "SERVER_ACL: the room's m.room.server_acl kept the server out when this was sent";
    let one = [
        (FAR.to_owned(), Delivery::Refused(kept_out.to_owned())),
        (WEST.to_owned(), Delivery::Acked),
    ];
    assert_eq!(world.fate(&to_one).await, one);

    let open = json!({ "allow": ["*"], "deny": [] });
    let open = world.hub.set(&world.ana, &world.room, key, open).await;
    open.unwrap();
    let again = world.say("to both again").await;
    world.until_noted(&again, &Delivery::Acked).await;
    assert_eq!(world.fate(&to_one).await, one);
}

#[tokio::test]
async fn what_waited_until_its_room_kept_a_server_out_is_said_not_to_have_been_told() {
    let world = World::with(&[FAR]).await;
    let key = ("m.room.server_acl", "");
    let acl = async |deny: serde_json::Value| {
        let content = json!({ "allow": ["*"], "deny": deny });
        let set = world.hub.set(&world.ana, &world.room, key, content).await;
        set.unwrap();
    };
    world.others.mood(FAR, [Mood::Away]);
    let tried = world.say("tried").await;
    world
        .others
        .until(|others| !others.heard(FAR).is_empty())
        .await;
    let waited = world.say("waited").await;
    acl(json!([FAR])).await;
    let told = world.told().await;
    let held_up = [
        &told[0]["servers"][0]["state"],
        &told[0]["servers"][0]["reason"],
    ];
    assert_eq!(held_up, ["queued", "SERVER_ACL"], "{told}");
    let never = world.say("never for it").await;
    world.others.mood(FAR, [Mood::Takes]);
    world.wait(Duration::from_mins(1));
    let told_acl = |others: &super::world::Others| {
        let mut pdus = others.heard(FAR).into_iter().flat_map(|one| one.pdus);
        pdus.any(|pdu| pdu["type"] == "m.room.server_acl")
    };
    world.others.until(told_acl).await;
    acl(json!([])).await;
    let again = world.say("again").await;
    world.until_has(FAR, &["again"]).await;
    world.until_noted(&again, &Delivery::Acked).await;

    let refused = |when: &str| {
        let reason =
            format!("SERVER_ACL: the room's m.room.server_acl kept the server out when {when}");
        [(FAR.to_owned(), Delivery::Refused(reason))]
    };
    let withheld = refused("its turn came");
    for event in [&tried, &waited] {
        assert_eq!(world.fate(event).await, withheld);
    }
    assert_eq!(world.fate(&never).await, refused("this was sent"));
}

#[tokio::test]
async fn parcels_are_told_once_and_in_order() {
    let world = World::with(&[FAR]).await;
    let parcel = |n: u32| Write::Parcel {
        to: FAR.try_into().unwrap(),
        edu: json!({ "edu_type": "m.direct_to_device", "content": { "n": n } }).to_string(),
        at: world.hub.hub.now(),
    };
    let batch = Batch {
        writes: (0..250).map(parcel).collect(),
        may_conflict: false,
    };
    let far = Arc::new([FAR.try_into().unwrap()].into());
    let touched = vec![Touched::Servers(far, ForServers::Beside)];
    world.hub.hub.writer.write(batch, touched).await.unwrap();

    let told = || {
        let heard = world.others.heard(FAR).into_iter();
        let edus = heard.flat_map(|one| one.edus);
        let edus = edus.filter(|edu| edu["edu_type"] == "m.direct_to_device");
        edus.map(|edu| edu["content"]["n"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    world.others.until(|_| told().len() >= 250).await;
    assert_eq!(told(), (0..250).collect::<Vec<_>>());
    let far = FAR.try_into().unwrap();
    let zero = (crate::base::Position::ZERO, 0);
    while !world.store.parcels(far, zero, 9).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_who_was_invited_and_is_not_any_more_is_told() {
    let world = World::with(&[WEST]).await;
    let user = ruma::owned_user_id!("@ida:far.example");
    let key = ("m.room.member", user.as_str());
    let invite = json!({ "membership": "invite" });
    world
        .hub
        .set(&world.ana, &world.room, key, invite)
        .await
        .unwrap();
    let leave = json!({ "membership": "leave" });
    world
        .hub
        .set(&world.ana, &world.room, key, leave)
        .await
        .unwrap();
    world.say("to west").await;

    world.until_has(WEST, &["to west"]).await;
    world
        .others
        .until(|others| !others.heard(FAR).is_empty())
        .await;
    let told: Vec<_> = world
        .others
        .heard(FAR)
        .into_iter()
        .flat_map(|one| one.pdus)
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["content"]["membership"], "leave");
}

#[tokio::test]
async fn what_went_wrong_is_forgotten_in_the_end() {
    let world = World::with(&[FAR]).await;
    world.others.mood(FAR, [Mood::Dislikes("bad")]);
    let bad = world.say("bad").await;
    world
        .until_noted(&bad, &Delivery::Refused("not that".to_owned()))
        .await;
    let forget = async || {
        let before = ago(world.hub.hub.now(), FAILURES);
        let forget = OutboxWrite::ForgetFailures { before };
        world.hub.write(vec![Write::Outbox(forget)]).await;
    };
    world.wait(FAILURES);
    forget().await;
    let refused = Delivery::Refused("not that".to_owned());
    assert_eq!(world.fate(&bad).await, [(FAR.to_owned(), refused)]);
    // From then on nobody says that the server has it.
    world.wait(Duration::from_millis(1));
    forget().await;
    assert_eq!(world.fate(&bad).await, []);
    let good = world.say("good").await;
    world.until_noted(&good, &Delivery::Acked).await;
    assert_eq!(world.fate(&good).await.len(), 1);
}

#[tokio::test]
async fn receipts_and_typing_are_told_and_private_receipts_are_not() {
    use ruma::api::client::{
        receipt::create_receipt::v3::{self as receipts, ReceiptType},
        typing::create_typing_event::v3::{self as typing, Typing, TypingInfo},
    };
    let world = World::with(&[FAR]).await;
    let event = world.say("hello").await;
    world.until_has(FAR, &["hello"]).await;
    let receipt = async |kind| {
        let asked = receipts::Request::new(world.room.clone(), kind, event.clone());
        let asked = Command::Receipt(Box::new(asked));
        world.hub.ask(&world.ana.origin, asked).await.unwrap();
    };
    receipt(ReceiptType::ReadPrivate).await;
    receipt(ReceiptType::Read).await;
    let info = TypingInfo::new(Duration::from_secs(30));
    let user = world.ana.user.clone();
    let asked = typing::Request::new(user, world.room.clone(), Typing::Yes(info));
    let asked = Command::Typing(Box::new(asked));
    world.hub.ask(&world.ana.origin, asked).await.unwrap();

    let edus = |kind: &str| {
        let heard = world.others.heard(FAR).into_iter();
        let edus = heard.flat_map(|one| one.edus);
        edus.filter(|edu| edu["edu_type"] == kind)
            .collect::<Vec<_>>()
    };
    world
        .others
        .until(|_| edus("m.receipt").len() + edus("m.typing").len() >= 2)
        .await;
    let receipts = edus("m.receipt");
    assert_eq!(receipts.len(), 1);
    let read = &receipts[0]["content"][world.room.as_str()]["m.read"];
    assert_eq!(read[world.ana.user.as_str()]["event_ids"], json!([event]));
    assert_eq!(edus("m.typing")[0]["content"]["typing"], true);
    assert!(!format!("{receipts:?}").contains("private"));
}

#[tokio::test]
async fn a_changed_device_is_told_to_who_shares_a_room() {
    let world = World::with(&[FAR]).await;
    let changed = Write::DevicesChanged {
        user: world.ana.user.clone(),
        what: crate::store::KeysChange::Devices,
    };
    let batch = Batch {
        writes: vec![changed],
        may_conflict: false,
    };
    let far = Arc::new([FAR.try_into().unwrap()].into());
    let touched = vec![Touched::Servers(far, ForServers::Beside)];
    let written = world.hub.hub.writer.write(batch, touched).await;
    let (position, _) = written.unwrap();
    world
        .others
        .until(|others| !others.heard(FAR).is_empty())
        .await;

    let heard = world.others.heard(FAR);
    let update = &heard[0].edus[0];
    assert_eq!(update["edu_type"], "m.device_list_update");
    assert_eq!(update["content"]["user_id"], world.ana.user.as_str());
    assert_eq!(update["content"]["stream_id"], position.0);
}
