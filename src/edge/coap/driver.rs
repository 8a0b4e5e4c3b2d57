//! The one task of a door: it owns the sockets, what secures it, and the CoAP machine, and spawns a
//! bounded task per request. What lies between socket and machine is a [`Link`]. What it does for
//! linked devices is in `serving`.

mod counting;
mod exchanging;
mod serving;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use metrics::counter;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::AbortHandle,
};

use self::{
    counting::{MATRIX, Tally, is_request},
    serving::{Serving, rung},
};
use super::{
    Coap, Limits,
    asking::Asking,
    devices::Awake,
    edhoc::{Combining, Exchanges},
    link::{Arrived, Had, Link, Outgoing},
    observe::{Observer, Watch},
    profile,
    sockets::Sockets,
    sticky::Sticky,
};
use crate::{
    api::{Door, OscoreLink, Registration},
    base::{Clock, Timestamp},
    edge::{
        front::Front,
        thin::{Answered, News},
    },
    session::{
        coap::{Config, Event, ExchangeId, Machine, ObservationId, Request, Response},
        ledger::Traffic,
    },
    wire::coap::Message,
};

/// Serves what comes through `link` until `shutdown` becomes true (or its sender is gone), then
/// drains.
pub(in crate::edge) async fn serve<L: Link>(
    sockets: Sockets,
    link: L,
    door: Coap,
    mut shutdown: watch::Receiver<bool>,
) {
    let drain = door.limits.drain;
    let mut driver = Driver::new(sockets, link, door);
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut over = std::pin::pin!(async move {
        let _ = shutdown.wait_for(|over| *over).await; // without a sender there is no more waiting
    });
    while !driver.turn(&mut buffer, over.as_mut()).await {}
    driver.stop_observing().await;
    let drained = tokio::time::timeout(drain, async {
        while !driver.running.is_empty() {
            driver.turn(&mut buffer, std::future::pending()).await;
        }
    });
    if drained.await.is_err() {
        tracing::warn!(seconds = drain.as_secs(), "requests cut after the drain");
    }
    driver.link.close(driver.clock.now());
    driver.follow_up().await;
}

/// What a request's task reports.
pub(super) enum Done {
    Answered {
        exchange: ExchangeId,
        response: Response,
        /// Set if the answer begins an observation.
        watch: Option<(ObservationId, Box<Watch>)>,
    },
    News {
        observation: ObservationId,
        response: Response,
    },
    /// To a request of a linked device.
    Told {
        exchange: ExchangeId,
        answered: Box<Answered>,
        /// What was stored of the observation that it begins.
        awake: Option<Awake>,
        /// The class of link that the request states.
        class: Option<u8>,
    },
    /// What is new for a linked device, if anything is.
    Pushed {
        observation: ObservationId,
        news: Box<News>,
    },
    /// What the link wanted; how many revocations had been heard of when it was asked for.
    Had { had: Had, revocations: u64 },
    /// What became of a request with message 3 in front.
    Combined {
        from: SocketAddr,
        request: Box<Message>,
        combining: Box<Combining>,
    },
    /// An observation from before a restart.
    Restored {
        link: Box<OscoreLink>,
        registration: Box<Registration>,
        revocations: u64,
    },
}

pub(super) struct Driver<L: Link> {
    sockets: Sockets,
    link: L,
    machine: Machine<L::Peer>,
    front: Arc<Front>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    sticky: Sticky<L::Peer>,
    /// A place for each request and each observer under way.
    request_places: Arc<Semaphore>,
    observer_places: Arc<Semaphore>,
    running: HashMap<ExchangeId, Task<L::Peer>>,
    observers: HashMap<ObservationId, (L::Peer, Observer)>,
    /// What is there for linked devices, if there may be any.
    serving: Option<Serving<L::Peer>>,
    exchanges: Option<Arc<Exchanges>>,
    tally: Tally<L::Peer>,
    draining: bool,
    report: mpsc::Sender<Done>,
    reports: mpsc::Receiver<Done>,
}

/// A task that ends when nobody waits for it any more.
struct Task<P> {
    handle: AbortHandle,
    peer: P,
    /// What its answer would begin, unless that ended before it began.
    observation: Option<ObservationId>,
}

