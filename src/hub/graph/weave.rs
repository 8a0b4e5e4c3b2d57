//! Weaves events of other servers into a room's graph, beside the writer: what each is to the room,
//! the state after it, and what readers are told of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::OwnedEventId;

use super::{
    Fate, GraphError, Received,
    states::{States, damaged, key_of},
};
use crate::{
    base::EventHash,
    hub::writer::{Admission, Admitted, Entry, Onto, Piece, Redacted, Spot},
    room::{
        AuthEntry, Budget, Grounds, Resolution, StateKey, StateMap, Verdict, auth_state_keys,
        crowding, judge, may_redact, tips_after,
    },
    store::{
        Change, EventNid, EventRecord, Marker, RoomRecord, SharedStore, StateNid, Status,
        StoreError, hash_of,
    },
    wire::matrix::{Pdu, event_id},
};

/// How many hidden events one event's own are looked for behind.
///
/// Whoever names more of them in a row leaves branches open that need not be: no harm but to itself.
const HIDDEN_MAX: usize = 64;

/// After how many events of a state whoever else is served by this thread has a turn: some
/// milliseconds. A state has up to a hundred thousand, of which each is judged in memory.
const BREATH: usize = 128;

/// A room while events are woven in.
pub(super) struct Weave<'a> {
    pub(super) store: &'a SharedStore,
    pub(super) room: &'a RoomRecord,
    pub(super) states: States<'a>,
    /// What this weave has seen, stored or not.
    pub(super) known: HashMap<EventHash, Known>,
    /// Events that are not stored, as far as was looked ahead.
    absent: HashSet<EventHash>,
    /// Outliers of the store that get their part in the graph now.
    stored: HashSet<EventHash>,
    resolved: HashMap<Vec<StateNid>, StateNid>,
    pub(super) tips: Vec<(OwnedEventId, u64)>,
    pub(super) branches: HashMap<OwnedEventId, StateNid>,
    /// The state that is current after what was woven so far.
    pub(super) line: StateNid,
    pub(super) onto: Onto,
    pub(super) events: Vec<Admitted>,
    redactions: Vec<Redacted>,
}

/// Where a weave stood before an event.
struct Mark {
    tips: Vec<(OwnedEventId, u64)>,
    branches: HashMap<OwnedEventId, StateNid>,
    line: StateNid,
    events: usize,
    redactions: usize,
    states: usize,
}

/// An event that the room knows.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) nid: EventNid,
    pub(super) event: Arc<Pdu>,
    pub(super) status: Status,
    pub(super) soft_failed: bool,
    pub(super) state_after: StateNid,
}

/// Lets others have their turn now and then.
pub(super) async fn breathe(count: usize) {
    if count % BREATH == BREATH - 1 {
        tokio::task::yield_now().await;
    }
}

impl<'a> Weave<'a> {
    /// Begins where the room stands.
    pub(super) async fn begin(
        store: &'a SharedStore,
        room: &'a RoomRecord,
    ) -> Result<Self, GraphError> {
        let mut weave = Self {
            store,
            room,
            states: States::of(store, room),
            known: HashMap::new(),
            absent: HashSet::new(),
            stored: HashSet::new(),
            resolved: HashMap::new(),
            tips: room.heads.tips.clone(),
            branches: HashMap::new(),
            line: room.state.nid,
            onto: Onto::Room(room.state.nid),
            events: Vec::new(),
            redactions: Vec::new(),
        };
        if let [(tip, _)] = room.heads.tips.as_slice() {
            weave.branches.insert(tip.clone(), room.state.nid);
            return Ok(weave);
        }
        for (tip, _) in &room.heads.tips {
            let known = weave.named(tip).await?;
            let known = known.ok_or_else(|| damaged(format!("the tip {tip} is not stored")))?;
            weave.branches.insert(tip.clone(), known.state_after);
        }
        Ok(weave)
    }

