//! Turning an invite down, taking a knock back: leaving a room that this hub is not in.
//!
//! A server of the room is told. Where none listens, the user is out all the same, here: nobody can
//! keep an invite in somebody's list by not answering.

use std::time::Duration;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    api::federation::membership::{create_leave_event, prepare_leave_event},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    ANSWER_PATIENCE, Place, lied, odd,
    outside::{Outside, keep, only_own, standing},
    place,
    template::{Wanted, rebuilt},
    turn_of,
};
use crate::{
    api::{PeerCommand, PeerReply, Refusal},
    hub::{Hub, desk::access::ours},
    room::Membership,
    store::OutsideRecord,
    wire::matrix::{Pdu, PduFields, Version},
};

/// How many servers are told: the invite's, and one or two more that may pass it on.
const TOLD_MAX: usize = 3;

/// How long it is waited for the end of what a user of ours does about the room at the moment.
const TURN_PATIENCE: Duration = Duration::from_secs(5);

/// Somebody who wants out of a room that we are not in.
struct Leaving {
    user: OwnedUserId,
    room: OwnedRoomId,
    version: Version,
    servers: Vec<OwnedServerName>,
    /// The invite or knock.
    because: Pdu,
    content: CanonicalJsonObject,
}

/// Leaves a room that is elsewhere. Gives whether there was anything of this kind to do: if not,
/// it is left like any other room here.
pub(in crate::hub::desk) async fn leave(
    hub: &Hub,
    user: &OwnedUserId,
    room: &RoomId,
    content: CanonicalJsonObject,
) -> Result<bool, Refusal> {
    let (servers, because, version) = match standing(hub, user, room).await? {
        Some(outside) if outside.membership == Membership::Leave => return Ok(true),
        Some(outside) => {
            let event = Pdu::read(&outside.event, outside.version);
            let event = event.map_err(|error| damaged(&error))?;
            (vec![outside.via], event, outside.version)
        }
        None => match stranded(hub, user, room).await? {
            Some(stranded) => stranded,
            None => return Ok(false),
        },
    };
    let leaving = Leaving {
        user: user.clone(),
        room: room.to_owned(),
        version,
        servers,
        because,
        content,
    };
    let hub = hub.shared().ok_or_else(Refusal::internal)?;
    let left = tokio::spawn(async move { go(&hub, &leaving).await }).await;
    left.map_err(|_| Refusal::internal())??;
    Ok(true)
}

/// A room that all of us have left, where the user is still invited or knocking.
async fn stranded(
    hub: &Hub,
    user: &OwnedUserId,
    room: &RoomId,
) -> Result<Option<(Vec<OwnedServerName>, Pdu, Version)>, Refusal> {
    let Some(record) = hub.store.room(room).await.map_err(ours)? else {
        return Ok(None);
    };
    let member = hub.store.membership(user, record.nid).await.map_err(ours)?;
    let Some(member) =
        member.filter(|member| matches!(member.membership, Membership::Invite | Membership::Knock))
    else {
        return Ok(None);
    };
    let Place::There(servers) = place(hub, user, (room, &[])).await? else {
        return Ok(None);
    };
    let event = hub.store.events(&[member.event]).await.map_err(ours)?;
    let Some(event) = event.into_iter().next() else {
        return Ok(None);
    };
    let event = event.pdu(&record).map_err(|error| damaged(&error))?;
    Ok(Some((servers, event, record.version)))
}

async fn go(hub: &Hub, leaving: &Leaving) -> Result<(), Refusal> {
    let _turn = hub.desk.turns.take(turn_of(&leaving.room)).await;
    let mut told = None;
    for server in leaving.servers.iter().take(TOLD_MAX) {
        match tell(hub, leaving, server).await {
            Ok(event) => {
                told = Some(event);
                break;
            }
            Err(refusal) => {
                let (room, why) = (&leaving.room, refusal.message);
                tracing::info!(%room, %server, why, "a server was not told that a user is out");
            }
        }
    }
    let event = match told {
        Some(event) => event,
        None => alone(hub, leaving)?,
    };
    let via = leaving.servers.first().ok_or_else(Refusal::internal)?;
    let outside = Outside {
        user: &leaving.user,
        room: &leaving.room,
        version: leaving.version,
        via,
        membership: Membership::Leave,
        event: &event,
        shown: only_own(&leaving.because),
    };
    keep(hub, outside).await
}

