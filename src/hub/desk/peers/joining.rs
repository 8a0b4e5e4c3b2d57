//! Users of other servers who come into rooms of this hub, leave them or knock: a template for
//! their server to sign, and what it signed.

use std::{str::FromStr as _, sync::Arc};

use ruma::{
    EventId, OwnedServerName, OwnedUserId, RoomId, UserId,
    api::federation::membership::{
        RawStrippedState, create_join_event, create_knock_event, create_leave_event,
        prepare_join_event, prepare_knock_event, prepare_leave_event,
    },
};
use serde_json::value::RawValue;

use super::{
    damaged, is_in, must_be_of, policy, raw_json,
    reading::{auth_chain, failed},
    room_for,
};
use crate::{
    api::{Code, Refusal, Unverified, Why},
    hub::{
        Hub, WriteError,
        desk::{access::ours, presence, remote},
        graph::{self, Fate, GraphError},
    },
    room::{MemberChange, Membership, Part, Room, StateKey},
    store::RoomRecord,
    wire::matrix::{Pdu, Version},
};

/// See `api::PeerCommand::MakeJoin`.
pub(super) async fn make_join(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: prepare_join_event::v1::Request,
) -> Result<prepare_join_event::v1::Response, Refusal> {
    let room = room_for(hub, peer, &asked.room_id).await?;
    must_be_spoken(&room, &asked.ver)?;
    let template = template(hub, peer, &room, &asked.user_id, MemberChange::Join).await?;
    let mut response = prepare_join_event::v1::Response::new(template);
    response.room_version = Some(room.version.id());
    Ok(response)
}

/// See `api::PeerCommand::MakeLeave`.
pub(super) async fn make_leave(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: prepare_leave_event::v1::Request,
) -> Result<prepare_leave_event::v1::Response, Refusal> {
    let room = room_for(hub, peer, &asked.room_id).await?;
    let template = template(hub, peer, &room, &asked.user_id, MemberChange::Leave).await?;
    Ok(prepare_leave_event::v1::Response::new(
        Some(room.version.id()),
        template,
    ))
}

/// See `api::PeerCommand::MakeKnock`.
pub(super) async fn make_knock(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: prepare_knock_event::v1::Request,
) -> Result<prepare_knock_event::v1::Response, Refusal> {
    let room = room_for(hub, peer, &asked.room_id).await?;
    must_be_spoken(&room, &asked.ver)?;
    let template = template(hub, peer, &room, &asked.user_id, MemberChange::Knock).await?;
    Ok(prepare_knock_event::v1::Response::new(
        room.version.id(),
        template,
    ))
}

/// See `api::PeerCommand::SendJoin`. All members are told, whatever was asked.
// spec: server-server §Joining-Rooms
pub(super) async fn send_join(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: create_join_event::v2::Request,
) -> Result<create_join_event::v2::Response, Refusal> {
    let room = room_for(hub, peer, &asked.room_id).await?;
    let told = (&*asked.room_id, &*asked.event_id);
    let vouched = vouched_for(hub, &room, asked.pdu.get()).await?;
    let join = vouched.as_deref().unwrap_or_else(|| asked.pdu.get());
    let event = member_event(hub, peer, &room, told, (join, Membership::Join)).await?;
    let before = graph::state_before(&hub.store, &room, &event).await;
    let before = before.map_err(|error| match error {
        GraphError::Missing(_) => unknown_before(),
        other => failed(&other),
    })?;
    take(hub, &room, &event).await?;
    presence::meets(hub, room.nid).await;
    let state: Vec<Arc<Pdu>> = before.into_values().collect();
    let chain = auth_chain(hub, &room, &state).await?;
    let raw = |event: &Arc<Pdu>| raw_json(event.json().to_string());
    let mut answer = create_join_event::v2::RoomState::new();
    answer.state = state.iter().map(raw).collect::<Result<_, _>>()?;
    answer.auth_chain = chain.iter().map(raw).collect::<Result<_, _>>()?;
    answer.event = Some(raw(&event)?);
    Ok(create_join_event::v2::Response::new(answer))
}

/// See `api::PeerCommand::SendLeave`.
pub(super) async fn send_leave(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: create_leave_event::v2::Request,
) -> Result<create_leave_event::v2::Response, Refusal> {
    let room = room_for(hub, peer, &asked.room_id).await?;
    let told = (&*asked.room_id, &*asked.event_id);
    let event = member_event(hub, peer, &room, told, (asked.pdu.get(), Membership::Leave)).await?;
    take(hub, &room, &event).await?;
    Ok(create_leave_event::v2::Response::new())
}

