//! Federation as it is configured.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock, Weak},
};

use async_trait::async_trait;
use ruma::ServerName;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    clock::{self, SystemClock},
    config::{self, Config},
    failure::Failure,
    keys,
};
use crate::{
    api::{Nobody, PeerKeys, Refusal, Remote},
    edge::{
        matrix::{Federation, Lists, Parts, outgoing::SystemNames},
        wake,
    },
    hub::Hub,
    session::keyring::KnownKeys,
    wire::matrix::{KeyId, OldKey, ServerKey},
};

/// The hub that keeps others' keys; none before it runs. It is made of what needs it.
#[derive(Default)]
pub struct Keeper(OnceLock<Weak<Hub>>);

impl Keeper {
    /// The hub runs.
    pub fn is(&self, hub: &Arc<Hub>) {
        let _ = self.0.set(Arc::downgrade(hub)); // there is one
    }

    fn hub(&self) -> Option<Arc<Hub>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

#[async_trait]
impl PeerKeys for Keeper {
    async fn kept(&self, server: &ServerName) -> Result<Option<KnownKeys>, Refusal> {
        match self.hub() {
            Some(hub) => hub.kept(server).await,
            None => Ok(None),
        }
    }

    async fn keep(&self, server: &ServerName, keys: &KnownKeys) -> Result<(), Refusal> {
        match self.hub() {
            Some(hub) => hub.keep(server, keys).await,
            None => Ok(()),
        }
    }
}

/// This hub among other servers; nothing where federation is off.
pub fn open(
    config: &Config,
    key: &Arc<ServerKey>,
    keeper: Arc<Keeper>,
) -> Result<Option<Arc<Federation>>, Failure> {
    let federation = &config.federation;
    if !federation.enabled {
        return Ok(None);
    }
    let parts = Parts {
        key: Arc::clone(key),
        old_keys: old_keys(federation, key)?,
        lists: Lists::new(federation.lists()),
        pinned: federation
            .pinned_keys
            .as_ref()
            .map(|pinned| pinned.0.clone())
            .unwrap_or_default(),
        notaries: federation
            .notaries
            .as_ref()
            .map(|notaries| notaries.0.clone())
            .unwrap_or_default(),
        believes_tellers: federation.believe_tellers,
        roots: roots(federation)?,
        allow_private_addresses: federation.allow_private_addresses,
        proxy: federation.proxy.as_ref().map(|proxy| proxy.0.clone()),
        names: Arc::new(SystemNames::new()),
        kept: Some(keeper),
        clock: Arc::new(SystemClock::new()),
        rng: Box::new(clock::rng()),
    };
    Federation::new(parts)
        .map(Some)
        .map_err(|error| Failure::failed("FEDERATION", error))
}

/// The keys that were used before; never the one in use, which a rotation that broke off names, too.
fn old_keys(
    federation: &config::Federation,
    key: &ServerKey,
) -> Result<BTreeMap<KeyId, OldKey>, Failure> {
    let mut old = keys::old(federation)?;
    old.remove(&key.key_id());
    Ok(old)
}

/// Other servers as the hub sees them; nobody where federation is off.
pub fn remote(federation: Option<&Arc<Federation>>) -> Arc<dyn Remote> {
    match federation {
        Some(federation) => Arc::clone(federation) as Arc<dyn Remote>,
        None => Arc::new(Nobody),
    }
}

/// What `/.well-known/matrix/server` says; nothing where federation is off.
pub fn well_known(config: &Config) -> Option<String> {
    let server = config.federation.well_known.as_ref()?;
    config.federation.enabled.then(|| server.0.to_string())
}

/// By whom certificates of other servers are believed, for people.
pub struct Authorities {
    system: usize,
    added: Option<(usize, String)>,
}

impl Authorities {
    /// Whether there is nobody.
    pub const fn is_empty(&self) -> bool {
        self.system == 0 && self.added.is_none()
    }
}

impl fmt::Display for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the system's {} roots", self.system)?;
        match &self.added {
            Some((count, file)) => write!(f, " and the {count} of {file} (`federation.ca_file`)"),
            None => f.write_str(" alone: `federation.ca_file` names no others"),
        }
    }
}

/// By whom certificates of other servers are believed.
pub fn authorities(federation: &config::Federation) -> Result<Authorities, Failure> {
    let system = wake::native_roots().len();
    let all = roots(federation)?.len();
    let file = federation.ca_file.as_ref();
    let added = file.map(|file| (all.saturating_sub(system), file.0.display().to_string()));
    Ok(Authorities { system, added })
}

/// The system's roots, and those that the operator adds.
fn roots(federation: &config::Federation) -> Result<rustls::RootCertStore, Failure> {
    let mut roots = wake::native_roots();
    let Some(file) = &federation.ca_file else {
        return Ok(roots);
    };
    let wrong = |reason: String| {
        let file = file.0.display();
        Failure::usage(
            "FEDERATION_CA",
            format!("`federation.ca_file`: {file}: {reason}"),
        )
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(&file.0)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::{Inputs, load};

    fn configured(options: &[String]) -> Config {
        let mut all = vec!["server_name=hub.example".to_owned()];
        all.extend_from_slice(options);
        let inputs = Inputs {
            options: all,
            ..Inputs::default()
        };
        load(&inputs).unwrap().config
    }

    #[test]
    fn a_file_of_roots_that_holds_none_names_its_setting() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = configured(&[format!("federation.ca_file={}", file.path().display())]);

        let failure = roots(&config.federation).unwrap_err().to_string();

        assert!(failure.contains("`federation.ca_file`"), "{failure}");
    }

    #[test]
    fn a_well_known_file_is_served_only_while_federation_is_on() {
        let named = "federation.well_known=hub.example:443".to_owned();
        let enabled = "federation.enabled=true".to_owned();

        assert_eq!(well_known(&configured(std::slice::from_ref(&named))), None);
        assert_eq!(
            well_known(&configured(std::slice::from_ref(&enabled))),
            None
        );
        let both = well_known(&configured(&[enabled, named]));
        assert_eq!(both.as_deref(), Some("hub.example:443"));
    }
}
