//! What our users are to rooms that this hub is not in, and what such a room shows of itself.
//!
//! All of it is another server's word, kept apart from rooms: nothing here is ever state of one.

use std::collections::BTreeSet;

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, UserId, api::federation::membership::RawStrippedState,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::is_ours;
use crate::{
    api::{Code, Refusal, Unverified, Why},
    base::Position,
    hub::{Hub, desk::access::ours, fanout::Touched},
    room::Membership,
    store::{Batch, OutsideRecord, Write},
    wire::matrix::{Pdu, Version},
};

/// How many rooms elsewhere a user is anything to, without being in them.
///
/// Whoever may invite can fill this; what was left goes first, then there is no more room.
pub(super) const OUTSIDE_MAX: usize = 500;

/// How many of these one server may make: whoever sends invites to everybody leaves room for others'.
pub(super) const INVITES_PER_SERVER_MAX: usize = 100;

/// How many pieces of state a room shows of itself to somebody outside.
const SHOWN_MAX: usize = 32;

/// How many bytes these have together.
const SHOWN_BYTES_MAX: usize = 256 * 1024;

/// The state by which somebody outside knows what a room is; of no other kind is kept anything.
// spec: client-server-sync §Stripped-state
pub(super) const KINDS: [&str; 7] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// A room elsewhere, as far as a server that is in it says.
pub(super) struct Outside<'a> {
    pub(super) user: &'a UserId,
    pub(super) room: &'a RoomId,
    pub(super) version: Version,
    pub(super) via: &'a OwnedServerName,
    pub(super) membership: Membership,
    /// The event that made it so.
    pub(super) event: &'a Pdu,
    /// What the room shows of itself, a JSON array; of one that the user is out of, what they were.
    pub(super) shown: String,
}

/// What a user is to a room that we are not in; nothing where what the room itself says of them is
/// newer.
pub(in crate::hub::desk) async fn standing(
    hub: &Hub,
    user: &UserId,
    room: &RoomId,
) -> Result<Option<OutsideRecord>, Refusal> {
    let record = hub.store.outside_of(user, room).await.map_err(ours)?;
    let Some(record) = record else {
        return Ok(None);
    };
    let is_current = is_current(hub, &record).await?;
    Ok(is_current.then_some(record))
}

async fn is_current(hub: &Hub, record: &OutsideRecord) -> Result<bool, Refusal> {
    let room = hub.store.room(&record.room_id).await.map_err(ours)?;
    let Some(room) = room else {
        return Ok(true);
    };
    // Where one of us is in the room, the room itself says who is invited.
    if is_ours(hub, &room).await? {
        return Ok(false);
    }
    let inside = hub.store.membership(&record.user, room.nid).await;
    let inside = inside.map_err(ours)?;
    Ok(inside.is_none_or(|inside| inside.position < record.position))
}

/// All that counts, as stored after `since`.
pub(in crate::hub::desk) async fn standings(
    hub: &Hub,
    user: &UserId,
    since: Position,
) -> Result<Vec<OutsideRecord>, Refusal> {
    let mut current = Vec::new();
    for record in hub.store.outside(user, since).await.map_err(ours)? {
        if is_current(hub, &record).await? {
            current.push(record);
        }
    }
    Ok(current)
}

/// Stores it, and lets the user know.
pub(super) async fn keep(hub: &Hub, outside: Outside<'_>) -> Result<(), Refusal> {
    let user = outside.user.to_owned();
    let mut writes = room_for(hub, &outside).await?;
    writes.push(Write::Outside(Box::new(OutsideRecord {
        user: user.clone(),
        room_id: outside.room.to_owned(),
        membership: outside.membership,
        version: outside.version,
        via: outside.via.clone(),
        event: outside.event.json().clone(),
        state: outside.shown.into(),
        position: Position::ZERO, // the commit's
    })));
    let batch = Batch {
        writes,
        may_conflict: false,
    };
    hub.writer.write(batch, vec![Touched::One(user)]).await?;
    Ok(())
}

