//! Keys of devices: uploaded, asked for, taken.
//!
//! The hub checks that keys are somebody's to upload and can be written as canonical JSON (others
//! will hash them); whether a signature is right is for the clients, who need not trust a hub.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId,
    OwnedOneTimeKeyId, OwnedUserId, UInt, UserId,
    api::client::keys,
    encryption::{CrossSigningKey, DeviceKeys, OneTimeKey},
    serde::Raw,
};

use super::{
    access::ours,
    devices,
    devices_elsewhere::asking::{self, Claims, Wanted},
    sync::lists,
};
use crate::{
    api::{Caller, Code, Refusal},
    hub::{Hub, fanout::Touched, vouched::Vouched},
    store::{Batch, Claimed, CrossSigningWrite, DeviceKeysRecord, Write},
    wire::json,
};

/// The largest device keys object, in bytes; today's have about 800.
pub(super) const DEVICE_KEYS_BYTES_MAX: usize = 16 * 1024;

/// The largest one-time or fallback key, in bytes; today's have about 250.
pub(super) const KEY_BYTES_MAX: usize = 4 * 1024;

/// The longest key id, in bytes.
pub(super) const KEY_ID_BYTES_MAX: usize = 255;

/// How many one-time keys a device may leave here. Clients keep fifty.
const ONE_TIME_KEYS_MAX: usize = 1000;

/// How many algorithms a device may have a fallback key for. There is one.
const FALLBACK_KEYS_MAX: usize = 8;

/// How many users one query may name; clients ask for 250 at a time.
const QUERIED_MAX: usize = 1000;

/// How many keys one claim may take.
const CLAIMED_MAX: usize = 2000;

/// See `api::Command::UploadKeys`.
// spec: client-server-e2ee §Key-upload
pub(super) async fn upload_keys(
    hub: &Hub,
    caller: &Caller,
    request: keys::upload_keys::v3::Request,
) -> Result<keys::upload_keys::v3::Response, Refusal> {
    let _turn = hub
        .desk
        .turns
        .take(("keys", &caller.user, &caller.device))
        .await;
    let mut writes = Vec::new();
    let mut touched = Vec::new();
    if let Some(keys) = &request.device_keys
        && let Some(json) = new_device_keys(hub, caller, keys).await?
    {
        writes.push(Write::DeviceKeys {
            user: caller.user.clone(),
            device: caller.device.clone(),
            json,
        });
        // What was signed is no more.
        writes.push(Write::CrossSigning(CrossSigningWrite::ForgetSignaturesOn {
            user: caller.user.clone(),
            item: caller.device.to_string(),
        }));
        writes.push(devices::changed_one(&caller.user, &caller.device));
        touched = devices::concerned(hub, &caller.user).await?;
    }
    writes.extend(one_time_keys(hub, caller, &request.one_time_keys).await?);
    writes.extend(fallback_keys(caller, &request.fallback_keys)?);
    if !writes.is_empty() {
        super::keep(hub, writes, touched).await?;
    }
    let counts = one_time_counts(hub, caller).await?;
    Ok(keys::upload_keys::v3::Response::new(counts))
}

/// How many one-time keys the caller's device has left. The common algorithm is always named: a
/// device that has none must be told so.
pub(super) async fn one_time_counts(
    hub: &Hub,
    caller: &Caller,
) -> Result<BTreeMap<OneTimeKeyAlgorithm, UInt>, Refusal> {
    let counts = hub
        .store
        .one_time_counts(&caller.user, caller.device.as_str())
        .await
        .map_err(ours)?;
    let mut told = BTreeMap::from([(OneTimeKeyAlgorithm::SignedCurve25519, UInt::MIN)]);
    for (algorithm, count) in counts {
        let count = UInt::try_from(count).unwrap_or(UInt::MAX);
        told.insert(OneTimeKeyAlgorithm::from(algorithm), count);
    }
    Ok(told)
}

