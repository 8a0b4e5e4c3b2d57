//! How people write a link's numbers: `100bit`, `2.4kbit`, `200ms`, `0.5%`, `10s/60s`, `off`.
//!
//! Decimals are read without floating point, so that what was written is what is run.

use std::{fmt, time::Duration};

use thiserror::Error;

use super::profile::{Blackout, Burst, Ppm, Rate};

/// A number that may be switched off: `off` or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting<T> {
    /// Not at all.
    Off,
    /// This much.
    On(T),
}

impl<T> Setting<T> {
    /// The number, if it is on.
    pub fn into_option(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

/// What is wrong with a number.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum QuantityError {
    /// Not a number with one of the units.
    #[error("{text:?}: write {wanted}")]
    Form {
        /// What was written.
        text: String,
        /// What could have been.
        wanted: &'static str,
    },
    /// A share above all.
    #[error("{text:?}: not above 100%")]
    AboveAll {
        /// What was written.
        text: String,
    },
    /// A black-out as long as its period leaves no link.
    #[error("{text:?}: the black-out must be shorter than its period")]
    NoLinkLeft {
        /// What was written.
        text: String,
    },
}

/// Reads `off`, or a number with `read`.
pub fn setting<T>(
    text: &str,
    read: impl FnOnce(&str) -> Result<T, QuantityError>,
) -> Result<Setting<T>, QuantityError> {
    match text {
        "off" | "none" => Ok(Setting::Off),
        _ => read(text).map(Setting::On),
    }
}

/// `100bit`, `2.4kbit`, `20Mbit`: bits per second; `off` is no limit.
pub fn rate(text: &str) -> Result<Rate, QuantityError> {
    if matches!(text, "off" | "none") {
        return Ok(Rate::UNLIMITED);
    }
    let lower = text.to_ascii_lowercase();
    let per_second = lower.trim_end_matches("/s");
    let bits = with_unit(
        per_second,
        &[
            ("kbit", 1_000),
            ("mbit", 1_000_000),
            ("gbit", 1_000_000_000),
            ("bit", 1),
        ],
    );
    bits.filter(|bits| *bits > 0)
        .map(Rate::bits)
        .ok_or_else(|| wrong(text, "a rate like 100bit, 2.4kbit, 20Mbit, or off"))
}

/// `200ms`, `1.5s`, `5min`, `2h`.
pub fn span(text: &str) -> Result<Duration, QuantityError> {
    with_unit(
        text,
        &[
            ("us", 1),
            ("ms", 1_000),
            ("min", 60_000_000),
            ("m", 60_000_000),
            ("h", 3_600_000_000),
            ("s", 1_000_000),
        ],
    )
    .map(Duration::from_micros)
    .ok_or_else(|| wrong(text, "a time like 200ms, 1.5s, 5min, 2h"))
}

/// `30%`, `0.5%`.
pub fn share(text: &str) -> Result<Ppm, QuantityError> {
    let parts =
        with_unit(text, &[("%", 10_000)]).ok_or_else(|| wrong(text, "a share like 30% or 0.5%"))?;
    u32::try_from(parts)
        .ok()
        .and_then(Ppm::new)
        .ok_or_else(|| QuantityError::AboveAll {
            text: text.to_owned(),
        })
}

/// `576` or `1.5kB`: bytes.
pub fn bytes(text: &str) -> Result<u64, QuantityError> {
    let lower = text.to_ascii_lowercase();
    with_unit(
        &lower,
        &[("kb", 1_000), ("mb", 1_000_000), ("b", 1), ("", 1)],
    )
    .ok_or_else(|| wrong(text, "bytes like 576, 2kB, 1MB"))
}

/// An MTU in bytes: [`bytes`] that fit.
pub fn mtu(text: &str) -> Result<u32, QuantityError> {
    let read = bytes(text)?;
    u32::try_from(read).map_err(|_| wrong(text, "an MTU like 576"))
}

/// `2%/30%` or `2%/30%/80%`: a burst begins, ends, and what is lost in it (all).
pub fn burst(text: &str) -> Result<Burst, QuantityError> {
    let mut parts = text.split('/');
    let (Some(enter), Some(leave), loss, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong(text, "ENTER/LEAVE or ENTER/LEAVE/LOSS, like 2%/30%"));
    };
    Ok(Burst {
        enter: share(enter)?,
        leave: share(leave)?,
        loss: loss.map_or(Ok(Ppm::ALWAYS), share)?,
    })
}

