//! Where the keys of other servers are kept over a restart.

use async_trait::async_trait;
use ruma::ServerName;

use super::Refusal;
use crate::session::keyring::KnownKeys;

/// The keys of other servers, durably. Without one, all keys are fetched again after a restart, and
/// those of servers that are gone are lost.
#[async_trait]
pub trait PeerKeys: Send + Sync + 'static {
    /// What is kept of `server`.
    async fn kept(&self, server: &ServerName) -> Result<Option<KnownKeys>, Refusal>;

    /// Keeps what is known of `server`, instead of what was kept.
    async fn keep(&self, server: &ServerName, keys: &KnownKeys) -> Result<(), Refusal>;
}
