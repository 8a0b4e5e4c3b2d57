//! The HTTPS door: one HTTP/1.1 connection, kept while it holds.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    client::{Call, ClientError, Cost, Method, outcome, target::HttpsTarget},
    wire::link_code::KEY_HASH_BYTES,
};

/// The largest answer read, in bytes: an initial sync of a large account is a few megabytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A hub's HTTPS door.
pub(super) struct HttpsDoor {
    target: HttpsTarget,
    tls: TlsConnector,
    counts: Arc<Counts>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
}

impl Counts {
    fn so_far(&self) -> Cost {
        Cost {
            up: self.up.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
            datagrams_up: self.writes.load(Ordering::Relaxed),
            datagrams_down: self.reads.load(Ordering::Relaxed),
        }
    }
}

impl HttpsDoor {
    pub(super) fn new(target: &HttpsTarget) -> Result<Self, ClientError> {
        let roots = match &target.ca_pem {
            Some(pem) => roots_of(pem)?,
            None => system_roots()?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Ca(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::over(target.clone(), config))
    }

    /// A door whose certificate is known by the hash of its key alone: that of a link code.
    pub(super) fn pinned(
        target: HttpsTarget,
        key_hash: [u8; KEY_HASH_BYTES],
    ) -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Ca(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned {
                key_hash,
                algorithms,
            }))
            .with_no_client_auth();
        Ok(Self::over(target, config))
    }

    fn over(target: HttpsTarget, config: ClientConfig) -> Self {
        Self {
            target,
            tls: TlsConnector::from(Arc::new(config)),
            counts: Arc::default(),
            connection: None,
        }
    }

    pub(super) async fn call(
        &mut self,
        token: Option<&str>,
        call: &Call<'_>,
    ) -> (Result<Value, ClientError>, Cost) {
        let before = self.counts.so_far();
        let answer = self.exchange(token, call).await;
        (answer, self.counts.so_far() - before)
    }

    async fn exchange(
        &mut self,
        token: Option<&str>,
        call: &Call<'_>,
    ) -> Result<Value, ClientError> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            self.connection = Some(self.connect().await?);
        }
        let request = self.request(token, call)?;
        let connection = self.connection.as_mut().expect("connected just above");
        if let Err(error) = connection.ready().await {
            self.connection = None;
            return Err(self.unreachable(error));
        }
        let answer = match connection.send_request(request).await {
            Ok(answer) => answer,
            Err(error) => {
                self.connection = None;
                return Err(self.broke_off(error));
            }
        };
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body
            .map_err(|error| {
                if error.is::<LengthLimitError>() {
                    let reason = format!("an answer has at most {ANSWER_BYTES_MAX} bytes");
                    return ClientError::Decode(reason);
                }
                self.broke_off(error)
            })?
            .to_bytes();
        let value = serde_json::from_slice(&body).map_err(|error| {
            ClientError::Decode(format!(
                "HTTP {status} with a body that is not JSON: {error}"
            ))
        })?;
        outcome(status, value)
    }

    fn request(
        &self,
        token: Option<&str>,
        call: &Call<'_>,
    ) -> Result<http::Request<Full<Bytes>>, ClientError> {
        let method = match call.method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
            Method::Put => http::Method::PUT,
            Method::Delete => http::Method::DELETE,
        };
        let mut request = http::Request::builder()
            .method(method)
            .uri(path_and_query(call))
            .header(
                http::header::HOST,
                format!("{}:{}", self.target.host, self.target.port),
            );
        if let Some(token) = token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match &call.body {
            None => Bytes::new(),
            Some(body) => {
                request = request.header(http::header::CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
        };
        request
            .body(Full::new(body))
            .map_err(|error| ClientError::Decode(error.to_string()))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let at = (self.target.host.as_str(), self.target.port);
        let stream = TcpStream::connect(at)
            .await
            .map_err(|error| self.unreachable(error))?;
        stream
            .set_nodelay(true)
            .map_err(|error| self.unreachable(error))?;
        let counted = Counted {
            stream,
            counts: Arc::clone(&self.counts),
        };
        let name = ServerName::try_from(self.target.host.clone())
            .map_err(|error| self.unreachable(error))?;
        let tls = self
            .tls
            .connect(name, counted)
            .await
            .map_err(|error| self.unreachable(error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|error| self.unreachable(error))?;
        tokio::spawn(connection); // ends with the sender or with the peer
        Ok(sender)
    }

    /// Before anything of a request has left.
    fn unreachable(
        &self,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ClientError {
        ClientError::Unreachable {
            at: format!("https://{}:{}", self.target.host, self.target.port),
            source: error.into(),
            is_sent: false,
        }
    }

    /// After that.
    fn broke_off(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Unreachable {
            at: format!("https://{}:{}", self.target.host, self.target.port),
            source: error.into(),
            is_sent: true,
        }
    }
}

fn roots_of(pem: &str) -> Result<RootCertStore, ClientError> {
    let wrong = |error: &dyn std::fmt::Display| ClientError::Ca(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"it holds no certificate"));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    // Some of a system's are older than what is taken today.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let reason = "this system trusts no certificate: give --ca FILE";
        return Err(ClientError::Ca(reason.to_owned()));
    }
    Ok(roots)
}

fn path_and_query(call: &Call<'_>) -> String {
    let is_ours = call.path.first() == Some(&"_tramline");
    let mut uri = String::from(if is_ours { "" } else { "/_matrix/client/v3" });
    for segment in &call.path {
        uri.push('/');
        encode(segment, &mut uri);
    }
    for (index, (name, value)) in call.query.iter().enumerate() {
        uri.push(if index == 0 { '?' } else { '&' });
        encode(name, &mut uri);
        uri.push('=');
        encode(value, &mut uri);
    }
    uri
}

/// Percent-encodes everything but what RFC 3986 leaves alone everywhere.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                out.push('%');
                out.push_str(&hex::encode_upper([byte]));
            }
        }
    }
}

/// Takes the one key whose hash is known, whatever its certificate says of names and dates.
#[derive(Debug)]
struct Pinned {
    key_hash: [u8; KEY_HASH_BYTES],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        if Sha256::digest(key.as_ref()).starts_with(&self.key_hash) {
            return Ok(ServerCertVerified::assertion());
        }
        let reason = "this is not the hub that the code is from: its key is another one";
        Err(rustls::Error::General(reason.to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A TCP stream that counts.
struct Counted {
    stream: TcpStream,
    counts: Arc<Counts>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if poll.is_ready() {
            let read = buf.filled().len() - before;
            self.counts.down.fetch_add(read as u64, Ordering::Relaxed);
            self.counts.reads.fetch_add(1, Ordering::Relaxed);
        }
        poll
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = poll {
            self.counts.up.fetch_add(written as u64, Ordering::Relaxed);
            self.counts.writes.fetch_add(1, Ordering::Relaxed);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_paths_are_not_below_matrixs() {
        let call = Call::post(&["_tramline", "client"], Value::Null);
        assert_eq!(path_and_query(&call), "/_tramline/client");
    }

    #[test]
    fn ids_are_encoded_for_the_path() {
        let call = Call::get(
            &["rooms", "!a/b:c", "state", "m.x", ""],
            vec![("k", "a b&".into())],
        );
        assert_eq!(
            path_and_query(&call),
            "/_matrix/client/v3/rooms/%21a%2Fb%3Ac/state/m.x/?k=a%20b%26"
        );
    }
}
