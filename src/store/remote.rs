//! What is kept of other servers' users: their devices, as their servers told them.
//!
//! A list is good for as long as its server tells of every change, which it does while a room is
//! shared; see [`RemoteUsers::in_touch_since`].

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedUserId, ServerName, UserId};

use super::StoreError;
use crate::base::Position;

/// How many messages of one server are remembered so that none is taken twice. A server sends a
/// transaction of at most a hundred again, the same one, until it is answered.
pub const REMOTE_MESSAGES_MAX: u32 = 10_000;

/// How many changes of single devices of one user are remembered. Who was told of none of these asks
/// for the whole list.
pub const DEVICE_CHANGES_MAX: u32 = 1000;

/// Where the device list of another server's user stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteUser {
    /// The change of the list that was last heard of, by its server's count.
    pub stream: u64,
    /// Whether a change was missed, so that the list has to be asked for.
    pub stale: bool,
    /// The hub's position when the list was last asked for.
    pub asked: Position,
    /// The user's cross-signing master key, JSON.
    pub master_key: Option<String>,
    /// The user's self-signing key, JSON.
    pub self_signing_key: Option<String>,
}

/// A device of another server's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDevice {
    /// Its id.
    pub device: OwnedDeviceId,
    /// Its name.
    pub name: Option<String>,
    /// Its identity keys as its server told them, JSON.
    pub keys: String,
}

/// The device list of another server's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteList {
    /// Where it stands.
    pub user: RemoteUser,
    /// The devices, by id.
    pub devices: Vec<RemoteDevice>,
}

/// Users of other servers.
#[async_trait]
pub trait RemoteUsers: Send + Sync + 'static {
    /// The device list of a user, if one is kept.
    async fn remote_list(&self, user: &UserId) -> Result<Option<RemoteList>, StoreError>;

    /// Whether `user` has shared a room with `caller`, or with anyone else of the caller's server,
    /// from `since` to now without a break. A membership that was stored anew after `since` counts
    /// as a break.
    async fn in_touch_since(
        &self,
        user: &UserId,
        caller: &UserId,
        since: Position,
    ) -> Result<bool, StoreError>;

    /// Users of `server` who share a joined room with `user`, at most `limit`.
    async fn neighbours_of(
        &self,
        user: &UserId,
        server: &ServerName,
        limit: u32,
    ) -> Result<Vec<OwnedUserId>, StoreError>;

    /// When a user's device list last changed, up to `to`; zero for never. Cross-signing keys are no
    /// part of the list.
    async fn devices_changed_at(&self, user: &UserId, to: Position)
    -> Result<Position, StoreError>;

    /// Users of other servers than `ours` of whom something is kept and who share no room with an
    /// account here, in order after `after`.
    async fn strangers(
        &self,
        ours: &ServerName,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<OwnedUserId>, StoreError>;
}
