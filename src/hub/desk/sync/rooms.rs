//! Which rooms have something to tell, and in which section each stands.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::sync::sync_events::v3::{
        InviteState, InvitedRoom, KnockState, KnockedRoom, Response,
    },
};

use crate::{
    api::Refusal,
    base::{Position, Seq},
    hub::desk::{
        access::ours,
        reading::{
            members_of,
            visibility::{membership_in, state_at},
        },
        sync::{Round, filter::wants_room, invited, left, lists::Met, room},
    },
    room::Membership,
    store::{AccountDataRecord, MembershipRecord, Order, RoomNid, RoomRecord, StoreError},
};

/// Up to how many rooms outside the list of news are looked up one by one; beyond, the user's
/// rooms are read at once.
const LOOKED_UP_MAX: usize = 64;

/// What is new in a room beside its log.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Who types now, when that changed.
    pub(super) typing: Option<Vec<OwnedUserId>>,
    /// Whether there may be new receipts.
    pub(super) receipts: bool,
    /// New account data of the room.
    pub(super) data: Vec<AccountDataRecord>,
}

/// Adds every room with something to tell. Gives who was met and parted from on the way.
pub(super) async fn fill(
    round: &Round<'_>,
    data: &[AccountDataRecord],
    response: &mut Response,
) -> Result<Met, Refusal> {
    let mut beside = beside(round, data).await.map_err(ours)?;
    let records = records(round, &mut beside).await.map_err(ours)?;
    let mut met = Met::default();
    for record in records {
        // That a room was left is told also when it was forgotten right away: the user's other
        // devices still show it.
        let told = round
            .since
            .map_or(Position(u64::MAX), |since| since.position);
        let is_gone = record.forgotten && record.position <= told;
        if is_gone || !wants_room(&round.filter.room, &record.room_id) {
            continue;
        }
        let beside = beside.remove(&record.room).unwrap_or_default();
        let room = record.room_id.clone();
        match place(round, record, beside, &mut met, response).await {
            Ok(()) => {}
            Err(error @ StoreError::Damaged { .. }) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, %room, "a damaged room is left out of a sync");
            }
            Err(error) => return Err(ours(error)),
        }
    }
    Ok(met)
}

/// Whom the user met and parted from since, and nothing else of the rooms.
pub(super) async fn met(round: &Round<'_>) -> Result<Met, Refusal> {
    let since = round.position_since();
    let store = &round.hub.store;
    let records = store.memberships(&round.caller.user, Some(since)).await;
    let mut met = Met::default();
    for record in records.map_err(ours)? {
        let noted = note_met(round, record, since, &mut met).await;
        noted.map_err(ours)?;
    }
    Ok(met)
}

async fn note_met(
    round: &Round<'_>,
    record: MembershipRecord,
    since: Position,
    met: &mut Met,
) -> Result<(), StoreError> {
    let Some(room) = round.hub.store.room_by_nid(record.room).await? else {
        return Ok(());
    };
    let head = head(round, &room).await?;
    let Some(record) = as_of_now(round, &room, record, head).await? else {
        return Ok(());
    };
    match record.membership {
        Membership::Join => room::note_met(round, &room, &record, head, met).await,
        Membership::Leave | Membership::Ban if record.position > since => {
            left::note_parted(round, room, &record, met).await
        }
        _ => Ok(()),
    }
}

/// What is new beside the logs, by room.
async fn beside(
    round: &Round<'_>,
    data: &[AccountDataRecord],
) -> Result<BTreeMap<RoomNid, Beside>, StoreError> {
    let mut found: BTreeMap<RoomNid, Beside> = BTreeMap::new();
    let board = &round.hub.desk.typing;
    for typing in board.changed(round.since.map(|since| since.typing), round.now.typing) {
        found.entry(typing.room).or_default().typing = Some(typing.users);
    }
    if let Some(since) = round.since {
        let rooms = match board.receipts_since(since.position, round.now.position) {
            Some(rooms) => rooms,
            None => all_joined(round).await?,
        };
        for room in rooms {
            found.entry(room).or_default().receipts = true;
        }
    }
    let mut nids: BTreeMap<&OwnedRoomId, Option<RoomNid>> = BTreeMap::new();
    for record in data {
        let Some(id) = &record.room else { continue };
        if !nids.contains_key(id) {
            let room = round.hub.store.room(id).await?;
            nids.insert(id, room.map(|room| room.nid));
        }
        if let Some(Some(nid)) = nids.get(id) {
            found.entry(*nid).or_default().data.push(record.clone());
        }
    }
    Ok(found)
}

