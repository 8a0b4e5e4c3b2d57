//! Aliases.

use ruma::api::client::alias;

use crate::{
    api::{Caller, Origin, Refusal},
    hub::Hub,
};

/// See `api::Command::CreateAlias`.
pub(super) async fn create_alias(
    hub: &Hub,
    caller: &Caller,
    request: alias::create_alias::v3::Request,
) -> Result<alias::create_alias::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::DeleteAlias`.
pub(super) async fn delete_alias(
    hub: &Hub,
    caller: &Caller,
    request: alias::delete_alias::v3::Request,
) -> Result<alias::delete_alias::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Alias`.
pub(super) async fn alias(
    hub: &Hub,
    origin: &Origin,
    request: alias::get_alias::v3::Request,
) -> Result<alias::get_alias::v3::Response, Refusal> {
    let _ = (hub, origin, request);
    Err(Refusal::internal())
}
