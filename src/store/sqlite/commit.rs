//! The write side: all of a commit's batches in one transaction.
//!
//! Batches run in order. What ordinary ones append is gathered and written by table (see
//! [`pending`](super::pending)). A batch that may conflict is preceded by everything gathered so
//! far and runs on its own inside a savepoint, so it sees exactly the batches before it, and only
//! it can conflict.

use async_trait::async_trait;
use sqlx::{ConnectOptions as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tracing::{error, warn};

use super::{
    Sqlite, backend, codec, damaged,
    open::close,
    pending::{Grown, Pending},
    rows::{Cells, int},
    singles, states,
};
use crate::{
    base::Position,
    store::{
        Batch, Claimed, CommitError, Commits, Committed, Conflict, NewLogged, NewState, Numbers,
        OutboxWrite, StoreError, Write,
    },
};

/// The one connection that writes.
pub(super) struct Writer {
    options: SqliteConnectOptions,
    /// None while a commit is under way, so also after one that was dropped half-way or that
    /// failed in a way that leaves the connection in doubt: the next one then connects anew.
    ready: Option<Ready>,
}

/// A connection that stands between two transactions.
struct Ready {
    conn: SqliteConnection,
    last: Position,
}

impl Writer {
    pub(super) async fn new(
        conn: SqliteConnection,
        options: SqliteConnectOptions,
    ) -> Result<Self, StoreError> {
        let ready = Some(Ready::on(conn).await?);
        Ok(Self { options, ready })
    }

    /// A writer that has not connected yet.
    pub(super) fn idle(options: SqliteConnectOptions) -> Self {
        Self {
            options,
            ready: None,
        }
    }

    pub(super) async fn close(self) {
        if let Some(ready) = self.ready {
            close(ready.conn).await;
        }
    }

    async fn take(&mut self) -> Result<Ready, StoreError> {
        if let Some(ready) = self.ready.take() {
            return Ok(ready);
        }
        warn!("the store's writer connects anew");
        Ready::on(self.options.connect().await.map_err(backend)?).await
    }

    async fn commit(&mut self, batches: &[Batch]) -> Result<Committed, CommitError> {
        let mut ready = self.take().await.map_err(CommitError::Failed)?;
        let position = ready.last.next();
        let staged = stage(&mut ready.conn, batches, position).await;
        let outcomes = match staged {
            Ok(outcomes) => outcomes,
            Err(stop) => {
                self.ready = ready.rolled_back().await;
                return Err(CommitError::Failed(stop.into_store_error()));
            }
        };
        match execute(&mut ready.conn, "COMMIT").await {
            Ok(_) => {
                ready.last = position;
                self.ready = Some(ready);
                Ok(Committed { position, outcomes })
            }
            Err(error) => {
                error!(%error, "a commit may or may not have been stored");
                close(ready.conn).await;
                Err(CommitError::Unknown(backend(error)))
            }
        }
    }
}

impl Ready {
    /// Reads where the store stands; also the proof that the connection works.
    async fn on(mut conn: SqliteConnection) -> Result<Self, StoreError> {
        let last = position(&mut conn).await?;
        Ok(Self { conn, last })
    }

    /// The connection after a failure inside the transaction, if it is of further use.
    async fn rolled_back(mut self) -> Option<Self> {
        // SQLite rolls back by itself after some errors (disk full, I/O); ours then fails, and a
        // connection whose state we would have to guess is not kept.
        if let Err(error) = execute(&mut self.conn, "ROLLBACK").await {
            warn!(%error, "the store's writer could not roll back");
            close(self.conn).await;
            return None;
        }
        let last = self.last;
        let ready = Self::on(self.conn).await.ok()?;
        (ready.last == last).then_some(ready)
    }
}

#[async_trait]
impl Commits for Sqlite {
    async fn commit(&self, batches: &[Batch]) -> Result<Committed, CommitError> {
        self.writer.lock().await.commit(batches).await
    }

    async fn position(&self) -> Result<Position, StoreError> {
        let mut conn = self.read.acquire().await.map_err(backend)?;
        position(&mut conn).await
    }

    fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    async fn rest(&self) {
        if let Some(ready) = &mut self.writer.lock().await.ready {
            forget_pages(&mut ready.conn).await;
        }
        let mut idle = Vec::new();
        while let Some(conn) = self.read.try_acquire() {
            idle.push(conn);
        }
        for conn in &mut idle {
            forget_pages(conn).await;
        }
    }
}

/// Empties a connection's page cache.
async fn forget_pages(conn: &mut SqliteConnection) {
    if let Err(error) = execute(conn, "PRAGMA shrink_memory").await {
        warn!(%error, "the store keeps its page cache");
    }
}

async fn position(conn: &mut SqliteConnection) -> Result<Position, StoreError> {
    let row = sqlx::query("SELECT position FROM hub")
        .fetch_one(conn)
        .await
        .map_err(backend)?;
    Cells::of(&row).position()
}

/// Why a batch, or the whole commit, cannot go on.
pub(super) enum Stop {
    /// What is stored has the name already, or no longer.
    Conflict(String),
    /// The database said no.
    Sql(sqlx::Error),
    /// Anything else.
    Store(StoreError),
}

impl Stop {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Store(damaged(what))
    }

    /// What a batch conflicts with, if that is what this is.
    fn into_conflict(self) -> Result<Conflict, Self> {
        match self {
            Self::Conflict(what) => Ok(Conflict { what }),
            Self::Sql(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                let what = error.message().to_owned();
                Ok(Conflict { what })
            }
            other => Err(other),
        }
    }

    fn into_store_error(self) -> StoreError {
        match self.into_conflict() {
            Ok(conflict) => damaged(format!(
                "a batch that could not conflict did: {}",
                conflict.what
            )),
            Err(Self::Store(error)) => error,
            Err(Self::Sql(error)) => backend(error),
            Err(Self::Conflict(_)) => damaged("a conflict"),
        }
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

type Outcome = Result<Vec<Claimed>, Conflict>;

/// Everything of a commit but its end.
async fn stage(
    conn: &mut SqliteConnection,
    batches: &[Batch],
    position: Position,
) -> Result<Vec<Outcome>, Stop> {
    execute(conn, "BEGIN IMMEDIATE").await?;
    let mut pending = Pending::at(position);
    let mut outcomes = Vec::with_capacity(batches.len());
    for batch in batches {
        outcomes.push(if batch.may_conflict {
            alone(conn, &mut pending, batch).await?
        } else {
            Ok(take_all(conn, &mut pending, batch).await?)
        });
    }
    pending.flush(conn).await?;
    move_position(conn, position, pending.grown).await?;
    Ok(outcomes)
}

/// A batch inside a savepoint.
async fn alone<'a>(
    conn: &mut SqliteConnection,
    pending: &mut Pending<'a>,
    batch: &'a Batch,
) -> Result<Outcome, Stop> {
    pending.flush(conn).await?;
    let grown = pending.grown;
    execute(conn, "SAVEPOINT batch").await?;
    let taken = match take_all(conn, pending, batch).await {
        Ok(claimed) => pending.flush(conn).await.map(|()| claimed),
        Err(stop) => Err(stop),
    };
    let outcome = match taken {
        Ok(claimed) => Ok(claimed),
        Err(stop) => {
            let conflict = stop.into_conflict()?;
            pending.clear(grown);
            execute(conn, "ROLLBACK TO batch").await?;
            Err(conflict)
        }
    };
    execute(conn, "RELEASE batch").await?;
    Ok(outcome)
}

async fn take_all<'a>(
    conn: &mut SqliteConnection,
    pending: &mut Pending<'a>,
    batch: &'a Batch,
) -> Result<Vec<Claimed>, Stop> {
    let mut claimed = Vec::new();
    for write in &batch.writes {
        claimed.extend(take(conn, pending, write).await?);
    }
    Ok(claimed)
}

