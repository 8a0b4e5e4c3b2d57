//! Reading.

use ruma::api::client::{context, membership, message, room, state};

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::Event`.
pub(super) async fn event(
    hub: &Hub,
    caller: &Caller,
    request: room::get_room_event::v3::Request,
) -> Result<room::get_room_event::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::RoomAliases`.
pub(super) async fn room_aliases(
    hub: &Hub,
    caller: &Caller,
    request: room::aliases::v3::Request,
) -> Result<room::aliases::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Members`.
pub(super) async fn members(
    hub: &Hub,
    caller: &Caller,
    request: membership::get_member_events::v3::Request,
) -> Result<membership::get_member_events::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::JoinedMembers`.
pub(super) async fn joined_members(
    hub: &Hub,
    caller: &Caller,
    request: membership::joined_members::v3::Request,
) -> Result<membership::joined_members::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::JoinedRooms`.
pub(super) async fn joined_rooms(
    hub: &Hub,
    caller: &Caller,
    request: membership::joined_rooms::v3::Request,
) -> Result<membership::joined_rooms::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Messages`.
pub(super) async fn messages(
    hub: &Hub,
    caller: &Caller,
    request: message::get_message_events::v3::Request,
) -> Result<message::get_message_events::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Context`.
pub(super) async fn context(
    hub: &Hub,
    caller: &Caller,
    request: context::get_context::v3::Request,
) -> Result<context::get_context::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::State`.
pub(super) async fn state(
    hub: &Hub,
    caller: &Caller,
    request: state::get_state_events::v3::Request,
) -> Result<state::get_state_events::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::StateForKey`.
pub(super) async fn state_for_key(
    hub: &Hub,
    caller: &Caller,
    request: state::get_state_event_for_key::v3::Request,
) -> Result<state::get_state_event_for_key::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
