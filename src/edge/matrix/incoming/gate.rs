//! How much of other servers' requests is in work at a time: so much in all, so much of one server,
//! and of its transactions one after the other; how much of the time one server gets is `credit`'s.
//!
//! Who comes too early waits, with the answer held back: a server that is told to come again later
//! counts that as a failure of ours, and waits for minutes. Only who has too many waiting already
//! is refused.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ruma::OwnedServerName;
use tokio::sync::{Mutex as Waiting, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::credit::Credit;
use crate::{
    api::Refusal,
    base::{Clock, Timestamp},
    edge::matrix::waiting,
};

/// The gate.
pub(super) struct Gate {
    all: Arc<Semaphore>,
    inside: Mutex<Inside>,
    credit: Mutex<Credit>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Inside {
    /// Servers of which a request is in work or waits.
    origins: HashMap<OwnedServerName, Origin>,
    count: usize,
}

struct Origin {
    places: Arc<Semaphore>,
    turn: Arc<Waiting<()>>,
    count: usize,
}

/// A request's place; free again when it is dropped.
pub struct Place {
    gate: Arc<Gate>,
    origin: OwnedServerName,
    /// Bytes of the request.
    bytes: usize,
    /// None before it is in work, and once what it used is noted.
    began: Option<Timestamp>,
    /// How long other servers were asked meanwhile.
    waited: Duration,
    held: Option<Held>,
}

struct Held {
    _turn: Option<OwnedMutexGuard<()>>,
    _of_origin: OwnedSemaphorePermit,
    of_all: Option<OwnedSemaphorePermit>,
}

impl Gate {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(IN_WORK_MAX)),
            inside: Mutex::default(),
            credit: Mutex::default(),
            clock,
        })
    }

    /// Waits for a place for a request of `origin`; for a transaction also until no other of that
    /// server is in work. The request has so many bytes.
    pub(super) async fn enter(
        self: &Arc<Self>,
        origin: &OwnedServerName,
        in_turn: bool,
        bytes: usize,
    ) -> Result<Place, Refusal> {
        let (places, turn) = self.count_in(origin)?;
        // made first: whoever gives up while waiting is counted out, too
        let mut place = Place {
            gate: Arc::clone(self),
            origin: origin.clone(),
            bytes,
            began: None,
            waited: Duration::ZERO,
            held: None,
        };
        let turn = if in_turn {
            Some(turn.lock_owned().await)
        } else {
            None
        };
        let closed = |_| Refusal::internal(); // no gate is ever closed
        place.held = Some(Held {
            _turn: turn,
            _of_origin: places.acquire_owned().await.map_err(closed)?,
            of_all: Some(
                Arc::clone(&self.all)
                    .acquire_owned()
                    .await
                    .map_err(closed)?,
            ),
        });
        place.began = Some(self.clock.now());
        Ok(place)
    }

    fn count_in(
        &self,
        origin: &OwnedServerName,
    ) -> Result<(Arc<Semaphore>, Arc<Waiting<()>>), Refusal> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let of_origin = inside.origins.get(origin).map_or(0, |found| found.count);
        if inside.count >= INSIDE_MAX || of_origin >= INSIDE_PER_ORIGIN_MAX {
            return Err(Refusal::busy(AGAIN));
        }
        inside.count += 1;
        let found = inside
            .origins
            .entry(origin.clone())
            .or_insert_with(|| Origin {
                places: Arc::new(Semaphore::new(IN_WORK_PER_ORIGIN_MAX)),
                turn: Arc::default(),
                count: 0,
            });
        found.count += 1;
        Ok((Arc::clone(&found.places), Arc::clone(&found.turn)))
    }
}

impl Place {
    /// Works on the request. What it takes yet other servers to answer is not its sender's fault.
    pub async fn work<T>(&mut self, work: impl Future<Output = T>) -> T {
        let (done, waited) = waiting::counted(&self.origin, work).await;
        self.waited += waited;
        done
    }

    /// The request was worked on, or could not be: waits for as long as its answer is to be held. It
    /// keeps its server's turn meanwhile, and lets go of what all share.
    pub async fn done(mut self) {
        let hold = self.charged();
        if hold.is_zero() {
            return;
        }
        if let Some(held) = &mut self.held {
            drop(held.of_all.take());
        }
        tracing::debug!(origin = %self.origin, ?hold, "an answer is held");
        tokio::time::sleep(hold).await;
    }