/// `10s/60s`: ten seconds of every minute; `10s@30s`: ten seconds, once, after thirty.
pub fn blackout(text: &str) -> Result<Blackout, QuantityError> {
    if let Some((length, period)) = text.split_once('/') {
        let (length, period) = (span(length)?, span(period)?);
        if length >= period {
            let text = text.to_owned();
            return Err(QuantityError::NoLinkLeft { text });
        }
        return Ok(Blackout::Every { period, length });
    }
    if let Some((length, at)) = text.split_once('@') {
        let (length, at) = (span(length)?, span(at)?);
        return Ok(Blackout::Once { at, length });
    }
    Err(wrong(
        text,
        "LENGTH/PERIOD like 10s/60s, or LENGTH@START like 10s@30s",
    ))
}

/// Bits per second as people write them.
pub struct ShownRate(pub Rate);

impl fmt::Display for ShownRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bits) = self.0.per_second() else {
            return f.pad("-");
        };
        let shown = in_largest(
            bits.get(),
            &[
                (1_000_000_000, "Gbit"),
                (1_000_000, "Mbit"),
                (1_000, "kbit"),
                (1, "bit"),
            ],
        );
        f.pad(&shown)
    }
}

/// A span as people write it.
pub struct ShownSpan(pub Duration);

impl fmt::Display for ShownSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = super::time::micros(self.0);
        if us == 0 {
            return f.pad("-");
        }
        f.pad(&in_largest(
            us,
            &[(1_000_000, "s"), (1_000, "ms"), (1, "us")],
        ))
    }
}

/// A share as people write it.
pub struct ShownShare(pub Ppm);

impl fmt::Display for ShownShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get() {
            0 => f.pad("-"),
            parts => f.pad(&format!("{}%", decimal_of(parts.into(), 10_000))),
        }
    }
}

/// A burst as people write it.
pub struct ShownBurst(pub Burst);

impl fmt::Display for ShownBurst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Burst { enter, leave, loss } = self.0;
        let mut shown = format!("{}/{}", ShownShare(enter), ShownShare(leave));
        if loss != Ppm::ALWAYS {
            shown = format!("{shown}/{}", ShownShare(loss));
        }
        f.pad(&shown)
    }
}

/// A black-out as people write it.
pub struct ShownBlackout(pub Blackout);

impl fmt::Display for ShownBlackout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match self.0 {
            Blackout::Every { period, length } => {
                format!("{}/{}", ShownSpan(length), ShownSpan(period))
            }
            Blackout::Once { at, length } => format!("{}@{}", ShownSpan(length), ShownSpan(at)),
        };
        f.pad(&shown)
    }
}

fn wrong(text: &str, wanted: &'static str) -> QuantityError {
    QuantityError::Form {
        text: text.to_owned(),
        wanted,
    }
}

/// A decimal number with the first unit it ends in; exact or nothing.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, scale) = units.iter().find_map(|(unit, scale)| {
        let number = text.strip_suffix(unit)?;
        number
            .ends_with(|last: char| last.is_ascii_digit())
            .then_some((number, *scale))
    })?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let mut sum = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        let digit = u64::from(digit - b'0');
        let is_exact = place.is_multiple_of(10);
        place /= 10;
        match (digit, is_exact) {
            (0, _) => {}
            (_, true) => sum = sum.checked_add(digit.checked_mul(place)?)?,
            (_, false) => return None,
        }
    }
    Some(sum)
}

