//! What other servers are told.

use async_trait::async_trait;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use sqlx::{Row as _, SqliteConnection};

use super::{
    Sqlite, backend,
    commit::Stop,
    devices,
    rows::{Cells, all, int, membership_code, user_of},
};
use crate::{
    base::{Position, Seq, Timestamp},
    room::Membership,
    store::{
        DeliveryRecord, DestinationRecord, Destinations, KeysChange, Mark, OutboxWrite,
        ParcelRecord, Residency, RoomNid, StoreError,
    },
};

#[async_trait]
impl Destinations for Sqlite {
    async fn destinations(&self) -> Result<Vec<DestinationRecord>, StoreError> {
        const SQL: &str = "SELECT n.server, coalesce(d.position, 0), coalesce(d.room, 0),
                coalesce(d.seq, 0), coalesce(d.beside, 0), d.failing
            FROM (SELECT server FROM destinations UNION SELECT server FROM residents
                  UNION SELECT server FROM parcels) n
            LEFT JOIN destinations d ON d.server = n.server ORDER BY n.server";
        all(&self.rows(sqlx::query(SQL)).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(DestinationRecord {
                server: cells.text()?,
                mark: mark(&mut cells)?,
                beside: cells.position()?,
                failing_since: cells.optional_number()?.map(Timestamp),
            })
        })
    }

    async fn backlog(
        &self,
        server: Option<&ServerName>,
    ) -> Result<Vec<(OwnedServerName, RoomNid)>, StoreError> {
        macro_rules! backlog {
            ($where:literal) => {
                concat!(
                    "SELECT DISTINCT s.server, s.room FROM residents s
                     CROSS JOIN rooms r ON r.nid = s.room
                     LEFT JOIN destinations d ON d.server = s.server
                     WHERE ",
                    $where,
                    "(r.position > coalesce(d.position, 0)
                        OR (r.position = d.position AND r.nid >= d.room))
                     AND (s.until IS NULL OR EXISTS (SELECT 1 FROM log l
                        WHERE l.room = s.room AND l.seq = s.until
                        AND l.position >= coalesce(d.position, 0)))"
                )
            };
        }
        let statement = match server {
            Some(server) => sqlx::query(backlog!("s.server = ? AND ")).bind(server.as_str()),
            None => sqlx::query(backlog!("")),
        };
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok((cells.text()?, RoomNid(cells.next()?)))
        })
    }

    async fn residents(&self, room: RoomNid) -> Result<Vec<OwnedServerName>, StoreError> {
        const SQL: &str =
            "SELECT server FROM residents WHERE room = ? AND until IS NULL ORDER BY server";
        let statement = sqlx::query(SQL).bind(room.0);
        all(&self.rows(statement).await?, |row| Cells::of(row).text())
    }

    async fn neighbour_servers(
        &self,
        user: &UserId,
        limit: u32,
    ) -> Result<Vec<OwnedServerName>, StoreError> {
        const SQL: &str = "SELECT DISTINCT s.server FROM memberships m CROSS JOIN residents s
            ON s.room = m.room AND s.until IS NULL
            WHERE m.user = ? AND m.membership = ? LIMIT ?";
        let statement = sqlx::query(SQL)
            .bind(user.as_str())
            .bind(membership_code(Membership::Join))
            .bind(limit);
        all(&self.rows(statement).await?, |row| Cells::of(row).text())
    }

    async fn residencies(
        &self,
        server: &ServerName,
        room: RoomNid,
    ) -> Result<Vec<Residency>, StoreError> {
        const SQL: &str =
            "SELECT since, until FROM residents WHERE room = ? AND server = ? ORDER BY since";
        let statement = sqlx::query(SQL).bind(room.0).bind(server.as_str());
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(Residency {
                since: cells.seq()?,
                until: cells.optional_number()?.map(Seq),
            })
        })
    }

    async fn relayed(&self, room: RoomNid, from: Seq, to: Seq) -> Result<Vec<Seq>, StoreError> {
        const SQL: &str =
            "SELECT seq FROM relays WHERE room = ? AND seq >= ? AND seq <= ? ORDER BY seq";
        let statement = sqlx::query(SQL)
            .bind(room.0)
            .bind(int(from.0))
            .bind(int(to.0));
        all(&self.rows(statement).await?, |row| Cells::of(row).seq())
    }

    async fn parcels(
        &self,
        server: &ServerName,
        after: (Position, u64),
        limit: u32,
    ) -> Result<Vec<ParcelRecord>, StoreError> {
        const SQL: &str = "SELECT position, part, at, edu FROM parcels WHERE server = ?
            AND (position, part) > (?, ?) ORDER BY position, part LIMIT ?";
        let statement = sqlx::query(SQL)
            .bind(server.as_str())
            .bind(int(after.0.0))
            .bind(int(after.1))
            .bind(limit);
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(ParcelRecord {
                place: (cells.position()?, cells.number()?),
                at: cells.timestamp()?,
                edu: cells.next()?,
            })
        })
    }

    async fn receipt_rooms(
        &self,
        server: &ServerName,
        since: Position,
    ) -> Result<Vec<RoomNid>, StoreError> {
        const SQL: &str = "SELECT DISTINCT s.room FROM residents s
            WHERE s.server = ?1 AND s.until IS NULL AND EXISTS
                (SELECT 1 FROM receipts r WHERE r.room = s.room AND r.position > ?2)
            ORDER BY s.room";
        let statement = sqlx::query(SQL).bind(server.as_str()).bind(int(since.0));
        all(&self.rows(statement).await?, |row| {
            Ok(RoomNid(Cells::of(row).next()?))
        })
    }

    async fn devices_changed_for(
        &self,
        server: &ServerName,
        since: Position,
        to: Position,
    ) -> Result<Vec<(Position, OwnedUserId, KeysChange)>, StoreError> {
        const SQL: &str = "SELECT c.position, c.user, c.what, c.about FROM device_changes c
            WHERE c.position > ?2 AND c.position <= ?3 AND c.what <> 3 AND EXISTS
                (SELECT 1 FROM memberships m CROSS JOIN residents s
                 ON s.room = m.room AND s.server = ?1 AND s.until IS NULL
                 WHERE m.user = c.user AND m.membership = 1)
            ORDER BY c.position, c.user, c.what, c.about";
        let statement = sqlx::query(SQL)
            .bind(server.as_str())
            .bind(int(since.0))
            .bind(int(to.0));
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok((
                cells.position()?,
                cells.text()?,
                devices::change(&mut cells)?,
            ))
        })
    }

    async fn deliveries(&self, room: RoomNid, seq: Seq) -> Result<Vec<DeliveryRecord>, StoreError> {
        const SQL: &str = "SELECT DISTINCT s.server, coalesce(d.position, 0),
                coalesce(d.room, 0), coalesce(d.seq, 0), f.reason,
                EXISTS (SELECT 1 FROM lapses x WHERE x.server = s.server
                    AND (x.position, x.room, x.seq) < (l.position, l.room, l.seq)
                    AND (x.to_position, x.to_room, x.to_seq) >= (l.position, l.room, l.seq)),
                EXISTS (SELECT 1 FROM withheld w WHERE w.room = s.room AND w.server = s.server
                    AND w.seq <= ?2 AND w.to_seq >= ?2)
            FROM residents s JOIN log l ON l.room = s.room AND l.seq = ?2
            LEFT JOIN destinations d ON d.server = s.server
            LEFT JOIN refusals f ON f.room = s.room AND f.seq = ?2 AND f.server = s.server
            WHERE s.room = ?1 AND s.since <= ?2 AND (s.until IS NULL OR s.until >= ?2)
            ORDER BY s.server";
        let statement = sqlx::query(SQL).bind(room.0).bind(int(seq.0));
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(DeliveryRecord {
                server: cells.text()?,
                mark: mark(&mut cells)?,
                refused: cells.next()?,
                expired: cells.next()?,
                withheld: cells.next()?,
            })
        })
    }

    async fn lost(&self, room: RoomNid, seqs: &[Seq]) -> Result<Vec<Seq>, StoreError> {
        const SQL: &str = "WITH gone AS MATERIALIZED (SELECT x.* FROM lapses x
                WHERE x.server IN (SELECT server FROM residents WHERE room = ?1))
            SELECT l.seq FROM json_each(?2) j CROSS JOIN log l ON l.room = ?1 AND l.seq = j.value
            WHERE EXISTS (SELECT 1 FROM refusals f WHERE f.room = ?1 AND f.seq = l.seq)
               OR EXISTS (SELECT 1 FROM withheld w
                    WHERE w.room = ?1 AND w.seq <= l.seq AND w.to_seq >= l.seq)
               OR EXISTS (SELECT 1 FROM gone x
                    WHERE (x.position, x.room, x.seq) < (l.position, l.room, l.seq)
                    AND (x.to_position, x.to_room, x.to_seq) >= (l.position, l.room, l.seq))";
        if seqs.is_empty() {
            return Ok(Vec::new());
        }
        let list: Vec<i64> = seqs.iter().map(|seq| int(seq.0)).collect();
        let list = serde_json::to_string(&list).expect("a list of numbers is JSON");
        let statement = sqlx::query(SQL).bind(room.0).bind(list);
        all(&self.rows(statement).await?, |row| Cells::of(row).seq())
    }
}

