//! Policy servers: which one a room has, whether it vouches for an event, and by which rules this
//! hub does where it is the one.
//!
//! A policy server filters what is said; it does not order it, and replaces no rule of the room.
//!
//! spec: server-server §Policy-Servers

use ruma::{CanonicalJsonObject, OwnedServerName};
use thiserror::Error;

use super::{Room, StateKey};
use crate::wire::matrix::{Glob, KeyId, Pdu, PublicKey, Version};

/// The event type that names a room's policy server.
const POLICY: &str = "m.room.policy";

/// The id of every policy server's key, without `ed25519:`.
pub const POLICY_KEY_VERSION: &str = "policy_server";

/// A room's policy server, as its `m.room.policy` has it. It counts only while one of its users is
/// in the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    /// Whom to ask.
    pub via: OwnedServerName,
    /// What it signs with; not the key that it signs its own events with.
    pub key: PublicKey,
}

impl PolicyServer {
    /// The piece of state that names it.
    pub fn state_key() -> StateKey {
        StateKey::new(POLICY, "")
    }

    /// Reads the content of the event; none where it is not whole.
    pub fn read(content: &CanonicalJsonObject) -> Option<Self> {
        let via = content.get("via")?.as_str()?;
        let keys = content.get("public_keys")?.as_object()?;
        let key = keys.get("ed25519")?.as_str()?;
        // The specification writes them in either alphabet.
        let key = key.replace('-', "+").replace('_', "/");
        Some(Self {
            via: via.try_into().ok()?,
            key: key.parse().ok()?,
        })
    }

    /// Whether an event has to be vouched for: all but the one that names the policy server.
    pub fn is_asked_about(event: &Pdu) -> bool {
        let fields = event.fields();
        fields.kind != POLICY || fields.state_key.as_deref() != Some("")
    }

    /// Whether an event carries this server's signature.
    pub fn vouches_for(&self, event: &Pdu, version: Version) -> bool {
        let id = format!("ed25519:{POLICY_KEY_VERSION}").parse::<KeyId>();
        let id = id.expect("a name of letters and an underscore");
        let Ok(redacted) = event.redacted_json(version) else {
            return false;
        };
        let Ok(object) = serde_json::from_str::<CanonicalJsonObject>(&redacted) else {
            return false;
        };
        self.key
            .verify_object(&object, self.via.as_str(), &id)
            .is_ok()
    }
}

impl Room {
    /// The room's policy server, where its event was learnt.
    pub fn policy_server(&self) -> Option<PolicyServer> {
        PolicyServer::read(&self.state(POLICY, "")?.fields().content)
    }
}

/// By what this hub refuses to vouch for an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRules {
    /// Patterns of user ids.
    pub deny_users: Vec<Glob>,
    /// Patterns of the senders' servers.
    pub deny_servers: Vec<Glob>,
    /// Patterns of event types.
    pub deny_types: Vec<Glob>,
    /// The largest event, in bytes.
    pub event_bytes_max: Option<usize>,
    /// How many events of one user in a minute.
    pub events_per_minute: Option<u32>,
}

/// Why this hub does not vouch for an event.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyRefusal {
    /// The user is not wanted.
    #[error("this room's policy refuses {user}, by {pattern:?}")]
    User {
        /// Who.
        user: String,
        /// The pattern.
        pattern: String,
    },
    /// The user's server is not wanted.
    #[error("this room's policy refuses the server {server}, by {pattern:?}")]
    Server {
        /// Which.
        server: String,
        /// The pattern.
        pattern: String,
    },
    /// Such events are not wanted.
    #[error("this room's policy refuses events of type {kind}, by {pattern:?}")]
    Type {
        /// Which.
        kind: String,
        /// The pattern.
        pattern: String,
    },
    /// It is too large.
    #[error("this room's policy takes events of at most {max} bytes, this one has {bytes}")]
    Size {
        /// What it has.
        bytes: usize,
        /// What it may have.
        max: usize,
    },
    /// The user says too much.
    #[error("this room's policy takes {max} events of a user in a minute")]
    Rate {
        /// How many.
        max: u32,
    },
}

impl PolicyRefusal {
    /// A name that stays.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::User { .. } => "POLICY_USER",
            Self::Server { .. } => "POLICY_SERVER",
            Self::Type { .. } => "POLICY_TYPE",
            Self::Size { .. } => "POLICY_SIZE",
            Self::Rate { .. } => "POLICY_RATE",
        }
    }
}

