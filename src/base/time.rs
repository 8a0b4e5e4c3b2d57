//! Time and chance are arguments. The real ones live in `app`; tests bring their own.

use std::{ops::Add, time::Duration};

use serde::{Deserialize, Serialize};

pub use rand::RngCore as Rng;

/// Milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How long ago `earlier` was; zero when it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The same for a person: RFC 3339 in UTC, to the second.
    pub fn rfc3339(self) -> String {
        const DAY_SECONDS: u64 = 24 * 60 * 60;
        let seconds = self.0 / 1000;
        // What others claim may lie past any calendar; the loop below must not follow it there.
        if seconds / DAY_SECONDS > DAYS_MAX {
            return format!("(after the year 9999: {} ms)", self.0);
        }
        let (mut day, mut year) = (seconds / DAY_SECONDS, 1970);
        while day >= year_days(year) {
            day -= year_days(year);
            year += 1;
        }
        let mut month = 1;
        while day >= month_days(year, month) {
            day -= month_days(year, month);
            month += 1;
        }
        let (second, minute, hour) = (seconds % 60, seconds / 60 % 60, seconds / 3600 % 24);
        let day = day + 1;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// 31 December 9999, in days since the epoch: RFC 3339 has four digits for a year.
const DAYS_MAX: u64 = 2_932_896;

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn year_days(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

const fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ms))
    }
}

/// Where «now» comes from.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_as_rfc_3339_has_it() {
        for (ms, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_999, "2000-02-29T00:00:00Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59Z"),
            (
                253_402_300_800_000,
                "(after the year 9999: 253402300800000 ms)",
            ),
            (u64::MAX, "(after the year 9999: 18446744073709551615 ms)"),
        ] {
            assert_eq!(Timestamp(ms).rfc3339(), shown);
        }
    }
}
