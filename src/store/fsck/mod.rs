//! Checks a store against itself: every log, chain, event id and current state is worked out anew
//! and compared with what is stored. It changes nothing and never stops at the first finding.
//!
//! It reads through the [`Store`] traits alone, so it checks any backend. Events without a seq are
//! seen only where a state or a tip leads to them.

mod room;

#[cfg(test)]
mod tests;

use ruma::{OwnedEventId, OwnedUserId};
use thiserror::Error;

use crate::{
    base::{ChainHash, EventHash, Position, Seq},
    room::{Membership, StateKey},
    store::{EventNid, RoomNid, StateNid, Store, StoreError},
};

/// How far a check has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rooms checked.
    pub rooms: u64,
    /// Rooms there are.
    pub rooms_all: u64,
    /// Log entries checked.
    pub entries: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How far it came.
    pub checked: Progress,
    /// What is wrong, the first [`FINDINGS_MAX`] of it.
    pub findings: Vec<Finding>,
    /// How much more is wrong.
    pub more: u64,
}

/// How many findings a report keeps: enough to see a pattern, and a store in ruins still fits.
pub const FINDINGS_MAX: usize = 10_000;

/// Something wrong in a room.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{room}{}: {what}", at(.seq.as_ref()))]
pub struct Finding {
    /// The room's id, or its number when not even its row can be read.
    pub room: String,
    /// The entry, when it is about one.
    pub seq: Option<Seq>,
    /// What was expected and what was found.
    pub what: Wrong,
}

fn at(seq: Option<&Seq>) -> String {
    seq.map_or_else(String::new, |seq| format!(" entry {seq}"))
}

/// What can be wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is said by its message")]
pub enum Wrong {
    #[error("it is missing from the log")]
    Missing,
    #[error("the log goes on after the head {head}")]
    PastHead { head: Seq },
    #[error("it cannot be read: {why}")]
    Unreadable { why: String },
    #[error("its position is {found}, after {before} and up to {last} was expected")]
    Position {
        before: Position,
        last: Position,
        found: Position,
    },
    #[error("its chain is {found}, {expected} was expected")]
    Chain {
        expected: ChainHash,
        found: ChainHash,
    },
    #[error("the head's chain is {found}, that of the last entry is {expected}")]
    HeadChain {
        expected: ChainHash,
        found: ChainHash,
    },
    #[error("its bytes have the id {found:?}, it is stored as {expected:?}")]
    EventId {
        expected: EventHash,
        found: EventHash,
    },
    #[error("its content was changed: its bytes hash to {found}, they say {expected:?}")]
    Content {
        expected: Option<String>,
        found: String,
    },
    #[error("its event is noted for room {} and seq {seq:?}", room.0)]
    Misplaced { room: RoomNid, seq: Option<Seq> },
    #[error("current {key} is {found:?}, the log makes it {expected:?}")]
    Current {
        key: StateKey,
        expected: Option<EventNid>,
        found: Option<EventNid>,
    },
    #[error("state {} lacks {missing:?} and has {extra:?} beyond the current state", state.0)]
    State {
        state: StateNid,
        missing: Vec<EventNid>,
        extra: Vec<EventNid>,
    },
    #[error("state {} is noted with {expected} events, it has {found}", state.0)]
    StateSize {
        state: StateNid,
        expected: u32,
        found: usize,
    },
    #[error("the tip {id} {why}")]
    Tip { id: OwnedEventId, why: String },
    #[error("the membership of {user} is {found:?}, the state says {expected:?}")]
    Membership {
        user: OwnedUserId,
        expected: Option<(Membership, EventNid)>,
        found: Option<(Membership, EventNid)>,
    },
}

/// Checks every room. Fails only when the backend does.
pub async fn fsck(
    store: &dyn Store,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    report.checked.rooms_all = store.totals().await?.rooms;
    let mut after = RoomNid(0);
    loop {
        let Some(nid) = next_room(store, after, &mut report).await? else {
            progress(report.checked);
            return Ok(report);
        };
        after = nid;
        progress(report.checked);
    }
}

/// Checks the next room after `after` and gives its number. A number whose row cannot be read, or
/// that nobody has, counts as a room: only a row that reads tells where the next one is.
async fn next_room(
    store: &dyn Store,
    after: RoomNid,
    report: &mut Report,
) -> Result<Option<RoomNid>, StoreError> {
    let next = match store.rooms(after, 1).await {
        Ok(rooms) => rooms.into_iter().next(),
        Err(StoreError::Damaged { .. }) => {
            let nid = RoomNid(after.0 + 1);
            return check_unread(store, nid, report).await.map(Some);
        }
        Err(error @ StoreError::Backend(_)) => return Err(error),
    };
    let Some(record) = next else {
        return Ok(None);
    };
    let nid = record.nid;
    room::check(store, record, report).await?;
    report.checked.rooms += 1;
    Ok(Some(nid))
}

async fn check_unread(
    store: &dyn Store,
    nid: RoomNid,
    report: &mut Report,
) -> Result<RoomNid, StoreError> {
    match store.room_by_nid(nid).await {
        Ok(None) => {}
        Ok(Some(record)) => {
            room::check(store, record, report).await?;
            report.checked.rooms += 1;
        }
        Err(StoreError::Damaged { what }) => report.add(Finding {
            room: format!("room number {}", nid.0),
            seq: None,
            what: Wrong::Unreadable { why: what },
        }),
        Err(error @ StoreError::Backend(_)) => return Err(error),
    }
    Ok(nid)
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}
