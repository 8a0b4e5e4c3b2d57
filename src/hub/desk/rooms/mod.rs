//! Rooms.

use ruma::api::client::{knock, membership, message, redact, room, state};

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::CreateRoom`.
pub(super) async fn create_room(
    hub: &Hub,
    caller: &Caller,
    request: room::create_room::v3::Request,
) -> Result<room::create_room::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Join`.
pub(super) async fn join(
    hub: &Hub,
    caller: &Caller,
    request: membership::join_room_by_id::v3::Request,
) -> Result<membership::join_room_by_id::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::JoinByIdOrAlias`.
pub(super) async fn join_by_id_or_alias(
    hub: &Hub,
    caller: &Caller,
    request: membership::join_room_by_id_or_alias::v3::Request,
) -> Result<membership::join_room_by_id_or_alias::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Knock`.
pub(super) async fn knock(
    hub: &Hub,
    caller: &Caller,
    request: knock::knock_room::v3::Request,
) -> Result<knock::knock_room::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Leave`.
pub(super) async fn leave(
    hub: &Hub,
    caller: &Caller,
    request: membership::leave_room::v3::Request,
) -> Result<membership::leave_room::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Forget`.
pub(super) async fn forget(
    hub: &Hub,
    caller: &Caller,
    request: membership::forget_room::v3::Request,
) -> Result<membership::forget_room::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Invite`.
pub(super) async fn invite(
    hub: &Hub,
    caller: &Caller,
    request: membership::invite_user::v3::Request,
) -> Result<membership::invite_user::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Kick`.
pub(super) async fn kick(
    hub: &Hub,
    caller: &Caller,
    request: membership::kick_user::v3::Request,
) -> Result<membership::kick_user::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Ban`.
pub(super) async fn ban(
    hub: &Hub,
    caller: &Caller,
    request: membership::ban_user::v3::Request,
) -> Result<membership::ban_user::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Unban`.
pub(super) async fn unban(
    hub: &Hub,
    caller: &Caller,
    request: membership::unban_user::v3::Request,
) -> Result<membership::unban_user::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Send`.
pub(super) async fn send(
    hub: &Hub,
    caller: &Caller,
    request: message::send_message_event::v3::Request,
) -> Result<message::send_message_event::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::SendState`.
pub(super) async fn send_state(
    hub: &Hub,
    caller: &Caller,
    request: state::send_state_event::v3::Request,
) -> Result<state::send_state_event::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Redact`.
pub(super) async fn redact(
    hub: &Hub,
    caller: &Caller,
    request: redact::redact_event::v3::Request,
) -> Result<redact::redact_event::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
