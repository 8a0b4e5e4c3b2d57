//! The ledger of all devices, shared by the doors; shown to a device, to an operator and as metrics.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::counter;
use serde_json::{Map, Value, json};

use crate::{
    api::DeviceName,
    base::Timestamp,
    session::ledger::{Account, Cost, Ledger, Traffic},
    wire::cbor::{self, KeyForm},
};

/// The one ledger of a process.
#[derive(Debug, Default)]
pub struct Books {
    ledger: Mutex<Ledger<Arc<DeviceName>>>,
}

impl Books {
    /// Empty ones.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Counts for a device, and for everyone together.
    pub(super) fn count(
        &self,
        now: Timestamp,
        device: &Arc<DeviceName>,
        operation: &'static str,
        cost: Cost,
    ) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let woke = ledger.count(now, device, operation, cost);
        drop(ledger);
        if woke {
            counter!("tramline_link_wakeups_total").increment(1);
        }
        if cost.exchanges > 0 {
            counter!("tramline_link_exchanges_total", "operation" => operation)
                .increment(cost.exchanges);
        }
        count_way(operation, "up", cost.up);
        count_way(operation, "down", cost.down);
    }

    /// A device's account as it is told. spec: thin-profile §13
    pub(super) fn cbor(&self, device: &DeviceName) -> Vec<u8> {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let account = ledger.account(device).cloned().unwrap_or_default();
        drop(ledger);
        cbor::encode(&Value::Object(figures(&account)), KeyForm::Text)
    }

    /// All accounts, for an operator: by user and device as [`Self::cbor`] tells them.
    pub fn json(&self) -> Value {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = ledger.accounts().map(|(name, account)| {
            json!({
                "user_id": name.user, "device_id": name.device,
                "operations": figures(account),
            })
        });
        json!({ "devices": devices.collect::<Vec<_>>() })
    }
}

fn figures(account: &Account) -> Map<String, Value> {
    let lines = account.lines();
    let mut told: Map<String, Value> = lines
        .map(|(name, cost)| (name.to_owned(), json!(cost.figures())))
        .collect();
    let mut sums = account.total().figures().to_vec();
    sums.push(account.wakeups());
    told.insert(String::new(), json!(sums));
    told
}

fn count_way(operation: &'static str, direction: &'static str, traffic: Traffic) {
    if traffic.datagrams > 0 {
        counter!("tramline_link_datagrams_total", "operation" => operation, "direction" => direction)
            .increment(traffic.datagrams);
    }
    if traffic.bytes > 0 {
        counter!("tramline_link_bytes_total", "operation" => operation, "direction" => direction)
            .increment(traffic.bytes);
    }
}
