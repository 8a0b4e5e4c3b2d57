//! Answers that are read as they come: files. The same checks and bounds as [`Outgoing::ask`] has
//! up to the first byte of the body; how much of it is read, and how long, is its reader's business.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use ruma::{ServerName, http_headers::ContentDisposition};
use tokio::time::timeout;

use super::{Ask, AskError, Outgoing, Told, exchange::Connection, find::Location};
use crate::{
    api::{ByteStream, RemoteFile},
    wire::multipart::{self, FileHead, Parts, Piece},
};

/// An answer whose body is still to be read.
struct Opened {
    headers: HeaderMap,
    body: Body,
}

/// A body, and the connection over which it comes.
struct Body {
    incoming: Incoming,
    _connection: Connection,
}

impl Body {
    /// The next bytes; nothing at its end.
    async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        loop {
            let frame = self.incoming.frame().await?;
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => return Some(Ok(bytes)),
                Ok(Err(_)) => {} // trailers say nothing
                Err(error) => return Some(Err(std::io::Error::other(error))),
            }
        }
    }
}

impl Outgoing {
    /// Fetches a file of another server, up to where its bytes begin.
    // spec: server-server §Content-Repository
    pub async fn file(
        &self,
        server: &ServerName,
        media_id: &str,
        within: Duration,
    ) -> Result<RemoteFile, AskError> {
        let ask = Ask::get(format!("/_matrix/federation/v1/media/download/{media_id}"));
        timeout(within, async {
            let opened = self.open(server, &ask).await?;
            match begin(opened).await? {
                Begun::Here(file) => Ok(file),
                Begun::Elsewhere(url) => self.kept_at(&url).await,
            }
        })
        .await
        .map_err(|_| AskError::Slow { within })?
    }

    /// Fetches a file from where its server keeps it: by HTTPS, at an address that may be connected to
    /// like any other, without saying who asks or for whom, and from there nowhere else.
    // spec: server-server §Content-Repository
    pub(in crate::edge::matrix) async fn kept_at(&self, url: &str) -> Result<RemoteFile, AskError> {
        let at = Location::read(url);
        let at = at.ok_or(AskError::NoFile("it is kept where no https URL leads"))?;
        let refused = |why: String| AskError::KeptElsewhere {
            at: at.authority().to_owned(),
            why,
        };
        let route = at.route();
        let route = route.ok_or(AskError::NoFile("it is kept where no https URL leads"))?;
        let stream = self.connector.connect(&route).await;
        let stream = stream.map_err(|error| refused(error.to_string()))?;
        let mut connection = Connection::over(stream).await?;
        let (head, incoming) = connection.open(at.request()?).await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(refused(format!("HTTP {}", head.status.as_u16())));
        }
        let text = |name| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
        let described_there = FileHead {
            content_type: text(header::CONTENT_TYPE),
            disposition: text(header::CONTENT_DISPOSITION),
            location: None,
        };
        let body = Body {
            incoming,
            _connection: connection,
        };
        Ok(described(described_there, whole(body)))
    }

    async fn open(&self, server: &ServerName, ask: &Ask) -> Result<Opened, AskError> {
        let place = self.welcome(server)?;
        let route = self.route(&place).await?;
        let stream = self.connector.connect(&route).await?;
        let mut connection = Connection::over(stream).await?;
        let request = self.request(server, &route, ask)?;
        let (head, incoming) = connection.open(request).await?.into_parts();
        let mut body = Body {
            incoming,
            _connection: connection,
        };
        if head.status.as_u16() == 200 {
            return Ok(Opened {
                headers: head.headers,
                body,
            });
        }
        let mut read = Vec::new();
        while let Some(Ok(bytes)) = body.next().await
            && read.len() < REFUSAL_BYTES_MAX
        {
            read.extend_from_slice(&bytes);
        }
        let told = Told {
            status: head.status.as_u16(),
            body: read.into(),
            retry_after: None,
            date: None,
            request_id: None,
        };
        match told.success() {
            Err(refused) => Err(refused),
            Ok(_) => Err(AskError::NoFile("an answer that was none")),
        }
    }
}

/// What an answer is up to where the file's bytes would begin.
enum Begun {
    /// They follow.
    Here(RemoteFile),
    /// They are at this URL.
    Elsewhere(String),
}

/// Reads up to the head of the file.
async fn begin(opened: Opened) -> Result<Begun, AskError> {
    let content_type = opened.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let boundary = content_type.and_then(multipart::boundary);
    let boundary = boundary.ok_or(AskError::NoFile("it is not of parts"))?;
    let mut parts = Parts::new(boundary);
    let mut body = opened.body;
    loop {
        let bytes = match body.next().await {
            Some(bytes) => bytes.map_err(cut)?,
            None => return Err(AskError::NoFile("it ended before the file")),
        };
        let mut pieces = parts.take(&bytes)?.into_iter();
        let Some(Piece::Head(head)) = pieces.next() else {
            continue;
        };
        if let Some(url) = head.location {
            return Ok(Begun::Elsewhere(url));
        }
        let file = described(head, rest(parts, body, pieces.collect()));
        return Ok(Begun::Here(file));
    }
}

fn cut(error: std::io::Error) -> AskError {
    super::ExchangeError::Cut(error).into()
}

fn described(head: FileHead, body: ByteStream) -> RemoteFile {
    let disposition = head.disposition.as_deref();
    let disposition =
        disposition.and_then(|text| ContentDisposition::try_from(text.as_bytes()).ok());
    RemoteFile {
        content_type: head.content_type,
        filename: disposition.and_then(|disposition| disposition.filename),
        body,
    }
}

/// A body that is the file.
fn whole(body: Body) -> ByteStream {
    let next = |mut body: Body| async move {
        let bytes = body.next().await.transpose()?;
        Ok(bytes.map(|bytes| (bytes, body)))
    };
    Box::pin(stream::try_unfold(body, next).fuse())
}

/// The file's bytes: first those that came with its head.
fn rest(parts: Parts, body: Body, pieces: Vec<Piece>) -> ByteStream {
    let state = (parts, body, pieces.into_iter(), false);
    Box::pin(
        stream::try_unfold(
            state,
            |(mut parts, mut body, mut pieces, mut ended)| async move {
                loop {
                    match pieces.next() {
                        Some(Piece::Bytes(bytes)) => {
                            return Ok(Some((Bytes::from(bytes), (parts, body, pieces, ended))));
                        }
                        Some(Piece::End) => return Ok(None),
                        Some(Piece::Head(_)) => {}
                        None if ended => {
                            parts.end().map_err(std::io::Error::other)?;
                            return Ok(None);
                        }
                        None => match body.next().await {
                            Some(bytes) => {
                                let new = parts.take(&bytes?).map_err(std::io::Error::other)?;
                                pieces = new.into_iter();
                            }
                            None => ended = true,
                        },
                    }
                }
            },
        )
        .fuse(),
    )
}

/// What is read of a refusal, in bytes.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;
