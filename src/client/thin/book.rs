//! What a device's operations cost, day by day: bytes, datagrams and wake-ups, at the socket.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    disk::Disk,
    state::{StateDir, StateError, io_error},
};
use crate::{base::Timestamp, client::Cost};

/// Days kept: a month, which is what is paid for.
const DAYS_MAX: usize = 31;

/// After so much silence the radio sleeps. spec: thin-profile §13
const RADIO_SLEEPS_AFTER_MS: u64 = 10_000;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What an operation cost; bytes with IP and UDP headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// How often it was done.
    pub times: u64,
    /// Bytes to the hub.
    pub up: u64,
    /// Bytes from the hub.
    pub down: u64,
    /// Datagrams to the hub.
    pub datagrams_up: u64,
    /// Datagrams from the hub.
    pub datagrams_down: u64,
    /// How often it woke the radio.
    pub wakeups: u64,
}

/// Which way a datagram went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

/// The days' ledgers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    days: BTreeMap<u64, BTreeMap<String, Line>>,
    /// When the last datagram was.
    last_ms: u64,
}

impl Book {
    /// Notes a datagram of so many bytes, headers included.
    pub(super) fn datagram(&mut self, now: Timestamp, operation: &str, way: Way, bytes: u64) {
        let woke = now.0.saturating_sub(self.last_ms) > RADIO_SLEEPS_AFTER_MS;
        self.last_ms = now.0;
        let line = self.line(now, operation);
        line.wakeups += u64::from(woke);
        match way {
            Way::Up => {
                line.up += bytes;
                line.datagrams_up += 1;
            }
            Way::Down => {
                line.down += bytes;
                line.datagrams_down += 1;
            }
        }
    }

    /// Notes what a connection has exchanged, headers of so many bytes each not counted in it.
    pub(super) fn exchanged(&mut self, now: Timestamp, operation: &str, cost: Cost, headers: u64) {
        let datagrams = cost.datagrams_up.saturating_add(cost.datagrams_down);
        if datagrams == 0 {
            return;
        }
        let woke = now.0.saturating_sub(self.last_ms) > RADIO_SLEEPS_AFTER_MS;
        self.last_ms = now.0;
        let line = self.line(now, operation);
        line.wakeups += u64::from(woke);
        line.up += cost.up + headers * cost.datagrams_up;
        line.down += cost.down + headers * cost.datagrams_down;
        line.datagrams_up += cost.datagrams_up;
        line.datagrams_down += cost.datagrams_down;
    }

    /// Notes that an operation was done.
    pub(super) fn done(&mut self, now: Timestamp, operation: &str) {
        self.line(now, operation).times += 1;
    }

    fn line(&mut self, now: Timestamp, operation: &str) -> &mut Line {
        let day = now.0 / DAY_MS;
        if !self.days.contains_key(&day) && self.days.len() >= DAYS_MAX {
            self.days.pop_first();
        }
        let day = self.days.entry(day).or_default();
        day.entry(operation.to_owned()).or_default()
    }

    /// Each day's operations: the day's first moment, what was done, and what it cost.
    pub fn lines(&self) -> impl Iterator<Item = (Timestamp, &str, Line)> {
        self.days.iter().flat_map(|(day, lines)| {
            let day = Timestamp(day.saturating_mul(DAY_MS));
            lines
                .iter()
                .map(move |(name, line)| (day, name.as_str(), *line))
        })
    }

    /// Everything together.
    pub fn total(&self) -> Line {
        self.lines().map(|(.., line)| line).sum()
    }

    /// Adds another one's days to these.
    /// Bytes of the day of `now`, both ways.
    pub fn on(&self, now: Timestamp) -> u64 {
        let today = now.0 / DAY_MS * DAY_MS;
        let of_today = self.lines().filter(|(day, ..)| day.0 == today);
        of_today.map(|(.., line)| line.up + line.down).sum()
    }

    fn add(&mut self, other: &Self) {
        for (day, name, line) in other.lines() {
            *self.line(day, name) = [*self.line(day, name), line].into_iter().sum();
        }
        self.last_ms = self.last_ms.max(other.last_ms);
    }
}

impl std::iter::Sum for Line {
    fn sum<I: Iterator<Item = Self>>(lines: I) -> Self {
        lines.fold(Self::default(), |sum, line| Self {
            times: sum.times + line.times,
            up: sum.up + line.up,
            down: sum.down + line.down,
            datagrams_up: sum.datagrams_up + line.datagrams_up,
            datagrams_down: sum.datagrams_down + line.datagrams_down,
            wakeups: sum.wakeups + line.wakeups,
        })
    }
}

/// A book on the disk, and what was noted since it was written.
pub(super) struct BookFile {
    path: PathBuf,
    disk: Disk,
    kept: Book,
    pub(super) fresh: Book,
    /// What this run has noted, written or not.
    run: Book,
}

impl BookFile {
    /// The book of a state. One that cannot be read begins anew: it is no more than figures.
    pub(super) fn open(state: &StateDir) -> Result<Self, StateError> {
        let path = state.dir().join("ledger.json");
        let kept = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(error) => return Err(io_error(&path, error)),
        };
        let fresh = Book {
            last_ms: kept.last_ms,
            ..Book::default()
        };
        Ok(Self {
            path,
            disk: state.disk(),
            kept,
            fresh,
            run: Book::default(),
        })
    }

    /// All that was noted, ever.
    pub(super) fn all(&self) -> Book {
        let mut all = self.kept.clone();
        all.add(&self.fresh);
        all
    }

    /// What this run has noted.
    pub(super) fn run(&self) -> Line {
        [self.run.total(), self.fresh.total()].into_iter().sum()
    }

    /// Writes it down.
    pub(super) fn save(&mut self) -> Result<(), StateError> {
        let all = self.all();
        let text = serde_json::to_vec(&all).expect("maps of numbers are JSON");
        let written = self.disk.replace(&self.path, &text);
        written.map_err(|source| io_error(&self.path, source))?;
        let last_ms = all.last_ms;
        self.kept = all;
        self.run.add(&self.fresh);
        self.fresh = Book {
            last_ms,
            ..Book::default()
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_page_and_the_oldest_one_goes() {
        let mut book = Book::default();
        for day in 0..40 {
            let now = Timestamp(day * DAY_MS + 5);
            book.datagram(now, "send", Way::Up, 60);
            book.datagram(Timestamp(now.0 + 100), "send", Way::Down, 40);
            book.done(now, "send");
        }

        let lines: Vec<_> = book.lines().collect();
        assert_eq!(lines.len(), DAYS_MAX);
        let (day, name, line) = lines.first().unwrap();
        assert_eq!((day.0, *name), (9 * DAY_MS, "send"));
        let wanted = Line {
            times: 1,
            up: 60,
            down: 40,
            datagrams_up: 1,
            datagrams_down: 1,
            wakeups: 1,
        };
        assert_eq!(*line, wanted);
        assert_eq!(book.total().wakeups, 31);
    }
}
