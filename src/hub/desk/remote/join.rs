//! Joining a room that is on other servers only: a template, our join, the room's whole state.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    api::federation::{
        event::get_room_state,
        membership::{create_join_event, prepare_join_event},
    },
};
use serde_json::value::RawValue;

use super::{
    ANSWER_PATIENCE, ASKING_MAX, ENTRY_PATIENCE, Place, Refusals, lied, odd,
    outside::answered,
    place, spoken,
    template::{VOUCHING, Wanted, rebuilt},
    turn_of, version_of,
};
use crate::{
    api::{Code, PeerCommand, PeerReply, Refusal},
    hub::{
        Hub,
        desk::{
            access::ours,
            peers::{Teller, Told},
            reading::outsider,
        },
        graph::{self, Arrival, GraphError},
    },
    room::Membership,
    wire::matrix::{Pdu, Version},
};

/// Somebody who wants to join.
pub(in crate::hub::desk) struct Joining {
    /// Who.
    pub(in crate::hub::desk) user: OwnedUserId,
    /// The room.
    pub(in crate::hub::desk) room: OwnedRoomId,
    /// The servers that may be in it, as far as is known.
    pub(in crate::hub::desk) via: Vec<OwnedServerName>,
    /// What the join says of them.
    pub(in crate::hub::desk) content: CanonicalJsonObject,
}

/// What there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) enum Entered {
    /// The user is in.
    Joined,
    /// Nothing: the room is on this hub, and joined like any other here.
    Here,
}

/// Joins a room that is elsewhere. Who hangs up is in all the same: the other servers think so.
pub(in crate::hub::desk) async fn join(hub: &Hub, joining: Joining) -> Result<Entered, Refusal> {
    let Some(hub) = hub.shared() else {
        return Err(Refusal::busy(ANSWER_PATIENCE));
    };
    let entered = tokio::spawn(async move { enter(&hub, &joining).await }).await;
    entered.map_err(|error| {
        tracing::error!(%error, "a join broke off");
        Refusal::internal()
    })?
}

async fn enter(hub: &Hub, joining: &Joining) -> Result<Entered, Refusal> {
    let _turn = hub.desk.turns.take(turn_of(&joining.room)).await;
    // Somebody of ours may have come in meanwhile.
    let there = place(hub, &joining.user, (&joining.room, &joining.via)).await?;
    let Place::There(servers) = there else {
        return Ok(Entered::Here);
    };
    let Ok(_entry) = hub.desk.elsewhere.entries.acquire().await else {
        return Err(Refusal::busy(ANSWER_PATIENCE)); // never closed
    };
    let began = hub.now();
    let mut refusals = Refusals::default();
    for server in &servers {
        if hub.now() > began + ASKING_MAX {
            break;
        }
        match through(hub, joining, server).await {
            Ok(()) => {
                // It counts no more: where the user is in the room is newer.
                if let Err(refusal) = answered(hub, &joining.user, &joining.room).await {
                    tracing::info!(why = refusal.message, "an answered invite is still kept");
                }
                return Ok(Entered::Joined);
            }
            Err(refusal) => refusals.add(server, refusal),
        }
    }
    let refusal = refusals.into_one(&format!("{} could not be joined", joining.room));
    Err(in_their_terms(hub, joining, refusal).await)
}

/// Where other servers refuse it: first how it came that they do, as far as is known here.
async fn in_their_terms(hub: &Hub, joining: &Joining, refusal: Refusal) -> Refusal {
    if refusal.code != Code::Forbidden {
        return refusal;
    }
    match outsider::why_out(hub, &joining.user, &joining.room).await {
        Some(why) => Refusal {
            message: format!("{why}; {}", refusal.message),
            ..refusal
        },
        None => refusal,
    }
}

/// Joins through one server.
async fn through(hub: &Hub, joining: &Joining, server: &OwnedServerName) -> Result<(), Refusal> {
    let (version, join) = made(hub, joining, server).await?;
    let told = sent(hub, joining, server, &join).await?;
    let join = signed_by_all(hub, server, version, join, told.event.as_deref()).await?;
    let join = Arc::new(join);
    let teller = Teller {
        hub,
        peer: server,
        room: &joining.room,
        version,
    };
    // One after the other: what was read is let go of before the next is.
    let state = believable(teller, told.state).await;
    let chain = believable(teller, told.auth_chain).await;
    must_be_the_room((&joining.room, version), &state.events)?;
    let mut refused = state.refused;
    refused.extend(chain.refused);
    let (state, mut auth_chain) = (state.events, chain.events);
    let told = [&*state, &*auth_chain, std::slice::from_ref(&join)];
    let more = teller.leant_on(&told, refused).await.map_err(ours)?;
    auth_chain.extend(more);
    let arrival = Arrival {
        version,
        join,
        state,
        auth_chain,
    };
    let arrived = graph::arrive(&hub.store, &hub.writer, &joining.room, &arrival).await;
    arrived.map(drop).map_err(|error| match error {
        GraphError::NotAsTold(_) | GraphError::Missing(_) | GraphError::Resolve(_) => lied(error),
        GraphError::Write(error) => error.into(),
        GraphError::NoSuchRoom | GraphError::Store(_) => {
            tracing::error!(%error, "a room that was joined could not be stored");
            Refusal::internal()
        }
    })
}

