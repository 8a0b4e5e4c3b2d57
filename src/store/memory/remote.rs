//! Other servers' users in memory.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId};

use super::{Memory, Tables, write::Stop};
use crate::{
    base::{Position, Timestamp},
    room::Membership,
    store::{
        DEVICE_CHANGES_MAX, KeysChange, REMOTE_MESSAGES_MAX, RemoteDevice, RemoteList, RemoteUser,
        RemoteUsers, RoomNid, StoreError, Write,
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
            | Write::ForgetRemoteUser { .. }
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
            Write::ForgetRemoteUser { user } => {
                self.users.remove(user);
                self.devices.retain(|(of, _), _| of != user);
            }
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
    /// See [`Write::ForgetDeviceChanges`].
    pub(super) fn forget_changes(&mut self, before: Position) {
        let all = self.device_changes.clone();
        let later = |position: Position, user: &OwnedUserId| {
            let user = user.clone();
            all.iter()
                .filter(move |(at, of, _)| *at > position && *of == user)
        };
        self.device_changes.retain(|(position, user, what)| {
            let said_again = later(*position, user).any(|(at, _, of)| *at < before && of == what);
            let is_of_device = |what: &KeysChange| matches!(what, KeysChange::Device(_));
            let newer = later(*position, user).filter(|(_, _, of)| is_of_device(of));
            let is_one_of_many = is_of_device(what) && newer.count() >= DEVICE_CHANGES_MAX as usize;
            *position >= before || !(said_again || is_one_of_many)
        });
    }

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

    async fn devices_changed_at(
        &self,
        user: &UserId,
        to: Position,
    ) -> Result<Position, StoreError> {
        let tables = self.tables();
        let mine = tables.device_changes.iter().filter(|(at, of, what)| {
            let is_of_list = matches!(what, KeysChange::Devices | KeysChange::Device(_));
            of == user && *at <= to && is_of_list
        });
        Ok(mine.map(|(at, ..)| *at).max().unwrap_or_default())
    }

    async fn strangers(
        &self,
        ours: &ServerName,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        let tables = self.tables();
        let here: BTreeSet<_> = tables
            .users
            .keys()
            .flat_map(|user| tables.rooms_of(user))
            .collect();
        let changed = tables.device_changes.iter().map(|(_, user, _)| user);
        let changed = changed.filter(|user| user.server_name() != ours);
        let kept: BTreeSet<_> = tables.remote.users.keys().chain(changed).collect();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(kept
            .into_iter()
            .filter(|user| after.is_none_or(|after| user.as_str() > after.as_str()))
            .filter(|user| tables.rooms_of(user).is_disjoint(&here))
            .take(limit)
            .cloned()
            .collect())
    }
}
