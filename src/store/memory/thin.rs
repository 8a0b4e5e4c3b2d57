//! Numbers and links of thin devices, in memory.

use async_trait::async_trait;
use ruma::UserId;

use super::{DeviceKey, Memory, Tables};
use crate::{
    store::{ALIASES_MAX, StoreError, ThinDevices, Write, first_alias},
    wire::thin::{Alias, NameKind},
};

impl Tables {
    /// What is for a device that is not there is dropped.
    pub(super) fn apply_thin(&mut self, write: &Write) {
        let Write::ThinNames {
            user,
            device,
            names,
        } = write
        else {
            return;
        };
        let key = (user.clone(), device.clone());
        if !self.devices.contains_key(&key) {
            return;
        }
        for (kind, name) in names {
            self.number(&key, *kind, name);
        }
    }

    fn number(&mut self, whose: &DeviceKey, kind: NameKind, name: &str) {
        if self.alias_of(whose, kind, name).is_some() {
            return;
        }
        let first = first_alias(kind);
        let next = self
            .thin_counters
            .entry((whose.clone(), kind))
            .or_insert(first);
        if *next < first + ALIASES_MAX {
            let alias = *next;
            *next += 1;
            self.thin_names
                .insert((whose.clone(), kind, alias), name.to_owned());
        }
    }

    fn alias_of(&self, whose: &DeviceKey, kind: NameKind, name: &str) -> Option<Alias> {
        let mut all = self.thin_names.iter();
        all.find(|((of, its, _), text)| of == whose && *its == kind && *text == name)
            .map(|((_, _, alias), _)| *alias)
    }

    pub(super) fn forget_thin(&mut self, gone: &DeviceKey) {
        self.thin_names.retain(|(key, ..), _| key != gone);
        self.thin_counters.retain(|(key, _), _| key != gone);
    }
}

#[async_trait]
impl ThinDevices for Memory {
    async fn generation(&self) -> Result<[u8; 8], StoreError> {
        Ok([0; 8]) // it is never restored
    }

    async fn thin_names(
        &self,
        user: &UserId,
        device: &str,
        wanted: &[(NameKind, Alias)],
    ) -> Result<Vec<Option<String>>, StoreError> {
        let tables = self.tables();
        let whose: DeviceKey = (user.to_owned(), device.into());
        let name = |(kind, alias): &(NameKind, Alias)| {
            let name = tables.thin_names.get(&(whose.clone(), *kind, *alias));
            name.cloned()
        };
        Ok(wanted.iter().map(name).collect())
    }

    async fn thin_aliases(
        &self,
        user: &UserId,
        device: &str,
        wanted: &[(NameKind, String)],
    ) -> Result<Vec<Option<Alias>>, StoreError> {
        let tables = self.tables();
        let whose: DeviceKey = (user.to_owned(), device.into());
        let alias = |(kind, name): &(NameKind, String)| tables.alias_of(&whose, *kind, name);
        Ok(wanted.iter().map(alias).collect())
    }
}