/// The keys to store, unless they are the ones that are there.
async fn new_device_keys(
    hub: &Hub,
    caller: &Caller,
    keys: &Raw<DeviceKeys>,
) -> Result<Option<String>, Refusal> {
    let json = checked_device_keys(caller, keys.json().get())?;
    let there = hub.store.device_keys(&caller.user).await.map_err(ours)?;
    let is_there = there
        .iter()
        .any(|record| record.device == caller.device && record.json == json);
    Ok((!is_there).then_some(json))
}

fn checked_device_keys(caller: &Caller, text: &str) -> Result<String, Refusal> {
    if text.len() > DEVICE_KEYS_BYTES_MAX {
        return Err(too_large("device_keys", text.len(), DEVICE_KEYS_BYTES_MAX));
    }
    let mut object = json::read_object(text.as_bytes())
        .map_err(|error| Refusal::bad_json(error.in_member("device_keys").to_string()))?;
    object.remove("unsigned"); // ours to add
    belongs(&object, "user_id", caller.user.as_str())?;
    belongs(&object, "device_id", caller.device.as_str())?;
    let list: Form<'_, [CanonicalJsonValue]> = ("a list of texts", CanonicalJsonValue::as_array);
    let members: Form<'_, CanonicalJsonObject> = ("an object", CanonicalJsonValue::as_object);
    let algorithms = member(&object, "algorithms", list)?;
    for (index, name) in algorithms.iter().enumerate() {
        if name.as_str().is_none() {
            let found = json::kind(name);
            return Err(Refusal::bad_json(format!(
                "`device_keys.algorithms[{index}]`: expected a text, found {found}"
            )));
        }
    }
    member(&object, "signatures", members)?;
    for (id, key) in member(&object, "keys", members)? {
        let device = id.split_once(':').map(|(_, device)| device);
        if device != Some(caller.device.as_str()) || key.as_str().is_none() {
            return Err(Refusal::invalid_param(format!(
                "`device_keys.keys.{id}`: expected a key in base64 whose id ends in `:{}`, your device's",
                caller.device
            )));
        }
    }
    Ok(json::canonical(&object))
}

fn belongs(object: &CanonicalJsonObject, field: &str, wanted: &str) -> Result<(), Refusal> {
    must_be_own(object, ("device_keys", field), wanted)
}

/// Refuses what names somebody else than it is uploaded by, in a member `field` of what stands at `place`.
pub(super) fn must_be_own(
    object: &CanonicalJsonObject,
    (place, field): (&str, &str),
    wanted: &str,
) -> Result<(), Refusal> {
    match object.get(field) {
        None => {
            let message = format!("`{place}.{field}` is missing");
            Err(Refusal::new(Code::MissingParam, message))
        }
        Some(CanonicalJsonValue::String(found)) if found == wanted => Ok(()),
        Some(CanonicalJsonValue::String(found)) => Err(Refusal::invalid_param(format!(
            "`{place}.{field}` is `{found}`, yours is `{wanted}`"
        ))),
        Some(other) => Err(Refusal::bad_json(format!(
            "`{place}.{field}`: expected a text, found {}; yours is `{wanted}`",
            json::kind(other)
        ))),
    }
}

/// What a member is to be, in words, and how it is read as that.
type Form<'a, T> = (&'static str, fn(&'a CanonicalJsonValue) -> Option<&'a T>);

/// A member of `device_keys` that is a list or an object.
fn member<'a, T: ?Sized>(
    object: &'a CanonicalJsonObject,
    field: &str,
    (expected, read): Form<'a, T>,
) -> Result<&'a T, Refusal> {
    let found = object.get(field).ok_or_else(|| {
        let message = format!("`device_keys.{field}` is missing");
        Refusal::new(Code::MissingParam, message)
    })?;
    let wrong = || {
        let kind = json::kind(found);
        Refusal::bad_json(format!(
            "`device_keys.{field}`: expected {expected}, found {kind}"
        ))
    };
    read(found).ok_or_else(wrong)
}

