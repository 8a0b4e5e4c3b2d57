//! Names, time and hubs for the tests.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rand::{SeedableRng as _, rngs::StdRng};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ruma::{OwnedServerName, ServerName};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::PrivateKeyDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    api::{PeerKeys, Refusal},
    base::{Clock, Timestamp},
    edge::{
        fake::Fake,
        front::Front,
        http::{self, Https, Limits, WellKnown},
        matrix::{Federation, Lists, Parts, keys::Pinned, outgoing::Names},
    },
    session::{discovery::Record, keyring::KnownKeys, server_list::ServerList},
    wire::matrix::{Place, ServerKey},
};

/// What all hubs of a test share.
pub(super) struct World {
    shared: Arc<Shared>,
    issuer: CertifiedIssuer<'static, KeyPair>,
    keys: AtomicU64,
}

#[derive(Default)]
struct Shared {
    now: AtomicU64,
    /// Where a host and a port lead.
    hosts: Mutex<HashMap<(String, u16), SocketAddr>>,
    records: Mutex<HashMap<String, Vec<Record>>>,
    looked_up: AtomicUsize,
}

impl Clock for Shared {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl Names for Shared {
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let hosts = self.hosts.lock().unwrap();
        let found = hosts.get(&(host.to_owned(), port)).copied();
        let found = found.ok_or(io::ErrorKind::NotFound)?;
        self.looked_up.fetch_add(1, Ordering::SeqCst);
        Ok(vec![found])
    }

    async fn records(&self, name: &str) -> io::Result<Vec<Record>> {
        let records = self.records.lock().unwrap().get(name).cloned();
        Ok(records.unwrap_or_default())
    }
}

/// A hub with its door open.
pub(super) struct Hub {
    pub(super) key: Arc<ServerKey>,
    pub(super) federation: Arc<Federation>,
    pub(super) fake: Arc<Fake>,
    pub(super) address: SocketAddr,
    _stop: watch::Sender<bool>,
    _served: JoinHandle<()>,
}

impl Hub {
    pub(super) fn name(&self) -> &ServerName {
        self.key.name()
    }
}

/// Keys that outlive the hub that learnt them.
#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<OwnedServerName, KnownKeys>>);

#[async_trait]
impl PeerKeys for Kept {
    async fn kept(&self, server: &ServerName) -> Result<Option<KnownKeys>, Refusal> {
        Ok(self.0.lock().unwrap().get(server).cloned())
    }

    async fn keep(&self, server: &ServerName, keys: &KnownKeys) -> Result<(), Refusal> {
        self.0
            .lock()
            .unwrap()
            .insert(server.to_owned(), keys.clone());
        Ok(())
    }
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl World {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let shared = Arc::new(Shared::default());
        shared.now.store(1_700_000_000_000, Ordering::SeqCst);
        Self {
            shared,
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            keys: AtomicU64::new(1),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.now()
    }

    pub(super) fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.shared.now.fetch_add(ms, Ordering::SeqCst);
    }

    /// How often someone was about to connect to a name.
    pub(super) fn connections(&self) -> usize {
        self.shared.looked_up.load(Ordering::SeqCst)
    }

    pub(super) fn lead(&self, host: &str, port: u16, to: SocketAddr) {
        let mut hosts = self.shared.hosts.lock().unwrap();
        hosts.insert((host.to_owned(), port), to);
    }

    pub(super) fn forget(&self, host: &str, port: u16) {
        let mut hosts = self.shared.hosts.lock().unwrap();
        hosts.remove(&(host.to_owned(), port));
    }

    pub(super) fn record(&self, name: &str, port: u16, target: &str) {
        let record = Record {
            priority: 1,
            weight: 0,
            port,
            target: target.to_owned(),
        };
        let mut records = self.shared.records.lock().unwrap();
        records.insert(name.to_owned(), vec![record]);
    }

    pub(super) fn another_key(&self, name: &str) -> ServerKey {
        let number = self.keys.fetch_add(1, Ordering::SeqCst);
        let mut der = hex::decode("302e020100300506032b657004220420").unwrap();
        der.extend([0; 24]);
        der.extend(number.to_be_bytes());
        let name = OwnedServerName::try_from(name).unwrap();
        ServerKey::from_der(name, &der, "a").unwrap()
    }

    /// TLS with a certificate for this host.
    pub(super) fn tls(&self, host: &str) -> Arc<ServerConfig> {
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let chain = vec![made.der().clone()];
        let shown = CertifiedKey::from_der(chain, key, &ring::default_provider()).unwrap();
        http::tls::server_config(Arc::new(Shown(Arc::new(shown)))).unwrap()
    }

    /// A hub to which its name leads, at its port or 8448.
    pub(super) async fn hub(&self, name: &str) -> Hub {
        self.open(name, |_| ()).await
    }

    pub(super) async fn pinning(&self, name: &str, pinned: Pinned) -> Hub {
        self.open(name, |parts| parts.pinned = pinned).await
    }

    pub(super) async fn public_only(&self, name: &str) -> Hub {
        self.open(name, |parts| parts.allow_private_addresses = false)
            .await
    }

    pub(super) async fn keeping(&self, name: &str, kept: &Arc<Kept>) -> Hub {
        let kept = Arc::clone(kept) as Arc<dyn PeerKeys>;
        self.open(name, |parts| parts.kept = Some(kept)).await
    }

    pub(super) async fn proxied(&self, name: &str, proxy: SocketAddr) -> Hub {
        let proxy = Place::parse(&proxy.to_string()).unwrap();
        self.open(name, |parts| parts.proxy = Some(proxy)).await
    }

    pub(super) async fn trusting(&self, name: &str, notaries: &[&ServerName]) -> Hub {
        let notaries = notaries.iter().map(|&name| name.to_owned()).collect();
        self.open(name, |parts| parts.notaries = notaries).await
    }

    pub(super) async fn believing(&self, name: &str) -> Hub {
        self.open(name, |parts| parts.believes_tellers = true).await
    }

    async fn open(&self, name: &str, change: impl FnOnce(&mut Parts)) -> Hub {
        let key = Arc::new(self.another_key(name));
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let mut parts = Parts {
            key: Arc::clone(&key),
            old_keys: std::collections::BTreeMap::default(),
            lists: Lists::new(ServerList::default()),
            pinned: Pinned::default(),
            notaries: Vec::new(),
            believes_tellers: false,
            roots,
            allow_private_addresses: true,
            proxy: None,
            names: Arc::clone(&self.shared) as Arc<dyn Names>,
            kept: None,
            clock: Arc::clone(&self.shared) as Arc<dyn Clock>,
            rng: Box::new(StdRng::seed_from_u64(5)),
        };
        change(&mut parts);
        let federation = Federation::new(parts).unwrap();
        let place = Place::parse(name).unwrap();
        let host = place.host().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = watch::channel(false);
        let door = Https {
            front: Front::new(Arc::clone(&fake) as Arc<dyn crate::api::Service>),
            limits: Limits::default(),
            well_known: WellKnown::default(),
            websockets: None,
            facts: None,
            federation: Some(Arc::clone(&federation)),
        };
        let served = tokio::spawn(http::serve(listener, self.tls(&host), door, stopped));
        self.lead(&host, place.port().unwrap_or(8448), address);
        Hub {
            key,
            federation,
            fake,
            address,
            _stop: stop,
            _served: served,
        }
    }
}
