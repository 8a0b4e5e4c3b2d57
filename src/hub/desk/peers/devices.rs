//! What other servers ask of the devices of users here, so that theirs can encrypt for them. Any
//! server may ask: what is told is what the keys are for.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, ServerName, UInt, UserId,
    api::federation::{
        device::get_devices::v1::{self as get_devices, UserDevice},
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
    },
};

use crate::{
    api::{Code, Refusal, Why},
    hub::{
        Hub,
        desk::{access::ours, keys},
        outbox,
        vouched::{self, Vouched},
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
    let stream = hub.store.devices_changed_at(&user, hub.fanout.position());
    let stream = stream.await.map_err(ours)?;
    let stream = UInt::try_from(outbox::stream_id(stream)).unwrap_or(UInt::MAX);
    let mut told = get_devices::Response::new(user.clone(), stream);
    let vouched = Vouched::of(&*hub.store, &user, &user).await.map_err(ours)?;
    let master = vouched.master().map_err(ours)?;
    told.master_key = master.as_ref().map(keys::raw).transpose()?;
    let self_signing = vouched.self_signing().map_err(ours)?;
    told.self_signing_key = self_signing.as_ref().map(keys::raw).transpose()?;
    for record in hub.store.device_keys(&user).await.map_err(ours)? {
        let mut object = vouched::read(&record.json).map_err(ours)?;
        vouched.sign_device(record.device.as_str(), &mut object);
        let mut device = UserDevice::new(record.device, keys::raw(&object)?);
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
    let told = keys::keys_here(hub, asked.device_keys, None).await?;
    let mut answer = get_keys::Response::new(told.devices);
    answer.master_keys = told.master;
    answer.self_signing_keys = told.self_signing;
    Ok(answer)
}

/// See `api::PeerCommand::UserKeyClaim`. The keys are gone before they are told.
///
/// One server cannot take them all: of a device from which it took many in a short time it is given the
/// fallback key, which can be given to anyone. Where that leaves nothing to give, it is told to wait.
pub(super) async fn claim(
    hub: &Hub,
    peer: &ServerName,
    asked: claim_keys::Request,
) -> Result<claim_keys::Response, Refusal> {
    let count: usize = asked.one_time_keys.values().map(BTreeMap::len).sum();
    if count > CLAIMED_MAX {
        let message = format!("one_time_keys: {count} where {CLAIMED_MAX} are the most");
        return Err(Refusal::new(Code::TooLarge, message));
    }
    let (spared, wait) = over_budget(hub, peer, &asked).await?;
    let is_spared = |user: &UserId, device: &DeviceId| {
        let name = (user.to_owned(), device.to_owned());
        spared.contains(&name)
    };
    let told = keys::claim_here(hub, asked.one_time_keys, is_spared).await?;
    match wait.filter(|_| told.is_empty()) {
        Some(refusal) => Err(refusal),
        None => Ok(claim_keys::Response::new(told)),
    }
}

type Spared = BTreeSet<(OwnedUserId, OwnedDeviceId)>;

/// The devices of which a server has taken enough for now, and how it is told.
async fn over_budget(
    hub: &Hub,
    peer: &ServerName,
    asked: &claim_keys::Request,
) -> Result<(Spared, Option<Refusal>), Refusal> {
    let (mut spared, mut wait) = (Spared::new(), None);
    for (user, devices) in &asked.one_time_keys {
        if !keys::is_ours(hub, user) {
            continue;
        }
        // Names of devices that are not there cost nothing: there is nothing to take.
        let there = hub.store.device_keys(user).await.map_err(ours)?;
        for record in there {
            if !devices.contains_key(&record.device) {
                continue;
            }
            let device = record.device;
            if let Err(refusal) = hub.desk.rates().claims(peer, user, &device) {
                let why = Why::of("KEY_CLAIMS").rule(format!("{device} of {user}"));
                wait = Some(refusal.because(why));
                spared.insert((user.clone(), device));
            }
        }
    }
    if !spared.is_empty() {
        let count = spared.len();
        metrics::counter!("tramline_key_claims_spared_total").increment(count as u64);
        tracing::info!(%peer, count, "a server claims many keys of the same devices");
    }
    Ok((spared, wait))
}
