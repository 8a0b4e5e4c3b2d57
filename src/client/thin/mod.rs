//! A linked device: the thin profile over OSCORE or QUIC, from the keys of a credential file.
//!
//! [`machine`] is the device without I/O, on [`secure`] (messages under OSCORE), [`ask`] (questions
//! and answers) and [`places`] (what was dealt with); [`agree`] comes by a fresh context. [`state`] and [`queue`] are what survives it,
//! [`door`] the sockets: one API over both ways.

pub mod agree;
pub mod ask;
pub mod book;
mod disk;
pub mod door;
mod error;
pub mod machine;
pub mod nat;
pub mod places;
pub mod queue;
pub mod secure;
pub mod state;

#[cfg(test)]
mod tests;

pub use ask::{Answer, Ask, AskError};
pub use book::{Book, Line};
pub use door::{DoorChoice, FileToSend, Flushed, QUIC_FROM_BYTES, Teller, ThinDoor, Transferred};
pub use error::ThinError;
pub use machine::{Conduct, Event, Follow, OpId, ThinMachine};
pub use nat::NatTimer;
pub use places::Places;
pub use queue::{Queue, Queued};
pub use state::{NotedRoom, OpenRoom, State, StateDir, StateError};
