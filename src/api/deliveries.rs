//! What became of an event at the other servers that it is for, as its sender asks.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde::Serialize;

/// What became of this event? `GET /_tramline/client/v1/deliveries/{roomId}/{eventId}`
#[derive(Clone, Debug)]
pub struct Deliveries {
    /// Its room.
    pub room: OwnedRoomId,
    /// Its id.
    pub event: OwnedEventId,
}

/// What became of it at one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeliveredTo {
    /// The server.
    pub server: OwnedServerName,
    /// What became of it.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// What became of an event that is for another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum Delivery {
    /// It waits for its turn.
    Queued,
    /// It is on its way.
    InFlight,
    /// The server has it.
    Acked,
    /// The server did not take it, because of this.
    Refused(String),
    /// The server was not reached for so long that it was given up.
    Expired,
}
