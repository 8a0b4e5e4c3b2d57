//! A room one is in: its timeline, the state around it, and what moves beside its log.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    OwnedUserId,
    api::client::sync::sync_events::v3::{JoinedRoom, State, StateEvents, Timeline},
    events::AnySyncEphemeralRoomEvent,
    serde::Raw,
};
use serde_json::json;

use crate::{
    base::{Position, Seq},
    hub::desk::{
        reading::{
            members_of,
            page::{self, Seen, Span},
            state_events,
            visibility::{Standing, membership_in, state_at},
        },
        receipts::READ_PRIVATE,
        sync::{
            Round, as_event,
            filter::{is_lazy, wants_any, wants_event, wants_type},
            lists::Met,
            rooms::{Beside, membership_at},
            state_delta, summary,
            token::RoomToken,
            unread,
            view::{self, Stored, Viewer},
        },
    },
    room::{Membership, StateKey},
    store::{EventRecord, Kinds, MembershipRecord, RoomRecord, StateNid, StoreError},
};

/// How many events a timeline has when the client does not say, and at most.
const TIMELINE_DEFAULT: usize = 10;
const TIMELINE_MAX: usize = 100;

/// A timeline before it is shown.
pub(super) struct Line {
    pub(super) seen: Vec<Seen>,
    pub(super) limited: bool,
    /// The point of the log at which it begins.
    pub(super) start: Seq,
}

/// A room's section, when it has something to tell.
pub(super) async fn joined(
    round: &Round<'_>,
    room: RoomRecord,
    record: &MembershipRecord,
    head: Seq,
    beside: Beside,
    met: &mut Met,
) -> Result<Option<JoinedRoom>, StoreError> {
    let store = &round.hub.store;
    let before = match round.since {
        Some(_) => known(round, &room, record).await?,
        None => None,
    };
    // What someone who has just come in knows of the room is nothing, whatever it was before.
    let from = before.unwrap_or(Seq::ZERO);
    let standing = standing(round, room, record, before).await?;
    let room = &standing.room;
    let line = line(round, &standing, Span { from, to: head }).await?;
    let changed = match before {
        Some(_) => state_delta::between(store, room.nid, from, head).await?,
        None => Vec::new(),
    };
    meet(round, room, before, &changed, met).await?;

    let mut section = JoinedRoom::new();
    let whole = before.is_none() || round.full_state;
    if is_lazy(&round.filter.room.state) && (whole || changed.iter().any(summary::is_told_by)) {
        section.summary = summary::of(round, room.nid).await?;
    }
    let heroes = &section.summary.heroes;
    let state = state(round, room, &line, before, head, heroes).await?;
    section.state = shown_state(round, &standing, &state).await?;
    section.timeline = shown(round, &standing, &line).await?;
    section.account_data.events = account_data(round, room, before, &beside).await?;
    section.ephemeral.events = ephemeral(round, room, before, beside).await?;
    if !whole && section.is_empty() {
        return Ok(None);
    }
    section.unread_notifications = unread::count(round, room, head).await?;
    Ok(Some(section))
}

/// Up to which entry the client knows the room; nothing for someone who was not in it then.
async fn known(
    round: &Round<'_>,
    room: &RoomRecord,
    record: &MembershipRecord,
) -> Result<Option<Seq>, StoreError> {
    let since = round.position_since();
    let seq = if room.position <= since {
        room.heads.seq
    } else {
        round.hub.store.seq_at(room.nid, since).await?
    };
    if record.position <= since {
        return Ok(Some(seq)); // joined since before
    }
    let then = membership_at(round, room, seq).await?;
    Ok((then == Membership::Join).then_some(seq))
}

async fn standing(
    round: &Round<'_>,
    room: RoomRecord,
    record: &MembershipRecord,
    known: Option<Seq>,
) -> Result<Standing, StoreError> {
    let user = &round.caller.user;
    if let Some(seq) = known
        && record.position <= round.position_since()
    {
        return Ok(Standing::joined(room, user, Some(seq)));
    }
    Standing::with(&round.hub.store, room, user, Some(record)).await
}

/// The newest events of a span that the user may see and wants.
pub(super) async fn line(
    round: &Round<'_>,
    standing: &Standing,
    span: Span,
) -> Result<Line, StoreError> {
    let filter = &round.filter.room.timeline;
    if !wants_any(filter, &standing.room.id) || span.from >= span.to {
        return Ok(Line {
            seen: Vec::new(),
            limited: false,
            start: span.to,
        });
    }
    let limit = filter.limit.map_or(TIMELINE_DEFAULT, |limit| {
        usize::try_from(u64::from(limit)).unwrap_or(TIMELINE_MAX)
    });
    let limit = limit.min(TIMELINE_MAX);
    let wanted = |event: &EventRecord| wants_event(filter, event);
    let store = &round.hub.store;
    let mut page = page::older(store, standing, span, limit + 1, &wanted).await?;
    let limited = page.seen.len() > limit || page.reached > span.from;
    page.seen.truncate(limit);
    page.seen.reverse();
    let first = page.seen.first().and_then(|seen| seen.event.seq);
    Ok(Line {
        start: first.map_or(span.to, |seq| Seq(seq.0.saturating_sub(1))),
        seen: page.seen,
        limited,
    })
}

