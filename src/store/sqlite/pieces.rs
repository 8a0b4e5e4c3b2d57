//! Pieces of a room's state: by key, and by type.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    backend,
    bulk::Statement,
    damaged,
    rows::{Cells, all, event_columns},
    states,
};
use crate::{
    base::EventHash,
    room::StateKey,
    store::{EventNid, EventRecord, Kinds, RoomNid, StateNid, StoreError},
};

/// Events in the order asked for.
pub(super) async fn events(
    conn: &mut SqliteConnection,
    nids: &[EventNid],
) -> Result<Vec<EventRecord>, StoreError> {
    const SQL: &str = concat!(
        "SELECT ",
        event_columns!(),
        " FROM json_each(?) j CROSS JOIN events e ON e.nid = j.value ORDER BY j.key"
    );
    let list: Vec<i64> = nids.iter().map(|nid| nid.0).collect();
    let list = serde_json::to_string(&list).expect("a list of numbers is JSON");
    let rows = sqlx::query(SQL)
        .bind(list)
        .fetch_all(conn)
        .await
        .map_err(backend)?;
    all(&rows, |row| Cells::of(row).event())
}

/// Which of up to [`HASHES_MAX`] events are stored.
pub(super) async fn numbered(
    conn: &mut SqliteConnection,
    ids: &[EventHash],
) -> Result<Vec<(EventHash, EventNid)>, StoreError> {
    const SQL: &str =
        "SELECT e.hash, e.nid FROM json_each(?) j CROSS JOIN events e ON e.hash = unhex(j.value)";
    let list: Vec<String> = ids.iter().map(|id| hex::encode(id.0)).collect();
    let list = serde_json::to_string(&list).expect("a list of texts is JSON");
    let rows = sqlx::query(SQL)
        .bind(list)
        .fetch_all(conn)
        .await
        .map_err(backend)?;
    all(&rows, |row| Cells::of(row).numbered())
}

/// How many events one statement is asked about: 70 bytes each in its argument.
pub(super) const HASHES_MAX: usize = 4096;

/// Up to [`KEYS_MAX`] pieces of current state in one statement, which has room for 4, 16 or 64.
pub(super) async fn current(
    conn: &mut SqliteConnection,
    room: RoomNid,
    keys: &[StateKey],
) -> Result<Vec<Option<EventRecord>>, StoreError> {
    let fitting = CURRENT.iter().find(|(size, _)| keys.len() <= *size);
    let (size, sql) = fitting.ok_or_else(|| damaged(format!("{} keys", keys.len())))?;
    let mut statement: Statement = sqlx::query(AssertSqlSafe(sql.as_str()));
    for index in 0..*size {
        // What is too much stays null and equals nothing.
        let key = keys.get(index);
        statement = statement
            .bind(i64::try_from(index).unwrap_or(i64::MAX))
            .bind(key.map(|key| key.kind.as_str()))
            .bind(key.map(|key| key.key.as_str()));
    }
    let rows = statement
        .bind(room.0)
        .fetch_all(conn)
        .await
        .map_err(backend)?;
    let mut found = vec![None; keys.len()];
    for row in &rows {
        let mut cells = Cells::of(row);
        let index: usize = cells.number()?;
        if let Some(slot) = found.get_mut(index) {
            *slot = Some(cells.event()?);
        }
    }
    Ok(found)
}

static CURRENT: LazyLock<[(usize, String); 3]> = LazyLock::new(|| {
    [4, 16, KEYS_MAX].map(|size| {
        let wanted = vec!["(?,?,?)"; size].join(",");
        let sql = format!(
            "SELECT v.column1, {} FROM (VALUES {wanted}) AS v CROSS JOIN current c \
             ON c.room = ? AND c.kind = v.column2 AND c.key = v.column3 \
             CROSS JOIN events e ON e.nid = c.event",
            event_columns!()
        );
        (size, sql)
    })
});

