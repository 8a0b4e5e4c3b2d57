//! A store that fails when told to: the fault loop and the simulation put it around a real one.
//!
//! Every read and every commit counts as one operation. The n-th fails, and only that one, so a
//! test can run a story once for every n.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use ruma::{DeviceId, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use thiserror::Error;

use crate::{
    base::{EventHash, Position, Seq},
    room::StateKey,
    store::{
        AccountDataRecord, Accounts, AliasRecord, Batch, CommitError, Commits, Committed,
        DeviceKeysRecord, DeviceRecord, Devices, EventNid, EventRecord, ListedRecord, LogRecord,
        MailRecord, MediaIndex, MediaRecord, MembershipRecord, Numbers, Order, ReceiptRecord,
        RoomNid, RoomRecord, Rooms, SessionRecord, StateNid, Store, StoreError, Totals, TxnAnswer,
        TxnKey, UserRecord, UserSummary,
    },
};

/// How a commit fails. A read fails in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is stored, and we say so.
    Failed,
    /// It is stored, and we say that we do not know.
    UnknownStored,
    /// Nothing is stored, and we say that we do not know.
    UnknownLost,
}

impl Fault {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Failed, Self::UnknownStored, Self::UnknownLost];
}

/// The failure that was asked for.
#[derive(Clone, Copy, Debug, Error)]
#[error("operation {operation} was told to fail")]
pub struct Injected {
    /// Which.
    pub operation: u64,
}

/// A store that fails when told to.
pub struct Faulty {
    inner: Arc<dyn Store>,
    done: AtomicU64,
    plan: Mutex<Option<(u64, Fault)>>,
}

impl Faulty {
    /// A store that does not fail yet.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            done: AtomicU64::new(0),
            plan: Mutex::new(None),
        }
    }

    /// Lets operation `n` fail, counted from 1 over the store's whole life; instead of whichever
    /// was to fail before.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some((n, fault));
    }

    /// How many operations there have been.
    pub fn operations(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Counts an operation; tells how it is to fail, if it is.
    fn count(&self) -> Option<(Fault, StoreError)> {
        let operation = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        let plan = *self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, fault) = plan.filter(|(n, _)| *n == operation)?;
        let error = StoreError::Backend(Box::new(Injected { operation }));
        Some((fault, error))
    }
}

#[async_trait]
impl Commits for Faulty {
    async fn commit(&self, batches: &[Batch]) -> Result<Committed, CommitError> {
        match self.count() {
            None => self.inner.commit(batches).await,
            Some((Fault::Failed, error)) => Err(CommitError::Failed(error)),
            Some((Fault::UnknownLost, error)) => Err(CommitError::Unknown(error)),
            Some((Fault::UnknownStored, error)) => {
                self.inner.commit(batches).await?;
                Err(CommitError::Unknown(error))
            }
        }
    }

    async fn position(&self) -> Result<Position, StoreError> {
        match self.count() {
            None => self.inner.position().await,
            Some((_, error)) => Err(error),
        }
    }

    fn numbers(&self) -> &Numbers {
        self.inner.numbers()
    }
}

/// Reads that are counted, then passed on.
macro_rules! reads {
    ($part:ident: $($name:ident($($arg:ident: $from:ty),*) -> $to:ty;)*) => {
        #[async_trait]
        impl $part for Faulty {
            $(
                async fn $name(&self, $($arg: $from),*) -> Result<$to, StoreError> {
                    match self.count() {
                        None => self.inner.$name($($arg),*).await,
                        Some((_, error)) => Err(error),
                    }
                }
            )*
        }
    };
}

