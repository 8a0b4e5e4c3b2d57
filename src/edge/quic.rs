//! The QUIC door: linked devices that stay connected, and large bodies.
//!
//! A device is its key (`tls`); each of its requests is a stream of its own (`stream`), carried as
//! [`crate::session::framed`] has it; `connection` minds one connection, this file all of them. What
//! a request means is the business of whoever stands behind [`Answering`].
//!
//! spec: thin-profile §14

mod connection;
mod hello;
mod sessions;
mod socket;
mod stream;
mod tls;
mod unproved;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use metrics::counter;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, Runtime as _, ServerConfig, TokioRuntime,
    TransportConfig, ValidationTokenConfig, VarInt,
};
use quinn_proto::RandomConnectionIdGenerator;
use rustls::server::ResolvesServerCert;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use self::{connection::Connection, sessions::Sessions, socket::Unmarked, unproved::Unproved};
use super::{Front, files::Files, linked::Answering};
use crate::api::Links;

pub use tls::{ALPN_RAW_KEYS, ALPN_X509, HubKey, KeyError};

/// How much and how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections in all. More are refused.
    pub connections_max: usize,
    /// Connections whose handshake is under way. More are refused.
    pub handshakes_max: usize,
    /// The same, from which on a client first shows that it receives at its address: a round trip
    /// more for each, and no memory for those who do not.
    pub handshakes_unproved_max: usize,
    /// Time for a handshake.
    pub handshake: Duration,
    /// A connection on which nothing happens for so long is forgotten, without a word.
    pub idle: Duration,
    /// Time between two pieces of a request's body.
    pub body: Duration,
    /// Time that requests under way get when the hub shuts down.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000, // ~30 kB each; who is idle should use OSCORE
            handshakes_max: 2048,
            handshakes_unproved_max: 256,
            handshake: Duration::from_secs(20), // some round trips on the worst satellite link
            idle: Duration::from_mins(2), // what NATs on mobile networks hold a UDP mapping for
            body: Duration::from_mins(1),
            drain: Duration::from_secs(10),
        }
    }
}

/// What the door needs to be opened.
pub struct Quic {
    /// The hub and what the doors share.
    pub front: Arc<Front>,
    /// The thin profile.
    pub answering: Arc<dyn Answering>,
    /// Whose key is whose.
    pub links: Arc<dyn Links>,
    /// The hub's own key.
    pub key: HubKey,
    /// The certificate for clients that know no raw keys; none: they are not let in.
    pub certificate: Option<Arc<dyn ResolvesServerCert>>,
    /// The ceilings.
    pub limits: Limits,
}

/// A door that is bound and not served yet.
pub struct Bound {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

/// What the connections of a door have in common.
struct Shared {
    answering: Arc<dyn Answering>,
    links: Arc<dyn Links>,
    files: Files,
    limits: Limits,
    sessions: Arc<Sessions>,
    /// A place for each connection, and for each handshake.
    places: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

/// Why the door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The hub's key or certificate.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Opens the door on a socket. Needs a runtime.
pub fn open(socket: std::net::UdpSocket, door: Quic) -> Result<Bound, OpenError> {
    let config = server_config(&door.key, door.certificate, &door.links, &door.limits)?;
    let endpoint = endpoint_config();
    socket.set_nonblocking(true)?;
    let runtime = Arc::new(TokioRuntime);
    let unmarked = Unmarked(runtime.wrap_udp_socket(socket)?);
    let socket = Unproved::over(Arc::new(unmarked));
    let endpoint = Endpoint::new_with_abstract_socket(endpoint, Some(config), socket, runtime)?;
    let sessions = Arc::new(Sessions::default());
    door.links
        .tell(Arc::clone(&sessions) as Arc<dyn crate::api::Deliver>);
    let shared = Shared {
        answering: door.answering,
        links: door.links,
        files: Files { front: door.front },
        places: Arc::new(Semaphore::new(door.limits.connections_max)),
        handshakes: Arc::new(Semaphore::new(door.limits.handshakes_max)),
        sessions,
        limits: door.limits,
    };
    Ok(Bound {
        endpoint,
        shared: Arc::new(shared),
    })
}

/// How the door greets, and what its connections may do.
pub(crate) fn server_config(
    key: &HubKey,
    certificate: Option<Arc<dyn ResolvesServerCert>>,
    links: &Arc<dyn Links>,
    limits: &Limits,
) -> Result<ServerConfig, KeyError> {
    let crypto = tls::server_crypto(key, certificate, links)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport(limits)))
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0); // 60 bytes each, for a round trip that is asked for under attack only
    config.validation_token_config(tokens);
    Ok(config)
}

