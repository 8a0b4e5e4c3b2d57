//! What a store keeps for other servers: who is in which room, how far each was told, what waits for
//! one of them, and what went wrong.
//!
//! Nothing is kept per message and recipient: that a server was told an event follows from its
//! [`Mark`]. Rows are for the exceptions.

use async_trait::async_trait;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::{
    base::{Position, Seq, Timestamp},
    store::{KeysChange, RoomNid, StoreError},
};

/// A place among all entries of all logs, in the order in which destinations are told: by commit,
/// then by room, then by entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The commit.
    pub position: Position,
    /// The room.
    pub room: RoomNid,
    /// The entry.
    pub seq: Seq,
}

impl Mark {
    /// Behind everything of a commit.
    pub const fn after(position: Position) -> Self {
        Self {
            position,
            room: RoomNid(i64::MAX),
            seq: Seq(i64::MAX as u64),
        }
    }
}

/// A server that is told things, and how far it has been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRecord {
    /// Who.
    pub server: OwnedServerName,
    /// Up to here it was told all entries that are for it.
    pub mark: Mark,
    /// Up to here it was told receipts and changed devices.
    pub beside: Position,
    /// Since when it takes nothing.
    pub failing_since: Option<Timestamp>,
}

/// How long a server had users in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    /// From this entry on.
    pub since: Seq,
    /// Up to this entry; none while it has.
    pub until: Option<Seq>,
}

impl Residency {
    /// Whether the server is told an entry.
    pub fn covers(&self, seq: Seq) -> bool {
        self.since <= seq && self.until.is_none_or(|until| seq <= until)
    }
}

/// Something for one server that is in no log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParcelRecord {
    /// The commit that stored it, and its place there.
    pub place: (Position, u64),
    /// When it was written.
    pub at: Timestamp,
    /// `{"edu_type", "content"}` as JSON.
    pub edu: String,
}

/// An entry on its way to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// The server.
    pub server: OwnedServerName,
    /// How far it was told.
    pub mark: Mark,
    /// Why it did not take this entry.
    pub refused: Option<String>,
    /// Whether this entry was given up, because the server was not reached for too long.
    pub expired: bool,
    /// Whether this entry was passed over, if it is no ACL, because the room had come to keep the
    /// server out.
    pub withheld: bool,
}

/// One thing to write about what other servers are told.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "fields are named after the records they become"
)]
pub enum OutboxWrite {
    /// With the entry `seq`, memberships of users of these servers changed: notes who has come and
    /// who has gone. `told`: one of them that has no users in the room is told this entry all the
    /// same.
    Residents {
        room: RoomNid,
        seq: Seq,
        servers: Vec<OwnedServerName>,
        told: bool,
    },
    /// The entry is of another server's event, and this one tells the others.
    Relay { room: RoomNid, seq: Seq },
    /// How far a server was told.
    Destination(DestinationRecord),
    /// A server has its parcels up to `upto`.
    ParcelsSent {
        to: OwnedServerName,
        upto: (Position, u64),
    },
    /// A server did not take an entry.
    Refused {
        server: OwnedServerName,
        room: RoomNid,
        seq: Seq,
        reason: String,
        at: Timestamp,
    },
    /// What is after `from` and not after `to` was given up for a server.
    Expired {
        server: OwnedServerName,
        from: Mark,
        to: Mark,
        at: Timestamp,
    },
    /// From the entry `from` to `to` of a room nothing was told to a server but ACLs, because the room
    /// had come to keep it out. Of two that begin alike, the longer is kept.
    Withheld {
        server: OwnedServerName,
        room: RoomNid,
        from: Seq,
        to: Seq,
        at: Timestamp,
    },
    /// What went wrong before `before` may be forgotten.
    ForgetFailures { before: Timestamp },
}

/// What other servers are told.
#[async_trait]
pub trait Destinations: Send + Sync + 'static {
    /// All destinations, those included that are in a room or have a parcel waiting and were never
    /// told anything.
    async fn destinations(&self) -> Result<Vec<DestinationRecord>, StoreError>;

    /// The rooms of one server, or of all, that may have entries after its mark.
    async fn backlog(
        &self,
        server: Option<&ServerName>,
    ) -> Result<Vec<(OwnedServerName, RoomNid)>, StoreError>;

    /// The servers that have users in a room.
    async fn residents(&self, room: RoomNid) -> Result<Vec<OwnedServerName>, StoreError>;

    /// The servers that have users in a room that `user` is joined to, at most `limit`.
    async fn neighbour_servers(
        &self,
        user: &UserId,
        limit: u32,
    ) -> Result<Vec<OwnedServerName>, StoreError>;

    /// When a server had users in a room.
    async fn residencies(
        &self,
        server: &ServerName,
        room: RoomNid,
    ) -> Result<Vec<Residency>, StoreError>;

    /// The entries with `from <= seq <= to` that are relayed.
    async fn relayed(&self, room: RoomNid, from: Seq, to: Seq) -> Result<Vec<Seq>, StoreError>;

    /// The first parcels that wait for a server after a place.
    async fn parcels(
        &self,
        server: &ServerName,
        after: (Position, u64),
        limit: u32,
    ) -> Result<Vec<ParcelRecord>, StoreError>;

    /// The rooms that a server has users in and that have receipts after `since`.
    async fn receipt_rooms(
        &self,
        server: &ServerName,
        since: Position,
    ) -> Result<Vec<RoomNid>, StoreError>;

    /// The users joined to a room that a server has users in whose devices or cross-signing keys
    /// changed in `since < position <= to`, in this order, with what it was.
    async fn devices_changed_for(
        &self,
        server: &ServerName,
        since: Position,
        to: Position,
    ) -> Result<Vec<(Position, OwnedUserId, KeysChange)>, StoreError>;

    /// The servers that an entry is for, with what is known of each.
    async fn deliveries(&self, room: RoomNid, seq: Seq) -> Result<Vec<DeliveryRecord>, StoreError>;

    /// Those of some entries, a few dozen, that a server that they may be for did not take or was not told
    /// in the end.
    async fn lost(&self, room: RoomNid, seqs: &[Seq]) -> Result<Vec<Seq>, StoreError>;
}
