//! The directory: rooms that everyone here may find.
//!
//! To be found is not to be open: who may join and who may read is the room's own state.

use std::time::Duration;

use ruma::{
    OwnedServerName, UInt,
    api::{
        client::{
            directory::{
                get_public_rooms, get_public_rooms_filtered, get_room_visibility,
                set_room_visibility,
            },
            room::Visibility,
        },
        federation::directory::{
            get_public_rooms as peer_rooms, get_public_rooms_filtered as peer_search,
        },
    },
    directory::{Filter, PublicRoomsChunk, PublicRoomsChunkInit, RoomNetwork, RoomTypeFilter},
    room::{JoinRuleKind, RoomType},
};

use super::{
    access::{self, ours},
    aliases::may_rename,
    keep,
    reading::visibility::Standing,
    sync::view::Stored,
};
use crate::{
    api::{Caller, Credentials, Origin, PeerCommand, PeerReply, Refusal, Why},
    hub::Hub,
    room::StateKey,
    store::{ListedRecord, RoomNid, Write},
};

/// How many rooms a page has at most, and when the client does not say.
const PAGE_MAX: u32 = 100;

/// How many rooms are looked at for one page when not every room is wanted; each costs a read. A
/// page that ends for this reason is short, and has a token to go on.
const LOOKED_AT_MAX: u32 = 500;

/// How long another server may take to show its directory.
const PEER_PATIENCE: Duration = Duration::from_secs(20);

/// See `api::Command::PublicRooms`.
///
/// spec: client-server-rooms §Published-room-directory
pub(super) async fn public_rooms(
    hub: &Hub,
    _caller: &Caller,
    request: get_public_rooms::v3::Request,
) -> Result<get_public_rooms::v3::Response, Refusal> {
    if let Some(server) = elsewhere(hub, request.server) {
        let mut asked = peer_rooms::v1::Request::new();
        (asked.limit, asked.since) = (request.limit, request.since);
        let command = PeerCommand::PeerPublicRooms(Box::new(asked));
        let answer = hub.remote.ask(&server, command, PEER_PATIENCE).await?;
        let PeerReply::PeerPublicRooms(told) = answer else {
            return Err(Refusal::internal());
        };
        let mut reply = get_public_rooms::v3::Response::new(told.chunk);
        reply.next_batch = told.next_batch;
        reply.prev_batch = told.prev_batch;
        reply.total_room_count_estimate = told.total_room_count_estimate;
        return Ok(reply);
    }
    let wish = Wish {
        limit: request.limit,
        since: request.since,
        filter: Filter::new(),
    };
    let page = page(hub, wish).await?;
    let mut reply = get_public_rooms::v3::Response::new(page.rooms);
    reply.next_batch = page.next;
    Ok(reply)
}

/// See `api::Command::SearchPublicRooms`.
pub(super) async fn search_public_rooms(
    hub: &Hub,
    _caller: &Caller,
    request: get_public_rooms_filtered::v3::Request,
) -> Result<get_public_rooms_filtered::v3::Response, Refusal> {
    let mut reply = get_public_rooms_filtered::v3::Response::new();
    if let Some(server) = elsewhere(hub, request.server) {
        let mut asked = peer_search::v1::Request::new();
        (asked.limit, asked.since) = (request.limit, request.since);
        (asked.filter, asked.room_network) = (request.filter, request.room_network);
        let command = PeerCommand::PeerRoomSearch(Box::new(asked));
        let answer = hub.remote.ask(&server, command, PEER_PATIENCE).await?;
        let PeerReply::PeerRoomSearch(told) = answer else {
            return Err(Refusal::internal());
        };
        reply.chunk = told.chunk;
        reply.next_batch = told.next_batch;
        reply.prev_batch = told.prev_batch;
        reply.total_room_count_estimate = told.total_room_count_estimate;
        return Ok(reply);
    }
    if matches!(request.room_network, RoomNetwork::Matrix | RoomNetwork::All) {
        let wish = Wish {
            limit: request.limit,
            since: request.since,
            filter: request.filter,
        };
        let page = page(hub, wish).await?;
        reply.chunk = page.rooms;
        reply.next_batch = page.next;
    }
    Ok(reply)
}

