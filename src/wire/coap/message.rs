//! One CoAP message over UDP: the format check, decoding on coap-lite's `Packet`, encoding.
//!
//! `Packet` lets through what RFC 7252 calls format errors (version 2, a marker with nothing
//! after it, an Empty message with a tail, nine-byte tokens), so the bytes are walked once by us
//! first; what passes is a message, what does not says where, what, and how to answer.

use std::fmt;

use coap_lite::{CoapOption, MessageType, Packet};
use thiserror::Error;

use super::{
    code::Code,
    options::{OPTION_BYTES_MAX, OPTIONS_MAX, Options},
};

/// The largest datagram we read, in bytes.
///
/// 1024 bytes of payload and as much again for header and options; senders should stay below 1152.
pub const MESSAGE_BYTES_MAX: usize = 2048;

/// How a message is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Confirmable: sent until acknowledged.
    Con,
    /// Non-confirmable: sent once.
    Non,
    /// Acknowledgement of a confirmable message, with or without a response.
    Ack,
    /// Reset: the message made no sense to its recipient.
    Rst,
}

/// What ties a response to its request: at most eight bytes, kept inline.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    bytes: [u8; 8],
    len: u8,
}

impl Token {
    /// No token.
    pub const EMPTY: Self = Self {
        bytes: [0; 8],
        len: 0,
    };
    /// Eight bytes, and the last of all tokens in their order.
    pub const LONGEST: Self = Self {
        bytes: [u8::MAX; 8],
        len: 8,
    };

    /// A token of at most eight bytes.
    pub fn new(value: &[u8]) -> Option<Self> {
        let mut bytes = [0; 8];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self {
            bytes,
            len: u8::try_from(value.len()).ok()?,
        })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.len))
            .unwrap_or(&self.bytes)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", hex::encode(self.as_bytes()))
    }
}

/// A message of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How it is carried.
    pub kind: Kind,
    /// Method, response code or Empty.
    pub code: Code,
    /// The message id: pairs acknowledgements, finds duplicates.
    pub id: u16,
    /// Ties response to request.
    pub token: Token,
    /// In ascending order.
    pub options: Options,
    /// Never empty after a marker.
    pub payload: Vec<u8>,
}

/// Bytes that are no CoAP message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("CoAP message, offset {at}: {fault}")]
pub struct DecodeError {
    /// Where in the datagram.
    pub at: usize,
    /// What is wrong there.
    pub fault: Fault,
    /// What the sender is owed.
    pub answer: Answer,
}

/// What is wrong with the format.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// Fewer than the four bytes of a header.
    #[error("{0} bytes are no header")]
    Header(usize),
    /// More than [`MESSAGE_BYTES_MAX`].
    #[error("{0} bytes are more than we read")]
    Size(usize),
    /// A version other than 1.
    #[error("version {0} is unknown")]
    Version(u8),
    /// A token length above eight is reserved.
    #[error("token length {0} is reserved")]
    TokenLength(u8),
    /// The datagram ends within the token, or within an option.
    #[error("the datagram ends early")]
    Truncated,
    /// An Empty message is exactly its header.
    #[error("an Empty message has {0} bytes after its header")]
    EmptyWithTail(usize),
    /// A nibble of 15 where only a payload marker may have it.
    #[error("reserved option nibble 15")]
    Nibble,
    /// The option numbers run past 65535.
    #[error("the option number does not fit into 16 bits")]
    Number,
    /// One value above [`OPTION_BYTES_MAX`].
    #[error("an option of {0} bytes is more than we read")]
    OptionSize(usize),
    /// More than [`OPTIONS_MAX`].
    #[error("more than {OPTIONS_MAX} options")]
    OptionCount,
    /// `coap-lite` refused what we had let through.
    #[error("coap-lite does not read this")]
    Unread,
    /// A payload marker and then nothing.
    #[error("a payload marker with no payload")]
    MarkerAlone,
}

/// How to answer bytes that are no message.
///
/// spec: rfc7252 §4.2, §4.3: a confirmable message with a format error is reset, anything else
/// is ignored, as is a version we do not speak. A request that is only too long is told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not at all.
    Silence,
    /// With a Reset of this id.
    Reset {
        /// The message id of the broken message.
        id: u16,
    },
    /// With 4.13: the header of a request, of which nothing else was read.
    TooLarge {
        /// How it was carried: confirmable or not.
        kind: Kind,
        /// Its message id.
        id: u16,
        /// Its token.
        token: Token,
    },
}

