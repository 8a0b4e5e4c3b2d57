//! Whose store it is: the hub's name and the key it signs with, as noted when it was first opened.

use sqlx::SqliteConnection;

use super::{backend, damaged, open::OpenOptions};
use crate::store::{OpenError, SigningKeyNote, StoreError};

/// Refuses another hub's store, and a key that is not the one its events are signed with. Notes
/// what is not noted yet, and counts the opening.
pub(super) async fn check(
    conn: &mut SqliteConnection,
    options: &OpenOptions,
) -> Result<(), OpenError> {
    let server_name = options.server_name();
    note(conn, "server_name", server_name).await?;
    note(conn, "generation", "0").await?;
    is_of(conn, server_name).await?;
    if let Some((key, retired)) = options.keys() {
        check_key(conn, key, retired).await?;
    }
    sqlx::query("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'generation'")
        .execute(conn)
        .await
        .map_err(backend)?;
    Ok(())
}

/// Refuses another hub's store; changes nothing.
pub(super) async fn is_of(conn: &mut SqliteConnection, server_name: &str) -> Result<(), OpenError> {
    match noted(conn, "server_name").await? {
        Some(found) if found == server_name => Ok(()),
        found => Err(OpenError::OtherServer {
            found: found.unwrap_or_else(|| "nobody".to_owned()),
            wanted: server_name.to_owned(),
        }),
    }
}

/// Refuses a key that the store is not known to have been signed with; changes nothing.
pub(super) async fn is_signed_by(
    conn: &mut SqliteConnection,
    options: &OpenOptions,
) -> Result<(), OpenError> {
    let Some((key, retired)) = options.keys() else {
        return Ok(());
    };
    let Some(found) = noted(conn, SIGNING_KEY).await? else {
        return Ok(());
    };
    if std::iter::once(key)
        .chain(retired)
        .any(|known| row(known) == found)
    {
        return Ok(());
    }
    let expected = found.split(' ').next().unwrap_or_default();
    Err(OpenError::OtherKey {
        expected: expected.to_owned(),
        found: key.id.clone(),
    })
}

/// A hub that signs with a key its peers and its own store have never seen looks like somebody
/// else, and what it signed with the old key can no longer be vouched for: so a file that was
/// replaced by mistake is refused. A store that has none noted (a new one, or one from before keys
/// were noted) adopts the key it is opened with.
/// A key is changed on purpose by publishing the old one as such: then the new one is noted.
async fn check_key(
    conn: &mut SqliteConnection,
    key: &SigningKeyNote,
    retired: &[SigningKeyNote],
) -> Result<(), OpenError> {
    let ours = row(key);
    note(conn, SIGNING_KEY, &ours).await?;
    let found = noted(conn, SIGNING_KEY).await?.unwrap_or_default();
    if found == ours {
        return Ok(());
    }
    if retired.iter().any(|retired| row(retired) == found) {
        tracing::info!(old = found, new = ours, "the signing key was changed");
        return sqlx::query("UPDATE meta SET value = ? WHERE name = ?")
            .bind(ours)
            .bind(SIGNING_KEY)
            .execute(conn)
            .await
            .map(drop)
            .map_err(|error| backend(error).into());
    }
    let (expected, _) = found
        .split_once(' ')
        .ok_or_else(|| damaged(format!("the signing key is noted as {found:?}")))?;
    Err(OpenError::OtherKey {
        expected: expected.to_owned(),
        found: key.id.clone(),
    })
}

/// One row for both: they are noted together or not at all.
fn row(key: &SigningKeyNote) -> String {
    format!("{} {}", key.id, hex::encode(key.public))
}

const SIGNING_KEY: &str = "signing_key";

/// Notes a value where there is none yet.
async fn note(
    conn: &mut SqliteConnection,
    name: &'static str,
    value: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(name)
        .bind(value.to_owned())
        .execute(conn)
        .await
        .map(drop)
        .map_err(backend)
}

async fn noted(
    conn: &mut SqliteConnection,
    name: &'static str,
) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar("SELECT value FROM meta WHERE name = ?")
        .bind(name)
        .fetch_optional(conn)
        .await
        .map_err(backend)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::sqlite::{OpenOptions, Sqlite};

    fn options(dir: &TempDir) -> OpenOptions {
        OpenOptions::new(
            dir.path().join("store.db"),
            "hub.example".try_into().unwrap(),
        )
    }

    fn key(id: &str, byte: u8) -> SigningKeyNote {
        SigningKeyNote {
            id: id.to_owned(),
            public: [byte; 32],
        }
    }

    #[tokio::test]
    async fn a_store_remembers_the_key_it_was_first_served_with_and_refuses_another() {
        let dir = tempfile::tempdir().unwrap();
        let without = async || Sqlite::open(options(&dir)).await.unwrap();
        // A store from before keys were noted, and whoever only looks, name none.
        without().await.close().await;
        let with = async |key| Sqlite::open(options(&dir).signing_key(key)).await;
        with(key("ed25519:a", 1)).await.unwrap().close().await;
        with(key("ed25519:a", 1)).await.unwrap().close().await;
        without().await.close().await;

        for other in [key("ed25519:b", 2), key("ed25519:a", 2)] {
            let refused = with(other.clone()).await.err();
            let Some(OpenError::OtherKey { expected, found }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!((expected.as_str(), found), ("ed25519:a", other.id));
        }
        with(key("ed25519:a", 1)).await.unwrap().close().await;
    }

    #[tokio::test]
    async fn a_key_that_was_retired_makes_room_for_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (key("ed25519:a", 1), key("ed25519:b", 2));
        let with = async |key: &SigningKeyNote, retired: &[&SigningKeyNote]| {
            let retired = retired.iter().map(|key| (*key).clone()).collect();
            let options = options(&dir).signing_key(key.clone());
            Sqlite::open(options.retired_keys(retired)).await
        };
        with(&old, &[]).await.unwrap().close().await;

        let other = key("ed25519:a", 9); // of the same id, but not the one that signed
        assert!(with(&new, &[&other]).await.is_err());
        with(&new, &[&other, &old]).await.unwrap().close().await;

        with(&new, &[]).await.unwrap().close().await;
        assert!(with(&old, &[]).await.is_err());
    }
}
