//! The first event of a room.

use std::sync::Arc;

use ruma::{CanonicalJsonObject, OwnedRoomId, OwnedUserId};

use crate::{
    room::{Evidence, Refusal, Room},
    wire::matrix::{Pdu, Version},
};

/// A room someone wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Founding {
    /// Who creates it.
    pub creator: OwnedUserId,
    /// Its version.
    pub version: Version,
    /// The room id, for versions whose id is not the hash of the create event; ignored otherwise.
    pub room_id: OwnedRoomId,
    /// Further content of the create event (`type`, `m.federate`, `additional_creators`,
    /// `predecessor`).
    pub content: CanonicalJsonObject,
}

/// Builds the create event and the staged room before it: give the event to [`Room::apply`] as an
/// `Append`, then decide the other parts.
pub fn found(founding: &Founding, evidence: &Evidence<'_>) -> Result<(Room, Arc<Pdu>), Refusal> {
    let _ = (founding, evidence);
    unimplemented!("being written")
}
