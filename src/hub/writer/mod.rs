//! The write side: room shards decide, one committer stores, then everyone is told.
//!
//! A shard owns the staged rooms whose ids hash to it. It may decide the next batch while the
//! last one is being stored; if that fails, everything staged on top of it fails with it and the
//! rooms are read again. Nothing else assigns a seq.

mod admission;
mod committer;
mod hot;
mod queue;
mod shard;
#[cfg(test)]
mod tests;
mod txns;

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use thiserror::Error;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

pub use admission::{Admission, Admitted, Anchor, Entry, Onto, Piece, Redacted, Spot};
pub use committer::CommitterStats;
use committer::{CommitJob, Committer, Source};
use queue::CommitQueue;
use shard::{Ceiling, Founded, HOT_STATE_MAX, Job, Shard, Wanted};

use crate::{
    api::Refusal,
    base::{Clock, Position, Seq},
    hub::{
        fanout::{Fanout, Touched},
        policing::{NotVouchedFor, Policing},
    },
    room::{self, Draft, Part, PolicyServer, Room},
    store::{Batch, Claimed, Conflict, RoomNid, SentBy, SharedStore, StoreError, TxnKey},
    wire::matrix::{Pdu, ServerKey, Version},
};

/// How many drafts wait for one shard before it answers «busy».
///
/// At ten thousand appends a second this is a tenth of a second of work.
const SHARD_QUEUE_MAX: usize = 1024;

/// When to try again when a queue was full: about the time a full queue takes to empty.
const BUSY_RETRY: Duration = Duration::from_millis(500);

/// Where the answer to a batch will be; without one, the writer has ended.
pub(super) type Written = oneshot::Receiver<Result<(Position, Vec<Claimed>), WriteError>>;

/// The handle on the write side.
pub struct Writer {
    shards: Vec<mpsc::Sender<Job>>,
    commits: CommitQueue,
    policing: Arc<Policing>,
    stats: Arc<CommitterStats>,
    closing: AtomicBool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// A draft with what only the hub knows of it.
#[derive(Clone, Debug)]
pub struct Submission {
    /// What is wanted.
    pub draft: Draft,
    /// The key under which a retry finds the first answer.
    pub txn: Option<TxnKey>,
    /// Who sent it and under which transaction id, for the sender's own sync.
    pub sent_by: Option<SentBy>,
}

/// An event that another server has to vouch for before it is in its room.
#[derive(Clone, Debug)]
pub struct Unvouched {
    server: PolicyServer,
    event: Arc<Pdu>,
    version: Version,
    /// What it was made of, to be handed in again.
    submission: Option<Submission>,
}

/// How often a draft's event is shown to another server because the room moved on meanwhile.
const VOUCHED_MAX: usize = 8;

/// A draft that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The room.
    pub room: OwnedRoomId,
    /// The commit; for a replayed answer, one not before it.
    pub position: Position,
    /// For each part, its event and its number; an event that already stood has no number here.
    pub events: Vec<(OwnedEventId, Option<Seq>)>,
    /// Whether this is the answer of an earlier request with the same transaction key.
    pub replayed: bool,
}

/// A draft or batch that is not stored.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The room's rules say no.
    #[error(transparent)]
    Refused(#[from] room::Refusal),
    /// There is no such room here.
    #[error("no such room: {0}")]
    NoSuchRoom(OwnedRoomId),
    /// Something with that name is already there, or no longer there.
    #[error("conflict: {}", .0.what)]
    Conflict(Conflict),
    /// The room's policy server, this hub or another one, does not vouch for it.
    #[error(transparent)]
    Policy(NotVouchedFor),
    /// Another server has to vouch for it first. Stays in the writer.
    #[error("{} has to vouch for it", .0.server.via)]
    Unvouched(Box<Unvouched>),
    /// The room is no longer the one that an admission was worked out for: do it again.
    #[error("the room has moved on")]
    Moved,
    /// The queue is full or the hub is closing; who asked does the same in both cases.
    #[error("the hub is busy")]
    Busy,
    /// Ours: it was not stored, or that is not known.
    #[error("not stored, or not known to be")]
    Store(#[source] Arc<StoreError>),
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        use crate::api::Code;
        match error {
            WriteError::Refused(refusal) => refusal_of(&refusal),
            WriteError::NoSuchRoom(room) => Self::not_found(format!("no such room: {room}")),
            WriteError::Conflict(conflict) => {
                Self::new(Code::Unknown, conflict.what).with_status(409)
            }
            WriteError::Busy | WriteError::Moved | WriteError::Unvouched(_) => {
                Self::busy(BUSY_RETRY)
            }
            WriteError::Policy(why) => not_vouched_for(&why),
            WriteError::Store(error) => {
                tracing::error!(error = &*error as &dyn std::error::Error, "a commit failed");
                Self::internal()
            }
        }
    }
}

