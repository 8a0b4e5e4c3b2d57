//! What came late: asking other servers for history from before our users were in a room, and for
//! the room as it was before a gap that is too large to be closed one event at a time.
//!
//! Everything here is bounded: how much is asked for, of whom, for how long, and how soon again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_room_state, get_room_state_ids},
    },
};
use serde_json::value::RawValue;
use thiserror::Error;

use super::{
    gaps::{Fault, Faults},
    leaning::{Teller, unknown},
};
use crate::{
    api::{PeerCommand, PeerReply, RemoteError},
    base::{Seq, Timestamp},
    hub::{
        Anchor, Hub,
        graph::{self, Fate, GraphError, Past},
    },
    store::{EventRecord, Logged, Marker, Order, RoomNid, RoomRecord, Status, StoreError, hash_of},
    wire::matrix::{Pdu, Version},
};

/// What events name that is not known here.
#[derive(Debug, Default)]
pub(super) struct OpenEnds {
    /// Events that others follow.
    pub(super) prev: BTreeSet<OwnedEventId>,
    /// Events of which it is not known what they lean on.
    pub(super) leaning: BTreeSet<OwnedEventId>,
}

/// How many open ends of one gap are looked behind. Each costs the room's whole state there; an
/// event follows at most as many.
const ENDS_MAX: usize = 20;

/// How long one question to another server may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Events of one state, or of what one state leans on, that are looked at: a room of that many
/// members is served, a larger one is not.
const STATE_MAX: usize = 100_000;

/// Up to how many events are fetched one by one; from there on the whole state is.
const SINGLE_MAX: usize = 32;

/// How many are fetched at once.
const AT_ONCE: usize = 4;

/// How many events one answer with history has.
const PAGE: u32 = 100;

/// How many events at the bottom of such a page are asked the state for: a straight room has one.
const BOTTOMS_MAX: usize = 8;

/// How many servers are asked for history before it is left: some are gone, and who joined lately has
/// none.
const SERVERS_MAX: usize = 8;

/// Of how many servers, those with the most users, it is looked up whether they were there at the time:
/// each is a question to the store, and many more than are asked.
const LOOKED_UP_MAX: usize = 64;

/// How long they may take together before no further one is asked: a reader waits for it.
const ALL_PATIENCE: Duration = Duration::from_secs(40);

/// How many rejected events are looked behind for history that is not known: a hundred pages of
/// nothing else.
const REJECTED_MAX: usize = 10_000;

/// How long history that nobody gave is not asked for again.
const REST: Duration = Duration::from_mins(10);

/// How many rooms are remembered as having no more.
const RESTING_MAX: usize = 4096;

/// Why a gap stays open.
#[derive(Debug, Error)]
pub(super) enum OpenGap {
    #[error("it has {0} open ends, at most {ENDS_MAX}")]
    TooMany(usize),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("{0} answered something else")]
    Answer(OwnedServerName),
    #[error("{id} is not to be believed: {}", fault.said)]
    Wrong { id: OwnedEventId, fault: Fault },
    #[error("its state has {0} events, at most {STATE_MAX}")]
    Large(usize),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenGap {
    /// The same with its stable reason, for the operator.
    pub(super) fn fault(&self) -> Fault {
        let code = match self {
            Self::TooMany(_) | Self::Large(_) => "GAP_TOO_LARGE",
            Self::Remote(error) => error.code(),
            Self::Wrong { fault, .. } => fault.code,
            Self::Answer(_) | Self::Graph(GraphError::NotAsTold(_) | GraphError::Missing(_)) => {
                "PEER_ANSWER"
            }
            Self::Graph(_) | Self::Store(_) => "M_UNKNOWN",
        };
        Fault::new(code, self.to_string())
    }
}

