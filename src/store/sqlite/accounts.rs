//! Reads of accounts, profiles, account data and sessions.

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedRoomId, RoomId, UserId};

use super::{
    Sqlite, damaged,
    rows::{Cells, all, int},
};
use crate::{
    base::{Position, Timestamp},
    store::{AccountDataRecord, Accounts, SessionRecord, StoreError, UserRecord, UserSummary},
};

#[async_trait]
impl Accounts for Sqlite {
    async fn user(&self, user: &UserId) -> Result<Option<UserRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT user, password, admin, disabled, created FROM users WHERE user = ?",
        )
        .bind(user.as_str());
        let Some(row) = self.row(statement).await? else {
            return Ok(None);
        };
        let mut cells = Cells::of(&row);
        Ok(Some(UserRecord {
            user: cells.text()?,
            password: cells.next()?,
            admin: cells.next()?,
            disabled: cells.next()?,
            created: cells.timestamp()?,
        }))
    }

    async fn users(
        &self,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserSummary>, StoreError> {
        let statement = sqlx::query(
            "SELECT u.user, u.admin, u.disabled, u.created,
                 (SELECT count(*) FROM devices d WHERE d.user = u.user),
                 (SELECT max(d.seen) FROM devices d WHERE d.user = u.user)
             FROM users u WHERE u.user > ? ORDER BY u.user LIMIT ?",
        )
        .bind(after.map_or("", UserId::as_str))
        .bind(limit);
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(UserSummary {
                user: cells.text()?,
                admin: cells.next()?,
                disabled: cells.next()?,
                created: cells.timestamp()?,
                devices: cells.number()?,
                seen: cells.optional_number()?.map(Timestamp),
            })
        })
    }

    async fn session(&self, token: &[u8; 32]) -> Result<Option<SessionRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT d.user, d.device, u.admin FROM devices d JOIN users u ON u.user = d.user
             WHERE d.token = ? AND NOT u.disabled",
        )
        .bind(token.to_vec());
        let Some(row) = self.row(statement).await? else {
            return Ok(None);
        };
        let mut cells = Cells::of(&row);
        Ok(Some(SessionRecord {
            user: cells.text()?,
            device: OwnedDeviceId::from(cells.next::<&str>()?),
            admin: cells.next()?,
        }))
    }

    async fn profile(&self, user: &UserId) -> Result<Vec<(String, String)>, StoreError> {
        let statement =
            sqlx::query("SELECT field, json FROM profiles WHERE user = ? ORDER BY field")
                .bind(user.as_str());
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok((cells.next()?, cells.next()?))
        })
    }

    async fn account_data(
        &self,
        user: &UserId,
        since: Position,
    ) -> Result<Vec<AccountDataRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT room, kind, json, position FROM account_data
             WHERE user = ? AND position > ? ORDER BY position, room, kind",
        )
        .bind(user.as_str())
        .bind(int(since.0));
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(AccountDataRecord {
                room: room_of(cells.next()?)?,
                kind: cells.next()?,
                json: cells.next()?,
                position: cells.position()?,
            })
        })
    }

    async fn account_data_of(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        kind: &str,
    ) -> Result<Option<String>, StoreError> {
        let statement =
            sqlx::query("SELECT json FROM account_data WHERE user = ? AND room = ? AND kind = ?")
                .bind(user.as_str())
                .bind(room.map_or("", RoomId::as_str))
                .bind(kind);
        let row = self.row(statement).await?;
        row.map(|row| Cells::of(&row).next()).transpose()
    }

    async fn filter(&self, user: &UserId, id: u64) -> Result<Option<String>, StoreError> {
        let statement = sqlx::query("SELECT json FROM filters WHERE user = ? AND id = ?")
            .bind(user.as_str())
            .bind(id.cast_signed());
        let row = self.row(statement).await?;
        row.map(|row| Cells::of(&row).next()).transpose()
    }
}

/// The empty text stands for «global».
fn room_of(text: &str) -> Result<Option<OwnedRoomId>, StoreError> {
    if text.is_empty() {
        return Ok(None);
    }
    OwnedRoomId::try_from(text)
        .map(Some)
        .map_err(|error| damaged(format!("account data of the room {text:?}: {error}")))
}
