//! What moves in rooms beside their logs, in memory: who types, and where receipts were stored.
//!
//! Typing is worth nothing after a restart. Receipts are stored; the board only says in which
//! rooms to look for them, so that a sync need not ask every room. What it does not know any more
//! it says it does not know.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{
    base::{Clock, Position, Timestamp},
    store::RoomNid,
};

/// In how many rooms typing is remembered; the room longest unchanged is forgotten.
const TYPING_ROOMS_MAX: usize = 4096;

/// How many users type in one room at once; more are not shown, and nobody could read them.
const TYPING_USERS_MAX: usize = 64;

/// In how many rooms recent receipts are remembered.
const RECEIPT_ROOMS_MAX: usize = 16_384;

/// How many commits may come before one that was asked for: twice what the committer's queue holds.
const COMMITS_AHEAD_MAX: u64 = 2048;

/// Who types where, until when; and where receipts were stored lately.
#[derive(Clone, Default)]
pub(in crate::hub::desk) struct TypingBoard(Arc<Mutex<Board>>);

#[derive(Default)]
struct Board {
    version: u64,
    /// Where this run of the hub began to count.
    first: u64,
    rooms: HashMap<RoomNid, Room>,
    /// The same rooms by the version at which they last changed.
    by_version: BTreeMap<u64, RoomNid>,
    /// Whose typing a task watches.
    watched: HashSet<(RoomNid, OwnedUserId)>,
    receipts: Receipts,
}

struct Room {
    id: OwnedRoomId,
    version: u64,
    users: BTreeMap<OwnedUserId, Timestamp>,
}

/// Looking for what is new costs what is new: many look at once, and most find nothing.
#[derive(Default)]
struct Receipts {
    /// Before this nothing is known; set once the board has been used.
    since: Option<Position>,
    /// Before this something was forgotten.
    forgotten: Position,
    newest: HashMap<RoomNid, Position>,
    by_position: BTreeSet<(Position, RoomNid)>,
    on_their_way: HashMap<RoomNid, usize>,
}

/// A room's typing users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) struct TypingRoom {
    pub(in crate::hub::desk) room: RoomNid,
    pub(in crate::hub::desk) id: OwnedRoomId,
    pub(in crate::hub::desk) users: Vec<OwnedUserId>,
}

/// A receipt that is being stored.
pub(in crate::hub::desk) struct ExpectedReceipts {
    board: TypingBoard,
    room: RoomNid,
    /// At the latest where it will be stored; exact once that is known.
    position: Position,
}

impl TypingBoard {
    /// Counts from this version on.
    pub(in crate::hub::desk) fn from(first: u64) -> Self {
        let board = Board {
            version: first,
            first,
            ..Board::default()
        };
        Self(Arc::new(Mutex::new(board)))
    }

    /// How often the board has changed.
    pub(in crate::hub::desk) fn version(&self) -> u64 {
        self.board().version
    }

    /// Something else that syncs look for by version has changed; gives the version of that.
    pub(in crate::hub::desk) fn step(&self) -> u64 {
        let mut board = self.board();
        board.version += 1;
        board.version
    }

    /// Whether a version can be one that this run of the hub has counted.
    pub(in crate::hub::desk) fn is_of_this_run(&self, version: u64) -> bool {
        self.board().counted(version)
    }

    /// Someone types until then, or no longer. If others see a difference, gives the board's version
    /// before it.
    pub(super) fn set(
        &self,
        (room, id): (RoomNid, &RoomId),
        user: &UserId,
        until: Option<Timestamp>,
    ) -> Option<u64> {
        let mut board = self.board();
        let changed = match until {
            None => board
                .rooms
                .get_mut(&room)
                .is_some_and(|room| room.users.remove(user).is_some()),
            Some(until) => board.room(room, id).begin(user, until),
        };
        changed.then(|| board.touch(room))
    }

    /// Rooms whose typing users changed after `since` and not after `now`, which the next look
    /// will find; all with typing users when `since` is none.
    pub(in crate::hub::desk) fn changed(&self, since: Option<u64>, now: u64) -> Vec<TypingRoom> {
        let board = self.board();
        // A version from before a restart is from another count.
        let since = since.filter(|since| board.counted(*since));
        let rooms: Vec<RoomNid> = match since {
            Some(since) if since < now => {
                let new = board.by_version.range(since + 1..=now);
                new.map(|(_, room)| *room).collect()
            }
            Some(_) => Vec::new(),
            None => board.rooms.keys().copied().collect(),
        };
        let typing = rooms.into_iter().filter_map(|nid| {
            let room = board.rooms.get(&nid)?;
            (since.is_some() || !room.users.is_empty()).then(|| TypingRoom {
                room: nid,
                id: room.id.clone(),
                users: room.users.keys().cloned().collect(),
            })
        });
        typing.collect()
    }

    /// Who types in a room, if anyone does.
    pub(in crate::hub::desk) fn in_room(&self, room: RoomNid) -> Option<Vec<OwnedUserId>> {
        let board = self.board();
        let users = &board.rooms.get(&room)?.users;
        (!users.is_empty()).then(|| users.keys().cloned().collect())
    }

    /// Whether someone's typing has to be watched from now on: nobody does it yet.
    pub(super) fn begin_watch(&self, room: RoomNid, user: &UserId) -> bool {
        self.board().watched.insert((room, user.to_owned()))
    }

