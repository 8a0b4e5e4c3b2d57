//! To device.

use ruma::api::client::to_device;

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::SendToDevice`.
pub(super) async fn send_to_device(
    hub: &Hub,
    caller: &Caller,
    request: to_device::send_event_to_device::v3::Request,
) -> Result<to_device::send_event_to_device::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
