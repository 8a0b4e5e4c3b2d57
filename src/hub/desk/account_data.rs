//! Account data.

use ruma::api::client::config;

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::AccountData`.
pub(super) async fn account_data(
    hub: &Hub,
    caller: &Caller,
    request: config::get_global_account_data::v3::Request,
) -> Result<config::get_global_account_data::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::SetAccountData`.
pub(super) async fn set_account_data(
    hub: &Hub,
    caller: &Caller,
    request: config::set_global_account_data::v3::Request,
) -> Result<config::set_global_account_data::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::RoomAccountData`.
pub(super) async fn room_account_data(
    hub: &Hub,
    caller: &Caller,
    request: config::get_room_account_data::v3::Request,
) -> Result<config::get_room_account_data::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::SetRoomAccountData`.
pub(super) async fn set_room_account_data(
    hub: &Hub,
    caller: &Caller,
    request: config::set_room_account_data::v3::Request,
) -> Result<config::set_room_account_data::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
