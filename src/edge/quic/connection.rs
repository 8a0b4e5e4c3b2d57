//! One connection: from the handshake to whose it is, then a task for each of its streams.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use metrics::counter;
use quinn::{
    Connecting, RecvStream, UdpStats, VarInt, ZeroRttAccepted, crypto::rustls::HandshakeData,
};
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::JoinSet,
};

use super::{EXCHANGES_MAX, Shared, sessions::Session, stream::Exchange, tls};
use crate::{
    api::{DeviceName, Door},
    edge::linked::Who,
    session::{
        framed::{Decoder, Settings, Signal},
        ledger::Traffic,
    },
};

/// The hub goes; the device may come back.
pub(super) const GONE: VarInt = VarInt::from_u32(0);
/// The device is not linked, or no more.
pub(super) const REVOKED: VarInt = VarInt::from_u32(1);
/// The device has opened too many connections after this one.
pub(super) const REPLACED: VarInt = VarInt::from_u32(2);
/// What came is none of our messages.
pub(super) const MALFORMED: VarInt = VarInt::from_u32(3);

/// A connection whose first datagram was let in.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) connecting: Connecting,
    pub(super) handshake: OwnedSemaphorePermit,
    pub(super) place: OwnedSemaphorePermit,
    pub(super) stopping: watch::Receiver<bool>,
}

/// What the exchanges of a connection share.
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: quinn::Connection,
    pub(super) device: Arc<DeviceName>,
    /// The largest message the device takes, in bytes; 0: it has not said.
    pub(super) message_bytes_max: AtomicU32,
    pub(super) stopping: watch::Receiver<bool>,
    /// What was counted already: from the device, and to it.
    counted: Mutex<(UdpStats, UdpStats)>,
    _session: Session,
}

impl Connection {
    pub(super) async fn run(self) {
        let Self {
            shared,
            connecting,
            handshake,
            place: _place,
            stopping,
        } = self;
        let peer = connecting.remote_address();
        let Ok((connection, confirmed)) = connecting.into_0rtt() else {
            return tracing::debug!(%peer, "no handshake"); // servers can always send
        };
        let limit = shared.limits.handshake;
        let greet = tokio::time::timeout(limit, greeted(&shared, &connection, confirmed));
        let device = match greet.await {
            Ok(Some(device)) => device,
            Ok(None) => {
                connection.close(REVOKED, b"");
                return tracing::debug!(%peer, "handshake failed, or of no device");
            }
            Err(_) => {
                connection.close(GONE, b"");
                return tracing::debug!(%peer, "handshake took too long");
            }
        };
        let session = shared.sessions.enter(&device, &connection);
        if !is_linked(&shared, &connection, &device) {
            return connection.close(REVOKED, b""); // between the handshake and the entry
        }
        drop(handshake);
        let link = Arc::new(Link {
            shared,
            connection,
            device: device.into(),
            message_bytes_max: AtomicU32::new(0),
            stopping,
            counted: Mutex::default(),
            _session: session,
        });
        link.count(CONNECTION);
        link.serve().await;
    }
}

/// Waits until it is known who this is. A resumed session says so with its first message, and its early
/// data is served before the handshake is over.
async fn greeted(
    shared: &Shared,
    connection: &quinn::Connection,
    confirmed: ZeroRttAccepted,
) -> Option<DeviceName> {
    if let Some(device) = device(shared, connection) {
        return Some(device);
    }
    confirmed.await;
    device(shared, connection)
}

fn device(shared: &Shared, connection: &quinn::Connection) -> Option<DeviceName> {
    let shown = connection.peer_identity()?;
    let shown = shown.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let agreed = connection.handshake_data()?;
    let agreed = agreed.downcast::<HandshakeData>().ok()?;
    tls::device_of(shared.links.as_ref(), &shown, agreed.protocol.as_deref()?)
}

