//! Shards and committer one by one: what is told, in which order, when a commit fails or whoever
//! asked has gone. In the tests of a shard, the test is its committer.

use std::{collections::BTreeMap, future::poll_fn, task::Poll};

use futures_util::FutureExt as _;
use ruma::{
    CanonicalJsonObject, OwnedUserId,
    api::client::{
        account::whoami, room::create_room, session::logout, to_device::send_event_to_device,
    },
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};

use super::{queue::Queued, *};
use crate::{
    api::{Command, Nobody, Service as _},
    base::Timestamp,
    hub::{
        fanout::Woken,
        testing::{self, Person, TestHub},
    },
    room::{Evidence, Founding, MemberChange, PolicyRules, found},
    store::{
        Commits as _,
        contract::Pen,
        faulty::{Fault, Faulty},
        memory::Memory,
    },
    wire::matrix::Version,
};

type Told = oneshot::Receiver<Result<Submitted, WriteError>>;

struct Midnight;

impl Clock for Midnight {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000)
    }
}

fn ana() -> OwnedUserId {
    "@ana:hub.example".try_into().unwrap()
}

/// A shard over a store in memory whose batches come here.
struct Bench {
    store: Arc<Faulty>,
    key: Arc<ServerKey>,
    jobs: mpsc::Sender<Job>,
    batches: mpsc::Receiver<Queued>,
}

impl Bench {
    fn new() -> Self {
        let ceiling = Ceiling::split(HOT_STATE_MAX, 1).next();
        Self::below(ceiling.unwrap())
    }

    fn below(ceiling: Ceiling) -> Self {
        let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
        let key = Arc::new(testing::key());
        let (commits, batches) = CommitQueue::new();
        let (jobs, drafts) = mpsc::channel(SHARD_QUEUE_MAX);
        let clock = Arc::new(Midnight);
        let disk = Arc::clone(&store) as SharedStore;
        let policing = Policing::new(None, PolicyRules::default(), Arc::new(Nobody));
        let shard = Shard::new(
            0,
            disk,
            Arc::clone(&key),
            clock,
            Arc::new(policing),
            (commits, ceiling),
        );
        tokio::spawn(shard.run(drafts));
        Self {
            store,
            key,
            jobs,
            batches,
        }
    }

    fn founding(&self, name: &str) -> (OwnedRoomId, Wanted) {
        let founding = Founding {
            creator: ana(),
            version: Version::V11,
            room_id: format!("!{name}:hub.example").try_into().unwrap(),
            content: CanonicalJsonObject::new(),
        };
        let evidence = Evidence {
            now: Midnight.now(),
            key: &self.key,
            target: None,
        };
        let (room, create) = found(&founding, &evidence).unwrap();
        let join = Part::Member {
            target: ana(),
            change: MemberChange::Join,
            content: CanonicalJsonObject::new(),
        };
        let founded = Founded {
            room,
            create,
            nid: self.store.numbers().room(),
            parts: vec![join],
        };
        (founding.room_id, Wanted::Found(Box::new(founded)))
    }

    fn ask(&self, room: &OwnedRoomId, wanted: Wanted) -> Told {
        let (reply, told) = oneshot::channel();
        let job = Job::Want {
            room: room.clone(),
            wanted,
            reply,
        };
        assert!(self.jobs.try_send(job).is_ok());
        told
    }

    async fn batch(&mut self) -> CommitJob {
        self.batches.recv().await.unwrap().job
    }

    async fn room(&mut self) -> OwnedRoomId {
        let (id, wanted) = self.founding("room");
        let told = self.ask(&id, wanted);
        let batch = self.batch().await;
        self.store(batch).await.unwrap();
        told.await.unwrap().unwrap();
        id
    }

    /// How often the store is asked for a message in a room.
    async fn cost(&mut self, room: &OwnedRoomId) -> u64 {
        let before = self.store.operations();
        let told = self.ask(room, message(room.as_str()));
        let batch = self.batch().await;
        let cost = self.store.operations() - before;
        self.store(batch).await.unwrap();
        told.await.unwrap().unwrap();
        cost
    }

    async fn store(&self, job: CommitJob) -> Result<(), crate::store::CommitError> {
        let done = self.store.commit(&[job.batch]).await?;
        let _ = job.reply.send(Ok((done.position, Vec::new())));
        Ok(())
    }
}

fn lost() -> WriteError {
    WriteError::Store(Arc::new(StoreError::Damaged {
        what: "by the test".to_owned(),
    }))
}

