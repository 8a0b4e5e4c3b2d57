//! Whose devices to look at anew, and whose no longer matter.

use std::collections::BTreeSet;

use ruma::{
    OwnedUserId,
    api::client::{
        filter::FilterDefinition,
        sync::sync_events::{DeviceLists, v3::Response},
    },
    push::Ruleset,
};

use super::{read_since, rooms};
use crate::{
    api::{Caller, Refusal},
    hub::{
        Hub,
        desk::{access::ours, sync::Round},
    },
    store::RoomNid,
};

/// Whom the caller met and parted from in encrypted rooms since the last sync, and where else they
/// may have met somebody.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_field_names,
    reason = "who was met, and who was parted from"
)]
pub(super) struct Met {
    pub(super) met: BTreeSet<OwnedUserId>,
    pub(super) parted: BTreeSet<OwnedUserId>,
    /// Rooms that may be new to the caller.
    pub(super) joined: Vec<RoomNid>,
}

/// Adds the device lists; a first sync has none, for its client asks for all it needs.
///
/// spec: client-server-sync §Tracking-the-device-list-for-a-user
pub(super) async fn fill(
    round: &Round<'_>,
    met: Met,
    response: &mut Response,
) -> Result<(), Refusal> {
    let Some(since) = round.since else {
        return Ok(());
    };
    let store = &round.hub.store;
    let user = &round.caller.user;
    let changed = store
        .device_changes(user, since.position, round.now.position)
        .await
        .map_err(ours)?;
    let mut changed: BTreeSet<_> = changed.into_iter().collect();
    changed.extend(met.met.into_iter().filter(|other| other != user));
    for other in met.parted {
        if other != *user && !store.share_a_room(user, &other).await.map_err(ours)? {
            changed.remove(&other);
            response.device_lists.left.push(other);
        }
    }
    response.device_lists.changed = changed.into_iter().collect();
    Ok(())
}

/// The same between two tokens that clients have from syncs.
// spec: client-server-e2ee §Device-lists
pub(in crate::hub::desk) async fn between(
    hub: &Hub,
    caller: &Caller,
    from: &str,
    to: &str,
) -> Result<DeviceLists, Refusal> {
    let (from, to) = (
        read_since(hub, ("from", from))?,
        read_since(hub, ("to", to))?,
    );
    let round = Round {
        hub,
        caller,
        filter: &FilterDefinition::default(),
        since: Some(from),
        now: to,
        full_state: false,
        state_after: false,
        rules: Ruleset::default(),
        presences: None, // nobody is told of presence here
    };
    let mut response = Response::new(String::new());
    if from.position < to.position {
        let met = rooms::met(&round).await?;
        fill(&round, met, &mut response).await?;
    }
    Ok(response.device_lists)
}