/// The statement for 16 keys, for the test of its plan.
#[cfg(test)]
pub(super) fn current_statement() -> &'static str {
    let [_, (_, sql), _] = &*CURRENT;
    sql
}

/// How many pieces of current state are read at once: more than any event's authorization names.
pub(super) const KEYS_MAX: usize = 64;

/// For each key its few candidates by index, then which of them the state holds.
pub(super) async fn state_entries(
    conn: &mut SqliteConnection,
    room: RoomNid,
    state: StateNid,
    keys: &[StateKey],
) -> Result<Vec<Option<EventRecord>>, StoreError> {
    let mut keyed = BTreeMap::new();
    for (index, key) in keys.iter().enumerate() {
        let rows = sqlx::query(
            "SELECT nid FROM events
             WHERE room = ? AND kind = ? AND state_key = ? AND state_key IS NOT NULL",
        )
        .bind(room.0)
        .bind(key.kind.as_str())
        .bind(key.key.as_str())
        .fetch_all(&mut *conn)
        .await
        .map_err(backend)?;
        for row in &rows {
            keyed.insert(EventNid(Cells::of(row).next()?), index);
        }
    }
    let candidates: BTreeSet<EventNid> = keyed.keys().copied().collect();
    let present = states::which(conn, state, &candidates).await?;
    let picked = states::pick(&keyed, &present, keys.len());
    let wanted: Vec<EventNid> = picked.iter().flatten().copied().collect();
    let mut found: BTreeMap<EventNid, EventRecord> = events(conn, &wanted)
        .await?
        .into_iter()
        .map(|event| (event.nid, event))
        .collect();
    Ok(picked
        .into_iter()
        .map(|nid| nid.and_then(|nid| found.remove(&nid)))
        .collect())
}

/// The events of a state by their type, ascending by number.
///
/// The current state is in a table by type. Of an older one, only the numbers are read in full;
/// rows are read of those that an index finds to be of a wanted type. Neither touches a member of
/// a large room for someone who wants none.
pub(super) async fn state_events(
    conn: &mut SqliteConnection,
    room: RoomNid,
    state: StateNid,
    kinds: Kinds<'_>,
) -> Result<Vec<EventRecord>, StoreError> {
    let ranges = ranges(kinds);
    if ranges.is_empty() || state == StateNid(0) {
        return Ok(Vec::new());
    }
    let statement = of_kinds(CURRENT_OF_KIND, &ranges, room, state);
    let rows = statement.fetch_all(&mut *conn).await.map_err(backend)?;
    let mut found = all(&rows, |row| Cells::of(row).event())?;
    if found.is_empty() {
        let statement = of_kinds(CANDIDATES_OF_KIND, &ranges, room, state);
        let rows = statement.fetch_all(&mut *conn).await.map_err(backend)?;
        let candidates = all(&rows, |row| Cells::of(row).next().map(EventNid))?;
        let present = states::which(conn, state, &candidates.into_iter().collect()).await?;
        let present: Vec<EventNid> = present.into_iter().collect();
        found = events(conn, &present).await?;
    }
    found.sort_by_key(|event| event.nid);
    Ok(found)
}

/// Joined with the room's row, which tells in the same read whether the state is still current.
pub(super) const CURRENT_OF_KIND: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM rooms r CROSS JOIN current c ON c.room = r.nid CROSS JOIN events e ON e.nid = c.event \
     WHERE r.nid = ?1 AND r.state = ?2 AND "
);
pub(super) const CANDIDATES_OF_KIND: &str = "SELECT c.nid FROM events c INDEXED BY events_by_key \
     WHERE c.room = ?1 AND c.state_key IS NOT NULL AND ";

/// One scan of an index by type; no bound is part of its range.
#[derive(Clone, Debug)]
pub(super) enum Range {
    Is(String),
    Before(String),
    Between(String, String),
    After(String),
}

