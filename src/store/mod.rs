//! Durable truth behind small traits: «a line over a graph».
//!
//! *Events* are kept by id with their exact bytes, edges, status and the state after them; the
//! *log* maps a room's seq to an event or a marker in acceptance order; every commit takes one
//! hub-wide *position*. Rules live elsewhere: a store keeps what it is told, all of a batch or
//! none of it, and tells it back.
//!
//! Look at [`records`] for what is read, [`write`] for what is written, [`sqlite`] for the default
//! backend and [`contract`] for the tests every backend passes. [`memory`] and [`faulty`] are for
//! tests and the simulation; [`fsck`] checks any store against itself; [`media`] keeps files.

pub mod contract;
mod cross_signing;
pub mod faulty;
pub mod fsck;
pub mod marker;
pub mod media;
pub mod media_elsewhere;
pub mod memory;
mod outbox;
mod reads;
pub mod records;
mod remote;
mod servers;
pub mod sqlite;
mod thin;
pub mod write;

use std::sync::Arc;

use async_trait::async_trait;
use ruma::{EventId, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use thiserror::Error;

pub use cross_signing::{
    CrossSigning, CrossSigningKeys, CrossSigningWrite, KeySignature, KeysChange, Usage,
};
pub use marker::{Change, Marker};
pub use outbox::*;
pub use records::*;
pub use remote::*;
pub use servers::{KEYS_OF_SERVERS_MAX, Servers, StrayRow};
pub use thin::{ALIASES_MAX, ThinDevices, first_alias};
pub use write::*;

use crate::{
    api::{DeviceName, Registration},
    base::{EventHash, Position, Seq},
    room::StateKey,
};

/// A store that could not do what it was asked; ours to fix.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database or the disk said no.
    #[error("the store failed: {0}")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored contradicts itself.
    #[error("the store is damaged: {what}")]
    Damaged {
        /// Where and how.
        what: String,
    },
}

/// A commit that did not happen, or may not have.
#[derive(Debug, Error)]
pub enum CommitError {
    /// Nothing of it was stored.
    #[error("nothing was stored: {0}")]
    Failed(#[source] StoreError),
    /// Whether it was stored is not known: drop what is staged and read again.
    #[error("whether it was stored is not known: {0}")]
    Unknown(#[source] StoreError),
}

/// A store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is taken: a hub runs here already, or another verb works on the store")]
    Locked {
        /// The locked file.
        path: String,
    },
    /// It was made by another program, or by a version of this one that wrote another format.
    #[error("{what}")]
    Format {
        /// What it is, and what this program reads: a sentence.
        what: String,
    },
    /// It is the copy of a backup, which becomes a store when it is restored.
    #[error(
        "this is the store of a backup, and no hub's before `tramline restore` makes one of it"
    )]
    Backup,
    /// It belongs to another server.
    #[error("the store belongs to {found}, not to {wanted}")]
    OtherServer {
        /// Whose it is.
        found: String,
        /// Who we are.
        wanted: String,
    },
    /// It was served with another signing key.
    #[error("the store was served with the signing key {expected}, not with {found}")]
    OtherKey {
        /// The id of the key it was first served with.
        expected: String,
        /// The id of the one we have.
        found: String,
    },
    /// Anything else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The public half of the key a hub signs with, as a store remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKeyNote {
    /// Its Matrix key id, like `ed25519:a1b2c3d4`.
    pub id: String,
    /// Its bytes.
    pub public: [u8; 32],
}

/// Everything the hub keeps. One process owns a store.
pub trait Store:
    Commits
    + Rooms
    + Accounts
    + Devices
    + CrossSigning
    + RemoteUsers
    + LinkedDevices
    + ThinDevices
    + MediaIndex
    + Destinations
    + Servers
{
}
impl<
    T: Commits
        + Rooms
        + Accounts
        + Devices
        + CrossSigning
        + RemoteUsers
        + LinkedDevices
        + ThinDevices
        + MediaIndex
        + Destinations
        + Servers,
> Store for T
{
}

