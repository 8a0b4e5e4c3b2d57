//! What has to be forgotten from time to time.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use ruma::OwnedUserId;

use crate::{
    base::{Position, Timestamp},
    hub::Hub,
    store::{Batch, OutboxWrite, Write},
};

/// How often there is a look.
const EVERY: Duration = Duration::from_hours(1);

/// How long it is remembered what was decided on an event as a policy server: by then nobody has it
/// to ask about who did not ask before.
const POLICY_DECISIONS: Duration = Duration::from_hours(24 * 90);

/// How long an answered transaction is remembered: a phone that was off for a month sends again
/// what it does not know to have arrived, and must not send it twice. A message of another server
/// for devices is remembered as long.
const TRANSACTIONS: Duration = Duration::from_hours(24 * 31);

/// How long it is remembered that another server did not take something, or was not told it in the end.
pub(super) const FAILURES: Duration = TRANSACTIONS;

/// How many of other servers' users are forgotten in one commit: each may have a list of 1 MiB.
const STRANGERS_AT_ONCE: u32 = 100;

/// So long before `now`.
pub(super) fn ago(now: Timestamp, span: Duration) -> Timestamp {
    let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Timestamp(now.0.saturating_sub(span))
}

/// Keeps house until the hub is gone.
pub(super) fn begin(hub: &Arc<Hub>) {
    tokio::spawn(keep(Arc::downgrade(hub)));
}

async fn keep(hub: Weak<Hub>) {
    let mut before = hub
        .upgrade()
        .map_or(Position::ZERO, |hub| hub.fanout.position());
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(hub) = hub.upgrade() else { return };
        let position = hub.fanout.position();
        if !hub.keep_house(before).await {
            return;
        }
        before = position;
    }
}

impl Hub {
    /// Forgets what is over; false once the hub takes no more work. Changes of device lists are looked
    /// through up to `before`: what is read just now has newer ones.
    async fn keep_house(&self, before: Position) -> bool {
        self.forget_strangers().await;
        let changes = Write::ForgetDeviceChanges { before };
        let before = ago(self.now(), TRANSACTIONS);
        let decided = ago(self.now(), POLICY_DECISIONS);
        let failed = ago(self.now(), FAILURES);
        let batch = Batch {
            writes: vec![
                Write::ForgetTxns { before },
                Write::ForgetPolicyDecisions { before: decided },
                Write::ForgetRemoteMessages { before },
                changes,
                Write::Outbox(OutboxWrite::ForgetFailures { before: failed }),
            ],
            may_conflict: false,
        };
        match self.writer.write(batch, Vec::new()).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "old transactions could not be forgotten");
                self.writer.healthy()
            }
        }
    }

    /// Forgets the devices of other servers' users who share no room with anyone here any more: their
    /// servers do not tell of changes.
    async fn forget_strangers(&self) {
        let mut after: Option<OwnedUserId> = None;
        loop {
            let ours = self.key.name();
            let found = self
                .store
                .strangers(ours, after.as_deref(), STRANGERS_AT_ONCE);
            let found = match found.await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "who shares no room any more could not be read");
                    return;
                }
            };
            let Some(last) = found.last() else { return };
            after = Some(last.clone());
            let writes = found.into_iter();
            let batch = Batch {
                writes: writes
                    .map(|user| Write::ForgetRemoteUser { user })
                    .collect(),
                may_conflict: false,
            };
            if let Err(error) = self.writer.write(batch, Vec::new()).await {
                tracing::warn!(%error, "who shares no room any more could not be forgotten");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::owned_user_id;

    use super::*;
    use crate::{
        hub::testing,
        store::{KeysChange, RemoteUser, TxnAnswer, TxnKey},
    };

    #[tokio::test]
    async fn a_transaction_is_remembered_for_a_month_and_then_forgotten() {
        let test = testing::hub().await;
        let key = TxnKey {
            user: owned_user_id!("@ana:hub.example"),
            device: "D".into(),
            endpoint: "send !room m.room.message".to_owned(),
            txn: "t".to_owned(),
        };
        let write = Write::Txn {
            key: Arc::new(key.clone()),
            answer: TxnAnswer::Done,
            at: test.hub.now(),
        };
        let batch = Batch {
            writes: vec![write],
            may_conflict: false,
        };
        test.hub.writer.write(batch, Vec::new()).await.unwrap();

        test.clock.advance(TRANSACTIONS);
        assert!(test.hub.keep_house(Position::ZERO).await);
        assert!(test.hub.store.txn(&key).await.unwrap().is_some());

        test.clock.advance(Duration::from_millis(1));
        assert!(test.hub.keep_house(Position::ZERO).await);
        assert!(test.hub.store.txn(&key).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_devices_of_whom_nobody_here_meets_any_more_are_forgotten() {
        let test = testing::hub().await;
        let zed = owned_user_id!("@zed:far.example");
        let state = RemoteUser::default();
        let user = zed.clone();
        let batch = Batch {
            writes: vec![
                Write::RemoteUser { user, state },
                Write::DevicesChanged {
                    user: zed.clone(),
                    what: KeysChange::Devices,
                },
            ],
            may_conflict: false,
        };
        test.hub.writer.write(batch, Vec::new()).await.unwrap();
        assert!(test.hub.keep_house(Position::ZERO).await);
        assert_eq!(test.hub.store.remote_list(&zed).await.unwrap(), None);
        let now = test.hub.fanout.position();
        let changed = test.hub.store.devices_changed_at(&zed, now).await;
        assert_eq!(changed.unwrap(), Position::ZERO);
    }
}
