//! Makes a store of a backup's copy: a hub that goes back in time must not go on as if nothing had
//! happened.
//!
//! What was said between the backup and the restore is known to others and no longer to us. So
//! what may be used only once counts as used ([`VOIDED`]), everyone can see that it is another
//! *generation* of the hub, and positions go on far behind any that was told: see
//! [`POSITIONS_SKIPPED`]. All of it happens in one transaction with the mark that makes the copy a
//! store.

use sqlx::{Connection as _, SqliteConnection};

use super::{
    OpenOptions, backend,
    open::{BACKUP_ID, close, connect, format_error, is_known, lock, migrate, pragma},
    owner,
};
use crate::store::OpenError;

/// What a restore has voided of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voided {
    /// What it is, for people.
    pub what: &'static str,
    /// How many.
    pub rows: u64,
}

/// A table of things that do not survive a restore.
struct Void {
    table: &'static str,
    what: &'static str,
    sql: &'static str,
}

/// Tables that are not there are passed over, so one that is still to come may be listed. Whoever
/// adds a table decides here or in the test's list of those that are kept; the test insists.
///
/// OSCORE contexts are void by the number of restores, which is counted up below: their sequence
/// numbers may have been used. Access tokens stay: they are used again and again.
const VOIDED: &[Void] = &[
    // One that was handed out after the backup must not be handed out again, and nobody knows
    // which were. Clients see that none is left and upload others.
    Void {
        table: "one_time_keys",
        what: "unclaimed one-time keys",
        sql: "DELETE FROM one_time_keys",
    },
    // They stay, so that messages still arrive; marked as used, their owners replace them.
    Void {
        table: "fallback_keys",
        what: "fallback keys to be replaced",
        sql: "UPDATE fallback_keys SET used = 1 WHERE used = 0",
    },
    // What their servers told since is not known, and they will not tell it again.
    Void {
        table: "remote_users",
        what: "device lists of other servers' users to be asked for",
        sql: "UPDATE remote_users SET stale = 1 WHERE stale = 0",
    },
    Void {
        table: "registrations",
        what: "Observe registrations",
        sql: "DELETE FROM registrations",
    },
    // The generation tells devices so; they ask for new ones.
    Void {
        table: "thin_names",
        what: "aliases of linked devices",
        sql: "DELETE FROM thin_names",
    },
    Void {
        table: "thin_counters",
        what: "counters of these aliases",
        sql: "DELETE FROM thin_counters",
    },
];

/// How far positions jump. Clients hold `since` tokens of commits that the backup does not have;
/// were their positions given out again, whatever stands at them would never be told to those
/// clients. 2^32 commits are 49 days at 1,000 per second, and 2^63 is far enough for 2^31 restores.
const POSITIONS_SKIPPED: i64 = 1 << 32;

/// Brings a copy to today's format and makes it a store of the generation `generation`.
pub(super) async fn adopt(
    options: &OpenOptions,
    generation: [u8; 8],
) -> Result<Vec<Voided>, OpenError> {
    let _lock = lock(options.path())?;
    let mut conn = connect(&options.writer()).await?;
    check(&mut conn).await?;
    owner::is_of(&mut conn, options.server_name()).await?;
    migrate(&mut conn).await?;
    let voided = restored(&mut conn, generation).await.map_err(backend)?;
    close(conn).await;
    Ok(voided)
}

async fn check(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let application = pragma(conn, "PRAGMA application_id").await?;
    let version = pragma(conn, "PRAGMA user_version").await?;
    if application != BACKUP_ID {
        return Err(format_error(format!(
            "the store of the backup is none of a backup (application id {application:#x})"
        )));
    }
    is_known(version)
}

/// Stamps the generation and voids what must not outlive the one before.
async fn restored(
    conn: &mut SqliteConnection,
    generation: [u8; 8],
) -> Result<Vec<Voided>, sqlx::Error> {
    let mut transaction = conn.begin().await?;
    let mut voided = Vec::new();
    for Void { table, what, sql } in VOIDED {
        let there: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?",
        )
        .bind(*table)
        .fetch_one(&mut *transaction)
        .await?;
        if there > 0 {
            let done = sqlx::query(*sql).execute(&mut *transaction).await?;
            let rows = done.rows_affected();
            voided.push(Voided { what, rows });
        }
    }
    sqlx::query(
        "INSERT INTO meta VALUES ('generation_id', ?)
         ON CONFLICT DO UPDATE SET value = excluded.value",
    )
    .bind(hex::encode(generation))
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO meta VALUES ('restores', '1')
         ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1",
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query("UPDATE hub SET position = position + ?")
        .bind(POSITIONS_SKIPPED)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(MARK).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(voided)
}

