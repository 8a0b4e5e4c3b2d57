//! What ordinary batches append, gathered by table and written many rows at a time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use ruma::ServerName;
use sqlx::SqliteConnection;

use super::{
    bulk::{Bulk, Row, Values, write, write_alike},
    codec,
    commit::Stop,
    rows::{int, membership_code, status_code},
};
use crate::{
    base::{Position, Seq, Timestamp},
    room::{Heads, Membership, StateKey},
    store::{
        EventNid, NewEntry, NewEvent, NewLogged, NewState, ReceiptRecord, RoomNid, StateHead,
        TxnAnswer, TxnKey,
    },
};

/// Rows not written yet. Within a table they keep their order.
#[derive(Default)]
pub(super) struct Pending<'a> {
    pub(super) position: Position,
    events: Vec<EventRow<'a>>,
    event_at: HashMap<EventNid, usize>,
    states: Vec<StateRow<'a>>,
    entries: Vec<EntryRow<'a>>,
    rooms: BTreeMap<RoomNid, RoomChange<'a>>,
    current: Vec<CurrentRow<'a>>,
    memberships: Vec<MembershipRow<'a>>,
    txns: Vec<TxnRow<'a>>,
    receipts: Vec<ReceiptRow<'a>>,
    mail: Vec<MailRow<'a>>,
    /// How much mail this commit has had, so that each piece has a place of its own.
    mailed: i64,
    /// What the commit adds to the totals.
    pub(super) grown: Grown,
}

/// What a commit adds to the totals.
#[derive(Clone, Copy, Default)]
pub(super) struct Grown {
    pub(super) rooms: i64,
    pub(super) events: i64,
    pub(super) users: i64,
}

/// The entries and heads of one room.
#[derive(Default)]
struct RoomChange<'a> {
    /// The first and the last new entry.
    entries: Option<(Seq, Seq)>,
    heads: Option<(&'a Heads, StateHead)>,
}

impl<'a> Pending<'a> {
    pub(super) fn at(position: Position) -> Self {
        Self {
            position,
            ..Self::default()
        }
    }

    /// Forgets what a refused batch left.
    pub(super) fn clear(&mut self, grown: Grown) {
        *self = Self {
            mailed: self.mailed,
            grown,
            ..Self::at(self.position)
        };
    }

    pub(super) fn event(&mut self, event: &'a NewEvent) {
        self.event_at.insert(event.nid, self.events.len());
        self.events.push(EventRow { event, seq: None });
        self.grown.events += 1;
    }

    /// Gives an event that is not written yet its seq; tells whether it did.
    pub(super) fn place_event(&mut self, nid: EventNid, seq: Seq) -> bool {
        let row = self.event_at.get(&nid).copied();
        let Some(row) = row.and_then(|at| self.events.get_mut(at)) else {
            return false;
        };
        row.seq = Some(seq);
        true
    }

    pub(super) fn state(&mut self, state: &'a NewState, snapshot: Option<Vec<u8>>) {
        self.states.push(StateRow { state, snapshot });
    }

    /// Takes an entry, which must follow the one before it.
    pub(super) fn entry(&mut self, entry: &'a NewEntry) -> Result<(), Stop> {
        let change = self.rooms.entry(entry.room).or_default();
        let first = match change.entries {
            None => entry.seq,
            Some((first, last)) if last.next() == entry.seq => first,
            Some((_, last)) => {
                return Err(Stop::damaged(format!(
                    "room {} was given entry {} after entry {last}",
                    entry.room.0, entry.seq
                )));
            }
        };
        change.entries = Some((first, entry.seq));
        self.entries.push(EntryRow {
            entry,
            position: self.position,
        });
        Ok(())
    }

    pub(super) fn heads(&mut self, room: RoomNid, heads: &'a Heads, state: StateHead) {
        self.rooms.entry(room).or_default().heads = Some((heads, state));
    }

    pub(super) fn current(&mut self, room: RoomNid, key: &'a StateKey, event: EventNid) {
        self.current.push(CurrentRow { room, key, event });
    }

    pub(super) fn membership(
        &mut self,
        user: &'a str,
        room: RoomNid,
        membership: Membership,
        event: EventNid,
    ) {
        self.memberships.push(MembershipRow {
            user,
            room,
            membership,
            event,
            position: self.position,
        });
    }

