//! Whether an event is its senders': signatures by keys that they had at its time, and its hash.

use std::collections::BTreeSet;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    serde::Base64,
    signatures::{
        PublicKeyMap, VerificationError, Verified, required_server_signatures_to_verify_event,
        verify_event,
    },
};
use thiserror::Error;

use super::{KeyError, KeyRing};
use crate::{
    base::Timestamp,
    wire::matrix::{KeyId, PublicKey, Version},
};

/// An event whose signatures are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// All of it is what was signed.
    Whole,
    /// Its content is not: only what redaction leaves may be used.
    Changed,
}

/// An event that is not to be believed.
#[derive(Debug, Error)]
pub enum EventError {
    /// No integer at `origin_server_ts`.
    #[error("it does not say when it was made")]
    Time,
    /// A server that has to sign it has not, with no key we know of.
    #[error("{server} has not signed it")]
    Unsigned {
        /// The server.
        server: OwnedServerName,
    },
    /// There is no key to check a signature with.
    #[error(transparent)]
    Key(#[from] Box<KeyError>),
    /// A signature is wrong, or the form of the event.
    #[error("{}", forged(.0))]
    Forged(#[from] VerificationError),
}

/// What the libraries say of a wrong signature they say three times.
fn forged(error: &VerificationError) -> String {
    match error {
        VerificationError::Ed25519(_) => {
            "signature verification failed: the signature is not the key's over the event"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// Whose signatures an event needs, and with which of their keys it has some.
#[derive(Clone, Debug)]
pub struct Signers {
    /// When the event says that it was made.
    pub at: Timestamp,
    /// By server, the keys.
    pub servers: Vec<(OwnedServerName, BTreeSet<KeyId>)>,
}

impl Signers {
    /// Of an event of a room of this version.
    // spec: server-server §Signing-events
    pub fn of(event: &CanonicalJsonObject, version: Version) -> Result<Self, EventError> {
        let at = time(event).ok_or(EventError::Time)?;
        let rules = version.rules();
        let servers = required_server_signatures_to_verify_event(event, &rules.signatures)?;
        let signed = |server: OwnedServerName| {
            let keys = signed_with(event, &server);
            (server, keys)
        };
        Ok(Self {
            at,
            servers: servers.into_iter().map(signed).collect(),
        })
    }
}

/// The keys that were found to check an event with.
#[derive(Default)]
struct Found(PublicKeyMap);

impl Found {
    /// Of a server's signatures those with keys that cannot be had are passed over, as long as one
    /// is left.
    fn add(
        &mut self,
        server: OwnedServerName,
        keys: impl IntoIterator<Item = (KeyId, Result<PublicKey, KeyError>)>,
    ) -> Result<(), EventError> {
        let mut missing = None;
        let set = self.0.entry(server.to_string()).or_default();
        for (id, key) in keys {
            match key {
                Ok(key) => {
                    set.insert(id.to_string(), Base64::new(key.0.to_vec()));
                }
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        if set.is_empty() {
            return Err(missing.map_or(EventError::Unsigned { server }, |error| {
                EventError::Key(Box::new(error))
            }));
        }
        Ok(())
    }

    fn check(&self, event: &CanonicalJsonObject, version: Version) -> Result<Checked, EventError> {
        Ok(match verify_event(&self.0, event, version.rules())? {
            Verified::All => Checked::Whole,
            Verified::Signatures => Checked::Changed,
        })
    }
}

impl KeyRing {
    /// Checks the signatures of all servers that have to have signed an event, and its hash.
    ///
    /// Whether the event may be sent by its sender is not looked at.
    // spec: server-server §Signing-events
    pub async fn check_event(
        &self,
        event: &CanonicalJsonObject,
        version: Version,
    ) -> Result<Checked, EventError> {
        let Signers { at, servers } = Signers::of(event, version)?;
        let mut found = Found::default();
        for (server, ids) in servers {
            let mut keys = Vec::with_capacity(ids.len());
            for id in ids {
                let key = self.for_event(&server, &id, at).await;
                keys.push((id, key));
            }
            found.add(server, keys)?;
        }
        found.check(event, version)
    }

    /// The same with keys that are held: nobody is asked, and nothing waits.
    pub fn check_event_with_held(
        &self,
        event: &CanonicalJsonObject,
        version: Version,
    ) -> Result<Checked, EventError> {
        let Signers { at, servers } = Signers::of(event, version)?;
        let mut found = Found::default();
        for (server, ids) in servers {
            let keys: Vec<_> = ids
                .into_iter()
                .map(|id| {
                    let key = self.held_for_event(&server, &id, at);
                    (id, key)
                })
                .collect();
            found.add(server, keys)?;
        }
        found.check(event, version)
    }
}

/// With which keys a server has signed something, the first few.
pub(super) fn signed_with(event: &CanonicalJsonObject, server: &ServerName) -> BTreeSet<KeyId> {
    let inner = |value: Option<&CanonicalJsonValue>, key: &str| match value {
        Some(CanonicalJsonValue::Object(members)) => members.get(key).cloned(),
        _ => None,
    };
    let by_server = inner(event.get("signatures"), server.as_str());
    let Some(CanonicalJsonValue::Object(by_server)) = by_server else {
        return BTreeSet::new();
    };
    let ids = by_server.keys().filter_map(|id| id.parse().ok());
    ids.take(SIGNATURES_MAX).collect()
}

fn time(event: &CanonicalJsonObject) -> Option<Timestamp> {
    match event.get("origin_server_ts")? {
        CanonicalJsonValue::Integer(ms) => u64::try_from(i64::from(*ms)).ok().map(Timestamp),
        _ => None,
    }
}

/// Signatures of one server that are looked at: each may have its server asked for a key.
const SIGNATURES_MAX: usize = 4;
