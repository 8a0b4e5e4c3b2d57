//! Keys of other servers' users for a client: from the lists that are kept, else from their servers,
//! all of these at once. Which server failed is told beside what the others gave.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use ruma::{
    DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId,
    api::{
        client::keys::{claim_keys, get_keys},
        federation::keys::{claim_keys as claim_there, get_keys as get_there},
    },
    encryption::CrossSigningKey,
    serde::Raw,
};
use serde_json::{Value, json};

use super::{
    checked,
    lists::{self, LISTS_AT_ONCE, LISTS_MAX},
};
use crate::{
    api::{Caller, PeerCommand, PeerReply, Refusal, Why, not_reached},
    hub::{
        Hub,
        desk::{access::ours, keys},
        vouched::{self, Vouched},
    },
    store::{DeviceKeysRecord, RemoteList},
};

/// How long one answer waits for other servers at most, and how long unless the client says.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// How many servers are asked at once for one answer.
const SERVERS_AT_ONCE: usize = 50;

/// What is asked for, by user.
pub(in crate::hub::desk) type Wanted = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// Adds the keys of other servers' users to an answer.
// spec: client-server-e2ee §Key-query
pub(in crate::hub::desk) async fn query(
    hub: &Hub,
    caller: &Caller,
    wanted: Wanted,
    patience: Option<Duration>,
    reply: &mut get_keys::v3::Response,
) {
    let mut servers: BTreeMap<OwnedServerName, Wanted> = BTreeMap::new();
    for (user, devices) in wanted {
        let server = user.server_name().to_owned();
        servers.entry(server).or_default().insert(user, devices);
    }
    let patience = patience.unwrap_or(PATIENCE_MAX).min(PATIENCE_MAX);
    let asked = servers
        .into_iter()
        .map(|(server, wanted)| of_server(hub, caller, server, wanted, patience));
    let mut told = stream::iter(asked.collect::<Vec<_>>()).buffer_unordered(SERVERS_AT_ONCE);
    while let Some((server, told, failed)) = told.next().await {
        reply.device_keys.extend(told.device_keys);
        reply.master_keys.extend(told.master_keys);
        reply.self_signing_keys.extend(told.self_signing_keys);
        if let Some(refusal) = failed {
            reply.failures.insert(server.to_string(), failure(&refusal));
        }
    }
    if let Err(refusal) = add_own_signatures(hub, caller, reply).await {
        let why = refusal.message;
        tracing::error!(why, user = %caller.user, "signatures of a user are left out");
    }
}

/// Adds what the caller has signed of other servers' users, and nobody else is shown.
async fn add_own_signatures(
    hub: &Hub,
    caller: &Caller,
    reply: &mut get_keys::v3::Response,
) -> Result<(), Refusal> {
    let made = hub.store.signatures_made(&caller.user).await;
    if made.map_err(ours)? == 0 {
        return Ok(());
    }
    let there = |user: &UserId| !keys::is_ours(hub, user);
    for (user, key) in reply.master_keys.iter_mut().filter(|(user, _)| there(user)) {
        let signatures = hub.store.key_signatures(user, &caller.user).await;
        let signatures = signatures.map_err(ours)?;
        if signatures.is_empty() {
            continue;
        }
        let mut object = vouched::read(key.json().get()).map_err(ours)?;
        if let Some(public) = vouched::public_key(&object).map(str::to_owned) {
            vouched::add_signatures(&mut object, &public, &signatures);
            *key = keys::raw(&object)?;
        }
    }
    Ok(())
}

/// How a client is told that a server failed.
fn failure(refusal: &Refusal) -> Value {
    json!({ "status": refusal.status, "message": refusal.message })
}

type Told = (OwnedServerName, get_keys::v3::Response, Option<Refusal>);