    pub(super) fn txn(&mut self, key: &'a TxnKey, answer: &'a TxnAnswer, at: Timestamp) {
        self.txns.push(TxnRow { key, answer, at });
    }

    pub(super) fn receipt(&mut self, room: RoomNid, receipt: &'a ReceiptRecord) {
        self.receipts.push(ReceiptRow {
            room,
            receipt,
            position: self.position,
        });
    }

    pub(super) fn mail(
        &mut self,
        (user, device): (&'a str, &'a str),
        origin: Option<&'a ServerName>,
        json: &'a str,
    ) {
        self.mailed += 1;
        self.mail.push(MailRow {
            user,
            device,
            origin,
            json,
            position: self.position,
            part: self.mailed,
        });
    }

    /// Writes everything.
    pub(super) async fn flush(&mut self, conn: &mut SqliteConnection) -> Result<(), Stop> {
        let messages = (&mut self.events, &mut self.entries, &mut self.txns);
        write_alike(conn, &MESSAGES, messages).await?;
        self.flush_events(conn).await?;
        self.flush_states(conn).await?;
        write(conn, &mut self.entries).await?;
        self.flush_rooms(conn).await?;
        self.flush_current(conn).await?;
        self.flush_memberships(conn).await?;
        self.flush_txns(conn).await?;
        write(conn, &mut self.receipts).await?;
        self.flush_mail(conn).await
    }

    pub(super) async fn flush_events(&mut self, conn: &mut SqliteConnection) -> Result<(), Stop> {
        self.event_at.clear();
        write(conn, &mut self.events).await.map(drop)
    }

    pub(super) async fn flush_states(&mut self, conn: &mut SqliteConnection) -> Result<(), Stop> {
        write(conn, &mut self.states).await.map(drop)
    }

    pub(super) async fn flush_current(&mut self, conn: &mut SqliteConnection) -> Result<(), Stop> {
        write(conn, &mut self.current).await.map(drop)
    }

    pub(super) async fn flush_memberships(
        &mut self,
        conn: &mut SqliteConnection,
    ) -> Result<(), Stop> {
        write(conn, &mut self.memberships).await.map(drop)
    }

    pub(super) async fn flush_txns(&mut self, conn: &mut SqliteConnection) -> Result<(), Stop> {
        write(conn, &mut self.txns).await.map(drop)
    }

    pub(super) async fn flush_mail(&mut self, conn: &mut SqliteConnection) -> Result<(), Stop> {
        write(conn, &mut self.mail).await.map(drop)
    }

    /// Moves each room's row on, if it stands where the first new entry says it does.
    async fn flush_rooms(&mut self, conn: &mut SqliteConnection) -> Result<(), Stop> {
        let mut rows = Vec::with_capacity(self.rooms.len());
        for (room, change) in std::mem::take(&mut self.rooms) {
            rows.push(room_row(room, &change, self.position)?);
        }
        let wanted = rows.len() as u64;
        let moved = write(conn, &mut rows).await?;
        if moved != wanted {
            return Err(Stop::damaged(format!(
                "of {wanted} rooms only {moved} stood where their new entries begin"
            )));
        }
        Ok(())
    }
}

fn room_row(room: RoomNid, change: &RoomChange<'_>, position: Position) -> Result<RoomRow, Stop> {
    let Some((heads, state)) = change.heads else {
        return Err(Stop::damaged(format!(
            "room {} was given entries without heads",
            room.0
        )));
    };
    let before = match change.entries {
        None => heads.seq,
        Some((first, last)) if last == heads.seq && first > Seq::ZERO => Seq(first.0 - 1),
        Some((first, last)) => {
            return Err(Stop::damaged(format!(
                "room {} was given entries {first} to {last} and head {}",
                room.0, heads.seq
            )));
        }
    };
    Ok(RoomRow {
        room,
        before,
        seq: heads.seq,
        chain: heads.chain.0.to_vec(),
        tips: codec::encode_tips(&heads.tips).map_err(Stop::Store)?,
        state,
        position,
    })
}

macro_rules! bulk {
    ($row:ident, $head:literal, $values:literal, $tail:literal) => {
        impl $row<'_> {
            fn statements() -> &'static Bulk {
                static BULK: LazyLock<Bulk> = LazyLock::new(|| Bulk::new($head, $values, $tail));
                &BULK
            }
        }
    };
}

struct EventRow<'a> {
    event: &'a NewEvent,
    seq: Option<Seq>,
}

