//! Says «position is now N» to those who wait, and nothing else: whoever wakes reads the log.
//!
//! Nothing is buffered per reader. A waiter is registered only while it waits, so an idle user in
//! ten thousand rooms costs what an idle user in one room costs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak},
};

use ruma::{OwnedServerName, OwnedUserId, UserId};
use tokio::sync::watch;

use crate::{
    api::{Beside, Deliver, DeviceName},
    base::{Position, Seq},
    hub::outbox::{Hints, Present, Servers, Typing},
    store::RoomNid,
};

/// Whom a commit concerns.
#[derive(Clone, Debug)]
pub enum Touched {
    /// Everyone in a set, shared with the room that keeps it.
    Many(Arc<BTreeSet<OwnedUserId>>),
    /// One user.
    One(OwnedUserId),
    /// Everyone in a set, by what is in no log: a receipt.
    Beside(Arc<BTreeSet<OwnedUserId>>),
    /// Other servers.
    Servers(Arc<BTreeSet<OwnedServerName>>, ForServers),
}

/// What there is for other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForServers {
    /// Entries of this room's log, from this one on.
    Entries(RoomNid, Seq),
    /// What is in no log: receipts, changed devices, parcels.
    Beside,
}

impl Touched {
    /// Whom it concerns by what is in a log, or by what is in none.
    fn users(&self, beside: bool) -> impl Iterator<Item = &UserId> {
        let (many, one) = match self {
            Self::Many(users) => (Some(users).filter(|_| !beside), None),
            Self::One(user) => (None, Some(user).filter(|_| !beside)),
            Self::Beside(users) => (Some(users).filter(|_| beside), None),
            Self::Servers(..) => (None, None),
        };
        let many = many.into_iter().flat_map(|users| users.iter());
        many.chain(one).map(AsRef::as_ref)
    }
}

/// Who waits, and how far the hub is.
pub struct Fanout {
    position: watch::Sender<Position>,
    /// In order, so that a seed of the simulation wakes them in the same one each time.
    waiting: Mutex<BTreeMap<OwnedUserId, Waiting>>,
    /// Doors that push; they are told of every commit.
    doors: RwLock<Vec<Weak<dyn Deliver>>>,
    /// What tells other servers, if anything does.
    hints: OnceLock<Arc<Hints>>,
    closed: watch::Sender<bool>,
}

struct Waiting {
    rung: watch::Sender<u64>,
    listeners: usize,
}

/// One who waits for news of a user; leaves the list when dropped.
pub struct Listener<'a> {
    fanout: &'a Fanout,
    user: OwnedUserId,
    rung: watch::Receiver<u64>,
    closed: watch::Receiver<bool>,
}

/// Why waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something happened that may concern the user.
    News,
    /// The hub is closing.
    Closing,
}

impl Fanout {
    /// Nobody waits yet.
    pub fn new(position: Position) -> Self {
        Self {
            position: watch::Sender::new(position),
            waiting: Mutex::default(),
            doors: RwLock::default(),
            hints: OnceLock::new(),
            closed: watch::Sender::new(false),
        }
    }

    /// The position of the last commit.
    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// Follows the position, for readers that care for every commit.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// A commit is stored: everyone it concerns may look.
    pub(super) fn advance(&self, position: Position, touched: &[Touched]) {
        self.position.send_replace(position);
        self.ring(touched);
        let concerned = |beside| touched.iter().flat_map(move |one| one.users(beside));
        self.each_door(|door| door.news(position, &mut concerned(false)));
        let since = Beside {
            receipts: Some(Position(position.0.saturating_sub(1))),
            typing: None,
        };
        self.tell_beside(since, touched);
        if let Some(hints) = self.hints.get() {
            hints.advance(position, touched);
        }
    }

    /// Something happened that is not stored: typing, after `version` of the board.
    pub(super) fn typed(&self, version: u64, touched: &Touched) {
        let touched = std::slice::from_ref(touched);
        self.ring(touched);
        let since = Beside {
            receipts: None,
            typing: Some(version),
        };
        self.tell_beside(since, touched);
    }

    /// Users came or went whom these may see. Doors that push are not told: presence is for who syncs.
    pub(super) fn present(&self, touched: &Touched) {
        self.ring(std::slice::from_ref(touched));
    }

