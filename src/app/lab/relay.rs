//! The relay's sockets: one that clients send to, and one per NAT mapping towards the hub, so that
//! a rebinding is a new source port, as the hub would see it.
//!
//! Timers of the runtime are good to a millisecond; a delivery may be that late. What comes faster
//! than one core moves it waits in the kernel's buffers, where it may be dropped uncounted.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::AbortHandle,
    time::{Interval, MissedTickBehavior, interval, sleep},
};

use super::display::{Display, Mapping};
use crate::{
    app::{
        clock::Stopwatch,
        failure::Failure,
        output,
        signals::{Signal, Signals},
    },
    session::lab::{Delivery, Direction, Link, Micros, Origin, Port},
};

/// A link with sockets at its ends.
pub(super) struct Relay {
    link: Link<SocketAddr>,
    clock: Stopwatch,
    clients: UdpSocket,
    hub: SocketAddr,
    upstreams: BTreeMap<Port, Upstream>,
    from_hub: mpsc::Receiver<(Port, Bytes)>,
    to_us: mpsc::Sender<(Port, Bytes)>,
    has_complained: bool,
}

/// The socket of one NAT mapping; dropping it closes the port.
struct Upstream {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Datagrams from the hub that wait for the relay; beyond it they wait in their sockets.
const FROM_HUB_MAX: usize = 1024;

/// The largest UDP payload, in bytes, rounded up.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// What woke the relay.
enum Wake {
    Client(io::Result<(SocketAddr, Bytes)>),
    Hub(Port, Bytes),
    Due,
    Tick,
    Stop,
}

impl Relay {
    pub(super) fn new(
        clients: UdpSocket,
        hub: SocketAddr,
        link: Link<SocketAddr>,
        clock: Stopwatch,
    ) -> Self {
        let (to_us, from_hub) = mpsc::channel(FROM_HUB_MAX);
        Self {
            link,
            clock,
            clients,
            hub,
            upstreams: BTreeMap::new(),
            from_hub,
            to_us,
            has_complained: false,
        }
    }

    /// Relays until a signal, the end of `duration`, or a broken socket.
    pub(super) async fn run(
        &mut self,
        signals: &mut Signals,
        duration: Option<Duration>,
        mut display: Display,
    ) -> Result<(), Failure> {
        let mut ticks = interval(display.every());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await; // the first one is at once
        let end = async {
            match duration {
                Some(duration) => sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            let wake = tokio::select! {
                () = &mut end => Wake::Stop,
                signal = signals.next() => match signal {
                    Signal::Drain => Wake::Stop,
                    Signal::Reload => continue,
                },
                wake = self.wake(&mut ticks) => wake,
            };
            match wake {
                Wake::Stop => return Ok(()),
                Wake::Tick => {
                    let newest = self.newest();
                    display.show(&mut self.link, self.clock.elapsed(), newest);
                }
                Wake::Client(Ok((client, datagram))) => {
                    self.link
                        .offer(self.now(), Origin::Client(client), datagram);
                }
                Wake::Client(Err(error)) if is_passing(&error) => {}
                Wake::Client(Err(error)) => return Err(Failure::failed("LISTEN", error)),
                Wake::Hub(port, datagram) => {
                    self.link.offer(self.now(), Origin::Hub(port), datagram);
                }
                Wake::Due => {}
            }
            self.deliver().await;
        }
    }

    /// The link, for its figures; what is still on its way is lost to everyone.
    pub(super) fn into_link(self) -> Link<SocketAddr> {
        self.link
    }

    fn now(&self) -> Micros {
        Micros::ZERO + self.clock.elapsed()
    }

    fn newest(&self) -> Option<Mapping> {
        let (port, upstream) = self.upstreams.last_key_value()?;
        let outside = upstream.socket.local_addr().ok()?.port();
        let mut clients = self.link.clients();
        let (client, _) = clients.find(|(_, stats)| stats.port == Some(*port))?;
        Some((*client, outside))
    }

    async fn wake(&mut self, ticks: &mut Interval) -> Wake {
        let due = self.link.poll_timeout().map(|at| at.since(self.now()));
        let arrival = async {
            match due {
                Some(due) => sleep(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = receive(&self.clients) => Wake::Client(received),
            Some((port, datagram)) = self.from_hub.recv() => Wake::Hub(port, datagram),
            () = arrival => Wake::Due,
            _ = ticks.tick() => Wake::Tick,
        }
    }

    async fn deliver(&mut self) {
        let now = self.now();
        while let Some(delivery) = self.link.poll(now) {
            if let Err(error) = self.send(&delivery).await
                && !is_passing(&error)
                && !self.has_complained
            {
                self.has_complained = true; // the second would say the same, perhaps for hours
                let way = delivery.direction;
                output::note(&format!(
                    "lab: cannot pass on a datagram ({way:?}): {error}"
                ));
            }
            while let Some(port) = self.link.poll_closed() {
                self.upstreams.remove(&port);
            }
        }
    }

    async fn send(&mut self, delivery: &Delivery<SocketAddr>) -> io::Result<()> {
        match delivery.direction {
            Direction::Down => {
                let to = delivery.client;
                self.clients.send_to(&delivery.datagram, to).await?;
            }
            Direction::Up => {
                if !self.upstreams.contains_key(&delivery.via) {
                    let upstream = self.open(delivery.via).await?;
                    self.upstreams.insert(delivery.via, upstream);
                }
                if let Some(upstream) = self.upstreams.get(&delivery.via) {
                    upstream.socket.send(&delivery.datagram).await?;
                }
            }
        }
        Ok(())
    }

    async fn open(&self, port: Port) -> io::Result<Upstream> {
        let any = if self.hub.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(self.hub).await?;
        let socket = Arc::new(socket);
        let (from, to) = (Arc::clone(&socket), self.to_us.clone());
        let reader = tokio::spawn(async move { read(port, &from, &to).await });
        Ok(Upstream {
            socket,
            reader: reader.abort_handle(),
        })
    }
}

/// Reads what the hub sends to one port until the port is closed.
async fn read(port: Port, socket: &UdpSocket, to: &mpsc::Sender<(Port, Bytes)>) {
    loop {
        match receive(socket).await {
            Ok((_, datagram)) => {
                if to.send((port, datagram)).await.is_err() {
                    return;
                }
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                output::note(&format!("lab: a port towards the hub broke: {error}"));
                return;
            }
        }
    }
}

/// The next datagram. The buffer is there only while one is read: there may be hundreds of ports.
async fn receive(socket: &UdpSocket) -> io::Result<(SocketAddr, Bytes)> {
    loop {
        socket.readable().await?;
        let mut buffer = BytesMut::with_capacity(DATAGRAM_BYTES_MAX);
        match socket.try_recv_buf_from(&mut buffer) {
            Ok((_, from)) => return Ok((from, Bytes::copy_from_slice(&buffer))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the next datagram may fare better: nobody listens there (yet), the network is down, or
/// it was too large for the real link.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::Interrupted
    )
}