impl PolicyRules {
    /// Whether an event passes what can be told from itself.
    pub fn check(&self, event: &Pdu) -> Result<(), PolicyRefusal> {
        let fields = event.fields();
        let matching = |patterns: &[Glob], text: &str| {
            let mut patterns = patterns.iter();
            let pattern = patterns.find(|pattern| pattern.matches(text));
            pattern.map(|pattern| pattern.as_str().to_owned())
        };
        if let Some(pattern) = matching(&self.deny_users, fields.sender.as_str()) {
            let user = fields.sender.to_string();
            return Err(PolicyRefusal::User { user, pattern });
        }
        let server = fields.sender.server_name();
        if let Some(pattern) = matching(&self.deny_servers, server.as_str()) {
            let server = server.to_string();
            return Err(PolicyRefusal::Server { server, pattern });
        }
        if let Some(pattern) = matching(&self.deny_types, &fields.kind) {
            let kind = fields.kind.clone();
            return Err(PolicyRefusal::Type { kind, pattern });
        }
        let bytes = event.json().len();
        match self.event_bytes_max {
            Some(max) if bytes > max => Err(PolicyRefusal::Size { bytes, max }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        room::testing::{self, BEN, Table, message},
        wire::matrix::ServerKey,
    };

    fn server(key: &ServerKey) -> PolicyServer {
        PolicyServer {
            via: key.name().clone(),
            key: PublicKey(key.public()),
        }
    }

    #[test]
    fn a_policy_that_is_not_whole_is_none() {
        let key = PublicKey([0xfb; 32]).base64();
        let whole = json!({ "via": "hub", "public_keys": { "ed25519": key } });
        let read = |content| PolicyServer::read(&testing::json(content));
        assert_eq!(read(whole.clone()).unwrap().key, PublicKey([0xfb; 32]));
        let url_safe = key.replace('+', "-").replace('/', "_");
        assert_ne!(url_safe, key);
        let url_safe = json!({ "via": "hub", "public_keys": { "ed25519": url_safe } });
        assert_eq!(read(url_safe), read(whole));
        for content in [
            json!({}),
            json!({ "via": "hub" }),
            json!({ "via": "no name!", "public_keys": { "ed25519": key } }),
            json!({ "via": "hub", "public_keys": { "ed25519": "short" } }),
            json!({ "via": "hub", "public_keys": {} }),
        ] {
            assert_eq!(read(content), None);
        }
    }

    #[test]
    fn only_its_own_signature_vouches() {
        let mut table = Table::busy(Version::V12);
        let event = table.append(BEN, &message("hello"));
        let (key, other) = (testing::policy_key("policy"), testing::policy_key("other"));
        let by_another_id = event
            .countersigned(Version::V12, &testing::key("policy"))
            .unwrap();
        let signed = event.countersigned(Version::V12, &key).unwrap();
        assert_eq!(signed.id(), event.id());
        let vouches = |event: &Pdu| server(&key).vouches_for(event, Version::V12);
        assert!(vouches(&signed));
        assert!(!vouches(&event));
        assert!(
            !vouches(&by_another_id),
            "the id is part of what is asked for"
        );
        assert!(!server(&other).vouches_for(&signed, Version::V12));
    }

    #[test]
    fn rules_say_what_they_refuse_by_what() {
        let mut table = Table::busy(Version::V12);
        let event = table.append(BEN, &message("hello"));
        let none = PolicyRules::default();
        assert_eq!(none.check(&event), Ok(()));
        let globs = |pattern: &str| vec![Glob::new(pattern)];
        for (rules, code) in [
            (
                PolicyRules {
                    deny_users: globs("@b*:hub"),
                    ..none.clone()
                },
                "POLICY_USER",
            ),
            (
                PolicyRules {
                    deny_servers: globs("hu?"),
                    ..none.clone()
                },
                "POLICY_SERVER",
            ),
            (
                PolicyRules {
                    deny_types: globs("m.room.mess*"),
                    ..none.clone()
                },
                "POLICY_TYPE",
            ),
            (
                PolicyRules {
                    event_bytes_max: Some(100),
                    ..none.clone()
                },
                "POLICY_SIZE",
            ),
        ] {
            assert_eq!(rules.check(&event).unwrap_err().code(), code);
        }
    }
}
