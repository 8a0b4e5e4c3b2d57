//! What a link does to datagrams, one property at a time, and what it never does.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use crate::session::lab::*;

type Name = u8;

const ANA: Name = 1;
const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Micros {
    Micros(seconds * 1_000_000)
}

fn link(profile: Profile) -> Link<Name> {
    Link::new(profile, 7)
}

fn up(link: &mut Link<Name>, now: Micros, client: Name, bytes: usize) {
    link.offer(now, Origin::Client(client), Bytes::from(vec![0; bytes]));
}

/// Everything that comes out, with its time.
fn drain(link: &mut Link<Name>) -> Vec<(Micros, Delivery<Name>)> {
    let mut all = Vec::new();
    while let Some(now) = link.poll_timeout() {
        while let Some(delivery) = link.poll(now) {
            all.push((now, delivery));
        }
    }
    all
}

fn port_of(link: &mut Link<Name>, now: Micros, client: Name) -> Port {
    up(link, now, client, 1);
    drain(link).pop().unwrap().1.via
}

#[test]
fn a_perfect_link_changes_nothing() {
    let mut link = link(Profile::PERFECT);
    link.offer(at(3), Origin::Client(ANA), Bytes::from_static(b"up"));

    let arrived = link.poll(at(3)).unwrap();
    link.offer(at(3), Origin::Hub(arrived.via), Bytes::from_static(b"down"));
    let answer = link.poll(at(3)).unwrap();

    assert_eq!(
        (arrived.direction, &arrived.datagram[..]),
        (Direction::Up, &b"up"[..])
    );
    assert_eq!(
        (answer.direction, &answer.datagram[..]),
        (Direction::Down, &b"down"[..])
    );
    assert_eq!((answer.client, answer.via), (ANA, arrived.via));
    assert_eq!(link.poll_timeout(), None);
}

#[test]
fn a_hundred_bits_a_second_take_a_second_per_hundred_bits_headers_included() {
    let mut link = link(Profile {
        up: Rate::bits(100),
        delay: SECOND,
        ..Profile::PERFECT
    });
    // 22 + 28 bytes are 400 bits.
    up(&mut link, at(0), ANA, 22);
    up(&mut link, at(0), ANA, 22);

    let times: Vec<Micros> = drain(&mut link).into_iter().map(|(now, _)| now).collect();

    assert_eq!(times, [at(5), at(9)]);
    let stats = link.stats(Direction::Up);
    assert_eq!((stats.queued, stats.queue_us_max), (1, at(4).0));
    assert_eq!(stats.delivered.bytes, 44);
    assert_eq!(stats.delivered.bytes_with_headers, 100);
}

#[test]
fn a_full_queue_drops_the_newest_and_room_comes_back() {
    let mut link = link(Profile {
        up: Rate::bits(100),
        queue_bytes: 100,
        ..Profile::PERFECT
    });
    for _ in 0..3 {
        up(&mut link, at(0), ANA, 22);
    }
    assert_eq!(link.waiting_bytes(at(0), Direction::Up), 100);
    up(&mut link, at(4), ANA, 22);

    assert_eq!(drain(&mut link).len(), 3);
    assert_eq!(link.stats(Direction::Up).lost.queue.datagrams, 1);
}

#[test]
fn what_is_larger_than_the_queue_may_still_go_when_nothing_waits() {
    let mut link = link(Profile {
        up: Rate::bits(100),
        queue_bytes: 10,
        ..Profile::PERFECT
    });
    up(&mut link, at(0), ANA, 500);

    assert_eq!(drain(&mut link).len(), 1);
}

#[test]
fn the_mtu_counts_the_headers() {
    let mut link = link(Profile {
        mtu: Some(576),
        ..Profile::PERFECT
    });
    up(&mut link, at(0), ANA, 548);
    up(&mut link, at(0), ANA, 549);

    assert_eq!(drain(&mut link).len(), 1);
    assert_eq!(link.stats(Direction::Up).lost.mtu.datagrams, 1);
}

#[test]
fn jitter_keeps_the_order_and_reordering_does_not() {
    let jittery = Profile {
        jitter: SECOND,
        ..Profile::PERFECT
    };
    for (profile, overtaken) in [
        (jittery.clone(), false),
        (
            Profile {
                reorder: Ppm::percent(10),
                ..jittery
            },
            true,
        ),
    ] {
        let mut link = link(profile);
        for number in 0..200_u8 {
            let now = Micros(u64::from(number) * 1000);
            link.offer(now, Origin::Client(ANA), Bytes::from(vec![number]));
        }
        let arrived: Vec<u8> = drain(&mut link)
            .iter()
            .map(|(_, d)| d.datagram[0])
            .collect();

        assert_eq!(arrived.len(), 200);
        assert_eq!(!arrived.is_sorted(), overtaken);
        assert_eq!(link.stats(Direction::Up).reordered > 0, overtaken);
    }
}

