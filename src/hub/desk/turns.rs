//! Makes requests that look first and write then wait for each other, by key.
//!
//! Most names are kept apart by the store, in the commit. Where it cannot (a transaction id that
//! is looked up before its messages are written, a quota), the requests of one key take turns.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{
    api::Refusal,
    hub::{Hub, WriteError, fanout::Touched},
    store::{Batch, Write},
};

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

/// Stores what was decided in a turn, and ends the turn when it is stored: also when whoever asked
/// hangs up meanwhile. Else the next in turn would look before this is there.
pub(super) async fn keep_in_turn(
    hub: &Hub,
    turn: Turn,
    writes: Vec<Write>,
    touched: Vec<Touched>,
) -> Result<(), Refusal> {
    keep_in_turn_and(hub, turn, writes, touched, async {}).await
}

/// The same, with something that is done once it is stored, before the turn ends.
pub(super) async fn keep_in_turn_and(
    hub: &Hub,
    turn: Turn,
    writes: Vec<Write>,
    touched: Vec<Touched>,
    then: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Refusal> {
    let batch = Batch {
        writes,
        may_conflict: false,
    };
    let stored = hub.writer.begin(batch, touched)?;
    let kept = tokio::spawn(async move {
        let stored = stored.await.unwrap_or(Err(WriteError::Busy));
        if stored.is_ok() {
            then.await;
        }
        drop(turn);
        stored
    });
    kept.await.map_err(|_| WriteError::Busy)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::hub::testing::hub;

    #[tokio::test]
    async fn who_hangs_up_has_still_stored_it_before_the_next_one_looks() {
        let hub = hub().await;
        let ana = hub.account("ana").await;
        let (done, is_done) = tokio::sync::oneshot::channel();
        let turn = hub.hub.desk.turns.take("ana").await;
        let write = Write::Profile {
            user: ana.user.clone(),
            field: "displayname".to_owned(),
            json: Some("\"Ana\"".to_owned()),
        };
        let then = async move { done.send(()).unwrap() };
        let asking = keep_in_turn_and(&hub.hub, turn, vec![write], Vec::new(), then);

        assert!(asking.now_or_never().is_none()); // and hangs up

        let _next = hub.hub.desk.turns.take("ana").await;
        is_done.await.unwrap();
        let profile = hub.hub.store.profile(&ana.user).await.unwrap();
        assert_eq!(profile.len(), 1);
    }
}