/// See `api::PeerCommand::SendKnock`.
pub(super) async fn send_knock(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: create_knock_event::v1::Request,
) -> Result<create_knock_event::v1::Response, Refusal> {
    let room = room_for(hub, peer, &asked.room_id).await?;
    let told = (&*asked.room_id, &*asked.event_id);
    let event = member_event(hub, peer, &room, told, (asked.pdu.get(), Membership::Knock)).await?;
    take(hub, &room, &event).await?;
    let state = stripped(hub, &room).await?;
    Ok(create_knock_event::v1::Response::new(state))
}

/// A room of a version that the asking server does not speak is of no use to it.
fn must_be_spoken(room: &RoomRecord, spoken: &[ruma::RoomVersionId]) -> Result<(), Refusal> {
    let is_it = |version: &ruma::RoomVersionId| {
        Version::from_str(version.as_str()).is_ok_and(|version| version == room.version)
    };
    if spoken.iter().any(is_it) {
        return Ok(());
    }
    let version = room.version.to_string();
    let refusal = Refusal::new(
        Code::IncompatibleRoomVersion,
        format!("this room has version {version}"),
    );
    let passes = format!("the joining server speaks the room's version {version}");
    let refusal = refusal.because(Why::default().passes(passes));
    Err(refusal.with("room_version", version))
}

/// The event that a user's server is to complete and sign.
async fn template(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &RoomRecord,
    user: &UserId,
    change: MemberChange,
) -> Result<Box<RawValue>, Refusal> {
    must_be_of(peer, user)?;
    if !is_in(hub, room, hub.key.name()).await? {
        let message = format!("nobody of this server is in {}", room.id);
        return Err(Refusal::not_found(message));
    }
    let vouching = match change {
        MemberChange::Join => vouching(hub, room, user).await?,
        _ => None,
    };
    let part = Part::Member {
        target: user.to_owned(),
        change,
        content: ruma::CanonicalJsonObject::new(),
    };
    let mut staged = Room::loaded(room.id.clone(), room.version, room.heads.clone());
    let mut keys = staged.needs(user, &part).state;
    keys.extend(vouching.as_deref().map(StateKey::member));
    let found = hub.store.current(room.nid, &keys).await.map_err(ours)?;
    for (key, event) in keys.into_iter().zip(found) {
        let event = event.map(|event| event.pdu(room)).transpose();
        let event = event.map_err(|error| damaged(&error))?;
        staged.learn(key, event.map(Arc::new));
    }
    let fields = staged
        .template(user, change, vouching.as_deref(), hub.now())
        .map_err(WriteError::Refused)?;
    let json = Pdu::template(&fields, room.version).map_err(|error| damaged(&error))?;
    raw_json(json)
}

/// Who of ours lets a user into a restricted room, where they are not invited and meet its
/// condition as far as this server can tell.
// spec: server-server §Restricted-rooms
pub(in crate::hub::desk) async fn vouching(
    hub: &Hub,
    room: &RoomRecord,
    user: &UserId,
) -> Result<Option<OwnedUserId>, Refusal> {
    let keys = [
        StateKey::new("m.room.join_rules", ""),
        StateKey::member(user),
    ];
    let found = hub.store.current(room.nid, &keys).await.map_err(ours)?;
    let mut found = found.into_iter();
    let (Some(Some(rules)), member) = (found.next(), found.next().flatten()) else {
        return Ok(None);
    };
    if let Some(member) = member {
        let member = member.pdu(room).map_err(|error| damaged(&error))?;
        if matches!(
            Membership::of(member.fields()),
            Membership::Invite | Membership::Join
        ) {
            return Ok(None);
        }
    }
    let rules = rules.pdu(room).map_err(|error| damaged(&error))?;
    let content = &rules.fields().content;
    let rule = content.get("join_rule").and_then(|rule| rule.as_str());
    if !matches!(rule, Some("restricted" | "knock_restricted")) {
        return Ok(None);
    }
    let allowed = content.get("allow").and_then(|allow| allow.as_array());
    for allow in allowed.unwrap_or_default().iter().take(ALLOWED_ROOMS_MAX) {
        let other = allow
            .as_object()
            .and_then(|allow| allow.get("room_id")?.as_str());
        let Some(other) = other.and_then(|other| <&RoomId>::try_from(other).ok()) else {
            continue;
        };
        let other = hub.store.room(other).await.map_err(ours)?;
        let Some(other) = other else { continue };
        let there = hub.store.membership(user, other.nid).await.map_err(ours)?;
        if there.is_some_and(|there| there.membership == Membership::Join) {
            return who_may_invite(hub, room).await;
        }
    }
    Err(Refusal::new(
        Code::UnableToAuthoriseJoin,
        "this server cannot tell whether the user meets the room's conditions",
    ))
}

/// How many rooms of a restricted room's list are looked at.
const ALLOWED_ROOMS_MAX: usize = 64;

/// How many of our users in a room are asked whether they may invite.
const VOUCHING_MAX: usize = 256;

