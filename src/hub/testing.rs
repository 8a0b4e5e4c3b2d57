//! A hub for tests: over `SQLite` in a directory that goes away, with a clock that moves only when
//! told and chance that repeats.
//!
//! [`TestHub::account`] writes an account and a session past the desk, because a password hash
//! takes longer than most tests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use ruma::{OwnedDeviceId, OwnedUserId};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Hub, HubParts, OutboxSettings, Settings};
use crate::{
    api::{
        Caller, Command, Credentials, Door, Nobody, Origin, Refusal, Remote, Reply, RequestId,
        Service,
    },
    base::{Clock, Timestamp},
    store::{
        Batch, SharedStore, Write,
        media::MediaFiles,
        sqlite::{OpenOptions, Sqlite},
    },
    wire::matrix::ServerKey,
};

/// Asks as someone and gives the answer of the command's own type:
/// `ask!(hub, ana.origin, Whoami(request))`.
macro_rules! ask {
    ($hub:expr, $origin:expr, $name:ident($request:expr)) => {
        $hub.ask(&$origin, $crate::api::Command::$name(Box::new($request)))
            .await
            .map(|reply| match reply {
                $crate::api::Reply::$name(reply) => *reply,
                other => panic!("{other:?}"),
            })
    };
}
pub(crate) use ask;

/// The name of every hub in tests.
pub(crate) const SERVER: &str = "hub.example";

/// Time that moves only when told.
pub(crate) struct StillClock(AtomicU64);

impl StillClock {
    /// Some day.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(1_700_000_000_000))
    }

    /// Lets time pass.
    pub(crate) fn advance(&self, span: Duration) {
        let ms = u64::try_from(span.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// A running hub and what it stands on.
pub(crate) struct TestHub {
    pub(crate) hub: Arc<Hub>,
    pub(crate) clock: Arc<StillClock>,
    /// With the database `hub.db` and the files below `media`.
    pub(crate) dir: TempDir,
}

/// Someone with a session.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) user: OwnedUserId,
    pub(crate) device: OwnedDeviceId,
    pub(crate) origin: Origin,
}

impl Person {
    /// What the desk makes of this person.
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            user: self.user.clone(),
            device: self.device.clone(),
            admin: false,
        }
    }
}

/// A hub with the settings an operator gets who sets none.
pub(crate) async fn hub() -> TestHub {
    hub_with(Settings::default()).await
}

/// A hub with these settings.
pub(crate) async fn hub_with(settings: Settings) -> TestHub {
    hub_around(settings, |store| store).await
}

/// The same with something around its store.
pub(crate) async fn hub_around(
    settings: Settings,
    wrap: impl FnOnce(SharedStore) -> SharedStore,
) -> TestHub {
    made(SERVER, settings, wrap, Arc::new(Nobody)).await
}

/// A hub with other servers around it.
pub(crate) async fn hub_among(remote: Arc<dyn Remote>) -> TestHub {
    hub_named(SERVER, remote).await
}

/// A hub of this name with other servers around it.
pub(crate) async fn hub_named(name: &str, remote: Arc<dyn Remote>) -> TestHub {
    made(name, Settings::default(), |store| store, remote).await
}

async fn made(
    name: &str,
    settings: Settings,
    wrap: impl FnOnce(SharedStore) -> SharedStore,
    remote: Arc<dyn Remote>,
) -> TestHub {
    let dir = TempDir::new().unwrap();
    let options = OpenOptions::new(dir.path().join("hub.db"), name.try_into().unwrap());
    let store = wrap(Arc::new(Sqlite::open(options).await.unwrap()));
    let clock = Arc::new(StillClock::new());
    start(dir, name, clock, store, settings, remote, 7).await
}

