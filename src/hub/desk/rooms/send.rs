//! What is said in rooms: messages, state, redactions.

use ruma::api::client::{
    message::send_message_event::v3 as message, redact::redact_event::v3 as redaction,
    state::send_state_event::v3 as state,
};
use ruma::{OwnedEventId, RoomId};

use crate::{
    api::{Caller, Refusal},
    hub::{
        Hub, Submission,
        desk::{
            access::ours,
            canonical_alias,
            rooms::{charged, content, refusal},
        },
    },
    room::{Draft, Part},
    store::{SentBy, TxnAnswer, TxnKey},
};

/// See `api::Command::Send`.
///
/// spec: client-server-rooms §Transaction-identifiers
pub(in crate::hub::desk) async fn send(
    hub: &Hub,
    caller: &Caller,
    request: message::Request,
) -> Result<message::Response, Refusal> {
    let kind = request.event_type.to_string();
    let endpoint = format!("send {} {kind}", request.room_id);
    let part = Part::Event {
        kind,
        state_key: None,
        content: content(&request.body)?,
    };
    let txn = request.txn_id.to_string();
    let event = once(hub, caller, &request.room_id, part, endpoint, txn).await?;
    Ok(message::Response::new(event))
}

/// See `api::Command::SendState`.
pub(in crate::hub::desk) async fn send_state(
    hub: &Hub,
    caller: &Caller,
    request: state::Request,
) -> Result<state::Response, Refusal> {
    let part = Part::Event {
        kind: request.event_type.to_string(),
        state_key: Some(request.state_key),
        content: content(&request.body)?,
    };
    hub.desk.rates().events(caller)?; // before other servers are asked anything
    canonical_alias::check(hub, caller, &request.room_id, &part).await?;
    let done = charged(hub, caller, &request.room_id, part).await?;
    first(done.events).map(state::Response::new)
}

/// See `api::Command::Redact`.
pub(in crate::hub::desk) async fn redact(
    hub: &Hub,
    caller: &Caller,
    request: redaction::Request,
) -> Result<redaction::Response, Refusal> {
    let endpoint = format!("redact {} {}", request.room_id, request.event_id);
    let part = Part::Redact {
        target: request.event_id,
        reason: request.reason,
    };
    let txn = request.txn_id.to_string();
    let event = once(hub, caller, &request.room_id, part, endpoint, txn).await?;
    Ok(redaction::Response::new(event))
}

/// Appends a part under a transaction id: a retry gets the first answer.
async fn once(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    part: Part,
    endpoint: String,
    txn: String,
) -> Result<OwnedEventId, Refusal> {
    hub.desk.rates().events(caller)?;
    let key = TxnKey {
        user: caller.user.clone(),
        device: caller.device.clone(),
        endpoint,
        txn: txn.clone(),
    };
    let submission = Submission {
        draft: Draft {
            sender: caller.user.clone(),
            parts: vec![part],
        },
        sent_by: Some(SentBy {
            device: caller.device.clone(),
            txn,
        }),
        txn: Some(key.clone()),
    };
    let error = match hub.writer.submit(room, submission).await {
        Ok(done) => return first(done.events),
        Err(error) => error,
    };
    let refused = refusal(error, hub, caller, room).await;
    // To find its words takes a while, in which another attempt may have been stored: what is done is not
    // refused afterwards.
    match hub.store.txn(&key).await.map_err(ours)? {
        Some(TxnAnswer::Event(done)) => Ok(done),
        _ => Err(refused),
    }
}

fn first(events: Vec<(OwnedEventId, Option<crate::base::Seq>)>) -> Result<OwnedEventId, Refusal> {
    let mut events = events.into_iter();
    events
        .next()
        .map(|(id, _)| id)
        .ok_or_else(Refusal::internal)
}
