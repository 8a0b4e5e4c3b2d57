//! The plain CoAP door: one UDP socket, one task that owns it and the session machine, and a
//! bounded task per request.
//!
//! The machine in [`crate::session::coap`] does reliability, blocks and the order of
//! notifications; `profile` reads requests and writes answers as MSC3079 has them; `observe`
//! keeps an observed sync going. Plain CoAP has no secrecy: [`bind`] opens it on loopback only,
//! unless it is told otherwise.

mod observe;
pub(super) mod profile;
mod sticky;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use metrics::counter;
use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::AbortHandle,
};

use self::{
    observe::{Observer, Watch},
    profile::{Asked, Fault, Form},
    sticky::{Sticky, Words},
};
use super::{
    client_api::Answer,
    front::{self, Front, Told},
};
use crate::{
    api::{Command, Door, Origin, Refusal, Reply},
    base::{Clock, Rng, Timestamp},
    session::coap::{Config, Event, ExchangeId, Machine, ObservationId, Request, Response, Timers},
};

/// From where the door may be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposure {
    /// From this machine only.
    #[default]
    Loopback,
    /// From anywhere, in clear: tokens included.
    Any,
}

/// Opens the socket, where that is allowed.
pub async fn bind(address: SocketAddr, exposure: Exposure) -> io::Result<UdpSocket> {
    if exposure == Exposure::Loopback && !address.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "plain CoAP is for loopback, and {address} is not; coap.plain = \"any\" allows it"
            ),
        ));
    }
    UdpSocket::bind(address).await
}

/// How much and how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests at a time, long-polls included. More are told 5.03.
    pub requests_max: usize,
    /// Observed syncs at a time. More are answered, and told that nothing will follow.
    pub observers_max: usize,
    /// How long one wait for news of an observed sync lasts: how late a revoked token shows.
    pub observe_poll: Duration,
    /// Time that requests under way get when the hub shuts down.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 4096, // each a task and at most a body of 256 KiB, most of them idle
            observers_max: 8192,
            observe_poll: Duration::from_mins(1),
            drain: Duration::from_secs(10),
        }
    }
}

/// What the door needs to be opened.
pub struct Coap {
    /// The hub and what the doors share.
    pub front: Arc<Front>,
    /// The time for retransmissions.
    pub clock: Arc<dyn Clock>,
    /// Chance for message ids and time-outs.
    pub rng: Box<dyn Rng + Send>,
    /// How patient the links are.
    pub timers: Timers,
    /// The ceilings.
    pub limits: Limits,
}

/// Serves until `shutdown` becomes true (or its sender is gone), then drains.
pub async fn serve(socket: UdpSocket, door: Coap, mut shutdown: watch::Receiver<bool>) {
    let drain = door.limits.drain;
    let mut driver = Driver::new(socket, door);
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
}

/// What a request's task reports.
enum Done {
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
}

struct Driver {
    socket: UdpSocket,
    machine: Machine<SocketAddr>,
    front: Arc<Front>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    sticky: Sticky,
    /// A place for each request and each observer under way.
    request_places: Arc<Semaphore>,
    observer_places: Arc<Semaphore>,
    running: HashMap<ExchangeId, Task>,
    observers: HashMap<ObservationId, Observer>,
    draining: bool,
    report: mpsc::Sender<Done>,
    reports: mpsc::Receiver<Done>,
}