    fn tell_beside(&self, since: Beside, touched: &[Touched]) {
        let concerned = || touched.iter().flat_map(|one| one.users(true));
        if concerned().next().is_some() {
            self.each_door(|door| door.beside(since, &mut concerned()));
        }
    }

    /// A commit is stored, and nobody knows any more whom it concerns: everyone may look.
    pub(super) fn advance_for_all(&self, position: Position) {
        self.position.send_replace(position);
        self.waiting().values().for_each(ring_entry);
        self.each_door(|door| door.news_for_all(position));
        if let Some(hints) = self.hints.get() {
            hints.advance_for_all(position);
        }
    }

    /// From now on what concerns other servers is told to `hints`.
    pub(super) fn tell_servers(&self, hints: Arc<Hints>) {
        let _ = self.hints.set(hints); // a hub has one outbox
    }

    /// Who types here is told to these servers.
    pub(super) fn typed_elsewhere(&self, servers: Servers, typing: Typing) {
        if let Some(hints) = self.hints.get() {
            hints.typing(servers, typing);
        }
    }

    /// Whether someone of ours is there is told to these servers.
    pub(super) fn present_elsewhere(&self, servers: Servers, present: Present) {
        if let Some(hints) = self.hints.get() {
            hints.present(servers, present);
        }
    }

    /// A device was revoked.
    pub(super) fn revoked(&self, device: &DeviceName) {
        self.each_door(|door| door.revoked(device));
    }

    /// From now on a door is told, for as long as somebody else holds it.
    pub(super) fn tell(&self, door: &Arc<dyn Deliver>) {
        let mut doors = self.doors.write().unwrap_or_else(PoisonError::into_inner);
        doors.retain(|door| door.strong_count() > 0);
        doors.push(Arc::downgrade(door));
    }

    fn each_door(&self, tell: impl Fn(&dyn Deliver)) {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        for door in doors.iter().filter_map(Weak::upgrade) {
            tell(&*door);
        }
    }

    fn ring(&self, touched: &[Touched]) {
        let waiting = self.waiting();
        if waiting.is_empty() {
            return;
        }
        for touched in touched {
            match touched {
                Touched::One(user) => ring_one(&waiting, user),
                Touched::Many(users) | Touched::Beside(users) if users.len() < waiting.len() => {
                    users.iter().for_each(|user| ring_one(&waiting, user));
                }
                Touched::Many(users) | Touched::Beside(users) => waiting
                    .keys()
                    .filter(|user| users.contains(*user))
                    .for_each(|user| ring_one(&waiting, user)),
                Touched::Servers(..) => {}
            }
        }
    }

    /// Starts to wait for news of `user`. What happens after this call is not missed.
    pub fn listen(&self, user: &UserId) -> Listener<'_> {
        let mut waiting = self.waiting();
        let entry = waiting.entry(user.to_owned()).or_insert_with(|| Waiting {
            rung: watch::Sender::new(0),
            listeners: 0,
        });
        entry.listeners += 1;
        let rung = entry.rung.subscribe();
        drop(waiting);
        Listener {
            fanout: self,
            user: user.to_owned(),
            rung,
            closed: self.closed.subscribe(),
        }
    }

    /// How many users are waited for.
    pub fn waiting_len(&self) -> usize {
        self.waiting().len()
    }

    /// Ends all waiting.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<OwnedUserId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ring_one(waiting: &BTreeMap<OwnedUserId, Waiting>, user: &UserId) {
    if let Some(entry) = waiting.get(user) {
        ring_entry(entry);
    }
}

fn ring_entry(entry: &Waiting) {
    entry
        .rung
        .send_modify(|count| *count = count.wrapping_add(1));
}