reads! {
    Rooms:
    room(id: &RoomId) -> Option<RoomRecord>;
    room_by_nid(nid: RoomNid) -> Option<RoomRecord>;
    rooms(after: RoomNid, limit: u32) -> Vec<RoomRecord>;
    event(id: EventHash) -> Option<EventRecord>;
    events(nids: &[EventNid]) -> Vec<EventRecord>;
    current(room: RoomNid, keys: &[StateKey]) -> Vec<Option<EventRecord>>;
    current_all(room: RoomNid, kind: Option<&str>) -> Vec<EventRecord>;
    state(state: StateNid) -> Vec<EventNid>;
    state_entries(room: RoomNid, state: StateNid, keys: &[StateKey]) -> Vec<Option<EventRecord>>;
    log(room: RoomNid, from: Seq, to: Seq, order: Order, limit: u32) -> Vec<LogRecord>;
    seq_at(room: RoomNid, position: Position) -> Seq;
    places(room: RoomNid, anchor: Seq, limit: u32) -> Vec<EventRecord>;
    membership(user: &UserId, room: RoomNid) -> Option<MembershipRecord>;
    memberships(user: &UserId, since: Option<Position>) -> Vec<MembershipRecord>;
    joined(room: RoomNid, server: Option<&ServerName>) -> Vec<OwnedUserId>;
    audience(room: RoomNid, server: &ServerName) -> Vec<OwnedUserId>;
    neighbours(user: &UserId, limit: u32) -> Vec<OwnedUserId>;
    share_a_room(one: &UserId, other: &UserId) -> bool;
    txn(key: &TxnKey) -> Option<TxnAnswer>;
    txns(user: &UserId, device: &DeviceId) -> Vec<(String, String)>;
    alias(alias: &RoomAliasId) -> Option<AliasRecord>;
    aliases(room: RoomNid) -> Vec<AliasRecord>;
    is_listed(room: RoomNid) -> bool;
    listed(after: Option<(u64, RoomNid)>, limit: u32) -> Vec<ListedRecord>;
    receipts(room: RoomNid, since: Position) -> Vec<ReceiptRecord>;
    receipts_of(room: RoomNid, user: &UserId) -> Vec<ReceiptRecord>;
    totals() -> Totals;
}

reads! {
    Accounts:
    user(user: &UserId) -> Option<UserRecord>;
    users(after: Option<&UserId>, limit: u32) -> Vec<UserSummary>;
    session(token: &[u8; 32]) -> Option<SessionRecord>;
    profile(user: &UserId) -> Vec<(String, String)>;
    account_data(user: &UserId, since: Position) -> Vec<AccountDataRecord>;
    account_data_of(user: &UserId, room: Option<&RoomId>, kind: &str) -> Option<String>;
    filter(user: &UserId, id: u64) -> Option<String>;
}

reads! {
    Devices:
    devices(user: &UserId) -> Vec<DeviceRecord>;
    device_keys(user: &UserId) -> Vec<DeviceKeysRecord>;
    one_time_counts(user: &UserId, device: &str) -> Vec<(String, u64)>;
    one_time_key(user: &UserId, device: &str, key_id: &str) -> Option<String>;
    mail_waiting(user: &UserId, device: &str) -> (u64, u64);
    unused_fallbacks(user: &UserId, device: &str) -> Vec<String>;
    device_changes(user: &UserId, since: Position, to: Position) -> Vec<OwnedUserId>;
    mail(
        user: &UserId,
        device: &str,
        after: Position,
        to: Position,
        limit: u32
    ) -> Vec<MailRecord>;
}

reads! {
    MediaIndex:
    media(id: &str) -> Option<MediaRecord>;
    media_used(user: &UserId) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        contract::{self, Pen},
        memory::Memory,
    };

    fn faulty() -> Faulty {
        Faulty::new(Arc::new(Memory::new()))
    }

    fn one(pen: &mut Pen) -> [Batch; 1] {
        [Batch {
            writes: pen.take(),
            may_conflict: false,
        }]
    }

    #[tokio::test]
    async fn without_a_fault_it_keeps_the_contract() {
        contract::run(async || {
            let store: Arc<dyn Store> = Arc::new(faulty());
            store
        })
        .await;
    }

    #[tokio::test]
    async fn only_the_named_operation_fails() {
        let store = faulty();
        let n = store.operations();
        store.fail_at(n + 2, Fault::Failed);
        assert!(store.totals().await.is_ok());
        let error = store.position().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the store failed: operation 2 was told to fail"
        );
        assert!(store.position().await.is_ok());
        assert_eq!(store.operations(), 3);
    }

    #[tokio::test]
    async fn a_commit_fails_in_three_ways() {
        for fault in Fault::ALL {
            let store = faulty();
            let mut room = Pen::new(&store, "r");
            room.message(&store);
            store.fail_at(1, fault);
            let error = store.commit(&one(&mut room)).await.unwrap_err();
            let known = matches!(error, CommitError::Failed(_));
            assert_eq!(known, fault == Fault::Failed);
            let stored = store.room(&room.id).await.unwrap().is_some();
            assert_eq!(stored, fault == Fault::UnknownStored);
        }
    }
}
