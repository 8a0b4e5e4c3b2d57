//! Observation, from the server's side by hand and between two machines.

use super::{
    world::{CALM, STORM, World},
    *,
};
use crate::wire::coap::{Block, Szx};

fn register(id: u16, token: &[u8]) -> Message {
    with(con(Code::GET, id, token, "sync"), number::OBSERVE, [])
}

fn registered(bench: &mut Bench, id: u16, token: &[u8]) -> (ObservationId, Message) {
    assert_eq!(bench.hear(&register(id, token)), []);
    let (exchange, request, observation) = bench.delivered();
    assert!(request.observe);
    let answer = bench.answer(exchange, content("now").observing());
    (observation.unwrap(), answer)
}

fn push(bench: &mut Bench, observation: ObservationId, text: &'static str) -> Vec<Message> {
    bench
        .server
        .notify(bench.now, observation, content(text))
        .unwrap();
    bench.sent()
}

fn ack(bench: &mut Bench, message: &Message) -> Vec<Message> {
    bench.hear(&Message::empty(Kind::Ack, message.id))
}

fn gone(bench: &mut Bench) -> GoneReason {
    loop {
        match bench.server.poll_event() {
            Some(Event::ObserverGone { reason, .. }) => return reason,
            Some(_) => {}
            None => panic!("the observer is still there"),
        }
    }
}

#[test]
fn lb_defect_1_a_registration_answer_carries_observe() {
    let mut bench = Bench::new();

    let (_, answer) = registered(&mut bench, 1, b"t");

    assert_eq!(answer.options.observe(), Some(0));
    assert_eq!(
        (answer.kind, answer.payload.as_slice()),
        (Kind::Ack, &b"now"[..])
    );
}

#[test]
fn a_registration_that_is_not_accepted_is_answered_without_observe() {
    let mut bench = Bench::new();
    bench.hear(&register(1, b"t"));
    let (exchange, _, observation) = bench.delivered();

    let answer = bench.answer(exchange, content("now"));

    assert_eq!(answer.options.observe(), None);
    let refused = bench.server.notify(NOW, observation.unwrap(), content("x"));
    assert_eq!(refused, Err(RespondError::Unknown));
}

#[test]
fn notifications_are_confirmable_with_rising_numbers() {
    let mut bench = Bench::new();
    let (observation, _) = registered(&mut bench, 1, b"t");

    for number in 1..=300 {
        let [pushed] = push(&mut bench, observation, "x").try_into().unwrap();
        assert_eq!(
            (pushed.kind, pushed.token.as_bytes()),
            (Kind::Con, &b"t"[..])
        );
        assert_eq!(pushed.options.observe(), Some(number));
        ack(&mut bench, &pushed);
        assert_eq!(
            bench.server.poll_event(),
            Some(Event::Delivered { observation })
        );
    }
}

#[test]
fn what_is_told_once_is_unconfirmed_and_never_overtakes_what_is_confirmed() {
    let mut bench = Bench::new();
    let (observation, _) = registered(&mut bench, 1, b"t");
    let once = |bench: &mut Bench, text| {
        let now = bench.now;
        let sent = bench.server.notify_once(now, observation, content(text));
        (sent, bench.sent())
    };

    let (sent, messages) = once(&mut bench, "types");
    let [told] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert_eq!(sent, Ok(true));
    assert_eq!((told.kind, told.options.observe()), (Kind::Non, Some(1)));
    assert!(bench.server.poll_event().is_none(), "nobody confirms it");

    let [pushed] = push(&mut bench, observation, "x").try_into().unwrap();
    assert_eq!(once(&mut bench, "types"), (Ok(false), vec![]));
    ack(&mut bench, &pushed);
    assert_eq!(once(&mut bench, "types").0, Ok(true));
    let large = "x".repeat(2000).leak();
    assert_eq!(once(&mut bench, large), (Ok(false), vec![]));
}

