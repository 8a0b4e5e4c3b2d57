//! What other servers ask of the devices of users here, so that theirs can encrypt for them. Any
//! server may ask: what is told is what the keys are for.

use std::collections::BTreeMap;

use ruma::{
    UInt,
    api::federation::{
        device::get_devices::v1::{self as get_devices, UserDevice},
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
    },
    serde::Raw,
};

use super::damaged;
use crate::{
    api::{Code, Refusal},
    hub::{
        Hub,
        desk::{access::ours, keys},
        outbox,
    },
};

/// How many one-time keys one request may take.
const CLAIMED_MAX: usize = 1000;

/// See `api::PeerCommand::UserDevices`.
// spec: server-server §Device-Management
pub(super) async fn devices(
    hub: &Hub,
    asked: get_devices::Request,
) -> Result<get_devices::Response, Refusal> {
    let user = asked.user_id;
    if !keys::is_ours(hub, &user) || hub.store.user(&user).await.map_err(ours)?.is_none() {
        return Err(Refusal::not_found(format!("no such user here: {user}")));
    }
    // Before the devices: a change in between is told again, and none is missed.
    let stream = hub.store.devices_changed_at(&user).await.map_err(ours)?;
    let stream = UInt::try_from(outbox::stream_id(stream)).unwrap_or(UInt::MAX);
    let mut told = get_devices::Response::new(user.clone(), stream);
    for record in hub.store.device_keys(&user).await.map_err(ours)? {
        let keys = Raw::from_json_string(record.json).map_err(|error| damaged(&error))?;
        let mut device = UserDevice::new(record.device, keys);
        device.device_display_name = record.name;
        told.devices.push(device);
    }
    Ok(told)
}

/// See `api::PeerCommand::UserKeys`.
// spec: server-server §End-to-End-Encryption
pub(super) async fn keys(
    hub: &Hub,
    asked: get_keys::Request,
) -> Result<get_keys::Response, Refusal> {
    let told = keys::keys_here(hub, asked.device_keys).await?;
    Ok(get_keys::Response::new(told))
}

/// See `api::PeerCommand::UserKeyClaim`. The keys are gone before they are told.
pub(super) async fn claim(
    hub: &Hub,
    asked: claim_keys::Request,
) -> Result<claim_keys::Response, Refusal> {
    let count: usize = asked.one_time_keys.values().map(BTreeMap::len).sum();
    if count > CLAIMED_MAX {
        let message = format!("one_time_keys: {count} where {CLAIMED_MAX} are the most");
        return Err(Refusal::new(Code::TooLarge, message));
    }
    let told = keys::claim_here(hub, asked.one_time_keys).await?;
    Ok(claim_keys::Response::new(told))
}
