//! Whole records, as many as fit.

use crate::{
    api::Refusal,
    wire::thin::{Alias, Record},
};

/// The smallest budget: a record that says that an entry is too large, and one that says where the
/// log is, fit into it whatever their numbers.
const BYTES_MIN: usize = 96;

/// Records within a budget.
pub(super) struct Pack {
    max: usize,
    used: usize,
    records: Vec<Record>,
}

impl Pack {
    /// A budget of `bytes_max` less what the `last` record will take.
    pub(super) fn new(bytes_max: u32, last: &Record) -> Self {
        let max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self {
            max: max.max(BYTES_MIN).saturating_sub(last.encoded_len()),
            used: 0,
            records: Vec::new(),
        }
    }

    /// Adds a record, or `instead` of one that no answer of this size has place for; false when it
    /// does not fit any more.
    pub(super) fn put(
        &mut self,
        record: Record,
        instead: impl FnOnce() -> Result<Record, Refusal>,
    ) -> Result<bool, Refusal> {
        let record = if record.encoded_len() > self.max {
            instead()?
        } else {
            record
        };
        let bytes = record.encoded_len();
        if self.used + bytes > self.max {
            return Ok(false);
        }
        self.used += bytes;
        self.records.push(record);
        Ok(true)
    }

    /// Whether records of these bytes certainly do not fit.
    pub(super) fn is_beyond(bytes_max: u32, bytes: usize) -> bool {
        bytes
            > usize::try_from(bytes_max)
                .unwrap_or(usize::MAX)
                .max(BYTES_MIN)
    }

    /// The room that the next record need not name.
    pub(super) fn room(&self) -> Option<Alias> {
        self.records.iter().rev().find_map(|record| record.room)
    }

    pub(super) fn into_records(self) -> Vec<Record> {
        self.records
    }
}
