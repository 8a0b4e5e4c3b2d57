//! The thin profile's bytes: drafts, records, names and the rest of `spec-notes/thin-profile.md`.
//!
//! Typed values only; whose alias a number is, and what an event becomes, is the hub's.
//! `draft`, `record` and `names` read and write; `number` has the integers, `deflate` the dictionary,
//! `mls` leaves out what both ends know of an MLS message.

mod body;
pub mod deflate;
mod draft;
pub mod mls;
mod names;
pub mod number;
#[cfg(test)]
mod profile_tests;
mod record;

pub use mls::MlsGroup;
pub use names::{
    FIRST_OWN_EVENT_TYPE, FIXED_EVENT_TYPES, MEMBER, decode_named, decode_numbers, decode_wanted,
    encode_named, encode_numbers, encode_wanted,
};
pub use record::{decode_all as decode_records, encode_all as encode_records};
use thiserror::Error;

/// A number that stands for a room, a user or an event type, for one device.
///
/// spec: thin-profile §9
pub type Alias = u64;

/// What an alias stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameKind {
    /// A room id.
    Room,
    /// A user id.
    User,
    /// An event type.
    EventType,
    /// What a room is called; its alias is that of the room, and nobody asks for it by the text.
    RoomName,
}

/// An alias and its meaning. spec: thin-profile §9
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// What it is.
    pub kind: NameKind,
    /// The number.
    pub alias: Alias,
    /// The name in full.
    pub text: String,
}

/// What someone says, or an entry shows. spec: thin-profile §6
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// `m.text`.
    Text(String),
    /// `m.notice`.
    Notice(String),
    /// `m.emote`.
    Emote(String),
    /// An annotation's key.
    Reaction(String),
    /// A redaction's reason.
    Redaction(String),
    /// An MLS private message without what both ends know.
    MlsElided(Vec<u8>),
    /// An MLS private message.
    MlsWhole(Vec<u8>),
    /// Any message event; content in deterministic CBOR with integer keys.
    Event {
        /// Its type.
        event_type: Alias,
        /// Its content.
        content: Vec<u8>,
        /// Whether it travels deflated.
        deflated: bool,
    },
    /// Any state event.
    State {
        /// Its type.
        event_type: Alias,
        /// Its state key.
        state_key: String,
        /// Its content.
        content: Vec<u8>,
        /// Whether it travels deflated.
        deflated: bool,
    },
    /// A membership. Records only.
    Member {
        /// Whose.
        user: Alias,
        /// Which.
        membership: Membership,
        /// The display name, empty for none.
        display_name: String,
    },
    /// The entry does not fit. Records only.
    TooLarge {
        /// Bytes of the entry in full.
        size: u64,
        /// Which view of it.
        etag: [u8; 8],
    },
}

/// A membership as one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "Matrix's own words")]
pub enum Membership {
    Join,
    Invite,
    Leave,
    Ban,
    Knock,
}

/// What a device wants appended. spec: thin-profile §5
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The device's number for it.
    pub counter: u64,
    /// The seq it refers to.
    pub target: Option<u64>,
    /// This device has read up to there.
    pub read: Option<u64>,
    /// What it says: never `Member` or `TooLarge`.
    pub body: Body,
}

/// What the hub shows. spec: thin-profile §7
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The room, in what concerns all rooms.
    pub room: Option<Alias>,
    /// What.
    pub what: Shown,
}

/// The kinds of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// An entry of the log.
    Entry {
        /// Its place.
        seq: u64,
        /// Who sent it; 0 is the device's own user.
        sender: Alias,
        /// Seconds since it was accepted.
        age: u64,
        /// The seq it refers to; of a membership, the number of the one before it.
        target: Option<u64>,
        /// The counter this device gave it.
        counter: Option<u64>,
        /// What it says.
        body: Body,
    },
    /// Someone has read up to `seq`.
    Receipt {
        /// Up to where.
        seq: u64,
        /// Who.
        user: Alias,
    },
    /// Who is typing.
    Typing(Vec<Alias>),
    /// How far this answer goes.
    Covered {
        /// The last seq covered.
        seq: u64,
        /// The log's head (0 for all rooms), when it goes on.
        head: Option<u64>,
    },
}

/// An entry in full. spec: thin-profile §8
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeEntry {
    /// Its place.
    pub seq: u64,
    /// Who sent it.
    pub sender: Alias,
    /// `origin_server_ts`, milliseconds since 1970.
    pub time_ms: u64,
    /// The seq it refers to; of a membership, the number of the one before it.
    pub target: Option<u64>,
    /// The counter this device gave it.
    pub counter: Option<u64>,
    /// The entry's id.
    pub id: [u8; 32],
    /// What it says.
    pub body: Body,
}

/// What a hub says of itself. spec: thin-profile §4
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The profile's version.
    pub version: u64,
    /// Changes when the hub is restored from a backup.
    pub generation: [u8; 8],
    /// The dictionary's version.
    pub dictionary: u64,
    /// The hub's clock, milliseconds since 1970.
    pub time_ms: u64,
}

/// The class of a link and its daily allowance. spec: thin-profile §11
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkProfile {
    /// 0 to 6.
    pub class: u8,
    /// Kilobytes of 1000 bytes per UTC day; 0 for no limit.
    pub daily_kilobytes: u64,
}

/// Why bytes are not what the thin profile has.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{fault} at byte {offset}")]
pub struct ThinError {
    /// What was wrong.
    pub fault: ThinFault,
    /// Where.
    pub offset: usize,
}

/// Each thing that can be wrong.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ThinFault {
    /// The bytes stop inside a field.
    #[error("the bytes end inside a field")]
    Truncated,
    /// Bytes after the last field.
    #[error("bytes follow the last field")]
    Trailing,
    /// A number that is not written in its shortest form, or has more than nine bytes.
    #[error("a number is not in its shortest form")]
    Number,
    /// A kind that does not belong here.
    #[error("kind {kind} does not belong here")]
    Kind {
        /// Which.
        kind: u8,
    },
    /// A bit of the head that must be zero here.
    #[error("a reserved bit of the head is set")]
    Reserved,
    /// A kind that needs a target has none.
    #[error("this kind needs a target")]
    NoTarget,
    /// Text that is not UTF-8.
    #[error("the text is not UTF-8")]
    Utf8,
    /// A membership byte above 4.
    #[error("no membership has this number")]
    Membership,
    /// A kind of name above 2.
    #[error("no kind of name has this number")]
    NameKind,
    /// A link class above 6.
    #[error("no class of links has this number")]
    LinkClass,
    /// More records than anybody may send at once.
    #[error("more than {RECORDS_MAX} records")]
    TooMany,
}

/// Records, names or aliases in one message. A record has at least two bytes, and a message 64 KiB.
pub const RECORDS_MAX: usize = 32_768;