/// Our join, in the place that the server proposes.
pub(super) async fn made(
    hub: &Hub,
    joining: &Joining,
    server: &OwnedServerName,
) -> Result<(Version, Pdu), Refusal> {
    let mut asked =
        prepare_join_event::v1::Request::new(joining.room.clone(), joining.user.clone());
    asked.ver = spoken();
    let command = PeerCommand::MakeJoin(Box::new(asked));
    let answer = hub.remote.ask(server, command, ANSWER_PATIENCE).await?;
    let PeerReply::MakeJoin(answer) = answer else {
        return Err(odd(server).into());
    };
    let version = version_of(answer.room_version.as_ref())?;
    let wanted = Wanted {
        room: &joining.room,
        user: &joining.user,
        membership: Membership::Join,
        content: &joining.content,
    };
    let join = rebuilt(hub, server, wanted, (version, &answer.event))?;
    Ok((version, join))
}

/// The room, as the server tells it once it has taken our join.
pub(super) async fn sent(
    hub: &Hub,
    joining: &Joining,
    server: &OwnedServerName,
    join: &Pdu,
) -> Result<create_join_event::v2::RoomState, Refusal> {
    let raw = RawValue::from_string(join.json().to_string()).map_err(lied)?;
    let asked = create_join_event::v2::Request::new(joining.room.clone(), join.id().clone(), raw);
    let command = PeerCommand::SendJoin(Box::new(asked));
    let answer = hub.remote.ask(server, command, ENTRY_PATIENCE).await?;
    let PeerReply::SendJoin(answer) = answer else {
        return Err(odd(server).into());
    };
    let mut told = answer.room_state;
    if told.members_omitted {
        // Not asked for. The rest cannot be told from the part: so the whole.
        let asked = get_room_state::v1::Request::new(join.id().clone(), joining.room.clone());
        let command = PeerCommand::StateBefore(Box::new(asked));
        let answer = hub.remote.ask(server, command, ENTRY_PATIENCE).await?;
        let PeerReply::StateBefore(whole) = answer else {
            return Err(odd(server).into());
        };
        told.state = whole.pdus;
        told.auth_chain = whole.auth_chain;
    }
    Ok(told)
}

/// Our join with the signature of who vouches for it, where somebody does.
// spec: server-server §Restricted-rooms
pub(super) async fn signed_by_all(
    hub: &Hub,
    server: &OwnedServerName,
    version: Version,
    ours: Pdu,
    told: Option<&RawValue>,
) -> Result<Pdu, Refusal> {
    if !ours.fields().content.contains_key(VOUCHING) {
        return Ok(ours);
    }
    let told = told.ok_or_else(|| lied("it did not give back the join that it vouches for"))?;
    let signed = hub.remote.verified(told.get(), version).await;
    let signed = signed.map_err(super::answer_disbelieved)?;
    let is_ours = signed.id() == ours.id() && signed.fields().content == ours.fields().content;
    if !is_ours {
        return Err(lied("it gave back another join than ours"));
    }
    if !signed.is_signed_by(server) {
        return Err(lied("it vouches for the join, and did not sign it"));
    }
    Ok(signed)
}

async fn believable(teller: Teller<'_>, told: Vec<Box<RawValue>>) -> Told {
    let told: Vec<&RawValue> = told.iter().map(|json| &**json).collect();
    teller.believable(&told).await
}

/// The state must begin with the event that founded this room, in this version.
fn must_be_the_room(
    (room, version): (&RoomId, Version),
    state: &[Arc<Pdu>],
) -> Result<(), Refusal> {
    let mut all = state.iter().map(|event| event.fields());
    let create = all
        .find(|fields| fields.kind == "m.room.create" && fields.state_key.as_deref() == Some(""));
    // That its hash is the room id, since v12, is in its `room_id`: that is where it comes from.
    let create = create.ok_or_else(|| lied(format!("no event founded {room}")))?;
    let said = create.content.get("room_version");
    let said = said.and_then(|version| version.as_str()).unwrap_or("1");
    if said == version.as_str() {
        return Ok(());
    }
    let message = format!("the room was founded in version {said}, and proposed in {version}");
    let refusal = Refusal::new(Code::IncompatibleRoomVersion, message);
    Err(refusal.with("room_version", said))
}
