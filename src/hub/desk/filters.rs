//! Filters.

use ruma::api::client::filter;

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::CreateFilter`.
pub(super) async fn create_filter(
    hub: &Hub,
    caller: &Caller,
    request: filter::create_filter::v3::Request,
) -> Result<filter::create_filter::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Filter`.
pub(super) async fn filter(
    hub: &Hub,
    caller: &Caller,
    request: filter::get_filter::v3::Request,
) -> Result<filter::get_filter::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
