//! From graph to line: events of other servers become part of a room.
//!
//! Everything costly happens here, beside the writer: the graph around an event is read, its state
//! is found and where branches meet resolved, it is judged, and what readers are to be told of it is
//! worked out. The writer takes the outcome if the room is still the one it was worked out for; if
//! not, it is worked out again.
//!
//! Events come in with form, hashes and signatures checked, and where they name others that are not
//! known here, that is said, not fetched: asking other servers is their caller's.

mod arrival;
mod past;
mod states;
#[cfg(test)]
mod tests;
mod tie;
mod weave;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedEventId, RoomId};
use thiserror::Error;

use self::weave::Weave;
pub use self::{
    past::Past,
    tie::{is_loose, knot},
};
use super::writer::{Submitted, WriteError, Writer};
use crate::{
    base::{EventHash, Position, Seq},
    room::{Heads, ResolveError, StateKey},
    store::{RoomRecord, SharedStore, StateHead, StoreError, hash_of},
    wire::{
        chain,
        matrix::{Pdu, Version},
    },
};

/// How often events are woven in again because the room moved on meanwhile.
///
/// Only events that change its state, or its branches, make that necessary.
const TRIES_MAX: u32 = 8;

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in the log.
    Accepted,
    /// It was here already.
    Known,
    /// It is in the graph and hidden from readers, because of this.
    SoftFailed(String),
    /// It was rejected, because of this.
    Refused(String),
    /// It names events that are not known here.
    Lacks {
        /// Among those that it follows.
        prev: Vec<OwnedEventId>,
        /// Among those that it leans on.
        auth: Vec<OwnedEventId>,
    },
}

