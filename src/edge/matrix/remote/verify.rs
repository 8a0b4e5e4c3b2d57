//! Events of other servers, from their text to what may be believed of them: size, form, hash,
//! signatures.
//!
//! Many at a time are read first, then the keys of all their servers fetched side by side, then
//! all of them checked, off the threads that serve: an event costs a tenth of a millisecond, and a
//! room's state is thousands.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    api::Unverified,
    base::Timestamp,
    edge::matrix::keys::{Checked, EventError, KeyRing, Missing, Signers},
    wire::{
        json,
        matrix::{KeyId, Pdu, Version},
    },
};

/// Checks one event; its keys are fetched, and where their server does not tell them asked of others,
/// among them who tells of the event.
// spec: server-server §Checks-performed-on-receipt-of-a-PDU
pub(super) async fn one(
    keys: &KeyRing,
    json: &str,
    version: Version,
    teller: Option<&ServerName>,
) -> Result<Pdu, Unverified> {
    let (pdu, object) = read(json, version)?;
    let mut checked = keys.check_event(&object, version).await;
    if let Err(EventError::Key(_)) = &checked {
        let signers = Signers::of(&object, version).map_err(|error| wrong(&error))?;
        let mut wanted = Wanted::default();
        note(signers, &mut wanted);
        if keys.ask_notaries(missing(keys, &wanted), teller).await {
            checked = keys.check_event_with_held(&object, version);
        }
    }
    believed(pdu, checked, version)
}

/// Checks many events, in their order. `checks` is how many pieces of such work there may be at a
/// time, of all who ask.
pub(super) async fn many(
    (keys, checks): (&Arc<KeyRing>, &Arc<Semaphore>),
    events: &[&str],
    version: Version,
    teller: Option<&ServerName>,
) -> Vec<Result<Pdu, Unverified>> {
    if let [json] = events {
        return vec![one(keys, json, version, teller).await];
    }
    let wanted = Arc::new(Mutex::new(Wanted::default()));
    let texts: Vec<Box<str>> = events.iter().map(|text| Box::from(*text)).collect();
    let texts = in_pieces(texts).into_iter().map(|piece| {
        let wanted = Arc::clone(&wanted);
        aside(checks, move || {
            let note = |text: Box<str>| noted(&text, version, &wanted);
            piece.into_iter().map(note).collect::<Vec<_>>()
        })
    });
    let read: Vec<Result<Pdu, Unverified>> = in_order(texts).await;
    let wanted = std::mem::take(&mut *wanted.lock().unwrap_or_else(PoisonError::into_inner));
    fetch(keys, &wanted).await;
    let missing = missing(keys, &wanted);
    if !missing.is_empty() {
        keys.ask_notaries(missing, teller).await;
    }
    let checked = in_pieces(read).into_iter().map(|piece| {
        let keys = Arc::clone(keys);
        aside(checks, move || {
            let check = |pdu: Result<Pdu, Unverified>| {
                let pdu = pdu?;
                let object = pdu.object();
                let checked = keys.check_event_with_held(&object, version);
                believed(pdu, checked, version)
            };
            piece.into_iter().map(check).collect::<Vec<_>>()
        })
    });
    let checked: Vec<Result<Pdu, Unverified>> = in_order(checked).await;
    debug_assert_eq!(checked.len(), events.len());
    checked
}

fn in_pieces<T>(all: Vec<T>) -> Vec<Vec<T>> {
    let mut all = all.into_iter();
    let pieces = std::iter::from_fn(|| {
        let piece: Vec<T> = all.by_ref().take(PIECE).collect();
        (!piece.is_empty()).then_some(piece)
    });
    pieces.collect()
}

/// The keys that events name, each with the first and the last time for which it is wanted.
type Wanted = BTreeMap<OwnedServerName, BTreeMap<KeyId, (Timestamp, Timestamp)>>;

/// Reads an event and notes the keys that it takes to check it.
fn noted(text: &str, version: Version, wanted: &Mutex<Wanted>) -> Result<Pdu, Unverified> {
    let (pdu, object) = read(text, version)?;
    let signers = Signers::of(&object, version).map_err(|error| wrong(&error))?;
    note(
        signers,
        &mut wanted.lock().unwrap_or_else(PoisonError::into_inner),
    );
    Ok(pdu)
}

