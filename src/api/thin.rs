//! What a linked device asks in the thin profile, and what it is told.
//!
//! Rooms, users and types are the device's aliases here; the desk alone knows what they stand for.
//! Everything else a device may ask is an ordinary [`super::Command`].

use super::Beside;
use crate::{
    base::Seq,
    wire::thin::{Alias, Draft, Hello, LinkProfile, Name, NameKind, Record, WholeEntry},
};

/// One thing asked in the thin profile. spec: thin-profile §3
#[derive(Clone, Debug)]
pub enum Thin {
    /// Who are you, what time is it.
    Hello,
    /// Append a draft.
    Append {
        /// Where.
        room: Alias,
        /// What.
        draft: Draft,
    },
    /// The visible entries of a room from a place on.
    Log {
        /// Which room.
        room: Alias,
        /// The first seq wanted.
        from: Seq,
        /// Bytes that the records may have together, encoded.
        bytes_max: u32,
    },
    /// What came in all rooms of the device.
    Inbox {
        /// After which entry; none asks for the heads of the rooms.
        after: Option<(Alias, Seq)>,
        /// Bytes that the records may have together, encoded.
        bytes_max: u32,
    },
    /// What moved beside the logs, for a push: no device asks this.
    Beside {
        /// In which room; none: in all.
        room: Option<Alias>,
        /// Since when.
        since: Beside,
        /// Bytes that the records may have together, encoded.
        bytes_max: u32,
    },
    /// An entry in full.
    Entry {
        /// Which room.
        room: Alias,
        /// Which entry.
        seq: Seq,
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
        seq: Seq,
    },
    /// This device's user is typing; 0 seconds: no more.
    Typing {
        /// Which room.
        room: Alias,
        /// For how long.
        seconds: u8,
    },
    /// What the device says of its link; kept with the device.
    LinkProfile(LinkProfile),
    /// Where to knock when something waits; none: nowhere.
    WakeHook(Option<String>),
}

impl Thin {
    /// The name, for logs, metrics and the ledger.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello => "ThinHello",
            Self::Append { .. } => "ThinAppend",
            Self::Log { .. } => "ThinLog",
            Self::Inbox { .. } => "ThinInbox",
            Self::Beside { .. } => "ThinBeside",
            Self::Entry { .. } => "ThinEntry",
            Self::Names(_) => "ThinNames",
            Self::Alias { .. } => "ThinAlias",
            Self::Read { .. } => "ThinRead",
            Self::Typing { .. } => "ThinTyping",
            Self::LinkProfile(_) => "ThinLinkProfile",
            Self::WakeHook(_) => "ThinWakeHook",
        }
    }
}

/// The answer to a [`Thin`].
#[derive(Clone, Debug)]
pub enum ThinReply {
    /// To [`Thin::Hello`].
    Hello(Hello),
    /// To [`Thin::Append`]: the entry's place; the same for a retry.
    Appended(Seq),
    /// To [`Thin::Log`] and [`Thin::Inbox`], and the receipts and typing of [`Thin::Beside`].
    Records {
        /// In order, within the budget; with the closing `Covered`, which [`Thin::Log`] always has and
        /// [`Thin::Inbox`] where there is more, or the last entries cannot be seen.
        records: Vec<Record>,
        /// The newest entry they cover, to go on from: in `Inbox` with its room.
        through: Option<(Alias, Seq)>,
        /// Whether there is more.
        more: bool,
    },
    /// To [`Thin::Entry`].
    Entry(Box<WholeEntry>),
    /// To [`Thin::Names`].
    Names(Vec<Name>),
    /// To [`Thin::Alias`].
    Alias(Alias),
    /// To everything else.
    Done,
}
