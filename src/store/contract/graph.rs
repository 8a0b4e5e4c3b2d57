//! Promises about the graph: forks, places, markers, and states coded as deltas.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sha2::{Digest as _, Sha256};

use super::{
    Pen, commit,
    pen::{hash, user},
};
use crate::{
    base::{EventHash, Seq},
    room::{Membership, StateKey},
    store::{EventNid, Kinds, Logged, NewLogged, Order, RoomNid, StateNid, Status, Store, Write},
    wire::matrix::event_id,
};

/// Two events with the same parent, both tips; a merge; an event that soft-failed; one with a
/// place only; and a marker where resolution changed the state.
pub(super) async fn a_forked_graph_is_loaded(store: &dyn Store) {
    let mut room = Pen::new(store, "fork");
    let topic = StateKey::new("m.room.topic", "");
    let creation = room.state(store, &StateKey::new("m.room.create", ""));
    let left = room.state(store, &topic);
    let state_left = room.state;
    // The right branch forks off the root and loses its topic to no one: it is resolved later.
    let mut right = room.event(store, "m.room.topic", Some(""));
    right.prev = vec![hash(creation)];
    right.depth = 2;
    let right_nid = right.nid;
    room.append(right);
    room.heads.tips = vec![(event_id(hash(left)), 2), (event_id(hash(right_nid)), 2)];
    // Resolution prefers the right one: current state changes, and a marker says so.
    room.model.insert(topic.clone(), right_nid);
    let resolved = room.change_state(store, vec![right_nid], vec![left]);
    room.also(Write::Current {
        room: room.nid,
        key: topic.clone(),
        event: Some(right_nid),
    });
    let marker = b"resolved".to_vec();
    let marker_id: [u8; 32] = Sha256::digest(&marker).into();
    room.entry(NewLogged::Marker(marker.clone()), &marker_id);
    let mut soft = room.event(store, "m.room.message", None);
    soft.soft_failed = true;
    soft.prev = vec![hash(left)];
    let soft_hash = soft.hash;
    room.also(Write::Event(soft));
    commit(store, room.take()).await;

    let stored = store.room(&room.id).await.expect("read").expect("stored");
    assert_eq!(stored.heads.tips.len(), 2);
    assert_eq!(stored.heads, room.heads);

    let mut merge = room.event(store, "m.room.message", None);
    merge.prev = vec![hash(left), hash(right_nid)];
    assert_eq!(merge.depth, 3);
    room.append(merge);
    let mut places = Vec::new();
    for depth in [5, 7, 6] {
        let mut old = room.event(store, "m.room.message", None);
        old.status = Status::Outlier;
        old.depth = depth;
        places.push(old.nid);
        room.also(Write::Place {
            room: room.nid,
            anchor: Seq(1),
            depth,
            event: old.nid,
        });
        room.also(Write::Event(old));
    }
    commit(store, room.take()).await;

    let stored = store.room(&room.id).await.expect("read").expect("stored");
    assert_eq!(stored.heads.tips.len(), 1);
    let log = store
        .log(room.nid, Seq::ZERO, Seq(9), Order::Forward, 9)
        .await
        .expect("read");
    assert_eq!(log.len(), 5);
    let markers: Vec<_> = log
        .iter()
        .filter_map(|entry| match &entry.what {
            Logged::Marker(bytes) => Some((entry.seq, bytes.clone())),
            Logged::Event(_) => None,
        })
        .collect();
    assert_eq!(markers, [(Seq(4), marker)]);
    events_have_their_numbers(store, (hash(left), left), soft_hash).await;
    let soft = store.event(soft_hash).await.expect("read").expect("stored");
    assert_eq!((soft.seq, soft.soft_failed), (None, true));
    let found = store
        .places(room.nid, Seq(1), Order::Backward, 0, 2)
        .await
        .expect("read");
    let found: Vec<_> = found
        .iter()
        .map(|event| (event.depth, event.status, event.seq))
        .collect();
    assert_eq!(
        found,
        [(7, Status::Outlier, None), (6, Status::Outlier, None)]
    );
    assert!(
        store
            .places(room.nid, Seq(2), Order::Backward, 0, 9)
            .await
            .expect("read")
            .is_empty()
    );

    places_are_found_by_their_anchors(store, room.nid).await;

    let before = store.state_entries(room.nid, state_left.nid, std::slice::from_ref(&topic));
    assert_eq!(one(before.await.expect("read")), Some(left));
    let after = store.state_entries(room.nid, resolved, std::slice::from_ref(&topic));
    assert_eq!(one(after.await.expect("read")), Some(right_nid));
    assert_eq!(
        store.state(resolved).await.expect("read"),
        [creation, right_nid]
    );
    has_one_of(store, [(state_left.nid, left), (resolved, right_nid)]).await;
    an_outlier_is_placed(store, &mut room, *places.first().expect("there are three")).await;
}

