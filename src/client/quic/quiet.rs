//! The time that connections see: it stands still while they have nothing to do.
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

/// Tokio, and the connections' time.
#[derive(Debug)]
pub(super) struct Quiet(Arc<Mutex<Clock>>);

/// Who is due in less is doing something: waits for an acknowledgement, or owes one. What is later is
/// the end of an idle connection.
const SOON: Duration = Duration::from_mins(1);

/// What goes by from one look at the clock to the next while nobody does anything: two moments are
/// never the same one.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Clock {
    /// When it was looked at last.
    seen: Instant,
    /// What it showed.
    shown: Instant,
    /// How many timers are due soon.
    soon: usize,
}

impl Clock {
    /// What it shows at the true time `now`.
    fn look(&mut self, now: Instant) -> Instant {
        let passed = now.saturating_duration_since(self.seen);
        let counted = if self.soon > 0 {
            passed
        } else {
            passed.min(TICK)
        };
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
    pub(super) fn new() -> Self {
        let now = TokioRuntime.now();
        Self(Arc::new(Mutex::new(Clock {
            seen: now,
            shown: now,
            soon: 0,
        })))
    }
}

fn locked(clock: &Mutex<Clock>) -> MutexGuard<'_, Clock> {
    clock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runtime for Quiet {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let mut timer = Timer {
            clock: Arc::clone(&self.0),
            sleep: TokioRuntime.new_timer(TokioRuntime.now()),
            deadline,
            soon: false,
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
        locked(&self.0).look(TokioRuntime.now())
    }
}

/// A connection's next deadline.
#[derive(Debug)]
struct Timer {
    clock: Arc<Mutex<Clock>>,
    sleep: Pin<Box<dyn AsyncTimer>>,
    /// As the clock will show it.
    deadline: Instant,
    /// Whether the clock counts it.
    soon: bool,
}

impl Timer {
    fn due_at(&mut self, deadline: Instant) {
        let now = TokioRuntime.now();
        let mut clock = locked(&self.clock);
        let left = deadline.saturating_duration_since(clock.look(now));
        let soon = left <= SOON;
        clock.soon = clock.soon - usize::from(self.soon) + usize::from(soon);
        drop(clock);
        self.soon = soon;
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

impl Drop for Timer {
    fn drop(&mut self) {
        locked(&self.clock).soon -= usize::from(self.soon);
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
        let quiet = Quiet::new();
        let began = quiet.now();
        let idle = quiet.new_timer(began + HOUR);

        tokio::time::advance(HOUR / 2).await;
        assert_eq!(quiet.now() - began, TICK);
        drop(idle);
        tokio::time::advance(HOUR / 2).await;
        assert_eq!(quiet.now() - began, 2 * TICK);
    }

    #[tokio::test(start_paused = true)]
    async fn time_goes_by_while_one_of_two_connections_waits() {
        let quiet = Quiet::new();
        let began = quiet.now();
        let mut idle = quiet.new_timer(began + HOUR);
        let waiting = quiet.new_timer(began + SOON);

        tokio::time::advance(SOON / 2).await;
        assert_eq!(quiet.now() - began, SOON / 2);
        drop(waiting);
        tokio::time::advance(SOON).await;
        assert_eq!(quiet.now() - began, SOON / 2 + TICK);
        idle.as_mut().reset(began + SOON);
        tokio::time::advance(SOON / 4).await;
        assert_eq!(quiet.now() - began, SOON / 4 * 3 + TICK);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_in_an_hour_is_due_in_an_hour() {
        let quiet = Quiet::new();
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
