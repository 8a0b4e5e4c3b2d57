//! What a server sends for what it hears.

use super::*;
use crate::wire::coap::{Block, Szx};

fn block(num: u32, more: bool, szx: u8) -> Vec<u8> {
    Block::new(num, more, Szx::new(szx).unwrap())
        .unwrap()
        .encode()
}

#[test]
fn a_quick_answer_rides_on_the_acknowledgement() {
    let mut bench = Bench::new();

    let answer = bench.ask(&con(Code::GET, 7, b"tk", "a"), content("hi"));

    assert_eq!(
        (answer.kind, answer.id, answer.code),
        (Kind::Ack, 7, Code::CONTENT)
    );
    assert_eq!(
        (answer.token.as_bytes(), answer.payload.as_slice()),
        (&b"tk"[..], &b"hi"[..])
    );
}

#[test]
fn lb_defect_3_a_late_answer_is_confirmable_and_repeated_until_acknowledged() {
    let mut bench = Bench::new();
    bench.hear(&con(Code::GET, 7, b"tk", "a"));
    let (exchange, ..) = bench.delivered();

    bench.wait_ms(1000);
    let ack = bench.one_sent();
    assert_eq!(ack, Message::empty(Kind::Ack, 7));
    let answer = bench.answer(exchange, content("late"));
    assert_eq!(
        (answer.kind, answer.token.as_bytes()),
        (Kind::Con, &b"tk"[..])
    );
    bench.wait_ms(3000);
    assert_eq!(bench.one_sent(), answer, "nobody acknowledged it");
    assert_eq!(bench.hear(&Message::empty(Kind::Ack, answer.id)), []);
    bench.wait_ms(100_000);
    assert_eq!(bench.sent(), []);
    let [open, ..] = bench.server.server.sizes();
    assert_eq!(open, 0);
}

#[test]
fn a_duplicate_gets_the_same_bytes_and_is_delivered_once() {
    let mut bench = Bench::new();
    let request = con(Code::POST, 7, b"tk", "a");
    let answer = bench.ask(&request, Response::new(Code::CHANGED));

    for _ in 0..5 {
        assert_eq!(bench.hear(&request), std::slice::from_ref(&answer));
    }
    assert_eq!(bench.server.poll_event(), None);
    bench.wait_ms(247_000);
    assert_eq!(bench.hear(&request), [], "a new request by now");
    bench.delivered();
}

#[test]
fn a_duplicate_that_comes_before_the_answer_is_ignored() {
    let mut bench = Bench::new();
    let request = con(Code::POST, 7, b"tk", "a");
    bench.hear(&request);
    let (exchange, ..) = bench.delivered();

    assert_eq!(bench.hear(&request), []);
    assert_eq!(bench.server.poll_event(), None);
    bench.answer(exchange, Response::new(Code::CHANGED));
}

#[test]
fn a_non_confirmable_request_gets_one_non_confirmable_answer() {
    let mut bench = Bench::new();
    let mut request = con(Code::GET, 7, b"tk", "a");
    request.kind = Kind::Non;

    let answer = bench.ask(&request, content("hi"));

    assert_eq!(
        (answer.kind, answer.payload.as_slice()),
        (Kind::Non, &b"hi"[..])
    );
    assert_eq!(bench.hear(&request), []);
    assert_eq!(bench.server.poll_event(), None);
}

#[test]
fn a_ping_a_reserved_code_and_an_unexpected_response_are_reset() {
    let mut bench = Bench::new();
    let ping = Message::empty(Kind::Con, 9);
    let mut reserved = con(Code(0xe1), 10, b"", "a");
    let mut response = con(Code::CONTENT, 11, b"??", "a");
    response.options = Options::new();

    assert_eq!(bench.hear(&ping), [Message::empty(Kind::Rst, 9)]);
    assert_eq!(bench.hear(&reserved), [Message::empty(Kind::Rst, 10)]);
    assert_eq!(bench.hear(&response), [Message::empty(Kind::Rst, 11)]);
    reserved.kind = Kind::Non;
    reserved.id = 12;
    assert_eq!(bench.hear(&reserved), []);
    response.kind = Kind::Ack;
    assert_eq!(bench.hear(&response), []);
}

