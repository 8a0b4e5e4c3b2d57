//! `[policy]`: this hub as the policy server of rooms that name it.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::{
    key::section,
    value::{Count, FilePath, Raw, Size, Value},
};
use crate::{room::PolicyRules, wire::matrix::Glob};

section! {
    /// This hub as the policy server of rooms that name it in `m.room.policy`: compliant servers ask it to sign each event before they send it. Its key is at /.well-known/matrix/policy_server.
    "policy." Policy {
        /// Whether it signs events when it is asked to.
        enabled: bool = "false", Restart;
        /// The Ed25519 key that it signs them with, in PEM; another one than the hub's own. It is made where there is none.
        key_file: FilePath = "keys/policy.pem", Restart;
        /// Whose events it does not sign, as patterns of user ids like "@*spam*:*".
        deny_users: Option<TextPatterns> = "", Live;
        /// Of which servers' users, as patterns like "*.example".
        deny_servers: Option<TextPatterns> = "", Live;
        /// Of which types, as patterns like "m.call.*".
        deny_types: Option<TextPatterns> = "", Live;
        /// The largest event that it signs; unset, any that is an event.
        event_size: Option<Size> = "", Live;
        /// How many events of one user it signs in a minute; unset, any number.
        events_per_minute: Option<Count<1, 100_000>> = "", Live;
    }
}

impl Policy {
    /// The rules, as those who go by them take them.
    pub fn rules(&self) -> PolicyRules {
        let globs = |patterns: &Option<TextPatterns>| {
            let patterns = patterns.as_ref();
            patterns.map_or_else(Vec::new, |patterns| patterns.0.clone())
        };
        let bytes = |size: &Size| usize::try_from(size.0).unwrap_or(usize::MAX);
        PolicyRules {
            deny_users: globs(&self.deny_users),
            deny_servers: globs(&self.deny_servers),
            deny_types: globs(&self.deny_types),
            event_bytes_max: self.event_size.as_ref().map(bytes),
            events_per_minute: self.events_per_minute.as_ref().map(|count| count.0),
        }
    }
}

/// Patterns over any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPatterns(pub Vec<Glob>);

impl Value for TextPatterns {
    const KIND: &'static str = "list of patterns";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let patterns = raw.texts()?.into_iter().map(|text| {
            if text.is_empty()
                || text
                    .chars()
                    .any(|char| char.is_whitespace() || char.is_control())
            {
                return Err(format!(
                    "{text:?} can match nothing; write patterns: [\"*.example\"]"
                ));
            }
            Ok(Glob::new(text))
        });
        patterns.collect::<Result<_, _>>().map(Self)
    }

    fn json(&self) -> Json {
        json!(self.0.iter().map(Glob::as_str).collect::<Vec<_>>())
    }
}
