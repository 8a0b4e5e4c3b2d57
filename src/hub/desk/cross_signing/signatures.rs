//! Signatures on keys that are already there: of a user's own devices and master key, which everyone
//! is shown, and of other users' master keys, which only the signer is shown.
//!
//! A signature is kept when it is right, by a key that may vouch for such a thing, and on what is
//! known of it here; for others the answer says why not, one by one.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    CanonicalJsonObject, OwnedUserId, UserId,
    api::client::keys::upload_signatures::v3::{self, Failure},
};
use serde_json::json;

use super::{Kept, Key, changed, turn_of};
use crate::{
    api::{Caller, Code, Refusal},
    hub::{
        Hub,
        desk::{
            access::ours,
            devices,
            devices_elsewhere::lists,
            keys::{DEVICE_KEYS_BYTES_MAX, is_ours},
            turns::keep_in_turn,
        },
        fanout::Touched,
        vouched,
    },
    store::{CrossSigningWrite, DeviceKeysRecord, KeySignature, KeysChange, Write},
    wire::{
        json as text,
        matrix::{Signature, text_to_sign},
    },
};

/// How many things one request may sign: all devices of an account, and then some.
const SIGNED_MAX: usize = 2000;

/// How many signatures of one user are kept: on 1,000 devices, and on 9,000 other users' keys.
const SIGNATURES_MAX: u64 = 10_000;

/// See `api::Command::UploadSignatures`.
// spec: client-server-e2ee §Cross-signing
pub(in crate::hub::desk) async fn upload_signatures(
    hub: &Hub,
    caller: &Caller,
    request: v3::Request,
) -> Result<v3::Response, Refusal> {
    let count: usize = request
        .signed_keys
        .values()
        .map(|of| of.iter().count())
        .sum();
    if count > SIGNED_MAX {
        let message = format!("{count} signed keys where {SIGNED_MAX} are the most");
        return Err(Refusal::new(Code::TooLarge, message));
    }
    let masters = masters(hub, caller, request.signed_keys.keys()).await?;
    // After others were asked: whoever has a turn waits for nobody.
    let turn = hub.desk.turns.take(turn_of(&caller.user)).await;
    let mut desk = Signing {
        hub,
        user: &caller.user,
        kept: Kept::of(hub, &caller.user).await?,
        masters,
        devices: hub.store.device_keys(&caller.user).await.map_err(ours)?,
        signatures: signatures_of(hub, &caller.user, &caller.user).await?,
        room: room_left(hub, &caller.user).await?,
        writes: Vec::new(),
        seen_changed: false,
    };
    let mut reply = v3::Response::new();
    for (of, signed) in &request.signed_keys {
        for (item, key) in signed {
            if let Err(refusal) = desk.take(of, item, key.get()).await {
                if refusal.status >= 500 {
                    return Err(refusal);
                }
                let failures: &mut BTreeMap<_, _> = reply.failures.entry(of.clone()).or_default();
                failures.insert(item.to_owned(), failure(&refusal)?);
            }
        }
    }
    let touched = if desk.seen_changed {
        devices::concerned(hub, &caller.user).await?
    } else {
        vec![Touched::One(caller.user.clone())]
    };
    let writes = desk.writes;
    if !writes.is_empty() {
        keep_in_turn(hub, turn, writes, touched).await?;
    }
    Ok(reply)
}

/// The master keys of those that the caller may vouch for, where they are known or can be.
async fn masters(
    hub: &Hub,
    caller: &Caller,
    users: impl Iterator<Item = &OwnedUserId>,
) -> Result<BTreeMap<OwnedUserId, String>, Refusal> {
    let others = users.filter(|user| **user != caller.user).cloned();
    let (here, there): (Vec<_>, Vec<_>) = others.partition(|user| is_ours(hub, user));
    let mut masters = lists::master_keys(hub, &caller.user, there).await?;
    for user in here {
        let keys = hub.store.cross_signing_keys(&user).await.map_err(ours)?;
        masters.extend(keys.master.map(|key| (user, key)));
    }
    Ok(masters)
}

async fn signatures_of(
    hub: &Hub,
    of: &UserId,
    viewer: &UserId,
) -> Result<BTreeSet<KeySignature>, Refusal> {
    let signatures = hub.store.key_signatures(of, viewer).await;
    Ok(signatures.map_err(ours)?.into_iter().collect())
}

async fn room_left(hub: &Hub, user: &UserId) -> Result<u64, Refusal> {
    let made = hub.store.signatures_made(user).await.map_err(ours)?;
    Ok(SIGNATURES_MAX.saturating_sub(made))
}

/// As Synapse words it, and the specification does not.
fn failure(refusal: &Refusal) -> Result<Failure, Refusal> {
    let told = json!({
        "errcode": refusal.code.errcode(), "error": refusal.message, "status": refusal.status,
    });
    serde_json::from_value(told).map_err(|error| {
        tracing::error!(%error, "a failure cannot be told");
        Refusal::internal()
    })
}

fn unsigned(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidSignature, why)
}

/// One user's signatures as they are taken.
struct Signing<'a> {
    hub: &'a Hub,
    user: &'a OwnedUserId,
    kept: Kept,
    /// The user's devices, and what is signed of the user: there may be as many as are in a request.
    devices: Vec<DeviceKeysRecord>,
    signatures: BTreeSet<KeySignature>,
    /// The master keys of others.
    masters: BTreeMap<OwnedUserId, String>,
    /// How many more may be kept.
    room: u64,
    writes: Vec<Write>,
    /// Whether something changed that everyone is shown.
    seen_changed: bool,
}