/// Tells one server.
async fn tell(hub: &Hub, leaving: &Leaving, server: &OwnedServerName) -> Result<Pdu, Refusal> {
    let asked = prepare_leave_event::v1::Request::new(leaving.room.clone(), leaving.user.clone());
    let command = PeerCommand::MakeLeave(Box::new(asked));
    let answer = hub.remote.ask(server, command, ANSWER_PATIENCE).await?;
    let PeerReply::MakeLeave(made) = answer else {
        return Err(odd(server).into());
    };
    let wanted = Wanted {
        room: &leaving.room,
        user: &leaving.user,
        membership: Membership::Leave,
        content: &leaving.content,
    };
    let event = rebuilt(hub, server, wanted, (leaving.version, &made.event))?;
    let raw = RawValue::from_string(event.json().to_string()).map_err(lied)?;
    let asked = create_leave_event::v2::Request::new(leaving.room.clone(), event.id().clone(), raw);
    let command = PeerCommand::SendLeave(Box::new(asked));
    hub.remote.ask(server, command, ANSWER_PATIENCE).await?;
    Ok(event)
}

/// The leave that only this hub knows of, right after what it answers.
fn alone(hub: &Hub, leaving: &Leaving) -> Result<Pdu, Refusal> {
    let mut content = leaving.content.clone();
    content.insert("membership".to_owned(), Membership::Leave.as_str().into());
    let because = leaving.because.id().clone();
    let fields = PduFields {
        room_id: leaving.room.clone(),
        kind: "m.room.member".to_owned(),
        sender: leaving.user.clone(),
        state_key: Some(leaving.user.to_string()),
        content,
        redacts: None,
        at: hub.now(),
        depth: leaving.because.fields().depth.saturating_add(1),
        prev: vec![because.clone()],
        auth: vec![because],
    };
    Pdu::sign(fields, leaving.version, &hub.key).map_err(|error| damaged(&error))
}

fn damaged(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error, "a stored invite is damaged");
    Refusal::internal()
}

/// What another server sends of a room that we are not in: that a user of ours is invited no more,
/// or that their knock was turned down. Of anything else nothing is said.
///
/// Only the server that the invite came from, or that was knocked at, is believed.
pub(in crate::hub::desk) async fn out(
    hub: &Hub,
    peer: &OwnedServerName,
    json: &str,
) -> Option<(OwnedEventId, Result<(), String>)> {
    let named: Named = serde_json::from_str(json).ok()?;
    let is_out = matches!(named.content.membership.as_str(), "leave" | "ban");
    if named.kind != "m.room.member" || !is_out || named.state_key.server_name() != hub.key.name() {
        return None;
    }
    let outside = standing(hub, &named.state_key, &named.room_id)
        .await
        .ok()??;
    let id = Pdu::read(json, outside.version).ok()?.id().clone();
    let outcome = put_out(hub, (peer, json), &outside).await;
    Some((id, outcome))
}

#[derive(Deserialize)]
struct Named {
    room_id: OwnedRoomId,
    state_key: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    content: NamedContent,
}

#[derive(Deserialize)]
struct NamedContent {
    membership: String,
}

async fn put_out(
    hub: &Hub,
    (peer, json): (&OwnedServerName, &str),
    outside: &OutsideRecord,
) -> Result<(), String> {
    if outside.membership == Membership::Leave {
        return Ok(());
    }
    let event = hub.remote.verified(json, outside.version).await;
    let event = event.map_err(|error| {
        tracing::info!(%peer, %error, "the end of an invite is not to be believed");
        error.told().to_owned()
    })?;
    let sender = event.fields().sender.server_name();
    if sender != outside.via || *peer != outside.via {
        return Err(format!("the invite is {}'s", outside.via));
    }
    // Not while the user is on the way into the room; and this server has more to send.
    let turn = hub.desk.turns.take(turn_of(&outside.room_id));
    let turn = tokio::time::timeout(TURN_PATIENCE, turn).await;
    let _turn = turn.map_err(|_| "the invite is just being answered".to_owned())?;
    let now = standing(hub, &outside.user, &outside.room_id).await;
    if now.is_ok_and(|now| now.is_none_or(|now| now.position != outside.position)) {
        return Ok(()); // answered or renewed meanwhile
    }
    let gone = Outside {
        user: &outside.user,
        room: &outside.room_id,
        version: outside.version,
        via: &outside.via,
        membership: Membership::Leave,
        event: &event,
        shown: Pdu::read(&outside.event, outside.version)
            .map_or_else(|_| "[]".to_owned(), |ended| only_own(&ended)),
    };
    keep(hub, gone).await.map_err(|refusal| refusal.message)
}