/// A timeline as the client gets it.
pub(super) async fn shown(
    round: &Round<'_>,
    standing: &Standing,
    line: &Line,
) -> Result<Timeline, StoreError> {
    let mut timeline = Timeline::new();
    timeline.limited = line.limited;
    timeline.events = view::show(&round.hub.store, viewer(round, standing), &line.seen).await?;
    if line.limited || !line.seen.is_empty() {
        timeline.prev_batch = Some(RoomToken::after(line.start).to_string());
    }
    Ok(timeline)
}

/// State as the client gets it, under the name it asked for.
pub(super) async fn shown_state(
    round: &Round<'_>,
    standing: &Standing,
    state: &[EventRecord],
) -> Result<State, StoreError> {
    let events = view::show_state(&round.hub.store, viewer(round, standing), state).await?;
    let events = StateEvents::with_events(events);
    Ok(if round.state_after {
        State::After(events)
    } else {
        State::Before(events)
    })
}

fn viewer<'a>(round: &Round<'a>, standing: &'a Standing) -> Viewer<'a> {
    Viewer {
        caller: round.caller,
        standing,
        now: round.hub.now(),
        names_room: false,
    }
}

/// State before the timeline, or after it when that was asked for: all of it for a room that is
/// new to the client, else what changed.
async fn state(
    round: &Round<'_>,
    room: &RoomRecord,
    line: &Line,
    known: Option<Seq>,
    head: Seq,
    heroes: &[OwnedUserId],
) -> Result<Vec<EventRecord>, StoreError> {
    let filter = &round.filter.room.state;
    if !wants_any(filter, &room.id) {
        return Ok(Vec::new());
    }
    let store = &round.hub.store;
    let at = if round.state_after { head } else { line.start };
    let lazy = is_lazy(filter);
    let whole = known.is_none() || round.full_state;
    let mut state = if let Some(known) = known.filter(|_| !whole) {
        // Members that changed in a gap are told in any case: their change would else be lost.
        let mut changed = state_delta::between(store, room.nid, known, at).await?;
        changed.retain(|event| wants_event(filter, event));
        changed
    } else {
        let nid = state_at(store, room.nid, at).await?;
        let wanted = |event: &EventRecord| wants_event(filter, event);
        if lazy {
            // In a large room nearly all of the state is members, of whom only a few are shown.
            let mut others = store
                .state_events(room.nid, nid, Kinds::Without(&[MEMBER]))
                .await?;
            others.retain(wanted);
            others
        } else {
            state_events(store, nid, &wanted).await?
        }
    };
    if lazy {
        let mut users = page::senders(&line.seen);
        if whole {
            users.extend(heroes.iter().map(|user| user.as_str().into()));
            users.insert(round.caller.user.as_str().into());
        }
        let nid = state_at(store, room.nid, at).await?;
        add_members(round, room, nid, users, &mut state).await?;
    }
    Ok(state)
}

/// Adds the member events of some users that are not there yet.
async fn add_members(
    round: &Round<'_>,
    room: &RoomRecord,
    at: StateNid,
    users: BTreeSet<std::sync::Arc<str>>,
    state: &mut Vec<EventRecord>,
) -> Result<(), StoreError> {
    let there: BTreeSet<_> = state.iter().map(|event| event.nid).collect();
    let members = members_of(&round.hub.store, room, at, users).await?;
    state.extend(
        members
            .into_iter()
            .filter(|event| !there.contains(&event.nid)),
    );
    Ok(())
}

/// Notes whom the user met or parted from in a room, and tells nothing else of it.
pub(super) async fn note_met(
    round: &Round<'_>,
    room: &RoomRecord,
    record: &MembershipRecord,
    head: Seq,
    met: &mut Met,
) -> Result<(), StoreError> {
    let before = known(round, room, record).await?;
    let changed = match before {
        Some(from) => state_delta::between(&round.hub.store, room.nid, from, head).await?,
        None => Vec::new(),
    };
    meet(round, room, before, &changed, met).await
}

