//! A door's list of observations: whom news concerns, when they are due, and that one at a time is
//! under way to each.
//!
//! An idle observation is an entry in two ordered maps: no task, no timer, no buffer.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use ruma::{OwnedDeviceId, UserId};
use thiserror::Error;

use super::{Reach, Rung, Watch, Which};
use crate::{
    api::{Beside, DeviceName},
    base::Timestamp,
    session::link::LinkClass,
};

/// The observations of one door, by the key `W` that the door knows each by, with what else the door
/// keeps of each: there is one record for an observation.
pub struct Pushes<W, X = ()> {
    reach: Arc<Reach>,
    watches: BTreeMap<W, Box<Entry<X>>>,
    /// The same by device, to find those of a user.
    by_device: BTreeSet<(Arc<DeviceName>, W)>,
    /// Those that have something to be told and nothing under way.
    due: BTreeSet<(Timestamp, W)>,
    /// What moved beside the logs, for those that are not told of it yet.
    besides: BTreeMap<W, Beside>,
    watches_max: usize,
}

struct Entry<X> {
    device: Arc<DeviceName>,
    watch: Watch,
    phase: Phase,
    own: X,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is nothing to tell, as far as we know.
    Idle,
    /// There may be something; asked for at this time.
    Due {
        at: Timestamp,
        /// Whether in a log, or only beside.
        log: bool,
    },
    /// Being asked for, or sent and not acknowledged.
    Flying {
        /// Whether there may be more by now.
        again: bool,
    },
}

/// An observation to be looked after now.
#[derive(Clone, Debug)]
pub struct Due<W> {
    /// Which.
    pub key: W,
    /// Whose.
    pub device: Arc<DeviceName>,
    /// What and from where.
    pub watch: Watch,
    /// What there may be.
    pub sought: Sought,
}

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sought {
    /// Whether there may be entries.
    pub log: bool,
    /// Since when something moved beside the logs, if it did.
    pub beside: Option<Beside>,
}

/// Why there is no place for an observation.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Full {
    /// The device has as many as it may have.
    #[error("a device may observe {WATCHES_PER_DEVICE_MAX} resources")]
    Device,
    /// The door has as many as it may have.
    #[error("the door has no place for a further observation")]
    Door,
}

/// For how long what moves beside the logs is gathered at the least, whatever the link: it is told
/// without confirmation, which a server that does not measure round trips may do every 3 s.
///
/// spec: rfc7641 §4.5.1
const BESIDE_GATHERED: Duration = Duration::from_secs(3);

/// Observations of one device. spec: thin-profile §7
pub const WATCHES_PER_DEVICE_MAX: usize = 16;

/// What an observation costs while nothing happens, in bytes, for keys of 8 bytes; the
/// [`DeviceName`] apart, which the door shares with its own session, and what else the door keeps of it.
pub const IDLE_WATCH_BYTES_MAX: usize = 220;

impl<W: Copy + Ord, X> Pushes<W, X> {
    /// An empty list for at most `watches_max` observations.
    pub const fn new(reach: Arc<Reach>, watches_max: usize) -> Self {
        Self {
            reach,
            watches: BTreeMap::new(),
            by_device: BTreeSet::new(),
            due: BTreeSet::new(),
            besides: BTreeMap::new(),
            watches_max,
        }
    }

    /// Begins an observation, in place of one with the same key. `own` is the door's.
    pub fn watch(
        &mut self,
        device: Arc<DeviceName>,
        key: W,
        watch: Watch,
        own: X,
    ) -> Result<(), Full> {
        self.forget(key);
        if self.watches.len() >= self.watches_max {
            return Err(Full::Door);
        }
        if self.keys_of(&device).count() >= WATCHES_PER_DEVICE_MAX {
            return Err(Full::Device);
        }
        self.reach.watches(&device);
        self.by_device.insert((Arc::clone(&device), key));
        let entry = Entry {
            device,
            watch,
            phase: Phase::Idle,
            own,
        };
        self.watches.insert(key, Box::new(entry));
        Ok(())
    }

    /// Ends an observation; gives how far it was told, and what is the door's.
    pub fn forget(&mut self, key: W) -> Option<(Watch, X)> {
        let entry = *self.watches.remove(&key)?;
        if let Phase::Due { at, .. } = entry.phase {
            self.due.remove(&(at, key));
        }
        self.besides.remove(&key);
        self.reach.no_longer_watches(&entry.device);
        self.by_device.remove(&(entry.device, key));
        Some((entry.watch, entry.own))
    }

    /// Ends an observation whose device did not acknowledge: the wake hook's turn.
    pub fn gave_up(&mut self, key: W) -> Option<(Watch, X)> {
        let device = Arc::clone(&self.watches.get(&key)?.device);
        let ended = self.forget(key);
        self.reach.gave_up(&device);
        ended
    }

