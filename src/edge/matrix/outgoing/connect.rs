//! From a route to a TLS connection: addresses, which of them may be connected to, the proxy, the
//! handshake.
//!
//! A name is resolved here and the connection goes to an address that was looked at, so that a name
//! cannot lead elsewhere in between. Behind a proxy that is the proxy's business, and addresses that
//! are written out are looked at here.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{counted::Counted, names::Names};
use crate::{
    edge::address::is_public,
    session::discovery::Route,
    wire::matrix::{Host, Place},
};

/// No connection came about.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("{host} has no address: {source}")]
    NoAddress {
        /// The name.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// It leads where federation must not.
    #[error(
        "{host} leads to {address}, which is not of the public internet (`federation.allow_private_addresses`)"
    )]
    Private {
        /// The name.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// Nobody took the connection.
    #[error("{to}: {source}")]
    Unreached {
        /// Where to.
        to: String,
        /// Why not.
        source: io::Error,
    },
    /// The proxy did not make it.
    #[error("the proxy {proxy} does not connect to {to}: {said}")]
    Proxy {
        /// The proxy.
        proxy: String,
        /// Where to.
        to: String,
        /// What it said.
        said: String,
    },
    /// The other end did not show a certificate that is good for the name.
    #[error("TLS with {to} for {name}: {source}")]
    Tls {
        /// Where to.
        to: String,
        /// For which name.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

/// Makes connections.
pub(super) struct Connector {
    tls: TlsConnector,
    names: Arc<dyn Names>,
    allow_private_addresses: bool,
    proxy: Option<Place>,
}

impl Connector {
    pub(super) fn new(
        roots: RootCertStore,
        names: Arc<dyn Names>,
        allow_private_addresses: bool,
        proxy: Option<Place>,
    ) -> Result<Self, rustls::Error> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            names,
            allow_private_addresses,
            proxy,
        })
    }

    pub(super) fn names(&self) -> &dyn Names {
        self.names.as_ref()
    }

    /// Connects to the first place of the route that can be connected to.
    // spec: server-server §TLS
    pub(super) async fn connect(&self, route: &Route) -> Result<TlsStream<Counted>, ConnectError> {
        let mut last = None;
        for (host, port) in &route.places {
            match self.connect_to(host, *port, &route.certificate_for).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("a route has a place"))
    }

    async fn connect_to(
        &self,
        host: &Host,
        port: u16,
        certificate_for: &Host,
    ) -> Result<TlsStream<Counted>, ConnectError> {
        let to = format!("{host}:{port}");
        let stream = match &self.proxy {
            Some(proxy) => self.through(proxy, host, &to).await?,
            None => self.directly(host, port).await?,
        };
        let _ = stream.set_nodelay(true); // only slower without
        let failed = |source| ConnectError::Tls {
            to: to.clone(),
            name: certificate_for.to_string(),
            source,
        };
        let name = match certificate_for {
            Host::Ip(address) => ServerName::IpAddress((*address).into()),
            Host::Dns(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|error| failed(io::Error::other(error)))?,
        };
        match timeout(
            HANDSHAKE_TIME_MAX,
            self.tls.connect(name, Counted::new(stream)),
        )
        .await
        {
            Ok(done) => done.map_err(failed),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn directly(&self, host: &Host, port: u16) -> Result<TcpStream, ConnectError> {
        let found = match host {
            Host::Ip(address) => vec![SocketAddr::new(*address, port)],
            Host::Dns(name) => self.addresses(name, port).await?,
        };
        let mut last = None;
        for address in found.into_iter().take(ADDRESSES_MAX) {
            if let Err(error) = self.allowed(host, address.ip()) {
                last = last.or(Some(error));
                continue;
            }
            let connected = timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(stream),
                Err(source) => {
                    let to = address.to_string();
                    last = Some(ConnectError::Unreached { to, source });
                }
            }
        }
        Err(last.unwrap_or_else(|| ConnectError::NoAddress {
            host: host.to_string(),
            source: io::ErrorKind::NotFound.into(),
        }))
    }

    async fn addresses(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let looked_up = timeout(CONNECT_TIME_MAX, self.names.addresses(name, port)).await;
        looked_up
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| ConnectError::NoAddress {
                host: name.to_owned(),
                source,
            })
    }

    fn allowed(&self, host: &Host, address: IpAddr) -> Result<(), ConnectError> {
        if self.allow_private_addresses || is_public(address) {
            return Ok(());
        }
        Err(ConnectError::Private {
            host: host.to_string(),
            address,
        })
    }

    async fn through(
        &self,
        proxy: &Place,
        host: &Host,
        to: &str,
    ) -> Result<TcpStream, ConnectError> {
        if let Host::Ip(address) = host {
            self.allowed(host, *address)?;
        }
        let refused = |said: String| ConnectError::Proxy {
            proxy: proxy.to_string(),
            to: to.to_owned(),
            said,
        };
        let asked = timeout(HANDSHAKE_TIME_MAX, ask_proxy(proxy, to)).await;
        asked
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| refused(error.to_string()))
    }
}

/// RFC 9110 §9.3.6. Whatever comes with the answer's head belongs to nobody: the other end of the
/// tunnel speaks second.
async fn ask_proxy(proxy: &Place, to: &str) -> io::Result<TcpStream> {
    let host = match proxy.host() {
        Host::Ip(address) => address.to_string(),
        Host::Dns(name) => name.clone(),
    };
    let mut stream = TcpStream::connect((host, proxy.port().unwrap_or(PROXY_PORT))).await?;
    let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_HEAD_BYTES_MAX {
            return Err(io::Error::other("the answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line.split(' ').nth(1).unwrap_or_default();
    if line.starts_with("HTTP/1.") && status.len() == 3 && status.starts_with('2') {
        return Ok(stream);
    }
    Err(io::Error::other(line.chars().take(100).collect::<String>()))
}

/// One attempt to connect, or one look-up of addresses.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// A TLS handshake, or a proxy's.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// The head of a proxy's answer, in bytes.
const PROXY_HEAD_BYTES_MAX: usize = 8192;

/// Of a proxy whose port nobody names.
const PROXY_PORT: u16 = 3128;
