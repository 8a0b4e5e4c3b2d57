//! The accept loop of the HTTPS door, and one task per connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{
    Request,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use metrics::{counter, gauge};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Https, Limits,
    handshakes::{Failed, Handshakes},
    stall::Stall,
    tls::HTTP2,
    traffic::{Counted, Traffic},
    upgrade::Upgraded,
};
use crate::edge::front::stopwatch;

/// Serves until `shutdown` becomes true (or its sender is gone), then drains.
///
/// `tls` asks its resolver for the certificate of each connection, so that a renewed one needs no
/// restart; see [`super::tls::server_config`].
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    door: Https,
    mut shutdown: watch::Receiver<bool>,
) {
    let door = Arc::new(door);
    let places = Arc::new(Semaphore::new(door.limits.connections_max));
    let crowd = Arc::new(Crowd::default());
    let handshakes = Arc::new(Handshakes::default());
    let acceptor = TlsAcceptor::from(tls);
    let stopping = shutdown.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = shutdown.wait_for(|over| *over) => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else {
            continue;
        };
        let Some(seat) = crowd.enter(peer.ip(), door.limits.connections_per_address_max) else {
            counter!("tramline_connections_refused_total", "door" => "https").increment(1);
            continue;
        };
        let connection = Connection {
            acceptor: acceptor.clone(),
            door: Arc::clone(&door),
            peer,
            stopping: stopping.clone(),
            handshakes: Arc::clone(&handshakes),
            _held: (place, seat),
        };
        connections.spawn(connection.run(stream));
        while connections.try_join_next().is_some() {}
    }
    drop(listener); // from here on connecting fails, which a client understands better than silence
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(door.limits.drain, drained)
        .await
        .is_err()
    {
        tracing::warn!(
            seconds = door.limits.drain.as_secs(),
            "connections cut after the drain"
        );
        connections.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            tracing::warn!(%error, "accept failed");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// How long to wait after accept failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many connections each address has. Bounded by the connections there are.
#[derive(Default)]
struct Crowd(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place among those of its address.
struct Seat {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    fn enter(self: &Arc<Self>, address: IpAddr, max: usize) -> Option<Seat> {
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = seats.entry(address).or_default();
        if *taken >= max {
            return None;
        }
        *taken += 1;
        gauge!("tramline_connections", "door" => "https").increment(1);
        Some(Seat {
            crowd: Arc::clone(self),
            address,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = seats.get_mut(&self.address) {
            *taken -= 1;
            if *taken == 0 {
                seats.remove(&self.address);
            }
        }
        gauge!("tramline_connections", "door" => "https").decrement(1);
    }
}

struct Connection {
    acceptor: TlsAcceptor,
    door: Arc<Https>,
    peer: SocketAddr,
    stopping: watch::Receiver<bool>,
    handshakes: Arc<Handshakes>,
    _held: (OwnedSemaphorePermit, Seat),
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let peer = self.peer;
        let _ = stream.set_nodelay(true); // only slower without
        let traffic = Arc::new(Traffic::default());
        let stream = Counted::new(stream, Arc::clone(&traffic));
        let stream = Stall::new(stream, self.door.limits.body);
        let handshake = self.acceptor.accept(stream);
        let made = tokio::time::timeout(self.door.limits.handshake, handshake).await;
        let (failed, detail) = match made {
            Ok(Ok(stream)) => return self.serve(stream, traffic).await,
            Ok(Err(error)) => (Failed::of(&error, &traffic), error.to_string()),
            Err(_) if traffic.first().is_empty() => (Failed::Silent, String::new()),
            Err(_) => (Failed::Late, String::new()),
        };
        let now = stopwatch();
        self.handshakes.failed(peer, failed, &detail, now);
    }

    /// The handshake is done.
    async fn serve(self, stream: TlsStream<Stall<Counted<TcpStream>>>, traffic: Arc<Traffic>) {
        let peer = self.peer;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        let (upgrades, mut taken_over) = mpsc::channel(1);
        let door = Arc::clone(&self.door);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&traffic));
            let (door, upgrades) = (Arc::clone(&door), upgrades.clone());
            async move { Ok::<_, Infallible>(door.answer(peer, request, upgrades).await) }
        });
        let (limits, stopping) = (&self.door.limits, self.stopping.clone());
        let stream = TokioIo::new(stream);
        let ended = if is_http2 {
            let connection = http2_builder(limits).serve_connection(stream, service);
            gracefully(connection, stopping, http2::Connection::graceful_shutdown).await
        } else {
            let connection = http1_builder(limits).serve_connection(stream, service);
            let connection = connection.with_upgrades();
            gracefully(
                connection,
                stopping,
                http1::UpgradeableConnection::graceful_shutdown,
            )
            .await
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended");
        }
        // the service is gone, and with it all who could upgrade, unless one has
        if let (Some(Upgraded { socket, who }), Some(websockets)) =
            (taken_over.recv().await, &self.door.websockets)
        {
            websockets.serve(socket, who, self.stopping.clone()).await;
        }
    }
}

/// Runs a connection to its end, which comes after the request under way when the hub goes.
async fn gracefully<C: Future>(
    connection: C,
    mut stopping: watch::Receiver<bool>,
    shut_down: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = stopping.wait_for(|over| *over) => {}
    }
    shut_down(connection.as_mut());
    connection.await
}

// The version is the one that ALPN chose. Guessing it from the first bytes would wait for them without
// a limit.

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(limits.header)
        .keep_alive_timeout(limits.header);
    builder
}

/// The read buffer of an HTTP/1.1 connection, in bytes. What does not fit hyper refuses by itself,
/// with an empty answer: so it is twice what we allow, and most who send too much learn why.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// The same for HTTP/2, which counts 32 bytes more for each header.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
