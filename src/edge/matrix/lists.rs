//! The operator's lists, which a reload replaces, and which version of them is in force.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use ruma::ServerName;
use sha2::{Digest as _, Sha256};

use crate::{
    api::Why,
    session::server_list::{ServerList, Unwelcome},
};

/// Which lists: how often they changed since the hub's start, from 1, and a hash of what they say, by
/// which two hubs, or two starts, are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListVersion {
    number: u64,
    hash: [u8; HASH_BYTES],
}

impl ListVersion {
    /// The hash alone: the number means something in the process whose reloads it counts.
    pub fn hash(&self) -> String {
        hex::encode(self.hash)
    }
}

impl fmt::Display for ListVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number, self.hash())
    }
}

/// A server that the lists keep out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barred {
    /// The rule.
    pub rule: Unwelcome,
    /// Of which lists.
    pub version: ListVersion,
}

impl Barred {
    /// The same for the operator.
    pub fn why(&self) -> Why {
        let code = match self.rule {
            Unwelcome::Denied { .. } => "FEDERATION_DENY",
            Unwelcome::NotAllowed => "FEDERATION_ALLOW",
        };
        let mut why = Why::of(code).rule(self.rule.to_string());
        why.list = Some(self.version.to_string());
        why
    }
}

/// The lists in force.
#[derive(Debug)]
pub struct Lists(RwLock<InForce>);

#[derive(Clone, Debug)]
struct InForce {
    list: Arc<ServerList>,
    version: ListVersion,
}

impl Lists {
    /// Lists to begin with.
    pub fn new(list: ServerList) -> Arc<Self> {
        let version = version(1, &list);
        let list = Arc::new(list);
        Arc::new(Self(RwLock::new(InForce { list, version })))
    }

    /// Whether this hub speaks with a server.
    pub fn check(&self, server: &ServerName) -> Result<(), Barred> {
        let InForce { list, version } = self.in_force();
        list.welcomes(server)
            .map_err(|rule| Barred { rule, version })
    }

    /// Which are in force.
    pub fn version(&self) -> ListVersion {
        self.in_force().version
    }

    /// Takes new ones. Where they say the same, they are the same version.
    pub fn replace(&self, list: ServerList) -> ListVersion {
        let mut in_force = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if *in_force.list == list {
            return in_force.version;
        }
        in_force.version = version(in_force.version.number.saturating_add(1), &list);
        in_force.list = Arc::new(list);
        in_force.version
    }

    fn in_force(&self) -> InForce {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn version(number: u64, list: &ServerList) -> ListVersion {
    let mut hash = Sha256::new();
    let allow = list.allow.as_ref();
    hash.update(if allow.is_some() { "allow\n" } else { "" });
    for pattern in allow.into_iter().flatten() {
        hash.update(format!("{}\n", pattern.as_str()));
    }
    hash.update("deny\n");
    for pattern in &list.deny {
        hash.update(format!("{}\n", pattern.as_str()));
    }
    let hash = hash.finalize();
    let hash = hash.first_chunk().copied().unwrap_or_default();
    ListVersion { number, hash }
}

/// Enough to tell one operator's lists apart.
const HASH_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use ruma::server_name as name;

    use super::*;
    use crate::wire::matrix::Glob;

    #[test]
    fn each_change_has_a_number_and_equal_lists_an_equal_hash() {
        let deny = || ServerList {
            allow: None,
            deny: vec![Glob::new("evil.*")],
        };
        let lists = Lists::new(deny());
        let first = lists.version();

        let barred = lists.check(name!("evil.example")).unwrap_err();
        assert_eq!(
            lists.replace(deny()),
            first,
            "a reload that changes nothing"
        );
        let second = lists.replace(ServerList::default());
        let third = lists.replace(deny());

        assert_eq!(barred.version, first);
        let why = barred.why();
        assert_eq!(why.code, Some("FEDERATION_DENY"));
        assert!(why.rule.is_some_and(|rule| rule.contains("\"evil.*\"")));
        assert_eq!(why.list, Some(first.to_string()));
        assert_eq!((first.number, second.number, third.number), (1, 2, 3));
        assert!(first.hash == third.hash && first.hash != second.hash);
    }
}
