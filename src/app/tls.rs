//! The doors' certificates: read from files, and replaced by a reload without dropping anyone.

mod validity;

pub use self::validity::{Validity, is_self_issued, validity};

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::sync::watch;

use super::config::{Coaps, Https};
use crate::{edge::credential_file::ShownCertificate, session::dtls};

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The certificate file.
    #[error("`{section}.cert_file`: {}: {reason}", path.display())]
    Chain {
        /// The section that names it.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key file.
    #[error("`{section}.key_file`: {}: {reason}", path.display())]
    Key {
        /// The section that names it.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// DTLS cannot use them.
    #[error("`coaps.key_file`: {}: {source}; `coaps.cert_file` and `coaps.key_file` name a pair, `coaps.listen = \"off\"` needs none", path.display())]
    Dtls {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: Box<dtls::ConfigError>,
    },
    /// The two do not belong together.
    #[error("`https.cert_file` and `https.key_file` do not belong together: {0}")]
    Pair(#[source] rustls::Error),
}

/// The certificate in use; new connections get the newest.
#[derive(Debug)]
pub struct Certificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads the files that the configuration names.
    pub fn read(https: &Https) -> Result<Self, CertificateError> {
        Self::from_files(https.cert_file.as_ref(), https.key_file.as_ref())
    }

    /// Reads a chain and its key.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let current = RwLock::new(Arc::new(certified_key(chain, key)?));
        Ok(Self { current })
    }

    /// Takes what the files hold now. What was in use stays when they are wrong.
    pub fn reload(&self, https: &Https) -> Result<(), CertificateError> {
        let new = certified_key(https.cert_file.as_ref(), https.key_file.as_ref())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }
}

impl Certificate {
    /// When it counts, and whether it is good for a name; what is no certificate is neither.
    pub fn looked_at(&self, name: &rustls::pki_types::ServerName<'_>) -> (Option<Validity>, bool) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let Some(leaf) = current.cert.first() else {
            return (None, false);
        };
        let is_good = ParsedCertificate::try_from(leaf)
            .is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, name).is_ok());
        (validity(leaf), is_good)
    }

    /// Whether nobody vouches for it but itself, as for the one that `init` makes.
    pub fn is_self_issued(&self) -> bool {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current
            .cert
            .first()
            .is_some_and(|leaf| is_self_issued(leaf))
    }

    /// What a linked device has to know of the certificate in use.
    pub fn shown(&self) -> Option<ShownCertificate> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let leaf = current.cert.first()?;
        let spki = ParsedCertificate::try_from(leaf)
            .ok()?
            .subject_public_key_info();
        let hash = Sha256::digest(spki.as_ref());
        let key_hash = hash.first_chunk().copied()?;
        // Authorities sign through an intermediate: who shows one certificate signed it himself.
        let pem = (current.cert.len() == 1).then(|| pem(leaf));
        Some(ShownCertificate { key_hash, pem })
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let body = STANDARD.encode(certificate);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in body.as_bytes().chunks(PEM_LINE_CHARS) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// RFC 7468 §2.
const PEM_LINE_CHARS: usize = 64;

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

fn certified_key(chain: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let (chain, key) = pair("https", chain, key)?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(CertificateError::Pair)
}

/// What the DTLS door shows; whoever subscribes is told when it is another.
pub type DtlsCertificate = watch::Sender<dtls::Certificate>;

/// What the DTLS door shows: the first certificate of its file, since it shows no chain.
pub fn for_dtls(coaps: &Coaps) -> Result<dtls::Certificate, CertificateError> {
    let (chain, key) = pair("coaps", coaps.cert_file.as_ref(), coaps.key_file.as_ref())?;
    let leaf = chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
    let certificate = dtls::Certificate::new(leaf, key.secret_der());
    certificate
        .is_usable()
        .map_err(|error| CertificateError::Dtls {
            path: coaps.key_file.as_ref().to_owned(),
            source: Box::new(error),
        })?;
    Ok(certificate)
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn pair(section: &'static str, chain: &Path, key: &Path) -> Result<Pair, CertificateError> {
    let chain_error = |reason: String| CertificateError::Chain {
        section,
        path: chain.to_owned(),
        reason,
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|error| chain_error(error.to_string()))?;
    if certificates.is_empty() {
        return Err(chain_error("no certificate in it".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| CertificateError::Key {
        section,
        path: key.to_owned(),
        reason: error.to_string(),
    })?;
    Ok((certificates, private))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

    use super::*;

    /// One handshake in memory, by a client that trusts `root` and asks for `name`.
    pub(in crate::app) fn handshake(
        server: &Arc<rustls::ServerConfig>,
        root: &Path,
        name: &str,
    ) -> io::Result<()> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(root).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire)?;
            server.read_tls(&mut wire.as_slice())?;
            server.process_new_packets().map_err(io::Error::other)?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire)?;
            client.read_tls(&mut wire.as_slice())?;
            client.process_new_packets().map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (cert, key) = (dir.join("cert"), dir.join("key"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key)
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cert, _) = pair(a.path(), "a.example");
        let (_, key) = pair(b.path(), "b.example");

        let error = Certificate::from_files(&cert, &key).unwrap_err();

        assert!(matches!(error, CertificateError::Pair(_)), "{error}");
    }

    #[test]
    fn a_missing_certificate_names_its_setting() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.pem");

        let error = Certificate::from_files(&missing, &missing).unwrap_err();

        assert!(error.to_string().contains("https.cert_file"), "{error}");
    }
}
