//! One knock: an empty POST to a URL that a device gave, and nothing more than that.
//!
//! The name is resolved here, and the connection goes to an address that was looked at: a name cannot lead
//! elsewhere between the look and the connection. Redirects are not followed, answers not read.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::edge::address::is_public;

/// What came of a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The host took it.
    Knocked,
    /// It leads where it must not, or the host does not want it.
    Refused,
    /// Nobody was there, or the host is in trouble: perhaps later.
    Failed,
}

impl Outcome {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Knocked => "knocked",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Error)]
enum KnockError {
    #[error("the URL cannot be asked")]
    Url,
    #[error("the name leads to private addresses only")]
    Private,
    #[error("connecting")]
    Connect(#[from] io::Error),
    #[error("asking")]
    Http(#[from] hyper::Error),
    #[error("the host did not answer in {} seconds", KNOCK_TIME_MAX.as_secs())]
    Slow,
}

pub(super) struct Knocker {
    tls: TlsConnector,
    allow_private_addresses: bool,
}

/// The roots this machine trusts. What cannot be read is logged and left out.
pub fn native_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a root certificate cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

impl Knocker {
    pub(super) fn new(
        roots: RootCertStore,
        allow_private_addresses: bool,
    ) -> Result<Self, rustls::Error> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            allow_private_addresses,
        })
    }

    pub(super) async fn knock(&self, url: &str) -> Outcome {
        let asked = timeout(KNOCK_TIME_MAX, self.post(url)).await;
        match asked.unwrap_or(Err(KnockError::Slow)) {
            Ok(status) if status.is_success() => Outcome::Knocked,
            Ok(status) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Outcome::Failed
            }
            Ok(_) | Err(KnockError::Url | KnockError::Private) => Outcome::Refused,
            Err(error) => {
                tracing::debug!(%error, "a wake hook was not reached");
                Outcome::Failed
            }
        }
    }

    async fn post(&self, url: &str) -> Result<StatusCode, KnockError> {
        let uri: Uri = url.parse().map_err(|_| KnockError::Url)?; // what a URL says is secret
        if uri.scheme_str() != Some("https") {
            return Err(KnockError::Url);
        }
        let authority = uri.authority().ok_or(KnockError::Url)?;
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .map_or(host, |host| host.trim_end_matches(']'));
        let name = ServerName::try_from(host.to_owned()).map_err(|_| KnockError::Url)?;
        let stream = self
            .connect(host, authority.port_u16().unwrap_or(443))
            .await?;
        let stream = TokioIo::new(self.tls.connect(name, stream).await?);
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(ANSWER_BYTES_MAX)
            .handshake(stream)
            .await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, authority.as_str())
            .header("TTL", KEPT_SECONDS)
            .body(Empty::<Bytes>::new())
            .map_err(|_| KnockError::Url)?;
        let mut answer = std::pin::pin!(sender.send_request(request));
        let ended = tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer?.status()),
            ended = connection => ended,
        };
        // Many a host hangs up with its answer, and without a farewell: an answer it is all the same.
        match (answer.await, ended) {
            (Ok(answer), _) => Ok(answer.status()),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error.into()),
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, KnockError> {
        let found = tokio::net::lookup_host((host, port)).await?;
        let allowed: Vec<SocketAddr> = found
            .filter(|address| self.allow_private_addresses || is_public(address.ip()))
            .take(ADDRESSES_MAX)
            .collect();
        if allowed.is_empty() {
            return Err(KnockError::Private);
        }
        Ok(TcpStream::connect(&*allowed).await?)
    }
}

/// From the name to the answer.
const KNOCK_TIME_MAX: Duration = Duration::from_secs(15);

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// The head of an answer; more is never read. hyper's own floor is 8 KiB.
const ANSWER_BYTES_MAX: usize = 8192;

/// How long a push service keeps a knock for a device that is off, in seconds: a day. RFC 8030 §5.2
/// wants it said.
const KEPT_SECONDS: &str = "86400";
