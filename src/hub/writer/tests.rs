//! The writer between two batches: what the simulation found, each once more by itself. The tests
//! of a shard play the committer, so that a commit takes as long as they like.

use std::sync::Arc;

use futures_util::FutureExt as _;
use ruma::{CanonicalJsonObject, OwnedRoomId, OwnedUserId};
use tokio::sync::{mpsc, oneshot};

use super::{
    Submission, Submitted, WriteError, Writer,
    committer::CommitJob,
    shard::{Founded, Job, Shard, Wanted},
};
use crate::{
    base::{Clock, Position, Timestamp},
    hub::{
        fanout::{Fanout, Touched, Woken},
        testing::key,
    },
    room::{Draft, Evidence, MemberChange, Part, Preset, RoomWish, found, founding, initial_parts},
    store::{
        Accounts as _, Batch, Commits as _, StoreError, TxnKey, Write,
        faulty::{Fault, Faulty},
        memory::Memory,
    },
    wire::matrix::Version,
};

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000)
    }
}

fn user(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(format!("@{name}:hub.example")).unwrap()
}

fn new_user(name: &str) -> Batch {
    let write = Write::NewUser {
        user: user(name),
        password: None,
        admin: false,
        at: Timestamp(0),
    };
    Batch {
        writes: vec![write],
        may_conflict: false,
    }
}

/// A shard with one room of Ana's, whose commits the test makes.
struct Desk {
    store: Arc<Memory>,
    jobs: mpsc::Sender<Job>,
    commits: mpsc::Receiver<CommitJob>,
    room: OwnedRoomId,
}

type Answer = oneshot::Receiver<Result<Submitted, WriteError>>;

impl Desk {
    async fn open() -> Self {
        let store = Arc::new(Memory::new());
        let server = Arc::new(key());
        let (sender, commits) = mpsc::channel(8);
        let (jobs, drafts) = mpsc::channel(8);
        let shard = Shard::new(0, store.clone(), server.clone(), Arc::new(Noon), sender);
        tokio::spawn(shard.run(drafts));
        let wish = wish();
        let evidence = Evidence {
            now: Noon.now(),
            key: &server,
            target: None,
        };
        let id = OwnedRoomId::try_from("!r:hub.example").unwrap();
        let (room, create) = found(&founding(&wish, id), &evidence).unwrap();
        let mut desk = Self {
            room: room.id().clone(),
            store: store.clone(),
            jobs,
            commits,
        };
        let wanted = Wanted::Found(Box::new(Founded {
            room,
            create,
            nid: store.numbers().room(),
            parts: initial_parts(&wish),
        }));
        let answer = desk.want(wanted).await;
        let job = desk.next().await;
        desk.store_job(job).await;
        answer.await.unwrap().unwrap();
        desk
    }

    async fn want(&self, wanted: Wanted) -> Answer {
        let (reply, answer) = oneshot::channel();
        let room = self.room.clone();
        let job = Job::Want {
            room,
            wanted,
            reply,
        };
        assert!(self.jobs.send(job).await.is_ok());
        answer
    }

    async fn submit(&self, sender: &str, part: Part, txn: Option<&str>) -> Answer {
        let txn = txn.map(|txn| TxnKey {
            user: user(sender),
            device: "PHONE".into(),
            endpoint: "send".to_owned(),
            txn: txn.to_owned(),
        });
        let draft = Draft {
            sender: user(sender),
            parts: vec![part],
        };
        let submission = Submission {
            draft,
            txn,
            sent_by: None,
        };
        self.want(Wanted::Append(submission)).await
    }

    async fn say(&self, sender: &str, txn: &str) -> Answer {
        let message = Part::Event {
            kind: "m.room.message".to_owned(),
            state_key: None,
            content: CanonicalJsonObject::from([("body".to_owned(), txn.into())]),
        };
        self.submit(sender, message, Some(txn)).await
    }

    async fn join(&self, sender: &str) -> Answer {
        let join = Part::Member {
            target: user(sender),
            change: MemberChange::Join,
            content: CanonicalJsonObject::new(),
        };
        self.submit(sender, join, None).await
    }

    async fn next(&mut self) -> CommitJob {
        self.commits.recv().await.unwrap()
    }

