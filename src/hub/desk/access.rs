//! From what a request shows to who asks.
//!
//! A session that was read is remembered, so that a send costs no read of the store. What ends a
//! session ([`Sessions::forget`]) does so before it is answered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use ruma::{DeviceId, OwnedDeviceId, UserId};
use sha2::{Digest, Sha256};

use super::{presence, turns::Turn};
use crate::{
    api::{Caller, Code, Credentials, DeviceName, Origin, Refusal},
    base::Timestamp,
    hub::{Hub, WriteError, fanout::Touched},
    store::{Batch, SessionRecord, StoreError, Write},
};

/// How many sessions are remembered. At about 130 bytes each this is 2 MB.
const SESSIONS_MAX: usize = 16_384;

/// How often «last seen» is written for a device. Nobody needs it to the minute, and each is a
/// write.
const SEEN_EVERY: Duration = Duration::from_mins(5);

/// The SHA-256 of an access token: all that is ever stored or remembered of one.
pub(super) type TokenHash = [u8; 32];

/// The caller behind an origin, at the cost of one request of the account's budget; at none where
/// the hub itself asks for one who observes.
pub(super) async fn caller(hub: &Hub, origin: &Origin) -> Result<Caller, Refusal> {
    let caller = authorised(hub, origin).await?;
    if !matches!(origin.credentials, Credentials::Observing(_)) {
        hub.desk.rates().requests(&caller)?;
    }
    Ok(caller)
}

/// The same where that shows that somebody sits there.
pub(super) async fn actor(hub: &Hub, origin: &Origin) -> Result<Caller, Refusal> {
    let caller = caller(hub, origin).await?;
    presence::acts(hub, origin.door, &caller).await;
    Ok(caller)
}

/// The caller behind an origin that wants an event made, at the cost of one event.
pub(super) async fn sender(hub: &Hub, origin: &Origin) -> Result<Caller, Refusal> {
    let caller = authorised(hub, origin).await?;
    hub.desk.rates().events(&caller)?;
    presence::acts(hub, origin.door, &caller).await;
    Ok(caller)
}

/// Who shows these, as far as it is known without asking the store.
pub(in crate::hub) fn who(hub: &Hub, shown: &Credentials) -> Option<String> {
    match shown {
        Credentials::Nothing => None,
        Credentials::Server(server) => Some(server.to_string()),
        Credentials::Token(token) => {
            let proof = Proof::Token(token_hash(token));
            Some(hub.desk.sessions.peek(&proof)?.user.to_string())
        }
        Credentials::Device(device)
        | Credentials::Observing(device)
        | Credentials::DeviceAndToken(device, _) => Some(device.user.to_string()),
    }
}

/// Who shows these; the log's lines about this request name them, too.
pub(in crate::hub) async fn named(hub: &Hub, origin: &Origin) -> Option<String> {
    let caller = authorised(hub, origin).await.ok()?;
    Some(caller.user.to_string())
}

async fn authorised(hub: &Hub, origin: &Origin) -> Result<Caller, Refusal> {
    match &origin.credentials {
        Credentials::Nothing => Err(Refusal::new(
            Code::MissingToken,
            "this needs an access token",
        )),
        Credentials::Server(_) => Err(Refusal::forbidden("this is for users, not for servers")),
        Credentials::Token(token) => by_token(hub, origin, token).await,
        Credentials::Device(device) => by_context(hub, origin, device).await,
        Credentials::Observing(device) => observing(hub, device).await,
        Credentials::DeviceAndToken(device, token) => {
            let caller = by_context(hub, origin, device).await?;
            let shown = by_token(hub, origin, token).await?;
            if (&shown.user, &shown.device) == (&caller.user, &caller.device) {
                return Ok(caller);
            }
            log_as(&caller.user);
            Err(Refusal::forbidden(
                "this access token is another device's than the one whose keys protect this request",
            ))
        }
    }
}

async fn by_token(hub: &Hub, origin: &Origin, token: &str) -> Result<Caller, Refusal> {
    let unknown = "this access token is not known (any more)";
    let hash = token_hash(token);
    let read = || hub.store.session(&hash);
    session(hub, origin, Proof::Token(hash), unknown, read).await
}

/// A device that observes, if it is still linked. Nothing is remembered or written of it: news go to
/// tens of thousands in a row, and would push out who speaks.
async fn observing(hub: &Hub, device: &DeviceName) -> Result<Caller, Refusal> {
    let remembered = hub
        .desk
        .sessions
        .peek(&Proof::Context(name_of(hub, device)));
    let caller = if let Some(caller) = remembered {
        caller
    } else {
        let read = hub
            .store
            .linked_session(&device.user, device.device.as_str());
        let session = read.await.map_err(ours)?;
        caller_of(session.ok_or_else(|| Refusal::new(Code::UnknownToken, NOT_LINKED))?)
    };
    log_as(&caller.user);
    Ok(caller)
}

fn caller_of(session: SessionRecord) -> Caller {
    Caller {
        user: session.user,
        device: session.device,
        admin: session.admin,
    }
}

