//! What other servers are told when the keys of a user here change.

use std::sync::Arc;

use ruma::OwnedDeviceId;
use serde_json::{Value, json};

use super::world::World;
use crate::{
    base::Position,
    hub::fanout::{ForServers, Touched},
    store::{Batch, CrossSigningWrite, KeySignature, KeysChange, Usage, Write},
};

const FAR: &str = "far.example";

impl World {
    /// Keys of devices change in one commit; its position.
    async fn change(&self, mut writes: Vec<Write>, changes: &[KeysChange]) -> Position {
        writes.extend(changes.iter().map(|what| Write::DevicesChanged {
            user: self.ana.user.clone(),
            what: what.clone(),
        }));
        let batch = Batch {
            writes,
            may_conflict: false,
        };
        let far = Arc::new([FAR.try_into().unwrap()].into());
        let touched = vec![Touched::Servers(far, ForServers::Beside)];
        let written = self.hub.hub.writer.write(batch, touched).await;
        written.unwrap().0
    }

    async fn device(&self, device: &str) -> Position {
        let device = OwnedDeviceId::from(device);
        let keys = Write::DeviceKeys {
            user: self.ana.user.clone(),
            device: device.clone(),
            json: json!({ "device_id": device }).to_string(),
        };
        self.change(vec![keys], &[KeysChange::Device(device)]).await
    }

    /// Waits for so many updates altogether; gives them all.
    async fn updates(&self, count: usize) -> Vec<Value> {
        let told = || {
            let heard = self.others.heard(FAR).into_iter();
            let edus = heard.flat_map(|one| one.edus);
            let keys = ["m.device_list_update", "m.signing_key_update"];
            edus.filter(|edu| keys.iter().any(|kind| edu["edu_type"] == *kind))
                .collect::<Vec<_>>()
        };
        self.others.until(|_| told().len() >= count).await;
        told()
    }
}

/// Device, number, and the numbers of those before.
fn line(update: &Value) -> (String, u64, Value) {
    let told = &update["content"];
    (
        told["device_id"].as_str().unwrap().to_owned(),
        told["stream_id"].as_u64().unwrap(),
        told["prev_id"].clone(),
    )
}

#[tokio::test]
async fn each_change_of_a_device_follows_the_one_before_it_also_after_a_restart() {
    let mut world = World::with(&[FAR]).await;
    let first = world.device("A").await;
    world.updates(1).await;
    let second = world.device("B").await;
    let told = world.updates(2).await;
    assert_eq!(line(&told[0]), ("A".to_owned(), first.0, json!([])));
    assert_eq!(line(&told[1]), ("B".to_owned(), second.0, json!([first.0])));
    assert_eq!(told[1]["content"]["keys"], json!({ "device_id": "B" }));

    world.restart(true).await;
    let gone = Write::RemoveDevice {
        user: world.ana.user.clone(),
        device: "A".into(),
    };
    let a = KeysChange::Device("A".into());
    let third = world.change(vec![gone], &[a]).await;
    let told = world.updates(3).await;
    assert_eq!(line(&told[2]), ("A".to_owned(), third.0, json!([second.0])));
    assert_eq!(told[2]["content"]["deleted"], true);
}

#[tokio::test]
async fn who_was_away_is_told_of_each_device_once_and_of_several_at_once_to_ask() {
    let mut world = World::with(&[FAR]).await;
    let first = world.device("A").await;
    world.updates(1).await;
    world.restart(true).await;
    world.others.mood(FAR, [super::world::Mood::Away]);
    world.device("A").await;
    let second = world.device("B").await;
    let third = world.device("A").await;
    world.others.mood(FAR, [super::world::Mood::Takes]);
    let before = world.others.heard(FAR).len();
    world.wait(std::time::Duration::from_hours(1));
    world
        .others
        .until(|others| others.heard(FAR).len() > before)
        .await;
    let last = world.others.heard(FAR).pop().unwrap();
    let lines: Vec<_> = last.edus.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            ("B".to_owned(), second.0, json!([first.0])),
            ("A".to_owned(), third.0, json!([second.0])),
        ]
    );

    let both = ["A", "B"].map(|device| KeysChange::Device(device.into()));
    let count = world.updates(0).await.len();
    let fourth = world.change(Vec::new(), &both).await;
    let told = world.updates(count + 1).await;
    let (_, number, previous) = line(told.last().unwrap());
    assert_eq!((number, previous), (fourth.0, json!([])));
}

#[tokio::test]
async fn new_cross_signing_keys_and_what_they_signed_are_told() {
    let world = World::with(&[FAR]).await;
    let ana = &world.ana.user;
    let key = |usage: Usage, name: &str| {
        let keys = json!({ "user_id": ana, "keys": { format!("ed25519:{name}"): name } });
        Write::CrossSigning(CrossSigningWrite::Key {
            user: ana.clone(),
            usage,
            json: Some(keys.to_string()),
        })
    };
    let writes = vec![
        key(Usage::Master, "m"),
        key(Usage::SelfSigning, "s"),
        key(Usage::UserSigning, "u"),
    ];
    world.change(writes, &[KeysChange::CrossSigning]).await;
    let first = world.device("A").await;
    let signature = Write::CrossSigning(CrossSigningWrite::Signature {
        of: ana.clone(),
        signature: KeySignature {
            item: "A".to_owned(),
            signer: ana.clone(),
            key: "ed25519:s".to_owned(),
            signature: "sig".to_owned(),
        },
    });
    world.updates(2).await;
    let signed = world
        .change(vec![signature], &[KeysChange::Device("A".into())])
        .await;

    let told = world.updates(3).await;
    assert_eq!(told[0]["edu_type"], "m.signing_key_update");
    let keys = &told[0]["content"];
    assert_eq!(keys["master_key"]["keys"], json!({ "ed25519:m": "m" }));
    assert_eq!(
        keys["self_signing_key"]["keys"],
        json!({ "ed25519:s": "s" })
    );
    assert!(!format!("{told:?}").contains("ed25519:u"), "ana's own");
    // The cross-signing keys are not counted among the changes of devices.
    assert_eq!(line(&told[1]), ("A".to_owned(), first.0, json!([])));
    assert_eq!(line(&told[2]), ("A".to_owned(), signed.0, json!([first.0])));
    let shown = &told[2]["content"]["keys"]["signatures"][ana.as_str()];
    assert_eq!(*shown, json!({ "ed25519:s": "sig" }));
}