#[test]
fn one_notification_is_in_flight_and_the_newest_state_follows_it() {
    let mut bench = Bench::new();
    let (observation, _) = registered(&mut bench, 1, b"t");

    let [first] = push(&mut bench, observation, "one").try_into().unwrap();
    assert_eq!(push(&mut bench, observation, "two"), []);
    assert_eq!(push(&mut bench, observation, "three"), []);
    let [last] = ack(&mut bench, &first).try_into().unwrap();

    assert_eq!(last.payload, b"three");
    assert_eq!(ack(&mut bench, &last), []);
}

#[test]
fn lb_defect_9_a_push_nobody_acknowledges_ends_the_observation() {
    let mut bench = Bench::new();
    let (observation, _) = registered(&mut bench, 1, b"t");
    push(&mut bench, observation, "x");

    for _ in 0..100 {
        bench.wait_ms(1000);
    }

    assert_eq!(bench.sent().len(), 4, "four retransmissions and no more");
    assert_eq!(gone(&mut bench), GoneReason::TimedOut);
    let later = bench.server.notify(bench.now, observation, content("y"));
    assert_eq!(later, Err(RespondError::Unknown));
    assert_eq!(bench.server.server.sizes()[5], 0);
}

#[test]
fn a_reset_a_deregistration_and_an_error_end_an_observation() {
    let mut bench = Bench::new();
    let (observation, _) = registered(&mut bench, 1, b"a");
    let [pushed] = push(&mut bench, observation, "x").try_into().unwrap();
    bench.hear(&Message::empty(Kind::Rst, pushed.id));
    assert_eq!(gone(&mut bench), GoneReason::Reset);

    registered(&mut bench, 2, b"b");
    bench.hear(&with(con(Code::GET, 3, b"b", "sync"), number::OBSERVE, [1]));
    assert_eq!(gone(&mut bench), GoneReason::Deregistered);
    let (exchange, ..) = bench.delivered();
    assert_eq!(
        bench.answer(exchange, content("plain")).options.observe(),
        None
    );

    let (observation, _) = registered(&mut bench, 5, b"c");
    bench
        .server
        .notify(bench.now, observation, Response::new(Code::NOT_FOUND))
        .unwrap();
    assert_eq!(bench.one_sent().options.observe(), None);
    assert_eq!(gone(&mut bench), GoneReason::Refused);
}

#[test]
fn registering_again_with_the_same_token_replaces_and_counts_on() {
    let mut bench = Bench::new();
    let (old, _) = registered(&mut bench, 1, b"t");
    push(&mut bench, old, "x");

    let (new, answer) = {
        bench.hear(&register(2, b"t"));
        assert_eq!(gone(&mut bench), GoneReason::Replaced);
        let (exchange, _, observation) = bench.delivered();
        (
            observation.unwrap(),
            bench.answer(exchange, content("now").observing()),
        )
    };

    assert_eq!(answer.options.observe(), Some(2));
    assert_ne!(old, new);
    bench.wait_ms(100_000);
    assert_eq!(bench.sent(), [], "the old notification is not sent again");
}

#[test]
fn a_peer_has_one_notification_in_flight_and_each_observation_its_turn() {
    let mut bench = Bench::new();
    let (a, _) = registered(&mut bench, 1, b"a");
    let (b, _) = registered(&mut bench, 2, b"b");
    let [mut in_flight] = push(&mut bench, a, "a0").try_into().unwrap();
    let mut order = Vec::new();
    for _ in 0..3 {
        assert_eq!(push(&mut bench, b, "b"), []);
        assert_eq!(push(&mut bench, a, "a"), []);
        let [next] = ack(&mut bench, &in_flight).try_into().unwrap();
        order.push(next.payload.clone());
        in_flight = next;
    }
    assert_eq!(order, [b"b", b"a", b"b"]);

    // An observer that is reset makes room for the other.
    let [last] = bench
        .hear(&Message::empty(Kind::Rst, in_flight.id))
        .try_into()
        .unwrap();
    assert_eq!(last.payload, b"a");
    assert_eq!(ack(&mut bench, &last), []);
}

