//! A store in memory: maps behind a lock. For the simulation and as the second opinion on the
//! contract; it forgets everything when it is dropped.
//!
//! States are kept whole and shared, not as deltas, so that nothing here resembles what the real
//! backends do.

mod accounts;
mod check;
mod cross_signing;
mod links;
mod outbox;
mod read;
mod remote;
mod servers;
mod thin;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use ruma::{OwnedDeviceId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};

use crate::{
    api::Registration,
    base::{EventHash, Position, Seq, Timestamp},
    room::{Membership, StateKey},
    store::{
        Batch, CommitError, Commits, Committed, DestinationRecord, DeviceRecord, EventNid,
        EventRecord, KeysChange, LinkRecord, Mark, MediaRecord, Numbers, OutsideRecord,
        ReceiptRecord, Residency, RoomNid, RoomRecord, StateNid, StoreError, TxnAnswer, TxnKey,
        UserRecord,
    },
    wire::thin::{Alias, NameKind},
};

/// A store in memory.
#[derive(Debug, Default)]
pub struct Memory {
    tables: Mutex<Tables>,
    numbers: Numbers,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Every change is made on a copy or checked before it begins, so what a panicking thread
        // left is whole.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type DeviceKey = (OwnedUserId, OwnedDeviceId);

/// Everything there is. Cloning it is how a refused batch is undone.
#[derive(Clone, Debug, Default)]
struct Tables {
    position: Position,
    rooms: BTreeMap<RoomNid, RoomRecord>,
    room_ids: BTreeMap<OwnedRoomId, RoomNid>,
    events: BTreeMap<EventNid, Arc<Event>>,
    hashes: BTreeMap<EventHash, EventNid>,
    log: BTreeMap<(RoomNid, Seq), Arc<Entry>>,
    states: BTreeMap<StateNid, Arc<BTreeSet<EventNid>>>,
    current: BTreeMap<RoomNid, BTreeMap<StateKey, EventNid>>,
    places: BTreeSet<(RoomNid, Seq, u64, EventNid)>,
    memberships: BTreeMap<(OwnedUserId, RoomNid), Member>,
    outside: BTreeMap<(OwnedUserId, OwnedRoomId), OutsideRecord>,
    txns: BTreeMap<TxnKey, (TxnAnswer, Timestamp)>,
    policy_decisions: BTreeMap<EventHash, (Option<String>, Timestamp)>,
    aliases: BTreeMap<OwnedRoomAliasId, (RoomNid, OwnedUserId)>,
    directory: BTreeSet<RoomNid>,
    receipts: BTreeMap<(RoomNid, OwnedUserId, String, String), ReceiptRecord>,
    users: BTreeMap<OwnedUserId, UserRecord>,
    profiles: BTreeMap<(OwnedUserId, String), String>,
    account_data: BTreeMap<(OwnedUserId, Option<OwnedRoomId>, String), (String, Position)>,
    filters: BTreeMap<(OwnedUserId, u64), String>,
    devices: BTreeMap<DeviceKey, Device>,
    device_keys: BTreeMap<DeviceKey, String>,
    one_time_keys: BTreeMap<(DeviceKey, String, String), String>,
    fallback_keys: BTreeMap<(DeviceKey, String), Fallback>,
    device_changes: BTreeSet<(Position, OwnedUserId, KeysChange)>,
    vouched: cross_signing::Vouched,
    links: BTreeMap<DeviceKey, LinkRecord>,
    /// By recipient id and token, with when it was made.
    registrations: BTreeMap<(Vec<u8>, Vec<u8>), (Position, Registration)>,
    mail: BTreeMap<(DeviceKey, Position, u32), (Option<OwnedServerName>, String)>,
    residents: BTreeMap<(RoomNid, OwnedServerName), Vec<Residency>>,
    relays: BTreeSet<(RoomNid, Seq)>,
    destinations: BTreeMap<OwnedServerName, DestinationRecord>,
    parcels: BTreeMap<(OwnedServerName, (Position, u64)), (String, Timestamp)>,
    refusals: BTreeMap<(RoomNid, Seq, OwnedServerName), (String, Timestamp)>,
    lapses: BTreeMap<(OwnedServerName, Mark), (Mark, Timestamp)>,
    withheld: BTreeMap<(RoomNid, OwnedServerName, Seq), (Seq, Timestamp)>,
    thin_names: BTreeMap<(DeviceKey, NameKind, Alias), String>,
    thin_counters: BTreeMap<(DeviceKey, NameKind), Alias>,
    media: BTreeMap<String, MediaRecord>,
    peer_keys: BTreeMap<OwnedServerName, String>,
    remote: remote::Remote,
}

#[derive(Clone, Debug)]
struct Event {
    record: EventRecord,
    /// Its type and state key, when it is state.
    key: Option<StateKey>,
}

#[derive(Clone, Debug)]
struct Entry {
    position: Position,
    chain: crate::base::ChainHash,
    state: Option<StateNid>,
    what: crate::store::NewLogged,
}

#[derive(Clone, Debug)]
struct Member {
    membership: Membership,
    event: EventNid,
    position: Position,
    forgotten: bool,
}

#[derive(Clone, Debug)]
struct Device {
    token: [u8; 32],
    record: DeviceRecord,
}

#[derive(Clone, Debug)]
struct Fallback {
    key_id: String,
    json: String,
    used: bool,
}

#[async_trait]
impl Commits for Memory {
    async fn commit(&self, batches: &[Batch]) -> Result<Committed, CommitError> {
        write::commit(&mut self.tables(), batches)
    }

    async fn position(&self) -> Result<Position, StoreError> {
        Ok(self.tables().position)
    }

    fn numbers(&self) -> &Numbers {
        &self.numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, contract};

    #[tokio::test]
    async fn memory_keeps_the_contract() {
        contract::run(async || {
            let store: Arc<dyn Store> = Arc::new(Memory::new());
            store
        })
        .await;
    }

    /// The simulation runs both; what one tells, the other must tell.
    #[tokio::test]
    async fn memory_and_sqlite_tell_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let name = OwnedServerName::try_from("hub.example").unwrap();
        let options = crate::store::sqlite::OpenOptions::new(dir.path().join("s.db"), name);
        let file = crate::store::sqlite::Sqlite::open(options).await.unwrap();
        let memory = Memory::new();
        for store in [&file as &dyn Store, &memory] {
            contract::states_equal_a_model(store, 11, 150).await;
        }
        assert_eq!(
            contract::describe(&file).await.unwrap(),
            contract::describe(&memory).await.unwrap()
        );
    }
}
