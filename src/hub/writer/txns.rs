//! Which transaction keys may already have an answer.
//!
//! A retry must find the first answer, also after a restart, but asking the store for every send
//! would cost more than the send. For each device seen since the start a shard holds the hashes of
//! all its stored keys: a key that is not among them is new for certain.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use ruma::{OwnedDeviceId, OwnedUserId};

use crate::store::{SharedStore, StoreError, TxnAnswer, TxnKey};

/// How many devices' keys a shard remembers; the device longest unused is forgotten, and read
/// again when it comes back. At 100 keys a device this is about 4 MB.
const DEVICES_MAX: usize = 4096;

/// What a shard knows of transaction keys.
pub(super) struct Txns {
    hasher: RandomState,
    devices: HashMap<OwnedUserId, HashMap<OwnedDeviceId, Seen>>,
    /// Answers that are staged but not stored.
    staged: HashMap<Arc<TxnKey>, TxnAnswer>,
    tick: u64,
}

struct Seen {
    keys: HashSet<u64>,
    used: u64,
}

impl Txns {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            devices: HashMap::new(),
            staged: HashMap::new(),
            tick: 0,
        }
    }

    /// The first answer to `key`, staged or stored, if there is one.
    pub(super) async fn answer(
        &mut self,
        store: &SharedStore,
        key: &TxnKey,
    ) -> Result<Option<TxnAnswer>, StoreError> {
        if let Some(answer) = self.staged.get(key) {
            return Ok(Some(answer.clone()));
        }
        let hash = self.hash(key);
        if self.seen(store, key).await?.keys.contains(&hash) {
            return store.txn(key).await;
        }
        Ok(None)
    }

    /// Remembers the answer that is being stored.
    pub(super) fn stage(&mut self, key: &Arc<TxnKey>, answer: &TxnAnswer) {
        let hash = self.hash(key);
        if let Some(seen) = self.of_device(key) {
            seen.keys.insert(hash);
        }
        self.staged.insert(Arc::clone(key), answer.clone());
    }

    /// The answer is stored, or will never be.
    pub(super) fn settle(&mut self, key: &TxnKey) {
        self.staged.remove(key);
    }

    fn hash(&self, key: &TxnKey) -> u64 {
        self.hasher.hash_one((&key.endpoint, &key.txn))
    }

    fn of_device(&mut self, key: &TxnKey) -> Option<&mut Seen> {
        self.devices.get_mut(&key.user)?.get_mut(&key.device)
    }

    async fn seen(&mut self, store: &SharedStore, key: &TxnKey) -> Result<&Seen, StoreError> {
        self.tick += 1;
        let used = self.tick;
        if self.of_device(key).is_none() {
            let stored = store.txns(&key.user, &key.device).await?;
            let keys = stored
                .iter()
                .map(|(endpoint, txn)| self.hasher.hash_one((endpoint, txn)))
                .collect();
            self.make_room();
            let devices = self.devices.entry(key.user.clone()).or_default();
            devices.insert(key.device.clone(), Seen { keys, used });
        }
        let seen = self.of_device(key).expect("inserted just above");
        seen.used = used;
        Ok(seen)
    }

    fn make_room(&mut self) {
        let devices = self.devices.values().flat_map(HashMap::values);
        let mut used: Vec<u64> = devices.map(|seen| seen.used).collect();
        if used.len() >= DEVICES_MAX {
            // A quarter at once, so that the scan is paid rarely.
            used.sort_unstable();
            let cut = used.get(DEVICES_MAX / 4).copied().unwrap_or(0);
            self.devices.retain(|_, devices| {
                devices.retain(|_, seen| seen.used > cut);
                !devices.is_empty()
            });
        }
    }
}