/// A message; its text is also its transaction id.
fn message(text: &str) -> Wanted {
    said(text, text)
}

fn said(txn: &str, text: &str) -> Wanted {
    let content = CanonicalJsonObject::from([("body".to_owned(), text.into())]);
    Wanted::Append(
        Submission {
            draft: Draft {
                sender: ana(),
                parts: vec![Part::Event {
                    kind: "m.room.message".to_owned(),
                    state_key: None,
                    content,
                }],
            },
            txn: Some(TxnKey {
                user: ana(),
                device: "PHONE".into(),
                endpoint: "send".to_owned(),
                txn: txn.to_owned(),
            }),
            sent_by: None,
        },
        None,
    )
}

async fn let_others_run() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn after_a_failed_batch_the_next_ones_stand_on_what_is_stored() {
    let mut bench = Bench::new();
    let room = bench.room().await;
    let _one = bench.ask(&room, message("one"));
    let first = bench.batch().await;
    let _two = bench.ask(&room, message("two"));
    let second = bench.batch().await;

    let three = bench.ask(&room, message("three"));
    let _ = first.reply.send(Err(lost()));
    let_others_run().await;
    let _ = second.reply.send(Err(WriteError::Busy)); // void with the first one
    let third = bench.batch().await;
    let_others_run().await;
    let four = bench.ask(&room, message("four"));
    let fourth = bench.batch().await;

    bench.store(third).await.unwrap();
    bench.store(fourth).await.unwrap();
    three.await.unwrap().unwrap();
    four.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_retry_finds_the_answer_on_its_way_also_after_a_refusal_under_the_same_key() {
    let mut bench = Bench::new();
    let room = bench.room().await;
    let refused = bench.ask(&room, said("key", &"x".repeat(70_000)));
    let beside = bench.ask(&room, message("beside"));
    let first = bench.batch().await;
    let good = bench.ask(&room, said("key", "good"));
    let second = bench.batch().await;
    bench.store(first).await.unwrap();
    refused.await.unwrap().unwrap_err();
    beside.await.unwrap().unwrap();

    let retry = bench.ask(&room, said("key", "good"));
    let third = bench.batch().await;

    assert!(third.batch.writes.is_empty(), "{:?}", third.batch.writes);
    bench.store(second).await.unwrap();
    bench.store(third).await.unwrap();
    let good = good.await.unwrap().unwrap();
    let retry = retry.await.unwrap().unwrap();
    assert_eq!(
        retry.events.first().unwrap().0,
        good.events.first().unwrap().0
    );
    assert!(retry.replayed);
}

#[tokio::test]
async fn a_shard_that_is_never_idle_forgets_rooms_but_not_those_being_stored() {
    const ROOMS: usize = shard::HOT_ROOMS_MAX + 20;
    let mut bench = Bench::new();
    let (first, wanted) = bench.founding("first");
    let _told = bench.ask(&first, wanted);
    let mut on_its_way = (first.clone(), bench.batch().await);
    for n in 1..ROOMS {
        let (id, wanted) = bench.founding(&format!("room{n}"));
        let _told = bench.ask(&id, wanted);
        let batch = bench.batch().await;
        bench.store(on_its_way.1).await.unwrap();
        let_others_run().await;
        on_its_way = (id, batch);
    }

    let last = bench.ask(&on_its_way.0, message("last"));
    let last_batch = bench.batch().await;
    bench.store(on_its_way.1).await.unwrap();
    bench.store(last_batch).await.unwrap();
    last.await.unwrap().unwrap();

    let before = bench.store.operations();
    let again = bench.ask(&first, message("again"));
    let batch = bench.batch().await;
    assert!(bench.store.operations() > before, "all rooms are in memory");
    bench.store(batch).await.unwrap();
    again.await.unwrap().unwrap();
}

#[tokio::test]
async fn rooms_give_way_where_those_of_all_shards_hold_too_much_together() {
    for (held_by_others, gives_way) in [(0, false), (300, true)] {
        let parts: Vec<Ceiling> = Ceiling::split(400, 2).collect();
        let [mine, mut others]: [Ceiling; 2] = parts.try_into().ok().unwrap();
        assert!(others.holds(held_by_others));
        let mut bench = Bench::below(mine);
        let first = bench.room().await;
        // Of each room a few pieces of state are held; a hundred are this shard's in any case.
        let mut last = first.clone();
        for n in 0..40 {
            let (id, wanted) = bench.founding(&format!("room{n}"));
            let told = bench.ask(&id, wanted);
            let batch = bench.batch().await;
            bench.store(batch).await.unwrap();
            told.await.unwrap().unwrap();
            last = id;
        }

        let hot = bench.cost(&last).await;
        let is_read_again = bench.cost(&first).await > hot;
        assert_eq!(is_read_again, gives_way, "beside {held_by_others}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_shard_holds_beyond_its_share_is_others_once_it_is_idle() {
    let [mine, mut theirs]: [Ceiling; 2] = Ceiling::split(8, 2)
        .collect::<Vec<_>>()
        .try_into()
        .ok()
        .unwrap();
    let mut bench = Bench::below(mine);
    for n in 0..2 {
        let (id, wanted) = bench.founding(&format!("room{n}"));
        let told = bench.ask(&id, wanted);
        let batch = bench.batch().await;
        bench.store(batch).await.unwrap();
        told.await.unwrap().unwrap();
    }
    assert!(!theirs.holds(6), "some is lent");
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(!theirs.holds(6));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(theirs.holds(6));
}

#[tokio::test]
async fn a_room_that_the_last_user_here_has_left_is_not_kept_in_memory() {
    let mut bench = Bench::new();
    let room = bench.room().await;
    for text in ["one", "two"] {
        let told = bench.ask(&room, message(text));
        let batch = bench.batch().await;
        bench.store(batch).await.unwrap();
        told.await.unwrap().unwrap();
    }
    let leave = Submission {
        draft: Draft {
            sender: ana(),
            parts: vec![Part::Member {
                target: ana(),
                change: MemberChange::Leave,
                content: CanonicalJsonObject::new(),
            }],
        },
        sent_by: None,
        txn: None,
    };
    let told = bench.ask(&room, Wanted::Append(leave, None));
    let batch = bench.batch().await;
    bench.store(batch).await.unwrap();
    told.await.unwrap().unwrap();

    let before = bench.store.operations();
    let told = bench.ask(&room, message("three"));
    let refused = told.await.unwrap().unwrap_err();
    assert!(matches!(refused, WriteError::Refused(_)), "{refused:?}");
    assert!(
        bench.store.operations() > before,
        "the room is still in memory"
    );
}

#[tokio::test]
async fn what_was_stored_after_all_is_told_without_waiting_for_the_next_commit() {
    let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let mut room = Pen::new(&*store, "room");
    let fanout = Arc::new(Fanout::new(Position::ZERO));
    let stats = Arc::new(CommitterStats::default());
    let shared = Arc::clone(&store) as SharedStore;
    let committer = Committer::new(shared, Arc::clone(&fanout), stats, 1);
    let (jobs, waiting) = CommitQueue::new();
    tokio::spawn(committer.run(waiting));
    let mut listener = fanout.listen(&ana());

    store.fail_at(store.operations() + 1, Fault::UnknownStored);
    let (reply, told) = oneshot::channel();
    let job = CommitJob {
        batch: Batch {
            writes: room.take(),
            may_conflict: false,
        },
        source: Source::Desk,
        touched: vec![Touched::One(ana())],
        reply,
    };
    jobs.send(job).await.unwrap();
    told.await.unwrap().unwrap_err();

    assert_eq!(fanout.position(), store.position().await.unwrap());
    assert_eq!(listener.woken().now_or_never(), Some(Woken::News));
}

#[tokio::test(start_paused = true)]
async fn the_store_rests_when_nobody_brings_anything_for_a_while_and_each_minute_after() {
    let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let fanout = Arc::new(Fanout::new(Position::ZERO));
    let stats = Arc::new(CommitterStats::default());
    let shared = Arc::clone(&store) as SharedStore;
    let committer = Committer::new(shared, fanout, stats, 1);
    let (jobs, waiting) = CommitQueue::new();
    tokio::spawn(committer.run(waiting));
    let pass = async |seconds| tokio::time::sleep(Duration::from_secs(seconds)).await;

    for rests in [0, 2] {
        for _ in 0..5 {
            let (reply, told) = oneshot::channel();
            let job = CommitJob {
                batch: Batch::default(),
                source: Source::Desk,
                touched: Vec::new(),
                reply,
            };
            jobs.send(job).await.unwrap();
            told.await.unwrap().unwrap();
            pass(2).await;
            assert_eq!(store.rests(), rests, "it was busy");
        }
        pass(2).await;
        assert_eq!(store.rests(), rests + 1);
        pass(60).await;
        assert_eq!(store.rests(), rests + 2);
    }
}

#[tokio::test]
async fn a_hub_whose_writer_broke_is_not_ready() {
    for broken in 0..2 {
        let hub = testing::hub().await;
        assert!(hub.hub.ready());
        let task = hub.hub.writer.tasks.lock().await.remove(broken);
        task.abort();
        assert!(task.await.is_err());
        assert!(!hub.hub.ready());
    }
}

fn greeting(to: &OwnedUserId) -> send_event_to_device::v3::Request {
    let content = Raw::from_json_string("{}".to_owned()).unwrap();
    let devices = BTreeMap::from([(DeviceIdOrAllDevices::DeviceId("PHONE".into()), content)]);
    let messages = BTreeMap::from([(to.clone(), devices)]);
    send_event_to_device::v3::Request::new_raw("org.example.hi".into(), "txn".into(), messages)
}

async fn greet(hub: &TestHub, who: &Person) -> Result<crate::api::Reply, Refusal> {
    let command = Command::SendToDevice(Box::new(greeting(&who.user)));
    hub.ask(&who.origin, command).await
}

#[tokio::test]
async fn a_message_to_a_device_sent_again_after_hanging_up_is_stored_once() {
    let hub = testing::hub().await;
    let ana = hub.account("ana").await;
    hub.ask(
        &ana.origin,
        Command::Whoami(Box::new(whoami::v3::Request::new())),
    )
    .await
    .unwrap();
    hub.account("bob").await; // what was noted of ana's visit is stored before
    let failed = || hub.hub.writer.stats().failed.load(Ordering::Relaxed);

    let mut first = Box::pin(greet(&hub, &ana));
    poll_fn(|context| {
        assert!(first.as_mut().poll(context).is_pending());
        match hub.hub.writer.commits.capacity() {
            queue::BATCHES_MAX => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
    drop(first);
    greet(&hub, &ana).await.unwrap();

    assert_eq!(failed(), 0);
    let now = hub.hub.store.position().await.unwrap();
    let mail = hub
        .hub
        .store
        .mail(&ana.user, "PHONE", Position::ZERO, now, 9);
    assert_eq!(mail.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_logout_is_final_also_for_whoever_hangs_up_before_the_answer() {
    let hub = testing::hub().await;
    let ana = hub.account("ana").await;
    let whoami = async || {
        let command = Command::Whoami(Box::new(whoami::v3::Request::new()));
        hub.ask(&ana.origin, command).await
    };
    whoami().await.unwrap();
    hub.account("bob").await; // what was noted of ana's visit is stored before

    let logout = Command::Logout(Box::new(logout::v3::Request::new()));
    let mut position = hub.hub.fanout.watch();
    tokio::select! {
        biased;
        _ = position.changed() => {}
        _ = hub.ask(&ana.origin, logout) => panic!("answered too soon"),
    }
    let_others_run().await;

    whoami().await.unwrap_err();
}

#[tokio::test]
async fn an_alias_gets_its_room_also_when_its_maker_hangs_up() {
    let hub = testing::hub().await;
    let ana = hub.account("ana").await;
    let whoami = Command::Whoami(Box::new(whoami::v3::Request::new()));
    hub.ask(&ana.origin, whoami).await.unwrap();
    hub.account("bob").await; // what was noted of ana's visit is stored before

    let mut request = create_room::v3::Request::new();
    request.room_alias_name = Some("home".to_owned());
    let create = Command::CreateRoom(Box::new(request));
    let mut position = hub.hub.fanout.watch();
    tokio::select! {
        biased;
        _ = position.changed() => {}
        _ = hub.ask(&ana.origin, create) => panic!("answered too soon"),
    }

    let second = tokio::time::timeout(Duration::from_secs(10), position.changed());
    second.await.expect("the room is made").unwrap();
    let alias = ruma::OwnedRoomAliasId::try_from("#home:hub.example").unwrap();
    assert!(hub.hub.store.alias(&alias).await.unwrap().is_some());
}

#[tokio::test]
async fn a_hub_is_ready_again_once_its_store_is_although_nobody_writes() {
    let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let fanout = Arc::new(Fanout::new(Position::ZERO));
    let stats = Arc::new(CommitterStats::default());
    let shared = Arc::clone(&store) as SharedStore;
    let mut committer = Committer::new(shared, fanout, Arc::clone(&stats), 1);
    stats.healthy.store(false, Ordering::Release);

    store.fail_at(store.operations() + 1, Fault::Failed);
    committer.try_again().await;
    assert!(!stats.healthy.load(Ordering::Acquire));
    committer.try_again().await;
    assert!(stats.healthy.load(Ordering::Acquire));
}
