//! One request of ours on its way through its blocks: which message comes next, and what an answer
//! means for it. Knows nothing of time, retransmission or other requests.

use bytes::Bytes;

use super::{
    config::{Config, RESTARTS_MAX},
    types::{ExchangeId, FailReason, Progress, Request, Response},
};
use crate::wire::coap::{Block, Code, Kind, Message, Options, Szx, Token, options::number};

/// A request under way.
#[derive(Debug)]
pub(super) struct Call<P> {
    pub(super) peer: P,
    pub(super) request: Request,
    pub(super) purpose: Purpose,
    /// The token of the message last sent.
    pub(super) token: Token,
    /// The id of the message that waits for an acknowledgement.
    pub(super) in_flight: Option<u16>,
    /// Challenges answered so far.
    pub(super) echo_rounds: u32,
    transfer: Transfer,
    /// Keeps this body apart from others sent to the same path.
    request_tag: Option<u32>,
    restarts: u32,
}

/// What the answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The caller asked.
    Ask,
    /// The rest of a notification of this observation.
    Rest(ExchangeId),
    /// Nobody wants the answer; the token is the observation's.
    Deregister,
}

#[derive(Debug)]
enum Transfer {
    /// The whole request in one message; nothing has come back.
    Whole,
    /// A block of the request body is under way.
    Upload { offset: usize, szx: Szx },
    /// Blocks of the response body come in.
    Download {
        first: Response,
        body: Vec<u8>,
        szx: Szx,
    },
}

/// What an answer leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Another message is to be sent.
    Next,
    /// The answer is whole.
    Done(Response),
    /// It is over.
    Failed(FailReason),
}

impl<P> Call<P> {
    pub(super) fn new(
        peer: P,
        request: Request,
        purpose: Purpose,
        config: &Config,
        random: u32,
    ) -> Self {
        let mut call = Self {
            peer,
            request,
            purpose,
            token: Token::EMPTY,
            in_flight: None,
            echo_rounds: 0,
            transfer: Transfer::Whole,
            request_tag: None,
            restarts: 0,
        };
        call.begin(config.szx, random);
        call
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        match &self.transfer {
            Transfer::Whole => None,
            Transfer::Upload { offset, .. } => Some(Progress {
                done: *offset,
                total: Some(self.request.payload.len()),
            }),
            Transfer::Download { first, body, .. } => Some(Progress {
                done: body.len(),
                total: (first.options.uint(number::SIZE2)).and_then(|size| size.try_into().ok()),
            }),
        }
    }

    fn begin(&mut self, szx: Szx, random: u32) {
        let options = self
            .request
            .options
            .iter()
            .map(|(_, value)| value.len() + 3);
        let overhead_bytes = options.sum::<usize>() + OURS_BYTES;
        let mut szx = szx;
        while szx > Szx::MIN && szx.bytes() + overhead_bytes > DATAGRAM_BYTES_WANTED {
            szx = szx.smaller();
        }
        if self.request.payload.len() > szx.bytes() {
            self.transfer = Transfer::Upload { offset: 0, szx };
            self.request_tag = Some(random);
        } else {
            self.transfer = Transfer::Whole;
        }
    }

    /// The message to send next.
    pub(super) fn message(&self, id: u16, token: Token, config: &Config) -> Message {
        let mut options = self.request.options.clone();
        if let Some(tag) = self.request_tag {
            options.push_uint(number::REQUEST_TAG, tag);
        }
        let whole = &self.request.payload;
        let payload = match &self.transfer {
            Transfer::Whole => {
                self.push_opening(&mut options, config);
                whole.clone()
            }
            Transfer::Upload { offset, szx } => {
                let end = offset.saturating_add(szx.bytes()).min(whole.len());
                if let Some(block) = Block::at(*offset, end < whole.len(), *szx) {
                    options.push_block(number::BLOCK1, block);
                }
                if *offset == 0 {
                    let bytes = u32::try_from(whole.len()).unwrap_or(u32::MAX);
                    options.push_uint(number::SIZE1, bytes);
                }
                if end == whole.len() {
                    self.push_opening(&mut options, config);
                }
                whole.slice(*offset..end)
            }
            Transfer::Download { body, szx, .. } => {
                options.remove(number::SIZE2); // it was answered with the first block
                if let Some(block) = Block::at(body.len(), false, *szx) {
                    options.push_block(number::BLOCK2, block);
                }
                // FETCH is named by its body too, and repeating a safe request harms nobody. An
                // uploaded body is named by its Request-Tag.
                let repeats = self.request.method == Code::FETCH && self.request_tag.is_none();
                if repeats { whole.clone() } else { Bytes::new() }
            }
        };
        let code = self.request.method;
        Message {
            kind: Kind::Con,
            code,
            id,
            token,
            options,
            payload: payload.to_vec(),
        }
    }

    /// What the message that asks for the answer carries besides.
    fn push_opening(&self, options: &mut Options, config: &Config) {
        if self.purpose == Purpose::Deregister {
            options.push_uint(number::OBSERVE, 1);
        } else if self.request.observe {
            options.push_uint(number::OBSERVE, 0);
        }
        // A smaller block is asked for at once, before the server has to choose.
        if config.szx < Szx::MAX
            && let Ok(block) = Block::new(0, false, config.szx)
        {
            options.push_block(number::BLOCK2, block);
        }
    }

