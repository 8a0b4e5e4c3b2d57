//! When a server may be asked for its keys again.
//!
//! Whoever names a server in a request or an event makes us ask it. One that is down, or that never
//! has the key which is named, is asked ever more rarely.

use std::time::Duration;

use crate::base::Timestamp;

/// What a key is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// For a request that came just now: the server is most likely there.
    ForRequest,
    /// For an event, which others may have sent.
    ForEvent,
}

/// How asking one server went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    last: Option<Timestamp>,
    failures: u32,
}

impl Pace {
    /// Whether to ask now.
    pub fn is_due(&self, wanted: Wanted, now: Timestamp) -> bool {
        let Some(last) = self.last else {
            return true;
        };
        now.since(last) >= self.pause(wanted)
    }

    /// Takes that the server was asked, and whether it answered.
    pub const fn asked(&mut self, answered: bool, now: Timestamp) {
        self.last = Some(now);
        self.failures = if answered {
            0
        } else {
            self.failures.saturating_add(1)
        };
    }

    fn pause(&self, wanted: Wanted) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else {
            return ANSWERED_PAUSE;
        };
        let pause = FAILED_PAUSE * (1 << doublings.min(DOUBLINGS_MAX));
        match wanted {
            Wanted::ForRequest => pause.min(FAILED_PAUSE_MAX_FOR_REQUEST),
            Wanted::ForEvent => pause,
        }
    }
}

/// Before a server is asked again that has answered, but without the key that is wanted.
const ANSWERED_PAUSE: Duration = Duration::from_secs(30);

/// Before a server is asked again that did not answer; doubles each time.
const FAILED_PAUSE: Duration = Duration::from_secs(5);

/// The same for a server that seems to be back: its requests are refused meanwhile.
const FAILED_PAUSE_MAX_FOR_REQUEST: Duration = Duration::from_secs(20);

/// 5 s become 11 minutes.
const DOUBLINGS_MAX: u32 = 7;
