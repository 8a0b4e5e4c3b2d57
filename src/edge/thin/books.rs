//! The ledger of all devices, shared by the doors; shown to a device, to an operator and as metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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
        let woke = self.ledger().count(now, device, operation, cost);
        measure(operation, cost, woke);
    }

    /// Counts for what the device did last.
    pub(super) fn count_on(&self, now: Timestamp, device: &Arc<DeviceName>, cost: Cost) {
        let (operation, woke) = self.ledger().count_on(now, device, cost);
        measure(operation, cost, woke);
    }

    /// A device did this, or had it done.
    pub(super) fn did(&self, device: &Arc<DeviceName>, operation: &'static str) {
        self.ledger().did(device, operation);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger<Arc<DeviceName>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device's account as it is told. spec: thin-profile §13
    pub(super) fn cbor(&self, device: &DeviceName) -> Vec<u8> {
        let account = self.ledger().account(device).unwrap_or_default();
        cbor::encode(&Value::Object(figures(&account)), KeyForm::Text)
    }

    /// All accounts, for an operator, in the words of the client's own ledger. `since` is when the
    /// counting began.
    pub fn json(&self, since: Timestamp) -> Value {
        let ledger = self.ledger();
        let devices = ledger.accounts().map(|(name, account)| {
            let mut operations: BTreeMap<String, Cost> = BTreeMap::new();
            for (operation, cost) in account.lines() {
                *operations.entry(in_words(operation)).or_default() += *cost;
            }
            let operations = operations.iter();
            let operations = operations.map(|(name, cost)| (name.clone(), named(*cost)));
            let mut total = named(account.total());
            total.insert("wakeups".to_owned(), account.wakeups().into());
            json!({
                "user_id": name.user, "device_id": name.device,
                "operations": operations.collect::<BTreeMap<_, _>>(), "total": total,
            })
        });
        json!({ "since": since.rfc3339(), "devices": devices.collect::<Vec<_>>() })
    }
}

/// A cost as the client's ledger names its figures.
fn named(cost: Cost) -> Map<String, Value> {
    let figures = [
        ("times", cost.exchanges),
        ("bytes_up", cost.up.bytes),
        ("bytes_down", cost.down.bytes),
        ("datagrams_up", cost.up.datagrams),
        ("datagrams_down", cost.down.datagrams),
    ];
    let figures = figures.into_iter();
    figures
        .map(|(name, figure)| (name.to_owned(), figure.into()))
        .collect()
}

/// An operation as the client's ledger calls it; what that has no name for is its own name, in
/// lower case and parted.
fn in_words(operation: &str) -> String {
    let known = match operation {
        "ThinAppend" => "send",
        "ThinLog" => "read",
        "ThinInbox" => "sync",
        "ThinNames" | "ThinAlias" => "names",
        "ThinEntry" | "Event" => "entry",
        "ThinRead" => "read receipt",
        "JoinByIdOrAlias" => "join",
        "SendState" => "set state",
        "Messages" => "page back",
        "Alias" => "find alias",
        other => other.strip_prefix("Thin").unwrap_or(other),
    };
    let mut words = String::with_capacity(known.len() + 2);
    for c in known.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
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

fn measure(operation: &'static str, cost: Cost, woke: bool) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_reads_the_words_of_the_clients_ledger_with_named_figures() {
        let books = Books::new();
        let device = Arc::new(DeviceName {
            user: "@ana:hub.example".try_into().unwrap(),
            device: "PHONE".into(),
        });
        let cost = Cost {
            exchanges: 1,
            up: Traffic {
                datagrams: 1,
                bytes: 60,
            },
            down: Traffic {
                datagrams: 2,
                bytes: 90,
            },
        };
        for operation in ["ThinAppend", "CreateRoom", "ThinEntry", "Event"] {
            books.count(Timestamp(5000), &device, operation, cost);
        }

        let told = books.json(Timestamp(0));

        let once = json!({"times": 1, "bytes_up": 60, "bytes_down": 90, "datagrams_up": 1,
            "datagrams_down": 2});
        let twice = json!({"times": 2, "bytes_up": 120, "bytes_down": 180, "datagrams_up": 2,
            "datagrams_down": 4});
        let total = json!({"times": 4, "bytes_up": 240, "bytes_down": 360, "datagrams_up": 4,
            "datagrams_down": 8, "wakeups": 1});
        let operations = json!({"send": once, "create room": once, "entry": twice});
        let expected = json!({"since": "1970-01-01T00:00:00Z", "devices": [{
            "user_id": "@ana:hub.example", "device_id": "PHONE", "operations": operations,
            "total": total}]});
        assert_eq!(told, expected);
    }

    #[test]
    fn operations_have_the_names_that_a_device_gives_them() {
        for (operation, name) in [
            ("ThinHello", "hello"),
            ("ThinInbox", "sync"),
            ("ThinLinkProfile", "link profile"),
            ("ThinWakeHook", "wake hook"),
            ("ThinLedger", "ledger"),
            ("JoinedRooms", "joined rooms"),
            ("Connection", "connection"),
            ("Push", "push"),
        ] {
            assert_eq!(in_words(operation), name);
        }
    }
}
