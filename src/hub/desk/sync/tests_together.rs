//! Syncs put together: what a careful client knows in the end is what there is, whatever the
//! history and whoever writes meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng, rngs::StdRng};
use ruma::{
    OwnedRoomId,
    api::{
        Direction,
        client::{state::get_state_events, sync::sync_events},
    },
};
use serde_json::{Value, json};

use crate::{
    api::Door,
    hub::{
        Settings,
        desk::{
            reading,
            rooms::testing::{body, ids, next},
            sync::sync,
        },
        testing::{Person, TestHub, hub, hub_around},
    },
    store::faulty::{Fault, Faulty},
};

fn timeline(section: &Value) -> Vec<Value> {
    let events = section["timeline"]["events"].as_array();
    events.cloned().unwrap_or_default()
}

/// A hub whose store counts what is asked of it, and fails when told to.
async fn counted() -> (TestHub, Arc<Faulty>) {
    let mut store = None;
    let hub = hub_around(Settings::default(), |inner| {
        let faulty = Arc::new(Faulty::new(inner));
        store = Some(Arc::clone(&faulty));
        faulty
    })
    .await;
    (hub, store.unwrap())
}

#[tokio::test]
async fn waiting_costs_the_same_with_many_rooms_as_with_one() {
    let (hub, store) = counted().await;
    let ana = hub.account("ana").await;
    let mut costs = Vec::new();
    for rooms in [1, 30] {
        for _ in 0..rooms {
            hub.public_room(&ana, &[]).await;
        }
        let since = next(&hub.sync(&ana, None, json!({})).await);
        for wait_ms in [0, 30] {
            let before = store.operations();
            hub.sync_waiting(&ana, Some(&since), json!({}), wait_ms)
                .await;
            costs.push(store.operations() - before);
        }
    }
    assert!(costs.iter().all(|cost| *cost == costs[0]), "{costs:?}");
    assert!(costs[0] < 10, "{costs:?}");
}

/// Whichever read fails, the sync is refused whole, and the next one with the same token tells
/// everything.
#[tokio::test]
async fn a_failing_store_makes_a_sync_fail_and_lose_nothing() {
    let (hub, store) = counted().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    let since = next(&hub.sync(&ana, None, json!({})).await);
    for n in 0..12 {
        let topic = json!({ "topic": n.to_string() });
        let key = ("m.room.topic", "");
        hub.clock.advance(Duration::from_secs(1));
        hub.set(&bob, &room, key, topic.clone()).await.unwrap_err();
        hub.set(&ana, &room, key, topic).await.unwrap();
        hub.say(&bob, &room, &format!("m{n}")).await;
    }
    let before = store.operations();
    let whole = hub.sync(&ana, Some(&since), json!({})).await;
    let operations = store.operations() - before;
    assert!(operations > 10, "{operations}");
    for n in 1..=operations {
        store.fail_at(store.operations() + n, Fault::Failed);
        let mut request = sync_events::v3::Request::new();
        request.since = Some(since.clone());
        let refused = sync(&hub.hub, Door::Https, &ana.caller(), request)
            .await
            .unwrap_err();
        assert_eq!(refused.status, 500, "operation {n}");
    }
    store.fail_at(0, Fault::Failed);
    let again = hub.sync(&ana, Some(&since), json!({})).await;
    let section = |answer: &Value| {
        let section = &answer["rooms"]["join"][room.as_str()];
        let state = section["state"]["events"].as_array().unwrap();
        (ids(&timeline(section)), ids(state))
    };
    assert_eq!(section(&again), section(&whole));
}

/// Several people write at once while one syncs: commits land in the middle of rounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncing_while_others_write_loses_and_doubles_nothing() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let eve = hub.account("eve").await;
    let room = hub.public_room(&ana, &[&bob, &eve]).await;
    let mut reader = Told::default();
    reader.sync(&hub, &eve, &room).await;
    let write = async |who: &Person| {
        for n in 0..40 {
            hub.say(who, &room, &format!("{} {n}", who.user)).await;
        }
    };
    let read = async {
        while reader.events.len() < 88 {
            reader.sync(&hub, &eve, &room).await;
        }
    };
    tokio::join!(write(&ana), write(&bob), read);
    let log = hub.pages(&eve, &room, Direction::Forward, None, 50).await;
    assert_eq!(reader.events, ids(&log));
}

