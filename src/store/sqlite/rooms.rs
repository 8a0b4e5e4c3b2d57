//! Reads of rooms: events, state, the log, memberships.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use async_trait::async_trait;
use ruma::{OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use sqlx::{
    AssertSqlSafe, Sqlite as Db, SqliteConnection, pool::PoolConnection, sqlite::SqliteRow,
};

use super::{
    Sqlite, backend,
    bulk::Statement,
    damaged,
    rows::{Cells, all, event_columns, int, membership_code, room_columns, user_of},
    states,
};
use crate::{
    base::{EventHash, Position, Seq},
    room::{Membership, StateKey},
    store::{
        AliasRecord, EventNid, EventRecord, ListedRecord, LogRecord, MembershipRecord, Order,
        ReceiptRecord, RoomNid, RoomRecord, Rooms, StateNid, StoreError, Totals, TxnAnswer, TxnKey,
    },
};

impl Sqlite {
    pub(super) async fn reader(&self) -> Result<PoolConnection<Db>, StoreError> {
        self.read.acquire().await.map_err(backend)
    }

    /// All rows of a statement with its arguments bound.
    pub(super) async fn rows(&self, statement: Statement) -> Result<Vec<SqliteRow>, StoreError> {
        let mut conn = self.reader().await?;
        statement.fetch_all(&mut *conn).await.map_err(backend)
    }

    /// The one row of a statement, or none.
    pub(super) async fn row(&self, statement: Statement) -> Result<Option<SqliteRow>, StoreError> {
        let mut conn = self.reader().await?;
        statement.fetch_optional(&mut *conn).await.map_err(backend)
    }
}

#[async_trait]
impl Rooms for Sqlite {
    async fn room(&self, id: &RoomId) -> Result<Option<RoomRecord>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            room_columns!(),
            " FROM rooms r WHERE r.room_id = ?"
        );
        let row = self.row(sqlx::query(SQL).bind(id.as_str())).await?;
        row.map(|row| Cells::of(&row).room()).transpose()
    }

    async fn room_by_nid(&self, nid: RoomNid) -> Result<Option<RoomRecord>, StoreError> {
        const SQL: &str = concat!("SELECT ", room_columns!(), " FROM rooms r WHERE r.nid = ?");
        let row = self.row(sqlx::query(SQL).bind(nid.0)).await?;
        row.map(|row| Cells::of(&row).room()).transpose()
    }

    async fn rooms(&self, after: RoomNid, limit: u32) -> Result<Vec<RoomRecord>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            room_columns!(),
            " FROM rooms r WHERE r.nid > ? ORDER BY r.nid LIMIT ?"
        );
        let rows = self
            .rows(sqlx::query(SQL).bind(after.0).bind(limit))
            .await?;
        all(&rows, |row| Cells::of(row).room())
    }

    async fn event(&self, id: EventHash) -> Result<Option<EventRecord>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            event_columns!(),
            " FROM events e WHERE e.hash = ?"
        );
        let row = self.row(sqlx::query(SQL).bind(id.0.to_vec())).await?;
        row.map(|row| Cells::of(&row).event()).transpose()
    }

    async fn events(&self, nids: &[EventNid]) -> Result<Vec<EventRecord>, StoreError> {
        let mut conn = self.reader().await?;
        events(&mut conn, nids).await
    }

    async fn current(
        &self,
        room: RoomNid,
        keys: &[StateKey],
    ) -> Result<Vec<Option<EventRecord>>, StoreError> {
        let mut conn = self.reader().await?;
        let mut found = Vec::with_capacity(keys.len());
        // All of a decision's keys fit one statement, and so come from one commit.
        for keys in keys.chunks(KEYS_MAX) {
            found.extend(current(&mut conn, room, keys).await?);
        }
        Ok(found)
    }

    async fn current_all(
        &self,
        room: RoomNid,
        kind: Option<&str>,
    ) -> Result<Vec<EventRecord>, StoreError> {
        const ALL: &str = concat!(
            "SELECT ",
            event_columns!(),
            " FROM current c CROSS JOIN events e ON e.nid = c.event WHERE c.room = ? \
             ORDER BY c.kind, c.key"
        );
        const OF_KIND: &str = concat!(
            "SELECT ",
            event_columns!(),
            " FROM current c CROSS JOIN events e ON e.nid = c.event \
             WHERE c.room = ? AND c.kind = ? ORDER BY c.key"
        );
        let statement = match kind {
            None => sqlx::query(ALL).bind(room.0),
            Some(kind) => sqlx::query(OF_KIND).bind(room.0).bind(kind),
        };
        all(&self.rows(statement).await?, |row| Cells::of(row).event())
    }

    async fn state(&self, state: StateNid) -> Result<Vec<EventNid>, StoreError> {
        let mut conn = self.reader().await?;
        Ok(states::whole(&mut conn, state).await?.into_iter().collect())
    }

    async fn state_entries(
        &self,
        room: RoomNid,
        state: StateNid,
        keys: &[StateKey],
    ) -> Result<Vec<Option<EventRecord>>, StoreError> {
        let mut conn = self.reader().await?;
        state_entries(&mut conn, room, state, keys).await
    }

    async fn log(
        &self,
        room: RoomNid,
        from: Seq,
        to: Seq,
        order: Order,
        limit: u32,
    ) -> Result<Vec<LogRecord>, StoreError> {
        const FORWARD: &str = concat!(
            "SELECT l.seq, l.position, l.chain, l.marker, ",
            event_columns!(),
            " FROM log l LEFT JOIN events e ON e.nid = l.event \
             WHERE l.room = ? AND l.seq > ? AND l.seq <= ? ORDER BY l.seq LIMIT ?"
        );
        const BACKWARD: &str = concat!(
            "SELECT l.seq, l.position, l.chain, l.marker, ",
            event_columns!(),
            " FROM log l LEFT JOIN events e ON e.nid = l.event \
             WHERE l.room = ? AND l.seq > ? AND l.seq <= ? ORDER BY l.seq DESC LIMIT ?"
        );
        let sql = match order {
            Order::Forward => FORWARD,
            Order::Backward => BACKWARD,
        };
        let statement = sqlx::query(sql)
            .bind(room.0)
            .bind(int(from.0))
            .bind(int(to.0))
            .bind(limit);
        all(&self.rows(statement).await?, |row| Cells::of(row).log())
    }

    async fn seq_at(&self, room: RoomNid, position: Position) -> Result<Seq, StoreError> {
        let statement = sqlx::query(SEQ_AT).bind(room.0).bind(int(position.0));
        match self.row(statement).await? {
            Some(row) => Cells::of(&row).seq(),
            None => Ok(Seq::ZERO),
        }
    }

    async fn places(
        &self,
        room: RoomNid,
        anchor: Seq,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            event_columns!(),
            " FROM places p CROSS JOIN events e ON e.nid = p.event \
             WHERE p.room = ? AND p.anchor = ? ORDER BY p.depth DESC, p.event DESC LIMIT ?"
        );
        let statement = sqlx::query(SQL)
            .bind(room.0)
            .bind(int(anchor.0))
            .bind(limit);
        all(&self.rows(statement).await?, |row| Cells::of(row).event())
    }

    async fn membership(
        &self,
        user: &UserId,
        room: RoomNid,
    ) -> Result<Option<MembershipRecord>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            membership_columns!(),
            " FROM memberships m JOIN rooms r ON r.nid = m.room WHERE m.user = ? AND m.room = ?"
        );
        let statement = sqlx::query(SQL).bind(user.as_str()).bind(room.0);
        let row = self.row(statement).await?;
        row.map(|row| Cells::of(&row).membership()).transpose()
    }

    async fn memberships(
        &self,
        user: &UserId,
        since: Option<Position>,
    ) -> Result<Vec<MembershipRecord>, StoreError> {
        let mut conn = self.reader().await?;
        let statement = match since {
            None => sqlx::query(MEMBERSHIPS_ALL).bind(user.as_str()),
            Some(since) => {
                let sql = memberships_plan(&mut conn, user, since).await?;
                sqlx::query(sql).bind(user.as_str()).bind(int(since.0))
            }
        };
        let rows = statement.fetch_all(&mut *conn).await.map_err(backend)?;
        all(&rows, |row| Cells::of(row).membership())
    }

    async fn joined(
        &self,
        room: RoomNid,
        server: Option<&ServerName>,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        let suffix = server.map_or(String::new(), |server| format!(":{server}"));
        let statement = sqlx::query(
            "SELECT user FROM memberships WHERE room = ?1 AND membership = ?2
             AND (?3 = '' OR substr(user, -length(?3)) = ?3) ORDER BY user",
        )
        .bind(room.0)
        .bind(membership_code(Membership::Join))
        .bind(suffix);
        all(&self.rows(statement).await?, user_of)
    }

    async fn audience(
        &self,
        room: RoomNid,
        server: &ServerName,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        let statement = sqlx::query(
            "SELECT user FROM memberships WHERE room = ?1 AND membership IN (?2, ?3, ?4)
             AND substr(user, -length(?5)) = ?5 ORDER BY user",
        )
        .bind(room.0)
        .bind(membership_code(Membership::Join))
        .bind(membership_code(Membership::Invite))
        .bind(membership_code(Membership::Knock))
        .bind(format!(":{server}"));
        all(&self.rows(statement).await?, user_of)
    }

    async fn neighbours(&self, user: &UserId, limit: u32) -> Result<Vec<OwnedUserId>, StoreError> {
        let statement = sqlx::query(
            "SELECT DISTINCT o.user FROM memberships m CROSS JOIN memberships o
             ON o.room = m.room AND o.membership = ?2 AND o.user <> ?1
             WHERE m.user = ?1 AND m.membership = ?2 LIMIT ?3",
        )
        .bind(user.as_str())
        .bind(membership_code(Membership::Join))
        .bind(limit);
        all(&self.rows(statement).await?, user_of)
    }

    async fn share_a_room(&self, one: &UserId, other: &UserId) -> Result<bool, StoreError> {
        let statement = sqlx::query(
            "SELECT 1 FROM memberships a CROSS JOIN memberships b ON b.user = ?2 AND b.room = a.room
             AND b.membership = ?3 WHERE a.user = ?1 AND a.membership = ?3 LIMIT 1",
        )
        .bind(one.as_str())
        .bind(other.as_str())
        .bind(membership_code(Membership::Join));
        Ok(self.row(statement).await?.is_some())
    }

    async fn txn(&self, key: &TxnKey) -> Result<Option<TxnAnswer>, StoreError> {
        let statement = sqlx::query(
            "SELECT answer IS NULL, coalesce(answer, '') FROM txns
             WHERE user = ? AND device = ? AND endpoint = ? AND txn = ?",
        )
        .bind(key.user.as_str())
        .bind(key.device.as_str())
        .bind(key.endpoint.as_str())
        .bind(key.txn.as_str());
        let Some(row) = self.row(statement).await? else {
            return Ok(None);
        };
        let mut cells = Cells::of(&row);
        Ok(Some(if cells.next()? {
            TxnAnswer::Done
        } else {
            TxnAnswer::Event(cells.text()?)
        }))
    }

    async fn txns(
        &self,
        user: &UserId,
        device: &ruma::DeviceId,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let statement = sqlx::query("SELECT endpoint, txn FROM txns WHERE user = ? AND device = ?")
            .bind(user.as_str())
            .bind(device.as_str());
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok((cells.next()?, cells.next()?))
        })
    }

    async fn alias(&self, alias: &RoomAliasId) -> Result<Option<AliasRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT a.alias, a.room, r.room_id, a.creator FROM aliases a
             JOIN rooms r ON r.nid = a.room WHERE a.alias = ?",
        )
        .bind(alias.as_str());
        self.row(statement)
            .await?
            .as_ref()
            .map(alias_of)
            .transpose()
    }

    async fn aliases(&self, room: RoomNid) -> Result<Vec<AliasRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT a.alias, a.room, r.room_id, a.creator FROM aliases a
             JOIN rooms r ON r.nid = a.room WHERE a.room = ? ORDER BY a.alias",
        )
        .bind(room.0);
        all(&self.rows(statement).await?, alias_of)
    }

    async fn is_listed(&self, room: RoomNid) -> Result<bool, StoreError> {
        let statement = sqlx::query("SELECT 1 FROM directory WHERE room = ?").bind(room.0);
        Ok(self.row(statement).await?.is_some())
    }

    async fn listed(
        &self,
        after: Option<(u64, RoomNid)>,
        limit: u32,
    ) -> Result<Vec<ListedRecord>, StoreError> {
        const SQL: &str = concat!(
            "WITH listed (nid, joined) AS MATERIALIZED (
                SELECT d.room, (SELECT count(*) FROM memberships m
                                WHERE m.room = d.room AND m.membership = 1)
                FROM directory d)
            SELECT ",
            room_columns!(),
            ", l.joined FROM listed l CROSS JOIN rooms r ON r.nid = l.nid
            WHERE l.joined > 0 AND (l.joined < ?1 OR (l.joined = ?1 AND l.nid > ?2))
            ORDER BY l.joined DESC, l.nid LIMIT ?3"
        );
        let (joined, nid) = after.unwrap_or((u64::MAX, RoomNid(0)));
        let statement = sqlx::query(SQL).bind(int(joined)).bind(nid.0).bind(limit);
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(ListedRecord {
                room: cells.room()?,
                joined: cells.number()?,
            })
        })
    }

    async fn receipts(
        &self,
        room: RoomNid,
        since: Position,
    ) -> Result<Vec<ReceiptRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT user, kind, thread, event, at, position FROM receipts
             WHERE room = ? AND position > ? ORDER BY position, user, kind, thread",
        )
        .bind(room.0)
        .bind(int(since.0));
        all(&self.rows(statement).await?, receipt_of)
    }

    async fn receipts_of(
        &self,
        room: RoomNid,
        user: &UserId,
    ) -> Result<Vec<ReceiptRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT user, kind, thread, event, at, position FROM receipts
             WHERE room = ? AND user = ? ORDER BY kind, thread",
        )
        .bind(room.0)
        .bind(user.as_str());
        all(&self.rows(statement).await?, receipt_of)
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        let row = self
            .row(sqlx::query("SELECT rooms, events, users FROM hub"))
            .await?
            .ok_or_else(|| damaged("the row of totals is gone"))?;
        let mut cells = Cells::of(&row);
        Ok(Totals {
            rooms: cells.number()?,
            events: cells.number()?,
            users: cells.number()?,
        })
    }
}

