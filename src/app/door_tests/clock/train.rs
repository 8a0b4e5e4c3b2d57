//! LTE, and a tunnel of ten seconds.

use std::time::Duration;

use super::device::{FOR_EVER, all_came_once_and_in_order, ben_says, bytes, device, lab};
use crate::{
    base::Timestamp,
    session::lab::{Blackout, Direction, Micros, Profile, Step, profiles, world::OPENS},
};

/// One message each way every second; the tunnel lies in their midst.
const MESSAGES: u64 = 60;
const TUNNEL_AT: Duration = Duration::from_secs(20);
const TUNNEL: Duration = Duration::from_secs(10);

fn lte(blackouts: Vec<Blackout>) -> Profile {
    let lte = profiles::find("lte").unwrap().profile;
    Profile { blackouts, ..lte }
}

struct Run {
    bytes: u64,
    lost: u64,
    /// After the tunnel's end: the first answer to a draft, the first news, and nothing waits any more.
    answered: Duration,
    told: Duration,
    /// The longest that a message of `ben` took, and how long after the last one all had come.
    slowest: Duration,
    over: Duration,
}

fn ride(profile: Profile) -> Run {
    let mut lab = lab(profile, 6);
    let head = lab.hub().place.head();
    device(&mut lab).follow();
    let mut said_at = Vec::new();
    for number in 1..=MESSAGES {
        let until = Micros(number * 1_000_000);
        while lab.step(until) == Step::Moved {}
        device(&mut lab).says(number, format!("ana {number}"));
        ben_says(&mut lab, format!("ben {number}"));
        said_at.push(lab.now());
    }
    let ended = lab.now();
    while device(&mut lab).news.len() as u64 != 2 * MESSAGES
        || device(&mut lab).appended.len() as u64 != MESSAGES
    {
        assert_eq!(lab.step(FOR_EVER), Step::Moved);
    }

    all_came_once_and_in_order(&mut lab, head, MESSAGES);
    let log = lab.hub().place.said_after(head);
    let (bytes, over) = (bytes(&lab), lab.now().since(ended));
    let lost = |way| lab.link().stats(way).lost.datagrams();
    let lost = lost(Direction::Up) + lost(Direction::Down);
    let ana = device(&mut lab);
    let told_at = ana.news.iter().zip(&log).filter(|(_, said)| said.is_ben);
    let took = told_at
        .zip(&said_at)
        .map(|(((at, ..), _), said)| at.since(*said));
    Run {
        bytes,
        lost,
        answered: after_the_tunnel(ana.appended.iter().map(|(at, _)| *at)),
        told: after_the_tunnel(ana.news.iter().map(|(at, ..)| *at)),
        slowest: took.max().unwrap(),
        over,
    }
}

/// How long after the tunnel's end the first of these was.
fn after_the_tunnel(mut times: impl Iterator<Item = Timestamp>) -> Duration {
    let light = OPENS + TUNNEL_AT + TUNNEL;
    times.find(|at| *at >= light).unwrap().since(light)
}

#[test]
fn a_tunnel_of_ten_seconds_holds_up_both_ways_and_loses_nothing() {
    let calm = ride(lte(Vec::new()));
    let (at, length) = (TUNNEL_AT, TUNNEL);
    let dark = ride(lte(vec![Blackout::Once { at, length }]));

    for (name, run) in [("without a tunnel", &calm), ("10 s tunnel", &dark)] {
        println!(
            "LTE, {name}: {} bytes, {} datagrams lost; after it the first answer came in {:?}, the \
             first push in {:?}; the slowest push took {:?}, the last was there {:?} after it was said",
            run.bytes, run.lost, run.answered, run.told, run.slowest, run.over
        );
    }
    // What was sent just before the tunnel is sent again after 2 to 3 s, and at twice that each time:
    // the one after its end comes within 11 s.
    let again = Duration::from_secs(12);
    assert!(dark.answered < again && dark.told < again);
    assert!(dark.slowest < TUNNEL + again, "{:?}", dark.slowest);
    assert!(calm.slowest < Duration::from_secs(8), "{:?}", calm.slowest);
    // It has caught up by the end, and it cost no more: what waited was pushed together.
    assert!(dark.over < Duration::from_secs(8), "{:?}", dark.over);
    assert!(
        dark.bytes < calm.bytes * 11 / 10,
        "{} {}",
        dark.bytes,
        calm.bytes
    );
}
