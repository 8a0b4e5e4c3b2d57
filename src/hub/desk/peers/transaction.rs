//! What other servers send by themselves: up to fifty events at a time, each with its own outcome.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, UInt,
    api::federation::{event::get_missing_events, transactions::send_transaction_message},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{edus, room_for};
use crate::{
    api::{PeerCommand, PeerReply, Refusal},
    hub::{
        Hub,
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
    // After the events: a receipt is often for one of them.
    edus::receive(hub, peer, &asked.edus).await?;
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

/// Weaves events in, and asks for what is missing before them once.
async fn weave(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &RoomRecord,
    events: &[Arc<Pdu>],
) -> Vec<Fate> {
    if events.is_empty() {
        return Vec::new();
    }
    let first = graph::weave(&hub.store, &hub.writer, &room.id, events).await;
    let fates = match first {
        Ok((fates, _)) => fates,
        Err(error) => {
            tracing::warn!(%error, room = %room.id, "events could not be taken");
            return vec![Fate::Refused(error.to_string()); events.len()];
        }
    };
    let lacking: Vec<OwnedEventId> = events
        .iter()
        .zip(&fates)
        .filter(|(_, fate)| matches!(fate, Fate::Lacks { .. }))
        .map(|(event, _)| event.id().clone())
        .collect();
    if lacking.is_empty() {
        return fates;
    }
    let mut all = missing(hub, peer, room, lacking).await;
    if all.is_empty() {
        return fates;
    }
    let added = all.len();
    all.extend(events.iter().cloned());
    match graph::weave(&hub.store, &hub.writer, &room.id, &all).await {
        Ok((again, _)) => fates
            .into_iter()
            .zip(again.into_iter().skip(added))
            .map(|(first, again)| match first {
                Fate::Lacks { .. } => again,
                first => first,
            })
            .collect(),
        Err(_) => fates,
    }
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
            tracing::info!(%error, room = %room.id, "a gap stays open");
            return Vec::new();
        }
    };
    let mut events = Vec::new();
    let count = usize::try_from(GAP_MAX).unwrap_or(usize::MAX);
    for pdu in answer.events.iter().take(count) {
        match checked(hub, room, pdu.get()).await {
            Ok(event) => events.push(event),
            Err(why) => tracing::debug!(why, "an event of a gap is not taken"),
        }
    }
    events
}
