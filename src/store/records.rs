//! What is read.

use std::{
    sync::Arc,
    sync::atomic::{AtomicI64, Ordering},
};

use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId,
};

use super::StoreError;
use crate::{
    api::{OscoreLink, Secret},
    base::{ChainHash, EventHash, Position, Seq, Timestamp},
    room::{Heads, Membership},
    wire::{
        matrix::{Pdu, PduError, Version},
        thin::LinkProfile,
    },
};

/// A room's row number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomNid(pub i64);

/// An event's row number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventNid(pub i64);

/// A state's row number. 0 is the empty state, which has no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateNid(pub i64);

/// The next free row numbers. Taken without waiting, so that shards can stage side by side.
#[derive(Debug, Default)]
pub struct Numbers {
    room: AtomicI64,
    event: AtomicI64,
    state: AtomicI64,
}

impl Numbers {
    /// Numbers that continue after the largest ones stored.
    pub fn after(room: RoomNid, event: EventNid, state: StateNid) -> Self {
        Self {
            room: AtomicI64::new(room.0),
            event: AtomicI64::new(event.0),
            state: AtomicI64::new(state.0),
        }
    }

    /// A number for a new room.
    pub fn room(&self) -> RoomNid {
        RoomNid(self.room.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A number for a new event.
    pub fn event(&self) -> EventNid {
        EventNid(self.event.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A number for a new state.
    pub fn state(&self) -> StateNid {
        StateNid(self.state.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// A room's current state and what coding it has cost, so that the writer can tell when a
/// snapshot is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateHead {
    /// The state.
    pub nid: StateNid,
    /// How many events it holds.
    pub size: u32,
    /// How many deltas follow the last snapshot.
    pub deltas: u32,
}

impl StateHead {
    /// Whether the next delta comes with a snapshot: when the deltas weigh as much as one.
    ///
    /// So a state costs the same per event in a large room as in a small one, and reading one
    /// never costs more than twice its size.
    pub fn snapshot_due(self) -> bool {
        self.deltas >= self.size.max(SNAPSHOT_DELTAS_MIN)
    }
}

/// How many deltas always fit between two snapshots.
pub const SNAPSHOT_DELTAS_MIN: u32 = 64;

/// A room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRecord {
    /// Its number.
    pub nid: RoomNid,
    /// Its id.
    pub id: OwnedRoomId,
    /// Its version.
    pub version: Version,
    /// Where its log and graph stand.
    pub heads: Heads,
    /// Its current state.
    pub state: StateHead,
    /// The position of its last entry.
    pub position: Position,
}

/// What an event is to the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Part of the graph.
    Accepted,
    /// Known, but without the graph around it.
    Outlier,
    /// Refused by the authorization rules; never part of state.
    Rejected,
}

/// The device that sent an event here, and its transaction id: only that device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentBy {
    /// The device.
    pub device: OwnedDeviceId,
    /// Its transaction id.
    pub txn: String,
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// Its number.
    pub nid: EventNid,
    /// Its room.
    pub room: RoomNid,
    /// Its reference hash.
    pub hash: EventHash,
    /// Its place in the log; soft-failed and backfilled events have none.
    pub seq: Option<Seq>,
    /// What it is to the room.
    pub status: Status,
    /// Whether it is in the graph but hidden from readers.
    pub soft_failed: bool,
    /// Its depth.
    pub depth: u64,
    /// The room's state after it.
    pub state_after: StateNid,
    /// The event that redacted it, when one did; `json` is then what redaction left.
    pub redacted_because: Option<EventNid>,
    /// The local device that sent it.
    pub sent_by: Option<SentBy>,
    /// Its exact bytes.
    pub json: Arc<str>,
}

impl EventRecord {
    /// The event as a typed value.
    pub fn pdu(&self, room: &RoomRecord) -> Result<Pdu, PduError> {
        Pdu::stored(self.hash, &room.id, Arc::clone(&self.json), room.version)
    }
}

/// Which pieces of a state are read, by their type.
#[derive(Clone, Copy, Debug)]
pub enum Kinds<'a> {
    /// Those of these types, a handful.
    Only(&'a [&'a str]),
    /// All but those of these types, a handful.
    Without(&'a [&'a str]),
}

