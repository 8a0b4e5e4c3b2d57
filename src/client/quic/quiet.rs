//! The time that a connection sees: it stands still while it has nothing to do.
//!
//! With what it sends, quinn says again what it has acknowledged, if that was more than a round trip and the
//! hub's delay ago. A device that asks now and then would say so with each request: nine bytes, four of
//! them for how long ago that was. The hub has no use for it; had it not heard the first
//! acknowledgement, it would have sent again, within that time, what was to be acknowledged. So the time between two
//! exchanges does not count, as on a device that slept. What is due is due in true time all the same.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

/// Tokio, and the time of one connection.
#[derive(Debug)]
pub(super) struct Quiet {
    clock: Arc<Mutex<Clock>>,
    soon: Duration,
}

/// If something is due in less, the connection waits for an acknowledgement, or owes one. What is later is the end of
/// an idle connection, or a word that keeps it.
const SOON: Duration = Duration::from_mins(1);

/// The same at the least: on a slow link an acknowledgement is waited for so long.
const SOON_MIN: Duration = Duration::from_secs(10);

/// What goes by from one look at the clock to the next while nobody does anything: two moments are
/// never the same one.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Clock {
    /// When it was looked at last.
    seen: Instant,
    /// What it showed.
    shown: Instant,
    /// Whether the connection's timer is due soon.
    soon: bool,
}

impl Clock {
    /// What it shows at the true time `now`.
    fn look(&mut self, now: Instant) -> Instant {
        let passed = now.saturating_duration_since(self.seen);
        let counted = if self.soon { passed } else { passed.min(TICK) };
        self.seen = now;
        self.shown += counted;
        self.shown
    }

    /// Something due at `deadline` is due now.
    fn reach(&mut self, deadline: Instant, now: Instant) {
        self.shown = self.look(now).max(deadline);
    }
}

impl Quiet {
    /// For a connection that is kept alive after so much silence, if it is.
    pub(super) fn new(alive_every: Option<Duration>) -> Self {
        let now = TokioRuntime.now();
        let soon = alive_every.map_or(SOON, |every| (every / 2).clamp(SOON_MIN, SOON));
        let clock = Clock {
            seen: now,
            shown: now,
            soon: false,
        };
        Self {
            clock: Arc::new(Mutex::new(clock)),
            soon,
        }
    }
}

fn locked(clock: &Mutex<Clock>) -> MutexGuard<'_, Clock> {
    clock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runtime for Quiet {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let mut timer = Timer {
            clock: Arc::clone(&self.clock),
            sleep: TokioRuntime.new_timer(TokioRuntime.now()),
            deadline,
            soon: self.soon,
        };
        timer.due_at(deadline);
        Box::pin(timer)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        locked(&self.clock).look(TokioRuntime.now())
    }
}

/// A connection's next deadline.
#[derive(Debug)]
struct Timer {
    clock: Arc<Mutex<Clock>>,
    sleep: Pin<Box<dyn AsyncTimer>>,
    /// As the clock will show it.
    deadline: Instant,
    /// What is due in less is due soon.
    soon: Duration,
}

impl Timer {
    fn due_at(&mut self, deadline: Instant) {
        let now = TokioRuntime.now();
        let mut clock = locked(&self.clock);
        let left = deadline.saturating_duration_since(clock.look(now));
        clock.soon = left <= self.soon;
        drop(clock);
        self.deadline = deadline;
        self.sleep.as_mut().reset(now + left);
    }
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.due_at(deadline);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.sleep.as_mut().poll(cx));
        locked(&self.clock).reach(self.deadline, TokioRuntime.now());
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    async fn rings(timer: &mut Pin<Box<dyn AsyncTimer>>) {
        poll_fn(|cx| timer.as_mut().poll(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn time_stands_still_while_nothing_is_due() {
        let quiet = Quiet::new(None);
        let began = quiet.now();
        let mut timer = quiet.new_timer(began + HOUR);

        tokio::time::advance(HOUR / 2).await;
        assert_eq!(quiet.now() - began, TICK);

        timer.as_mut().reset(began + SOON);
        tokio::time::advance(SOON / 2).await;
        assert_eq!(quiet.now() - began, SOON / 2 + TICK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_word_that_keeps_a_connection_is_nothing_to_wait_for() {
        let every = Duration::from_secs(30);
        let quiet = Quiet::new(Some(every));
        let began = quiet.now();
        let mut timer = quiet.new_timer(began + every);

        tokio::time::advance(every / 2).await;
        assert_eq!(quiet.now() - began, TICK);

        timer.as_mut().reset(quiet.now() + every / 3);
        tokio::time::advance(every / 3).await;
        assert_eq!(quiet.now() - began, every / 3 + TICK);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_in_an_hour_is_due_in_an_hour() {
        let quiet = Quiet::new(None);
        let began = quiet.now();
        let truly = TokioRuntime.now();
        tokio::time::advance(HOUR).await; // nothing is due
        let mut idle = quiet.new_timer(quiet.now() + HOUR);
        tokio::time::advance(HOUR / 2).await;
        quiet.now();

        rings(&mut idle).await;

        assert!((TokioRuntime.now() - truly).abs_diff(2 * HOUR) < 2 * TICK);
        assert_eq!(quiet.now() - began, HOUR + TICK);
        idle.as_mut().reset(quiet.now() + SOON);
        rings(&mut idle).await;
        assert!((TokioRuntime.now() - truly).abs_diff(2 * HOUR + SOON) < 2 * TICK);
    }
}
