//! Numbers and links of thin devices.

use async_trait::async_trait;
use ruma::{DeviceId, UserId};
use sqlx::SqliteConnection;

use super::{
    Sqlite,
    commit::Stop,
    damaged,
    rows::{Cells, all, int},
};
use crate::{
    store::{ALIASES_MAX, StoreError, ThinDevices, Write, first_alias},
    wire::thin::{Alias, NameKind},
};

#[async_trait]
impl ThinDevices for Sqlite {
    async fn generation(&self) -> Result<[u8; 8], StoreError> {
        let row = self.row(sqlx::query(GENERATION)).await?;
        let row = row.ok_or_else(|| damaged("no generation is noted"))?;
        let text: &str = Cells::of(&row).next()?;
        let mut generation = [0; 8];
        hex::decode_to_slice(text, &mut generation)
            .map_err(|error| damaged(format!("the generation is {text:?}: {error}")))?;
        Ok(generation)
    }

    async fn thin_names(
        &self,
        user: &UserId,
        device: &str,
        wanted: &[(NameKind, Alias)],
    ) -> Result<Vec<Option<String>>, StoreError> {
        let list: Vec<_> = wanted
            .iter()
            .map(|(kind, alias)| (code(*kind), int(*alias)))
            .collect();
        let list = serde_json::to_string(&list).expect("a list of numbers is JSON");
        let statement = sqlx::query(NAMES)
            .bind(list)
            .bind(user.as_str())
            .bind(device);
        all(&self.rows(statement).await?, |row| Cells::of(row).next())
    }

    async fn thin_aliases(
        &self,
        user: &UserId,
        device: &str,
        wanted: &[(NameKind, String)],
    ) -> Result<Vec<Option<Alias>>, StoreError> {
        let list: Vec<_> = wanted
            .iter()
            .map(|(kind, name)| (code(*kind), name))
            .collect();
        let list = serde_json::to_string(&list).expect("a list of texts is JSON");
        let statement = sqlx::query(ALIASES)
            .bind(list)
            .bind(user.as_str())
            .bind(device);
        all(&self.rows(statement).await?, |row| {
            Cells::of(row).optional_number()
        })
    }
}

const GENERATION: &str = "SELECT value FROM meta WHERE name = 'generation_id'";
const NAMES: &str = "SELECT n.name FROM json_each(?) j LEFT JOIN thin_names n
    ON n.user = ? AND n.device = ? AND n.kind = j.value ->> 0 AND n.alias = j.value ->> 1
    ORDER BY j.key";
const ALIASES: &str = "SELECT n.alias FROM json_each(?) j LEFT JOIN thin_names n
    ON n.user = ? AND n.device = ? AND n.kind = j.value ->> 0 AND n.name = j.value ->> 1
    ORDER BY j.key";

const fn code(kind: NameKind) -> i64 {
    match kind {
        NameKind::Room => 0,
        NameKind::User => 1,
        NameKind::EventType => 2,
        NameKind::RoomName => 3, // none is stored: the room's state has it
    }
}

/// Does a write about thin devices. What is for a device that is not there is dropped.
pub(super) async fn execute(conn: &mut SqliteConnection, write: &Write) -> Result<(), Stop> {
    match write {
        Write::ThinNames {
            user,
            device,
            names,
        } => {
            for (kind, name) in names {
                number(conn, (user, device), *kind, name).await?;
            }
        }
        _ => return Err(Stop::damaged("a write is not about thin devices")),
    }
    Ok(())
}

/// Gives a name the device's next number of its kind, unless it has one or there are too many.
async fn number(
    conn: &mut SqliteConnection,
    (user, device): (&UserId, &DeviceId),
    kind: NameKind,
    name: &str,
) -> Result<(), Stop> {
    let first = first_alias(kind);
    sqlx::query(BEGIN_COUNTER)
        .bind(user.as_str())
        .bind(device.as_str())
        .bind(code(kind))
        .bind(int(first))
        .execute(&mut *conn)
        .await?;
    let named = sqlx::query(ADD_NAME)
        .bind(user.as_str())
        .bind(device.as_str())
        .bind(code(kind))
        .bind(name)
        .bind(int(first + ALIASES_MAX))
        .execute(&mut *conn)
        .await?;
    if named.rows_affected() == 1 {
        sqlx::query(COUNT_ON)
            .bind(user.as_str())
            .bind(device.as_str())
            .bind(code(kind))
            .execute(conn)
            .await?;
    }
    Ok(())
}

const BEGIN_COUNTER: &str = "INSERT INTO thin_counters (user, device, kind, next)
    SELECT ?1, ?2, ?3, ?4 WHERE EXISTS
        (SELECT 1 FROM devices WHERE user = ?1 AND device = ?2)
    ON CONFLICT DO NOTHING";
const ADD_NAME: &str = "INSERT INTO thin_names (user, device, kind, alias, name)
    SELECT ?1, ?2, ?3, next, ?4 FROM thin_counters
    WHERE user = ?1 AND device = ?2 AND kind = ?3 AND next < ?5
    ON CONFLICT (user, device, kind, name) DO NOTHING";
const COUNT_ON: &str = "UPDATE thin_counters SET next = next + 1
    WHERE user = ? AND device = ? AND kind = ?";
