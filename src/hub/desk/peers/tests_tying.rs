//! Rooms in which others leave more branches than one event can follow.

use ruma::{
    api::client::{message::send_message_event, state::send_state_event},
    serde::Raw,
};
use serde_json::json;

use super::tests::{Shared, said_by};
use crate::{
    api::Refusal,
    base::Seq,
    hub::testing::{self, Person},
    store::{Logged, Order},
    wire::matrix::{PREV_EVENTS_MAX, Pdu},
};

/// Servers that leave branches, and how many each: together more than one event may follow, and fewer
/// than a room has.
const SERVERS: [&str; 4] = ["far", "fir", "fur", "for"];
const FORKS_EACH: usize = 9;
const FORKS: usize = SERVERS.len() * FORKS_EACH;

impl Shared {
    async fn tips(&self) -> Vec<ruma::OwnedEventId> {
        let room = self.hub.hub.store().room(&self.room).await;
        let tips = room.unwrap().unwrap().heads.tips;
        tips.into_iter().map(|(id, _)| id).collect()
    }

    /// The room's log.
    async fn log(&self) -> Vec<Pdu> {
        let store = self.hub.hub.store();
        let room = store.room(&self.room).await.unwrap().unwrap();
        let entries = store.log(room.nid, Seq::ZERO, room.heads.seq, Order::Forward, 1000);
        let mut log = Vec::new();
        for entry in entries.await.unwrap() {
            if let Logged::Event(event) = entry.what {
                log.push(event.pdu(&room).unwrap());
            }
        }
        log
    }

    async fn forks(&self) -> Vec<Pdu> {
        let mut joins = Vec::new();
        for server in SERVERS {
            joins.push((server, self.joined(server).await));
        }
        let last = joins.last().unwrap().1.clone();
        let mut forks = Vec::new();
        for (server, join) in &joins {
            for number in 0..FORKS_EACH {
                forks.push(said_by(server, &last, join, &number.to_string()));
            }
        }
        // One server tells those of all.
        let all: Vec<&Pdu> = forks.iter().collect();
        for all in all.chunks(30) {
            assert!(
                self.transaction(all)
                    .await
                    .iter()
                    .all(|(_, taken)| taken.is_ok())
            );
        }
        forks
    }

    async fn say(&self, who: &Person, text: &str) -> Result<ruma::OwnedEventId, Refusal> {
        let content = json!({ "msgtype": "m.text", "body": text }).to_string();
        let request = send_message_event::v3::Request::new_raw(
            self.room.clone(),
            text.into(),
            "m.room.message".into(),
            Raw::from_json_string(content).unwrap(),
        );
        let sent = testing::ask!(self.hub, who.origin, Send(request));
        sent.map(|sent| sent.event_id)
    }
}

#[tokio::test]
async fn branches_that_one_event_cannot_follow_are_tied_though_nobody_here_talks() {
    let shared = Shared::open().await;
    let forks = shared.forks().await;

    let tips = shared.tips().await;
    assert_eq!(tips.len(), FORKS - PREV_EVENTS_MAX + 1);
    let log = shared.log().await;
    let knots = log
        .iter()
        .filter(|event| event.fields().kind == "org.matrix.dummy_event");
    let [knot] = knots.collect::<Vec<_>>()[..] else {
        panic!("not one knot");
    };
    assert_eq!(knot.fields().sender, shared.ana.user);
    assert_eq!(knot.fields().prev.len(), PREV_EVENTS_MAX);
    assert!(tips.contains(knot.id()));
    let is_left = |fork: &&Pdu| tips.contains(fork.id());
    assert_eq!(forks.iter().filter(is_left).count(), tips.len() - 1);
    // What is said now follows all that is left.
    let said = shared.say(&shared.ana, "hello").await.unwrap();
    assert_eq!(shared.tips().await, [said]);
}

#[tokio::test]
async fn where_nobody_may_tie_them_the_branches_stay_until_they_are_followed() {
    let shared = Shared::open().await;
    let bob = shared.hub.account("bob").await;
    let join =
        ruma::api::client::membership::join_room_by_id::v3::Request::new(shared.room.clone());
    testing::ask!(shared.hub, bob.origin, Join(join)).unwrap();
    let levels = json!({ "events": { "org.matrix.dummy_event": 100 } }).to_string();
    let levels = send_state_event::v3::Request::new_raw(
        shared.room.clone(),
        "m.room.power_levels".into(),
        String::new(),
        Raw::from_json_string(levels).unwrap(),
    );
    testing::ask!(shared.hub, shared.ana.origin, SendState(levels)).unwrap();
    let leave = ruma::api::client::membership::leave_room::v3::Request::new(shared.room.clone());
    testing::ask!(shared.hub, shared.ana.origin, Leave(leave)).unwrap();
    shared.forks().await;
    assert_eq!(shared.tips().await.len(), FORKS);

    let first = shared.say(&bob, "first").await.unwrap();
    let tips = shared.tips().await;
    assert_eq!(tips.len(), FORKS - PREV_EVENTS_MAX + 1);
    assert!(tips.contains(&first));
    let second = shared.say(&bob, "second").await.unwrap();
    assert_eq!(shared.tips().await, [second]);
}
