//! What is known of another server's keys: which counts for a request now, which for an event of
//! some time ago, and when to ask the server again.
//!
//! [`KnownKeys`] is what is kept, also over a restart; [`Pace`] is of this run. Fetching, and
//! checking a signature with the key that is found here, are done elsewhere.

mod pace;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    base::Timestamp,
    wire::{
        json,
        matrix::{KeyId, PublicKey, ServerKeys},
    },
};

pub use pace::{Pace, Wanted};

/// Every key of a server that was heard of from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownKeys {
    keys: BTreeMap<KeyId, Known>,
    /// The last answer as canonical JSON, for those who ask us; empty if it was too long to keep.
    answer: String,
    /// Until when the last answer is believed.
    until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    public: PublicKey,
    /// The last moment for which the server is known to have used it.
    until: Timestamp,
    /// Whether it was among the keys in use when the server was last asked.
    in_use: bool,
    /// Whether another server has told of it, and this one never.
    #[serde(default)]
    heard: bool,
}

/// There is no key for this.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoKey {
    /// The server is not known to have it.
    #[error("the key {0} is not known")]
    Unknown(KeyId),
    /// It is not in use any more, which a request's must be.
    #[error("the key {0} is not in use any more")]
    Retired(KeyId),
    /// What is known of it does not reach that far.
    #[error("the key {id} is known to be valid until {}, not at {}", until.rfc3339(), at.rfc3339())]
    NotThen {
        /// The key.
        id: KeyId,
        /// Until when it is valid.
        until: Timestamp,
        /// When it would have to be.
        at: Timestamp,
    },
    /// No key can be known to be valid so far ahead.
    #[error("no key can be known to be valid at {}, it is {}", at.rfc3339(), now.rfc3339())]
    Future {
        /// When it would have to be valid.
        at: Timestamp,
        /// The time now.
        now: Timestamp,
    },
}

impl NoKey {
    /// Whether the server itself may know better.
    pub const fn is_worth_asking(&self) -> bool {
        !matches!(self, Self::Future { .. })
    }
}

impl KnownKeys {
    /// Takes what the server said just now.
    // spec: server-server §Retrieving-server-keys
    pub fn learn(&mut self, said: &ServerKeys, now: Timestamp) {
        let until = said.valid_until.min(now + LIFETIME_MAX);
        // Its own word is better than what others said of it.
        self.keys.retain(|_, known| !known.heard);
        for known in self.keys.values_mut() {
            known.in_use = false;
            known.until = known.until.min(now);
        }
        for (id, old) in &said.old {
            let known = Known {
                public: old.public,
                until: old.expired.min(now),
                in_use: false,
                heard: false,
            };
            self.keys.insert(id.clone(), known);
        }
        for (id, public) in &said.current {
            let known = Known {
                public: *public,
                until,
                in_use: true,
                heard: false,
            };
            self.keys.insert(id.clone(), known);
        }
        self.remember(said, until);
        self.make_room();
    }

    /// Takes what another server tells that this one said, who knows when.
    ///
    /// It takes nothing back that is known, says nothing against the server's own word, and lets no
    /// key sign requests: who sends one can be asked.
    // spec: server-server §Signing-key-validity
    pub fn hear(&mut self, said: &ServerKeys, now: Timestamp) {
        let until = said.valid_until.min(now + LIFETIME_MAX);
        for (id, old) in &said.old {
            self.heard_of(id, old.public, old.expired.min(now));
        }
        for (id, public) in &said.current {
            self.heard_of(id, *public, until);
        }
        if self.answer.is_empty() || until > self.until {
            self.remember(said, until);
        }
        self.make_room();
    }

    fn heard_of(&mut self, id: &KeyId, public: PublicKey, until: Timestamp) {
        let new = Known {
            public,
            until,
            in_use: false,
            heard: true,
        };
        let known = self.keys.entry(id.clone()).or_insert(new);
        // One that is out of use by the server's own word stays so.
        if known.public == public && (known.in_use || known.heard) {
            known.until = known.until.max(until);
        }
    }

    /// Whether this is signed with a key that the server itself has said it uses.
    pub fn has_signed(&self, said: &ServerKeys) -> bool {
        let mut signed = said.current.iter();
        signed.any(|(id, public)| {
            let known = self.keys.get(id);
            known.is_some_and(|known| known.in_use && known.public == *public)
        })
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn remember(&mut self, said: &ServerKeys, until: Timestamp) {
        self.until = until;
        let answer = json::canonical(&said.object);
        self.answer = if answer.len() <= ANSWER_BYTES_MAX {
            answer
        } else {
            String::new()
        };
    }

    /// The key with which the server may sign a request now.
    pub fn for_request(&self, id: &KeyId, now: Timestamp) -> Result<PublicKey, NoKey> {
        let known = self.known(id)?;
        if !known.in_use {
            return Err(NoKey::Retired(id.clone()));
        }
        known.at(id, now)
    }

    /// The key with which the server may have signed an event of that time.
    // spec: server-server §Signing-key-validity
    pub fn for_event(&self, id: &KeyId, at: Timestamp, now: Timestamp) -> Result<PublicKey, NoKey> {
        if at > now + LIFETIME_MAX {
            return Err(NoKey::Future { at, now });
        }
        self.known(id)?.at(id, at)
    }

    /// The server's last answer, if there is one that is believed until then at least.
    pub fn answer(&self, until: Timestamp) -> Option<&str> {
        (self.until >= until && !self.answer.is_empty()).then_some(&self.answer)
    }

    fn known(&self, id: &KeyId) -> Result<&Known, NoKey> {
        self.keys.get(id).ok_or_else(|| NoKey::Unknown(id.clone()))
    }

    /// Forgets the keys that were out of use first.
    fn make_room(&mut self) {
        while self.keys.len() > KEYS_MAX {
            let idle = self.keys.iter().filter(|(_, known)| !known.in_use);
            let oldest = idle.min_by_key(|(_, known)| known.until);
            let Some(id) = oldest.map(|(id, _)| id.clone()) else {
                return;
            };
            self.keys.remove(&id);
        }
    }
}

impl Known {
    fn at(&self, id: &KeyId, at: Timestamp) -> Result<PublicKey, NoKey> {
        if at <= self.until {
            return Ok(self.public);
        }
        Err(NoKey::NotThen {
            id: id.clone(),
            until: self.until,
            at,
        })
    }
}

/// How long any answer is believed, whatever it says: a stolen key must come to an end.
pub const LIFETIME_MAX: Duration = Duration::from_hours(7 * 24);

/// Keys of one server, at some 150 bytes each. A server that renews its keys at every request must
/// not fill the memory.
const KEYS_MAX: usize = 256;

/// The longest answer kept for others, in bytes: a dozen keys. It is held for thousands of servers.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
