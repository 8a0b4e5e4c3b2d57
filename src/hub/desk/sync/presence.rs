//! Who is there, as far as it concerns the caller: those they share a room with, and themselves.

use std::collections::BTreeSet;

use ruma::{
    OwnedUserId, UInt,
    api::client::{filter::Filter, sync::sync_events::v3::Response},
    events::presence::PresenceEvent,
    serde::Raw,
};
use serde_json::{json, value::to_raw_value};

use crate::{
    api::Refusal,
    hub::desk::{
        access::ours,
        presence::{Candidates, NEAR_MAX, Standing, content},
        sync::{Round, filter::wants_type},
    },
    store::RoomNid,
};

/// How many users one sync tells of; of more, those that changed last.
const TOLD_MAX: usize = 500;

/// How many users are asked for one by one whether they share a room with the caller; for more, all
/// who do are read at once.
const ASKED_MAX: usize = 16;

/// Of how many rooms that the caller has just joined the members are looked at.
const JOINED_MAX: usize = 16;

const PRESENCE: &str = "m.presence";

/// Adds who changed since the last sync, and who is there in rooms just joined; all who are there to
/// a first one.
///
/// spec: client-server-accounts §Presence
pub(super) async fn fill(
    round: &Round<'_>,
    joined: &[RoomNid],
    response: &mut Response,
) -> Result<(), Refusal> {
    let filter = &round.filter.presence;
    let Some(presences) = round.presences else {
        return Ok(());
    };
    if !wants_type(filter.types.as_deref(), &filter.not_types, PRESENCE) {
        return Ok(());
    }
    let since = round.since.filter(|_| !round.full_state);
    let (since, upto) = (since.map(|since| since.typing), round.now.typing);
    let users: BTreeSet<OwnedUserId> = match presences.candidates(since, upto, ASKED_MAX) {
        Candidates::Few(few) => near_among(round, few).await?,
        Candidates::Many => near(round).await?,
    };
    let mut told = presences.among(users.iter(), since, upto);
    if since.is_some() {
        for room in joined.iter().take(JOINED_MAX) {
            let members = round.hub.store.joined(*room, None).await.map_err(ours)?;
            told.extend(presences.among(members.iter(), None, upto));
        }
    }
    told.retain(|(_, user, _)| wants_sender(filter, user));
    // The last ones that changed, in this order; each once.
    told.sort_unstable_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
    told.dedup_by(|one, other| one.1 == other.1);
    let most = filter.limit.map_or(TOLD_MAX, most);
    let left_out = told.len().saturating_sub(most);
    let events = told.iter().skip(left_out);
    response.presence.events = events.filter_map(|one| event(round, one)).collect();
    Ok(())
}

/// Those of a few users who share a room with the caller.
async fn near_among(
    round: &Round<'_>,
    few: Vec<OwnedUserId>,
) -> Result<BTreeSet<OwnedUserId>, Refusal> {
    let (store, caller) = (&round.hub.store, &round.caller.user);
    let mut found = BTreeSet::new();
    for user in few {
        if user == *caller || store.share_a_room(caller, &user).await.map_err(ours)? {
            found.insert(user);
        }
    }
    Ok(found)
}

/// All who share a room with the caller, within reason.
async fn near(round: &Round<'_>) -> Result<BTreeSet<OwnedUserId>, Refusal> {
    let caller = &round.caller.user;
    let near = round.hub.store.neighbours(caller, NEAR_MAX).await;
    let mut near: BTreeSet<_> = near.map_err(ours)?.into_iter().collect();
    near.insert(caller.clone());
    Ok(near)
}

fn wants_sender(filter: &Filter, user: &OwnedUserId) -> bool {
    let senders = filter.senders.as_ref();
    senders.is_none_or(|senders| senders.contains(user)) && !filter.not_senders.contains(user)
}

fn most(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).map_or(TOLD_MAX, |limit| limit.min(TOLD_MAX))
}

fn event(round: &Round<'_>, (_, user, shown): &Standing) -> Option<Raw<PresenceEvent>> {
    let content = content(shown, round.hub.now());
    let event = json!({ "type": PRESENCE, "sender": user, "content": content });
    to_raw_value(&event).ok().map(Raw::from_json)
}
