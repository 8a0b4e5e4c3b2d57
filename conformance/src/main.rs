//! The offline tester. Its place; it speaks only bytes and does not depend on the hub crate.

fn main() {}