async fn of_server(
    hub: &Hub,
    caller: &Caller,
    server: OwnedServerName,
    wanted: Wanted,
    patience: Duration,
) -> Told {
    let mut told = get_keys::v3::Response::new();
    let asking = ask_server(hub, caller, &server, wanted, patience, &mut told);
    let failed = match tokio::time::timeout(patience, asking).await {
        Ok(Ok(())) => None,
        Ok(Err(refusal)) => Some(refusal),
        Err(_) => Some(late(&server)),
    };
    (server, told, failed)
}

fn late(server: &OwnedServerName) -> Refusal {
    let code = "PEER_UNREACHABLE";
    let message = not_reached(server.as_str(), code, "it does not answer in time");
    let why = Why::of(code).rule(&message).of_server(server);
    let refusal = Refusal::new(crate::api::Code::Unknown, message).with_status(504);
    refusal.because(why)
}

async fn ask_server(
    hub: &Hub,
    caller: &Caller,
    server: &OwnedServerName,
    wanted: Wanted,
    patience: Duration,
    told: &mut get_keys::v3::Response,
) -> Result<(), Refusal> {
    let (mut to_fetch, mut others) = (Vec::new(), Wanted::new());
    for (user, devices) in wanted {
        if let Some(list) = lists::good(hub, &caller.user, &user).await? {
            add_list(told, user, &devices, &list);
        } else if to_fetch.len() < LISTS_MAX && shares_a_room(hub, caller, &user).await? {
            to_fetch.push((user, devices));
        } else {
            others.insert(user, devices);
        }
    }
    let fetches = to_fetch
        .into_iter()
        .map(|(user, devices)| fetched(hub, user, devices));
    let fetches = fetches.collect::<Vec<_>>();
    let mut fetches = stream::iter(fetches).buffer_unordered(LISTS_AT_ONCE);
    while let Some((user, devices, list)) = fetches.next().await {
        add_list(told, user, &devices, &*list?);
    }
    if others.is_empty() {
        return Ok(());
    }
    let request = get_there::v1::Request::new(others.clone());
    let command = PeerCommand::UserKeys(Box::new(request));
    match hub.remote.ask(server, command, patience).await? {
        PeerReply::UserKeys(answer) => add_answer(told, &others, *answer),
        other => tracing::error!(told = other.name(), "another answer than was asked for"),
    }
    Ok(())
}

async fn shares_a_room(hub: &Hub, caller: &Caller, user: &UserId) -> Result<bool, Refusal> {
    let shares = hub.store.share_a_room(&caller.user, user).await;
    shares.map_err(ours)
}

type Fetched = Result<std::sync::Arc<RemoteList>, Refusal>;

async fn fetched(
    hub: &Hub,
    user: OwnedUserId,
    devices: Vec<OwnedDeviceId>,
) -> (OwnedUserId, Vec<OwnedDeviceId>, Fetched) {
    let list = lists::fetch(hub, &user).await;
    (user, devices, list)
}

fn add_list(
    told: &mut get_keys::v3::Response,
    user: OwnedUserId,
    wanted: &[OwnedDeviceId],
    list: &RemoteList,
) {
    let cross = |key: &Option<String>| {
        let key = Raw::<CrossSigningKey>::from_json_string(key.clone()?);
        key.ok() // was read when it came
    };
    if let Some(key) = cross(&list.user.master_key) {
        told.master_keys.insert(user.clone(), key);
    }
    if let Some(key) = cross(&list.user.self_signing_key) {
        told.self_signing_keys.insert(user.clone(), key);
    }
    let devices = told.device_keys.entry(user).or_default();
    for device in &list.devices {
        if checked::is_wanted(wanted, &device.device) {
            add_device(
                devices,
                &device.device,
                (device.name.clone(), device.keys.clone()),
            );
        }
    }
}

fn add_device(
    devices: &mut BTreeMap<OwnedDeviceId, Raw<ruma::encryption::DeviceKeys>>,
    device: &DeviceId,
    (name, json): checked::Known,
) {
    let record = DeviceKeysRecord {
        device: device.to_owned(),
        name,
        json,
    };
    if let Ok(keys) = keys::with_name(&record, &Vouched::default()) {
        devices.insert(record.device, keys);
    } else {
        tracing::error!(%device, "kept device keys cannot be read");
    }
}

