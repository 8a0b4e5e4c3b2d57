//! Invites that go to users of other servers, and those that come from there.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedUserId, RoomId,
    api::federation::membership::{RawStrippedState, create_invite},
};
use serde_json::value::RawValue;

use super::{
    ENTRY_PATIENCE, is_ours, lied, may_be_of, odd,
    outside::{Outside, keep, shown},
    version_of,
};
use crate::{
    api::{Caller, Code, PeerCommand, PeerReply, Refusal},
    hub::{
        Hub,
        desk::{access::ours, peers},
        graph::{self, Fate},
    },
    room::{Effect, Evidence, MemberChange, Membership, Part, Room, StateKey},
    store::RoomRecord,
    wire::matrix::{Pdu, Version},
};

/// Invites a user of another server: that server signs the invite before it is part of the room.
// spec: server-server §Inviting-to-a-room
pub(in crate::hub::desk) async fn invite(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    (target, content): (OwnedUserId, CanonicalJsonObject),
) -> Result<(), Refusal> {
    hub.desk.rates().events(caller)?;
    let record = hub.store.room(room).await.map_err(ours)?;
    let record = record.ok_or_else(|| Refusal::not_found(format!("no such room: {room}")))?;
    let Some(event) = built(hub, caller, &record, (target.clone(), content)).await? else {
        return Ok(()); // invited already
    };
    let event = peers::must_be_vouched_for(hub, &record, event).await?;
    let server = target.server_name().to_owned();
    let signed = countersigned(hub, &server, &record, &event).await?;
    take(hub, &record, signed).await
}

/// The invite, as the room stands now; none where it is one already.
async fn built(
    hub: &Hub,
    caller: &Caller,
    record: &RoomRecord,
    (target, content): (OwnedUserId, CanonicalJsonObject),
) -> Result<Option<Pdu>, Refusal> {
    let part = Part::Member {
        target,
        change: MemberChange::Invite,
        content,
    };
    let mut staged = Room::loaded(record.id.clone(), record.version, record.heads.clone());
    let keys = staged.needs(&caller.user, &part).state;
    let found = hub.store.current(record.nid, &keys).await.map_err(ours)?;
    for (key, event) in keys.into_iter().zip(found) {
        let event = event.map(|event| event.pdu(record)).transpose();
        staged.learn(key, event.map_err(|error| damaged(&error))?.map(Arc::new));
    }
    let evidence = Evidence {
        now: hub.now(),
        key: &hub.key,
        target: None,
    };
    let effects = staged.decide(&caller.user, &part, &evidence);
    let effects = effects.map_err(crate::hub::WriteError::Refused)?;
    Ok(effects.into_iter().find_map(|effect| match effect {
        Effect::Append(event) => Some((*event).clone()),
        Effect::Redact { .. } | Effect::Already { .. } => None,
    }))
}

/// The invite with the signature of the invited user's server.
async fn countersigned(
    hub: &Hub,
    server: &OwnedServerName,
    record: &RoomRecord,
    event: &Pdu,
) -> Result<Pdu, Refusal> {
    let raw = RawValue::from_string(event.json().to_string()).map_err(lied)?;
    let asked = create_invite::v2::Request::new(
        record.id.clone(),
        event.id().clone(),
        record.version.id(),
        raw,
        told(hub, record, event).await?,
    );
    let command = PeerCommand::InviteHere(Box::new(asked));
    let answer = hub.remote.ask(server, command, ENTRY_PATIENCE).await?;
    let PeerReply::InviteHere(answer) = answer else {
        return Err(odd(server).into());
    };
    let signed = hub
        .remote
        .verified(answer.event.get(), record.version)
        .await;
    let signed = signed.map_err(super::answer_disbelieved)?;
    if signed.id() != event.id() || signed.fields().content != event.fields().content {
        return Err(lied(format!("{server} gave back another invite than ours")));
    }
    if !signed.is_signed_by(server) {
        return Err(lied(format!("{server} did not sign the invite")));
    }
    Ok(signed)
}

/// What the invited user is shown of the room: whole events, its first one among them.
async fn told(
    hub: &Hub,
    record: &RoomRecord,
    invite: &Pdu,
) -> Result<Vec<RawStrippedState>, Refusal> {
    let mut keys: Vec<_> = super::outside::KINDS
        .map(|kind| StateKey::new(kind, ""))
        .into();
    keys.push(StateKey::member(&invite.fields().sender));
    let found = hub.store.current(record.nid, &keys).await.map_err(ours)?;
    let mut told = Vec::new();
    for event in found.into_iter().flatten() {
        let raw = RawValue::from_string(event.json.to_string());
        told.push(RawStrippedState::Pdu(raw.map_err(|error| damaged(&error))?));
    }
    Ok(told)
}

