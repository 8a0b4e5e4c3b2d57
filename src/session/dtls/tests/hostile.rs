//! Strangers, and what they must not be able to do.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{
    super::*,
    client_hello::tests::hello,
    world::{T0, World, address, base, pair},
};

/// A client that comes after all that was done is served as if nothing had been.
fn the_next_client_is_unharmed(world: &mut World) {
    let next = SocketAddr::from(([203, 0, 113, 5], 5));
    let conn = world.connect(next, b"bob");
    world.client_sends(next, b"served");
    assert_eq!(world.data_of(conn), [b"served".as_slice()]);
}

#[test]
fn a_wrong_key_and_an_unknown_name_look_the_same_and_open_nothing() {
    let mut told = Vec::new();
    for (name, key) in [(b"ana", b"a wrong key".as_slice()), (b"eve", b"any key")] {
        let mut world = World::new();
        world.begin_with_key(address(1), name, key);
        world.run(Duration::from_mins(1));

        let client = world.client(address(1));
        told.push(std::iter::from_fn(|| client.poll_event()).collect::<Vec<_>>());
        assert_eq!(world.server.established(), 0);
        assert_eq!(world.server.half_open(), 0);
        the_next_client_is_unharmed(&mut world);
    }

    assert_eq!(told[0], told[1]);
}

#[test]
fn a_client_that_stalls_is_forgotten_and_holds_up_nobody() {
    let mut world = World::new();
    world.begin(address(1), b"ana");
    world.step(false);
    assert_eq!(world.server.half_open(), 1);

    the_next_client_is_unharmed(&mut world);
    world.run(Duration::from_secs(11));

    assert_eq!(world.server.half_open(), 0);
}

#[test]
fn a_flood_of_hellos_has_a_ceiling_and_the_oldest_goes() {
    let mut world = World::new();
    world.limit(|limits| limits.half_open_max = 32);
    for number in 0..200_u8 {
        let from = SocketAddr::from(([10, 0, number, 1], 9));
        let hello = hello(0, number, &[0xc0a8]);
        world.server.handle_datagram(T0, from, &hello);
    }

    assert_eq!(world.server.half_open(), 32);
    the_next_client_is_unharmed(&mut world);
}

#[test]
fn a_flood_does_not_push_out_a_client_that_has_shown_its_cookie() {
    let mut world = World::new();
    world.limit(|limits| limits.half_open_max = 32);
    world.begin(address(1), b"ana");
    world.step(false);
    world.step(false); // the cookie is back, and accepted
    for number in 0..200_u8 {
        let from = SocketAddr::from(([10, 0, number, 1], 9));
        let hello = hello(0, number, &[0xc0a8]);
        world.server.handle_datagram(T0, from, &hello);
    }

    world.settle();

    assert_eq!(world.server.established(), 1);
}

#[test]
fn one_neighbourhood_cannot_begin_more_handshakes_than_its_share() {
    let mut world = World::new();
    for port in 0..500_u16 {
        let from = SocketAddr::from(([10, 0, 0, 1], port));
        let hello = hello(0, 1, &[0xc0a8]);
        world.server.handle_datagram(T0, from, &hello);
    }

    assert!(world.server.half_open() <= 64);
    the_next_client_is_unharmed(&mut world);
}

#[test]
fn a_stranger_who_writes_a_clients_address_on_a_hello_disturbs_it_in_nothing() {
    let mut world = World::new();
    // before its handshake, with the other kind of suite
    let forged = hello(0, 1, &[0xc02b]);
    world.server.handle_datagram(T0, address(1), &forged);
    world.settle(); // nobody there is waiting for the answer
    let conn = world.connect(address(1), b"ana");

    // and after it
    for random in 2..20 {
        let forged = hello(0, random, &[0xc0a8]);
        world.server.handle_datagram(T0, address(1), &forged);
    }
    world.client_sends(address(1), b"still there");

    assert_eq!(world.data_of(conn), [b"still there".as_slice()]);
    world.run(Duration::from_secs(11));
    assert_eq!(world.closed(conn), None);
    assert_eq!(world.server.half_open(), 0);
}