/// Takes in the events before a gap, with the room as it was there in the other server's words, and
/// what events lean on.
// spec: server-server §Checks-performed-on-receipt-of-a-PDU
pub(super) async fn close(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &RoomRecord,
    (ends, faults): (&OpenEnds, &mut Faults),
) -> Result<(), OpenGap> {
    let count = ends.prev.len() + ends.leaning.len();
    if count > ENDS_MAX {
        return Err(OpenGap::TooMany(count));
    }
    let mut told = Telling::of(hub, peer, room, Anchor::Next);
    let closed = told.close(ends).await;
    faults.append(std::mem::take(&mut told.faults));
    closed?;
    let (fates, _) = graph::remember(&hub.store, &hub.writer, &room.id, &told.past).await?;
    for (event, fate) in told.past.events.iter().zip(fates) {
        if let Fate::Refused(why) = fate {
            faults.note("EVENT_AUTH", format!("{}: {why}", event.id()));
        }
    }
    Ok(())
}

/// Asks for history before an entry, if the room was elsewhere then; whether there is more of it now.
pub(in crate::hub::desk) async fn fetch(hub: &Hub, room: &RoomRecord, anchor: Seq) -> bool {
    let _turn = hub.desk.turns.take(("history", room.nid.0)).await;
    if hub.desk.resting.rests(room.nid, anchor, hub.now()) {
        return false;
    }
    match history(hub, room, anchor).await {
        Ok(true) => true,
        Ok(false) => {
            hub.desk.resting.rest(room.nid, anchor, hub.now());
            false
        }
        Err(error) => {
            tracing::info!(%error, room = %room.id, "no history was had");
            hub.desk.resting.rest(room.nid, anchor, hub.now());
            false
        }
    }
}

async fn history(hub: &Hub, room: &RoomRecord, anchor: Seq) -> Result<bool, OpenGap> {
    let from = unknown_before(hub, room, anchor).await?;
    if from.is_empty() {
        return Ok(false);
    }
    let begun = hub.now();
    let mut servers = servers(hub, room).await?;
    let were_there = servers_at(hub, room, anchor, &servers).await?;
    servers.sort_by_key(|server| !were_there.contains(server));
    for server in servers.into_iter().take(SERVERS_MAX) {
        if hub.now().since(begun) >= ALL_PATIENCE {
            break;
        }
        match backfill(hub, &server, room, anchor, &from).await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => tracing::info!(%server, %error, room = %room.id, "history was not told"),
        }
    }
    Ok(false)
}

/// What the oldest known events there follow, and is not known.
async fn unknown_before(
    hub: &Hub,
    room: &RoomRecord,
    anchor: Seq,
) -> Result<Vec<OwnedEventId>, OpenGap> {
    let count = u32::try_from(ENDS_MAX).unwrap_or(u32::MAX);
    let mut oldest = hub
        .store
        .places(room.nid, anchor, Order::Forward, 0, count)
        .await?;
    if oldest.is_empty() {
        let before = Seq(anchor.0.saturating_sub(1));
        let entries = hub
            .store
            .log(room.nid, before, anchor.next(), Order::Forward, 2)
            .await?;
        let mut entries = entries.into_iter().map(|entry| entry.what);
        // Only where we came from outside there is a past that we were not told.
        let is_arrival = matches!(
            entries.next(),
            Some(Logged::Marker(bytes)) if matches!(Marker::read(&bytes), Ok(Marker::Arrived))
        );
        if let (true, Some(Logged::Event(join))) = (is_arrival, entries.next()) {
            oldest.push(join);
        }
    }
    behind(hub, room, &oldest).await
}

/// Those of the room's servers that had users in it when we came, or at another entry: who came later
/// was told nothing of what was before.
async fn servers_at(
    hub: &Hub,
    room: &RoomRecord,
    anchor: Seq,
    servers: &[OwnedServerName],
) -> Result<HashSet<OwnedServerName>, StoreError> {
    // Where we came, our join follows the anchor, and who was there is noted with what follows that. Who
    // came with this very entry is taken for one of them.
    let at = anchor.next().next();
    let mut were_there = HashSet::new();
    for server in servers.iter().take(LOOKED_UP_MAX) {
        let spans = hub.store.residencies(server, room.nid).await?;
        if spans.iter().any(|span| span.covers(at)) {
            were_there.insert(server.clone());
        }
    }
    Ok(were_there)
}

