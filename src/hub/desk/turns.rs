//! Makes requests that look first and write then wait for each other, by key.
//!
//! Most names are kept apart by the store, in the commit. Where it cannot (a transaction id that
//! is looked up before its messages are written, a quota, a room that is being joined elsewhere), the
//! requests of one key take turns.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, PoisonError, Weak},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{
    api::Refusal,
    hub::{Hub, WriteError, fanout::Touched},
    store::{Batch, Write},
};

/// Someone's turn; ends when it is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

/// From how many keys on those that nobody has any more are looked for.
const SWEPT_MIN: usize = 256;

/// Whose turn it is, by key.
pub(super) struct Turns {
    /// Unpredictable, so that nobody can aim at another's key; from the hub's own chance, so that
    /// a simulation repeats.
    seed: u64,
    busy: std::sync::Mutex<Busy>,
}

/// The keys somebody has or waits for, and some that nobody has any more.
struct Busy {
    locks: HashMap<u64, Weak<Mutex<()>>>,
    /// How many there are when it is worth while to look for the latter.
    sweep_at: usize,
}

impl Turns {
    /// Turns that nobody has.
    pub(super) fn new(seed: u64) -> Self {
        let busy = Busy {
            locks: HashMap::new(),
            sweep_at: SWEPT_MIN,
        };
        Self {
            seed,
            busy: std::sync::Mutex::new(busy),
        }
    }

    /// Waits until nobody else works under `key`. Who has a turn may take another one only where
    /// nobody who has that one takes this.
    pub(super) async fn take(&self, key: impl Hash) -> Turn {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        key.hash(&mut hasher);
        let lock = self.lock(hasher.finish());
        lock.lock_owned().await
    }

    fn lock(&self, key: u64) -> Arc<Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = busy.locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        if busy.locks.len() >= busy.sweep_at {
            busy.locks.retain(|_, lock| lock.strong_count() > 0);
            busy.sweep_at = busy.locks.len().saturating_mul(2).max(SWEPT_MIN);
        }
        let lock = Arc::default();
        busy.locks.insert(key, Arc::downgrade(&lock));
        lock
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
    async fn one_key_is_waited_for_and_another_is_not_and_none_is_kept() {
        let turns = Turns::new(7);
        // Without tokio's budget, which makes who asks often wait.
        let is_free = |key: (&str, usize)| {
            let turn = tokio::task::unconstrained(turns.take(key)).now_or_never();
            turn.is_some()
        };
        for key in 0..10 * SWEPT_MIN {
            let _turn = turns.take(("one", key)).await;
            assert!(!is_free(("one", key)));
            assert!(is_free(("another", key)));
            assert!(turns.busy.lock().unwrap().locks.len() <= 2 * SWEPT_MIN);
        }
        assert!(is_free(("one", 0)));
    }

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
