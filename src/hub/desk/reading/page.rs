//! A page of a room's log: what a reader may see and wants to see of it, and how far it reaches.
//!
//! A page says how far it has read, not only what it holds: where much is hidden the next page
//! begins further on, and reading always ends.

use std::sync::Arc;

use crate::{
    base::Seq,
    hub::desk::reading::visibility::{Sight, Standing, state_at},
    room::Membership,
    store::{EventRecord, LogRecord, Logged, Order, SharedStore, StateNid, StoreError},
};

/// How many entries of a log one page looks at, however few of them may be seen.
///
/// At about a kilobyte each this is a megabyte read for one request.
pub(in crate::hub::desk) const SCAN_MAX: usize = 1024;

/// How many entries are read from the store at once, at most and at least.
const CHUNK_MAX: usize = 256;
const CHUNK_MIN: usize = 16;

/// An event someone may see, and what was around it.
#[derive(Clone, Debug)]
pub(in crate::hub::desk) struct Seen {
    pub(in crate::hub::desk) event: EventRecord,
    /// The state before it.
    pub(in crate::hub::desk) before: StateNid,
    /// The reader's membership after it.
    pub(in crate::hub::desk) membership: Membership,
}

/// A part of a log, in the order it was read.
#[derive(Clone, Debug)]
pub(in crate::hub::desk) struct Page {
    pub(in crate::hub::desk) seen: Vec<Seen>,
    /// Where reading goes on: everything between here and the start has been read.
    pub(in crate::hub::desk) reached: Seq,
}

/// The part of a log to read: `from < seq <= to`.
#[derive(Clone, Copy, Debug)]
pub(in crate::hub::desk) struct Span {
    pub(in crate::hub::desk) from: Seq,
    pub(in crate::hub::desk) to: Seq,
}

/// Which events are wanted; visibility is not its business.
pub(in crate::hub::desk) type Wanted<'a> = &'a (dyn Fn(&EventRecord) -> bool + Send + Sync);

/// Reads at most `want` events of `span`, newest first.
pub(in crate::hub::desk) async fn older(
    store: &SharedStore,
    standing: &Standing,
    span: Span,
    want: usize,
    wanted: Wanted<'_>,
) -> Result<Page, StoreError> {
    let mut page = Page {
        seen: Vec::new(),
        reached: span.to,
    };
    let mut scanned = 0;
    while page.reached > span.from && page.seen.len() < want && scanned < SCAN_MAX {
        let size = chunk(want - page.seen.len());
        let bottom = Seq(page.reached.0.saturating_sub(size).max(span.from.0));
        let top = page.reached;
        let (entries, mut sight) = chunk_of(
            store,
            standing,
            Span {
                from: bottom,
                to: top,
            },
        )
        .await?;
        scanned += entries.len();
        let visible = walk(store, &mut sight, entries, wanted).await?;
        page.reached = bottom;
        for seen in visible.into_iter().rev() {
            page.reached = seen.event.seq.map_or(bottom, before);
            page.seen.push(seen);
            if page.seen.len() == want {
                return Ok(page);
            }
        }
        page.reached = bottom;
    }
    Ok(page)
}

/// Reads at most `want` events of `span`, oldest first.
pub(in crate::hub::desk) async fn newer(
    store: &SharedStore,
    standing: &Standing,
    span: Span,
    want: usize,
    wanted: Wanted<'_>,
) -> Result<Page, StoreError> {
    let mut page = Page {
        seen: Vec::new(),
        reached: span.from,
    };
    let mut scanned = 0;
    while page.reached < span.to && page.seen.len() < want && scanned < SCAN_MAX {
        let size = chunk(want - page.seen.len());
        let top = Seq(page.reached.0.saturating_add(size).min(span.to.0));
        let bottom = page.reached;
        let (entries, mut sight) = chunk_of(
            store,
            standing,
            Span {
                from: bottom,
                to: top,
            },
        )
        .await?;
        scanned += entries.len();
        for seen in walk(store, &mut sight, entries, wanted).await? {
            page.reached = seen.event.seq.unwrap_or(top);
            page.seen.push(seen);
            if page.seen.len() == want {
                return Ok(page);
            }
        }
        page.reached = top;
    }
    Ok(page)
}

/// The entries of a span, oldest first, and what the reader sees just before them.
pub(in crate::hub::desk) async fn chunk_of<'a>(
    store: &SharedStore,
    standing: &'a Standing,
    span: Span,
) -> Result<(Vec<LogRecord>, Sight<'a>), StoreError> {
    let room = standing.room.nid;
    let limit = u32::try_from(span.to.0.saturating_sub(span.from.0)).unwrap_or(u32::MAX);
    let entries = store
        .log(room, span.from, span.to, Order::Forward, limit)
        .await?;
    let state = state_at(store, room, span.from).await?;
    let sight = if standing.joined_after.is_some_and(|seq| seq <= span.from) {
        Sight::joined(standing, state)
    } else {
        Sight::at(store, standing, state).await?
    };
    Ok((entries, sight))
}

/// Moves along the entries and keeps what may be seen and is wanted.
async fn walk(
    store: &SharedStore,
    sight: &mut Sight<'_>,
    entries: Vec<LogRecord>,
    wanted: Wanted<'_>,
) -> Result<Vec<Seen>, StoreError> {
    let mut seen = Vec::new();
    for entry in entries {
        let Logged::Event(event) = entry.what else {
            sight.turn(store, entry.state).await?;
            continue;
        };
        let before = sight.state();
        if sight.pass(store, entry.state, &event).await? && wanted(&event) {
            seen.push(Seen {
                before,
                membership: sight.membership(),
                event,
            });
        }
    }
    Ok(seen)
}

/// The distinct senders of a page.
pub(in crate::hub::desk) fn senders(page: &[Seen]) -> std::collections::BTreeSet<Arc<str>> {
    page.iter()
        .filter_map(|seen| {
            crate::hub::desk::sync::view::Stored::read(&seen.event)
                .map(|stored| Arc::from(stored.sender.as_ref()))
        })
        .collect()
}

fn before(seq: Seq) -> Seq {
    Seq(seq.0.saturating_sub(1))
}

fn chunk(want: usize) -> u64 {
    let size = want.clamp(CHUNK_MIN, CHUNK_MAX);
    u64::try_from(size).unwrap_or(u64::MAX)
}
