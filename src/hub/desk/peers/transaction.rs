//! What other servers send by themselves: up to fifty events at a time, each with its own outcome.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, UInt,
    api::federation::{event::get_missing_events, transactions::send_transaction_message},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{past, room_for};
use crate::{
    api::{PeerCommand, PeerReply, Refusal},
    hub::{
        Hub,
        desk::remote,
        graph::{self, Fate},
    },
    store::RoomRecord,
    wire::matrix::Pdu,
};

/// spec: server-server §Transactions
const EVENTS_MAX: usize = 50;
const EDUS_MAX: usize = 100;

/// How many events are asked for to close a gap.
const GAP_MAX: u32 = 20;

/// How long another server may take to send them.
const GAP_PATIENCE: Duration = Duration::from_secs(10);

/// What became of an event, as the sender is told.
type Outcome = Result<(), String>;

/// See `api::PeerCommand::Transaction`. One event that is wrong spoils none of the others.
// spec: server-server §Transactions
pub(super) async fn receive(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: send_transaction_message::v1::Request,
) -> Result<send_transaction_message::v1::Response, Refusal> {
    if asked.origin != *peer {
        let message = format!(
            "the transaction is of {}, its signature of {peer}",
            asked.origin
        );
        return Err(Refusal::forbidden(message));
    }
    if asked.pdus.len() > EVENTS_MAX || asked.edus.len() > EDUS_MAX {
        let message = format!("a transaction has at most {EVENTS_MAX} PDUs and {EDUS_MAX} EDUs");
        return Err(Refusal::invalid_param(message));
    }
    let mut rooms: BTreeMap<OwnedRoomId, Vec<&RawValue>> = BTreeMap::new();
    for pdu in &asked.pdus {
        // What names no room has no id that could be answered for either.
        if let Ok(named) = serde_json::from_str::<Named>(pdu.get()) {
            rooms.entry(named.room_id).or_default().push(pdu);
        }
    }
    let mut outcomes = BTreeMap::new();
    for (room, pdus) in rooms {
        in_room(hub, peer, &room, &pdus, &mut outcomes).await;
    }
    Ok(send_transaction_message::v1::Response::new(outcomes))
}

#[derive(Deserialize)]
struct Named {
    room_id: OwnedRoomId,
}

/// Takes the events of one room.
async fn in_room(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &RoomId,
    pdus: &[&RawValue],
    outcomes: &mut BTreeMap<OwnedEventId, Outcome>,
) {
    let is_in = remote::is_in(hub, room).await;
    if !is_in.unwrap_or(true) {
        // All that we are told of a room that we are not in is that an invite is taken back.
        for pdu in pdus {
            if let Some((event, outcome)) = remote::out(hub, peer, pdu.get()).await {
                outcomes.insert(event, outcome);
            }
        }
        return;
    }
    let record = match room_for(hub, peer, room).await {
        Ok(record) => record,
        Err(refusal) => {
            tracing::debug!(%peer, %room, why = refusal.message, "events of this room are not taken");
            return;
        }
    };
    let mut events = Vec::new();
    for pdu in pdus {
        let Ok(read) = Pdu::read(pdu.get(), record.version) else {
            continue; // it has no id under which it could be answered
        };
        match checked(hub, &record, pdu.get()).await {
            Ok(event) => events.push(event),
            Err(why) => drop(outcomes.insert(read.id().clone(), Err(why))),
        }
    }
    let fates = weave(hub, peer, &record, &events).await;
    for (event, fate) in events.iter().zip(fates) {
        let outcome = match fate {
            // What is hidden was taken all the same: the sender need not send it again.
            Fate::Accepted | Fate::Known | Fate::SoftFailed(_) => Ok(()),
            Fate::Refused(why) => Err(why),
            Fate::Lacks { .. } => Err("events before it could not be had".to_owned()),
        };
        outcomes.insert(event.id().clone(), outcome);
    }
}

async fn checked(hub: &Hub, room: &RoomRecord, json: &str) -> Result<Arc<Pdu>, String> {
    let event = hub.remote.verified(json, room.version).await;
    let event = event.map_err(|error| error.to_string())?;
    if event.fields().room_id != room.id {
        return Err(format!("it is of room {}", event.fields().room_id));
    }
    let sender = event.fields().sender.server_name();
    let acl = super::acl(hub, room)
        .await
        .map_err(|refusal| refusal.message)?;
    if let Some(acl) = acl {
        acl.check(sender).map_err(|why| why.to_string())?;
    }
    Ok(Arc::new(event))
}

