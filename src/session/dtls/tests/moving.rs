//! Clients whose address changes.

use std::{net::SocketAddr, time::Duration};

use super::{
    super::*,
    world::{World, address},
};

/// Another port of the same network.
fn elsewhere(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn moves(world: &World) -> Vec<(ConnId, SocketAddr, SocketAddr)> {
    let events = world.events.iter();
    events
        .filter_map(|event| match event {
            Event::Moved { conn, from, to } => Some((*conn, *from, *to)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_client_behind_a_new_address_keeps_its_connection() {
    let mut world = World::new();
    let conn = world.connect(address(1), b"ana");
    world.run(Duration::from_secs(31));

    world.rebind(address(1), elsewhere(50_000));
    world.client_sends(elsewhere(50_000), b"here I am");
    world
        .server
        .send(world.now, conn, b"there you are")
        .unwrap();
    world.settle();

    let moved = (conn, address(1), elsewhere(50_000));
    assert_eq!(moves(&world), [moved]);
    assert_eq!(world.data_of(conn), [b"here I am".as_slice()]);
    assert_eq!(
        world.client_data(elsewhere(50_000)),
        [b"there you are".as_slice()]
    );
}

#[test]
fn it_is_found_among_many_neighbours_who_are_all_unharmed() {
    let mut world = World::new();
    let conns: Vec<_> = (1..=12)
        .map(|host| world.connect(address(host), b"ana"))
        .collect();
    world.run(Duration::from_secs(31));

    world.rebind(address(7), elsewhere(50_000));
    world.client_sends(elsewhere(50_000), b"seven");

    assert_eq!(world.data_of(conns[6]), [b"seven".as_slice()]);
    for (host, conn) in (1..=12).zip(&conns) {
        if host != 7 {
            world.client_sends(address(host), b"unharmed");
            assert_eq!(world.data_of(*conn), [b"unharmed".as_slice()]);
        }
    }
    assert_eq!(moves(&world).len(), 1);
}

#[test]
fn an_old_record_sent_again_from_elsewhere_moves_nobody() {
    let mut world = World::new();
    let conn = world.connect(address(1), b"ana");
    let now = world.now;
    world.client(address(1)).send(now, b"held back").unwrap();
    let old = world.client(address(1)).poll_transmit().unwrap();
    world.client_sends(address(1), b"newer");
    let (_, newer) = world.seen_up.last().unwrap().clone();
    world.run(Duration::from_secs(31));

    for record in [old, newer] {
        let from = elsewhere(50_000);
        world.server.handle_datagram(world.now, from, &record);
        world.settle();
    }

    assert_eq!(world.data_of(conn), [b"newer".as_slice()]);
    assert_eq!(moves(&world), []);
}

#[test]
fn a_client_in_another_network_or_not_yet_silent_does_not_move() {
    let far = SocketAddr::from(([198, 51, 100, 1], 50_000));
    for (silence, to) in [(31, far), (5, elsewhere(50_000))] {
        let mut world = World::new();
        world.connect(address(1), b"ana");
        world.run(Duration::from_secs(silence));

        world.rebind(address(1), to);
        world.client_sends(to, b"hello?");

        assert_eq!(moves(&world), []);
    }
}

#[test]
fn a_client_may_come_to_an_address_that_another_one_left() {
    let mut world = World::new();
    let ana = world.connect(address(1), b"ana");
    let bob = world.connect(address(2), b"bob");
    world.run(Duration::from_secs(31));

    world.rebind(address(2), elsewhere(50_000)); // and says nothing for now
    world.rebind(address(1), address(2));
    world.client_sends(address(2), b"ana");
    world.client_sends(elsewhere(50_000), b"bob");

    assert_eq!(world.data_of(ana), [b"ana".as_slice()]);
    assert_eq!(world.data_of(bob), [b"bob".as_slice()]);
    assert_eq!(world.server.address(ana), Some(address(2)));
    assert_eq!(world.server.address(bob), Some(elsewhere(50_000)));
}

#[test]
fn records_of_nobody_are_tried_seldom() {
    let mut world = World::new();
    let conn = world.connect(address(1), b"ana");
    world.run(Duration::from_secs(31));
    let now = world.now;
    let mut forged = vec![23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 1, 0, 0, 24];
    forged.extend([7; 24]);
    for port in 1..200 {
        world.server.handle_datagram(now, elsewhere(port), &forged);
    }

    // The bucket of the neighbourhood is empty: the real one has to ask twice.
    world.rebind(address(1), elsewhere(50_000));
    world.client_sends(elsewhere(50_000), b"not yet");
    world.run(Duration::from_secs(1));
    world.client_sends(elsewhere(50_000), b"now");

    assert_eq!(world.data_of(conn), [b"now".as_slice()]);
}