async fn all_joined(round: &Round<'_>) -> Result<Vec<RoomNid>, StoreError> {
    let all = round
        .hub
        .store
        .memberships(&round.caller.user, None)
        .await?;
    let joined = all
        .into_iter()
        .filter(|record| record.membership == Membership::Join);
    Ok(joined.map(|record| record.room).collect())
}

/// The memberships to look at: those with news, and those of the rooms with something beside.
async fn records(
    round: &Round<'_>,
    beside: &mut BTreeMap<RoomNid, Beside>,
) -> Result<Vec<MembershipRecord>, StoreError> {
    let store = &round.hub.store;
    let user = &round.caller.user;
    let since = round.since.filter(|_| !round.full_state);
    let since = since.map(|since| since.position);
    let mut records = store.memberships(user, since).await?;
    if since.is_none() {
        return Ok(records);
    }
    let listed: BTreeSet<RoomNid> = records.iter().map(|record| record.room).collect();
    let others: Vec<RoomNid> = beside
        .keys()
        .copied()
        .filter(|room| !listed.contains(room))
        .collect();
    if others.len() > LOOKED_UP_MAX {
        let all = store.memberships(user, None).await?;
        let wanted: BTreeSet<RoomNid> = others.into_iter().collect();
        records.extend(
            all.into_iter()
                .filter(|record| wanted.contains(&record.room)),
        );
        return Ok(records);
    }
    for room in others {
        records.extend(store.membership(user, room).await?);
    }
    Ok(records)
}

/// Puts one room where it belongs, if it has something to tell.
async fn place(
    round: &Round<'_>,
    record: MembershipRecord,
    beside: Beside,
    met: &mut Met,
    response: &mut Response,
) -> Result<(), StoreError> {
    let Some(room) = round.hub.store.room_by_nid(record.room).await? else {
        return Ok(()); // not stored yet: an alias or account data came first
    };
    let head = head(round, &room).await?;
    let Some(record) = as_of_now(round, &room, record, head).await? else {
        return Ok(());
    };
    let id = record.room_id.clone();
    let is_new = round.full_state || record.position > round.position_since();
    match record.membership {
        Membership::Join => {
            if is_new {
                met.joined.push(record.room);
            }
            if let Some(joined) = room::joined(round, room, &record, head, beside, met).await? {
                response.rooms.join.insert(id, joined);
            }
        }
        Membership::Invite if is_new => {
            let mut state = InviteState::new();
            state.events = invited::stripped(round, &room, &record).await?;
            response.rooms.invite.insert(id, InvitedRoom::from(state));
        }
        Membership::Knock if is_new => {
            let mut state = KnockState::new();
            state.events = invited::stripped(round, &room, &record).await?;
            response.rooms.knock.insert(id, KnockedRoom::from(state));
        }
        Membership::Leave | Membership::Ban => {
            if let Some(left) = left::left(round, room, &record, beside, met).await? {
                response.rooms.leave.insert(id, left);
            }
        }
        Membership::Invite | Membership::Knock => {}
    }
    Ok(())
}

/// The last entry of a room up to now.
pub(super) async fn head(round: &Round<'_>, room: &RoomRecord) -> Result<Seq, StoreError> {
    if room.position <= round.now.position {
        return Ok(room.heads.seq);
    }
    round.hub.store.seq_at(room.nid, round.now.position).await
}

/// The user's membership at an entry of a room.
pub(super) async fn membership_at(
    round: &Round<'_>,
    room: &RoomRecord,
    seq: Seq,
) -> Result<Membership, StoreError> {
    let store = &round.hub.store;
    let state = state_at(store, room.nid, seq).await?;
    let found = members_of(store, room, state, [&round.caller.user]).await?;
    Ok(found.first().map_or(Membership::Leave, membership_in))
}

/// A membership changed after this round began is told as it was when the round began.
async fn as_of_now(
    round: &Round<'_>,
    room: &RoomRecord,
    record: MembershipRecord,
    head: Seq,
) -> Result<Option<MembershipRecord>, StoreError> {
    if record.position <= round.now.position {
        return Ok(Some(record));
    }
    let store = &round.hub.store;
    let state = state_at(store, room.nid, head).await?;
    let found = members_of(store, room, state, [&round.caller.user]).await?;
    let Some((event, seq)) = found
        .into_iter()
        .next()
        .and_then(|event| event.seq.map(|seq| (event, seq)))
    else {
        return Ok(None);
    };
    let before = Seq(seq.0.saturating_sub(1));
    let entries = store.log(room.nid, before, seq, Order::Forward, 1).await?;
    Ok(entries.first().map(|entry| MembershipRecord {
        membership: membership_in(&event),
        event: event.nid,
        position: entry.position,
        ..record
    }))
}
