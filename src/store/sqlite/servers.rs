//! What is known of other servers.

use async_trait::async_trait;
use ruma::ServerName;
use sqlx::SqliteConnection;

use super::{
    Sqlite,
    commit::Stop,
    rows::{Cells, int},
};
use crate::{
    base::Position,
    store::{KEYS_OF_SERVERS_MAX, Servers, StoreError},
};

#[async_trait]
impl Servers for Sqlite {
    async fn peer_keys(&self, server: &ServerName) -> Result<Option<String>, StoreError> {
        let statement = sqlx::query("SELECT json FROM peer_keys WHERE server = ?");
        let row = self.row(statement.bind(server.as_str())).await?;
        row.map(|row| Cells::of(&row).next()).transpose()
    }
}

/// Keeps a server's keys; too many, and the oldest go.
pub(super) async fn keep_keys(
    conn: &mut SqliteConnection,
    position: Position,
    server: &ServerName,
    json: &str,
) -> Result<(), Stop> {
    sqlx::query(
        "INSERT INTO peer_keys (server, position, json) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET position = excluded.position, json = excluded.json",
    )
    .bind(server.as_str())
    .bind(int(position.0))
    .bind(json)
    .execute(&mut *conn)
    .await?;
    // some thousand entries of an index, and that only when there are too many
    sqlx::query(
        "DELETE FROM peer_keys WHERE position <= (
             SELECT position FROM peer_keys ORDER BY position DESC LIMIT 1 OFFSET ?1)",
    )
    .bind(KEYS_OF_SERVERS_MAX)
    .execute(conn)
    .await?;
    Ok(())
}