#[test]
fn losses_come_in_bursts_where_bursts_are_asked_for() {
    let mut link = link(Profile {
        burst: Some(Burst {
            enter: Ppm::percent(2),
            leave: Ppm::percent(20),
            loss: Ppm::ALWAYS,
        }),
        ..Profile::PERFECT
    });
    let mut came = Vec::new();
    for _ in 0..5000 {
        up(&mut link, at(0), ANA, 1);
        came.push(link.poll(at(0)).is_some());
    }

    let lost = came.iter().filter(|came| !**came).count();
    let bursts = came.windows(2).filter(|pair| pair[0] && !pair[1]).count();
    assert_eq!(link.stats(Direction::Up).lost.burst.datagrams, lost as u64);
    assert!((300..700).contains(&lost), "about one in eleven: {lost}");
    assert!(
        (3..8).contains(&(lost / bursts)),
        "{lost} in {bursts} bursts"
    );
}

#[test]
fn a_blackout_swallows_what_would_leave_in_it() {
    let mut link = link(Profile {
        blackouts: vec![
            Blackout::Every {
                period: 60 * SECOND,
                length: 10 * SECOND,
            },
            Blackout::Once {
                at: 5 * SECOND,
                length: SECOND,
            },
        ],
        ..Profile::PERFECT
    });
    let comes = |link: &mut Link<Name>, second| {
        up(link, at(second), ANA, 1);
        link.poll(at(second)).is_some()
    };

    let seen: Vec<bool> = [4, 5, 6, 49, 50, 59, 60, 110, 120]
        .map(|second| comes(&mut link, second))
        .into();

    assert_eq!(
        seen,
        [true, false, true, true, false, false, true, false, true]
    );
    assert_eq!(link.stats(Direction::Up).lost.blackout.datagrams, 4);
}

#[test]
fn every_datagram_arrives_twice_where_that_is_asked_for() {
    let mut link = link(Profile {
        duplicate: Ppm::ALWAYS,
        ..Profile::PERFECT
    });
    up(&mut link, at(0), ANA, 1);

    assert_eq!(drain(&mut link).len(), 2);
    assert_eq!(link.stats(Direction::Up).duplicated, 1);
}

#[test]
fn a_rebinding_gives_a_new_port_and_the_old_one_leads_nowhere() {
    let mut link = link(Profile {
        rebind: Some(60 * SECOND),
        ..Profile::PERFECT
    });
    let first = port_of(&mut link, at(0), ANA);
    let same = port_of(&mut link, at(59), ANA);
    link.offer(at(60), Origin::Hub(same), Bytes::from_static(b"too late"));
    let second = port_of(&mut link, at(61), ANA);

    assert_eq!(first, same);
    assert_ne!(first, second);
    assert_eq!(link.poll_closed(), Some(first));
    assert_eq!(link.stats(Direction::Down).lost.nat.datagrams, 1);
    assert_eq!(link.nat_stats().rebindings, 1);
}

#[test]
fn only_what_the_client_sends_keeps_its_mapping_open() {
    let mut link = link(Profile {
        nat_timeout: Some(30 * SECOND),
        ..Profile::PERFECT
    });
    let first = port_of(&mut link, at(0), ANA);
    assert_eq!(port_of(&mut link, at(29), ANA), first);

    for second in [40, 50, 58, 59] {
        link.offer(at(second), Origin::Hub(first), Bytes::new());
    }
    assert_eq!(drain(&mut link).len(), 3);
    assert_ne!(port_of(&mut link, at(60), ANA), first);
}

#[test]
fn every_client_has_a_port_of_its_own() {
    let mut link = link(Profile::PERFECT);

    assert_ne!(port_of(&mut link, at(0), 1), port_of(&mut link, at(0), 2));
}

#[test]
fn the_client_silent_for_longest_makes_room_for_a_new_one() {
    let mut link: Link<u16> = Link::new(Profile::PERFECT, 7);
    let last = u16::try_from(CLIENTS_MAX).unwrap();
    for client in 0..=last {
        let now = Micros(u64::from(client));
        link.offer(now, Origin::Client(client), Bytes::new());
        link.poll(now).unwrap();
    }

    assert_eq!(link.clients().count(), CLIENTS_MAX);
    assert_eq!(link.clients().next().unwrap().0, &1);
    assert!(link.poll_closed().is_some());
    assert_eq!(link.nat_stats().evicted, 1);
}