/// Gathers a write, or does it at once; before that, whatever gathered rows it could meet.
async fn take<'a>(
    conn: &mut SqliteConnection,
    pending: &mut Pending<'a>,
    write: &'a Write,
) -> Result<Option<Claimed>, Stop> {
    match write {
        Write::Event(event) => pending.event(event),
        Write::State(state) => take_state(conn, pending, state).await?,
        Write::Entry(entry) => {
            pending.entry(entry)?;
            if let NewLogged::Event(nid) = entry.what
                && !pending.place_event(nid, entry.seq)
            {
                singles::place_event(conn, nid, entry.seq).await?;
            }
        }
        Write::Heads { room, heads, state } => pending.heads(*room, heads, *state),
        Write::Current {
            room,
            key,
            event: Some(event),
        } => pending.current(*room, key, *event),
        Write::Membership {
            user,
            room,
            membership,
            event,
        } => pending.membership(user.as_str(), *room, *membership, *event),
        Write::Txn { key, answer, at } => pending.txn(key, answer, *at),
        Write::Receipt { room, receipt } => pending.receipt(*room, receipt),
        Write::Mail {
            user,
            device,
            origin,
            json,
        } => {
            pending.mail((user.as_str(), device.as_str()), origin.as_deref(), json);
        }
        Write::ClaimKey {
            user,
            device,
            algorithm,
            spare,
        } => {
            let claimed = singles::claim(conn, user, device, algorithm, *spare).await?;
            return Ok(Some(claimed));
        }
        other => {
            flush_before(conn, pending, other).await?;
            singles::execute(conn, pending.position, other, &mut pending.grown).await?;
        }
    }
    Ok(None)
}

