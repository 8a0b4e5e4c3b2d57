//! Rows to records. What does not read as what we wrote is damage, and says where.

use std::{fmt::Display, sync::Arc};

use ruma::{OwnedDeviceId, OwnedUserId};
use sqlx::{Decode, Row as _, Sqlite, Type, sqlite::SqliteRow};

use super::{backend, codec, damaged};
use crate::{
    base::{ChainHash, EventHash, Position, Seq, Timestamp},
    room::{Heads, Membership},
    store::{
        EventNid, EventRecord, LogRecord, Logged, MembershipRecord, RoomNid, RoomRecord, SentBy,
        StateHead, StateNid, Status, StoreError,
    },
    wire::matrix::Version,
};

/// The columns of an event `e`, in the order [`Cells::event`] reads them.
macro_rules! event_columns {
    () => {
        "e.nid, e.room, e.hash, e.seq, e.status, e.soft_failed, e.depth, e.state_after, \
         e.redacted_because, e.sent_device, e.sent_txn, e.json"
    };
}
pub(super) use event_columns;

/// The columns of a room `r`, in the order [`Cells::room`] reads them.
macro_rules! room_columns {
    () => {
        "r.nid, r.room_id, r.version, r.seq, r.chain, r.tips, r.state, r.state_size, \
         r.state_deltas, r.position"
    };
}
pub(super) use room_columns;

/// A row, read from left to right.
pub(super) struct Cells<'r> {
    row: &'r SqliteRow,
    at: usize,
}

impl<'r> Cells<'r> {
    pub(super) fn of(row: &'r SqliteRow) -> Self {
        Self { row, at: 0 }
    }

