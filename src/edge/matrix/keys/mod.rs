//! The key ring: our own keys as we publish them, and those of other servers, fetched from them and
//! remembered.
//!
//! What counts for what is `session::keyring`'s business. Here keys are fetched: once for all who
//! wait for the same server, only so often, only so many at a time. Whoever names a server makes us
//! ask it, and must not be able to make us ask a thousand. Where a server cannot be asked any more,
//! others may be, by the rules of `notaries`.

mod events;
mod notaries;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use thiserror::Error;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    outgoing::{Ask, AskError, Outgoing},
    turns::Turns,
};
use crate::{
    api::PeerKeys,
    base::{Clock, Timestamp},
    session::keyring::{KnownKeys, NoKey, Pace, Wanted},
    wire::{
        json,
        matrix::{KeyId, OldKey, PublicKey, ServerKey, ServerKeys, ServerKeysError, publish},
    },
};

pub use events::{Checked, EventError, Signers};
pub use notaries::Missing;

/// Keys by server that the operator has written down.
pub type Pinned = BTreeMap<OwnedServerName, BTreeMap<KeyId, PublicKey>>;

/// What a key ring is made of.
pub struct Parts {
    /// Who we are.
    pub ours: Arc<ServerKey>,
    /// The keys we signed with before.
    pub old: BTreeMap<KeyId, OldKey>,
    /// The keys of servers whose own word for them is not taken.
    pub pinned: Pinned,
    /// Who is believed about the keys of others.
    pub notaries: Vec<OwnedServerName>,
    /// Whether so is who tells of a room, about servers that were never heard of.
    pub believes_tellers: bool,
    /// The way to others.
    pub outgoing: Arc<Outgoing>,
    /// Where keys are kept over a restart.
    pub kept: Option<Arc<dyn PeerKeys>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Everyone's keys.
pub struct KeyRing {
    parts: Parts,
    held: Mutex<HashMap<OwnedServerName, Held>>,
    turns: Turns,
    fetches: Semaphore,
}

#[derive(Clone, Default)]
struct Held {
    keys: KnownKeys,
    pace: Pace,
    /// How asking others for them went.
    heard: Pace,
    used: Timestamp,
}

/// There is no key to check a signature with.
#[derive(Debug, Error)]
#[error("no key of {server}: {reason}{}", because(.asked))]
pub struct KeyError {
    /// Whose key.
    pub server: OwnedServerName,
    /// What is wrong with what is known.
    pub reason: KeyReason,
    /// What came of asking the server.
    pub asked: Asked,
}

/// What is wrong with what is known of a server's keys.
#[derive(Debug, Error)]
pub enum KeyReason {
    /// None for this.
    #[error(transparent)]
    No(#[from] NoKey),
    /// The operator has written other keys down.
    #[error("`federation.pinned_keys` has other keys for it than {0}")]
    Pinned(KeyId),
}

/// What came of asking a server for its keys.
#[derive(Debug)]
pub enum Asked {
    /// It was not: it could not know better, or was asked a moment ago.
    NotNow,
    /// Too many servers are being asked.
    Crowded,
    /// It has told its keys, and this one is not among them.
    Told,
    /// It has not.
    Failed(FetchError),
}

impl KeyError {
    /// What whoever sent what is to be checked is told: whose key, and what is wrong with what is
    /// known of it. Whoever names a server may not learn from us what is at its name: what came of
    /// asking it is the operator's alone.
    pub fn told(&self) -> String {
        format!("no key of {}: {}", self.server, self.reason)
    }
}

fn because(asked: &Asked) -> String {
    match asked {
        Asked::NotNow => String::new(),
        Asked::Crowded => " (too many servers are being asked for theirs)".to_owned(),
        Asked::Told => " (it was asked just now)".to_owned(),
        Asked::Failed(error) => format!(" (asking for it: {error})"),
    }
}

/// A server did not tell its keys.
#[derive(Debug, Error)]
pub enum FetchError {
    /// It did not answer, or refused.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Its answer gives no keys.
    #[error(transparent)]
    Keys(#[from] ServerKeysError),
}

/// What a key is wanted for.
#[derive(Clone, Copy)]
enum Use {
    Request,
    Event(Timestamp),
}

impl KeyRing {
    /// A ring that holds nothing yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            held: Mutex::default(),
            turns: Turns::default(),
            fetches: Semaphore::new(FETCHES_MAX),
        }
    }

    /// The time.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.parts.clock)
    }

    /// Who we are.
    pub fn name(&self) -> &ServerName {
        self.parts.ours.name()
    }

