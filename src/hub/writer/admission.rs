//! Events of other servers on their way into a room: judged outside the writer, stored by it.

use std::{collections::BTreeSet, sync::Arc};

use ruma::OwnedEventId;

use crate::{
    base::Seq,
    room::StateKey,
    store::{EventNid, Marker, NewState, RoomNid, StateHead, StateNid, Status},
    wire::matrix::{Pdu, Version},
};

/// What became of a room's graph, to be stored whole or not at all.
///
/// It was worked out beside the writer, on the room as it was stored: the shard takes it only while
/// what it rests on still holds, and answers `Moved` otherwise.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The room's row.
    pub room: RoomNid,
    /// How the room comes to stand on these events.
    pub onto: Onto,
    /// New states, each after its parent.
    pub states: Vec<NewState>,
    /// The events, each after those that it names.
    pub events: Vec<Admitted>,
    /// The room's current state afterwards.
    pub state: StateHead,
    /// The pieces of current state that are other ones afterwards.
    pub changes: Vec<(StateKey, Option<Piece>)>,
    /// What redactions among them leave of other events.
    pub redactions: Vec<Redacted>,
    /// Whether this hub tells the other servers of the room.
    pub relayed: bool,
}

/// A piece of state: the row of its event, and the event.
pub type Piece = (EventNid, Arc<Pdu>);

/// How a room comes to stand on admitted events.
#[derive(Clone, Debug)]
pub enum Onto {
    /// They follow the room as it is; its current state was this one.
    Room(StateNid),
    /// Ours is new in it, or back: whatever was here before says nothing any more.
    Arrival {
        /// The version of a room that is not stored yet.
        version: Option<Version>,
        /// The state that others told, before the first of the events.
        base: StateNid,
    },
}

/// An event with what it is to the room.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The event.
    pub event: Arc<Pdu>,
    /// Its row.
    pub nid: EventNid,
    /// Whether that row is there already, as an outlier's.
    pub is_stored: bool,
    /// What it is.
    pub status: Status,
    /// Whether it is hidden from readers.
    pub soft_failed: bool,
    /// The state after it, in the graph.
    pub state_after: StateNid,
    /// Where readers find it.
    pub spot: Spot,
}

/// Where readers find an event.
#[derive(Clone, Debug)]
pub enum Spot {
    /// They do not: it is hidden, or known only by name.
    Nowhere,
    /// Among what came late, without a number.
    Place(Anchor),
    /// In the log.
    Entry(Entry),
}

/// Before which entry of a log an event stands that came late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Before this one.
    Before(Seq),
    /// Before the next one.
    Next,
}

/// How an event comes into the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Events that count as followed by it: what stands behind those that it names and that are
    /// hidden from readers, and the newest event that made room for it where there were too many.
    pub hidden: Vec<OwnedEventId>,
    /// The states of the room's newest events after it, each once. When they are others, this was
    /// worked out for another room than the one there is now.
    pub branches: BTreeSet<StateNid>,
    /// The room's current state after it.
    pub line: StateNid,
    /// What state resolution changed besides, with the rows of what is now current.
    pub markers: Vec<Marker>,
}

/// What a redaction leaves.
#[derive(Clone, Debug)]
pub struct Redacted {
    /// The event.
    pub target: OwnedEventId,
    /// Its row.
    pub event: EventNid,
    /// The redaction's row.
    pub because: EventNid,
    /// What is left of it.
    pub json: String,
}