    /// Weaves one event in, or refuses it where its branch costs more than a peer may cost or cannot
    /// be resolved: that is its own fault, and nothing of it is left.
    pub(super) async fn add_or_refuse(&mut self, received: &Received) -> Result<Fate, GraphError> {
        let before = Mark {
            tips: self.tips.clone(),
            branches: self.branches.clone(),
            line: self.line,
            events: self.events.len(),
            redactions: self.redactions.len(),
            states: self.states.mark(),
        };
        match self.add(received).await {
            Err(error @ (GraphError::Resolve(_) | GraphError::Missing(_))) => {
                let id = received.event.id();
                tracing::info!(%error, %id, room = %self.room.id, "an event is refused");
                self.back_to(before, received.event.hash());
                Ok(Fate::Refused(error.to_string()))
            }
            other => other,
        }
    }

    fn back_to(&mut self, mark: Mark, event: EventHash) {
        self.tips = mark.tips;
        self.branches = mark.branches;
        self.line = mark.line;
        self.events.truncate(mark.events);
        self.redactions.truncate(mark.redactions);
        self.states.back_to(mark.states);
        self.resolved.clear(); // what is in it may be gone
        self.stored.remove(&event);
        self.known.remove(&event);
    }

    /// Weaves one event in. Those that it names must be known by now.
    pub(super) async fn add(&mut self, received: &Received) -> Result<Fate, GraphError> {
        let Received { event, hide } = received;
        let known = self.lookup(event.hash()).await?;
        match known.as_ref().map(|known| known.status) {
            None | Some(Status::Outlier) => {}
            Some(Status::Accepted) => return Ok(Fate::Known),
            Some(Status::Rejected) => {
                return Ok(Fate::Refused("it was rejected before".to_owned()));
            }
        }
        let fields = event.fields();
        if fields.prev.is_empty() {
            let reason = "only the first event of a room follows no other".to_owned();
            return Ok(Fate::Refused(reason)); // the first one is known, or it is another room's
        }
        let (auth, prev) = match self.around(event).await? {
            Ok(around) => around,
            Err(lacks) => return Ok(lacks),
        };
        let mut before: Vec<StateNid> = prev.iter().map(|known| known.state_after).collect();
        before.sort_unstable();
        before.dedup();
        let before = self.resolve(before).await?;
        let verdict = self.judge(event, &auth, before).await?;
        let verdict = (verdict, hide.as_deref());
        self.place(event, known, verdict, (before, &prev)).await
    }

    /// The events that it names: those it leans on, and those it follows.
    pub(super) async fn around(
        &mut self,
        event: &Pdu,
    ) -> Result<Result<(Vec<AuthEntry>, Vec<Known>), Fate>, GraphError> {
        let (mut auth, mut prev) = (Vec::new(), Vec::new());
        let (mut no_auth, mut no_prev) = (Vec::new(), Vec::new());
        for id in &event.fields().auth {
            match self.named(id).await? {
                Some(known) => auth.push(AuthEntry {
                    event: known.event,
                    rejected: known.status == Status::Rejected,
                }),
                None => no_auth.push(id.clone()),
            }
        }
        for id in &event.fields().prev {
            // Of an outlier the graph around it is not known, so neither is the state after it.
            match self.named(id).await? {
                Some(known) if known.status != Status::Outlier => prev.push(known),
                _ => no_prev.push(id.clone()),
            }
        }
        Ok(if no_auth.is_empty() && no_prev.is_empty() {
            Ok((auth, prev))
        } else {
            Err(Fate::Lacks {
                prev: no_prev,
                auth: no_auth,
            })
        })
    }