bulk!(
    EventRow,
    "INSERT INTO events (nid, hash, room, seq, kind, state_key, depth, status, soft_failed, \
     state_after, prev, auth, sent_device, sent_txn, json) VALUES ",
    "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    ""
);

impl Row for EventRow<'_> {
    fn bulk() -> &'static Bulk {
        EventRow::statements()
    }

    fn bind(&self, values: &mut Values) {
        let event = self.event;
        let sent = event.sent_by.as_ref();
        values
            .bind(event.nid.0)
            .bind(event.hash.0.to_vec())
            .bind(event.room.0)
            .bind(self.seq.map(|seq| int(seq.0)))
            .text(event.kind.as_str())
            .bind(event.state_key.as_deref().map(Arc::<str>::from))
            .bind(int(event.depth))
            .bind(status_code(event.status))
            .bind(event.soft_failed)
            .bind(event.state_after.0)
            .bind(codec::encode_hashes(&event.prev))
            .bind(codec::encode_hashes(&event.auth))
            .bind(sent.map(|sent| Arc::<str>::from(sent.device.as_str())))
            .bind(sent.map(|sent| Arc::<str>::from(sent.txn.as_str())))
            .bind(Arc::clone(&event.json));
    }
}

struct StateRow<'a> {
    state: &'a NewState,
    snapshot: Option<Vec<u8>>,
}

bulk!(
    StateRow,
    "INSERT INTO states (nid, room, parent, deltas, snapshot) VALUES ",
    "(?,?,?,?,?)",
    ""
);

impl Row for StateRow<'_> {
    fn bulk() -> &'static Bulk {
        StateRow::statements()
    }

    fn bind(&self, values: &mut Values) {
        values
            .bind(self.state.nid.0)
            .bind(self.state.room.0)
            .bind(self.state.parent.0)
            .bind(codec::encode_delta(&self.state.added, &self.state.removed))
            .bind(self.snapshot.clone());
    }
}

struct EntryRow<'a> {
    entry: &'a NewEntry,
    position: Position,
}

bulk!(
    EntryRow,
    "INSERT INTO log (room, seq, position, chain, event, marker, state) VALUES ",
    "(?,?,?,?,?,?,?)",
    ""
);

impl Row for EntryRow<'_> {
    fn bulk() -> &'static Bulk {
        EntryRow::statements()
    }

    fn bind(&self, values: &mut Values) {
        let (event, marker) = match &self.entry.what {
            NewLogged::Event(nid) => (Some(nid.0), None),
            NewLogged::Marker(bytes) => (None, Some(bytes.as_slice())),
        };
        values
            .bind(self.entry.room.0)
            .bind(int(self.entry.seq.0))
            .bind(int(self.position.0))
            .bind(self.entry.chain.0.to_vec())
            .bind(event)
            .bind(marker)
            .bind(self.entry.state.map(|state| state.0));
    }
}

struct RoomRow {
    room: RoomNid,
    before: Seq,
    seq: Seq,
    chain: Vec<u8>,
    tips: Vec<u8>,
    state: StateHead,
    position: Position,
}

static ROOMS: LazyLock<Bulk> = LazyLock::new(|| {
    Bulk::new(
        "UPDATE rooms SET seq = v.column3, chain = v.column4, tips = v.column5, \
         state = v.column6, state_size = v.column7, state_deltas = v.column8, \
         position = v.column9 FROM (VALUES ",
        "(?,?,?,?,?,?,?,?,?)",
        ") AS v WHERE rooms.nid = v.column1 AND rooms.seq = v.column2",
    )
});

/// The statement that moves rooms on, for the test of its plan.
#[cfg(test)]
pub(super) fn rooms_statement() -> &'static str {
    ROOMS.sixteen()
}

impl Row for RoomRow {
    fn bulk() -> &'static Bulk {
        &ROOMS
    }

    fn bind(&self, values: &mut Values) {
        values
            .bind(self.room.0)
            .bind(int(self.before.0))
            .bind(int(self.seq.0))
            .bind(self.chain.clone())
            .bind(self.tips.clone())
            .bind(self.state.nid.0)
            .bind(i64::from(self.state.size))
            .bind(i64::from(self.state.deltas))
            .bind(int(self.position.0));
    }
}

struct CurrentRow<'a> {
    room: RoomNid,
    key: &'a StateKey,
    event: EventNid,
}

