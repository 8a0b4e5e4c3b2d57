//! The hub beside Synapse among other servers: what an event costs that comes in or goes out, how
//! long a message takes from one server to the other, and what it is to join a large room and to
//! leave it. `cargo bench --bench federation`, about eight minutes; with `-- events`, `-- latency`
//! or `-- joins` only that part.
//!
//! There are the hub and two Synapses, each a process of its own, and a scripted server in this
//! one, all on the same machine and of one authority. What is compared is done in turns, round by
//! round, so that a busy machine is as busy for the one as for the other, and the result is a ratio.
//!
//! * **CPU per event** ([`events`]): the other side is always the scripted server, which is as quick
//!   for both. It sends the hub and Synapse events of the same kind in rooms of the same kind, and takes
//!   what their users send. CPU time is that of the whole server process, of all its threads, until it
//!   is at rest again (Synapse answers a transaction before it has worked on it), less what it uses
//!   when nobody asks anything. A message that goes out was first accepted from a client: the same
//!   messages are sent in a room in which there is nobody else, too, and both are told: the whole, and
//!   the whole less that.
//! * **Latency** ([`latency`]): from the call that sends on one server to the answer of the sync that
//!   already waits on the other one: hub and Synapse, both ways, against Synapse and Synapse, both ways.
//! * **Joins** ([`joins`]): the rooms are the scripted server's. To make a room of 1,000 members on a
//!   Synapse takes it minutes, and would be measured on one side of the join only. It gives Synapse,
//!   which asks for that, an answer without members, and the rest afterwards; the hub asks for the whole.
//!
//! Not by criterion, as the `synapse` bench says.

#![expect(
    clippy::indexing_slicing,
    reason = "lists of a length that the bench has chosen itself; where it errs, it stops"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/it/edge.rs"]
mod edge;
mod events;
#[path = "../../tests/it/hub.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared with the tests, which use all of it"
)]
mod hub;
mod joins;
mod latency;
#[path = "../../tests/it/peers.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    reason = "shared with the tests, which use all of it"
)]
mod peers;
mod rooms;
mod scripted;
mod stage;

use std::process::ExitCode;

use common::Report;

fn main() -> ExitCode {
    common::run(async {
        let wanted: Vec<String> = std::env::args().skip(1).collect();
        let wanted: Vec<&str> = wanted
            .iter()
            .map(String::as_str)
            .filter(|word| !word.starts_with('-'))
            .collect();
        let is_wanted = |part: &str| wanted.is_empty() || wanted.contains(&part);
        let mut stage = stage::Stage::set().await?;
        let mut report = Report::default();
        if is_wanted("events") {
            events::measure(&mut stage, &mut report).await?;
        }
        if is_wanted("latency") {
            latency::measure(&mut stage, &mut report).await?;
        }
        if is_wanted("joins") {
            joins::measure(&mut stage, &mut report).await?;
        }
        Ok(report)
    })
}
