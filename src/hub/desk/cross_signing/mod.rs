//! Cross-signing of users here: by which keys they vouch for their devices and for other users.
//!
//! Unlike the keys of devices, these are looked at: who may replace them could otherwise speak for a
//! user's devices. What is uploaded must be signed as the specification says; the first keys of a
//! user need no password, others do. [`signatures`] takes what is signed with them.

mod signatures;
#[cfg(test)]
pub(super) mod tests;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, UserId, api::client::keys::upload_signing_keys::v3,
    encryption::CrossSigningKey, serde::Raw,
};

pub(super) use signatures::upload_signatures;

use super::{
    access::ours,
    devices,
    keys::{self, DEVICE_KEYS_BYTES_MAX},
    turns::keep_in_turn,
    uia,
};
use crate::{
    api::{Caller, Code, Refusal},
    hub::{
        Hub,
        vouched::{self, public_key},
    },
    store::{CrossSigningKeys, CrossSigningWrite, KeysChange, Usage, Write},
    wire::{
        json,
        matrix::{PublicKey, Signature, text_to_sign},
    },
};

/// See `api::Command::UploadSigningKeys`.
// spec: client-server-e2ee §Cross-signing
pub(super) async fn upload_signing_keys(
    hub: &Hub,
    caller: &Caller,
    request: v3::Request,
) -> Result<v3::Response, Refusal> {
    let offered = Offered::read(caller, &request)?;
    let user = &caller.user;
    let kept = Kept::of(hub, user).await?;
    let proved = kept.is_replaced_by(&offered);
    if proved {
        uia::prove_password(hub, caller, request.auth.as_ref()).await?;
    }
    let turn = hub.desk.turns.take(turn_of(user)).await;
    let kept = Kept::of(hub, user).await?;
    if kept.is_replaced_by(&offered) && !proved {
        // Another device was first while this one asked.
        drop(turn);
        uia::prove_password(hub, caller, None).await?;
        return Err(Refusal::internal());
    }
    offered.must_be_signed(user, &kept)?;
    must_be_no_device(hub, user, &offered).await?;
    let writes = offered.writes(user, &kept);
    if !writes.is_empty() {
        let touched = devices::concerned(hub, user).await?;
        keep_in_turn(hub, turn, writes, touched).await?;
    }
    Ok(v3::Response::new())
}

/// Uploads of keys and of signatures with them wait for each other.
fn turn_of(user: &UserId) -> (&'static str, &UserId) {
    ("cross-signing", user)
}

/// A cross-signing key that has the form of one.
pub(super) struct Key {
    pub(super) object: CanonicalJsonObject,
    pub(super) public: PublicKey,
}