/// Each of two states has its own event, and not the other's.
async fn has_one_of(store: &dyn Store, states: [(StateNid, EventNid); 2]) {
    let both = states.map(|(_, event)| event);
    for (state, wanted) in states {
        let found = store.in_state(state, &both).await;
        assert_eq!(found.expect("read"), [wanted]);
    }
}

async fn events_have_their_numbers(
    store: &dyn Store,
    (left, nid): (EventHash, EventNid),
    soft: EventHash,
) {
    let asked = [soft, EventHash([9; 32]), left];
    let numbered = store.numbered(&asked).await.expect("read");
    let numbered: BTreeMap<_, _> = numbered.into_iter().collect();
    assert_eq!(numbered.len(), 2, "what is not stored has no number");
    assert_eq!(numbered.get(&left), Some(&nid));
    assert!(numbered.contains_key(&soft));
    assert_eq!(store.numbered(&[]).await.expect("read"), []);
}

async fn places_are_found_by_their_anchors(store: &dyn Store, room: RoomNid) {
    let oldest = store.places(room, Seq(1), Order::Forward, 1, 1).await;
    let oldest = oldest.expect("read");
    assert_eq!(oldest.first().map(|event| event.depth), Some(6));
    let anchors = async |from, to| store.anchors(room, from, to, 9).await.expect("read");
    assert_eq!(anchors(Seq::ZERO, Seq(9)).await, [Seq(1)]);
    assert!(anchors(Seq(1), Seq(9)).await.is_empty());
}

/// An event that came as an outlier gets its place in the log later.
async fn an_outlier_is_placed(store: &dyn Store, room: &mut Pen, late: EventNid) {
    room.entry(NewLogged::Event(late), &hash(late).0);
    commit(store, room.take()).await;
    let late = store
        .event(hash(late))
        .await
        .expect("read")
        .expect("stored");
    assert_eq!(late.seq, Some(Seq(6)));
}

fn one(found: Vec<Option<crate::store::EventRecord>>) -> Option<EventNid> {
    found.into_iter().flatten().next().map(|event| event.nid)
}

