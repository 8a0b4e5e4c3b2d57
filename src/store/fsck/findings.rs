//! What a check can find, in words for whoever runs the hub: what is wrong and where, what that
//! means, and what to do. Codes are stable: scripts may look for them.

use std::fmt;

use ruma::{OwnedEventId, OwnedServerName, OwnedUserId};
use thiserror::Error;

use crate::{
    base::{ChainHash, EventHash, Position, Seq},
    room::{Membership, StateKey},
    store::{EventNid, RoomNid, StateNid},
    wire::matrix::event_id,
};

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The room's id, or its number when not even its row can be read.
    pub room: Option<String>,
    /// The entry of the room's log, when it is about one.
    pub seq: Option<Seq>,
    /// The event, when it is about one.
    pub event: Option<OwnedEventId>,
    /// The file's place below the media directory, or its media id.
    pub file: Option<String>,
    /// What was expected and what was found.
    pub what: Wrong,
}

impl Finding {
    pub(super) fn of_store(what: Wrong) -> Self {
        Self {
            room: None,
            seq: None,
            event: None,
            file: None,
            what,
        }
    }

    pub(super) fn of_room(room: String, seq: Option<Seq>, what: Wrong) -> Self {
        Self {
            room: Some(room),
            seq,
            ..Self::of_store(what)
        }
    }

    pub(super) fn of_file(file: String, what: Wrong) -> Self {
        Self {
            file: Some(file),
            ..Self::of_store(what)
        }
    }
}

/// One line: the code, the place, what is wrong.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.what.code())?;
        if let Some(room) = &self.room {
            write!(f, " room {room}")?;
        }
        if let Some(seq) = self.seq {
            write!(f, " entry {seq}")?;
        }
        if let Some(event) = &self.event {
            write!(f, " event {event}")?;
        }
        if let Some(file) = &self.file {
            write!(f, " file {file}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What can be wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is said by its message")]
pub enum Wrong {
    #[error("the row that counts rooms, events and users cannot be read: {why}")]
    Totals { why: String },
    #[error("the room's row cannot be read, so nothing of the room was checked: {why}")]
    Room { why: String },
    #[error("{}", missing(*upto))]
    Missing { upto: Option<Seq> },
    #[error("there are entries after entry {head}, which the room says is its last")]
    PastHead { head: Seq },
    #[error("it cannot be read: {why}")]
    Unreadable { why: String },
    #[error(
        "it is said to have been stored at position {found}; after {before} and no later than \
         {last} was expected"
    )]
    Position {
        before: Position,
        last: Position,
        found: Position,
    },
    #[error("the hash chain has {found} here; the entries give {expected}")]
    Chain {
        expected: ChainHash,
        found: ChainHash,
    },
    #[error("the room notes {found} as the end of its hash chain; the last entry has {expected}")]
    HeadChain {
        expected: ChainHash,
        found: ChainHash,
    },
    #[error("the bytes stored for {} are those of another event, {}", event_id(*expected), event_id(*found))]
    EventId {
        expected: EventHash,
        found: EventHash,
    },
    #[error("its content was changed: it hashes to {found}, the event says {}", expected.as_deref().unwrap_or("nothing"))]
    Content {
        expected: Option<String>,
        found: String,
    },
    #[error("the event noted here says that it belongs to room number {} at entry {}", room.0, number(*seq))]
    Misplaced { room: RoomNid, seq: Option<Seq> },
    #[error("the current {key} is {}, but by the log it is {}", row(*found), row(*expected))]
    Current {
        key: StateKey,
        expected: Option<EventNid>,
        found: Option<EventNid>,
    },
    #[error(
        "the stored state number {} is not the current one: it lacks {} of its pieces and has {} \
         others",
        state.0, missing.len(), extra.len()
    )]
    State {
        state: StateNid,
        missing: Vec<EventNid>,
        extra: Vec<EventNid>,
    },
    #[error("the stored state number {} has {found} pieces, {expected} are noted", state.0)]
    StateSize {
        state: StateNid,
        expected: u32,
        found: usize,
    },
    #[error("{id}, after which the next event would be put, {why}")]
    Tip { id: OwnedEventId, why: String },
    #[error("{user} is noted as {}, but by the room's state it is {}", member(found.as_ref()), member(expected.as_ref()))]
    Membership {
        user: OwnedUserId,
        expected: Option<(Membership, EventNid)>,
        found: Option<(Membership, EventNid)>,
    },
    #[error(
        "of the servers with users in the room, {} are not noted; noted without any are {}",
        names(missing),
        names(extra)
    )]
    Residents {
        missing: Vec<OwnedServerName>,
        extra: Vec<OwnedServerName>,
    },
    #[error("what {user} is to a room elsewhere is not what its event says: {why}")]
    Outside { user: OwnedUserId, why: String },
    #[error("{table} has a row that leads nowhere, {row}: {why}")]
    Stray {
        table: String,
        row: String,
        why: String,
    },
    #[error("the row of an uploaded file cannot be read: {why}")]
    FileRow { why: String },
    #[error("the file of {uses} upload(s) is not there")]
    FileMissing { uses: u64 },
    #[error("the file cannot be read: {why}")]
    FileUnreadable { why: String },
    #[error("the file has {found} bytes, {expected} were uploaded")]
    FileSize { expected: u64, found: u64 },
    #[error("the file's bytes were changed: they hash to {found}")]
    FileContent { found: String },
    #[error("no upload that is known belongs to this file")]
    FileUnindexed,
}

