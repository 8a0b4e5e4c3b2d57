//! Who is there, in memory: what users here show of themselves by what their devices do, and what
//! other servers told of theirs. Worth nothing after a restart.
//!
//! It knows no room: who may see whom is asked of the store by those who look. Time is an argument,
//! and one look at the clock ([`Presences::look`]) serves all users.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{
    DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId, presence::PresenceState,
};

use crate::{base::Timestamp, hub::desk::receipts::TypingBoard};

/// How many users here are kept; further ones are shown as offline. At about 400 bytes each, without
/// what they say of themselves, this is 26 MB.
const OURS_MAX: usize = 65_536;

/// How many users of other servers are kept; further ones are shown as offline.
const THEIRS_MAX: usize = 16_384;

/// How many of these are of one server: it must not push out all others.
const OF_A_SERVER_MAX: usize = 4096;

/// How many devices of a user count; of more, the one that was away longest is forgotten.
const DEVICES_MAX: usize = 16;

/// After how long without doing anything a user is taken to be away from the keyboard.
const IDLE_AFTER: Duration = Duration::from_mins(5);

/// How long after the end of its last sync a device is taken to be there: the next one is on its way.
const GRACE: Duration = Duration::from_secs(30);

/// After how long without a word of them users of another server are taken to be gone. Servers
/// repeat who is there; Synapse does every 25 minutes, and waits as long as this.
const UNHEARD: Duration = Duration::from_mins(30);

/// How often other servers are told again of who is there.
const AGAIN: Duration = Duration::from_mins(25);

/// How long lies between two things that other servers are told of a user.
const APART: Duration = Duration::from_secs(10);

/// How long it is remembered of users that they went offline, for those who do not know yet.
const REMEMBERED: Duration = Duration::from_hours(1);

/// By how much a time of activity has to differ to be news of its own.
const COARSE: Duration = Duration::from_mins(1);

/// How many users change of themselves in one look; the others do in the next.
const CHANGES_MAX: usize = 256;

/// How many users other servers are told of in one look; of the others in the next.
const TOLD_MAX: usize = 256;

/// What a user shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) struct Shown {
    pub(in crate::hub::desk) state: PresenceState,
    pub(in crate::hub::desk) status: Option<String>,
    /// When they last did something.
    pub(in crate::hub::desk) active: Option<Timestamp>,
    /// Whether they are doing something: then `active` is not told anew each time.
    pub(in crate::hub::desk) currently: bool,
}

/// What came of time passing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Who shows something else than before.
    pub(super) changed: Vec<OwnedUserId>,
    /// Users here of whom other servers are to be told.
    pub(super) tell: Vec<(OwnedUserId, Shown)>,
}

/// Who changed, for someone who looks.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hub::desk) enum Candidates {
    /// These.
    Few(Vec<OwnedUserId>),
    /// More than were asked for.
    Many,
}

/// A user as they stand at a version of the board.
pub(in crate::hub::desk) type Standing = (u64, OwnedUserId, Shown);

/// Who is there.
pub(in crate::hub::desk) struct Presences {
    /// Counts what changes beside the logs, for everyone's sync token.
    versions: TypingBoard,
    board: Mutex<Board>,
}

#[derive(Default)]
struct Board {
    users: BTreeMap<OwnedUserId, Known>,
    /// The same users by the version at which they last changed.
    by_version: BTreeMap<u64, OwnedUserId>,
    /// Users here of whom other servers have to be told.
    due: BTreeSet<OwnedUserId>,
    ours: usize,
    theirs: HashMap<OwnedServerName, usize>,
}

struct Known {
    shown: Shown,
    version: u64,
    changed: Timestamp,
    of: Of,
}

enum Of {
    Ours(Ours),
    Theirs { heard: Timestamp },
}

/// What is known of a user here.
#[derive(Default)]
struct Ours {
    devices: BTreeMap<OwnedDeviceId, Device>,
    /// Said to be offline, until a device says otherwise.
    hidden: bool,
    /// When other servers were last told.
    told: Option<Timestamp>,
}

#[derive(Clone, Copy)]
struct Device {
    syncs: u32,
    /// When it last asked for something that says it is there.
    seen: Timestamp,
    /// Whether it says that nobody is in front of it.
    idle: bool,
}

impl Device {
    fn is_there(&self, now: Timestamp) -> bool {
        self.syncs > 0 || now < self.seen + GRACE
    }
}

impl Presences {
    pub(in crate::hub::desk) fn new(versions: TypingBoard) -> Self {
        Self {
            versions,
            board: Mutex::default(),
        }
    }

