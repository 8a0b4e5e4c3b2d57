//! The one committer: merges what waits into one fsynced commit, publishes, answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::timeout,
};

use crate::{
    base::Position,
    hub::{
        fanout::{Fanout, Touched},
        writer::{WriteError, queue::Queued},
    },
    store::{Batch, Claimed, CommitError, SharedStore, StoreError},
};

/// How many batches one commit merges at most.
const MERGED_MAX: usize = 512;

/// How long after a failed commit an empty one is tried, when nobody brings another.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// How long nobody brings anything until the store gives back what it keeps to be quick: a join of
/// ten thousand members fills its caches, and then it may be quiet for a day.
const RESTS_AFTER: Duration = Duration::from_secs(3);

/// How long after that it does so again: what is only read fills caches, too.
const RESTS_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// How often the store is asked where it stands after a commit in doubt, and how long between.
/// Together a second: nobody can decide anything before, and a drain must still end.
const DOUBT_TRIES: u32 = 20;
const DOUBT_PAUSE: Duration = Duration::from_millis(50);

/// Who wants something stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A room shard; what it staged after a failed batch of the same generation is void.
    Shard {
        /// Which.
        index: usize,
        /// Counts up each time the shard dropped its staging.
        generation: u64,
    },
    /// The desk.
    Desk,
    /// Nobody: the writer is closing.
    Close,
}

/// One batch on its way.
pub(super) struct CommitJob {
    pub(super) batch: Batch,
    pub(super) source: Source,
    pub(super) touched: Vec<Touched>,
    pub(super) reply: oneshot::Sender<Result<(Position, Vec<Claimed>), WriteError>>,
}

/// What the committer has done so far.
#[derive(Debug)]
pub struct CommitterStats {
    /// Commits stored.
    pub commits: AtomicU64,
    /// Batches stored in them.
    pub batches: AtomicU64,
    /// Commits that failed.
    pub failed: AtomicU64,
    /// Whether the last one went through.
    pub healthy: AtomicBool,
}

impl Default for CommitterStats {
    fn default() -> Self {
        Self {
            commits: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
        }
    }
}

/// The committer's own state.
pub(super) struct Committer {
    store: SharedStore,
    fanout: Arc<Fanout>,
    stats: Arc<CommitterStats>,
    /// For each shard, the last generation of which a batch failed.
    void: Vec<Option<u64>>,
    /// Whether something may have been stored that nobody was told of.
    in_doubt: bool,
}

impl Committer {
    pub(super) fn new(
        store: SharedStore,
        fanout: Arc<Fanout>,
        stats: Arc<CommitterStats>,
        shards: usize,
    ) -> Self {
        Self {
            store,
            fanout,
            stats,
            void: vec![None; shards],
            in_doubt: false,
        }
    }