/// Events in the order asked for.
async fn events(
    conn: &mut SqliteConnection,
    nids: &[EventNid],
) -> Result<Vec<EventRecord>, StoreError> {
    const SQL: &str = concat!(
        "SELECT ",
        event_columns!(),
        " FROM json_each(?) j CROSS JOIN events e ON e.nid = j.value ORDER BY j.key"
    );
    let list: Vec<i64> = nids.iter().map(|nid| nid.0).collect();
    let list = serde_json::to_string(&list).expect("a list of numbers is JSON");
    let rows = sqlx::query(SQL)
        .bind(list)
        .fetch_all(conn)
        .await
        .map_err(backend)?;
    all(&rows, |row| Cells::of(row).event())
}

/// Up to [`KEYS_MAX`] pieces of current state in one statement, which has room for 4, 16 or 64.
async fn current(
    conn: &mut SqliteConnection,
    room: RoomNid,
    keys: &[StateKey],
) -> Result<Vec<Option<EventRecord>>, StoreError> {
    let fitting = CURRENT.iter().find(|(size, _)| keys.len() <= *size);
    let (size, sql) = fitting.ok_or_else(|| damaged(format!("{} keys", keys.len())))?;
    let mut statement: Statement = sqlx::query(AssertSqlSafe(sql.as_str()));
    for index in 0..*size {
        // What is too much stays null and equals nothing.
        let key = keys.get(index);
        statement = statement
            .bind(i64::try_from(index).unwrap_or(i64::MAX))
            .bind(key.map(|key| key.kind.as_str()))
            .bind(key.map(|key| key.key.as_str()));
    }
    let rows = statement
        .bind(room.0)
        .fetch_all(conn)
        .await
        .map_err(backend)?;
    let mut found = vec![None; keys.len()];
    for row in &rows {
        let mut cells = Cells::of(row);
        let index: usize = cells.number()?;
        if let Some(slot) = found.get_mut(index) {
            *slot = Some(cells.event()?);
        }
    }
    Ok(found)
}

