//! The real clock and the real randomness: the one place that may ask the system for either.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{
    SeedableRng as _, TryRngCore as _,
    rngs::{OsRng, StdRng},
};

use crate::{
    base::{Clock, Timestamp},
    client::World,
};

/// The system's clock, made to never run backwards.
///
/// Event timestamps want wall time, retransmission timers a time that always moves on; there is
/// one [`Clock`] for both. When the wall clock is set back, this one goes on at half speed until
/// the wall clock has caught up: no timer stalls and none fires twice.
#[derive(Debug)]
pub struct SystemClock {
    last: Mutex<Reading>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    since_epoch: Duration,
    at: Instant,
}

impl SystemClock {
    /// Starts at the wall clock's time.
    pub fn new() -> Self {
        let (since_epoch, at) = system_time();
        Self {
            last: Mutex::new(Reading { since_epoch, at }),
        }
    }
}

/// This moment, for a library that counts in its own way.
pub fn instant() -> Instant {
    system_time().1
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, at) = system_time();
        let elapsed = at.saturating_duration_since(last.at);
        *last = Reading {
            since_epoch: advance(last.since_epoch, elapsed, wall),
            at,
        };
        Timestamp(u64::try_from(last.since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The time after `last`, when `elapsed` has gone by and the wall clock shows `wall`.
fn advance(last: Duration, elapsed: Duration, wall: Duration) -> Duration {
    wall.max(last.saturating_add(elapsed / 2))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is where time comes from; everyone else takes a base::Clock"
)]
fn system_time() -> (Duration, Instant) {
    // A wall clock before 1970 is a machine without one; it counts from its start.
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (wall, Instant::now())
}

/// Time that only ever goes on, from when it was started.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    /// Starts it.
    pub fn start() -> Self {
        let (_, started) = system_time();
        Self { started }
    }

    /// How long it has run.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Randomness for keys, tokens and everything else, seeded by the operating system.
pub fn rng() -> StdRng {
    StdRng::from_os_rng()
}

/// The real time and chance, for the client library.
pub fn world() -> World {
    World {
        clock: Arc::new(SystemClock::new()),
        rng: || Box::new(rng()),
    }
}

/// Randomness straight from the operating system, for what must outlive this process.
pub fn fill_from_system(bytes: &mut [u8]) -> io::Result<()> {
    OsRng.try_fill_bytes(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_clock_follows_a_wall_clock_that_is_ahead() {
        assert_eq!(advance(10 * SECOND, SECOND, 50 * SECOND), 50 * SECOND);
    }

    #[test]
    fn a_wall_clock_set_back_slows_the_clock_and_never_stops_it() {
        let later = advance(100 * SECOND, 2 * SECOND, 40 * SECOND);

        assert_eq!(later, 101 * SECOND);
    }

    #[test]
    fn time_never_runs_backwards() {
        let clock = SystemClock::new();
        let readings: Vec<Timestamp> = (0..100).map(|_| clock.now()).collect();

        assert!(readings.is_sorted());
        assert!(readings[0].0 > 1_600_000_000_000);
    }
}
