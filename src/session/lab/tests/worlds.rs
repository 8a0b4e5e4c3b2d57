//! Two CoAP machines over a bad link on a virtual clock.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    base::Timestamp,
    session::{
        coap::{Config, Event, Machine, Request, Response, Timers},
        lab::{world::HUB, *},
    },
    wire::coap::Code,
};

const MESSAGES: usize = 200;

/// Far beyond what any of these takes.
const FOR_EVER: Micros = Micros(30 * 24 * 3600 * 1_000_000);

fn machine<P: crate::session::coap::Peer>(timers: Timers, seed: u64) -> Machine<P> {
    let mut config = Config::new([7; 32]);
    config.timers = timers;
    Machine::new(config, Box::new(StdRng::seed_from_u64(seed)))
}

/// A hub that knows its one client by a security context, as OSCORE does: the context stays the
/// same peer wherever its newest datagram came from.
struct ByContext {
    machine: Machine<&'static str>,
    address: Option<SocketAddr>,
    moves: usize,
}

impl ByContext {
    fn new(timers: Timers) -> Self {
        let mut machine = machine(timers, 2);
        machine.mark_validated(world::OPENS, &CONTEXT);
        Self {
            machine,
            address: None,
            moves: 0,
        }
    }
}

const CONTEXT: &str = "ana's context";

impl Node for ByContext {
    fn handle(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        self.moves += usize::from(self.address.is_some_and(|known| known != from));
        self.address = Some(from);
        self.machine.handle_datagram(now, CONTEXT, datagram);
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        let (_, datagram) = self.machine.poll_transmit()?;
        Some((self.address?, datagram))
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.machine.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.machine.handle_timeout(now);
    }
}

type Radio = World<Machine<SocketAddr>, ByContext>;

/// What one run of messages came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// In the order the hub saw them.
    seen: Vec<String>,
    /// How often the client began anew because CoAP had given up.
    restarts: usize,
    moves: usize,
    up: Stats,
    down: Stats,
    took: Micros,
    fingerprint: u64,
}

/// A client that sends one message after the other until each is answered.
fn send_all(profile: Profile, seed: u64) -> Outcome {
    let timers = Timers::slow_link();
    let (hub, ana) = (ByContext::new(timers), machine(timers, 1));
    let mut world: Radio = World::new(profile, seed, hub, vec![ana]);
    let (mut heard, mut restarts, mut next) = (Vec::new(), 0, 0);
    send(&mut world, next);
    while next < MESSAGES {
        assert_eq!(world.step(FOR_EVER), Step::Moved, "stuck at {next}");
        heard.extend(answer(&mut world));
        match world.client(0).unwrap().poll_event() {
            Some(Event::Response { response, .. }) => {
                assert_eq!(response.payload, format!("got {next}"));
                next += 1;
                send(&mut world, next);
            }
            Some(Event::Failed { .. }) => {
                restarts += 1;
                send(&mut world, next);
            }
            _ => {}
        }
    }
    Outcome {
        seen: heard,
        restarts,
        moves: world.hub().moves,
        up: *world.link().stats(Direction::Up),
        down: *world.link().stats(Direction::Down),
        took: world.elapsed(),
        fingerprint: world.fingerprint(),
    }
}

fn send(world: &mut Radio, number: usize) {
    let now = world.now();
    if number < MESSAGES {
        let request = Request::new(Code::POST, &["a"]).body(number.to_string());
        world.client(0).unwrap().request(now, HUB, request);
    }
}

fn answer(world: &mut Radio) -> Option<String> {
    let now = world.now();
    let machine = &mut world.hub().machine;
    let Some(Event::Request {
        exchange, request, ..
    }) = machine.poll_event()
    else {
        return None;
    };
    let text = String::from_utf8(request.payload.to_vec()).unwrap();
    let response = Response::new(Code::CHANGED).saying(format!("got {text}"));
    machine.respond(now, exchange, response).unwrap();
    Some(text)
}

