//! Observations: several answers to one request, each newer than the one before.

use super::*;

fn notify(server: &mut SecurityContext, got: &mut Unprotected, order: u32) -> Message {
    let state = notification(order, b"state");
    let outer = server.protect_response(&mut got.binding, &state, PivUse::Reuse);
    over_the_wire(&outer.unwrap())
}

#[test]
fn the_first_may_come_without_a_number_and_the_others_have_growing_ones() {
    let (mut client, mut server) = pair();
    let (mut sent, mut got) = delivered(&mut client, &mut server, &registration());

    let outer: Vec<_> = (5..8)
        .map(|order| notify(&mut server, &mut got, order))
        .collect();

    let options = outer.iter().map(|one| one.options.first(number::OSCORE));
    assert_eq!(
        options.collect::<Option<Vec<_>>>().unwrap(),
        [&[][..], &[1, 0], &[1, 1]]
    );
    for (at, one) in outer.iter().enumerate() {
        assert_eq!(one.code, Code::CONTENT);
        assert_eq!(one.options.first(number::OBSERVE), Some(&[][..]));
        let read = client.unprotect_response(&mut sent, one).unwrap();
        // Whatever stands there grows by one each time.
        assert_eq!(read.options.observe(), u32::try_from(at + 1).ok());
    }
}

#[test]
fn a_registration_shows_observe_and_fetch_outside_and_a_cancellation_its_one() {
    let (mut client, mut server) = pair();
    let mut cancellation = get();
    cancellation.options.push_uint(number::OBSERVE, 1);

    let (outer, binding) = client.protect_request(&registration()).unwrap();
    assert_eq!(outer.code, Code::FETCH);
    assert_eq!(outer.options.first(number::OBSERVE), Some(&[][..]));
    assert!(binding.observes());
    let got = server.unprotect_request(&outer).unwrap();
    assert_eq!(got.message, registration());
    assert!(got.binding.observes());

    let (outer, binding) = client.protect_request(&cancellation).unwrap();
    assert_eq!(outer.options.first(number::OBSERVE), Some(&[1][..]));
    assert!(!binding.observes());
    assert_eq!(
        server.unprotect_request(&outer).unwrap().message,
        cancellation
    );
}

#[test]
fn observe_outside_neither_makes_nor_unmakes_a_registration() {
    let (mut client, mut server) = pair();
    let (mut stripped, _) = client.protect_request(&registration()).unwrap();
    stripped.options.remove(number::OBSERVE);
    let (mut added, _) = client.protect_request(&get()).unwrap();
    added.options.push(number::OBSERVE, []);

    assert_eq!(
        server.unprotect_request(&stripped).unwrap().message,
        registration()
    );
    let got = server.unprotect_request(&added).unwrap();
    assert_eq!(got.message, get());
    assert!(!got.binding.observes());
}

#[test]
fn an_overtaken_or_repeated_notification_is_refused_and_ends_nothing() {
    let (mut client, mut server) = pair();
    let (mut sent, mut got) = delivered(&mut client, &mut server, &registration());
    let outer: Vec<_> = (0..4)
        .map(|order| notify(&mut server, &mut got, order))
        .collect();
    let [first, second, third, fourth] = outer.as_slice() else {
        panic!("four were made");
    };

    client.unprotect_response(&mut sent, second).unwrap();
    client.unprotect_response(&mut sent, third).unwrap();
    let stale = ResponseRefused::Stale {
        piv: Piv::new(0),
        newest: piv(1),
    };
    assert_eq!(client.unprotect_response(&mut sent, second), Err(stale));
    // The one without a number came late: the request's nonce is of no use any more.
    assert_eq!(
        client.unprotect_response(&mut sent, first),
        Err(ResponseRefused::NonceSpent)
    );
    client.unprotect_response(&mut sent, fourth).unwrap();
}

#[test]
fn an_error_ends_the_observation_for_the_client() {
    let (mut client, mut server) = pair();
    let (mut sent, mut got) = delivered(&mut client, &mut server, &registration());
    let first = notify(&mut server, &mut got, 0);
    let gone = message(Code::NOT_FOUND, Options::new(), b"");
    let last = server
        .protect_response(&mut got.binding, &gone, PivUse::Reuse)
        .unwrap();
    let after = notify(&mut server, &mut got, 1);

    client.unprotect_response(&mut sent, &first).unwrap();
    assert_eq!(last.code, Code::CHANGED);
    assert_eq!(last.options.first(number::OSCORE), Some(&[1, 0][..]));
    let read = client.unprotect_response(&mut sent, &last).unwrap();
    assert_eq!(read, gone);
    assert_eq!(
        client.unprotect_response(&mut sent, &after),
        Err(ResponseRefused::Answered)
    );
}

#[test]
fn a_notification_nobody_asked_for_is_neither_made_nor_taken() {
    let (mut client, mut server) = pair();
    let (mut sent, mut got) = delivered(&mut client, &mut server, &get());

    assert_eq!(
        server.protect_response(&mut got.binding, &notification(1, b""), PivUse::Own),
        Err(ProtectError::NotObserved)
    );
    got.binding.observes = true;
    let forged = notify(&mut server, &mut got, 1);
    assert_eq!(
        client.unprotect_response(&mut sent, &forged),
        Err(ResponseRefused::NotObserved)
    );
}

#[test]
fn clients_that_order_by_the_outer_observe_get_one() {
    let (mut client, server) = pair();
    let mut server = server.observe_outside(OuterObserve::Counted);
    let (mut sent, mut got) = delivered(&mut client, &mut server, &registration());

    let outer = notify(&mut server, &mut got, 0x0102);

    assert_eq!(outer.options.observe(), Some(0x0102));
    let read = client.unprotect_response(&mut sent, &outer).unwrap();
    assert_eq!(read.options.observe(), Some(1));
}