static CURRENT: LazyLock<[(usize, String); 3]> = LazyLock::new(|| {
    [4, 16, KEYS_MAX].map(|size| {
        let wanted = vec!["(?,?,?)"; size].join(",");
        let sql = format!(
            "SELECT v.column1, {} FROM (VALUES {wanted}) AS v CROSS JOIN current c \
             ON c.room = ? AND c.kind = v.column2 AND c.key = v.column3 \
             CROSS JOIN events e ON e.nid = c.event",
            event_columns!()
        );
        (size, sql)
    })
});

/// The statement for 16 keys, for the test of its plan.
#[cfg(test)]
pub(super) fn current_statement() -> &'static str {
    let [_, (_, sql), _] = &*CURRENT;
    sql
}

/// How many pieces of current state are read at once: more than any event's authorization names.
const KEYS_MAX: usize = 64;

/// For each key its few candidates by index, then which of them the state holds.
async fn state_entries(
    conn: &mut SqliteConnection,
    room: RoomNid,
    state: StateNid,
    keys: &[StateKey],
) -> Result<Vec<Option<EventRecord>>, StoreError> {
    let mut keyed = BTreeMap::new();
    for (index, key) in keys.iter().enumerate() {
        let rows = sqlx::query(
            "SELECT nid FROM events
             WHERE room = ? AND kind = ? AND state_key = ? AND state_key IS NOT NULL",
        )
        .bind(room.0)
        .bind(key.kind.as_str())
        .bind(key.key.as_str())
        .fetch_all(&mut *conn)
        .await
        .map_err(backend)?;
        for row in &rows {
            keyed.insert(EventNid(Cells::of(row).next()?), index);
        }
    }
    let candidates: BTreeSet<EventNid> = keyed.keys().copied().collect();
    let present = states::which(conn, state, &candidates).await?;
    let picked = states::pick(&keyed, &present, keys.len());
    let wanted: Vec<EventNid> = picked.iter().flatten().copied().collect();
    let mut found: BTreeMap<EventNid, EventRecord> = events(conn, &wanted)
        .await?
        .into_iter()
        .map(|event| (event.nid, event))
        .collect();
    Ok(picked
        .into_iter()
        .map(|nid| nid.and_then(|nid| found.remove(&nid)))
        .collect())
}

