//! The outbox: every other server has one durable cursor over the hub's positions, and is told what
//! is for it in order, one transaction at a time.
//!
//! Appending writes nothing here. A commit leaves a note ([`Hints`]); whoever is named in it gets its
//! turn, reads the logs after its mark ([`read`]) and what is beside them ([`beside`]), and moves on
//! once the other server has said 200 ([`send`]). Whoever takes nothing is left alone for longer and
//! longer ([`book`]), until it is heard of. Notes may be lost; marks are not.

mod beside;
mod book;
mod hints;
mod read;
mod send;
mod status;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use ruma::{OwnedServerName, ServerName};
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

pub(in crate::hub) use self::send::PATIENCE;
pub use self::{
    beside::stream_id,
    hints::{Hints, Present, Servers, Typing},
    status::{PeerState, PeerStatus},
};
use self::{
    book::Book,
    send::{Job, Outcome, Sender, TxnIds},
};
use super::{Fanout, Writer, settings::OutboxSettings};
use crate::{
    api::Remote,
    base::{Clock, Position},
    store::{Batch, Mark, SharedStore, StoreError},
};

/// How long a transaction under way may take once the hub closes.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// How long it waits at most before it looks at the clock again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_mins(10);

/// What the outbox stands on.
pub(super) struct OutboxParts {
    pub(super) store: SharedStore,
    pub(super) writer: Arc<Writer>,
    pub(super) fanout: Arc<Fanout>,
    pub(super) remote: Arc<dyn Remote>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ours: OwnedServerName,
    pub(super) settings: OutboxSettings,
    /// Two random numbers.
    pub(super) seeds: (u64, u64),
}

/// Tells other servers. Ends when dropped.
pub struct Outbox {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    parts: OutboxParts,
    ids: TxnIds,
    hints: Arc<Hints>,
    book: Mutex<Book>,
    closing: Notify,
}

impl Outbox {
    /// Begins where the marks are.
    pub(super) async fn start(parts: OutboxParts) -> Result<Self, StoreError> {
        let at = parts.fanout.position();
        let hints = Arc::new(Hints::at(at));
        parts.fanout.tell_servers(Arc::clone(&hints));
        let mut records = parts.store.destinations().await?;
        records.retain(|record| record.server != parts.ours);
        for record in &mut records {
            if record.mark == Mark::default() && record.beside == Position::ZERO {
                record.beside = at; // it was told nothing yet: old receipts are no news
            }
        }
        let (seed, run) = parts.seeds;
        let rng = StdRng::seed_from_u64(seed);
        let mut book = Book::new(parts.settings.clone(), records, rng);
        book.scatter(parts.clock.now());
        book.look_everywhere();
        let shared = Arc::new(Shared {
            ids: TxnIds::new(run),
            parts,
            hints,
            book: Mutex::new(book),
            closing: Notify::new(),
        });
        let task = tokio::spawn(Arc::clone(&shared).run());
        Ok(Self {
            shared,
            task: Mutex::new(Some(task)),
        })
    }

    /// A server asked something: it is there.
    pub fn alive(&self, server: &ServerName) {
        let is_alone = {
            let book = self.shared.book();
            let known = book.all.get(server);
            known.is_some_and(|known| matches!(known.state, book::State::Alone(_)))
        };
        if is_alone {
            self.shared.hints.alive(server);
        }
    }

    /// The operator's lists may be others: those that were left alone for them are tried at once.
    pub fn relisted(&self) {
        self.shared.hints.relisted();
    }

    /// Looks at the clock again.
    #[cfg(test)]
    pub(crate) fn look(&self) {
        self.shared.hints.ring();
    }

    /// Ends at once, as a crash would.
    #[cfg(test)]
    pub(crate) fn kill(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = &*task {
            task.abort();
        }
    }

    /// Lets what is under way end, within a bounded time, and stores how far everyone is.
    pub(super) async fn drain(&self) {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.shared.closing.notify_one();
        if let Some(task) = task {
            let _ = task.await; // a panic in it was told by then
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

/// A job that is done.
struct Done {
    job: Job,
    outcome: Outcome,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        let mut jobs: JoinSet<Done> = JoinSet::new();
        let mut save_at: Option<tokio::time::Instant> = None;
        loop {
            self.begin(&mut jobs);
            save_at = match self.book().save_when() {
                None => None,
                Some(when) => {
                    let at = tokio::time::sleep(when.after()).deadline();
                    Some(save_at.map_or(at, |earlier| earlier.min(at)))
                }
            };
            let pause = self.pause();
            let save = async {
                match save_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.closing.notified() => break,
                Some(done) = jobs.join_next(), if !jobs.is_empty() => self.settle(done),
                () = save => {
                    self.save().await;
                    save_at = None;
                }
                () = self.hints.rung() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        let _ = timeout(DRAIN_PATIENCE, async {
            while let Some(done) = jobs.join_next().await {
                self.settle(done);
            }
        })
        .await;
        jobs.shutdown().await;
        self.save().await;
    }

    /// Gives everyone their turn who has one.
    fn begin(self: &Arc<Self>, jobs: &mut JoinSet<Done>) {
        let now = self.parts.clock.now();
        let inbox = self.hints.take();
        let upto = inbox.position;
        let mut book = self.book();
        book.note(inbox, now);
        while let Some(job) = book.next(upto, now) {
            let shared = Arc::clone(self);
            jobs.spawn(async move { shared.work(job).await });
        }
        let (at_work, failing) = book.counts();
        drop(book);
        metrics::gauge!("tramline_outbox_in_flight").set(number(at_work));
        metrics::gauge!("tramline_outbox_failing").set(number(failing));
    }

    async fn work(self: Arc<Self>, job: Job) -> Done {
        let sender = Sender {
            store: &self.parts.store,
            remote: &*self.parts.remote,
            clock: &*self.parts.clock,
            ours: &self.parts.ours,
            settings: &self.parts.settings,
            ids: &self.ids,
        };
        let server = &job.record.server;
        let begun = |upto: Mark| {
            if let Some(known) = self.book().all.get_mut(server) {
                known.under_way = Some(upto);
            }
        };
        let outcome = sender.step(&job, begun).await;
        Done { job, outcome }
    }

    fn settle(&self, done: Result<Done, tokio::task::JoinError>) {
        let Done { job, outcome } = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "telling a server ended badly");
                return;
            }
        };
        let now = self.parts.clock.now();
        let news = (job.rooms, job.beside);
        self.book().settle(news, outcome, &job.record.server, now);
    }

    /// Stores how far everyone is.
    async fn save(&self) {
        let Some(writes) = self.book().unsaved() else {
            return;
        };
        let batch = Batch {
            writes: writes.clone(),
            may_conflict: false,
        };
        if let Err(error) = self.parts.writer.write(batch, Vec::new()).await {
            tracing::warn!(%error, "how far other servers were told could not be stored");
            self.book().not_saved(writes);
        }
    }

    /// How long nothing has to be done.
    fn pause(&self) -> Duration {
        let Some(due) = self.book().next_due() else {
            return LOOK_AGAIN_AFTER;
        };
        let left = due.0.saturating_sub(self.parts.clock.now().0);
        Duration::from_millis(left.max(1)).min(LOOK_AGAIN_AFTER)
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of servers are small")]
fn number(value: usize) -> f64 {
    value as f64
}
