//! A store that dawdles and fails by chance, and a clock that moves when told.
//!
//! Unlike `store::faulty`, which fails one named operation, this one fails as often as the weather
//! says, and lets other tasks run before and after an operation: so a crash may come between a
//! commit and its answer.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rand::{Rng as _, SeedableRng, rngs::StdRng};
use tramline::{
    base::{Clock, Position, Timestamp},
    store::{
        Accounts, Batch, CommitError, Commits, Committed, CrossSigning, Destinations, Devices,
        LinkedDevices, MediaIndex, Numbers, RemoteUsers, Rooms, Servers, StoreError, ThinDevices,
        faulty::{Fault, Injected},
        memory::Memory,
    },
};

/// Time that moves when told, also backwards.
pub(crate) struct SimClock(AtomicU64);

impl SimClock {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(1_700_000_000_000))
    }

    pub(crate) fn forward(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn back(&self, ms: u64) {
        self.0.fetch_sub(ms, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// How often things go wrong, in percent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) reads: u32,
    pub(crate) commits: u32,
    pub(crate) slow: u32,
}

impl Weather {
    pub(crate) const CALM: Self = Self {
        reads: 0,
        commits: 0,
        slow: 0,
    };
    pub(crate) const BREEZE: Self = Self {
        reads: 0,
        commits: 0,
        slow: 40,
    };
    pub(crate) const STORM: Self = Self {
        reads: 3,
        commits: 15,
        slow: 60,
    };
    pub(crate) const BROKEN_DISK: Self = Self {
        reads: 30,
        commits: 100,
        slow: 20,
    };
}

/// The store.
pub(crate) struct Flaky {
    inner: Arc<Memory>,
    chance: Mutex<Chance>,
}

struct Chance {
    rng: StdRng,
    weather: Weather,
    faults: u64,
    refused: Option<String>,
}

impl Flaky {
    pub(crate) fn new(inner: Arc<Memory>, seed: u64) -> Self {
        Self {
            inner,
            chance: Mutex::new(Chance {
                rng: StdRng::seed_from_u64(seed),
                weather: Weather::CALM,
                faults: 0,
                refused: None,
            }),
        }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.chance().weather = weather;
    }

    /// How many operations have failed so far.
    pub(crate) fn faults(&self) -> u64 {
        self.chance().faults
    }

    /// Why the store itself turned a commit down, which no hub that is right lets happen.
    pub(crate) fn refused(&self) -> Option<String> {
        self.chance().refused.clone()
    }

    /// The commit itself.
    async fn store(&self, batches: &[Batch]) -> Result<Committed, CommitError> {
        let outcome = self.inner.commit(batches).await;
        if let Err(error) = &outcome {
            self.chance().refused = Some(error.to_string());
        }
        outcome
    }

    fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().unwrap()
    }

    /// Lets others run for a while, sometimes.
    async fn dawdle(&self) {
        let wait = {
            let mut chance = self.chance();
            let slow = chance.weather.slow;
            (chance.rng.random_range(0..100) < slow).then(|| chance.rng.random_range(0..8))
        };
        match wait {
            None => {}
            Some(0..4) => tokio::task::yield_now().await,
            Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }

    fn fault(&self, percent: impl Fn(Weather) -> u32) -> Option<(Fault, StoreError)> {
        let mut chance = self.chance();
        let percent = percent(chance.weather);
        if percent == 0 || chance.rng.random_range(0..100) >= percent {
            return None;
        }
        chance.faults += 1;
        let operation = chance.faults;
        let which = chance.rng.random_range(0..Fault::ALL.len());
        let error = StoreError::Backend(Box::new(Injected { operation }));
        Some((Fault::ALL[which], error))
    }
}

#[async_trait]
impl Commits for Flaky {
    async fn commit(&self, batches: &[Batch]) -> Result<Committed, CommitError> {
        self.dawdle().await;
        let outcome = match self.fault(|weather| weather.commits) {
            None => self.store(batches).await,
            Some((Fault::Failed, error)) => Err(CommitError::Failed(error)),
            Some((Fault::UnknownLost, error)) => Err(CommitError::Unknown(error)),
            Some((Fault::UnknownStored, error)) => {
                self.store(batches).await?;
                Err(CommitError::Unknown(error))
            }
        };
        self.dawdle().await;
        outcome
    }

    async fn position(&self) -> Result<Position, StoreError> {
        match self.fault(|weather| weather.reads) {
            None => self.inner.position().await,
            Some((_, error)) => Err(error),
        }
    }

    fn numbers(&self) -> &Numbers {
        self.inner.numbers()
    }
}

macro_rules! reads {
    ($part:ident: $($name:ident($($arg:ident: $from:ty),*) -> $to:ty;)*) => {
        #[async_trait]
        impl $part for Flaky {
            $(
                async fn $name(&self, $($arg: $from),*) -> Result<$to, StoreError> {
                    self.dawdle().await;
                    match self.fault(|weather| weather.reads) {
                        None => self.inner.$name($($arg),*).await,
                        Some((_, error)) => Err(error),
                    }
                }
            )*
        }
    };
}

tramline::each_store_read!(reads);
