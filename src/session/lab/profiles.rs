//! The named profiles: typical orders of magnitude, chosen to hurt where that kind of link hurts.
//!
//! They are no measurements of any operator. Delay is one way; bandwidth is shared by all clients.

use std::{fmt::Write as _, time::Duration};

use super::{
    profile::{Blackout, Burst, Ppm, Profile, QUEUE_BYTES_MAX, Rate},
    quantity::{ShownBlackout, ShownBurst, ShownRate, ShownShare, ShownSpan},
};

/// A profile with its name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What to say.
    pub name: &'static str,
    /// What it stands for.
    pub about: &'static str,
    /// The numbers.
    pub profile: Profile,
}

/// All of them, the narrowest first.
pub fn all() -> Vec<Named> {
    let named = |name, about, profile| Named {
        name,
        about,
        profile,
    };
    [radio(named), mobile(named), wide(named)].concat()
}

/// The one of this name, which may be that of a class of links (`link-class`).
pub fn find(name: &str) -> Option<Named> {
    let name = match name {
        "satellite" => "sat-narrow",
        "nb-iot" => "nbiot",
        "broadband" => "lte",
        name => name,
    };
    all().into_iter().find(|named| named.name == name)
}

type Name = fn(&'static str, &'static str, Profile) -> Named;

fn radio(named: Name) -> Vec<Named> {
    let radio = |bits, delay, loss, queue| Profile {
        loss: Ppm::percent(loss),
        queue_bytes: queue,
        mtu: Some(576),
        ..link(bits, bits, delay, 0)
    };
    vec![
        named(
            "radio-100",
            "HF radio, bad hour",
            radio(100, 1500, 10, 1_500),
        ),
        named("radio-300", "HF radio", radio(300, 1000, 10, 2_000)),
        named(
            "lora",
            "LoRa SF10, no duty cycle",
            Profile {
                mtu: Some(250),
                ..radio(980, 1000, 5, 2_000)
            },
        ),
        named(
            "radio-1200",
            "VHF packet radio",
            radio(1_200, 500, 5, 4_000),
        ),
        named("radio-2400", "a radio modem", radio(2_400, 400, 5, 4_000)),
        named(
            "sat-narrow",
            "narrow-band satellite",
            Profile {
                loss: Ppm::percent(2),
                queue_bytes: 8_000,
                mtu: Some(1_280),
                ..link(2_400, 2_400, 900, 200)
            },
        ),
    ]
}

fn mobile(named: Name) -> Vec<Named> {
    let mobile = |up, down, delay, jitter, queue, nat| Profile {
        loss: Ppm::percent(1),
        queue_bytes: queue,
        mtu: Some(1_400),
        nat_timeout: Some(Duration::from_secs(nat)),
        ..link(up, down, delay, jitter)
    };
    let lte = mobile(10_000_000, 20_000_000, 40, 10, 512_000, 120);
    vec![
        named(
            "nbiot",
            "NB-IoT",
            mobile(20_000, 20_000, 1600, 800, 16_000, 120),
        ),
        named("gprs", "2G", mobile(20_000, 40_000, 600, 200, 32_000, 60)),
        named(
            "edge",
            "2.75G",
            mobile(60_000, 120_000, 300, 100, 64_000, 60),
        ),
        named(
            "3g",
            "UMTS",
            mobile(400_000, 2_000_000, 100, 30, 256_000, 60),
        ),
        named("lte", "4G", lte.clone()),
        named(
            "lte-train",
            "4G with a tunnel every minute",
            Profile {
                blackouts: vec![Blackout::Every {
                    period: Duration::from_mins(1),
                    length: Duration::from_secs(10),
                }],
                ..lte
            },
        ),
    ]
}

fn wide(named: Name) -> Vec<Named> {
    let wifi = Profile {
        loss: Ppm::percent(1),
        burst: Some(Burst {
            enter: Ppm::percent(2),
            leave: Ppm::percent(30),
            loss: Ppm::ALWAYS,
        }),
        reorder: Ppm::percent(2),
        duplicate: Ppm::percent(1),
        queue_bytes: 256_000,
        mtu: Some(1_500),
        ..link(5_000_000, 5_000_000, 20, 50)
    };
    vec![
        named("wifi-bad", "WLAN at the far end of the garden", wifi),
        named("none", "changes nothing", Profile::PERFECT),
    ]
}

fn link(up: u64, down: u64, delay_ms: u64, jitter_ms: u64) -> Profile {
    Profile {
        up: Rate::bits(up),
        down: Rate::bits(down),
        delay: Duration::from_millis(delay_ms),
        jitter: Duration::from_millis(jitter_ms),
        ..Profile::PERFECT
    }
}

/// The table that `--help` and `--list` print: every number of every profile. It fits into 80
/// columns.
pub fn table() -> String {
    let mut text = String::new();
    row(&mut text, HEADINGS.map(str::to_owned));
    for named in all() {
        row(&mut text, cells(named.name, &named.profile));
    }
    text
}

