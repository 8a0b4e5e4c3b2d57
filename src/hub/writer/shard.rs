//! A room shard: takes drafts, decides them on staged rooms, hands batches to the committer.
//!
//! How one draft is decided is in [`stage`].

mod admit;
mod ceiling;
mod stage;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ruma::{OwnedRoomId, RoomId};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

pub(super) use self::ceiling::{Ceiling, HOT_STATE_MAX};
use crate::{
    base::{Clock, Position, Seq},
    hub::{
        fanout::{ForServers, Touched},
        policing::Policing,
        writer::{
            Admission, Submission, Submitted, WriteError,
            committer::{CommitJob, Source},
            hot::Hot,
            queue::CommitQueue,
            txns::Txns,
        },
    },
    room::{Part, Room},
    store::{Batch, Claimed, RoomNid, SharedStore, TxnAnswer, TxnKey, Write},
    wire::matrix::{Pdu, ServerKey},
};

/// How many drafts one batch takes.
///
/// Group commit gains little beyond this, and a batch is what a failed commit throws away.
const BATCH_MAX: usize = 256;

/// How many drafts of a shard may be decided and not yet stored.
///
/// A shard hands over what it has decided without waiting for more, and the committer merges all
/// that waits when the last commit is done: so a commit is as large as the time it takes to store
/// one allows, and deciding goes on meanwhile. This is what a failed commit throws away at most.
const IN_FLIGHT_MAX: usize = 1024;

/// How many rooms a shard keeps in memory; the longest unused go first.
pub(super) const HOT_ROOMS_MAX: usize = 256;

/// How long a shard that has nothing to do keeps what it holds beyond its share of all state.
const LENT_FOR: Duration = Duration::from_mins(1);

/// What a shard is asked.
pub(super) enum Job {
    /// Append or found.
    Want {
        room: OwnedRoomId,
        wanted: Wanted,
        reply: oneshot::Sender<Result<Submitted, WriteError>>,
    },
    /// Finish everything taken so far.
    Drain(oneshot::Sender<()>),
}

/// What is wanted of a room.
pub(super) enum Wanted {
    /// With the event that it became before, and that another server has vouched for.
    Append(Submission, Option<Arc<Pdu>>),
    Found(Box<Founded>),
    Admit(Box<Admission>),
}

/// A founded room that is nowhere but here yet.
pub(super) struct Founded {
    pub(super) room: Room,
    pub(super) create: Arc<Pdu>,
    pub(super) nid: RoomNid,
    pub(super) parts: Vec<Part>,
}

/// A shard's own state.
pub(super) struct Shard {
    index: usize,
    generation: u64,
    store: SharedStore,
    key: Arc<ServerKey>,
    clock: Arc<dyn Clock>,
    policing: Arc<Policing>,
    commits: CommitQueue,
    ceiling: Ceiling,
    rooms: HashMap<OwnedRoomId, Hot>,
    txns: Txns,
    in_flight: VecDeque<InFlight>,
    tick: u64,
}

/// A batch that is decided and not yet stored.
struct InFlight {
    /// The rooms it changes: what is staged of them lives only in memory.
    rooms: BTreeSet<OwnedRoomId>,
    stored: oneshot::Receiver<Result<(Position, Vec<Claimed>), WriteError>>,
    answers: Vec<Answer>,
}

/// What someone will be told once the batch is stored; a refusal too, for it may rest on what the
/// batch stores.
struct Answer {
    reply: oneshot::Sender<Result<Submitted, WriteError>>,
    outcome: Result<Submitted, WriteError>,
    /// The key whose answer this one has staged; not that of a refusal or a replay.
    staged: Option<Arc<TxnKey>>,
}

/// A batch while it is being decided.
#[derive(Default)]
struct Staging {
    writes: Vec<Write>,
    answers: Vec<Answer>,
    changed: BTreeSet<OwnedRoomId>,
    touched: Vec<Touched>,
    /// The rooms of `changed` of which other servers are to be told, and the first entry of each.
    told: BTreeMap<OwnedRoomId, Seq>,
}

impl Staging {
    /// Other servers are to be told of an entry. After some were taken back it may be one with a lower
    /// number than theirs.
    fn tell(&mut self, room: &RoomId, entry: Seq) {
        match self.told.get_mut(room) {
            Some(first) => *first = entry.min(*first),
            None => drop(self.told.insert(room.to_owned(), entry)),
        }
    }

    fn mark(&self) -> (usize, usize) {
        (self.writes.len(), self.touched.len())
    }

    fn back_to(&mut self, (writes, touched): (usize, usize)) {
        self.writes.truncate(writes);
        self.touched.truncate(touched);
    }
}

