//! The handshake of the QUIC door: who the hub is, and which device the client is, by its key alone.
//!
//! A device's public key is the name it is looked up by, bare (RFC 7250) or in a certificate it
//! signed itself; what else a certificate says does not matter. A key that no device has ends the
//! handshake. Session tickets carry the key along, so a resumed session is looked up again by the door.

use std::{fmt, sync::Arc};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        WebPkiSupportedAlgorithms, ring, verify_tls13_signature,
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        AlwaysResolvesServerRawPublicKeys, ParsedCertificate, ResolvesServerCert,
        ServerSessionMemoryCache,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use thiserror::Error;

use super::hello::ByHello;
use crate::api::{DeviceName, Links};

/// The ALPN of clients with raw public keys. Private names, both: no document defines CoAP over QUIC.
pub const ALPN_RAW_KEYS: &[u8] = b"tramline-thin/1";
/// The ALPN of clients that speak X.509 only.
pub const ALPN_X509: &[u8] = b"tramline-x509/1";

/// Why the hub cannot show itself.
#[derive(Debug, Error)]
pub enum KeyError {
    /// No key that TLS can use.
    #[error("no usable key: {0}")]
    Key(#[source] TlsError),
    /// The provider has lost a suite that QUIC needs.
    #[error("the TLS provider cannot do QUIC: {0}")]
    Suite(#[source] NoInitialCipherSuite),
}

/// The hub's key for raw-key clients, which pin its public half.
#[derive(Clone)]
pub struct HubKey {
    key: Arc<CertifiedKey>,
}

impl HubKey {
    /// Takes an Ed25519 key in PKCS#8.
    pub fn new(key: &PrivateKeyDer<'_>) -> Result<Self, KeyError> {
        let key = ring::sign::any_supported_type(key).map_err(KeyError::Key)?;
        let spki = key.public_key().ok_or_else(|| {
            KeyError::Key(TlsError::General("the key has no public half".to_owned()))
        })?;
        let chain = vec![CertificateDer::from(spki.to_vec())];
        Ok(Self {
            key: Arc::new(CertifiedKey::new(chain, key)),
        })
    }

    /// Its public half as `SubjectPublicKeyInfo`: what a device is told when it is linked.
    pub fn spki(&self) -> &[u8] {
        self.key.cert.first().map_or(&[], |spki| spki.as_ref())
    }
}

impl fmt::Debug for HubKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubKey(…)")
    }
}

/// Both handshakes on one port.
pub(super) fn server_crypto(
    key: &HubKey,
    certificate: Option<Arc<dyn ResolvesServerCert>>,
    links: &Arc<dyn Links>,
) -> Result<ByHello, KeyError> {
    let raw_keys = Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&key.key)));
    let x509 = certificate.map(|shown| config(shown, Form::X509, links));
    Ok(ByHello {
        raw_keys: config(raw_keys, Form::RawKey, links)?,
        x509: x509.transpose()?,
    })
}

fn config(
    shown: Arc<dyn ResolvesServerCert>,
    form: Form,
    links: &Arc<dyn Links>,
) -> Result<Arc<QuicServerConfig>, KeyError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = LinkedKeys {
        links: Arc::clone(links),
        form,
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(KeyError::Key)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![form.alpn().to_vec()];
    // Early data needs sessions that the hub holds itself, each good for one ticket: what is replayed
    // within a process finds its session gone.
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    config.send_tls13_tickets = 1;
    config.max_early_data_size = u32::MAX; // the only value that QUIC allows, beside none
    let config = QuicServerConfig::try_from(config).map_err(KeyError::Suite)?;
    Ok(Arc::new(config))
}

/// Sessions that can be resumed: about a kilobyte each.
const SESSIONS_MAX: usize = 8192;

/// How a client shows its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    RawKey,
    X509,
}

impl Form {
    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::RawKey => ALPN_RAW_KEYS,
            Self::X509 => ALPN_X509,
        }
    }

    /// The key in what the client showed.
    fn spki(
        self,
        shown: &CertificateDer<'_>,
    ) -> Result<SubjectPublicKeyInfoDer<'static>, TlsError> {
        match self {
            Self::RawKey => Ok(SubjectPublicKeyInfoDer::from(shown.to_vec())),
            Self::X509 => {
                ParsedCertificate::try_from(shown).map(|parsed| parsed.subject_public_key_info())
            }
        }
    }
}

/// The device whose key a client has shown, in either form.
pub(super) fn device_of(
    links: &dyn Links,
    shown: &[CertificateDer<'_>],
    alpn: &[u8],
) -> Option<DeviceName> {
    let form = if alpn == ALPN_X509 {
        Form::X509
    } else {
        Form::RawKey
    };
    let spki = form.spki(shown.first()?).ok()?;
    links.spki(&spki)
}

/// Lets in who holds the key of a linked device.
struct LinkedKeys {
    links: Arc<dyn Links>,
    form: Form,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for LinkedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkedKeys({:?})", self.form)
    }
}

impl ClientCertVerifier for LinkedKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let spki = self.form.spki(shown)?;
        let device = self.links.spki(&spki);
        device
            .map(|_| ClientCertVerified::assertion())
            .ok_or(TlsError::InvalidCertificate(
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
        match self.form {
            Form::X509 => verify_tls13_signature(message, shown, signed, &self.algorithms),
            Form::RawKey => {
                let spki = SubjectPublicKeyInfoDer::from(shown.as_ref());
                verify_tls13_signature_with_raw_key(message, &spki, signed, &self.algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.form == Form::RawKey
    }
}
