//! How long whoever works for a server waited for yet other servers meanwhile: that costs nothing here,
//! and is not the fault of who asked for the work.
//!
//! Waiting for that server itself does not count: it would be quicker if it liked. Nor does what is asked
//! in a task of its own, waiting for somebody else's question, or for the store.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

use crate::base::{Clock, Timestamp};

tokio::task_local! {
    static WAITED: Arc<Waited>;
}

struct Waited {
    /// Who asked for the work.
    origin: OwnedServerName,
    spans: Mutex<Spans>,
}

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
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does some work for `origin`; gives with its outcome how long of it yet other servers were waited for.
pub(super) async fn counted<T>(
    origin: &ServerName,
    work: impl Future<Output = T>,
) -> (T, Duration) {
    let waited = Arc::new(Waited {
        origin: origin.to_owned(),
        spans: Mutex::default(),
    });
    let done = WAITED.scope(Arc::clone(&waited), work).await;
    let total = waited.spans().total;
    (done, total)
}

/// Waits for another server's answer.
pub(super) async fn elsewhere<T>(
    clock: &dyn Clock,
    server: &ServerName,
    answer: impl Future<Output = T>,
) -> T {
    match WAITED.try_with(Arc::clone) {
        Ok(waited) if waited.origin != *server => {
            let _open = Open::begin(&waited, clock);
            answer.await
        }
        _ => answer.await,
    }
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

    fn name(name: &str) -> OwnedServerName {
        name.try_into().unwrap()
    }

    #[tokio::test]
    async fn questions_side_by_side_count_once_and_work_between_them_not_at_all() {
        let clock = Seconds::default();
        let other = name("other");
        let ask = |count| elsewhere(&clock, &other, clock.pass(count));
        let work = async {
            clock.pass(100).await;
            ask(1).await;
            clock.pass(100).await;
            join(ask(10), ask(20)).await;
            "done"
        };
        let (done, waited) = counted(&name("asks"), work).await;
        assert_eq!((done, waited), ("done", Duration::from_secs(31)));
    }

    #[tokio::test]
    async fn who_lets_us_wait_for_itself_has_that_counted_as_work() {
        let clock = Seconds::default();
        let asks = name("asks");
        let work = elsewhere(&clock, &asks, clock.pass(9));
        let ((), waited) = counted(&asks, work).await;
        assert_eq!(waited, Duration::ZERO);
    }

    #[tokio::test]
    async fn a_question_that_is_given_up_was_waited_for_as_well() {
        let clock = Seconds::default();
        let other = name("other");
        let never = elsewhere(&clock, &other, std::future::pending::<()>());
        let work = select(Box::pin(never), Box::pin(clock.pass(7)));
        let ((), waited) = counted(&name("asks"), async { drop(work.await) }).await;
        assert_eq!(waited, Duration::from_secs(7));
    }

    #[tokio::test]
    async fn who_does_not_count_may_ask_all_the_same() {
        let clock = Seconds::default();
        elsewhere(&clock, &name("other"), clock.pass(1)).await;
    }
}
