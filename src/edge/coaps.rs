//! The CoAP door behind DTLS: the same driver, machine and MSC3079 profile as plain CoAP, with a
//! [`Link`] between them and the socket that opens and seals datagrams.
//!
//! A peer is a connection, not an address: blocks, observations and the token said once go on
//! when a client's address changes. A client that holds the key of a linked device is that device,
//! and speaks the thin profile; any other speaks MSC3079, where the token gives the rights.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use metrics::{counter, gauge};
use tokio::sync::watch;

use super::{
    coap::{
        Coap, Sockets, driver,
        link::{Arrived, Link, Outgoing},
        sticky::Keep,
    },
    thin::Which,
};
use crate::{
    api::{DeviceName, Door, Links},
    base::{Recent, Timestamp},
    session::{
        dtls::{
            Certificate, CloseReason, ConfigError, ConnId, Event, Identity, PskSource, Secret,
            Server, ServerConfig,
        },
        ledger::Traffic,
    },
};

/// What the door needs to be opened.
pub struct Coaps {
    /// What every CoAP door needs.
    pub coap: Coap,
    /// What the door proves itself with.
    pub dtls: ServerConfig,
    /// Certificates that are shown in place of that from then on.
    pub certificate: Option<watch::Receiver<Certificate>>,
    /// This moment, as the DTLS library counts.
    pub base: Instant,
}