#[test]
fn an_address_that_has_proved_nothing_gets_at_most_three_times_what_it_sent() {
    for suites in [&[0xc0a8][..], &[0xc02b], &[0xc0a8, 0xc02b, 0x1301]] {
        let mut world = World::new();
        let mut sent = BTreeMap::new();
        for number in 0..40_u8 {
            let from = address(number);
            let hello = hello(0, number, suites);
            *sent.entry(from).or_insert(0) += hello.len();
            world.server.handle_datagram(world.now, from, &hello);
        }
        let mut received: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        for _ in 0..40 {
            while let Some((to, datagram)) = world.server.poll_transmit() {
                *received.entry(to).or_insert(0) += datagram.len();
            }
            world.now = world.now + Duration::from_millis(500);
            world.server.handle_timeout(world.now);
        }

        assert!(!received.is_empty(), "{suites:x?}");
        for (to, bytes) in received {
            assert!(
                bytes <= 3 * sent[&to],
                "{bytes} for {} {suites:x?}",
                sent[&to]
            );
        }
    }
}

#[test]
fn a_real_dtls13_hello_that_was_forged_is_not_amplified_either() {
    let mut world = World::new();
    let first = dtls13_hello();

    world.server.handle_datagram(T0, address(9), &first);
    let mut received = 0;
    for _ in 0..40 {
        while let Some((to, datagram)) = world.server.poll_transmit() {
            assert_eq!(to, address(9));
            received += datagram.len();
        }
        world.now = world.now + Duration::from_millis(500);
        world.server.handle_timeout(world.now);
    }

    assert!(received > 0 && received <= 3 * first.len(), "{received}");
}

/// The first datagram of a client that speaks DTLS 1.3 only.
fn dtls13_hello() -> Vec<u8> {
    let (certificate, key) = pair();
    let Certificate(own) = Certificate::new(certificate, key);
    let library = Arc::new(dimpl::Config::builder().build().unwrap());
    let mut client = dimpl::Dtls::new_13(library, own, base());
    client.set_active(true);
    client.handle_timeout(base()).unwrap();
    let mut buffer = vec![0; 2048];
    match client.poll_output(&mut buffer) {
        dimpl::Output::Packet(hello) => hello.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// Every datagram of two whole connections, one of either kind.
fn recorded() -> Vec<Vec<u8>> {
    let mut world = World::new();
    world.connect(address(1), b"ana");
    world.client_sends(address(1), b"ping");
    let trust = Pinned(world.certificate_der.clone());
    world.begin_with_certificate(address(2), Box::new(trust));
    world.settle();
    world.client_sends(address(2), b"pong");
    let seen = world.seen_up.iter();
    seen.map(|(_, datagram)| datagram.to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_datagrams_harm_the_server_or_the_next_client(
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20),
        changes in prop::collection::vec((0_usize..20, 0_usize..200, any::<u8>(), 0_usize..400, 0_u8..4), 0..80),
    ) {
        let recorded = recorded();
        let mut world = World::new();
        let conn = world.connect(address(3), b"ana");
        for (from, datagram) in noise.iter().enumerate() {
            let from = address(u8::try_from(from % 4).unwrap());
            world.server.handle_datagram(world.now, from, datagram);
        }
        for (which, at, byte, cut, from) in changes {
            let mut datagram = recorded[which % recorded.len()].clone();
            if let Some(place) = datagram.get_mut(at) {
                *place = byte;
            }
            datagram.truncate(cut);
            world.server.handle_datagram(world.now, address(from), &datagram);
            world.run(Duration::from_millis(u64::from(byte)));
        }

        prop_assert!(world.server.half_open() <= 4);
        prop_assert_eq!(world.server.established(), 1);
        world.client_sends(address(3), b"unharmed");
        prop_assert_eq!(world.data_of(conn), [b"unharmed".as_slice()]);
        the_next_client_is_unharmed(&mut world);
    }

    #[test]
    fn no_datagram_harms_a_client(datagram in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut world = World::new();
        world.begin(address(1), b"ana");
        world.step(false);
        world.client(address(1)).handle_datagram(T0, &datagram);
    }
}
