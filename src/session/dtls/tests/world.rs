//! A server, its clients and the network between them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::super::*;
use crate::base::Timestamp;

pub(super) const T0: Timestamp = Timestamp(1_790_000_000_000);

pub(super) fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 40_000 + u16::from(host)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the library's clock needs a start"
)]
pub(super) fn base() -> Instant {
    Instant::now()
}

/// Certificate and key, in DER.
pub(super) fn pair() -> (Vec<u8>, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.der().to_vec(), made.signing_key.serialize_der())
}

/// The keys of known devices.
#[derive(Clone, Default)]
pub(super) struct Keys(pub(super) BTreeMap<Vec<u8>, Vec<u8>>);

impl Keys {
    pub(super) fn some() -> Self {
        let key = |name: &str| (name.into(), key_of(name.as_bytes()));
        Self(["ana", "bob"].map(key).into())
    }
}

fn key_of(identity: &[u8]) -> Vec<u8> {
    [b"the key of ", identity].concat()
}

impl PskSource for Keys {
    fn key(&self, identity: &[u8]) -> Option<Secret> {
        self.0.get(identity).map(|key| Secret::new(key.clone()))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) now: Timestamp,
    pub(super) conns: Vec<ConnId>,
    pub(super) events: Vec<Event>,
    pub(super) certificate_der: Vec<u8>,
    /// On the way to the server, and everything that ever was.
    pub(super) up: VecDeque<(SocketAddr, Bytes)>,
    pub(super) seen_up: Vec<(SocketAddr, Bytes)>,
    base: Instant,
    config: ServerConfig,
    clients: BTreeMap<SocketAddr, Client>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_keys(Keys::some())
    }

    pub(super) fn with_keys(keys: Keys) -> Self {
        let (certificate_der, key) = pair();
        let config = ServerConfig {
            certificate: Some(Certificate::new(certificate_der.clone(), key)),
            psk: Some(Arc::new(keys)),
            limits: Limits::default(),
        };
        let base = base();
        Self {
            server: Server::new(config.clone(), base, T0).unwrap(),
            now: T0,
            conns: Vec::new(),
            events: Vec::new(),
            certificate_der,
            up: VecDeque::new(),
            seen_up: Vec::new(),
            base,
            config,
            clients: BTreeMap::new(),
        }
    }

    pub(super) fn limit(&mut self, change: impl FnOnce(&mut Limits)) {
        change(&mut self.config.limits);
        self.server = Server::new(self.config.clone(), self.base, T0).unwrap();
    }

    fn later(&self) -> Instant {
        self.base + self.now.since(T0)
    }

    pub(super) fn begin_with_key(&mut self, at: SocketAddr, identity: &[u8], key: &[u8]) {
        let proof = Proof::Psk {
            identity: Identity(identity.to_vec()),
            key: Secret::new(key),
        };
        let client = Client::new(proof, self.later(), self.now).unwrap();
        self.clients.insert(at, client);
    }

    pub(super) fn begin(&mut self, at: SocketAddr, identity: &[u8]) {
        self.begin_with_key(at, identity, &key_of(identity));
    }

    pub(super) fn begin_with_certificate(&mut self, at: SocketAddr, check: Box<dyn LeafCheck>) {
        let (certificate, key) = pair();
        let own = Certificate::new(certificate, key);
        let proof = Proof::Certificate { check, own };
        let client = Client::new(proof, self.later(), self.now).unwrap();
        self.clients.insert(at, client);
    }

    pub(super) fn connect(&mut self, at: SocketAddr, identity: &[u8]) -> ConnId {
        self.begin(at, identity);
        self.settle();
        *self.conns.last().expect("it is connected")
    }

    pub(super) fn connect_unknown(&mut self, at: SocketAddr) -> ConnId {
        let trust = Pinned(self.certificate_der.clone());
        self.begin_with_certificate(at, Box::new(trust));
        self.settle();
        *self.conns.last().expect("it is connected")
    }

    pub(super) fn client(&mut self, at: SocketAddr) -> &mut Client {
        self.clients.get_mut(&at).expect("it was begun")
    }

    /// The client is behind another address from now on.
    pub(super) fn rebind(&mut self, from: SocketAddr, to: SocketAddr) {
        let client = self.clients.remove(&from).expect("it was begun");
        self.clients.insert(to, client);
    }

    pub(super) fn client_sends(&mut self, at: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        self.client(at).send(now, bytes).unwrap();
        self.settle();
    }

    /// Carries what is there now, once in each direction; the first datagram may get lost.
    pub(super) fn step(&mut self, is_first_lost: bool) -> bool {
        for (at, client) in &mut self.clients {
            while let Some(datagram) = client.poll_transmit() {
                self.up.push_back((*at, datagram));
            }
        }
        if is_first_lost {
            self.up.pop_front();
        }
        let mut moved = false;
        while let Some((from, datagram)) = self.up.pop_front() {
            moved = true;
            self.seen_up.push((from, datagram.clone()));
            self.server.handle_datagram(self.now, from, &datagram);
        }
        while let Some((to, datagram)) = self.server.poll_transmit() {
            moved = true;
            if let Some(client) = self.clients.get_mut(&to) {
                client.handle_datagram(self.now, &datagram);
            }
        }
        while let Some(event) = self.server.poll_event() {
            if let Event::Connected { conn, .. } = event {
                self.conns.push(conn);
            }
            self.events.push(event);
        }
        moved
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..100 {
            if !self.step(false) {
                return;
            }
        }
        panic!("it never settles");
    }

    /// Lets time pass; timers fire when they are due.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        for _ in 0..1000 {
            self.settle();
            let timers = self.clients.values().map(Client::poll_timeout);
            let due = timers.chain([self.server.poll_timeout()]).flatten().min();
            let Some(due) = due.filter(|due| *due <= end) else {
                self.now = end;
                return self.settle();
            };
            self.now = due.max(self.now);
            self.server.handle_timeout(self.now);
            for client in self.clients.values_mut() {
                client.handle_timeout(self.now);
            }
        }
        panic!("the timers never come to rest");
    }

    pub(super) fn connected(&self, wanted: ConnId) -> Option<Identity> {
        let mut events = self.events.iter();
        events.find_map(|event| match event {
            Event::Connected { conn, identity, .. } if *conn == wanted => Some(identity.clone()),
            _ => None,
        })?
    }

    pub(super) fn closed(&self, wanted: ConnId) -> Option<CloseReason> {
        let mut events = self.events.iter();
        events.find_map(|event| match event {
            Event::Closed { conn, reason } if *conn == wanted => Some(*reason),
            _ => None,
        })
    }

    pub(super) fn data_of(&self, wanted: ConnId) -> Vec<&[u8]> {
        let events = self.events.iter();
        events
            .filter_map(|event| match event {
                Event::Data { conn, bytes } if *conn == wanted => Some(&bytes[..]),
                _ => None,
            })
            .collect()
    }

    pub(super) fn client_data(&mut self, at: SocketAddr) -> Vec<Bytes> {
        let client = self.client(at);
        let events = std::iter::from_fn(|| client.poll_event());
        events
            .filter_map(|event| match event {
                ClientEvent::Data(bytes) => Some(bytes),
                _ => None,
            })
            .collect()
    }
}