/// The numbers of one profile, in a line.
pub fn line(profile: &Profile) -> String {
    let span = |span: Option<Duration>| ShownSpan(span.unwrap_or_default()).to_string();
    let named = [
        ("up", ShownRate(profile.up).to_string()),
        ("down", ShownRate(profile.down).to_string()),
        ("delay", ShownSpan(profile.delay).to_string()),
        ("jitter", ShownSpan(profile.jitter).to_string()),
        ("loss", ShownShare(profile.loss).to_string()),
        ("burst", burst(profile)),
        ("reorder", ShownShare(profile.reorder).to_string()),
        ("duplicate", ShownShare(profile.duplicate).to_string()),
        ("mtu", or_dash(profile.mtu)),
        ("queue", queue(profile)),
        ("rebind", span(profile.rebind)),
        ("nat-timeout", span(profile.nat_timeout)),
        ("blackout", blackouts(profile)),
    ];
    let set = named.iter().filter(|(_, number)| *number != NOT_SET);
    let words: Vec<String> = set
        .map(|(name, number)| format!("{name} {number}"))
        .collect();
    if words.is_empty() {
        "changes nothing".to_owned()
    } else {
        words.join(", ")
    }
}

/// What stands where nothing is set.
const NOT_SET: &str = "-";

const COLUMNS: usize = 12;

const HEADINGS: [&str; COLUMNS] = [
    "profile", "bit/s", "delay", "jitter", "loss", "burst", "reord", "dup", "mtu", "queue", "nat",
    "blackout",
];

const WIDTHS: [usize; COLUMNS] = [11, 9, 6, 7, 5, 7, 6, 4, 5, 7, 5, 0];

fn cells(name: &str, profile: &Profile) -> [String; COLUMNS] {
    [
        name.to_owned(),
        bandwidth(profile),
        ShownSpan(profile.delay).to_string(),
        ShownSpan(profile.jitter).to_string(),
        ShownShare(profile.loss).to_string(),
        burst(profile),
        ShownShare(profile.reorder).to_string(),
        ShownShare(profile.duplicate).to_string(),
        or_dash(profile.mtu),
        queue(profile),
        ShownSpan(profile.nat_timeout.unwrap_or_default()).to_string(),
        blackouts(profile),
    ]
}

/// Up and down, or one number for both; the heading has the unit.
fn bandwidth(profile: &Profile) -> String {
    let [up, down] = [profile.up, profile.down].map(|rate| {
        let shown = ShownRate(rate).to_string();
        shown.trim_end_matches("bit").to_owned()
    });
    if up == down {
        up
    } else {
        format!("{up}/{down}")
    }
}

fn burst(profile: &Profile) -> String {
    or_dash(profile.burst.map(ShownBurst))
}

fn queue(profile: &Profile) -> String {
    or_dash(Some(profile.queue_bytes).filter(|bytes| *bytes != QUEUE_BYTES_MAX))
}

fn blackouts(profile: &Profile) -> String {
    let shown = profile.blackouts.iter().copied().map(ShownBlackout);
    let shown: Vec<String> = shown.map(|blackout| blackout.to_string()).collect();
    or_dash(Some(shown.join(" ")).filter(|shown| !shown.is_empty()))
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NOT_SET.to_owned(), |value| value.to_string())
}

fn row(text: &mut String, cells: [String; COLUMNS]) {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(WIDTHS) {
        write!(line, "{cell:<width$}").expect("writing to a string cannot fail");
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_every_profile_and_its_columns_line_up() {
        let table = table();

        assert_eq!(table.lines().count(), 1 + all().len());
        for (line, named) in table.lines().skip(1).zip(all()) {
            assert!(line.starts_with(named.name), "{line}");
            assert_eq!(line.split_whitespace().count(), COLUMNS, "{line}");
            assert!(line.len() < 80, "a terminal would wrap it: {line}");
        }
    }

    #[test]
    fn names_are_found_and_others_are_not() {
        assert_eq!(find("radio-100").unwrap().profile.up, Rate::bits(100));
        assert_eq!(find("none").unwrap().profile, Profile::PERFECT);
        assert!(find("radio-101").is_none());
        for class in [
            "radio-300",
            "radio-2400",
            "satellite",
            "nb-iot",
            "gprs",
            "broadband",
        ] {
            assert!(find(class).is_some(), "{class}");
        }
    }

    #[test]
    fn a_line_names_only_what_is_set() {
        assert_eq!(line(&Profile::PERFECT), "changes nothing");
        let mut gprs = find("gprs").unwrap().profile;
        gprs.rebind = Some(Duration::from_mins(1));
        let gprs = line(&gprs);
        assert!(
            gprs.starts_with("up 20kbit, down 40kbit, delay 600ms"),
            "{gprs}"
        );
        assert!(
            gprs.contains("rebind 60s") && !gprs.contains("burst"),
            "{gprs}"
        );
    }
}
