//! The default backend: one SQLite file, one writer, a few read-only connections.
//!
//! WAL with `synchronous=FULL`: a commit that returned survives a power cut. Readers see whole
//! commits only. The process that has a store open holds a lock file beside it.
//!
//! Start with [`open`](mod@open), then [`commit`] (the write side) and the schema in `migrations/`.

mod accounts;
mod bulk;
mod codec;
mod commit;
mod copy;
mod cross_signing;
mod devices;
mod links;
mod media;
mod memberships;
mod open;
mod outbox;
mod outside;
mod owner;
mod pending;
mod pieces;
mod remote;
mod restored;
mod rooms;
mod rows;
mod servers;
mod singles;
mod snapshot;
mod states;
mod thin;

#[cfg(test)]
mod tests;

use std::{fs::File, path::Path};

use sqlx::SqlitePool;
use tokio::sync::Mutex;

pub use copy::Copied;
pub use open::{FORMAT, OpenOptions};
pub use restored::Voided;

use crate::store::{Numbers, OpenError, StoreError};

/// A store in one SQLite file.
pub struct Sqlite {
    read: SqlitePool,
    writer: Mutex<commit::Writer>,
    numbers: Numbers,
    /// Held for as long as the store is open; closing the file lets go of the lock. A snapshot
    /// has none.
    _lock: Option<File>,
}

impl Sqlite {
    /// Opens a store, making it when the file is not there or empty.
    pub async fn open(options: OpenOptions) -> Result<Self, OpenError> {
        open::open(options).await
    }

    /// Refuses what is no store of this program's, and writes nothing.
    pub async fn refuse_foreign(options: &OpenOptions) -> Result<(), OpenError> {
        open::refuse_foreign(options).await
    }

    /// Opens a store as it stands now, for reading only, beside whoever has it open.
    pub async fn snapshot(options: &OpenOptions) -> Result<Self, OpenError> {
        snapshot::open(options).await
    }

    /// Copies a store as it stands now into a new file, beside whoever has it open. The copy is no
    /// store before it was [restored](Self::restored).
    pub async fn copy(options: &OpenOptions, to: &Path) -> Result<Copied, OpenError> {
        copy::copy(options, to).await
    }

    /// Makes a copy a store of today's format and of a new generation, which voids what must not
    /// be used twice.
    pub async fn restored(
        options: &OpenOptions,
        generation: [u8; 8],
    ) -> Result<Vec<Voided>, OpenError> {
        restored::adopt(options, generation).await
    }

    /// Closes every connection, so that the write-ahead log is folded into the file. Dropping the
    /// store without it loses nothing.
    pub async fn close(self) {
        self.read.close().await;
        self.writer.into_inner().close().await;
    }
}

/// A page that SQLite itself cannot make sense of is damage of that page, not a failing disk.
fn backend(error: sqlx::Error) -> StoreError {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some(code)
            if code
                .parse::<i64>()
                .is_ok_and(|code| code & 0xff == SQLITE_CORRUPT) =>
        {
            damaged(error.to_string())
        }
        _ => StoreError::Backend(Box::new(error)),
    }
}

/// The primary result code for a malformed database, in the low byte of the extended ones.
const SQLITE_CORRUPT: i64 = 11;

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Damaged { what: what.into() }
}