/// Forgets it, with what the user was in the room before.
pub(in crate::hub::desk) async fn forget(
    hub: &Hub,
    user: &UserId,
    room: &RoomId,
) -> Result<(), Refusal> {
    let mut writes = vec![gone(user, room)];
    if let Some(inside) = hub.store.room(room).await.map_err(ours)? {
        // Else an invite from when we were in the room would count again.
        writes.push(Write::Forget {
            user: user.to_owned(),
            room: inside.nid,
        });
    }
    let batch = Batch {
        writes,
        may_conflict: false,
    };
    hub.writer.write(batch, Vec::new()).await?;
    Ok(())
}

/// The user is in the room now: nothing of it counts any more.
pub(super) async fn answered(hub: &Hub, user: &UserId, room: &RoomId) -> Result<(), Refusal> {
    let batch = Batch {
        writes: vec![gone(user, room)],
        may_conflict: false,
    };
    hub.writer.write(batch, Vec::new()).await?;
    Ok(())
}

fn gone(user: &UserId, room: &RoomId) -> Write {
    Write::NotOutside {
        user: user.to_owned(),
        room_id: room.to_owned(),
    }
}

/// What has to go for it.
async fn room_for(hub: &Hub, outside: &Outside<'_>) -> Result<Vec<Write>, Refusal> {
    let all = hub.store.outside(outside.user, Position::ZERO).await;
    let mut all = all.map_err(ours)?;
    all.retain(|record| record.room_id != outside.room);
    let is_alike = |record: &&OutsideRecord| {
        record.membership == Membership::Invite && record.via == *outside.via
    };
    if outside.membership == Membership::Invite
        && all.iter().filter(is_alike).count() >= INVITES_PER_SERVER_MAX
    {
        let message = format!(
            "{} has {INVITES_PER_SERVER_MAX} invites of {} open",
            outside.user, outside.via
        );
        return Err(Refusal::new(Code::ResourceLimitExceeded, message));
    }
    if all.len() < OUTSIDE_MAX {
        return Ok(Vec::new());
    }
    let left = all
        .iter()
        .filter(|record| record.membership == Membership::Leave);
    let oldest = left.min_by_key(|record| record.position).ok_or_else(|| {
        let message = format!("{} has {OUTSIDE_MAX} invites and knocks open", outside.user);
        Refusal::new(Code::ResourceLimitExceeded, message)
    })?;
    Ok(vec![gone(&oldest.user, &oldest.room_id)])
}

/// What a room shows of itself to a user who was told nothing of it: their own event.
pub(super) fn only_own(own: &Pdu) -> String {
    let own: Vec<_> = Piece::read(own.json()).into_iter().collect();
    serde_json::to_string(&own).unwrap_or_else(|_| "[]".to_owned())
}

/// What the user was to a room that they are out of, or asks to be in.
pub(in crate::hub::desk) fn was(record: &OutsideRecord) -> Option<Membership> {
    #[derive(Deserialize)]
    struct Member {
        membership: String,
    }
    let shown: Vec<Piece> = serde_json::from_str(&record.state).ok()?;
    let is_own =
        |piece: &&Piece| piece.kind == "m.room.member" && piece.state_key == record.user.as_str();
    let own = shown.iter().find(is_own)?;
    let member: Member = serde_json::from_str(own.content.get()).ok()?;
    member.membership.parse().ok()
}

