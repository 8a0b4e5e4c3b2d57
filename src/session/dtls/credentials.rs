//! What either side proves itself with: certificates, pre-shared keys and their owners' names.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dimpl::{DtlsCertificate, PskResolver};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::types::ConfigError;
use crate::base::Timestamp;

/// Whom a pre-shared key belongs to: bytes that its giver chose and nobody reads anything into.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub Vec<u8>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.escape_ascii())
    }
}

/// A pre-shared key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes a key.
    pub fn new(key: impl Into<Vec<u8>>) -> Self {
        Self(key.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)") // a secret must not reach a log
    }
}

/// Where the keys of known devices are. Asked in the middle of a handshake: it must answer at
/// once, from memory.
pub trait PskSource: Send + Sync + 'static {
    /// The key of `identity`, if there is such a device and it is not revoked.
    fn key(&self, identity: &[u8]) -> Option<Secret>;

    /// Whether there is no key at all. Then a client that could do both is shown a certificate.
    fn is_empty(&self) -> bool {
        false
    }
}

/// An ECDSA certificate and its key. Only this one certificate is shown, no chain: the library
/// sends none.
#[derive(Clone)]
pub struct Certificate(pub(super) DtlsCertificate);

impl Certificate {
    /// From DER; the key as PKCS#8 or SEC1.
    pub fn new(certificate: impl Into<Vec<u8>>, private_key: impl Into<Vec<u8>>) -> Self {
        Self(DtlsCertificate {
            certificate: certificate.into(),
            private_key: private_key.into(),
        })
    }

    /// Whether a server can show it.
    pub fn is_usable(&self) -> Result<(), ConfigError> {
        let library = dimpl::Config::builder().build();
        self.check(&library.map_err(ConfigError::Library)?)
    }

    /// The library takes a bad key with a panic; so it never gets one.
    pub(super) fn check(&self, config: &dimpl::Config) -> Result<(), ConfigError> {
        if self.0.certificate.is_empty() {
            return Err(ConfigError::NoCertificate);
        }
        let provider = config.crypto_provider().key_provider;
        provider
            .load_private_key(&self.0.private_key)
            .map(drop)
            .map_err(ConfigError::PrivateKey)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(…)")
    }
}

/// The library's way to ask for keys. It does not say afterwards whose key a connection used, so
/// the name is left here while the library works, and taken right after.
pub(super) struct Resolver {
    source: AssertUnwindSafe<Arc<dyn PskSource>>,
    last: Mutex<Option<Identity>>,
}

impl Resolver {
    pub(super) fn new(source: Arc<dyn PskSource>) -> Self {
        Self {
            source: AssertUnwindSafe(source),
            last: Mutex::new(None),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// Whose key was given out since the last call.
    pub(super) fn take(&self) -> Option<Identity> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.take()
    }
}

impl PskResolver for Resolver {
    fn resolve(&self, identity: &[u8]) -> Option<Vec<u8>> {
        let Secret(key) = self.source.key(identity)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Identity(identity.to_vec()));
        Some(key)
    }
}

/// What a client makes of a server's certificate.
pub trait LeafCheck: Send + 'static {
    /// Whether to go on with the server that showed `leaf`, in DER.
    fn is_trusted(&self, now: Timestamp, leaf: &[u8]) -> bool;
}

/// Trusts one certificate: the one somebody handed over.
#[derive(Clone, Debug)]
pub struct Pinned(
    /// In DER.
    pub Vec<u8>,
);

impl LeafCheck for Pinned {
    fn is_trusted(&self, _: Timestamp, leaf: &[u8]) -> bool {
        self.0 == leaf
    }
}

/// Trusts a certificate for one name that an authority signed itself, without others between.
#[derive(Debug)]
pub struct Anchored {
    verifier: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl Anchored {
    /// `authorities` in DER; a certificate that is its own authority will do.
    pub fn new(authorities: &[Vec<u8>], name: &str) -> Result<Self, ConfigError> {
        let anchor = |error: &dyn fmt::Display| ConfigError::Anchor(error.to_string());
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(CertificateDer::from(authority.clone()))
                .map_err(|error| anchor(&error))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| anchor(&error))?;
        let name = ServerName::try_from(name.to_owned()).map_err(|error| anchor(&error))?;
        Ok(Self { verifier, name })
    }
}

impl LeafCheck for Anchored {
    fn is_trusted(&self, now: Timestamp, leaf: &[u8]) -> bool {
        let leaf = CertificateDer::from(leaf);
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
        self.verifier
            .verify_server_cert(&leaf, &[], &self.name, &[], now)
            .is_ok()
    }
}