/// Which side to start from: usually few rooms have something new; after a long absence on a busy
/// hub, the user's own rooms are fewer.
async fn memberships_plan(
    conn: &mut SqliteConnection,
    user: &UserId,
    since: Position,
) -> Result<&'static str, StoreError> {
    let changed = changed_rooms(conn, since, CHANGED_ROOMS_FEW).await?;
    if changed < CHANGED_ROOMS_FEW {
        return Ok(MEMBERSHIPS_BY_CHANGE);
    }
    let row = sqlx::query("SELECT count(*) FROM memberships WHERE user = ?")
        .bind(user.as_str())
        .fetch_one(&mut *conn)
        .await
        .map_err(backend)?;
    let own: i64 = Cells::of(&row).next()?;
    let changed = changed_rooms(conn, since, own + 1).await?;
    Ok(if changed > own {
        MEMBERSHIPS_BY_USER
    } else {
        MEMBERSHIPS_BY_CHANGE
    })
}

/// How many rooms have something new, counted up to `limit`.
async fn changed_rooms(
    conn: &mut SqliteConnection,
    since: Position,
    limit: i64,
) -> Result<i64, StoreError> {
    let row = sqlx::query("SELECT count(*) FROM (SELECT 1 FROM rooms WHERE position > ? LIMIT ?)")
        .bind(int(since.0))
        .bind(limit)
        .fetch_one(conn)
        .await
        .map_err(backend)?;
    Cells::of(&row).next()
}

