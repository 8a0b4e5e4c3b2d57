//! This hub as a room's policy server: other servers ask it to vouch for events.
//!
//! It is asked about what others say, one event at a time, and answers with a signature or a refusal;
//! it gives events no order and judges none by the room's rules. What it answered once it answers
//! again: decisions are kept by the event's id.

use std::sync::Arc;

use ruma::{CanonicalJsonObject, OwnedServerName, RoomId, api::federation::policy::sign_event};

use super::room_for;
use crate::{
    api::{Refusal, Unverified, Why},
    hub::{
        Hub,
        desk::{access::ours, remote::no_key},
        graph::Received,
        policing::NotVouchedFor,
    },
    room::{POLICY_KEY_VERSION, PolicyServer},
    store::{Batch, EventRecord, PolicyDecision, RoomRecord, Write},
    wire::{
        json,
        matrix::{Pdu, Version},
    },
};

/// See `api::PeerCommand::PolicySign`.
// spec: server-server §Policy-Servers
pub(super) async fn sign(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: sign_event::v1::Request,
) -> Result<sign_event::v1::Response, Refusal> {
    let answer = answer(hub, peer, asked).await;
    let by_rule = |refusal: &Refusal| {
        let code = refusal.why.as_ref().and_then(|why| why.code);
        code.is_some_and(|code| code.starts_with("POLICY_"))
    };
    let outcome = match &answer {
        Ok(_) => "vouched",
        Err(refusal) if by_rule(refusal) => "refused",
        Err(_) => "not judged",
    };
    metrics::counter!("tramline_policy_requests_total", "outcome" => outcome).increment(1);
    answer
}

async fn answer(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: sign_event::v1::Request,
) -> Result<sign_event::v1::Response, Refusal> {
    let room = room_of(&asked)?;
    let room = room_for(hub, peer, &room).await?;
    let Some(server) = policy_server(hub, &room).await? else {
        return Err(unprotected(&room));
    };
    if !hub.policing.is_ours(&server) {
        return Err(unprotected(&room));
    }
    let event = hub.remote.verified(asked.pdu.get(), room.version).await;
    let event = event.map_err(|error| match error {
        Unverified::Form(why) | Unverified::Wrong(why) => {
            Refusal::bad_json(format!("the event: {why}"))
        }
        Unverified::NoKey { told, whole } => no_key(&told, whole),
    })?;
    if event.fields().room_id != room.id {
        return Err(Refusal::bad_json("the event is of another room"));
    }
    if !PolicyServer::is_asked_about(&event) {
        let message = "the event that names the policy server needs no signature of it";
        return Err(Refusal::forbidden(message).with_status(400));
    }
    let signed = decided(hub, &event, room.version).await?;
    let signature = signature_of(&signed, hub.key.name().as_str());
    let signature = signature.ok_or_else(Refusal::internal)?;
    let answer = sign_event::v1::Response::new(hub.key.name().clone(), signature);
    Ok(answer)
}

/// Decides on an event of another server, or finds what was decided; the decision is stored before it
/// is told.
pub(super) async fn decided(hub: &Hub, event: &Pdu, version: Version) -> Result<Arc<Pdu>, Refusal> {
    let hash = event.hash();
    let turn = hub.desk.turns.take(("policy", hash.0)).await;
    let refused = if let Some(PolicyDecision { refused }) =
        hub.store.policy_decision(hash).await.map_err(ours)?
    {
        refused
    } else {
        let now = hub.now();
        let refused = match hub.policing.vouch(event, version, now) {
            Ok(_) => None,
            Err(NotVouchedFor::Refused(why)) => Some(format!("{}: {why}", why.code())),
            Err(error) => {
                tracing::error!(%error, "an event could not be signed");
                return Err(Refusal::internal());
            }
        };
        let decided = Write::PolicyDecided {
            event: hash,
            refused: refused.clone(),
            at: now,
        };
        let batch = Batch {
            writes: vec![decided],
            may_conflict: false,
        };
        hub.writer.write(batch, Vec::new()).await?;
        refused
    };
    drop(turn);
    if let Some(why) = refused {
        let mut reason = policy_why(&why, &event.fields().room_id);
        reason.event = Some(event.id().to_string());
        let refusal = Refusal::forbidden(why).with_status(400);
        return Err(refusal.because(reason));
    }
    let signed = hub.policing.signed(event, version);
    signed.map(Arc::new).map_err(|error| {
        tracing::error!(%error, "an event could not be signed");
        Refusal::internal()
    })
}

