//! The device lists of other servers' users.

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedUserId, ServerName, UserId};
use sqlx::SqliteConnection;

use super::{
    Sqlite,
    bulk::Statement,
    commit::Stop,
    rows::{Cells, all, int, membership_code, user_of},
};
use crate::{
    base::Position,
    room::Membership,
    store::{
        REMOTE_MESSAGES_MAX, RemoteDevice, RemoteList, RemoteUser, RemoteUsers, StoreError, Write,
    },
};

#[async_trait]
impl RemoteUsers for Sqlite {
    async fn remote_list(&self, user: &UserId) -> Result<Option<RemoteList>, StoreError> {
        let statement = sqlx::query(
            "SELECT u.stream, u.stale, u.asked, u.master_key, u.self_signing_key,
                    d.device, d.name, d.keys
             FROM remote_users u LEFT JOIN remote_devices d ON d.user = u.user
             WHERE u.user = ? ORDER BY d.device",
        )
        .bind(user.as_str());
        let mut list: Option<RemoteList> = None;
        for row in &self.rows(statement).await? {
            let mut cells = Cells::of(row);
            let user = RemoteUser {
                stream: cells.number()?,
                stale: cells.next()?,
                asked: cells.position()?,
                master_key: cells.next()?,
                self_signing_key: cells.next()?,
            };
            let list = list.get_or_insert(RemoteList {
                user,
                devices: Vec::new(),
            });
            if let Some(device) = cells.next::<Option<&str>>()? {
                list.devices.push(RemoteDevice {
                    device: OwnedDeviceId::from(device),
                    name: cells.next()?,
                    keys: cells.next()?,
                });
            }
        }
        Ok(list)
    }

    async fn in_touch_since(
        &self,
        user: &UserId,
        caller: &UserId,
        since: Position,
    ) -> Result<bool, StoreError> {
        let statement = sqlx::query(IN_TOUCH)
            .bind(user.as_str())
            .bind(caller.as_str())
            .bind(int(since.0))
            .bind(membership_code(Membership::Join))
            .bind(format!(":{}", caller.server_name()));
        let row = self.row(statement).await?;
        Ok(match row {
            Some(row) => Cells::of(&row).next()?,
            None => false,
        })
    }

    async fn neighbours_of(
        &self,
        user: &UserId,
        server: &ServerName,
        limit: u32,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        let statement = sqlx::query(NEIGHBOURS_OF)
            .bind(user.as_str())
            .bind(membership_code(Membership::Join))
            .bind(format!(":{server}"))
            .bind(limit);
        all(&self.rows(statement).await?, user_of)
    }

    async fn devices_changed_at(
        &self,
        user: &UserId,
        to: Position,
    ) -> Result<Position, StoreError> {
        let statement = sqlx::query(
            "SELECT coalesce(max(position), 0) FROM device_changes
             WHERE user = ? AND what IN (0, 1) AND position <= ?",
        )
        .bind(user.as_str())
        .bind(int(to.0));
        let row = self.row(statement).await?;
        row.map_or(Ok(Position::ZERO), |row| Cells::of(&row).position())
    }

    async fn strangers(
        &self,
        ours: &ServerName,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        // The rooms in which someone of ours is, from our accounts: a room may have many others.
        const SQL: &str = "WITH here AS MATERIALIZED (
                SELECT DISTINCT m.room FROM users u CROSS JOIN memberships m
                ON m.user = u.user AND m.membership = ?4),
            kept AS (SELECT user FROM remote_users UNION
                SELECT user FROM device_changes WHERE substr(user, -length(?1)) <> ?1)
            SELECT k.user FROM kept k WHERE k.user > ?2 AND NOT EXISTS (
                SELECT 1 FROM memberships m WHERE m.user = k.user AND m.membership = ?4
                AND m.room IN (SELECT room FROM here))
            ORDER BY k.user LIMIT ?3";
        let statement = sqlx::query(SQL)
            .bind(format!(":{ours}"))
            .bind(after.map_or("", |user| user.as_str()))
            .bind(limit)
            .bind(membership_code(Membership::Join));
        all(&self.rows(statement).await?, user_of)
    }
}

