//! What has to be forgotten from time to time.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{
    base::Timestamp,
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

/// Keeps house until the hub is gone.
pub(super) fn begin(hub: &Arc<Hub>) {
    tokio::spawn(keep(Arc::downgrade(hub)));
}

async fn keep(hub: Weak<Hub>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(hub) = hub.upgrade() else { return };
        if !hub.keep_house().await {
            return;
        }
    }
}

impl Hub {
    /// Forgets what is over; false once the hub takes no more work.
    async fn keep_house(&self) -> bool {
        let span = u64::try_from(TRANSACTIONS.as_millis()).unwrap_or(u64::MAX);
        let before = Timestamp(self.now().0.saturating_sub(span));
        let span = u64::try_from(POLICY_DECISIONS.as_millis()).unwrap_or(u64::MAX);
        let decided = Timestamp(self.now().0.saturating_sub(span));
        let batch = Batch {
            writes: vec![
                Write::ForgetTxns { before },
                Write::ForgetPolicyDecisions { before: decided },
                Write::ForgetRemoteMessages { before },
                Write::Outbox(OutboxWrite::ForgetFailures { before }),
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::owned_user_id;

    use super::*;
    use crate::{
        hub::testing,
        store::{TxnAnswer, TxnKey},
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
        assert!(test.hub.keep_house().await);
        assert!(test.hub.store.txn(&key).await.unwrap().is_some());

        test.clock.advance(Duration::from_millis(1));
        assert!(test.hub.keep_house().await);
        assert!(test.hub.store.txn(&key).await.unwrap().is_none());
    }
}