impl Signing<'_> {
    async fn take(&mut self, of: &UserId, item: &str, signed: &str) -> Result<(), Refusal> {
        if signed.len() > DEVICE_KEYS_BYTES_MAX {
            let found = signed.len();
            let message = format!("{found} bytes where {DEVICE_KEYS_BYTES_MAX} are the most");
            return Err(Refusal::new(Code::TooLarge, message));
        }
        let signed = text::read_object(signed.as_bytes())
            .map_err(|error| Refusal::bad_json(error.to_string()))?;
        if of != *self.user {
            return self.other_user(of, item, &signed).await;
        }
        let master = self.kept.master.as_ref();
        if master.is_some_and(|master| master.name() == item) {
            self.own_master(item, &signed).await
        } else {
            self.own_device(item, &signed).await
        }
    }

    /// By the self-signing key.
    async fn own_device(
        &mut self,
        device: &str,
        signed: &CanonicalJsonObject,
    ) -> Result<(), Refusal> {
        let record = self.devices.iter().find(|record| record.device == device);
        let record = record.ok_or_else(|| Refusal::not_found("you have no such device or key"))?;
        must_be_the_same(signed, &vouched::read(&record.json).map_err(ours)?)?;
        let key = self.kept.self_signing.as_ref();
        let key = key.ok_or_else(|| unsigned("you have no self-signing key"))?;
        let id = key.id();
        let signature = key.signature_on(signed, self.user, &id);
        let signature = signature
            .ok_or_else(|| unsigned("it carries no valid signature of your self-signing key"))?;
        let what = KeysChange::Device(record.device.clone());
        self.keep(&self.user.clone(), (device, id), &signature, what)
            .await
    }

    /// By devices.
    async fn own_master(
        &mut self,
        item: &str,
        signed: &CanonicalJsonObject,
    ) -> Result<(), Refusal> {
        let Some(master) = &self.kept.master else {
            return Err(Refusal::not_found("you have no master key"));
        };
        must_be_the_same(signed, &master.object)?;
        let mut found = Vec::new();
        for record in &self.devices {
            let id = format!("ed25519:{}", record.device);
            if super::signature_of(signed, self.user, &id).is_none() {
                continue;
            }
            let object = vouched::read(&record.json).map_err(ours)?;
            let keys = object.get("keys").and_then(|keys| keys.as_object());
            let public = keys.and_then(|keys| keys.get(&id)?.as_str()?.parse().ok());
            let key = public.map(|public| Key { object, public });
            let signature = key.and_then(|key| key.signature_on(signed, self.user, &id));
            found.push((
                id.clone(),
                signature.ok_or_else(|| {
                    unsigned(format!("the signature of {} is not its own", record.device))
                })?,
            ));
        }
        if found.is_empty() {
            return Err(unsigned("it carries no signature of a device of yours"));
        }
        for (id, signature) in found {
            let what = KeysChange::CrossSigning;
            self.keep(&self.user.clone(), (item, id), &signature, what)
                .await?;
        }
        Ok(())
    }

    /// By the user-signing key.
    async fn other_user(
        &mut self,
        of: &UserId,
        item: &str,
        signed: &CanonicalJsonObject,
    ) -> Result<(), Refusal> {
        let master = self.masters.get(of).map(|key| vouched::read(key));
        let master = master.transpose().map_err(ours)?.and_then(Key::of);
        let master = master.ok_or_else(|| Refusal::not_found("no such key is known here"))?;
        if master.name() != item {
            return Err(Refusal::not_found("this is not that user's master key"));
        }
        must_be_the_same(signed, &master.object)?;
        let key = self.kept.user_signing.as_ref();
        let key = key.ok_or_else(|| unsigned("you have no user-signing key"))?;
        let id = key.id();
        let signature = key.signature_on(signed, self.user, &id);
        let signature = signature
            .ok_or_else(|| unsigned("it carries no valid signature of your user-signing key"))?;
        let what = KeysChange::SeenBy(self.user.clone());
        self.keep(of, (item, id), &signature, what).await
    }

    async fn keep(
        &mut self,
        of: &UserId,
        (item, key): (&str, String),
        signature: &Signature,
        what: KeysChange,
    ) -> Result<(), Refusal> {
        let signature = KeySignature {
            item: item.to_owned(),
            signer: self.user.clone(),
            key,
            signature: signature.base64(),
        };
        let is_there = if of == *self.user {
            self.signatures.contains(&signature)
        } else {
            let there = signatures_of(self.hub, of, self.user).await?;
            there.contains(&signature)
        };
        if is_there {
            return Ok(());
        }
        self.room = self.room.checked_sub(1).ok_or_else(|| {
            let message = format!("{SIGNATURES_MAX} signatures of yours are kept at most");
            Refusal::new(Code::ResourceLimitExceeded, message)
        })?;
        self.seen_changed |= !matches!(what, KeysChange::SeenBy(_));
        let of = of.to_owned();
        self.writes.push(changed(&of, what));
        let write = CrossSigningWrite::Signature { of, signature };
        self.writes.push(Write::CrossSigning(write));
        Ok(())
    }
}

/// What was signed must be what is known, but for the signatures.
fn must_be_the_same(
    signed: &CanonicalJsonObject,
    known: &CanonicalJsonObject,
) -> Result<(), Refusal> {
    match (text_to_sign(signed), text_to_sign(known)) {
        (Ok(signed), Ok(known)) if signed == known => Ok(()),
        _ => Err(unsigned("it is not what is known under this id")),
    }
}