/// A piece of state as it is shown to somebody outside.
#[derive(Deserialize, Serialize)]
struct Piece {
    content: Box<RawValue>,
    sender: String,
    state_key: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Piece {
    fn read(json: &str) -> Result<Self, String> {
        let piece: Self = serde_json::from_str(json)
            .map_err(|_| "`type`, `state_key`, `sender` or `content` is missing or wrong")?;
        let is_object = piece.content.get().starts_with('{');
        let is_short = [&piece.sender, &piece.state_key, &piece.kind]
            .into_iter()
            .all(|text| text.len() <= 255);
        if is_object && is_short && <&UserId>::try_from(piece.sender.as_str()).is_ok() {
            Ok(piece)
        } else {
            Err("a piece of state is not one".to_owned())
        }
    }
}

/// What a server shows of a room to somebody it lets no further: checked as far as it can be, cut to
/// what tells what the room is, with the user's own event last.
///
/// Since version 12 each piece is a whole event with its signatures, and the one that founded the
/// room is among them; its hash is the room's id. Before, a server could always show what it liked.
// spec: server-server §Inviting-to-a-room
pub(super) async fn shown(
    hub: &Hub,
    (room, version): (&OwnedRoomId, Version),
    told: Vec<RawStrippedState>,
    own: &Pdu,
) -> Result<String, Refusal> {
    if told.len() > SHOWN_MAX {
        let message = format!("a room shows at most {SHOWN_MAX} pieces of state of itself");
        return Err(Refusal::invalid_param(message));
    }
    let (mut pieces, mut seen) = (Vec::new(), BTreeSet::new());
    let mut bytes = 0_usize;
    for (index, told) in told.iter().enumerate() {
        let piece = match piece((hub, room, version), told).await {
            Ok(piece) => piece,
            Err(_) if !version.room_id_is_create_hash() => continue,
            Err(error) => {
                let told = error.told();
                let message = format!("what the room shows of itself: item {index}: {told}");
                let why = Why::of(error.code()).rule(error.to_string());
                return Err(Refusal::invalid_param(message).because(why));
            }
        };
        bytes = bytes.saturating_add(piece.content.get().len());
        let is_wanted = KINDS.contains(&piece.kind.as_str()) && piece.state_key.is_empty()
            || piece.kind == "m.room.member" && piece.state_key == own.fields().sender.as_str();
        if is_wanted && seen.insert((piece.kind.clone(), piece.state_key.clone())) {
            pieces.push(piece);
        }
    }
    if bytes > SHOWN_BYTES_MAX {
        let message = format!("a room shows at most {SHOWN_BYTES_MAX} bytes of itself");
        return Err(Refusal::invalid_param(message));
    }
    let is_founded = pieces.iter().any(|piece| piece.kind == "m.room.create");
    if version.room_id_is_create_hash() && !is_founded {
        let message = "what the room shows of itself lacks the event that founded it";
        return Err(Refusal::invalid_param(message));
    }
    let key = own.fields().state_key.clone().unwrap_or_default();
    pieces.retain(|piece| piece.kind != "m.room.member" || piece.state_key != key);
    pieces.extend(Piece::read(own.json()));
    serde_json::to_string(&pieces).map_err(|error| Refusal::invalid_param(error.to_string()))
}

#[expect(
    deprecated,
    reason = "servers of before version 12 send stripped state"
)]
async fn piece(
    (hub, room, version): (&Hub, &OwnedRoomId, Version),
    told: &RawStrippedState,
) -> Result<Piece, Unverified> {
    let json = match told {
        RawStrippedState::Pdu(json) => json,
        RawStrippedState::Stripped(piece) if !version.room_id_is_create_hash() => {
            return Piece::read(piece.json().get()).map_err(Unverified::Form);
        }
        _ => return Err(Unverified::Form("it is not made of events".to_owned())),
    };
    let event = hub.remote.verified(json.get(), version).await?;
    let fields = event.fields();
    if fields.room_id != *room {
        let said = format!("{} is of {}", event.id(), fields.room_id);
        return Err(Unverified::Form(said));
    }
    if fields.kind == "m.room.create" {
        let said = fields.content.get("room_version");
        let said = said.and_then(|said| said.as_str()).unwrap_or("1");
        if said != version.as_str() {
            let said = format!("the room was founded in version {said}, not {version}");
            return Err(Unverified::Form(said));
        }
    }
    Piece::read(event.json()).map_err(Unverified::Form)
}