async fn one_time_keys(
    hub: &Hub,
    caller: &Caller,
    keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> Result<Vec<Write>, Refusal> {
    let mut writes = Vec::new();
    for (id, key) in keys {
        let json = checked_key("one_time_keys", id, key)?;
        let stored = hub
            .store
            .one_time_key(&caller.user, caller.device.as_str(), id.as_str())
            .await
            .map_err(ours)?;
        match stored {
            Some(stored) if stored == json => {}
            Some(_) => {
                return Err(Refusal::invalid_param(format!(
                    "one_time_keys.{id}: another key has this id"
                )));
            }
            None => writes.push(Write::OneTimeKey {
                user: caller.user.clone(),
                device: caller.device.clone(),
                key_id: id.to_string(),
                json,
            }),
        }
    }
    if !writes.is_empty() {
        must_fit(hub, caller, writes.len()).await?;
    }
    Ok(writes)
}

async fn must_fit(hub: &Hub, caller: &Caller, new: usize) -> Result<(), Refusal> {
    let counts = one_time_counts(hub, caller).await?;
    let there: u64 = counts.into_values().map(u64::from).sum();
    let there = usize::try_from(there).unwrap_or(usize::MAX);
    if there.saturating_add(new) <= ONE_TIME_KEYS_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        Code::ResourceLimitExceeded,
        format!(
            "one_time_keys: {there} are here and {new} came, at most {ONE_TIME_KEYS_MAX} are kept"
        ),
    ))
}

fn fallback_keys(
    caller: &Caller,
    keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> Result<Vec<Write>, Refusal> {
    if keys.len() > FALLBACK_KEYS_MAX {
        return Err(too_large("fallback_keys", keys.len(), FALLBACK_KEYS_MAX));
    }
    let algorithms: BTreeSet<_> = keys.keys().map(|id| id.algorithm()).collect();
    if algorithms.len() < keys.len() {
        return Err(Refusal::invalid_param(
            "fallback_keys: one key for each algorithm",
        ));
    }
    let write = |(id, key): (&OwnedOneTimeKeyId, &Raw<OneTimeKey>)| {
        Ok(Write::FallbackKey {
            user: caller.user.clone(),
            device: caller.device.clone(),
            key_id: id.to_string(),
            json: checked_key("fallback_keys", id, key)?,
        })
    };
    keys.iter().map(write).collect()
}

/// A key as canonical JSON, so that an equal one is the same text.
fn checked_key(
    field: &str,
    id: &OwnedOneTimeKeyId,
    key: &Raw<OneTimeKey>,
) -> Result<String, Refusal> {
    let text = key.json().get();
    if id.as_str().len() > KEY_ID_BYTES_MAX {
        return Err(too_large(field, id.as_str().len(), KEY_ID_BYTES_MAX));
    }
    if text.len() > KEY_BYTES_MAX {
        return Err(too_large(
            &format!("{field}.{id}"),
            text.len(),
            KEY_BYTES_MAX,
        ));
    }
    let value = json::read(text.as_bytes()).map_err(|error| {
        Refusal::bad_json(error.in_member(id.as_str()).in_member(field).to_string())
    })?;
    match value {
        CanonicalJsonValue::Object(object)
            if object.get("key").is_some_and(|key| key.as_str().is_some())
                && object
                    .get("signatures")
                    .is_some_and(|it| it.as_object().is_some()) =>
        {
            Ok(json::canonical(&object))
        }
        CanonicalJsonValue::String(_)
            if id.algorithm() != OneTimeKeyAlgorithm::SignedCurve25519 =>
        {
            Ok(text.trim().to_owned())
        }
        _ => Err(Refusal::bad_json(format!(
            "{field}.{id}: must be an object with `key` and `signatures`"
        ))),
    }
}

fn too_large(field: &str, found: usize, max: usize) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("{field}: {found} where {max} are the most"),
    )
}

