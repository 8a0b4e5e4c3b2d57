//! One message: what is in it, how it is written, and how one that is there whole is read.

use bytes::Bytes;
use thiserror::Error;

use super::{
    head::HeadReader,
    options::{self, MARKER},
};
use crate::wire::coap::{
    Code, Options, Token,
    options::{OPTION_BYTES_MAX, OPTIONS_MAX},
};

/// A message of any kind: request, response, signal or Empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// Method, response code, signal or Empty.
    pub code: Code,
    /// Ties responses to requests where several share a stream.
    pub token: Token,
    /// In ascending order.
    pub options: Options,
    /// Never empty after a marker.
    pub payload: Bytes,
}

/// How the end of a message is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By a length in front. spec: rfc8323 §3.2
    Prefixed,
    /// By what carries it: Len is zero and says nothing. spec: rfc8323 §4.2
    Alone,
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("CoAP message, offset {at}: {fault}")]
pub struct DecodeError {
    /// Where, from the message's first byte.
    pub at: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with the format.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// More than the reader takes.
    #[error("{bytes} bytes, at most {bytes_max} are read")]
    Size {
        /// How large the message says it is.
        bytes: u64,
        /// The ceiling.
        bytes_max: usize,
    },
    /// A length where what carries the message has one.
    #[error("length nibble {0}, where the carrier has the length")]
    Length(u8),
    /// A token length above eight is reserved.
    #[error("token length {0} is reserved")]
    TokenLength(u8),
    /// A token where nothing needs one.
    #[error("a token of {0} bytes, where the stream is the token")]
    Token(u8),
    /// The message ends early.
    #[error("the message ends early")]
    Truncated,
    /// An Empty message is exactly its header.
    #[error("an Empty message with a token, options or a payload")]
    EmptyWithTail,
    /// A nibble of 15 where only a payload marker may have it.
    #[error("reserved option nibble 15")]
    Nibble,
    /// The option numbers run past 65535.
    #[error("option number {0} does not fit into 16 bits")]
    Number(u32),
    /// One value above [`OPTION_BYTES_MAX`].
    #[error("an option of {0} bytes, at most {OPTION_BYTES_MAX} are read")]
    OptionSize(usize),
    /// More than [`OPTIONS_MAX`].
    #[error("more than {OPTIONS_MAX} options")]
    OptionCount,
    /// A payload marker and then nothing.
    #[error("a payload marker with no payload")]
    MarkerAlone,
}

/// A message that cannot be sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    /// Too many options, or one too long.
    #[error("option {0} is too long, or one too many")]
    Option(u16),
    /// A length that 32 bits do not hold.
    #[error("a message of {0} bytes")]
    Size(usize),
    /// An Empty message must not carry anything.
    #[error("an Empty message with a token, options or a payload")]
    EmptyWithTail,
}

impl Framed {
    /// A message of nothing but its code.
    pub const fn new(code: Code) -> Self {
        Self {
            code,
            token: Token::EMPTY,
            options: Options::new(),
            payload: Bytes::new(),
        }
    }

    /// Writes it.
    pub fn encode(&self, form: Form) -> Result<Vec<u8>, EncodeError> {
        let mut body = Vec::with_capacity(16 + self.payload.len());
        options::write(&self.options, &mut body)?;
        if !self.payload.is_empty() {
            body.push(MARKER);
            body.extend_from_slice(&self.payload);
        }
        let token = self.token.as_bytes();
        if self.code == Code::EMPTY && !(body.is_empty() && token.is_empty()) {
            return Err(EncodeError::EmptyWithTail);
        }
        let token_len = u8::try_from(token.len()).unwrap_or(0); // a token has eight bytes at most
        let (len, more) = match form {
            Form::Alone => (0, Vec::new()),
            Form::Prefixed => length(body.len())?,
        };
        let mut bytes = Vec::with_capacity(body.len() + token.len() + 6);
        bytes.push(len << 4 | token_len);
        bytes.extend(more);
        bytes.push(self.code.0);
        bytes.extend_from_slice(token);
        bytes.extend(body);
        Ok(bytes)
    }

    /// Reads one that is there whole, in [`Form::Alone`].
    ///
    /// spec: rfc8323 §4.2
    pub fn decode(bytes: &[u8], bytes_max: usize) -> Result<Self, DecodeError> {
        if bytes.len() > bytes_max {
            let fault = Fault::Size {
                bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                bytes_max,
            };
            return Err(DecodeError { at: 0, fault });
        }
        let mut reader = HeadReader::with_token();
        reader.push(bytes);
        let head = reader.head(true)?.ok_or(DecodeError {
            at: bytes.len(),
            fault: Fault::Truncated,
        })?;
        Ok(Self {
            code: head.code,
            token: head.token,
            options: head.options,
            payload: head.payload,
        })
    }
}

/// A length as nibble and extension. spec: rfc8323 §3.2
fn length(bytes: usize) -> Result<(u8, Vec<u8>), EncodeError> {
    let wide = u64::try_from(bytes).unwrap_or(u64::MAX);
    Ok(match wide {
        0..LEN_8 => (u8::try_from(wide).unwrap_or(0), Vec::new()),
        LEN_8..LEN_16 => (13, vec![u8::try_from(wide - LEN_8).unwrap_or(u8::MAX)]),
        LEN_16..LEN_32 => {
            let above = u16::try_from(wide - LEN_16).unwrap_or(u16::MAX);
            (14, above.to_be_bytes().to_vec())
        }
        _ => {
            let above = u32::try_from(wide - LEN_32).map_err(|_| EncodeError::Size(bytes))?;
            (15, above.to_be_bytes().to_vec())
        }
    })
}

/// Lengths from here on have an 8-bit extension, which counts from here.
pub(super) const LEN_8: u64 = 13;
/// A 16-bit one.
pub(super) const LEN_16: u64 = 269;
/// A 32-bit one.
pub(super) const LEN_32: u64 = 65_805;