    async fn store_job(&self, job: CommitJob) {
        let committed = self.store.commit(&[job.batch]).await.unwrap();
        let _ = job.reply.send(Ok((committed.position, Vec::new())));
    }
}

fn wish() -> RoomWish {
    RoomWish {
        creator: user("ana"),
        version: Version::DEFAULT,
        preset: Preset::PublicChat,
        creation_content: CanonicalJsonObject::new(),
        profile: CanonicalJsonObject::new(),
        power_levels: CanonicalJsonObject::new(),
        alias: None,
        initial_state: Vec::new(),
        name: None,
        topic: None,
        invite: Vec::new(),
        is_direct: false,
    }
}

fn failed() -> WriteError {
    WriteError::Store(Arc::new(StoreError::Damaged {
        what: "as the test says".to_owned(),
    }))
}

#[tokio::test]
async fn a_batch_that_failed_late_leaves_alone_what_was_staged_since() {
    let mut desk = Desk::open().await;
    let _one = desk.say("ana", "one").await;
    let one = desk.next().await;
    let _two = desk.say("ana", "two").await;
    let two = desk.next().await;

    let _ = one.reply.send(Err(failed()));
    let again = desk.say("ana", "two").await; // on a room read anew
    let fresh = desk.next().await;
    let _ = two.reply.send(Err(WriteError::Busy)); // void with the first, but told only now
    tokio::task::yield_now().await;
    let third = desk.say("ana", "two").await;
    let last = desk.next().await;

    desk.store_job(fresh).await;
    desk.store_job(last).await;
    let again = again.await.unwrap().unwrap();
    let third = third.await.unwrap().unwrap();
    assert!(third.replayed);
    assert_eq!(third.events[0].0, again.events[0].0);
}

#[tokio::test]
async fn a_refusal_that_is_told_late_does_not_forget_the_answer_of_a_retry() {
    let mut desk = Desk::open().await;
    let _said = desk.say("ana", "one").await;
    let one = desk.next().await;
    let refused = desk.say("ben", "hello").await;
    let two = desk.next().await;
    desk.store_job(one).await;
    let _joined = desk.join("ben").await;
    let accepted = desk.say("ben", "hello").await;
    let three = desk.next().await;
    desk.store_job(two).await;
    assert!(matches!(
        refused.await.unwrap(),
        Err(WriteError::Refused(_))
    ));

    let again = desk.say("ben", "hello").await;
    let four = desk.next().await;

    desk.store_job(three).await;
    desk.store_job(four).await;
    let accepted = accepted.await.unwrap().unwrap();
    let again = again.await.unwrap().unwrap();
    assert!(again.replayed);
    assert_eq!(again.events[0].0, accepted.events[0].0);
}

fn writer(store: Arc<Faulty>, fanout: &Arc<Fanout>) -> Writer {
    Writer::start(store, Arc::new(key()), Arc::new(Noon), fanout.clone(), 1)
}

#[tokio::test(start_paused = true)]
async fn readers_hear_of_a_commit_whose_answer_was_lost() {
    let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let fanout = Arc::new(Fanout::new(Position::ZERO));
    let writer = writer(store.clone(), &fanout);
    let ana = user("ana");
    let mut listener = fanout.listen(&ana);
    store.fail_at(1, Fault::UnknownStored);

    let touched = vec![Touched::One(ana.clone())];
    let answer = writer.write(new_user("ana"), touched).await;

    assert!(matches!(answer, Err(WriteError::Store(_))));
    assert_eq!(fanout.position(), Position(1));
    assert_eq!(listener.woken().now_or_never(), Some(Woken::News));
}

#[tokio::test]
async fn a_turn_lasts_until_its_batch_is_stored_even_if_nobody_waits_for_it() {
    let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let writer = writer(store.clone(), &Arc::new(Fanout::new(Position::ZERO)));
    let lock = Arc::new(tokio::sync::Mutex::new(()));
    let turn = lock.clone().lock_owned().await;

    let write = writer.write_in_turn(new_user("ana"), Vec::new(), turn);
    assert!(write.now_or_never().is_none(), "asked, and gone");

    assert!(lock.try_lock().is_err());
    let _next = lock.lock().await;
    assert!(store.user(&user("ana")).await.unwrap().is_some());
}