// spec: server-server §Policy-Servers
fn not_vouched_for(why: &NotVouchedFor) -> Refusal {
    use crate::api::{Code, RemoteError, Why};
    let said = why.to_string();
    let elsewhere = Why::of("POLICY_ELSEWHERE").rule(&said);
    match why {
        NotVouchedFor::Refused(refusal) => {
            let why = Why::of(refusal.code()).rule(&said);
            Refusal::forbidden(said).because(why)
        }
        NotVouchedFor::Elsewhere(RemoteError::Refused { status, .. }) if *status < 500 => {
            Refusal::forbidden(said).because(elsewhere)
        }
        NotVouchedFor::Elsewhere(error) => {
            let told = format!("the room's policy server: {}", error.told());
            Refusal::new(Code::Unknown, told)
                .with_status(502)
                .because(elsewhere)
        }
        _ => Refusal::new(Code::Unknown, said)
            .with_status(502)
            .because(elsewhere),
    }
}

fn refusal_of(refusal: &room::Refusal) -> Refusal {
    use crate::api::{Code, Why};
    let code = match refusal {
        room::Refusal::Rules(_)
        | room::Refusal::NotMember(_)
        | room::Refusal::Membership(_)
        | room::Refusal::MayNotRedact { .. }
        | room::Refusal::NotForClients(_) => Code::Forbidden,
        room::Refusal::UnknownTarget => Code::NotFound,
        room::Refusal::Pdu(crate::wire::matrix::PduError::TooLarge { .. }) => Code::TooLarge,
        room::Refusal::Content { .. } | room::Refusal::Pdu(_) => Code::BadJson,
    };
    let told = Refusal::new(code, refusal.to_string());
    match refusal {
        room::Refusal::Rules(clause) => told.because(Why::default().rule(clause.to_string())),
        _ => told,
    }
}

impl Writer {
    /// Starts `shards` shards and the committer.
    pub fn start(
        store: SharedStore,
        key: Arc<ServerKey>,
        clock: Arc<dyn Clock>,
        fanout: Arc<Fanout>,
        policing: Arc<Policing>,
        shards: usize,
    ) -> Self {
        let (commits, jobs) = CommitQueue::new();
        let stats = Arc::new(CommitterStats::default());
        let committer = Committer::new(
            Arc::clone(&store),
            fanout,
            Arc::clone(&stats),
            shards.max(1),
        );
        let mut tasks = vec![tokio::spawn(committer.run(jobs))];
        let shards = Ceiling::split(HOT_STATE_MAX, shards.max(1))
            .enumerate()
            .map(|(index, ceiling)| {
                let (sender, drafts) = mpsc::channel(SHARD_QUEUE_MAX);
                let shard = Shard::new(
                    index,
                    Arc::clone(&store),
                    Arc::clone(&key),
                    Arc::clone(&clock),
                    Arc::clone(&policing),
                    (commits.clone(), ceiling),
                );
                tasks.push(tokio::spawn(shard.run(drafts)));
                sender
            })
            .collect();
        Self {
            shards,
            commits,
            policing,
            stats,
            closing: AtomicBool::new(false),
            tasks: Mutex::new(tasks),
        }
    }

