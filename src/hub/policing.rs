//! This hub as the policy server of rooms, and as one that asks those of others.
//!
//! What is vouched for stays so: the decision on an event of another server is kept by its id. Our
//! own users' events are vouched for on their way into the room, and keep the signature.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use ruma::{OwnedUserId, UserId, api::federation::policy::sign_event};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::{
    api::{PeerCommand, PeerReply, Remote, RemoteError},
    base::Timestamp,
    room::{PolicyRefusal, PolicyRules, PolicyServer},
    wire::matrix::{Pdu, PublicKey, ServerKey, Version},
};

/// How long a policy server may think about an event of ours or of others.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many users' events are counted at once; beyond it, those of minutes past are forgotten.
const COUNTED_MAX: usize = 65_536;

/// An event is not vouched for.
#[derive(Clone, Debug, Error)]
pub enum NotVouchedFor {
    /// By this hub's rules.
    #[error(transparent)]
    Refused(#[from] PolicyRefusal),
    /// By another server, in its words, or it does not answer.
    #[error("the room's policy server: {0}")]
    Elsewhere(#[from] RemoteError),
    /// What another server sent is no signature of the key that the room names.
    #[error("the room's policy server {0} sent no signature of the key that the room names")]
    Signature(String),
    /// The event cannot carry one.
    #[error("the event cannot carry the policy server's signature: {0}")]
    Event(String),
}

/// How this hub vouches, and who is asked where others do.
pub struct Policing {
    key: Option<Arc<ServerKey>>,
    rules: RwLock<Arc<PolicyRules>>,
    counted: Mutex<HashMap<OwnedUserId, (u64, u32)>>,
    remote: Arc<dyn Remote>,
}

impl Policing {
    /// Vouches with this key, whose version is [`POLICY_KEY_VERSION`](crate::room::POLICY_KEY_VERSION),
    /// if there is one.
    pub fn new(key: Option<Arc<ServerKey>>, rules: PolicyRules, remote: Arc<dyn Remote>) -> Self {
        Self {
            key,
            rules: RwLock::new(Arc::new(rules)),
            counted: Mutex::default(),
            remote,
        }
    }

    /// Takes new rules. What was decided stays.
    pub fn reconfigure(&self, rules: PolicyRules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Whether a room's policy server is this hub, by the key that it has now.
    pub fn is_ours(&self, server: &PolicyServer) -> bool {
        let ours = |key: &Arc<ServerKey>| {
            *key.name() == server.via && PublicKey(key.public()) == server.key
        };
        self.key.as_ref().is_some_and(ours)
    }

    /// Decides on an event, and gives it with our signature.
    pub fn vouch(
        &self,
        event: &Pdu,
        version: Version,
        now: Timestamp,
    ) -> Result<Pdu, NotVouchedFor> {
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        rules.check(event)?;
        if let Some(max) = rules.events_per_minute
            && self.count(&event.fields().sender, now) > max
        {
            return Err(PolicyRefusal::Rate { max }.into());
        }
        self.signed(event, version)
    }

    /// An event with our signature.
    pub fn signed(&self, event: &Pdu, version: Version) -> Result<Pdu, NotVouchedFor> {
        let Some(key) = &self.key else {
            return Err(NotVouchedFor::Event(
                "this hub has no policy key".to_owned(),
            ));
        };
        let signed = event.countersigned(version, key);
        signed.map_err(|error| NotVouchedFor::Event(error.to_string()))
    }

    /// Asks another policy server, and gives the event with its signature.
    pub async fn ask(
        &self,
        server: &PolicyServer,
        event: &Pdu,
        version: Version,
    ) -> Result<Pdu, NotVouchedFor> {
        let wrong = |error: &dyn std::fmt::Display| NotVouchedFor::Event(error.to_string());
        let pdu = RawValue::from_string(event.json().to_string()).map_err(|error| wrong(&error))?;
        let asked = PeerCommand::PolicySign(Box::new(sign_event::v1::Request::new(pdu)));
        let answer = self.remote.ask(&server.via, asked, PATIENCE).await?;
        let no_signature = || NotVouchedFor::Signature(server.via.to_string());
        let PeerReply::PolicySign(answer) = answer else {
            return Err(no_signature());
        };
        let signature = answer.ed25519_signature(&server.via);
        let signature = signature.ok_or_else(no_signature)?;
        let signed = event.signed_by(&server.via, "ed25519:policy_server", signature);
        let signed = signed.map_err(|error| wrong(&error))?;
        if !server.vouches_for(&signed, version) {
            return Err(no_signature());
        }
        Ok(signed)
    }

    fn count(&self, user: &UserId, now: Timestamp) -> u32 {
        let minute = now.0 / 60_000;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= COUNTED_MAX {
            counted.retain(|_, (then, _)| *then == minute);
        }
        if counted.len() >= COUNTED_MAX && !counted.contains_key(user) {
            return u32::MAX; // that many users in a minute are a flood
        }
        let entry = counted.entry(user.to_owned()).or_insert((minute, 0));
        if entry.0 != minute {
            *entry = (minute, 0);
        }
        entry.1 = entry.1.saturating_add(1);
        entry.1
    }
}
