//! Cross-signing in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::Memory;
use crate::store::{CrossSigning, CrossSigningKeys, CrossSigningWrite, KeySignature, StoreError};

#[derive(Clone, Debug, Default)]
pub(super) struct Vouched {
    keys: BTreeMap<OwnedUserId, CrossSigningKeys>,
    /// By whose key is signed, what, who signed it, and with which key.
    signatures: BTreeMap<(OwnedUserId, String, OwnedUserId, String), String>,
}

impl Vouched {
    pub(super) fn apply(&mut self, write: &CrossSigningWrite) {
        match write {
            CrossSigningWrite::Key { user, usage, json } => {
                let keys = self.keys.entry(user.clone()).or_default();
                keys.of(*usage).clone_from(json);
            }
            CrossSigningWrite::Signature { of, signature } => {
                let KeySignature {
                    item, signer, key, ..
                } = signature.clone();
                let at = (of.clone(), item, signer, key);
                self.signatures.insert(at, signature.signature.clone());
            }
            CrossSigningWrite::ForgetSignaturesOn { user, item } => {
                self.signatures
                    .retain(|(target, on, ..), _| (target, on) != (user, item));
            }
            CrossSigningWrite::ForgetSignaturesBy { signer, key } => {
                self.signatures
                    .retain(|(_, _, by, with), _| (by, with) != (signer, key));
            }
        }
    }

    /// What a device signed, and what is signed of it, goes with it.
    pub(super) fn forget_device(&mut self, (user, device): &(OwnedUserId, OwnedDeviceId)) {
        let own_key = format!("ed25519:{device}");
        self.signatures.retain(|(target, item, signer, key), _| {
            let is_on_it = target == user && item == device.as_str();
            let is_by_it = signer == user && *key == own_key;
            !is_on_it && !is_by_it
        });
    }
}

#[async_trait]
impl CrossSigning for Memory {
    async fn cross_signing_keys(&self, user: &UserId) -> Result<CrossSigningKeys, StoreError> {
        let tables = self.tables();
        Ok(tables.vouched.keys.get(user).cloned().unwrap_or_default())
    }

    async fn key_signatures(
        &self,
        of: &UserId,
        viewer: &UserId,
    ) -> Result<Vec<KeySignature>, StoreError> {
        let tables = self.tables();
        let seen = tables.vouched.signatures.iter();
        let seen = seen.filter(|((target, _, signer, _), _)| {
            target == of && (signer == of || signer == viewer)
        });
        Ok(seen
            .map(|((_, item, signer, key), signature)| KeySignature {
                item: item.clone(),
                signer: signer.clone(),
                key: key.clone(),
                signature: signature.clone(),
            })
            .collect())
    }

    async fn signatures_made(&self, signer: &UserId) -> Result<u64, StoreError> {
        let tables = self.tables();
        let made = tables.vouched.signatures.keys();
        Ok(made.filter(|(_, _, by, _)| by == signer).count() as u64)
    }
}