#[test]
fn a_broken_confirmable_message_is_reset_and_other_breakage_ignored() {
    let mut bench = Bench::new();
    for (bytes, answers) in [
        (&b"\x40\x01\x00\x05\xff"[..], 1),
        (b"\x50\x01\x00\x05\xff", 0),
        (b"\x40", 0),
        (b"", 0),
    ] {
        bench.server.handle_datagram(NOW, "ana", bytes);
        assert_eq!(bench.sent().len(), answers, "{bytes:?}");
    }
}

#[test]
fn an_unknown_critical_option_is_a_bad_option_with_its_number() {
    let mut bench = Bench::new();
    let mut request = with(con(Code::GET, 7, b"tk", "a"), 65_003, "x");

    let [answer] = bench.hear(&request).try_into().unwrap();
    assert_eq!(answer.code, Code::BAD_OPTION);
    assert!(String::from_utf8(answer.payload).unwrap().contains("65003"));
    request.kind = Kind::Non;
    request.id = 8;
    assert_eq!(bench.hear(&request), []);
    assert_eq!(bench.server.poll_event(), None);
}

#[test]
fn a_reserved_block_size_is_a_bad_request_and_a_proxy_request_refused() {
    let mut bench = Bench::new();

    let odd = bench.hear(&with(con(Code::GET, 7, b"", "a"), number::BLOCK2, [7]));
    let proxy = bench.hear(&with(
        con(Code::GET, 8, b"", "a"),
        number::PROXY_URI,
        "coap://x",
    ));

    assert_eq!(odd[0].code, Code::BAD_REQUEST);
    assert_eq!(proxy[0].code, Code::PROXYING_NOT_SUPPORTED);
}

#[test]
fn lb_defect_4_a_rate_limit_says_when_to_come_back() {
    let mut bench = Bench::new();

    let answer = bench.ask(&con(Code::PUT, 7, b"", "a"), Response::too_many_requests(2));

    assert_eq!(
        (answer.code.to_string().as_str(), answer.options.max_age()),
        ("4.29", Some(2))
    );
}

#[test]
fn a_request_body_is_gathered_block_by_block() {
    let mut bench = Bench::new();
    let part = |id, num, more, bytes: &[u8]| {
        let mut message = with(
            con(Code::PUT, id, b"t", "a"),
            number::BLOCK1,
            block(num, more, 0),
        );
        message.payload = bytes.to_vec();
        message
    };

    let first = bench.hear(&part(1, 0, true, &[1; 16]));
    assert_eq!(first[0].code, Code::CONTINUE);
    assert_eq!(
        first[0]
            .options
            .block(number::BLOCK1)
            .unwrap()
            .unwrap()
            .encode(),
        [0x08]
    );
    let gap = bench.hear(&part(2, 2, false, &[3; 1]));
    assert_eq!(gap[0].code, Code::INCOMPLETE);
    bench.hear(&part(3, 1, true, &[2; 16]));
    assert_eq!(bench.server.poll_event(), None);
    let answer = bench.hear(&part(4, 2, false, &[3; 1]));
    assert_eq!(answer, []);
    let (exchange, request, _) = bench.delivered();
    assert_eq!(
        request.payload,
        [vec![1; 16], vec![2; 16], vec![3]].concat()
    );
    assert!(!request.options.has(number::BLOCK1));
    let answer = bench.answer(exchange, Response::new(Code::CHANGED));
    assert_eq!(
        answer.options.block(number::BLOCK1).unwrap().unwrap().num(),
        2
    );
}

#[test]
fn a_body_of_another_format_is_another_body() {
    let mut bench = Bench::new();
    for (id, format, num) in [(1, 60, 0), (2, 50, 1)] {
        let mut message = con(Code::PUT, id, b"t", "a");
        message
            .options
            .push(number::BLOCK1, block(num, num == 0, 0));
        message.options.push_uint(number::CONTENT_FORMAT, format);
        message.payload = vec![0; 16];
        let answer = bench.hear(&message);
        let expected = if num == 0 {
            Code::CONTINUE
        } else {
            Code::INCOMPLETE
        };
        assert_eq!(answer[0].code, expected);
    }
}

