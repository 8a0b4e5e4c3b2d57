//! What became of events at the other servers that they are for, as their sender asks.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde::Serialize;

use crate::base::Seq;

/// What became of this event? `GET /_tramline/client/v1/deliveries/{roomId}/{eventId}`. And of one's
/// newest messages in a room? `GET /_tramline/client/v1/deliveries/{roomId}`
#[derive(Clone, Debug)]
pub struct Deliveries {
    /// The room.
    pub room: OwnedRoomId,
    /// The event; without it, the newest messages of whoever asks.
    pub event: Option<OwnedEventId>,
}

/// The answer to [`Deliveries`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivered {
    /// What became of the event, for each server that it is for.
    Servers(Vec<DeliveredTo>),
    /// The newest messages, the newest first.
    Messages(Vec<Sent>),
}

/// A message, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// The event.
    pub event_id: OwnedEventId,
    /// Its number in the room.
    pub seq: Seq,
    /// When it was sent.
    pub origin_server_ts: u64,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// For each other server that it is for.
    pub servers: Vec<DeliveredTo>,
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
    /// The server did not take it, or was not told it in the end, because of this.
    Refused(String),
    /// The server was not reached for so long that it was given up.
    Expired,
}