/// See `api::Command::RoomVisibility`. Whether a room exists that is not in the directory is told
/// only to its members.
pub(super) async fn room_visibility(
    hub: &Hub,
    origin: &Origin,
    request: get_room_visibility::v3::Request,
) -> Result<get_room_visibility::v3::Response, Refusal> {
    let caller = match &origin.credentials {
        Credentials::Nothing => None,
        _ => Some(access::caller(hub, origin).await?),
    };
    let unknown = || Refusal::not_found(format!("{} is not in the directory", request.room_id));
    let room = hub.store.room(&request.room_id).await.map_err(ours)?;
    let room = room.ok_or_else(unknown)?;
    let visibility = if hub.store.is_listed(room.nid).await.map_err(ours)? {
        Visibility::Public
    } else {
        let caller = caller.ok_or_else(unknown)?;
        let standing = Standing::of(&hub.store, &caller.user, &request.room_id).await?;
        standing.must_be_joined().map_err(|_| unknown())?;
        Visibility::Private
    };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

/// See `api::Command::SetRoomVisibility`.
pub(super) async fn set_room_visibility(
    hub: &Hub,
    caller: &Caller,
    request: set_room_visibility::v3::Request,
) -> Result<set_room_visibility::v3::Response, Refusal> {
    let listed = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        other => {
            let message = format!("`visibility` cannot be {:?}", other.as_str());
            return Err(Refusal::invalid_param(message));
        }
    };
    let standing = Standing::of(&hub.store, &caller.user, &request.room_id).await?;
    if !caller.admin {
        standing.must_be_joined()?;
        if !may_rename(hub, caller, standing.room.nid).await? {
            return Err(Refusal::forbidden(
                "only who may change the room's main alias can put it in the directory",
            ));
        }
    }
    let write = Write::Listed {
        room: standing.room.nid,
        listed,
    };
    keep(hub, vec![write], Vec::new()).await?;
    Ok(set_room_visibility::v3::Response::new())
}

/// Another server whose directory is wanted.
fn elsewhere(hub: &Hub, server: Option<OwnedServerName>) -> Option<OwnedServerName> {
    server.filter(|server| server != hub.key.name())
}

/// See `api::PeerCommand::PeerPublicRooms`. Other servers see what our users see, or nothing.
pub(super) async fn peer_public_rooms(
    hub: &Hub,
    asked: peer_rooms::v1::Request,
) -> Result<peer_rooms::v1::Response, Refusal> {
    must_be_shared(hub)?;
    let wish = Wish {
        limit: asked.limit,
        since: asked.since,
        filter: Filter::new(),
    };
    let mut reply = peer_rooms::v1::Response::new();
    if matches!(asked.room_network, RoomNetwork::Matrix | RoomNetwork::All) {
        let page = page(hub, wish).await?;
        reply.chunk = page.rooms;
        reply.next_batch = page.next;
    }
    Ok(reply)
}

/// See `api::PeerCommand::PeerRoomSearch`.
pub(super) async fn peer_room_search(
    hub: &Hub,
    asked: peer_search::v1::Request,
) -> Result<peer_search::v1::Response, Refusal> {
    must_be_shared(hub)?;
    let wish = Wish {
        limit: asked.limit,
        since: asked.since,
        filter: asked.filter,
    };
    let mut reply = peer_search::v1::Response::new();
    if matches!(asked.room_network, RoomNetwork::Matrix | RoomNetwork::All) {
        let page = page(hub, wish).await?;
        reply.chunk = page.rooms;
        reply.next_batch = page.next;
    }
    Ok(reply)
}

/// spec: server-server §Public-Room-Directory
///
/// Who lists a room means this server's users, unless the operator has the directory shared.
fn must_be_shared(hub: &Hub) -> Result<(), Refusal> {
    if hub.desk.settings().share_directory {
        return Ok(());
    }
    let why = Why::of("DIRECTORY_CLOSED").rule("`federation.share_directory` is false");
    let message = "this server does not show its directory to other servers";
    Err(Refusal::forbidden(message).because(why))
}

/// Which rooms are wanted.
struct Wish {
    limit: Option<UInt>,
    since: Option<String>,
    filter: Filter,
}