/// Makes the door ready: what comes back serves until `shutdown` becomes true (or its sender is
/// gone), then drains and tells every client that it is over.
pub fn serve(
    sockets: Sockets,
    door: Coaps,
    shutdown: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + Send + use<>, ConfigError> {
    let server = Server::new(door.dtls, door.base, door.coap.clock.now())?;
    let links = door.coap.linked.as_ref();
    let mut link = Secured::new(server, links.map(|linked| Arc::clone(&linked.links)));
    link.newer = door.certificate;
    Ok(driver::serve(sockets, link, door.coap, shutdown))
}

/// The keys of linked devices, for handshakes.
pub struct LinkedKeys(pub Arc<dyn Links>);

impl PskSource for LinkedKeys {
    fn key(&self, identity: &[u8]) -> Option<Secret> {
        let (_, key) = self.0.psk(identity)?;
        Some(Secret::new(key.0))
    }
}

/// DTLS between the socket and the machine.
struct Secured {
    server: Server,
    links: Option<Arc<dyn Links>>,
    /// The certificate to show, when it changes.
    newer: Option<watch::Receiver<Certificate>>,
    /// The linked devices.
    devices: BTreeMap<ConnId, Arc<DeviceName>>,
    arrived: VecDeque<Arrived<ConnId>>,
    outbox: VecDeque<Outgoing<ConnId>>,
    /// The datagram being read, until something of it has arrived.
    came: Traffic,
    /// What came and went that is not known to be a device's, by address: handshakes, mostly.
    shaking: Recent<SocketAddr, (Traffic, Traffic)>,
}

/// Addresses whose handshakes are counted at a time: as many as are under way at most.
const SHAKING_MAX: usize = 4096;

impl Secured {
    const fn new(server: Server, links: Option<Arc<dyn Links>>) -> Self {
        Self {
            server,
            links,
            newer: None,
            devices: BTreeMap::new(),
            arrived: VecDeque::new(),
            outbox: VecDeque::new(),
            came: Traffic::NONE,
            shaking: Recent::new(SHAKING_MAX),
        }
    }

    /// Takes the certificate that was read since the last time, if one was.
    fn renew(&mut self) {
        // an error says that no other will come
        let newer = self.newer.as_mut();
        let Some(newer) = newer.filter(|newer| newer.has_changed().unwrap_or(false)) else {
            return;
        };
        let certificate = newer.borrow_and_update().clone();
        match self.server.set_certificate(certificate) {
            Ok(()) => tracing::info!("another certificate is shown by the DTLS door"),
            Err(error) => tracing::error!(%error, "a certificate cannot be shown; the old one is"),
        }
    }

    /// Takes out what happened below.
    fn follow_up(&mut self) {
        while let Some(event) = self.server.poll_event() {
            self.happened(event);
        }
        let known = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        gauge!("tramline_dtls_connections").set(known(self.server.established()));
        gauge!("tramline_dtls_handshakes").set(known(self.server.half_open()));
    }

    /// What the server sends is this peer's.
    fn take_out(&mut self, peer: Option<ConnId>) {
        while let Some((to, bytes)) = self.server.poll_transmit() {
            if peer.is_none() {
                let (_, down) = self.shaking.entry(&to, || to, Default::default);
                *down += Traffic::datagram(&to, bytes.len());
            }
            self.outbox.push_back(Outgoing { peer, to, bytes });
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Connected {
                conn,
                from,
                identity,
            } => {
                count("connected");
                tracing::debug!(?conn, %from, ?identity, "connected");
                let links = self.links.as_ref().zip(identity);
                let linked = links.and_then(|(links, Identity(name))| links.psk(&name));
                self.take_out(None); // the end of the handshake
                let (mut up, down) = self.shaking.remove(&from).unwrap_or_default();
                up += std::mem::replace(&mut self.came, Traffic::NONE);
                if let Some((device, _)) = linked {
                    self.devices.insert(conn, Arc::new(device));
                    let peer = conn;
                    self.arrived.push_back(Arrived::Shaken { peer, up, down });
                }
            }
            Event::Data { conn, bytes } => self.arrived.push_back(Arrived::Message {
                peer: conn,
                bytes,
                path: None,
                is_proved: true, // by the handshake's cookie, or by the newest record of all
                came: std::mem::replace(&mut self.came, Traffic::NONE),
            }),
            Event::Moved { conn, from, to } => {
                count("moved");
                tracing::debug!(?conn, %from, %to, "moved");
            }
            Event::Closed { conn, reason } => {
                count(word(reason));
                tracing::debug!(?conn, ?reason, "closed");
                self.devices.remove(&conn);
                self.arrived.push_back(Arrived::Gone { peer: conn });
            }
        }
    }
}

impl Link for Secured {
    type Peer = ConnId;

    const DOOR: Door = Door::Coaps;

    // As long as the connection: its end takes them away.
    const WORDS: Keep = Keep {
        peers_max: usize::MAX, // the ceiling on connections is the server's
        idle_max: Duration::MAX,
    };

    fn handle_datagram(&mut self, now: Timestamp, from: SocketAddr, datagram: &[u8]) {
        self.renew();
        self.came = Traffic::datagram(&from, datagram.len());
        self.server.handle_datagram(now, from, datagram);
        self.follow_up();
        let came = std::mem::replace(&mut self.came, Traffic::NONE);
        if came != Traffic::NONE {
            self.shaking.entry(&from, || from, Default::default).0 += came;
        }
    }

    fn send(&mut self, now: Timestamp, peer: &ConnId, message: Bytes, _is_proved: bool) {
        self.take_out(None);
        if let Err(error) = self.server.send(now, *peer, &message) {
            tracing::debug!(?peer, %error, "a message was not sent");
        }
        self.take_out(Some(*peer));
        self.follow_up();
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.server.handle_timeout(now);
        self.follow_up();
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.server.poll_timeout()
    }

    fn poll_transmit(&mut self) -> Option<Outgoing<ConnId>> {
        self.take_out(None);
        self.outbox.pop_front()
    }

    fn poll_arrived(&mut self) -> Option<Arrived<ConnId>> {
        self.arrived.pop_front()
    }

    fn address(&self, peer: &ConnId) -> Option<SocketAddr> {
        self.server.address(*peer)
    }

    fn device(&self, peer: &ConnId) -> Option<Arc<DeviceName>> {
        self.devices.get(peer).cloned()
    }

    fn revoke(&mut self, now: Timestamp, devices: &Which<DeviceName>) {
        let is_revoked = |device: &DeviceName| match devices {
            Which::All => true, // each connects again, if it still may
            Which::These(these) => these.contains(device),
        };
        let revoked: Vec<_> = self
            .devices
            .iter()
            .filter(|(_, device)| is_revoked(device))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in revoked {
            self.server.close(now, conn);
        }
        self.follow_up();
    }

    // spec: msc3079 §Access-Tokens
    fn keeps_words(&self, _: &ConnId) -> bool {
        true
    }

    fn close(&mut self, now: Timestamp) {
        self.server.close_all(now);
        self.follow_up();
    }
}

const fn word(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Peer => "closed_by_peer",
        CloseReason::Local => "closed",
        CloseReason::Replaced => "replaced",
        CloseReason::Idle => "idle",
        CloseReason::Evicted => "evicted",
        CloseReason::Failed => "failed",
    }
}

fn count(event: &'static str) {
    counter!("tramline_dtls_events_total", "event" => event).increment(1);
}
