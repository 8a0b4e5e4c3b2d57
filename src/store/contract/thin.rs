//! Promises about thin devices: their numbers for names, their links.

use ruma::OwnedUserId;

use super::{
    accounts::{new_user, session},
    commit,
    pen::user,
};
use crate::{
    base::Timestamp,
    store::{Store, TxnAnswer, TxnKey, Write},
    wire::thin::{
        NameKind::{self, EventType, Room, User},
    },
};

fn names(user: &OwnedUserId, device: &str, names: &[(NameKind, &str)]) -> Write {
    Write::ThinNames {
        user: user.clone(),
        device: device.into(),
        names: owned(names),
    }
}

fn owned(names: &[(NameKind, &str)]) -> Vec<(NameKind, String)> {
    let names = names.iter();
    names
        .map(|(kind, name)| (*kind, (*name).to_owned()))
        .collect()
}

async fn aliases(
    store: &dyn Store,
    user: &OwnedUserId,
    device: &str,
    wanted: &[(NameKind, &str)],
) -> Vec<Option<u64>> {
    let found = store.thin_aliases(user, device, &owned(wanted)).await;
    found.expect("read")
}

pub(super) async fn a_device_numbers_names_as_they_come_up(store: &dyn Store) {
    let ana = user("ana");
    commit(
        store,
        vec![
            new_user(&ana),
            session(&ana, "PHONE", 1, None),
            session(&ana, "OTHER", 2, None),
            names(&ana, "PHONE", &[(Room, "!b"), (Room, "!a"), (User, "@b")]),
            names(
                &ana,
                "PHONE",
                &[(Room, "!b"), (EventType, "t"), (Room, "!c")],
            ),
            names(&ana, "OTHER", &[(Room, "!c")]),
            names(&ana, "NOBODY", &[(Room, "!c")]),
        ],
    )
    .await;
    let asked = [
        (Room, "!c"),
        (Room, "!a"),
        (Room, "@b"),
        (User, "@b"),
        (EventType, "t"),
        (Room, "!b"),
    ];
    assert_eq!(
        aliases(store, &ana, "PHONE", &asked).await,
        [Some(2), Some(1), None, Some(1), Some(64), Some(0)]
    );
    assert_eq!(
        aliases(store, &ana, "OTHER", &[(Room, "!c")]).await,
        [Some(0)]
    );
    assert_eq!(
        aliases(store, &ana, "NOBODY", &[(Room, "!c")]).await,
        [None]
    );
    let wanted = [(Room, 2), (EventType, 64), (User, 2), (Room, u64::MAX)];
    let found = store.thin_names(&ana, "PHONE", &wanted).await;
    assert_eq!(
        found.expect("read"),
        [Some("!c".to_owned()), Some("t".to_owned()), None, None]
    );
    assert!(aliases(store, &ana, "PHONE", &[]).await.is_empty());
    let before = store.generation().await.expect("read");
    assert_eq!(store.generation().await.expect("read"), before);
}

pub(super) async fn a_removed_device_leaves_no_numbers(store: &dyn Store) {
    let ana = user("ana");
    let device = || "PHONE".into();
    commit(
        store,
        vec![
            new_user(&ana),
            session(&ana, "PHONE", 1, None),
            names(&ana, "PHONE", &[(Room, "!a")]),
        ],
    )
    .await;
    let gone = Write::RemoveDevice {
        user: ana.clone(),
        device: device(),
    };
    commit(
        store,
        vec![names(&ana, "PHONE", &[(Room, "!b")]), gone],
    )
    .await;
    commit(
        store,
        vec![
            session(&ana, "PHONE", 2, None),
            names(&ana, "PHONE", &[(Room, "!c")]),
        ],
    )
    .await;
    assert_eq!(
        aliases(
            store,
            &ana,
            "PHONE",
            &[(Room, "!a"), (Room, "!b"), (Room, "!c")]
        )
        .await,
        [None, None, Some(0)]
    );
}

pub(super) async fn drafts_are_remembered_when_other_transactions_are_forgotten(store: &dyn Store) {
    let key = |endpoint: &str| TxnKey {
        user: user("ana"),
        device: "PHONE".into(),
        endpoint: endpoint.to_owned(),
        txn: "1".to_owned(),
    };
    let txn = |endpoint| Write::Txn {
        key: std::sync::Arc::new(key(endpoint)),
        answer: TxnAnswer::Done,
        at: Timestamp(1),
    };
    commit(store, vec![txn("thin"), txn("send")]).await;
    commit(
        store,
        vec![Write::ForgetTxns {
            before: Timestamp(2),
        }],
    )
    .await;
    assert_eq!(store.txn(&key("send")).await.expect("read"), None);
    assert!(store.txn(&key("thin")).await.expect("read").is_some());
}
