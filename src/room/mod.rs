//! One room's rules, as plain functions. Pure: no I/O, no clock, no async.