/// See `api::Command::QueryKeys`.
// spec: client-server-e2ee §Key-query
pub(super) async fn query_keys(
    hub: &Hub,
    caller: &Caller,
    request: keys::get_keys::v3::Request,
) -> Result<keys::get_keys::v3::Response, Refusal> {
    let mut reply = keys::get_keys::v3::Response::new();
    let (here, there): (Wanted, Wanted) = request
        .device_keys
        .into_iter()
        .partition(|(user, _)| is_ours(hub, user));
    must_be_few(here.len().saturating_add(there.len()))?;
    let told = keys_here(hub, here, Some(&caller.user)).await?;
    reply.device_keys = told.devices;
    reply.master_keys = told.master;
    reply.self_signing_keys = told.self_signing;
    reply.user_signing_keys = told.user_signing;
    asking::query(hub, caller, there, request.timeout, &mut reply).await;
    Ok(reply)
}

fn must_be_few(users: usize) -> Result<(), Refusal> {
    if users > QUERIED_MAX {
        return Err(too_large("device_keys", users, QUERIED_MAX));
    }
    Ok(())
}

/// What is told of the keys of users here.
#[derive(Default)]
pub(super) struct KeysHere {
    pub(super) devices: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    pub(super) master: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    pub(super) self_signing: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// The viewer's own.
    pub(super) user_signing: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
}

/// The keys of users of this hub, as this one of them sees them, or as everyone does; others are
/// left out.
pub(super) async fn keys_here(
    hub: &Hub,
    wanted: Wanted,
    viewer: Option<&UserId>,
) -> Result<KeysHere, Refusal> {
    must_be_few(wanted.len())?;
    let mut told = KeysHere::default();
    for (user, wanted) in wanted {
        if !is_ours(hub, &user) {
            continue;
        }
        let vouched = Vouched::of(&*hub.store, &user, viewer.unwrap_or(&user)).await;
        let vouched = vouched.map_err(ours)?;
        let devices = keys_of(hub, &user, &wanted, &vouched).await?;
        if let Some(key) = vouched.master().map_err(ours)? {
            told.master.insert(user.clone(), raw(&key)?);
        }
        if let Some(key) = vouched.self_signing().map_err(ours)? {
            told.self_signing.insert(user.clone(), raw(&key)?);
        }
        if viewer == Some(&user)
            && let Some(key) = vouched.user_signing().map_err(ours)?
        {
            told.user_signing.insert(user.clone(), raw(&key)?);
        }
        told.devices.insert(user, devices);
    }
    Ok(told)
}

/// An object as it is sent.
pub(super) fn raw<T>(object: &CanonicalJsonObject) -> Result<Raw<T>, Refusal> {
    Raw::from_json_string(json::canonical(object)).map_err(|error| {
        tracing::error!(%error, "a key cannot be told");
        Refusal::internal()
    })
}

pub(super) fn is_ours(hub: &Hub, user: &UserId) -> bool {
    user.server_name() == hub.key.name()
}

/// Keys of the devices wanted, of all when none is named. Who does not exist has none.
async fn keys_of(
    hub: &Hub,
    user: &UserId,
    wanted: &[OwnedDeviceId],
    vouched: &Vouched,
) -> Result<BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>, Refusal> {
    let records = hub.store.device_keys(user).await.map_err(ours)?;
    let is_wanted =
        |record: &DeviceKeysRecord| wanted.is_empty() || wanted.contains(&record.device);
    records
        .into_iter()
        .filter(is_wanted)
        .map(|record| Ok((record.device.clone(), with_name(&record, vouched)?)))
        .collect()
}