#[test]
fn a_burst_after_ten_seconds_of_silence_is_one_wakeup() {
    let mut link = link(Profile::PERFECT);
    let port = port_of(&mut link, at(0), ANA);
    port_of(&mut link, at(5), ANA);
    link.offer(at(15), Origin::Hub(port), Bytes::new());
    drain(&mut link);
    assert_eq!(link.wakeups(), 1);

    link.offer(at(26), Origin::Hub(port), Bytes::new());
    drain(&mut link);
    assert_eq!(link.wakeups(), 2);
}

#[test]
fn the_time_bits_take_is_no_silence() {
    let mut link = link(Profile {
        up: Rate::bits(100),
        ..Profile::PERFECT
    });
    up(&mut link, at(0), ANA, 222); // 20 s
    up(&mut link, at(25), ANA, 22);

    assert_eq!(link.wakeups(), 1);
}

fn rates() -> impl Strategy<Value = Rate> {
    prop_oneof![
        Just(Rate::UNLIMITED),
        (1_u64..100_000).prop_map(Rate::bits),
        any::<u64>().prop_map(Rate::bits)
    ]
}

fn spans() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        (0_u64..3_000_000).prop_map(Duration::from_micros),
        any::<u64>().prop_map(Duration::from_micros),
        Just(Duration::MAX)
    ]
}

fn shares() -> impl Strategy<Value = Ppm> {
    prop_oneof![Just(0), Just(1_000_000), 0_u32..=1_000_000]
        .prop_map(|parts| Ppm::new(parts).unwrap())
}

prop_compose! {
    fn profiles()(
        rates in (rates(), rates()),
        spans in (spans(), spans(), spans(), spans()),
        has in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        shares in (shares(), shares(), shares(), shares(), shares()),
        mtu in 0_u32..2000,
        queue_bytes in prop_oneof![0_u64..5000, any::<u64>()],
    ) -> Profile {
        Profile {
            up: rates.0,
            down: rates.1,
            delay: spans.0,
            jitter: spans.1,
            loss: shares.0,
            burst: has.0.then_some(Burst { enter: shares.1, leave: shares.2, loss: shares.3 }),
            reorder: shares.4,
            duplicate: shares.3,
            mtu: has.1.then_some(mtu),
            queue_bytes,
            rebind: has.2.then_some(spans.2),
            nat_timeout: has.3.then_some(spans.3),
            blackouts: vec![
                Blackout::Every { period: spans.3, length: spans.2 },
                Blackout::Once { at: spans.2, length: spans.1 },
            ],
        }
    }
}

/// Client or port, bytes, time until the next.
fn offers() -> impl Strategy<Value = Vec<(bool, u8, usize, u64)>> {
    let gap = prop_oneof![Just(0_u64), 0_u64..2_000_000, any::<u64>()];
    prop::collection::vec((any::<bool>(), 0_u8..4, 0_usize..2000, gap), 0..60)
}

/// Offers all of it, polling in between; gives what came out.
fn run(link: &mut Link<Name>, offers: &[(bool, u8, usize, u64)]) -> Vec<Delivery<Name>> {
    let (mut now, mut all) = (Micros::ZERO, Vec::new());
    for (is_up, who, bytes, gap) in offers {
        let from = if *is_up {
            Origin::Client(*who)
        } else {
            Origin::Hub(Port(u32::from(*who)))
        };
        link.offer(now, from, Bytes::from(vec![*who; *bytes]));
        all.extend(std::iter::from_fn(|| link.poll(now)));
        now = Micros(now.0.saturating_add(*gap));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_comes_nothing_breaks_and_every_datagram_is_accounted_for(
        profile in profiles(), offers in offers(), seed in any::<u64>(),
    ) {
        let mut link = Link::new(profile, seed);
        let came = run(&mut link, &offers);

        for direction in [Direction::Up, Direction::Down] {
            let stats = link.stats(direction);
            let delivered = came.iter().filter(|one| one.direction == direction).count() as u64;
            prop_assert_eq!(stats.delivered.datagrams, delivered);
            prop_assert_eq!(
                stats.offered.datagrams,
                delivered - stats.duplicated + stats.lost.datagrams() + link.on_its_way(direction)
            );
        }
    }

    #[test]
    fn the_same_seed_and_offers_give_the_same_run(
        profile in profiles(), offers in offers(), seed in any::<u64>(),
    ) {
        let mut twins = [Link::new(profile.clone(), seed), Link::new(profile, seed)];
        let [one, other] = twins.each_mut().map(|link| run(link, &offers));

        prop_assert_eq!(one, other);
        prop_assert_eq!(twins[0].poll_timeout(), twins[1].poll_timeout());
        for direction in [Direction::Up, Direction::Down] {
            prop_assert_eq!(twins[0].stats(direction), twins[1].stats(direction));
        }
    }
}
