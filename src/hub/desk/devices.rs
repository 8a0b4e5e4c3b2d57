//! Devices.

use ruma::api::client::device;

use crate::{
    api::{Caller, Refusal},
    hub::Hub,
};

/// See `api::Command::Devices`.
pub(super) async fn devices(
    hub: &Hub,
    caller: &Caller,
    request: device::get_devices::v3::Request,
) -> Result<device::get_devices::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::Device`.
pub(super) async fn device(
    hub: &Hub,
    caller: &Caller,
    request: device::get_device::v3::Request,
) -> Result<device::get_device::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::UpdateDevice`.
pub(super) async fn update_device(
    hub: &Hub,
    caller: &Caller,
    request: device::update_device::v3::Request,
) -> Result<device::update_device::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::DeleteDevice`.
pub(super) async fn delete_device(
    hub: &Hub,
    caller: &Caller,
    request: device::delete_device::v3::Request,
) -> Result<device::delete_device::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}

/// See `api::Command::DeleteDevices`.
pub(super) async fn delete_devices(
    hub: &Hub,
    caller: &Caller,
    request: device::delete_devices::v3::Request,
) -> Result<device::delete_devices::v3::Response, Refusal> {
    let _ = (hub, caller, request);
    Err(Refusal::internal())
}
