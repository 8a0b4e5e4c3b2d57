//! Clients and a server in one process, on a virtual clock.

mod hostile;
mod moving;
mod world;

use std::time::Duration;

use self::world::{Keys, World, address, pair};
use super::*;

#[test]
fn a_client_with_a_key_is_connected_and_known_by_its_name() {
    let mut world = World::new();
    let conn = world.connect(address(1), b"ana");

    assert!(matches!(
        world.connected(conn),
        Some(Identity(name)) if name == b"ana"
    ));
}

#[test]
fn bytes_arrive_both_ways() {
    let mut world = World::new();
    let conn = world.connect(address(1), b"ana");

    world.client_sends(address(1), b"ping");
    world.server.send(world.now, conn, b"pong").unwrap();
    world.settle();

    assert_eq!(world.data_of(conn), [b"ping".as_slice()]);
    assert_eq!(world.client_data(address(1)), [b"pong".as_slice()]);
}

#[test]
fn a_client_that_checks_certificates_is_connected_and_unknown() {
    let mut world = World::new();
    let trust = Pinned(world.certificate_der.clone());
    world.begin_with_certificate(address(1), Box::new(trust));

    world.settle();

    let conn = *world.conns.last().unwrap();
    assert_eq!(world.connected(conn), None);
    world.client_sends(address(1), b"ping");
    assert_eq!(world.data_of(conn), [b"ping".as_slice()]);
}

#[test]
fn an_authority_and_a_name_are_checked() {
    let (certificate, _) = pair();
    for (authority, name, trusted) in [
        (None, "localhost", true),
        (None, "elsewhere.example", false),
        (Some(certificate), "localhost", false),
    ] {
        let mut world = World::new();
        let authority = authority.unwrap_or_else(|| world.certificate_der.clone());
        let check = Anchored::new(&[authority], name).unwrap();
        world.begin_with_certificate(address(1), Box::new(check));

        world.settle();

        assert_eq!(world.client(address(1)).is_connected(), trusted, "{name}");
    }
}

#[test]
fn a_client_tells_an_untrusted_server_nothing_but_its_hello() {
    let mut world = World::new();
    world.begin_with_certificate(address(1), Box::new(Pinned(vec![1])));

    world.settle();

    let client = world.client(address(1));
    let closed = ClientEvent::Closed(ClientCloseReason::Untrusted);
    assert_eq!(client.poll_event(), Some(closed));
    assert_eq!(client.send(world::T0, b"secret"), Err(SendError::Unknown));
    assert_eq!(world.server.established(), 0);
}

#[test]
fn where_there_are_no_keys_a_client_that_can_do_both_is_shown_the_certificate() {
    let mut world = World::with_keys(Keys::default());
    let hello = client_hello::tests::hello(0, 1, &[0xc0a8, 0xc02b]);

    world.server.handle_datagram(world.now, address(1), &hello);

    assert_eq!(world.server.half_open(), 1);
    assert!(world.server.poll_transmit().is_some());
}

#[test]
fn either_end_closes_and_the_other_is_told() {
    let mut world = World::new();
    let first = world.connect(address(1), b"ana");
    let second = world.connect(address(2), b"bob");

    let now = world.now;
    world.client(address(1)).close(now);
    world.server.close(world.now, second);
    world.settle();

    assert_eq!(world.closed(first), Some(CloseReason::Peer));
    assert_eq!(world.closed(second), Some(CloseReason::Local));
    let client = world.client(address(2));
    let told = std::iter::from_fn(|| client.poll_event()).last();
    assert_eq!(told, Some(ClientEvent::Closed(ClientCloseReason::Peer)));
    assert_eq!(world.server.established(), 0);
    assert_eq!(
        world.server.send(world.now, second, b"x"),
        Err(SendError::Unknown)
    );
}

#[test]
fn a_payload_that_fits_no_record_is_refused_and_the_connection_lives() {
    let mut world = World::new();
    let conn = world.connect(address(1), b"ana");

    let bytes = PAYLOAD_BYTES_MAX + 1;
    let refused = world.server.send(world.now, conn, &vec![0; bytes]);
    assert_eq!(refused, Err(SendError::TooLarge { bytes }));

    let largest = vec![1; PAYLOAD_BYTES_MAX];
    world.server.send(world.now, conn, &largest).unwrap();
    world.settle();
    assert_eq!(world.client_data(address(1)), [largest]);
}

#[test]
fn lost_flights_are_sent_again() {
    let mut world = World::new();
    world.begin(address(1), b"ana");

    for lost in 0..12 {
        world.step(lost % 3 == 0); // every third datagram is lost
        world.run(Duration::from_millis(700));
    }

    assert_eq!(world.server.established(), 1);
}

#[test]
fn a_silent_connection_is_closed_in_the_end() {
    let mut world = World::new();
    let conn = world.connect(address(1), b"ana");

    world.run(Duration::from_hours(24));
    assert_eq!(world.closed(conn), None);
    world.run(Duration::from_hours(2));

    assert_eq!(world.closed(conn), Some(CloseReason::Idle));
}

#[test]
fn when_there_is_no_room_the_longest_silent_stranger_goes_and_never_a_device_for_one() {
    let mut world = World::new();
    world.limit(|limits| limits.established_max = 2);
    let device = world.connect(address(1), b"ana");
    let stranger = world.connect_unknown(address(2));
    world.run(Duration::from_secs(1));

    let second = world.connect_unknown(address(3));
    assert_eq!(world.closed(stranger), Some(CloseReason::Evicted));
    let third = world.connect(address(4), b"bob");
    assert_eq!(world.closed(second), Some(CloseReason::Evicted));
    let trust = Pinned(world.certificate_der.clone());
    world.begin_with_certificate(address(5), Box::new(trust));
    world.settle();

    assert_eq!(world.closed(device), None);
    assert_eq!(world.closed(third), None);
    assert_eq!(world.server.established(), 2);
}

#[test]
fn a_client_that_starts_again_on_its_port_replaces_itself_only_when_it_has_finished() {
    let mut world = World::new();
    let old = world.connect(address(1), b"ana");
    world.begin(address(1), b"ana");
    world.step(false); // the hello arrives

    assert_eq!(world.closed(old), None);
    world.server.send(world.now, old, b"still there").unwrap();
    world.settle();

    assert_eq!(world.closed(old), Some(CloseReason::Replaced));
    let new = *world.conns.last().unwrap();
    world.client_sends(address(1), b"new");
    assert_eq!(world.data_of(new), [b"new".as_slice()]);
}

#[test]
fn a_server_needs_something_to_show_and_a_key_it_can_use() {
    let (certificate, _) = pair();
    let base = world::base();
    let with = |certificate| ServerConfig {
        certificate,
        ..ServerConfig::default()
    };

    let nothing = Server::new(with(None), base, world::T0).unwrap_err();
    let bad_key = Certificate::new(certificate, b"no key".as_slice());
    let wrong = Server::new(with(Some(bad_key)), base, world::T0).unwrap_err();

    assert!(matches!(nothing, ConfigError::NothingToShow));
    assert!(matches!(wrong, ConfigError::PrivateKey(_)));
}

#[test]
fn no_secret_shows_in_debug_output() {
    let shown = format!(
        "{:?} {:?}",
        Secret::new("planted"),
        Certificate::new("a", "planted")
    );

    assert!(!shown.contains("planted"));
}