impl Key {
    /// Reads a key of this user for this use.
    fn read(text: &str, user: &UserId, usage: Usage) -> Result<Self, Refusal> {
        let field = format!("{}_key", usage.as_str());
        if text.len() > DEVICE_KEYS_BYTES_MAX {
            let found = text.len();
            let message =
                format!("{field}: {found} bytes where {DEVICE_KEYS_BYTES_MAX} are the most");
            return Err(Refusal::new(Code::TooLarge, message));
        }
        let mut object = json::read_object(text.as_bytes())
            .map_err(|error| Refusal::bad_json(error.in_member(&field).to_string()))?;
        object.remove("unsigned"); // ours to add
        keys::must_be_own(&object, (&field, "user_id"), user.as_str())?;
        let usages = object.get("usage").and_then(CanonicalJsonValue::as_array);
        if !usages.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(usage.as_str()))) {
            let message = format!("`{field}.usage` does not name `{}`", usage.as_str());
            return Err(Refusal::invalid_param(message));
        }
        let form = || {
            let message =
                format!("`{field}.keys` must be one `ed25519:KEY` with the same KEY in it");
            Refusal::invalid_param(message)
        };
        let written = public_key(&object).ok_or_else(form)?;
        let public: PublicKey = written.parse().map_err(|_| form())?;
        if public.base64() != written {
            return Err(form()); // signatures name it as it is written
        }
        Ok(Self { object, public })
    }

    /// Reads what was stored.
    pub(super) fn stored(text: &str) -> Result<Self, Refusal> {
        let object = vouched::read(text).map_err(ours)?;
        Self::of(object).ok_or_else(|| {
            tracing::error!("a stored cross-signing key is damaged");
            Refusal::internal()
        })
    }

    /// What holds one public key.
    pub(super) fn of(object: CanonicalJsonObject) -> Option<Self> {
        let public = public_key(&object)?.parse().ok()?;
        Some(Self { object, public })
    }

    /// Itself in base64.
    pub(super) fn name(&self) -> String {
        self.public.base64()
    }

    /// Its id among signatures.
    pub(super) fn id(&self) -> String {
        format!("ed25519:{}", self.name())
    }

    /// The signature of this key, as a user's, that stands on an object, if it is right.
    pub(super) fn signature_on(
        &self,
        object: &CanonicalJsonObject,
        user: &UserId,
        id: &str,
    ) -> Option<Signature> {
        let signature = signature_of(object, user, id)?;
        let text = text_to_sign(object).ok()?;
        self.public.verify(&text, &signature).ok()?;
        Some(signature)
    }
}

/// A signature that stands on an object, right or wrong.
pub(super) fn signature_of(
    object: &CanonicalJsonObject,
    user: &UserId,
    id: &str,
) -> Option<Signature> {
    let all = object.get("signatures")?.as_object()?;
    let theirs = all.get(user.as_str())?.as_object()?;
    Signature::parse(theirs.get(id)?.as_str()?)
}

/// The keys that are there.
pub(super) struct Kept {
    pub(super) master: Option<Key>,
    pub(super) self_signing: Option<Key>,
    pub(super) user_signing: Option<Key>,
}

impl Kept {
    pub(super) async fn of(hub: &Hub, user: &UserId) -> Result<Self, Refusal> {
        let CrossSigningKeys {
            master,
            self_signing,
            user_signing,
        } = hub.store.cross_signing_keys(user).await.map_err(ours)?;
        let stored = |key: Option<String>| key.as_deref().map(Key::stored).transpose();
        Ok(Self {
            master: stored(master)?,
            self_signing: stored(self_signing)?,
            user_signing: stored(user_signing)?,
        })
    }

    fn each(&self) -> [(Usage, Option<&Key>); 3] {
        [
            (Usage::Master, self.master.as_ref()),
            (Usage::SelfSigning, self.self_signing.as_ref()),
            (Usage::UserSigning, self.user_signing.as_ref()),
        ]
    }

    /// Whether there are keys, and others are offered.
    fn is_replaced_by(&self, offered: &Offered) -> bool {
        let pairs = self.each().into_iter().zip(offered.0.each());
        let mut pairs = pairs.map(|((_, kept), (_, offered))| (kept, offered));
        self.master.is_some() && pairs.any(|(kept, offered)| is_other(kept, offered))
    }
}

/// Whether what is offered is another key than what is there.
fn is_other(kept: Option<&Key>, offered: Option<&Key>) -> bool {
    offered.is_some_and(|offered| kept.is_none_or(|kept| kept.public != offered.public))
}

/// The keys that came.
struct Offered(Kept);

impl Offered {
    fn read(caller: &Caller, request: &v3::Request) -> Result<Self, Refusal> {
        let read = |key: &Option<Raw<CrossSigningKey>>, usage| {
            let key = key.as_ref();
            key.map(|key| Key::read(key.json().get(), &caller.user, usage))
                .transpose()
        };
        Ok(Self(Kept {
            master: read(&request.master_key, Usage::Master)?,
            self_signing: read(&request.self_signing_key, Usage::SelfSigning)?,
            user_signing: read(&request.user_signing_key, Usage::UserSigning)?,
        }))
    }