#[test]
fn a_body_above_the_ceiling_is_refused_with_the_ceiling() {
    let mut bench = Bench::with(Config {
        request_bytes_max: 40,
        ..config()
    });
    let mut stated = with(
        con(Code::PUT, 1, b"t", "a"),
        number::BLOCK1,
        block(0, true, 0),
    );
    stated.payload = vec![0; 16];
    let mut grown = stated.clone();
    stated.options.push_uint(number::SIZE1, 41);

    let refused = bench.hear(&stated);
    assert_eq!(
        (refused[0].code, refused[0].options.uint(number::SIZE1)),
        (Code::TOO_LARGE, Some(40))
    );
    grown.id = 2;
    bench.hear(&grown);
    for (id, num) in [(3, 1), (4, 2)] {
        let mut next = with(
            con(Code::PUT, id, b"t", "a"),
            number::BLOCK1,
            block(num, true, 0),
        );
        next.payload = vec![0; 16];
        let answer = bench.hear(&next);
        assert_eq!(
            answer[0].code,
            if num == 1 {
                Code::CONTINUE
            } else {
                Code::TOO_LARGE
            }
        );
    }
}

#[test]
fn a_request_too_long_for_a_datagram_is_told_to_come_in_blocks() {
    let mut bench = Bench::new();
    let mut long = vec![0x42, 2, 0, 9, b't', b'k', 0xff];
    long.extend([0; 3000]);
    for kind in [Kind::Con, Kind::Non, Kind::Con] {
        long[0] = if kind == Kind::Con { 0x42 } else { 0x52 };
        long[3] = long[3].wrapping_add(u8::from(kind == Kind::Non));
        bench.server.handle_datagram(NOW, "ana", &long);
        let answer = bench.one_sent();
        assert_eq!(answer.code, Code::TOO_LARGE);
        assert_eq!(answer.token, Token::new(b"tk").unwrap());
        let bytes_max = u32::try_from(config().request_bytes_max).unwrap();
        assert_eq!(answer.options.uint(number::SIZE1), Some(bytes_max));
        let hint = answer.options.first(number::BLOCK1).unwrap();
        assert_eq!(hint.last().unwrap() & 7, config().szx.exponent());
        if kind == Kind::Con {
            bench.server.handle_datagram(NOW, "ana", &long);
            assert_eq!(bench.one_sent(), answer, "a copy gets the same answer");
        }
        long[3] += 1;
    }
    assert_eq!(bench.server.poll_event(), None);
}

#[test]
fn what_is_too_long_and_no_request_is_reset_or_ignored() {
    let mut bench = Bench::new();
    for (first, code, answers) in [
        (0x40, 0x45, 1),
        (0x50, 0x45, 0),
        (0x60, 0x45, 0),
        (0x4f, 2, 1),
    ] {
        let mut long = vec![first, code, 0, first];
        long.extend([0; 3000]);
        bench.server.handle_datagram(NOW, "ana", &long);
        let sent = bench.sent();
        assert_eq!(sent.len(), answers, "{first:x} {code:x}");
        assert!(sent.iter().all(|answer| answer.kind == Kind::Rst));
    }
}

