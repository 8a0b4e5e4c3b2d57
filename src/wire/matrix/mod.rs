//! Matrix events as bytes and as typed values. Hashing, signing and redaction are ruma's.

mod key;
mod pdu;
mod version;

pub use key::{KeyError, ServerKey};
pub use pdu::{Pdu, PduError, PduFields, event_hash, event_id};
pub use version::Version;
