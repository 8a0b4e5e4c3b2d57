//! Profile.

use ruma::api::client::profile;

use crate::{
    api::{Caller, Origin, Refusal},
    hub::Hub,
};

/// See `api::Command::Profile`.
pub(super) async fn profile(
    hub: &Hub,
    origin: &Origin,
    request: profile::get_profile::v3::Request,
) -> Result<profile::get_profile::v3::Response, Refusal> {
    let _ = (hub, origin, request);
    Err(Refusal::internal())
}

/// See `api::Command::ProfileField`.
pub(super) async fn profile_field(
    hub: &Hub,
    origin: &Origin,
    request: profile::get_profile_field::v3::Request,
) -> Result<profile::get_profile_field::v3::Response, Refusal> {
    let _ = (hub, origin, request);
    Err(Refusal::internal())
}

/// See `api::Command::SetProfileField`.
pub(super) async fn set_profile_field(
    hub: &Hub,
    caller: &Caller,
    request: profile::set_profile_field::v3::Request,
) -> Result<profile::set_profile_field::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::DeleteProfileField`.
pub(super) async fn delete_profile_field(
    hub: &Hub,
    caller: &Caller,
    request: profile::delete_profile_field::v3::Request,
) -> Result<profile::delete_profile_field::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
