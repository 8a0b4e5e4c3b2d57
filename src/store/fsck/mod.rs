//! Checks a store against itself: every log, chain, event id and current state is worked out anew
//! and compared with what is stored, and every file with what is known of it. It changes nothing
//! and never stops at the first finding, nor at a row that cannot be read.
//!
//! It reads through the [`Store`] traits alone, so it checks any backend. Events without a seq are
//! seen only where a state or a tip leads to them; of accounts only their invites and knocks elsewhere
//! are looked at.
//!
//! What is wrong, in words for operators, is [`Wrong`].

mod files;
mod findings;
mod outside;
mod room;

#[cfg(test)]
mod tests;

pub use self::{
    files::{Stray, files, unindexed},
    findings::{Finding, Wrong},
};
use crate::store::{RoomNid, Store, StoreError, StrayRow};

/// How far a check has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rooms checked.
    pub rooms: u64,
    /// Rooms there are.
    pub rooms_all: u64,
    /// Log entries checked.
    pub entries: u64,
    /// Files checked.
    pub files: u64,
    /// Files that are known of; 0 until they are checked.
    pub files_all: u64,
    /// Bytes of files read.
    pub bytes: u64,
}

/// Whoever is told how far a check has come.
pub type Tell<'a> = &'a mut (dyn FnMut(Progress) + Send);

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

/// How many findings a report keeps: enough to see a pattern, and a store in ruins still fits in
/// memory and on a screen's history.
pub const FINDINGS_MAX: usize = 1000;

/// Checks every room. Fails only when the backend does.
pub async fn fsck(store: &dyn Store, progress: Tell<'_>) -> Result<Report, StoreError> {
    let mut report = Report::default();
    match or_damaged(store.totals().await)? {
        Ok(totals) => report.checked.rooms_all = totals.rooms,
        Err(why) => report.add(Finding::of_store(Wrong::Totals { why })),
    }
    let mut after = RoomNid(i64::MIN);
    loop {
        let numbers = store.room_numbers(after, ROOMS_PAGE).await?;
        let Some(last) = numbers.last() else {
            outside::check(store, &mut report).await?;
            strays(store, &mut report).await?;
            progress(report.checked);
            return Ok(report);
        };
        after = *last;
        for nid in numbers {
            one_room(store, nid, &mut report).await?;
            report.checked.rooms += 1;
            progress(report.checked);
        }
    }
}

/// What is kept of other servers, and leads nowhere.
async fn strays(store: &dyn Store, report: &mut Report) -> Result<(), StoreError> {
    let limit = u32::try_from(FINDINGS_MAX).unwrap_or(u32::MAX);
    match or_damaged(store.strays(limit).await)? {
        Ok(strays) => {
            for StrayRow { table, row, why } in strays {
                report.add(Finding::of_store(Wrong::Stray { table, row, why }));
            }
        }
        Err(why) => {
            let (table, row) = ("a table of other servers".to_owned(), "?".to_owned());
            report.add(Finding::of_store(Wrong::Stray { table, row, why }));
        }
    }
    Ok(())
}

/// How many rooms' numbers are read at once.
const ROOMS_PAGE: u32 = 1024;

async fn one_room(store: &dyn Store, nid: RoomNid, report: &mut Report) -> Result<(), StoreError> {
    match or_damaged(store.room_by_nid(nid).await)? {
        Ok(Some(record)) => room::check(store, record, report).await,
        Ok(None) => Ok(()),
        Err(why) => {
            // Its id is in the row that cannot be read.
            let room = format!("number {}", nid.0);
            report.add(Finding::of_room(room, None, Wrong::Room { why }));
            Ok(())
        }
    }
}

/// Damage is a finding; only a failing backend ends the check.
fn or_damaged<T>(read: Result<T, StoreError>) -> Result<Result<T, String>, StoreError> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(StoreError::Damaged { what }) => Ok(Err(what)),
        Err(error @ StoreError::Backend(_)) => Err(error),
    }
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// How much is wrong, kept or not.
    pub fn total(&self) -> u64 {
        self.findings.len() as u64 + self.more
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}
