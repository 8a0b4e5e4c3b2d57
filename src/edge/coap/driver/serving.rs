//! What the driver does for linked devices: hands their requests to the thin profile, pushes what
//! is new, and has stored what must outlive the process.

use std::{net::SocketAddr, sync::Arc};

use futures_util::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Done, Driver, FULL_SECONDS, Task};
use crate::{
    api::{DeviceName, Links, OscoreLink, Refusal, Registration},
    base::Timestamp,
    edge::{
        coap::{
            Linked,
            devices::{self, Awake, Devices, Ended},
            link::{Had, Link},
        },
        thin::{Answered, Bell, News, PUSH, Rung, Thin, Which, Who},
    },
    session::{
        coap::{ExchangeId, GoneReason, ObservationId, Peer, Request, Response},
        oscore::link::Want,
    },
    wire::coap::{Code, Token},
};

/// What a door has for linked devices.
pub(super) struct Serving<P> {
    links: Arc<dyn Links>,
    pub(super) thin: Arc<Thin>,
    pub(super) devices: Devices<P>,
    /// Places for looking for news, and for asking the table of links.
    looks: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    pub(super) revocations: u64,
    swept: Timestamp,
}

impl<P: Peer> Serving<P> {
    /// Asks to be told of news, and for what was observed before a restart.
    pub(super) fn begin(linked: Linked, report: mpsc::Sender<Done>, keeps: bool) -> Self {
        let reach = Arc::clone(linked.thin.reach());
        let devices = Devices::new(reach, WATCHES_MAX);
        linked.links.tell(Arc::clone(&devices.bell) as _);
        if keeps {
            tokio::spawn(read_back(Arc::clone(&linked.links), report, None, 0));
        }
        Self {
            links: linked.links,
            thin: linked.thin,
            devices,
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            revocations: 0,
            swept: Timestamp(0),
        }
    }

    /// When there may be something to push, if it could be looked for then.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        // Without a place it is the one that becomes free that wakes the driver.
        let can_look = self.looks.available_permits() > 0;
        self.devices.pushes.next_due().filter(|_| can_look)
    }

    fn deregister(&self, recipient_id: Vec<u8>, token: Token) {
        let links = Arc::clone(&self.links);
        tokio::spawn(async move {
            let forgotten = links.deregister(&recipient_id, token.as_bytes()).await;
            if let Err(error) = forgotten {
                tracing::warn!(%error, "a registration was not removed");
            }
        });
    }

    fn register(&self, registration: Registration) {
        let links = Arc::clone(&self.links);
        tokio::spawn(async move {
            if let Err(error) = links.register(registration).await {
                tracing::warn!(%error, "how far a device was told is not stored");
            }
        });
    }
}

/// Waits for the bell, if there is one.
pub(super) async fn rung(bell: Option<Arc<Bell>>) -> Rung {
    match bell {
        Some(bell) => bell.rung().await,
        None => std::future::pending().await,
    }
}

/// Reads what was observed before a restart: one registration, or all there are.
async fn read_back(
    links: Arc<dyn Links>,
    report: mpsc::Sender<Done>,
    one: Option<Registration>,
    revocations: u64,
) {
    let registrations = match one {
        Some(registration) => vec![registration],
        None => match links.registrations().await {
            Ok(registrations) => registrations,
            Err(error) => return tracing::error!(%error, "no registrations could be read"),
        },
    };
    let links = &links;
    let contexts = stream::iter(registrations).map(|registration| async move {
        let link = links.oscore(&registration.recipient_id).await;
        (link, registration)
    });
    let mut contexts = contexts.buffer_unordered(LOOKUPS_MAX);
    while let Some((link, registration)) = contexts.next().await {
        match link {
            Ok(Some(link)) => {
                let restored = Done::Restored {
                    link: Box::new(link),
                    registration: Box::new(registration),
                    revocations,
                };
                if report.send(restored).await.is_err() {
                    return; // the door is closed
                }
            }
            Ok(None) => {} // unlinked meanwhile
            Err(error) => tracing::warn!(%error, "a registration was not taken up"),
        }
    }
}