    /// The next column as it is.
    pub(super) fn next<T: Decode<'r, Sqlite> + Type<Sqlite>>(&mut self) -> Result<T, StoreError> {
        let value = self.row.try_get(self.at).map_err(|error| match error {
            sqlx::Error::ColumnDecode { .. } => damaged(error.to_string()),
            other => backend(other),
        })?;
        self.at += 1;
        Ok(value)
    }

    /// The next column as a number that is never negative.
    pub(super) fn number<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        let value: i64 = self.next()?;
        T::try_from(value).map_err(|_| self.wrong(value))
    }

    /// The next column as text with a form of its own, such as a user id.
    pub(super) fn text<T>(&mut self) -> Result<T, StoreError>
    where
        T: for<'a> TryFrom<&'a str, Error: Display>,
    {
        let value: &str = self.next()?;
        T::try_from(value).map_err(|error| self.wrong(format!("{value:?}: {error}")))
    }

    pub(super) fn hash(&mut self) -> Result<[u8; 32], StoreError> {
        let value: &[u8] = self.next()?;
        value
            .try_into()
            .map_err(|_| self.wrong(format!("{} bytes for a hash", value.len())))
    }

    pub(super) fn seq(&mut self) -> Result<Seq, StoreError> {
        self.number().map(Seq)
    }

    pub(super) fn position(&mut self) -> Result<Position, StoreError> {
        self.number().map(Position)
    }

    pub(super) fn timestamp(&mut self) -> Result<Timestamp, StoreError> {
        self.number().map(Timestamp)
    }

    /// An event's hash and number.
    pub(super) fn numbered(&mut self) -> Result<(EventHash, EventNid), StoreError> {
        Ok((EventHash(self.hash()?), EventNid(self.next()?)))
    }

    pub(super) fn event(&mut self) -> Result<EventRecord, StoreError> {
        Ok(EventRecord {
            nid: EventNid(self.next()?),
            room: RoomNid(self.next()?),
            hash: EventHash(self.hash()?),
            seq: self.optional_number()?.map(Seq),
            status: {
                let code = self.next()?;
                status_of(code).ok_or_else(|| self.wrong(code))?
            },
            soft_failed: self.next()?,
            depth: self.number()?,
            state_after: StateNid(self.next()?),
            redacted_because: self.next::<Option<i64>>()?.map(EventNid),
            sent_by: {
                let device: Option<&str> = self.next()?;
                let txn: Option<&str> = self.next()?;
                device.zip(txn).map(|(device, txn)| SentBy {
                    device: OwnedDeviceId::from(device),
                    txn: txn.to_owned(),
                })
            },
            json: Arc::from(self.next::<&str>()?),
        })
    }

    pub(super) fn room(&mut self) -> Result<RoomRecord, StoreError> {
        Ok(RoomRecord {
            nid: RoomNid(self.next()?),
            id: self.text()?,
            version: self.version()?,
            heads: Heads {
                seq: self.seq()?,
                chain: ChainHash(self.hash()?),
                tips: codec::decode_tips(self.next()?)?,
            },
            state: StateHead {
                nid: StateNid(self.next()?),
                size: self.number()?,
                deltas: self.number()?,
            },
            position: self.position()?,
        })
    }

    /// `l.seq, l.position, l.chain, l.state, l.marker` and the event, whose columns are null for a
    /// marker.
    pub(super) fn log(&mut self) -> Result<LogRecord, StoreError> {
        let seq = self.seq()?;
        let position = self.position()?;
        let chain = ChainHash(self.hash()?);
        let line: Option<i64> = self.next()?;
        let marker: Option<Vec<u8>> = self.next()?;
        let (own, what) = if let Some(bytes) = marker {
            (StateNid::default(), Logged::Marker(bytes))
        } else {
            let event = self.event()?;
            (event.state_after, Logged::Event(event))
        };
        Ok(LogRecord {
            seq,
            position,
            chain,
            state: line.map_or(own, StateNid),
            what,
        })
    }

    /// `m.user, m.room, r.room_id, m.membership, m.event, m.position, r.position, m.forgotten`.
    pub(super) fn membership(&mut self) -> Result<MembershipRecord, StoreError> {
        Ok(MembershipRecord {
            user: self.text()?,
            room: RoomNid(self.next()?),
            room_id: self.text()?,
            membership: self.membership_word()?,
            event: EventNid(self.next()?),
            position: self.position()?,
            room_position: self.position()?,
            forgotten: self.next()?,
        })
    }

    pub(super) fn membership_word(&mut self) -> Result<Membership, StoreError> {
        let code = self.next()?;
        membership_of(code).ok_or_else(|| self.wrong(code))
    }

    pub(super) fn version(&mut self) -> Result<Version, StoreError> {
        let name: &str = self.next()?;
        name.parse().map_err(|_| self.wrong(name))
    }

    pub(super) fn optional_number<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, StoreError> {
        let value: Option<i64> = self.next()?;
        value
            .map(|value| T::try_from(value).map_err(|_| self.wrong(value)))
            .transpose()
    }

    fn wrong(&self, value: impl Display) -> StoreError {
        use sqlx::Column as _;
        let column = self.row.columns().get(self.at.saturating_sub(1));
        let name = column.map_or("?", |column| column.name());
        damaged(format!("column `{name}` holds {value}"))
    }
}

pub(super) fn user_of(row: &SqliteRow) -> Result<OwnedUserId, StoreError> {
    Cells::of(row).text()
}

pub(super) fn all<T>(
    rows: &[SqliteRow],
    read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(read).collect()
}

pub(super) fn status_code(status: Status) -> i64 {
    match status {
        Status::Accepted => 0,
        Status::Outlier => 1,
        Status::Rejected => 2,
    }
}

fn status_of(code: i64) -> Option<Status> {
    [Status::Accepted, Status::Outlier, Status::Rejected]
        .into_iter()
        .find(|status| status_code(*status) == code)
}

pub(super) fn membership_code(membership: Membership) -> i64 {
    match membership {
        Membership::Leave => 0,
        Membership::Join => 1,
        Membership::Invite => 2,
        Membership::Ban => 3,
        Membership::Knock => 4,
    }
}

fn membership_of(code: i64) -> Option<Membership> {
    [
        Membership::Leave,
        Membership::Join,
        Membership::Invite,
        Membership::Ban,
        Membership::Knock,
    ]
    .into_iter()
    .find(|membership| membership_code(*membership) == code)
}

/// A number as SQLite keeps it: up to 2^63 - 1.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