/// How the door names its connections.
pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(CONNECTION_ID_BYTES)));
    config
}

/// The transport with every byte left out that can be.
fn transport(limits: &Limits) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = u32::try_from(limits.idle.as_millis()).unwrap_or(u32::MAX);
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .keep_alive_interval(None) // 61 bytes each; whoever wants one is the device
        .initial_mtu(1200)
        .mtu_discovery_config(None) // its probes are 5 kB on a connection
        .enable_segmentation_offload(false)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(2 * STREAM_WINDOW_BYTES))
        .send_window(u64::from(2 * STREAM_WINDOW_BYTES))
        .datagram_receive_buffer_size(None);
    config
}

/// Connection ids of the hub, in bytes: each of a device's datagrams has one. 10 000 connections have eight
/// each, one in 200 of what there is, and an id that is taken is not given again.
const CONNECTION_ID_BYTES: usize = 3;

/// Exchanges of one connection at a time: 16 observations, and as many requests. Further streams wait.
const EXCHANGES_MAX: usize = 32;

/// Streams that a device may have open. It is told after each eighth of them that it may open more,
/// which costs 105 bytes with its acknowledgement; and each of them costs the hub 34 bytes of memory from the start.
const STREAMS_MAX: u32 = 128;

/// Bytes of a stream that may be under way, each way: a second at 2 Mbit/s. A connection has twice that.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// First datagrams that wait for this task.
const INCOMING_MAX: usize = 1024;
/// Bytes that may follow each of them meanwhile, and all of them.
const INCOMING_BYTES_MAX: u64 = 16 * 1024;
const INCOMING_BYTES_TOTAL_MAX: u64 = 4 * 1024 * 1024;

impl Bound {
    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }
}

/// Serves until `shutdown` becomes true (or its sender is gone), then drains.
pub async fn serve(door: Bound, mut shutdown: watch::Receiver<bool>) {
    let Bound { endpoint, shared } = door;
    let stopping = shutdown.clone();
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            _ = shutdown.wait_for(|over| *over) => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        if let Some(connection) = admit(&shared, incoming, &stopping) {
            connections.spawn(connection.run());
        }
        while connections.try_join_next().is_some() {}
    }
    endpoint.set_server_config(None); // who comes now is told at once
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(shared.limits.drain, drained)
        .await
        .is_err()
    {
        let seconds = shared.limits.drain.as_secs();
        tracing::warn!(seconds, "QUIC connections cut after the drain");
        connections.shutdown().await;
    }
    endpoint.close(connection::GONE, b"");
    // the last datagrams; what is lost of them is a time-out for the device
    let _ = tokio::time::timeout(LAST_WORDS, endpoint.wait_idle()).await;
}

/// How long the closing of connections may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Decides on a client's first datagram, before anything is spent on it.
fn admit(
    shared: &Arc<Shared>,
    incoming: Incoming,
    stopping: &watch::Receiver<bool>,
) -> Option<Connection> {
    let refused = |incoming: Incoming| {
        counter!("tramline_connections_refused_total", "door" => "quic").increment(1);
        incoming.refuse();
        None
    };
    let under_way = shared.limits.handshakes_max - shared.handshakes.available_permits();
    let unproved = under_way >= shared.limits.handshakes_unproved_max;
    if unproved && !incoming.remote_address_validated() && incoming.may_retry() {
        let _ = incoming.retry(); // an error gives it back, and then it is refused
        return None;
    }
    let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
        return refused(incoming);
    };
    let Ok(handshake) = Arc::clone(&shared.handshakes).try_acquire_owned() else {
        return refused(incoming);
    };
    let peer = incoming.remote_address();
    match incoming.accept() {
        Ok(connecting) => Some(Connection {
            shared: Arc::clone(shared),
            connecting,
            handshake,
            place,
            stopping: stopping.clone(),
        }),
        Err(error) => {
            tracing::debug!(%peer, %error, "no handshake");
            None
        }
    }
}