/// Requests.
impl<L: Link> Driver<L> {
    pub(super) fn asked_by_device(
        &mut self,
        exchange: ExchangeId,
        (peer, device, address): (L::Peer, Arc<DeviceName>, SocketAddr),
        request: Request,
        observation: Option<ObservationId>,
        place: OwnedSemaphorePermit,
    ) {
        let now = self.clock.now();
        let Some(serving) = &self.serving else {
            return self.respond(now, exchange, Response::unavailable(FULL_SECONDS));
        };
        let token = observation.and_then(|observation| self.machine.token_of(observation));
        let kept = token.and_then(|token| self.link.keep(&peer, token));
        let who = Who {
            device: Arc::clone(&device),
            door: self.link.door(&peer),
            address: Some(address),
        };
        let (links, thin) = (Arc::clone(&serving.links), Arc::clone(&serving.thin));
        let report = self.report.clone();
        let task = tokio::spawn(async move {
            let _place = place;
            let mut answered = thin.answer(&who, &request).await;
            let class = stated_class(&request);
            let watch = answered.watch.take();
            let awake = token.zip(watch);
            let awake = awake.map(|(token, watch)| Awake::new(token, Box::new(request), watch));
            // What is said to be observed is stored before: a crash may come right after.
            let stored = match (&awake, kept) {
                (Some(awake), Some(kept)) => {
                    let registration =
                        devices::registration(kept, awake.token, &awake.request, &awake.watch);
                    match registration {
                        Some(registration) => links.register(registration).await,
                        None => Err(Refusal::internal()),
                    }
                }
                _ => Ok(()),
            };
            if let Err(error) = &stored {
                tracing::warn!(%error, "not observed: the registration is not stored");
            }
            let awake = awake.filter(|_| stored.is_ok());
            // the driver is gone only when the door is closed
            let _ = report
                .send(Done::Told {
                    exchange,
                    answered: Box::new(answered),
                    awake,
                    class,
                })
                .await;
        });
        let handle = task.abort_handle();
        let task = Task {
            handle,
            peer,
            observation,
        };
        self.running.insert(exchange, task);
    }

    pub(super) fn told(
        &mut self,
        now: Timestamp,
        exchange: ExchangeId,
        answered: Answered,
        awake: Option<Awake>,
        class: Option<u8>,
    ) {
        let Some(task) = self.running.remove(&exchange) else {
            return; // cancelled while the report was under way
        };
        self.was(&task.peer, answered.operation);
        let response = answered.response;
        if let Some(class) = class.filter(|_| response.code == Code::CHANGED) {
            self.machine.set_link_class(now, &task.peer, class);
        }
        let Some(awake) = awake else {
            return self.respond(now, exchange, response);
        };
        let token = awake.token;
        let device = self.link.device(&task.peer).filter(|_| !self.draining);
        let observation = task.observation;
        let begun = match (&mut self.serving, observation, device) {
            (Some(serving), Some(observation), Some(device)) => {
                serving
                    .devices
                    .begin(&device, (observation, &task.peer), awake)
            }
            _ => false,
        };
        if begun {
            self.respond(now, exchange, response.observing());
            // Something may have come between the answer and now.
            if let (Some(serving), Some(observation)) = (&mut self.serving, observation) {
                serving.devices.pushes.look_at(now, observation);
            }
        } else {
            self.over(&task.peer.clone(), token);
            self.respond(now, exchange, response);
        }
    }
}

/// News.
impl<L: Link> Driver<L> {
    pub(super) fn rung(&mut self, rung: &Rung) {
        let now = self.clock.now();
        let Some(serving) = &mut self.serving else {
            return;
        };
        if !rung.revoked.is_nothing() {
            serving.revocations += 1;
            if rung.revoked == Which::All && L::KEEPS {
                let (links, report) = (Arc::clone(&serving.links), self.report.clone());
                tokio::spawn(read_back(links, report, None, serving.revocations));
            }
            self.say_goodbye(now, &rung.revoked);
            self.link.revoke(now, &rung.revoked);
            // Before anything is asked for them.
            while let Some(arrived) = self.link.poll_arrived() {
                self.arrived(now, arrived);
            }
        }
        if let Some(serving) = &mut self.serving {
            serving.devices.pushes.heard(now, rung);
        }
        self.sweep(now);
    }