struct Page {
    rooms: Vec<PublicRoomsChunk>,
    next: Option<String>,
}

async fn page(hub: &Hub, wish: Wish) -> Result<Page, Refusal> {
    let limit = wish.limit.map_or(PAGE_MAX, |limit| {
        u32::try_from(u64::from(limit)).map_or(PAGE_MAX, |limit| limit.clamp(1, PAGE_MAX))
    });
    let mut last = wish.since.as_deref().map(place).transpose()?;
    let looked_at = if wish.filter.is_empty() {
        limit
    } else {
        LOOKED_AT_MAX
    };
    // One more than is looked at, to know whether there is one.
    let listed = hub.store.listed(last, looked_at + 1).await.map_err(ours)?;
    let mut page = Page {
        rooms: Vec::new(),
        next: None,
    };
    for (n, record) in (0..).zip(listed) {
        if n == looked_at || page.rooms.len() >= limit as usize {
            page.next = last.map(|(joined, room)| format!("{joined}_{}", room.0));
            break;
        }
        last = Some((record.joined, record.room.nid));
        let room = shown(hub, &record).await?;
        if is_wanted(&wish.filter, &room) {
            page.rooms.push(room);
        }
    }
    Ok(page)
}

/// Where a page ended: how many were in its last room, and which that was.
fn place(token: &str) -> Result<(u64, RoomNid), Refusal> {
    let read = || {
        let (joined, room) = token.split_once('_')?;
        Some((joined.parse().ok()?, RoomNid(room.parse().ok()?)))
    };
    read().ok_or_else(|| Refusal::invalid_param(format!("`since` cannot be {token:?}")))
}

/// A room as the directory shows it: from its current state.
async fn shown(hub: &Hub, listed: &ListedRecord) -> Result<PublicRoomsChunk, Refusal> {
    let keys = SHOWN.map(|(kind, _)| StateKey::new(kind, ""));
    let found = hub.store.current(listed.room.nid, &keys).await;
    let found = found.map_err(ours)?;
    let text = |wanted: &str| {
        let mut all = SHOWN.iter().zip(&found);
        let ((_, member), event) = all.find(|((kind, _), _)| *kind == wanted)?;
        Stored::read(event.as_ref()?)?.text(member)
    };
    let is = |kind, value| text(kind).as_deref() == Some(value);
    let mut room = PublicRoomsChunk::from(PublicRoomsChunkInit {
        num_joined_members: UInt::try_from(listed.joined).unwrap_or(UInt::MAX),
        room_id: listed.room.id.clone(),
        world_readable: is("m.room.history_visibility", "world_readable"),
        guest_can_join: is("m.room.guest_access", "can_join"),
    });
    room.canonical_alias = text("m.room.canonical_alias").and_then(|alias| alias.try_into().ok());
    room.name = text("m.room.name");
    room.topic = text("m.room.topic");
    room.avatar_url = text("m.room.avatar").map(Into::into);
    room.join_rule = text("m.room.join_rules").map_or(JoinRuleKind::Invite, Into::into);
    room.room_type = text("m.room.create").map(RoomType::from);
    Ok(room)
}

fn is_wanted(filter: &Filter, room: &PublicRoomsChunk) -> bool {
    let types = &filter.room_types;
    let is_of_type =
        types.is_empty() || types.contains(&RoomTypeFilter::from(room.room_type.clone()));
    let term = filter.generic_search_term.as_deref().unwrap_or("");
    let term = term.to_lowercase();
    let alias = room.canonical_alias.as_ref().map(|alias| alias.as_str());
    let has = |text: Option<&str>| text.is_some_and(|text| text.to_lowercase().contains(&term));
    is_of_type
        && (term.is_empty()
            || has(room.name.as_deref())
            || has(room.topic.as_deref())
            || has(alias))
}

/// The state that is shown, and the member of its content.
const SHOWN: [(&str, &str); 8] = [
    ("m.room.canonical_alias", "alias"),
    ("m.room.name", "name"),
    ("m.room.topic", "topic"),
    ("m.room.avatar", "url"),
    ("m.room.join_rules", "join_rule"),
    ("m.room.history_visibility", "history_visibility"),
    ("m.room.guest_access", "guest_access"),
    ("m.room.create", "type"),
];
