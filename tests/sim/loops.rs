//! The fault loop: a fixed story, told once for every store operation in it with that one failing,
//! until a telling ends before its fault is reached. Whatever fails, no telling may leave a gap or
//! a lie.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use ruma::{
    OneTimeKeyAlgorithm, OwnedEventId, OwnedRoomId,
    api::client::{
        keys::{claim_keys::v3 as claim, upload_keys::v3 as upload},
        membership::{join_room_by_id::v3 as join, leave_room::v3 as leave},
        message::send_message_event::v3 as send,
        redact::redact_event::v3 as redact,
        room::create_room::v3 as create,
        state::send_state_event::v3 as state,
        sync::sync_events::v3 as sync,
        to_device::send_event_to_device::v3 as to_device,
    },
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde_json::{Value, json};
use tramline::{
    api::{Command, Reply, Service as _},
    base::Seq,
    hub::Hub,
    store::{
        Logged, Order, SharedStore, Store,
        faulty::{Fault, Faulty},
        fsck, hash_of,
        memory::Memory,
        sqlite::{OpenOptions, Sqlite},
    },
    wire::matrix::event_id,
};

use crate::{
    flaky::SimClock,
    world::{Person, SERVER, people_arrive, start},
};

/// How often a client asks again; one operation fails, so twice is enough where nothing hangs on
/// it, and what fails with it may fail once more.
const TRIES: usize = 4;

/// The story would have to be this much longer to make the loop end for another reason.
const OPERATIONS_MAX: u64 = 2000;

/// What was acknowledged while the story was told.
#[derive(Default)]
struct Told {
    room: Option<OwnedRoomId>,
    /// Event and its transaction, in order of acknowledgement.
    events: Vec<(OwnedEventId, String)>,
    redacted: Option<OwnedEventId>,
    claimed: Vec<String>,
    mail: usize,
    seen: Vec<OwnedEventId>,
}

struct Story<'a> {
    hub: &'a Arc<Hub>,
    clock: &'a SimClock,
    ana: &'a Person,
    bob: &'a Person,
    told: Told,
}

