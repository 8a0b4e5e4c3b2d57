//! The body of a request while it arrives: whole for JSON, in pieces for files, and read to its
//! end when nobody wants it.
//!
//! A connection closed with bytes unread resets, and the client may lose the answer that told it
//! why. So what is refused is still read for a while and thrown away; unless the client waits to
//! be told to send it (`Expect`), when the refusal is what it waits for.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};

use crate::{
    api::{ByteStream, Code, Refusal},
    base::limits::BODY_BYTES_MAX,
    edge::client_api::body_too_large,
};

pub(super) struct Arriving {
    body: Option<Incoming>,
    /// Whether the client sends without being asked to.
    comes_unasked: bool,
    /// How many of its bytes somebody wanted, for the log.
    read: Arc<AtomicU64>,
}

impl Arriving {
    pub(super) fn new(body: Incoming, headers: &HeaderMap, read: Arc<AtomicU64>) -> Self {
        Self {
            body: Some(body),
            read,
            comes_unasked: !headers.contains_key(header::EXPECT),
        }
    }

    /// Its length, if the client says.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| body.size_hint().exact())
    }

    /// All of it, if it is not too large and comes in time.
    pub(super) async fn whole(self, time: Duration) -> Result<Bytes, Refusal> {
        self.whole_up_to(BODY_BYTES_MAX, time).await
    }

    /// The same with a ceiling in bytes.
    pub(super) async fn whole_up_to(
        mut self,
        max: usize,
        time: Duration,
    ) -> Result<Bytes, Refusal> {
        let Some(body) = &mut self.body else {
            return Ok(Bytes::new());
        };
        let known = body.size_hint().lower();
        if usize::try_from(known).map_or(true, |known| known > max) {
            return Err(body_too_large(max));
        }
        let read = Limited::new(body, max).collect();
        match tokio::time::timeout(time, read).await {
            Ok(Ok(whole)) => {
                let whole = whole.to_bytes();
                self.count(&whole);
                Ok(whole)
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(body_too_large(max)),
            Ok(Err(_)) => Err(Refusal::bad_json("the body broke off")),
            Err(_) => {
                self.comes_unasked = false; // it had its time
                let late = Refusal::new(Code::Unknown, "the body did not come in time");
                Err(late.with_status(408))
            }
        }
    }

    /// Piece by piece; the wait for each is bounded, so that a stalled client frees its place.
    pub(super) fn pieces(self, patience: Duration) -> ByteStream {
        Box::pin(futures_util::stream::unfold(
            self,
            move |mut arriving| async move {
                let piece = arriving.next(patience).await?;
                if piece.is_err() {
                    arriving.body = None;
                }
                Some((piece, arriving))
            },
        ))
    }

    async fn next(&mut self, patience: Duration) -> Option<io::Result<Bytes>> {
        let body = self.body.as_mut()?;
        loop {
            match tokio::time::timeout(patience, body.frame()).await {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) => {
                        self.count(&piece);
                        return Some(Ok(piece));
                    }
                    Err(_trailers) => {}
                },
                Ok(Some(Err(error))) => return Some(Err(io::Error::other(error))),
                Err(_) => return Some(Err(io::ErrorKind::TimedOut.into())),
            }
        }
    }
}

impl Arriving {
    fn count(&self, piece: &Bytes) {
        let bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let unread = self
            .body
            .take()
            .filter(|body| self.comes_unasked && !body.is_end_stream());
        if let (Some(body), Ok(runtime)) = (unread, tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(DISCARD_TIME, discard(body)));
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARD_BYTES_MAX {
            return;
        }
    }
}

/// How much of an unwanted body is read, in bytes: a photograph or two.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long an unwanted body is read.
const DISCARD_TIME: Duration = Duration::from_secs(10);
