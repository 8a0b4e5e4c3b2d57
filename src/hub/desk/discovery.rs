//! Discovery.

use ruma::api::client::discovery;

use crate::{
    api::{Caller, Origin, Refusal},
    hub::Hub,
};

/// See `api::Command::Versions`.
pub(super) async fn versions(
    hub: &Hub,
    origin: &Origin,
    request: discovery::get_supported_versions::Request,
) -> Result<discovery::get_supported_versions::Response, Refusal> {
    let _ = (hub, origin, request);
    Err(Refusal::internal())
}

/// See `api::Command::Capabilities`.
pub(super) async fn capabilities(
    hub: &Hub,
    caller: &Caller,
    request: discovery::get_capabilities::v3::Request,
) -> Result<discovery::get_capabilities::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
