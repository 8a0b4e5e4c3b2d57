//! Which devices a door can tell of news now, and which wait in vain: what the wake hook goes by.
//! One for all doors of a process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    api::DeviceName,
    base::{Recent, Timestamp},
};

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
    devices: Recent<Arc<DeviceName>, State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    heard: Timestamp,
    /// Knocked at, or about to be, and not heard of since.
    is_knocked: bool,
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
                devices: Recent::new(DEVICES_MAX),
            }),
            waker: Notify::new(),
        }
    }
}

impl Known {
    fn state(&mut self, device: &DeviceName) -> &mut State {
        let own = || Arc::new(device.clone());
        self.devices.entry(device, own, State::default)
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
    pub(super) fn heard(&self, now: Timestamp, device: &Arc<DeviceName>) {
        self.with(|known| {
            let own = || Arc::clone(device);
            let state = known
                .devices
                .entry::<DeviceName>(device, own, State::default);
            *state = State {
                heard: now,
                is_knocked: false,
            };
            known.waiting.remove(&**device);
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

    /// Takes it on to knock at a device: not if it is watching, nor twice until it was heard of.
    /// Gives when it was heard of last, the epoch if it never was.
    pub(in crate::edge) fn take_on(&self, device: &DeviceName) -> Option<Timestamp> {
        self.with(|known| {
            if known.watches.contains_key(device) {
                return None;
            }
            let state = known.state(device);
            let is_first = !std::mem::replace(&mut state.is_knocked, true);
            is_first.then_some(state.heard)
        })
    }

    /// Whether the device still is to be knocked at: it is not watching and was not heard of.
    pub(in crate::edge) fn is_taken_on(&self, device: &DeviceName) -> bool {
        self.with(|known| {
            let state = known.devices.get(device);
            state.is_some_and(|state| state.is_knocked) && !known.watches.contains_key(device)
        })
    }

    /// It was not knocked at after all: the next news may try.
    pub(in crate::edge) fn let_be(&self, device: &DeviceName) {
        self.with(|known| known.state(device).is_knocked = false);
    }
}
