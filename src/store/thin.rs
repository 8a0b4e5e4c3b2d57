//! What a store keeps for devices of the thin profile: their numbers for names, and their links.

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use ruma::UserId;

use crate::{
    store::StoreError,
    wire::thin::{Alias, FIRST_OWN_EVENT_TYPE, NameKind},
};

/// How many names of one kind a device may have numbers for.
///
/// Each is a row of some 100 bytes, and a number of three bytes on the way.
pub const ALIASES_MAX: u64 = 65_536;

/// The first number a device's own names of a kind get: user 0 is the device's own, and the first
/// event types are the same everywhere.
pub const fn first_alias(kind: NameKind) -> Alias {
    match kind {
        NameKind::Room | NameKind::RoomName => 0,
        NameKind::User => 1,
        NameKind::EventType => FIRST_OWN_EVENT_TYPE,
    }
}

/// The numbers of devices.
#[async_trait]
pub trait ThinDevices: Send + Sync + 'static {
    /// Eight random bytes, the same until the store is restored from a backup.
    async fn generation(&self) -> Result<[u8; 8], StoreError>;

    /// What numbers of a device stand for, in the order asked for.
    async fn thin_names(
        &self,
        user: &UserId,
        device: &str,
        wanted: &[(NameKind, Alias)],
    ) -> Result<Vec<Option<String>>, StoreError>;

    /// The numbers of names, in the order asked for.
    async fn thin_aliases(
        &self,
        user: &UserId,
        device: &str,
        wanted: &[(NameKind, String)],
    ) -> Result<Vec<Option<Alias>>, StoreError>;
}
