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
    /// Devices that observe, and what is known of them.
    watching: BTreeMap<Arc<DeviceName>, Watching>,
    /// Devices for which something was given up.
    waiting: BTreeSet<DeviceName>,
    /// Devices that do not observe.
    others: Recent<Arc<DeviceName>, State>,
}

#[derive(Debug, Default)]
struct Watching {
    state: State,
    /// How many observations the device has on all doors.
    observations: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    heard: Timestamp,
    /// Knocked at, or about to be, and not heard of since.
    is_knocked: bool,
}

/// Devices that observe nothing and are remembered, as waiting or knocked at; beyond it some are knocked at again, or not until the
/// next news.
const DEVICES_MAX: usize = 65_536;

impl Default for Reach {
    fn default() -> Self {
        Self {
            known: Mutex::new(Known {
                watching: BTreeMap::new(),
                waiting: BTreeSet::new(),
                others: Recent::new(DEVICES_MAX),
            }),
            waker: Notify::new(),
        }
    }
}

impl Known {
    fn state(&mut self, device: &DeviceName, own: impl FnOnce() -> Arc<DeviceName>) -> &mut State {
        match self.watching.get_mut(device) {
            Some(watching) => &mut watching.state,
            None => self.others.entry(device, own, State::default),
        }
    }

    fn is_watching(&self, device: &DeviceName) -> bool {
        self.watching.contains_key(device)
    }
}

impl Reach {
    /// What is kept of a device that observes, in bytes.
    #[cfg(test)]
    pub(super) const WATCHING_BYTES: usize = size_of::<Watching>();

    /// One that knows of nobody.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn with<R>(&self, work: impl FnOnce(&mut Known) -> R) -> R {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An observation begins.
    pub(super) fn watches(&self, device: &Arc<DeviceName>) {
        self.with(|known| {
            if !known.is_watching(device) {
                let watching = Watching {
                    state: known
                        .others
                        .remove::<DeviceName>(device)
                        .unwrap_or_default(),
                    observations: 0,
                };
                known.watching.insert(Arc::clone(device), watching);
            }
            if let Some(watching) = known.watching.get_mut(&**device) {
                watching.observations = watching.observations.saturating_add(1);
            }
        });
    }

    /// An observation ended.
    pub(super) fn no_longer_watches(&self, device: &DeviceName) {
        self.with(|known| {
            let Some(watching) = known.watching.get_mut(device) else {
                return;
            };
            watching.observations = watching.observations.saturating_sub(1);
            if watching.observations == 0
                && let Some((name, watching)) = known.watching.remove_entry(device)
            {
                *known.others.entry(device, || name, State::default) = watching.state;
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
            *known.state(device, || Arc::clone(device)) = State {
                heard: now,
                is_knocked: false,
            };
            known.waiting.remove(&**device);
        });
    }

    /// Whether a door will tell the device of news.
    pub fn is_watching(&self, device: &DeviceName) -> bool {
        self.with(|known| known.is_watching(device))
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
            if known.is_watching(device) {
                return None;
            }
            let state = known.state(device, || Arc::new(device.clone()));
            let is_first = !std::mem::replace(&mut state.is_knocked, true);
            is_first.then_some(state.heard)
        })
    }

    /// Whether the device still is to be knocked at: it is not watching and was not heard of.
    pub(in crate::edge) fn is_taken_on(&self, device: &DeviceName) -> bool {
        self.with(|known| {
            let state = known.others.get(device);
            state.is_some_and(|state| state.is_knocked)
        })
    }

    /// It was not knocked at after all: the next news may try.
    pub(in crate::edge) fn let_be(&self, device: &DeviceName) {
        let own = || Arc::new(device.clone());
        self.with(|known| known.state(device, own).is_knocked = false);
    }
}