    pub(super) async fn judge(
        &mut self,
        event: &Pdu,
        auth: &[AuthEntry],
        before: StateNid,
    ) -> Result<Verdict, GraphError> {
        let version = self.room.version;
        let create = StateKey::new("m.room.create", "");
        let mut keys = auth_state_keys(event.fields(), version);
        if !keys.contains(&create) {
            keys.push(create.clone());
        }
        let before = self.pieces(before, &keys).await?;
        let current = self.pieces(self.line, &keys).await?;
        let first = before.get(&create).or_else(|| current.get(&create));
        let first = first.map(|event| AuthEntry {
            event: Arc::clone(event),
            rejected: false,
        });
        let grounds = Grounds {
            auth,
            create: first.as_ref(),
            before: &|kind, key| before.get(&StateKey::new(kind, key)).cloned(),
            current: &|kind, key| current.get(&StateKey::new(kind, key)).cloned(),
        };
        Ok(judge(event, version, &grounds))
    }

    pub(super) async fn pieces(
        &mut self,
        state: StateNid,
        keys: &[StateKey],
    ) -> Result<BTreeMap<StateKey, Arc<Pdu>>, GraphError> {
        let found = self.states.pieces(state, keys).await?;
        let found = keys.iter().cloned().zip(found);
        Ok(found
            .filter_map(|(key, piece)| Some((key, piece?.1)))
            .collect())
    }

    /// Gives a judged event its place.
    pub(super) async fn place(
        &mut self,
        event: &Arc<Pdu>,
        known: Option<Known>,
        (verdict, hide): (Verdict, Option<&str>),
        (before, prev): (StateNid, &[Known]),
    ) -> Result<Fate, GraphError> {
        let (status, soft_failed) = match &verdict {
            Verdict::Accepted => (Status::Accepted, hide.is_some()),
            Verdict::SoftFailed(_) => (Status::Accepted, true),
            Verdict::Rejected(_) => (Status::Rejected, false),
        };
        let kept = self.keep(event, known, (status, soft_failed), before);
        let nid = kept.await?;
        let mut spot = Spot::Nowhere;
        let mut fate = match verdict {
            Verdict::Accepted => {
                hide.map_or(Fate::Accepted, |why| Fate::SoftFailed(why.to_owned()))
            }
            Verdict::SoftFailed(clause) => Fate::SoftFailed(clause.to_string()),
            Verdict::Rejected(clause) => Fate::Refused(clause.to_string()),
        };
        if fate == Fate::Accepted {
            if let Some(entry) = self.enter(event, nid, prev).await? {
                spot = Spot::Entry(entry);
            } else {
                self.hide(event);
                let reason = "the room has too many branches already";
                fate = Fate::SoftFailed(reason.to_owned());
            }
        }
        let is_entry = matches!(spot, Spot::Entry(_));
        self.put(event, spot);
        if is_entry {
            self.redact(event, nid).await?;
        }
        Ok(fate)
    }

    /// Notes what a judged event is, and the state after it; resolution may ask for it at once.
    pub(super) async fn keep(
        &mut self,
        event: &Arc<Pdu>,
        known: Option<Known>,
        (status, soft_failed): (Status, bool),
        before: StateNid,
    ) -> Result<EventNid, GraphError> {
        if known.is_some() {
            self.stored.insert(event.hash());
        }
        let nid = known.map_or_else(|| self.store.numbers().event(), |known| known.nid);
        self.states.know(nid, event);
        let state_after = match key_of(event) {
            Some(key) if status == Status::Accepted => self.states.after(before, key, nid).await?,
            _ => before,
        };
        let known = Known {
            nid,
            event: Arc::clone(event),
            status,
            soft_failed,
            state_after,
        };
        self.known.insert(event.hash(), known);
        Ok(nid)
    }

    /// Hides an event from readers after all.
    fn hide(&mut self, event: &Pdu) {
        if let Some(known) = self.known.get_mut(&event.hash()) {
            known.soft_failed = true;
        }
    }