const NOT_LINKED: &str = "this device is not linked (any more)";

async fn by_context(hub: &Hub, origin: &Origin, device: &DeviceName) -> Result<Caller, Refusal> {
    let unknown = NOT_LINKED;
    let read = || {
        hub.store
            .linked_session(&device.user, device.device.as_str())
    };
    let proof = Proof::Context(name_of(hub, device));
    session(hub, origin, proof, unknown, read).await
}

/// A device's name, which is kept once.
fn name_of(hub: &Hub, device: &DeviceName) -> Arc<DeviceName> {
    let name = hub.links.name(device);
    name.unwrap_or_else(|| Arc::new(device.clone()))
}

/// The session that is remembered under a proof, or that `read` finds in the store.
async fn session<F>(
    hub: &Hub,
    origin: &Origin,
    proof: Proof,
    unknown: &'static str,
    read: impl FnOnce() -> F,
) -> Result<Caller, Refusal>
where
    F: Future<Output = Result<Option<SessionRecord>, StoreError>>,
{
    let now = hub.now();
    let sessions = &hub.desk.sessions;
    if let Some(known) = sessions.get(&proof, now) {
        if known.seen_is_due {
            note_seen(hub, origin, &known.caller);
        }
        log_as(&known.caller.user);
        return Ok(known.caller);
    }
    let changes = sessions.changes();
    let Some(session) = read().await.map_err(ours)? else {
        return Err(Refusal::new(Code::UnknownToken, unknown));
    };
    let caller = caller_of(session);
    sessions.remember(proof, &caller, now, changes);
    note_seen(hub, origin, &caller);
    log_as(&caller.user);
    Ok(caller)
}

/// Names the user in every log line about this request: the doors do not know whose it is.
pub(super) fn log_as(user: &UserId) {
    tracing::Span::current().record("user", user.as_str());
}

/// What is stored of a token.
pub(super) fn token_hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Refuses to act on what belongs to another user.
pub(super) fn must_be(caller: &Caller, user: &UserId) -> Result<(), Refusal> {
    if caller.user == user {
        return Ok(());
    }
    Err(Refusal::forbidden(format!(
        "{} cannot do this for {user}",
        caller.user
    )))
}

/// Logs a store's failure in full and shows «try later».
#[expect(clippy::needless_pass_by_value, reason = "reads best in map_err")]
pub(in crate::hub) fn ours(error: StoreError) -> Refusal {
    tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
    Refusal::internal()
}

/// Writes when and from where a device was seen, without making the request wait for it: the first
/// poll of a write hands it to the committer, and nobody needs its answer.
fn note_seen(hub: &Hub, origin: &Origin, caller: &Caller) {
    let batch = Batch {
        writes: vec![Write::DeviceSeen {
            user: caller.user.clone(),
            device: caller.device.clone(),
            at: hub.now(),
            from: origin.address.map(|address| address.to_string()),
        }],
        may_conflict: false,
    };
    let _ = hub.writer.write(batch, Vec::new()).now_or_never();
}

/// Waits until nobody else changes the password of a user or lets someone in by it: who was proved
/// by an old password must not come in after the change has ended all sessions there were.
pub(super) async fn turn_of_sessions(hub: &Hub, user: &UserId) -> Turn {
    hub.desk.turns.take(("sessions", user)).await
}

/// Stores what ends the sessions of a user's devices, and forgets these before anyone is told.
///
/// Also when whoever asked hangs up meanwhile: a token that was taken back must not go on working
/// because a connection broke. `turn` lasts until then.
pub(super) async fn end_sessions(
    hub: &Hub,
    user: &UserId,
    devices: &[OwnedDeviceId],
    writes: Vec<Write>,
    touched: Vec<Touched>,
    turn: Option<Turn>,
) -> Result<(), Refusal> {
    let removed = removed_by(&writes);
    let batch = Batch {
        writes,
        may_conflict: false,
    };
    let stored = hub.writer.begin(batch, touched)?;
    let sessions = hub.desk.sessions.clone();
    let links = Arc::clone(&hub.links);
    let (user, devices) = (user.to_owned(), devices.to_owned());
    let ended = tokio::spawn(async move {
        let stored = stored.await;
        // Also when it failed: whether it was stored may not be known, and forgetting costs one
        // read.
        for device in &devices {
            sessions.forget(&user, Some(device));
        }
        let stored = stored.unwrap_or(Err(WriteError::Busy));
        links.revoke(&removed, stored.is_ok()).await;
        drop(turn);
        stored
    });
    ended.await.map_err(|error| {
        tracing::error!(%error, "ending sessions broke off");
        WriteError::Busy
    })??;
    Ok(())
}

/// The devices that go with a batch.
fn removed_by(writes: &[Write]) -> Vec<DeviceName> {
    let removed = writes.iter().filter_map(|write| match write {
        Write::RemoveDevice { user, device } => Some(DeviceName {
            user: user.clone(),
            device: device.clone(),
        }),
        _ => None,
    });
    removed.collect()
}