/// Notes whom the user met or parted from in an encrypted room.
async fn meet(
    round: &Round<'_>,
    room: &RoomRecord,
    known: Option<Seq>,
    changed: &[EventRecord],
    met: &mut Met,
) -> Result<(), StoreError> {
    if round.since.is_none() || (known.is_some() && !changed.iter().any(is_member_or_encryption)) {
        return Ok(());
    }
    let store = &round.hub.store;
    let key = StateKey::new(ENCRYPTION, "");
    if store
        .current(room.nid, &[key])
        .await?
        .iter()
        .all(Option::is_none)
    {
        return Ok(());
    }
    if known.is_none()
        || changed
            .iter()
            .any(|event| !is_member(event) && is_member_or_encryption(event))
    {
        met.met.extend(store.joined(room.nid, None).await?);
        return Ok(());
    }
    for event in changed.iter().filter(|event| is_member(event)) {
        let user =
            Stored::read(event).and_then(|stored| OwnedUserId::try_from(stored.state_key?).ok());
        match (user, membership_in(event)) {
            (Some(user), Membership::Join) => drop(met.met.insert(user)),
            (Some(user), Membership::Leave | Membership::Ban) => drop(met.parted.insert(user)),
            _ => {}
        }
    }
    Ok(())
}

/// Account data of the room: all of it for a room that is new to the client.
pub(super) async fn account_data<T>(
    round: &Round<'_>,
    room: &RoomRecord,
    known: Option<Seq>,
    beside: &Beside,
) -> Result<Vec<Raw<T>>, StoreError> {
    let filter = &round.filter.room.account_data;
    if !wants_any(filter, &room.id) {
        return Ok(Vec::new());
    }
    let earlier = if known.is_none() && round.since.is_some() {
        let data = round.account_data(Position::ZERO).await?;
        data.into_iter()
            .filter(|record| record.room.as_ref() == Some(&room.id))
            .collect()
    } else {
        Vec::new()
    };
    let records = if earlier.is_empty() {
        &beside.data
    } else {
        &earlier
    };
    Ok(records
        .iter()
        .filter(|record| wants_type(filter.types.as_deref(), &filter.not_types, &record.kind))
        .filter_map(|record| as_event(&record.kind, &record.json))
        .collect())
}

/// Typing and receipts.
async fn ephemeral(
    round: &Round<'_>,
    room: &RoomRecord,
    known: Option<Seq>,
    beside: Beside,
) -> Result<Vec<Raw<AnySyncEphemeralRoomEvent>>, StoreError> {
    let filter = &round.filter.room.ephemeral;
    if !wants_any(filter, &room.id) {
        return Ok(Vec::new());
    }
    let wanted = |kind: &str| wants_type(filter.types.as_deref(), &filter.not_types, kind);
    let mut events = Vec::new();
    if wanted(RECEIPT) && (known.is_none() || beside.receipts) {
        let since = known.map_or(Position::ZERO, |_| round.position_since());
        events.extend(receipts(round, room, since).await?);
    }
    let typing = match (beside.typing, known) {
        (None, None) => round.hub.desk.typing.in_room(room.nid),
        (typing, _) => typing,
    };
    if wanted(TYPING)
        && let Some(users) = typing
    {
        let content = json!({ "user_ids": users }).to_string();
        events.extend(as_event(TYPING, &content));
    }
    Ok(events)
}

type Receipts = BTreeMap<String, BTreeMap<String, BTreeMap<OwnedUserId, serde_json::Value>>>;

/// Receipts stored after `since`; private ones are their owner's only.
///
/// spec: client-server-sync §Private-read-receipts
async fn receipts(
    round: &Round<'_>,
    room: &RoomRecord,
    since: Position,
) -> Result<Vec<Raw<AnySyncEphemeralRoomEvent>>, StoreError> {
    let records = round.hub.store.receipts(room.nid, since).await?;
    let mut threads: BTreeMap<String, Receipts> = BTreeMap::new();
    for record in records {
        let hidden = record.kind == READ_PRIVATE && record.user != round.caller.user;
        if hidden || record.position > round.now.position {
            continue;
        }
        let mut data = json!({ "ts": record.at });
        if !record.thread.is_empty()
            && let Some(data) = data.as_object_mut()
        {
            data.insert("thread_id".to_owned(), record.thread.clone().into());
        }
        // One event per thread: in one event a user has one receipt for an event.
        let event = threads.entry(record.thread).or_default();
        let kinds = event.entry(record.event.to_string()).or_default();
        kinds
            .entry(record.kind)
            .or_default()
            .insert(record.user, data);
    }
    let events = threads.values().filter_map(|content| {
        let content = serde_json::to_string(content).ok()?;
        as_event(RECEIPT, &content)
    });
    Ok(events.collect())
}

fn is_member(event: &EventRecord) -> bool {
    Stored::read(event).is_some_and(|stored| stored.kind == MEMBER)
}

fn is_member_or_encryption(event: &EventRecord) -> bool {
    Stored::read(event).is_some_and(|stored| stored.kind == MEMBER || stored.kind == ENCRYPTION)
}

const MEMBER: &str = "m.room.member";
const ENCRYPTION: &str = "m.room.encryption";
const RECEIPT: &str = "m.receipt";
const TYPING: &str = "m.typing";