    /// Ends what these devices observe, while there are still keys to say so with: who only listens would
    /// not hear of it otherwise. It is said once, and may be lost.
    fn say_goodbye(&mut self, now: Timestamp, revoked: &Which<DeviceName>) {
        let (Which::These(devices), Some(serving)) = (revoked, &self.serving) else {
            return;
        };
        let observed = |device| serving.devices.pushes.of_device(device);
        let observed: Vec<_> = devices.iter().flat_map(observed).collect();
        for observation in observed {
            let farewell = Response::new(Code::UNAUTHORIZED);
            let _ = self.machine.notify(now, observation, farewell); // or it is over already
        }
        while let Some((peer, message)) = self.machine.poll_transmit() {
            let is_proved = self.machine.budget(&peer) == u64::MAX;
            self.link.send(now, &peer, message, is_proved);
        }
    }

    /// Looks for news where there may be some, with as many questions at a time as may be.
    pub(super) fn push_news(&mut self, now: Timestamp) {
        let Some(serving) = &mut self.serving else {
            return;
        };
        while let Ok(place) = Arc::clone(&serving.looks).try_acquire_owned() {
            let Some(due) = serving.devices.pushes.due(now).filter(|_| !self.draining) else {
                return;
            };
            let observation = due.key;
            let Some(peer) = serving.devices.get(observation).map(|one| one.peer.clone()) else {
                continue;
            };
            let budget = self.machine.budget(&peer);
            let bytes_max = usize::try_from(budget).unwrap_or(usize::MAX);
            let bytes_max = bytes_max.saturating_sub(OVERHEAD_BYTES);
            if bytes_max < PUSH_BYTES_MIN {
                // Its address is not proved, and has had its share.
                serving.devices.starves(now, observation);
                continue;
            }
            let who = Who {
                device: due.device,
                door: self.link.door(&peer),
                address: self.link.address(&peer),
            };
            let (thin, report) = (Arc::clone(&serving.thin), self.report.clone());
            tokio::spawn(async move {
                let news = thin.news(&who, &due.watch, due.sought, bytes_max).await;
                drop(place);
                let news = Box::new(news);
                // the driver is gone only when the door is closed
                let _ = report.send(Done::Pushed { observation, news }).await;
            });
        }
    }

    pub(super) fn pushed(&mut self, now: Timestamp, observation: ObservationId, news: News) {
        let observed = self.serving.as_ref();
        let observed = observed.and_then(|serving| serving.devices.get(observation));
        let Some(peer) = observed.map(|observed| observed.peer.clone()) else {
            return; // over while it was looked for
        };
        let Some(serving) = &mut self.serving else {
            return;
        };
        let (response, next, more) = match news {
            News::Nothing { next } => {
                return serving.devices.pushes.passed(now, observation, next);
            }
            News::Aside { response, next } if serving.devices.may_tell_aside(observation) => {
                serving.devices.pushes.passed(now, observation, next);
                return self.tell_aside(now, observation, &peer, response);
            }
            News::Aside { response, next } => (response, next, false),
            News::Entries {
                response,
                next,
                more,
            } => (response, next, more),
        };
        serving.devices.pushed(observation, next, more);
        self.was(&peer, PUSH);
        self.machine.set_link_class(now, &peer, next.class());
        if let Err(error) = self.machine.notify(now, observation, response) {
            tracing::debug!(?observation, %error, "a notification was not sent");
            self.no_longer_told(observation, GoneReason::Refused);
        }
    }