/// An event of another server, hidden unless the room's policy server vouches for it: that is asked
/// where the event does not show it.
pub(super) async fn vouched_for(
    hub: &Hub,
    room: &RoomRecord,
    server: Option<&PolicyServer>,
    event: Arc<Pdu>,
) -> Received {
    let Some(server) = server else {
        return event.into();
    };
    let version = room.version;
    if !PolicyServer::is_asked_about(&event) || server.vouches_for(&event, version) {
        return event.into();
    }
    let asked = if hub.policing.is_ours(server) {
        let decided = decided(hub, &event, version).await;
        decided.map_err(|refusal| refusal.message)
    } else {
        let signed = hub.policing.ask(server, &event, version).await;
        signed.map(Arc::new).map_err(|error| error.to_string())
    };
    match asked {
        Ok(signed) => signed.into(),
        Err(why) => Received {
            event,
            hide: Some(why),
        },
    }
}

/// An event that we built, with what the room's policy server says to it; refused where that does.
pub(in crate::hub::desk) async fn must_be_vouched_for(
    hub: &Hub,
    room: &RoomRecord,
    event: Pdu,
) -> Result<Arc<Pdu>, Refusal> {
    let server = policy_server(hub, room).await?;
    let received = vouched_for(hub, room, server.as_ref(), Arc::new(event)).await;
    match received.hide {
        Some(why) => {
            let reason = policy_why(&why, &room.id);
            Err(Refusal::forbidden(why).because(reason))
        }
        None => Ok(received.event),
    }
}

/// A room's policy server, if it has one and one of its users is there.
pub(super) async fn policy_server(
    hub: &Hub,
    room: &RoomRecord,
) -> Result<Option<PolicyServer>, Refusal> {
    let keys = [PolicyServer::state_key()];
    let found = hub.store.current(room.nid, &keys);
    let found = found.await.map_err(ours)?;
    policy_server_of(hub, room, found.into_iter().flatten().next()).await
}

/// The same where the event that names it is read already.
pub(super) async fn policy_server_of(
    hub: &Hub,
    room: &RoomRecord,
    event: Option<EventRecord>,
) -> Result<Option<PolicyServer>, Refusal> {
    let Some(event) = event else {
        return Ok(None);
    };
    let event = event.pdu(room).map_err(|error| super::damaged(&error))?;
    let Some(server) = PolicyServer::read(&event.fields().content) else {
        return Ok(None);
    };
    let there = hub.store.joined(room.nid, Some(&server.via)).await;
    let is_there = !there.map_err(ours)?.is_empty();
    Ok(is_there.then_some(server))
}

/// Why a policy server does not vouch for an event, by its words: ours begin with the rule's code.
pub(super) fn policy_why(said: &str, room: &RoomId) -> Why {
    const OURS: [&str; 5] = [
        "POLICY_USER",
        "POLICY_SERVER",
        "POLICY_TYPE",
        "POLICY_SIZE",
        "POLICY_RATE",
    ];
    let (code, rule) = said.split_once(": ").unwrap_or((said, said));
    let ours = OURS.into_iter().find(|known| *known == code);
    match ours {
        Some(code) => Why::of(code).rule(rule),
        None => Why::of("POLICY_ELSEWHERE").rule(said),
    }
    .room(room)
}

fn room_of(asked: &sign_event::v1::Request) -> Result<ruma::OwnedRoomId, Refusal> {
    let event = json::read_object(asked.pdu.get().as_bytes())
        .map_err(|error| Refusal::bad_json(format!("the event: {error}")))?;
    let room = event.get("room_id").and_then(|id| id.as_str());
    if let Some(room) = room.and_then(|id| ruma::OwnedRoomId::try_from(id).ok()) {
        return Ok(room);
    }
    // Since v12 the first event names no room: the room is named after it.
    let first = Pdu::read(asked.pdu.get(), Version::V12).ok();
    let room = first.map(|event| event.fields().room_id.clone());
    room.ok_or_else(|| Refusal::bad_json("the event has no `room_id`"))
}

fn unprotected(room: &RoomRecord) -> Refusal {
    Refusal::not_found(format!(
        "this server is not the policy server of {}",
        room.id
    ))
}

pub(super) fn signature_of(event: &Pdu, server: &str) -> Option<String> {
    let event: CanonicalJsonObject = serde_json::from_str(event.json()).ok()?;
    let signatures = event.get("signatures")?.as_object()?;
    let ours = signatures.get(server)?.as_object()?;
    let signature = ours.get(&format!("ed25519:{POLICY_KEY_VERSION}"))?;
    signature.as_str().map(str::to_owned)
}