impl Kinds<'_> {
    /// Whether a type is wanted.
    pub fn want(&self, kind: &str) -> bool {
        match self {
            Self::Only(kinds) => kinds.contains(&kind),
            Self::Without(kinds) => !kinds.contains(&kind),
        }
    }
}

/// The direction in which a log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

/// An entry of a room's log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    /// Its number.
    pub seq: Seq,
    /// The commit that stored it.
    pub position: Position,
    /// The chain up to it.
    pub chain: ChainHash,
    /// The room's current state after it; where the graph has branches, another one than the
    /// event's own.
    pub state: StateNid,
    /// What it is.
    pub what: Logged,
}

/// What an entry of the log is.
#[derive(Clone, Debug, PartialEq)]
pub enum Logged {
    /// An event.
    Event(EventRecord),
    /// A change of current state that no event of this log made (state resolution); its bytes.
    Marker(Vec<u8>),
}

/// A user's membership of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipRecord {
    /// The user.
    pub user: OwnedUserId,
    /// The room's number.
    pub room: RoomNid,
    /// The room's id.
    pub room_id: OwnedRoomId,
    /// The membership.
    pub membership: Membership,
    /// The event that made it so.
    pub event: EventNid,
    /// When this membership was stored.
    pub position: Position,
    /// When the room's newest entry was stored.
    pub room_position: Position,
    /// Whether the user has forgotten the room.
    pub forgotten: bool,
}

/// What a user of this hub is to a room that it is not in. Another server said so: nothing of it is
/// part of a room. Where a [`MembershipRecord`] was stored later, that is what counts.
#[derive(Clone, PartialEq, Eq)]
pub struct OutsideRecord {
    /// The user.
    pub user: OwnedUserId,
    /// The room.
    pub room_id: OwnedRoomId,
    /// Invited, knocking, or out again.
    pub membership: Membership,
    /// The room's version.
    pub version: Version,
    /// The server through which the room is reached.
    pub via: OwnedServerName,
    /// The event that made it so, its exact bytes.
    pub event: Arc<str>,
    /// What the room shows of itself: a JSON array of stripped state.
    pub state: Arc<str>,
    /// When this was stored.
    pub position: Position,
}

impl std::fmt::Debug for OutsideRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = self.membership.as_str();
        write!(f, "{} {word} {} {}", self.user, self.room_id, self.position) // no content in logs
    }
}

/// What identifies one request of one device for good.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnKey {
    /// The user.
    pub user: OwnedUserId,
    /// The device.
    pub device: OwnedDeviceId,
    /// The endpoint with its path parameters but the last, such as `send !room m.room.message`.
    pub endpoint: String,
    /// The transaction id.
    pub txn: String,
}

/// What a transaction was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnAnswer {
    /// The event it made.
    Event(OwnedEventId),
    /// Done, with nothing to tell.
    Done,
}

/// What this hub decided on an event as a room's policy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDecision {
    /// Why it was refused, with its code in front; none: it was signed.
    pub refused: Option<String>,
}

/// An alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasRecord {
    /// The alias.
    pub alias: OwnedRoomAliasId,
    /// The room it names.
    pub room: RoomNid,
    /// The room's id.
    pub room_id: OwnedRoomId,
    /// Who made it.
    pub creator: OwnedUserId,
}

/// A room in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRecord {
    /// The room.
    pub room: RoomRecord,
    /// How many users are joined.
    pub joined: u64,
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRecord {
    /// Whose.
    pub user: OwnedUserId,
    /// `m.read`, `m.read.private`.
    pub kind: String,
    /// The thread; empty for an unthreaded receipt.
    pub thread: String,
    /// Up to which event.
    pub event: OwnedEventId,
    /// When it was sent.
    pub at: Timestamp,
    /// When it was stored.
    pub position: Position,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rooms.
    pub rooms: u64,
    /// Events.
    pub events: u64,
    /// Accounts.
    pub users: u64,
}

