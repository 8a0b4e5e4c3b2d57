//! How the hub tells a door that there is news: it rings, the door looks when it has time.
//!
//! Ringing never blocks; what was rung for stays in a set of bounded size until the door takes it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{OwnedUserId, UserId};
use tokio::sync::Notify;

use crate::{
    api::{Beside, Deliver, DeviceName},
    base::Position,
};

/// Some things of a kind, or all there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which<T: Ord> {
    /// These.
    These(BTreeSet<T>),
    /// Any of them.
    All,
}

/// What was rung for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rung {
    /// Users that something concerns.
    pub users: Which<OwnedUserId>,
    /// Users who may be shown what moved beside the logs, and since when.
    pub beside: (Which<OwnedUserId>, Beside),
    /// Devices whose sessions end now. All: too many to name; every session is to be checked again.
    pub revoked: Which<DeviceName>,
}

/// A door's bell: given to [`crate::api::Links::tell`], and listened to by the door.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<Rung>,
    waker: Notify,
}

/// Users or devices that wait to be looked at. Above it all are looked at, which is right too.
const NAMES_MAX: usize = 4096;

impl<T: Ord> Default for Which<T> {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl<T: Ord> Which<T> {
    /// Whether it is nothing.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::These(these) if these.is_empty())
    }

    fn add(&mut self, one: T) {
        if let Self::These(these) = self {
            these.insert(one);
            if these.len() > NAMES_MAX {
                *self = Self::All;
            }
        }
    }
}

impl Bell {
    /// One that was not rung.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits until it is rung, and takes what for. May be given up and called again.
    pub async fn rung(&self) -> Rung {
        loop {
            let rung = self.take();
            if rung != Rung::default() {
                return rung;
            }
            self.waker.notified().await;
        }
    }

    /// What it was rung for since the last time; nothing if it was not.
    pub fn take(&self) -> Rung {
        std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ring(&self, change: impl FnOnce(&mut Rung)) {
        change(&mut self.rung.lock().unwrap_or_else(PoisonError::into_inner));
        self.waker.notify_one();
    }
}

impl Deliver for Bell {
    fn news(&self, _: Position, users: &mut dyn Iterator<Item = &UserId>) {
        self.ring(|rung| users.for_each(|user| rung.users.add(user.to_owned())));
    }

    fn news_for_all(&self, _: Position) {
        self.ring(|rung| rung.users = Which::All);
    }

    fn beside(&self, since: Beside, users: &mut dyn Iterator<Item = &UserId>) {
        self.ring(|rung| {
            users.for_each(|user| rung.beside.0.add(user.to_owned()));
            rung.beside.1 = rung.beside.1.and(since);
        });
    }

    fn revoked(&self, device: &DeviceName) {
        self.ring(|rung| rung.revoked.add(device.clone()));
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[tokio::test]
    async fn what_is_rung_for_twice_is_heard_once() {
        let bell = Bell::new();
        let ana = user_id!("@ana:hub.example");
        bell.news(Position(1), &mut [ana].into_iter());
        bell.news(Position(2), &mut [ana].into_iter());

        let rung = bell.rung().await;

        let users = BTreeSet::from([ana.to_owned()]);
        assert_eq!(rung.users, Which::These(users));
        assert_eq!(bell.take(), Rung::default());
    }

    #[test]
    fn what_moved_beside_the_logs_is_kept_apart_and_the_earliest_counts() {
        let bell = Bell::new();
        let ana = user_id!("@ana:hub.example");
        for (receipts, typing) in [(Some(7), None), (None, Some(4)), (Some(5), Some(9))] {
            let since = Beside {
                receipts: receipts.map(Position),
                typing,
            };
            bell.beside(since, &mut [ana].into_iter());
        }

        let rung = bell.take();

        assert!(rung.users.is_nothing());
        let users = Which::These(BTreeSet::from([ana.to_owned()]));
        let since = Beside {
            receipts: Some(Position(5)),
            typing: Some(4),
        };
        assert_eq!(rung.beside, (users, since));
    }

    #[test]
    fn too_many_to_name_are_all() {
        let bell = Bell::new();
        for number in 0..=NAMES_MAX {
            let user = OwnedUserId::try_from(format!("@u{number}:hub.example")).unwrap();
            bell.news(Position(1), &mut [&*user].into_iter());
        }

        assert_eq!(bell.take().users, Which::All);
    }
}
