//! How long the NAT in front of us keeps a mapping that we do not use.
//!
//! A push that came through says that the mapping had outlived the silence before it, one that had
//! to be fetched says that it may not have. While nothing is known, a device that has nothing else
//! to say asks the hub to answer later, now and then: some 160 bytes each, until the answer is lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is kept open at the least: shorter ones are rare, and cost more than they bring.
const SECONDS_MIN: u64 = 25;

/// What is tried at most: with half an hour the keep-alives cost next to nothing.
const SECONDS_MAX: u64 = 30 * 60;

/// How exactly it is looked for.
const SECONDS_APART: u64 = 15;

/// The longest silence that is asked for: less than the hub's longest, and what is known to be open
/// for so long costs little.
const PROBE_MAX: Duration = Duration::from_secs(290);

/// How many pushes in a row must fail before it counts: on a lossy link one says little.
const MISSES: u8 = 2;

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatTimer {
    /// A mapping unused for so long was open.
    open_s: u64,
    /// One unused for so long was closed.
    closed_s: Option<u64>,
    misses: u8,
}

impl Default for NatTimer {
    fn default() -> Self {
        Self {
            open_s: SECONDS_MIN,
            closed_s: None,
            misses: 0,
        }
    }
}

impl NatTimer {
    /// After how much silence to send a keep-alive: halfway between what held and what did not,
    /// while that is far apart.
    ///
    /// spec: thin-profile §11
    pub fn interval(&self) -> Duration {
        let above = self
            .closed_s
            .unwrap_or_else(|| self.open_s.saturating_mul(3));
        let gap = above.saturating_sub(self.open_s);
        let tried = if gap > SECONDS_APART {
            self.open_s + gap / 2
        } else {
            self.open_s
        };
        Duration::from_secs(tried.clamp(SECONDS_MIN, SECONDS_MAX))
    }

    /// After how much silence the hub is to be asked to speak, where that would tell something.
    ///
    /// spec: thin-profile §11
    pub fn probe(&self) -> Option<Duration> {
        let tried = self.interval().min(PROBE_MAX);
        (tried > self.known()).then_some(tried)
    }

    /// After how much silence to send a keep-alive where more is found out by probes.
    pub fn known(&self) -> Duration {
        Duration::from_secs(self.open_s.max(SECONDS_MIN))
    }

    /// What was measured, once there is an upper end to it.
    pub fn measured(&self) -> Option<Duration> {
        self.closed_s.map(|_| Duration::from_secs(self.open_s))
    }

    /// A push came through after so much silence of ours.
    pub fn held(&mut self, silence: Duration) {
        self.misses = 0;
        let seconds = silence.as_secs().min(SECONDS_MAX);
        if seconds > self.open_s {
            self.open_s = seconds;
        }
        // The NAT, or the place, may be another one.
        if self.closed_s.is_some_and(|closed| closed <= self.open_s) {
            self.closed_s = None;
        }
    }

    /// A push did not come through after so much silence of ours.
    pub fn failed(&mut self, silence: Duration) {
        self.misses = self.misses.saturating_add(1);
        if self.misses < MISSES {
            return;
        }
        self.misses = 0;
        let seconds = silence.as_secs().max(SECONDS_MIN + 1);
        self.closed_s = Some(self.closed_s.map_or(seconds, |old| old.min(seconds)));
        if self.open_s >= seconds {
            self.open_s = SECONDS_MIN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each round the device is silent for as long as it thinks it may be, and is pushed to.
    fn search(timer: &mut NatTimer, nat: Duration, rounds: u32) {
        for _ in 0..rounds {
            let silence = timer.interval();
            if silence < nat {
                timer.held(silence);
            } else {
                timer.failed(silence);
            }
        }
    }

    #[test]
    fn the_timer_of_the_nat_is_found_from_below_and_kept() {
        for seconds in [40, 120, 300, 1200] {
            let mut timer = NatTimer::default();
            search(&mut timer, Duration::from_secs(seconds), 40);

            let found = timer.interval().as_secs();
            assert!(
                found < seconds && found + SECONDS_APART >= seconds,
                "{found} of {seconds}"
            );
            assert_eq!(timer.measured(), Some(timer.interval()));
        }
    }

    #[test]
    fn probes_find_the_timer_from_below_and_end() {
        for seconds in [40, 120, 270, 3000] {
            let nat = Duration::from_secs(seconds);
            let mut timer = NatTimer::default();
            let mut probes = 0;
            while let Some(silence) = timer.probe() {
                probes += 1;
                if silence < nat {
                    timer.held(silence);
                } else {
                    timer.failed(silence);
                }
            }
            assert!(probes <= 14, "{probes} for {seconds}");
            let known = timer.known().min(PROBE_MAX).as_secs();
            let wanted = seconds.min(PROBE_MAX.as_secs());
            assert!(
                known <= wanted && known + SECONDS_APART >= wanted,
                "{known} of {seconds}"
            );
        }
    }

    #[test]
    fn one_lost_push_changes_nothing_and_another_nat_is_noticed() {
        let mut timer = NatTimer::default();
        search(&mut timer, Duration::from_mins(5), 40);
        let before = timer.interval();

        timer.failed(Duration::from_mins(1));
        assert_eq!(timer.interval(), before);
        search(&mut timer, Duration::from_mins(1), 40);
        assert!(timer.interval() < Duration::from_mins(1), "{timer:?}");
    }

    #[test]
    fn without_a_nat_keep_alives_become_rare() {
        let mut timer = NatTimer::default();
        search(&mut timer, Duration::MAX, 40);

        assert_eq!(timer.interval(), Duration::from_secs(SECONDS_MAX));
        assert_eq!(timer.measured(), None);
    }
}