    /// A device begins to sync and says that it is there. None when there is no place for it; else
    /// whether others see a difference, and [`Self::sync_ends`] has to follow.
    pub(super) fn sync_begins(
        &self,
        (user, device): (&UserId, &DeviceId),
        idle: bool,
        now: Timestamp,
    ) -> Option<bool> {
        let mut board = self.board();
        let known = board.ours(user, now)?;
        let was_offline = known.shown.state == PresenceState::Offline;
        let Of::Ours(ours) = &mut known.of else {
            return None;
        };
        let device = ours.device(device, now)?;
        device.syncs = device.syncs.saturating_add(1);
        device.seen = now;
        let comes = was_offline || device.idle;
        device.idle = idle;
        ours.hidden = false;
        if comes && !idle {
            known.shown.active = Some(now);
        }
        Some(self.refresh(&mut board, user, now))
    }

    /// A sync has ended. Nothing is seen of that before some time has passed.
    pub(super) fn sync_ends(&self, user: &UserId, device: &DeviceId, now: Timestamp) {
        let mut board = self.board();
        if let Some(Known {
            of: Of::Ours(ours), ..
        }) = board.users.get_mut(user)
            && let Some(device) = ours.devices.get_mut(device)
        {
            device.syncs = device.syncs.saturating_sub(1);
            device.seen = now;
        }
    }

    /// A user does something; whether others see a difference. One who is not there does not come by
    /// it.
    pub(super) fn acts(&self, user: &UserId, device: &DeviceId, now: Timestamp) -> bool {
        let mut board = self.board();
        let Some(known) = board.users.get_mut(user) else {
            return false;
        };
        let Of::Ours(ours) = &mut known.of else {
            return false;
        };
        if let Some(device) = ours.devices.get_mut(device) {
            device.idle = false;
        }
        known.shown.active = Some(now);
        self.refresh(&mut board, user, now)
    }

    /// A user says what to show. None when there is no place for it; else whether others see a
    /// difference.
    pub(super) fn says(
        &self,
        (user, device): (&UserId, &DeviceId),
        state: &PresenceState,
        status: Option<String>,
        now: Timestamp,
    ) -> Option<bool> {
        let mut board = self.board();
        let known = board.ours(user, now)?;
        let Of::Ours(ours) = &mut known.of else {
            return None;
        };
        if *state == PresenceState::Offline {
            ours.hidden = true;
        } else {
            let device = ours.device(device, now)?;
            device.idle = *state == PresenceState::Unavailable;
            device.seen = now;
            ours.hidden = false;
        }
        known.shown.active = Some(now);
        let is_other = known.shown.status != status;
        known.shown.status = status;
        let changed = self.refresh(&mut board, user, now);
        if is_other && !changed {
            self.touch(&mut board, user, now);
        }
        Some(changed || is_other)
    }

    /// A user has come to where they were not seen before: they are told anew.
    pub(super) fn appears(&self, user: &UserId, now: Timestamp) -> bool {
        let mut board = self.board();
        let is_there = board
            .users
            .get(user)
            .is_some_and(|known| known.shown.state != PresenceState::Offline);
        if is_there {
            self.touch(&mut board, user, now);
        }
        is_there
    }