/// Adds what a server told of the users it was asked for, and of no others.
fn add_answer(
    told: &mut get_keys::v3::Response,
    asked: &Wanted,
    mut answer: get_there::v1::Response,
) {
    for (user, wanted) in asked {
        let kept = told.device_keys.entry(user.clone()).or_default();
        let devices = answer.device_keys.remove(user).unwrap_or_default();
        let devices = devices.into_iter().take(checked::DEVICES_MAX);
        for (device, keys) in devices.filter(|(device, _)| checked::is_wanted(wanted, device)) {
            match checked::device_keys(user, &device, &keys) {
                Ok(known) => add_device(kept, &device, known),
                Err(why) => tracing::debug!(%user, %device, why, "not told"),
            }
        }
        let cross = |key: Option<Raw<CrossSigningKey>>, usage| {
            key.filter(|key| checked::cross_signing_key(user, usage, key).is_ok())
        };
        if let Some(key) = cross(answer.master_keys.remove(user), checked::MASTER) {
            told.master_keys.insert(user.clone(), key);
        }
        let key = answer.self_signing_keys.remove(user);
        if let Some(key) = cross(key, checked::SELF_SIGNING) {
            told.self_signing_keys.insert(user.clone(), key);
        }
    }
}

/// One-time keys wanted, by user and device.
pub(in crate::hub::desk) type Claims =
    BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>;

/// Adds one-time keys of other servers' users to an answer.
// spec: client-server-e2ee §Key-claim
pub(in crate::hub::desk) async fn claim(
    hub: &Hub,
    wanted: Claims,
    patience: Option<Duration>,
    reply: &mut claim_keys::v3::Response,
) {
    let mut servers: BTreeMap<OwnedServerName, Claims> = BTreeMap::new();
    for (user, devices) in wanted {
        let server = user.server_name().to_owned();
        servers.entry(server).or_default().insert(user, devices);
    }
    let patience = patience.unwrap_or(PATIENCE_MAX).min(PATIENCE_MAX);
    let asked = servers
        .into_iter()
        .map(|(server, wanted)| claim_of(hub, server, wanted, patience));
    let mut told = stream::iter(asked.collect::<Vec<_>>()).buffer_unordered(SERVERS_AT_ONCE);
    while let Some((server, told)) = told.next().await {
        match told {
            Ok(keys) => reply.one_time_keys.extend(keys),
            Err(refusal) => {
                let failed = failure(&refusal);
                reply.failures.insert(server.to_string(), failed);
            }
        }
    }
}

type Given = BTreeMap<OwnedUserId, claim_keys::v3::OneTimeKeys>;

async fn claim_of(
    hub: &Hub,
    server: OwnedServerName,
    wanted: Claims,
    patience: Duration,
) -> (OwnedServerName, Result<Given, Refusal>) {
    let request = claim_there::v1::Request::new(wanted.clone());
    let command = PeerCommand::UserKeyClaim(Box::new(request));
    let asking = hub.remote.ask(&server, command, patience);
    let told = match tokio::time::timeout(patience, asking).await {
        Err(_) => Err(late(&server)),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(PeerReply::UserKeyClaim(answer))) => Ok(given(&wanted, *answer)),
        Ok(Ok(other)) => {
            tracing::error!(told = other.name(), "another answer than was asked for");
            Err(Refusal::internal())
        }
    };
    (server, told)
}

/// Of the keys that a server gave, those that were asked for: one for each device.
fn given(wanted: &Claims, mut answer: claim_there::v1::Response) -> Given {
    let mut given = Given::new();
    for (user, devices) in wanted {
        let mut theirs = answer.one_time_keys.remove(user).unwrap_or_default();
        for (device, algorithm) in devices {
            let keys = theirs.remove(device).unwrap_or_default();
            if let Some(keys) = checked::claimed(algorithm, keys) {
                let devices = given.entry(user.clone()).or_default();
                devices.insert(device.clone(), keys);
            }
        }
    }
    given
}