/// An account.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// Whose.
    pub user: OwnedUserId,
    /// The password as a PHC string; none when the account has no password.
    pub password: Option<String>,
    /// Whether it is an operator's.
    pub admin: bool,
    /// Whether the operator has disabled it: nobody logs in to it, and no token of it is known.
    pub disabled: bool,
    /// When it was made.
    pub created: Timestamp,
}

impl std::fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UserRecord({})", self.user) // the hash stays out of logs
    }
}

/// An account among others, with what an operator wants to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSummary {
    /// Whose.
    pub user: OwnedUserId,
    /// Whether it is an operator's.
    pub admin: bool,
    /// Whether the operator has disabled it.
    pub disabled: bool,
    /// When it was made.
    pub created: Timestamp,
    /// How many devices are logged in.
    pub devices: u64,
    /// When one of these was last seen, to the minute or so.
    pub seen: Option<Timestamp>,
}

/// Who a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The user.
    pub user: OwnedUserId,
    /// The device.
    pub device: OwnedDeviceId,
    /// Whether the account is an operator's.
    pub admin: bool,
}

/// A piece of account data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountDataRecord {
    /// The room, unless it is global.
    pub room: Option<OwnedRoomId>,
    /// Its type.
    pub kind: String,
    /// Its content, JSON.
    pub json: String,
    /// When it was stored.
    pub position: Position,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its id.
    pub device: OwnedDeviceId,
    /// Its name, as its user set it.
    pub name: Option<String>,
    /// When it was last seen, to the minute or so.
    pub seen: Option<Timestamp>,
    /// From which address.
    pub seen_at: Option<String>,
}

/// A device's identity keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceKeysRecord {
    /// The device.
    pub device: OwnedDeviceId,
    /// The device's name.
    pub name: Option<String>,
    /// The signed object as uploaded, JSON.
    pub json: String,
}

/// How much waits in a device's mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailWaiting {
    /// All of it.
    pub all: Pile,
    /// What came from other servers.
    pub elsewhere: Pile,
    /// What came from the one that was asked for.
    pub origin: Pile,
}

/// Some messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pile {
    /// How many.
    pub count: u64,
    /// Their bytes altogether.
    pub bytes: u64,
}

/// A message in a device's mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailRecord {
    /// When it was stored.
    pub position: Position,
    /// `{"type", "sender", "content"}` as JSON.
    pub json: String,
}

/// The link of a device: the keys it is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRecord {
    /// Whose, and its OSCORE context.
    pub oscore: OscoreLink,
    /// How often the store had been restored when the context was agreed.
    pub generation: u64,
    /// Its PSK identity.
    pub psk_identity: String,
    /// Its PSK.
    pub psk: Secret,
    /// What its EDHOC key is known by.
    pub edhoc_kid: Vec<u8>,
    /// Its static EDHOC public key, x coordinate; none when it has none.
    pub edhoc_public_x: Option<[u8; 32]>,
    /// Its QUIC public key as `SubjectPublicKeyInfo`; none when it has none.
    pub quic_spki: Option<Vec<u8>>,
    /// What it says of its link.
    pub profile: LinkProfile,
    /// Where to knock when something waits.
    pub wake_url: Option<String>,
}

/// The most durable registrations of one context: a device follows its inbox and a few rooms.
pub const REGISTRATIONS_PER_CONTEXT_MAX: u32 = 16;

/// A stored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaRecord {
    /// Its media id.
    pub id: String,
    /// Who uploaded it.
    pub user: OwnedUserId,
    /// SHA-256 of its bytes: its name on disk.
    pub hash: [u8; 32],
    /// Its length in bytes.
    pub size: u64,
    /// Its media type, as the uploader said.
    pub content_type: Option<String>,
    /// Its name, as the uploader said.
    pub filename: Option<String>,
    /// When it was stored.
    pub created: Timestamp,
}

/// A row of what is known of files, readable or not.
#[derive(Debug)]
pub struct MediaRow {
    /// The bytes of its media id, where the next read goes on; they need not be text.
    pub key: Vec<u8>,
    /// What it says, or why it cannot be read.
    pub record: Result<MediaRecord, StoreError>,
}
