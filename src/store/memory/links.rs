//! Linked devices in memory.

use async_trait::async_trait;
use ruma::{OwnedDeviceId, UserId};

use super::{DeviceKey, Memory, Tables, write::Stop};
use crate::{
    api::{DeviceName, Registration},
    base::Position,
    store::{
        LinkRecord, LinkedDevices, REGISTRATIONS_PER_CONTEXT_MAX, SessionRecord, StoreError, Write,
    },
};

#[async_trait]
impl LinkedDevices for Memory {
    async fn link(&self, user: &UserId, device: &str) -> Result<Option<LinkRecord>, StoreError> {
        let key = (user.to_owned(), OwnedDeviceId::from(device));
        Ok(self.tables().links.get(&key).cloned())
    }

    async fn link_by_recipient(
        &self,
        recipient_id: &[u8],
    ) -> Result<Option<LinkRecord>, StoreError> {
        let tables = self.tables();
        let mut all = tables.links.values();
        Ok(all
            .find(|link| link.oscore.recipient_id == recipient_id)
            .cloned())
    }

    async fn link_by_kid(&self, kid: &[u8]) -> Result<Option<LinkRecord>, StoreError> {
        let tables = self.tables();
        let mut all = tables.links.values();
        Ok(all.find(|link| link.edhoc_kid == kid).cloned())
    }

    async fn links(
        &self,
        after: Option<&DeviceName>,
        limit: u32,
    ) -> Result<Vec<LinkRecord>, StoreError> {
        let after = after.map(key_of);
        let tables = self.tables();
        let all = tables.links.iter();
        Ok(all
            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
            .take(limit as usize)
            .map(|(_, link)| link.clone())
            .collect())
    }

    async fn linked_session(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let tables = self.tables();
        let key = (user.to_owned(), OwnedDeviceId::from(device));
        let known = tables.users.get(user).filter(|known| !known.disabled);
        let is_there = tables.devices.contains_key(&key) && tables.links.contains_key(&key);
        Ok(known.filter(|_| is_there).map(|known| SessionRecord {
            user: key.0,
            device: key.1,
            admin: known.admin,
        }))
    }

    async fn registrations(&self) -> Result<Vec<Registration>, StoreError> {
        let tables = self.tables();
        let all = tables.registrations.values();
        Ok(all.map(|(_, registration)| registration.clone()).collect())
    }

    async fn restores(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

fn key_of(device: &DeviceName) -> DeviceKey {
    (device.user.clone(), device.device.clone())
}

impl Tables {
    pub(super) fn unlink(&mut self, gone: &DeviceKey) {
        if let Some(link) = self.links.remove(gone) {
            self.forget_registrations(&link.oscore.recipient_id);
        }
    }

    fn forget_registrations(&mut self, recipient_id: &[u8]) {
        self.registrations
            .retain(|(whose, _), _| whose != recipient_id);
    }

    fn context(&mut self, recipient_id: &[u8]) -> Result<&mut LinkRecord, Stop> {
        let mut all = self.links.values_mut();
        all.find(|link| link.oscore.recipient_id == recipient_id)
            .ok_or_else(|| Stop::Conflict("there is no such context any more".to_owned()))
    }

    pub(super) fn apply_links(&mut self, write: &Write, position: Position) -> Result<(), Stop> {
        match write {
            Write::Link(record) => self.link(record)?,
            Write::Oscore { link, generation } => {
                let key = key_of(&link.device);
                let is_taken = self.links.iter().any(|(other, known)| {
                    known.oscore.recipient_id == link.recipient_id && *other != key
                });
                let known = self.links.get_mut(&key).filter(|_| !is_taken);
                let known = known.ok_or_else(|| {
                    Stop::Conflict("the recipient id is taken, or the device not linked".to_owned())
                })?;
                let counted = known.oscore.outer_observe_counted;
                let old = std::mem::replace(&mut known.oscore, (**link).clone());
                known.oscore.outer_observe_counted = counted;
                known.generation = *generation;
                self.forget_registrations(&old.recipient_id);
            }
            Write::Reserve {
                recipient_id,
                below,
            } => {
                let known = &mut self.context(recipient_id)?.oscore;
                known.reserved_below = known.reserved_below.max(*below);
            }
            Write::Register(registration) => self.register(registration, position)?,
            Write::Deregister {
                recipient_id,
                token,
            } => {
                let key = (recipient_id.clone(), token.clone());
                self.registrations.remove(&key);
            }
            Write::LinkProfile { device, profile } => {
                if let Some(known) = self.links.get_mut(&key_of(device)) {
                    known.profile = *profile;
                }
            }
            Write::WakeUrl { device, url } => {
                if let Some(known) = self.links.get_mut(&key_of(device)) {
                    known.wake_url.clone_from(url);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn link(&mut self, record: &LinkRecord) -> Result<(), Stop> {
        let key = key_of(&record.oscore.device);
        self.unlink(&key);
        let is_taken = self.links.values().any(|known| {
            known.oscore.recipient_id == record.oscore.recipient_id
                || known.psk_identity == record.psk_identity
                || known.edhoc_kid == record.edhoc_kid
                || (known.quic_spki.is_some() && known.quic_spki == record.quic_spki)
        });
        if is_taken {
            return Err(Stop::Conflict("a key is another device's".to_owned()));
        }
        self.links.insert(key, record.clone());
        Ok(())
    }

    fn register(&mut self, registration: &Registration, position: Position) -> Result<(), Stop> {
        self.context(&registration.recipient_id)?;
        let whose = &registration.recipient_id;
        let key = (whose.clone(), registration.token.clone());
        self.registrations
            .insert(key, (position, registration.clone()));
        let mut mine: Vec<_> = self
            .registrations
            .iter()
            .filter(|((context, _), _)| context == whose)
            .map(|((_, token), (made, _))| (*made, token.clone()))
            .collect();
        mine.sort_unstable();
        let surplus = mine
            .len()
            .saturating_sub(REGISTRATIONS_PER_CONTEXT_MAX as usize);
        for (_, token) in mine.into_iter().take(surplus) {
            self.registrations.remove(&(whose.clone(), token));
        }
        Ok(())
    }
}
