//! The binary: hands its arguments to `app`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tramline::app::main(std::env::args_os())
}