    /// There is another server that these users here have to be told to.
    pub(super) fn tell_again<'a>(&self, users: impl Iterator<Item = &'a OwnedUserId>) {
        let mut board = self.board();
        for user in users {
            let known = board.users.get(user);
            let is_there = known.is_some_and(|known| {
                matches!(known.of, Of::Ours(_)) && known.shown.state != PresenceState::Offline
            });
            if is_there {
                board.due.insert(user.clone());
            }
        }
    }

    /// Whether what another server says of its user is no news. It is noted that it was said.
    pub(super) fn is_no_news(&self, user: &UserId, told: &Shown, now: Timestamp) -> bool {
        let mut board = self.board();
        let Some(known) = board.users.get_mut(user) else {
            return told.state == PresenceState::Offline && told.status.is_none();
        };
        let Of::Theirs { heard } = &mut known.of else {
            return true; // a user here: nobody else speaks for them
        };
        *heard = now;
        let shown = &known.shown;
        let moved = match (told.active, shown.active) {
            (Some(new), Some(old)) => new.since(old) >= COARSE,
            (new, old) => new != old,
        };
        let is_same = (&shown.state, &shown.status, shown.currently)
            == (&told.state, &told.status, told.currently);
        is_same && (told.currently || !moved)
    }

    /// Another server says something of its user, who shares a room with someone here; false when
    /// there is no place for it.
    pub(super) fn hears(&self, user: &UserId, told: Shown, now: Timestamp) -> bool {
        let mut board = self.board();
        if !board.users.contains_key(user) && !board.add_theirs(user, now) {
            return false;
        }
        if let Some(known) = board.users.get_mut(user) {
            known.shown = told;
            known.of = Of::Theirs { heard: now };
        }
        self.touch(&mut board, user, now);
        true
    }

    /// Time has passed.
    pub(super) fn look(&self, now: Timestamp) -> Look {
        let mut board = self.board();
        let mut look = Look::default();
        let mut over = Vec::new();
        let (mut changed, mut again) = (Vec::new(), Vec::new());
        for (user, known) in &board.users {
            let is_offline = known.shown.state == PresenceState::Offline;
            if is_offline && known.is_over(now) {
                over.push(user.clone());
            } else if known.state(now) != known.shown.state && changed.len() < CHANGES_MAX {
                changed.push(user.clone());
            } else if !is_offline && known.is_to_be_told_again(now) {
                again.push(user.clone());
            }
        }
        for user in &over {
            board.forget(user);
        }
        for user in changed {
            if self.refresh(&mut board, &user, now) {
                look.changed.push(user);
            }
        }
        board.due.extend(again);
        look.tell = board.told(now);
        look
    }

    /// Who changed after `since` and not after `upto`, if these are at most `max`; who is there,
    /// for someone who knows nothing.
    pub(in crate::hub::desk) fn candidates(
        &self,
        since: Option<u64>,
        upto: u64,
        max: usize,
    ) -> Candidates {
        let board = self.board();
        let found: Vec<OwnedUserId> = match self.known_since(since) {
            Some(since) if since >= upto => Vec::new(),
            Some(since) => {
                let range = (Bound::Excluded(since), Bound::Included(upto));
                let users = board.by_version.range(range).map(|(_, user)| user);
                users.take(max + 1).cloned().collect()
            }
            None => {
                let there = board
                    .users
                    .iter()
                    .filter(|(_, known)| known.shown.state != PresenceState::Offline);
                let users = there.map(|(user, _)| user);
                users.take(max + 1).cloned().collect()
            }
        };
        if found.len() > max {
            Candidates::Many
        } else {
            Candidates::Few(found)
        }
    }

    /// The same of these users only, with what they show.
    pub(in crate::hub::desk) fn among<'a>(
        &self,
        users: impl Iterator<Item = &'a OwnedUserId>,
        since: Option<u64>,
        upto: u64,
    ) -> Vec<Standing> {
        let board = self.board();
        let since = self.known_since(since);
        let standing = users.filter_map(|user| {
            let known = board.users.get(user)?;
            let is_news = match since {
                Some(since) => known.version > since && known.version <= upto,
                None => known.shown.state != PresenceState::Offline,
            };
            is_news.then(|| (known.version, user.clone(), known.shown.clone()))
        });
        standing.collect()
    }

    /// What a user shows; nothing of one who has not been there lately.
    pub(super) fn shown(&self, user: &UserId) -> Option<Shown> {
        let board = self.board();
        board.users.get(user).map(|known| known.shown.clone())
    }

    /// A version of this run of the hub; none of another.
    fn known_since(&self, since: Option<u64>) -> Option<u64> {
        since.filter(|since| self.versions.is_of_this_run(*since))
    }

    /// Shows what follows from what is known; whether that is something else than before.
    fn refresh(&self, board: &mut Board, user: &UserId, now: Timestamp) -> bool {
        let Some(known) = board.users.get_mut(user) else {
            return false;
        };
        let state = known.state(now);
        if state == known.shown.state {
            return false;
        }
        known.shown.currently = state == PresenceState::Online;
        known.shown.state = state;
        self.touch(board, user, now);
        true
    }

    /// A user has changed. The version is counted while the board is locked: who reads that version
    /// finds the change.
    fn touch(&self, board: &mut Board, user: &UserId, now: Timestamp) {
        let Some(known) = board.users.get_mut(user) else {
            return;
        };
        board.by_version.remove(&known.version);
        known.version = self.versions.step();
        known.changed = now;
        board.by_version.insert(known.version, user.to_owned());
        if matches!(known.of, Of::Ours(_)) {
            board.due.insert(user.to_owned());
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// A user here, if there is place for them.
    fn ours(&mut self, user: &UserId, now: Timestamp) -> Option<&mut Known> {
        if !self.users.contains_key(user) {
            if self.ours >= OURS_MAX {
                return None;
            }
            self.ours += 1;
            let known = Known::new(Of::Ours(Ours::default()), now);
            self.users.insert(user.to_owned(), known);
        }
        self.users.get_mut(user)
    }

    /// A user of another server; false when there is no place for them.
    fn add_theirs(&mut self, user: &UserId, now: Timestamp) -> bool {
        let all = self.users.len().saturating_sub(self.ours);
        let server = user.server_name();
        let of_server = self.theirs.get(server).copied().unwrap_or(0);
        if all >= THEIRS_MAX || of_server >= OF_A_SERVER_MAX {
            return false;
        }
        self.theirs.insert(server.to_owned(), of_server + 1);
        let known = Known::new(Of::Theirs { heard: now }, now);
        self.users.insert(user.to_owned(), known);
        true
    }

    fn forget(&mut self, user: &UserId) {
        let Some(known) = self.users.remove(user) else {
            return;
        };
        self.by_version.remove(&known.version);
        self.due.remove(user);
        match known.of {
            Of::Ours(_) => self.ours = self.ours.saturating_sub(1),
            Of::Theirs { .. } => {
                let server = user.server_name();
                let left = self.theirs.get(server).map_or(0, |count| count - 1);
                if left == 0 {
                    self.theirs.remove(server);
                } else {
                    self.theirs.insert(server.to_owned(), left);
                }
            }
        }
    }

    /// Takes those of whom other servers may be told now.
    fn told(&mut self, now: Timestamp) -> Vec<(OwnedUserId, Shown)> {
        let mut tell = Vec::new();
        let users = &mut self.users;
        self.due.retain(|user| {
            let Some(known) = users.get_mut(user) else {
                return false;
            };
            let Of::Ours(ours) = &mut known.of else {
                return false;
            };
            let is_soon = ours.told.is_some_and(|told| now < told + APART);
            if is_soon || tell.len() >= TOLD_MAX {
                return true;
            }
            ours.told = Some(now);
            tell.push((user.clone(), known.shown.clone()));
            false
        });
        tell
    }
}

impl Known {
    fn new(of: Of, now: Timestamp) -> Self {
        let shown = Shown {
            state: PresenceState::Offline,
            status: None,
            active: Some(now),
            currently: false,
        };
        Self {
            shown,
            version: 0, // none: the first is 1
            changed: now,
            of,
        }
    }

    /// What the user is now.
    fn state(&self, now: Timestamp) -> PresenceState {
        match &self.of {
            Of::Theirs { heard } if now >= *heard + UNHEARD => PresenceState::Offline,
            Of::Theirs { .. } => self.shown.state.clone(),
            Of::Ours(ours) => {
                let is_idle = self
                    .shown
                    .active
                    .is_none_or(|active| now >= active + IDLE_AFTER);
                ours.state(is_idle, now)
            }
        }
    }

    /// Whether nobody has to be told any more that the user is offline.
    fn is_over(&self, now: Timestamp) -> bool {
        let is_there = match &self.of {
            Of::Ours(ours) => ours.devices.values().any(|device| device.is_there(now)),
            Of::Theirs { .. } => false,
        };
        !is_there && now >= self.changed + REMEMBERED
    }

    fn is_to_be_told_again(&self, now: Timestamp) -> bool {
        match &self.of {
            Of::Ours(ours) => ours.told.is_some_and(|told| now >= told + AGAIN),
            Of::Theirs { .. } => false,
        }
    }
}

impl Ours {
    fn state(&self, is_idle: bool, now: Timestamp) -> PresenceState {
        let mut there = self.devices.values().filter(|device| device.is_there(now));
        if self.hidden {
            return PresenceState::Offline;
        }
        match there.next() {
            None => PresenceState::Offline,
            Some(first) if !is_idle && (!first.idle || there.any(|other| !other.idle)) => {
                PresenceState::Online
            }
            Some(_) => PresenceState::Unavailable,
        }
    }

    /// A device, with place made for it; none where that many sync at once.
    fn device(&mut self, id: &DeviceId, now: Timestamp) -> Option<&mut Device> {
        if !self.devices.contains_key(id) && self.devices.len() >= DEVICES_MAX {
            let waiting = self.devices.iter().filter(|(_, one)| one.syncs == 0);
            let oldest = waiting.min_by_key(|(_, one)| one.seen)?.0.clone();
            self.devices.remove(&oldest);
        }
        let new = Device {
            syncs: 0,
            seen: now,
            idle: false,
        };
        Some(self.devices.entry(id.to_owned()).or_insert(new))
    }
}