/// What events follow and is not known; behind rejected ones, which have no place, what those follow.
async fn behind(
    hub: &Hub,
    room: &RoomRecord,
    oldest: &[EventRecord],
) -> Result<Vec<OwnedEventId>, OpenGap> {
    let prev = |event: &EventRecord| {
        let event = event.pdu(room).map_err(|error| StoreError::Damaged {
            what: error.to_string(),
        })?;
        Ok::<_, StoreError>(event.fields().prev.clone())
    };
    let mut open = Vec::new();
    for event in oldest {
        open.extend(prev(event)?);
    }
    let (mut unknown, mut seen, mut rejected) = (Vec::new(), HashSet::new(), 0);
    while let Some(id) = open.pop() {
        if !seen.insert(id.clone()) || unknown.len() >= ENDS_MAX {
            continue;
        }
        let Some(hash) = hash_of(&id) else { continue };
        let event = hub.store.event(hash).await?;
        match event.filter(|event| event.status != Status::Outlier) {
            None => unknown.push(id),
            Some(event) if event.status == Status::Rejected && rejected < REJECTED_MAX => {
                rejected += 1;
                open.extend(prev(&event)?);
            }
            Some(_) => {}
        }
    }
    Ok(unknown)
}

/// Whether an event is part of its room's graph here.
pub(super) async fn is_known(hub: &Hub, id: &EventId) -> Result<bool, StoreError> {
    let Some(hash) = hash_of(id) else {
        return Ok(false);
    };
    let event = hub.store.event(hash).await?;
    Ok(event.is_some_and(|event| event.status != Status::Outlier))
}

/// The other servers of a room, those with the most users in it first.
pub(in crate::hub::desk) async fn servers(
    hub: &Hub,
    room: &RoomRecord,
) -> Result<Vec<OwnedServerName>, StoreError> {
    let mut users: HashMap<OwnedServerName, usize> = HashMap::new();
    for user in hub.store.joined(room.nid, None).await? {
        if user.server_name() != hub.key.name() {
            *users.entry(user.server_name().to_owned()).or_default() += 1;
        }
    }
    let mut servers: Vec<(usize, OwnedServerName)> = users
        .into_iter()
        .map(|(server, users)| (users, server))
        .collect();
    servers.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    Ok(servers.into_iter().map(|(_, server)| server).collect())
}

/// Takes in a page of history from one server; whether something of it is new.
// spec: server-server §Backfilling
async fn backfill(
    hub: &Hub,
    server: &OwnedServerName,
    room: &RoomRecord,
    anchor: Seq,
    from: &[OwnedEventId],
) -> Result<bool, OpenGap> {
    let asked = get_backfill::v1::Request::new(room.id.clone(), from.to_vec(), UInt::from(PAGE));
    let command = PeerCommand::Backfill(Box::new(asked));
    let PeerReply::Backfill(page) = hub.remote.ask(server, command, PATIENCE).await? else {
        return Err(OpenGap::Answer(server.clone()));
    };
    let mut told = Telling::of(hub, server, room, Anchor::Before(anchor));
    let count = usize::try_from(PAGE).unwrap_or(usize::MAX);
    let mut here = HashSet::new();
    let page: Vec<&RawValue> = page.pdus.iter().take(count).map(|pdu| &**pdu).collect();
    let page = told.teller().believable(&page).await;
    told.refused.extend(page.refused);
    for event in page.events {
        if here.insert(event.id().clone()) {
            told.past.events.push(event);
        }
    }
    let mut bottoms = Vec::new();
    for event in &told.past.events {
        for id in &event.fields().prev {
            if !here.contains(id) && !is_known(hub, id).await? {
                bottoms.push(event.id().clone());
                break;
            }
        }
    }
    for id in bottoms.iter().rev().take(BOTTOMS_MAX) {
        if let Err(error) = told.state_before(id).await {
            tracing::info!(%server, %id, %error, "the state before it is not told");
        }
    }
    told.complete().await?;
    let (_, stored) = graph::remember(&hub.store, &hub.writer, &room.id, &told.past).await?;
    if stored.is_none() {
        return Ok(false);
    }
    // A page of rejected events gives readers nothing, and leads on all the same.
    for id in from {
        if is_known(hub, id).await? {
            return Ok(true);
        }
    }
    let first = hub
        .store
        .places(room.nid, anchor, Order::Backward, 0, 1)
        .await?;
    Ok(!first.is_empty())
}

