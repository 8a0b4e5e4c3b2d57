//! The events that are known so far, and walks down their auth chains: in rounds, each asking for
//! all that is unknown at once, and without recursion.

use std::collections::{HashMap, HashSet};

use ruma::OwnedEventId;

use super::{Budget, Cost, ResolveError};
use crate::{
    base::EventHash,
    room::{AuthEntry, StateKey},
    wire::matrix::{PduFields, Version, event_hash},
};

/// Events by their hash, with the hashes of those they lean on.
#[derive(Debug)]
pub(super) struct Known {
    version: Version,
    budget: Budget,
    events: HashMap<EventHash, Event>,
    room: Option<Room>,
    bytes: usize,
    rounds: usize,
}

#[derive(Debug)]
struct Event {
    entry: AuthEntry,
    auth: Vec<EventHash>,
}

#[derive(Debug)]
struct Room {
    id: ruma::OwnedRoomId,
    /// Since v12, the event that the room id names.
    create: Option<EventHash>,
}

impl Known {
    pub(super) fn new(version: Version, budget: Budget) -> Self {
        Self {
            version,
            budget,
            events: HashMap::new(),
            room: None,
            bytes: 0,
            rounds: 0,
        }
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn count_round(&mut self) -> Result<(), ResolveError> {
        self.rounds += 1;
        self.budget.check(Cost::Rounds, self.rounds)
    }

    pub(super) fn learn(&mut self, entry: AuthEntry) -> Result<(), ResolveError> {
        let hash = entry.event.hash();
        if self.has(hash) {
            return Ok(());
        }
        let bytes = self.bytes.saturating_add(entry.event.json().len());
        self.budget.check(Cost::Bytes, bytes)?;
        self.budget.check(Cost::Events, self.events.len() + 1)?;
        let create = self.same_room(&entry)?;
        let auth = named(&entry, create.filter(|create| *create != hash))?;
        self.bytes = bytes;
        self.events.insert(hash, Event { entry, auth });
        Ok(())
    }

    /// Refuses an event of another room than the first; gives what the room id names.
    fn same_room(&mut self, entry: &AuthEntry) -> Result<Option<EventHash>, ResolveError> {
        let id = &entry.event.fields().room_id;
        let version = self.version;
        let room = self.room.get_or_insert_with(|| Room {
            id: id.clone(),
            create: version
                .room_id_is_create_hash()
                .then(|| named_by_room_id(id))
                .flatten(),
        });
        if room.id != *id {
            return Err(ResolveError::OtherRoom {
                event: entry.event.id().clone(),
                is: id.to_string(),
                expected: room.id.to_string(),
            });
        }
        Ok(room.create)
    }

    /// Since v12, the create event, which no event names.
    pub(super) fn create(&self) -> Option<EventHash> {
        self.room.as_ref()?.create
    }

    pub(super) fn has(&self, hash: EventHash) -> bool {
        self.events.contains_key(&hash)
    }

    /// Those that are not known.
    pub(super) fn unknown(&self, hashes: impl Iterator<Item = EventHash>) -> Vec<EventHash> {
        hashes.filter(|hash| !self.has(*hash)).collect()
    }

    /// What an event leans on, the create event included; nothing of what is not known.
    pub(super) fn auth(&self, hash: EventHash) -> impl Iterator<Item = EventHash> + '_ {
        let event = self.events.get(&hash);
        event.into_iter().flat_map(|event| &event.auth).copied()
    }

    pub(super) fn hashes(&self) -> impl Iterator<Item = EventHash> + '_ {
        self.events.keys().copied()
    }

    pub(super) fn entry(&self, hash: EventHash) -> Result<&AuthEntry, ResolveError> {
        let event = self.events.get(&hash);
        event
            .map(|event| &event.entry)
            .ok_or_else(|| ResolveError::missing([hash]))
    }

    pub(super) fn fields(&self, hash: EventHash) -> Result<&PduFields, ResolveError> {
        Ok(self.entry(hash)?.event.fields())
    }

    pub(super) fn id(&self, hash: EventHash) -> Result<&OwnedEventId, ResolveError> {
        Ok(self.entry(hash)?.event.id())
    }

    /// Which piece of state a known event is.
    pub(super) fn state_key(&self, hash: EventHash) -> Option<StateKey> {
        let fields = self.events.get(&hash)?.entry.event.fields();
        let key = fields.state_key.as_deref()?;
        Some(StateKey::new(&fields.kind, key))
    }

    /// All that is known, each event before those that it leans on.
    pub(super) fn children_first(&self) -> Vec<EventHash> {
        let mut children: HashMap<EventHash, usize> = HashMap::new();
        for hash in self.hashes() {
            children.entry(hash).or_default();
            for auth in self.auth(hash) {
                *children.entry(auth).or_default() += 1;
            }
        }
        let childless = children.iter().filter(|(_, count)| **count == 0);
        let mut ready: Vec<_> = childless.map(|(hash, _)| *hash).collect();
        let mut ordered = Vec::with_capacity(children.len());
        while let Some(hash) = ready.pop() {
            ordered.push(hash);
            for auth in self.auth(hash) {
                if let Some(count) = children.get_mut(&auth) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        ready.push(auth);
                    }
                }
            }
        }
        ordered
    }
}