    /// What we publish of our own keys, signed now.
    // spec: server-server §Retrieving-server-keys
    pub fn ours(&self) -> CanonicalJsonObject {
        let until = self.parts.clock.now() + OURS_VALID;
        publish(&self.parts.ours, &self.parts.old, until)
            .expect("names, keys and times can be written as JSON")
    }

    /// What is held of another server's answer that is valid until then, with our signature beside
    /// its own. Nobody is asked for it.
    pub async fn vouched(
        &self,
        server: &ServerName,
        until: Option<Timestamp>,
    ) -> Option<CanonicalJsonObject> {
        if server == self.name() {
            return Some(self.ours());
        }
        let held = match self.held(server) {
            Some(held) => held,
            None => self.load(server).await,
        };
        // What is not valid any more is still of use to who checks events of its time.
        let answer = held.keys.answer(until.unwrap_or(Timestamp(0)))?;
        let mut object = json::read_object(answer.as_bytes()).ok()?;
        self.parts.ours.sign_object(&mut object).ok()?;
        Some(object)
    }

    /// The key with which `server` may sign a request now.
    pub async fn for_request(
        &self,
        server: &ServerName,
        id: &KeyId,
    ) -> Result<PublicKey, KeyError> {
        self.find(server, id, Use::Request).await
    }

    /// Whether that key is at hand: nobody has to be asked for it.
    pub fn is_held_for_request(&self, server: &ServerName, id: &KeyId) -> bool {
        let used = Use::Request;
        self.written(server, id, used).is_some() || self.look_among_held(server, id, used).is_ok()
    }

    /// The key with which `server` may have signed an event of that time.
    // spec: server-server §Signing-key-validity
    pub async fn for_event(
        &self,
        server: &ServerName,
        id: &KeyId,
        at: Timestamp,
    ) -> Result<PublicKey, KeyError> {
        self.find(server, id, Use::Event(at)).await
    }

    /// The same among those that are held; nobody is asked.
    #[expect(clippy::result_large_err, reason = "as where the server is asked")]
    pub(super) fn held_for_event(
        &self,
        server: &ServerName,
        id: &KeyId,
        at: Timestamp,
    ) -> Result<PublicKey, KeyError> {
        let used = Use::Event(at);
        let found = self.written(server, id, used).unwrap_or_else(|| {
            let held = self.look_among_held(server, id, used);
            held.map_err(Into::into)
        });
        found.map_err(|reason| KeyError {
            server: server.to_owned(),
            reason,
            asked: Asked::NotNow,
        })
    }

    async fn find(
        &self,
        server: &ServerName,
        id: &KeyId,
        used: Use,
    ) -> Result<PublicKey, KeyError> {
        let fail = |reason: KeyReason, asked| KeyError {
            server: server.to_owned(),
            reason,
            asked,
        };
        if let Some(written) = self.written(server, id, used) {
            return written.map_err(|reason| fail(reason, Asked::NotNow));
        }
        match self.look_among_held(server, id, used) {
            Ok(key) => return Ok(key),
            Err(reason) if reason.is_worth_asking() => {}
            Err(reason) => return Err(fail(reason.into(), Asked::NotNow)),
        }
        let (held, asked) = self.ask(server, id, used).await;
        self.look(&held.keys, id, used)
            .map_err(|reason| fail(reason.into(), asked))
    }

    /// The keys about which nobody is asked: ours, and those that are written down.
    fn written(
        &self,
        server: &ServerName,
        id: &KeyId,
        used: Use,
    ) -> Option<Result<PublicKey, KeyReason>> {
        if server == self.name() {
            return Some(self.own(id, used).map_err(Into::into));
        }
        let keys = self.parts.pinned.get(server)?;
        let key = keys.get(id).copied();
        Some(key.ok_or_else(|| KeyReason::Pinned(id.clone())))
    }

    fn own(&self, id: &KeyId, used: Use) -> Result<PublicKey, NoKey> {
        let unknown = || NoKey::Unknown(id.clone());
        if *id == self.parts.ours.key_id() {
            return Ok(PublicKey(self.parts.ours.public()));
        }
        let old = self.parts.old.get(id).ok_or_else(unknown)?;
        match used {
            Use::Request => Err(NoKey::Retired(id.clone())),
            Use::Event(at) if at <= old.expired => Ok(old.public),
            Use::Event(at) => Err(NoKey::NotThen {
                id: id.clone(),
                until: old.expired,
                at,
            }),
        }
    }

    fn look(&self, keys: &KnownKeys, id: &KeyId, used: Use) -> Result<PublicKey, NoKey> {
        let now = self.parts.clock.now();
        match used {
            Use::Request => keys.for_request(id, now),
            Use::Event(at) => keys.for_event(id, at, now),
        }
    }