/// What one server tells of a room's past.
struct Telling<'a> {
    hub: &'a Hub,
    peer: &'a ServerName,
    room: &'a RoomRecord,
    past: Past,
    /// Events that were told and are not to be believed.
    refused: HashSet<OwnedEventId>,
    /// What was wrong with them.
    faults: Faults,
}

impl<'a> Telling<'a> {
    fn of(hub: &'a Hub, peer: &'a ServerName, room: &'a RoomRecord, anchor: Anchor) -> Self {
        Self {
            hub,
            peer,
            room,
            past: Past {
                events: Vec::new(),
                told: BTreeMap::new(),
                outliers: Vec::new(),
                anchor,
            },
            refused: HashSet::new(),
            faults: Faults::default(),
        }
    }

    /// Asks for what lies behind the open ends.
    async fn close(&mut self, ends: &OpenEnds) -> Result<(), OpenGap> {
        for id in &ends.leaning {
            self.leans_on(id).await?;
        }
        for id in &ends.prev {
            let event = self.event(id).await?;
            self.state_before(id).await?;
            self.past.events.push(event);
        }
        self.complete().await
    }

    fn teller(&self) -> Teller<'a> {
        Teller {
            hub: self.hub,
            peer: self.peer,
            room: &self.room.id,
            version: self.room.version,
        }
    }

    async fn ask(&self, command: PeerCommand) -> Result<PeerReply, OpenGap> {
        Ok(self.hub.remote.ask(self.peer, command, PATIENCE).await?)
    }

    fn other(&self) -> OpenGap {
        OpenGap::Answer(self.peer.to_owned())
    }

    /// An event; what it may not do is checked where it is woven in.
    async fn event(&self, id: &OwnedEventId) -> Result<Arc<Pdu>, OpenGap> {
        let wrong = |fault: Fault| OpenGap::Wrong {
            id: id.clone(),
            fault,
        };
        let asked = get_event::v1::Request::new(id.clone());
        let PeerReply::PeerEvent(told) = self.ask(PeerCommand::PeerEvent(Box::new(asked))).await?
        else {
            return Err(self.other());
        };
        let told = self.teller().believable(&[&told.pdu]).await;
        let event = told.events.into_iter().next();
        let event = event.ok_or_else(|| wrong(told.faults.first_or_other()))?;
        if event.id() != id {
            let said = format!("{} was told for it", event.id());
            return Err(wrong(Fault::new("PEER_ANSWER", said)));
        }
        Ok(event)
    }

    /// What an event leans on.
    async fn leans_on(&mut self, id: &OwnedEventId) -> Result<(), OpenGap> {
        let asked = get_event_authorization::v1::Request::new(self.room.id.clone(), id.clone());
        let PeerReply::EventAuth(told) = self.ask(PeerCommand::EventAuth(Box::new(asked))).await?
        else {
            return Err(self.other());
        };
        must_be_few(told.auth_chain.len())?;
        self.outliers(&told.auth_chain).await;
        Ok(())
    }

    async fn outliers(&mut self, pdus: &[Box<RawValue>]) {
        let pdus: Vec<&RawValue> = pdus.iter().map(|pdu| &**pdu).collect();
        let told = self.teller().believable(&pdus).await;
        self.refused.extend(told.refused);
        self.faults.append(told.faults);
        self.past.outliers.extend(told.events);
    }

    /// Asks for what all that was told leans on.
    async fn complete(&mut self) -> Result<(), OpenGap> {
        let told = [&*self.past.outliers, &*self.past.events];
        let refused = std::mem::take(&mut self.refused);
        let more = self.teller().leant_on(&told, refused).await?;
        self.past.outliers.extend(more);
        Ok(())
    }

    /// The room's state before an event, and those of its events that are not known here.
    async fn state_before(&mut self, id: &OwnedEventId) -> Result<(), OpenGap> {
        let room = &self.room.id;
        let asked = get_room_state_ids::v1::Request::new(id.clone(), room.clone());
        let asked = PeerCommand::StateIdsBefore(Box::new(asked));
        let PeerReply::StateIdsBefore(ids) = self.ask(asked).await? else {
            return Err(self.other());
        };
        must_be_few(ids.pdu_ids.len().saturating_add(ids.auth_chain_ids.len()))?;
        let named = ids.pdu_ids.iter().chain(&ids.auth_chain_ids);
        let unknown = self.unknown(named.cloned().collect()).await?;
        if unknown.len() > SINGLE_MAX {
            let asked = get_room_state::v1::Request::new(id.clone(), room.clone());
            let asked = PeerCommand::StateBefore(Box::new(asked));
            let PeerReply::StateBefore(state) = self.ask(asked).await? else {
                return Err(self.other());
            };
            must_be_few(state.pdus.len().saturating_add(state.auth_chain.len()))?;
            let mut told = state.auth_chain;
            told.extend(state.pdus);
            let unknown = those_of(told, unknown, self.room.version).await;
            self.outliers(&unknown).await;
        } else {
            let asked: Vec<_> = unknown.iter().map(|id| self.event(id)).collect();
            let fetched: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
            for event in fetched {
                match event {
                    Ok(event) => self.past.outliers.push(event),
                    Err(error) => {
                        tracing::debug!(%error, "an event of a state is not taken");
                        let Fault { code, said } = error.fault();
                        self.faults.note(code, said);
                    }
                }
            }
        }
        self.past.told.insert(id.clone(), ids.pdu_ids);
        Ok(())
    }

    /// Those of some events that are neither stored nor were told already.
    async fn unknown(&self, mut ids: Vec<OwnedEventId>) -> Result<HashSet<OwnedEventId>, OpenGap> {
        let told = self.past.outliers.iter().chain(&self.past.events);
        let told: HashSet<&OwnedEventId> = told.map(|event| event.id()).collect();
        ids.retain(|id| !told.contains(id));
        Ok(unknown(self.hub, &ids).await?.into_iter().collect())
    }
}

