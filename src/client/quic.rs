//! The QUIC door from a device's side: streams of a connection on which both ends are their keys.
//!
//! [`Quic`] keeps what resumes a connection without a round trip; [`QuicSession`] is one connection. What a request
//! means, and when to come back, is the caller's.
//!
//! spec: thin-profile §14

mod quiet;
mod upload;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use quinn::{
    ClientConfig, Connecting, Connection, Endpoint, EndpointConfig, IdleTimeout, RecvStream,
    SendStream, TransportConfig, VarInt, crypto::rustls::QuicClientConfig,
};
use quinn_proto::RandomConnectionIdGenerator;
use rustls::{
    CertificateError, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    sign::CertifiedKey,
};
use thiserror::Error;
use tokio::sync::watch;

use self::quiet::Quiet;
use super::ledger::Cost;
use crate::{
    session::{
        coap::{RESPONSE_BYTES_MAX, Request, Response},
        framed::{DecodeError, Decoder, EncodeError, Form, Framed, HeadReader, MESSAGE_BYTES_MAX},
    },
    wire::coap::{Code, Token},
};

/// What went wrong on the way. A request that ended with it may have been done.
#[derive(Debug, Error)]
pub enum QuicError {
    /// A key that TLS cannot use.
    #[error("the device's key: {0}")]
    Key(#[source] TlsError),
    /// No socket.
    #[error("no socket: {}", super::plain::io(.0))]
    Socket(#[from] std::io::Error),
    /// No connection could be begun.
    #[error("cannot connect: {0}")]
    Connect(#[from] quinn::ConnectError),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// Sending broke off.
    #[error("sending: {0}")]
    Write(#[from] quinn::WriteError),
    /// Receiving broke off.
    #[error("receiving: {0}")]
    Read(#[from] quinn::ReadError),
    /// The request cannot be written.
    #[error("the request: {0}")]
    Encode(#[from] EncodeError),
    /// The answer's bytes were wrong.
    #[error("the answer: {0}")]
    Decode(#[from] DecodeError),
    /// The answer is something else.
    #[error("the answer has code {0}, which is no answer")]
    NoAnswer(Code),
    /// What came cannot be kept, or what is to go cannot be read.
    #[error("the file: {}", super::plain::io(.0))]
    File(#[source] std::io::Error),
    /// The answer is larger than we take.
    #[error("an answer of more than {0} bytes")]
    TooLarge(usize),
}

/// The way to one hub, and what is remembered of it.
pub struct Quic {
    config: ClientConfig,
    hub: SocketAddr,
    /// How long the connections may be kept alive after silence.
    alive_every: Option<Duration>,
    /// One for each connection that is not over, the newest last: a connection without an id of ours is known by
    /// our address, and takes with it, when it ends, what is known of another one there.
    endpoints: Mutex<Vec<Endpoint>>,
}

/// A connection.
#[derive(Clone)]
pub struct QuicSession {
    connection: Connection,
    /// Whether the handshake is over; changes once.
    confirmed: watch::Receiver<bool>,
}

impl Quic {
    /// The way to the hub at `hub`, which must have the key `hub_spki`; the device has `key` (PKCS#8).
    pub fn new(
        hub: SocketAddr,
        hub_spki: &[u8],
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, QuicError> {
        Ok(Self {
            config: client_config(hub_spki, key)?,
            hub,
            alive_every: None,
            endpoints: Mutex::default(),
        })
    }

    /// Keeps connections, and NAT mappings, open by a word each time so much silence is over. It also shows
    /// when the hub is gone.
    #[must_use]
    pub fn keeping_alive(mut self, every: Duration) -> Self {
        let mut transport = transport();
        transport.keep_alive_interval(Some(every));
        self.config.transport_config(Arc::new(transport));
        self.alive_every = Some(every);
        self
    }

    /// Connects: at once where an earlier connection can be resumed, else after the handshake.
    pub async fn connect(&self) -> Result<QuicSession, QuicError> {
        let connecting = self.begin()?;
        let (done, confirmed) = watch::channel(false);
        let connection = match connecting.into_0rtt() {
            Ok((connection, accepted)) => {
                tokio::spawn(async move {
                    accepted.await;
                    done.send_replace(true);
                });
                connection
            }
            Err(connecting) => {
                let connection = connecting.await?;
                done.send_replace(true);
                connection
            }
        };
        Ok(QuicSession {
            connection,
            confirmed,
        })
    }

    fn begin(&self) -> Result<Connecting, QuicError> {
        let any: SocketAddr = if self.hub.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0; 16], 0).into()
        };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        let runtime = Arc::new(Quiet::new(self.alive_every));
        let endpoint = Endpoint::new(endpoint_config(), None, socket, runtime)?;
        let connecting = endpoint.connect_with(self.config.clone(), self.hub, NAME)?;
        let mut endpoints = self.endpoints();
        endpoints.retain(|endpoint| endpoint.open_connections() > 0);
        endpoints.push(endpoint);
        Ok(connecting)
    }

    fn endpoints(&self) -> MutexGuard<'_, Vec<Endpoint>> {
        let endpoints = self.endpoints.lock();
        endpoints.unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on from another local address, as after a change of network: the newest connection moves along.
    pub fn rebind(&self, socket: std::net::UdpSocket) -> Result<(), QuicError> {
        socket.set_nonblocking(true)?;
        match self.endpoints().last() {
            Some(endpoint) => Ok(endpoint.rebind(socket)?),
            None => Ok(()),
        }
    }

    /// Waits until closed connections have said so.
    pub async fn wait_idle(&self) {
        let endpoints = self.endpoints().clone();
        for endpoint in endpoints {
            endpoint.wait_idle().await;
        }
    }
}

impl fmt::Debug for Quic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quic({})", self.hub)
    }
}

/// How a device with this key (PKCS#8) greets the hub with the key `hub_spki`.
pub(crate) fn client_config(
    hub_spki: &[u8],
    key: &PrivateKeyDer<'_>,
) -> Result<ClientConfig, QuicError> {
    let provider = Arc::new(ring::default_provider());
    let key = ring::sign::any_supported_type(key).map_err(QuicError::Key)?;
    let spki = key.public_key().ok_or_else(|| {
        QuicError::Key(TlsError::General("the key has no public half".to_owned()))
    })?;
    let shown = CertifiedKey::new(vec![CertificateDer::from(spki.to_vec())], key);
    let pinned = Pinned {
        spki: hub_spki.to_vec(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(QuicError::Key)?
        .dangerous() // in that no authority is asked: the key itself is known
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(
            shown,
        ))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false; // the key is the name
    config.enable_early_data = true;
    let crypto = QuicClientConfig::try_from(config)
        .map_err(|error| QuicError::Key(TlsError::General(error.to_string())))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// How a device names its connections: not at all.
pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(0)));
    config
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX);
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .initial_mtu(1200)
        .mtu_discovery_config(None)
        .enable_segmentation_offload(false)
        .max_concurrent_bidi_streams(VarInt::from_u32(0)) // hubs ask nothing
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .datagram_receive_buffer_size(None);
    config
}

/// The ALPN of the profile over QUIC.
const ALPN: &[u8] = b"tramline-thin/1";
/// What a session is remembered by; it does not go over the line.
const NAME: &str = "hub";
/// The hub has a shorter time, which counts.
const IDLE: Duration = Duration::from_mins(30);

impl QuicSession {
    /// Asks, and waits for the whole answer.
    pub async fn exchange(&self, request: &Request) -> Result<Response, QuicError> {
        let mut body = Vec::new();
        let mut head = self
            .receive(request, |_, piece| {
                body.extend_from_slice(&piece);
                if body.len() > RESPONSE_BYTES_MAX {
                    return Err(QuicError::TooLarge(RESPONSE_BYTES_MAX));
                }
                Ok(())
            })
            .await?;
        head.payload = body.into();
        Ok(head)
    }

    /// Asks, and hands over the answer's body piece by piece as it comes in, each with the answer's head;
    /// gives the answer without it.
    ///
    /// A request that the hub does not take before the handshake is over is asked again after it.
    pub async fn receive(
        &self,
        request: &Request,
        mut piece: impl FnMut(&Response, Bytes) -> Result<(), QuicError>,
    ) -> Result<Response, QuicError> {
        let early = !*self.confirmed.borrow();
        match self.receive_once(request, &mut piece).await {
            Ok(response) if early && response.code == Code::TOO_EARLY => {}
            Err(
                QuicError::Read(quinn::ReadError::ZeroRttRejected)
                | QuicError::Write(quinn::WriteError::ZeroRttRejected),
            ) if early => {}
            other => return other,
        }
        self.confirmed().await;
        self.receive_once(request, &mut piece).await
    }

    async fn receive_once(
        &self,
        request: &Request,
        piece: &mut impl FnMut(&Response, Bytes) -> Result<(), QuicError>,
    ) -> Result<Response, QuicError> {
        let (_, stream) = self.ask(request).await?;
        Self::answer_on(stream, piece).await
    }

    async fn answer_on(
        mut stream: RecvStream,
        piece: &mut impl FnMut(&Response, Bytes) -> Result<(), QuicError>,
    ) -> Result<Response, QuicError> {
        let mut reader = HeadReader::new();
        let head = loop {
            let bytes = stream.read_chunk(PIECE_BYTES_MAX, true).await?;
            let ended = bytes.is_none();
            reader.push(&bytes.map(|chunk| chunk.bytes).unwrap_or_default());
            if let Some(head) = reader.head(ended)? {
                break head;
            }
        };
        let mut message = Framed::new(head.code);
        message.options = head.options;
        let response = message
            .into_response()
            .ok_or(QuicError::NoAnswer(head.code))?;
        if response.code != Code::TOO_EARLY {
            piece(&response, head.payload)?;
        }
        while let Some(chunk) = stream.read_chunk(PIECE_BYTES_MAX, true).await? {
            piece(&response, chunk.bytes)?;
        }
        Ok(response)
    }

    /// Asks to be told about changes. Waits for the handshake: observing moves what the hub remembers.
    pub async fn observe(&self, request: &Request) -> Result<Observation, QuicError> {
        self.confirmed().await;
        let request = request.clone().observing();
        let (send, stream) = self.ask(&request).await?;
        Ok(Observation {
            _send: send,
            stream,
            decoder: Decoder::new(MESSAGE_BYTES_MAX),
        })
    }

    async fn ask(&self, request: &Request) -> Result<(SendStream, RecvStream), QuicError> {
        let message = Framed::of_request(request, Token::EMPTY).encode(Form::Alone)?;
        let (mut send, receive) = self.connection.open_bi().await?;
        send.write_all(&message).await?;
        let _ = send.finish(); // an error: the hub wants no more of it, and will say why
        Ok((send, receive))
    }

    /// Waits until the handshake is over: until then, what was sent could be sent again by others.
    pub async fn confirmed(&self) {
        let mut confirmed = self.confirmed.clone();
        let _ = confirmed.wait_for(|confirmed| *confirmed).await; // its sender is gone: over too
    }

    /// What the connection has cost so far: UDP payloads, as the socket saw them.
    pub fn cost(&self) -> Cost {
        let stats = self.connection.stats();
        Cost {
            up: stats.udp_tx.bytes,
            down: stats.udp_rx.bytes,
            datagrams_up: stats.udp_tx.datagrams,
            datagrams_down: stats.udp_rx.datagrams,
        }
    }

    /// Why it ended, once it has.
    pub async fn closed(&self) -> quinn::ConnectionError {
        self.connection.closed().await
    }

    /// What was heard that only the hub can have said, and what was said that it must acknowledge: frames,
    /// so far.
    pub fn heard_and_asked(&self) -> (u64, u64) {
        let stats = self.connection.stats();
        let [heard, asked] = [stats.frame_rx, stats.frame_tx]
            .map(|frames| {
                [
                    frames.stream,
                    frames.crypto,
                    frames.ping,
                    frames.stop_sending,
                ]
            })
            .map(|frames| frames.iter().sum::<u64>());
        (heard + stats.frame_rx.acks, asked)
    }

    /// Why it ended, if it has.
    pub fn ended(&self) -> Option<quinn::ConnectionError> {
        self.connection.close_reason()
    }

    /// Says goodbye.
    pub fn close(&self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

/// Bytes taken from a stream at once.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// A stream of answers. Dropping it tells the hub to stop.
pub struct Observation {
    _send: SendStream,
    stream: RecvStream,
    decoder: Decoder,
}

impl Observation {
    /// Waits for the next one; the first is the answer to the request, and says whether more will
    /// follow. None: the hub has ended it.
    pub async fn next(&mut self) -> Result<Option<Response>, QuicError> {
        loop {
            if let Some(message) = self.decoder.message()? {
                let code = message.code;
                let response = message.into_response();
                return response.ok_or(QuicError::NoAnswer(code)).map(Some);
            }
            match self.stream.read_chunk(PIECE_BYTES_MAX, true).await? {
                Some(chunk) => self.decoder.push(&chunk.bytes),
                None => return Ok(None),
            }
        }
    }
}

/// Knows the hub by its key.
struct Pinned {
    spki: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if shown.as_ref() == self.spki {
            return Ok(ServerCertVerified::assertion());
        }
        Err(TlsError::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        ))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("QUIC has TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let spki = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
impl QuicSession {
    /// For tests that do what no client should.
    pub(crate) const fn raw(&self) -> &Connection {
        &self.connection
    }
}