pub(super) async fn states_equal_a_model(store: &dyn Store, seed: u64, steps: u32) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut room = Pen::new(store, "states");
    let mut past: Vec<(StateNid, BTreeMap<StateKey, EventNid>)> = Vec::new();
    let kinds = ["m.room.member", "m.room.topic", "x"];
    for _ in 0..steps {
        let kind = kinds
            .get(rng.random_range(0..3))
            .copied()
            .unwrap_or_default();
        // A state key is any text, also with a zero in it.
        let key = StateKey::new(kind, format!("\0{}", rng.random_range(0..40)));
        if rng.random_range(0..8) == 0 && room.model.contains_key(&key) {
            let gone = room.model.remove(&key).into_iter().collect();
            room.change_state(store, Vec::new(), gone);
            room.also(Write::Current {
                room: room.nid,
                key: key.clone(),
                event: None,
            });
        } else {
            room.state(store, &key);
        }
        past.push((room.state.nid, room.model.clone()));
        if rng.random_range(0..5) == 0 {
            commit(store, room.take()).await;
        }
    }
    commit(store, room.take()).await;

    let keys: Vec<StateKey> = (0..41)
        .flat_map(|n| kinds.map(|kind| StateKey::new(kind, format!("\0{n}"))))
        .collect();
    for (nid, model) in past.iter().step_by(7) {
        let mut wanted: Vec<EventNid> = model.values().copied().collect();
        wanted.sort_unstable();
        assert_eq!(
            store.state(*nid).await.expect("read"),
            wanted,
            "state {nid:?}"
        );
        let found = store
            .state_entries(room.nid, *nid, &keys)
            .await
            .expect("read");
        for (key, event) in keys.iter().zip(found) {
            assert_eq!(
                event.map(|event| event.nid),
                model.get(key).copied(),
                "{key}"
            );
        }
    }
    for (nid, model) in past.iter().step_by(13).chain(past.last()) {
        equals_by_type(store, &room, *nid, model).await;
    }
    let current = store.current(room.nid, &keys).await.expect("read");
    for (key, event) in keys.iter().zip(current) {
        assert_eq!(
            event.map(|event| event.nid),
            room.model.get(key).copied(),
            "{key}"
        );
    }
    let all = store.current_all(room.nid, None).await.expect("read");
    let all: Vec<_> = all.iter().map(|event| event.nid).collect();
    let wanted: Vec<_> = room.model.values().copied().collect();
    assert_eq!(all, wanted, "ordered by type and key");
    let topics = store
        .current_all(room.nid, Some("m.room.topic"))
        .await
        .expect("read");
    let wanted = room
        .model
        .keys()
        .filter(|key| key.kind == "m.room.topic")
        .count();
    assert_eq!(topics.len(), wanted);
    assert!(store.state(StateNid(0)).await.expect("read").is_empty());
}

/// A state read by type, current or not, is what the model has of those types.
async fn equals_by_type(
    store: &dyn Store,
    room: &Pen,
    state: StateNid,
    model: &BTreeMap<StateKey, EventNid>,
) {
    let (member, topic) = ("m.room.member", "m.room.topic");
    for kinds in [
        Kinds::Only(&[topic]),
        Kinds::Only(&["x", topic, "x", "never"]),
        Kinds::Only(&[]),
        Kinds::Without(&[member]),
        Kinds::Without(&[topic, member, topic]),
        Kinds::Without(&["a", "z"]),
        Kinds::Without(&[]),
    ] {
        let mut wanted: Vec<EventNid> = model
            .iter()
            .filter(|(key, _)| kinds.want(&key.kind))
            .map(|(_, nid)| *nid)
            .collect();
        wanted.sort_unstable();
        let found = store.state_events(room.nid, state, kinds).await;
        let found: Vec<EventNid> = found.expect("read").iter().map(|event| event.nid).collect();
        assert_eq!(found, wanted, "{kinds:?} of state {state:?}");
    }
}

pub(super) async fn one_room_does_not_read_anothers_state(store: &dyn Store) {
    let ana = user("ana");
    let mut rooms = ["one", "two"].map(|name| Pen::new(store, name));
    for room in &mut rooms {
        room.member(store, &ana, Membership::Join);
        commit(store, room.take()).await;
    }
    let key = StateKey::member(&ana);
    for room in &rooms {
        let found = store
            .current(room.nid, std::slice::from_ref(&key))
            .await
            .expect("read");
        assert_eq!(one(found), room.model.get(&key).copied());
        let found = store.state_entries(room.nid, room.state.nid, std::slice::from_ref(&key));
        assert_eq!(
            one(found.await.expect("read")),
            room.model.get(&key).copied()
        );
        let found = store.state_events(room.nid, room.state.nid, Kinds::Without(&[]));
        let found: Vec<_> = found.await.expect("read").into_iter().map(Some).collect();
        assert_eq!(one(found), room.model.get(&key).copied());
    }
    let [first, second] = &rooms;
    let numbers = store.room_numbers(RoomNid(0), 9).await.expect("read");
    assert_eq!(numbers, [first.nid, second.nid]);
    let numbers = store.room_numbers(first.nid, 9).await.expect("read");
    assert_eq!(numbers, [second.nid]);
}