    /// Most keys are here: they are found without a copy of anything but the key.
    fn look_among_held(
        &self,
        server: &ServerName,
        id: &KeyId,
        used: Use,
    ) -> Result<PublicKey, NoKey> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held.get_mut(server);
        let found = found.ok_or_else(|| NoKey::Unknown(id.clone()))?;
        found.used = self.parts.clock.now();
        self.look(&found.keys, id, used)
    }

    fn held(&self, server: &ServerName) -> Option<Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held.get_mut(server)?;
        found.used = self.parts.clock.now();
        Some(found.clone())
    }

    /// Asks the server, unless someone else just has, or it is too early.
    async fn ask(&self, server: &ServerName, id: &KeyId, used: Use) -> (Held, Asked) {
        let _turn = self.turns.of(server.as_str()).await;
        let mut held = match self.held(server) {
            Some(held) => held,
            None => self.load(server).await,
        };
        let wanted = match used {
            Use::Request => Wanted::ForRequest,
            Use::Event(_) => Wanted::ForEvent,
        };
        let is_known = self.look(&held.keys, id, used).is_ok();
        if is_known || !held.pace.is_due(wanted, self.parts.clock.now()) {
            return (held, Asked::NotNow);
        }
        let place = timeout(CROWD_TIME_MAX, self.fetches.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return (held, Asked::Crowded);
        };
        // Whoever made us ask may be gone before there is an answer, and ends this with it. Then it
        // was a failure: else one could make us ask for ever.
        let mut in_vain = held.clone();
        in_vain.pace.asked(false, self.parts.clock.now());
        self.hold(server, in_vain);
        let fetched = self.fetch(server).await;
        let now = self.parts.clock.now();
        // a server that the lists refuse was not asked, and may come off them any moment
        if !matches!(&fetched, Err(FetchError::Ask(AskError::Unwelcome { .. }))) {
            held.pace.asked(fetched.is_ok(), now);
        }
        let asked = match fetched {
            Ok(keys) => {
                held.keys.learn(&keys, now);
                self.keep(server, &held.keys).await;
                Asked::Told
            }
            Err(error) => {
                tracing::debug!(%server, %error, "its keys could not be fetched");
                Asked::Failed(error)
            }
        };
        self.hold(server, held.clone());
        (held, asked)
    }

    async fn fetch(&self, server: &ServerName) -> Result<ServerKeys, FetchError> {
        let ask = Ask::get("/_matrix/key/v2/server")
            .unsigned()
            .answer_bytes_max(KEYS_BYTES_MAX)
            .within(FETCH_TIME_MAX);
        let told = self.parts.outgoing.ask(server, &ask).await?;
        told.object()?; // a refusal says more than that it has no keys
        Ok(ServerKeys::read(&told.body, server)?)
    }

    /// What was kept of a server before we started.
    async fn load(&self, server: &ServerName) -> Held {
        let mut held = Held {
            used: self.parts.clock.now(),
            ..Held::default()
        };
        let Some(kept) = &self.parts.kept else {
            return held;
        };
        match kept.kept(server).await {
            Ok(Some(keys)) => {
                held.keys = keys;
                self.hold(server, held.clone());
            }
            Ok(None) => {}
            Err(refusal) => tracing::warn!(%server, %refusal, "its keys could not be read"),
        }
        held
    }

    async fn keep(&self, server: &ServerName, keys: &KnownKeys) {
        if let Some(kept) = &self.parts.kept
            && let Err(refusal) = kept.keep(server, keys).await
        {
            tracing::warn!(%server, %refusal, "its keys could not be kept");
        }
    }

    fn hold(&self, server: &ServerName, new: Held) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= SERVERS_MAX && !held.contains_key(server) {
            let oldest = held.iter().min_by_key(|(_, held)| held.used);
            if let Some(oldest) = oldest.map(|(server, _)| server.clone()) {
                held.remove(&oldest);
            }
        }
        held.insert(server.to_owned(), new);
    }
}

/// For how long we want our own answer believed. A key of ours that is stolen is of use for as long.
const OURS_VALID: Duration = Duration::from_hours(24);

/// Servers whose keys are held in memory, at some kilobyte each.
const SERVERS_MAX: usize = 10_000;

/// Servers that are asked at a time.
const FETCHES_MAX: usize = 32;

/// How long to wait for a place among them.
const CROWD_TIME_MAX: Duration = Duration::from_secs(10);

/// From finding a server to the end of its answer.
const FETCH_TIME_MAX: Duration = Duration::from_secs(20);

/// An answer with keys, in bytes: two hundred keys of each kind.
const KEYS_BYTES_MAX: usize = 64 * 1024;