/// Writes the gathered rows that a single write could change or depend on.
async fn flush_before(
    conn: &mut SqliteConnection,
    pending: &mut Pending<'_>,
    write: &Write,
) -> Result<(), Stop> {
    match write {
        Write::Redact { .. } | Write::Grafted { .. } => pending.flush_events(conn).await,
        Write::Current { .. } => pending.flush_current(conn).await,
        Write::Forget { .. } | Write::Outbox(OutboxWrite::Residents { .. }) => {
            pending.flush_memberships(conn).await
        }
        Write::ForgetTxns { .. } => pending.flush_txns(conn).await,
        Write::Session { .. } | Write::MailRead { .. } => pending.flush_mail(conn).await,
        Write::RemoveDevice { .. } => {
            pending.flush_txns(conn).await?;
            pending.flush_mail(conn).await
        }
        _ => Ok(()),
    }
}

async fn take_state<'a>(
    conn: &mut SqliteConnection,
    pending: &mut Pending<'a>,
    state: &'a NewState,
) -> Result<(), Stop> {
    let snapshot = if state.snapshot {
        pending.flush_states(conn).await?;
        let mut events = states::whole(conn, state.parent).await?;
        for nid in &state.removed {
            if !events.remove(nid) {
                return Err(Stop::damaged(format!(
                    "state {} takes event {} from state {}, which has it not",
                    state.nid.0, nid.0, state.parent.0
                )));
            }
        }
        events.extend(&state.added);
        Some(codec::encode_snapshot(events))
    } else {
        None
    };
    pending.state(state, snapshot);
    Ok(())
}

async fn move_position(
    conn: &mut SqliteConnection,
    position: Position,
    grown: Grown,
) -> Result<(), Stop> {
    let moved = sqlx::query(
        "UPDATE hub SET position = ?1, rooms = rooms + ?2, events = events + ?3, \
         users = users + ?4 WHERE position = ?1 - 1",
    )
    .bind(int(position.0))
    .bind(grown.rooms)
    .bind(grown.events)
    .bind(grown.users)
    .execute(conn)
    .await?;
    if moved.rows_affected() != 1 {
        return Err(Stop::damaged(format!(
            "the store does not stand just before position {position}"
        )));
    }
    Ok(())
}

async fn execute(
    conn: &mut SqliteConnection,
    sql: &'static str,
) -> Result<sqlx::sqlite::SqliteQueryResult, sqlx::Error> {
    sqlx::query(sql).execute(conn).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Rooms as _, contract::Pen, sqlite::OpenOptions};

    async fn open(dir: &tempfile::TempDir) -> Sqlite {
        let name = ruma::OwnedServerName::try_from("hub.example").unwrap();
        let options = OpenOptions::new(dir.path().join("store.db"), name);
        Sqlite::open(options).await.unwrap()
    }

    /// Does something to the writer's connection.
    async fn meddle(store: &Sqlite, text: &'static str) {
        let mut writer = store.writer.lock().await;
        let conn = &mut writer.ready.as_mut().unwrap().conn;
        sqlx::raw_sql(text).execute(conn).await.unwrap();
    }

    async fn commit(store: &Sqlite, pen: &Pen) -> Result<Committed, CommitError> {
        let batch = Batch {
            writes: pen.clone().take(),
            may_conflict: false,
        };
        store.commit(&[batch]).await
    }

    #[tokio::test]
    async fn a_full_disk_stores_nothing_and_the_next_commit_works() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).await;
        meddle(&store, "PRAGMA max_page_count = 100").await;
        let mut large = Pen::new(&store, "large");
        for _ in 0..5000 {
            large.message(&store);
        }
        let refused = commit(&store, &large).await;
        assert!(
            matches!(refused, Err(CommitError::Failed(StoreError::Backend(_)))),
            "{refused:?}"
        );
        assert_eq!(store.room(&large.id).await.unwrap(), None);

        let small = Pen::new(&store, "small");
        assert_eq!(commit(&store, &small).await.unwrap().position, Position(1));
        meddle(&store, "PRAGMA max_page_count = 1000000").await;
        assert_eq!(commit(&store, &large).await.unwrap().position, Position(2));
    }

    #[tokio::test]
    async fn a_commit_that_fails_at_its_end_is_unknown_and_the_next_connects_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).await;
        // What is checked only by COMMIT itself makes it fail.
        meddle(
            &store,
            "PRAGMA foreign_keys = ON;
             CREATE TEMP TABLE parents (id INTEGER PRIMARY KEY);
             CREATE TEMP TABLE children (parent INTEGER REFERENCES parents (id)
                 DEFERRABLE INITIALLY DEFERRED);
             CREATE TEMP TRIGGER orphan AFTER UPDATE ON main.hub
                 BEGIN INSERT INTO children VALUES (1); END;",
        )
        .await;
        let room = Pen::new(&store, "room");
        let unknown = commit(&store, &room).await;
        assert!(
            matches!(unknown, Err(CommitError::Unknown(_))),
            "{unknown:?}"
        );
        assert!(store.writer.lock().await.ready.is_none());
        assert_eq!(store.position().await.unwrap(), Position(0));
        assert_eq!(commit(&store, &room).await.unwrap().position, Position(1));
    }
}
