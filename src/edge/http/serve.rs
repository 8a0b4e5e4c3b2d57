//! The accept loop of the HTTPS door, and one task per connection.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use metrics::{counter, gauge};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{Https, Limits, stall::Stall, tls::HTTP2};

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
    let acceptor = TlsAcceptor::from(tls);
    let graceful = GracefulShutdown::new();
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
            watcher: graceful.watcher(),
            _held: (place, seat),
        };
        connections.spawn(connection.run(stream));
        while connections.try_join_next().is_some() {}
    }
    drop(listener); // from here on connecting fails, which a client understands better than silence
    if tokio::time::timeout(door.limits.drain, graceful.shutdown())
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
    watcher: Watcher,
    _held: (OwnedSemaphorePermit, Seat),
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let peer = self.peer;
        let _ = stream.set_nodelay(true); // only slower without
        let stream = Stall::new(stream, self.door.limits.body);
        let handshake = self.acceptor.accept(stream);
        let stream = match tokio::time::timeout(self.door.limits.handshake, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        let builder = builder(&self.door.limits, http2);
        let door = &self.door;
        let service = service_fn(move |request| {
            let door = Arc::clone(door);
            async move { Ok::<_, Infallible>(door.answer(peer, request).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }
}

/// HTTP of the version that ALPN chose. Guessing it from the first bytes would wait for them
/// without a limit.
fn builder(limits: &Limits, http2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(limits.header)
        .keep_alive_timeout(limits.header);
    if http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    }
}

/// The read buffer of an HTTP/1.1 connection, in bytes. What does not fit hyper refuses by itself,
/// with an empty answer: so it is twice what we allow, and most who send too much learn why.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// The same for HTTP/2, which counts 32 bytes more for each header.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
