//! A hub and a table of links for tests: they answer what they were told to, and remember.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use ruma::{OwnedUserId, device_id, user_id};

use super::{Books, Reach, Thin, Who};
use crate::{
    api::{
        Command, Deliver, DeviceName, Door, EdhocLink, Links, MediaObject, Origin, OscoreLink,
        Refusal, Registration, Reply, Secret, Service, ThinReply, Upload,
    },
    base::{Clock, Timestamp},
    edge::Front,
    wire::thin::LinkProfile,
};

/// A hub that gives the answers it was given, in order.
#[derive(Default)]
pub(in crate::edge) struct Hub {
    pub(in crate::edge) answers: Mutex<VecDeque<Result<Reply, Refusal>>>,
    pub(in crate::edge) asked: Mutex<Vec<(Origin, Command)>>,
}

#[async_trait]
impl Service for Hub {
    async fn ask(&self, origin: Origin, command: Command) -> Result<Reply, Refusal> {
        let looks = matches!(&command, Command::Thin(crate::api::Thin::Log { .. }));
        self.asked.lock().unwrap().push((origin, command));
        let answer = self.answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| {
            if looks {
                return Ok(Reply::Thin(ThinReply::Records {
                    records: Vec::new(),
                    through: None,
                    more: false,
                }));
            }
            Err(Refusal::not_found("no answer was prepared"))
        })
    }

    async fn upload(&self, _: Origin, _: Upload) -> Result<String, Refusal> {
        Err(Refusal::internal())
    }

    async fn download(&self, _: Origin, _: &str, _: &str) -> Result<MediaObject, Refusal> {
        Err(Refusal::internal())
    }

    async fn thumbnail(
        &self,
        origin: Origin,
        server: &str,
        media_id: &str,
    ) -> Result<MediaObject, Refusal> {
        self.download(origin, server, media_id).await
    }

    fn ready(&self) -> bool {
        true
    }
}

/// Links that know link profiles, wake hooks and one key only.
#[derive(Default)]
pub(in crate::edge) struct Table {
    pub(in crate::edge) profile: Mutex<LinkProfile>,
    pub(in crate::edge) hooks: Mutex<Vec<(DeviceName, String)>>,
    pub(in crate::edge) told: Mutex<Vec<Arc<dyn Deliver>>>,
    /// Identity and key of Ana's radio, if it has some.
    pub(in crate::edge) psk: Option<(Vec<u8>, Secret)>,
}

#[async_trait]
impl Links for Table {
    async fn oscore(&self, _: &[u8]) -> Result<Option<OscoreLink>, Refusal> {
        Ok(None)
    }
    async fn renew_oscore(&self, _: OscoreLink) -> Result<(), Refusal> {
        Ok(())
    }
    async fn free_recipient_id(&self) -> Result<Vec<u8>, Refusal> {
        Ok(Vec::new())
    }
    async fn reserve(&self, _: &[u8], _: u64) -> Result<(), Refusal> {
        Ok(())
    }
    async fn edhoc(&self, _: &[u8]) -> Result<Option<EdhocLink>, Refusal> {
        Ok(None)
    }
    fn psk(&self, identity: &[u8]) -> Option<(DeviceName, Secret)> {
        let (name, key) = self.psk.as_ref()?;
        (name == identity).then(|| (device(), key.clone()))
    }
    fn spki(&self, _: &[u8]) -> Option<DeviceName> {
        None
    }
    async fn registrations(&self) -> Result<Vec<Registration>, Refusal> {
        Ok(Vec::new())
    }
    async fn register(&self, _: Registration) -> Result<(), Refusal> {
        Ok(())
    }
    async fn deregister(&self, _: &[u8], _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }
    async fn link_profile(&self, _: &DeviceName) -> Result<LinkProfile, Refusal> {
        Ok(*self.profile.lock().unwrap())
    }
    async fn wake_hooks(
        &self,
        users: Option<&[OwnedUserId]>,
    ) -> Result<Vec<(DeviceName, String)>, Refusal> {
        let hooks = self.hooks.lock().unwrap();
        let wanted = |device: &DeviceName| users.is_none_or(|users| users.contains(&device.user));
        let found = hooks.iter().filter(|(device, _)| wanted(device));
        Ok(found.cloned().collect())
    }
    fn started_with_store(&self) -> bool {
        true
    }
    fn tell(&self, listener: Arc<dyn Deliver>) {
        self.told.lock().unwrap().push(listener);
    }
}

/// A clock that is set by hand.
#[derive(Default)]
pub(in crate::edge) struct Hand(pub(in crate::edge) AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// The thin profile over a hub that is none.
pub(in crate::edge) struct Bench {
    pub(in crate::edge) hub: Arc<Hub>,
    pub(in crate::edge) table: Arc<Table>,
    pub(in crate::edge) clock: Arc<Hand>,
    pub(in crate::edge) books: Arc<Books>,
    pub(in crate::edge) thin: Arc<Thin>,
}

impl Bench {
    pub(in crate::edge) fn new() -> Self {
        let (hub, table, clock) = (Arc::<Hub>::default(), Arc::default(), Arc::default());
        let books = Books::new();
        let thin = Thin::with_books(
            Front::new(Arc::clone(&hub) as Arc<dyn Service>),
            Arc::clone(&table) as Arc<dyn Links>,
            Arc::clone(&clock) as Arc<dyn Clock>,
            Reach::new(),
            Arc::clone(&books),
        );
        Self {
            hub,
            table,
            clock,
            books,
            thin,
        }
    }

    pub(in crate::edge) fn will_say(&self, answer: ThinReply) {
        self.will(Ok(Reply::Thin(answer)));
    }

    pub(in crate::edge) fn will(&self, answer: Result<Reply, Refusal>) {
        self.hub.answers.lock().unwrap().push_back(answer);
    }

    /// The last thing asked, and by whom.
    pub(in crate::edge) fn asked(&self) -> (Origin, Command) {
        let asked = self.hub.asked.lock().unwrap();
        asked.last().expect("something was asked").clone()
    }
}

/// Ana's radio.
pub(in crate::edge) fn device() -> DeviceName {
    DeviceName {
        user: user_id!("@ana:hub.example").to_owned(),
        device: device_id!("RADIO").to_owned(),
    }
}

pub(in crate::edge) fn who() -> Who {
    Who {
        device: Arc::new(device()),
        door: Door::Oscore,
        address: Some("192.0.2.7:4444".parse().unwrap()),
    }
}
