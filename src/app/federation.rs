//! Federation as it is configured.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    clock::{self, SystemClock},
    config::{self, Config},
    failure::Failure,
};
use crate::{
    edge::{
        matrix::{Federation, Lists, Parts, outgoing::SystemNames},
        wake,
    },
    wire::matrix::ServerKey,
};

/// This hub among other servers; nothing where federation is off.
pub fn open(config: &Config, key: &Arc<ServerKey>) -> Result<Option<Arc<Federation>>, Failure> {
    let federation = &config.federation;
    if !federation.enabled {
        return Ok(None);
    }
    let parts = Parts {
        key: Arc::clone(key),
        old_keys: federation
            .old_keys
            .as_ref()
            .map(|old| old.0.clone())
            .unwrap_or_default(),
        lists: Lists::new(federation.lists()),
        pinned: federation
            .pinned_keys
            .as_ref()
            .map(|pinned| pinned.0.clone())
            .unwrap_or_default(),
        roots: roots(federation)?,
        allow_private_addresses: federation.allow_private_addresses,
        proxy: federation.proxy.as_ref().map(|proxy| proxy.0.clone()),
        names: Arc::new(SystemNames::new()),
        kept: None,
        clock: Arc::new(SystemClock::new()),
        rng: Box::new(clock::rng()),
    };
    Federation::new(parts)
        .map(Some)
        .map_err(|error| Failure::failed("FEDERATION", error))
}

/// What `/.well-known/matrix/server` says; nothing where federation is off.
pub fn well_known(config: &Config) -> Option<String> {
    let server = config.federation.well_known.as_ref()?;
    config.federation.enabled.then(|| server.0.to_string())
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