/// A message that cannot be sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    /// It is larger than one datagram may be.
    #[error("a message of more than {MESSAGE_BYTES_MAX} bytes")]
    Size,
    /// An Empty message must not carry anything.
    #[error("an Empty message with a token, options or a payload")]
    EmptyWithTail,
    /// Too many options, or one too long.
    #[error("option {0} is too long, or one too many")]
    Option(u16),
}

impl Message {
    /// An Empty message: acknowledgement, reset or ping. Exactly four bytes on the wire.
    pub const fn empty(kind: Kind, id: u16) -> Self {
        Self {
            kind,
            code: Code::EMPTY,
            id,
            token: Token::EMPTY,
            options: Options::new(),
            payload: Vec::new(),
        }
    }

    /// Reads one datagram.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        check(bytes)?;
        // Not reachable as far as we know: `check` is the stricter of the two.
        let unread = DecodeError {
            at: 0,
            fault: Fault::Unread,
            answer: Answer::Silence,
        };
        let packet = Packet::from_bytes(bytes).map_err(|_| unread)?;
        let mut options = Options::new();
        for (number, values) in packet.options() {
            for value in values {
                options.push(*number, value.as_slice());
            }
        }
        Ok(Self {
            kind: match packet.header.get_type() {
                MessageType::Confirmable => Kind::Con,
                MessageType::NonConfirmable => Kind::Non,
                MessageType::Acknowledgement => Kind::Ack,
                MessageType::Reset => Kind::Rst,
            },
            code: Code(packet.header.code.into()),
            id: packet.header.message_id,
            token: Token::new(packet.get_token()).ok_or(unread)?,
            options,
            payload: packet.payload,
        })
    }

    /// Writes one datagram.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let carries = !self.options.is_empty() || !self.payload.is_empty();
        if self.code == Code::EMPTY && (carries || self.token != Token::EMPTY) {
            return Err(EncodeError::EmptyWithTail);
        }
        let mut packet = Packet::new();
        packet.header.set_version(1);
        packet.header.set_type(match self.kind {
            Kind::Con => MessageType::Confirmable,
            Kind::Non => MessageType::NonConfirmable,
            Kind::Ack => MessageType::Acknowledgement,
            Kind::Rst => MessageType::Reset,
        });
        packet.header.code = self.code.0.into();
        packet.header.message_id = self.id;
        packet.set_token(self.token.as_bytes().to_vec());
        for (count, (number, value)) in self.options.iter().enumerate() {
            if value.len() > OPTION_BYTES_MAX || count >= OPTIONS_MAX {
                return Err(EncodeError::Option(number));
            }
            packet.add_option(CoapOption::from(number), value.to_vec());
        }
        packet.payload.clone_from(&self.payload);
        packet
            .to_bytes_with_limit(MESSAGE_BYTES_MAX)
            .map_err(|_| EncodeError::Size) // nothing else is left that it checks
    }
}

/// Walks the bytes and accepts exactly what RFC 7252 calls well formed.
///
/// spec: rfc7252 §3
fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    let silent = |at, fault| DecodeError {
        at,
        fault,
        answer: Answer::Silence,
    };
    let &[first, code, id_high, id_low, ..] = bytes else {
        return Err(silent(0, Fault::Header(bytes.len())));
    };
    if first >> 6 != 1 {
        return Err(silent(0, Fault::Version(first >> 6)));
    }
    let answer = if first & 0x30 == 0 {
        Answer::Reset {
            id: u16::from_be_bytes([id_high, id_low]),
        }
    } else {
        Answer::Silence
    };
    let wrong = |at, fault| DecodeError { at, fault, answer };
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError {
            at: MESSAGE_BYTES_MAX,
            fault: Fault::Size(bytes.len()),
            answer: oversized_request(bytes).unwrap_or(answer),
        });
    }
    if code == 0 && (bytes.len() > 4 || first & 0x0f != 0) {
        return Err(wrong(4, Fault::EmptyWithTail(bytes.len() - 4)));
    }
    let token_len = first & 0x0f;
    if token_len > 8 {
        return Err(wrong(0, Fault::TokenLength(token_len)));
    }
    let options_at = 4 + usize::from(token_len);
    if options_at > bytes.len() {
        return Err(wrong(bytes.len(), Fault::Truncated));
    }
    check_options(bytes, options_at).map_err(|(at, fault)| wrong(at, fault))
}

