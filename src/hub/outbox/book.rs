//! Who is to be told what, in memory: which destinations wait, which are being told, which are left
//! alone for a while. It does nothing by itself; [`super::Outbox`] does what it says.
//!
//! A destination that has everything costs its entry here, and no task.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use rand::{Rng as _, rngs::StdRng};
use ruma::{OwnedServerName, OwnedUserId};
use serde_json::Value;

use super::{
    hints::{Inbox, Present, Typing},
    read::Rooms,
    send::{FULL, Job, Outcome, Told, Trouble},
};
use crate::{
    base::{Position, Timestamp},
    hub::settings::OutboxSettings,
    store::{DestinationRecord, Mark, OutboxWrite, Write},
};

/// How many destinations are told something at the same time. Each may hold a page of events and
/// a connection.
const AT_ONCE_MAX: usize = 64;

/// How many of these have failed last: slow and silent ones leave room for the others.
const RETRIES_AT_ONCE_MAX: usize = 16;

/// After a start, those that failed before it are tried within so many times the first wait.
const SCATTER: f64 = 5.0;

/// How many rooms are remembered for a destination that is left alone; beyond, the store is asked.
const ROOMS_MAX: usize = 256;

/// How many notes about typing wait for one destination.
const TYPING_MAX: usize = 20;

/// Of how many users one destination waits to be told whether they are there: a little more than one
/// look at the clock finds. What is beyond is dropped, and said again later.
const PRESENT_MAX: usize = 300;

/// Of how many of them one transaction tells it: as many as Synapse does.
const PRESENT_AT_ONCE: usize = 50;

/// When what changed here is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Save {
    /// Something was told. Forgetting it costs telling it again.
    Soon,
    /// Something was passed over.
    Later,
}

impl Save {
    pub(super) const fn after(self) -> Duration {
        match self {
            Self::Soon => Duration::from_millis(200),
            Self::Later => Duration::from_secs(30),
        }
    }
}

/// All destinations.
pub(super) struct Book {
    pub(super) settings: OutboxSettings,
    pub(super) all: BTreeMap<OwnedServerName, Destination>,
    ready: VecDeque<OwnedServerName>,
    alone: BTreeSet<(Timestamp, OwnedServerName)>,
    at_work: usize,
    retrying: usize,
    unsaved: BTreeSet<OwnedServerName>,
    /// What else is to be stored with the next places.
    writes: Vec<Write>,
    save: Option<Save>,
    rng: StdRng,
}

/// A destination.
pub(super) struct Destination {
    pub(super) record: DestinationRecord,
    /// Where there may be something new in logs.
    rooms: Rooms,
    /// Whether there may be something beside them.
    beside: bool,
    typing: Vec<Typing>,
    /// What users of ours show, the last of each.
    present: BTreeMap<OwnedUserId, Arc<Value>>,
    pub(super) state: State,
    /// How often it has failed in a row.
    failures: u32,
    pub(super) last_error: Option<Trouble>,
    last_try: Option<Timestamp>,
    /// How many items one transaction has: fewer after it refused a whole one.
    width: usize,
    parcels_after: (Position, u64),
    /// Up to where it is being told.
    pub(super) under_way: Option<Mark>,
    /// What was in the transaction that failed, and its id.
    txn: Option<([u8; 32], String)>,
}

/// What a destination is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has everything.
    Idle,
    /// Its turn will come.
    Ready,
    /// It is being told; it took nothing last time when `retry`.
    AtWork { retry: bool },
    /// It is left alone until then.
    Alone(Timestamp),
}

impl Destination {
    fn new(record: DestinationRecord) -> Self {
        Self {
            record,
            rooms: Rooms::default(),
            beside: false,
            typing: Vec::new(),
            present: BTreeMap::new(),
            state: State::Idle,
            failures: 0,
            last_error: None,
            last_try: None,
            width: FULL,
            parcels_after: (Position::ZERO, 0),
            under_way: None,
            txn: None,
        }
    }

    fn has_news(&self) -> bool {
        self.beside || !self.rooms.is_empty() || !self.typing.is_empty() || !self.present.is_empty()
    }