/// The caller first, which costs the user's rooms; then their other members, up to the first.
pub(super) const IN_TOUCH: &str = "SELECT CASE WHEN EXISTS (
        SELECT 1 FROM memberships a CROSS JOIN memberships b ON b.user = ?2 AND b.room = a.room
        WHERE a.user = ?1 AND a.membership = ?4 AND a.position <= ?3
        AND b.membership = ?4 AND b.position <= ?3)
    THEN 1 ELSE EXISTS (
        SELECT 1 FROM memberships a CROSS JOIN memberships b
        ON b.room = a.room AND b.membership = ?4
        WHERE a.user = ?1 AND a.membership = ?4 AND a.position <= ?3
        AND substr(b.user, -length(?5)) = ?5 AND b.position <= ?3)
    END";

pub(super) const NEIGHBOURS_OF: &str =
    "SELECT DISTINCT o.user FROM memberships m CROSS JOIN memberships o
    ON o.room = m.room AND o.membership = ?2 AND o.user <> ?1
    WHERE m.user = ?1 AND m.membership = ?2 AND substr(o.user, -length(?3)) = ?3 LIMIT ?4";

/// Whether [`execute`] does this write.
pub(super) fn is_ours(write: &Write) -> bool {
    matches!(
        write,
        Write::RemoteUser { .. }
            | Write::RemoteDevice { .. }
            | Write::ForgetRemoteDevices { .. }
            | Write::RemoteMessage { .. }
            | Write::ForgetRemoteUser { .. }
            | Write::ForgetRemoteMessages { .. }
    )
}

/// Does one of this file's writes.
pub(super) async fn execute(conn: &mut SqliteConnection, write: &Write) -> Result<(), Stop> {
    if let Write::ForgetRemoteUser { user } = write {
        for sql in [
            "DELETE FROM remote_users WHERE user = ?",
            "DELETE FROM remote_devices WHERE user = ?",
            "DELETE FROM device_changes WHERE user = ?",
        ] {
            let statement = sqlx::query(sql).bind(user.as_str());
            statement.execute(&mut *conn).await?;
        }
        return Ok(());
    }
    let Some(statement) = statement(write) else {
        return Err(Stop::damaged("a write that is not of other servers' users"));
    };
    let done = statement.execute(&mut *conn).await?;
    let Write::RemoteMessage { origin, id, .. } = write else {
        return Ok(());
    };
    if done.rows_affected() == 0 {
        return Err(Stop::Conflict(format!("{origin}'s {id} is already there")));
    }
    sqlx::query(
        "DELETE FROM remote_messages WHERE origin = ?1 AND number <= (
             SELECT max(number) FROM remote_messages WHERE origin = ?1) - ?2",
    )
    .bind(origin.as_str())
    .bind(REMOTE_MESSAGES_MAX)
    .execute(conn)
    .await?;
    Ok(())
}

fn statement(write: &Write) -> Option<Statement> {
    Some(match write {
        Write::RemoteUser { user, state } => sqlx::query(
            "INSERT INTO remote_users (user, stream, stale, asked, master_key, self_signing_key)
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
             SET stream = excluded.stream, stale = excluded.stale, asked = excluded.asked,
                 master_key = excluded.master_key, self_signing_key = excluded.self_signing_key",
        )
        .bind(user.as_str())
        .bind(int(state.stream))
        .bind(state.stale)
        .bind(int(state.asked.0))
        .bind(state.master_key.as_deref())
        .bind(state.self_signing_key.as_deref()),
        Write::RemoteDevice {
            user,
            device,
            known: Some((name, keys)),
        } => sqlx::query(
            "INSERT INTO remote_devices (user, device, name, keys) VALUES (?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET name = excluded.name, keys = excluded.keys",
        )
        .bind(user.as_str())
        .bind(device.as_str())
        .bind(name.as_deref())
        .bind(keys.as_str()),
        Write::RemoteDevice { user, device, .. } => {
            sqlx::query("DELETE FROM remote_devices WHERE user = ? AND device = ?")
                .bind(user.as_str())
                .bind(device.as_str())
        }
        Write::ForgetRemoteDevices { user } => {
            sqlx::query("DELETE FROM remote_devices WHERE user = ?").bind(user.as_str())
        }
        Write::RemoteMessage { origin, id, at } => sqlx::query(
            "INSERT INTO remote_messages (origin, message, number, at) VALUES (?1, ?2, (
                 SELECT coalesce(max(number), 0) + 1 FROM remote_messages WHERE origin = ?1), ?3)
             ON CONFLICT (origin, message) DO NOTHING",
        )
        .bind(origin.as_str())
        .bind(id.as_str())
        .bind(int(at.0)),
        Write::ForgetRemoteMessages { before } => {
            sqlx::query("DELETE FROM remote_messages WHERE at < ?").bind(int(before.0))
        }
        _ => return None,
    })
}
