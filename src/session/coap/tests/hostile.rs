//! Bytes nobody would send in earnest, and very many of them.

use proptest::{collection::vec, prelude::*};
use rand::RngCore as _;

use super::*;

/// Everything a machine holds on to.
fn held(machine: &Machine<u32>) -> usize {
    let server: usize = machine.server.sizes().iter().sum();
    let client: usize = machine.client.sizes().iter().sum();
    let seen = machine.seen.len() + machine.seen_unvalidated.len();
    server + client + seen + machine.flights.len() + machine.peers.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_the_machine_panic(
        datagrams in vec((0..3_u32, vec(any::<u8>(), 0..60), 0..4_u8), 1..60),
    ) {
        let mut machine = Machine::new(config(), Box::new(StdRng::seed_from_u64(1)));
        machine.mark_validated(NOW, &0);
        let mut now = NOW;
        let asked = machine.request(now, 2, Request::new(Code::GET, &["a"]).observing());
        for (peer, mut bytes, shape) in datagrams {
            // Half-right headers get further than noise.
            if let (Some(first), 1..) = (bytes.first_mut(), shape) {
                *first = 0x40 | *first & 0x33;
            }
            if let (Some(code), 2..) = (bytes.get_mut(1), shape) {
                *code &= 0x47;
            }
            machine.handle_datagram(now, peer, &bytes);
            now = Timestamp(now.0 + 777);
            machine.handle_timeout(now);
            while let Some(event) = machine.poll_event() {
                if let Event::Request { exchange, observation, .. } = event {
                    let large = content(body(3000, 1)).observing();
                    let _ = machine.respond(now, exchange, large.clone());
                    if let Some(observation) = observation {
                        let _ = machine.notify(now, observation, large);
                    }
                }
            }
            while machine.poll_transmit().is_some() {}
        }
        machine.cancel(now, asked);
    }
}

#[test]
fn a_flood_from_many_addresses_is_held_in_bounds_and_forgotten() {
    let mut machine = Machine::new(config(), Box::new(StdRng::seed_from_u64(1)));
    let mut rng = StdRng::seed_from_u64(2);
    let mut now = NOW;
    for nth in 0..100_000_u32 {
        now = Timestamp(NOW.0 + u64::from(nth) / 100);
        let mut get = con(Code::GET, nth as u16, b"", "a");
        get.options
            .push(number::URI_QUERY, rng.next_u32().to_string());
        machine.handle_datagram(now, nth, &get.encode().unwrap());
        while machine.poll_transmit().is_some() {}
        while machine.poll_event().is_some() {}
    }

    let [open, ..] = machine.server.sizes();
    assert_eq!(
        open,
        config::EXCHANGES_UNVALIDATED_MAX,
        "nobody answers them"
    );
    assert_eq!(machine.seen_unvalidated.len(), config::SEEN_UNVALIDATED_MAX);
    assert_eq!(machine.seen.len(), 0);
    assert!(machine.peers.len() <= config::PEERS_UNVALIDATED_MAX);
    machine.handle_timeout(Timestamp(now.0 + 10_000_000));
    while machine.poll_transmit().is_some() {}
    assert!(held(&machine) <= config::PEERS_UNVALIDATED_MAX);
}

#[test]
fn one_peer_cannot_make_the_machine_hold_much() {
    let mut machine = Machine::new(config(), Box::new(StdRng::seed_from_u64(1)));
    machine.mark_validated(NOW, &1);
    for nth in 0..20_000_u32 {
        let path = (nth % 5000).to_string();
        let mut message = con(Code::PUT, nth as u16, &nth.to_be_bytes(), &path);
        if nth % 2 == 0 {
            message.options.push(number::BLOCK1, [0x0e]);
            message.payload = vec![0; 1024];
        } else {
            message.code = Code::GET;
            message.options.push(number::OBSERVE, []);
        }
        machine.handle_datagram(NOW, 1, &message.encode().unwrap());
        while let Some(event) = machine.poll_event() {
            if let Event::Request { exchange, .. } = event {
                let large = content(body(3000, 1)).observing();
                machine.respond(NOW, exchange, large).unwrap();
            }
        }
        while machine.poll_transmit().is_some() {}
    }

    let [open, uploads, upload_bytes, kept, kept_bytes, observations] = machine.server.sizes();
    assert_eq!((open, uploads, upload_bytes), (0, 4, 4 * 1024));
    assert_eq!((kept, kept_bytes, observations), (16, 16 * 3000, 16));
    assert_eq!(machine.seen.len(), config::SEEN_PER_PEER_MAX);
}

#[test]
fn a_spoofed_address_never_gets_more_than_three_times_what_it_sent() {
    for seed in 0..20 {
        let mut machine = Machine::new(config(), Box::new(StdRng::seed_from_u64(seed)));
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut received, mut sent) = (0, 0);
        let mut now = NOW;
        for id in 0..50 {
            let code = Code((rng.next_u32() % 7) as u8);
            let mut message = con(code, id, &[1; 8][..rng.next_u32() as usize % 9], "a");
            if code == Code::EMPTY {
                message = Message::empty(Kind::Con, id);
            } else if rng.next_u32() % 3 == 0 {
                message.options.push(number::OBSERVE, []);
            }
            let bytes = message.encode().unwrap();
            received += bytes.len();
            machine.handle_datagram(now, 5, &bytes);
            now = Timestamp(now.0 + u64::from(rng.next_u32() % 5000));
            machine.handle_timeout(now);
            while let Some(event) = machine.poll_event() {
                if let Event::Request { exchange, .. } = event {
                    let bytes = rng.next_u32() as usize % 100;
                    let _ = machine.respond(now, exchange, content(vec![0; bytes]).observing());
                }
            }
            while let Some((_, bytes)) = machine.poll_transmit() {
                sent += bytes.len();
            }
            assert!(sent <= 3 * received, "seed {seed}: {sent} for {received}");
        }
    }
}