/// A hub over a store that may be full already, which is sending to other servers.
pub(crate) async fn hub_sending(
    store: SharedStore,
    clock: Arc<StillClock>,
    remote: Arc<dyn Remote>,
    seed: u64,
    presence: bool,
) -> TestHub {
    let settings = Settings {
        presence,
        outbox: OutboxSettings {
            enabled: true,
            ..OutboxSettings::default()
        },
        ..Settings::default()
    };
    let dir = TempDir::new().unwrap();
    start(dir, SERVER, clock, store, settings, remote, seed).await
}

async fn start(
    dir: TempDir,
    name: &str,
    clock: Arc<StillClock>,
    store: SharedStore,
    settings: Settings,
    remote: Arc<dyn Remote>,
    seed: u64,
) -> TestHub {
    let hub = Hub::start(HubParts {
        store,
        media: MediaFiles::new(dir.path().join("media")).await.unwrap(),
        key: Arc::new(key_of(name)),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        rng: Box::new(StdRng::seed_from_u64(seed)),
        settings,
        edhoc_public_x: EDHOC_PUBLIC_X,
        remote,
        policy_key: Some(Arc::new(crate::room::testing::policy_key(SERVER))),
    })
    .await
    .unwrap();
    TestHub { hub, clock, dir }
}

/// The static EDHOC key of every hub in tests: no point of the curve, for nobody asks it.
pub(crate) const EDHOC_PUBLIC_X: [u8; 32] = [0xed; 32];

/// The signing key of every hub in tests: the seed of RFC 8032's first vector.
pub(crate) fn key() -> ServerKey {
    key_of(SERVER)
}

/// The same key under another name.
pub(crate) fn key_of(name: &str) -> ServerKey {
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let der = hex::decode(format!("302e020100300506032b657004220420{SEED}")).unwrap();
    ServerKey::from_der(name.try_into().unwrap(), &der, "1").unwrap()
}

/// Someone who shows nothing.
pub(crate) fn stranger() -> Origin {
    Origin {
        door: Door::Https,
        address: Some([192, 0, 2, 1].into()),
        request: RequestId(1),
        credentials: Credentials::Nothing,
    }
}

/// Someone who shows this token.
pub(crate) fn bearer(token: &str) -> Origin {
    Origin {
        credentials: Credentials::Token(token.to_owned()),
        ..stranger()
    }
}

impl TestHub {
    /// An account without a password, and its device `PHONE`.
    pub(crate) async fn account(&self, localpart: &str) -> Person {
        let user = OwnedUserId::try_from(format!("@{localpart}:{}", self.hub.key.name())).unwrap();
        let made = Write::NewUser {
            user: user.clone(),
            password: None,
            admin: false,
            at: self.hub.now(),
        };
        self.write(vec![made]).await;
        self.device(&user, "PHONE").await
    }

    /// Gives an account a password.
    pub(crate) async fn password(&self, person: &Person, password: &str) {
        let hash = self.hub.desk.hash_password(password).await;
        let changed = Write::Password {
            user: person.user.clone(),
            password: hash,
        };
        self.write(vec![changed]).await;
    }

    /// A further device of an account, or a new session of one it has.
    pub(crate) async fn device(&self, user: &OwnedUserId, device: &str) -> Person {
        let token = format!("tl_{device}_{user}");
        let device = OwnedDeviceId::from(device);
        let session = Write::Session {
            user: user.clone(),
            device: device.clone(),
            token: Sha256::digest(token.as_bytes()).into(),
            name: None,
            at: self.hub.now(),
        };
        self.write(vec![session]).await;
        Person {
            user: user.clone(),
            device,
            origin: bearer(&token),
        }
    }

    /// Asks as someone.
    pub(crate) async fn ask(&self, origin: &Origin, command: Command) -> Result<Reply, Refusal> {
        self.hub.ask(origin.clone(), command).await
    }

    /// Writes past the desk.
    pub(crate) async fn write(&self, writes: Vec<Write>) {
        let batch = Batch {
            writes,
            may_conflict: true,
        };
        self.hub.writer.write(batch, Vec::new()).await.unwrap();
    }
}