    /// Tells what may be lost. While something else is under way to the device it is lost here.
    fn tell_aside(
        &mut self,
        now: Timestamp,
        observation: ObservationId,
        peer: &L::Peer,
        response: Response,
    ) {
        self.was(peer, PUSH);
        match self.machine.notify_once(now, observation, response) {
            Ok(true) => {}
            Ok(false) => tracing::debug!(?observation, "receipts and typing were left out"),
            Err(error) => {
                tracing::debug!(?observation, %error, "a notification was not sent");
                self.no_longer_told(observation, GoneReason::Refused);
            }
        }
    }

    pub(super) fn delivered(&mut self, observation: ObservationId) {
        let now = self.clock.now();
        let is_time = self
            .serving
            .as_mut()
            .is_some_and(|serving| serving.devices.delivered(now, observation));
        if is_time
            && let Some(registration) = self.registration(observation)
            && let Some(serving) = &self.serving
        {
            serving.register(registration);
        }
    }

    fn registration(&mut self, observation: ObservationId) -> Option<Registration> {
        let serving = self.serving.as_mut()?;
        let observed = serving.devices.get(observation)?;
        let kept = self.link.keep(&observed.peer, observed.token)?;
        serving.devices.registration(observation, kept)
    }

    /// The machine does not tell an observer any more.
    pub(super) fn no_longer_told(&mut self, observation: ObservationId, reason: GoneReason) {
        let now = self.clock.now();
        let Some(serving) = &mut self.serving else {
            return;
        };
        let ended = serving.devices.ended(now, observation, reason, L::KEEPS);
        if let Some(Ended::Over { peer, token }) = ended {
            self.over(&peer, token);
        }
    }

    /// Nobody will ask for it again.
    fn over(&mut self, peer: &L::Peer, token: Token) {
        if let Some(serving) = &self.serving
            && let Some(kept) = self.link.keep(peer, token)
        {
            serving.deregister(kept.recipient_id, token);
        }
        self.link.unbind(peer, token);
    }

    /// A device is there: what waits for it is pushed.
    pub(super) fn heard_of(&mut self, now: Timestamp, peer: &L::Peer) {
        let Some(serving) = &mut self.serving else {
            return;
        };
        serving.devices.fed(now, peer);
        let awake = serving.devices.wakes(peer);
        for awake in awake {
            self.take_up(now, peer, awake);
        }
    }

    fn take_up(&mut self, now: Timestamp, peer: &L::Peer, awake: Awake) {
        let (Some(serving), Some(device)) = (&mut self.serving, self.link.device(peer)) else {
            return;
        };
        let taken_up = self
            .machine
            .restore_observation(peer, awake.token, &awake.request);
        let Some(observation) = taken_up else { return };
        if serving.devices.begin(&device, (observation, peer), awake) {
            serving.devices.pushes.look_at(now, observation);
        } else {
            // There is no place: the device is told, and may register again.
            let farewell = Response::unavailable(FULL_SECONDS);
            let _ = self.machine.notify(now, observation, farewell);
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        let Some(serving) = &mut self.serving else {
            return;
        };
        if now.since(serving.swept) < SWEEP_EVERY {
            return;
        }
        serving.swept = now;
        for (peer, token) in serving.devices.overslept(now) {
            self.over(&peer, token);
        }
    }
}

/// The table of links.
impl<L: Link> Driver<L> {
    pub(super) fn wanted(&mut self, want: Want) {
        let Some(serving) = &self.serving else {
            let now = self.clock.now();
            let (Want::Context(kid) | Want::Reserve { kid, .. }) = want;
            return self.link.had(now, Had::Context(kid, None)); // nobody is linked
        };
        let (links, places) = (Arc::clone(&serving.links), Arc::clone(&serving.lookups));
        let (report, revocations) = (self.report.clone(), serving.revocations);
        tokio::spawn(async move {
            let _place = places.acquire_owned().await;
            let had = look_up(&*links, want).await;
            // the driver is gone only when the door is closed
            let _ = report.send(Done::Had { had, revocations }).await;
        });
    }