#[test]
fn a_large_answer_is_served_in_blocks_no_larger_than_asked() {
    let mut bench = Bench::new();
    let whole = body(100, 0);
    let ask = with(
        con(Code::GET, 1, b"t1", "a"),
        number::BLOCK2,
        block(0, false, 1),
    );
    let ask = with(ask, number::SIZE2, []);

    let first = bench.ask(&ask, content(whole.clone()));
    let etag = first.options.first(number::ETAG).unwrap().to_vec();
    assert_eq!(
        first.options.first(number::BLOCK2).unwrap(),
        block(0, true, 1)
    );
    assert_eq!(first.options.uint(number::SIZE2), Some(100));
    let mut got = first.payload;
    for num in 1..4 {
        let next = with(
            con(Code::GET, 1 + num, b"t2", "a"),
            number::BLOCK2,
            block(u32::from(num), false, 1),
        );
        let [part] = bench.hear(&next).try_into().unwrap();
        assert_eq!(part.options.first(number::ETAG).unwrap(), etag);
        assert_eq!(part.options.content_format(), Some(60));
        got.extend(part.payload);
    }
    assert_eq!(got, whole);
    let past = with(
        con(Code::GET, 9, b"t2", "a"),
        number::BLOCK2,
        block(4, false, 1),
    );
    assert_eq!(bench.hear(&past)[0].code, Code::BAD_REQUEST);
    assert_eq!(bench.server.poll_event(), None);
}

/// lb keyed on address and path, and answered any request there with what was pushed last.
#[test]
fn lb_defect_11_a_later_block_is_of_the_body_that_was_asked() {
    let mut bench = Bench::new();
    let query = |id, since: &str, num| {
        let message = with(con(Code::GET, id, b"t", "sync"), number::URI_QUERY, since);
        with(message, number::BLOCK2, block(num, false, 6))
    };
    bench.ask(&query(1, "since=1", 0), content(body(2000, 1)));
    bench.ask(&query(2, "since=2", 0), content(body(2000, 2)));

    assert_eq!(
        bench.hear(&query(3, "since=1", 1))[0].payload,
        body(2000, 1)[1024..]
    );
    assert_eq!(
        bench.hear(&query(4, "since=2", 1))[0].payload,
        body(2000, 2)[1024..]
    );
    assert_eq!(
        bench.hear(&query(5, "since=3", 1))[0].code,
        Code::INCOMPLETE
    );
    bench.server.mark_validated(NOW, &"bob");
    let of_bob = bench.hear_from("bob", &query(6, "since=1", 1));
    assert_eq!(of_bob[0].code, Code::INCOMPLETE);
    // A small answer to the same request drops the large one.
    bench.ask(&query(7, "since=1", 0), content("small"));
    assert_eq!(
        bench.hear(&query(8, "since=1", 1))[0].code,
        Code::INCOMPLETE
    );
}

#[test]
fn lb_defect_8_two_access_tokens_never_share_blocks() {
    let mut bench = Bench::new();
    let get = |id, token: &str, num| {
        let message = with(
            con(Code::GET, id, b"t", "sync"),
            number::ACCESS_TOKEN,
            token,
        );
        with(message, number::BLOCK2, block(num, false, 6))
    };
    bench.ask(&get(1, "ana's", 0), content(body(2000, 1)));

    assert_eq!(bench.hear(&get(2, "bob's", 1))[0].code, Code::INCOMPLETE);
    assert_eq!(bench.hear(&get(3, "ana's", 1))[0].code, Code::CONTENT);
}

#[test]
fn an_unproved_address_is_challenged_before_anything_is_done() {
    let mut bench = Bench::new();
    let post = con(Code::POST, 1, b"tk", "a");

    let [challenge] = bench.hear_from("eve", &post).try_into().unwrap();
    assert_eq!(
        (challenge.kind, challenge.code),
        (Kind::Ack, Code::UNAUTHORIZED)
    );
    assert_eq!(bench.server.poll_event(), None);
    let echo = challenge.options.first(number::ECHO).unwrap();
    let again = with(con(Code::POST, 2, b"tk", "a"), number::ECHO, echo);
    assert_eq!(
        bench.hear_from("mallory", &again)[0].code,
        Code::UNAUTHORIZED
    );
    let mut again = again;
    again.id = 3;
    assert_eq!(bench.hear_from("eve", &again), []);
    bench.delivered();
}

