//! What would tie a room's branches together, where they are more than one event can follow.
//!
//! Everything that is said follows the room's newest events, and so branches meet again by themselves,
//! unless there are more of them than one event may name. What ties them then says nothing else.

use ruma::{CanonicalJsonObject, UserId};

use super::{GraphError, weave::Weave};
use crate::{
    base::Timestamp,
    room::{StateKey, auth_state_keys, check_auth},
    store::{RoomRecord, SharedStore, StateNid},
    wire::matrix::{DEPTH_MAX, PREV_EVENTS_MAX, PduFields},
};

/// The type of an event that ties branches and says nothing: Synapse's, whose clients know to pass it
/// over.
const KNOT: &str = "org.matrix.dummy_event";

/// Whether a room has more branches than one event ties.
pub fn is_loose(room: &RoomRecord) -> bool {
    room.heads.tips.len() > PREV_EVENTS_MAX
}

/// An event of a user's that follows as many of the room's newest events as one may; nothing where they
/// may not send it.
pub async fn knot(
    store: &SharedStore,
    room: &RoomRecord,
    sender: &UserId,
    now: Timestamp,
) -> Result<Option<PduFields>, GraphError> {
    Weave::begin(store, room).await?.knot(sender, now).await
}

impl Weave<'_> {
    async fn knot(
        &mut self,
        sender: &UserId,
        now: Timestamp,
    ) -> Result<Option<PduFields>, GraphError> {
        let tied: Vec<_> = self.tips.iter().take(PREV_EVENTS_MAX).cloned().collect();
        let deepest = tied.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
        let version = self.room.version;
        let mut fields = PduFields {
            room_id: self.room.id.clone(),
            kind: KNOT.to_owned(),
            sender: sender.to_owned(),
            state_key: None,
            content: CanonicalJsonObject::new(),
            redacts: None,
            at: now,
            depth: deepest.saturating_add(1).min(DEPTH_MAX),
            prev: tied.iter().map(|(id, _)| id.clone()).collect(),
            auth: Vec::new(),
        };
        // As others will judge it: by the state of the branches that it ties, not of all.
        let branches = tied.iter().filter_map(|(id, _)| self.branches.get(id));
        let mut branches: Vec<StateNid> = branches.copied().collect();
        branches.sort_unstable();
        branches.dedup();
        let before = self.resolve(branches).await?;
        let named = auth_state_keys(&fields, version);
        let mut keys = named.clone();
        let create = StateKey::new("m.room.create", "");
        if !keys.contains(&create) {
            keys.push(create);
        }
        let found = self.pieces(before, &keys).await?;
        fields.auth = named
            .iter()
            .filter_map(|key| Some(found.get(key)?.id().clone()))
            .collect();
        let current = self.pieces(self.line, &keys).await?;
        let is_allowed = [found, current].iter().all(|state| {
            let piece = |kind: &str, key: &str| state.get(&StateKey::new(kind, key)).cloned();
            check_auth(&fields, version, &piece).is_ok()
        });
        Ok(is_allowed.then_some(fields))
    }
}