/// The write side. Only the one committer calls [`Commits::commit`].
#[async_trait]
pub trait Commits: Send + Sync + 'static {
    /// Stores every batch that does not conflict, in order, in one fsynced transaction, at the
    /// next position. When this returns, it survives a power cut.
    async fn commit(&self, batches: &[Batch]) -> Result<Committed, CommitError>;

    /// The position of the last commit.
    async fn position(&self) -> Result<Position, StoreError>;

    /// Fresh row numbers: never given twice, also not across restarts. Gaps are harmless.
    fn numbers(&self) -> &Numbers;

    /// Nothing is stored at the moment: gives back the memory that is only there to be quick.
    async fn rest(&self) {}
}

/// Rooms: events, state, the log.
#[async_trait]
pub trait Rooms: Send + Sync + 'static {
    /// A room by its id.
    async fn room(&self, id: &RoomId) -> Result<Option<RoomRecord>, StoreError>;

    /// A room by its number.
    async fn room_by_nid(&self, nid: RoomNid) -> Result<Option<RoomRecord>, StoreError>;

    /// Every room's id, for fsck and export, ascending by number after `after`.
    async fn rooms(&self, after: RoomNid, limit: u32) -> Result<Vec<RoomRecord>, StoreError>;

    /// The numbers of rooms, ascending after `after`; also of those whose rows cannot be read.
    async fn room_numbers(&self, after: RoomNid, limit: u32) -> Result<Vec<RoomNid>, StoreError>;

    /// An event by its id, in whichever room.
    async fn event(&self, id: EventHash) -> Result<Option<EventRecord>, StoreError>;

    /// Events by number, in the order asked for; missing ones are left out.
    async fn events(&self, nids: &[EventNid]) -> Result<Vec<EventRecord>, StoreError>;

    /// Which of some events are stored, and under which numbers, in no order.
    async fn numbered(&self, ids: &[EventHash]) -> Result<Vec<(EventHash, EventNid)>, StoreError>;

    /// Pieces of a room's current state, in the order asked for.
    async fn current(
        &self,
        room: RoomNid,
        keys: &[StateKey],
    ) -> Result<Vec<Option<EventRecord>>, StoreError>;

    /// A room's whole current state, or only the events of one type.
    async fn current_all(
        &self,
        room: RoomNid,
        kind: Option<&str>,
    ) -> Result<Vec<EventRecord>, StoreError>;

    /// The events that make up a state, as numbers, ascending.
    async fn state(&self, state: StateNid) -> Result<Vec<EventNid>, StoreError>;

    /// Which of a few events are in a state, in no order.
    async fn in_state(
        &self,
        state: StateNid,
        events: &[EventNid],
    ) -> Result<Vec<EventNid>, StoreError>;

    /// The events of a state of `room` by their type, ascending by number. What is of no wanted
    /// type costs nothing, or next to it.
    async fn state_events(
        &self,
        room: RoomNid,
        state: StateNid,
        kinds: Kinds<'_>,
    ) -> Result<Vec<EventRecord>, StoreError>;

    /// Pieces of a state of `room`, in the order asked for.
    async fn state_entries(
        &self,
        room: RoomNid,
        state: StateNid,
        keys: &[StateKey],
    ) -> Result<Vec<Option<EventRecord>>, StoreError>;

    /// Entries of a room's log with `from < seq <= to`, in `order`, at most `limit`.
    async fn log(
        &self,
        room: RoomNid,
        from: Seq,
        to: Seq,
        order: Order,
        limit: u32,
    ) -> Result<Vec<LogRecord>, StoreError>;

    /// The last entry of a room's log stored at or before `position`.
    async fn seq_at(&self, room: RoomNid, position: Position) -> Result<Seq, StoreError>;

    /// Events with a place but no seq (history from before our join, late gap-fills), anchored
    /// before the entry `anchor`, by depth; `limit` of them after the first `skip`.
    async fn places(
        &self,
        room: RoomNid,
        anchor: Seq,
        order: Order,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError>;

    /// Which entries with `from < seq <= to` have events with a place anchored before them; newest
    /// first, at most `limit`.
    async fn anchors(
        &self,
        room: RoomNid,
        from: Seq,
        to: Seq,
        limit: u32,
    ) -> Result<Vec<Seq>, StoreError>;

    /// One membership.
    async fn membership(
        &self,
        user: &UserId,
        room: RoomNid,
    ) -> Result<Option<MembershipRecord>, StoreError>;

    /// All of a user's memberships that are not forgotten; or only those changed after `since`,
    /// forgotten or not, and of those not forgotten the ones in rooms with something new after it.
    /// Costs what is new, not what there is.
    async fn memberships(
        &self,
        user: &UserId,
        since: Option<Position>,
    ) -> Result<Vec<MembershipRecord>, StoreError>;

    /// The joined users of a room whose id ends in `:server`, or all.
    async fn joined(
        &self,
        room: RoomNid,
        server: Option<&ServerName>,
    ) -> Result<Vec<OwnedUserId>, StoreError>;

    /// The users of `server` who are told of news in a room: joined, invited or knocking.
    async fn audience(
        &self,
        room: RoomNid,
        server: &ServerName,
    ) -> Result<Vec<OwnedUserId>, StoreError>;

    /// Users who share a joined room with `user`, bounded by `limit`.
    async fn neighbours(&self, user: &UserId, limit: u32) -> Result<Vec<OwnedUserId>, StoreError>;

    /// Whether two users are joined to one room.
    async fn share_a_room(&self, one: &UserId, other: &UserId) -> Result<bool, StoreError>;

    /// What a transaction key was answered with.
    async fn txn(&self, key: &TxnKey) -> Result<Option<TxnAnswer>, StoreError>;

    /// Endpoint and transaction id of every answered transaction of a device.
    async fn txns(
        &self,
        user: &UserId,
        device: &ruma::DeviceId,
    ) -> Result<Vec<(String, String)>, StoreError>;

    /// What was decided on an event, where this hub is a room's policy server.
    async fn policy_decision(&self, event: EventHash)
    -> Result<Option<PolicyDecision>, StoreError>;

    /// The room an alias names, and who made the alias.
    async fn alias(&self, alias: &RoomAliasId) -> Result<Option<AliasRecord>, StoreError>;

    /// The aliases of a room.
    async fn aliases(&self, room: RoomNid) -> Result<Vec<AliasRecord>, StoreError>;

    /// What a user is to rooms that this hub is not in, as stored after `since`, by room id.
    async fn outside(
        &self,
        user: &UserId,
        since: Position,
    ) -> Result<Vec<OutsideRecord>, StoreError>;

    /// What a user is to one of them.
    async fn outside_of(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Option<OutsideRecord>, StoreError>;

    /// Whether everyone may find a room in the directory.
    async fn is_listed(&self, room: RoomNid) -> Result<bool, StoreError>;

    /// The rooms of the directory that someone is joined to, at most `limit`: those with the most
    /// first, of equals the older; only what comes after `after` in this order. Costs the members
    /// of all rooms in the directory.
    async fn listed(
        &self,
        after: Option<(u64, RoomNid)>,
        limit: u32,
    ) -> Result<Vec<ListedRecord>, StoreError>;

    /// The receipts of a room changed after `since`.
    async fn receipts(
        &self,
        room: RoomNid,
        since: Position,
    ) -> Result<Vec<ReceiptRecord>, StoreError>;

    /// A user's newest receipts in a room (`m.read` and `m.read.private`, any thread).
    async fn receipts_of(
        &self,
        room: RoomNid,
        user: &UserId,
    ) -> Result<Vec<ReceiptRecord>, StoreError>;

    /// How much there is, for metrics and `status`.
    async fn totals(&self) -> Result<Totals, StoreError>;
}

/// Accounts, their profiles, settings and sessions.
#[async_trait]
pub trait Accounts: Send + Sync + 'static {
    /// An account.
    async fn user(&self, user: &UserId) -> Result<Option<UserRecord>, StoreError>;

    /// Accounts in the order of their ids after `after`, at most `limit`.
    async fn users(
        &self,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserSummary>, StoreError>;

    /// The device a token belongs to, by the token's SHA-256; nothing while the account is
    /// disabled.
    async fn session(&self, token: &[u8; 32]) -> Result<Option<SessionRecord>, StoreError>;

    /// A user's profile: field to JSON value.
    async fn profile(&self, user: &UserId) -> Result<Vec<(String, String)>, StoreError>;

    /// Account data (global when `room` is none) changed after `since`.
    async fn account_data(
        &self,
        user: &UserId,
        since: Position,
    ) -> Result<Vec<AccountDataRecord>, StoreError>;

    /// One piece of account data, as JSON.
    async fn account_data_of(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        kind: &str,
    ) -> Result<Option<String>, StoreError>;

    /// A stored filter, as JSON.
    async fn filter(&self, user: &UserId, id: u64) -> Result<Option<String>, StoreError>;
}

/// Devices, their keys and their mailboxes.
#[async_trait]
pub trait Devices: Send + Sync + 'static {
    /// A user's devices.
    async fn devices(&self, user: &UserId) -> Result<Vec<DeviceRecord>, StoreError>;

    /// Device keys of a user's devices, as JSON.
    async fn device_keys(&self, user: &UserId) -> Result<Vec<DeviceKeysRecord>, StoreError>;

    /// One-time keys left, by algorithm.
    async fn one_time_counts(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Vec<(String, u64)>, StoreError>;

    /// A one-time key as uploaded, to tell a repeated upload from a changed one.
    async fn one_time_key(
        &self,
        user: &UserId,
        device: &str,
        key_id: &str,
    ) -> Result<Option<String>, StoreError>;

    /// Algorithms of which an unused fallback key is there.
    async fn unused_fallbacks(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Vec<String>, StoreError>;

    /// Users sharing a joined room with `user` (and `user`) whose devices changed in
    /// `since < position <= to`.
    async fn device_changes(
        &self,
        user: &UserId,
        since: Position,
        to: Position,
    ) -> Result<Vec<OwnedUserId>, StoreError>;

    /// How much waits for a device: all of it, what came from other servers, and from `origin`.
    async fn mail_waiting(
        &self,
        user: &UserId,
        device: &str,
        origin: Option<&ServerName>,
    ) -> Result<MailWaiting, StoreError>;

    /// A device's waiting messages in `after < position <= to`, oldest first, at most `limit`.
    async fn mail(
        &self,
        user: &UserId,
        device: &str,
        after: Position,
        to: Position,
        limit: u32,
    ) -> Result<Vec<MailRecord>, StoreError>;
}

/// Devices that are recognised by a key.
#[async_trait]
pub trait LinkedDevices: Send + Sync + 'static {
    /// The link of a device.
    async fn link(&self, user: &UserId, device: &str) -> Result<Option<LinkRecord>, StoreError>;

    /// The link whose OSCORE context a kid names, also when a restore has made it void.
    async fn link_by_recipient(
        &self,
        recipient_id: &[u8],
    ) -> Result<Option<LinkRecord>, StoreError>;

    /// The link whose EDHOC credential a kid names.
    async fn link_by_kid(&self, kid: &[u8]) -> Result<Option<LinkRecord>, StoreError>;

    /// All links, in order after `after`.
    async fn links(
        &self,
        after: Option<&DeviceName>,
        limit: u32,
    ) -> Result<Vec<LinkRecord>, StoreError>;

    /// The device, if it is linked and its account is not disabled.
    async fn linked_session(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Option<SessionRecord>, StoreError>;

    /// All durable registrations.
    async fn registrations(&self) -> Result<Vec<Registration>, StoreError>;

    /// How often this store was restored from a backup. A context that was agreed before the last
    /// time is void: sequence numbers may have been used that the backup does not know.
    async fn restores(&self) -> Result<u64, StoreError>;
}

/// What is known of stored files; the bytes are in [`crate::store::media`].
#[async_trait]
pub trait MediaIndex: Send + Sync + 'static {
    /// A file by its media id.
    async fn media(&self, id: &str) -> Result<Option<MediaRecord>, StoreError>;

    /// What is known of every file, by media id after `after`, for fsck: rows that cannot be read
    /// are told with why, and do not hide the ones after them.
    async fn media_rows(&self, after: &[u8], limit: u32) -> Result<Vec<MediaRow>, StoreError>;

    /// How many bytes a user has uploaded.
    async fn media_used(&self, user: &UserId) -> Result<u64, StoreError>;
}

/// A store the hub shares with nobody outside this process.
pub type SharedStore = Arc<dyn Store>;

/// The event hash of an id, or nothing for an id that cannot be one of ours.
pub fn hash_of(id: &EventId) -> Option<EventHash> {
    crate::wire::matrix::event_hash(id)
}
