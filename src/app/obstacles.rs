//! What keeps a hub from taking a configuration of which every value is well formed: files that are
//! not there or do not fit, a store of another hub.
//!
//! It is found with the code that reloads and starts; nothing is made or changed. Whether addresses are
//! free is not looked at: the hub that runs has them.

use std::path::Path;

use super::{
    config::Config,
    edhoc_key::EdhocKey,
    failure::Failure,
    federation,
    keys::{self, SigningKey},
    open::{self, NotOwned},
    reload::Tokens,
    tls::{self, Certificate, CertificateError},
};

/// One thing that is in the way.
#[derive(Clone, Debug)]
pub struct Obstacle {
    /// What it is.
    pub failure: Failure,
    /// What it is in the way of.
    pub to: Step,
    /// What mends it, where there is more to say than the failure does.
    pub mend: Option<String>,
}

/// How a configuration is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// By a reload, and so by a start.
    Reload,
    /// By a start alone.
    Start,
}

/// What keeps `next` from being taken by a hub that has `running`.
pub async fn find(next: &Config, running: &Config) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut see = |to, failure: Option<Failure>| {
        found.extend(failure.map(|failure| Obstacle {
            failure,
            to,
            mend: None,
        }));
    };
    see(Step::Reload, Tokens::read(next).err());
    // A reload reads the pairs of the doors that are open, a start those of the doors it opens.
    let of_door = |is_open: bool, opens: bool| match (is_open, opens) {
        (true, _) => Some(Step::Reload),
        (false, true) => Some(Step::Start),
        (false, false) => None,
    };
    let certificate = |error: CertificateError| Failure::usage("CERTIFICATE", error);
    let listens = |config: &Config| !config.https.listen.addresses().is_empty();
    if let Some(step) = of_door(listens(running), listens(next)) {
        see(step, Certificate::read(&next.https).err().map(certificate));
    }
    let listens = |config: &Config| !config.coaps.listen.addresses().is_empty();
    if let Some(step) = of_door(listens(running), listens(next)) {
        see(step, tls::for_dtls(&next.coaps).err().map(certificate));
    }
    for failure in made_keys(next) {
        see(Step::Start, Some(failure));
    }
    if next.federation.enabled {
        see(Step::Start, federation::authorities(&next.federation).err());
    }
    match SigningKey::read(next.signing_key_file.as_ref()) {
        Ok(key) => {
            if let Err(NotOwned { failure, mend }) = open::is_owned(next, key.note()).await {
                found.push(Obstacle {
                    failure,
                    to: Step::Start,
                    mend,
                });
            }
        }
        Err(failure) => see(Step::Start, Some(failure)),
    }
    found
}

/// What is wrong with keys that are made where they are not there yet.
fn made_keys(next: &Config) -> Vec<Failure> {
    let there = |path: &Path| path.exists();
    let edhoc: &Path = next.edhoc_key_file.as_ref();
    let quic: &Path = next.quic.key_file.as_ref();
    let policy: &Path = next.policy.key_file.as_ref();
    let mut wrong = Vec::new();
    if there(edhoc) {
        wrong.extend(EdhocKey::read_or_make(edhoc).err());
    }
    if there(quic) && !next.quic.listen.addresses().is_empty() {
        wrong.extend(keys::quic_key(quic).err());
    }
    if there(policy) && next.policy.enabled {
        wrong.extend(keys::policy_key(policy, &next.server_name).err());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{
        config::{Inputs, load},
        init,
    };

    async fn told(text: &str) -> Vec<(String, Step)> {
        let dir = tempfile::tempdir().unwrap();
        init::init("hub.example", dir.path()).unwrap();
        let file = dir.path().join("tramline.toml");
        open::create(&file).await.unwrap();
        let inputs = Inputs {
            file: Some(file.clone()),
            ..Inputs::default()
        };
        let running = load(&inputs).unwrap().config;
        let name = "server_name = \"hub.example\"\n";
        let text = if text.contains("server_name") {
            text.to_owned()
        } else {
            format!("{name}{text}")
        };
        std::fs::write(&file, text).unwrap();
        let next = load(&inputs).unwrap().config;
        let found = find(&next, &running).await;
        let said = |one: &Obstacle| (one.failure.to_string(), one.to);
        found.iter().map(said).collect()
    }

    #[tokio::test]
    async fn what_a_reload_or_a_start_would_refuse_is_said_before() {
        assert_eq!(told("").await, []);
        for (text, code, step) in [
            ("https.cert_file = \"none\"", "CERTIFICATE", Step::Reload),
            (
                "https.key_file = \"keys/signing.pem\"",
                "CERTIFICATE",
                Step::Reload,
            ),
            (
                "registration.token_file = \"none\"",
                "registration.token_file",
                Step::Reload,
            ),
            (
                "server_name = \"other.example\"",
                "STORE_OF_ANOTHER_SERVER",
                Step::Start,
            ),
            (
                "federation.enabled = true\nfederation.ca_file = \"none\"",
                "FEDERATION_CA",
                Step::Start,
            ),
            (
                "signing_key_file = \"none\"",
                "signing_key_file",
                Step::Start,
            ),
        ] {
            let found = told(text).await;
            let [(said, to)] = &found[..] else {
                panic!("{text}: {found:?}")
            };
            assert!(said.contains(code), "{text}: {said}");
            assert_eq!(*to, step, "{text}: {said}");
        }
    }
}
