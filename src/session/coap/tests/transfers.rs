//! Two or more machines and the network between them.

use std::collections::BTreeMap;

use super::{
    world::{CALM, STORM, Weather, World},
    *,
};
use crate::wire::coap::Szx;

/// Lets the hub answer everything and gives how each request ended.
fn run(
    world: &mut World,
    mut answer: impl FnMut(&'static str, Request) -> Response,
) -> BTreeMap<ExchangeId, Result<Response, FailReason>> {
    let mut ended = BTreeMap::new();
    while let Some((_, event)) = world.next_event() {
        let (exchange, outcome) = match event {
            Event::Request {
                exchange,
                peer,
                request,
                ..
            } => {
                let response = answer(peer, request);
                world.respond("hub", exchange, response);
                continue;
            }
            Event::Response {
                exchange, response, ..
            } => (exchange, Ok(response)),
            Event::Failed { exchange, reason } => (exchange, Err(reason)),
            other => panic!("{other:?}"),
        };
        assert!(ended.insert(exchange, outcome).is_none(), "ended twice");
    }
    ended
}

fn put(path: &str) -> Request {
    Request::new(Code::PUT, &["rooms", path]).option(number::CONTENT_FORMAT, [60])
}

#[test]
fn a_body_of_forty_kilobytes_arrives_each_way_under_loss() {
    // Ten retransmissions: at 30 % loss each way a block fails once in a thousand years.
    for seed in 0..10 {
        let mut world = World::new(seed, STORM, &["ana", "hub"]);
        for machine in world.machines.values_mut() {
            machine.config.timers.max_retransmit = 10;
        }
        let mut delivered = 0;
        let asked = world.request("ana", "hub", put("a").body(body(40_000, 1)));
        let ended = run(&mut world, |_, request| {
            delivered += 1;
            assert_eq!(request.payload, body(40_000, 1));
            assert_eq!(request.options.path().collect::<Vec<_>>(), ["rooms", "a"]);
            content(body(40_000, 2))
        });

        let response = ended[&asked]
            .as_ref()
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(response.payload, body(40_000, 2), "seed {seed}");
        assert_eq!(response.options.content_format(), Some(60));
        assert_eq!(delivered, 1, "seed {seed}");
        assert_eq!(world.machine("ana").client.sizes(), [0; 4], "seed {seed}");
        assert_eq!(world.machine("hub").server.sizes(), [0; 6], "seed {seed}");
        assert_eq!(world.machine("hub").flights.len(), 0, "seed {seed}");
    }
}

#[test]
fn a_request_is_delivered_once_however_often_it_is_repeated() {
    let weather = Weather {
        loss_percent: 40,
        duplicate_percent: 90,
        delay_ms_max: 3000,
    };
    for seed in 0..30 {
        let mut world = World::new(seed, weather, &["ana", "hub"]);
        let now = world.now;
        world.machine("hub").mark_validated(now, &"ana");
        let mut delivered = BTreeMap::new();
        for nth in 0..10_u8 {
            world.request("ana", "hub", put("a").body(vec![nth]));
        }
        let ended = run(&mut world, |_, request| {
            *delivered.entry(request.payload[0]).or_insert(0) += 1;
            Response::new(Code::CHANGED).saying(request.payload[0].to_string())
        });

        assert!(
            delivered.values().all(|times| *times == 1),
            "seed {seed}: {delivered:?}"
        );
        for (nth, outcome) in ended.into_values().enumerate() {
            if let Ok(response) = outcome {
                assert_eq!(response.payload, nth.to_string(), "seed {seed}");
            }
        }
    }
}

#[test]
fn clients_and_queries_never_get_each_others_blocks() {
    for seed in 0..10 {
        let weather = Weather {
            loss_percent: 10,
            ..STORM
        };
        let mut world = World::new(seed, weather, &["ana", "bob", "hub"]);
        for machine in world.machines.values_mut() {
            machine.config.timers.max_retransmit = 10;
        }
        let salt = |peer: &str, query: &str| peer.as_bytes()[0] ^ query.as_bytes()[6];
        let mut asked = BTreeMap::new();
        for peer in ["ana", "bob"] {
            for query in ["since=1", "since=2", "since=3"] {
                for method in [Code::GET, Code::FETCH] {
                    let mut request = Request::new(method, &["sync"]);
                    if method == Code::GET {
                        request = request.option(number::URI_QUERY, query);
                    } else {
                        request = request.body(query);
                    }
                    let exchange = world.request(peer, "hub", request);
                    asked.insert((peer, exchange), salt(peer, query));
                }
            }
        }
        let mut ended = 0;
        while let Some((name, event)) = world.next_event() {
            match event {
                Event::Request {
                    exchange,
                    peer,
                    request,
                    ..
                } => {
                    let query = request.options.query().next().map(str::to_owned);
                    let query = query
                        .unwrap_or_else(|| String::from_utf8(request.payload.to_vec()).unwrap());
                    let whole = body(4000, salt(peer, &query));
                    world.respond("hub", exchange, content(whole));
                }
                Event::Response {
                    exchange, response, ..
                } => {
                    assert_eq!(response.payload, body(4000, asked[&(name, exchange)]));
                    ended += 1;
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert_eq!(ended, 12, "seed {seed}");
    }
}

#[test]
fn a_challenge_is_answered_without_the_callers_help() {
    let mut world = World::new(1, CALM, &["ana", "hub"]);
    let asked = world.request("ana", "hub", put("a").body(body(3000, 0)));

    let ended = run(&mut world, |_, request| {
        assert_eq!(request.payload, body(3000, 0));
        assert!(!request.options.has(number::ECHO));
        Response::new(Code::CHANGED)
    });

    assert_eq!(ended[&asked].as_ref().unwrap().code, Code::CHANGED);
    let challenges = world.sent.iter().filter(|(from, _, bytes)| {
        *from == "hub" && Message::decode(bytes).unwrap().code == Code::UNAUTHORIZED
    });
    assert_eq!(challenges.count(), 1, "once per address");
}

#[test]
fn a_server_that_challenges_again_and_again_has_not_refused() {
    let mut ana = machine(config(), 1);
    let asked = ana.request(NOW, "hub", put("a"));
    let mut tries = 0;
    while let Some((_, sent)) = ana.poll_transmit() {
        tries += 1;
        let sent = Message::decode(&sent).unwrap();
        let challenge = Message {
            kind: Kind::Ack,
            code: Code::UNAUTHORIZED,
            options: Options::new().with(number::ECHO, [tries; 8]),
            payload: Vec::new(),
            ..sent
        };
        ana.handle_datagram(NOW, "hub", &challenge.encode().unwrap());
    }

    let ended = Event::Failed {
        exchange: asked,
        reason: FailReason::Challenged,
    };
    assert_eq!((tries, ana.poll_event()), (9, Some(ended)));
}

#[test]
fn block_sizes_are_agreed_downwards_from_either_end() {
    for (ana, hub) in [(2, 6), (6, 2), (0, 6), (6, 0), (3, 3)] {
        let mut world = World::new(1, CALM, &["ana", "hub"]);
        world.machine("ana").config.szx = Szx::new(ana).unwrap();
        world.machine("hub").config.szx = Szx::new(hub).unwrap();
        let asked = world.request("ana", "hub", put("a").body(body(3000, 1)));
        let ended = run(&mut world, |_, request| {
            assert_eq!(request.payload, body(3000, 1));
            content(body(3000, 2))
        });

        assert_eq!(
            ended[&asked].as_ref().unwrap().payload,
            body(3000, 2),
            "{ana} {hub}"
        );
        let smaller = 16 << ana.min(hub);
        for (_, _, bytes) in world.sent.iter().skip(4) {
            assert!(
                Message::decode(bytes).unwrap().payload.len() <= smaller,
                "{ana} {hub}"
            );
        }
    }
}

#[test]
fn one_request_is_in_transit_per_peer_and_a_long_poll_does_not_hold_the_others() {
    let mut world = World::new(1, CALM, &["ana", "hub"]);
    let now = world.now;
    world.machine("hub").mark_validated(now, &"ana");
    let poll = world.request("ana", "hub", Request::new(Code::GET, &["poll"]));
    let quick = world.request("ana", "hub", Request::new(Code::GET, &["quick"]));
    let mut held = None;
    let mut order = Vec::new();
    while let Some((_, event)) = world.next_event() {
        match event {
            Event::Request {
                exchange, request, ..
            } => {
                if request.options.path().next() == Some("poll") {
                    assert_eq!(world.sent.len(), 1, "the second waits for the first");
                    held = Some(exchange);
                } else {
                    world.respond("hub", exchange, content("quick"));
                }
            }
            Event::Response { exchange, .. } => {
                order.push(exchange);
                if let Some(exchange) = held.take() {
                    world.respond("hub", exchange, content(body(3000, 1)));
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order, [quick, poll]);
}

#[test]
fn a_peer_that_is_not_there_is_given_up() {
    let weather = Weather {
        loss_percent: 100,
        ..CALM
    };
    let mut world = World::new(1, weather, &["ana", "hub"]);
    let first = world.request("ana", "hub", put("a").body("x"));
    let second = world.request("ana", "hub", put("a").body("y"));

    let ended = run(&mut world, |_, _| unreachable!("nothing arrives"));

    assert_eq!(ended[&first], Err(FailReason::TimedOut));
    assert_eq!(ended[&second], Err(FailReason::TimedOut));
    assert_eq!(world.sent.len(), 10);
    assert_eq!(world.machine("ana").client.sizes(), [0; 4]);
}

#[test]
fn a_body_that_changes_between_its_blocks_is_fetched_anew() {
    let mut world = World::new(1, CALM, &["ana", "hub"]);
    let now = world.now;
    world.machine("hub").mark_validated(now, &"ana");
    let asked = world.request("ana", "hub", Request::new(Code::GET, &["a"]));
    let mut times = 0;
    let mut got = None;
    while let Some((_, event)) = world.next_event() {
        match event {
            Event::Request { exchange, .. } => {
                times += 1;
                world.respond("hub", exchange, content(body(3000, times)));
                if times == 1 {
                    // A restart of the hub, from the client's point of view.
                    let fresh = machine(config(), 99);
                    let mut old = std::mem::replace(world.machine("hub"), fresh);
                    let (to, answer) = old.poll_transmit().unwrap();
                    world.machine("hub").mark_validated(now, &"ana");
                    world.machine(to).handle_datagram(now, "hub", &answer);
                }
            }
            Event::Response {
                exchange, response, ..
            } => {
                assert_eq!(exchange, asked);
                got = Some(response.payload);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(times, 2);
    assert_eq!(got.unwrap(), body(3000, 2));
}

#[test]
fn an_error_with_a_code_of_its_own_comes_back_as_it_was() {
    let mut world = World::new(1, CALM, &["ana", "hub"]);
    let asked = world.request("ana", "hub", put("a").body("x"));

    let ended = run(&mut world, |_, _| Response::too_many_requests(7));

    let response = ended[&asked].as_ref().unwrap();
    assert_eq!(
        (response.code, response.options.max_age()),
        (Code::TOO_MANY_REQUESTS, Some(7))
    );
}

#[test]
fn a_request_too_large_for_the_server_ends_with_its_refusal() {
    let mut world = World::new(1, CALM, &["ana", "hub"]);
    world.machine("hub").config.request_bytes_max = 2000;
    let asked = world.request("ana", "hub", put("a").body(body(3000, 1)));

    let ended = run(&mut world, |_, _| unreachable!("it is refused"));

    let response = ended[&asked].as_ref().unwrap();
    assert_eq!(response.code, Code::TOO_LARGE);
    assert_eq!(response.options.uint(number::SIZE1), Some(2000));
}

#[test]
fn blocks_shrink_when_the_options_are_long() {
    let mut world = World::new(1, CALM, &["ana", "hub"]);
    let long = put("a").option(number::ACCESS_TOKEN, vec![b't'; 300]);
    world.request("ana", "hub", long.body(body(3000, 1)));

    let ended = run(&mut world, |_, request| {
        assert_eq!(request.payload, body(3000, 1));
        Response::new(Code::CHANGED)
    });

    assert_eq!(ended.len(), 1);
    assert!(world.sent.iter().all(|(_, _, bytes)| bytes.len() <= 1152));
}

#[test]
fn a_request_that_fits_no_message_fails_at_once() {
    let mut world = World::new(1, CALM, &["ana", "hub"]);
    let asked = world.request(
        "ana",
        "hub",
        put("a").option(number::URI_QUERY, vec![b'x'; 2000]),
    );

    let ended = run(&mut world, |_, _| unreachable!("nothing is sent"));

    assert_eq!(ended[&asked], Err(FailReason::Unsendable));
    assert_eq!(world.sent.len(), 0);
}
