//! Opens a store: the lock, the checks that it is ours, the migrations, the connections.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use ruma::OwnedServerName;
use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Mutex;
use tracing::warn;

use super::{Sqlite, backend, commit::Writer, damaged, owner};
use crate::store::{EventNid, Numbers, OpenError, RoomNid, SigningKeyNote, StateNid, StoreError};

/// Where a store is and how to open it.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    path: PathBuf,
    server_name: OwnedServerName,
    key: Option<SigningKeyNote>,
    retired: Vec<SigningKeyNote>,
    readers: u32,
    synced: bool,
}

impl OpenOptions {
    /// A store in the file `path`, of the hub `server_name`.
    pub fn new(path: impl Into<PathBuf>, server_name: OwnedServerName) -> Self {
        Self {
            path: path.into(),
            server_name,
            key: None,
            retired: Vec::new(),
            readers: READERS,
            synced: true,
        }
    }

    /// A store named by a URL: `sqlite:` and a path, which is taken from `dir` when it is relative.
    ///
    /// `?synchronous=off` gives up what this store is for; it is there for the test that must
    /// fail with it.
    pub fn from_url(
        url: &str,
        dir: &Path,
        server_name: OwnedServerName,
    ) -> Result<Self, OpenError> {
        let bad = |why: &str| damaged(format!("the store's url {url:?} {why}"));
        let rest = url
            .strip_prefix("sqlite:")
            .ok_or_else(|| bad("does not begin with `sqlite:`"))?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.is_empty() {
            return Err(bad("names no file").into());
        }
        let mut options = Self::new(dir.join(path), server_name);
        match query {
            "" => {}
            "synchronous=off" => options.synced = false,
            _ => return Err(bad("has an unknown parameter").into()),
        }
        Ok(options)
    }

    /// The key that this hub signs with. The store remembers the first one it is opened with, and
    /// refuses another; who only looks into a store names none.
    #[must_use]
    pub fn signing_key(mut self, key: SigningKeyNote) -> Self {
        self.key = Some(key);
        self
    }

    /// The keys that this hub publishes as those it signed with before: where the store remembers
    /// one of them, it takes the new one instead.
    #[must_use]
    pub fn retired_keys(mut self, keys: Vec<SigningKeyNote>) -> Self {
        self.retired = keys;
        self
    }

    /// How many connections read.
    #[must_use]
    pub fn readers(mut self, readers: u32) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key that signs, and those that did.
    pub(super) fn keys(&self) -> Option<(&SigningKeyNote, &[SigningKeyNote])> {
        Some((self.key.as_ref()?, &self.retired))
    }

    /// Whose store it has to be.
    pub(super) fn server_name(&self) -> &str {
        self.server_name.as_str()
    }

    /// The writer's connection.
    pub(super) fn writer(&self) -> SqliteConnectOptions {
        let synchronous = if self.synced {
            SqliteSynchronous::Full
        } else {
            SqliteSynchronous::Off
        };
        self.common(WRITER_CACHE_KIB)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .foreign_keys(false)
            .pragma("wal_autocheckpoint", WAL_PAGES.to_string())
            .pragma("journal_size_limit", WAL_BYTES_KEPT.to_string())
            .statement_cache_capacity(WRITER_STATEMENTS)
            .thread_name(|_| "store-writer".to_owned())
    }

    /// A connection that reads.
    pub(super) fn reader(&self) -> SqliteConnectOptions {
        self.common(READER_CACHE_KIB)
            .read_only(true)
            .statement_cache_capacity(READER_STATEMENTS)
            .thread_name(|id| format!("store-read-{id}"))
    }

    fn common(&self, cache_kib: i64) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("cache_size", (-cache_kib).to_string())
            .disable_statement_logging()
    }
}

pub(super) async fn open(options: OpenOptions) -> Result<Sqlite, OpenError> {
    refuse_foreign(&options).await?;
    let lock = lock(&options.path)?;
    if !options.synced {
        warn!("synchronous=off: a power cut will lose acknowledged messages");
    }
    let mut conn = connect(&options.writer()).await?;
    check_ours(&mut conn).await?;
    migrate(&mut conn).await?;
    owner::check(&mut conn, &options).await?;
    drop_lost_names(&mut conn).await.map_err(backend)?;
    let numbers = numbers(&mut conn).await.map_err(backend)?;
    let writer = Writer::new(conn, options.writer()).await?;
    let read = readers(&options).await.map_err(backend)?;
    Ok(Sqlite {
        read,
        writer: Mutex::new(writer),
        numbers,
        _lock: Some(lock),
    })
}

/// Refuses what is no store of ours while nothing is locked or written yet: opening leaves files beside
/// it and marks in it, and a backup that was opened by mistake could not be restored any more.
pub(super) async fn refuse_foreign(options: &OpenOptions) -> Result<(), OpenError> {
    if !std::fs::metadata(&options.path).is_ok_and(|found| found.len() > 0) {
        return Ok(()); // it will be made
    }
    match looked_at(options).await {
        Err(refused @ (OpenError::Format { .. } | OpenError::Backup)) => Err(refused),
        // As it stands without its write-ahead log, it may make no sense: it is checked again.
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn looked_at(options: &OpenOptions) -> Result<(), OpenError> {
    let mut conn = connect(&options.reader().immutable(true)).await?;
    let found = check_ours(&mut conn).await;
    close(conn).await;
    found
}

/// A second process must be refused before it reads a byte, or it could fold our log away.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let path = path.with_extension("lock");
    let io = |error| StoreError::Backend(Box::new(error));
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: path.display().to_string(),
        }),
        Err(TryLockError::Error(error)) => Err(io(error).into()),
    }
}