/// Below this many changed rooms it does not matter how many the user has.
const CHANGED_ROOMS_FEW: i64 = 200;

macro_rules! membership_columns {
    () => {
        "m.user, m.room, r.room_id, m.membership, m.event, m.position, r.position, m.forgotten"
    };
}
use membership_columns;

pub(super) const MEMBERSHIPS_ALL: &str = concat!(
    "SELECT ",
    membership_columns!(),
    " FROM memberships m CROSS JOIN rooms r ON r.nid = m.room \
     WHERE m.user = ?1 AND m.forgotten = 0 ORDER BY m.room"
);

/// From the changed rooms to the user, and from the user's changes.
pub(super) const MEMBERSHIPS_BY_CHANGE: &str = concat!(
    "SELECT ",
    membership_columns!(),
    " FROM rooms r INDEXED BY rooms_by_position \
     CROSS JOIN memberships m ON m.user = ?1 AND m.room = r.nid \
     WHERE r.position > ?2 AND m.forgotten = 0 UNION SELECT ",
    membership_columns!(),
    " FROM memberships m INDEXED BY memberships_by_position CROSS JOIN rooms r ON r.nid = m.room \
     WHERE m.user = ?1 AND m.position > ?2 ORDER BY 2"
);

/// From the user's rooms to their positions.
pub(super) const MEMBERSHIPS_BY_USER: &str = concat!(
    "SELECT ",
    membership_columns!(),
    " FROM memberships m CROSS JOIN rooms r ON r.nid = m.room \
     WHERE m.user = ?1 AND ((m.forgotten = 0 AND r.position > ?2) OR m.position > ?2) \
     ORDER BY m.room"
);

