//! Connection machines without I/O: `handle_*` for what came in, `poll_*` for what to do now,
//! `now` always given. Look in [`coap`] for reliability, block-wise transfer and Observe, in
//! [`oscore`] for messages protected end to end, in [`lab`] for a bad link to try them on.

pub mod coap;
pub mod framed;
pub mod lab;
pub mod oscore;
