//! A user's memberships: which rooms have news for them, at the cost of what is new.

use ruma::UserId;
use sqlx::SqliteConnection;

use super::{
    backend,
    rows::{Cells, int},
};
use crate::{base::Position, store::StoreError};

/// Which side to start from: usually few rooms have something new; after a long absence on a busy
/// hub, the user's own rooms are fewer.
pub(super) async fn plan(
    conn: &mut SqliteConnection,
    user: &UserId,
    since: Position,
) -> Result<&'static str, StoreError> {
    let changed = changed_rooms(conn, since, CHANGED_ROOMS_FEW).await?;
    if changed < CHANGED_ROOMS_FEW {
        return Ok(BY_CHANGE);
    }
    let row = sqlx::query("SELECT count(*) FROM memberships WHERE user = ?")
        .bind(user.as_str())
        .fetch_one(&mut *conn)
        .await
        .map_err(backend)?;
    let own: i64 = Cells::of(&row).next()?;
    let changed = changed_rooms(conn, since, own + 1).await?;
    Ok(if changed > own { BY_USER } else { BY_CHANGE })
}

/// How many rooms have something new, counted up to `limit`.
async fn changed_rooms(
    conn: &mut SqliteConnection,
    since: Position,
    limit: i64,
) -> Result<i64, StoreError> {
    let row = sqlx::query("SELECT count(*) FROM (SELECT 1 FROM rooms WHERE position > ? LIMIT ?)")
        .bind(int(since.0))
        .bind(limit)
        .fetch_one(conn)
        .await
        .map_err(backend)?;
    Cells::of(&row).next()
}

/// Below this many changed rooms it does not matter how many the user has.
const CHANGED_ROOMS_FEW: i64 = 200;

macro_rules! membership_columns {
    () => {
        "m.user, m.room, r.room_id, m.membership, m.event, m.position, r.position, m.forgotten"
    };
}
pub(super) use membership_columns;

pub(super) const ALL: &str = concat!(
    "SELECT ",
    membership_columns!(),
    " FROM memberships m CROSS JOIN rooms r ON r.nid = m.room \
     WHERE m.user = ?1 AND m.forgotten = 0 ORDER BY m.room"
);

/// From the changed rooms to the user, and from the user's changes.
pub(super) const BY_CHANGE: &str = concat!(
    "SELECT ",
    membership_columns!(),
    " FROM rooms r INDEXED BY rooms_by_position \
     CROSS JOIN memberships m ON m.user = ?1 AND m.room = r.nid \
     WHERE r.position > ?2 AND m.forgotten = 0 UNION SELECT ",
    membership_columns!(),
    " FROM memberships m INDEXED BY memberships_by_position CROSS JOIN rooms r ON r.nid = m.room \
     WHERE m.user = ?1 AND m.position > ?2 ORDER BY 2"
);

/// From the user's rooms to their positions.
pub(super) const BY_USER: &str = concat!(
    "SELECT ",
    membership_columns!(),
    " FROM memberships m CROSS JOIN rooms r ON r.nid = m.room \
     WHERE m.user = ?1 AND ((m.forgotten = 0 AND r.position > ?2) OR m.position > ?2) \
     ORDER BY m.room"
);