/// The keys as uploaded, with signatures that came since, and the device's name where signatures do
/// not cover it.
pub(super) fn with_name(
    record: &DeviceKeysRecord,
    vouched: &Vouched,
) -> Result<Raw<DeviceKeys>, Refusal> {
    let damaged = |error: &(dyn std::error::Error + 'static)| {
        let device = &record.device;
        tracing::error!(error, %device, "stored device keys are damaged");
        Refusal::internal()
    };
    let mut object = json::read_object(record.json.as_bytes()).map_err(|error| damaged(&error))?;
    vouched.sign_device(record.device.as_str(), &mut object);
    if let Some(name) = &record.name {
        let name = CanonicalJsonValue::String(name.clone());
        let unsigned = [("device_display_name".to_owned(), name)].into();
        object.insert("unsigned".to_owned(), CanonicalJsonValue::Object(unsigned));
    }
    Raw::from_json_string(json::canonical(&object)).map_err(|error| damaged(&error))
}

/// See `api::Command::ClaimKeys`.
// spec: client-server-e2ee §Key-claim
pub(super) async fn claim_keys(
    hub: &Hub,
    _caller: &Caller,
    request: keys::claim_keys::v3::Request,
) -> Result<keys::claim_keys::v3::Response, Refusal> {
    let count = request.one_time_keys.values().map(BTreeMap::len).sum();
    if count > CLAIMED_MAX {
        return Err(too_large("one_time_keys", count, CLAIMED_MAX));
    }
    let (here, there): (Claims, Claims) = request
        .one_time_keys
        .into_iter()
        .partition(|(user, _)| is_ours(hub, user));
    let told = claim_here(hub, here, |_, _| false).await?;
    let mut reply = keys::claim_keys::v3::Response::new(told);
    asking::claim(hub, there, request.timeout, &mut reply).await;
    Ok(reply)
}

/// Takes keys of users of this hub; others have none. Of devices that are to be `spared` only the
/// fallback key is given.
pub(super) async fn claim_here(
    hub: &Hub,
    wanted: Claims,
    spared: impl Fn(&UserId, &DeviceId) -> bool,
) -> Result<BTreeMap<OwnedUserId, keys::claim_keys::v3::OneTimeKeys>, Refusal> {
    let mut writes = Vec::new();
    let mut touched = Vec::new();
    for (user, devices) in wanted {
        if !is_ours(hub, &user) {
            continue;
        }
        // Whose keys grow few hears of it with the next sync.
        touched.push(Touched::One(user.clone()));
        writes.extend(
            devices
                .into_iter()
                .map(|(device, algorithm)| Write::ClaimKey {
                    spare: spared(&user, &device),
                    user: user.clone(),
                    device,
                    algorithm: algorithm.to_string(),
                }),
        );
    }
    if writes.len() > CLAIMED_MAX {
        return Err(too_large("one_time_keys", writes.len(), CLAIMED_MAX));
    }
    let mut told = BTreeMap::<OwnedUserId, keys::claim_keys::v3::OneTimeKeys>::new();
    if !writes.is_empty() {
        let batch = Batch {
            writes,
            may_conflict: false,
        };
        let (_, claimed) = hub.writer.write(batch, touched).await?;
        for Claimed { user, device, key } in claimed {
            if let Some((id, json)) = key {
                let key = one_key(id, json)?;
                told.entry(user).or_default().insert(device, key.into());
            }
        }
    }
    Ok(told)
}

fn one_key(id: String, json: String) -> Result<[(OwnedOneTimeKeyId, Raw<OneTimeKey>); 1], Refusal> {
    let damaged = |error: &(dyn std::error::Error + 'static)| {
        tracing::error!(error, "a stored one-time key is damaged");
        Refusal::internal()
    };
    let id = OwnedOneTimeKeyId::try_from(id).map_err(|error| damaged(&error))?;
    let key = Raw::from_json_string(json).map_err(|error| damaged(&error))?;
    Ok([(id, key)])
}

/// See `api::Command::KeyChanges`.
pub(super) async fn key_changes(
    hub: &Hub,
    caller: &Caller,
    request: keys::get_key_changes::v3::Request,
) -> Result<keys::get_key_changes::v3::Response, Refusal> {
    let lists = lists::between(hub, caller, &request.from, &request.to).await?;
    Ok(keys::get_key_changes::v3::Response::new(
        lists.changed,
        lists.left,
    ))
}
