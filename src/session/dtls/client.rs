//! One connection outward. Whose certificate to trust is the caller's word; without a proof that
//! the server is the right one nothing is sent but the handshake.

use std::{collections::VecDeque, fmt, sync::Arc, time::Instant};

use bytes::Bytes;
use dimpl::Dtls;

use super::{
    channel::{Channel, Said, Step},
    credentials::{Certificate, Identity, LeafCheck, PskSource, Resolver, Secret},
    half_open::HANDSHAKE_MAX,
    times::Times,
    types::{ConfigError, DATAGRAM_BYTES_MAX, PAYLOAD_BYTES_MAX, SendError},
};
use crate::base::Timestamp;

/// How client and server know each other.
pub enum Proof {
    /// By a key that both have.
    Psk {
        /// Whose key it is.
        identity: Identity,
        /// The key.
        key: Secret,
    },
    /// The server by its certificate, the client not at all.
    Certificate {
        /// Whether to trust it.
        check: Box<dyn LeafCheck>,
        /// Any pair of the client's own: the library wants one, the server is never shown it.
        own: Certificate,
    },
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Psk { identity, .. } => write!(f, "Psk({identity:?})"),
            Self::Certificate { .. } => f.write_str("Certificate"),
        }
    }
}

/// What happened at a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The handshake is done and the server is the right one.
    Connected,
    /// Authenticated bytes, as the server sent them in one record.
    Data(Bytes),
    /// It is over; begin anew.
    Closed(ClientCloseReason),
}

/// Why a client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCloseReason {
    /// The server closed it.
    Peer,
    /// We were asked to close it.
    Local,
    /// The server's certificate is not trusted.
    Untrusted,
    /// No server, another key than ours, or a broken protocol: from outside they look the same.
    Failed,
}

/// One end of one connection.
pub struct Client {
    channel: Option<Channel>,
    times: Times,
    check: Option<Box<dyn LeafCheck>>,
    is_trusted: bool,
    is_connected: bool,
    due: Option<Timestamp>,
    outbox: VecDeque<Bytes>,
    events: VecDeque<ClientEvent>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client(connected: {})", self.is_connected)
    }
}

/// The one key of a client.
struct OneKey(Secret);

impl PskSource for OneKey {
    fn key(&self, _: &[u8]) -> Option<Secret> {
        Some(self.0.clone())
    }
}

impl Client {
    /// Begins a handshake. `base` is the library's name for the moment `now`.
    pub fn new(proof: Proof, base: Instant, now: Timestamp) -> Result<Self, ConfigError> {
        let library = dimpl::Config::builder()
            .mtu(DATAGRAM_BYTES_MAX)
            .handshake_timeout(HANDSHAKE_MAX * 4);
        let (mut dtls, check) = match proof {
            Proof::Psk { identity, key } => {
                let keys = Arc::new(Resolver::new(Arc::new(OneKey(key))));
                let library = library
                    .with_psk_client(identity.0, keys)
                    .build()
                    .map_err(ConfigError::Library)?;
                (Dtls::new_12_psk(Arc::new(library), base), None)
            }
            Proof::Certificate { check, own } => {
                let library = library.build().map_err(ConfigError::Library)?;
                own.check(&library)?;
                let dtls = Dtls::new_12(Arc::new(library), own.0, base);
                (dtls, Some(check))
            }
        };
        dtls.set_active(true);
        let mut client = Self {
            channel: Some(Channel::new(dtls)),
            times: Times::new(base, now),
            is_trusted: check.is_none(),
            check,
            is_connected: false,
            due: None,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        };
        client.step(now, |_| Ok(()));
        Ok(client)
    }

    /// Whether `send` reaches the server.
    pub const fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Takes in a datagram of the server's.
    pub fn handle_datagram(&mut self, now: Timestamp, bytes: &[u8]) {
        self.step(now, |dtls| dtls.handle_packet(bytes));
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.due.is_some_and(|due| due <= now) {
            self.step(now, |_| Ok(()));
        }
    }

    /// When to call `handle_timeout`.
    pub const fn poll_timeout(&self) -> Option<Timestamp> {
        self.due
    }

    /// A datagram to send to the server.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.outbox.pop_front()
    }

    /// Something that happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Sends bytes in one record.
    pub fn send(&mut self, now: Timestamp, bytes: &[u8]) -> Result<(), SendError> {
        let count = bytes.len();
        if count > PAYLOAD_BYTES_MAX {
            return Err(SendError::TooLarge { bytes: count });
        }
        if !self.is_connected {
            return Err(SendError::Unknown);
        }
        self.step(now, |dtls| dtls.send_application_data(bytes).map(drop));
        Ok(())
    }

    /// Closes the connection and tells the server.
    pub fn close(&mut self, now: Timestamp) {
        self.step(now, Dtls::close);
        self.end(ClientCloseReason::Local);
    }

    fn step(&mut self, now: Timestamp, act: impl FnOnce(&mut Dtls) -> Result<(), dimpl::Error>) {
        let instant = self.times.instant(now);
        let Some(channel) = &mut self.channel else {
            return;
        };
        match channel.step(instant, act) {
            Ok(step) => self.said(now, step),
            Err(_) => self.end(ClientCloseReason::Failed),
        }
    }

    fn said(&mut self, now: Timestamp, step: Step) {
        self.due = self.times.timestamp(step.due);
        for said in step.said {
            match said {
                Said::Packet(packet) => self.outbox.push_back(packet),
                Said::PeerCert(leaf) => {
                    let check = self.check.as_ref();
                    self.is_trusted = check.is_some_and(|check| check.is_trusted(now, &leaf));
                    if !self.is_trusted {
                        return self.end(ClientCloseReason::Untrusted);
                    }
                }
                // no certificate at all is no reason to trust
                Said::Connected if !self.is_trusted => {
                    return self.end(ClientCloseReason::Untrusted);
                }
                Said::Connected => {
                    self.is_connected = true;
                    self.events.push_back(ClientEvent::Connected);
                }
                Said::Data(bytes) => {
                    if self.is_connected && !bytes.is_empty() {
                        self.events.push_back(ClientEvent::Data(bytes));
                    }
                }
                Said::Closed => return self.end(ClientCloseReason::Peer),
            }
        }
    }

    fn end(&mut self, reason: ClientCloseReason) {
        self.is_connected = false;
        self.due = None;
        if self.channel.take().is_some() {
            self.events.push_back(ClientEvent::Closed(reason));
        }
    }
}
