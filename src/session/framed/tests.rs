use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    session::coap::{Request, Response},
    wire::coap::{Code, Options, Token, options::number},
};

fn message() -> impl Strategy<Value = Framed> {
    let option = (any::<u16>(), vec(any::<u8>(), 0..400));
    let parts = (
        1_u8..,
        vec(any::<u8>(), 0..9),
        vec(option, 0..5),
        prop_oneof![
            vec(any::<u8>(), 0..20),
            vec(any::<u8>(), 200..300),
            vec(any::<u8>(), 65_700..65_900)
        ],
    );
    parts.prop_map(|(code, token, values, payload)| {
        let mut options = Options::new();
        for (number, value) in values {
            options.push(number, value);
        }
        Framed {
            code: Code(code),
            token: Token::new(&token).unwrap(),
            options,
            payload: payload.into(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_again_however_the_stream_is_cut(
        messages in vec(message(), 1..4),
        cuts in vec(1_usize..5000, 1..40),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            bytes.extend(message.encode(Form::Prefixed).unwrap());
        }
        let mut decoder = Decoder::new(MESSAGE_BYTES_MAX);
        let mut read = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            decoder.push(piece);
            while let Some(message) = decoder.message().unwrap() {
                read.push(message);
            }
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read, messages);
        prop_assert!(!decoder.is_amid());
    }

    #[test]
    fn any_bytes_are_a_message_that_writes_the_same_bytes_or_an_error(
        bytes in vec(any::<u8>(), 0..60),
        length in any::<bool>(),
    ) {
        if length {
            let mut decoder = Decoder::new(64);
            decoder.push(&bytes);
            let mut written = Vec::new();
            while let Ok(Some(message)) = decoder.message() {
                written.extend(message.encode(Form::Prefixed).unwrap());
            }
            prop_assert_eq!(&bytes[..written.len()], written.as_slice());
        } else if let Ok(message) = Framed::decode(&bytes, 64) {
            prop_assert_eq!(message.encode(Form::Alone).unwrap(), bytes);
        }
    }

    #[test]
    fn a_head_is_the_same_however_its_bytes_come(message in message(), cut in 1_usize..30) {
        let message = Framed { token: Token::EMPTY, ..message };
        let bytes = message.encode(Form::Alone).unwrap();
        let mut reader = HeadReader::new();
        let mut found = None;
        let mut payload = Vec::new();
        for piece in bytes.chunks(cut) {
            if found.is_some() {
                payload.extend_from_slice(piece);
                continue;
            }
            reader.push(piece);
            if let Some(head) = reader.head(false).unwrap() {
                payload.extend_from_slice(&head.payload);
                found = Some(head);
            }
        }
        let head = match found {
            Some(head) => head,
            None => reader.head(true).unwrap().unwrap(),
        };
        prop_assert_eq!(head.code, message.code);
        prop_assert_eq!(head.options, message.options);
        prop_assert_eq!(payload, message.payload);
    }
}

/// The lengths at which the extension grows, from the figures of the specification.
#[test]
fn the_length_is_written_in_the_fewest_bytes_that_hold_it() {
    let empty_at = |payload: usize| {
        let mut message = Framed::new(Code::CONTENT);
        message.payload = vec![7; payload].into();
        message.encode(Form::Prefixed).unwrap()
    };
    assert_eq!(empty_at(0), [0x00, 0x45]);
    assert_eq!(empty_at(11)[..3], [0xc0, 0x45, 0xff]); // 12 with the marker
    assert_eq!(empty_at(12)[..3], [0xd0, 0x00, 0x45]);
    assert_eq!(empty_at(267)[..3], [0xd0, 0xff, 0x45]);
    assert_eq!(empty_at(268)[..4], [0xe0, 0x00, 0x00, 0x45]);
    assert_eq!(empty_at(65_803)[..4], [0xe0, 0xff, 0xff, 0x45]);
    assert_eq!(empty_at(65_804)[..6], [0xf0, 0, 0, 0, 0, 0x45]);
}

#[test]
fn a_message_above_the_ceiling_is_refused_before_it_is_there() {
    let mut decoder = Decoder::new(1000);
    decoder.push(&[0xf0, 0xff, 0xff, 0xff, 0xff]);

    let error = decoder.message().unwrap_err();

    assert_eq!(
        error.fault,
        Fault::Size {
            bytes: 6 + 65_805 + 0xffff_ffff,
            bytes_max: 1000
        }
    );
    decoder.push(&[0x00, 0x45]);
    assert_eq!(decoder.message(), Err(error)); // there is no telling where the next one begins
}

#[test]
fn what_the_format_does_not_allow_is_refused_by_name() {
    let fault = |bytes: &[u8]| Framed::decode(bytes, 64).unwrap_err().fault;
    assert_eq!(fault(&[]), Fault::Truncated);
    assert_eq!(fault(&[0x10, 0x01, 0x00]), Fault::Length(1));
    assert_eq!(fault(&[0x09, 0x01]), Fault::TokenLength(9));
    assert_eq!(fault(&[0x02, 0x01, 0x00]), Fault::Truncated);
    assert_eq!(fault(&[0x00, 0x01, 0xff]), Fault::MarkerAlone);
    assert_eq!(fault(&[0x00, 0x01, 0xf0]), Fault::Nibble);
    assert_eq!(fault(&[0x00, 0x01, 0xb2, 0x41]), Fault::Truncated);
    assert_eq!(fault(&[0x00, 0x00, 0xff, 0x01]), Fault::EmptyWithTail);
    assert_eq!(
        fault(&[0x00, 0x01, 0xe0, 0xff, 0xff]),
        Fault::Number(65_804)
    );
    let mut stream = HeadReader::new();
    stream.push(&[0x01, 0x01, 0x77]);
    assert_eq!(stream.head(true).unwrap_err().fault, Fault::Token(1));
}

#[test]
fn signals_are_read_as_they_were_written() {
    let settings = Settings {
        message_bytes_max: Some(70_000),
        block_wise: true,
    };
    for signal in [
        Signal::Settings(settings),
        Signal::Settings(Settings::default()),
        Signal::Ping { custody: true },
        Signal::Pong { custody: false },
        Signal::Release {
            elsewhere: vec!["b.example:1".to_owned(), "c.example".to_owned()],
            hold_off: Some(600),
        },
        Signal::Abort {
            bad_option: Some(3),
            why: "no".to_owned(),
        },
    ] {
        let token = Token::new(&[7]).unwrap();
        assert_eq!(Signal::read(&signal.write(token)), Ok(signal));
    }
}

#[test]
fn a_critical_option_of_a_csm_is_named_in_the_abort_and_an_elective_one_ignored() {
    let mut csm = Signal::Settings(Settings::default()).write(Token::EMPTY);
    csm.options.push(6, [1]);
    assert_eq!(
        Signal::read(&csm),
        Ok(Signal::Settings(Settings::default()))
    );
    csm.options.push(3, []);

    let fault = Signal::read(&csm).unwrap_err();

    let Signal::Abort { bad_option, .. } = fault.abort() else {
        panic!("not an abort");
    };
    assert_eq!(bad_option, Some(3));
}

#[test]
fn a_request_says_whether_it_observes_and_its_body_is_whole() {
    let request = Request::new(Code::FETCH, &["A"])
        .body(Bytes::from_static(b"\x01"))
        .observing();
    let asked = Asked::of(Framed::of_request(&request, Token::EMPTY)).unwrap();
    assert_eq!(asked.observe, Observe::Register);
    assert_eq!(asked.request, request);

    let mut over = Framed::of_request(&Request::new(Code::GET, &["A"]), Token::EMPTY);
    over.options.push_uint(number::OBSERVE, 1);
    assert_eq!(Asked::of(over).unwrap().observe, Observe::Deregister);

    let mut blocks = Framed::of_request(&Request::new(Code::GET, &["A"]), Token::EMPTY);
    blocks.options.push(number::BLOCK2, [6]);
    let refused = Asked::of(blocks).unwrap_err().response();
    assert_eq!(refused.code, Code::BAD_OPTION);
    let answer = Asked::of(Framed::new(Code::CONTENT)).unwrap_err();
    assert_eq!(answer, RequestFault::Method(Code::CONTENT));
}

#[test]
fn a_response_is_the_same_after_the_way() {
    let response = Response::new(Code::CONTENT).body(60, "x").observing();
    let framed = Framed::of_response(&response, Token::EMPTY);
    assert_eq!(framed.clone().into_response(), Some(response));
    assert_eq!(
        framed.encode(Form::Alone).unwrap(),
        b"\x00\x45\x60\x61\x3c\xffx"
    );
    assert_eq!(Framed::new(Code::GET).into_response(), None);
}
