//! What users are to rooms that this hub is not in.

use ruma::{RoomId, UserId};
use sqlx::sqlite::SqliteRow;

use super::{
    Sqlite,
    bulk::Statement,
    rows::{Cells, all, int, membership_code},
};
use crate::{
    base::Position,
    store::{OutsideRecord, StoreError, Write},
};

/// The statement of a write that is one of ours.
pub(super) fn statement(write: &Write, position: Position) -> Option<Statement> {
    Some(match write {
        Write::Outside(record) => sqlx::query(
            "INSERT INTO outside (user, room_id, membership, version, via, event, state, position)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
             SET membership = excluded.membership, version = excluded.version, via = excluded.via,
                 event = excluded.event, state = excluded.state, position = excluded.position",
        )
        .bind(record.user.as_str())
        .bind(record.room_id.as_str())
        .bind(membership_code(record.membership))
        .bind(record.version.as_str())
        .bind(record.via.as_str())
        .bind(record.event.to_string())
        .bind(record.state.to_string())
        .bind(int(position.0)),
        Write::NotOutside { user, room_id } => {
            sqlx::query("DELETE FROM outside WHERE user = ? AND room_id = ?")
                .bind(user.as_str())
                .bind(room_id.as_str())
        }
        _ => return None,
    })
}

pub(super) async fn of_user(
    store: &Sqlite,
    user: &UserId,
    since: Position,
) -> Result<Vec<OutsideRecord>, StoreError> {
    let statement = sqlx::query(
        "SELECT user, room_id, membership, version, via, event, state, position FROM outside
         WHERE user = ? AND position > ? ORDER BY room_id",
    )
    .bind(user.as_str())
    .bind(int(since.0));
    all(&store.rows(statement).await?, record)
}

pub(super) async fn of_room(
    store: &Sqlite,
    user: &UserId,
    room: &RoomId,
) -> Result<Option<OutsideRecord>, StoreError> {
    let statement = sqlx::query(
        "SELECT user, room_id, membership, version, via, event, state, position FROM outside
         WHERE user = ? AND room_id = ?",
    )
    .bind(user.as_str())
    .bind(room.as_str());
    store.row(statement).await?.as_ref().map(record).transpose()
}

fn record(row: &SqliteRow) -> Result<OutsideRecord, StoreError> {
    let mut cells = Cells::of(row);
    Ok(OutsideRecord {
        user: cells.text()?,
        room_id: cells.text()?,
        membership: cells.membership_word()?,
        version: cells.version()?,
        via: cells.text()?,
        event: cells.next::<&str>()?.into(),
        state: cells.next::<&str>()?.into(),
        position: cells.position()?,
    })
}
