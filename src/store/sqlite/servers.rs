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
    store::{KEYS_OF_SERVERS_MAX, Servers, StoreError, StrayRow},
};

#[async_trait]
impl Servers for Sqlite {
    async fn peer_keys(&self, server: &ServerName) -> Result<Option<String>, StoreError> {
        let statement = sqlx::query("SELECT json FROM peer_keys WHERE server = ?");
        let row = self.row(statement.bind(server.as_str())).await?;
        row.map(|row| Cells::of(&row).next()).transpose()
    }

    async fn strays(&self, limit: u32) -> Result<Vec<StrayRow>, StoreError> {
        let rows = self.rows(sqlx::query(STRAYS).bind(limit)).await?;
        let stray = |row| {
            let mut cells = Cells::of(row);
            Ok(StrayRow {
                table: cells.next()?,
                row: cells.next()?,
                why: cells.next()?,
            })
        };
        rows.iter().map(stray).collect()
    }
}

/// A row for each fault. What is of no room, or behind all of a commit, has a place that no room has.
const STRAYS: &str = "
    WITH now (position) AS (SELECT position FROM hub),
         here (name) AS (SELECT value FROM meta WHERE name = 'server_name')
    SELECT 'destinations' AS tbl, server AS k, 'it was told up to a commit that was not made' AS why
        FROM destinations, now WHERE destinations.position > now.position OR beside > now.position
    UNION ALL SELECT 'destinations', server, 'it was told up to an entry that no room has'
        FROM destinations d WHERE room NOT IN (0, 9223372036854775807)
        AND NOT EXISTS (SELECT 1 FROM rooms r WHERE r.nid = d.room AND r.seq >= d.seq)
    UNION ALL SELECT 'residents', server || ' in ' || room, 'there is no such room'
        FROM residents s WHERE NOT EXISTS (SELECT 1 FROM rooms r WHERE r.nid = s.room)
    UNION ALL SELECT 'residents', server || ' in ' || room, 'it left before it came'
        FROM residents WHERE until < since
    UNION ALL SELECT 'relays', room || ' ' || seq, 'the entry is not there'
        FROM relays l WHERE NOT EXISTS (SELECT 1 FROM log WHERE log.room = l.room AND log.seq = l.seq)
    UNION ALL SELECT 'refusals', server || ' ' || room || ' ' || seq, 'the entry is not there'
        FROM refusals f WHERE NOT EXISTS (SELECT 1 FROM log WHERE log.room = f.room AND log.seq = f.seq)
    UNION ALL SELECT 'parcels', server || ' ' || p.position, 'it is of a commit that was not made, or no JSON'
        FROM parcels p, now WHERE p.position > now.position OR NOT json_valid(edu)
    UNION ALL SELECT 'lapses', server || ' ' || position, 'it ends before it begins'
        FROM lapses WHERE to_position < position
    UNION ALL SELECT 'withheld', server || ' ' || room || ' ' || seq, 'it ends before it begins, or where no entry is'
        FROM withheld w WHERE to_seq < seq
        OR NOT EXISTS (SELECT 1 FROM rooms r WHERE r.nid = w.room AND r.seq >= w.to_seq)
    UNION ALL SELECT 'mail', user || ' ' || device || ' ' || position, 'this hub brings itself nothing'
        FROM mail, here WHERE origin = here.name
    UNION ALL SELECT 'remote_devices', user || ' ' || device, 'nothing is known of its user'
        FROM remote_devices d WHERE NOT EXISTS (SELECT 1 FROM remote_users u WHERE u.user = d.user)
    UNION ALL SELECT 'remote_devices', user || ' ' || device, 'its keys are no JSON'
        FROM remote_devices WHERE NOT json_valid(keys)
    UNION ALL SELECT 'remote_users', user, 'its list was asked for in a commit that was not made'
        FROM remote_users, now WHERE asked > now.position
    UNION ALL SELECT 'remote_users', user, 'it is a user of this hub'
        FROM remote_users, here WHERE substr(user, instr(user, ':') + 1) = here.name
    UNION ALL SELECT 'remote_messages', origin || ' ' || message, 'this hub tells itself nothing'
        FROM remote_messages, here WHERE origin = here.name
    UNION ALL SELECT 'policy_decisions', hex(event), 'the event has no hash of 32 bytes'
        FROM policy_decisions WHERE length(event) <> 32
    UNION ALL SELECT 'peer_keys', server, 'they are of a commit that was not made, or no JSON'
        FROM peer_keys k, now WHERE k.position > now.position OR NOT json_valid(json)
    LIMIT ?";

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

    /// One row of each kind that cannot be right.
    #[tokio::test]
    async fn rows_about_other_servers_that_lead_nowhere_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions::new(dir.path().join("s.db"), name!("hub.example").to_owned());
        let store = Sqlite::open(options.clone()).await.unwrap();
        assert!(store.strays(100).await.unwrap().is_empty());
        let mut conn = options.writer().connect().await.unwrap();
        for sql in [
            "INSERT INTO destinations VALUES ('a', 99, 0, 0, 0, NULL)",
            "INSERT INTO destinations VALUES ('b', 0, 7, 1, 0, NULL)",
            "INSERT INTO residents VALUES (7, 'a', 1, NULL)",
            "INSERT INTO residents VALUES (8, 'a', 5, 1)",
            "INSERT INTO relays VALUES (7, 1)",
            "INSERT INTO refusals VALUES (7, 1, 'a', 'no', 0)",
            "INSERT INTO parcels VALUES ('a', 99, 0, 0, '{}')",
            "INSERT INTO lapses VALUES ('a', 5, 0, 0, 1, 0, 0, 0)",
            "INSERT INTO withheld VALUES (7, 'a', 2, 1, 0)",
            "INSERT INTO mail VALUES ('@u:hub.example', 'D', 0, 1, 'hub.example', '{}')",
            "INSERT INTO remote_devices (user, device, keys) VALUES ('@u:far', 'D', '{')",
            "INSERT INTO remote_users (user, stream, stale, asked) VALUES ('@u:hub.example', 1, 0, 99)",
            "INSERT INTO remote_messages VALUES ('hub.example', 'm', 1, 0)",
            "INSERT INTO policy_decisions VALUES (x'00', NULL, 0)",
            "INSERT INTO peer_keys VALUES ('a', 0, 'no')",
        ] {
            sqlx::query(sql).execute(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();

        let found = store.strays(100).await.unwrap();
        let mut tables: Vec<_> = found.iter().map(|stray| stray.table.as_str()).collect();
        tables.dedup();
        assert_eq!(
            tables,
            [
                "destinations",
                "residents",
                "relays",
                "refusals",
                "parcels",
                "lapses",
                "withheld",
                "mail",
                "remote_devices",
                "remote_users",
                "remote_messages",
                "policy_decisions",
                "peer_keys",
            ]
        );
        assert_eq!(found.len(), 18, "{found:#?}");
        assert_eq!(store.strays(3).await.unwrap().len(), 3);
    }

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
