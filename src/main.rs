//! The binary: parses arguments and calls `app`.

fn main() {}
