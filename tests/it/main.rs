//! Whole flows over real sockets, against programs nobody here wrote.
//!
//! One binary. A peer that cannot be had shows as ignored with its reason; under `CI=true` it is
//! a failure.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the test allowances of clippy do not reach helpers in this binary"
)]

mod aliases;
mod backup;
mod clients;
mod command_line;
mod durability;
mod edge;
mod federation;
mod hostile;
mod hub;
mod lab;
mod linked;
mod links;
mod oracle;
mod peers;
mod same_json;
mod scripted;
mod thin_client;
mod verbs;
mod wake;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = [
        backup::trials(),
        peers::trials(),
        clients::trials(),
        command_line::trials(),
        durability::trials(),
        federation::trials(),
        hostile::trials(),
        lab::trials(),
        linked::trials(),
        links::trials(),
        oracle::trials(),
        same_json::trials(),
        thin_client::trials(),
        aliases::trials(),
        verbs::trials(),
        wake::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
