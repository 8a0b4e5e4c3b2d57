//! Makes requests that look first and write then wait for each other, by key.
//!
//! Most names are kept apart by the store, in the commit. Where it cannot (a transaction id that
//! is looked up before its messages are written, a quota), the requests of one key take turns.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Someone's turn; ends when it is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

/// How many keys may be busy side by side; two that share a lock only wait for each other.
const LOCKS: u64 = 256;

/// The locks.
pub(super) struct Turns {
    /// Unpredictable, so that nobody can aim at another's lock; from the hub's own chance, so that
    /// a simulation repeats.
    seed: u64,
    locks: Vec<Arc<Mutex<()>>>,
}

impl Turns {
    /// Locks that nobody holds.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            locks: (0..LOCKS).map(|_| Arc::default()).collect(),
        }
    }

    /// Waits until nobody else works under `key`. Nobody may take two.
    pub(super) async fn take(&self, key: impl Hash) -> Turn {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        key.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % LOCKS).unwrap_or(0);
        let lock = self.locks.get(index).expect("one of LOCKS locks");
        Arc::clone(lock).lock_owned().await
    }
}
