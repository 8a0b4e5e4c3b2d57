//! What a store keeps of other servers.

use async_trait::async_trait;
use ruma::ServerName;

use crate::store::StoreError;

/// Of how many servers the keys are kept, at some kilobyte each: more than any room has. Who has a
/// new name for every request must not fill the disk; those not heard of for longest give way.
pub const KEYS_OF_SERVERS_MAX: u32 = 20_000;

/// Other servers.
#[async_trait]
pub trait Servers: Send + Sync + 'static {
    /// What is known of a server's keys, as JSON.
    async fn peer_keys(&self, server: &ServerName) -> Result<Option<String>, StoreError>;

    /// Rows about other servers that cannot be right: of rooms, entries and users that are not there, and
    /// of commits that were not made yet. At most `limit` of them. For `fsck`.
    async fn strays(&self, limit: u32) -> Result<Vec<StrayRow>, StoreError>;
}

/// A row about other servers that cannot be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrayRow {
    /// Its table.
    pub table: String,
    /// Which row of it.
    pub row: String,
    /// What is wrong with it.
    pub why: String,
}