/// A task that ends when nobody waits for it any more.
struct Task {
    handle: AbortHandle,
    /// What its answer would begin, unless that ended before it began.
    observation: Option<ObservationId>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Driver {
    fn new(socket: UdpSocket, mut door: Coap) -> Self {
        let mut echo_key = [0; 32];
        door.rng.fill_bytes(&mut echo_key);
        let mut config = Config::new(echo_key);
        config.timers = door.timers;
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        Self {
            socket,
            machine: Machine::new(config, door.rng),
            front: door.front,
            clock: door.clock,
            sticky: Sticky::default(),
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
        tokio::select! {
            () = over => return true,
            received = self.socket.recv_from(buffer) => match received {
                Ok((size, peer)) => self.received(peer, buffer.get(..size).unwrap_or_default()),
                Err(error) => {
                    tracing::warn!(%error, "receiving failed");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
            },
            Some(done) = self.reports.recv() => self.done(done),
            () = sleep(wait) => {
                let now = self.clock.now();
                self.machine.handle_timeout(now);
            }
        }
        self.follow_up().await;
        false
    }

    fn wait(&mut self) -> Option<Duration> {
        let due = self.machine.poll_timeout()?;
        Some(due.since(self.clock.now()))
    }

    fn received(&mut self, peer: SocketAddr, datagram: &[u8]) {
        count("up", datagram);
        let now = self.clock.now();
        if peer.ip().is_loopback() {
            self.machine.mark_validated(now, &peer); // nobody far away can send from there
        }
        self.machine.handle_datagram(now, peer, datagram);
    }

    /// Sends what is to be sent and acts on what happened, until there is no more of either.
    async fn follow_up(&mut self) {
        loop {
            while let Some((peer, datagram)) = self.machine.poll_transmit() {
                count("down", &datagram);
                if let Err(error) = self.socket.send_to(&datagram, peer).await {
                    tracing::debug!(%peer, %error, "sending failed"); // as if lost on the way
                }
            }
            let Some(event) = self.machine.poll_event() else {
                return;
            };
            self.happened(event);
        }
    }

    fn happened(&mut self, event: Event<SocketAddr>) {
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
                if let Some(observer) = self.observers.get(&observation) {
                    observer.delivered.notify_one();
                }
            }
            Event::ObserverGone {
                observation,
                reason,
            } => {
                tracing::debug!(?observation, ?reason, "observation ended");
                self.not_observed(observation);
            }
            // this end asks nothing
            Event::Response { .. } | Event::Notification { .. } | Event::Failed { .. } => {}
        }
    }

    fn asked(
        &mut self,
        exchange: ExchangeId,
        peer: SocketAddr,
        request: Request,
        observation: Option<ObservationId>,
    ) {
        let now = self.clock.now();
        let place = Arc::clone(&self.request_places).try_acquire_owned();
        let Some(place) = place.ok().filter(|_| !self.draining) else {
            return self.respond(now, exchange, Response::unavailable(FULL_SECONDS));
        };
        let meant = self.sticky.meant(now, peer, profile::words(&request));
        let asking = Asking {
            front: Arc::clone(&self.front),
            address: peer.ip(),
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
        match done {
            Done::Answered {
                exchange,
                response,
                watch,
            } => {
                let Some(task) = self.running.remove(&exchange) else {
                    return; // cancelled while the report was under way
                };
                let watch = watch.filter(|_| task.observation.is_some());
                self.answered(now, exchange, response, watch);
            }
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
        response: Response,
        watch: Option<(ObservationId, Box<Watch>)>,
    ) {
        let place = Arc::clone(&self.observer_places).try_acquire_owned().ok();
        match watch.zip(place).filter(|_| !self.draining) {
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
                self.observers.insert(observation, observer);
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
        for (observation, _observer) in std::mem::take(&mut self.observers) {
            let farewell = Response::unavailable(FULL_SECONDS);
            // one that cannot be told will notice when it registers again
            let _ = self.machine.notify(now, observation, farewell);
        }
        self.follow_up().await;
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn count(direction: &'static str, bytes: &[u8]) {
    counter!("tramline_datagrams_total", "door" => "coap", "direction" => direction).increment(1);
    counter!("tramline_datagram_bytes_total", "door" => "coap", "direction" => direction)
        .increment(length(bytes));
}

/// One request on its way through the hub.
struct Asking {
    front: Arc<Front>,
    address: IpAddr,
    request: Request,
    meant: Words,
    /// Whether the client asks to be told of changes.
    observes: bool,
    _place: OwnedSemaphorePermit,
}

/// What came of it.
struct Outcome {
    status: u16,
    response: Response,
    watch: Option<Box<Watch>>,
}

impl Asking {
    async fn answer(self) -> (Response, Option<Box<Watch>>) {
        let (form, body) = profile::body(&self.request, &self.meant);
        let asked = Asked::of(&self.front.api, &self.request, &self.meant);
        let endpoint = asked
            .as_ref()
            .map_or("Unknown", |asked| asked.endpoint().name());
        let number = self.front.number();
        let work = async {
            let asked = asked?;
            let origin = Origin {
                door: Door::Coap,
                address: Some(self.address),
                request: number,
                credentials: asked.credentials.clone(),
            };
            match body {
                Ok(json) => self.ask(form, origin, asked.command(&json)?).await,
                Err(Fault::Refused(refusal)) => Err(refusal),
                Err(fault) => Ok(Outcome {
                    status: fault.status(),
                    response: form.fault(fault),
                    watch: None,
                }),
            }
        };
        let named = front::Asked {
            door: Door::Coap,
            endpoint,
            number,
            bytes_in: Arc::new(AtomicU64::new(length(&self.request.payload))),
            repeats: false,
        };
        let written = |outcome: Result<Outcome, Refusal>| {
            let outcome = outcome.unwrap_or_else(|refusal| Outcome {
                status: refusal.status,
                response: form.fault(refusal.into()),
                watch: None,
            });
            let told = Told {
                status: outcome.status,
                bytes_out: Some(length(&outcome.response.payload)),
            };
            ((outcome.response, outcome.watch), told)
        };
        self.front.run(named, work, written).await
    }

    async fn ask(
        &self,
        form: Form,
        origin: Origin,
        mut command: Command,
    ) -> Result<Outcome, Refusal> {
        let mut watch = None;
        if let (true, Command::Sync(sync)) = (self.observes, &mut command) {
            // A registration is answered with what there is, so that the client learns at once
            // that it is registered; what comes later is news.
            sync.timeout = Some(Duration::ZERO);
            watch = Some(Watch::of(form, self.address, &origin.credentials, sync));
        }
        let reply = self.front.service.ask(origin, command).await?;
        let watch = match (&reply, watch) {
            (Reply::Sync(sync), Some(watch)) => Some(Box::new(watch.going_on(&sync.next_batch))),
            _ => None,
        };
        let answer = Answer::of(Ok(reply));
        Ok(Outcome {
            status: answer.status,
            response: form.response(answer),
            watch,
        })
    }
}

/// The largest datagram UDP can carry, in bytes: one that is cut short would be read as another.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Reports waiting for the driver; tasks wait when it is behind.
const REPORTS_MAX: usize = 1024;

/// What a client is told to wait when the door is full or closing, in seconds.
const FULL_SECONDS: u32 = 10;

/// How long to wait after receiving failed, so that a lasting error does not burn a core.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);