/// Who sent a request that is too long, as far as its header can be read. spec: rfc7959 §2.9
fn oversized_request(bytes: &[u8]) -> Option<Answer> {
    let &[first, code, id_high, id_low, ..] = bytes else {
        return None;
    };
    let kind = match first & 0x30 {
        0x00 => Kind::Con,
        0x10 => Kind::Non,
        _ => return None,
    };
    let token = bytes.get(4..4 + usize::from(first & 0x0f))?;
    Code(code).is_request().then_some(Answer::TooLarge {
        kind,
        id: u16::from_be_bytes([id_high, id_low]),
        token: Token::new(token)?,
    })
}

fn check_options(bytes: &[u8], mut at: usize) -> Result<(), (usize, Fault)> {
    let mut number = 0_u16;
    let mut count = 0;
    while let Some(&head) = bytes.get(at) {
        let begin = at;
        at += 1;
        if head == 0xff {
            return if at < bytes.len() {
                Ok(())
            } else {
                Err((begin, Fault::MarkerAlone))
            };
        }
        let delta = extended(bytes, &mut at, head >> 4)?;
        let len = usize::from(extended(bytes, &mut at, head & 0x0f)?);
        number = number.checked_add(delta).ok_or((begin, Fault::Number))?;
        count += 1;
        if count > OPTIONS_MAX {
            return Err((begin, Fault::OptionCount));
        }
        if len > OPTION_BYTES_MAX {
            return Err((begin, Fault::OptionSize(len)));
        }
        at += len;
        if at > bytes.len() {
            return Err((begin, Fault::Truncated));
        }
    }
    Ok(())
}

