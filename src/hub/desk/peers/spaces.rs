//! What another server is shown of a space: the space's own summary and those of its children, as far
//! as its users may look or come in.

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    api::federation::space::{SpaceHierarchyParentSummary, get_hierarchy},
    room::RoomSummary,
    serde::Raw,
};
use serde_json::{Map, Value, json};

use super::{acl, damaged};
use crate::{
    api::Refusal,
    hub::{Hub, desk::access::ours},
    room::{Membership, StateKey},
    store::RoomRecord,
    wire::matrix::Pdu,
};

/// How many children of a space are told.
///
/// spec: server-server §Spaces
const CHILDREN_MAX: usize = 50;

/// See `api::PeerCommand::PeerHierarchy`.
// spec: server-server §Spaces
pub(super) async fn hierarchy(
    hub: &Hub,
    peer: &OwnedServerName,
    asked: get_hierarchy::v1::Request,
) -> Result<get_hierarchy::v1::Response, Refusal> {
    // Who may not look is not told that there is something.
    let nothing = || Refusal::not_found(format!("no such room for {peer}: {}", asked.room_id));
    let room = hub.store.room(&asked.room_id).await.map_err(ours)?;
    let room = room.ok_or_else(nothing)?;
    let looker = Looker::Server(peer);
    let summary = summary(hub, looker, &room).await?.ok_or_else(nothing)?;
    let children = children(hub, &room, asked.suggested_only).await?;
    let state = children.iter().map(stripped);
    let parent = SpaceHierarchyParentSummary::new(summary, state.collect());
    let mut answer = get_hierarchy::v1::Response::new(parent);
    for child in &children {
        let id = child.fields().state_key.as_deref();
        let Some(id) = id.and_then(|id| OwnedRoomId::try_from(id).ok()) else {
            continue;
        };
        let Some(room) = here(hub, &id).await? else {
            continue; // others can tell of it
        };
        match self::summary(hub, looker, &room).await? {
            Some(summary) => answer.children.push(summary),
            None => answer.inaccessible_children.push(id),
        }
    }
    Ok(answer)
}

