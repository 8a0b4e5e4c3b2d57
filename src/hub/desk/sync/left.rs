//! A room one has left: what happened up to then, once.

use ruma::{OwnedUserId, api::client::sync::sync_events::v3::LeftRoom};

use crate::{
    base::Seq,
    hub::desk::{
        reading::{
            page::{Seen, Span},
            pieces, state_events,
            visibility::{Standing, state_at},
        },
        sync::{
            Round,
            filter::wants_event,
            lists::Met,
            room::{Line, account_data, line, shown, shown_state},
            rooms::{Beside, membership_at},
            state_delta,
        },
    },
    room::{Membership, StateKey},
    store::{EventRecord, MembershipRecord, RoomRecord, StoreError},
};

/// What the client knows of a room it is told it left.
enum Known {
    /// Everything up to an entry.
    UpTo(Seq),
    /// Nothing: the user came and went since.
    Nothing,
    /// All it will: the user was not in the room, or left it long ago.
    Enough,
}

/// A room's section, when the user left it since the last sync or asks for all such rooms.
pub(super) async fn left(
    round: &Round<'_>,
    room: RoomRecord,
    record: &MembershipRecord,
    beside: Beside,
    met: &mut Met,
) -> Result<Option<LeftRoom>, StoreError> {
    let wanted = match round.since {
        Some(since) => record.position > since.position,
        None => round.filter.room.include_leave,
    };
    let store = &round.hub.store;
    let own = store.events(&[record.event]).await?.into_iter().next();
    let Some((own, end)) = own.and_then(|event| event.seq.map(|seq| (event, seq))) else {
        return Ok(None);
    };
    if !wanted {
        return Ok(None);
    }
    let standing = Standing::with(store, room, &round.caller.user, Some(record)).await?;
    let room = &standing.room;
    let known = known(round, &standing).await?;
    let before = Seq(end.0.saturating_sub(1));
    let from = match known {
        Known::UpTo(seq) => seq,
        Known::Nothing => Seq::ZERO,
        Known::Enough => before,
    };
    let mut line = line(round, &standing, Span { from, to: end }).await?;
    tell_own(round, room, own, before, &mut line).await?;
    if !matches!(known, Known::Enough) {
        part(round, room, end, met).await?;
    }

    let state = state(round, room, &known, &line, end).await?;
    let mut section = LeftRoom::new();
    section.state = shown_state(round, &standing, &state).await?;
    section.timeline = shown(round, &standing, &line).await?;
    section.account_data.events = account_data(round, room, Some(end), &beside).await?;
    Ok(Some(section))
}

/// Notes whom the user parted from by leaving a room, and tells nothing else of it.
pub(super) async fn note_parted(
    round: &Round<'_>,
    room: RoomRecord,
    record: &MembershipRecord,
    met: &mut Met,
) -> Result<(), StoreError> {
    let store = &round.hub.store;
    let own = store.events(&[record.event]).await?.into_iter().next();
    let Some(end) = own.and_then(|event| event.seq) else {
        return Ok(());
    };
    let standing = Standing::with(store, room, &round.caller.user, Some(record)).await?;
    if !matches!(known(round, &standing).await?, Known::Enough) {
        part(round, &standing.room, end, met).await?;
    }
    Ok(())
}

async fn known(round: &Round<'_>, standing: &Standing) -> Result<Known, StoreError> {
    let Some(ended) = standing.ended.as_ref().and_then(|event| event.seq) else {
        return Ok(Known::Enough);
    };
    let Some(since) = round.since else {
        return Ok(Known::Nothing);
    };
    let room = &standing.room;
    let seq = round.hub.store.seq_at(room.nid, since.position).await?;
    if membership_at(round, room, seq).await? == Membership::Join {
        return Ok(Known::UpTo(seq));
    }
    Ok(if ended > seq {
        Known::Nothing
    } else {
        Known::Enough
    })
}

/// The event that put the user out is told in any case: it is about them, and it is how their
/// other devices learn of it.
async fn tell_own(
    round: &Round<'_>,
    room: &RoomRecord,
    own: EventRecord,
    before: Seq,
    line: &mut Line,
) -> Result<(), StoreError> {
    let is_there = line.seen.iter().any(|seen| seen.event.nid == own.nid);
    if is_there || !wants_event(&round.filter.room.timeline, &own) {
        return Ok(());
    }
    if line.seen.is_empty() {
        line.start = before;
    }
    line.seen.push(Seen {
        before: state_at(&round.hub.store, room.nid, before).await?,
        membership: Membership::Leave,
        event: own,
    });
    Ok(())
}

/// State the user was let see while in the room.
async fn state(
    round: &Round<'_>,
    room: &RoomRecord,
    known: &Known,
    line: &Line,
    end: Seq,
) -> Result<Vec<EventRecord>, StoreError> {
    let store = &round.hub.store;
    let at = if round.state_after { end } else { line.start };
    let wanted = |event: &EventRecord| wants_event(&round.filter.room.state, event);
    match known {
        Known::Enough => Ok(Vec::new()),
        Known::UpTo(seq) => {
            let mut changed = state_delta::between(store, room.nid, *seq, at).await?;
            changed.retain(wanted);
            Ok(changed)
        }
        Known::Nothing => {
            let state = state_at(store, room.nid, at).await?;
            state_events(store, state, &wanted).await
        }
    }
}

/// Notes whom the user may have parted from, when the room was encrypted.
async fn part(
    round: &Round<'_>,
    room: &RoomRecord,
    end: Seq,
    met: &mut Met,
) -> Result<(), StoreError> {
    if round.since.is_none() {
        return Ok(());
    }
    let store = &round.hub.store;
    let state = state_at(store, room.nid, end).await?;
    let key = StateKey::new("m.room.encryption", "");
    let found = pieces(store, room, state, &[key]).await?;
    if found.iter().all(Option::is_none) {
        return Ok(());
    }
    let others: Vec<OwnedUserId> = store.joined(room.nid, None).await?;
    met.parted.extend(others);
    Ok(())
}