    /// Has an event stored that was kept.
    pub(super) fn put(&mut self, event: &Arc<Pdu>, spot: Spot) {
        let Some(known) = self.known.get(&event.hash()) else {
            return;
        };
        self.events.push(Admitted {
            event: Arc::clone(event),
            nid: known.nid,
            is_stored: self.stored.contains(&event.hash()),
            status: known.status,
            soft_failed: known.soft_failed,
            state_after: known.state_after,
            spot,
        });
    }

    /// What an accepted event makes of the line; none when the room has too many branches for it.
    async fn enter(
        &mut self,
        event: &Arc<Pdu>,
        nid: EventNid,
        prev: &[Known],
    ) -> Result<Option<Entry>, GraphError> {
        let kept = self.known.get(&event.hash());
        let state_after = kept.map_or(self.line, |kept| kept.state_after);
        let mut hidden = self.hidden(prev).await?;
        let mut tips = tips_after(&self.tips, event, &hidden);
        if tips.is_none() {
            hidden.extend(self.crowding(event).await?);
            tips = tips_after(&self.tips, event, &hidden);
        }
        let Some(tips) = tips else {
            return Ok(None);
        };
        self.tips = tips;
        self.branches.insert(event.id().clone(), state_after);
        let tips = &self.tips;
        self.branches
            .retain(|id, _| tips.iter().any(|(tip, _)| tip == id));
        let branches: BTreeSet<StateNid> = self.branches.values().copied().collect();
        let line = self.resolve(branches.iter().copied().collect()).await?;
        let own = key_of(event);
        let mut markers = Vec::new();
        for (key, (old, new)) in self.states.difference(self.line, line).await? {
            let is_its_own =
                own.as_ref() == Some(&key) && new.as_ref().is_some_and(|(row, _)| *row == nid);
            if !is_its_own {
                let id = |piece: Option<Piece>| piece.map(|(_, event)| event.id().clone());
                markers.push(Marker::Changed(Change {
                    key,
                    old: id(old),
                    new: id(new),
                }));
            }
        }
        // The log's readers take a state event as current from its entry on; where resolution
        // prefers what was there, a marker takes it back.
        if let Some(key) = own {
            let now = self.states.piece(line, &key).await?;
            let before = self.states.piece(self.line, &key).await?;
            let now = now.map(|(row, event)| (row, event.id().clone()));
            if now.as_ref().map(|(row, _)| *row) != Some(nid)
                && now.as_ref().map(|(row, _)| *row) == before.map(|(row, _)| row)
            {
                markers.push(Marker::Changed(Change {
                    key,
                    old: Some(event.id().clone()),
                    new: now.map(|(_, id)| id),
                }));
            }
        }
        self.line = line;
        Ok(Some(Entry {
            hidden,
            branches,
            line,
            markers,
        }))
    }

    /// The newest event that has to make room for another server's.
    async fn crowding(&mut self, event: &Pdu) -> Result<Option<OwnedEventId>, GraphError> {
        let mut tips = Vec::with_capacity(self.tips.len());
        for (id, _) in self.tips.clone() {
            if let Some(known) = self.named(&id).await? {
                tips.push((id, known.event));
            }
        }
        let senders: Vec<_> = tips
            .iter()
            .map(|(id, event)| (id, event.fields().sender.server_name()))
            .collect();
        Ok(crowding(&senders, event.fields().sender.server_name()).cloned())
    }

    /// What stands behind hidden events that an event follows: it follows that, too.
    async fn hidden(&mut self, prev: &[Known]) -> Result<Vec<OwnedEventId>, GraphError> {
        let is_hidden = |known: &Known| known.soft_failed || known.status == Status::Rejected;
        let mut open: Vec<Known> = prev
            .iter()
            .filter(|known| is_hidden(known))
            .cloned()
            .collect();
        let mut behind = Vec::new();
        let mut looked = 0;
        while let Some(known) = open.pop() {
            looked += 1;
            if looked > HIDDEN_MAX {
                break;
            }
            for id in known.event.fields().prev.clone() {
                if let Some(next) = self.named(&id).await?
                    && is_hidden(&next)
                    && !behind.contains(&id)
                {
                    open.push(next);
                }
                behind.push(id);
            }
        }
        Ok(behind)
    }