/// What a session is remembered by.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Proof {
    /// The hash of its token.
    Token(TokenHash),
    /// The device whose keys protected the request.
    Context(Arc<DeviceName>),
}

/// Sessions that were read from the store, by what proved them.
#[derive(Clone, Default)]
pub(super) struct Sessions(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    sessions: HashMap<Proof, Entry>,
    /// Grows with every session that ends. A read that began before one ended must not be
    /// remembered after it.
    changes: u64,
}

struct Entry {
    /// Whose. Shared with the proof where that is the device's.
    device: Arc<DeviceName>,
    admin: bool,
    seen: Timestamp,
}

impl Entry {
    fn caller(&self) -> Caller {
        Caller {
            user: self.device.user.clone(),
            device: self.device.device.clone(),
            admin: self.admin,
        }
    }
}

struct Known {
    caller: Caller,
    seen_is_due: bool,
}

impl Sessions {
    fn get(&self, proof: &Proof, now: Timestamp) -> Option<Known> {
        let mut kept = self.lock();
        let entry = kept.sessions.get_mut(proof)?;
        let seen_is_due = now.since(entry.seen) >= SEEN_EVERY;
        if seen_is_due {
            entry.seen = now;
        }
        Some(Known {
            caller: entry.caller(),
            seen_is_due,
        })
    }

    /// Whose proof it is, if that is remembered. Nobody is seen by that.
    fn peek(&self, proof: &Proof) -> Option<Caller> {
        let kept = self.lock();
        kept.sessions.get(proof).map(Entry::caller)
    }

    fn changes(&self) -> u64 {
        self.lock().changes
    }

    fn remember(&self, proof: Proof, caller: &Caller, now: Timestamp, changes: u64) {
        let mut kept = self.lock();
        if kept.changes != changes {
            return;
        }
        if kept.sessions.len() >= SESSIONS_MAX {
            // Any will do: who is dropped costs one read.
            let dropped = kept.sessions.keys().next().cloned();
            dropped.and_then(|proof| kept.sessions.remove(&proof));
        }
        let device = match &proof {
            Proof::Context(device) => Arc::clone(device),
            Proof::Token(_) => Arc::new(DeviceName {
                user: caller.user.clone(),
                device: caller.device.clone(),
            }),
        };
        let entry = Entry {
            device,
            admin: caller.admin,
            seen: now,
        };
        kept.sessions.insert(proof, entry);
    }

    /// Drops what is remembered of a user's device, or of all of them. Called after the store has
    /// ended the session and before anyone is told.
    pub(super) fn forget(&self, user: &UserId, device: Option<&DeviceId>) {
        let mut kept = self.lock();
        kept.changes += 1;
        kept.sessions.retain(|_, entry| {
            let name = &entry.device;
            name.user != user || device.is_some_and(|device| name.device != device)
        });
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ana() -> Caller {
        Caller {
            user: "@ana:hub.example".try_into().unwrap(),
            device: "PHONE".into(),
            admin: false,
        }
    }

    #[test]
    fn a_session_that_ended_while_it_was_read_is_not_remembered() {
        let sessions = Sessions::default();
        let before = sessions.changes();
        sessions.forget(&ana().user, None);

        sessions.remember(Proof::Token([1; 32]), &ana(), Timestamp(0), before);

        assert!(sessions.get(&Proof::Token([1; 32]), Timestamp(0)).is_none());
    }

    #[test]
    fn forgetting_one_device_leaves_the_others() {
        let sessions = Sessions::default();
        let tablet = Caller {
            device: "TABLET".into(),
            ..ana()
        };
        sessions.remember(Proof::Token([1; 32]), &ana(), Timestamp(0), 0);
        sessions.remember(Proof::Token([2; 32]), &tablet, Timestamp(0), 0);

        sessions.forget(&ana().user, Some("PHONE".into()));

        assert!(sessions.get(&Proof::Token([1; 32]), Timestamp(0)).is_none());
        assert!(sessions.get(&Proof::Token([2; 32]), Timestamp(0)).is_some());
    }

    #[test]
    fn the_number_of_remembered_sessions_is_bounded() {
        let sessions = Sessions::default();
        for n in 0..SESSIONS_MAX + 10 {
            let hash = token_hash(&n.to_string());
            sessions.remember(Proof::Token(hash), &ana(), Timestamp(0), 0);
        }
        assert_eq!(sessions.lock().sessions.len(), SESSIONS_MAX);
    }

    #[test]
    fn last_seen_is_due_every_few_minutes_only() {
        let sessions = Sessions::default();
        sessions.remember(Proof::Token([1; 32]), &ana(), Timestamp(0), 0);
        let due = |ms| {
            sessions
                .get(&Proof::Token([1; 32]), Timestamp(ms))
                .unwrap()
                .seen_is_due
        };

        assert!(!due(299_999));
        assert!(due(300_000));
        assert!(!due(300_001));
    }
}
