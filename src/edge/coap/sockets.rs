//! The sockets of a door as one: what comes from any of them, and out of which one an answer goes.
//!
//! A security context has one life and one row of numbers, wherever its device speaks to the hub;
//! so all addresses of a door are served by one task.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use tokio::{io::ReadBuf, net::UdpSocket};

use crate::base::Recent;

/// One socket, or several.
pub struct Sockets {
    /// Each with whether it is of IPv6.
    all: Vec<(UdpSocket, bool)>,
    /// By which peers are answered, where there is a choice: a NAT lets nothing else through.
    ways: Recent<SocketAddr, Way>,
    /// Which is asked first: each in turn, or a busy one would keep the others silent.
    first: usize,
}

/// The sockets that have heard of a peer.
#[derive(Clone, Copy)]
struct Way {
    /// The last one; who wrote the address on that datagram is anyone's guess.
    heard: usize,
    /// The last one that the peer has spoken to for sure.
    sure: Option<usize>,
}

/// Peers whose way is known, some 200 bytes each: as many as there are contexts at hand. One that
/// was forgotten is answered by the first socket of its family until it is heard of again.
const WAYS_MAX: usize = 131_072;

impl Sockets {
    /// Takes bound sockets. Of none nothing will come.
    pub fn new(sockets: Vec<UdpSocket>) -> io::Result<Self> {
        let with_family = |socket: UdpSocket| {
            let is_v6 = socket.local_addr()?.is_ipv6();
            Ok((socket, is_v6))
        };
        Ok(Self {
            all: sockets
                .into_iter()
                .map(with_family)
                .collect::<io::Result<_>>()?,
            ways: Recent::new(WAYS_MAX),
            first: 0,
        })
    }

    /// The next datagram that comes to any of them. May be given up and called again.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (nth, size, from) = poll_fn(|context| self.poll(context, buffer)).await?;
        self.first = nth + 1;
        if self.all.len() > 1 {
            let new = || Way {
                heard: nth,
                sure: None,
            };
            self.ways.entry(&from, || from, new).heard = nth;
        }
        Ok((size, from))
    }

    /// What came last from an address was the peer's own.
    pub(super) fn is_sure(&mut self, from: &SocketAddr) {
        if let Some(way) = self.ways.get_mut(from) {
            way.sure = Some(way.heard);
        }
    }

    fn poll(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, usize, SocketAddr)>> {
        let count = self.all.len();
        for turn in 0..count {
            let nth = (self.first + turn) % count;
            let Some((socket, _)) = self.all.get(nth) else {
                continue;
            };
            let mut read = ReadBuf::new(buffer);
            if let Poll::Ready(received) = socket.poll_recv_from(context, &mut read) {
                let size = read.filled().len();
                return Poll::Ready(received.map(|from| (nth, size, from)));
            }
        }
        Poll::Pending
    }

    /// Sends by the socket that the other end has spoken to last.
    pub(super) async fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let way = self.ways.get(&to);
        let known = way.map(|way| way.sure.unwrap_or(way.heard));
        let nth = known.or_else(|| self.of_family(&to)).unwrap_or_default();
        match self.all.get(nth) {
            Some((socket, _)) => socket.send_to(datagram, to).await.map(drop),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The first that can reach an address.
    fn of_family(&self, to: &SocketAddr) -> Option<usize> {
        self.all
            .iter()
            .position(|(_, is_v6)| *is_v6 == to.is_ipv6())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bound() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.unwrap()
    }

    #[tokio::test]
    async fn an_answer_leaves_by_the_socket_that_was_spoken_to() {
        let (one, two) = (bound().await, bound().await);
        let [first, second] = [&one, &two].map(|socket| socket.local_addr().unwrap());
        let mut sockets = Sockets::new(vec![one, two]).unwrap();
        let (mut read, mut heard) = ([0; 16], [0; 16]);
        for (device, hubs) in [
            (bound().await, [second, second]),
            (bound().await, [first, second]),
            (bound().await, [second, first]),
        ] {
            for hub in hubs {
                device.send_to(b"here", hub).await.unwrap();
                let (size, from) = sockets.receive(&mut read).await.unwrap();
                assert_eq!(
                    (&read[..size], from),
                    (&b"here"[..], device.local_addr().unwrap())
                );
                sockets.send(b"there", from).await.unwrap();
                let (_, by) = device.recv_from(&mut heard).await.unwrap();
                assert_eq!(by, hub);
            }
        }
        let stranger = bound().await;
        let to = stranger.local_addr().unwrap();
        sockets.send(b"there", to).await.unwrap();
        assert_eq!(stranger.recv_from(&mut heard).await.unwrap().1, first);
    }

    #[tokio::test]
    async fn a_datagram_that_anyone_may_have_sent_diverts_nobody_who_is_known() {
        let (one, two) = (bound().await, bound().await);
        let [first, second] = [&one, &two].map(|socket| socket.local_addr().unwrap());
        let mut sockets = Sockets::new(vec![one, two]).unwrap();
        let device = bound().await;
        let (mut read, mut heard) = ([0; 16], [0; 16]);
        for (hub, is_sure, answered_by) in [
            (second, true, second),
            (first, false, second),
            (first, true, first),
        ] {
            device.send_to(b"here", hub).await.unwrap();
            let (_, from) = sockets.receive(&mut read).await.unwrap();
            if is_sure {
                sockets.is_sure(&from);
            }
            sockets.send(b"there", from).await.unwrap();
            assert_eq!(device.recv_from(&mut heard).await.unwrap().1, answered_by);
        }
    }

    #[tokio::test]
    async fn a_busy_socket_does_not_keep_another_silent() {
        let (one, two) = (bound().await, bound().await);
        let [first, second] = [&one, &two].map(|socket| socket.local_addr().unwrap());
        let mut sockets = Sockets::new(vec![one, two]).unwrap();
        let device = bound().await;
        for _ in 0..3 {
            device.send_to(b"busy", first).await.unwrap();
        }
        device.send_to(b"quiet", second).await.unwrap();
        let mut read = [0; 16];
        let mut order = Vec::new();
        for _ in 0..4 {
            let (size, _) = sockets.receive(&mut read).await.unwrap();
            order.push(size);
        }
        assert!(
            order.iter().position(|size| *size == 5).unwrap() <= 1,
            "{order:?}"
        );
    }
}
