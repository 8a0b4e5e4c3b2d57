//! In which order conflicted events are checked: power events so that nobody is let do what
//! someone above them forbade, the others along the line of power levels.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
};

use ruma::EventId;

use super::{ResolveError, chain::Known};
use crate::{
    base::{EventHash, Timestamp},
    room::{Level, Membership, auth::Levels},
    wire::matrix::{Pdu, PduFields, Version},
};

/// The power events among the conflicted ones, and the conflicted ones that these lean on.
///
/// Like Synapse and ruma this goes only from conflicted event to conflicted event; see
/// matrix-v12-resolve-e in the notes.
///
/// spec: matrix-v12 §State-resolution
pub(super) fn power_events(
    known: &Known,
    conflicted: &BTreeSet<EventHash>,
) -> Result<BTreeSet<EventHash>, ResolveError> {
    let mut found = BTreeSet::new();
    for hash in conflicted {
        if is_power_event(known.fields(*hash)?) {
            found.insert(*hash);
        }
    }
    let mut pending: Vec<_> = found.iter().copied().collect();
    while let Some(hash) = pending.pop() {
        for auth in known.auth(hash) {
            if conflicted.contains(&auth) && found.insert(auth) {
                pending.push(auth);
            }
        }
    }
    Ok(found)
}

/// The text does not count the create event, Synapse and ruma do; it is in conflict only where
/// states are made up.
fn is_power_event(fields: &PduFields) -> bool {
    match (fields.kind.as_str(), fields.state_key.as_deref()) {
        ("m.room.power_levels" | "m.room.join_rules" | "m.room.create", Some("")) => true,
        ("m.room.member", Some(target)) => {
            let membership = Membership::named_in(&fields.content);
            matches!(membership, Some(Membership::Leave | Membership::Ban))
                && target != fields.sender.as_str()
        }
        _ => false,
    }
}

/// Events of equal standing go by power, then time, then id: the smallest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Standing<'a> {
    power: Reverse<Level>,
    at: Timestamp,
    id: &'a EventId,
}

/// The reverse topological power ordering, earliest first.
///
/// spec: matrix-v12 §State-resolution
pub(super) fn reverse_topological(
    version: Version,
    known: &Known,
    events: &BTreeSet<EventHash>,
) -> Result<Vec<EventHash>, ResolveError> {
    let mut leaning: HashMap<EventHash, Vec<EventHash>> = HashMap::new();
    let mut waiting: HashMap<EventHash, usize> = HashMap::new();
    let mut ready = BinaryHeap::new();
    for hash in events {
        let mut count = 0;
        for auth in known.auth(*hash).filter(|auth| events.contains(auth)) {
            leaning.entry(auth).or_default().push(*hash);
            count += 1;
        }
        waiting.insert(*hash, count);
        if count == 0 {
            ready.push(Reverse((standing(version, known, *hash)?, *hash)));
        }
    }
    let mut ordered = Vec::with_capacity(events.len());
    while let Some(Reverse((_, hash))) = ready.pop() {
        ordered.push(hash);
        for next in leaning.remove(&hash).unwrap_or_default() {
            let Some(count) = waiting.get_mut(&next) else {
                continue;
            };
            *count = count.saturating_sub(1);
            if *count == 0 {
                ready.push(Reverse((standing(version, known, next)?, next)));
            }
        }
    }
    Ok(ordered)
}

/// The power of an event's sender by the event's own auth events.
fn standing(
    version: Version,
    known: &Known,
    hash: EventHash,
) -> Result<Standing<'_>, ResolveError> {
    let fields = known.fields(hash)?;
    let (mut create, mut levels): (Option<&Pdu>, Option<&Pdu>) = (None, None);
    for auth in known.auth(hash) {
        let event = &known.entry(auth)?.event;
        let fields = event.fields();
        match (fields.kind.as_str(), fields.state_key.as_deref()) {
            ("m.room.create", Some("")) => create = Some(event),
            ("m.room.power_levels", Some("")) => levels = Some(event),
            _ => {}
        }
    }
    // Only a create event leans on none.
    let power = create.map_or(Level::Finite(0), |create| {
        Levels::new(create, levels, version).of(fields.sender.as_str())
    });
    Ok(Standing {
        power: Reverse(power),
        at: fields.at,
        id: known.id(hash)?,
    })
}

/// The mainline ordering of `events` by the power levels in force, earliest first.
///
/// spec: matrix-v12 §State-resolution
pub(super) fn mainline(
    known: &Known,
    power_levels: Option<EventHash>,
    events: impl Iterator<Item = EventHash>,
) -> Result<Vec<EventHash>, ResolveError> {
    let mut events = events.peekable();
    if events.peek().is_none() {
        return Ok(Vec::new());
    }
    let mut positions: HashMap<EventHash, usize> = HashMap::new();
    let mut at = power_levels;
    while let Some(levels) = at {
        let next = positions.len();
        positions.insert(levels, next);
        at = power_levels_before(known, levels)?;
    }
    let mut keyed = Vec::new();
    for hash in events {
        let position = position(known, &mut positions, hash)?;
        keyed.push((
            Reverse(position),
            known.fields(hash)?.at,
            known.id(hash)?,
            hash,
        ));
    }
    keyed.sort_unstable();
    Ok(keyed.into_iter().map(|(.., hash)| hash).collect())
}

/// No power levels of the mainline come before such an event: it is checked first.
const OFF_THE_MAINLINE: usize = usize::MAX;

/// Where an event meets the mainline. What is found is noted for all power levels on the way, so
/// that events which share a long way there do not each walk it.
fn position(
    known: &Known,
    positions: &mut HashMap<EventHash, usize>,
    event: EventHash,
) -> Result<usize, ResolveError> {
    let mut passed = Vec::new();
    let mut at = power_levels_before(known, event)?;
    let found = loop {
        let Some(levels) = at else {
            break OFF_THE_MAINLINE;
        };
        if let Some(position) = positions.get(&levels) {
            break *position;
        }
        passed.push(levels);
        at = power_levels_before(known, levels)?;
    };
    positions.extend(passed.into_iter().map(|levels| (levels, found)));
    Ok(found)
}

/// The power levels among the auth events of an event.
pub(super) fn power_levels_before(
    known: &Known,
    event: EventHash,
) -> Result<Option<EventHash>, ResolveError> {
    for auth in known.auth(event) {
        let fields = known.fields(auth)?;
        if fields.kind == "m.room.power_levels" && fields.state_key.as_deref() == Some("") {
            return Ok(Some(auth));
        }
    }
    Ok(None)
}
