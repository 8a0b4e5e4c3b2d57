//! Reads of devices, their keys and their mailboxes.

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedUserId, ServerName, UserId};
use sqlx::SqliteConnection;

use super::{
    Sqlite,
    commit::Stop,
    damaged,
    rows::{Cells, all, int, membership_code, user_of},
};
use crate::{
    base::{Position, Timestamp},
    room::Membership,
    store::{
        DEVICE_CHANGES_MAX, DeviceKeysRecord, DeviceRecord, Devices, KeysChange, MailRecord,
        MailWaiting, Pile, StoreError,
    },
};

#[async_trait]
impl Devices for Sqlite {
    async fn devices(&self, user: &UserId) -> Result<Vec<DeviceRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT device, name, seen, seen_at FROM devices WHERE user = ? ORDER BY device",
        )
        .bind(user.as_str());
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(DeviceRecord {
                device: OwnedDeviceId::from(cells.next::<&str>()?),
                name: cells.next()?,
                seen: cells.optional_number()?.map(Timestamp),
                seen_at: cells.next()?,
            })
        })
    }

    async fn device_keys(&self, user: &UserId) -> Result<Vec<DeviceKeysRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT k.device, d.name, k.json FROM device_keys k
             LEFT JOIN devices d ON d.user = k.user AND d.device = k.device
             WHERE k.user = ? ORDER BY k.device",
        )
        .bind(user.as_str());
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(DeviceKeysRecord {
                device: OwnedDeviceId::from(cells.next::<&str>()?),
                name: cells.next()?,
                json: cells.next()?,
            })
        })
    }

    async fn one_time_counts(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let statement = sqlx::query(
            "SELECT algorithm, count(*) FROM one_time_keys
             WHERE user = ? AND device = ? GROUP BY algorithm ORDER BY algorithm",
        )
        .bind(user.as_str())
        .bind(device);
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok((cells.next()?, cells.number()?))
        })
    }

    async fn one_time_key(
        &self,
        user: &UserId,
        device: &str,
        key_id: &str,
    ) -> Result<Option<String>, StoreError> {
        let statement = sqlx::query(
            "SELECT json FROM one_time_keys
             WHERE user = ? AND device = ? AND algorithm = ? AND key_id = ?",
        )
        .bind(user.as_str())
        .bind(device)
        .bind(super::singles::algorithm_of(key_id))
        .bind(key_id);
        let row = self.row(statement).await?;
        row.map(|row| Cells::of(&row).next()).transpose()
    }

    async fn unused_fallbacks(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Vec<String>, StoreError> {
        let statement = sqlx::query(
            "SELECT algorithm FROM fallback_keys
             WHERE user = ? AND device = ? AND used = 0 ORDER BY algorithm",
        )
        .bind(user.as_str())
        .bind(device);
        all(&self.rows(statement).await?, |row| Cells::of(row).next())
    }

    async fn device_changes(
        &self,
        user: &UserId,
        since: Position,
        to: Position,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        let statement = sqlx::query(DEVICE_CHANGES)
            .bind(user.as_str())
            .bind(int(since.0))
            .bind(int(to.0))
            .bind(membership_code(Membership::Join));
        all(&self.rows(statement).await?, user_of)
    }

    async fn mail_waiting(
        &self,
        user: &UserId,
        device: &str,
        origin: Option<&ServerName>,
    ) -> Result<MailWaiting, StoreError> {
        let statement = sqlx::query(MAIL_WAITING)
            .bind(user.as_str())
            .bind(device)
            .bind(origin.map(ServerName::as_str));
        let Some(row) = self.row(statement).await? else {
            return Ok(MailWaiting::default());
        };
        let mut cells = Cells::of(&row);
        let mut pile = || {
            let (count, bytes) = (cells.number()?, cells.number()?);
            Ok::<_, StoreError>(Pile { count, bytes })
        };
        Ok(MailWaiting {
            all: pile()?,
            elsewhere: pile()?,
            origin: pile()?,
        })
    }

    async fn mail(
        &self,
        user: &UserId,
        device: &str,
        after: Position,
        to: Position,
        limit: u32,
    ) -> Result<Vec<MailRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT position, json FROM mail
             WHERE user = ? AND device = ? AND position > ? AND position <= ?
             ORDER BY position, part LIMIT ?",
        )
        .bind(user.as_str())
        .bind(device)
        .bind(int(after.0))
        .bind(int(to.0))
        .bind(limit);
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(MailRecord {
                position: cells.position()?,
                json: cells.next()?,
            })
        })
    }
}

/// Bytes, not characters; and of a column whose length alone is asked for, nothing else is read.
const MAIL_WAITING: &str = "SELECT count(*), coalesce(sum(octet_length(json)), 0),
        count(origin), coalesce(sum(octet_length(json)) FILTER (WHERE origin IS NOT NULL), 0),
        count(*) FILTER (WHERE origin = ?3),
        coalesce(sum(octet_length(json)) FILTER (WHERE origin = ?3), 0)
    FROM mail WHERE user = ?1 AND device = ?2";

/// From the changes, which are few, to whether their users are near.
pub(super) const DEVICE_CHANGES: &str = "SELECT DISTINCT d.user FROM device_changes d
    WHERE d.position > ?2 AND d.position <= ?3 AND CASE WHEN d.what = 3 THEN d.about = ?1
        ELSE d.user = ?1 OR EXISTS (
            SELECT 1 FROM memberships a CROSS JOIN memberships b
            ON b.user = d.user AND b.room = a.room AND b.membership = ?4
            WHERE a.user = ?1 AND a.membership = ?4) END
    ORDER BY d.user";

/// What a change is stored as, and what it is about.
pub(super) fn change_code(what: &KeysChange) -> (i64, &str) {
    match what {
        KeysChange::Devices => (0, ""),
        KeysChange::Device(device) => (1, device.as_str()),
        KeysChange::CrossSigning => (2, ""),
        KeysChange::SeenBy(user) => (3, user.as_str()),
    }
}

/// The change in the next two columns.
pub(super) fn change(cells: &mut Cells<'_>) -> Result<KeysChange, StoreError> {
    let (what, about): (i64, &str) = (cells.next()?, cells.next()?);
    Ok(match what {
        0 => KeysChange::Devices,
        1 => KeysChange::Device(OwnedDeviceId::from(about)),
        2 => KeysChange::CrossSigning,
        _ => {
            let user = OwnedUserId::try_from(about);
            let user = user.map_err(|error| damaged(format!("{about:?}: {error}")))?;
            KeysChange::SeenBy(user)
        }
    })
}

/// See [`Write::ForgetDeviceChanges`](crate::store::Write::ForgetDeviceChanges).
pub(super) async fn forget_changes(
    conn: &mut SqliteConnection,
    before: Position,
) -> Result<(), Stop> {
    const SAID_AGAIN: &str = "DELETE FROM device_changes AS d WHERE d.position < ?1 AND EXISTS (
        SELECT 1 FROM device_changes l WHERE l.user = d.user AND l.what = d.what
        AND l.about = d.about AND l.position > d.position AND l.position < ?1)";
    const TOO_MANY: &str = "DELETE FROM device_changes
        WHERE (position, user, what, about) IN (
            SELECT position, user, what, about FROM (
                SELECT position, user, what, about,
                    row_number() OVER (PARTITION BY user ORDER BY position DESC) AS place
                FROM device_changes WHERE what = 1)
            WHERE place > ?2 AND position < ?1)";
    for sql in [SAID_AGAIN, TOO_MANY] {
        sqlx::query(sql)
            .bind(int(before.0))
            .bind(DEVICE_CHANGES_MAX)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
