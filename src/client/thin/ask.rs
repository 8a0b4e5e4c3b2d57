//! What a device asks in the thin profile: each question as a request, and its answer read.

use bytes::Bytes;
use thiserror::Error;

use crate::{
    session::coap::{FailReason, Request, Response},
    wire::{
        coap::{Code, options::number},
        thin::{
            Alias, Hello, LinkProfile, Name, NameKind, Record, ThinError, WholeEntry,
            decode_numbers, decode_records, encode_named, encode_numbers, encode_wanted,
            number::segment,
        },
    },
};

/// One thing asked. spec: thin-profile §3
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Who are you, what time is it.
    Hello,
    /// Append a draft, encoded.
    Append {
        /// Where.
        room: Alias,
        /// The draft's bytes, the same for each try.
        draft: Bytes,
    },
    /// The visible entries of a room from a place on.
    Log {
        /// Which room.
        room: Alias,
        /// The first seq wanted.
        from: u64,
        /// Bytes of records; none leaves it to the hub.
        bytes_max: Option<u64>,
        /// Whether what comes later is to be told.
        observe: bool,
    },
    /// What came in all rooms.
    Inbox {
        /// After which record; none asks for the heads of the rooms.
        after: Option<(Alias, u64)>,
        /// Bytes of records; none leaves it to the hub.
        bytes_max: Option<u64>,
        /// Whether what comes later is to be told.
        observe: bool,
    },
    /// An entry in full.
    Entry {
        /// Which room.
        room: Alias,
        /// Which entry.
        seq: u64,
    },
    /// The meaning of aliases; none asks for all rooms.
    Names(Vec<(NameKind, Alias)>),
    /// The alias of a name.
    Alias {
        /// What it names.
        kind: NameKind,
        /// The name.
        text: String,
    },
    /// This device has read up to there.
    Read {
        /// Which room.
        room: Alias,
        /// Up to where.
        seq: u64,
    },
    /// The user is typing for so many seconds.
    Typing {
        /// Which room.
        room: Alias,
        /// For how long; 0: no more.
        seconds: u8,
    },
    /// What this device's link is like.
    LinkProfile(LinkProfile),
    /// Where to knock; none: nowhere.
    WakeHook(Option<String>),
    /// The hub's ledger of this device.
    Ledger,
    /// Everything else, below `~`.
    Other(Request),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Ask::Hello`].
    Hello(Hello),
    /// To [`Ask::Append`].
    Appended {
        /// The entry's place.
        seq: u64,
    },
    /// To [`Ask::Log`] and [`Ask::Inbox`].
    Records(Vec<Record>),
    /// To [`Ask::Entry`].
    Entry(Box<WholeEntry>),
    /// To [`Ask::Names`].
    Names(Vec<Name>),
    /// To [`Ask::Alias`].
    Alias(Alias),
    /// To [`Ask::Read`] and the like.
    Done,
    /// To [`Ask::Ledger`] and [`Ask::Other`].
    Whole(Response),
}

/// Why there is no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AskError {
    /// The hub said no.
    #[error("{errcode}: {text} ({code})")]
    Refused {
        /// The CoAP code.
        code: Code,
        /// The Matrix error code.
        errcode: String,
        /// The reason, for a person.
        text: String,
        /// When to come back, in seconds.
        retry_after_s: Option<u32>,
    },
    /// Nothing came, or nothing usable.
    #[error("no answer: {0}")]
    Unanswered(#[from] FailReason),
    /// The answer's bytes were wrong.
    #[error("the hub's answer: {0}")]
    Unreadable(#[from] ThinError),
    /// The answer has not what it must have.
    #[error("the hub's answer has no number")]
    Numberless,
}

impl AskError {
    /// Whether the same question may be answered later.
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.class() == 5 || code.0 == Code::TOO_MANY_REQUESTS.0,
            Self::Unanswered(reason) => matches!(
                reason,
                FailReason::TimedOut
                    | FailReason::NoResponse
                    | FailReason::Reset
                    | FailReason::BodyChanged
                    | FailReason::Challenged
                    | FailReason::Busy
            ),
            Self::Unreadable(_) | Self::Numberless => false,
        }
    }
}

impl Ask {
    /// spec: thin-profile §3
    pub fn request(&self) -> Request {
        let at = |method, segments: &[&str]| Request::new(method, segments);
        match self {
            Self::Hello => at(Code::GET, &[]),
            Self::Append { room, draft } => at(Code::POST, &[&segment(*room)]).body(draft.clone()),
            Self::Log {
                room,
                from,
                bytes_max,
                observe,
            } => {
                let mut wanted = vec![*from];
                wanted.extend(bytes_max);
                let request = at(Code::FETCH, &[&segment(*room)]);
                observing(request.body(encode_numbers(&wanted)), *observe)
            }
            Self::Inbox {
                after,
                bytes_max,
                observe,
            } => {
                let mut wanted = Vec::new();
                if let Some((room, seq)) = after {
                    wanted.extend([*room, *seq]);
                    wanted.extend(bytes_max);
                }
                let request = at(Code::FETCH, &["*"]);
                observing(request.body(encode_numbers(&wanted)), *observe)
            }
            Self::Entry { room, seq } => at(Code::GET, &[&segment(*room), &segment(*seq)]),
            Self::Names(wanted) => at(Code::FETCH, &["@"]).body(encode_wanted(wanted)),
            Self::Alias { kind, text } => at(Code::POST, &["@"]).body(encode_named(*kind, text)),
            Self::Read { room, seq } => {
                at(Code::PUT, &[&segment(*room)]).body(encode_numbers(&[*seq]))
            }
            Self::Typing { room, seconds } => {
                at(Code::PUT, &[&segment(*room), "!"]).body(vec![*seconds])
            }
            Self::LinkProfile(profile) => at(Code::PUT, &["="]).body(profile.encode()),
            Self::WakeHook(url) => {
                at(Code::PUT, &["^"]).body(url.clone().unwrap_or_default().into_bytes())
            }
            Self::Ledger => at(Code::GET, &["$"]),
            Self::Other(request) => request.clone(),
        }
    }

    /// Reads the answer to this.
    pub fn read(&self, response: Response) -> Result<Answer, AskError> {
        if matches!(self, Self::Other(_)) {
            return Ok(Answer::Whole(response));
        }
        if !response.code.is_success() {
            return Err(refusal(&response));
        }
        let body = &response.payload;
        Ok(match self {
            Self::Hello => Answer::Hello(Hello::decode(body)?),
            Self::Append { .. } => Answer::Appended { seq: one(body)? },
            Self::Log { .. } | Self::Inbox { .. } => Answer::Records(decode_records(body)?),
            Self::Entry { .. } => Answer::Entry(Box::new(WholeEntry::decode(body)?)),
            Self::Names(_) => Answer::Names(Name::decode_all(body)?),
            Self::Alias { .. } => Answer::Alias(one(body)?),
            Self::Read { .. } | Self::Typing { .. } | Self::LinkProfile(_) | Self::WakeHook(_) => {
                Answer::Done
            }
            Self::Ledger | Self::Other(_) => Answer::Whole(response),
        })
    }
}

fn observing(request: Request, observe: bool) -> Request {
    if observe {
        request.observing()
    } else {
        request
    }
}

fn one(body: &[u8]) -> Result<u64, AskError> {
    let numbers = decode_numbers(body, 1)?;
    numbers.first().copied().ok_or(AskError::Numberless)
}

/// spec: thin-profile §3
pub(super) fn refusal(response: &Response) -> AskError {
    let said = String::from_utf8_lossy(&response.payload);
    let (errcode, text) = match said.split_once(' ') {
        Some((errcode, text)) if errcode.contains('_') => (errcode, text),
        _ => ("M_UNKNOWN", &*said),
    };
    AskError::Refused {
        code: response.code,
        errcode: errcode.to_owned(),
        text: text.to_owned(),
        retry_after_s: response.options.uint(number::MAX_AGE),
    }
}