#[test]
fn a_peer_observes_only_so_much() {
    let mut bench = Bench::new();
    for id in 0..16 {
        registered(&mut bench, id, &[id as u8]);
    }
    bench.hear(&register(99, b"more"));
    let (exchange, request, observation) = bench.delivered();

    assert_eq!((request.observe, observation), (false, None));
    assert_eq!(
        bench
            .answer(exchange, content("x").observing())
            .options
            .observe(),
        None
    );
}

#[test]
fn the_rest_of_a_large_notification_is_the_same_bytes_under_another_token() {
    let mut bench = Bench::new();
    let (observation, _) = registered(&mut bench, 1, b"t");
    let whole = body(2500, 3);
    bench
        .server
        .notify(NOW, observation, content(whole.clone()))
        .unwrap();
    let pushed = bench.one_sent();
    assert_eq!(pushed.payload, whole[..1024]);
    ack(&mut bench, &pushed);
    // Newer state does not pull the body away from under the client.
    assert_eq!(push(&mut bench, observation, "newer"), []);

    let mut got = pushed.payload.clone();
    for num in 1..3_u16 {
        let szx = Szx::MAX;
        let block = Block::new(u32::from(num), false, szx).unwrap().encode();
        let ask = with(
            con(Code::GET, 10 + num, b"other", "sync"),
            number::BLOCK2,
            block,
        );
        let mut parts = bench.hear(&ask);
        let part = parts.remove(0);
        assert_eq!(
            part.options.first(number::ETAG),
            pushed.options.first(number::ETAG)
        );
        got.extend(part.payload);
        let newer: Vec<_> = parts.into_iter().map(|message| message.payload).collect();
        assert_eq!(
            newer,
            if num == 2 {
                vec![b"newer".to_vec()]
            } else {
                vec![]
            }
        );
    }
    assert_eq!(got, whole);
}

#[test]
fn a_client_that_never_fetches_the_rest_gets_the_newer_state_after_a_while() {
    let mut bench = Bench::new();
    let (observation, _) = registered(&mut bench, 1, b"t");
    bench
        .server
        .notify(NOW, observation, content(body(2500, 3)))
        .unwrap();
    let pushed = bench.one_sent();
    ack(&mut bench, &pushed);
    assert_eq!(push(&mut bench, observation, "newer"), []);

    bench.wait_ms(20_000);

    assert_eq!(bench.one_sent().payload, b"newer");
}

#[test]
fn lb_defect_2_a_client_acknowledges_a_push_with_four_bytes() {
    let mut world = World::new(1, CALM, &["ana", "hub"]);
    let (_, observation) = watch(&mut world);
    world.sent.clear();
    let now = world.now;
    world
        .machine("hub")
        .notify(now, observation, content("x"))
        .unwrap();
    while world.next_event().is_some() {}

    let acks: Vec<_> = world
        .sent
        .iter()
        .filter(|(from, ..)| *from == "ana")
        .collect();
    assert_eq!(acks.len(), 1);
    assert_eq!((acks[0].2.len(), acks[0].2[0], acks[0].2[1]), (4, 0x60, 0));
}