#[test]
fn an_unproved_address_may_read_what_is_small_and_is_challenged_for_more() {
    let mut bench = Bench::new();
    let ask = |bench: &mut Bench, id, bytes| {
        assert_eq!(bench.hear_from("eve", &con(Code::GET, id, b"tk", "a")), []);
        let Some(Event::Request {
            exchange,
            validated,
            ..
        }) = bench.server.poll_event()
        else {
            panic!("a read is delivered");
        };
        assert!(!validated);
        bench.answer(exchange, content(vec![0; bytes]))
    };

    assert_eq!(ask(&mut bench, 1, 5).code, Code::CONTENT);
    assert_eq!(ask(&mut bench, 2, 500).code, Code::UNAUTHORIZED);
}

#[test]
fn a_challenge_after_an_empty_acknowledgement_is_not_confirmable() {
    let mut bench = Bench::new();
    let mut long = con(Code::GET, 1, b"tk", "a");
    long.options.push(number::URI_QUERY, "x=1234567890");
    bench.hear_from("eve", &long);
    let (exchange, ..) = bench.delivered();
    bench.wait_ms(1000);
    bench.sent();

    let challenge = bench.answer(exchange, content(vec![0; 900]));

    assert_eq!(
        (challenge.kind, challenge.code),
        (Kind::Non, Code::UNAUTHORIZED)
    );
    bench.wait_ms(100_000);
    assert_eq!(bench.sent(), []);
}

#[test]
fn an_acknowledgement_alone_proves_no_address() {
    let mut bench = Bench::new();
    bench.hear_from("eve", &con(Code::GET, 1, b"token123", "a"));
    let (exchange, ..) = bench.delivered();
    bench.wait_ms(1000);
    bench.sent();
    let answer = bench.answer(exchange, content("x"));
    bench.hear_from("eve", &Message::empty(Kind::Ack, answer.id));

    let post = bench.hear_from("eve", &con(Code::POST, 2, b"tk", "a"));

    assert_eq!(post[0].code, Code::UNAUTHORIZED);
}

#[test]
fn a_peer_with_too_many_open_requests_is_told_when_to_come_back() {
    let mut bench = Bench::new();
    for id in 0..32 {
        assert_eq!(bench.hear(&con(Code::GET, id, b"t", "a")), []);
    }

    let [full] = bench
        .hear(&con(Code::GET, 99, b"t", "a"))
        .try_into()
        .unwrap();
    assert_eq!(
        (full.code, full.options.max_age()),
        (Code::UNAVAILABLE, Some(10))
    );
    bench.server.mark_validated(NOW, &"bob");
    assert_eq!(bench.hear_from("bob", &con(Code::GET, 1, b"t", "a")), []);
}

#[test]
fn a_request_nobody_answers_is_given_up_with_a_word_to_the_client() {
    let mut bench = Bench::new();
    bench.hear(&con(Code::GET, 1, b"t", "a"));
    let (exchange, ..) = bench.delivered();

    bench.wait_ms(1000);
    bench.wait_ms(360_000);

    let sent = bench.sent();
    assert_eq!(sent.last().unwrap().code, Code::UNAVAILABLE);
    assert_eq!(
        bench.server.poll_event(),
        Some(Event::Cancelled { exchange })
    );
    let late = bench.server.respond(bench.now, exchange, content("x"));
    assert_eq!(late, Err(RespondError::Unknown));
}

#[test]
fn an_answer_above_the_ceiling_is_refused_and_the_client_told() {
    let mut bench = Bench::with(Config {
        response_bytes_max: 10,
        ..config()
    });
    bench.hear(&con(Code::GET, 1, b"t", "a"));
    let (exchange, ..) = bench.delivered();

    let refused = bench
        .server
        .respond(NOW, exchange, content("longer than ten"));

    assert_eq!(
        refused,
        Err(RespondError::TooLarge {
            bytes: 15,
            bytes_max: 10
        })
    );
    assert_eq!(bench.one_sent().code, Code::INTERNAL_ERROR);
}

#[test]
fn a_pure_client_resets_requests() {
    let mut bench = Bench::with(Config {
        serves_requests: false,
        ..config()
    });

    let sent = bench.hear(&con(Code::GET, 1, b"t", "a"));

    assert_eq!(sent, [Message::empty(Kind::Rst, 1)]);
    assert_eq!(bench.server.poll_event(), None);
}