/// Makes it a store: [`APPLICATION_ID`](super::open::APPLICATION_ID).
const MARK: &str = "PRAGMA application_id = 0x54524d4c";

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions as _;
    use tempfile::TempDir;

    use super::*;
    use crate::store::sqlite::FORMAT;
    use crate::{
        base::Position,
        store::{Batch, Commits as _, Rooms as _, contract::Pen, fsck, sqlite::Sqlite},
    };

    fn options(dir: &TempDir, name: &str) -> OpenOptions {
        OpenOptions::new(dir.path().join(name), "hub.example".try_into().unwrap())
    }

    /// A new store, changed by `sql`, copied and restored.
    async fn after(sql: &'static str) -> (TempDir, SqliteConnection, Vec<Voided>) {
        let dir = tempfile::tempdir().unwrap();
        let store = options(&dir, "store.db");
        Sqlite::open(store.clone()).await.unwrap().close().await;
        let mut conn = store.writer().connect().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        close(conn).await;
        let copy = options(&dir, "copy.db");
        Sqlite::copy(&store, copy.path()).await.unwrap();
        let voided = Sqlite::restored(&copy, [7; 8]).await.unwrap();
        let conn = copy.writer().connect().await.unwrap();
        (dir, conn, voided)
    }

    async fn count(conn: &mut SqliteConnection, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(conn).await.unwrap()
    }

    fn rows(voided: &[Voided], part: &str) -> u64 {
        let found = voided.iter().find(|voided| voided.what.contains(part));
        found.unwrap().rows
    }

    #[tokio::test]
    async fn unclaimed_one_time_keys_are_gone() {
        let (_dir, mut conn, voided) = after(
            "INSERT INTO one_time_keys VALUES ('@a:h', 'D', 'x', 'x:1', '{}'), ('@a:h', 'D', 'x', 'x:2', '{}')",
        )
        .await;

        assert_eq!(rows(&voided, "one-time"), 2);
        assert_eq!(
            count(&mut conn, "SELECT count(*) FROM one_time_keys").await,
            0
        );
    }

    #[tokio::test]
    async fn fallback_keys_stay_and_are_to_be_replaced() {
        let (_dir, mut conn, voided) = after(
            "INSERT INTO fallback_keys VALUES ('@a:h', 'D', 'x', 'x:1', '{}', 0), ('@a:h', 'D', 'y', 'y:1', '{}', 1)",
        )
        .await;

        assert_eq!(rows(&voided, "fallback"), 1);
        let used = "SELECT count(*) FROM fallback_keys WHERE used = 1";
        assert_eq!(count(&mut conn, used).await, 2);
    }

    #[tokio::test]
    async fn sessions_and_transaction_keys_stay() {
        let (_dir, mut conn, _) = after(
            "INSERT INTO devices VALUES ('@a:h', 'D', x'00', NULL, NULL, NULL, 1);
             INSERT INTO txns VALUES ('@a:h', 'D', 'send', '1', '$e', 1)",
        )
        .await;

        assert_eq!(count(&mut conn, "SELECT count(*) FROM devices").await, 1);
        assert_eq!(count(&mut conn, "SELECT count(*) FROM txns").await, 1);
    }

    #[tokio::test]
    async fn each_restore_is_another_generation_and_the_mark_of_a_store() {
        let (dir, mut conn, _) = after(
            "INSERT INTO meta VALUES ('generation_id', '0000000000000000')
                   ON CONFLICT DO UPDATE SET value = excluded.value",
        )
        .await;

        let id: String = sqlx::query_scalar("SELECT value FROM meta WHERE name = 'generation_id'")
            .fetch_one(&mut conn)
            .await
            .unwrap();

        assert_eq!(id, "0707070707070707");
        close(conn).await;
        Sqlite::open(options(&dir, "copy.db")).await.unwrap();
        let again = Sqlite::restored(&options(&dir, "copy.db"), [8; 8]).await;
        assert!(matches!(
            again,
            Err(OpenError::Locked { .. } | OpenError::Format { .. })
        ));
    }

    #[tokio::test]
    async fn positions_go_on_behind_all_that_were_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::open(options(&dir, "store.db")).await.unwrap();
        let mut room = Pen::new(&store, "room");
        let commit = async |store: &Sqlite, room: &mut Pen| {
            room.message(store);
            let batch = Batch {
                writes: room.take(),
                may_conflict: false,
            };
            store.commit(&[batch]).await.unwrap().position
        };
        commit(&store, &mut room).await;
        let copy = options(&dir, "copy.db");
        Sqlite::copy(&options(&dir, "store.db"), copy.path())
            .await
            .unwrap();
        let mut original = room.clone();
        let lost = commit(&store, &mut original).await;

        Sqlite::restored(&copy, [1; 8]).await.unwrap();

        let restored = Sqlite::open(copy).await.unwrap();
        let next = commit(&restored, &mut room).await;
        assert_eq!((lost, next), (Position(2), Position((1 << 32) + 2)));
        let told = restored.seq_at(room.nid, lost).await.unwrap();
        assert_eq!(told.0, 1); // so what came behind is new to who was told of `lost`
        let report = fsck::fsck(&restored, &mut |_| {}).await.unwrap();
        assert_eq!(report.checked.entries, 2);
    }

    #[tokio::test]
    async fn a_copy_of_an_older_format_is_brought_to_todays() {
        let (_dir, mut conn, _) = after(
            "ALTER TABLE users DROP COLUMN disabled; ALTER TABLE log DROP COLUMN state;
             DROP TABLE links; DROP TABLE registrations;
             DROP TABLE thin_names; DROP TABLE thin_counters; DROP TABLE peer_keys;
             DROP TABLE policy_decisions; DROP TABLE outside;
             DROP TABLE parcels; DROP TABLE refusals; DROP TABLE relays; DROP TABLE residents;
             DROP TABLE destinations; DROP TABLE lapses; DROP TABLE withheld;
             DROP TABLE remote_users; DROP TABLE remote_devices; DROP TABLE remote_messages;
             DROP INDEX device_changes_by_user;
             DROP TABLE cross_signing_keys; DROP TABLE key_signatures;
             DELETE FROM meta WHERE name = 'generation_id';
             DELETE FROM _sqlx_migrations WHERE version >= 3;
             PRAGMA user_version = 2",
        )
        .await;

        assert_eq!(count(&mut conn, "PRAGMA user_version").await, FORMAT);
        assert_eq!(
            count(&mut conn, "SELECT count(disabled) FROM users").await,
            0
        );
    }

    /// In the store after a restore as it was at the backup. Think before you add a table: could
    /// anyone be harmed if what was done with it since is forgotten?
    const KEPT: &[&str] = &[
        "_sqlx_migrations",
        "account_data",
        "aliases",            // of rooms: #name:server
        "cross_signing_keys", // their owner's client sees when one is not the last one
        "current",
        // What was told since is told again: events have ids, and the same messages to devices too.
        "destinations",
        "device_changes",
        "device_keys",
        "devices",
        "directory",
        "events",
        "filters",
        "hub",
        "key_signatures", // a wrong one convinces nobody
        "lapses",
        "links", // their contexts are void by the number of restores; the other keys stay
        "log",
        "mail",
        "media",
        "memberships",
        "meta",
        "outside", // an invite that was answered since is there again: answering again does no harm
        "parcels",
        "peer_keys", // they are learnt anew where they changed
        "places",
        "policy_decisions",
        "profiles",
        "receipts",
        "refusals",
        "relays",
        "residents",
        "remote_devices",  // stale with their users
        "remote_messages", // one that came since comes at most once more
        "rooms",
        "states",
        "txns",
        "users",
        "withheld",
    ];

    #[tokio::test]
    async fn of_every_table_it_is_decided_whether_a_restore_keeps_it() {
        let (_dir, mut conn, _) = after("SELECT 1").await;
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        )
        .fetch_all(&mut conn)
        .await
        .unwrap();

        for table in tables {
            let voided = VOIDED.iter().any(|void| void.table == table);
            let kept = KEPT.contains(&table.as_str());
            assert!(voided != kept, "{table}: voided {voided}, kept {kept}");
        }
    }
}
