//! Bytes to typed values and back. Pure and total: any bytes give a value or a [`DecodeError`].

pub mod cbor;
pub mod chain;
pub mod coap;
pub mod error;
pub mod json;
pub mod keys;
pub mod link_code;
pub mod matrix;
pub mod multipart;
pub mod paths;
pub mod thin;

pub(crate) use error::STEPS_TOLD_MAX;
pub use error::{DecodeError, Fault};
