//! What became of events at the other servers that they are for, as their sender asks.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde::Serialize;

use crate::base::{Seq, Timestamp};

/// What became of this event? `GET /_tramline/client/v1/deliveries/{roomId}/{eventId}`. And of one's
/// newest messages in a room? `GET /_tramline/client/v1/deliveries/{roomId}`
#[derive(Clone, Debug)]
pub struct Deliveries {
    /// The room.
    pub room: OwnedRoomId,
    /// The event; without it, the newest messages of whoever asks, and the changes of state that a
    /// server did not take.
    pub event: Option<OwnedEventId>,
}

/// The answer to [`Deliveries`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivered {
    /// What became of the event, for each server that it is for.
    Servers(Vec<DeliveredTo>),
    /// The newest messages, the newest first, and among them what of state was not taken.
    Messages(Vec<Sent>),
}

/// A message or a change of state, and what became of it.
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
    /// Why it waits, where it waits for more than its turn.
    #[serde(flatten)]
    pub held_up: Option<HeldUp>,
}

/// Why what is queued for a server is not under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HeldUp {
    /// The stable reason: what the last try came to.
    pub reason: &'static str,
    /// When it is tried again, in milliseconds; at any moment, where this is not said.
    #[serde(rename = "next_try_ts", skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
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

impl Delivery {
    /// Whether the server will never have it.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Expired)
    }
}