/// A nibble with its extension: 13 adds one byte, 14 adds two, 15 is reserved.
///
/// spec: rfc7252 §3.1
fn extended(bytes: &[u8], at: &mut usize, nibble: u8) -> Result<u16, (usize, Fault)> {
    let begin = *at;
    let mut next = || {
        let byte = bytes.get(*at).copied().ok_or((begin, Fault::Truncated))?;
        *at += 1;
        Ok(byte)
    };
    match nibble {
        13 => Ok(u16::from(next()?) + 13),
        14 => {
            let whole = u16::from_be_bytes([next()?, next()?]);
            whole.checked_add(269).ok_or((begin, Fault::Number))
        }
        15 => Err((begin, Fault::Nibble)),
        small => Ok(u16::from(small)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::wire::coap::options::number;

    fn fault(bytes: &[u8]) -> (usize, Fault, Answer) {
        let wrong = Message::decode(bytes).unwrap_err();
        (wrong.at, wrong.fault, wrong.answer)
    }

    /// Figure 16 of RFC 7252: GET temperature and its piggy-backed answer.
    #[test]
    fn the_first_example_of_the_specification_reads_and_writes() {
        let get = b"\x40\x01\x7d\x34\xbbtemperature";
        let answer = b"\x60\x45\x7d\x34\xff22.3 C";

        let read = Message::decode(get).unwrap();
        assert_eq!(
            (read.kind, read.code, read.id),
            (Kind::Con, Code::GET, 0x7d34)
        );
        assert_eq!(read.options.path().collect::<Vec<_>>(), ["temperature"]);
        assert_eq!(read.encode().unwrap(), get);
        let read = Message::decode(answer).unwrap();
        assert_eq!((read.kind, read.code), (Kind::Ack, Code::CONTENT));
        assert_eq!(read.payload, b"22.3 C");
        assert_eq!(read.encode().unwrap(), answer);
    }

    #[test]
    fn a_payload_marker_with_nothing_after_it_is_reset() {
        let reset = Answer::Reset { id: 0x7d34 };

        assert_eq!(
            fault(b"\x40\x01\x7d\x34\xff"),
            (4, Fault::MarkerAlone, reset)
        );
    }

    #[test]
    fn lb_defect_2_an_empty_message_with_a_token_is_a_format_error() {
        let ack = b"\x68\x00\x12\x34\x01\x02\x03\x04\x05\x06\x07\x08";
        let ping = b"\x40\x00\x12\x34\x00";

        assert_eq!(fault(ack), (4, Fault::EmptyWithTail(8), Answer::Silence));
        assert_eq!(
            fault(ping),
            (4, Fault::EmptyWithTail(1), Answer::Reset { id: 0x1234 })
        );
        assert_eq!(Message::empty(Kind::Ack, 0x1234).encode().unwrap().len(), 4);
        let mut bad = Message::empty(Kind::Ack, 1);
        bad.token = Token::new(&[1]).unwrap();
        assert_eq!(bad.encode(), Err(EncodeError::EmptyWithTail));
    }

    #[test]
    fn another_version_is_met_with_silence() {
        assert_eq!(
            fault(b"\x80\x01\x00\x01"),
            (0, Fault::Version(2), Answer::Silence)
        );
        assert_eq!(fault(b"\x40\x01"), (0, Fault::Header(2), Answer::Silence));
    }

    #[test]
    fn reserved_token_lengths_are_refused() {
        for len in 9..=15_u8 {
            let mut bytes = vec![0x40 | len, 1, 0, 1];
            bytes.extend([0; 16]);
            assert_eq!(fault(&bytes).1, Fault::TokenLength(len));
        }
        assert!(Token::new(&[0; 9]).is_none());
    }

    #[test]
    fn an_option_that_runs_past_the_end_is_refused_with_its_place() {
        assert_eq!(fault(b"\x40\x01\x00\x01\xb5abc").0, 4);
        assert_eq!(
            fault(b"\x50\x01\x00\x01\xb3abc\xf0"),
            (9, Fault::Nibble, Answer::Silence)
        );
        assert_eq!(fault(b"\x50\x01\x00\x01\xe0\xff\xff").1, Fault::Number);
    }

    #[test]
    fn too_many_options_and_too_many_bytes_are_refused() {
        let mut many = b"\x50\x01\x00\x01\xb0".to_vec();
        many.extend([0; 64]);
        let mut long = b"\x50\x01\x00\x01\xff".to_vec();
        long.extend([0; MESSAGE_BYTES_MAX]);

        assert_eq!(fault(&many).1, Fault::OptionCount);
        assert_eq!(fault(&long).1, Fault::Size(MESSAGE_BYTES_MAX + 5));
    }

    #[test]
    fn high_numbers_and_long_values_survive() {
        let message = Message {
            kind: Kind::Con,
            code: Code::POST,
            id: 9,
            token: Token::new(&[1, 2, 3]).unwrap(),
            options: Options::new()
                .with(number::ACCESS_TOKEN, vec![b't'; 300])
                .with(number::REQUEST_TAG, [1])
                .with(65_003, [0; 13])
                .with(number::URI_PATH, "")
                .with(number::URI_PATH, "a"),
            payload: vec![0xff],
        };

        assert_eq!(
            Message::decode(&message.encode().unwrap()).unwrap(),
            message
        );
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_and_what_decodes_stays_the_same(
            bytes in vec(any::<u8>(), 0..200),
            first in 0x40..0x80_u8,
        ) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            if let Ok(message) = Message::decode(&bytes) {
                let again = Message::decode(&message.encode().unwrap()).unwrap();
                prop_assert_eq!(again, message);
            }
        }

        #[test]
        fn any_message_survives_the_wire(
            code in 1..=255_u8,
            id: u16,
            token in vec(any::<u8>(), 0..=8),
            options in vec((any::<u16>(), vec(any::<u8>(), 0..30)), 0..20),
            payload in vec(any::<u8>(), 0..100),
        ) {
            let mut list = Options::new();
            for (number, value) in options {
                list.push(number, value);
            }
            let message = Message {
                kind: Kind::Non,
                code: Code(code),
                id,
                token: Token::new(&token).unwrap(),
                options: list,
                payload,
            };
            prop_assert_eq!(Message::decode(&message.encode().unwrap()).unwrap(), message);
        }
    }
}
