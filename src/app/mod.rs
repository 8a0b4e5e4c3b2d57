//! Configuration, command line, wiring, telemetry, shutdown; the real clock and randomness.
