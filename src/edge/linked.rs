//! What the doors on reliable transports, QUIC and WebSocket, have in common: whom they ask for a
//! device's answers and news, and what of it may be answered before it is sure that it is no replay.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::thin::{Bell, Full, News, Pushes, Thin, Watch};
use crate::{
    api::{DeviceName, Links},
    base::Clock,
    session::{
        coap::{Request, Response},
        framed::Observe,
        ledger::Traffic,
    },
    wire::{coap::Code, thin::number},
};

pub use super::thin::{PUSH, Who};

/// An answer.
pub struct Answered {
    /// What to send. It does not say `observing`: that is the door's.
    pub response: Response,
    /// What is to be told later, if the request asked for that and may.
    pub watching: Option<Box<dyn Watching>>,
    /// What it was, for [`Answering::count`].
    pub operation: &'static str,
}

/// The thin profile, as these doors see it.
#[async_trait]
pub trait Answering: Send + Sync + 'static {
    /// Answers one request. Never fails: what is refused is an answer too.
    async fn answer(&self, who: &Who, request: &Request) -> Answered;

    /// Counts what an operation cost.
    fn count(&self, device: &Arc<DeviceName>, operation: &'static str, up: Traffic, down: Traffic);
}

/// One observation. Dropping it ends it.
#[async_trait]
pub trait Watching: Send {
    /// Waits for the next notification; being called again says that the one before was sent. One
    /// that is no success is the last; none: it is over. May be given up and called again.
    async fn next(&mut self) -> Option<Response>;

    /// The device is gone without a word: what it was told last may not have reached it.
    fn gave_up(&mut self);
}

/// The doors' observations: who waits for which news.
pub struct Answers {
    thin: Arc<Thin>,
    orders: mpsc::UnboundedSender<Order>,
    keys: AtomicU64,
}

/// What the pusher is told. Unbounded, because what waits there is bounded by the observations: each has
/// at most one order of each kind.
enum Order {
    Watch(Box<Watcher>, oneshot::Sender<Result<(), Full>>),
    Gathered(u64, News),
    Delivered(u64),
    GaveUp(u64),
    Forget(u64),
}

struct Watcher {
    key: u64,
    who: Who,
    watch: Watch,
    tell: mpsc::Sender<Response>,
}

impl Answers {
    /// One for the doors of a process, and the task that looks for their news; it ends when nobody
    /// is left who could ask.
    pub fn new(
        thin: Arc<Thin>,
        links: &Arc<dyn Links>,
        clock: Arc<dyn Clock>,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + use<>) {
        let (orders, ordered) = mpsc::unbounded_channel();
        let bell = Bell::new();
        links.tell(Arc::clone(&bell) as Arc<dyn crate::api::Deliver>);
        let pusher = Pusher {
            pushes: Pushes::new(Arc::clone(thin.reach()), WATCHES_MAX),
            watchers: BTreeMap::new(),
            places: Arc::new(Semaphore::new(LOOKS_MAX)),
            orders: orders.downgrade(),
            thin: Arc::clone(&thin),
            clock,
        };
        let linked = Self {
            thin,
            orders,
            keys: AtomicU64::new(0),
        };
        (Arc::new(linked), pusher.run(bell, ordered))
    }

    /// Enters an observation; none if there is no place for it.
    async fn watch(&self, who: &Who, watch: Watch) -> Option<Box<dyn Watching>> {
        let key = self.keys.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = mpsc::channel(1); // one is under way at a time
        let (entered, answer) = oneshot::channel();
        let watcher = Watcher {
            key,
            who: who.clone(),
            watch,
            tell,
        };
        let order = Order::Watch(Box::new(watcher), entered);
        self.orders.send(order).ok()?; // without a pusher there is no news
        answer.await.ok()?.ok()?;
        Some(Box::new(Observation {
            key,
            told,
            orders: self.orders.clone(),
            under_way: false,
        }))
    }
}

#[async_trait]
impl Answering for Answers {
    async fn answer(&self, who: &Who, request: &Request) -> Answered {
        let answered = self.thin.answer(who, request).await;
        let watching = match answered.watch {
            Some(watch) => self.watch(who, watch).await,
            None => None,
        };
        Answered {
            response: answered.response,
            watching,
            operation: answered.operation,
        }
    }

    fn count(&self, device: &Arc<DeviceName>, operation: &'static str, up: Traffic, down: Traffic) {
        self.thin.count(device, operation, up, down);
    }
}

/// The door's end of an observation.
struct Observation {
    key: u64,
    told: mpsc::Receiver<Response>,
    orders: mpsc::UnboundedSender<Order>,
    under_way: bool,
}

