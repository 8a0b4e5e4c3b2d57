//! A store as it stood at one moment, for who only looks: also while a hub is writing to it.
//!
//! One connection holds one read transaction for as long as the snapshot lives. The write-ahead log
//! cannot be folded away under it, and what is written meanwhile is not seen.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use sqlx::{SqliteConnection, SqlitePool, sqlite::SqlitePoolOptions};
use tokio::sync::Mutex;

use super::{
    OpenOptions, Sqlite,
    commit::Writer,
    open::{FORMAT, connect_error, format_error, is_known, is_ours, pragma},
    owner,
};
use crate::store::{EventNid, Numbers, OpenError, RoomNid, StateNid};

/// Takes no lock, changes nothing, and refuses what is not this hub's store in today's format.
pub(super) async fn open(options: &OpenOptions) -> Result<Sqlite, OpenError> {
    let read = connection(options).await.map_err(connect_error)?;
    let mut conn = read.acquire().await.map_err(connect_error)?;
    check(&mut conn).await?;
    owner::is_of(&mut conn, options.server_name()).await?;
    owner::is_signed_by(&mut conn, options).await?;
    drop(conn);
    Ok(Sqlite {
        read,
        // Whoever commits all the same is refused by SQLite.
        writer: Mutex::new(Writer::idle(options.reader())),
        numbers: Numbers::after(RoomNid(0), EventNid(0), StateNid(0)),
        _lock: None,
    })
}

/// A pool of one connection, whose transaction began before anyone reads. A second one would be of
/// another moment, so there is none.
async fn connection(options: &OpenOptions) -> Result<SqlitePool, sqlx::Error> {
    let begun = Arc::new(AtomicBool::new(false));
    SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(move |conn, _| {
            let begun = Arc::clone(&begun);
            Box::pin(async move {
                if begun.swap(true, Ordering::SeqCst) {
                    let why = "the snapshot is lost: its connection broke";
                    return Err(sqlx::Error::Configuration(why.into()));
                }
                begin(conn).await
            })
        })
        .connect_with(options.reader())
        .await
}

/// A transaction sees the moment of its first read.
async fn begin(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM sqlite_schema")
        .execute(conn)
        .await
        .map(drop)
}

async fn check(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    is_ours(pragma(conn, "PRAGMA application_id").await?)?;
    let version = pragma(conn, "PRAGMA user_version").await?;
    is_known(version)?;
    if version == FORMAT {
        return Ok(());
    }
    Err(format_error(format!(
        "the store has format {version}, and this program looks into those of {FORMAT}: the hub brings it \
         there when it is started with this program"
    )))
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions as _, Connection as _};
    use tempfile::TempDir;

    use super::*;
    use crate::store::{
        Batch, CommitError, Commits as _, Committed,
        contract::{self, Pen},
    };

    fn options(dir: &TempDir) -> OpenOptions {
        OpenOptions::new(
            dir.path().join("store.db"),
            "hub.example".try_into().unwrap(),
        )
    }

    async fn open(dir: &TempDir) -> Sqlite {
        Sqlite::open(options(dir)).await.unwrap()
    }

    async fn commit(store: &Sqlite, pen: &mut Pen) -> Result<Committed, CommitError> {
        let batch = Batch {
            writes: pen.take(),
            may_conflict: false,
        };
        store.commit(&[batch]).await
    }

    #[tokio::test]
    async fn a_snapshot_beside_an_open_store_sees_one_moment_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).await;
        let mut room = Pen::new(&store, "before");
        room.message(&store);
        commit(&store, &mut room).await.unwrap();

        let snapshot = Sqlite::snapshot(&options(&dir)).await.unwrap();
        let before = contract::describe(&snapshot).await.unwrap();
        room.message(&store);
        commit(&store, &mut room).await.unwrap();

        assert_eq!(contract::describe(&snapshot).await.unwrap(), before);
        assert_ne!(contract::describe(&store).await.unwrap(), before);
        let mut mine = Pen::new(&snapshot, "mine");
        assert!(commit(&snapshot, &mut mine).await.is_err());
        snapshot.close().await;
        let later = Sqlite::snapshot(&options(&dir)).await.unwrap();
        assert_eq!(
            contract::describe(&later).await.unwrap(),
            contract::describe(&store).await.unwrap()
        );
    }

    /// As after a kill, or in a copy: the write-ahead log was not folded in.
    #[tokio::test]
    async fn a_snapshot_sees_what_is_only_in_the_write_ahead_log() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).await;
        let mut room = Pen::new(&store, "room");
        room.message(&store);
        commit(&store, &mut room).await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        for name in ["store.db", "store.db-wal"] {
            std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }

        let snapshot = Sqlite::snapshot(&options(&copy)).await.unwrap();

        assert_eq!(
            contract::describe(&snapshot).await.unwrap(),
            contract::describe(&store).await.unwrap()
        );
    }

    #[tokio::test]
    async fn a_snapshot_of_what_is_not_this_hubs_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).await.close().await;
        let other = OpenOptions::new(options(&dir).path(), "other.example".try_into().unwrap());
        let refused = Sqlite::snapshot(&other).await.err();
        assert!(
            matches!(refused, Some(OpenError::OtherServer { .. })),
            "{refused:?}"
        );
        let store = options(&dir).writer().connect().await;
        let mut store = store.unwrap();
        sqlx::raw_sql("PRAGMA user_version = 99")
            .execute(&mut store)
            .await
            .unwrap();
        store.close().await.unwrap();
        let refused = Sqlite::snapshot(&options(&dir)).await.err();
        assert!(
            matches!(refused, Some(OpenError::Format { .. })),
            "{refused:?}"
        );
        std::fs::write(
            dir.path().join("store.db"),
            "not a database at all, but long enough",
        )
        .unwrap();
        let refused = Sqlite::snapshot(&options(&dir)).await.err();
        assert!(
            matches!(refused, Some(OpenError::Format { .. })),
            "{refused:?}"
        );
    }
}