impl<P> Drop for Task<P> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl<L: Link> Driver<L> {
    fn new(sockets: Sockets, link: L, mut door: Coap) -> Self {
        let mut echo_key = [0; 32];
        door.rng.fill_bytes(&mut echo_key);
        let mut config = Config::new(echo_key);
        config.timers = door.timers;
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        let serving = door
            .linked
            .map(|linked| Serving::begin(linked, report.clone(), L::KEEPS));
        Self {
            serving,
            sockets,
            link,
            machine: Machine::new(config, door.rng).without_copies_of(L::is_told_apart),
            front: door.front,
            exchanges: door.exchanges,
            tally: Tally::default(),
            clock: door.clock,
            sticky: Sticky::new(L::WORDS),
            request_places: Arc::new(Semaphore::new(door.limits.requests_max)),
            observer_places: Arc::new(Semaphore::new(door.limits.observers_max)),
            limits: door.limits,
            running: HashMap::new(),
            observers: HashMap::new(),
            draining: false,
            report,
            reports,
        }
    }

    /// Waits for one thing to happen and does all that follows; true when it was `over`.
    async fn turn(&mut self, buffer: &mut [u8], over: impl Future<Output = ()>) -> bool {
        let wait = self.wait();
        let bell = self
            .serving
            .as_ref()
            .map(|serving| Arc::clone(&serving.devices.bell));
        tokio::select! {
            () = over => return true,
            received = self.sockets.receive(buffer) => match received {
                Ok((size, peer)) => self.received(peer, buffer.get(..size).unwrap_or_default()),
                Err(error) => {
                    tracing::warn!(%error, "receiving failed");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
            },
            Some(done) = self.reports.recv() => self.done(done),
            rung = rung(bell) => self.rung(&rung),
            () = sleep(wait) => {
                let now = self.clock.now();
                self.link.handle_timeout(now);
                self.machine.handle_timeout(now);
            }
        }
        self.follow_up().await;
        false
    }

    fn wait(&self) -> Option<Duration> {
        let pushes = self.serving.as_ref().and_then(Serving::next_due);
        let timers = [
            self.machine.poll_timeout(),
            self.link.poll_timeout(),
            pushes,
        ];
        let due = timers.into_iter().flatten().min()?;
        Some(due.since(self.clock.now()))
    }

    fn received(&mut self, from: SocketAddr, datagram: &[u8]) {
        count(L::DOOR, "up", datagram.len());
        let now = self.clock.now();
        self.end_replaced(now);
        self.link.handle_datagram(now, from, datagram);
    }

    /// Sends what is to be sent and acts on what happened, until there is no more of either.
    async fn follow_up(&mut self) {
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            let now = self.clock.now();
            self.push_news(now);
            while let Some(want) = self.link.poll_want() {
                self.wanted(want);
            }
            // One at a time: what the machine sends for it at once belongs to it.
            if let Some(arrived) = self.link.poll_arrived() {
                is_quiet = false;
                self.arrived(now, arrived);
            }
            while let Some((peer, message)) = self.machine.poll_transmit() {
                is_quiet = false; // a connection may break while something is sent on it
                let is_proved = self.machine.budget(&peer) == u64::MAX;
                self.link.send(now, &peer, message, is_proved);
            }
            while let Some(outgoing) = self.link.poll_transmit() {
                let Outgoing {
                    peer,
                    to,
                    bytes: datagram,
                } = outgoing;
                count(L::DOOR, "down", datagram.len());
                if let Some(peer) = peer {
                    self.went(&peer, Traffic::datagram(&to, datagram.len()));
                }
                if let Err(error) = self.sockets.send(&datagram, to).await {
                    tracing::debug!(%to, %error, "sending failed"); // as if lost on the way
                }
            }
            while let Some(event) = self.machine.poll_event() {
                is_quiet = false;
                self.happened(event);
            }
        }
    }