/// A binary search over the room's log: positions rise with seq.
pub(super) const SEQ_AT: &str = "WITH RECURSIVE search (low, high) AS (
        SELECT CASE WHEN position <= ?2 THEN seq ELSE 0 END, seq FROM rooms WHERE nid = ?1
        UNION ALL
        SELECT CASE WHEN l.position <= ?2 THEN l.seq ELSE s.low END,
               CASE WHEN l.position <= ?2 THEN s.high ELSE l.seq - 1 END
        FROM search s CROSS JOIN log l ON l.room = ?1 AND l.seq = (s.low + s.high + 1) / 2
        WHERE s.low < s.high)
    SELECT low FROM search WHERE low >= high";

fn alias_of(row: &SqliteRow) -> Result<AliasRecord, StoreError> {
    let mut cells = Cells::of(row);
    Ok(AliasRecord {
        alias: cells.text()?,
        room: RoomNid(cells.next()?),
        room_id: cells.text()?,
        creator: cells.text()?,
    })
}

fn receipt_of(row: &SqliteRow) -> Result<ReceiptRecord, StoreError> {
    let mut cells = Cells::of(row);
    Ok(ReceiptRecord {
        user: cells.text()?,
        kind: cells.next()?,
        thread: cells.next()?,
        event: cells.text()?,
        at: cells.timestamp()?,
        position: cells.position()?,
    })
}
