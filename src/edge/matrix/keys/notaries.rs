//! Keys of servers that do not tell them themselves, from others that hold them.
//!
//! What a notary tells is signed by the server that it is about, and by the notary. But who makes a
//! key up can sign with it, and so it matters who tells: the notaries that the operator names are
//! believed; who tells of a room, or sends an event, is believed where the server itself has been
//! heard of before, and has signed what is told with a key that it was known to use then. Keys that
//! were never heard of are taken from such a one only if the operator says so.

use std::{collections::BTreeMap, time::Duration};

use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::time::timeout;

use super::{CROWD_TIME_MAX, KeyError, KeyRing};
use crate::{
    base::Timestamp,
    edge::matrix::outgoing::{Ask, AskError},
    session::keyring::Wanted,
    wire::{
        json,
        matrix::{KeyId, ServerKeys, ServerKeysError},
    },
};

/// Keys that are missing, each with a time for which it is wanted.
pub type Missing = BTreeMap<OwnedServerName, BTreeMap<KeyId, Timestamp>>;

/// Whom a notary's word is about, and how far it goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// The operator has named it.
    Named,
    /// It tells of a room, or has sent an event.
    Teller,
}

/// A notary's word is not taken.
#[derive(Debug, Error)]
enum NotTaken {
    /// It did not answer, or refused.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It answered something else.
    #[error("its answer has no `server_keys`")]
    Form,
    /// Somebody else's keys, or nobody's.
    #[error(transparent)]
    Keys(#[from] ServerKeysError),
    /// It tells of a server that it was not asked about.
    #[error("it was not asked about {0:?}")]
    NotAsked(String),
    /// It has not signed what it tells.
    #[error("it has not signed it with a key of its own")]
    Unsigned,
    /// Its own key is not known.
    #[error(transparent)]
    Key(#[from] Box<KeyError>),
    /// The server was never heard of, or not with these keys.
    #[error("no key is known by which {0} itself would have said so")]
    Unknown(OwnedServerName),
}

impl KeyRing {
    /// Asks the notaries, and then who tells of the events, for keys that their servers do not tell;
    /// whether anything came of it. What was heard is held.
    // spec: server-server §Retrieving-server-keys
    pub async fn ask_notaries(&self, missing: Missing, teller: Option<&ServerName>) -> bool {
        let named = self
            .parts
            .notaries
            .iter()
            .map(|name| (&**name, Trust::Named));
        let is_named =
            |teller: &&ServerName| self.parts.notaries.iter().any(|name| name == *teller);
        let teller = teller.filter(|teller| !is_named(teller));
        let all = named.chain(teller.map(|teller| (teller, Trust::Teller)));
        let all: Vec<_> = all.filter(|(notary, _)| *notary != self.name()).collect();
        if all.is_empty() {
            return false;
        }
        let mut missing = self.worth_a_question(missing).await;
        let mut has_heard = false;
        for (notary, trust) in all {
            for question in questions(&missing, notary) {
                match self.ask_notary(notary, trust, &question).await {
                    Ok(heard) => has_heard |= heard,
                    Err(error) => tracing::info!(%notary, %error, "it told no keys of others"),
                }
            }
            missing.retain(|server, ids| {
                ids.retain(|id, at| self.held_for_event(server, id, *at).is_err());
                !ids.is_empty()
            });
        }
        has_heard
    }

    /// Those of the servers about which somebody may be asked, and that it was not a moment ago.
    async fn worth_a_question(&self, missing: Missing) -> Missing {
        let mut worth = Missing::new();
        let now = self.parts.clock.now();
        for (server, ids) in missing.into_iter().take(SERVERS_MAX) {
            let is_written = server == *self.name() || self.parts.pinned.contains_key(&server);
            if is_written || !self.parts.outgoing.is_welcome(&server) {
                continue;
            }
            let _turn = self.turns.of(server.as_str()).await;
            let mut held = match self.held(&server) {
                Some(held) => held,
                None => self.load(&server).await,
            };
            if held.heard.is_due(Wanted::ForEvent, now) {
                held.heard.asked(false, now); // until something is heard
                self.hold(&server, held);
                worth.insert(server, ids);
            }
        }
        worth
    }

    /// Asks one notary about some servers; whether anything new came of it.
    async fn ask_notary(
        &self,
        notary: &ServerName,
        trust: Trust,
        question: &Missing,
    ) -> Result<bool, NotTaken> {
        let place = timeout(CROWD_TIME_MAX, self.fetches.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Ok(false);
        };
        let ask = Ask::post("/_matrix/key/v2/query", &body(question))
            .unsigned()
            .answer_bytes_max(ANSWER_BYTES_MAX)
            .within(ANSWER_TIME_MAX);
        let told = self.parts.outgoing.ask(notary, &ask).await?;
        let answer = json::read_lax(told.success()?).map_err(AskError::from)?;
        let all = answer.get("server_keys").and_then(Value::as_array);
        let mut has_heard = false;
        for said in all.ok_or(NotTaken::Form)?.iter().take(ANSWERS_MAX) {
            match self.heard(notary, trust, question, said).await {
                Ok(()) => has_heard = true,
                Err(error) => tracing::info!(%notary, %error, "its word is not taken"),
            }
        }
        Ok(has_heard)
    }

    /// Takes what a notary tells of one server.
    async fn heard(
        &self,
        notary: &ServerName,
        trust: Trust,
        question: &Missing,
        said: &Value,
    ) -> Result<(), NotTaken> {
        let name = said.get("server_name").and_then(Value::as_str);
        let name = name.unwrap_or_default();
        let asked = question.keys().find(|server| server.as_str() == name);
        let server = asked.ok_or_else(|| NotTaken::NotAsked(name.chars().take(100).collect()))?;
        let keys = ServerKeys::read(said.to_string().as_bytes(), server)?;
        self.must_be_signed_by(notary, &keys.object).await?;
        let _turn = self.turns.of(server.as_str()).await;
        let mut held = match self.held(server) {
            Some(held) => held,
            None => self.load(server).await,
        };
        let is_believed = match trust {
            Trust::Named => true,
            Trust::Teller => {
                held.keys.has_signed(&keys) || held.keys.is_empty() && self.parts.believes_tellers
            }
        };
        if !is_believed {
            return Err(NotTaken::Unknown(server.clone()));
        }
        let now = self.parts.clock.now();
        held.keys.hear(&keys, now);
        held.heard.asked(true, now);
        self.keep(server, &held.keys).await;
        self.hold(server, held);
        Ok(())
    }

    async fn must_be_signed_by(
        &self,
        notary: &ServerName,
        object: &CanonicalJsonObject,
    ) -> Result<(), NotTaken> {
        let mut error = NotTaken::Unsigned;
        for id in super::events::signed_with(object, notary) {
            match self.for_request(notary, &id).await {
                Ok(key) if key.verify_object(object, notary.as_str(), &id).is_ok() => return Ok(()),
                Ok(_) => {}
                Err(unknown) => error = NotTaken::Key(Box::new(unknown)),
            }
        }
        Err(error)
    }
}

/// What is missing, without the notary's own keys, in pieces that fit a question.
fn questions(missing: &Missing, notary: &ServerName) -> Vec<Missing> {
    let mut questions = Vec::new();
    let mut next = Missing::new();
    for (server, ids) in missing.iter().filter(|(server, _)| *server != notary) {
        next.insert(server.clone(), ids.clone());
        if next.len() >= QUESTION_MAX {
            questions.push(std::mem::take(&mut next));
        }
    }
    if !next.is_empty() {
        questions.push(next);
    }
    questions
}

fn body(question: &Missing) -> CanonicalJsonObject {
    let mut servers = Map::new();
    for (server, ids) in question {
        let criteria = ids.iter().map(|(id, at)| {
            let criterion = json!({ "minimum_valid_until_ts": at.0 });
            (id.to_string(), criterion)
        });
        servers.insert(server.to_string(), Value::Object(criteria.collect()));
    }
    let body = json!({ "server_keys": servers });
    serde_json::from_value(body)
        .expect("names and times before the year 285,000 are canonical JSON")
}

/// Servers that notaries are asked about for the sake of one room's events.
const SERVERS_MAX: usize = 1024;

/// Servers in one question.
const QUESTION_MAX: usize = 64;

/// Answers that are read of one notary: it may have several of a server.
const ANSWERS_MAX: usize = 4 * QUESTION_MAX;

/// One answer of a notary, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How long a notary may take: it may ask the servers itself.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