/// One scan of the index for each range of types.
pub(super) fn ranges(kinds: Kinds<'_>) -> Vec<Range> {
    let sorted = |kinds: &[&str]| -> BTreeSet<String> {
        kinds.iter().map(|kind| (*kind).to_owned()).collect()
    };
    match kinds {
        Kinds::Only(kinds) => sorted(kinds).into_iter().map(Range::Is).collect(),
        Kinds::Without(kinds) => {
            let mut ranges = Vec::new();
            let mut last: Option<String> = None;
            for kind in sorted(kinds) {
                ranges.push(match last {
                    None => Range::Before(kind.clone()),
                    Some(last) => Range::Between(last, kind.clone()),
                });
                last = Some(kind);
            }
            // Without any there is nothing to leave out: every type comes after the empty text,
            // but for that one itself.
            ranges.push(Range::After(last.clone().unwrap_or_default()));
            if last.is_none() {
                ranges.push(Range::Is(String::new()));
            }
            ranges
        }
    }
}

fn of_kinds(select: &str, ranges: &[Range], room: RoomNid, state: StateNid) -> Statement {
    let (sql, values) = by_kind(select, ranges);
    let statement = sqlx::query(AssertSqlSafe(sql)).bind(room.0).bind(state.0);
    values.into_iter().fold(statement, Statement::bind)
}

/// `select` once for each range, and the types to bind from ?3 on.
pub(super) fn by_kind(select: &str, ranges: &[Range]) -> (String, Vec<String>) {
    let mut values = Vec::new();
    let mut name = |kind: &String| {
        values.push(kind.clone());
        format!("?{}", values.len() + 2)
    };
    let mut parts = Vec::with_capacity(ranges.len());
    for range in ranges {
        let condition = match range {
            Range::Is(kind) => format!("c.kind = {}", name(kind)),
            Range::Before(kind) => format!("c.kind < {}", name(kind)),
            Range::After(kind) => format!("c.kind > {}", name(kind)),
            Range::Between(low, high) => {
                format!("c.kind > {} AND c.kind < {}", name(low), name(high))
            }
        };
        parts.push(format!("{select}{condition}"));
    }
    (parts.join(" UNION ALL "), values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        Batch, Commits as _, Rooms as _,
        contract::Pen,
        sqlite::{OpenOptions, Sqlite},
    };

    /// A measurement: `cargo test --release --lib pieces -- --ignored --nocapture`.
    #[tokio::test]
    #[ignore = "a measurement, not a check"]
    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    async fn how_much_the_other_state_of_a_room_of_5000_members_costs() {
        let dir = tempfile::tempdir_in("target").unwrap();
        let name = "hub.example".try_into().unwrap();
        let options = OpenOptions::new(dir.path().join("store.db"), name);
        let store = Sqlite::open(options).await.unwrap();
        let mut room = Pen::new(&store, "large");
        for kind in ["m.room.create", "m.room.name", "m.room.topic"] {
            room.state(&store, &StateKey::new(kind, ""));
        }
        for n in 0..5000 {
            let key = StateKey::new("m.room.member", format!("@u{n}:hub.example"));
            room.state(&store, &key);
        }
        let older = room.state.nid;
        room.state(&store, &StateKey::new("m.room.topic", ""));
        let batch = Batch {
            writes: room.take(),
            may_conflict: false,
        };
        store.commit(&[batch]).await.unwrap();
        let kinds = Kinds::Without(&["m.room.member"]);
        for (what, state) in [("current", room.state.nid), ("older", older)] {
            let began = std::time::Instant::now();
            for _ in 0..20 {
                let found = store.state_events(room.nid, state, kinds).await;
                assert_eq!(found.unwrap().len(), 3);
            }
            let by_type = began.elapsed() / 20;
            let began = std::time::Instant::now();
            for _ in 0..20 {
                let nids = store.state(state).await.unwrap();
                for chunk in nids.chunks(512) {
                    store.events(chunk).await.unwrap();
                }
            }
            let whole = began.elapsed() / 20;
            println!("{what}: {by_type:?} by type, {whole:?} by reading all of it");
        }
    }
}
