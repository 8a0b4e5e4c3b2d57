//! Which connections a device has: few, and none once it is revoked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use metrics::gauge;
use ruma::UserId;

use super::connection::{REPLACED, REVOKED};
use crate::{
    api::{Deliver, DeviceName},
    base::Position,
};

/// Connections of a device; the oldest makes room for a further one. Two are enough for a device that
/// came back before its old connection timed out.
const CONNECTIONS_PER_DEVICE_MAX: usize = 4;

/// The connections by device, the oldest first.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<DeviceName, Vec<quinn::Connection>>>);

/// One connection's entry.
pub(super) struct Session {
    sessions: Arc<Sessions>,
    device: DeviceName,
    id: usize,
}

impl Sessions {
    /// Enters a connection, to be closed when its device is revoked.
    pub(super) fn enter(
        self: &Arc<Self>,
        device: &DeviceName,
        connection: &quinn::Connection,
    ) -> Session {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(device.clone()).or_default();
        if own.len() >= CONNECTIONS_PER_DEVICE_MAX {
            own.remove(0).close(REPLACED, b"");
        }
        own.push(connection.clone());
        gauge!("tramline_connections", "door" => "quic").increment(1);
        Session {
            sessions: Arc::clone(self),
            device: device.clone(),
            id: connection.stable_id(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut all = self
            .sessions
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.device) {
            own.retain(|connection| connection.stable_id() != self.id);
            if own.is_empty() {
                all.remove(&self.device);
            }
        }
        gauge!("tramline_connections", "door" => "quic").decrement(1);
    }
}

impl Deliver for Sessions {
    fn news(&self, _: Position, _: &mut dyn Iterator<Item = &UserId>) {}

    fn news_for_all(&self, _: Position) {}

    fn revoked(&self, device: &DeviceName) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in all.get(device).into_iter().flatten() {
            connection.close(REVOKED, b"");
        }
    }
}
