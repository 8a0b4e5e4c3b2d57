//! Aliases: names of rooms on this server.

use ruma::{
    OwnedUserId, RoomAliasId,
    api::client::alias,
    events::{
        StateEventType,
        room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource},
    },
};
use serde_json::Value;

use super::{
    access::{self, ours},
    accounts::contested,
    canonical_alias, remote, rooms,
};
use crate::{
    api::{Caller, Code, Origin, Refusal},
    hub::{Hub, WriteError},
    room::{Membership, Part, StateKey},
    store::{AliasRecord, EventRecord, RoomNid, RoomRecord, Write},
};

/// The longest alias, in bytes, sigil and server name included.
const ALIAS_BYTES_MAX: usize = 255;

/// How many aliases a room may have.
pub(super) const ALIASES_PER_ROOM_MAX: usize = 100;

/// See `api::Command::CreateAlias`.
// spec: client-server-accounts §Room-aliases
pub(super) async fn create_alias(
    hub: &Hub,
    caller: &Caller,
    request: alias::create_alias::v3::Request,
) -> Result<alias::create_alias::v3::Response, Refusal> {
    check(hub, &request.room_alias)?;
    let room = hub.store.room(&request.room_id).await.map_err(ours)?;
    // Whether a room exists is told only to who is in it.
    let outside = || Refusal::forbidden(format!("you are not in {}", request.room_id));
    let room = room.ok_or_else(outside)?;
    if !is_joined(hub, caller, room.nid).await? {
        return Err(outside());
    }
    let there = hub.store.aliases(room.nid).await.map_err(ours)?;
    if there.len() >= ALIASES_PER_ROOM_MAX {
        return Err(Refusal::new(
            Code::ResourceLimitExceeded,
            format!("this room has {ALIASES_PER_ROOM_MAX} aliases"),
        ));
    }
    let write = Write::NewAlias {
        alias: request.room_alias.clone(),
        room: room.nid,
        creator: caller.user.clone(),
    };
    match hub.writer.write(contested(vec![write]), Vec::new()).await {
        Ok(_) => Ok(alias::create_alias::v3::Response::new()),
        Err(WriteError::Conflict(_)) => Err(Refusal::new(
            Code::RoomInUse,
            format!("{} names a room already", request.room_alias),
        )
        .with_status(409)),
        Err(error) => Err(error.into()),
    }
}

/// Refuses an alias that this server cannot have.
pub(super) fn check(hub: &Hub, alias: &RoomAliasId) -> Result<(), Refusal> {
    if alias.server_name() != hub.key.name() {
        return Err(Refusal::invalid_param(format!(
            "`roomAlias` {alias}: this server can only make aliases that end in :{}",
            hub.key.name()
        )));
    }
    let local = alias.alias();
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || c == ':';
    if local.is_empty() || local.contains(is_odd) || alias.as_str().len() > ALIAS_BYTES_MAX {
        return Err(Refusal::invalid_param(format!(
            "`roomAlias` {alias:?}: an alias has 1 to {ALIAS_BYTES_MAX} bytes and no spaces, colons or control \
             characters"
        )));
    }
    Ok(())
}

/// See `api::Command::DeleteAlias`.
pub(super) async fn delete_alias(
    hub: &Hub,
    caller: &Caller,
    request: alias::delete_alias::v3::Request,
) -> Result<alias::delete_alias::v3::Response, Refusal> {
    let record = find(hub, &request.room_alias).await?;
    if record.creator != caller.user
        && !caller.admin
        && !may_rename(hub, caller, record.room).await?
    {
        return Err(Refusal::forbidden(
            "only who made an alias, or who may change the room's main alias, can remove it",
        ));
    }
    let write = Write::RemoveAlias {
        alias: request.room_alias,
    };
    match hub.writer.write(contested(vec![write]), Vec::new()).await {
        Ok(_) => {
            // The alias is gone, whether or not the room can be told.
            if let Err(refusal) = no_longer_shown(hub, caller, &record).await {
                tracing::debug!(%refusal, alias = %record.alias, "the room shows an alias that is gone");
            }
            Ok(alias::delete_alias::v3::Response::new())
        }
        Err(WriteError::Conflict(_)) => Err(unknown(&record.alias)),
        Err(error) => Err(error.into()),
    }
}