    /// One state out of those of several branches.
    pub(super) async fn resolve(&mut self, states: Vec<StateNid>) -> Result<StateNid, GraphError> {
        let [first, _, ..] = states.as_slice() else {
            return Ok(states.first().copied().unwrap_or_default());
        };
        if let Some(resolved) = self.resolved.get(&states) {
            return Ok(*resolved);
        }
        let mut maps = Vec::with_capacity(states.len());
        let mut rows: HashMap<EventHash, EventNid> = HashMap::new();
        for state in &states {
            let whole = self.states.whole(*state).await?;
            let map = whole.into_iter().map(|(key, (nid, event))| {
                rows.insert(event.hash(), nid);
                (key, event.hash())
            });
            maps.push(map.collect::<StateMap>());
        }
        let before = maps.first().cloned().unwrap_or_default();
        let mut resolution = Resolution::new(self.room.version, maps, Budget::DEFAULT)?;
        loop {
            let needs = resolution.needs()?;
            if needs.is_empty() {
                break;
            }
            for hash in needs {
                let known = self.lookup(hash).await?;
                let known = known.ok_or_else(|| GraphError::Missing(event_id(hash)))?;
                resolution.learn(AuthEntry {
                    event: known.event,
                    rejected: known.status == Status::Rejected,
                })?;
            }
        }
        let after = resolution.finish()?;
        let mut changes = BTreeMap::new();
        for (key, hash) in &after {
            if before.get(key) != Some(hash) {
                changes.insert(key.clone(), Some(self.row(&rows, *hash).await?));
            }
        }
        for key in before.into_keys() {
            if !after.contains_key(&key) {
                changes.insert(key, None);
            }
        }
        let resolved = self.states.changed(*first, changes).await?;
        self.resolved.insert(states, resolved);
        Ok(resolved)
    }

    async fn row(
        &mut self,
        rows: &HashMap<EventHash, EventNid>,
        hash: EventHash,
    ) -> Result<EventNid, GraphError> {
        if let Some(nid) = rows.get(&hash) {
            return Ok(*nid);
        }
        let known = self.lookup(hash).await?;
        known
            .map(|known| known.nid)
            .ok_or_else(|| GraphError::Missing(event_id(hash)))
    }

    /// Lets a redaction take effect.
    pub(super) async fn redact(
        &mut self,
        event: &Arc<Pdu>,
        because: EventNid,
    ) -> Result<(), GraphError> {
        let fields = event.fields();
        let Some(id) = fields.redacts.clone() else {
            return Ok(());
        };
        let Some(target) = self.named(&id).await? else {
            return Ok(());
        };
        let version = self.room.version;
        let keys = [
            StateKey::new("m.room.create", ""),
            StateKey::new("m.room.power_levels", ""),
        ];
        let mut found = self.states.pieces(self.line, &keys).await?.into_iter();
        let (Some(Some((_, create))), levels) = (found.next(), found.next().flatten()) else {
            return Ok(());
        };
        let levels = levels.as_ref().map(|(_, event)| event.as_ref());
        if !may_redact(event, &target.event, version, (&create, levels)) {
            return Ok(());
        }
        let json = target
            .event
            .redacted_json(version)
            .map_err(|error| damaged(format!("{id}: {error}")))?;
        self.redactions.push(Redacted {
            target: id,
            event: target.nid,
            because,
            json,
        });
        Ok(())
    }

    pub(super) async fn named(&mut self, id: &OwnedEventId) -> Result<Option<Known>, GraphError> {
        match hash_of(id) {
            Some(hash) => Ok(self.lookup(hash).await?),
            None => Ok(None),
        }
    }

