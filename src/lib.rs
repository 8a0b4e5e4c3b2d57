//! Tramline: a hub for chat rooms that span providers, made for thin links.
//!
//! # The map
//!
//! ```text
//! main → app → edge, hub, client → store → api → room, group, session → wire → base
//! ```
//!
//! Imports point right, never left; `tests/tidy.rs` fails when one does not. `edge` and `hub`
//! meet only in [`api`]; `edge` and `client` use `api`, `session`, `wire` and `base` only.
//! Everything right of `store` opens no socket or file, spawns no task and reads no clock.
//!
//! * [`base`]: ids, [`base::Seq`], [`base::Position`], time and chance as arguments, every ceiling.
//! * [`wire`]: bytes to typed values and back; total, no I/O.
//! * [`room`]: one room's rules as data per version: `needs`, `decide`, `apply`.
//! * [`group`]: the hub's view of an MLS group. Its place; no code yet.
//! * [`session`]: connection machines without I/O: CoAP reliability, block-wise, Observe.
//! * [`api`]: what the outside may ask and be told.
//! * [`store`]: durable truth behind small traits; SQLite, and the contract every backend passes.
//! * [`hub`]: desk, graph, room shards, the one committer, fan-out, outbox.
//! * [`edge`]: sockets around the session machines; bytes become commands here. What a provider's
//!   protocol needs, out and in: [`edge::matrix`].
//! * [`client`]: the client library behind `tramline client`, the demo and the tests.
//! * [`app`]: configuration, command line, wiring, telemetry, shutdown; the real clock.
//!
//! # One way in
//!
//! Bytes → session machine → wire → [`api::Command`] → `hub::desk` attaches the caller → the
//! room's shard: `room::needs` names the evidence, `decide` and `apply` work on the staged room →
//! the one committer merges the shards' batches into one fsynced commit → replies go out →
//! fan-out says only «position is now N». Nothing is told before it is stored.
//!
//! Other servers come the same way, as [`api::PeerCommand`]. Their events are not decided but judged,
//! beside the writer, because that may take state resolution and questions to others: `hub::desk`
//! has form, hashes and signatures checked through [`api::Remote`], [`hub::graph`] weaves the events
//! into the room's graph, and the shard takes the outcome only while the room is still the one it was
//! worked out for. What leaves goes through [`api::Remote`], too: [`hub::outbox`] has a cursor over
//! positions for each server, and begins where fan-out says that something is new.

pub mod api;
pub mod app;
pub mod base;
pub mod client;
pub mod edge;
pub mod group;
pub mod hub;
pub mod room;
pub mod session;
pub mod store;
pub mod wire;
