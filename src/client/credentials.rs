//! The credential file: who a device is, and where its hub is.

use std::{fmt, fs, io::Write as _, os::unix::fs::OpenOptionsExt, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::client::{Target, TargetError, plain, target::HttpsTarget};

/// A device's credentials, as the credential file has them. Parts not yet built are absent.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    version: u32,
    /// The user.
    pub user_id: String,
    /// The device.
    pub device_id: String,
    /// The access token; empty after a logout.
    #[serde(default)]
    pub access_token: String,
    /// The hub.
    pub server: ServerInfo,
    /// The security context of OSCORE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oscore: Option<OscoreKeys>,
    /// The static keys of EDHOC, from which a fresh OSCORE context is agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edhoc: Option<EdhocKeys>,
    /// The pre-shared key of DTLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psk: Option<PskKeys>,
    /// The raw public keys of QUIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic: Option<QuicKeys>,
    /// What another version of this program wrote: kept when the file is written again.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// The OSCORE context as the device holds it; bytes are in hex.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OscoreKeys {
    /// Common secret.
    pub master_secret: String,
    /// Common salt.
    pub master_salt: String,
    /// What the device puts into kid.
    pub sender_id: String,
    /// What the hub's own kid is.
    pub recipient_id: String,
    /// The context id, when there is one.
    #[serde(default)]
    pub id_context: Option<String>,
    /// `AES-CCM-16-64-128`.
    pub aead: String,
    /// `SHA-256`.
    pub hkdf: String,
}

/// The static P-256 keys of EDHOC; bytes are in hex.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdhocKeys {
    /// The device's private key, 32 bytes; made on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_key: Option<String>,
    /// The x coordinate of the hub's public key.
    pub hub_key: String,
    /// What the hub knows the device's key by.
    pub kid: String,
}

/// The pre-shared key of DTLS.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PskKeys {
    /// Whose key it is.
    pub identity: String,
    /// The key, in hex; its bytes are printable.
    pub key: String,
}

/// The raw public keys of QUIC; bytes are in hex.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuicKeys {
    /// The hub's `SubjectPublicKeyInfo`, where it serves QUIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_spki: Option<String>,
    /// The device's private key as PKCS#8; made on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
}

macro_rules! shown_without_secrets {
    ($($name:ident),*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        })*
    };
}
shown_without_secrets!(OscoreKeys, EdhocKeys, PskKeys, QuicKeys);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} on {})", self.user_id, self.device_id) // no token in logs
    }
}

/// Where the hub is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its server name.
    #[serde(default)]
    pub name: String,
    /// `host:port` of HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<String>,
    /// `host:port` of CoAP over plain UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coap: Option<String>,
    /// `host:port` of CoAP over DTLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coaps: Option<String>,
    /// `host:port` of CoAP over QUIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic: Option<String>,
    /// Certificates to trust, as PEM.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// What another version of this program wrote: kept when the file is written again.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// A credential file that cannot be used.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// It cannot be read or written.
    #[error("{path}: {}", plain::io(.source))]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a credential file.
    #[error("{path} is not a credential file: {source}")]
    Format {
        /// The file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// It is of another version.
    #[error("{path} has version {found}; this program reads version 1")]
    Version {
        /// The file.
        path: String,
        /// What it says.
        found: u32,
    },
    /// Its session was ended.
    #[error(
        "{path} is logged out; {}",
        if *.is_linked {
            "link it again: `tramline client approve` on another device makes a code, and `tramline client link CODE --out NEWFILE --server URL` takes it".to_owned()
        } else {
            format!("sign in again with --login URL USER --save {path}")
        }
    )]
    LoggedOut {
        /// The file.
        path: String,
        /// Whether it is that of a linked device.
        is_linked: bool,
    },
    /// It names no door this program can use.
    #[error("{path} names neither an https nor a coap address")]
    NoDoor {
        /// The file.
        path: String,
    },
    /// The door it names cannot be used.
    #[error("{path}: {source}")]
    Door {
        /// The file.
        path: String,
        /// Why.
        source: TargetError,
    },
}

impl Credentials {
    /// Credentials of a session; the server is filled in by whoever knows it.
    pub fn new(user_id: String, device_id: String, access_token: String) -> Self {
        Self {
            version: 1,
            user_id,
            device_id,
            access_token,
            server: ServerInfo::default(),
            oscore: None,
            edhoc: None,
            psk: None,
            quic: None,
            others: Map::new(),
        }
    }

