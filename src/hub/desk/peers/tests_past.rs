//! What came late, from another server whose part a table plays: history from before a join, gaps,
//! and answers that are not to be believed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, ServerName, UInt,
    api::{
        Direction,
        client::message::get_message_events,
        federation::{
            backfill::get_backfill,
            event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
            transactions::send_transaction_message,
        },
    },
};
use serde_json::value::RawValue;

use crate::{
    api::{
        Command, Credentials, Origin, PeerCommand, PeerReply, Remote, RemoteError, Reply,
        Unverified,
    },
    hub::{
        graph::{Arrival, arrive},
        testing::{self, Person, TestHub},
    },
    room::{
        MemberChange, StateKey,
        testing::{ANA, BEN, Table, member, message, state},
    },
    store::fsck,
    wire::matrix::{Pdu, Version},
};

const ZOE: &str = "@zoe:hub.example";

/// The server `hub` of the table, which knows all that was said on it.
#[derive(Default)]
struct Elder {
    log: Mutex<Vec<Arc<Pdu>>>,
    /// How many events of history it gives at a time.
    page: usize,
    asked: AtomicUsize,
    /// Who was asked for history, in turn. Another server has none.
    asked_of: Mutex<Vec<String>>,
    /// Whether it says that the state is whatever event is asked for.
    lies: bool,
}

impl Elder {
    fn at(&self, id: &OwnedEventId) -> Option<usize> {
        let log = self.log.lock().unwrap();
        log.iter().position(|event| event.id() == id)
    }

    /// The state before the event with this place: the table's log is straight.
    fn state_before(&self, at: usize) -> Vec<Arc<Pdu>> {
        let mut state = BTreeMap::new();
        for event in self.log.lock().unwrap().iter().take(at) {
            let fields = event.fields();
            if let Some(key) = &fields.state_key {
                state.insert(StateKey::new(&fields.kind, key), Arc::clone(event));
            }
        }
        state.into_values().collect()
    }
}

#[async_trait]
impl Remote for Elder {
    async fn ask(
        &self,
        server: &ServerName,
        command: PeerCommand,
        _patience: Duration,
    ) -> Result<PeerReply, RemoteError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let unknown = RemoteError::Refused {
            server: server.to_string(),
            status: 404,
            code: "M_NOT_FOUND".to_owned(),
            message: String::new(),
        };
        if let PeerCommand::Backfill(_) = &command {
            self.asked_of.lock().unwrap().push(server.to_string());
        }
        if server != "hub" {
            return Err(unknown);
        }
        let now = MilliSecondsSinceUnixEpoch(UInt::from(1_u32));
        let ids = |events: &[Arc<Pdu>]| events.iter().map(|event| event.id().clone()).collect();
        Ok(match command {
            PeerCommand::MissingEvents(_) => PeerReply::MissingEvents(Box::new(
                get_missing_events::v1::Response::new(Vec::new()),
            )),
            PeerCommand::PeerEvent(asked) => {
                let at = self.at(&asked.event_id).ok_or(unknown)?;
                let event = raw(&self.log.lock().unwrap()[at]);
                let answer = get_event::v1::Response::new(server.to_owned(), now, event);
                PeerReply::PeerEvent(Box::new(answer))
            }
            PeerCommand::StateIdsBefore(asked) => {
                let at = self.at(&asked.event_id).ok_or(unknown)?;
                let state = if self.lies {
                    self.log.lock().unwrap()[at..=at].to_vec()
                } else {
                    self.state_before(at)
                };
                let answer = get_room_state_ids::v1::Response::new(ids(&state), ids(&state));
                PeerReply::StateIdsBefore(Box::new(answer))
            }
            PeerCommand::StateBefore(asked) => {
                let at = self.at(&asked.event_id).ok_or(unknown)?;
                let state: Vec<_> = self.state_before(at).iter().map(raw).collect();
                let answer = get_room_state::v1::Response::new(state.clone(), state);
                PeerReply::StateBefore(Box::new(answer))
            }
            PeerCommand::Backfill(asked) => {
                let at = asked.v.iter().filter_map(|id| self.at(id)).max();
                let at = at.ok_or(unknown)?;
                let log = self.log.lock().unwrap();
                let back = log[..=at].iter().rev().take(self.page).map(raw).collect();
                let answer = get_backfill::v1::Response::new(server.to_owned(), now, back);
                PeerReply::Backfill(Box::new(answer))
            }
            other => panic!("{}", other.name()),
        })
    }

    async fn verified(&self, json: &str, version: Version) -> Result<Pdu, Unverified> {
        Pdu::read(json, version).map_err(|error| Unverified::Wrong(error.to_string()))
    }
}

