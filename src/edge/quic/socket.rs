//! The door's socket, which knows nothing of congestion marks (ECN).
//!
//! QUIC reports the marks it received in each acknowledgement, three to six bytes that it cannot be told to
//! leave out, and reports none where it has seen none. So neither end is shown any: not the hub on what it
//! receives, nor the device, for the hub's datagrams carry none. What a mark would say, a loss says.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// A socket without the marks of another.
#[derive(Debug)]
pub(super) struct Unmarked(pub(super) Arc<dyn AsyncUdpSocket>);

impl AsyncUdpSocket for Unmarked {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut unmarked = transmit.clone();
        unmarked.ecn = None;
        self.0.try_send(&unmarked)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.0.poll_recv(cx, bufs, meta));
        for datagram in meta {
            datagram.ecn = None;
        }
        Poll::Ready(received)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}
