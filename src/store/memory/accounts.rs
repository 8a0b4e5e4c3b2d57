//! Reads of accounts and their devices, in memory.

use std::collections::BTreeSet;

use async_trait::async_trait;
use ruma::{OwnedUserId, RoomId, ServerName, UserId};

use super::{Memory, read::many, write::algorithm_of};
use crate::{
    base::Position,
    store::{
        AccountDataRecord, Accounts, DeviceKeysRecord, DeviceRecord, Devices, KeysChange,
        MailRecord, MailWaiting, Pile, SessionRecord, StoreError, UserRecord, UserSummary,
    },
};

#[async_trait]
impl Accounts for Memory {
    async fn user(&self, user: &UserId) -> Result<Option<UserRecord>, StoreError> {
        Ok(self.tables().users.get(user).cloned())
    }

    async fn users(
        &self,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<UserSummary>, StoreError> {
        let tables = self.tables();
        let behind = |user: &OwnedUserId| after.is_none_or(|after| user.as_str() > after.as_str());
        let wanted = tables.users.values().filter(|known| behind(&known.user));
        let summary = |known: &UserRecord| {
            let mine = || {
                let all = tables.devices.iter();
                all.filter(|((user, _), _)| *user == known.user)
            };
            UserSummary {
                user: known.user.clone(),
                admin: known.admin,
                disabled: known.disabled,
                created: known.created,
                devices: mine().count() as u64,
                seen: mine().filter_map(|(_, device)| device.record.seen).max(),
            }
        };
        Ok(wanted.take(limit as usize).map(summary).collect())
    }

    async fn session(&self, token: &[u8; 32]) -> Result<Option<SessionRecord>, StoreError> {
        let tables = self.tables();
        let found = tables
            .devices
            .iter()
            .find(|(_, known)| known.token == *token);
        Ok(found.and_then(|((user, device), _)| {
            let account = tables.users.get(user).filter(|account| !account.disabled)?;
            Some(SessionRecord {
                user: user.clone(),
                device: device.clone(),
                admin: account.admin,
            })
        }))
    }

    async fn profile(&self, user: &UserId) -> Result<Vec<(String, String)>, StoreError> {
        let tables = self.tables();
        let mine = tables
            .profiles
            .iter()
            .filter(|((whose, _), _)| whose == user);
        Ok(mine
            .map(|((_, field), json)| (field.clone(), json.clone()))
            .collect())
    }

    async fn account_data(
        &self,
        user: &UserId,
        since: Position,
    ) -> Result<Vec<AccountDataRecord>, StoreError> {
        let tables = self.tables();
        let mut found: Vec<AccountDataRecord> = tables
            .account_data
            .iter()
            .filter(|((whose, ..), (_, position))| whose == user && *position > since)
            .map(|((_, room, kind), (json, position))| AccountDataRecord {
                room: room.clone(),
                kind: kind.clone(),
                json: json.clone(),
                position: *position,
            })
            .collect();
        found.sort_by_key(|piece| piece.position);
        Ok(found)
    }

    async fn account_data_of(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        kind: &str,
    ) -> Result<Option<String>, StoreError> {
        let key = (user.to_owned(), room.map(RoomId::to_owned), kind.to_owned());
        let tables = self.tables();
        Ok(tables.account_data.get(&key).map(|(json, _)| json.clone()))
    }

    async fn filter(&self, user: &UserId, id: u64) -> Result<Option<String>, StoreError> {
        Ok(self.tables().filters.get(&(user.to_owned(), id)).cloned())
    }
}

#[async_trait]
impl Devices for Memory {
    async fn devices(&self, user: &UserId) -> Result<Vec<DeviceRecord>, StoreError> {
        let tables = self.tables();
        let mine = tables
            .devices
            .iter()
            .filter(|((whose, _), _)| whose == user);
        Ok(mine.map(|(_, device)| device.record.clone()).collect())
    }

    async fn device_keys(&self, user: &UserId) -> Result<Vec<DeviceKeysRecord>, StoreError> {
        let tables = self.tables();
        let mine = tables
            .device_keys
            .iter()
            .filter(|((whose, _), _)| whose == user);
        Ok(mine
            .map(|(key, json)| DeviceKeysRecord {
                device: key.1.clone(),
                name: tables
                    .devices
                    .get(key)
                    .and_then(|known| known.record.name.clone()),
                json: json.clone(),
            })
            .collect())
    }

    async fn one_time_counts(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let tables = self.tables();
        let mut counts: Vec<(String, u64)> = Vec::new();
        for (whose, algorithm, _) in tables.one_time_keys.keys() {
            if whose.0 != user || whose.1 != device {
                continue;
            }
            match counts.last_mut() {
                Some((last, count)) if last == algorithm => *count += 1,
                _ => counts.push((algorithm.clone(), 1)),
            }
        }
        Ok(counts)
    }

    async fn one_time_key(
        &self,
        user: &UserId,
        device: &str,
        key_id: &str,
    ) -> Result<Option<String>, StoreError> {
        let whose = (user.to_owned(), device.into());
        let key = (whose, algorithm_of(key_id), key_id.to_owned());
        Ok(self.tables().one_time_keys.get(&key).cloned())
    }

    async fn unused_fallbacks(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Vec<String>, StoreError> {
        let tables = self.tables();
        let unused = tables
            .fallback_keys
            .iter()
            .filter(|((whose, _), key)| whose.0 == user && whose.1 == device && !key.used);
        Ok(unused
            .map(|((_, algorithm), _)| algorithm.clone())
            .collect())
    }

    async fn device_changes(
        &self,
        user: &UserId,
        since: Position,
        to: Position,
    ) -> Result<Vec<OwnedUserId>, StoreError> {
        let tables = self.tables();
        let near = tables.neighbours(user);
        let told: BTreeSet<OwnedUserId> = tables
            .device_changes
            .iter()
            .filter(|(position, ..)| *position > since && *position <= to)
            .filter(|(_, who, what)| match what {
                KeysChange::SeenBy(by) => by == user,
                _ => who == user || near.contains(who),
            })
            .map(|(_, who, _)| who.clone())
            .collect();
        Ok(told.into_iter().collect())
    }

    async fn mail_waiting(
        &self,
        user: &UserId,
        device: &str,
        origin: Option<&ServerName>,
    ) -> Result<MailWaiting, StoreError> {
        let tables = self.tables();
        let mine = tables.mail.iter();
        let mine = mine.filter(|((whose, ..), _)| whose.0 == user && whose.1 == device);
        let mut waiting = MailWaiting::default();
        for (_, (from, json)) in mine {
            let put = |pile: &mut Pile| {
                pile.count += 1;
                pile.bytes += json.len() as u64;
            };
            put(&mut waiting.all);
            if from.is_some() {
                put(&mut waiting.elsewhere);
            }
            if from.is_some() && from.as_deref() == origin {
                put(&mut waiting.origin);
            }
        }
        Ok(waiting)
    }

    async fn mail(
        &self,
        user: &UserId,
        device: &str,
        after: Position,
        to: Position,
        limit: u32,
    ) -> Result<Vec<MailRecord>, StoreError> {
        let tables = self.tables();
        let mine = tables.mail.iter().filter(|((whose, position, _), _)| {
            whose.0 == user && whose.1 == device && *position > after && *position <= to
        });
        Ok(mine
            .take(many(limit))
            .map(|((_, position, _), (_, json))| MailRecord {
                position: *position,
                json: json.clone(),
            })
            .collect())
    }
}