/// Weaves it in; the room may have moved on meanwhile.
async fn take(hub: &Hub, record: &RoomRecord, event: Pdu) -> Result<(), Refusal> {
    let events = [Arc::new(event).into()];
    let woven = graph::weave(&hub.store, &hub.writer, &record.id, &events).await;
    let (fates, _) = woven.map_err(|error| failed(&error))?;
    match fates.into_iter().next() {
        Some(Fate::Accepted | Fate::Known) => Ok(()),
        Some(Fate::SoftFailed(why) | Fate::Refused(why)) => Err(Refusal::forbidden(why)),
        Some(Fate::Lacks { .. }) | None => Err(Refusal::internal()),
    }
}

/// See `api::PeerCommand::InviteHere`: a user of ours is invited into a room of other servers.
///
/// Where we are in the room ourselves, the invite is an event of it like any other. Else it is kept
/// apart until it is answered.
pub(in crate::hub::desk) async fn invited(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: create_invite::v2::Request,
) -> Result<create_invite::v2::Response, Refusal> {
    let version = version_of(Some(&asked.room_version))?;
    if !may_be_of(&asked.room_id, version) {
        let message = format!("{} is no room of version {version}", asked.room_id);
        return Err(Refusal::invalid_param(message));
    }
    let event = hub.remote.verified(asked.event.get(), version).await;
    let event = event.map_err(|error| super::told_wrongly("invite", error))?;
    let fields = event.fields();
    if fields.room_id != asked.room_id || *event.id() != asked.event_id {
        let message = "the event is not the one that the path names";
        return Err(Refusal::invalid_param(message));
    }
    let user = invitee(hub, peer, &event).await?;
    let signed = event.countersigned(version, &hub.key);
    let signed = signed.map_err(|error| Refusal::invalid_param(error.to_string()))?;
    let record = hub.store.room(&asked.room_id).await.map_err(ours)?;
    let inside = match record {
        Some(record) if is_ours(hub, &record).await? => Some(record),
        _ => None,
    };
    if let Some(record) = inside {
        into_room(hub, peer, &record, version, &signed).await?;
    } else {
        let room = (&asked.room_id, version);
        let shown = shown(hub, room, asked.invite_room_state, &signed).await?;
        let outside = Outside {
            user: &user,
            room: &asked.room_id,
            version,
            via: peer,
            membership: Membership::Invite,
            event: &signed,
            shown,
        };
        keep(hub, outside).await?;
    }
    let raw = RawValue::from_string(signed.json().to_string());
    let raw = raw.map_err(|error| damaged(&error))?;
    Ok(create_invite::v2::Response::new(raw))
}

/// The user of ours that the event invites, as a user of the asking server may.
async fn invitee(hub: &Hub, peer: &OwnedServerName, event: &Pdu) -> Result<OwnedUserId, Refusal> {
    let fields = event.fields();
    if fields.kind != "m.room.member" || Membership::of(fields) != Membership::Invite {
        return Err(Refusal::invalid_param("the event is no invite"));
    }
    if fields.sender.server_name() != peer {
        let message = format!("{peer} does not speak for {}", fields.sender);
        return Err(Refusal::forbidden(message));
    }
    let user = fields.state_key.as_deref();
    let user = user.and_then(|user| OwnedUserId::try_from(user).ok());
    let Some(user) = user.filter(|user| user.server_name() == hub.key.name()) else {
        return Err(Refusal::invalid_param(
            "the event invites nobody of this server",
        ));
    };
    let record = hub.store.user(&user).await.map_err(ours)?;
    match record {
        Some(record) if !record.disabled => Ok(user),
        _ => Err(Refusal::not_found(format!("there is no user {user}"))),
    }
}

/// We are in the room: its rules say whether the invite holds.
async fn into_room(
    hub: &Hub,
    peer: &OwnedServerName,
    record: &RoomRecord,
    version: Version,
    event: &Pdu,
) -> Result<(), Refusal> {
    if version != record.version {
        let message = format!("this room has version {}", record.version);
        let refusal = Refusal::new(Code::IncompatibleRoomVersion, message);
        return Err(refusal.with("room_version", record.version.to_string()));
    }
    peers::must_be_let_in(hub, peer, record).await?;
    let events = [Arc::new(event.clone()).into()];
    let woven = graph::weave(&hub.store, &hub.writer, &record.id, &events).await;
    let (fates, _) = woven.map_err(|error| failed(&error))?;
    match fates.into_iter().next() {
        // What it follows has not come yet: it comes with that, by the ordinary way.
        Some(Fate::Accepted | Fate::Known | Fate::Lacks { .. }) => Ok(()),
        Some(Fate::SoftFailed(why) | Fate::Refused(why)) => Err(Refusal::forbidden(why)),
        None => Err(Refusal::internal()),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::warn!(error, "an invite could not be made part of its room");
    Refusal::internal()
}

fn damaged(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error, "a stored event is damaged");
    Refusal::internal()
}
