//! One request and its answer on one HTTP/1.1 connection.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio_rustls::client::TlsStream;

use super::counted::Counted;

/// A connection over which one request at a time goes.
pub(super) struct Connection(SendRequest<Full<Bytes>>);

/// What came back.
pub(super) struct Exchanged {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// No answer, or one that was not read to its end.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// A body that is too large.
    #[error("the answer has more than {max} bytes")]
    TooLarge {
        /// The ceiling.
        max: usize,
    },
    /// The body broke off.
    #[error("the answer broke off: {0}")]
    Cut(#[source] io::Error),
}

impl Connection {
    pub(super) async fn over(stream: TlsStream<Counted>) -> Result<Self, ExchangeError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        // ends when the sender is dropped, or the other end closes
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another server ended");
            }
        });
        Ok(Self(sender))
    }

    pub(super) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    /// Sends a request and reads the head of its answer.
    pub(super) async fn open(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        self.0.ready().await?;
        Ok(self.0.send_request(request).await?)
    }

    /// Sends a request and reads the whole answer, of so many bytes at most.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        answer_bytes_max: usize,
    ) -> Result<Exchanged, ExchangeError> {
        let (head, body) = self.open(request).await?.into_parts();
        let read = Limited::new(body, answer_bytes_max).collect().await;
        let body = read.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let max = answer_bytes_max;
                ExchangeError::TooLarge { max }
            } else {
                ExchangeError::Cut(io::Error::other(error))
            }
        })?;
        Ok(Exchanged {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }
}

/// The read buffer of a connection, in bytes: it bounds the head of an answer.
const BUFFER_BYTES_MAX: usize = 32 * 1024;

/// Headers of an answer.
const HEADERS_MAX: usize = 64;