/// A membership that changes in the middle of a round is told as it was when the round began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coming_and_going_while_syncing_ends_with_the_truth() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[]).await;
    let mut since = next(&hub.sync(&bob, None, json!({})).await);
    let done = AtomicBool::new(false);
    let act = async {
        for n in 0..15 {
            hub.clock.advance(Duration::from_secs(1));
            hub.join(&bob, &room).await.unwrap();
            hub.say(&ana, &room, &format!("m{n}")).await;
            hub.leave(&bob, &room).await.unwrap();
        }
        hub.join(&bob, &room).await.unwrap();
        done.store(true, Ordering::Release);
    };
    let mut last = None;
    let read = async {
        loop {
            let is_last = done.load(Ordering::Acquire);
            let answer = hub.sync(&bob, Some(&since), json!({})).await;
            since = next(&answer);
            for section in ["join", "leave"] {
                let told = &answer["rooms"][section][room.as_str()];
                if told.is_null() {
                    continue;
                }
                let own = timeline(told)
                    .into_iter()
                    .rfind(|event| event["state_key"] == bob.user.as_str());
                if let Some(own) = own {
                    assert_eq!(own["content"]["membership"], section);
                }
                last = Some(section);
            }
            if is_last {
                break;
            }
        }
    };
    tokio::join!(act, read);
    assert_eq!(last, Some("join"));
}

/// Random histories in several rooms: what a reader is told piece by piece, gaps filled, is the
/// log, in its order, each event once; and the state told piece by piece is the room's.
#[tokio::test]
async fn syncs_put_together_are_the_log() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        let bob = hub.account(&format!("bob{seed}")).await;
        let room = hub.public_room(&ana, &[&bob]).await;
        let mut reader = Told::default();
        reader.sync(&hub, &bob, &room).await;
        for step in 0..60 {
            act(&hub, &mut rng, (&ana, &bob), &room, step).await;
            if rng.random_ratio(1, 6) {
                reader.sync(&hub, &bob, &room).await;
            }
        }
        reader.sync(&hub, &bob, &room).await;
        let log = hub.pages(&bob, &room, Direction::Forward, None, 50).await;
        assert_eq!(reader.events, ids(&log), "seed {seed}");
        let caller = bob.caller();
        let state = reading::state(&hub.hub, &caller, get_state_events::v3::Request::new(room));
        let state = body(state.await.unwrap());
        let mut state = ids(state.as_array().unwrap());
        let mut told: Vec<_> = reader.state.values().cloned().collect();
        state.sort();
        told.sort();
        assert_eq!(told, state, "seed {seed}");
    }
}

async fn act(
    hub: &TestHub,
    rng: &mut StdRng,
    (ana, bob): (&Person, &Person),
    room: &OwnedRoomId,
    step: u32,
) {
    let text = format!("{room} {step}");
    match rng.random_range(0..8) {
        0 => {
            let topic = json!({ "topic": text });
            hub.set(ana, room, ("m.room.topic", ""), topic)
                .await
                .unwrap();
        }
        1 => {
            let content = json!({ "n": step });
            let key = rng.random_range(0..4).to_string();
            hub.set(ana, room, ("test.state", &key), content)
                .await
                .unwrap();
        }
        2 => {
            let said = hub.say(bob, room, &text).await;
            hub.redact(ana, room, &said).await.unwrap();
        }
        3..6 => drop(hub.say(bob, room, &text).await),
        _ => {
            for n in 0..rng.random_range(1..14) {
                hub.say(ana, room, &format!("{text} {n}")).await;
            }
        }
    }
}

/// What a careful client knows of one room.
#[derive(Default)]
struct Told {
    since: Option<String>,
    events: Vec<String>,
    state: BTreeMap<(String, String), String>,
}

impl Told {
    async fn sync(&mut self, hub: &TestHub, who: &Person, room: &OwnedRoomId) {
        let answer = hub.sync(who, self.since.as_deref(), json!({})).await;
        let section = &answer["rooms"]["join"][room.as_str()];
        if section["timeline"]["limited"] == true {
            let start = section["timeline"]["prev_batch"].as_str();
            let mut gap = hub.pages(who, room, Direction::Backward, start, 9).await;
            gap.reverse();
            let known = self.events.len();
            assert_eq!(self.events, ids(&gap)[..known], "history does not change");
            self.events = ids(&gap);
        }
        let none = Vec::new();
        let state = section["state"]["events"].as_array().unwrap_or(&none);
        for event in state.iter().chain(&timeline(section)) {
            if let Some(key) = event["state_key"].as_str() {
                let kind = event["type"].as_str().unwrap();
                let id = event["event_id"].as_str().unwrap();
                self.state
                    .insert((kind.to_owned(), key.to_owned()), id.to_owned());
            }
        }
        self.events.extend(ids(&timeline(section)));
        self.since = Some(next(&answer));
    }
}
