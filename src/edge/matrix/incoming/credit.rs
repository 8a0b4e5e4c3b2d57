//! How much of this hub's time another server may use: a second at once, and a quarter of all time.
//!
//! Who has used more is answered later. What it sent is stored, and seen, as soon as for anybody; only
//! its next request, which comes after that answer, is held up, and so nobody else is.

use std::{collections::HashMap, time::Duration};

use ruma::OwnedServerName;

use crate::base::Timestamp;

/// What each server has used of late.
#[derive(Default)]
pub(super) struct Credit(HashMap<OwnedServerName, Used>);

#[derive(Clone, Copy)]
struct Used {
    ms: u64,
    at: Timestamp,
}

impl Used {
    /// What is not forgotten of it by now.
    fn left(self, now: Timestamp) -> u64 {
        let since = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.ms.saturating_sub(since / ONE_IN)
    }
}

impl Credit {
    /// Notes that a request of a server took so long and had so many bytes; gives how long its answer is
    /// held.
    pub(super) fn used(
        &mut self,
        server: &OwnedServerName,
        (now, took, bytes): (Timestamp, Duration, usize),
    ) -> Duration {
        if self.0.len() >= SERVERS_MAX {
            self.0.retain(|_, used| used.left(now) > 0);
        }
        let before = self.0.get(server).map_or(0, |used| used.left(now));
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let took = u64::try_from(took.min(ONCE_MAX).as_millis()).unwrap_or(u64::MAX);
        let ms = before
            .saturating_add(took)
            .saturating_add(bytes / BYTES_PER_MS);
        if self.0.len() < SERVERS_MAX || self.0.contains_key(server) {
            self.0.insert(server.clone(), Used { ms, at: now });
        }
        let over = ms.saturating_sub(AT_ONCE_MS).saturating_mul(ONE_IN);
        Duration::from_millis(over).min(HELD_MAX)
    }
}

/// What a server may use before it is held up, in milliseconds: a thousand events and more.
const AT_ONCE_MS: u64 = 1000;

/// Of how many milliseconds one may be used in the long run. A quarter of one core takes in some hundred
/// events a second; with eight such servers two cores are busy.
const ONE_IN: u64 = 4;

/// Bytes that count as a millisecond: they were hashed and read before it was known whose they are.
const BYTES_PER_MS: u64 = 20_000;

/// What one request counts at most. Waiting for other servers is not counted ([`waiting`]); it may have
/// waited for the store, or for what somebody else asks.
///
/// [`waiting`]: crate::edge::matrix::waiting
const ONCE_MAX: Duration = Duration::from_secs(2);

/// How long an answer is held at most: well within any server's patience.
const HELD_MAX: Duration = Duration::from_secs(8);

/// Servers of which it is known what they used.
const SERVERS_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use ruma::owned_server_name as name;

    use super::*;

    #[test]
    fn who_asks_now_and_then_is_never_held_up_and_who_floods_gets_a_quarter() {
        let (busy, quiet) = (name!("busy"), name!("quiet"));
        let mut credit = Credit::default();
        let took = Duration::from_millis(100);
        let (mut now, mut worked) = (Timestamp(1_000_000), Duration::ZERO);
        let end = now + Duration::from_secs(100);
        while now < end {
            now = now + took;
            worked += took;
            now = now + credit.used(&busy, (now, took, 0));
            assert_eq!(
                credit.used(&quiet, (now, Duration::from_millis(20), 2000)),
                Duration::ZERO
            );
        }
        assert!(worked <= Duration::from_secs(27), "{worked:?}");
        assert!(worked >= Duration::from_secs(22), "{worked:?}");
        // and after a while it is as if nothing had been
        now = now + Duration::from_secs(10);
        assert_eq!(credit.used(&busy, (now, took, 0)), Duration::ZERO);
    }

    #[test]
    fn bytes_count_and_no_answer_is_held_for_long() {
        let mut credit = Credit::default();
        let server = name!("large");
        let mut held = Duration::ZERO;
        for _ in 0..5 {
            held = credit.used(&server, (Timestamp(1), Duration::ZERO, 9_000_000));
        }
        assert_eq!(held, Duration::from_secs(5));
        for _ in 0..5 {
            held = credit.used(&server, (Timestamp(1), Duration::from_secs(100), 0));
        }
        assert_eq!(held, HELD_MAX);
    }
}
