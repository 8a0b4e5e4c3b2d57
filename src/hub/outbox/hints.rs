//! What the outbox is told while the hub works: in which rooms there is something for whom.
//!
//! A commit leaves one note per room it changed, however many servers are in it; the outbox takes
//! the notes when it comes to it. They hold nothing that the store does not know: who lost them
//! looks there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, ServerName};
use tokio::sync::Notify;

use super::read::Start;
use crate::{
    base::Position,
    hub::fanout::{ForServers, Touched},
    store::RoomNid,
};

/// How many notes about typing wait at most; more are dropped, as typing may be.
const TYPING_MAX: usize = 1024;

/// The same for presence, which is said again from time to time.
const PRESENT_MAX: usize = 1024;

/// Servers that share a room, or more than that.
pub type Servers = Arc<BTreeSet<OwnedServerName>>;

/// Notes on their way to the outbox.
pub struct Hints {
    inbox: Mutex<Inbox>,
    bell: Notify,
}

/// What has been noted since the last look.
#[derive(Default)]
pub(super) struct Inbox {
    /// The last commit of which the notes are here.
    pub(super) position: Position,
    /// Rooms with new entries, and the first of these.
    pub(super) rooms: BTreeMap<RoomNid, (Start, Servers)>,
    /// Servers for which there may be something that is in no log.
    pub(super) beside: Vec<Servers>,
    /// Whether notes were lost: there may be something for everyone.
    pub(super) lost: bool,
    /// Servers that showed that they are there.
    pub(super) alive: BTreeSet<OwnedServerName>,
    /// Whether this hub may speak with others now than it did.
    pub(super) relisted: bool,
    /// Who types, for whom.
    pub(super) typing: Vec<(Servers, Typing)>,
    /// Who is there, for whom.
    pub(super) present: Vec<(Servers, Present)>,
}

/// That someone of ours types in a room, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typing {
    /// The room.
    pub room: OwnedRoomId,
    /// Who.
    pub user: OwnedUserId,
    /// Whether they do.
    pub typing: bool,
}

/// Whether someone of ours is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Who.
    pub user: OwnedUserId,
    /// What they show, as it stands in an EDU.
    pub update: Arc<serde_json::Value>,
}

impl Inbox {
    fn touch(&mut self, position: Position, servers: &Servers, what: ForServers) {
        match what {
            ForServers::Entries(room, entry) => {
                let start = Start {
                    position,
                    entry: Some(entry),
                };
                let known = self.rooms.entry(room);
                let (first, known) = known.or_insert_with(|| (start, Arc::clone(servers)));
                *first = start.min(*first);
                if !Arc::ptr_eq(known, servers) {
                    Arc::make_mut(known).extend(servers.iter().cloned());
                }
            }
            ForServers::Beside => self.beside.push(Arc::clone(servers)),
        }
    }
}

impl Hints {
    pub(super) fn at(position: Position) -> Self {
        Self {
            inbox: Mutex::new(Inbox {
                position,
                ..Inbox::default()
            }),
            bell: Notify::new(),
        }
    }

    /// A commit is stored. All that it has for servers is noted together with its position, so that
    /// nobody passes over what is not noted yet.
    pub(in crate::hub) fn advance(&self, position: Position, touched: &[Touched]) {
        let mut inbox = self.inbox();
        inbox.position = position;
        let mut is_news = false;
        for touched in touched {
            if let Touched::Servers(servers, what) = touched {
                inbox.touch(position, servers, *what);
                is_news = true;
            }
        }
        drop(inbox);
        if is_news {
            self.bell.notify_one();
        }
    }

    /// Nobody knows for whom a commit has something.
    pub(in crate::hub) fn advance_for_all(&self, position: Position) {
        let mut inbox = self.inbox();
        inbox.position = position;
        inbox.lost = true;
        drop(inbox);
        self.bell.notify_one();
    }

    pub(super) fn alive(&self, server: &ServerName) {
        self.inbox().alive.insert(server.to_owned());
        self.bell.notify_one();
    }

    pub(super) fn relisted(&self) {
        self.inbox().relisted = true;
        self.bell.notify_one();
    }

    pub(in crate::hub) fn typing(&self, servers: Servers, typing: Typing) {
        let mut inbox = self.inbox();
        if inbox.typing.len() < TYPING_MAX {
            inbox.typing.push((servers, typing));
        }
        drop(inbox);
        self.bell.notify_one();
    }

    pub(in crate::hub) fn present(&self, servers: Servers, present: Present) {
        let mut inbox = self.inbox();
        if inbox.present.len() < PRESENT_MAX {
            inbox.present.push((servers, present));
        }
        drop(inbox);
        self.bell.notify_one();
    }

    /// Takes what was noted.
    pub(super) fn take(&self) -> Inbox {
        let mut inbox = self.inbox();
        let position = inbox.position;
        let empty = Inbox {
            position,
            ..Inbox::default()
        };
        std::mem::replace(&mut inbox, empty)
    }

    /// Waits until something is noted; a note that came before is not missed.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    #[cfg(test)]
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::*;
    use crate::base::Seq;

    #[test]
    fn a_room_is_noted_once_from_its_first_entry_for_all_servers() {
        let (near, far) = (owned_server_name!("near"), owned_server_name!("far"));
        let one: Servers = Arc::new(BTreeSet::from([near.clone()]));
        let both: Servers = Arc::new(BTreeSet::from([near, far]));
        let mut inbox = Inbox::default();
        for (position, entry, servers) in [(7, 11, &one), (7, 10, &one), (8, 12, &both)] {
            let what = ForServers::Entries(RoomNid(1), Seq(entry));
            inbox.touch(Position(position), servers, what);
        }
        let start = Start {
            position: Position(7),
            entry: Some(Seq(10)),
        };
        assert_eq!(inbox.rooms, BTreeMap::from([(RoomNid(1), (start, both))]));
    }
}
