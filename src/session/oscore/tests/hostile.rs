//! What anyone may send.

use proptest::{collection::vec, prelude::*};

use super::*;

#[test]
fn a_replay_is_refused_and_marks_nothing_else() {
    let (mut client, mut server) = pair();
    let (request, _) = client.protect_request(&get()).unwrap();
    server.unprotect_request(&request).unwrap();

    let refused = server.unprotect_request(&request).unwrap_err();

    assert!(matches!(refused, Refused::Replay(_)));
    assert_eq!(refused.code(), Code::UNAUTHORIZED);
    assert_eq!(refused.diagnostic(), "Replay detected");
    assert_eq!(refused.options().max_age(), Some(0));
}

#[test]
fn a_forgery_does_not_move_the_window() {
    let (mut client, mut server) = pair();
    let (mut forged, _) = client.protect_request(&get()).unwrap();
    let kid = OscoreOption {
        piv: Piv::new(1 << 30),
        kid: Some(&[1, 2]),
        kid_context: None,
    };
    forged.options.remove(number::OSCORE);
    forged.options.push(number::OSCORE, kid.encode());

    let refused = server.unprotect_request(&forged).unwrap_err();

    assert_eq!(refused, Refused::Decryption);
    assert_eq!(refused.code(), Code::BAD_REQUEST);
    assert_eq!(refused.diagnostic(), "Decryption failed");
    assert_eq!(server.window(), Window::Empty);
}

