//! What outlives a hub: the store, the clock, the people, the trace; and how a hub is started.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use rand::{SeedableRng, rngs::StdRng};
use ruma::{OwnedDeviceId, OwnedUserId};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tramline::{
    api::{Credentials, Door, Origin, RequestId},
    base::{Clock, Timestamp},
    hub::{Hub, HubParts, Limits, Quota, Settings},
    store::{Batch, SharedStore, Store, StoreError, Write, media::MediaFiles, memory::Memory},
    wire::matrix::ServerKey,
};

use crate::{
    flaky::{Flaky, SimClock},
    model::Model,
};

pub(crate) const SERVER: &str = "hub.example";

/// A device of someone.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) user: OwnedUserId,
    pub(crate) device: OwnedDeviceId,
    token: String,
}

impl Person {
    pub(crate) fn new(name: &str, device: &str) -> Self {
        Self {
            user: OwnedUserId::try_from(format!("@{name}:{SERVER}")).unwrap(),
            device: device.into(),
            token: format!("tl_{name}_{device}"),
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin {
            door: Door::Local,
            address: None,
            request: RequestId(1),
            credentials: Credentials::Token(self.token.clone()),
        }
    }
}

/// What a simulation is about.
pub(crate) struct World {
    pub(crate) inner: Arc<Memory>,
    pub(crate) flaky: Arc<Flaky>,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) people: Vec<Person>,
    model: Mutex<Model>,
    trace: Mutex<Trace>,
}

struct Trace {
    hash: Sha256,
    lines: Vec<String>,
    print: bool,
}

impl World {
    pub(crate) fn new(seed: u64, people: Vec<Person>, print: bool) -> Self {
        let inner = Arc::new(Memory::new());
        Self {
            flaky: Arc::new(Flaky::new(Arc::clone(&inner), seed)),
            inner,
            clock: Arc::new(SimClock::new()),
            model: Mutex::new(Model::new(people.len())),
            people,
            trace: Mutex::new(Trace {
                hash: Sha256::new(),
                lines: Vec::new(),
                print,
            }),
        }
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// Writes down what happened. Equal seeds write equal traces.
    pub(crate) fn note(&self, line: String) {
        let mut trace = self.trace.lock().unwrap();
        trace.hash.update(line.as_bytes());
        trace.hash.update(b"\n");
        if trace.print {
            println!("{line}");
        }
        trace.lines.push(line);
    }

    pub(crate) fn trace_hash(&self) -> String {
        hex::encode(self.trace.lock().unwrap().hash.clone().finalize())
    }

    /// The trace's last lines.
    pub(crate) fn tail(&self) -> String {
        let trace = self.trace.lock().unwrap();
        let from = trace.lines.len().saturating_sub(25);
        trace.lines[from..]
            .iter()
            .fold(String::new(), |mut text, line| {
                let _ = writeln!(text, "    {line}");
                text
            })
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.trace.lock().unwrap().lines.clone()
    }

    pub(crate) async fn start(&self, seed: u64, shards: usize) -> Result<Arc<Hub>, StoreError> {
        let store: SharedStore = Arc::clone(&self.flaky) as SharedStore;
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as Arc<dyn Clock>;
        start(store, clock, seed, shards).await
    }
}

/// A hub over a store, with budgets off.
pub(crate) async fn start(
    store: SharedStore,
    clock: Arc<dyn Clock>,
    seed: u64,
    shards: usize,
) -> Result<Arc<Hub>, StoreError> {
    let off = Quota {
        per_second: 0.0,
        burst: 0,
    };
    let limits = Limits {
        events_per_account: off,
        requests_per_account: off,
        ..Limits::default()
    };
    Hub::start(HubParts {
        store,
        media: media(),
        key: key(),
        clock,
        rng: Box::new(StdRng::seed_from_u64(seed)),
        settings: Settings {
            limits,
            shards,
            ..Settings::default()
        },
        edhoc_public_x: [0; 32], // no device links in a simulation
        remote: Arc::new(tramline::api::Nobody),
        policy_key: None,
    })
    .await
}

/// Accounts and sessions, past the desk: a password hash takes longer than a whole simulation.
pub(crate) async fn people_arrive(store: &dyn Store, people: &[Person]) {
    let at = Timestamp(1_600_000_000_000);
    for person in people {
        let account = Write::NewUser {
            user: person.user.clone(),
            password: None,
            admin: false,
            at,
        };
        let session = Write::Session {
            user: person.user.clone(),
            device: person.device.clone(),
            token: Sha256::digest(person.token.as_bytes()).into(),
            name: None,
            at,
        };
        for write in [account, session] {
            let batch = Batch {
                writes: vec![write],
                may_conflict: true, // a second device's account is there already
            };
            store.commit(&[batch]).await.unwrap();
        }
    }
}

/// Nobody here uploads files: one folder serves every hub.
fn media() -> MediaFiles {
    static MEDIA: OnceLock<(TempDir, MediaFiles)> = OnceLock::new();
    let (_, media) = MEDIA.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("media");
        let opening = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(MediaFiles::new(path)).unwrap()
        });
        (dir, opening.join().unwrap())
    });
    media.clone()
}

/// The seed of RFC 8032's first vector.
fn key() -> Arc<ServerKey> {
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let der = hex::decode(format!("302e020100300506032b657004220420{SEED}")).unwrap();
    Arc::new(ServerKey::from_der(SERVER.try_into().unwrap(), &der, "1").unwrap())
}