    /// The master key vouches for the others.
    fn must_be_signed(&self, user: &UserId, kept: &Kept) -> Result<(), Refusal> {
        let master = self.0.master.as_ref().or(kept.master.as_ref());
        for (usage, key) in self.0.each() {
            let Some(key) = key.filter(|_| usage != Usage::Master) else {
                continue;
            };
            let master = master.ok_or_else(|| {
                let message = "there is no master key that could have signed this one";
                Refusal::new(Code::MissingParam, message)
            })?;
            if master
                .signature_on(&key.object, user, &master.id())
                .is_none()
            {
                let message = format!(
                    "{}_key: carries no valid signature of the master key {}",
                    usage.as_str(),
                    master.name()
                );
                return Err(Refusal::new(Code::InvalidSignature, message));
            }
        }
        Ok(())
    }

    /// What replaces what; nothing for keys that are there.
    fn writes(&self, user: &UserId, kept: &Kept) -> Vec<Write> {
        let new_master = is_other(kept.master.as_ref(), self.0.master.as_ref());
        let mut writes = Vec::new();
        let (mut is_seen, mut is_own) = (false, false);
        for ((usage, kept), (_, offered)) in kept.each().into_iter().zip(self.0.each()) {
            // What the old master key vouched for goes with it.
            let goes = new_master && offered.is_none() && kept.is_some();
            if !goes && !is_other(kept, offered) {
                continue;
            }
            if usage == Usage::UserSigning {
                is_own = true;
            } else {
                is_seen = true;
            }
            writes.push(CrossSigningWrite::Key {
                user: user.to_owned(),
                usage,
                json: offered.map(|key| json::canonical(&key.object)),
            });
            if let Some(kept) = kept {
                writes.push(CrossSigningWrite::ForgetSignaturesBy {
                    signer: user.to_owned(),
                    key: kept.id(),
                });
                writes.push(CrossSigningWrite::ForgetSignaturesOn {
                    user: user.to_owned(),
                    item: kept.name(),
                });
            }
        }
        let mut writes: Vec<_> = writes.into_iter().map(Write::CrossSigning).collect();
        if is_seen {
            writes.push(changed(user, KeysChange::CrossSigning));
        } else if is_own {
            writes.push(changed(user, KeysChange::SeenBy(user.to_owned())));
        }
        writes
    }
}

fn changed(user: &UserId, what: KeysChange) -> Write {
    Write::DevicesChanged {
        user: user.to_owned(),
        what,
    }
}

/// Signatures name a device or a key by the same kind of id.
async fn must_be_no_device(hub: &Hub, user: &UserId, offered: &Offered) -> Result<(), Refusal> {
    let devices = devices::ids(hub, user).await?;
    let keys = offered.0.each().into_iter().filter_map(|(_, key)| key);
    for name in keys.map(Key::name) {
        if devices.iter().any(|device| device.as_str() == name) {
            let message = format!("{name} is the id of one of your devices");
            return Err(Refusal::forbidden(message));
        }
    }
    Ok(())
}

/// What ends with an account.
pub(super) async fn gone(hub: &Hub, user: &UserId) -> Result<Vec<Write>, Refusal> {
    let kept = Kept::of(hub, user).await?;
    let keys = kept.each().into_iter();
    let keys = keys.filter_map(|(usage, key)| key.map(|key| (usage, key)));
    Ok(keys
        .flat_map(|(usage, key)| {
            [
                CrossSigningWrite::Key {
                    user: user.to_owned(),
                    usage,
                    json: None,
                },
                CrossSigningWrite::ForgetSignaturesBy {
                    signer: user.to_owned(),
                    key: key.id(),
                },
                CrossSigningWrite::ForgetSignaturesOn {
                    user: user.to_owned(),
                    item: key.name(),
                },
            ]
        })
        .map(Write::CrossSigning)
        .collect())
}
