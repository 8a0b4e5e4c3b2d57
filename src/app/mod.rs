//! Configuration, command line, wiring, telemetry, shutdown; the real clock and randomness.
//!
//! Read `cli` for what can be asked, `run` for how a hub is put together. What a room allows,
//! what is stored and what crosses the wire is decided elsewhere; this is where files, sockets,
//! signals and the terminal are.

pub mod admin;
pub mod backup;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod doctor;
#[cfg(test)]
mod door_tests;
pub mod edhoc_key;
pub mod explain;
pub mod facts;
pub mod failure;
pub mod federation;
pub mod in_force;
pub mod init;
pub mod keys;
pub mod lab;
pub mod link;
pub mod listen;
mod metrics;
pub mod notify;
pub mod obstacles;
pub mod open;
pub mod operate;
pub mod operations;
pub mod operator;
pub mod output;
mod places;
pub mod ready;
pub mod reload;
pub mod restore;
pub mod rotate;
pub mod run;
pub mod secrets;
pub mod signals;
pub mod talk;
pub mod telemetry;
pub mod tls;
pub mod users;

pub use cli::main;
