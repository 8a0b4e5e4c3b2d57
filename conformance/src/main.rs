//! The offline tester for other implementations.
//!
//! It will speak only bytes and never depend on the hub crate. Today this member holds the test
//! vectors; running it says so and ends with 127, «unsupported».

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!(
        "The tester is not built yet. Its vectors are in conformance/vectors, with their sources."
    );
    ExitCode::from(127)
}
