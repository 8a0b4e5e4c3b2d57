//! Matrix federation: this hub among other Matrix servers.
//!
//! Here is who we are: our keys and those of others ([`keys`]), requests to other servers
//! ([`outgoing`]), and who sends one to us ([`incoming`]). [`Federation`] holds them together, is
//! made once by `app`, and is what the hub reaches other servers by (`remote`).
//!
//! ```text
//! outgoing.ask(server, &Ask::put(uri, &content))      found, connected to, signed, bounded
//! keys.for_request(server, key id)                    cached, or fetched once for all who wait
//! keys.check_event(&object, version)                  signatures by keys of its time, then its hash
//! incoming.authenticate(address, arrived)             the server that sent a request, or a refusal
//! ```

pub mod endpoint;
pub mod incoming;
pub mod keys;
mod lists;
pub mod outgoing;
mod remote;
#[cfg(test)]
mod tests;
mod turns;
mod waiting;

use std::{collections::BTreeMap, sync::Arc};

use ruma::OwnedServerName;
use rustls::RootCertStore;
use tokio::sync::Semaphore;

pub use self::lists::{Barred, ListVersion, Lists};
use self::{
    incoming::Incoming,
    keys::{KeyRing, Pinned},
    outgoing::{Names, Outgoing},
};
use crate::{
    api::PeerKeys,
    base::{Clock, Rng},
    wire::matrix::{KeyId, OldKey, Place, ServerKey},
};

/// What federation is made of.
pub struct Parts {
    /// Who we are.
    pub key: Arc<ServerKey>,
    /// The keys we signed with before.
    pub old_keys: BTreeMap<KeyId, OldKey>,
    /// With whom we speak.
    pub lists: Arc<Lists>,
    /// The keys of servers whose own word for them is not taken.
    pub pinned: Pinned,
    /// Who is believed about the keys of servers that cannot be asked.
    pub notaries: Vec<OwnedServerName>,
    /// Whether so is who tells of a room, about servers that were never heard of.
    pub believes_tellers: bool,
    /// Whom to believe when a server shows its certificate.
    pub roots: RootCertStore,
    /// Whether servers may be in private networks and on this machine.
    pub allow_private_addresses: bool,
    /// Through which proxy to connect.
    pub proxy: Option<Place>,
    /// Who knows names.
    pub names: Arc<dyn Names>,
    /// Where keys are kept over a restart; none: nowhere.
    pub kept: Option<Arc<dyn PeerKeys>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Box<dyn Rng + Send>,
}

/// This hub among other servers.
pub struct Federation {
    /// Requests to others.
    pub outgoing: Arc<Outgoing>,
    /// Everyone's keys.
    pub keys: Arc<KeyRing>,
    /// Requests of others.
    pub incoming: Incoming,
    /// With whom we speak.
    pub lists: Arc<Lists>,
    /// How many pieces of work there may be at a time that check others' events.
    checks: Arc<Semaphore>,
}

impl Federation {
    /// Puts it together; nobody is asked anything.
    pub fn new(parts: Parts) -> Result<Arc<Self>, rustls::Error> {
        let outgoing = Arc::new(Outgoing::new(outgoing::Parts {
            key: Arc::clone(&parts.key),
            lists: Arc::clone(&parts.lists),
            roots: parts.roots,
            allow_private_addresses: parts.allow_private_addresses,
            proxy: parts.proxy,
            names: parts.names,
            clock: Arc::clone(&parts.clock),
            rng: parts.rng,
        })?);
        let keys = Arc::new(KeyRing::new(keys::Parts {
            ours: parts.key,
            old: parts.old_keys,
            pinned: parts.pinned,
            notaries: parts.notaries,
            believes_tellers: parts.believes_tellers,
            outgoing: Arc::clone(&outgoing),
            kept: parts.kept,
            clock: parts.clock,
        }));
        Ok(Arc::new(Self {
            outgoing,
            incoming: Incoming::new(Arc::clone(&keys), Arc::clone(&parts.lists)),
            keys,
            lists: parts.lists,
            checks: Arc::new(Semaphore::new(remote::CHECKS_MAX)),
        }))
    }
}
