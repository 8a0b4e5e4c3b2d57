//! Requests and their answers between two honest ends.

use proptest::{collection::vec, prelude::*};

use super::*;

#[test]
fn an_answer_without_a_number_costs_nothing_and_is_used_once() {
    let (mut client, mut server) = pair();
    let (mut sent, mut got) = delivered(&mut client, &mut server, &get());

    let first = server
        .protect_response(&mut got.binding, &content(b"1"), PivUse::Reuse)
        .unwrap();
    let second = server
        .protect_response(&mut got.binding, &content(b"2"), PivUse::Reuse)
        .unwrap();

    assert_eq!(first.options.first(number::OSCORE), Some(&[][..]));
    assert_eq!(second.options.first(number::OSCORE), Some(&[1, 0][..]));
    let taken = client.unprotect_response(&mut sent, &first).unwrap();
    assert_eq!(taken, content(b"1"));
    assert_eq!(
        client.unprotect_response(&mut sent, &second),
        Err(ResponseRefused::Answered)
    );
}

#[test]
fn an_answer_to_one_request_is_no_answer_to_another() {
    let (mut client, mut server) = pair();
    let (mut first, mut got) = delivered(&mut client, &mut server, &get());
    let (mut second, _) = delivered(&mut client, &mut server, &get());

    for piv_use in [PivUse::Reuse, PivUse::Own] {
        let answer = server
            .protect_response(&mut got.binding, &content(b"1"), piv_use)
            .unwrap();
        assert_eq!(
            client.unprotect_response(&mut second, &answer),
            Err(ResponseRefused::Decryption)
        );
        if piv_use == PivUse::Own {
            client.unprotect_response(&mut first, &answer).unwrap();
        }
    }
}

#[test]
fn only_whom_it_is_for_shows_outside() {
    let (mut client, mut server) = pair();
    let options = Options::new()
        .with(number::URI_HOST, "hub.example")
        .with(number::URI_PATH, "secret")
        .with(number::MAX_AGE, [9])
        .with(number::BLOCK1, [0x0e])
        .with(number::ECHO, [1, 2, 3])
        .with(number::REQUEST_TAG, [4])
        .with(65_003, "unknown");
    let request = message(Code::POST, options, b"body");

    let (outer, _) = client.protect_request(&request).unwrap();

    assert_eq!(outer.code, Code::POST);
    let shown: Vec<_> = outer.options.iter().map(|(number, _)| number).collect();
    assert_eq!(shown, [number::URI_HOST, number::OSCORE]);
    assert_eq!(server.unprotect_request(&outer).unwrap().message, request);
}

#[test]
fn the_outcome_does_not_show_outside() {
    let (mut client, mut server) = pair();
    let (mut sent, mut got) = delivered(&mut client, &mut server, &get());
    let response = message(
        Code::NOT_FOUND,
        Options::new().with_uint(number::MAX_AGE, 60),
        b"no",
    );

    let outer = server
        .protect_response(&mut got.binding, &response, PivUse::Reuse)
        .unwrap();

    assert_eq!(outer.code, Code::CHANGED);
    assert_eq!(outer.options.len(), 1);
    let read = client.unprotect_response(&mut sent, &outer).unwrap();
    assert_eq!(read, response);
}

#[test]
fn requests_that_overtake_each_other_are_taken_and_only_the_newest_may_move_the_address() {
    let (mut client, mut server) = pair();
    let (first, _) = client.protect_request(&get()).unwrap();
    let (second, _) = client.protect_request(&get()).unwrap();

    let late = server.unprotect_request(&second).unwrap();
    let early = server.unprotect_request(&first).unwrap();

    assert_eq!(late.freshness, Freshness::Newest);
    assert_eq!(early.freshness, Freshness::Late);
}

