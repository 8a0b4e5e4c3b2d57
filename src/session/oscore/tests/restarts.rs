//! State lost and found again: no nonce twice, no request twice.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;

fn restarted(ceiling: u64) -> SecurityContext {
    ready(SecurityContext::resumed(&server_parameters(), ceiling).unwrap())
}

fn challenge() -> Message {
    message(
        Code::UNAUTHORIZED,
        Options::new().with(number::ECHO, [1; 8]),
        b"",
    )
}

#[test]
fn after_a_restart_a_request_is_in_doubt_and_is_answered_under_an_own_number() {
    let (mut client, _) = pair();
    let mut server = restarted(64);
    let (mut sent, mut got) = delivered(&mut client, &mut server, &get());

    assert_eq!(got.freshness, Freshness::Unverified);
    let outer = server
        .protect_response(&mut got.binding, &challenge(), PivUse::Reuse)
        .unwrap();

    assert_eq!(outer.options.first(number::OSCORE), Some(&[1, 64][..]));
    let read = client.unprotect_response(&mut sent, &outer).unwrap();
    assert_eq!(read, challenge());
}

#[test]
fn only_a_request_shown_to_be_fresh_ends_the_doubt_and_all_before_it_are_replays() {
    let (mut client, mut before) = pair();
    let (old, _) = client.protect_request(&get()).unwrap();
    before.unprotect_request(&old).unwrap();
    let mut server = restarted(64);

    let mut replayed = server.unprotect_request(&old).unwrap();
    assert_eq!(replayed.freshness, Freshness::Unverified);
    assert!(server.is_uncertain());

    let (echoed, _) = client.protect_request(&get()).unwrap();
    let mut fresh = server.unprotect_request(&echoed).unwrap();
    let mut twice = server.unprotect_request(&echoed).unwrap();
    server.confirm_fresh(&mut fresh).unwrap();

    assert_eq!(fresh.freshness, Freshness::Newest);
    assert!(!server.is_uncertain());
    assert!(server.confirm_fresh(&mut twice).is_err());
    assert!(server.confirm_fresh(&mut replayed).is_err());
    for seen in [&old, &echoed] {
        assert!(matches!(
            server.unprotect_request(seen),
            Err(Refused::Replay(_))
        ));
    }
    // What was not in doubt is not asked again.
    server.confirm_fresh(&mut fresh).unwrap();
}

#[test]
fn a_window_kept_over_a_clean_stop_leaves_no_doubt() {
    let (mut client, mut server) = pair();
    let (request, _) = client.protect_request(&get()).unwrap();
    server.unprotect_request(&request).unwrap();

    let sequence = Sequence::resumed(64);
    let mut server =
        SecurityContext::with_state(&server_parameters(), sequence, server.window()).unwrap();

    assert!(matches!(
        server.unprotect_request(&request),
        Err(Refused::Replay(_))
    ));
}

#[test]
fn an_observation_outlives_a_restart_of_the_hub() {
    let (mut client, mut server) = pair();
    let (mut sent, mut got) = delivered(&mut client, &mut server, &registration());
    let first = server
        .protect_response(&mut got.binding, &notification(1, b"1"), PivUse::Reuse)
        .unwrap();
    client.unprotect_response(&mut sent, &first).unwrap();
    let kept = got.binding.to_bytes();

    let mut server = restarted(1 << 20);
    let mut binding = RequestBinding::from_bytes(&kept).unwrap();
    assert_eq!(binding.context(), server.id());
    let later = server
        .protect_response(&mut binding, &notification(2, b"2"), PivUse::Reuse)
        .unwrap();

    let read = client.unprotect_response(&mut sent, &later).unwrap();
    assert_eq!(read.payload, b"2");
}

#[test]
fn nothing_is_protected_before_its_number_is_reserved() {
    let mut client = SecurityContext::new(&client_parameters()).unwrap();

    let refused = client.protect_request(&get()).unwrap_err();
    assert_eq!(
        refused,
        ProtectError::Sequence(SequenceError::NotReserved(0))
    );
    let ceiling = client.reserve_wanted(RESERVE_CLIENT).unwrap();
    client.reserved(ceiling);
    assert!(client.protect_request(&get()).is_ok());
}

#[test]
fn each_life_that_sent_something_has_its_own_mark() {
    let mut ceiling = 0;
    let mut marks = BTreeSet::new();
    for _ in 0..5 {
        let mut server = SecurityContext::resumed(&server_parameters(), ceiling).unwrap();
        ceiling = server.reserve_wanted(RESERVE_HUB).unwrap();
        server.reserved(ceiling);
        assert!(marks.insert(server.incarnation()));
    }
}

/// The nonce a message was sealed with, by the end that made the number and the number.
fn nonce_of(answer: &Message, request: Piv) -> (&'static str, Piv) {
    let value = answer.options.first(number::OSCORE).unwrap();
    match OscoreOption::decode(value).unwrap().piv {
        Some(own) => ("server", own),
        None => ("client", request),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Old requests are replayed at will, the hub crashes at will, and answers whatever it may.
    #[test]
    fn the_hub_never_uses_a_nonce_twice(steps in vec((0..6_u8, any::<prop::sample::Index>()), 1..120)) {
        let (mut client, mut server) = pair();
        let mut stored = 0;
        server = SecurityContext::with_state(
            &server_parameters(),
            Sequence::resumed(stored),
            server.window(),
        ).unwrap();
        let mut sent = vec![client.protect_request(&registration()).unwrap().0];
        let mut nonces = BTreeSet::new();
        for (step, which) in steps {
            if let Some(ceiling) = server.reserve_wanted(8) {
                stored = ceiling;
                server.reserved(ceiling);
            }
            match step {
                0 => server = SecurityContext::resumed(&server_parameters(), stored).unwrap(),
                1 => sent.push(client.protect_request(&registration()).unwrap().0),
                _ => {
                    let request = which.get(&sent);
                    let Ok(mut got) = server.unprotect_request(request) else { continue };
                    // Echo: only the newest of the client's requests can be fresh.
                    if step == 2 && Some(request) == sent.last() {
                        let _ = server.confirm_fresh(&mut got);
                    }
                    for answer in 0..step {
                        let state = notification(u32::from(answer), b"state");
                        let answer = server.protect_response(&mut got.binding, &state, PivUse::Reuse);
                        if let Ok(answer) = answer {
                            prop_assert!(nonces.insert(nonce_of(&answer, got.binding.piv())));
                        }
                    }
                }
            }
        }
    }
}
