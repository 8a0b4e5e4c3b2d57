//! What moves in rooms beside their logs, in memory: who types, and where receipts were stored.
//!
//! Typing is worth nothing after a restart. Receipts are stored; the board only says in which
//! rooms to look for them, so that a sync need not ask every room. What it does not know any more
//! it says it does not know.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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
    rooms: HashMap<RoomNid, Room>,
    /// Whose typing a task watches.
    watched: HashSet<(RoomNid, OwnedUserId)>,
    receipts: Receipts,
}

struct Room {
    id: OwnedRoomId,
    /// The board's version when this last changed.
    version: u64,
    users: BTreeMap<OwnedUserId, Timestamp>,
}

#[derive(Default)]
struct Receipts {
    /// Before this nothing is known; set once the board has been used.
    since: Option<Position>,
    rooms: HashMap<RoomNid, Noted>,
}

#[derive(Clone, Copy, Default)]
struct Noted {
    position: Position,
    on_their_way: usize,
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
    /// How often the board has changed.
    pub(in crate::hub::desk) fn version(&self) -> u64 {
        self.board().version
    }

    /// Someone types until then, or no longer. Tells whether others see a difference.
    pub(super) fn set(
        &self,
        (room, id): (RoomNid, &RoomId),
        user: &UserId,
        until: Option<Timestamp>,
    ) -> bool {
        let mut board = self.board();
        let next = board.version + 1;
        if !board.rooms.contains_key(&room) {
            if until.is_none() {
                return false;
            }
            board.make_room();
        }
        let entry = board.rooms.entry(room).or_insert_with(|| Room {
            id: id.to_owned(),
            version: next,
            users: BTreeMap::new(),
        });
        let changed = match until {
            Some(_) if entry.users.len() >= TYPING_USERS_MAX && !entry.users.contains_key(user) => {
                false
            }
            Some(until) => entry.users.insert(user.to_owned(), until).is_none(),
            None => entry.users.remove(user).is_some(),
        };
        if changed {
            entry.version = next;
            board.version = next;
        }
        changed
    }

    /// Rooms whose typing users changed after `since` and not after `now`, which the next look
    /// will find; all with typing users when `since` is none.
    pub(in crate::hub::desk) fn changed(&self, since: Option<u64>, now: u64) -> Vec<TypingRoom> {
        let board = self.board();
        // A version from before a restart is from another count.
        let since = since.filter(|since| *since <= board.version);
        let rooms = board.rooms.iter().filter(|(_, room)| match since {
            Some(since) => room.version > since && room.version <= now,
            None => !room.users.is_empty(),
        });
        rooms
            .map(|(nid, room)| TypingRoom {
                room: *nid,
                id: room.id.clone(),
                users: room.users.keys().cloned().collect(),
            })
            .collect()
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
        ring: impl FnOnce() + Send,
    ) {
        let key = (room, user);
        loop {
            let left = self.board().left(&key, clock.now());
            match left {
                Left::Time(left) => tokio::time::sleep(left).await,
                Left::TakenBack => return,
                Left::Nothing => return ring(),
            }
        }
    }

    /// A receipt is about to be stored in `room`, the hub being at `now`.
    pub(super) fn expect_receipts(&self, room: RoomNid, now: Position) -> ExpectedReceipts {
        let mut board = self.board();
        board.receipts.make_room();
        let noted = board.receipts.rooms.entry(room).or_default();
        noted.on_their_way += 1;
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
        let known_since = *board.receipts.since.get_or_insert(now);
        if since < known_since {
            return None;
        }
        let rooms = board.receipts.rooms.iter();
        let rooms = rooms.filter(|(_, noted)| noted.on_their_way > 0 || noted.position > since);
        Some(rooms.map(|(room, _)| *room).collect())
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
        if let Some(noted) = self.board.board().receipts.rooms.get_mut(&self.room) {
            noted.on_their_way = noted.on_their_way.saturating_sub(1);
            noted.position = noted.position.max(self.position);
        }
    }
}

/// What is left of someone's typing.
enum Left {
    Time(Duration),
    /// It has just been taken off the board.
    Nothing,
    TakenBack,
}

impl Board {
    fn left(&mut self, key: &(RoomNid, OwnedUserId), now: Timestamp) -> Left {
        let room = self.rooms.get_mut(&key.0);
        let until = room.as_ref().and_then(|room| room.users.get(&key.1));
        let left = until.map(|until| until.since(now));
        match (room, left) {
            (Some(_), Some(left)) if left > Duration::ZERO => Left::Time(left),
            (Some(room), Some(_)) => {
                self.version += 1;
                room.version = self.version;
                room.users.remove(&key.1);
                self.watched.remove(key);
                Left::Nothing
            }
            _ => {
                self.watched.remove(key);
                Left::TakenBack
            }
        }
    }

    fn make_room(&mut self) {
        if self.rooms.len() < TYPING_ROOMS_MAX {
            return;
        }
        // A quarter at once, so that the scan is paid rarely.
        let mut versions: Vec<u64> = self.rooms.values().map(|room| room.version).collect();
        versions.sort_unstable();
        let cut = versions.get(versions.len() / 4).copied().unwrap_or(0);
        self.rooms.retain(|_, room| room.version > cut);
    }
}

impl Receipts {
    fn make_room(&mut self) {
        if self.rooms.len() < RECEIPT_ROOMS_MAX {
            return;
        }
        let mut positions: Vec<Position> =
            self.rooms.values().map(|noted| noted.position).collect();
        positions.sort_unstable();
        let cut = positions
            .get(positions.len() / 4)
            .copied()
            .unwrap_or_default();
        self.rooms
            .retain(|_, noted| noted.on_their_way > 0 || noted.position > cut);
        self.since = self.since.map(|since| since.max(cut));
    }
}
