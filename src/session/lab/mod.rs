//! The link laboratory: a bad link as a machine without I/O, for tests and for `tramline lab`.
//!
//! [`Link`] stands between any number of clients and one hub, as a narrow access link with a NAT
//! on its far side does:
//!
//! ```text
//! clients ──▶ queue ─▶ bandwidth ─▶ loss ─▶ delay ─▶ NAT ──▶ hub
//! clients ◀── delay ◀─ loss ◀─ bandwidth ◀─ queue ◀─ NAT ◀── hub
//! ```
//!
//! All clients share the two lanes, as phones in one cell do. The caller owns clock and sockets:
//! [`Link::offer`] puts a datagram in, [`Link::poll`] takes one out when its time has come,
//! [`Link::poll_timeout`] says when that is. The same seed and the same offers give the same
//! deliveries: there is no clock, no floating point and no randomness but [`chance`]'s in here.
//!
//! [`Profile`] is what a link is like (the named ones are in [`profiles`]), [`quantity`] how
//! people write it, [`World`] runs two connection machines over a link on a virtual clock.
//! Bytes are never changed here: corruption is for fuzzing, UDP's checksum turns it into loss.

pub mod chance;
mod lane;
pub mod link;
mod nat;
pub mod profile;
pub mod profiles;
pub mod quantity;
pub mod stats;
pub mod time;
pub mod world;

#[cfg(test)]
mod tests;

pub use link::{Delivery, Direction, Link, Origin};
pub use nat::{CLIENTS_MAX, Port};
pub use profile::{Blackout, Burst, Ppm, Profile, Rate};
pub use stats::{ClientStats, Lost, NatStats, Stats, Tally};
pub use time::Micros;
pub use world::{Node, Step, World};
