//! How long whoever works on something waited for other servers meanwhile: that costs nothing here,
//! and is not the fault of who asked for the work.
//!
//! What is asked in a task of its own counts for nobody. Nor does waiting for somebody else's question,
//! or for the store.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::base::{Clock, Timestamp};

tokio::task_local! {
    static WAITED: Arc<Waited>;
}

#[derive(Default)]
struct Waited(Mutex<Spans>);

#[derive(Default)]
struct Spans {
    /// How many questions are open.
    open: usize,
    /// Since when one is.
    since: Timestamp,
    total: Duration,
}

impl Waited {
    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does some work; gives with its outcome how long of it other servers were waited for.
pub(super) async fn counted<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let waited = Arc::new(Waited::default());
    let done = WAITED.scope(Arc::clone(&waited), work).await;
    let total = waited.spans().total;
    (done, total)
}

/// Waits for another server.
pub(super) async fn elsewhere<T>(clock: &dyn Clock, answer: impl Future<Output = T>) -> T {
    let Ok(waited) = WAITED.try_with(Arc::clone) else {
        return answer.await;
    };
    let _open = Open::begin(&waited, clock);
    answer.await
}

/// A question that has no answer yet. Who gives it up has waited as well.
struct Open<'a> {
    waited: &'a Waited,
    clock: &'a dyn Clock,
}

impl<'a> Open<'a> {
    fn begin(waited: &'a Waited, clock: &'a dyn Clock) -> Self {
        let mut spans = waited.spans();
        if spans.open == 0 {
            spans.since = clock.now();
        }
        spans.open += 1;
        drop(spans);
        Self { waited, clock }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut spans = self.waited.spans();
        spans.open = spans.open.saturating_sub(1);
        if spans.open == 0 {
            let span = self.clock.now().since(spans.since);
            spans.total = spans.total.saturating_add(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::{join, select};
    use tokio::task::yield_now;

    use super::*;

    #[derive(Default)]
    struct Seconds(AtomicU64);

    impl Seconds {
        async fn pass(&self, count: u64) {
            yield_now().await;
            self.0.fetch_add(count * 1000, Ordering::Relaxed);
            yield_now().await;
        }
    }

    impl Clock for Seconds {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.load(Ordering::Relaxed))
        }
    }

    #[tokio::test]
    async fn questions_side_by_side_count_once_and_work_between_them_not_at_all() {
        let clock = Seconds::default();
        let ask = |count| elsewhere(&clock, clock.pass(count));
        let work = async {
            clock.pass(100).await;
            ask(1).await;
            clock.pass(100).await;
            join(ask(10), ask(20)).await;
            "done"
        };
        let (done, waited) = counted(work).await;
        assert_eq!((done, waited), ("done", Duration::from_secs(31)));
    }

    #[tokio::test]
    async fn a_question_that_is_given_up_was_waited_for_as_well() {
        let clock = Seconds::default();
        let never = elsewhere(&clock, std::future::pending::<()>());
        let work = select(Box::pin(never), Box::pin(clock.pass(7)));
        let ((), waited) = counted(async { drop(work.await) }).await;
        assert_eq!(waited, Duration::from_secs(7));
    }

    #[tokio::test]
    async fn who_does_not_count_may_ask_all_the_same() {
        let clock = Seconds::default();
        elsewhere(&clock, clock.pass(1)).await;
    }
}
