//! Which servers this hub has to do with: the operator's lists.
//!
//! What a room says of servers (`m.room.server_acl`) is not here; nor is what becomes of a
//! conversation when a server is taken off a list.

use ruma::ServerName;
use thiserror::Error;

use crate::wire::matrix::{Glob, Place};

/// The operator's lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerList {
    /// Who is allowed; nothing: everyone.
    pub allow: Option<Vec<Glob>>,
    /// Who is refused all the same.
    pub deny: Vec<Glob>,
}

/// A server that this hub has nothing to do with, and the rule that says so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unwelcome {
    /// A pattern of the deny list.
    #[error("`federation.deny` refuses it with {pattern:?}")]
    Denied {
        /// The pattern.
        pattern: String,
    },
    /// No pattern of the allow list.
    #[error("`federation.allow` does not name it")]
    NotAllowed,
}

impl ServerList {
    /// Whether this hub speaks with `server`. A pattern may match the name with or without its port.
    pub fn welcomes(&self, server: &ServerName) -> Result<(), Unwelcome> {
        let host = Place::of(server).map(|place| place.host().to_string());
        let host = host.unwrap_or_default();
        let named = |pattern: &&Glob| pattern.matches(server.as_str()) || pattern.matches(&host);
        if let Some(pattern) = self.deny.iter().find(named) {
            let pattern = pattern.as_str().to_owned();
            return Err(Unwelcome::Denied { pattern });
        }
        match &self.allow {
            Some(allow) if !allow.iter().any(|pattern| named(&pattern)) => {
                Err(Unwelcome::NotAllowed)
            }
            _ => Ok(()),
        }
    }

    /// Why no server at all can pass, as far as that is to be seen from the patterns; nothing where
    /// some can.
    pub fn why_nobody(&self) -> Option<&'static str> {
        let is_all = |pattern: &Glob| {
            let pattern = pattern.as_str();
            !pattern.is_empty() && pattern.chars().all(|c| c == '*')
        };
        if self.deny.iter().any(is_all) {
            return Some("`federation.deny` refuses every server");
        }
        let allow = self.allow.as_ref()?;
        if allow.is_empty() {
            return Some("`federation.allow` is an empty list, which names nobody");
        }
        // Of a pattern with wildcards, some name will be left that no other pattern matches.
        let is_refused = |pattern: &Glob| {
            let name = <&ServerName>::try_from(pattern.as_str());
            !pattern.as_str().contains(['*', '?'])
                && name.is_ok_and(|name| self.welcomes(name).is_err())
        };
        let all_refused = allow.iter().all(is_refused);
        all_refused
            .then_some("`federation.deny` refuses every server that `federation.allow` names")
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name as name;

    use super::*;

    fn globs(patterns: &[&str]) -> Vec<Glob> {
        patterns.iter().map(|pattern| Glob::new(*pattern)).collect()
    }

    #[test]
    fn without_lists_everyone_is_welcome() {
        assert_eq!(ServerList::default().welcomes(name!("a.example")), Ok(()));
    }

    #[test]
    fn deny_goes_before_allow_and_names_its_pattern() {
        let list = ServerList {
            allow: Some(globs(&["*.example", "box.test:8448"])),
            deny: globs(&["evil.*"]),
        };

        assert_eq!(list.welcomes(name!("a.example")), Ok(()));
        assert_eq!(list.welcomes(name!("a.example:8448")), Ok(()));
        assert_eq!(list.welcomes(name!("box.test:8448")), Ok(()));
        assert_eq!(list.welcomes(name!("box.test")), Err(Unwelcome::NotAllowed));
        let pattern = "evil.*".to_owned();
        assert_eq!(
            list.welcomes(name!("evil.example:1")),
            Err(Unwelcome::Denied { pattern })
        );
    }

    #[test]
    fn an_empty_allow_list_allows_nobody() {
        let list = ServerList {
            allow: Some(Vec::new()),
            deny: Vec::new(),
        };
        assert_eq!(
            list.welcomes(name!("a.example")),
            Err(Unwelcome::NotAllowed)
        );
    }
}