#[async_trait]
impl Watching for Observation {
    async fn next(&mut self) -> Option<Response> {
        if std::mem::take(&mut self.under_way) {
            let _ = self.orders.send(Order::Delivered(self.key)); // without a pusher it ends below
        }
        let news = self.told.recv().await;
        self.under_way = true;
        news
    }

    fn gave_up(&mut self) {
        let _ = self.orders.send(Order::GaveUp(self.key));
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Forget(self.key));
    }
}

/// Looks for news when the bell was rung, and hands it to the observations.
struct Pusher {
    thin: Arc<Thin>,
    clock: Arc<dyn Clock>,
    pushes: Pushes<u64>,
    watchers: BTreeMap<u64, (Who, mpsc::Sender<Response>)>,
    /// A place for each look under way.
    places: Arc<Semaphore>,
    orders: mpsc::WeakUnboundedSender<Order>,
}

impl Pusher {
    async fn run(mut self, bell: Arc<Bell>, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let wait = self.pushes.wait(self.clock.now());
            tokio::select! {
                rung = bell.rung() => self.pushes.heard(self.clock.now(), &rung),
                order = orders.recv() => match order {
                    Some(order) => self.done(order),
                    None => return,
                },
                () = pause(wait) => {}
            }
            self.look();
        }
    }

    fn done(&mut self, order: Order) {
        let now = self.clock.now();
        match order {
            Order::Watch(watcher, entered) => {
                let Watcher {
                    key,
                    who,
                    watch,
                    tell,
                } = *watcher;
                let device = Arc::clone(&who.device);
                let outcome = self.pushes.watch(device, key, watch, ());
                if outcome.is_ok() {
                    self.watchers.insert(key, (who, tell));
                    // something may have come between the answer and now
                    self.pushes.look_at(now, key);
                }
                let _ = entered.send(outcome); // who does not wait forgets it, too
            }
            Order::Gathered(key, News::Nothing { next }) => self.pushes.passed(now, key, next),
            // what is written here arrives, and needs no confirmation of its own
            Order::Gathered(key, News::Aside { response, next }) => {
                self.tell(key, response, next, false);
            }
            Order::Gathered(
                key,
                News::Entries {
                    response,
                    next,
                    more,
                },
            ) => {
                self.tell(key, response, next, more);
            }
            Order::Delivered(key) => self.pushes.delivered(now, key),
            Order::GaveUp(key) => {
                self.watchers.remove(&key);
                self.pushes.gave_up(key);
            }
            Order::Forget(key) => {
                self.watchers.remove(&key);
                self.pushes.forget(key);
            }
        }
    }

    fn tell(&mut self, key: u64, response: Response, next: Watch, more: bool) {
        self.pushes.pushed(key, next, more);
        let Some((_, tell)) = self.watchers.get(&key) else {
            return;
        };
        let is_last = !response.code.is_success();
        // there is room: the one before was taken; or nobody listens, who will say so
        let _ = tell.try_send(response);
        if is_last {
            self.watchers.remove(&key);
            self.pushes.forget(key);
        }
    }

    /// Starts looking for what is due, as far as there are places.
    fn look(&mut self) {
        let now = self.clock.now();
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            let Some(due) = self.pushes.due(now) else {
                return;
            };
            let (Some((who, _)), Some(orders)) =
                (self.watchers.get(&due.key), self.orders.upgrade())
            else {
                self.pushes.forget(due.key);
                continue;
            };
            let (thin, who) = (Arc::clone(&self.thin), who.clone());
            tokio::spawn(async move {
                let news = thin.news(&who, &due.watch, due.sought, PUSH_BYTES_MAX);
                let news = news.await;
                drop(place);
                let _ = orders.send(Order::Gathered(due.key, news)); // nobody there: the hub goes
            });
        }
    }
}

async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Observations on these doors together.
const WATCHES_MAX: usize = 65_536;

/// Looks for news at a time: each a few reads of the store. More wait for a place.
const LOOKS_MAX: usize = 128;

/// Bytes of one notification; the class of the device's link allows less.
const PUSH_BYTES_MAX: usize = 65_536;

/// Whether a request may be answered from early data, which anyone can send once more: it asks for an
/// answer and moves no cursor, receipt or registration.
pub(super) fn is_replayable(request: &Request, observe: Observe) -> bool {
    if observe != Observe::Unsaid {
        return false;
    }
    let path: Vec<&str> = request.options.path().collect();
    match (request.method, path.as_slice()) {
        (Code::GET, []) | (Code::FETCH, ["*" | "@"]) => true,
        (Code::FETCH, [room]) => is_number(room),
        (Code::GET, [room, seq]) => is_number(room) && is_number(seq),
        _ => false,
    }
}

fn is_number(segment: &str) -> bool {
    number::of_segment(segment).is_some()
}