    /// Takes in the answer to the message last sent.
    pub(super) fn answered(&mut self, message: Message, config: &Config, random: u32) -> Outcome {
        match &self.transfer {
            Transfer::Upload { .. } => self.upload_answered(message, config, random),
            Transfer::Whole => self.first_part(message, config),
            Transfer::Download { .. } => self.later_part(&message, config, random),
        }
    }

    /// spec: rfc7959 §2.5, §2.9
    fn upload_answered(&mut self, message: Message, config: &Config, random: u32) -> Outcome {
        let Transfer::Upload { offset, szx } = &mut self.transfer else {
            return Outcome::Failed(FailReason::BadResponse);
        };
        let Ok(control) = message.options.block(number::BLOCK1) else {
            return Outcome::Failed(FailReason::BadResponse);
        };
        let preferred = control.map_or(*szx, Block::szx).min(*szx);
        let remains = offset.saturating_add(szx.bytes()) < self.request.payload.len();
        let goes_on = message.code == Code::CONTINUE
            || (message.code.is_success() && control.is_some() && remains);
        if goes_on {
            if !remains {
                return Outcome::Failed(FailReason::BadResponse);
            }
            *offset += szx.bytes();
            *szx = preferred;
            return Outcome::Next;
        }
        if message.code == Code::TOO_LARGE && *offset == 0 && preferred < *szx {
            *szx = preferred;
            return Outcome::Next;
        }
        if message.code == Code::INCOMPLETE && self.restarts < RESTARTS_MAX {
            self.restarts += 1;
            *offset = 0;
            self.request_tag = Some(random);
            return Outcome::Next;
        }
        self.first_part(message, config)
    }

    /// The answer itself, or its first block.
    pub(super) fn first_part(&mut self, message: Message, config: &Config) -> Outcome {
        let Ok(block) = message.options.block(number::BLOCK2) else {
            return Outcome::Failed(FailReason::BadResponse);
        };
        let first = whole_response(message);
        let Some(block) = block else {
            return Outcome::Done(first);
        };
        let bytes = first.payload.len();
        let is_full = bytes == block.szx().bytes();
        if block.num() != 0 || (block.more() && !is_full) {
            return Outcome::Failed(FailReason::BadResponse);
        }
        if bytes > config.response_bytes_max {
            return Outcome::Failed(FailReason::TooLarge);
        }
        if !block.more() {
            return Outcome::Done(first);
        }
        let body = first.payload.to_vec();
        self.transfer = Transfer::Download {
            first,
            body,
            szx: block.szx(),
        };
        Outcome::Next
    }

    /// spec: rfc7959 §2.4. Blocks that differ in `ETag`, or formats, never become one body.
    fn later_part(&mut self, message: &Message, config: &Config, random: u32) -> Outcome {
        let Transfer::Download { first, body, szx } = &mut self.transfer else {
            return Outcome::Failed(FailReason::BadResponse);
        };
        let Ok(block) = message.options.block(number::BLOCK2) else {
            return Outcome::Failed(FailReason::BadResponse);
        };
        let is_same = message.code == first.code
            && message.options.first(number::ETAG) == first.options.first(number::ETAG)
            && message.options.content_format() == first.options.content_format();
        let Some(block) = block.filter(|block| is_same && block.offset() == body.len()) else {
            return self.restart(config, random);
        };
        let bytes = message.payload.len();
        let fits = if block.more() {
            bytes == block.szx().bytes()
        } else {
            bytes <= block.szx().bytes()
        };
        if !fits {
            return Outcome::Failed(FailReason::BadResponse);
        }
        if body.len().saturating_add(bytes) > config.response_bytes_max {
            return Outcome::Failed(FailReason::TooLarge);
        }
        body.extend_from_slice(&message.payload);
        *szx = block.szx();
        if block.more() {
            return Outcome::Next;
        }
        let mut response = first.clone();
        response.payload = Bytes::from(std::mem::take(body));
        Outcome::Done(response)
    }

    fn restart(&mut self, config: &Config, random: u32) -> Outcome {
        if !self.request.method.is_safe() || self.restarts >= RESTARTS_MAX {
            return Outcome::Failed(FailReason::BodyChanged);
        }
        self.restarts += 1;
        // What was to be registered is; asking again would replace it.
        self.request.observe = false;
        self.begin(config.szx, random);
        Outcome::Next
    }
}

/// What a datagram should not exceed, in bytes. spec: rfc7252 §4.6.
const DATAGRAM_BYTES_WANTED: usize = 1152;

/// Header, token, and the options this machine adds (Echo, Block, Size1, Request-Tag), in bytes.
const OURS_BYTES: usize = 80;

/// A message as a response, without what belongs to the transfer.
pub(super) fn whole_response(message: Message) -> Response {
    let mut options = message.options;
    for ours in [
        number::BLOCK1,
        number::BLOCK2,
        number::OBSERVE,
        number::ECHO,
    ] {
        options.remove(ours);
    }
    let payload = Bytes::from(message.payload);
    Response {
        code: message.code,
        options,
        payload,
        observing: false,
    }
}
