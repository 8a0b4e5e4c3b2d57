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
mod devices;
mod media;
mod open;
mod pending;
mod rooms;
mod rows;
mod singles;
mod states;

#[cfg(test)]
mod tests;

use std::fs::File;

use sqlx::SqlitePool;
use tokio::sync::Mutex;

pub use open::OpenOptions;

use crate::store::{Numbers, OpenError, StoreError};

/// A store in one SQLite file.
pub struct Sqlite {
    read: SqlitePool,
    writer: Mutex<commit::Writer>,
    numbers: Numbers,
    /// Held for as long as the store is open; closing the file lets go of the lock.
    _lock: File,
}

impl Sqlite {
    /// Opens a store, making it when the file is not there or empty.
    pub async fn open(options: OpenOptions) -> Result<Self, OpenError> {
        open::open(options).await
    }

    /// Closes every connection, so that the write-ahead log is folded into the file. Dropping the
    /// store without it loses nothing.
    pub async fn close(self) {
        self.read.close().await;
        self.writer.into_inner().close().await;
    }
}

fn backend(error: sqlx::Error) -> StoreError {
    StoreError::Backend(Box::new(error))
}

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Damaged { what: what.into() }
}
