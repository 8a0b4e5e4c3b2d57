//! What another server says of its users' devices, read: whose it is, how large, and that it can be
//! written as canonical JSON. What is not as it should be is left out, with a word in the log.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId,
    OwnedOneTimeKeyId, UserId,
    api::federation::device::get_devices,
    encryption::{CrossSigningKey, DeviceKeys, OneTimeKey},
    serde::Raw,
};

use crate::{
    base::Position,
    hub::desk::{
        accounts::DEVICE_NAME_BYTES_MAX,
        keys::{DEVICE_KEYS_BYTES_MAX, KEY_BYTES_MAX, KEY_ID_BYTES_MAX},
    },
    store::{RemoteDevice, RemoteList, RemoteUser},
    wire::json,
};

/// How many devices of one user are kept. Accounts here have fewer.
pub(super) const DEVICES_MAX: usize = 1000;

/// The bytes of their keys altogether, so that no user of another server costs more than this.
const LIST_BYTES_MAX: usize = 1024 * 1024;

/// The longest device id, in bytes.
const DEVICE_ID_BYTES_MAX: usize = 255;

/// A device's name and keys.
pub(super) type Known = (Option<String>, String);

/// The device list that its server gave.
pub(super) fn list(
    user: &UserId,
    asked: Position,
    told: &get_devices::v1::Response,
) -> Result<RemoteList, String> {
    if told.user_id != *user {
        return Err(format!("the list is of {}, not of {user}", told.user_id));
    }
    let mut bytes = 0;
    let mut devices = BTreeMap::new();
    for device in &told.devices {
        match device_keys(user, &device.device_id, &device.keys) {
            Ok((name, keys)) => {
                bytes += keys.len();
                let name = device.device_display_name.clone().filter(fits).or(name);
                devices.insert(device.device_id.clone(), (name, keys));
            }
            Err(why) => tracing::debug!(%user, device = %device.device_id, why, "not kept"),
        }
        if devices.len() >= DEVICES_MAX || bytes > LIST_BYTES_MAX {
            tracing::warn!(%user, "more devices than are kept; the others are left out");
            break;
        }
    }
    let cross = |key: &Option<Raw<CrossSigningKey>>, usage| {
        let key = key.as_ref()?;
        cross_signing_key(user, usage, key)
            .inspect_err(|why| tracing::debug!(%user, usage, why, "not kept"))
            .ok()
    };
    Ok(RemoteList {
        user: RemoteUser {
            stream: told.stream_id.into(),
            stale: false,
            asked,
            master_key: cross(&told.master_key, MASTER),
            self_signing_key: cross(&told.self_signing_key, SELF_SIGNING),
        },
        devices: devices
            .into_iter()
            .map(|(device, (name, keys))| RemoteDevice { device, name, keys })
            .collect(),
    })
}

pub(super) const MASTER: &str = "master";
pub(super) const SELF_SIGNING: &str = "self_signing";

/// The keys of a device, and its name where that came with them.
pub(super) fn device_keys(
    user: &UserId,
    device: &DeviceId,
    keys: &Raw<DeviceKeys>,
) -> Result<Known, String> {
    if device.as_str().len() > DEVICE_ID_BYTES_MAX {
        return Err("the device's id is too long".to_owned());
    }
    let mut object = object(keys.json().get(), DEVICE_KEYS_BYTES_MAX)?;
    must_be(&object, "user_id", user.as_str())?;
    must_be(&object, "device_id", device.as_str())?;
    let name = match object.remove("unsigned") {
        Some(CanonicalJsonValue::Object(mut unsigned)) => unsigned.remove("device_display_name"),
        _ => None,
    };
    let name = match name {
        Some(CanonicalJsonValue::String(name)) => Some(name).filter(fits),
        _ => None,
    };
    Ok((name, json::canonical(&object)))
}

/// Whether a device's name is no longer than one of ours may be.
#[expect(clippy::ptr_arg, reason = "it filters owned names")]
pub(super) fn fits(name: &String) -> bool {
    name.len() <= DEVICE_NAME_BYTES_MAX
}

/// A cross-signing key of a user for this use.
pub(super) fn cross_signing_key(
    user: &UserId,
    usage: &str,
    key: &Raw<CrossSigningKey>,
) -> Result<String, String> {
    let object = object(key.json().get(), DEVICE_KEYS_BYTES_MAX)?;
    must_be(&object, "user_id", user.as_str())?;
    let usages = object.get("usage").and_then(CanonicalJsonValue::as_array);
    if !usages.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(usage))) {
        return Err(format!("`usage` does not name {usage}"));
    }
    Ok(json::canonical(&object))
}

/// The keys that were claimed of a device, if they are of the algorithm asked for.
pub(super) fn claimed(
    algorithm: &OneTimeKeyAlgorithm,
    keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> Option<BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>> {
    let mut kept = keys.into_iter().filter(|(id, key)| {
        id.algorithm() == *algorithm
            && id.as_str().len() <= KEY_ID_BYTES_MAX
            && key.json().get().len() <= KEY_BYTES_MAX
            && json::read(key.json().get().as_bytes()).is_ok()
    });
    kept.next().map(|one| [one].into())
}

/// Of the devices that a server told of, those that were asked for.
pub(super) fn is_wanted(wanted: &[OwnedDeviceId], device: &DeviceId) -> bool {
    wanted.is_empty() || wanted.iter().any(|one| one == device)
}

fn object(text: &str, bytes_max: usize) -> Result<CanonicalJsonObject, String> {
    if text.len() > bytes_max {
        let found = text.len();
        return Err(format!("{found} bytes where {bytes_max} are the most"));
    }
    json::read_object(text.as_bytes()).map_err(|error| error.to_string())
}

fn must_be(object: &CanonicalJsonObject, field: &str, wanted: &str) -> Result<(), String> {
    let found = object.get(field).and_then(CanonicalJsonValue::as_str);
    if found == Some(wanted) {
        return Ok(());
    }
    Err(format!("`{field}` is {found:?}, not {wanted:?}"))
}
