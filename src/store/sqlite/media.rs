//! Reads of what is known of stored files.

use async_trait::async_trait;
use ruma::UserId;

use super::{
    Sqlite,
    rows::{Cells, all},
};
use crate::store::{MediaIndex, MediaRecord, MediaRow, StoreError};

#[async_trait]
impl MediaIndex for Sqlite {
    async fn media(&self, id: &str) -> Result<Option<MediaRecord>, StoreError> {
        let statement = sqlx::query(
            "SELECT id, user, hash, size, content_type, filename, created FROM media WHERE id = ?",
        )
        .bind(id);
        let row = self.row(statement).await?;
        row.map(|row| file_of(&mut Cells::of(&row))).transpose()
    }

    async fn media_rows(&self, after: &[u8], limit: u32) -> Result<Vec<MediaRow>, StoreError> {
        // As bytes in and out, so that an id that is not text is passed like any other.
        let statement = sqlx::query(
            "SELECT CAST(id AS BLOB), id, user, hash, size, content_type, filename, created
             FROM media WHERE id > CAST(? AS TEXT) ORDER BY id LIMIT ?",
        )
        .bind(after.to_vec())
        .bind(limit);
        all(&self.rows(statement).await?, |row| {
            let mut cells = Cells::of(row);
            Ok(MediaRow {
                key: cells.next()?,
                record: file_of(&mut cells),
            })
        })
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

/// `id, user, hash, size, content_type, filename, created`.
fn file_of(cells: &mut Cells<'_>) -> Result<MediaRecord, StoreError> {
    Ok(MediaRecord {
        id: cells.next()?,
        user: cells.text()?,
        hash: cells.hash()?,
        size: cells.number()?,
        content_type: cells.next()?,
        filename: cells.next()?,
        created: cells.timestamp()?,
    })
}
