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
    // goes over the index once: a millisecond where it is full, for keys that are learnt once a day
    sqlx::query(
        "DELETE FROM peer_keys WHERE position <= (
             SELECT position FROM peer_keys ORDER BY position DESC LIMIT 1 OFFSET ?1)",
    )
    .bind(KEYS_OF_SERVERS_MAX)
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedServerName, server_name as name};
    use sqlx::{ConnectOptions as _, Connection as _};

    use super::*;
    use crate::store::{
        Batch, Commits as _, Write,
        sqlite::{OpenOptions, Sqlite},
    };

    #[tokio::test]
    async fn the_keys_that_were_not_learnt_for_longest_give_way() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions::new(dir.path().join("s.db"), name!("hub.example").to_owned());
        let store = Sqlite::open(options.clone()).await.unwrap();
        let mut conn = options.writer().connect().await.unwrap();
        sqlx::query(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)
             INSERT INTO peer_keys SELECT 'h' || n, n - 100000, '{}' FROM n",
        )
        .bind(KEYS_OF_SERVERS_MAX)
        .execute(&mut conn)
        .await
        .unwrap();
        conn.close().await.unwrap();

        let write = |server: &str| Write::PeerKeys {
            server: OwnedServerName::try_from(server).unwrap(),
            json: "{}".to_owned(),
        };
        let batch = Batch {
            writes: vec![write("h2"), write("new"), write("newer")],
            may_conflict: false,
        };
        store.commit(&[batch]).await.unwrap();

        for (server, is_there) in [
            ("h1", false),
            ("h2", true),
            ("h3", false),
            ("h4", true),
            ("new", true),
        ] {
            let server = OwnedServerName::try_from(server).unwrap();
            let keys = store.peer_keys(&server).await.unwrap();
            assert_eq!(keys.is_some(), is_there, "{server}");
        }
    }
}
