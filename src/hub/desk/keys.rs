//! Keys.

use ruma::api::client::keys;

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::UploadKeys`.
pub(super) async fn upload_keys(
    hub: &Hub,
    caller: &Caller,
    request: keys::upload_keys::v3::Request,
) -> Result<keys::upload_keys::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::QueryKeys`.
pub(super) async fn query_keys(
    hub: &Hub,
    caller: &Caller,
    request: keys::get_keys::v3::Request,
) -> Result<keys::get_keys::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::ClaimKeys`.
pub(super) async fn claim_keys(
    hub: &Hub,
    caller: &Caller,
    request: keys::claim_keys::v3::Request,
) -> Result<keys::claim_keys::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::KeyChanges`.
pub(super) async fn key_changes(
    hub: &Hub,
    caller: &Caller,
    request: keys::get_key_changes::v3::Request,
) -> Result<keys::get_key_changes::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