    /// Appends a draft to a room that exists.
    pub async fn submit(
        &self,
        room: &RoomId,
        submission: Submission,
    ) -> Result<Submitted, WriteError> {
        let mut wanted = Wanted::Append(submission, None);
        for _ in 0..VOUCHED_MAX {
            let asking = match self.send(room.to_owned(), wanted).await {
                Err(WriteError::Unvouched(asking)) => *asking,
                outcome => return outcome,
            };
            let asked = self
                .policing
                .ask(&asking.server, &asking.event, asking.version);
            let signed = asked.await.map_err(WriteError::Policy)?;
            let Some(submission) = asking.submission else {
                break;
            };
            wanted = Wanted::Append(submission, Some(Arc::new(signed)));
        }
        Err(WriteError::Busy)
    }

    /// Stores a room that [`room::found`] made, and `parts` by its creator: all or nothing. `nid`
    /// is a fresh number of the store.
    pub async fn found(
        &self,
        (room, create): (Room, Arc<Pdu>),
        nid: RoomNid,
        parts: Vec<Part>,
    ) -> Result<Submitted, WriteError> {
        let id = room.id().clone();
        self.send(
            id,
            Wanted::Found(Box::new(Founded {
                room,
                create,
                nid,
                parts,
            })),
        )
        .await
    }

    /// Stores events of other servers that were judged. `Moved` when the room is no longer what it
    /// was then.
    pub async fn admit(
        &self,
        room: &RoomId,
        admission: Admission,
    ) -> Result<Submitted, WriteError> {
        self.send(room.to_owned(), Wanted::Admit(Box::new(admission)))
            .await
    }

    /// Stores what belongs to no room's log. Gives its position and what its claims got.
    pub async fn write(
        &self,
        batch: Batch,
        touched: Vec<Touched>,
    ) -> Result<(Position, Vec<Claimed>), WriteError> {
        self.begin(batch, touched)?
            .await
            .map_err(|_| WriteError::Busy)?
    }

    /// The same for who must see it through although whoever asked may go: hands it in at once and
    /// gives where the answer will be.
    pub(super) fn begin(&self, batch: Batch, touched: Vec<Touched>) -> Result<Written, WriteError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(WriteError::Busy);
        }
        let (reply, answer) = oneshot::channel();
        let job = CommitJob {
            batch,
            source: Source::Desk,
            touched,
            reply,
        };
        self.commits.try_send(job)?;
        Ok(answer)
    }

    /// Whether the last commit went through, and everyone is there who is needed for the next.
    pub fn healthy(&self) -> bool {
        self.stats.healthy.load(Ordering::Acquire)
            && !self.commits.is_closed()
            && !self.shards.iter().any(mpsc::Sender::is_closed)
    }

    /// What the committer has done so far.
    pub fn stats(&self) -> &CommitterStats {
        &self.stats
    }

    /// Takes nothing more, finishes what was taken.
    pub async fn drain(&self) {
        self.closing.store(true, Ordering::Release);
        for shard in &self.shards {
            let (done, finished) = oneshot::channel();
            if shard.send(Job::Drain(done)).await.is_ok() {
                let _ = finished.await; // an ended shard has nothing left to finish
            }
        }
        let (reply, finished) = oneshot::channel();
        let last = CommitJob {
            batch: Batch::default(),
            source: Source::Close,
            touched: Vec::new(),
            reply,
        };
        if self.commits.send(last).await.is_ok() {
            let _ = finished.await;
        }
        for task in self.tasks.lock().await.drain(..) {
            task.abort();
            let _ = task.await; // only then has it let go of the store
        }
    }

    async fn send(&self, room: OwnedRoomId, wanted: Wanted) -> Result<Submitted, WriteError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(WriteError::Busy);
        }
        let shard = self
            .shards
            .get(self.shard_of(&room))
            .ok_or(WriteError::Busy)?;
        let (reply, answer) = oneshot::channel();
        shard
            .try_send(Job::Want {
                room,
                wanted,
                reply,
            })
            .map_err(|_| WriteError::Busy)?;
        answer.await.map_err(|_| WriteError::Busy)?
    }

    fn shard_of(&self, room: &RoomId) -> usize {
        let mut hasher = DefaultHasher::new();
        room.as_str().hash(&mut hasher);
        let shards = u64::try_from(self.shards.len()).unwrap_or(1);
        usize::try_from(hasher.finish() % shards).unwrap_or(0)
    }
}
