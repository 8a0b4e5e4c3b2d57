//! What goes over one connection, below TLS. Which are other servers' is known when the first of their
//! requests has come: from then on all of its bytes are counted as theirs, and those before it, too.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one connection that are counted nowhere yet.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    is_peers: AtomicBool,
    /// How many first bytes are kept, in the first byte, and these.
    first: AtomicU64,
}

impl Traffic {
    /// Another server asks over this connection.
    pub(super) fn is_a_peers(&self) {
        self.is_peers.store(true, Ordering::Relaxed);
        self.tell();
    }

    /// The first bytes that came, up to seven; none if none came.
    pub(super) fn first(&self) -> Vec<u8> {
        let [count, first @ ..] = self.first.load(Ordering::Relaxed).to_be_bytes();
        first.into_iter().take(count.into()).collect()
    }

    fn begins_with(&self, bytes: &[u8]) {
        let mut kept = self.first.load(Ordering::Relaxed).to_be_bytes();
        let [count, first @ ..] = &mut kept;
        let before = *count;
        for (to, from) in first.iter_mut().skip(before.into()).zip(bytes) {
            *to = *from;
            *count += 1;
        }
        if *count != before {
            let kept = u64::from_be_bytes(kept);
            self.first.store(kept, Ordering::Relaxed);
        }
    }

    fn add(&self, to: &AtomicU64, bytes: usize) {
        to.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.is_peers.load(Ordering::Relaxed) {
            self.tell();
        }
    }

    fn tell(&self) {
        for (direction, bytes) in [("in", &self.received), ("out", &self.sent)] {
            let bytes = bytes.swap(0, Ordering::Relaxed);
            counter!("tramline_peer_inbound_bytes_total", "direction" => direction)
                .increment(bytes);
        }
    }
}

/// A stream whose bytes are counted.
pub(super) struct Counted<S> {
    stream: S,
    traffic: Arc<Traffic>,
}

impl<S> Counted<S> {
    pub(super) const fn new(stream: S, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic }
    }

    fn sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.traffic.add(&self.traffic.sent, *bytes);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let came = buffer.filled().get(before..).unwrap_or_default();
        self.traffic.begins_with(came);
        self.traffic.add(&self.traffic.received, came.len());
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.sent(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn waiting(traffic: &Traffic) -> [u64; 2] {
        [&traffic.received, &traffic.sent].map(|bytes| bytes.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn bytes_wait_until_it_is_known_that_they_are_another_servers() {
        let traffic = Arc::new(Traffic::default());
        let (near, mut far) = tokio::io::duplex(100);
        let mut stream = Counted::new(near, Arc::clone(&traffic));
        stream.write_all(&[0; 30]).await.unwrap();
        assert!(traffic.first().is_empty());
        far.write_all(&[0; 7]).await.unwrap();
        stream.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(traffic.first(), [0; 3], "zeros are bytes as well");
        stream.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(waiting(&traffic), [7, 30]);

        traffic.is_a_peers();
        stream.write_all(&[0; 5]).await.unwrap();

        assert_eq!(waiting(&traffic), [0, 0]);
    }
}