/// Events could not be woven in.
#[derive(Debug, Error)]
pub enum GraphError {
    /// There is no such room here.
    #[error("no such room")]
    NoSuchRoom,
    /// State resolution needs an event that is not stored.
    #[error("state resolution needs {0}, which is not stored")]
    Missing(OwnedEventId),
    /// State resolution would cost too much, or was given what it cannot use.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The room that a server told of cannot be so.
    #[error("the room cannot be as it was told: {0}")]
    NotAsTold(String),
    /// Ours.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was not stored.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// An event as it came, checked as far as it can be without its room.
#[derive(Clone, Debug)]
pub struct Received {
    /// The event.
    pub event: Arc<Pdu>,
    /// Why readers are not to see it although the room's rules allow it. It is part of the graph all
    /// the same, so that what follows it does not wait for ever.
    pub hide: Option<String>,
}

impl From<Arc<Pdu>> for Received {
    fn from(event: Arc<Pdu>) -> Self {
        Self { event, hide: None }
    }
}

/// Weaves events into a room and stores them: what became of each, in the order given, and the
/// commit unless there was nothing to store.
pub async fn weave(
    store: &SharedStore,
    writer: &Writer,
    room: &RoomId,
    events: &[Received],
) -> Result<(Vec<Fate>, Option<Submitted>), GraphError> {
    woven(store, writer, (room, events), false).await
}

/// The same for an event that another server has made with the help of this one: the other servers
/// in the room are told by this one.
pub async fn weave_relayed(
    store: &SharedStore,
    writer: &Writer,
    room: &RoomId,
    event: Received,
) -> Result<(Vec<Fate>, Option<Submitted>), GraphError> {
    woven(store, writer, (room, &[event]), true).await
}

async fn woven(
    store: &SharedStore,
    writer: &Writer,
    (room, events): (&RoomId, &[Received]),
    relayed: bool,
) -> Result<(Vec<Fate>, Option<Submitted>), GraphError> {
    let order = in_order(events);
    for _ in 0..TRIES_MAX {
        let record = store.room(room).await?.ok_or(GraphError::NoSuchRoom)?;
        let mut weave = Weave::begin(store, &record).await?;
        weave.look_around(events).await?;
        let mut fates = vec![Fate::Known; events.len()];
        for at in &order {
            let (Some(event), Some(fate)) = (events.get(*at), fates.get_mut(*at)) else {
                continue;
            };
            *fate = weave.add_or_refuse(event).await?;
        }
        let Some(mut admission) = weave.finish().await? else {
            return Ok((fates, None));
        };
        admission.relayed = relayed;
        match writer.admit(room, admission).await {
            Ok(submitted) => return Ok((fates, Some(submitted))),
            Err(WriteError::Moved) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(WriteError::Busy.into())
}

/// A room's state before an event of it, as the graph has it.
pub async fn state_before(
    store: &SharedStore,
    room: &RoomRecord,
    event: &Pdu,
) -> Result<BTreeMap<StateKey, Arc<Pdu>>, GraphError> {
    Weave::begin(store, room).await?.before(event).await
}

/// A room of another server, as its answer to our join tells it.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The room's version.
    pub version: Version,
    /// Our user's join, as that server took it.
    pub join: Arc<Pdu>,
    /// The room's state before it.
    pub state: Vec<Arc<Pdu>>,
    /// What that state leans on.
    pub auth_chain: Vec<Arc<Pdu>>,
}

/// Takes a room in that one of our users has joined elsewhere. Hashes and signatures were checked.
pub async fn arrive(
    store: &SharedStore,
    writer: &Writer,
    room: &RoomId,
    arrival: &Arrival,
) -> Result<Submitted, GraphError> {
    for _ in 0..TRIES_MAX {
        let stored = store.room(room).await?;
        let is_new = stored.is_none();
        let record = stored.unwrap_or_else(|| nothing_yet(store, room, arrival.version));
        let mut weave = Weave::begin(store, &record).await?;
        weave.arrive(arrival, is_new).await?;
        let Some(admission) = weave.finish().await? else {
            return Err(GraphError::NotAsTold("nothing of it is new".to_owned()));
        };
        match writer.admit(room, admission).await {
            Err(WriteError::Moved) => {}
            outcome => return Ok(outcome?),
        }
    }
    Err(WriteError::Busy.into())
}

/// A room of which nothing is stored.
fn nothing_yet(store: &SharedStore, room: &RoomId, version: Version) -> RoomRecord {
    RoomRecord {
        nid: store.numbers().room(),
        id: room.to_owned(),
        version,
        heads: Heads {
            seq: Seq::ZERO,
            chain: chain::genesis(room.as_str()),
            tips: Vec::new(),
        },
        state: StateHead::default(),
        position: Position::ZERO,
    }
}

/// Takes in what another server tells of a room's past: what became of each event, in the order
/// given, and the commit unless there was nothing to store.
pub async fn remember(
    store: &SharedStore,
    writer: &Writer,
    room: &RoomId,
    past: &Past,
) -> Result<(Vec<Fate>, Option<Submitted>), GraphError> {
    for _ in 0..TRIES_MAX {
        let record = store.room(room).await?.ok_or(GraphError::NoSuchRoom)?;
        let mut weave = Weave::begin(store, &record).await?;
        let fates = weave.remember(past).await?;
        let Some(admission) = weave.finish().await? else {
            return Ok((fates, None));
        };
        match writer.admit(room, admission).await {
            Ok(submitted) => return Ok((fates, Some(submitted))),
            Err(WriteError::Moved) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(WriteError::Busy.into())
}

impl AsRef<Pdu> for Received {
    fn as_ref(&self) -> &Pdu {
        &self.event
    }
}

/// The events so that each comes after those among them that it names.
fn in_order(events: &[impl AsRef<Pdu>]) -> Vec<usize> {
    let places: HashMap<EventHash, usize> = events
        .iter()
        .enumerate()
        .map(|(at, event)| (event.as_ref().hash(), at))
        .collect();
    let mut done: HashSet<usize> = HashSet::new();
    let mut order = Vec::with_capacity(events.len());
    for first in 0..events.len() {
        let mut open = vec![(first, false)];
        while let Some((at, all_named_are_done)) = open.pop() {
            if done.contains(&at) {
                continue;
            }
            if all_named_are_done {
                done.insert(at);
                order.push(at);
                continue;
            }
            open.push((at, true));
            let fields = events.get(at).map(|event| event.as_ref().fields());
            let named = fields
                .into_iter()
                .flat_map(|fields| fields.prev.iter().chain(&fields.auth));
            let named = named.filter_map(|id| places.get(&hash_of(id)?).copied());
            // No event can name one that names it: that would take a hash of itself.
            open.extend(named.filter(|at| !done.contains(at)).map(|at| (at, false)));
        }
    }
    order
}
