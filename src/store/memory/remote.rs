//! Other servers' users in memory.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId};

use super::{Memory, Tables, write::Stop};
use crate::{
    base::{Position, Timestamp},
    room::Membership,
    store::{
        REMOTE_MESSAGES_MAX, RemoteDevice, RemoteList, RemoteUser, RemoteUsers, RoomNid,
        StoreError, Write,
    },
};

#[derive(Clone, Debug, Default)]
pub(super) struct Remote {
    users: BTreeMap<OwnedUserId, RemoteUser>,
    devices: BTreeMap<(OwnedUserId, OwnedDeviceId), (Option<String>, String)>,
    messages: BTreeMap<OwnedServerName, Vec<(String, Timestamp)>>,
}

/// Whether [`Remote::apply`] does this write.
pub(super) fn is_ours(write: &Write) -> bool {
    matches!(
        write,
        Write::RemoteUser { .. }
            | Write::RemoteDevice { .. }
            | Write::ForgetRemoteDevices { .. }
            | Write::RemoteMessage { .. }
            | Write::ForgetRemoteMessages { .. }
    )
}

impl Remote {
    pub(super) fn apply(&mut self, write: &Write) -> Result<(), Stop> {
        match write {
            Write::RemoteUser { user, state } => {
                self.users.insert(user.clone(), state.clone());
            }
            Write::RemoteDevice {
                user,
                device,
                known,
            } => {
                let key = (user.clone(), device.clone());
                match known {
                    Some(known) => self.devices.insert(key, known.clone()),
                    None => self.devices.remove(&key),
                };
            }
            Write::ForgetRemoteDevices { user } => self.devices.retain(|(of, _), _| of != user),
            Write::RemoteMessage { origin, id, at } => {
                let known = self.messages.entry(origin.clone()).or_default();
                if known.iter().any(|(known, _)| known == id) {
                    return Err(Stop::Conflict(format!("{origin}'s {id} is already there")));
                }
                known.push((id.clone(), *at));
                let most = usize::try_from(REMOTE_MESSAGES_MAX).unwrap_or(usize::MAX);
                let over = known.len().saturating_sub(most);
                known.drain(..over);
            }
            Write::ForgetRemoteMessages { before } => {
                for known in self.messages.values_mut() {
                    known.retain(|(_, at)| at >= before);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Tables {
    /// The rooms a user is in, and the users in them whose membership is not newer than `since`.
    fn in_since(&self, user: &UserId, since: Position) -> BTreeSet<RoomNid> {
        let mine = self.memberships.iter().filter(|((whose, _), member)| {
            whose == user && member.membership == Membership::Join && member.position <= since
        });
        mine.map(|((_, room), _)| *room).collect()
    }
}

#[async_trait]
impl RemoteUsers for Memory {
    async fn remote_list(&self, user: &UserId) -> Result<Option<RemoteList>, StoreError> {
        let tables = self.tables();
        let Some(state) = tables.remote.users.get(user) else {
            return Ok(None);
        };
        let devices = tables.remote.devices.iter();
        let devices = devices.filter(|((of, _), _)| of == user);
        let devices = devices.map(|((_, device), (name, keys))| RemoteDevice {
            device: device.clone(),
            name: name.clone(),
            keys: keys.clone(),
        });
        Ok(Some(RemoteList {
            user: state.clone(),
            devices: devices.collect(),
        }))
    }

    async fn in_touch_since(
        &self,
        user: &UserId,
        caller: &UserId,
        since: Position,
    ) -> Result<bool, StoreError> {
        let tables = self.tables();
        let rooms = tables.in_since(user, since);
        Ok(tables.memberships.iter().any(|((whose, room), member)| {
            whose.server_name() == caller.server_name()
                && member.membership == Membership::Join
                && member.position <= since
                && rooms.contains(room)
        }))
    }

    async fn neighbours_of(
        &self,
        user: &UserId,
        server: &ServerName,
        limit: u32,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        let near = self.tables().neighbours(user).into_iter();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let theirs = near.filter(|other| other.server_name() == server);
        Ok(theirs.take(limit).collect())
    }

    async fn devices_changed_at(&self, user: &UserId) -> Result<Position, StoreError> {
        let tables = self.tables();
        let mine = tables.device_changes.iter().filter(|(_, of)| of == user);
        Ok(mine
            .map(|(position, _)| *position)
            .max()
            .unwrap_or_default())
    }
}