fn note(Signers { at, servers }: Signers, wanted: &mut Wanted) {
    for (server, ids) in servers {
        let keys = wanted.entry(server).or_default();
        for id in ids {
            let (first, last) = keys.entry(id).or_insert((at, at));
            *first = at.min(*first);
            *last = at.max(*last);
        }
    }
}

/// Those keys that are not held, or not for the time for which they are wanted.
fn missing(keys: &KeyRing, wanted: &Wanted) -> Missing {
    let mut missing = Missing::new();
    for (server, ids) in wanted {
        for (id, (first, last)) in ids.iter().take(KEYS_MAX) {
            let not_held = |at: &&Timestamp| keys.held_for_event(server, id, **at).is_err();
            if let Some(at) = [last, first].into_iter().find(not_held) {
                let keys = missing.entry(server.clone()).or_default();
                keys.insert(id.clone(), *at);
            }
        }
    }
    missing
}

/// Sees to it that keys are held, as far as they can be had. A time that lies too far ahead for
/// any key must not keep the others from being checked, so both ends are asked for.
async fn fetch(keys: &KeyRing, wanted: &Wanted) {
    let servers = wanted.iter().take(SERVERS_MAX);
    let all = stream::iter(servers).for_each_concurrent(FETCHES, async |(server, ids)| {
        for (id, (first, last)) in ids.iter().take(KEYS_MAX) {
            for at in [first, last] {
                if let Err(error) = keys.for_event(server, id, *at).await {
                    tracing::debug!(%error, "a key for events could not be had");
                }
            }
        }
    });
    if timeout(FETCH_TIME_MAX, all).await.is_err() {
        tracing::info!("the keys for a room's events were not all fetched in time");
    }
}

fn read(json: &str, version: Version) -> Result<(Pdu, CanonicalJsonObject), Unverified> {
    let form = |error: &dyn std::error::Error| Unverified::Form(error.to_string());
    let pdu = Pdu::read(json, version).map_err(|error| form(&error))?;
    // stricter: a key given twice, or a number that is rounded, would be another event elsewhere
    let object = json::read_object(json.as_bytes()).map_err(|error| form(&error))?;
    Ok((pdu, object))
}

// spec: server-server §Checks-performed-on-receipt-of-a-PDU
fn believed(
    pdu: Pdu,
    checked: Result<Checked, EventError>,
    version: Version,
) -> Result<Pdu, Unverified> {
    match checked {
        Ok(Checked::Whole) => Ok(pdu),
        Ok(Checked::Changed) => pdu.redacted(version).map_err(|error| wrong(&error)),
        Err(EventError::Key(error)) => Err(Unverified::NoKey {
            told: error.told(),
            whole: error.to_string(),
        }),
        Err(error) => Err(wrong(&error)),
    }
}

fn wrong(error: &dyn std::error::Error) -> Unverified {
    Unverified::Wrong(error.to_string())
}

/// Does work that takes milliseconds where nobody waits behind it.
async fn aside<T: Send + 'static>(
    checks: &Arc<Semaphore>,
    work: impl FnOnce() -> Vec<T> + Send + 'static,
) -> Vec<T> {
    let place = Arc::clone(checks).acquire_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    done.await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// What comes of pieces of work, two of them at a time.
async fn in_order<T>(pieces: impl Iterator<Item = impl Future<Output = Vec<T>>>) -> Vec<T> {
    let pieces = stream::iter(pieces).buffered(PIECES);
    pieces
        .fold(Vec::new(), async |mut all, piece| {
            all.extend(piece);
            all
        })
        .await
}

/// Events that are read or checked in one go: some 10 ms.
const PIECE: usize = 128;

/// Pieces of one room that are in work at a time.
const PIECES: usize = 2;

/// Pieces of all rooms that are in work at a time: two cores are common.
pub(in crate::edge::matrix) const CHECKS_MAX: usize = 2;

/// Servers that are asked for their keys at a time: half of what the key ring asks.
const FETCHES: usize = 16;

/// Servers that are asked for the sake of one room's events, at most: who sends them chooses them.
const SERVERS_MAX: usize = 4096;

/// Keys of one server that are looked for.
const KEYS_MAX: usize = 16;

/// How long that may take altogether. Servers that are gone cost 20 s each.
const FETCH_TIME_MAX: Duration = Duration::from_mins(2);