impl Shard {
    pub(super) fn new(
        index: usize,
        store: SharedStore,
        key: Arc<ServerKey>,
        clock: Arc<dyn Clock>,
        policing: Arc<Policing>,
        (commits, ceiling): (CommitQueue, Ceiling),
    ) -> Self {
        Self {
            index,
            generation: 0,
            store,
            key,
            clock,
            policing,
            commits,
            ceiling,
            rooms: HashMap::new(),
            txns: Txns::new(),
            in_flight: VecDeque::new(),
            tick: 0,
        }
    }

    /// Runs until every sender is gone.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut taken = Vec::with_capacity(BATCH_MAX);
        loop {
            let under_way: usize = self.in_flight.iter().map(|batch| batch.answers.len()).sum();
            let may_take = under_way < IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                stored = oldest(&mut self.in_flight) => self.settle(stored).await,
                count = jobs.recv_many(&mut taken, BATCH_MAX), if may_take => {
                    if count == 0 {
                        break;
                    }
                    self.stage(&mut taken).await;
                }
                () = sleep(LENT_FOR), if self.ceiling.is_beyond_share() => self.give_back(),
            }
        }
        self.finish().await;
    }

    async fn finish(&mut self) {
        while !self.in_flight.is_empty() {
            let stored = oldest(&mut self.in_flight).await;
            self.settle(stored).await;
        }
    }

    /// Decides a batch and hands it to the committer.
    async fn stage(&mut self, taken: &mut Vec<Job>) {
        let mut staging = Staging {
            writes: Vec::with_capacity(taken.len() * 4), // event, entry, transaction; the heads
            ..Staging::default()
        };
        let mut drains = Vec::new();
        for job in taken.drain(..) {
            match job {
                Job::Drain(done) => drains.push(done),
                Job::Want {
                    room,
                    wanted,
                    reply,
                } => {
                    self.want(&room, wanted, reply, &mut staging).await;
                }
            }
        }
        self.hand_over(staging).await;
        self.make_room();
        if !drains.is_empty() {
            self.finish().await;
            for done in drains {
                let _ = done.send(());
            }
        }
    }

    async fn want(
        &mut self,
        room: &OwnedRoomId,
        wanted: Wanted,
        reply: oneshot::Sender<Result<Submitted, WriteError>>,
        staging: &mut Staging,
    ) {
        let before = staging.writes.len();
        let (txn, outcome) = match wanted {
            Wanted::Append(mut submission, vouched) => {
                let txn = submission.txn.take().map(Arc::new);
                let key = txn.as_deref();
                let mut outcome = self
                    .append(room, key, (&submission, vouched.as_ref()), staging)
                    .await;
                if let Err(WriteError::Unvouched(asking)) = &mut outcome {
                    submission.txn = key.cloned();
                    asking.submission = Some(submission);
                }
                (txn, outcome)
            }
            Wanted::Found(founded) => (None, self.found(room, *founded, staging).await),
            Wanted::Admit(admission) => (None, self.admit(room, *admission, staging).await),
        };
        let mut staged = None;
        if let (Some(key), Ok(submitted)) = (txn, &outcome)
            && !submitted.replayed
            && let Some((event, _)) = submitted.events.first()
        {
            let answer = TxnAnswer::Event(event.clone());
            self.txns.stage(&key, &answer);
            let at = self.clock.now();
            staging.writes.push(Write::Txn {
                key: Arc::clone(&key),
                answer,
                at,
            });
            staged = Some(key);
        }
        if staging.writes.len() > before && !staging.changed.contains(room) {
            staging.changed.insert(room.clone());
        }
        staging.answers.push(Answer {
            reply,
            outcome,
            staged,
        });
    }

    /// Gives a decided batch to the committer; without writes there is nothing to wait for but
    /// what is already on its way.
    async fn hand_over(&mut self, mut staging: Staging) {
        if staging.answers.is_empty() {
            return;
        }
        for id in &staging.changed {
            if let Some(hot) = self.rooms.get(id) {
                staging.writes.push(hot.heads());
                staging
                    .touched
                    .push(Touched::Many(Arc::clone(&hot.audience)));
                if let Some(first) = staging.told.get(id)
                    && !hot.servers.is_empty()
                {
                    let what = ForServers::Entries(hot.nid, *first);
                    let servers = Touched::Servers(Arc::clone(&hot.servers), what);
                    staging.touched.push(servers);
                }
            }
        }
        if staging.writes.is_empty() && self.in_flight.is_empty() {
            for answer in staging.answers {
                let _ = answer.reply.send(answer.outcome);
            }
            return;
        }
        let (reply, stored) = oneshot::channel();
        let job = CommitJob {
            batch: Batch {
                writes: staging.writes,
                may_conflict: false,
            },
            source: Source::Shard {
                index: self.index,
                generation: self.generation,
            },
            touched: staging.touched,
            reply,
        };
        self.in_flight.push_back(InFlight {
            rooms: staging.changed,
            stored,
            answers: staging.answers,
        });
        if self.commits.send(job).await.is_err() {
            tracing::warn!("the committer is gone; drafts are answered «busy»");
        }
    }

    /// Tells what became of the oldest batch.
    async fn settle(&mut self, settled: Settled) {
        if self.tell(settled) {
            self.let_go();
            return;
        }
        // What was staged on top of it is void as well: the committer refuses it by its
        // generation. All of it must be gone before the rooms are read again, or a later one of
        // these failures would throw away what is staged from then on.
        while !self.in_flight.is_empty() {
            let void = oldest(&mut self.in_flight).await;
            self.tell(void);
        }
        self.rooms.clear();
        self.ceiling.holds(0);
        self.txns = Txns::new();
        self.generation += 1;
    }

    /// Answers those of one batch; gives whether it is stored.
    fn tell(&mut self, (stored, answers): Settled) -> bool {
        for key in answers.iter().filter_map(|answer| answer.staged.as_ref()) {
            self.txns.settle(key);
        }
        match stored {
            Ok((position, _)) => {
                for Answer { reply, outcome, .. } in answers {
                    let _ = reply.send(outcome.map(|done| Submitted { position, ..done }));
                }
                true
            }
            Err(error) => {
                let error = match error {
                    WriteError::Store(error) => Some(error),
                    _ => None,
                };
                for Answer { reply, .. } in answers {
                    let _ = reply.send(Err(match &error {
                        Some(error) => WriteError::Store(Arc::clone(error)),
                        None => WriteError::Busy,
                    }));
                }
                false
            }
        }
    }

    /// Forgets rooms that need not be kept, once nothing of theirs is on its way to the store.
    fn let_go(&mut self) {
        if !self.rooms.values().any(Hot::is_spent) {
            return;
        }
        let staged = staged(&self.in_flight);
        self.rooms
            .retain(|id, hot| !hot.is_spent() || staged.contains(id));
        let held = self.held();
        self.ceiling.holds(held);
    }

    /// How many pieces of state its rooms hold, but for those that stay whole only until they are stored:
    /// what is lent to a room that arrives would be gone for all others.
    fn held(&self) -> usize {
        let kept = self.rooms.values().filter(|hot| !hot.is_whole);
        kept.map(|hot| hot.room.known_len()).sum()
    }

    /// Forgets the rooms longest unused when there are too many, or too much of them.
    fn make_room(&mut self) {
        self.forget_until(Ceiling::holds);
    }

    /// Forgets the rooms longest unused until others may have what is beyond its share.
    fn give_back(&mut self) {
        self.forget_until(|ceiling, held| {
            ceiling.holds(held);
            !ceiling.is_beyond_share()
        });
    }

    fn forget_until(&mut self, fits: impl Fn(&mut Ceiling, usize) -> bool) {
        let staged = staged(&self.in_flight);
        let mut before = usize::MAX;
        // What is on its way stays.
        while self.rooms.len() < before {
            let held = self.held();
            if fits(&mut self.ceiling, held) && self.rooms.len() <= HOT_ROOMS_MAX {
                return;
            }
            before = self.rooms.len();
            let mut used: Vec<u64> = self.rooms.values().map(|hot| hot.used).collect();
            used.sort_unstable();
            let cut = used.get(used.len() / 2).copied().unwrap_or(0);
            self.rooms
                .retain(|id, hot| hot.used > cut || staged.contains(id));
        }
        // Nothing more can go: what is held is noted as it is.
        let held = self.held();
        self.ceiling.holds(held);
    }
}