impl Story<'_> {
    /// Asks until it is done. A client that meets our fault asks again.
    async fn ask(&self, who: &Person, command: Command) -> Reply {
        let mut last = None;
        for _ in 0..TRIES {
            match self.hub.ask(who.origin(), command.clone()).await {
                Ok(reply) => return reply,
                Err(refusal) => {
                    assert!(refusal.status >= 500, "{}: {refusal}", command.name());
                    last = Some(refusal);
                    // Two rooms wished for alike in one millisecond have one id in version 12.
                    self.clock.forward(1);
                }
            }
        }
        panic!("{}: {last:?}", command.name());
    }

    fn room(&self) -> OwnedRoomId {
        self.told
            .room
            .clone()
            .expect("the story begins with a room")
    }

    async fn say(&mut self, who: &Person, txn: &str) -> OwnedEventId {
        let body = raw(&json!({ "msgtype": "m.text", "body": txn }));
        let request =
            send::Request::new_raw(self.room(), txn.into(), "m.room.message".into(), body);
        let Reply::Send(reply) = self.ask(who, Command::Send(Box::new(request))).await else {
            panic!("another reply");
        };
        self.told
            .events
            .push((reply.event_id.clone(), txn.to_owned()));
        reply.event_id
    }

    async fn tell(&mut self) {
        let (ana, bob) = (self.ana, self.bob);
        let mut request = create::Request::new();
        request.preset = Some(create::RoomPreset::PublicChat);
        let Reply::CreateRoom(reply) = self.ask(ana, Command::CreateRoom(Box::new(request))).await
        else {
            panic!("another reply");
        };
        self.told.room = Some(reply.room_id);
        self.ask(
            bob,
            Command::Join(Box::new(join::Request::new(self.room()))),
        )
        .await;
        let since = self.look(bob, None).await;
        let first = self.say(ana, "one").await;
        self.say(bob, "two").await;
        let body = raw(&json!({ "topic": "links" }));
        let request =
            state::Request::new_raw(self.room(), "m.room.topic".into(), String::new(), body);
        self.ask(ana, Command::SendState(Box::new(request))).await;
        let request = redact::Request::new(self.room(), first.clone(), "three".into());
        let Reply::Redact(reply) = self.ask(ana, Command::Redact(Box::new(request))).await else {
            panic!("another reply");
        };
        self.told.events.push((reply.event_id, "three".to_owned()));
        self.told.redacted = Some(first);
        self.keys().await;
        let letters = [(
            DeviceIdOrAllDevices::AllDevices,
            raw(&json!({ "mark": "mail" })),
        )];
        let letters = [(bob.user.clone(), BTreeMap::from(letters))].into();
        let request = to_device::Request::new_raw("sim.note".into(), "four".into(), letters);
        self.ask(ana, Command::SendToDevice(Box::new(request)))
            .await;
        self.say(ana, "five").await;
        let since = self.look(bob, Some(since)).await;
        self.look(bob, Some(since)).await;
        self.ask(
            bob,
            Command::Leave(Box::new(leave::Request::new(self.room()))),
        )
        .await;
        self.say(ana, "six").await;
    }

    async fn keys(&mut self) {
        let (ana, bob) = (self.ana, self.bob);
        let mut request = upload::Request::new();
        for n in 0..4 {
            let id = format!("signed_curve25519:K{n}");
            let key = raw(&json!({ "key": id, "signatures": {} }));
            request
                .one_time_keys
                .insert(id.as_str().try_into().unwrap(), key);
        }
        self.ask(bob, Command::UploadKeys(Box::new(request))).await;
        for _ in 0..2 {
            let algorithm = OneTimeKeyAlgorithm::SignedCurve25519;
            let devices = BTreeMap::from([(bob.device.clone(), algorithm)]);
            let request = claim::Request::new([(bob.user.clone(), devices)].into());
            let Reply::ClaimKeys(reply) =
                self.ask(ana, Command::ClaimKeys(Box::new(request))).await
            else {
                panic!("another reply");
            };
            let keys = reply.one_time_keys.values().flat_map(BTreeMap::values);
            let ids: Vec<String> = keys
                .flat_map(BTreeMap::keys)
                .map(ToString::to_string)
                .collect();
            assert_eq!(ids.len(), 1, "bob has keys left");
            self.told.claimed.extend(ids);
        }
    }

    async fn look(&mut self, who: &Person, since: Option<String>) -> String {
        let mut request = sync::Request::new();
        request.since.clone_from(&since);
        request.timeout = Some(Duration::ZERO);
        let Reply::Sync(reply) = self.ask(who, Command::Sync(Box::new(request))).await else {
            panic!("another reply");
        };
        self.told.mail += reply.to_device.events.len();
        if since.is_some()
            && let Some(room) = reply.rooms.join.get(&self.room())
        {
            let id = |event: &Raw<_>| event.get_field("event_id").unwrap().unwrap();
            self.told.seen.extend(room.timeline.events.iter().map(id));
        }
        reply.next_batch
    }
}

fn raw<T>(value: &Value) -> Raw<T> {
    Raw::from_json_string(value.to_string()).unwrap()
}

fn people() -> Vec<Person> {
    vec![Person::new("ana", "PHONE"), Person::new("bob", "PHONE")]
}

/// Tells the story with operation `n` failing. Nothing when it ended before.
async fn tell(store: SharedStore, n: u64, fault: Fault) -> Option<Told> {
    let people = people();
    people_arrive(&*store, &people).await;
    let faulty = Arc::new(Faulty::new(store));
    faulty.fail_at(n, fault);
    let clock = Arc::new(SimClock::new());
    let hub = match start(faulty.clone(), clock.clone(), 7, 2).await {
        Ok(hub) => hub,
        Err(_) => start(faulty.clone(), clock.clone(), 7, 2)
            .await
            .expect("only one operation fails"),
    };
    let mut telling = Story {
        hub: &hub,
        clock: &clock,
        ana: &people[0],
        bob: &people[1],
        told: Told::default(),
    };
    telling.tell().await;
    let told = telling.told;
    hub.drain().await;
    drop(hub);
    while Arc::strong_count(&faulty) > 1 {
        tokio::task::yield_now().await; // aborted tasks are dropped when it is their turn
    }
    (faulty.operations() >= n).then_some(told)
}