    fn arrived(&mut self, now: Timestamp, arrived: Arrived<L::Peer>) {
        match arrived {
            Arrived::Message {
                peer,
                bytes,
                path,
                is_proved,
                came,
            } => {
                self.came(&peer, is_request(&bytes), came);
                if let Some(path) = path {
                    self.machine.peer_is_at(now, &peer, path);
                }
                if is_proved {
                    self.machine.mark_validated(now, &peer);
                }
                if path.is_some() {
                    if let Some(address) = self.link.address(&peer) {
                        self.sockets.is_sure(&address);
                    }
                    self.heard_of(now, &peer);
                }
                self.machine.handle_datagram(now, peer, &bytes);
            }
            Arrived::Copy { peer, came } => self.came(&peer, false, came),
            Arrived::Shaken { peer, up, down } => self.shaken(&peer, up, down),
            Arrived::Combined { from, request } => self.combined(now, from, request),
            Arrived::Gone { peer } => self.gone(now, &peer),
        }
    }

    fn gone(&mut self, now: Timestamp, peer: &L::Peer) {
        self.sticky.forget(peer);
        self.tally_ends(peer);
        let of_peer = |(observer, _): &(L::Peer, Observer)| observer == peer;
        let observed = self.observers.extract_if(|_, observer| of_peer(observer));
        let mut ended: Vec<_> = observed.map(|(observation, _)| observation).collect();
        if let Some(serving) = &mut self.serving {
            ended.extend(serving.devices.gone(peer));
        }
        // Ends them in the machine, too; nobody will read this.
        for observation in ended {
            let farewell = Response::unavailable(FULL_SECONDS);
            let _ = self.machine.notify(now, observation, farewell);
        }
        let asked = self.running.extract_if(|_, task| task.peer == *peer);
        for exchange in asked.map(|(exchange, _)| exchange).collect::<Vec<_>>() {
            self.respond(now, exchange, Response::unavailable(FULL_SECONDS));
        }
    }

    fn happened(&mut self, event: Event<L::Peer>) {
        match event {
            Event::Request {
                exchange,
                peer,
                request,
                observation,
                ..
            } => {
                self.asked(exchange, peer, request, observation);
            }
            Event::Cancelled { exchange } => drop(self.running.remove(&exchange)),
            Event::Delivered { observation } => {
                if let Some((_, observer)) = self.observers.get(&observation) {
                    observer.delivered.notify_one();
                } else {
                    self.delivered(observation);
                }
            }
            Event::ObserverGone {
                observation,
                reason,
            } => {
                tracing::debug!(?observation, ?reason, "observation ended");
                self.no_longer_told(observation, reason);
                self.not_observed(observation);
            }
            // this end asks nothing
            Event::Response { .. } | Event::Notification { .. } | Event::Failed { .. } => {}
        }
    }

    fn asked(
        &mut self,
        exchange: ExchangeId,
        peer: L::Peer,
        request: Request,
        observation: Option<ObservationId>,
    ) {
        let now = self.clock.now();
        let place = Arc::clone(&self.request_places).try_acquire_owned();
        let Some(place) = place.ok().filter(|_| !self.draining) else {
            return self.respond(now, exchange, Response::unavailable(FULL_SECONDS));
        };
        let Some(address) = self.link.address(&peer) else {
            return; // gone while its last datagram was read
        };
        if let Some(exchanges) = self.exchanges_of(&peer, &request) {
            let from = (peer, address);
            return self.asked_for_exchange(exchange, from, request, exchanges, place);
        }
        let device = self.link.device(&peer);
        if let Some(device) = device.as_ref().filter(|_| !is_of_matrix(&request)) {
            let device = Arc::clone(device);
            return self.asked_by_device(
                exchange,
                (peer, device, address),
                request,
                observation,
                place,
            );
        }
        let mut meant = profile::words(&request);
        if self.link.keeps_words(&peer) {
            meant = self.sticky.meant(now, &peer, meant);
        }
        let asking = Asking {
            front: Arc::clone(&self.front),
            door: self.link.door(&peer),
            device,
            address: address.ip(),
            request,
            meant,
            observes: observation.is_some(),
            _place: place,
        };
        let report = self.report.clone();
        let task = tokio::spawn(async move {
            let (response, watch) = asking.answer().await;
            let watch = observation.zip(watch);
            // the driver is gone only when the door is closed
            let _ = report
                .send(Done::Answered {
                    exchange,
                    response,
                    watch,
                })
                .await;
        });
        let handle = task.abort_handle();
        self.running.insert(
            exchange,
            Task {
                handle,
                peer,
                observation,
            },
        );
    }