/// Those of the events that have these ids, each once however often it was told, found where nobody
/// waits behind it: to know an event's id is to hash it.
async fn those_of(
    told: Vec<Box<RawValue>>,
    mut ids: HashSet<OwnedEventId>,
    version: Version,
) -> Vec<Box<RawValue>> {
    let pick = move || {
        let mut is_one = |pdu: &RawValue| {
            let read = Pdu::read(pdu.get(), version);
            read.is_ok_and(|event| ids.remove(event.id()))
        };
        told.into_iter().filter(|pdu| is_one(pdu)).collect()
    };
    tokio::task::spawn_blocking(pick).await.unwrap_or_default()
}

fn must_be_few(count: usize) -> Result<(), OpenGap> {
    if count > STATE_MAX {
        return Err(OpenGap::Large(count));
    }
    Ok(())
}

/// Where history ended, and since when.
#[derive(Default)]
pub(in crate::hub::desk) struct Resting(Mutex<HashMap<(RoomNid, Seq), Timestamp>>);

impl Resting {
    fn rests(&self, room: RoomNid, anchor: Seq, now: Timestamp) -> bool {
        let since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = since.get(&(room, anchor)).copied();
        since.is_some_and(|since| now.0.saturating_sub(since.0) < ms(REST))
    }

    fn rest(&self, room: RoomNid, anchor: Seq, now: Timestamp) {
        let mut resting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if resting.len() >= RESTING_MAX {
            resting.retain(|_, since| now.0.saturating_sub(since.0) < ms(REST));
        }
        if resting.len() < RESTING_MAX {
            resting.insert((room, anchor), now);
        }
    }
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