fn raw(event: &Arc<Pdu>) -> Box<RawValue> {
    RawValue::from_string(event.json().to_string()).unwrap()
}

/// Zoe of this hub in a room of that server, and what was said there before.
struct Newcomer {
    hub: TestHub,
    elder: Arc<Elder>,
    table: Table,
    zoe: Person,
}

impl Newcomer {
    async fn after(said: usize, elder: Elder) -> Self {
        let mut table = Table::busy(Version::V12);
        for number in 0..said {
            if number % 10 == 3 {
                let topic = serde_json::json!({ "topic": number.to_string() });
                table.take(ANA, &state("m.room.topic", topic)).unwrap();
            }
            table.take(BEN, &message(&format!("old {number}"))).unwrap();
        }
        let elder = Arc::new(elder);
        let hub = testing::hub_among(Arc::clone(&elder) as Arc<dyn Remote>).await;
        let zoe = hub.account("zoe").await;
        let arrival = Arrival {
            version: Version::V12,
            state: table.stored.values().cloned().collect(),
            // A server tells what its state leans on, and nothing besides.
            auth_chain: table
                .log
                .iter()
                .filter(|event| event.fields().state_key.is_some())
                .cloned()
                .collect(),
            join: {
                table.take(ZOE, &member(ZOE, MemberChange::Join)).unwrap();
                Arc::clone(table.log.last().unwrap())
            },
        };
        let room = table.room.id().clone();
        arrive(hub.hub.store(), &hub.hub.writer, &room, &arrival)
            .await
            .unwrap();
        *elder.log.lock().unwrap() = table.log.clone();
        Self {
            hub,
            elder,
            table,
            zoe,
        }
    }

    /// Everything that Zoe reads, walking back from now in pages.
    async fn read(&self, page: u32) -> Vec<String> {
        let mut texts = Vec::new();
        let mut from = None;
        for _ in 0..200 {
            let room = self.table.room.id().clone();
            let mut request = get_message_events::v3::Request::new(room, Direction::Backward);
            request.from = from;
            request.limit = UInt::from(page);
            let answer = testing::ask!(self.hub, self.zoe.origin, Messages(request)).unwrap();
            for event in &answer.chunk {
                let event: serde_json::Value = event.deserialize_as_unchecked().unwrap();
                let text = event["content"]["body"].as_str();
                texts.extend(text.map(str::to_owned));
            }
            from = answer.end;
            if from.is_none() {
                return texts;
            }
        }
        panic!("it does not end");
    }

    async fn told(&self, event: &Arc<Pdu>) -> Result<(), String> {
        let mut asked = send_transaction_message::v1::Request::new(
            "t".into(),
            "hub".try_into().unwrap(),
            MilliSecondsSinceUnixEpoch(UInt::from(1_u32)),
        );
        asked.pdus = vec![raw(event)];
        let origin = Origin {
            credentials: Credentials::Server(OwnedServerName::try_from("hub").unwrap()),
            ..testing::stranger()
        };
        let command = PeerCommand::Transaction(Box::new(asked));
        let command = Command::Peer(Box::new(command));
        let Reply::Peer(reply) = self.hub.ask(&origin, command).await.unwrap() else {
            panic!("another answer");
        };
        let PeerReply::Transaction(taken) = *reply else {
            panic!("another answer");
        };
        taken.pdus.into_values().next().unwrap()
    }