bulk!(
    CurrentRow,
    "INSERT INTO current (room, kind, key, event) VALUES ",
    "(?,?,?,?)",
    " ON CONFLICT DO UPDATE SET event = excluded.event"
);

impl Row for CurrentRow<'_> {
    fn bulk() -> &'static Bulk {
        CurrentRow::statements()
    }

    fn bind(&self, values: &mut Values) {
        values
            .bind(self.room.0)
            .text(self.key.kind.as_str())
            .text(self.key.key.as_str())
            .bind(self.event.0);
    }
}

struct MembershipRow<'a> {
    user: &'a str,
    room: RoomNid,
    membership: Membership,
    event: EventNid,
    position: Position,
}

bulk!(
    MembershipRow,
    "INSERT INTO memberships (user, room, membership, event, position, forgotten) VALUES ",
    "(?,?,?,?,?,0)",
    " ON CONFLICT DO UPDATE SET membership = excluded.membership, event = excluded.event, \
     position = excluded.position, forgotten = 0"
);

impl Row for MembershipRow<'_> {
    fn bulk() -> &'static Bulk {
        MembershipRow::statements()
    }

    fn bind(&self, values: &mut Values) {
        values
            .text(self.user)
            .bind(self.room.0)
            .bind(membership_code(self.membership))
            .bind(self.event.0)
            .bind(int(self.position.0));
    }
}

/// What most of a commit is: messages, each an event, an entry and a transaction.
static MESSAGES: LazyLock<Bulk> = LazyLock::new(|| {
    Bulk::joined([
        EventRow::statements(),
        EntryRow::statements(),
        TxnRow::statements(),
    ])
});

struct TxnRow<'a> {
    key: &'a TxnKey,
    answer: &'a TxnAnswer,
    at: Timestamp,
}

bulk!(
    TxnRow,
    "INSERT INTO txns (user, device, endpoint, txn, answer, at) VALUES ",
    "(?,?,?,?,?,?)",
    ""
);

impl Row for TxnRow<'_> {
    fn bulk() -> &'static Bulk {
        TxnRow::statements()
    }

    fn bind(&self, values: &mut Values) {
        let answer = match self.answer {
            TxnAnswer::Event(id) => Some(Arc::<str>::from(id.as_str())),
            TxnAnswer::Done => None,
        };
        values
            .text(self.key.user.as_str())
            .text(self.key.device.as_str())
            .text(self.key.endpoint.as_str())
            .text(self.key.txn.as_str())
            .bind(answer)
            .bind(int(self.at.0));
    }
}

struct ReceiptRow<'a> {
    room: RoomNid,
    receipt: &'a ReceiptRecord,
    position: Position,
}

bulk!(
    ReceiptRow,
    "INSERT INTO receipts (room, user, kind, thread, event, at, position) VALUES ",
    "(?,?,?,?,?,?,?)",
    " ON CONFLICT DO UPDATE SET event = excluded.event, at = excluded.at, \
     position = excluded.position"
);

impl Row for ReceiptRow<'_> {
    fn bulk() -> &'static Bulk {
        ReceiptRow::statements()
    }

    fn bind(&self, values: &mut Values) {
        values
            .bind(self.room.0)
            .text(self.receipt.user.as_str())
            .text(self.receipt.kind.as_str())
            .text(self.receipt.thread.as_str())
            .text(self.receipt.event.as_str())
            .bind(int(self.receipt.at.0))
            .bind(int(self.position.0));
    }
}

struct MailRow<'a> {
    user: &'a str,
    device: &'a str,
    position: Position,
    part: i64,
    origin: Option<&'a ServerName>,
    json: &'a str,
}

bulk!(
    MailRow,
    "INSERT INTO mail (user, device, position, part, origin, json) SELECT v.* FROM (VALUES ",
    "(?,?,?,?,?,?)",
    ") AS v WHERE EXISTS (SELECT 1 FROM devices d \
     WHERE d.user = v.column1 AND d.device = v.column2)"
);

impl Row for MailRow<'_> {
    fn bulk() -> &'static Bulk {
        MailRow::statements()
    }

    fn bind(&self, values: &mut Values) {
        values
            .text(self.user)
            .text(self.device)
            .bind(int(self.position.0))
            .bind(self.part)
            .bind(self.origin.map(|origin| origin.as_str().to_owned()))
            .text(self.json);
    }
}