fn mark(cells: &mut Cells<'_>) -> Result<Mark, StoreError> {
    Ok(Mark {
        position: cells.position()?,
        room: RoomNid(cells.next()?),
        seq: cells.seq()?,
    })
}

/// Does a write about what other servers are told. Memberships are written before.
pub(super) async fn execute(conn: &mut SqliteConnection, write: &OutboxWrite) -> Result<(), Stop> {
    let statement = match write {
        OutboxWrite::Residents {
            room,
            seq,
            servers,
            told,
        } => return residents(conn, (*room, *seq), servers, *told).await,
        OutboxWrite::Relay { room, seq } => {
            sqlx::query("INSERT INTO relays (room, seq) VALUES (?, ?) ON CONFLICT DO NOTHING")
                .bind(room.0)
                .bind(int(seq.0))
        }
        OutboxWrite::Destination(record) => sqlx::query(SET_DESTINATION)
            .bind(record.server.as_str())
            .bind(int(record.mark.position.0))
            .bind(record.mark.room.0)
            .bind(int(record.mark.seq.0))
            .bind(int(record.beside.0))
            .bind(record.failing_since.map(|at| int(at.0))),
        OutboxWrite::ParcelsSent { to, upto } => {
            sqlx::query("DELETE FROM parcels WHERE server = ?1 AND (position, part) <= (?2, ?3)")
                .bind(to.as_str())
                .bind(int(upto.0.0))
                .bind(int(upto.1))
        }
        OutboxWrite::Refused {
            server,
            room,
            seq,
            reason,
            at,
        } => sqlx::query(
            "INSERT INTO refusals (room, seq, server, reason, at) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET reason = excluded.reason, at = excluded.at",
        )
        .bind(room.0)
        .bind(int(seq.0))
        .bind(server.as_str())
        .bind(reason.as_str())
        .bind(int(at.0)),
        OutboxWrite::Expired {
            server,
            from,
            to,
            at,
        } => {
            sqlx::query("INSERT INTO lapses VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(server.as_str())
                .bind(int(from.position.0))
                .bind(from.room.0)
                .bind(int(from.seq.0))
                .bind(int(to.position.0))
                .bind(to.room.0)
                .bind(int(to.seq.0))
                .bind(int(at.0))
        }
        OutboxWrite::Withheld {
            server,
            room,
            from,
            to,
            at,
        } => sqlx::query(
            "INSERT INTO withheld (room, server, seq, to_seq, at) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET to_seq = max(to_seq, excluded.to_seq), at = excluded.at",
        )
        .bind(room.0)
        .bind(server.as_str())
        .bind(int(from.0))
        .bind(int(to.0))
        .bind(int(at.0)),
        OutboxWrite::ForgetFailures { before } => {
            for sql in [
                "DELETE FROM lapses WHERE at < ?",
                "DELETE FROM withheld WHERE at < ?",
            ] {
                let statement = sqlx::query(sql).bind(int(before.0));
                statement.execute(&mut *conn).await?;
            }
            sqlx::query("DELETE FROM refusals WHERE at < ?").bind(int(before.0))
        }
    };
    statement.execute(conn).await?;
    Ok(())
}

const SET_DESTINATION: &str = "INSERT INTO destinations VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET position = excluded.position, room = excluded.room,
        seq = excluded.seq, beside = excluded.beside, failing = excluded.failing";

/// Keeps a parcel; each of a commit has a place of its own.
pub(super) async fn keep_parcel(
    conn: &mut SqliteConnection,
    (to, position): (&ServerName, Position),
    edu: &str,
    at: Timestamp,
) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO parcels (server, position, part, at, edu)
        SELECT ?1, ?2, coalesce(max(part), 0) + 1, ?3, ?4 FROM parcels
        WHERE server = ?1 AND position = ?2";
    sqlx::query(SQL)
        .bind(to.as_str())
        .bind(int(position.0))
        .bind(int(at.0))
        .bind(edu)
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes which of `servers` have come into a room and which have gone.
async fn residents(
    conn: &mut SqliteConnection,
    (room, seq): (RoomNid, Seq),
    servers: &[OwnedServerName],
    told: bool,
) -> Result<(), Stop> {
    // One look for the many servers of a room that is joined elsewhere.
    let joined = if servers.len() == 1 {
        Vec::new()
    } else {
        all_joined(conn, room).await?
    };
    for server in servers {
        let open = "SELECT 1 FROM residents WHERE room = ? AND server = ? AND until IS NULL";
        let is_noted = sqlx::query(open)
            .bind(room.0)
            .bind(server.as_str())
            .fetch_optional(&mut *conn)
            .await?
            .is_some();
        let is_joined = match servers {
            [_] => is_joined(conn, room, server).await?,
            _ => joined.binary_search(server).is_ok(),
        };
        let statement = match (is_joined, is_noted) {
            (true, false) => {
                "INSERT INTO residents (room, server, since) VALUES (?1, ?2, ?3)
                ON CONFLICT DO UPDATE SET until = NULL"
            }
            (false, true) => {
                "UPDATE residents SET until = ?3
                 WHERE room = ?1 AND server = ?2 AND until IS NULL"
            }
            (false, false) if told => {
                "INSERT INTO residents (room, server, since, until) VALUES (?1, ?2, ?3, ?3)
                 ON CONFLICT DO NOTHING"
            }
            _ => continue,
        };
        sqlx::query(statement)
            .bind(room.0)
            .bind(server.as_str())
            .bind(int(seq.0))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// The servers of the users joined to a room, in order.
async fn all_joined(
    conn: &mut SqliteConnection,
    room: RoomNid,
) -> Result<Vec<OwnedServerName>, Stop> {
    const JOINED: &str = "SELECT user FROM memberships WHERE room = ? AND membership = 1";
    let rows = sqlx::query(JOINED)
        .bind(room.0)
        .fetch_all(&mut *conn)
        .await?;
    let users = all(&rows, user_of)?;
    let mut joined: Vec<_> = users.into_iter().map(|user| server_of(&user)).collect();
    joined.sort_unstable();
    joined.dedup();
    Ok(joined)
}

fn server_of(user: &UserId) -> OwnedServerName {
    user.server_name().to_owned()
}

/// Stops at the first user that it finds.
async fn is_joined(
    conn: &mut SqliteConnection,
    room: RoomNid,
    server: &ServerName,
) -> Result<bool, Stop> {
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM memberships WHERE room = ?1
        AND membership = 1 AND substr(user, instr(user, ':') + 1) = ?2)";
    let row = sqlx::query(SQL)
        .bind(room.0)
        .bind(server.as_str())
        .fetch_one(conn)
        .await?;
    row.try_get(0).map_err(|error| Stop::Store(backend(error)))
}