impl Listener<'_> {
    /// Waits for the next ring, or for the end of the hub.
    pub async fn woken(&mut self) -> Woken {
        if *self.closed.borrow_and_update() {
            return Woken::Closing;
        }
        tokio::select! {
            biased;
            rung = self.rung.changed() => if rung.is_ok() { Woken::News } else { Woken::Closing },
            _ = self.closed.changed() => Woken::Closing,
        }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut waiting = self.fanout.waiting();
        if let Some(entry) = waiting.get_mut(&self.user) {
            entry.listeners -= 1;
            if entry.listeners == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> OwnedUserId {
        UserId::parse(format!("@{name}:hub.example")).unwrap()
    }

    #[tokio::test]
    async fn a_ring_between_listening_and_waiting_is_not_missed() {
        let fanout = Fanout::new(Position(7));
        let mut listener = fanout.listen(&user("ana"));

        fanout.advance(Position(8), &[Touched::One(user("ana"))]);

        assert_eq!(listener.woken().await, Woken::News);
        assert_eq!(fanout.position(), Position(8));
    }

    #[tokio::test]
    async fn a_commit_in_a_room_wakes_its_members_only() {
        let fanout = Fanout::new(Position(0));
        let mut ana = fanout.listen(&user("ana"));
        let mut bob = fanout.listen(&user("bob"));
        let room = Arc::new(BTreeSet::from([user("ana")]));

        fanout.advance(Position(1), &[Touched::Many(room)]);

        assert_eq!(ana.woken().await, Woken::News);
        tokio::select! {
            biased;
            _ = bob.woken() => panic!("bob is not in the room"),
            () = std::future::ready(()) => {}
        }
    }

    #[test]
    fn nobody_stays_on_the_list_who_does_not_wait() {
        let fanout = Fanout::new(Position(0));
        let one = fanout.listen(&user("ana"));
        let two = fanout.listen(&user("ana"));
        assert_eq!(fanout.waiting_len(), 1);
        drop(one);
        assert_eq!(fanout.waiting_len(), 1);
        drop(two);
        assert_eq!(fanout.waiting_len(), 0);
    }

    #[derive(Default)]
    struct Door(Mutex<Vec<String>>);

    impl Deliver for Door {
        fn news(&self, position: Position, users: &mut dyn Iterator<Item = &UserId>) {
            let users: Vec<_> = users.map(UserId::localpart).collect();
            let said = format!("{}: {}", position.0, users.join(" "));
            self.0.lock().unwrap().push(said);
        }

        fn beside(&self, since: Beside, users: &mut dyn Iterator<Item = &UserId>) {
            let users: Vec<_> = users.map(UserId::localpart).collect();
            let said = format!(
                "{:?} {:?}: {}",
                since.receipts,
                since.typing,
                users.join(" ")
            );
            self.0.lock().unwrap().push(said);
        }

        fn news_for_all(&self, position: Position) {
            self.0.lock().unwrap().push(format!("{}: all", position.0));
        }

        fn revoked(&self, device: &DeviceName) {
            self.0.lock().unwrap().push(device.device.to_string());
        }
    }

    #[test]
    fn a_door_is_told_whom_a_commit_concerns_until_it_is_dropped() {
        let fanout = Fanout::new(Position(0));
        let (door, gone) = (Arc::new(Door::default()), Arc::new(Door::default()));
        fanout.tell(&(Arc::clone(&door) as Arc<dyn Deliver>));
        fanout.tell(&(gone as Arc<dyn Deliver>));
        let room = Arc::new(BTreeSet::from([user("ana"), user("bob")]));

        fanout.advance(
            Position(1),
            &[Touched::Many(room), Touched::One(user("eve"))],
        );
        fanout.advance_for_all(Position(2));

        assert_eq!(*door.0.lock().unwrap(), ["1: ana bob eve", "2: all"]);
        fanout.tell(&(Arc::clone(&door) as Arc<dyn Deliver>));
        assert_eq!(fanout.doors.read().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_is_in_no_log_is_no_news_to_a_door() {
        let fanout = Fanout::new(Position(0));
        let door = Arc::new(Door::default());
        fanout.tell(&(Arc::clone(&door) as Arc<dyn Deliver>));
        let mut bob = fanout.listen(&user("bob"));
        let room = Arc::new(BTreeSet::from([user("ana"), user("bob")]));

        fanout.advance(Position(7), &[Touched::Beside(Arc::clone(&room))]);
        assert_eq!(bob.woken().await, Woken::News);
        fanout.typed(3, &Touched::Beside(room));
        assert_eq!(bob.woken().await, Woken::News);

        fanout.present(&Touched::Beside(Arc::new(BTreeSet::from([user("bob")]))));
        assert_eq!(bob.woken().await, Woken::News);

        let said = [
            "7: ",
            "Some(Position(6)) None: ana bob",
            "None Some(3): ana bob",
        ];
        assert_eq!(*door.0.lock().unwrap(), said);
    }

    #[tokio::test]
    async fn closing_ends_all_waiting() {
        let fanout = Fanout::new(Position(0));
        let mut ana = fanout.listen(&user("ana"));
        fanout.close();
        assert_eq!(ana.woken().await, Woken::Closing);
    }
}
