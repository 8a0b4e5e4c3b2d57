//! The client library: used by the CLI, the demo and the tests.