/// Who looks at a space.
#[derive(Clone, Copy)]
pub(in crate::hub::desk) enum Looker<'a> {
    /// Another server, for its users.
    Server(&'a ServerName),
    /// A user of this hub.
    User(&'a UserId),
}

impl Looker<'_> {
    /// Whether the room keeps them out, whatever else it says.
    async fn is_kept_out(self, hub: &Hub, room: &RoomRecord) -> Result<bool, Refusal> {
        let Self::Server(peer) = self else {
            return Ok(false);
        };
        let acl = acl(hub, room).await?;
        Ok(acl.is_some_and(|acl| acl.check(peer).is_err()))
    }

    async fn is_in(self, hub: &Hub, room: &RoomRecord) -> Result<bool, Refusal> {
        match self {
            Self::Server(peer) => super::is_in(hub, room, peer).await,
            Self::User(user) => Ok(membership(hub, room, user).await? == Some(Membership::Join)),
        }
    }

    /// Whether they are in the room, or asked to be.
    async fn is_wanted(self, hub: &Hub, room: &RoomRecord) -> Result<bool, Refusal> {
        if let Self::User(user) = self {
            let membership = membership(hub, room, user).await?;
            return Ok(matches!(
                membership,
                Some(Membership::Join | Membership::Invite)
            ));
        }
        self.is_in(hub, room).await
    }

    /// Whether they are in one of these rooms.
    pub(in crate::hub::desk) async fn is_in_any(
        self,
        hub: &Hub,
        rooms: &[OwnedRoomId],
    ) -> Result<bool, Refusal> {
        for id in rooms {
            if let Some(room) = hub.store.room(id).await.map_err(ours)?
                && self.is_in(hub, &room).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

async fn membership(
    hub: &Hub,
    room: &RoomRecord,
    user: &UserId,
) -> Result<Option<Membership>, Refusal> {
    let found = hub.store.membership(user, room.nid).await.map_err(ours)?;
    Ok(found.map(|record| record.membership))
}

/// A room that somebody of this server is in.
pub(in crate::hub::desk) async fn here(
    hub: &Hub,
    id: &RoomId,
) -> Result<Option<RoomRecord>, Refusal> {
    let Some(room) = hub.store.room(id).await.map_err(ours)? else {
        return Ok(None);
    };
    let is_in = super::is_in(hub, &room, hub.key.name()).await?;
    Ok(is_in.then_some(room))
}

/// What is told of a room; none if who looks may neither see it nor come in.
pub(in crate::hub::desk) async fn summary(
    hub: &Hub,
    looker: Looker<'_>,
    room: &RoomRecord,
) -> Result<Option<RoomSummary>, Refusal> {
    if looker.is_kept_out(hub, room).await? {
        return Ok(None);
    }
    let state = State::of(hub, room).await?;
    let rule = state.text("m.room.join_rules", "join_rule");
    let rule = rule.unwrap_or("invite");
    let visibility = state.text("m.room.history_visibility", "history_visibility");
    let world_readable = visibility == Some("world_readable");
    let allowed = state.allowed();
    let is_open = matches!(rule, "public" | "knock" | "knock_restricted") || world_readable;
    if !is_open && !looker.is_wanted(hub, room).await? && !looker.is_in_any(hub, &allowed).await? {
        return Ok(None);
    }
    let joined = hub.store.joined(room.nid, None).await.map_err(ours)?.len();
    let guests = state.text("m.room.guest_access", "guest_access");
    let mut told = Map::new();
    let mut tell = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            told.insert(name.to_owned(), value);
        }
    };
    let text = |kind: &str, field: &str| state.text(kind, field).map(Value::from);
    tell("room_id", Some(json!(room.id)));
    tell("num_joined_members", Some(json!(joined)));
    tell("world_readable", Some(json!(world_readable)));
    tell("guest_can_join", Some(json!(guests == Some("can_join"))));
    tell("join_rule", Some(json!(rule)));
    tell("room_version", Some(json!(room.version.id())));
    tell("name", text("m.room.name", "name"));
    tell("topic", text("m.room.topic", "topic"));
    tell("avatar_url", text("m.room.avatar", "url"));
    tell("canonical_alias", text("m.room.canonical_alias", "alias"));
    tell("room_type", text("m.room.create", "type"));
    tell("encryption", text("m.room.encryption", "algorithm"));
    if !allowed.is_empty() {
        tell("allowed_room_ids", Some(json!(allowed)));
    }
    let summary = serde_json::from_value(Value::Object(told));
    summary.map(Some).map_err(|error| damaged(&error))
}

/// What a summary is made of.
struct State(Vec<Pdu>);

/// How many rooms of a restricted room's list are looked at.
const ALLOWED_MAX: usize = 64;

impl State {
    async fn of(hub: &Hub, room: &RoomRecord) -> Result<Self, Refusal> {
        const KINDS: [&str; 9] = [
            "m.room.avatar",
            "m.room.canonical_alias",
            "m.room.create",
            "m.room.encryption",
            "m.room.guest_access",
            "m.room.history_visibility",
            "m.room.join_rules",
            "m.room.name",
            "m.room.topic",
        ];
        let keys = KINDS.map(|kind| StateKey::new(kind, ""));
        let found = hub.store.current(room.nid, &keys).await.map_err(ours)?;
        let found = found.into_iter().flatten();
        let events = found.map(|event| event.pdu(room).map_err(|error| damaged(&error)));
        Ok(Self(events.collect::<Result<_, _>>()?))
    }

    fn event(&self, kind: &str) -> Option<&Pdu> {
        self.0.iter().find(|event| event.fields().kind == kind)
    }

    fn text(&self, kind: &str, field: &str) -> Option<&str> {
        self.event(kind)?.fields().content.get(field)?.as_str()
    }

    /// The rooms whose members may come in.
    fn allowed(&self) -> Vec<OwnedRoomId> {
        let rules = self.event("m.room.join_rules");
        let allow = rules.and_then(|rules| rules.fields().content.get("allow")?.as_array());
        let rooms = allow.unwrap_or_default().iter().take(ALLOWED_MAX);
        let id = |allow: &ruma::CanonicalJsonValue| {
            let id = allow.as_object()?.get("room_id")?.as_str()?;
            OwnedRoomId::try_from(id).ok()
        };
        rooms.filter_map(id).collect()
    }
}

/// The `m.space.child` events of a space, in order of their keys; those without `via` are none.
pub(in crate::hub::desk) async fn children(
    hub: &Hub,
    room: &RoomRecord,
    suggested_only: bool,
) -> Result<Vec<Pdu>, Refusal> {
    let all = hub.store.current_all(room.nid, Some("m.space.child")).await;
    let mut children = Vec::new();
    for event in all.map_err(ours)? {
        let event = event.pdu(room).map_err(|error| damaged(&error))?;
        let content = &event.fields().content;
        let is_suggested = content
            .get("suggested")
            .and_then(ruma::CanonicalJsonValue::as_bool);
        let has_via = content
            .get("via")
            .is_some_and(|via| via.as_array().is_some());
        if has_via && (!suggested_only || is_suggested == Some(true)) {
            children.push(event);
        }
        if children.len() == CHILDREN_MAX {
            break;
        }
    }
    Ok(children)
}

pub(in crate::hub::desk) fn stripped<T>(event: &Pdu) -> Raw<T> {
    let fields = event.fields();
    let told = json!({
        "type": fields.kind,
        "state_key": fields.state_key,
        "sender": fields.sender,
        "origin_server_ts": fields.at.0,
        "content": fields.content,
    });
    Raw::from_json_string(told.to_string()).expect("an object is JSON")
}