async fn who_may_invite(hub: &Hub, room: &RoomRecord) -> Result<Option<OwnedUserId>, Refusal> {
    let ours_there = hub.store.joined(room.nid, Some(hub.key.name()));
    let ours_there = ours_there.await.map_err(ours)?;
    let keys = ["m.room.create", "m.room.power_levels"].map(|kind| StateKey::new(kind, ""));
    let found = hub.store.current(room.nid, &keys).await.map_err(ours)?;
    let mut events = Vec::new();
    for event in &found {
        let event = event.as_ref().map(|event| event.pdu(room)).transpose();
        events.push(event.map_err(|error| damaged(&error))?);
    }
    let mut events = events.into_iter();
    let (Some(Some(create)), levels) = (events.next(), events.next().flatten()) else {
        return Ok(None);
    };
    let may = |user: &OwnedUserId| {
        crate::room::may_invite(user, room.version, (&create, levels.as_ref()))
    };
    let found = ours_there.into_iter().take(VOUCHING_MAX).find(may);
    found.map(Some).ok_or_else(|| {
        Refusal::new(
            Code::UnableToAuthoriseJoin,
            "nobody of this server may invite into the room",
        )
    })
}

/// Reads and checks a membership event that a server sends of one of its users: it must be the one
/// that the request's path names, and nothing else.
async fn member_event(
    hub: &Hub,
    peer: &OwnedServerName,
    room: &RoomRecord,
    (room_id, event_id): (&RoomId, &EventId),
    (json, wanted): (&str, Membership),
) -> Result<Arc<Pdu>, Refusal> {
    let event = hub.remote.verified(json, room.version).await;
    let event = event.map_err(|error| remote::told_wrongly("event", error))?;
    let fields = event.fields();
    let is_wanted = fields.kind == "m.room.member"
        && fields.state_key.as_deref() == Some(fields.sender.as_str())
        && Membership::of(fields) == wanted;
    if !is_wanted {
        let message = format!("the event is not its sender's own {wanted:?}");
        return Err(Refusal::invalid_param(message.to_lowercase()));
    }
    if fields.room_id != room_id || event.id() != event_id {
        let message = "the event is not the one that the path names";
        return Err(Refusal::invalid_param(message));
    }
    must_be_of(peer, &fields.sender)?;
    Ok(Arc::new(event))
}

/// A join that one of our users vouches for, with our signature: only with it the join is one that
/// can be checked. Whether its user meets the room's conditions is looked at again: nobody has to ask
/// for a template first.
// spec: server-server §Restricted-rooms
async fn vouched_for(hub: &Hub, room: &RoomRecord, json: &str) -> Result<Option<String>, Refusal> {
    let join = Pdu::read(json, room.version);
    let join =
        join.map_err(|error| remote::told_wrongly("event", Unverified::Form(error.to_string())))?;
    let fields = join.fields();
    let by = fields.content.get("join_authorised_via_users_server");
    let by = by.and_then(|by| <&UserId>::try_from(by.as_str()?).ok());
    if by.is_none_or(|by| by.server_name() != hub.key.name()) {
        return Ok(None);
    }
    vouching(hub, room, &fields.sender).await?;
    let signed = join.countersigned(room.version, &hub.key);
    let signed = signed.map_err(|error| Refusal::bad_json(error.to_string()))?;
    Ok(Some(signed.json().to_string()))
}

/// Weaves it in; refused unless it came into the room.
async fn take(hub: &Hub, room: &RoomRecord, event: &Arc<Pdu>) -> Result<(), Refusal> {
    let server = policy::policy_server(hub, room).await?;
    let event = policy::vouched_for(hub, room, server.as_ref(), Arc::clone(event)).await;
    let woven = graph::weave_relayed(&hub.store, &hub.writer, &room.id, event).await;
    let (fates, _) = woven.map_err(|error| failed(&error))?;
    match fates.into_iter().next() {
        Some(Fate::Accepted | Fate::Known) => Ok(()),
        Some(Fate::SoftFailed(why) | Fate::Refused(why)) => Err(Refusal::forbidden(why)),
        Some(Fate::Lacks { .. }) | None => Err(unknown_before()),
    }
}

fn unknown_before() -> Refusal {
    Refusal::invalid_param("the event follows or leans on events that are not known here")
}

/// What somebody outside is told of a room.
async fn stripped(hub: &Hub, room: &RoomRecord) -> Result<Vec<RawStrippedState>, Refusal> {
    let kinds = [
        "m.room.create",
        "m.room.name",
        "m.room.avatar",
        "m.room.topic",
        "m.room.join_rules",
        "m.room.canonical_alias",
        "m.room.encryption",
    ];
    let keys = kinds.map(|kind| StateKey::new(kind, ""));
    let found = hub.store.current(room.nid, &keys).await.map_err(ours)?;
    let mut state = Vec::new();
    for event in found.into_iter().flatten() {
        state.push(RawStrippedState::Pdu(super::raw(&event)?));
    }
    Ok(state)
}
