//! The TLS handshake of the HTTPS door. Which certificate it shows is decided by whoever opens it.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ResolvesServerCert, ServerSessionMemoryCache},
};

/// The handshake with the certificate that `certificate` gives; HTTP/2 preferred.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    config.send_tls13_tickets = 1; // a client resumes one session; a second ticket is bytes
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// HTTP/2 in ALPN.
pub(super) const HTTP2: &[u8] = b"h2";

/// TLS sessions that can be resumed: about a kilobyte each.
const SESSIONS_MAX: usize = 8192;
