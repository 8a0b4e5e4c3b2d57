//! What the lab says at the end: every byte, and what became of it.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use serde_json::{Value as Json, json};

use crate::session::lab::{
    Direction, Link, Profile, Stats, profiles,
    quantity::{ShownBlackout, ShownBurst, ShownSpan},
};

/// For people.
pub(super) fn text(link: &Link<SocketAddr>, elapsed: Duration, seed: u64) -> String {
    let whole = Duration::from_millis(millis(elapsed));
    let mut text = format!(
        "{} of: {}; seed {seed}\n",
        ShownSpan(whole),
        profiles::line(link.profile())
    );
    for (name, direction) in WAYS {
        lane(&mut text, name, link.stats(direction));
    }
    let nat = link.nat_stats();
    writeln!(
        text,
        "clients {}, ports {}, rebindings {}, radio wake-ups {}",
        link.clients().count(),
        nat.ports,
        nat.rebindings,
        link.wakeups()
    )
    .expect(INFALLIBLE);
    text
}

/// For programs: one object.
pub(super) fn json(link: &Link<SocketAddr>, elapsed: Duration, name: &str, seed: u64) -> Json {
    let nat = link.nat_stats();
    json!({
        "event": "summary",
        "elapsed_ms": millis(elapsed),
        "name": name,
        "seed": seed,
        "profile": profile_json(link.profile()),
        "up": link.stats(Direction::Up),
        "down": link.stats(Direction::Down),
        "nat": nat,
        "wakeups": link.wakeups(),
        "clients": link.clients().map(|(address, stats)| json!({
            "address": address,
            "wakeups": stats.wakeups,
            "up": stats.up,
            "down": stats.down,
        })).collect::<Vec<Json>>(),
    })
}

/// A profile's numbers, with their units in the names.
pub(super) fn profile_json(profile: &Profile) -> Json {
    let us = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    let blackouts = profile.blackouts.iter();
    json!({
        "up_bits_per_second": profile.up.per_second(),
        "down_bits_per_second": profile.down.per_second(),
        "delay_us": us(profile.delay),
        "jitter_us": us(profile.jitter),
        "loss_ppm": profile.loss.get(),
        "burst": profile.burst.map(|burst| ShownBurst(burst).to_string()),
        "reorder_ppm": profile.reorder.get(),
        "duplicate_ppm": profile.duplicate.get(),
        "mtu_bytes": profile.mtu,
        "queue_bytes": profile.queue_bytes,
        "rebind_us": profile.rebind.map(us),
        "nat_timeout_us": profile.nat_timeout.map(us),
        "blackouts": blackouts.map(|one| ShownBlackout(*one).to_string()).collect::<Vec<String>>(),
    })
}

const WAYS: [(&str, Direction); 2] = [("up", Direction::Up), ("down", Direction::Down)];

const INFALLIBLE: &str = "writing to a string cannot fail";

fn lane(text: &mut String, name: &str, stats: &Stats) {
    let lost = stats.lost.by_cause().into_iter();
    let lost = lost.filter(|(_, tally)| tally.datagrams > 0);
    let lost = lost.map(|(cause, tally)| (format!("lost: {cause}"), tally));
    let all = [
        ("in".to_owned(), stats.offered),
        ("out".to_owned(), stats.delivered),
    ];
    for (what, tally) in all.into_iter().chain(lost) {
        let (datagrams, bytes, all) = (tally.datagrams, tally.bytes, tally.bytes_with_headers);
        writeln!(
            text,
            "{name:<4} {what:<14} {datagrams:>9} datagrams {bytes:>12} B {all:>12} B with headers"
        )
        .expect(INFALLIBLE);
    }
    let mean = stats.queue_us_total.checked_div(stats.queued).unwrap_or(0);
    writeln!(
        text,
        "{name:<4} twice {}, overtaken {}, waited {} (mean {} ms, longest {} ms)",
        stats.duplicated,
        stats.reordered,
        stats.queued,
        mean / 1000,
        stats.queue_us_max / 1000
    )
    .expect(INFALLIBLE);
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::session::lab::{Micros, Origin, Ppm};

    #[test]
    fn both_summaries_name_what_was_lost_and_why() {
        let profile = Profile {
            loss: Ppm::ALWAYS,
            ..Profile::PERFECT
        };
        let mut link = Link::new(profile, 7);
        let client = "127.0.0.1:4000".parse().unwrap();
        link.offer(
            Micros::ZERO,
            Origin::Client(client),
            Bytes::from(vec![0; 72]),
        );

        let text = text(&link, Duration::from_secs(3), 7);
        let json = json(&link, Duration::from_secs(3), "none", 7);

        assert!(text.starts_with("3s of: loss 100%; seed 7\n"), "{text}");
        assert!(text.contains("lost: chance"), "{text}");
        assert_eq!(json["up"]["lost"]["chance"]["bytes_with_headers"], 100);
        assert_eq!(json["profile"]["loss_ppm"], 1_000_000);
        assert_eq!(json["wakeups"], 1);
    }
}
