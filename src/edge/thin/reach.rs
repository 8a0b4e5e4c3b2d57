//! Which devices a door can tell of news now, and which wait in vain: what the wake hook goes by.
//! One for all doors of a process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::{api::DeviceName, base::Recent};

/// Shared by the doors and the wake hook.
#[derive(Debug)]
pub struct Reach {
    known: Mutex<Known>,
    waker: Notify,
}

#[derive(Debug)]
struct Known {
    /// How many observations a device has on all doors.
    watches: BTreeMap<Arc<DeviceName>, u32>,
    /// Devices for which something was given up.
    waiting: BTreeSet<DeviceName>,
    /// Devices that were knocked at and not heard of since.
    knocked: Recent<DeviceName, ()>,
}

/// Devices remembered as waiting or knocked at; beyond it some are knocked at again, or not until the
/// next news.
const DEVICES_MAX: usize = 65_536;

impl Default for Reach {
    fn default() -> Self {
        Self {
            known: Mutex::new(Known {
                watches: BTreeMap::new(),
                waiting: BTreeSet::new(),
                knocked: Recent::new(DEVICES_MAX),
            }),
            waker: Notify::new(),
        }
    }
}

impl Reach {
    /// One that knows of nobody.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn with<R>(&self, work: impl FnOnce(&mut Known) -> R) -> R {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An observation begins.
    pub(super) fn watches(&self, device: &Arc<DeviceName>) {
        self.with(|known| *known.watches.entry(Arc::clone(device)).or_default() += 1);
    }

    /// An observation ended.
    pub(super) fn no_longer_watches(&self, device: &DeviceName) {
        self.with(|known| {
            if let Some(count) = known.watches.get_mut(device) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    known.watches.remove(device);
                }
            }
        });
    }

    /// Something was pushed to the device and never confirmed.
    pub(super) fn gave_up(&self, device: &DeviceName) {
        self.with(|known| {
            if known.waiting.len() < DEVICES_MAX {
                known.waiting.insert(device.clone());
            }
        });
        self.waker.notify_one();
    }

    /// The device has spoken.
    pub fn heard(&self, device: &DeviceName) {
        self.with(|known| {
            known.knocked.remove(device);
            known.waiting.remove(device);
        });
    }

    /// Whether a door will tell the device of news.
    pub fn is_watching(&self, device: &DeviceName) -> bool {
        self.with(|known| known.watches.contains_key(device))
    }

    /// Waits for devices for which something was given up.
    pub(in crate::edge) async fn waiting(&self) -> BTreeSet<DeviceName> {
        loop {
            let waiting = self.with(|known| std::mem::take(&mut known.waiting));
            if !waiting.is_empty() {
                return waiting;
            }
            self.waker.notified().await;
        }
    }

    /// Whether to knock at the device now: it is not watching, and was not knocked at since it was heard of.
    pub(in crate::edge) fn may_knock(&self, device: &DeviceName) -> bool {
        self.with(|known| {
            !known.watches.contains_key(device) && known.knocked.get(device).is_none()
        })
    }

    /// The device was knocked at.
    pub(in crate::edge) fn knocked(&self, device: &DeviceName) {
        self.with(|known| {
            known.knocked.entry(device, || ());
        });
    }
}