#[test]
fn what_must_not_be_protected_is_refused_before_a_number_is_spent() {
    let (mut client, mut server) = pair();
    let mut nested = get();
    nested.options.push(number::OSCORE, []);
    let mut proxied = get();
    proxied
        .options
        .push(number::PROXY_URI, "coap://hub.example/secret");
    let mut huge = get();
    huge.payload = vec![0; 3000];
    let (mut sent, got) = delivered(&mut client, &mut server, &get());
    let before = client.sequence();

    assert_eq!(
        client.protect_request(&nested).unwrap_err(),
        ProtectError::Nested
    );
    assert_eq!(
        client.protect_request(&proxied).unwrap_err(),
        ProtectError::ProxyUri
    );
    assert!(matches!(
        client.protect_request(&huge),
        Err(ProtectError::Encode(_))
    ));
    assert_eq!(
        client.protect_request(&content(b"")).unwrap_err(),
        ProtectError::Code(Code::CONTENT)
    );
    assert_eq!(
        server.protect_response(&mut sent, &get(), PivUse::Own),
        Err(ProtectError::Code(Code::GET))
    );
    // The client's context does not answer its own request.
    assert!(matches!(
        client.protect_response(&mut sent, &content(b""), PivUse::Own),
        Err(ProtectError::OtherContext(_))
    ));
    assert_eq!(client.sequence(), before);
    assert_eq!(got.binding.context(), server.id());
}

/// DESIGN's budget counts with these: kid 2 and number 2 bytes up, nothing down.
#[test]
fn a_request_costs_sixteen_bytes_more_and_an_answer_eleven() {
    let (_, mut server) = pair();
    let sequence = Sequence::resumed(256);
    let client = SecurityContext::with_state(&client_parameters(), sequence, Window::Empty);
    let mut client = ready(client.unwrap());
    let length = |message: &Message| message.encode().unwrap().len();

    let (outer, _) = client.protect_request(&get()).unwrap();
    let mut got = server.unprotect_request(&outer).unwrap();
    let answer = server
        .protect_response(&mut got.binding, &content(b"1"), PivUse::Reuse)
        .unwrap();

    // The option 1 + 1 + 2 + 2, a marker outside 1, the code inside 1, the tag 8.
    assert_eq!(length(&outer), length(&get()) + 16);
    // The option 1, and the same.
    assert_eq!(length(&answer), length(&content(b"1")) + 11);
}

fn any_options(numbers: &'static [u16]) -> impl Strategy<Value = Options> {
    let known = proptest::sample::select(numbers);
    let number = prop_oneof![3 => known, 1 => 300..=u16::MAX];
    vec((number, vec(any::<u8>(), 0..20)), 0..12).prop_map(|all| {
        let mut options = Options::new();
        for (number, value) in all {
            options.push(number, value);
        }
        options
    })
}

const IN_REQUESTS: &[u16] = &[
    1, 3, 4, 5, 6, 7, 11, 12, 15, 16, 17, 23, 27, 28, 39, 60, 252, 258, 292,
];
const IN_ANSWERS: &[u16] = &[4, 8, 12, 14, 20, 23, 27, 28, 60, 252];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_request_and_answer_come_out_as_they_went_in(
        method in 1..=31_u8,
        asked in any_options(IN_REQUESTS),
        body in vec(any::<u8>(), 0..100),
        outcome in 0x40..=0xbf_u8,
        answered in any_options(IN_ANSWERS),
        content in vec(any::<u8>(), 0..100),
        own: bool,
    ) {
        let (mut client, mut server) = pair();
        let request = message(Code(method), asked, &body);
        let response = message(Code(outcome), answered, &content);

        let (mut sent, mut got) = delivered(&mut client, &mut server, &request);
        let piv_use = if own { PivUse::Own } else { PivUse::Reuse };
        let outer = server.protect_response(&mut got.binding, &response, piv_use).unwrap();
        let read = client.unprotect_response(&mut sent, &over_the_wire(&outer)).unwrap();

        prop_assert_eq!(got.message, request);
        prop_assert_eq!(read, response);
    }
}