    /// Reads a credential file.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| CredentialsError::Io {
            path: name.clone(),
            source,
        })?;
        let read: Self =
            serde_json::from_str(&text).map_err(|source| CredentialsError::Format {
                path: name.clone(),
                source,
            })?;
        if read.version != 1 {
            return Err(CredentialsError::Version {
                path: name,
                found: read.version,
            });
        }
        if read.access_token.is_empty() {
            let is_linked = read.oscore.is_some() || read.edhoc.is_some();
            return Err(CredentialsError::LoggedOut {
                path: name,
                is_linked,
            });
        }
        Ok(read)
    }

    /// Whether this is a credential file without a session: nothing is lost with it.
    pub fn is_logged_out(path: &Path) -> bool {
        matches!(Self::read(path), Err(CredentialsError::LoggedOut { .. }))
    }

    /// Takes the access token out of a credential file; everything else in it stays.
    pub fn forget_token(path: &Path) -> Result<(), CredentialsError> {
        let name = path.display().to_string();
        let io = |source| CredentialsError::Io {
            path: name.clone(),
            source,
        };
        let path = fs::canonicalize(path).map_err(io)?;
        let text = fs::read_to_string(&path).map_err(io)?;
        let mut file: Map<String, Value> =
            serde_json::from_str(&text).map_err(|source| CredentialsError::Format {
                path: name.clone(),
                source,
            })?;
        file.remove("access_token");
        let text = serde_json::to_string_pretty(&file).expect("a map of JSON is always JSON");
        // Beside it and then in its place: a full disk must not leave half a file.
        let dir = path.parent().unwrap_or_else(|| Path::new("/"));
        let mut fresh = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
        writeln!(fresh, "{text}").map_err(io)?;
        fresh.as_file().sync_all().map_err(io)?;
        fresh.persist(&path).map_err(|error| io(error.error))?;
        Ok(())
    }

    /// Writes a new credential file that only its owner can read; never over an old one, unless
    /// that is logged out.
    pub fn write(&self, path: &Path) -> Result<(), CredentialsError> {
        let io = |source| CredentialsError::Io {
            path: path.display().to_string(),
            source,
        };
        let text = serde_json::to_string_pretty(self)
            .expect("a struct of strings and options is always JSON");
        if Self::is_logged_out(path) {
            fs::remove_file(path).map_err(io)?;
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        writeln!(file, "{text}")
            .and_then(|()| file.sync_all())
            .map_err(io)
    }

    /// The door these credentials lead to: CoAP first, for it is the smaller one.
    pub fn target(&self, path: &Path) -> Result<Target, CredentialsError> {
        let path = || path.display().to_string();
        let unusable = |source| CredentialsError::Door {
            path: path(),
            source,
        };
        if let Some(coap) = &self.server.coap {
            return Target::parse(&format!("coap://{coap}"), None).map_err(unusable);
        }
        let no_door = || CredentialsError::NoDoor { path: path() };
        let https = self.server.https.as_ref().ok_or_else(no_door)?;
        Target::parse(&format!("https://{https}"), self.server.ca_pem.as_deref()).map_err(unusable)
    }

    /// Notes where the hub was reached.
    pub fn reached(&mut self, target: &Target) {
        match target {
            Target::Coap(address) => self.server.coap = Some(address.to_string()),
            Target::Https(HttpsTarget { host, port, ca_pem }) => {
                self.server.https = Some(format!("{host}:{port}"));
                self.server.ca_pem.clone_from(ca_pem);
            }
        }
        if let Some((_, name)) = self.user_id.split_once(':') {
            name.clone_into(&mut self.server.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Credentials, CredentialsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ana.json");
        fs::write(&path, bytes).unwrap();
        Credentials::read(&path)
    }

    #[test]
    fn a_file_without_its_token_is_logged_out_and_may_be_replaced() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ana.json");
        let of =
            |token: &str| Credentials::new("@ana:h".to_owned(), "D".to_owned(), token.to_owned());
        of("planted-secret").write(&path).unwrap();
        assert!(of("other").write(&path).is_err());

        Credentials::forget_token(&path).unwrap();

        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("planted-secret"), "{text}");
        assert!(text.contains("@ana:h"), "{text}");
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let said = Credentials::read(&path).unwrap_err().to_string();
        assert!(said.contains("logged out; sign in again"), "{said}");
        of("fresh").write(&path).unwrap();
        assert_eq!(Credentials::read(&path).unwrap().access_token, "fresh");
    }

    #[test]
    fn a_linked_device_that_is_logged_out_is_to_be_linked_again() {
        let file = br#"{"version": 1, "user_id": "@ana:h", "device_id": "TAB", "server": {},
            "edhoc": {"hub_key": "00", "kid": "0a"}}"#;

        let said = read(file).unwrap_err().to_string();

        assert!(said.contains("link it again: "), "{said}");
        assert!(said.contains("tramline client link"), "{said}");
        assert!(!said.contains("--login"), "{said}");
    }

    #[test]
    fn a_linked_devices_file_is_written_again_with_what_it_does_not_know() {
        let file = serde_json::json!({
            "version": 1, "user_id": "@ana:h", "device_id": "D", "access_token": "t",
            "server": {"name": "h", "coap": "h:5683", "coaps": "h:5684", "quic": "h:8449",
                "ca_pem": null, "later": 7},
            "oscore": {"master_secret": "00", "master_salt": "01", "sender_id": "02",
                "recipient_id": "", "id_context": null, "aead": "AES-CCM-16-64-128",
                "hkdf": "SHA-256"},
            "edhoc": {"device_key": "03", "hub_key": "04", "kid": "05"},
            "psk": {"identity": "ana", "key": "06"},
            "quic": {"server_spki": "07", "client_key": "08"},
            "later": {"things": [1]},
        });
        let read = read(file.to_string().as_bytes()).unwrap();

        assert_eq!(serde_json::to_value(&read).unwrap(), file);
        let shown = format!("{:?} {:?} {:?}", read.oscore, read.psk, read.edhoc);
        assert!(!shown.contains("06"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_credential_file_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = read(&bytes);
        }

        #[test]
        fn whatever_a_credential_file_says_of_the_hub_leads_to_a_door_or_to_an_error(
            version in 0..3_u32, https in "\\PC{0,12}|[a-z0-9:\\[\\]]{0,12}", ca_pem in "\\PC{0,4}",
        ) {
            let text = serde_json::json!({
                "version": version, "user_id": "@ana:hub.example", "device_id": "D",
                "access_token": "planted-secret", "server": {"https": https, "ca_pem": ca_pem},
            });
            let credentials = read(text.to_string().as_bytes());

            prop_assert_eq!(credentials.is_ok(), version == 1);
            if let Ok(credentials) = credentials {
                let shown = format!("{credentials:?}");
                prop_assert!(!shown.contains("planted-secret"));
                let _ = credentials.target(Path::new("ana.json"));
            }
        }
    }
}
