//! Matrix events as bytes and as typed values. Hashing, signing and redaction are ruma's.

mod glob;
mod intact;
mod key;
mod pdu;
mod seal;
mod server_keys;
mod server_name;
mod signing_key;
mod version;
mod xmatrix;

#[cfg(test)]
pub(crate) mod tests;

pub use glob::{Glob, Subject};
pub use intact::{NotIntact, check_intact};
pub use key::{KeyError, ServerKey};
pub use pdu::{
    AUTH_EVENTS_MAX, DEPTH_MAX, PREV_EVENTS_MAX, Pdu, PduError, PduFields, event_hash, event_id,
};
pub use server_keys::{OldKey, ServerKeys, ServerKeysError, publish};
pub use server_name::{Host, NameError, Place, server_name};
pub use signing_key::{
    Forged, KeyId, KeyIdError, ObjectError, PublicKey, PublicKeyError, Signature, text_to_sign,
};
pub use version::Version;
pub use xmatrix::{Signed, XMatrix, XMatrixError};