    pub(super) fn had(&mut self, now: Timestamp, had: Had, revocations: u64) {
        let is_old = self
            .serving
            .as_ref()
            .is_some_and(|serving| serving.revocations != revocations);
        match had {
            // It may be one of those revoked meanwhile.
            Had::Context(kid, Some(_)) if is_old => self.wanted(Want::Context(kid)),
            had => self.link.had(now, had),
        }
    }

    pub(super) fn restored(
        &mut self,
        now: Timestamp,
        link: OscoreLink,
        registration: Registration,
        revocations: u64,
    ) {
        if let Some(serving) = &self.serving
            && serving.revocations != revocations
        {
            // It may be of one revoked meanwhile.
            let (links, report) = (Arc::clone(&serving.links), self.report.clone());
            let again = read_back(links, report, Some(registration), serving.revocations);
            tokio::spawn(again);
            return;
        }
        let Some(awake) = devices::restored(&registration) else {
            return tracing::warn!("a stored registration cannot be read");
        };
        if let Some((peer, path)) = self.link.restore(now, link, &registration) {
            // It was confirmed when it was stored.
            self.machine.peer_is_at(now, &peer, path);
            self.machine.mark_validated(now, &peer);
            self.take_up(now, &peer, awake);
        }
    }

    /// Stores how far each device was told, and tells those that cannot go on after a restart.
    pub(super) async fn stop_serving(&mut self, now: Timestamp) {
        let unsaved = self
            .serving
            .as_ref()
            .map(|serving| serving.devices.unsaved());
        let mut registrations = Vec::new();
        for observation in unsaved.into_iter().flatten() {
            if let Some(registration) = self.registration(observation) {
                registrations.push(registration);
            } else {
                let farewell = Response::unavailable(FULL_SECONDS);
                // one that cannot be told will notice when it registers again
                let _ = self.machine.notify(now, observation, farewell);
            }
        }
        let Some(serving) = &self.serving else {
            return;
        };
        let links = &serving.links;
        let stored = stream::iter(registrations)
            .map(|registration| async move { links.register(registration).await });
        let stored = stored.buffer_unordered(LOOKUPS_MAX).collect::<Vec<_>>();
        if tokio::time::timeout(self.limits.drain, stored)
            .await
            .is_err()
        {
            tracing::warn!(
                "not all of what devices were told is stored; some of it will be told again"
            );
        }
    }
}

async fn look_up(links: &dyn Links, want: Want) -> Had {
    match want {
        Want::Context(kid) => match links.oscore(kid.as_bytes()).await {
            Ok(found) => Had::Context(kid, found.map(Box::new)),
            Err(error) => {
                tracing::warn!(%error, "a context could not be looked up");
                Had::Failed(kid)
            }
        },
        Want::Reserve { kid, below } => match links.reserve(kid.as_bytes(), below).await {
            Ok(()) => Had::Reserved { kid, below },
            Err(error) => {
                tracing::warn!(%error, "no numbers could be reserved");
                Had::Failed(kid)
            }
        },
    }
}

/// The class of link that a request states. spec: thin-profile §11
fn stated_class(request: &Request) -> Option<u8> {
    let mut path = request.options.path();
    let is_statement = request.method == Code::PUT && path.next() == Some("=");
    request.payload.first().copied().filter(|_| is_statement)
}

/// Observations of a door: as many as the CoAP machine may have.
const WATCHES_MAX: usize = crate::session::coap::config::OBSERVATIONS_MAX;

/// Questions for news at a time: what the hub's readers can do at once, some times over.
const LOOKS_MAX: usize = 64;

/// Questions to the table of links at a time.
const LOOKUPS_MAX: usize = 64;

/// What a message has beside its body, in bytes, protection included.
const OVERHEAD_BYTES: usize = 48;

/// A push with less room would say nothing, in bytes.
const PUSH_BYTES_MIN: usize = 8;

/// How often observations that slept for too long are looked for.
const SWEEP_EVERY: std::time::Duration = std::time::Duration::from_hours(1);
