//! A user's devices, and who must hear when they change.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{
    DeviceId, MilliSecondsSinceUnixEpoch, OwnedDeviceId, UInt, UserId,
    api::client::device::{self, Device},
};

use super::{
    access::{end_sessions, ours},
    accounts::checked_device_name,
    keep,
    turns::Turn,
    uia::prove_password,
};
use crate::{
    api::{Caller, Code, Refusal},
    hub::{
        Hub,
        fanout::{ForServers, Touched},
    },
    store::{DeviceRecord, KeysChange, Write},
};

/// How many users who share a room are woken when a device list changes. The others see it with
/// the next thing that wakes them.
const NEIGHBOURS_MAX: u32 = 10_000;

/// How many devices one request may name; more than an account can have.
const NAMED_MAX: usize = 1000;

/// See `api::Command::Devices`.
pub(super) async fn devices(
    hub: &Hub,
    caller: &Caller,
    _request: device::get_devices::v3::Request,
) -> Result<device::get_devices::v3::Response, Refusal> {
    let devices = hub.store.devices(&caller.user).await.map_err(ours)?;
    let devices = devices.into_iter().map(shown).collect();
    Ok(device::get_devices::v3::Response::new(devices))
}

/// See `api::Command::Device`.
pub(super) async fn device(
    hub: &Hub,
    caller: &Caller,
    request: device::get_device::v3::Request,
) -> Result<device::get_device::v3::Response, Refusal> {
    let record = one(hub, caller, &request.device_id).await?;
    Ok(device::get_device::v3::Response::new(shown(record)))
}

/// See `api::Command::UpdateDevice`.
pub(super) async fn update_device(
    hub: &Hub,
    caller: &Caller,
    request: device::update_device::v3::Request,
) -> Result<device::update_device::v3::Response, Refusal> {
    let record = one(hub, caller, &request.device_id).await?;
    let wanted = request.display_name.map(checked_device_name).transpose()?;
    if wanted.is_some() && wanted != record.name {
        let writes = vec![
            Write::DeviceName {
                user: caller.user.clone(),
                device: request.device_id,
                name: wanted,
            },
            // Others see the name beside the keys.
            changed_one(&caller.user, &record.device),
        ];
        keep(hub, writes, concerned(hub, &caller.user).await?).await?;
    }
    Ok(device::update_device::v3::Response::new())
}

/// See `api::Command::DeleteDevice`.
// spec: client-server-accounts §Device-management
pub(super) async fn delete_device(
    hub: &Hub,
    caller: &Caller,
    request: device::delete_device::v3::Request,
) -> Result<device::delete_device::v3::Response, Refusal> {
    prove_password(hub, caller, request.auth.as_ref()).await?;
    remove(hub, &caller.user, &[request.device_id]).await?;
    Ok(device::delete_device::v3::Response::new())
}

/// See `api::Command::DeleteDevices`.
pub(super) async fn delete_devices(
    hub: &Hub,
    caller: &Caller,
    request: device::delete_devices::v3::Request,
) -> Result<device::delete_devices::v3::Response, Refusal> {
    if request.devices.len() > NAMED_MAX {
        return Err(Refusal::new(
            Code::TooLarge,
            format!(
                "devices: {} named, at most {NAMED_MAX}",
                request.devices.len()
            ),
        ));
    }
    prove_password(hub, caller, request.auth.as_ref()).await?;
    remove(hub, &caller.user, &request.devices).await?;
    Ok(device::delete_devices::v3::Response::new())
}

/// Ends devices with their sessions, keys and mailboxes. Those that are not there are passed over:
/// a repeated request has the same answer.
pub(super) async fn remove(
    hub: &Hub,
    user: &UserId,
    devices: &[OwnedDeviceId],
) -> Result<(), Refusal> {
    let mut there = ids(hub, user).await?;
    there.retain(|device| devices.contains(device));
    if there.is_empty() {
        return Ok(());
    }
    remove_with(hub, user, &there, Vec::new(), None).await
}

/// Ends devices that are there, together with further writes about the account.
pub(super) async fn remove_with(
    hub: &Hub,
    user: &UserId,
    devices: &[OwnedDeviceId],
    mut writes: Vec<Write>,
    turn: Option<Turn>,
) -> Result<(), Refusal> {
    writes.extend(devices.iter().map(|device| Write::RemoveDevice {
        user: user.to_owned(),
        device: device.clone(),
    }));
    writes.push(match devices {
        [one] => changed_one(user, one),
        _ => changed(user),
    });
    let touched = concerned(hub, user).await?;
    end_sessions(hub, user, devices, writes, touched, turn).await
}

/// The ids of a user's devices.
pub(super) async fn ids(hub: &Hub, user: &UserId) -> Result<Vec<OwnedDeviceId>, Refusal> {
    let devices = hub.store.devices(user).await.map_err(ours)?;
    Ok(devices.into_iter().map(|device| device.device).collect())
}

/// «The devices or keys of `user` changed.»
pub(super) fn changed(user: &UserId) -> Write {
    Write::DevicesChanged {
        user: user.to_owned(),
        what: KeysChange::Devices,
    }
}

/// «This device of `user` changed, came or went.»
pub(super) fn changed_one(user: &UserId, device: &DeviceId) -> Write {
    Write::DevicesChanged {
        user: user.to_owned(),
        what: KeysChange::Device(device.to_owned()),
    }
}

/// Whoever follows the device list of `user`: those who share a room, and the user.
pub(super) async fn concerned(hub: &Hub, user: &UserId) -> Result<Vec<Touched>, Refusal> {
    let neighbours = hub.store.neighbours(user, NEIGHBOURS_MAX).await;
    let mut users: BTreeSet<_> = neighbours.map_err(ours)?.into_iter().collect();
    users.insert(user.to_owned());
    let others = users.iter().map(|user| user.server_name());
    let others = others.filter(|server| *server != hub.key.name());
    let servers: BTreeSet<_> = others.map(ToOwned::to_owned).collect();
    let mut touched = vec![Touched::Many(Arc::new(users))];
    if !servers.is_empty() {
        let beside = Touched::Servers(Arc::new(servers), ForServers::Beside);
        touched.push(beside);
    }
    Ok(touched)
}

async fn one(hub: &Hub, caller: &Caller, device: &DeviceId) -> Result<DeviceRecord, Refusal> {
    let devices = hub.store.devices(&caller.user).await.map_err(ours)?;
    devices
        .into_iter()
        .find(|record| record.device == device)
        .ok_or_else(|| Refusal::not_found("you have no device with this id"))
}

fn shown(record: DeviceRecord) -> Device {
    let mut device = Device::new(record.device);
    device.display_name = record.name;
    device.last_seen_ip = record.seen_at;
    device.last_seen_ts = record
        .seen
        .and_then(|seen| UInt::try_from(seen.0).ok())
        .map(MilliSecondsSinceUnixEpoch);
    device
}
