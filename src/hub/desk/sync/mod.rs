//! Sync.

use ruma::api::client::sync;

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::Sync`.
pub(super) async fn sync(
    hub: &Hub,
    caller: &Caller,
    request: sync::sync_events::v3::Request,
) -> Result<sync::sync_events::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
