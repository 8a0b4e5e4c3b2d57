//! Reads of what is known of stored files.

use async_trait::async_trait;
use ruma::UserId;

use super::{Sqlite, rows::Cells};
use crate::store::{MediaIndex, MediaRecord, StoreError};

#[async_trait]
impl MediaIndex for Sqlite {
    async fn media(&self, id: &str) -> Result<Option<MediaRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT id, user, hash, size, content_type, filename, created FROM media WHERE id = ?",
        )
        .bind(id);
        let Some(row) = self.row(statement).await? else {
            return Ok(None);
        };
        let mut cells = Cells::of(&row);
        Ok(Some(MediaRecord {
            id: cells.next()?,
            user: cells.text()?,
            hash: cells.hash()?,
            size: cells.number()?,
            content_type: cells.next()?,
            filename: cells.next()?,
            created: cells.timestamp()?,
        }))
    }

    async fn media_used(&self, user: &UserId) -> Result<u64, StoreError> {
        let statement = sqlx::query("SELECT coalesce(sum(size), 0) FROM media WHERE user = ?")
            .bind(user.as_str());
        match self.row(statement).await? {
            Some(row) => Cells::of(&row).number(),
            None => Ok(0),
        }
    }
}
