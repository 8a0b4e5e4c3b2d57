//! The library counts in [`Instant`]s, everyone else in [`Timestamp`]s: the one place that converts.

use std::time::{Duration, Instant};

use crate::base::Timestamp;

/// One moment in both counts, given by the caller, and the latest time that was told.
#[derive(Debug)]
pub(super) struct Times {
    base: Instant,
    at: Timestamp,
    latest: Timestamp,
}

impl Times {
    pub(super) const fn new(base: Instant, at: Timestamp) -> Self {
        Self {
            base,
            at,
            latest: at,
        }
    }

    /// The library's time. It never runs backwards, whatever the caller's clock does.
    pub(super) fn instant(&mut self, now: Timestamp) -> Instant {
        self.latest = self.latest.max(now);
        let since = self.latest.since(self.at);
        self.base.checked_add(since).unwrap_or(self.base)
    }

    /// When the library wants to be woken; absent when that is no time in sight.
    pub(super) fn timestamp(&self, due: Instant) -> Option<Timestamp> {
        let since = due.saturating_duration_since(self.base);
        // a millisecond late: woken early, the library would find nothing due and be asked again
        let due = self.at + since + Duration::from_millis(1);
        (due.since(self.latest) < NEVER).then_some(due)
    }
}

/// What the library calls «ten years from now» means that it waits for nothing.
const NEVER: Duration = Duration::from_hours(24);
