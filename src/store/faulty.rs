//! A store that fails when told to: the fault loop and the simulation put it around a real one.
//!
//! Every read and every commit counts as one operation. The n-th fails, and only that one, so a
//! test can run a story once for every n.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use thiserror::Error;

use crate::{
    base::Position,
    store::{
        Accounts, Batch, CommitError, Commits, Committed, CrossSigning, Destinations, Devices,
        LinkedDevices, MediaIndex, Numbers, RemoteUsers, Rooms, Servers, Store, StoreError,
        ThinDevices,
    },
};

/// How a commit fails. A read fails in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is stored, and we say so.
    Failed,
    /// It is stored, and we say that we do not know.
    UnknownStored,
    /// Nothing is stored, and we say that we do not know.
    UnknownLost,
}

impl Fault {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Failed, Self::UnknownStored, Self::UnknownLost];
}

/// The failure that was asked for.
#[derive(Clone, Copy, Debug, Error)]
#[error("operation {operation} was told to fail")]
pub struct Injected {
    /// Which.
    pub operation: u64,
}

/// A store that fails when told to.
pub struct Faulty {
    inner: Arc<dyn Store>,
    done: AtomicU64,
    rests: AtomicU64,
    plan: Mutex<Option<(u64, Fault)>>,
}

impl Faulty {
    /// A store that does not fail yet.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            done: AtomicU64::new(0),
            rests: AtomicU64::new(0),
            plan: Mutex::new(None),
        }
    }

    /// Lets operation `n` fail, counted from 1 over the store's whole life; instead of whichever
    /// was to fail before.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some((n, fault));
    }

    /// How many operations there have been.
    pub fn operations(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// How often it was told to rest.
    pub fn rests(&self) -> u64 {
        self.rests.load(Ordering::SeqCst)
    }

    /// Counts an operation; tells how it is to fail, if it is.
    fn count(&self) -> Option<(Fault, StoreError)> {
        let operation = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        let plan = *self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, fault) = plan.filter(|(n, _)| *n == operation)?;
        let error = StoreError::Backend(Box::new(Injected { operation }));
        Some((fault, error))
    }
}

#[async_trait]
impl Commits for Faulty {
    async fn commit(&self, batches: &[Batch]) -> Result<Committed, CommitError> {
        match self.count() {
            None => self.inner.commit(batches).await,
            Some((Fault::Failed, error)) => Err(CommitError::Failed(error)),
            Some((Fault::UnknownLost, error)) => Err(CommitError::Unknown(error)),
            Some((Fault::UnknownStored, error)) => {
                self.inner.commit(batches).await?;
                Err(CommitError::Unknown(error))
            }
        }
    }

    async fn position(&self) -> Result<Position, StoreError> {
        match self.count() {
            None => self.inner.position().await,
            Some((_, error)) => Err(error),
        }
    }

    fn numbers(&self) -> &Numbers {
        self.inner.numbers()
    }

    async fn rest(&self) {
        self.rests.fetch_add(1, Ordering::SeqCst);
        self.inner.rest().await;
    }
}

/// Reads that are counted, then passed on.
macro_rules! reads {
    ($part:ident: $($name:ident($($arg:ident: $from:ty),*) -> $to:ty;)*) => {
        #[async_trait]
        impl $part for Faulty {
            $(
                async fn $name(&self, $($arg: $from),*) -> Result<$to, StoreError> {
                    match self.count() {
                        None => self.inner.$name($($arg),*).await,
                        Some((_, error)) => Err(error),
                    }
                }
            )*
        }
    };
}

crate::each_store_read!(reads);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        contract::{self, Pen},
        memory::Memory,
    };

    fn faulty() -> Faulty {
        Faulty::new(Arc::new(Memory::new()))
    }

    fn one(pen: &mut Pen) -> [Batch; 1] {
        [Batch {
            writes: pen.take(),
            may_conflict: false,
        }]
    }

    #[tokio::test]
    async fn without_a_fault_it_keeps_the_contract() {
        contract::run(async || {
            let store: Arc<dyn Store> = Arc::new(faulty());
            store
        })
        .await;
    }

    #[tokio::test]
    async fn only_the_named_operation_fails() {
        let store = faulty();
        let n = store.operations();
        store.fail_at(n + 2, Fault::Failed);
        assert!(store.totals().await.is_ok());
        let error = store.position().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the store failed: operation 2 was told to fail"
        );
        assert!(store.position().await.is_ok());
        assert_eq!(store.operations(), 3);
    }

    #[tokio::test]
    async fn a_commit_fails_in_three_ways() {
        for fault in Fault::ALL {
            let store = faulty();
            let mut room = Pen::new(&store, "r");
            room.message(&store);
            store.fail_at(1, fault);
            let error = store.commit(&one(&mut room)).await.unwrap_err();
            let known = matches!(error, CommitError::Failed(_));
            assert_eq!(known, fault == Fault::Failed);
            let stored = store.room(&room.id).await.unwrap().is_some();
            assert_eq!(stored, fault == Fault::UnknownStored);
        }
    }
}