    /// Ends an observation, also one whose first answer is still being made.
    fn not_observed(&mut self, observation: ObservationId) {
        if self.observers.remove(&observation).is_none() {
            let mut tasks = self.running.values_mut();
            if let Some(task) = tasks.find(|task| task.observation == Some(observation)) {
                task.observation = None;
            }
        }
    }

    fn done(&mut self, done: Done) {
        let now = self.clock.now();
        self.end_replaced(now);
        match done {
            Done::Answered {
                exchange,
                response,
                watch,
            } => {
                let Some(task) = self.running.remove(&exchange) else {
                    return; // cancelled while the report was under way
                };
                self.was(&task.peer, MATRIX);
                let watch = watch.filter(|_| task.observation.is_some());
                self.answered(now, exchange, &task.peer, response, watch);
            }
            Done::Told {
                exchange,
                answered,
                awake,
                class,
            } => self.told(now, exchange, *answered, awake, class),
            Done::Pushed { observation, news } => self.pushed(now, observation, *news),
            Done::Had { had, revocations } => self.had(now, had, revocations),
            Done::Combined {
                from,
                request,
                combining,
            } => self.exchanged(now, from, &request, *combining),
            Done::Restored {
                link,
                registration,
                revocations,
            } => self.restored(now, *link, *registration, revocations),
            Done::News {
                observation,
                response,
            } => {
                if !self.observers.contains_key(&observation) {
                    return;
                }
                if let Err(error) = self.machine.notify(now, observation, response) {
                    tracing::debug!(?observation, %error, "a notification was not sent");
                    self.observers.remove(&observation);
                }
            }
        }
    }

    fn answered(
        &mut self,
        now: Timestamp,
        exchange: ExchangeId,
        peer: &L::Peer,
        response: Response,
        watch: Option<(ObservationId, Box<Watch>)>,
    ) {
        let place = Arc::clone(&self.observer_places).try_acquire_owned().ok();
        let may_begin = !self.draining && self.link.address(peer).is_some();
        match watch.zip(place).filter(|_| may_begin) {
            None => self.respond(now, exchange, response),
            Some(((observation, watch), place)) => {
                self.respond(now, exchange, response.observing());
                let poll = self.limits.observe_poll;
                let observer = watch.begin(
                    observation,
                    Arc::clone(&self.front),
                    self.report.clone(),
                    poll,
                    place,
                );
                self.observers.insert(observation, (peer.clone(), observer));
            }
        }
    }

    fn respond(&mut self, now: Timestamp, exchange: ExchangeId, response: Response) {
        if let Err(error) = self.machine.respond(now, exchange, response) {
            tracing::debug!(?exchange, %error, "an answer was not sent");
        }
    }

    /// Takes no new work, and tells the observers to come back later.
    async fn stop_observing(&mut self) {
        self.draining = true;
        let now = self.clock.now();
        self.stop_serving(now).await;
        for (observation, _observer) in std::mem::take(&mut self.observers) {
            let farewell = Response::unavailable(FULL_SECONDS);
            // one that cannot be told will notice when it registers again
            let _ = self.machine.notify(now, observation, farewell);
        }
        self.follow_up().await;
    }
}

/// Whether a device speaks as ordinary clients do: with a path of the Matrix API in full.
fn is_of_matrix(request: &Request) -> bool {
    request.options.path().next() == Some("_matrix")
}

pub(super) async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn count(door: Door, direction: &'static str, bytes: usize) {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let door = door.as_str();
    counter!("tramline_datagrams_total", "door" => door, "direction" => direction).increment(1);
    counter!("tramline_datagram_bytes_total", "door" => door, "direction" => direction)
        .increment(bytes);
}

/// The largest datagram UDP can carry, in bytes: one that is cut short would be read as another.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Reports waiting for the driver; tasks wait when it is behind.
const REPORTS_MAX: usize = 1024;

/// What a client is told to wait when the door is full or closing, in seconds.
const FULL_SECONDS: u32 = 10;

/// How long to wait after receiving failed, so that a lasting error does not burn a core.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);
