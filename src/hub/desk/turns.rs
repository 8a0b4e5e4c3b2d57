//! Makes requests that look first and write then wait for each other, by key.
//!
//! Most names are kept apart by the store, in the commit. Where it cannot (a transaction id that
//! is looked up before its messages are written, a quota), the requests of one key take turns.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Someone's turn; ends when it is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

/// How many keys may be busy side by side; two that share a lock only wait for each other.
const LOCKS: u64 = 256;

/// The locks.
pub(super) struct Turns {
    hasher: RandomState,
    locks: Vec<Arc<Mutex<()>>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            locks: (0..LOCKS).map(|_| Arc::default()).collect(),
        }
    }
}

impl Turns {
    /// Waits until nobody else works under `key`. Nobody may take two.
    pub(super) async fn take(&self, key: impl Hash) -> Turn {
        let index = usize::try_from(self.hasher.hash_one(key) % LOCKS).unwrap_or(0);
        let lock = self.locks.get(index).expect("one of LOCKS locks");
        Arc::clone(lock).lock_owned().await
    }
}