#[test]
fn each_refusal_has_the_answer_the_specification_gives_it() {
    let (mut client, mut server) = pair();
    let (good, _) = client.protect_request(&get()).unwrap();
    let with = |value: &[u8]| {
        let mut bad = good.clone();
        bad.options.remove(number::OSCORE);
        bad.options.push(number::OSCORE, value);
        bad
    };
    let mut twice = good.clone();
    twice.options.push(number::OSCORE, [9, 0, 1, 2]);
    let mut bare = good.clone();
    bare.payload.clear();
    let mut piece = good.clone();
    piece.options.push(number::BLOCK1, [0x0e]);
    let undecodable = [
        (with(&[0xff]), Refused::Option(OptionError::Reserved(0xff))),
        (with(&[]), Refused::Missing("partial IV")),
        (with(&[0x01, 0x05]), Refused::Missing("kid")),
        (twice, Refused::Options(2)),
        (get(), Refused::Options(0)),
        (bare, Refused::NoPayload),
        (piece, Refused::Fragment(number::BLOCK1)),
    ];
    for (bad, expected) in undecodable {
        let refused = server.unprotect_request(&bad).unwrap_err();
        assert_eq!(addressee(&bad), Err(refused.clone()));
        assert_eq!(refused.code(), Code::BAD_OPTION);
        assert_eq!(refused.diagnostic(), "Failed to decode COSE");
        assert_eq!(refused, expected);
    }
    for stranger in [
        &[9, 0, 9][..],
        &[0x19, 0, 1, 5, 1, 2],
        &[9, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    ] {
        let refused = server.unprotect_request(&with(stranger)).unwrap_err();
        assert_eq!(refused, Refused::ContextNotFound);
        assert_eq!(refused.code(), Code::UNAUTHORIZED);
        assert_eq!(refused.diagnostic(), "Security context not found");
    }
    // None of it did any harm.
    assert_eq!(addressee(&good), Ok(server.id()));
    server.unprotect_request(&good).unwrap();
}

#[test]
fn an_answer_sent_as_a_request_is_refused() {
    let (mut client, mut server) = pair();
    let odd = message(Code::GET, Options::new(), b"");
    let (mut outer, _) = client.protect_request(&odd).unwrap();
    // As a peer would that has the keys and breaks the rules.
    let aad = aead::associated_data(id(&[1, 2]), piv(0));
    let nonce = client.nonce(id(&[1, 2]), piv(0));
    for (text, fault) in [
        (&[0x45][..], InnerFault::Code(Code::CONTENT)),
        (&[], InnerFault::Empty),
        (&[0x01, 0x90], InnerFault::Nested),
    ] {
        let mut text = text.to_vec();
        aead::seal(&client.keys.sender_key, &nonce, &aad, &mut text);
        outer.payload = text;
        server.window = Window::Empty;
        let refused = server.unprotect_request(&outer).unwrap_err();
        assert_eq!(refused, Refused::Inner(fault));
        assert_eq!(refused.code(), Code::BAD_REQUEST);
    }
}

#[test]
fn an_unprotected_answer_is_a_hint_and_changes_nothing() {
    let (mut client, mut server) = pair();
    let (mut sent, mut got) = delivered(&mut client, &mut server, &registration());
    let kept = sent.to_bytes();
    let plain = |code, text: &[u8]| message(code, Options::new(), text);
    for (answer, hint) in [
        (
            plain(Code::UNAUTHORIZED, b"Security context not found"),
            Hint::ContextNotFound,
        ),
        (plain(Code::UNAUTHORIZED, b"Replay detected"), Hint::Replay),
        (plain(Code::BAD_OPTION, b""), Hint::NotUnderstood),
        (plain(Code::BAD_REQUEST, b""), Hint::DecryptionFailed),
        (
            plain(Code::UNAVAILABLE, b""),
            Hint::Other(Code::UNAVAILABLE),
        ),
        (plain(Code::CONTENT, b"lies"), Hint::Success(Code::CONTENT)),
    ] {
        assert_eq!(
            client.unprotect_response(&mut sent, &answer),
            Err(ResponseRefused::Unprotected(hint))
        );
    }
    assert_eq!(sent.to_bytes(), kept);
    let real = server
        .protect_response(&mut got.binding, &notification(1, b"1"), PivUse::Reuse)
        .unwrap();
    client.unprotect_response(&mut sent, &real).unwrap();
}

#[test]
fn a_request_reflected_to_its_sender_is_no_request_for_it() {
    let (mut client, _) = pair();
    let (outer, _) = client.protect_request(&get()).unwrap();

    assert_eq!(
        client.unprotect_request(&outer),
        Err(Refused::ContextNotFound)
    );
}

/// The bit of the option that says a kid follows. In an answer it only repeats what is known: the
/// id of the hub, here none.
const KID_FLAG: usize = 3;

#[test]
fn flipping_any_bit_of_a_message_never_gives_another_message() {
    let (mut client, mut server) = pair();
    let (mut sent, mut got) = delivered(&mut client, &mut server, &registration());
    let (request, _) = client.protect_request(&get()).unwrap();
    let answer = server
        .protect_response(&mut got.binding, &notification(1, b"1"), PivUse::Own)
        .unwrap();
    for bit in 0..request.payload.len() * 8 {
        let mut flipped = request.clone();
        *flipped.payload.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
        assert_eq!(server.unprotect_request(&flipped), Err(Refused::Decryption));
    }
    for bit in 0..answer.payload.len() * 8 {
        let mut flipped = answer.clone();
        *flipped.payload.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
        assert_eq!(
            client.unprotect_response(&mut sent, &flipped),
            Err(ResponseRefused::Decryption)
        );
    }
    for (message, is_request) in [(&request, true), (&answer, false)] {
        let value = message.options.first(number::OSCORE).unwrap();
        for bit in 0..value.len() * 8 {
            let mut value = value.to_vec();
            *value.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
            let mut flipped = message.clone();
            flipped.options.remove(number::OSCORE);
            flipped.options.push(number::OSCORE, value);
            if is_request {
                assert!(server.unprotect_request(&flipped).is_err(), "{bit}");
            } else if bit != KID_FLAG {
                assert!(client.unprotect_response(&mut sent, &flipped).is_err());
            }
        }
    }
    // All of that left both ends as they were.
    server.unprotect_request(&request).unwrap();
    client.unprotect_response(&mut sent, &answer).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_panic_or_pass(
        option in vec(any::<u8>(), 0..16),
        code in any::<u8>(),
        payload in vec(any::<u8>(), 0..40),
        head in prop_oneof![Just(vec![]), Just(vec![9, 0, 1, 2]), Just(vec![1, 7])],
        uncertain: bool,
    ) {
        let (mut client, mut server) = pair();
        if uncertain {
            server.window = Window::Uncertain;
        }
        let (_, mut sent) = client.protect_request(&registration()).unwrap();
        let option = if head.is_empty() { option } else { head };
        let bytes = message(Code(code), Options::new().with(number::OSCORE, option), &payload);
        let before = server.window();

        let _ = addressee(&bytes);
        prop_assert!(server.unprotect_request(&bytes).is_err());
        prop_assert!(client.unprotect_response(&mut sent, &bytes).is_err());
        prop_assert_eq!(server.window(), before);
    }

    /// Authentic, and still only bytes: a peer may have any bug.
    #[test]
    fn any_plaintext_of_a_peer_reads_or_is_refused(text in vec(any::<u8>(), 0..60)) {
        let (mut client, mut server) = pair();
        let (mut outer, mut sent) = client.protect_request(&registration()).unwrap();
        let aad = aead::associated_data(id(&[1, 2]), piv(0));
        let nonce = client.nonce(id(&[1, 2]), piv(0));
        let mut up = text.clone();
        aead::seal(&client.keys.sender_key, &nonce, &aad, &mut up);
        outer.payload = up;
        let mut down = text;
        aead::seal(&server.keys.sender_key, &nonce, &aad, &mut down);
        let answer = message(Code::CHANGED, Options::new().with(number::OSCORE, []), &down);

        if let Ok(got) = server.unprotect_request(&outer) {
            prop_assert!(got.message.code.is_request());
        }
        if let Ok(read) = client.unprotect_response(&mut sent, &answer) {
            prop_assert!(read.code.is_response());
        }
    }
}
