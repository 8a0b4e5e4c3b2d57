//! Devices and keys of other servers' users: asked for where they are, and kept while their servers
//! tell of every change.
//!
//! [`asking`] answers a client, [`lists`] keeps device lists, [`checked`] reads what other servers
//! say. Nothing here trusts a signature or shows one: that is for the clients.

pub(super) mod asking;
mod checked;
pub(super) mod lists;
#[cfg(test)]
pub(super) mod tests;

pub(super) use lists::Fetches;