/// Connects; a file that is no database at all is a foreign format, not a broken disk.
pub(super) async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, OpenError> {
    options.connect().await.map_err(connect_error)
}

pub(super) fn connect_error(error: sqlx::Error) -> OpenError {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    if code.as_deref() == Some(SQLITE_NOTADB) {
        format_error("this is no store: it is not a SQLite file")
    } else {
        backend(error).into()
    }
}

/// Refuses the database of another program, and that of a newer version of this one.
async fn check_ours(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let application: i64 = pragma(conn, "PRAGMA application_id").await?;
    let version: i64 = pragma(conn, "PRAGMA user_version").await?;
    if application == 0 && version == 0 && tables(conn).await? == 0 {
        return Ok(()); // it was not made to its end
    }
    is_ours(application)?;
    is_known(version)
}

async fn tables(conn: &mut SqliteConnection) -> Result<i64, OpenError> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE '%sqlx_migrations%'";
    pragma(conn, sql).await
}

/// Refuses what another program made, and what a backup holds.
pub(super) fn is_ours(application: i64) -> Result<(), OpenError> {
    match application {
        APPLICATION_ID => Ok(()),
        BACKUP_ID => Err(OpenError::Backup),
        other => Err(format_error(format!(
            "this is no store of Tramline's, but a database of another program (application id {other:#x})"
        ))),
    }
}

/// Refuses a format that is newer than this program.
pub(super) fn is_known(version: i64) -> Result<(), OpenError> {
    if version <= FORMAT {
        return Ok(());
    }
    Err(format_error(format!(
        "the store has format {version}, and this program reads none above {FORMAT}: use a version of \
         Tramline that is as new as the one that wrote it"
    )))
}

pub(super) async fn pragma(
    conn: &mut SqliteConnection,
    sql: &'static str,
) -> Result<i64, OpenError> {
    let value = sqlx::query_scalar(sql).fetch_one(conn).await;
    value.map_err(|error| backend(error).into())
}

pub(super) async fn migrate(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    MIGRATIONS
        .run(&mut *conn)
        .await
        .map_err(|error| match error {
            MigrateError::VersionMissing(_)
            | MigrateError::VersionMismatch(_)
            | MigrateError::VersionTooNew(..)
            | MigrateError::Dirty(_) => format_error(format!(
                "the store was made by a version of Tramline that this one does not know: {error}"
            )),
            other => StoreError::Backend(Box::new(other)).into(),
        })?;
    sqlx::query(SET_USER_VERSION)
        .execute(conn)
        .await
        .map_err(backend)?;
    Ok(())
}

/// An alias and a place in the directory are taken before their room is made; when the process
/// ended in between there is no room, and the next one to get its number must not inherit them.
async fn drop_lost_names(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for sql in [
        "DELETE FROM aliases WHERE room NOT IN (SELECT nid FROM rooms)",
        "DELETE FROM directory WHERE room NOT IN (SELECT nid FROM rooms)",
    ] {
        sqlx::query(sql).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn numbers(conn: &mut SqliteConnection) -> Result<Numbers, sqlx::Error> {
    let (room, event, state): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT coalesce(max(nid), 0) FROM rooms),
                (SELECT coalesce(max(nid), 0) FROM events),
                (SELECT coalesce(max(nid), 0) FROM states)",
    )
    .fetch_one(conn)
    .await?;
    Ok(Numbers::after(
        RoomNid(room),
        EventNid(event),
        StateNid(state),
    ))
}

async fn readers(options: &OpenOptions) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(options.readers)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options.reader())
        .await
}

pub(super) fn format_error(what: impl Into<String>) -> OpenError {
    OpenError::Format { what: what.into() }
}

pub(super) async fn close(conn: SqliteConnection) {
    if let Err(error) = conn.close().await {
        warn!(%error, "a connection to the store did not close well");
    }
}

static MIGRATIONS: Migrator = sqlx::migrate!("src/store/sqlite/migrations");

/// The format of the store: the number of its last migration.
pub const FORMAT: i64 = 13;
const SET_USER_VERSION: &str = "PRAGMA user_version = 13";
/// "TRML", set by the first migration.
pub(super) const APPLICATION_ID: i64 = 0x5452_4d4c;
/// "TRMB", of the copy in a backup: no hub opens it before it was restored.
pub(super) const BACKUP_ID: i64 = 0x5452_4d42;
const SQLITE_NOTADB: &str = "26";

/// Connections that read, unless told otherwise: reads are short, and two cores are common.
const READERS: u32 = 4;
/// The writer's page cache, in KiB: the upper levels of every index of some million events.
const WRITER_CACHE_KIB: i64 = 16 * 1024;
/// A reader's page cache, in KiB. The kernel caches the file; this saves calls, and is paid by
/// each connection.
const READER_CACHE_KIB: i64 = 2 * 1024;
/// How many prepared statements the writer keeps: all it has, or the rare ones push out the hot.
const WRITER_STATEMENTS: usize = 160;
const READER_STATEMENTS: usize = 80;
/// After how many pages of 4 KiB the write-ahead log is folded into the file. Each time costs two
/// more syncs and random writes; a longer log costs disk, and some milliseconds after a crash.
const WAL_PAGES: i64 = 4000;
/// What is left of the write-ahead log file after it was folded in, in bytes.
const WAL_BYTES_KEPT: i64 = 16 * 1024 * 1024;
/// Only a writer that is being replaced after a failure can be in the way.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