    async fn must_be_whole(&self) {
        let report = fsck::fsck(&**self.hub.hub.store(), &mut |_| {})
            .await
            .unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
    }
}

fn olds(numbers: impl DoubleEndedIterator<Item = usize>) -> Vec<String> {
    numbers
        .rev()
        .map(|number| format!("old {number}"))
        .collect()
}

#[tokio::test]
async fn what_was_said_before_the_join_is_fetched_when_it_is_asked_for_and_only_once() {
    let elder = Elder {
        page: 100,
        ..Elder::default()
    };
    let newcomer = Newcomer::after(30, elder).await;
    assert_eq!(newcomer.elder.asked.load(Ordering::Relaxed), 0);
    assert_eq!(newcomer.read(7).await, olds(0..30));
    let asked = newcomer.elder.asked.load(Ordering::Relaxed);
    assert_eq!(newcomer.read(50).await, olds(0..30));
    assert_eq!(newcomer.elder.asked.load(Ordering::Relaxed), asked);
    newcomer.must_be_whole().await;
}

#[tokio::test]
async fn history_is_asked_of_those_who_were_there_before_those_who_are_many_now() {
    let elder = Elder {
        page: 100,
        ..Elder::default()
    };
    let mut newcomer = Newcomer::after(20, elder).await;
    newcomer.table.take(BEN, &message("old 20")).unwrap();
    let said = Arc::clone(newcomer.table.log.last().unwrap());
    newcomer.told(&said).await.unwrap();
    for n in 0..8 {
        let user = format!("@n{n}:crowd");
        let join = member(&user, MemberChange::Join);
        newcomer.table.take(&user, &join).unwrap();
        let join = Arc::clone(newcomer.table.log.last().unwrap());
        newcomer.told(&join).await.unwrap();
    }
    assert_eq!(newcomer.read(50).await, olds(0..21));
    let asked_of = newcomer.elder.asked_of.lock().unwrap().clone();
    assert_eq!(asked_of.first().unwrap(), "hub");
}

#[tokio::test]
async fn history_in_small_pages_stands_on_the_state_that_is_told_before_each() {
    let elder = Elder {
        page: 9,
        ..Elder::default()
    };
    let newcomer = Newcomer::after(40, elder).await;
    assert_eq!(newcomer.read(250).await, olds(0..40));
    newcomer.must_be_whole().await;
}

#[tokio::test]
async fn a_gap_larger_than_a_page_is_closed_by_the_state_before_it_and_read_back_later() {
    let elder = Elder {
        page: 100,
        ..Elder::default()
    };
    let mut newcomer = Newcomer::after(2, elder).await;
    for number in 2..60 {
        let text = format!("old {number}");
        newcomer.table.take(BEN, &message(&text)).unwrap();
    }
    *newcomer.elder.log.lock().unwrap() = newcomer.table.log.clone();
    let last = Arc::clone(newcomer.table.log.last().unwrap());
    newcomer.told(&last).await.unwrap();
    let stored = newcomer.hub.hub.store().event(last.hash()).await;
    assert!(stored.unwrap().unwrap().seq.is_some(), "it is in the log");
    newcomer.must_be_whole().await;
    assert_eq!(newcomer.read(20).await, olds(0..60));
    newcomer.must_be_whole().await;
}

#[tokio::test]
async fn a_state_that_cannot_be_takes_nothing_in() {
    let elder = Elder {
        page: 9,
        lies: true,
        ..Elder::default()
    };
    let mut newcomer = Newcomer::after(20, elder).await;
    assert!(newcomer.read(50).await.is_empty());
    for number in 20..50 {
        let text = format!("old {number}");
        newcomer.table.take(BEN, &message(&text)).unwrap();
    }
    *newcomer.elder.log.lock().unwrap() = newcomer.table.log.clone();
    let last = Arc::clone(newcomer.table.log.last().unwrap());
    assert!(newcomer.told(&last).await.is_err());
    newcomer.must_be_whole().await;
}