    /// An event of this room that is stored or was woven in.
    pub(super) async fn lookup(&mut self, hash: EventHash) -> Result<Option<Known>, StoreError> {
        if let Some(known) = self.known.get(&hash) {
            return Ok(Some(known.clone()));
        }
        if self.absent.contains(&hash) {
            return Ok(None);
        }
        match self.store.event(hash).await? {
            Some(record) => self.found(&record),
            None => Ok(None),
        }
    }

    fn found(&mut self, record: &EventRecord) -> Result<Option<Known>, StoreError> {
        if record.room != self.room.nid {
            return Ok(None);
        }
        let known = Known {
            nid: record.nid,
            event: self.states.read(record)?,
            status: record.status,
            soft_failed: record.soft_failed,
            state_after: record.state_after,
        };
        self.known.insert(record.hash, known.clone());
        Ok(Some(known))
    }

    /// Reads what many events are going to be looked up for at once: themselves, and what they lean on.
    pub(super) async fn look_ahead<'e>(
        &mut self,
        events: impl Iterator<Item = &'e Arc<Pdu>>,
    ) -> Result<(), StoreError> {
        let mut open = HashSet::new();
        for event in events {
            open.insert(event.hash());
            open.extend(event.fields().auth.iter().filter_map(|id| hash_of(id)));
        }
        self.read_ahead(open).await
    }

    /// The same for events that get their part in the graph: what they follow, too.
    pub(super) async fn look_around(&mut self, events: &[Received]) -> Result<(), StoreError> {
        let mut open = HashSet::new();
        for Received { event, .. } in events {
            let fields = event.fields();
            open.insert(event.hash());
            let named = fields.auth.iter().chain(&fields.prev);
            open.extend(named.filter_map(|id| hash_of(id)));
        }
        self.read_ahead(open).await
    }

    async fn read_ahead(&mut self, mut open: HashSet<EventHash>) -> Result<(), StoreError> {
        open.retain(|hash| !self.known.contains_key(hash));
        let hashes: Vec<EventHash> = open.iter().copied().collect();
        let stored = self.store.numbered(&hashes).await?;
        let nids: Vec<EventNid> = stored.iter().map(|(_, nid)| *nid).collect();
        for record in self.store.events(&nids).await? {
            self.found(&record)?;
        }
        for (hash, _) in stored {
            open.remove(&hash);
        }
        self.absent.extend(open);
        Ok(())
    }

    /// What there is to store; nothing when all was known.
    pub(super) async fn finish(mut self) -> Result<Option<Admission>, GraphError> {
        if self.events.is_empty() {
            return Ok(None);
        }
        let difference = self
            .states
            .difference(self.room.state.nid, self.line)
            .await?;
        let news = difference.into_iter().map(|(key, (_, new))| (key, new));
        let changes = news.collect();
        let state = self.states.head(self.line).await?;
        Ok(Some(Admission {
            room: self.room.nid,
            onto: self.onto,
            states: self.states.into_new(),
            events: self.events,
            state,
            changes,
            redactions: self.redactions,
            relayed: false,
        }))
    }
}

impl Weave<'_> {
    /// The state before an event whose neighbours are known.
    pub(super) async fn before(
        &mut self,
        event: &Pdu,
    ) -> Result<BTreeMap<StateKey, Arc<Pdu>>, GraphError> {
        let (_, prev) = match self.around(event).await? {
            Ok(around) => around,
            Err(Fate::Lacks { prev, auth }) => {
                let missing = prev.into_iter().chain(auth).next();
                return Err(missing.map_or(GraphError::NoSuchRoom, GraphError::Missing));
            }
            Err(_) => return Err(GraphError::NoSuchRoom),
        };
        let mut states: Vec<StateNid> = prev.iter().map(|known| known.state_after).collect();
        states.sort_unstable();
        states.dedup();
        let before = self.resolve(states).await?;
        let whole = self.states.whole(before).await?;
        Ok(whole
            .into_iter()
            .map(|(key, (_, event))| (key, event))
            .collect())
    }
}