impl Wrong {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Totals { .. } => "TOTALS_UNREADABLE",
            Self::Room { .. } => "ROOM_UNREADABLE",
            Self::Missing { .. } => "ENTRY_MISSING",
            Self::PastHead { .. } => "ENTRY_PAST_HEAD",
            Self::Unreadable { .. } => "UNREADABLE",
            Self::Position { .. } => "POSITION_ORDER",
            Self::Chain { .. } => "CHAIN_BROKEN",
            Self::HeadChain { .. } => "CHAIN_HEAD",
            Self::EventId { .. } => "EVENT_REPLACED",
            Self::Content { .. } => "EVENT_CHANGED",
            Self::Misplaced { .. } => "EVENT_MISPLACED",
            Self::Current { .. } => "CURRENT_STATE",
            Self::State { .. } => "STATE_CODING",
            Self::StateSize { .. } => "STATE_SIZE",
            Self::Tip { .. } => "TIP",
            Self::Membership { .. } => "MEMBERSHIP",
            Self::Residents { .. } => "RESIDENTS",
            Self::Outside { .. } => "OUTSIDE",
            Self::Stray { .. } => "STRAY_ROW",
            Self::FileRow { .. } => "FILE_ROW_UNREADABLE",
            Self::FileMissing { .. } => "FILE_MISSING",
            Self::FileUnreadable { .. } => "FILE_UNREADABLE",
            Self::FileSize { .. } => "FILE_SIZE",
            Self::FileContent { .. } => "FILE_CHANGED",
            Self::FileUnindexed => "FILE_UNINDEXED",
        }
    }

    /// What it means to the hub and its users.
    pub fn means(&self) -> &'static str {
        match self {
            Self::Totals { .. } => "metrics and `status` fail; no message is concerned",
            Self::Room { .. } => "nobody can use this room",
            Self::Missing { .. } => "acknowledged entries are gone",
            Self::PastHead { .. } => {
                "the room's row is older than its log: rows come from two different moments"
            }
            Self::Unreadable { .. } => "it is not delivered to anyone, and what needs it may fail",
            Self::Position { .. } => "a syncing client may be told of it twice or never",
            Self::Chain { .. } => {
                "an entry was changed, put in or taken out here after it was acknowledged"
            }
            Self::HeadChain { .. } => {
                "the end of the log was changed after it was acknowledged, or the room's row was"
            }
            Self::EventId { .. } | Self::Content { .. } => {
                "somebody or something changed it after it was sent; the hub does not deliver it"
            }
            Self::Misplaced { .. } => "the same event may be shown at another place, or not at all",
            Self::Current { .. } | Self::State { .. } | Self::StateSize { .. } => {
                "who may do what in the room is judged by a wrong state; the log itself is checked \
                 apart from this"
            }
            Self::Tip { .. } => "what is sent next would be put after a wrong event",
            Self::Membership { .. } => "this user's list of rooms is wrong",
            Self::Residents { .. } => {
                "servers are not told what happens in the room, or told what is not for them"
            }
            Self::Outside { .. } => "this user's list of invites is wrong",
            Self::Stray { .. } => {
                "what another server is told, or has told, may be missing; no room is concerned"
            }
            Self::FileRow { .. } => "this upload cannot be downloaded",
            Self::FileMissing { .. } | Self::FileUnreadable { .. } => "downloads of it fail",
            Self::FileSize { .. } | Self::FileContent { .. } => {
                "downloads of it give other bytes than were uploaded"
            }
            Self::FileUnindexed => {
                "it only takes space: an upload that was cut off left it, or somebody put it there"
            }
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::FileMissing { .. }
            | Self::FileUnreadable { .. }
            | Self::FileSize { .. }
            | Self::FileContent { .. } => {
                "put the file back from a copy of the media directory; its name is the SHA-256 of \
                 its bytes"
            }
            Self::FileUnindexed => "delete it with the hub stopped, after a look at what it is",
            _ => {
                "stop the hub, keep a copy of its directory as it is, and go back to a copy from \
                 before this; check disk and memory of the machine"
            }
        }
    }
}

fn missing(upto: Option<Seq>) -> String {
    match upto {
        None => "it is missing from the log".to_owned(),
        Some(seq) => format!("it and all after it up to {seq} are missing from the log"),
    }
}

fn names(servers: &[OwnedServerName]) -> String {
    let names: Vec<&str> = servers.iter().map(|server| server.as_str()).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn number(seq: Option<Seq>) -> String {
    seq.map_or_else(|| "none".to_owned(), |seq| seq.to_string())
}

fn row(event: Option<EventNid>) -> String {
    event.map_or_else(
        || "nothing".to_owned(),
        |nid| format!("event row {}", nid.0),
    )
}

fn member(what: Option<&(Membership, EventNid)>) -> String {
    what.map_or_else(
        || "nothing".to_owned(),
        |(membership, nid)| format!("«{}» by event row {}", membership.as_str(), nid.0),
    )
}