/// Weaves events in, and asks for what is missing before them: first for what lies between, and if
/// that is more than a page, for the room as it was just before.
pub(in crate::hub::desk) async fn weave(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &RoomRecord,
    events: &[Arc<Pdu>],
) -> Vec<Fate> {
    if events.is_empty() {
        return Vec::new();
    }
    let mut all = events.to_vec();
    let mut fates = woven(hub, room, &all).await;
    for step in [Step::Between, Step::Before] {
        let lacking: Vec<&Arc<Pdu>> = all
            .iter()
            .zip(&fates)
            .filter(|(_, fate)| matches!(fate, Fate::Lacks { .. }))
            .map(|(event, _)| event)
            .collect();
        if lacking.is_empty() {
            break;
        }
        let more = match step {
            Step::Between => {
                let latest = lacking.iter().map(|event| event.id().clone()).collect();
                missing(hub, peer, room, latest).await
            }
            Step::Before => {
                let open = open_ends(&all, &fates);
                match past::close(hub, peer, room, &open).await {
                    Ok(()) => {}
                    Err(why) => {
                        tracing::info!(%peer, room = %room.id, %why, "a gap stays open");
                        break;
                    }
                }
                Vec::new()
            }
        };
        if step == Step::Between && more.is_empty() {
            continue;
        }
        all.extend(more);
        let again = woven(hub, room, &all).await;
        fates.resize(all.len(), Fate::Known);
        for (fate, again) in fates.iter_mut().zip(again) {
            // What was taken in the first time is known the second time.
            if again != Fate::Known || matches!(fate, Fate::Lacks { .. }) {
                *fate = again;
            }
        }
    }
    fates.truncate(events.len());
    fates
}

/// How a gap is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Between,
    Before,
}

async fn woven(hub: &Hub, room: &RoomRecord, events: &[Arc<Pdu>]) -> Vec<Fate> {
    match graph::weave(&hub.store, &hub.writer, &room.id, events).await {
        Ok((fates, _)) => fates,
        Err(error) => {
            tracing::warn!(%error, room = %room.id, "events could not be taken");
            vec![Fate::Refused(error.to_string()); events.len()]
        }
    }
}

/// What events name that neither is known nor is among them.
fn open_ends(events: &[Arc<Pdu>], fates: &[Fate]) -> past::OpenEnds {
    let here: HashSet<&OwnedEventId> = events.iter().map(|event| event.id()).collect();
    let mut ends = past::OpenEnds::default();
    for (event, fate) in events.iter().zip(fates) {
        let Fate::Lacks { prev, auth } = fate else {
            continue;
        };
        let unknown = prev.iter().filter(|id| !here.contains(id));
        ends.prev.extend(unknown.cloned());
        if auth.iter().any(|id| !here.contains(id)) {
            ends.leaning.insert(event.id().clone());
        }
    }
    ends
}

/// Events between what is known here and what was sent.
async fn missing(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &RoomRecord,
    latest: Vec<OwnedEventId>,
) -> Vec<Arc<Pdu>> {
    let known = room.heads.tips.iter().map(|(id, _)| id.clone()).collect();
    let mut asked = get_missing_events::v1::Request::new(room.id.clone(), known, latest);
    asked.limit = UInt::from(GAP_MAX);
    let command = PeerCommand::MissingEvents(Box::new(asked));
    let answer = match hub.remote.ask(peer, command, GAP_PATIENCE).await {
        Ok(PeerReply::MissingEvents(answer)) => answer,
        Ok(_) => return Vec::new(),
        Err(error) => {
            tracing::info!(%error, room = %room.id, "what lies in a gap is not told");
            return Vec::new();
        }
    };
    let count = usize::try_from(GAP_MAX).unwrap_or(usize::MAX);
    let texts = answer.events.iter().take(count).map(|pdu| pdu.get());
    let mut events = Vec::new();
    for json in texts {
        match checked(hub, room, json).await {
            Ok(event) => events.push(event),
            Err(why) => tracing::debug!(why, "an event of a gap is not taken"),
        }
    }
    events
}
