//! Matrix events as bytes and as typed values. Hashing, signing and redaction are ruma's.

mod intact;
mod key;
mod pdu;
mod seal;
mod version;

#[cfg(test)]
mod tests;

pub use intact::{NotIntact, check_intact};
pub use key::{KeyError, ServerKey};
pub use pdu::{
    AUTH_EVENTS_MAX, DEPTH_MAX, PREV_EVENTS_MAX, Pdu, PduError, PduFields, event_hash, event_id,
};
pub use version::Version;
