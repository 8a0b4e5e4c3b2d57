//! A socket that gives an address nobody has shown to be in at most three times the bytes that came from there.
//!
//! quinn keeps to this by itself, except that it lets the datagram that crosses the limit go: with its repetitions, a
//! first flight of 1401 bytes becomes 3801 for 1200. RFC 9000 §8.1 wants a strict limit. What is held back here is as if
//! it were lost on the way; a first flight of more than 7 kB would come slowly.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use crate::base::Recent;

/// The limit, as a factor.
const AMPLIFICATION_MAX: u64 = 3;

/// Addresses that are counted for. One more, and for another quinn's own count must do.
const ADDRESSES_MAX: usize = 4096;

/// The socket, with what it counts.
pub(super) struct Unproved {
    inner: Arc<dyn AsyncUdpSocket>,
    shares: Mutex<Shares>,
}

struct Shares(Recent<SocketAddr, Share>);

/// What an address has sent and got since its first Initial.
#[derive(Default)]
struct Share {
    received: u64,
    sent: u64,
    /// More than Initials and early data has come from there.
    goes_on: bool,
}

impl Unproved {
    pub(super) fn over(inner: Arc<dyn AsyncUdpSocket>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            shares: Mutex::new(Shares(Recent::new(ADDRESSES_MAX))),
        })
    }

    fn with<R>(&self, work: impl FnOnce(&mut Shares) -> R) -> R {
        work(&mut self.shares.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shares {
    fn came(&mut self, from: &SocketAddr, datagram: &[u8]) {
        let begins = begins(datagram);
        if !begins && self.0.get(from).is_none() {
            return; // a connection, or nobody
        }
        let share = self.0.entry(from, || *from, Share::default);
        share.received = share.received.saturating_add(length(datagram));
        share.goes_on |= !begins;
    }

    /// Whether this datagram may go. The handshake's are held back strictly. Others belong to a connection as soon as its
    /// device goes on: whoever sends an Initial in its name must not take them away.
    fn may_go(&mut self, to: &SocketAddr, datagram: &[u8]) -> bool {
        let Some(share) = self.0.get_mut(to) else {
            return true;
        };
        let sent = share.sent.saturating_add(length(datagram));
        let is_allowed = sent <= share.received.saturating_mul(AMPLIFICATION_MAX);
        let may_go = is_allowed || (share.goes_on && !is_long(datagram));
        if may_go {
            share.sent = sent;
        }
        may_go
    }
}

fn length(datagram: &[u8]) -> u64 {
    u64::try_from(datagram.len()).unwrap_or(u64::MAX)
}

/// RFC 9000 §17.2.
fn is_long(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
}

/// Whether a datagram starts with an Initial or with early data.
fn begins(datagram: &[u8]) -> bool {
    is_long(datagram) && datagram.first().is_some_and(|first| first & 0x20 == 0)
}

impl AsyncUdpSocket for Unproved {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let may_go = self.with(|shares| shares.may_go(&transmit.destination, transmit.contents));
        if !may_go {
            tracing::debug!(to = %transmit.destination, bytes = transmit.contents.len(), "held back");
            return Ok(());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        about: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(context, buffers, about);
        if let Poll::Ready(Ok(count)) = &polled {
            self.with(|shares| {
                for (about, buffer) in about.iter().zip(buffers.iter()).take(*count) {
                    let bytes = buffer.get(..about.len).unwrap_or_default();
                    for datagram in bytes.chunks(about.stride.max(1)) {
                        shares.came(&about.addr, datagram);
                    }
                }
            });
        }
        polled
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// One: each datagram is looked at.
    fn max_transmit_segments(&self) -> usize {
        1
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl fmt::Debug for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unproved").field(&self.inner).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: u8 = 0xc0;
    const HANDSHAKE: u8 = 0xe0;
    const SHORT: u8 = 0x40;

    fn shares() -> Shares {
        Shares(Recent::new(4))
    }

    fn there() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 4433))
    }

    fn datagram(first: u8, bytes: usize) -> Vec<u8> {
        let mut datagram = vec![0; bytes];
        datagram[0] = first;
        datagram
    }

    #[test]
    fn an_initial_is_answered_with_three_times_its_bytes_and_not_one_more() {
        let mut shares = shares();
        shares.came(&there(), &datagram(INITIAL, 1200));

        let mut goes = |first, bytes| shares.may_go(&there(), &datagram(first, bytes));
        assert!(goes(INITIAL, 1200));
        assert!(goes(SHORT, 201)); // connection ids, as soon as there are keys
        assert!(goes(HANDSHAKE, 1200));
        assert!(!goes(HANDSHAKE, 1200));
        assert!(goes(HANDSHAKE, 999));
        assert!(!goes(HANDSHAKE, 1));
        assert!(!goes(SHORT, 1)); // what early data is answered with counts, too
    }

    #[test]
    fn what_comes_next_allows_more() {
        let mut shares = shares();
        shares.came(&there(), &datagram(INITIAL, 1200));
        assert!(shares.may_go(&there(), &datagram(INITIAL, 3600)));

        shares.came(&there(), &datagram(INITIAL, 1200));

        assert!(shares.may_go(&there(), &datagram(HANDSHAKE, 3600)));
    }

    #[test]
    fn a_connection_goes_on_whoever_sends_initials_in_its_name() {
        let mut shares = shares();
        shares.came(&there(), &datagram(INITIAL, 1200));

        shares.came(&there(), &datagram(SHORT, 40));

        assert!(shares.may_go(&there(), &datagram(SHORT, 100_000)));
        assert!(!shares.may_go(&there(), &datagram(HANDSHAKE, 1200)));
    }

    #[test]
    fn nobody_is_counted_for_before_an_initial() {
        let mut shares = shares();

        shares.came(&there(), &datagram(SHORT, 40));

        assert!(shares.0.is_empty());
        assert!(shares.may_go(&there(), &datagram(SHORT, 1200)));
    }
}
