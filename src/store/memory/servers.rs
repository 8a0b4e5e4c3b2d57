//! What is known of other servers, in memory.

use async_trait::async_trait;
use ruma::ServerName;

use super::Memory;
use crate::store::{Servers, StoreError, StrayRow};

#[async_trait]
impl Servers for Memory {
    async fn peer_keys(&self, server: &ServerName) -> Result<Option<String>, StoreError> {
        Ok(self.tables().peer_keys.get(server).cloned())
    }

    async fn strays(&self, _: u32) -> Result<Vec<StrayRow>, StoreError> {
        Ok(Vec::new()) // what is kept in one process's memory is not looked through
    }
}