    /// Notes what was used, once; gives for how long the answer is to be held.
    fn charged(&mut self) -> Duration {
        let Some(began) = self.began.take() else {
            return Duration::ZERO;
        };
        let now = self.gate.clock.now();
        let took = now.since(began).saturating_sub(self.waited);
        let credit = self.gate.credit.lock();
        let mut credit = credit.unwrap_or_else(PoisonError::into_inner);
        credit.used(&self.origin, (now, took, self.bytes))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.charged(); // whoever hung up has used it all the same
        drop(self.held.take());
        let inside = &mut *self
            .gate
            .inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inside.count -= 1;
        if let Some(found) = inside.origins.get_mut(&self.origin) {
            found.count -= 1;
            if found.count == 0 {
                inside.origins.remove(&self.origin);
            }
        }
    }
}

/// Requests of other servers in work at a time. Each may read thousands of events, and a few of
/// them keep two cores busy.
const IN_WORK_MAX: usize = 64;

/// The same of one server: with eight, no seven servers keep the others out.
const IN_WORK_PER_ORIGIN_MAX: usize = 8;

/// Requests in work and waiting. The largest has 10 MiB; the usual one 2 kB.
const INSIDE_MAX: usize = 1024;

/// The same of one server: more than any asks at a time that does not attack.
const INSIDE_PER_ORIGIN_MAX: usize = 32;

/// When who was one too many may come again.
const AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use ruma::owned_server_name as name;

    use super::*;

    fn clock() -> Arc<dyn Clock> {
        struct Still;
        impl Clock for Still {
            fn now(&self) -> Timestamp {
                Timestamp(1)
            }
        }
        Arc::new(Still)
    }

    #[tokio::test]
    async fn transactions_of_one_server_take_turns_and_hold_nobody_else_up() {
        let gate = Gate::new(clock());
        let (a, b) = (name!("a"), name!("b"));
        let first = gate.enter(&a, true, 0).await.unwrap();

        let mut second = Box::pin(gate.enter(&a, true, 0));
        assert!(second.as_mut().now_or_never().is_none());
        gate.enter(&a, false, 0).now_or_never().unwrap().unwrap();
        gate.enter(&b, true, 0).now_or_never().unwrap().unwrap();
        drop(first);
        drop(second.await.unwrap());

        assert!(gate.inside.lock().unwrap().origins.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_made_us_work_for_long_is_held_up_and_who_made_us_ask_others_is_not() {
        struct Since(tokio::time::Instant);
        impl Clock for Since {
            fn now(&self) -> Timestamp {
                Timestamp(u64::try_from(self.0.elapsed().as_millis()).unwrap())
            }
        }
        let begun = tokio::time::sleep(Duration::ZERO).deadline();
        let clock = Arc::new(Since(begun));
        let gate = Gate::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let minute = || tokio::time::sleep(Duration::from_mins(1));
        let held = async |place: Place| {
            let before = clock.now();
            place.done().await;
            clock.now().since(before)
        };
        let mut asks = gate.enter(&name!("asks"), false, 0).await.unwrap();
        let other = name!("other");
        asks.work(waiting::elsewhere(&*clock, &other, minute()))
            .await;
        assert_eq!(held(asks).await, Duration::ZERO);
        let mut drips = gate.enter(&name!("drips"), false, 0).await.unwrap();
        let itself = name!("drips");
        drips
            .work(waiting::elsewhere(&*clock, &itself, minute()))
            .await;
        assert!(held(drips).await > Duration::from_secs(1));
        let mut works = gate.enter(&name!("works"), false, 0).await.unwrap();
        works.work(minute()).await;
        assert!(held(works).await > Duration::from_secs(1));
    }

    #[tokio::test]
    async fn who_hangs_up_has_used_it_all_the_same() {
        let gate = Gate::new(clock());
        let server = name!("large");
        for _ in 0..3 {
            drop(gate.enter(&server, false, 9_000_000).await.unwrap());
        }
        let mut place = gate.enter(&server, false, 0).await.unwrap();
        assert!(place.charged() > Duration::ZERO);
    }

    #[tokio::test]
    async fn one_server_has_so_many_in_work_so_many_waiting_and_no_more() {
        let gate = Gate::new(clock());
        let (a, b) = (name!("a"), name!("b"));
        let mut held = Vec::new();
        for _ in 0..IN_WORK_PER_ORIGIN_MAX {
            held.push(gate.enter(&a, false, 0).await.unwrap());
        }
        let mut waiting = Vec::new();
        for _ in held.len()..INSIDE_PER_ORIGIN_MAX {
            let mut one = Box::pin(gate.enter(&a, false, 0));
            assert!(one.as_mut().now_or_never().is_none());
            waiting.push(one);
        }

        let refused = gate.enter(&a, false, 0).now_or_never().unwrap();

        assert_eq!(refused.err().unwrap().status, 503);
        gate.enter(&b, false, 0).now_or_never().unwrap().unwrap();
        drop(waiting); // they give up
        drop(held);
        let inside = gate.inside.lock().unwrap();
        assert_eq!((inside.count, inside.origins.len()), (0, 0));
    }
}