    /// Ends all observations of a device, and says which.
    pub fn forget_device(&mut self, device: &DeviceName) -> Vec<W> {
        let keys: Vec<W> = self.keys_of(device).collect();
        for key in &keys {
            self.forget(*key);
        }
        keys
    }

    /// The observations of a device.
    pub fn of_device(&self, device: &DeviceName) -> Vec<W> {
        self.keys_of(device).collect()
    }

    fn keys_of(&self, device: &DeviceName) -> impl Iterator<Item = W> {
        self.starting_at(device)
            .take_while(move |(owner, _)| **owner == *device)
            .map(|(_, key)| *key)
    }

    /// Observations in the order of devices, from one on.
    fn starting_at<'a>(
        &'a self,
        from: &DeviceName,
    ) -> impl Iterator<Item = &'a (Arc<DeviceName>, W)> + use<'a, W, X> {
        let start = Arc::new(from.clone());
        // no key is less than the least of all: from there on are all of the device
        let first = self
            .watches
            .first_key_value()
            .map_or(Bound::Unbounded, |(least, _)| {
                Bound::Included((start, *least))
            });
        self.by_device.range((first, Bound::Unbounded))
    }

    /// Something may concern these users: their observations are due when records were gathered.
    pub fn heard(&mut self, now: Timestamp, rung: &Rung) {
        self.each_of(&rung.users, |pushes, key| pushes.mark(now, key));
        let (users, since) = &rung.beside;
        self.each_of(users, |pushes, key| pushes.mark_beside(now, key, *since));
    }

    fn each_of(&mut self, users: &Which<ruma::OwnedUserId>, mark: impl Fn(&mut Self, W)) {
        match users {
            Which::All => {
                let keys: Vec<W> = self.watches.keys().copied().collect();
                for key in keys {
                    mark(self, key);
                }
            }
            Which::These(users) => {
                for user in users {
                    for key in self.keys_of_user(user) {
                        mark(self, key);
                    }
                }
            }
        }
    }

    fn keys_of_user(&self, user: &UserId) -> Vec<W> {
        let first = DeviceName {
            user: user.to_owned(),
            device: OwnedDeviceId::from(""),
        };
        self.starting_at(&first)
            .take_while(|(owner, _)| owner.user == *user)
            .map(|(_, key)| *key)
            .collect()
    }

    fn mark(&mut self, now: Timestamp, key: W) {
        let Some(entry) = self.watches.get_mut(&key) else {
            return;
        };
        let mut at = now + LinkClass::of(entry.watch.class()).gather;
        match &mut entry.phase {
            Phase::Idle => {}
            Phase::Due { log: true, .. } => return,
            // What is beside the log goes along, and sooner.
            Phase::Due { at: before, .. } => {
                self.due.remove(&(*before, key));
                at = at.min(*before);
            }
            Phase::Flying { again } => return *again = true,
        }
        entry.phase = Phase::Due { at, log: true };
        self.due.insert((at, key));
    }

    fn mark_beside(&mut self, now: Timestamp, key: W, since: Beside) {
        let Some(entry) = self.watches.get_mut(&key) else {
            return;
        };
        let known = self.besides.entry(key).or_insert(since);
        *known = known.and(since);
        if entry.phase == Phase::Idle {
            let gather = LinkClass::of(entry.watch.class()).gather;
            let at = now + gather.max(BESIDE_GATHERED);
            entry.phase = Phase::Due { at, log: false };
            self.due.insert((at, key));
        }
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes an observation that is due. It is under way until `nothing`, or `pushed` and `delivered`.
    pub fn due(&mut self, now: Timestamp) -> Option<Due<W>> {
        let (at, key) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.remove(&(at, key));
        let beside = self.besides.remove(&key);
        let entry = self.watches.get_mut(&key)?;
        let log = matches!(entry.phase, Phase::Due { log: true, .. });
        entry.phase = Phase::Flying { again: false };
        Some(Due {
            key,
            device: Arc::clone(&entry.device),
            watch: entry.watch,
            sought: Sought { log, beside },
        })
    }

    /// It could not be asked whether there is something.
    pub fn nothing(&mut self, now: Timestamp, key: W) {
        self.landed(now, key);
    }

    /// There was nothing that is to be confirmed; the observation is where `next` says.
    pub fn passed(&mut self, now: Timestamp, key: W, next: Watch) {
        if let Some(entry) = self.watches.get_mut(&key) {
            entry.watch = next;
        }
        self.landed(now, key);
    }

    /// A notification is on its way; the observation is where `next` says.
    pub fn pushed(&mut self, key: W, next: Watch, more: bool) {
        if let Some(entry) = self.watches.get_mut(&key) {
            entry.watch = next;
            let again = more || matches!(entry.phase, Phase::Flying { again: true });
            if let Phase::Due { at, .. } = entry.phase {
                self.due.remove(&(at, key));
            }
            entry.phase = Phase::Flying { again };
        }
    }

    /// The notification was acknowledged.
    pub fn delivered(&mut self, now: Timestamp, key: W) {
        self.landed(now, key);
    }

    fn landed(&mut self, now: Timestamp, key: W) {
        let Some(entry) = self.watches.get_mut(&key) else {
            return;
        };
        if let Phase::Flying { again } = entry.phase {
            entry.phase = Phase::Idle;
            if again {
                self.mark(now, key);
            }
            if let Some(since) = self.besides.get(&key).copied() {
                self.mark_beside(now, key, since);
            }
        }
    }

    /// The observation is to be looked at soon, whatever is known: after a registration was read back.
    pub fn look_at(&mut self, now: Timestamp, key: W) {
        self.mark(now, key);
    }

    /// A watch as it is now.
    pub fn get(&self, key: W) -> Option<(&Arc<DeviceName>, &Watch)> {
        self.watches
            .get(&key)
            .map(|entry| (&entry.device, &entry.watch))
    }

    /// What is the door's of an observation.
    pub fn own(&self, key: W) -> Option<&X> {
        self.watches.get(&key).map(|entry| &entry.own)
    }

    /// What is the door's of an observation.
    pub fn own_mut(&mut self, key: W) -> Option<&mut X> {
        self.watches.get_mut(&key).map(|entry| &mut entry.own)
    }

    /// All observations, and what is the door's of each.
    pub fn iter(&self) -> impl Iterator<Item = (W, &X)> {
        self.watches.iter().map(|(key, entry)| (*key, &entry.own))
    }

    /// How many observations there are.
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// How long until [`Self::next_due`].
    pub fn wait(&self, now: Timestamp) -> Option<Duration> {
        self.next_due().map(|at| at.since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Seq;

    fn device(user: &str, device: &str) -> Arc<DeviceName> {
        Arc::new(DeviceName {
            user: ruma::OwnedUserId::try_from(format!("@{user}:hub.example")).unwrap(),
            device: OwnedDeviceId::from(device),
        })
    }

    fn inbox(class: u8) -> Watch {
        Watch::Inbox {
            after: None,
            bytes_max: 1024,
            class,
        }
    }

    fn these(user: &str) -> Rung {
        Rung {
            users: Which::These(BTreeSet::from([device(user, "").user.clone()])),
            ..Rung::default()
        }
    }

    fn all() -> Rung {
        Rung {
            users: Which::All,
            ..Rung::default()
        }
    }

    fn beside(user: &str, typing: u64) -> Rung {
        let since = Beside {
            receipts: None,
            typing: Some(typing),
        };
        Rung {
            beside: (these(user).users, since),
            ..Rung::default()
        }
    }

    fn pushes() -> Pushes<u64> {
        Pushes::new(Reach::new(), 100)
    }

    const fn at(ms: u64) -> Timestamp {
        Timestamp(ms)
    }

    #[test]
    fn news_reach_all_watches_of_the_user_and_nobody_elses() {
        let mut pushes = pushes();
        for (key, user, name) in [
            (1, "ana", "A"),
            (2, "bob", "A"),
            (3, "ana", "B"),
            (4, "an", "A"),
        ] {
            pushes.watch(device(user, name), key, inbox(0), ()).unwrap();
        }
        pushes.heard(at(5), &these("ana"));

        let mut due: Vec<u64> =
            std::iter::from_fn(|| pushes.due(at(5)).map(|due| due.key)).collect();
        due.sort_unstable();
        assert_eq!(due, [1, 3]);
        pushes.heard(at(6), &all());
        let due: Vec<u64> = std::iter::from_fn(|| pushes.due(at(6)).map(|due| due.key)).collect();
        assert_eq!(due, [2, 4], "the others are under way");
    }

    #[test]
    fn records_are_gathered_for_as_long_as_the_link_wants() {
        let mut pushes = pushes();
        pushes.watch(device("ana", "A"), 1, inbox(1), ()).unwrap();
        pushes.heard(at(1000), &these("ana"));
        pushes.heard(at(9000), &these("ana"));

        assert_eq!(pushes.next_due(), Some(at(21_000)));
        assert!(pushes.due(at(20_999)).is_none());
        assert_eq!(pushes.due(at(21_000)).unwrap().key, 1);
    }

    #[test]
    fn what_moves_beside_the_logs_is_gathered_longer_and_goes_along_with_what_is_in_them() {
        let mut pushes = pushes();
        pushes.watch(device("ana", "A"), 1, inbox(0), ()).unwrap();
        let sought = |log, typing| Sought {
            log,
            beside: Some(Beside {
                receipts: None,
                typing: Some(typing),
            }),
        };
        pushes.heard(at(1000), &beside("ana", 5));
        pushes.heard(at(2000), &beside("ana", 6));
        assert_eq!(pushes.next_due(), Some(at(4000)));
        assert_eq!(pushes.due(at(4000)).unwrap().sought, sought(false, 5));

        pushes.heard(at(4001), &beside("ana", 7));
        pushes.passed(at(4002), 1, inbox(0));
        assert_eq!(pushes.next_due(), Some(at(7002)));
        pushes.heard(at(4003), &these("ana"));
        assert_eq!(pushes.due(at(4003)).unwrap().sought, sought(true, 7));
        pushes.pushed(1, inbox(0), false);
        pushes.heard(at(4004), &beside("ana", 8));
        pushes.delivered(at(4005), 1);

        assert_eq!(pushes.next_due(), Some(at(7005)));
        assert_eq!(pushes.due(at(7005)).unwrap().sought, sought(false, 8));
        pushes.forget(1);
        assert!(pushes.besides.is_empty());
    }

    #[test]
    fn one_is_under_way_at_a_time_and_what_came_meanwhile_follows() {
        let mut pushes = pushes();
        pushes.watch(device("ana", "A"), 1, inbox(0), ()).unwrap();
        let next = Watch::Inbox {
            after: Some((0, Seq(5))),
            bytes_max: 1024,
            class: 0,
        };
        pushes.heard(at(1), &these("ana"));
        assert!(pushes.due(at(1)).is_some());
        pushes.heard(at(2), &these("ana"));
        pushes.pushed(1, next, false);
        assert!(pushes.due(at(3)).is_none());
        pushes.delivered(at(4), 1);
        assert_eq!(pushes.due(at(4)).unwrap().watch, next);
        pushes.nothing(at(5), 1);
        assert_eq!(pushes.next_due(), None);

        pushes.heard(at(6), &these("ana"));
        pushes.due(at(6)).unwrap();
        pushes.pushed(1, next, true);
        pushes.delivered(at(7), 1);
        assert!(pushes.due(at(7)).is_some(), "there was more");
    }

    #[test]
    fn a_forgotten_watch_leaves_nothing_behind() {
        let mut pushes = pushes();
        let ana = device("ana", "A");
        pushes.watch(Arc::clone(&ana), 1, inbox(0), ()).unwrap();
        pushes.watch(Arc::clone(&ana), 2, inbox(0), ()).unwrap();
        assert!(pushes.reach.is_watching(&ana));
        pushes.heard(at(1), &all());

        assert_eq!(pushes.forget_device(&ana), [1, 2]);

        assert!(pushes.is_empty() && pushes.by_device.is_empty() && pushes.due.is_empty());
        assert!(!pushes.reach.is_watching(&ana));
    }

    #[test]
    fn there_are_as_many_watches_as_there_may_be() {
        let mut pushes = pushes();
        let ana = device("ana", "A");
        for key in 0..16 {
            pushes.watch(Arc::clone(&ana), key, inbox(0), ()).unwrap();
        }
        assert_eq!(
            pushes.watch(Arc::clone(&ana), 16, inbox(0), ()),
            Err(Full::Device)
        );
        assert_eq!(
            pushes.watch(Arc::clone(&ana), 3, inbox(0), ()),
            Ok(()),
            "in its own place"
        );
        for key in 100..184 {
            pushes
                .watch(device(&format!("u{key}"), "A"), key, inbox(0), ())
                .unwrap();
        }
        assert_eq!(
            pushes.watch(device("bob", "A"), 999, inbox(0), ()),
            Err(Full::Door)
        );
    }

    #[tokio::test]
    async fn who_is_given_up_waits_for_the_wake_hook() {
        let mut pushes = pushes();
        let ana = device("ana", "A");
        pushes.watch(Arc::clone(&ana), 1, inbox(0), ()).unwrap();

        assert!(pushes.gave_up(1).is_some());

        assert_eq!(
            pushes.reach.waiting().await,
            BTreeSet::from([(*ana).clone()])
        );
    }

    #[test]
    fn an_idle_watch_is_small() {
        // Maps that are filled in order have 6 of 11 places of a node in use; nodes have some 3 words
        // besides, and one in seven holds the edges to the others. An allocation takes up to 16 more.
        let watch = size_of::<(u64, Box<Entry<()>>)>();
        let by_device = size_of::<(Arc<DeviceName>, u64)>();
        let reach = size_of::<Arc<DeviceName>>() + Reach::WATCHING_BYTES;
        let nodes = 3 * (3 * 8 + 12 * 8 / 7) / 6;
        let entry = size_of::<Entry<()>>() + 16;

        let bytes = (watch + by_device + reach) * 11 / 6 + nodes + entry;

        assert!(bytes <= IDLE_WATCH_BYTES_MAX, "{bytes}");
    }
}