fn named(entry: &AuthEntry, create: Option<EventHash>) -> Result<Vec<EventHash>, ResolveError> {
    let mut auth = Vec::with_capacity(entry.event.fields().auth.len() + 1);
    for id in &entry.event.fields().auth {
        let Some(hash) = event_hash(id) else {
            return Err(ResolveError::NotAnId {
                event: entry.event.id().clone(),
                named: id.to_string(),
            });
        };
        if !auth.contains(&hash) {
            auth.push(hash);
        }
    }
    if let Some(create) = create
        && !auth.contains(&create)
    {
        auth.push(create);
    }
    Ok(auth)
}

/// spec: matrix-v12 §Room-ids
fn named_by_room_id(id: &ruma::RoomId) -> Option<EventHash> {
    let name = id.as_str().strip_prefix('!')?;
    event_hash(&OwnedEventId::try_from(format!("${name}")).ok()?)
}

/// A walk from some events down to everything they lean on.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pending: Vec<EventHash>,
    seen: HashSet<EventHash>,
}

impl Walk {
    pub(super) fn from(roots: impl IntoIterator<Item = EventHash>) -> Self {
        let mut walk = Self::default();
        walk.add(roots);
        walk
    }

    pub(super) fn add(&mut self, roots: impl IntoIterator<Item = EventHash>) {
        for root in roots {
            if self.seen.insert(root) {
                self.pending.push(root);
            }
        }
    }

    /// Goes as far as events are known, telling of each that it comes to; gives the unknown ones
    /// that it stands before.
    pub(super) fn advance(
        &mut self,
        known: &Known,
        mut reached: impl FnMut(EventHash),
    ) -> Vec<EventHash> {
        let mut missing = Vec::new();
        while let Some(hash) = self.pending.pop() {
            reached(hash);
            if known.has(hash) {
                self.add(known.auth(hash));
            } else {
                missing.push(hash);
            }
        }
        self.pending.clone_from(&missing);
        missing
    }
}

/// Gathers the events that some are, and lean on: what other servers are told to judge them by.
#[derive(Debug)]
pub struct AuthChain {
    known: Known,
    walk: Walk,
}

impl AuthChain {
    /// Begins with events; they are part of it.
    pub fn of(
        version: Version,
        events: impl IntoIterator<Item = EventHash>,
        budget: Budget,
    ) -> Self {
        Self {
            known: Known::new(version, budget),
            walk: Walk::from(events),
        }
    }

    /// Which events it has to [`learn`](Self::learn) before it can go on.
    pub fn needs(&mut self) -> Result<Vec<EventHash>, ResolveError> {
        let missing = self.walk.advance(&self.known, |_| ());
        if !missing.is_empty() {
            self.known.count_round()?;
        }
        Ok(missing)
    }

    /// Tells it one event.
    pub fn learn(&mut self, entry: AuthEntry) -> Result<(), ResolveError> {
        self.known.learn(entry)
    }

    /// What it has gathered, each event after those that it leans on.
    pub fn finish(mut self) -> Vec<AuthEntry> {
        let ordered = self.known.children_first();
        ordered
            .into_iter()
            .rev()
            .filter_map(|hash| Some(self.known.events.remove(&hash)?.entry))
            .collect()
    }
}

/// Gathers the auth chain of events that can all be looked up at once, those events included, each
/// after those that it leans on.
pub fn auth_chain(
    version: Version,
    events: impl IntoIterator<Item = EventHash>,
    fetch: &dyn Fn(EventHash) -> Option<AuthEntry>,
    budget: Budget,
) -> Result<Vec<AuthEntry>, ResolveError> {
    let mut chain = AuthChain::of(version, events, budget);
    loop {
        let needs = chain.needs()?;
        if needs.is_empty() {
            return Ok(chain.finish());
        }
        let mut missing = Vec::new();
        for hash in needs {
            match fetch(hash) {
                Some(entry) => chain.learn(entry)?,
                None => missing.push(hash),
            }
        }
        if !missing.is_empty() {
            return Err(ResolveError::missing(missing));
        }
    }
}
