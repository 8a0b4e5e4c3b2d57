//! How long a well-known file may be believed: what its headers say, within bounds.

use std::time::Duration;

use crate::base::Timestamp;

/// What an answer says about being kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caching<'a> {
    /// `Cache-Control`.
    pub cache_control: Option<&'a str>,
    /// `Expires`.
    pub expires: Option<&'a str>,
}

/// How long to believe an answer that came now.
// spec: server-server §Resolving-server-names
pub fn lifetime(caching: Caching<'_>, now: Timestamp) -> Duration {
    let asked = match (caching.cache_control.and_then(max_age), caching.expires) {
        (Some(age), _) => age,
        // RFC 9111 §5.3: what is no date is a date in the past
        (None, Some(expires)) => http_date(expires).unwrap_or_default().since(now),
        (None, None) => LIFETIME,
    };
    asked.clamp(LIFETIME_MIN, LIFETIME_MAX)
}

fn max_age(cache_control: &str) -> Option<Duration> {
    let directives = cache_control.split(',').map(str::trim);
    let mut age = None;
    for directive in directives {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" if age.is_none() => age = value.trim_matches('"').parse().ok(),
            _ => {}
        }
    }
    age.map(Duration::from_secs)
}

/// A time as every server has to write it: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn http_date(text: &str) -> Option<Timestamp> {
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)?;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<u64>);
    let mut unit = || clock.next()?.ok();
    let (hour, minute, second) = (unit()?, unit()?, unit()?);
    let in_range = (1970..=9999).contains(&year) && (1..=31).contains(&day);
    let in_range = in_range && hour < 24 && minute < 60 && second <= 60;
    if words.next() != Some("GMT") || !in_range {
        return None;
    }
    // days since 1 March of the year 0, whose leap day is the last of a year
    let (year, month) = match u64::try_from(month).ok()? {
        month @ 0..=1 => (year - 1, month + 10),
        month => (year, month - 2),
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1;
    let days = days.checked_sub(DAYS_TO_1970)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(Timestamp(seconds * 1000))
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// From 1 March of the year 0 to 1 January 1970, in days.
const DAYS_TO_1970: u64 = 719_468;

/// Of an answer that says nothing.
const LIFETIME: Duration = Duration::from_hours(24);

/// Of an answer that wants to be believed for ever.
const LIFETIME_MAX: Duration = Duration::from_hours(48);

/// Of an answer that wants not to be kept: asking before every request would double them.
const LIFETIME_MIN: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;

    /// 6 November 1994, 08:49:37.
    const NOW: Timestamp = Timestamp(784_111_777_000);

    fn lived(cache_control: Option<&str>, expires: Option<&str>) -> Duration {
        let caching = Caching {
            cache_control,
            expires,
        };
        lifetime(caching, NOW)
    }

    #[test]
    fn headers_say_how_long_within_bounds() {
        let hours = Duration::from_hours;
        for (cache_control, expires, expected) in [
            (None, None, hours(24)),
            (Some("max-age=7200"), None, hours(2)),
            (Some("public, Max-Age=\"7200\""), Some("0"), hours(2)),
            (Some("max-age=99999999"), None, hours(48)),
            (Some("max-age=1"), None, LIFETIME_MIN),
            (Some("no-store, max-age=7200"), None, LIFETIME_MIN),
            (Some("private"), None, hours(24)),
            (
                Some("max-age=x"),
                Some("Sun, 06 Nov 1994 11:49:37 GMT"),
                hours(3),
            ),
            (None, Some("Sun, 06 Nov 1994 11:49:37 GMT"), hours(3)),
            (None, Some("Sat, 05 Nov 1994 11:49:37 GMT"), LIFETIME_MIN),
            (None, Some("0"), LIFETIME_MIN),
        ] {
            assert_eq!(
                lived(cache_control, expires),
                expected,
                "{cache_control:?} {expires:?}"
            );
        }
    }

    #[test]
    fn a_date_is_the_same_moment_as_in_rfc_3339() {
        for (text, shown) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00Z"),
            ("Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z"),
            ("Tue, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00Z"),
            ("Wed, 31 Dec 2025 23:59:59 GMT", "2025-12-31T23:59:59Z"),
            ("Sun, 01 Mar 2026 00:00:00 GMT", "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(http_date(text).unwrap().rfc3339(), shown);
        }
        for text in [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "x, 1 Jan 0 0:0:0 GMT",
        ] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }
}
