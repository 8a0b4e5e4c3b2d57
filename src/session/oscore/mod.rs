//! OSCORE (RFC 8613): CoAP messages protected one by one, for both ends of a link.
//!
//! A [`SecurityContext`] is what two ends share. The client calls
//! [`SecurityContext::protect_request`] and later [`SecurityContext::unprotect_response`] with the
//! [`RequestBinding`] it got; the server calls [`SecurityContext::unprotect_request`] and answers
//! with [`SecurityContext::protect_response`], as often as an observation needs.
//!
//! ```text
//! server   addressee → its context → unprotect_request → … → protect_response
//! client   protect_request → … → unprotect_response
//! both     reserve_wanted → (store it) → reserved          before numbers run out
//! ```
//!
//! Nothing is sent, stored or timed here. Message ids, tokens, acknowledgements and duplicates
//! belong to the message layer outside, to which [`link`] ties this one; block-wise transfer and what a request means to the
//! layers inside. Fragments made by proxies (outer Block options) and Group OSCORE are refused.
//!
//! [`context`] has the keys, [`protect`] and [`unprotect`] the work, [`window`] and [`sequence`]
//! what must outlive a restart, [`option`] the header, `class` who may see which option.

mod aead;
mod binding;
mod class;
pub mod context;
pub mod link;
mod nonce;
pub mod option;
mod plaintext;
pub mod protect;
pub mod refused;
pub mod sequence;
pub mod unprotect;
pub mod window;

#[cfg(test)]
mod tests;

pub use binding::{BindingError, RequestBinding};
pub use context::{
    ContextId, DeriveError, Id, IdContext, OuterObserve, Parameters, SecurityContext,
};
pub use nonce::Piv;
pub use option::{OptionError, OscoreOption};
pub use protect::{PivUse, ProtectError};
pub use refused::{Hint, InnerFault, Refused, ResponseRefused};
pub use sequence::{RESERVE_CLIENT, RESERVE_HUB, Sequence, SequenceError};
pub use unprotect::{Unprotected, addressee};
pub use window::{Freshness, Window};
