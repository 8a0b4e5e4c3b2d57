//! Reads a message up to its payload, as its bytes come in, where the carrier marks the end.

use bytes::Bytes;

use super::{
    message::{DecodeError, Fault},
    options::{OptionReader, Step},
};
use crate::wire::coap::{Code, Options, Token};

/// Everything before the payload, and as much of that as is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Method or response code.
    pub code: Code,
    /// Empty on a stream of its own.
    pub token: Token,
    /// In ascending order.
    pub options: Options,
    /// How the payload begins. Empty only if there is none.
    pub payload: Bytes,
}

/// Takes bytes until the head is whole. Holds the bytes of one option and one push at most, beside
/// the options themselves.
#[derive(Debug, Default)]
pub struct HeadReader {
    buffer: Vec<u8>,
    /// How much of `buffer` is read.
    read: usize,
    /// How many bytes went before `buffer`.
    before: usize,
    start: Option<(Code, Token)>,
    options: OptionReader,
    takes_token: bool,
}

impl HeadReader {
    /// For a stream that carries one exchange: a token is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a carrier of several exchanges.
    pub(super) fn with_token() -> Self {
        Self {
            takes_token: true,
            ..Self::default()
        }
    }

    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read.min(self.buffer.len()));
        self.before += self.read;
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The head, once it is whole; `ended` says that no more will come. Not to be called again after that.
    pub fn head(&mut self, ended: bool) -> Result<Option<Head>, DecodeError> {
        let found = self.advance(ended);
        found.map_err(|fault| DecodeError {
            at: self.before + self.read,
            fault,
        })
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.read..).unwrap_or_default()
    }

    fn advance(&mut self, ended: bool) -> Result<Option<Head>, Fault> {
        let missing = if ended {
            Err(Fault::Truncated)
        } else {
            Ok(None)
        };
        let Some((code, token)) = self.start()? else {
            return missing;
        };
        loop {
            let bytes = self.buffer.get(self.read..).unwrap_or_default();
            match self.options.step(bytes)? {
                Step::Option(bytes) => self.read += bytes,
                Step::Marker => {
                    let payload = bytes.get(1..).unwrap_or_default();
                    if payload.is_empty() {
                        return if ended {
                            Err(Fault::MarkerAlone)
                        } else {
                            Ok(None)
                        };
                    }
                    let payload = Bytes::copy_from_slice(payload);
                    return self.whole(code, token, payload).map(Some);
                }
                Step::Short if ended && bytes.is_empty() => {
                    return self.whole(code, token, Bytes::new()).map(Some);
                }
                Step::Short => return missing,
            }
        }
    }

    /// Length, token length, code and token.
    fn start(&mut self) -> Result<Option<(Code, Token)>, Fault> {
        if let Some(start) = self.start {
            return Ok(Some(start));
        }
        let Some(&first) = self.rest().first() else {
            return Ok(None);
        };
        let (len, token_len) = (first >> 4, first & 0x0f);
        if len != 0 {
            return Err(Fault::Length(len));
        }
        if token_len > 8 {
            return Err(Fault::TokenLength(token_len));
        }
        if token_len > 0 && !self.takes_token {
            return Err(Fault::Token(token_len));
        }
        let whole = 2 + usize::from(token_len);
        let rest = self.rest();
        let (Some(&code), Some(token)) = (rest.get(1), rest.get(2..whole)) else {
            return Ok(None);
        };
        let token = Token::new(token).ok_or(Fault::TokenLength(token_len))?;
        let start = (Code(code), token);
        self.start = Some(start);
        self.read += whole;
        Ok(Some(start))
    }

    fn whole(&mut self, code: Code, token: Token, payload: Bytes) -> Result<Head, Fault> {
        let options = std::mem::take(&mut self.options.options);
        let carries = !options.is_empty() || !payload.is_empty() || token != Token::EMPTY;
        if code == Code::EMPTY && carries {
            return Err(Fault::EmptyWithTail);
        }
        Ok(Head {
            code,
            token,
            options,
            payload,
        })
    }
}
