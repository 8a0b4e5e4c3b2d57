//! The service: desk (authorise, route), writer (room shards, one committer), fan-out.
//!
//! A [`Hub`] is the one implementation of [`crate::api::Service`]. Reads go to the store; every
//! change goes through the writer, and nothing is told before it is stored.

mod desk;
mod fanout;
pub mod graph;
mod housekeeping;
mod links;
pub mod outbox;
mod peer_keys;
mod policing;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
mod vouched;
mod writer;

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use rand::RngCore;

pub use desk::{AccountWish, Desk, Gap, LinkWish};
pub use fanout::Fanout;
use outbox::{Outbox, OutboxParts};
pub use policing::{NotVouchedFor, Policing};
pub use settings::{Limits, OutboxSettings, Quota, RegistrationRules, Settings};
pub use writer::{
    Admission, Admitted, Anchor, CommitterStats, Entry, Onto, Piece, Redacted, Spot, Submission,
    Submitted, WriteError, Writer,
};

use crate::{
    api::{
        Command, Credentials, MediaObject, Origin, Refusal, Refusals, Refused, Remote, Reply,
        Service, Upload,
    },
    base::{Clock, Rng, Timestamp},
    store::{SharedStore, media::MediaFiles},
    wire::matrix::ServerKey,
};

/// What a hub is made of.
pub struct HubParts {
    /// Durable truth.
    pub store: SharedStore,
    /// The files behind the media index.
    pub media: MediaFiles,
    /// The name and key events are signed with.
    pub key: Arc<ServerKey>,
    /// Where «now» comes from.
    pub clock: Arc<dyn Clock>,
    /// Where chance comes from.
    pub rng: Box<dyn Rng + Send>,
    /// What the operator decided.
    pub settings: Settings,
    /// The hub's static EDHOC public key, x coordinate: told to every device that is linked.
    pub edhoc_public_x: [u8; 32],
    /// Other servers.
    pub remote: Arc<dyn Remote>,
    /// What this hub vouches for events with, where rooms name it their policy server; its version
    /// is [`POLICY_KEY_VERSION`](crate::room::POLICY_KEY_VERSION).
    pub policy_key: Option<Arc<ServerKey>>,
}

/// A running hub.
pub struct Hub {
    store: SharedStore,
    key: Arc<ServerKey>,
    clock: Arc<dyn Clock>,
    rng: Mutex<Box<dyn Rng + Send>>,
    writer: Arc<Writer>,
    fanout: Arc<Fanout>,
    links: Arc<links::LinkTable>,
    edhoc_public_x: [u8; 32],
    remote: Arc<dyn Remote>,
    policing: Arc<Policing>,
    desk: Desk,
    /// None where there are no other servers.
    outbox: Option<Outbox>,
    refusals: Arc<Refusals>,
    ready: AtomicBool,
    me: Weak<Self>,
}

impl Hub {
    /// Starts the writer over an open store.
    pub async fn start(parts: HubParts) -> Result<Arc<Self>, crate::store::StoreError> {
        let HubParts {
            store,
            media,
            key,
            clock,
            mut rng,
            settings,
            edhoc_public_x,
            remote,
            policy_key,
        } = parts;
        let rules = settings.policy.clone();
        let policing = Arc::new(Policing::new(policy_key, rules, Arc::clone(&remote)));
        let position = store.position().await?;
        let fanout = Arc::new(Fanout::new(position));
        let links = links::LinkTable::load(Arc::clone(&store), Arc::clone(&fanout)).await?;
        let writer = Arc::new(Writer::start(
            Arc::clone(&store),
            Arc::clone(&key),
            Arc::clone(&clock),
            Arc::clone(&fanout),
            Arc::clone(&policing),
            settings.shards,
        ));
        let outbox = if settings.outbox.enabled {
            let parts = OutboxParts {
                store: Arc::clone(&store),
                writer: Arc::clone(&writer),
                fanout: Arc::clone(&fanout),
                remote: Arc::clone(&remote),
                clock: Arc::clone(&clock),
                ours: key.name().clone(),
                settings: settings.outbox.clone(),
                seeds: (rng.next_u64(), rng.next_u64()),
            };
            Some(Outbox::start(parts).await?)
        } else {
            None
        };
        let desk = Desk::new(settings, media, &clock, rng.next_u64());
        let refusals = Arc::new(Refusals::new(clock.now()));
        let hub = Arc::new_cyclic(|me| Self {
            store,
            key,
            clock,
            rng: Mutex::new(rng),
            writer,
            fanout,
            links: Arc::new(links),
            edhoc_public_x,
            remote,
            policing,
            desk,
            outbox,
            refusals,
            ready: AtomicBool::new(true),
            me: Weak::clone(me),
        });
        housekeeping::begin(&hub);
        desk::presence::begin(&hub);
        Ok(hub)
    }

