//! Delta-coded states: from a state back to the last snapshot, in one recursive query.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt as _;
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{backend, codec, damaged, rows::Cells};
use crate::store::{EventNid, StateNid, StoreError};

/// The rows of a state, newest first, the last one with a snapshot or on the empty state.
///
/// A parent is always older than its child; asking for it makes a damaged store end, too.
const WALK: &str = "WITH RECURSIVE walk (nid, parent, deltas, snapshot) AS (
        SELECT nid, parent, deltas, snapshot FROM states WHERE nid = ?1
        UNION ALL
        SELECT s.nid, s.parent, s.deltas, s.snapshot FROM walk w
        JOIN states s ON s.nid = w.parent AND s.nid < w.nid
        WHERE w.snapshot IS NULL)
    SELECT parent, deltas, snapshot FROM walk";

/// One row of the walk.
struct Step {
    parent: StateNid,
    delta: codec::Delta,
    snapshot: Option<Vec<EventNid>>,
}

impl Step {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let mut cells = Cells::of(row);
        Ok(Self {
            parent: StateNid(cells.next()?),
            delta: codec::decode_delta(cells.next()?)?,
            snapshot: cells
                .next::<Option<&[u8]>>()?
                .map(codec::decode_snapshot)
                .transpose()?,
        })
    }

    fn is_last(&self) -> bool {
        self.snapshot.is_some() || self.parent == StateNid(0)
    }
}

/// A whole state.
pub(super) async fn whole(
    conn: &mut SqliteConnection,
    state: StateNid,
) -> Result<BTreeSet<EventNid>, StoreError> {
    if state == StateNid(0) {
        return Ok(BTreeSet::new());
    }
    let rows = sqlx::query(WALK)
        .bind(state.0)
        .fetch_all(conn)
        .await
        .map_err(backend)?;
    let steps: Vec<Step> = rows.iter().map(Step::read).collect::<Result<_, _>>()?;
    if !steps.last().is_some_and(Step::is_last) {
        return Err(lost(state));
    }
    let mut events = BTreeSet::new();
    for step in steps.into_iter().rev() {
        if let Some(snapshot) = step.snapshot {
            events = snapshot.into_iter().collect();
        } else {
            apply(&mut events, &step.delta);
        }
    }
    Ok(events)
}

pub(super) fn apply(events: &mut BTreeSet<EventNid>, delta: &codec::Delta) {
    for nid in &delta.removed {
        events.remove(nid);
    }
    events.extend(&delta.added);
}

/// Which of `candidates` are in a state. Reads no further back than it must.
pub(super) async fn which(
    conn: &mut SqliteConnection,
    state: StateNid,
    candidates: &BTreeSet<EventNid>,
) -> Result<BTreeSet<EventNid>, StoreError> {
    let mut found = BTreeSet::new();
    let mut open = candidates.clone();
    if state == StateNid(0) {
        return Ok(found);
    }
    let mut rows = sqlx::query(WALK).bind(state.0).fetch(conn);
    let mut complete = false;
    while !open.is_empty()
        && let Some(row) = rows.try_next().await.map_err(backend)?
    {
        let step = Step::read(&row)?;
        complete = step.is_last();
        // The newest delta that names an event decides: put in by it, or gone since.
        for nid in &step.delta.added {
            if open.remove(nid) {
                found.insert(*nid);
            }
        }
        for nid in &step.delta.removed {
            open.remove(nid);
        }
        if let Some(snapshot) = step.snapshot {
            found.extend(snapshot.into_iter().filter(|nid| open.contains(nid)));
            open.clear();
        }
    }
    if !open.is_empty() && !complete {
        return Err(lost(state));
    }
    Ok(found)
}

/// Where each row of a walk is, for the size of states in tests and fsck.
pub(super) fn lost(state: StateNid) -> StoreError {
    damaged(format!(
        "state {} leads to no snapshot and not to the empty state",
        state.0
    ))
}

/// Which event of a state has each key: the one of its candidates that is in the state.
pub(super) fn pick(
    keyed: &BTreeMap<EventNid, usize>,
    present: &BTreeSet<EventNid>,
    keys: usize,
) -> Vec<Option<EventNid>> {
    let mut picked = vec![None; keys];
    for nid in present {
        if let Some(slot) = keyed.get(nid).and_then(|key| picked.get_mut(*key)) {
            *slot = Some(*nid);
        }
    }
    picked
}
