//! Account data: what a user's clients keep here for each other.

use ruma::{RoomId, api::client::config, serde::Raw};
use serde_json::value::RawValue;

use super::{
    access::{must_be, ours},
    push_rules,
    turns::keep_in_turn,
};
use crate::{
    api::{Caller, Code, Refusal},
    base::Position,
    hub::{Hub, fanout::Touched},
    store::Write,
    wire::json,
};

/// The largest piece, in bytes: as large as an event.
const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// The longest type, in bytes.
const TYPE_BYTES_MAX: usize = 255;

/// How many pieces one account may have, global and in rooms.
///
/// Two per room for someone in thousands of rooms; each is read when a new one is added.
const PIECES_MAX: usize = 10_000;

/// Types that the server keeps; clients change them in other ways.
// spec: client-server-accounts §Account-data
const OURS: [&str; 2] = ["m.fully_read", push_rules::KIND];

/// See `api::Command::AccountData`.
pub(super) async fn account_data(
    hub: &Hub,
    caller: &Caller,
    request: config::get_global_account_data::v3::Request,
) -> Result<config::get_global_account_data::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    let kind = request.event_type.to_string();
    let json = if kind == push_rules::KIND {
        push_rules::content(&caller.user)?
    } else {
        read(hub, caller, None, &kind).await?
    };
    Ok(config::get_global_account_data::v3::Response::new(raw(
        json,
    )?))
}

/// See `api::Command::SetAccountData`.
pub(super) async fn set_account_data(
    hub: &Hub,
    caller: &Caller,
    request: config::set_global_account_data::v3::Request,
) -> Result<config::set_global_account_data::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    let kind = request.event_type.to_string();
    set(hub, caller, None, kind, request.data.json()).await?;
    Ok(config::set_global_account_data::v3::Response::new())
}

/// See `api::Command::RoomAccountData`.
pub(super) async fn room_account_data(
    hub: &Hub,
    caller: &Caller,
    request: config::get_room_account_data::v3::Request,
) -> Result<config::get_room_account_data::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    let kind = request.event_type.to_string();
    let json = read(hub, caller, Some(&request.room_id), &kind).await?;
    Ok(config::get_room_account_data::v3::Response::new(raw(json)?))
}

/// See `api::Command::SetRoomAccountData`.
pub(super) async fn set_room_account_data(
    hub: &Hub,
    caller: &Caller,
    request: config::set_room_account_data::v3::Request,
) -> Result<config::set_room_account_data::v3::Response, Refusal> {
    must_be(caller, &request.user_id)?;
    must_know(hub, caller, &request.room_id).await?;
    let kind = request.event_type.to_string();
    let room = Some(request.room_id.as_ref());
    set(hub, caller, room, kind, request.data.json()).await?;
    Ok(config::set_room_account_data::v3::Response::new())
}

async fn read(
    hub: &Hub,
    caller: &Caller,
    room: Option<&RoomId>,
    kind: &str,
) -> Result<String, Refusal> {
    let stored = hub.store.account_data_of(&caller.user, room, kind).await;
    stored
        .map_err(ours)?
        .ok_or_else(|| Refusal::not_found("you have no account data of this type here"))
}

async fn set(
    hub: &Hub,
    caller: &Caller,
    room: Option<&RoomId>,
    kind: String,
    content: &RawValue,
) -> Result<(), Refusal> {
    if OURS.contains(&kind.as_str()) {
        let message = format!("{kind} cannot be set in this way");
        return Err(Refusal::bad_json(message).with_status(405));
    }
    if kind.is_empty() || kind.len() > TYPE_BYTES_MAX {
        return Err(Refusal::invalid_param("`type` has 1 to 255 bytes"));
    }
    let text = content.get();
    if text.len() > CONTENT_BYTES_MAX {
        return Err(Refusal::new(
            Code::TooLarge,
            format!(
                "{} bytes of account data, at most {CONTENT_BYTES_MAX}",
                text.len()
            ),
        ));
    }
    json::read_lax_object(text.as_bytes()).map_err(|error| Refusal::bad_json(error.to_string()))?;
    let turn = hub.desk.turns.take(("account data", &caller.user)).await;
    must_fit(hub, caller, room, &kind).await?;
    let write = Write::AccountData {
        user: caller.user.clone(),
        room: room.map(ToOwned::to_owned),
        kind,
        json: text.to_owned(),
    };
    let touched = vec![Touched::One(caller.user.clone())];
    keep_in_turn(hub, turn, vec![write], touched).await
}

async fn must_fit(
    hub: &Hub,
    caller: &Caller,
    room: Option<&RoomId>,
    kind: &str,
) -> Result<(), Refusal> {
    let user = &caller.user;
    let there = hub.store.account_data_of(user, room, kind).await;
    if there.map_err(ours)?.is_some() {
        return Ok(());
    }
    let all = hub.store.account_data(user, Position::ZERO).await;
    if all.map_err(ours)?.len() < PIECES_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        Code::ResourceLimitExceeded,
        format!("this account has {PIECES_MAX} pieces of account data"),
    ))
}

/// Only who has had to do with a room may keep something about it; whether it exists does not show.
async fn must_know(hub: &Hub, caller: &Caller, room: &RoomId) -> Result<(), Refusal> {
    let record = hub.store.room(room).await.map_err(ours)?;
    if let Some(record) = record {
        let membership = hub.store.membership(&caller.user, record.nid).await;
        if membership.map_err(ours)?.is_some() {
            return Ok(());
        }
    }
    Err(Refusal::forbidden(format!("you are not in {room}")))
}

fn raw<T>(json: String) -> Result<Raw<T>, Refusal> {
    Raw::from_json_string(json).map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "stored JSON is damaged"
        );
        Refusal::internal()
    })
}