/// A number in the largest unit of which there is at least one.
fn in_largest(number: u64, units: &[(u64, &str)]) -> String {
    let fitting = units.iter().find(|(scale, _)| number >= *scale);
    let (scale, unit) = fitting.or_else(|| units.last()).copied().unwrap_or((1, ""));
    format!("{}{unit}", decimal_of(number, scale))
}

fn decimal_of(number: u64, scale: u64) -> String {
    let (whole, rest) = (number / scale, number % scale);
    if rest == 0 {
        return whole.to_string();
    }
    let width = scale.checked_ilog10().unwrap_or(0);
    let width = usize::try_from(width).unwrap_or(0);
    let fraction = format!("{rest:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_exactly() {
        assert_eq!(rate("100bit"), Ok(Rate::bits(100)));
        assert_eq!(rate("2.4kbit/s"), Ok(Rate::bits(2_400)));
        assert_eq!(rate("20Mbit"), Ok(Rate::bits(20_000_000)));
        assert_eq!(rate("off"), Ok(Rate::UNLIMITED));
        assert_eq!(span("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(span("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(span("1min"), Ok(Duration::from_mins(1)));
        assert_eq!(share("0.5%"), Ok(Ppm::new(5_000).unwrap()));
        assert_eq!(share("100%"), Ok(Ppm::ALWAYS));
        assert_eq!(bytes("1.5kB"), Ok(1_500));
        assert_eq!(mtu("576"), Ok(576));
    }

    #[test]
    fn what_is_no_number_is_told_what_would_be_one() {
        for text in [
            "", "bit", "100", "1.bit0", "-1bit", "0bit", "1.5bit", "٣bit",
        ] {
            let refused = rate(text).unwrap_err().to_string();
            assert!(refused.contains("2.4kbit"), "{text}: {refused}");
        }
        assert!(span("10").is_err() && span("1e3s").is_err() && span(".5s").is_err());
        assert!(span("99999999999999999999h").is_err() && span("999999999999h").is_err());
        assert!(share("101%").unwrap_err().to_string().contains("100%"));
        assert!(mtu("99999999999").is_err());
    }

    #[test]
    fn bursts_and_blackouts_have_their_own_forms() {
        let (length, minute) = (Duration::from_secs(10), Duration::from_mins(1));
        assert_eq!(
            burst("2%/30%").unwrap(),
            Burst {
                enter: Ppm::percent(2),
                leave: Ppm::percent(30),
                loss: Ppm::ALWAYS
            }
        );
        assert_eq!(burst("2%/30%/80%").unwrap().loss, Ppm::percent(80));
        let every = Blackout::Every {
            period: minute,
            length,
        };
        assert_eq!(blackout("10s/60s"), Ok(every));
        let once = Blackout::Once { at: minute, length };
        assert_eq!(blackout("10s@1min"), Ok(once));
        assert!(burst("2%").is_err() && burst("1%/1%/1%/1%").is_err());
        assert!(blackout("10s").is_err() && blackout("10s/10s").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}|[0-9.%/@]{0,12}[a-z%]{0,4}") {
            let _ = (rate(&text), span(&text), share(&text), bytes(&text), mtu(&text));
            let _ = (burst(&text), blackout(&text));
        }

        #[test]
        fn what_is_shown_reads_back(bits in 1_u64..10_000_000_000, us in 1_u64..10_000_000_000,
                                    parts in 1_u32..=1_000_000) {
            let (shown, share_of) = (Rate::bits(bits), Ppm::new(parts).unwrap());
            prop_assert_eq!(rate(&ShownRate(shown).to_string()), Ok(shown));
            let long = Duration::from_micros(us);
            prop_assert_eq!(span(&ShownSpan(long).to_string()), Ok(long));
            prop_assert_eq!(share(&ShownShare(share_of).to_string()), Ok(share_of));
        }
    }
}
