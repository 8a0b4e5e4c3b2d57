//! The keys of a user here as they are shown: each with the signatures that came after it.
//!
//! Everyone is shown what the user signed; what someone else signed is shown to that one only. Of
//! devices without keys, and of users without cross-signing, nothing is shown.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId};

use crate::{
    store::{CrossSigningKeys, KeySignature, Store, StoreError},
    wire::json,
};

/// What is known of the keys of a user, for one who looks.
#[derive(Default)]
pub(super) struct Vouched {
    /// As they were uploaded.
    pub(super) keys: CrossSigningKeys,
    signatures: Vec<KeySignature>,
}

impl Vouched {
    /// For `viewer`; for everyone where that is the user.
    pub(super) async fn of(
        store: &dyn Store,
        user: &UserId,
        viewer: &UserId,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            keys: store.cross_signing_keys(user).await?,
            signatures: store.key_signatures(user, viewer).await?,
        })
    }

    /// A device's keys, which may stand with more than was signed.
    pub(super) fn sign_device(&self, device: &str, keys: &mut CanonicalJsonObject) {
        add_signatures(keys, device, &self.signatures);
    }

    /// The master key.
    pub(super) fn master(&self) -> Result<Option<CanonicalJsonObject>, StoreError> {
        let Some(mut key) = self.keys.master.as_deref().map(read).transpose()? else {
            return Ok(None);
        };
        if let Some(public) = public_key(&key).map(str::to_owned) {
            add_signatures(&mut key, &public, &self.signatures);
        }
        Ok(Some(key))
    }

    /// The self-signing key.
    pub(super) fn self_signing(&self) -> Result<Option<CanonicalJsonObject>, StoreError> {
        self.keys.self_signing.as_deref().map(read).transpose()
    }

    /// The user-signing key, which is for the user only.
    pub(super) fn user_signing(&self) -> Result<Option<CanonicalJsonObject>, StoreError> {
        self.keys.user_signing.as_deref().map(read).transpose()
    }
}

/// Reads a stored key.
pub(super) fn read(stored: &str) -> Result<CanonicalJsonObject, StoreError> {
    json::read_object(stored.as_bytes()).map_err(|error| StoreError::Damaged {
        what: format!("a stored key: {error}"),
    })
}

/// The public key that a cross-signing key is, in base64.
pub(super) fn public_key(key: &CanonicalJsonObject) -> Option<&str> {
    let keys = key.get("keys")?.as_object()?;
    let mut keys = keys.iter();
    let (id, public) = keys.next()?;
    let public = public.as_str()?;
    let is_one = keys.next().is_none() && id.strip_prefix("ed25519:") == Some(public);
    is_one.then_some(public)
}

/// Adds the signatures on `item` to what it is.
pub(super) fn add_signatures(
    object: &mut CanonicalJsonObject,
    item: &str,
    signatures: &[KeySignature],
) {
    for signature in signatures.iter().filter(|one| one.item == item) {
        let mut all = taken(object, "signatures");
        let mut theirs = taken(&mut all, signature.signer.as_str());
        let value = CanonicalJsonValue::String(signature.signature.clone());
        theirs.insert(signature.key.clone(), value);
        let theirs = CanonicalJsonValue::Object(theirs);
        all.insert(signature.signer.to_string(), theirs);
        object.insert("signatures".to_owned(), CanonicalJsonValue::Object(all));
    }
}

/// Takes the object under a key out; an empty one where none is.
fn taken(from: &mut CanonicalJsonObject, key: &str) -> CanonicalJsonObject {
    match from.remove(key) {
        Some(CanonicalJsonValue::Object(inner)) => inner,
        _ => CanonicalJsonObject::new(),
    }
}
