//! A copy of a store for a backup, taken beside whoever has the store open.
//!
//! SQLite writes the copy from one read transaction: the writer goes on, and only the write-ahead
//! log cannot be folded in before the copy is done. The copy carries another application id, so
//! that nobody opens it as a store by mistake: it is one again when it was [restored].
//!
//! [restored]: super::restored

use std::path::Path;

use futures_util::TryStreamExt as _;
use sqlx::{
    ConnectOptions as _, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use super::{
    OpenOptions, backend, damaged,
    open::{close, connect_error, is_known, is_ours, pragma},
    owner,
};
use crate::{
    base::Position,
    store::{OpenError, StoreError},
};

/// What a copy of a store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The store's format.
    pub format: i64,
    /// Its last commit.
    pub position: Position,
    /// Its rooms; each has one head of its chain.
    pub rooms: u64,
    /// Its events.
    pub events: u64,
    /// The hashes of all files it knows of, each once, ascending.
    pub media: Vec<[u8; 32]>,
}

/// Copies a store of today's or an older format to `to`, which must be empty or not be there.
pub(super) async fn copy(options: &OpenOptions, to: &Path) -> Result<Copied, OpenError> {
    let name = to
        .to_str()
        .ok_or_else(|| damaged(format!("{} is not UTF-8, which SQLite wants", to.display())))?;
    let mut store = options.reader().connect().await.map_err(connect_error)?;
    check(&mut store).await?;
    owner::is_of(&mut store, options.server_name()).await?;
    sqlx::query("VACUUM INTO ?")
        .bind(name.to_owned())
        .execute(&mut store)
        .await
        .map_err(backend)?;
    close(store).await;
    let copy = SqliteConnectOptions::new()
        .filename(to)
        .disable_statement_logging();
    let mut copy = copy.connect().await.map_err(connect_error)?;
    sqlx::query(MARK)
        .execute(&mut copy)
        .await
        .map_err(backend)?;
    let copied = look(&mut copy).await;
    close(copy).await;
    copied
}

async fn check(store: &mut SqliteConnection) -> Result<(), OpenError> {
    is_ours(pragma(store, "PRAGMA application_id").await?)?;
    is_known(pragma(store, "PRAGMA user_version").await?)
}

/// In SQL that every format so far answers.
async fn look(copy: &mut SqliteConnection) -> Result<Copied, OpenError> {
    let format = pragma(copy, "PRAGMA user_version").await?;
    let counts: (i64, i64, i64) = sqlx::query_as(
        "SELECT position, (SELECT count(*) FROM rooms), (SELECT count(*) FROM events) FROM hub",
    )
    .fetch_one(&mut *copy)
    .await
    .map_err(backend)?;
    let count = |count: i64| {
        u64::try_from(count).map_err(|_| damaged(format!("a count or position is {count}")))
    };
    let media: Vec<[u8; 32]> = sqlx::query("SELECT DISTINCT hash FROM media ORDER BY hash")
        .fetch(copy)
        .map_err(backend)
        .and_then(|row| std::future::ready(hash(&row)))
        .try_collect()
        .await?;
    Ok(Copied {
        format,
        position: Position(count(counts.0)?),
        rooms: count(counts.1)?,
        events: count(counts.2)?,
        media,
    })
}

fn hash(row: &SqliteRow) -> Result<[u8; 32], StoreError> {
    let bytes: Vec<u8> = row.try_get(0).map_err(backend)?;
    let found = bytes.len();
    bytes
        .try_into()
        .map_err(|_| damaged(format!("the hash of a file has {found} bytes, not 32")))
}

/// Makes it a backup's: [`BACKUP_ID`](super::open::BACKUP_ID).
const MARK: &str = "PRAGMA application_id = 0x54524d42";

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::sqlite::FORMAT;
    use crate::store::{
        Batch, Commits as _,
        contract::{self, Pen},
        sqlite::Sqlite,
    };

    fn options(dir: &TempDir, name: &str) -> OpenOptions {
        OpenOptions::new(dir.path().join(name), "hub.example".try_into().unwrap())
    }

    /// Everything the rooms tell, without the hub's position, which a restore moves.
    async fn rooms(store: &Sqlite) -> Vec<String> {
        let told = contract::describe(store).await.unwrap();
        told.lines().skip(1).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_copy_beside_an_open_store_has_everything_and_is_no_store_before_it_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::open(options(&dir, "store.db")).await.unwrap();
        let mut room = Pen::new(&store, "room");
        room.message(&store);
        let batch = Batch {
            writes: room.take(),
            may_conflict: false,
        };
        store.commit(&[batch]).await.unwrap();
        let there = rooms(&store).await;
        let to = options(&dir, "copy.db");

        let copied = Sqlite::copy(&options(&dir, "store.db"), to.path())
            .await
            .unwrap();

        assert_eq!(copied.format, FORMAT);
        assert_eq!((copied.position, copied.rooms), (Position(1), 1));
        for refused in [
            Sqlite::open(to.clone()).await.err(),
            Sqlite::snapshot(&to).await.err(),
            Sqlite::copy(&to, &dir.path().join("again.db")).await.err(),
        ] {
            assert!(matches!(refused, Some(OpenError::Backup)), "{refused:?}");
        }
        Sqlite::restored(&to, [1; 8]).await.unwrap();
        let restored = Sqlite::open(to).await.unwrap();
        assert_eq!(rooms(&restored).await, there);
    }

    #[tokio::test]
    async fn another_hubs_store_is_not_copied_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let store = options(&dir, "store.db");
        Sqlite::open(store.clone()).await.unwrap().close().await;
        let other = OpenOptions::new(store.path(), "other.example".try_into().unwrap());
        let to = dir.path().join("copy.db");

        let refused = Sqlite::copy(&other, &to).await.err();
        assert!(
            matches!(refused, Some(OpenError::OtherServer { .. })),
            "{refused:?}"
        );
        std::fs::write(&to, "mine").unwrap();
        assert!(Sqlite::copy(&store, &to).await.is_err());
        assert_eq!(std::fs::read(&to).unwrap(), b"mine");
    }
}
