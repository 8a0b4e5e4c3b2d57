//! Connection machines without I/O: `handle_*` for what came in, `poll_*` for what to do now,
//! `now` always given. Look in [`coap`] for reliability, block-wise transfer and
//! Observe, in [`dtls`] for DTLS connections.

pub mod coap;
pub mod dtls;