/// The rooms that have something on its way to the store.
fn staged(in_flight: &VecDeque<InFlight>) -> HashSet<&OwnedRoomId> {
    in_flight.iter().flat_map(|batch| &batch.rooms).collect()
}

type Settled = (Result<(Position, Vec<Claimed>), WriteError>, Vec<Answer>);

/// The outcome of the oldest batch; never, when none is on its way. Taking it out only once the
/// outcome is there keeps this safe to drop half-way.
async fn oldest(in_flight: &mut VecDeque<InFlight>) -> Settled {
    let Some(first) = in_flight.front_mut() else {
        return std::future::pending().await;
    };
    let stored = (&mut first.stored).await.unwrap_or(Err(WriteError::Busy));
    let answers = in_flight
        .pop_front()
        .map(|batch| batch.answers)
        .unwrap_or_default();
    (stored, answers)
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[test]
    fn servers_are_told_from_the_lowest_entry_on_also_when_others_were_taken_back_before() {
        let (room, other) = (room_id!("!r"), room_id!("!s"));
        let mut staging = Staging::default();
        for (room, entry) in [(room, 11), (other, 3), (room, 10), (room, 12)] {
            staging.tell(room, Seq(entry));
        }
        assert_eq!(
            staging.told.into_iter().collect::<Vec<_>>(),
            [(room.to_owned(), Seq(10)), (other.to_owned(), Seq(3))]
        );
    }
}
