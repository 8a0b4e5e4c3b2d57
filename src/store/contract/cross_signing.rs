//! Promises about cross-signing.

use super::{commit, pen::user};
use crate::store::{CrossSigningKeys, CrossSigningWrite, KeySignature, Store, Usage, Write};

pub(super) async fn who_vouches_is_kept_beside_the_keys(store: &dyn Store) {
    let [ana, bob] = ["ana", "bob"].map(user);
    let key = |usage, json: Option<&str>| {
        Write::CrossSigning(CrossSigningWrite::Key {
            user: ana.clone(),
            usage,
            json: json.map(str::to_owned),
        })
    };
    let writes = vec![
        key(Usage::Master, Some("1")),
        key(Usage::SelfSigning, Some("2")),
        key(Usage::UserSigning, Some("3")),
        key(Usage::Master, Some("4")),
        key(Usage::UserSigning, None),
    ];
    commit(store, writes).await;
    let kept = CrossSigningKeys {
        master: Some("4".to_owned()),
        self_signing: Some("2".to_owned()),
        user_signing: None,
    };
    assert_eq!(store.cross_signing_keys(&ana).await.expect("read"), kept);
    let none = store.cross_signing_keys(&bob).await.expect("read");
    assert_eq!(none, CrossSigningKeys::default());

    let signed = |by: &ruma::OwnedUserId, key: &str, item: &str| KeySignature {
        item: item.to_owned(),
        signer: by.clone(),
        key: key.to_owned(),
        signature: "s".to_owned(),
    };
    let [phone, tablet, master, by_bob] = [
        signed(&ana, "ed25519:SELF", "PHONE"),
        signed(&ana, "ed25519:SELF", "TABLET"),
        signed(&ana, "ed25519:PHONE", "MASTER"),
        signed(&bob, "ed25519:BOBS", "MASTER"),
    ];
    let write = |signature: &KeySignature| {
        Write::CrossSigning(CrossSigningWrite::Signature {
            of: ana.clone(),
            signature: signature.clone(),
        })
    };
    let all = [&phone, &tablet, &master, &by_bob, &phone];
    commit(store, all.map(write).to_vec()).await;
    let seen = async |viewer| store.key_signatures(&ana, viewer).await.expect("read");
    let own = [master.clone(), phone.clone(), tablet.clone()];
    assert_eq!(seen(&ana).await, own);
    assert_eq!(
        seen(&bob).await,
        [
            master.clone(),
            by_bob.clone(),
            phone.clone(),
            tablet.clone()
        ]
    );
    let made = store.signatures_made(&ana).await.expect("read");
    assert_eq!(made, 3);

    let gone = Write::RemoveDevice {
        user: ana.clone(),
        device: "PHONE".into(),
    };
    commit(store, vec![gone]).await;
    assert_eq!(seen(&bob).await, [by_bob, tablet.clone()]);
    let on = CrossSigningWrite::ForgetSignaturesOn {
        user: ana.clone(),
        item: "MASTER".to_owned(),
    };
    commit(store, vec![Write::CrossSigning(on)]).await;
    assert_eq!(seen(&bob).await, [tablet]);
    let by = CrossSigningWrite::ForgetSignaturesBy {
        signer: ana.clone(),
        key: "ed25519:SELF".to_owned(),
    };
    commit(store, vec![Write::CrossSigning(by)]).await;
    assert!(seen(&bob).await.is_empty());
}