    /// Takes of whom it is told next whether they are there.
    fn some_present(&mut self) -> Vec<Arc<Value>> {
        let mut some = Vec::new();
        while some.len() < PRESENT_AT_ONCE
            && let Some((_, update)) = self.present.pop_first()
        {
            some.push(update);
        }
        some
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

impl Book {
    /// Everyone that the store knows, with whatever is for them since they were last told.
    pub(super) fn new(
        settings: OutboxSettings,
        records: Vec<DestinationRecord>,
        rng: StdRng,
    ) -> Self {
        let all = records
            .into_iter()
            .map(|record| (record.server.clone(), Destination::new(record)));
        Self {
            settings,
            all: all.collect(),
            ready: VecDeque::new(),
            alone: BTreeSet::new(),
            at_work: 0,
            retrying: 0,
            unsaved: BTreeSet::new(),
            writes: Vec::new(),
            save: None,
            rng,
        }
    }

    /// Everyone may have missed something.
    pub(super) fn look_everywhere(&mut self) {
        let names: Vec<_> = self.all.keys().cloned().collect();
        for server in names {
            if let Some(known) = self.all.get_mut(&server) {
                known.rooms = Rooms::Any;
                known.beside = true;
            }
            self.wake(&server);
        }
    }

    /// After a start, those that took nothing before it are not all tried at once.
    pub(super) fn scatter(&mut self, now: Timestamp) {
        let names: Vec<_> = self.all.keys().cloned().collect();
        for server in names {
            let delay = self
                .settings
                .retry_first
                .mul_f64(SCATTER * self.rng.random::<f64>());
            if let Some(known) = self.all.get_mut(&server)
                && known.record.failing_since.is_some()
            {
                known.failures = 1;
                let until = now + delay;
                known.state = State::Alone(until);
                self.alone.insert((until, server));
            }
        }
    }

    /// Takes what was noted.
    pub(super) fn note(&mut self, inbox: Inbox, now: Timestamp) {
        let at = inbox.position;
        for (room, (start, servers)) in inbox.rooms {
            for server in servers.iter() {
                self.known(server, start.position).rooms.add(room, start);
                self.wake(server);
            }
        }
        for servers in inbox.beside {
            for server in servers.iter() {
                self.known(server, at).beside = true;
                self.wake(server);
            }
        }
        for (servers, typing) in inbox.typing {
            for server in servers.iter() {
                self.note_typing(server, &typing);
            }
        }
        for (servers, present) in inbox.present {
            for server in servers.iter() {
                self.note_present(server, &present);
            }
        }
        if inbox.lost {
            self.look_everywhere();
        }
        for server in inbox.alive {
            self.alive(&server, now);
        }
        if inbox.relisted {
            self.relisted(now);
        }
    }

    /// Those that were left alone because of this hub's own lists are tried again, as the first time.
    fn relisted(&mut self, now: Timestamp) {
        for (server, known) in &mut self.all {
            if let State::Alone(until) = known.state
                && known.last_error.as_ref().is_some_and(|error| error.is_ours)
            {
                known.failures = known.failures.min(1);
                known.state = State::Alone(now);
                self.alone.remove(&(until, server.clone()));
                self.alone.insert((now, server.clone()));
            }
        }
    }

    /// A destination; a new one is told receipts from a commit on.
    fn known(&mut self, server: &OwnedServerName, at: Position) -> &mut Destination {
        let is_new = !self.all.contains_key(server);
        if is_new {
            self.unsaved.insert(server.clone());
        }
        self.all.entry(server.clone()).or_insert_with(|| {
            Destination::new(DestinationRecord {
                server: server.clone(),
                mark: Mark::default(),
                beside: Position(at.0.saturating_sub(1)),
                failing_since: None,
            })
        })
    }

    fn note_typing(&mut self, server: &OwnedServerName, note: &Typing) {
        let Some(known) = self.all.get_mut(server) else {
            return;
        };
        if matches!(known.state, State::Alone(_)) {
            return; // it will be old news
        }
        known
            .typing
            .retain(|other| (&other.room, &other.user) != (&note.room, &note.user));
        if known.typing.len() < TYPING_MAX {
            known.typing.push(note.clone());
        }
        self.wake(server);
    }

    fn note_present(&mut self, server: &OwnedServerName, note: &Present) {
        let Some(known) = self.all.get_mut(server) else {
            return;
        };
        if matches!(known.state, State::Alone(_)) {
            return; // it will be said again
        }
        if known.present.len() < PRESENT_MAX || known.present.contains_key(&note.user) {
            known
                .present
                .insert(note.user.clone(), Arc::clone(&note.update));
        }
        self.wake(server);
    }

    /// Lets a destination have its turn, unless it has one coming or is left alone.
    fn wake(&mut self, server: &OwnedServerName) {
        let Some(known) = self.all.get_mut(server) else {
            return;
        };
        match known.state {
            State::Idle => {
                known.state = State::Ready;
                self.ready.push_back(server.clone());
            }
            State::Alone(_) => known.rooms.at_most(ROOMS_MAX),
            State::Ready | State::AtWork { .. } => {}
        }
    }

    /// A destination was heard of: it is tried again soon. Not at once if it has just been tried: it
    /// may speak and not listen.
    fn alive(&mut self, server: &OwnedServerName, now: Timestamp) {
        let Some(known) = self.all.get_mut(server) else {
            return;
        };
        let State::Alone(until) = known.state else {
            return;
        };
        let soonest = known
            .last_try
            .map_or(now, |last| last + self.settings.retry_first);
        let sooner = soonest.max(now).min(until);
        known.failures = known.failures.min(1);
        known.state = State::Alone(sooner);
        self.alone.remove(&(until, server.clone()));
        self.alone.insert((sooner, server.clone()));
    }

    /// Destinations whose time alone is over get their turn.
    fn due(&mut self, now: Timestamp) {
        while self.alone.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, server)) = self.alone.pop_first() else {
                return;
            };
            if let Some(known) = self.all.get_mut(&server) {
                known.state = State::Ready;
                self.ready.push_back(server);
            }
        }
    }

    /// The next destination to be told something, up to a commit, if there may be one more.
    pub(super) fn next(&mut self, upto: Position, now: Timestamp) -> Option<Job> {
        self.due(now);
        if self.at_work >= AT_ONCE_MAX {
            return None;
        }
        let may_retry = self.retrying < RETRIES_AT_ONCE_MAX;
        let is_next = |server: &OwnedServerName| {
            let known = self.all.get(server);
            known.is_none_or(|known| may_retry || !known.is_failing())
        };
        let at = self.ready.iter().position(is_next)?;
        let server = self.ready.remove(at)?;
        let known = self.all.get_mut(&server)?;
        let retry = known.is_failing();
        known.state = State::AtWork { retry };
        known.last_try = Some(now);
        self.at_work += 1;
        self.retrying += usize::from(retry);
        Some(Job {
            record: known.record.clone(),
            rooms: std::mem::take(&mut known.rooms),
            beside: std::mem::take(&mut known.beside),
            typing: std::mem::take(&mut known.typing),
            present: known.some_present(),
            parcels_after: known.parcels_after,
            width: known.width,
            upto,
            txn: known.txn.take(),
        })
    }

    /// When something has to be done although nothing happens.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.alone.first().map(|(until, _)| *until)
    }

    /// What came of a job.
    pub(super) fn settle(
        &mut self,
        (rooms, beside): (Rooms, bool),
        outcome: Outcome,
        server: &OwnedServerName,
        now: Timestamp,
    ) {
        let Some(known) = self.all.get_mut(server) else {
            return;
        };
        if let State::AtWork { retry } = known.state {
            self.at_work = self.at_work.saturating_sub(1);
            self.retrying = self.retrying.saturating_sub(usize::from(retry));
        }
        known.state = State::Idle;
        known.under_way = None;
        match outcome {
            Outcome::Told(told) => self.told(told, server),
            Outcome::Narrow(width) => {
                known.rooms.merge(rooms);
                known.beside |= beside;
                known.width = width;
                self.wake(server);
            }
            Outcome::Failed {
                error,
                txn,
                is_theirs,
                expired,
            } => {
                known.rooms.merge(rooms);
                known.rooms.at_most(ROOMS_MAX);
                known.beside |= beside;
                known.typing.clear();
                known.present.clear();
                known.txn = txn;
                if known.failures == 0 {
                    tracing::warn!(%server, code = error.code, why = error.text, "a server takes nothing");
                }
                known.last_error = Some(error);
                known.failures = known.failures.saturating_add(1);
                let factor = 1_u32 << known.failures.saturating_sub(1).min(20);
                let longest = self.settings.retry_first.saturating_mul(factor);
                let longest = longest.min(self.settings.retry_max);
                let delay = longest.mul_f64(0.5 + 0.5 * self.rng.random::<f64>());
                let until = now + delay;
                known.state = State::Alone(until);
                self.alone.insert((until, server.clone()));
                let mut save = false;
                if is_theirs && known.record.failing_since.is_none() {
                    known.record.failing_since = Some(now);
                    save = true;
                }
                if let Some(told) = expired {
                    known.record.mark = told.mark;
                    self.writes.extend(told.writes);
                    if let Some(upto) = told.parcels {
                        known.parcels_after = upto;
                        let to = server.clone();
                        let gone = OutboxWrite::ParcelsSent { to, upto };
                        self.writes.push(Write::Outbox(gone));
                    }
                    save = true;
                }
                if save {
                    self.save(server, Save::Soon);
                }
            }
        }
    }

    fn told(&mut self, told: Told, server: &OwnedServerName) {
        let Some(known) = self.all.get_mut(server) else {
            return;
        };
        known.record.mark = told.mark;
        known.record.beside = told.beside;
        known.rooms.merge(told.rest);
        known.beside |= told.more_beside;
        let save = if told.sent {
            if known.failures > 0 {
                tracing::info!(%server, "a server takes events again");
            }
            known.failures = 0;
            known.record.failing_since = None;
            known.last_error = None;
            known.width = if told.was_refused {
                known.width
            } else {
                known.width.saturating_mul(2).min(FULL)
            };
            Save::Soon
        } else {
            Save::Later
        };
        let save = if told.writes.is_empty() {
            save
        } else {
            Save::Soon
        };
        self.writes.extend(told.writes);
        if let Some(upto) = told.parcels {
            known.parcels_after = upto;
            let to = server.clone();
            let sent = OutboxWrite::ParcelsSent { to, upto };
            self.writes.push(Write::Outbox(sent));
        }
        let has_news = known.has_news();
        self.save(server, save);
        if has_news {
            self.wake(server);
        }
    }

    fn save(&mut self, server: &OwnedServerName, when: Save) {
        self.unsaved.insert(server.clone());
        self.save = Some(self.save.map_or(when, |other| other.min(when)));
    }

    /// When there is something to be stored.
    pub(super) fn save_when(&self) -> Option<Save> {
        self.save
    }

    /// All that is to be stored.
    pub(super) fn unsaved(&mut self) -> Option<Vec<Write>> {
        self.save = None;
        let mut writes = std::mem::take(&mut self.writes);
        for server in std::mem::take(&mut self.unsaved) {
            if let Some(known) = self.all.get(&server) {
                let record = OutboxWrite::Destination(known.record.clone());
                writes.push(Write::Outbox(record));
            }
        }
        (!writes.is_empty()).then_some(writes)
    }

    /// What could not be stored is tried again later.
    pub(super) fn not_saved(&mut self, mut writes: Vec<Write>) {
        writes.append(&mut self.writes);
        self.writes = writes;
        self.save = Some(Save::Later);
    }

    /// How many are told something now, and how many take nothing.
    pub(super) fn counts(&self) -> (usize, usize) {
        let failing = self.all.values().filter(|known| known.is_failing()).count();
        (self.at_work, failing)
    }
}