/// Registers "ana" at "hub", whatever the weather.
fn watch(world: &mut World) -> (ExchangeId, ObservationId) {
    let now = world.now;
    world.machine("hub").mark_validated(now, &"ana");
    let asked = world.request("ana", "hub", Request::new(Code::GET, &["sync"]).observing());
    let mut registered = None;
    loop {
        match world.next_event().unwrap() {
            (
                "hub",
                Event::Request {
                    exchange,
                    observation,
                    ..
                },
            ) => {
                registered = observation;
                world.respond("hub", exchange, content(body(3000, 0)).observing());
            }
            (
                "ana",
                Event::Response {
                    exchange, response, ..
                },
            ) => {
                assert_eq!(exchange, asked);
                assert!(response.observing);
                assert_eq!(response.payload, body(3000, 0));
                return (asked, registered.unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn large_notifications_arrive_whole_and_in_order_in_a_storm() {
    let mut delivered = 0;
    for seed in 0..20 {
        let mut world = World::new(seed, CALM, &["ana", "hub"]);
        let (asked, observation) = watch(&mut world);
        world.weather = STORM;
        let mut newest = 0;
        for round in 1..=5_u8 {
            let now = world.now;
            // When four retransmissions are lost in a row the observation is over; so be it.
            if world
                .machine("hub")
                .notify(now, observation, content(body(5000, round)))
                .is_err()
            {
                break;
            }
            while let Some((name, event)) = world.next_event() {
                match event {
                    Event::Delivered { .. } | Event::ObserverGone { .. } => {}
                    Event::Notification { exchange, response } => {
                        assert_eq!((name, exchange), ("ana", asked));
                        assert_eq!(response.payload, body(5000, round), "seed {seed}");
                        assert!(round > newest);
                        newest = round;
                        delivered += 1;
                    }
                    Event::Failed { reason, .. } => assert_eq!(reason, FailReason::TimedOut),
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
        }
    }
    assert!(delivered > 60, "only {delivered} of 100");
}

#[test]
fn a_client_that_cancels_tells_the_server() {
    let mut world = World::new(1, CALM, &["ana", "hub"]);
    let (asked, observation) = watch(&mut world);
    let now = world.now;
    world.machine("ana").cancel(now, asked);

    let gone = Event::ObserverGone {
        observation,
        reason: GoneReason::Deregistered,
    };
    assert_eq!(world.next_event(), Some(("hub", gone)));
    let Some(("hub", Event::Request { exchange, .. })) = world.next_event() else {
        panic!("the deregistration is a request too");
    };
    world.respond("hub", exchange, content("x"));
    assert_eq!(world.next_event(), None);
    assert_eq!(world.machine("ana").client.sizes(), [0; 4]);
}

#[test]
fn an_observation_from_before_a_restart_is_taken_up_again() {
    let mut bench = Bench::new();
    let token = Token::new(b"t").unwrap();
    let request = Request::new(Code::GET, &["sync"]).observing();

    let observation = bench
        .server
        .restore_observation(&"ana", token, &request)
        .unwrap();
    bench.server.mark_validated(bench.now, &"ana");
    let [pushed] = push(&mut bench, observation, "x").try_into().unwrap();

    assert_eq!((pushed.kind, pushed.token), (Kind::Con, token));
}

#[test]
fn who_moves_is_answered_before_the_new_address_is_proved_and_not_more_than_threefold() {
    let mut bench = Bench::new();
    bench.server.peer_is_at(bench.now, &"ana", 1);
    bench.hear(&con(Code::POST, 1, b"t", "send"));
    let (exchange, _, _) = bench.delivered();

    let answer = bench.answer(exchange, content("ok"));
    bench.hear(&con(Code::POST, 2, b"u", "send"));
    let (exchange, _, _) = bench.delivered();
    let challenge = bench.answer(exchange, content("long ".repeat(40)));

    assert_eq!(answer.code, Code::CONTENT);
    assert_eq!(challenge.code, Code::UNAUTHORIZED);
    let echo = challenge.options.first(number::ECHO).unwrap().to_vec();
    let proof = with(con(Code::POST, 3, b"v", "send"), number::ECHO, echo.clone());
    bench.server.peer_is_at(bench.now, &"ana", 2);
    bench.hear(&proof);
    bench.delivered();
    assert!(bench.server.budget(&"ana") < 1000, "it was another address");
    bench.server.peer_is_at(bench.now, &"ana", 1);
    bench.hear(&with(con(Code::POST, 4, b"w", "send"), number::ECHO, echo));
    bench.delivered();
    assert_eq!(bench.server.budget(&"ana"), u64::MAX);
}
