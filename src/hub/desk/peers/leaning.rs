//! What another server tells of a room beside single events: many at a time checked, and what they
//! lean on and was not told asked for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use ruma::{OwnedEventId, RoomId, ServerName, api::federation::event::get_event};
use serde_json::value::RawValue;

use super::gaps::Faults;
use crate::{
    api::{PeerCommand, PeerReply},
    hub::Hub,
    store::{StoreError, hash_of},
    wire::matrix::{Pdu, Version},
};

/// How many events that others lean on are asked for one by one: a server that leaves out more than a
/// few does so on purpose.
const MISSING_MAX: usize = 128;

/// How often something that leans on something is found among them. A chain of events that lean on
/// each other has a handful: create, power, join rules, memberships.
const ROUNDS_MAX: usize = 16;

/// How many are asked for at once.
const AT_ONCE: usize = 4;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long asking for all of them may take.
const ALL_PATIENCE: Duration = Duration::from_secs(45);

/// Who tells something of which room.
#[derive(Clone, Copy)]
pub(in crate::hub::desk) struct Teller<'a> {
    pub(in crate::hub::desk) hub: &'a Hub,
    pub(in crate::hub::desk) peer: &'a ServerName,
    pub(in crate::hub::desk) room: &'a RoomId,
    pub(in crate::hub::desk) version: Version,
}

/// Events that were told, and which of them are not to be believed.
#[derive(Default)]
pub(in crate::hub::desk) struct Told {
    pub(in crate::hub::desk) events: Vec<Arc<Pdu>>,
    pub(in crate::hub::desk) refused: HashSet<OwnedEventId>,
    /// What was wrong with these.
    pub(in crate::hub::desk) faults: Faults,
}

impl Teller<'_> {
    /// Those of the events that are of this room and signed as they must be.
    pub(in crate::hub::desk) async fn believable(self, told: &[&RawValue]) -> Told {
        let texts: Vec<&str> = told.iter().map(|json| json.get()).collect();
        let remote = &self.hub.remote;
        let checked = remote.verified_from(self.peer, &texts, self.version).await;
        let mut told = Told::default();
        for (json, checked) in texts.iter().zip(checked) {
            let (peer, room) = (self.peer, self.room);
            let id = match checked {
                Ok(event) if event.fields().room_id == room => {
                    told.events.push(Arc::new(event));
                    continue;
                }
                Ok(event) => {
                    let of = &event.fields().room_id;
                    tracing::info!(event = %event.id(), %of, %room, %peer, "an event of another room");
                    let said = format!("{} is of room {of}", event.id());
                    told.faults.note("EVENT_ROOM", said);
                    Some(event.id().clone())
                }
                Err(error) => {
                    tracing::info!(%room, %peer, %error, "an event is not to be believed");
                    let read = Pdu::read(json, self.version).ok();
                    told.faults.note_of(read.as_ref(), &error);
                    read.map(|event| event.id().clone())
                }
            };
            told.refused.extend(id);
        }
        told
    }

    /// What these events lean on, as far as it was not told with them and is not stored, asked of who
    /// told them: as much of it as there is in bounded time. What is left out is missed where what
    /// leans on it is judged.
    // spec: server-server §Checks-performed-on-receipt-of-a-PDU
    pub(in crate::hub::desk) async fn leant_on(
        self,
        events: &[&[Arc<Pdu>]],
        refused: HashSet<OwnedEventId>,
    ) -> Result<Vec<Arc<Pdu>>, StoreError> {
        let mut seen = refused;
        let events = || events.iter().flat_map(|events| events.iter());
        seen.extend(events().map(|event| event.id().clone()));
        let named = events().flat_map(|event| &event.fields().auth);
        let mut open: Vec<OwnedEventId> = Vec::new();
        for id in named {
            if seen.insert(id.clone()) {
                open.push(id.clone());
            }
        }
        let mut found = Vec::new();
        let gathered = tokio::time::timeout(ALL_PATIENCE, self.gather(open, seen, &mut found));
        match gathered.await {
            Ok(gathered) => gathered?,
            Err(_) => {
                tracing::info!(peer = %self.peer, room = %self.room, "it is slow to tell the rest");
            }
        }
        Ok(found)
    }

    async fn gather(
        self,
        mut open: Vec<OwnedEventId>,
        mut seen: HashSet<OwnedEventId>,
        found: &mut Vec<Arc<Pdu>>,
    ) -> Result<(), StoreError> {
        let mut asked = 0;
        for _ in 0..ROUNDS_MAX {
            let mut unknown = unknown(self.hub, &open).await?;
            unknown.truncate(MISSING_MAX - asked);
            asked += unknown.len();
            if unknown.is_empty() {
                break;
            }
            let asking: Vec<_> = unknown.iter().map(|id| self.event(id)).collect();
            let told: Vec<_> = stream::iter(asking).buffered(AT_ONCE).collect().await;
            let told: Vec<Box<RawValue>> = told.into_iter().flatten().collect();
            let told: Vec<&RawValue> = told.iter().map(|json| &**json).collect();
            let mut new = self.believable(&told).await.events;
            new.retain(|event| unknown.contains(event.id()));
            open.clear();
            for id in new.iter().flat_map(|event| &event.fields().auth) {
                if seen.insert(id.clone()) {
                    open.push(id.clone());
                }
            }
            found.append(&mut new);
        }
        Ok(())
    }

    async fn event(self, id: &OwnedEventId) -> Option<Box<RawValue>> {
        let asked = get_event::v1::Request::new(id.clone());
        let asked = PeerCommand::PeerEvent(Box::new(asked));
        match self.hub.remote.ask(self.peer, asked, PATIENCE).await {
            Ok(PeerReply::PeerEvent(told)) => Some(told.pdu),
            Ok(_) => None,
            Err(error) => {
                tracing::info!(%id, %error, "an event that others lean on is not told");
                None
            }
        }
    }
}

/// Those of some events that are not stored, each once.
pub(super) async fn unknown(
    hub: &Hub,
    ids: &[OwnedEventId],
) -> Result<Vec<OwnedEventId>, StoreError> {
    let mut open = HashMap::new();
    for id in ids {
        if let Some(hash) = hash_of(id) {
            open.insert(hash, id);
        }
    }
    let hashes: Vec<_> = open.keys().copied().collect();
    for (stored, _) in hub.store.numbered(&hashes).await? {
        open.remove(&stored);
    }
    // In the order in which they were named: who tells them may have one before the other.
    let mut unknown = Vec::with_capacity(open.len());
    for id in ids {
        if hash_of(id).is_some_and(|hash| open.remove(&hash).is_some()) {
            unknown.push(id.clone());
        }
    }
    Ok(unknown)
}