/// No gap, no lie.
async fn check(store: &dyn Store, told: &Told, at: &str) {
    let report = fsck::fsck(store, &mut |_| {}).await.unwrap();
    assert!(report.is_clean(), "{at}: {:?}", report.findings);
    let id = told.room.as_ref().unwrap();
    let room = store.room(id).await.unwrap().expect("the room is there");
    let log = store.log(
        room.nid,
        Seq::ZERO,
        room.heads.seq,
        Order::Forward,
        u32::MAX,
    );
    let log: Vec<_> = log
        .await
        .unwrap()
        .into_iter()
        .filter_map(|entry| match entry.what {
            Logged::Event(event) => Some(event),
            Logged::Marker(_) => None,
        })
        .collect();
    let sent: Vec<(OwnedEventId, String)> = log
        .iter()
        .filter_map(|event| Some((event_id(event.hash), event.sent_by.as_ref()?.txn.clone())))
        .collect();
    assert_eq!(sent, told.events, "{at}: what was sent, once and in order");
    let redacted = told.redacted.as_ref().and_then(|id| hash_of(id)).unwrap();
    let redacted = store.event(redacted).await.unwrap().unwrap();
    assert!(redacted.redacted_because.is_some(), "{at}: redacted");
    let mut claimed = told.claimed.clone();
    claimed.dedup();
    assert_eq!(claimed.len(), 2, "{at}: {claimed:?}");
    assert_eq!(told.mail, 1, "{at}: mail is told once");
    // Bob looked from his arrival until just before he left.
    let seen: Vec<_> = log.iter().map(|event| event_id(event.hash)).collect();
    let from = seen.iter().position(|id| *id == told.events[0].0).unwrap();
    assert_eq!(
        told.seen,
        seen[from..from + told.seen.len()],
        "{at}: bob saw all, in order"
    );
    assert_eq!(
        told.seen.last(),
        Some(&told.events[3].0),
        "{at}: up to the fifth"
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn whichever_operation_fails_in_memory_nothing_is_lost_or_told_twice() {
    for fault in Fault::ALL {
        let ended = (1..OPERATIONS_MAX).find(|n| {
            runtime().block_on(async {
                let store = Arc::new(Memory::new());
                let at = format!("operation {n} {fault:?}");
                let Some(told) = tell(store.clone(), *n, fault).await else {
                    return true;
                };
                check(&*store, &told, &at).await;
                false
            })
        });
        println!(
            "{fault:?}: {} operations",
            ended.expect("the story ends") - 1
        );
    }
}

#[test]
fn whichever_operation_fails_in_sqlite_nothing_is_lost_or_told_twice() {
    let ended = (1..OPERATIONS_MAX).find(|n| {
        let which = usize::try_from(*n).unwrap() % Fault::ALL.len();
        runtime().block_on(in_sqlite(*n, Fault::ALL[which]))
    });
    println!("{} operations", ended.expect("the story ends") - 1);
}

/// One telling over a file, which is opened anew before it is checked. True when it ended early.
async fn in_sqlite(n: u64, fault: Fault) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.db");
    let store = Arc::new(open(&path).await);
    let told = tell(store.clone(), n, fault).await;
    let Ok(store) = Arc::try_unwrap(store) else {
        panic!("a drained hub lets go of its store");
    };
    store.close().await;
    let Some(told) = told else {
        return true;
    };
    let store = open(&path).await;
    check(&store, &told, &format!("operation {n} {fault:?}")).await;
    store.close().await;
    false
}

async fn open(path: &Path) -> Sqlite {
    let options = OpenOptions::new(path, SERVER.try_into().unwrap()).readers(1);
    Sqlite::open(options).await.unwrap()
}