    /// Runs until the writer closes.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Queued>) {
        let mut waiting = Vec::with_capacity(MERGED_MAX);
        let mut rests = true;
        loop {
            let is_healthy = self.stats.healthy.load(Ordering::Acquire);
            let some = jobs.recv_many(&mut waiting, MERGED_MAX);
            let patience = match (is_healthy, rests) {
                (false, _) => TRY_AGAIN_AFTER,
                (true, false) => RESTS_AFTER,
                (true, true) => RESTS_AGAIN_AFTER,
            };
            let Ok(count) = timeout(patience, some).await else {
                if is_healthy {
                    self.store.rest().await;
                } else {
                    self.try_again().await;
                }
                rests = is_healthy;
                continue;
            };
            rests = false;
            if count == 0 {
                return;
            }
            let closing = waiting
                .iter()
                .position(|queued: &Queued| queued.job.source == Source::Close);
            let close = closing.map(|at| waiting.remove(at));
            self.take(&mut waiting).await;
            if let Some(Queued { job, .. }) = close {
                let _ = job.reply.send(Ok((self.fanout.position(), Vec::new())));
                return;
            }
        }
    }

    /// Finds out whether the store works again: whoever is kept away because it did not would bring
    /// nothing to find it out with.
    pub(super) async fn try_again(&mut self) {
        if let Err((error, _)) = self.commit(&[], Vec::new()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the store still fails"
            );
        }
    }

    async fn take(&mut self, waiting: &mut Vec<Queued>) {
        let jobs = self.without_void(std::mem::take(waiting));
        if jobs.is_empty() {
            return;
        }
        let (batches, rest) = split(jobs);
        let Err((error, mut rest)) = self.commit(&batches, rest).await else {
            return;
        };
        if batches.len() == 1 || matches!(error, CommitError::Unknown(_)) {
            self.fail(rest, error).await;
            return;
        }
        // Nothing of it was stored, and one bad batch must not take the others with it.
        for batch in batches {
            let alone = rest.remove(0);
            if self.is_void(alone.source) {
                let _ = alone.reply.send(Err(WriteError::Busy));
            } else if let Err((error, rest)) =
                self.commit(std::slice::from_ref(&batch), vec![alone]).await
            {
                self.fail(rest, error).await;
            }
        }
    }

    /// Answers what was staged on top of something that failed, and gives the rest back.
    fn without_void(&self, jobs: Vec<Queued>) -> Vec<Queued> {
        let (void, good): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .partition(|queued| self.is_void(queued.job.source));
        for Queued { job, .. } in void {
            let _ = job.reply.send(Err(WriteError::Busy));
        }
        good
    }

    fn is_void(&self, source: Source) -> bool {
        matches!(source, Source::Shard { index, generation }
            if self.void.get(index).copied().flatten().is_some_and(|void| generation <= void))
    }

    async fn commit(
        &mut self,
        batches: &[Batch],
        rest: Vec<Waiting>,
    ) -> Result<(), (CommitError, Vec<Waiting>)> {
        let committed = match self.store.commit(batches).await {
            Ok(committed) => committed,
            Err(error) => return Err((error, rest)),
        };
        assert_eq!(
            committed.outcomes.len(),
            rest.len(),
            "a store answers for every batch"
        );
        self.stats.healthy.store(true, Ordering::Release);
        metrics::counter!("tramline_commits_total").increment(1);
        metrics::counter!("tramline_batches_total").increment(batches.len() as u64);
        self.stats.commits.fetch_add(1, Ordering::Relaxed);
        self.stats
            .batches
            .fetch_add(batches.len() as u64, Ordering::Relaxed);
        let touched: Vec<_> = rest
            .iter()
            .flat_map(|job| job.touched.iter().cloned())
            .collect();
        if std::mem::take(&mut self.in_doubt) {
            self.fanout.advance_for_all(committed.position);
        } else {
            self.fanout.advance(committed.position, &touched);
        }
        for (job, outcome) in rest.into_iter().zip(committed.outcomes) {
            let answer = match outcome {
                Ok(claimed) => Ok((committed.position, claimed)),
                Err(conflict) => Err(WriteError::Conflict(conflict)),
            };
            let _ = job.reply.send(answer); // whoever asked may have gone
        }
        Ok(())
    }

    /// Tells what an unknown commit has stored after all: on a quiet hub no other would, and its
    /// sender's retry finds it there.
    async fn look_again(&mut self) {
        for _ in 0..DOUBT_TRIES {
            match self.store.position().await {
                Ok(position) => {
                    self.in_doubt = false;
                    if position > self.fanout.position() {
                        self.fanout.advance_for_all(position);
                    }
                    return;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "where the store stands cannot be read");
                }
            }
            tokio::time::sleep(DOUBT_PAUSE).await;
        }
        self.in_doubt = true; // the next commit tells it
    }

    async fn fail(&mut self, rest: Vec<Waiting>, error: CommitError) {
        if matches!(error, CommitError::Unknown(_)) {
            self.look_again().await;
        }
        metrics::counter!("tramline_failed_commits_total").increment(1);
        self.stats.failed.fetch_add(1, Ordering::Relaxed);
        self.stats.healthy.store(false, Ordering::Release);
        let error = match error {
            CommitError::Failed(error) | CommitError::Unknown(error) => error,
        };
        tracing::error!(error = &error as &dyn std::error::Error, "a commit failed");
        let error = Arc::new(error);
        for job in rest {
            if let Source::Shard { index, generation } = job.source
                && let Some(void) = self.void.get_mut(index)
            {
                *void = Some(void.map_or(generation, |void| void.max(generation)));
            }
            let _ = job
                .reply
                .send(Err(WriteError::Store(Arc::<StoreError>::clone(&error))));
        }
    }
}

/// A job whose batch is being stored.
struct Waiting {
    source: Source,
    touched: Vec<Touched>,
    reply: oneshot::Sender<Result<(Position, Vec<Claimed>), WriteError>>,
    /// Given back with the answer.
    _place: OwnedSemaphorePermit,
}

fn split(jobs: Vec<Queued>) -> (Vec<Batch>, Vec<Waiting>) {
    jobs.into_iter()
        .map(|Queued { job, place }| {
            let CommitJob {
                batch,
                source,
                touched,
                reply,
            } = job;
            (
                batch,
                Waiting {
                    source,
                    touched,
                    reply,
                    _place: place,
                },
            )
        })
        .unzip()
}
