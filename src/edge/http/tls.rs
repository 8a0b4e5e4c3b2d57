//! What the HTTPS door shows in a TLS handshake.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::ServerSessionMemoryCache,
};
use thiserror::Error;

/// Why a certificate and key cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The certificate file.
    #[error("the certificate file does not read as PEM certificates")]
    Certificate(#[source] pem::Error),
    /// No certificate in it.
    #[error("the certificate file holds no certificate")]
    NoCertificate,
    /// The key file.
    #[error("the key file does not read as a PEM private key")]
    Key(#[source] pem::Error),
    /// The two do not belong together, or use what we do not speak.
    #[error("the certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// The handshake for a certificate chain and its key, both in PEM; HTTP/2 preferred.
pub fn server_config(chain_pem: &[u8], key_pem: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(TlsError::Certificate)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(TlsError::Key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Unusable)?;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    config.send_tls13_tickets = 1; // a client resumes one session; a second ticket is bytes
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// HTTP/2 in ALPN.
pub(super) const HTTP2: &[u8] = b"h2";

/// TLS sessions that can be resumed: about a kilobyte each.
const SESSIONS_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_with_its_key_is_taken_and_http_2_preferred() {
        let (chain, key) = made();

        let config = server_config(chain.as_bytes(), key.as_bytes()).unwrap();

        assert_eq!(
            config.alpn_protocols,
            [b"h2".to_vec(), b"http/1.1".to_vec()]
        );
    }

    #[test]
    fn each_unusable_file_has_its_own_error() {
        let (chain, key) = made();
        let (_, other_key) = made();
        let config = |chain: &str, key: &str| server_config(chain.as_bytes(), key.as_bytes());

        assert!(matches!(config("", &key), Err(TlsError::NoCertificate)));
        assert!(matches!(config(&chain, ""), Err(TlsError::Key(_))));
        assert!(matches!(
            config(&chain, &other_key),
            Err(TlsError::Unusable(_))
        ));
        let torn = chain.replace("-----END", "");
        assert!(matches!(
            config(&torn, &key),
            Err(TlsError::Certificate(_) | TlsError::NoCertificate)
        ));
    }
}