fn is_linked(shared: &Shared, connection: &quinn::Connection, whose: &DeviceName) -> bool {
    device(shared, connection).as_ref() == Some(whose)
}

impl Link {
    /// Takes streams until the device or the hub goes.
    async fn serve(self: Arc<Self>) {
        let mut exchanges = JoinSet::new();
        let mut stopping = self.stopping.clone();
        let mut settings = true;
        let reason = loop {
            tokio::select! {
                _ = stopping.wait_for(|over| *over) => break None,
                stream = self.connection.accept_bi(), if exchanges.len() < EXCHANGES_MAX => match stream {
                    Ok((send, receive)) => {
                        let exchange = Exchange::new(Arc::clone(&self), send, receive);
                        exchanges.spawn(exchange.run());
                    }
                    Err(error) => break Some(error),
                },
                stream = self.connection.accept_uni(), if settings => match stream {
                    Ok(receive) => {
                        settings = false; // one stream, for the settings
                        exchanges.spawn(Arc::clone(&self).read_settings(receive));
                    }
                    Err(error) => break Some(error),
                },
                Some(_) = exchanges.join_next() => {}
            }
        };
        if let Some(error) = reason {
            tracing::debug!(peer = %self.peer(), %error, "connection ended");
        }
        // observers are told, requests are answered; the door cuts what takes too long
        while exchanges.join_next().await.is_some() {}
        self.connection.close(GONE, b"");
        self.count(CONNECTION);
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    pub(super) fn who(&self) -> Who {
        Who {
            device: Arc::clone(&self.device),
            door: Door::Quic,
            address: Some(self.peer()),
        }
    }

    /// The device's settings: signals one after the other on its one stream without a way back.
    async fn read_settings(self: Arc<Self>, mut stream: RecvStream) {
        let mut decoder = Decoder::new(SIGNAL_BYTES_MAX);
        while let Ok(Some(piece)) = stream.read_chunk(SIGNAL_BYTES_MAX, true).await {
            decoder.push(&piece.bytes);
            loop {
                let signal = match decoder.message() {
                    Ok(None) => break,
                    Ok(Some(message)) => Signal::read(&message).map_err(|e| e.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                match signal {
                    Ok(Signal::Settings(Settings {
                        message_bytes_max: Some(bytes),
                        ..
                    })) => self.message_bytes_max.store(bytes, Ordering::Relaxed),
                    Ok(Signal::Release { .. } | Signal::Abort { .. }) => {
                        return self.connection.close(GONE, b"");
                    }
                    // QUIC has pings of its own
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(peer = %self.peer(), %error, "settings that are none");
                        return self.connection.close(MALFORMED, b"");
                    }
                }
            }
        }
    }

    /// Counts what the connection has carried since the last time, for the operation that was done
    /// now. With several at a time bytes may be another's; the sum is right.
    pub(super) fn count(&self, operation: &'static str) {
        let stats = self.connection.stats();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *counted, (stats.udp_rx, stats.udp_tx));
        drop(counted);
        let since = |direction, now: UdpStats, before: UdpStats| {
            let datagrams = now.datagrams - before.datagrams;
            let bytes = now.bytes - before.bytes;
            counter!("tramline_datagrams_total", "door" => "quic", "direction" => direction)
                .increment(datagrams);
            counter!("tramline_datagram_bytes_total", "door" => "quic", "direction" => direction)
                .increment(bytes);
            Traffic::datagrams(&self.peer(), datagrams, bytes)
        };
        let up = since("up", stats.udp_rx, before.0);
        let down = since("down", stats.udp_tx, before.1);
        let answering = &self.shared.answering;
        answering.count(&self.device, operation, up, down);
    }
}

/// What handshakes, acknowledgements and goodbyes are counted as.
const CONNECTION: &str = "Connection";

/// The largest signal, in bytes: a CSM has a dozen, an abort a sentence.
const SIGNAL_BYTES_MAX: usize = 1152;