/// Takes an alias that is gone out of the room's state, where the caller may.
async fn no_longer_shown(hub: &Hub, caller: &Caller, gone: &AliasRecord) -> Result<(), Refusal> {
    let room = hub.store.room_by_nid(gone.room).await.map_err(ours)?;
    let Some(room) = room else { return Ok(()) };
    // The writer does not compare: what somebody makes of this state between here and there is lost, and
    // is shown again when they say it again. It is a moment, and both may change it.
    let Some(content) = canonical_alias::without(hub, &room, &gone.alias).await? else {
        return Ok(());
    };
    let part = Part::Event {
        kind: canonical_alias::KIND.to_owned(),
        state_key: Some(String::new()),
        content,
    };
    rooms::submit(hub, caller, &gone.room_id, part)
        .await
        .map(drop)
}

/// See `api::Command::Alias`.
pub(super) async fn alias(
    hub: &Hub,
    origin: &Origin,
    request: alias::get_alias::v3::Request,
) -> Result<alias::get_alias::v3::Response, Refusal> {
    if request.room_alias.server_name() != hub.key.name() {
        access::caller(hub, origin).await?; // nobody else makes this hub ask around
        let told = remote::alias(hub, &request.room_alias).await?;
        return Ok(alias::get_alias::v3::Response::new(told.room, told.servers));
    }
    let record = find(hub, &request.room_alias).await?;
    let servers = vec![hub.key.name().clone()];
    Ok(alias::get_alias::v3::Response::new(record.room_id, servers))
}

/// The room an alias names.
pub(super) async fn find(hub: &Hub, alias: &RoomAliasId) -> Result<AliasRecord, Refusal> {
    let record = hub.store.alias(alias).await.map_err(ours)?;
    record.ok_or_else(|| unknown(alias))
}

fn unknown(alias: &RoomAliasId) -> Refusal {
    Refusal::not_found(format!("{alias} names no room here"))
}

async fn is_joined(hub: &Hub, caller: &Caller, room: RoomNid) -> Result<bool, Refusal> {
    let record = hub.store.membership(&caller.user, room).await;
    Ok(record
        .map_err(ours)?
        .is_some_and(|record| record.membership == Membership::Join))
}

/// Whether the caller could set `m.room.canonical_alias`.
pub(super) async fn may_rename(hub: &Hub, caller: &Caller, room: RoomNid) -> Result<bool, Refusal> {
    if !is_joined(hub, caller, room).await? {
        return Ok(false);
    }
    let room = hub.store.room_by_nid(room).await.map_err(ours)?;
    let Some(room) = room else { return Ok(false) };
    let wanted = ["m.room.create", "m.room.power_levels"].map(|kind| StateKey::new(kind, ""));
    let found = hub.store.current(room.nid, &wanted).await.map_err(ours)?;
    let mut found = found.into_iter();
    let create = found.next().flatten();
    let levels = found.next().flatten();
    let Some(create) = create else {
        return Ok(false);
    };
    let levels = power_levels(&room, &create, levels.as_ref())?;
    Ok(levels.user_can_send_state(&caller.user, StateEventType::RoomCanonicalAlias))
}

fn power_levels(
    room: &RoomRecord,
    create: &EventRecord,
    levels: Option<&EventRecord>,
) -> Result<RoomPowerLevels, Refusal> {
    let rules = &room.version.rules().authorization;
    let source = match levels {
        Some(event) => {
            let content = field(event, "content")?;
            let content: RoomPowerLevelsEventContent =
                serde_json::from_value(content).map_err(|error| damaged(&error))?;
            RoomPowerLevelsSource::Original(content)
        }
        None => RoomPowerLevelsSource::None,
    };
    let mut creators = vec![field(create, "sender")?];
    if rules.additional_room_creators {
        let content = field(create, "content")?;
        let more = content.get("additional_creators").and_then(Value::as_array);
        creators.extend(more.into_iter().flatten().cloned());
    }
    let creators: Vec<OwnedUserId> = creators
        .iter()
        .filter_map(|creator| OwnedUserId::try_from(creator.as_str()?).ok())
        .collect();
    Ok(RoomPowerLevels::new(source, rules, creators))
}

/// A field of a stored event.
pub(super) fn field(event: &EventRecord, name: &str) -> Result<Value, Refusal> {
    let mut event: Value = serde_json::from_str(&event.json).map_err(|error| damaged(&error))?;
    Ok(event.get_mut(name).map_or(Value::Null, Value::take))
}

fn damaged(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error, "a stored event is damaged");
    Refusal::internal()
}