    /// Waits until someone's typing has run out or was taken back, and rings when it ran out.
    pub(super) async fn watch(
        self,
        room: RoomNid,
        user: OwnedUserId,
        clock: Arc<dyn Clock>,
        ring: impl FnOnce(u64) + Send,
    ) {
        let key = (room, user);
        loop {
            let left = self.board().left(&key, clock.now());
            match left {
                Left::Time(left) => tokio::time::sleep(left).await,
                Left::TakenBack => return,
                Left::Nothing { before } => return ring(before),
            }
        }
    }

    /// A receipt is about to be stored in `room`, the hub being at `now`.
    pub(super) fn expect_receipts(&self, room: RoomNid, now: Position) -> ExpectedReceipts {
        let mut board = self.board();
        board.receipts.since.get_or_insert(now); // from here on all of them come by
        *board.receipts.on_their_way.entry(room).or_default() += 1;
        drop(board);
        ExpectedReceipts {
            board: self.clone(),
            room,
            position: Position(now.0.saturating_add(COMMITS_AHEAD_MAX)),
        }
    }

    /// The rooms in which receipts may have been stored after `since`; none when not known.
    /// `now` is the hub's position, from which on a new board knows everything.
    pub(in crate::hub::desk) fn receipts_since(
        &self,
        since: Position,
        now: Position,
    ) -> Option<Vec<RoomNid>> {
        let mut board = self.board();
        let receipts = &mut board.receipts;
        let known_since = *receipts.since.get_or_insert(now);
        if since < known_since.max(receipts.forgotten) {
            return None;
        }
        let new = receipts
            .by_position
            .range((since.next(), RoomNid(i64::MIN))..);
        let mut rooms: Vec<RoomNid> = new.map(|(_, room)| *room).collect();
        rooms.extend(receipts.on_their_way.keys());
        rooms.sort_unstable();
        rooms.dedup();
        Some(rooms)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ExpectedReceipts {
    /// It was stored there. Without this, whoever asked has gone while it was on its way, or the
    /// store does not know: then it may still turn up until [`COMMITS_AHEAD_MAX`] commits later.
    pub(super) fn settle(mut self, position: Position) {
        self.position = position;
    }
}

impl Drop for ExpectedReceipts {
    fn drop(&mut self) {
        self.board
            .board()
            .receipts
            .arrived(self.room, self.position);
    }
}

/// What is left of someone's typing.
enum Left {
    Time(Duration),
    /// It has just been taken off the board, which was of this version before.
    Nothing {
        before: u64,
    },
    TakenBack,
}

impl Board {
    fn counted(&self, version: u64) -> bool {
        (self.first..=self.version).contains(&version)
    }

    fn left(&mut self, key: &(RoomNid, OwnedUserId), now: Timestamp) -> Left {
        let room = self.rooms.get_mut(&key.0);
        let until = room.as_ref().and_then(|room| room.users.get(&key.1));
        let left = until.map(|until| until.since(now));
        match (room, left) {
            (Some(_), Some(left)) if left > Duration::ZERO => Left::Time(left),
            (Some(room), Some(_)) => {
                room.users.remove(&key.1);
                self.watched.remove(key);
                let before = self.touch(key.0);
                Left::Nothing { before }
            }
            _ => {
                self.watched.remove(key);
                Left::TakenBack
            }
        }
    }

    /// A room on the board, with room made for it.
    fn room(&mut self, nid: RoomNid, id: &RoomId) -> &mut Room {
        if !self.rooms.contains_key(&nid)
            && self.rooms.len() >= TYPING_ROOMS_MAX
            && let Some((_, oldest)) = self.by_version.pop_first()
        {
            self.rooms.remove(&oldest);
        }
        self.rooms.entry(nid).or_insert_with(|| Room {
            id: id.to_owned(),
            version: 0,
            users: BTreeMap::new(),
        })
    }

    /// A room has changed; gives the version before that.
    fn touch(&mut self, nid: RoomNid) -> u64 {
        let before = self.version;
        self.version += 1;
        if let Some(room) = self.rooms.get_mut(&nid) {
            self.by_version.remove(&room.version);
            room.version = self.version;
            self.by_version.insert(room.version, nid);
        }
        before
    }
}

impl Room {
    /// Someone types until then; tells whether they did not before.
    fn begin(&mut self, user: &UserId, until: Timestamp) -> bool {
        if self.users.len() >= TYPING_USERS_MAX && !self.users.contains_key(user) {
            return false;
        }
        self.users.insert(user.to_owned(), until).is_none()
    }
}

impl Receipts {
    /// A receipt that was on its way is stored at `position`, or will be by then.
    fn arrived(&mut self, room: RoomNid, position: Position) {
        if let Some(count) = self.on_their_way.get_mut(&room) {
            *count -= 1;
            if *count == 0 {
                self.on_their_way.remove(&room);
            }
        }
        let newest = self.newest.entry(room).or_default();
        if position > *newest {
            self.by_position.remove(&(*newest, room));
            self.by_position.insert((position, room));
            *newest = position;
        }
        if self.newest.len() > RECEIPT_ROOMS_MAX
            && let Some((position, room)) = self.by_position.pop_first()
        {
            self.newest.remove(&room);
            self.forgotten = self.forgotten.max(position);
        }
    }
}
