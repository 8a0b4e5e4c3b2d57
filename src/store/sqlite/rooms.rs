//! Reads of rooms: events, state, the log, memberships.

use async_trait::async_trait;
use ruma::{OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use sqlx::{Sqlite as Db, pool::PoolConnection, sqlite::SqliteRow};

use super::{
    Sqlite, backend,
    bulk::Statement,
    damaged,
    memberships::{self, membership_columns},
    outside, pieces,
    rows::{Cells, all, event_columns, int, membership_code, room_columns, user_of},
    states,
};
use crate::{
    base::{EventHash, Position, Seq},
    room::{Membership, StateKey},
    store::{
        AliasRecord, EventNid, EventRecord, Kinds, ListedRecord, LogRecord, MembershipRecord,
        Order, OutsideRecord, PolicyDecision, ReceiptRecord, RoomNid, RoomRecord, Rooms, StateNid,
        StoreError, Totals, TxnAnswer, TxnKey,
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

    async fn room_numbers(&self, after: RoomNid, limit: u32) -> Result<Vec<RoomNid>, StoreError> {
        let statement = sqlx::query("SELECT nid FROM rooms WHERE nid > ? ORDER BY nid LIMIT ?")
            .bind(after.0)
            .bind(limit);
        all(&self.rows(statement).await?, |row| {
            Cells::of(row).next().map(RoomNid)
        })
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
        pieces::events(&mut conn, nids).await
    }

    async fn numbered(&self, ids: &[EventHash]) -> Result<Vec<(EventHash, EventNid)>, StoreError> {
        let mut conn = self.reader().await?;
        let mut numbered = Vec::new();
        for ids in ids.chunks(pieces::HASHES_MAX) {
            numbered.extend(pieces::numbered(&mut conn, ids).await?);
        }
        Ok(numbered)
    }

    async fn current(
        &self,
        room: RoomNid,
        keys: &[StateKey],
    ) -> Result<Vec<Option<EventRecord>>, StoreError> {
        let mut conn = self.reader().await?;
        let mut found = Vec::with_capacity(keys.len());
        // All of a decision's keys fit one statement, and so come from one commit.
        for keys in keys.chunks(pieces::KEYS_MAX) {
            found.extend(pieces::current(&mut conn, room, keys).await?);
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

    async fn in_state(
        &self,
        state: StateNid,
        events: &[EventNid],
    ) -> Result<Vec<EventNid>, StoreError> {
        let mut conn = self.reader().await?;
        let candidates = events.iter().copied().collect();
        let present = states::which(&mut conn, state, &candidates).await?;
        Ok(present.into_iter().collect())
    }

    async fn state_entries(
        &self,
        room: RoomNid,
        state: StateNid,
        keys: &[StateKey],
    ) -> Result<Vec<Option<EventRecord>>, StoreError> {
        let mut conn = self.reader().await?;
        pieces::state_entries(&mut conn, room, state, keys).await
    }

    async fn state_events(
        &self,
        room: RoomNid,
        state: StateNid,
        kinds: Kinds<'_>,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let mut conn = self.reader().await?;
        pieces::state_events(&mut conn, room, state, kinds).await
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
            "SELECT l.seq, l.position, l.chain, l.state, l.marker, ",
            event_columns!(),
            " FROM log l LEFT JOIN events e ON e.nid = l.event \
             WHERE l.room = ? AND l.seq > ? AND l.seq <= ? ORDER BY l.seq LIMIT ?"
        );
        const BACKWARD: &str = concat!(
            "SELECT l.seq, l.position, l.chain, l.state, l.marker, ",
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
        order: Order,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        const FORWARD: &str = concat!(
            "SELECT ",
            event_columns!(),
            " FROM places p CROSS JOIN events e ON e.nid = p.event \
             WHERE p.room = ? AND p.anchor = ? ORDER BY p.depth, p.event LIMIT ? OFFSET ?"
        );
        const BACKWARD: &str = concat!(
            "SELECT ",
            event_columns!(),
            " FROM places p CROSS JOIN events e ON e.nid = p.event \
             WHERE p.room = ? AND p.anchor = ? ORDER BY p.depth DESC, p.event DESC LIMIT ? OFFSET ?"
        );
        let sql = match order {
            Order::Forward => FORWARD,
            Order::Backward => BACKWARD,
        };
        let statement = sqlx::query(sql)
            .bind(room.0)
            .bind(int(anchor.0))
            .bind(limit)
            .bind(skip);
        all(&self.rows(statement).await?, |row| Cells::of(row).event())
    }

    async fn anchors(
        &self,
        room: RoomNid,
        from: Seq,
        to: Seq,
        limit: u32,
    ) -> Result<Vec<Seq>, StoreError> {
        const SQL: &str = "SELECT DISTINCT anchor AS seq FROM places \
             WHERE room = ? AND anchor > ? AND anchor <= ? ORDER BY anchor DESC LIMIT ?";
        let statement = sqlx::query(SQL)
            .bind(room.0)
            .bind(int(from.0))
            .bind(int(to.0))
            .bind(limit);
        all(&self.rows(statement).await?, |row| Cells::of(row).seq())
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
            None => sqlx::query(memberships::ALL).bind(user.as_str()),
            Some(since) => {
                let sql = memberships::plan(&mut conn, user, since).await?;
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

    async fn policy_decision(
        &self,
        event: EventHash,
    ) -> Result<Option<PolicyDecision>, StoreError> {
        let sql = "SELECT refused FROM policy_decisions WHERE event = ?";
        let statement = sqlx::query(sql).bind(event.0.to_vec());
        let row = self.row(statement).await?;
        row.map(|row| {
            Ok(PolicyDecision {
                refused: Cells::of(&row).next()?,
            })
        })
        .transpose()
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

    async fn outside(
        &self,
        user: &UserId,
        since: Position,
    ) -> Result<Vec<OutsideRecord>, StoreError> {
        outside::of_user(self, user, since).await
    }

    async fn outside_of(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Option<OutsideRecord>, StoreError> {
        outside::of_room(self, user, room).await
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