    /// Takes no new work, and tells everyone who waits for news that there will be none.
    pub fn stop_waiting(&self) {
        self.ready.store(false, Ordering::Release);
        self.fanout.close();
    }

    /// Stops taking work, lets what was taken finish, and closes the writer.
    pub async fn drain(&self) {
        self.stop_waiting();
        if let Some(outbox) = &self.outbox {
            outbox.drain().await;
        }
        self.writer.drain().await;
    }

    /// Takes new settings; the number of shards and of password hashes at once stay.
    pub fn reconfigure(&self, settings: Settings) {
        self.policing.reconfigure(settings.policy.clone());
        self.desk.reconfigure(settings, &self.clock);
        if let Some(outbox) = &self.outbox {
            outbox.relisted(); // a reload may have replaced the lists, too
        }
    }

    /// This hub, for what goes on when whoever asked hangs up; none while it is being dropped.
    fn shared(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// The store, for reading.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// What tells other servers, if this hub has any.
    pub fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_ref()
    }

    /// What was refused lately, and why.
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// A refusal with who was refused, for the operator.
    fn known_by(&self, shown: &Credentials, refusal: Refusal) -> Refusal {
        match desk::who(self, shown) {
            Some(who) => refusal.known(|why| why.who = why.who.take().or(Some(who))),
            None => refusal,
        }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Fresh random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill_bytes(&mut bytes);
        bytes
    }
}

#[async_trait]
impl Service for Hub {
    async fn ask(&self, origin: Origin, command: Command) -> Result<Reply, Refusal> {
        let shown = origin.credentials.clone();
        let told = desk::ask(self, origin, command).await;
        told.map_err(|refusal| self.known_by(&shown, refusal))
    }

    async fn upload(&self, origin: Origin, upload: Upload) -> Result<String, Refusal> {
        let told = desk::media::upload(self, &origin, upload).await;
        told.map_err(|refusal| self.known_by(&origin.credentials, refusal))
    }

    async fn download(
        &self,
        origin: Origin,
        server: &str,
        media_id: &str,
    ) -> Result<MediaObject, Refusal> {
        let told = desk::media::download(self, &origin, server, media_id).await;
        told.map_err(|refusal| self.known_by(&origin.credentials, refusal))
    }

    async fn thumbnail(
        &self,
        origin: Origin,
        server: &str,
        media_id: &str,
    ) -> Result<MediaObject, Refusal> {
        let told = desk::media::thumbnail(self, &origin, server, media_id).await;
        told.map_err(|refusal| self.known_by(&origin.credentials, refusal))
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && self.writer.healthy()
    }

    async fn asked_by(&self, origin: &Origin, refusal: Refusal) -> Refusal {
        match desk::named(self, origin).await {
            Some(who) => refusal.known(|why| why.who = why.who.take().or(Some(who))),
            None => refusal,
        }
    }

    fn refused(&self, refused: Refused) {
        self.refusals.remember(self.now(), refused);
    }
}