fn bad_radio() -> Profile {
    Profile {
        up: Rate::bits(100),
        down: Rate::bits(100),
        delay: Duration::from_millis(1500),
        loss: Ppm::percent(30),
        duplicate: Ppm::percent(5),
        rebind: Some(Duration::from_mins(1)),
        queue_bytes: 2000,
        ..Profile::PERFECT
    }
}

#[test]
fn two_hundred_messages_cross_a_radio_that_loses_a_third_and_rebinds_every_minute() {
    let bad = send_all(bad_radio(), 3);

    // Once each, but for those where CoAP gave up and the client sent a new message.
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for text in &bad.seen {
        *counts.entry(text.parse().unwrap()).or_default() += 1;
    }
    assert!(counts.keys().copied().eq(0..MESSAGES));
    assert!(bad.seen.len() <= MESSAGES + bad.restarts, "{bad:?}");
    assert!(
        bad.seen
            .iter()
            .map(|text| text.parse::<usize>().unwrap())
            .is_sorted()
    );
    assert!(bad.moves > 20, "{bad:?}");
    assert!(
        bad.up.duplicated > 0 && bad.up.lost.chance.datagrams > 100,
        "{bad:?}"
    );
    // Three lost in ten each way: two sendings per exchange, and CoAP gives up on one in thirty.
    assert!(bad.up.offered.datagrams < 3 * MESSAGES as u64, "{bad:?}");
}

#[test]
fn without_loss_each_message_is_two_datagrams() {
    let calm = Profile {
        loss: Ppm::NEVER,
        duplicate: Ppm::NEVER,
        rebind: None,
        ..bad_radio()
    };
    let calm = send_all(calm, 3);

    assert_eq!(calm.up.offered.datagrams, MESSAGES as u64);
    assert_eq!(calm.down.offered.datagrams, MESSAGES as u64);
    assert_eq!(
        (calm.seen.len(), calm.moves, calm.restarts),
        (MESSAGES, 0, 0)
    );
}

#[test]
fn a_run_is_its_replay_and_another_seed_is_another_run() {
    let (run, replay, other) = (
        send_all(bad_radio(), 5),
        send_all(bad_radio(), 5),
        send_all(bad_radio(), 6),
    );

    assert_eq!(run, replay);
    assert_ne!(run.fingerprint, other.fingerprint);
}

#[test]
fn a_hub_that_knows_clients_by_address_only_challenges_each_new_port_and_is_reached() {
    let timers = Timers::slow_link();
    let (hub, ana) = (machine(timers, 2), machine(timers, 1));
    let profile = Profile {
        loss: Ppm::NEVER,
        ..bad_radio()
    };
    let mut world: World<Machine<SocketAddr>, Machine<SocketAddr>> =
        World::new(profile, 3, hub, vec![ana]);
    let now = world.now();
    let request = Request::new(Code::POST, &["a"]).body("hello");
    world.client(0).unwrap().request(now, HUB, request);

    let from = loop {
        assert_eq!(world.step(FOR_EVER), Step::Moved);
        if let Some(Event::Request { peer, .. }) = world.hub().poll_event() {
            break peer;
        }
    };

    assert_eq!(world::address_of(world::port_at(from).unwrap()), from);
    // the request, the challenge, the request again
    assert_eq!(world.link().stats(Direction::Down).delivered.datagrams, 1);
}

#[test]
fn when_nothing_happens_the_clock_goes_where_it_is_told() {
    let (hub, ana) = (
        ByContext::new(Timers::default()),
        machine(Timers::default(), 1),
    );
    let mut world: Radio = World::new(Profile::PERFECT, 0, hub, vec![ana]);

    assert_eq!(world.step(Micros(5_000)), Step::Reached);
    assert_eq!(world.now(), Timestamp(world::OPENS.0 + 5));
    assert_eq!(world.strays(), 0);
}
