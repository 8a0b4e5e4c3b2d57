//! Who vouches for whom, across servers: the keys by which users of the hub and of a Synapse sign their
//! devices and each other, seen by the other side as they come, change and go; the keys that devices
//! give away; messages from device to device; and the hub restarted in between.

use std::collections::BTreeSet;

use libtest_mimic::Failed;
use ruma::{
    RoomId,
    signatures::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Call, Client, Target},
    wire::{
        json::read_object,
        matrix::{PublicKey, text_to_sign},
    },
};

use super::{
    Peers,
    everyone::{eventually, said},
    text,
};
use crate::hub::{Hub, block_on};

/// How many one-time keys a device leaves.
const ONE_TIME_KEYS: usize = 3;

pub(super) fn users_vouch_for_devices_and_each_other_across_servers() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let mut hub = Hub::federating(&["ana"], &peers.options()?)?;
    let mut ana = Party::of_hub(&peers, &hub)?;
    let mut alice = Party::of_synapse(&peers)?;
    let told = block_on(async {
        let room = meet(&mut ana, &mut alice).await?;
        vouches(&mut ana, &mut alice).await?;
        vouches(&mut alice, &mut ana).await?;
        verifies(&mut ana, &alice).await?;
        verifies(&mut alice, &ana).await?;
        hub.stop()?;
        hub.start()?;
        Ok::<_, Failed>(room)
    })
    .and_then(|room| {
        // The connections belonged to the runtime before.
        block_on(async {
            ana.connect_anew().await?;
            alice.connect_anew().await?;
            changes(&mut ana, &mut alice).await?;
            changes(&mut alice, &mut ana).await?;
            part(&mut ana, &mut alice, &room).await
        })
    });
    told.map_err(|error: Failed| format!("{}\n{}", said(&error), hub.log_text()).into())
}

/// An Ed25519 key pair.
struct Pair(Ed25519KeyPair);

impl Pair {
    fn new() -> Result<Self, Failed> {
        let der = Ed25519KeyPair::generate();
        Ok(Self(Ed25519KeyPair::from_der(&der, "1".to_owned())?))
    }

    fn public(&self) -> String {
        PublicKey(self.0.public_key()).base64()
    }

    /// The object, signed as this user's key with this id.
    fn signed(&self, user: &str, id: &str, mut object: Value) -> Result<Value, Failed> {
        let text = text_to_sign(&read_object(object.to_string().as_bytes())?)?;
        let signature = self.0.sign(text.as_bytes()).base64();
        object["signatures"][user][format!("ed25519:{id}")] = json!(signature);
        Ok(object)
    }
}

/// The keys by which a user vouches.
struct Keys {
    user: String,
    master: Pair,
    self_signing: Pair,
    user_signing: Pair,
}

impl Keys {
    fn of(user: &str) -> Result<Self, Failed> {
        Ok(Self {
            user: user.to_owned(),
            master: Pair::new()?,
            self_signing: Pair::new()?,
            user_signing: Pair::new()?,
        })
    }

    fn key(&self, usage: &str, pair: &Pair) -> Value {
        let public = pair.public();
        json!({
            "user_id": self.user, "usage": [usage],
            "keys": { format!("ed25519:{public}"): public },
        })
    }

    fn below(&self, usage: &str, pair: &Pair) -> Result<Value, Failed> {
        let id = self.master.public();
        self.master.signed(&self.user, &id, self.key(usage, pair))
    }

    fn all(&self) -> Result<Value, Failed> {
        Ok(json!({
            "master_key": self.key("master", &self.master),
            "self_signing_key": self.below("self_signing", &self.self_signing)?,
            "user_signing_key": self.below("user_signing", &self.user_signing)?,
        }))
    }
}

/// What a device was told by syncing.
#[derive(Debug, Default)]
struct Heard {
    changed: BTreeSet<String>,
    left: BTreeSet<String>,
    messages: Vec<Value>,
}

struct Device {
    id: String,
    client: Client,
    keys: Value,
    since: Option<String>,
    heard: Heard,
}

impl Device {
    async fn sync(&mut self) -> Result<(), Failed> {
        let answer = self.client.sync(self.since.as_deref(), 0).await?;
        let users = |name: &str| {
            let users = answer["device_lists"][name].as_array();
            let users = users.into_iter().flatten();
            users
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        self.heard.changed.extend(users("changed"));
        self.heard.left.extend(users("left"));
        let messages = answer["to_device"]["events"].as_array();
        self.heard
            .messages
            .extend(messages.into_iter().flatten().cloned());
        self.since = Some(text(&answer["next_batch"])?.to_owned());
        Ok(())
    }

    /// Syncs until it is told so.
    async fn hears(&mut self, what: &str, is_so: impl Fn(&Heard) -> bool) -> Result<(), Failed> {
        let what = format!("{} is told that {what}", self.id);
        eventually(&what, async || {
            self.sync().await?;
            Ok(if is_so(&self.heard) {
                Ok(())
            } else {
                Err(format!("{:?}", self.heard))
            })
        })
        .await
    }

    async fn post(&mut self, path: &[&str], body: Value) -> Result<Value, Failed> {
        Ok(self.client.call("keys", Call::post(path, body)).await?)
    }

    /// What this device's server tells of a user.
    async fn sees(&mut self, user: &str) -> Result<Value, Failed> {
        let asked = json!({ "device_keys": { user: [] } });
        self.post(&["keys", "query"], asked).await
    }
}

/// A user with all that is theirs.
struct Party {
    name: &'static str,
    password: String,
    user: String,
    server: String,
    target: Target,
    keys: Keys,
    devices: Vec<Device>,
}

impl Party {
    fn of_hub(peers: &Peers, hub: &Hub) -> Result<Self, Failed> {
        let user = format!("@ana:{}", hub.name());
        Ok(Self {
            name: "ana",
            password: "secret-ana".to_owned(),
            keys: Keys::of(&user)?,
            user,
            server: hub.name().to_owned(),
            target: Target::parse(&hub.https(), Some(&peers.pem()?))?,
            devices: Vec::new(),
        })
    }

    fn of_synapse(peers: &Peers) -> Result<Self, Failed> {
        let server = peers.server();
        let about = &server["users"][0];
        let user = text(&about["user_id"])?.to_owned();
        Ok(Self {
            name: "alice",
            password: text(&about["password"])?.to_owned(),
            keys: Keys::of(&user)?,
            user,
            server: text(&server["server_name"])?.to_owned(),
            target: Target::parse(text(&server["https_url"])?, Some(&peers.pem()?))?,
            devices: Vec::new(),
        })
    }

    /// The first device.
    fn phone(&mut self) -> &mut Device {
        &mut self.devices[0]
    }

    /// A new device, which leaves its keys.
    async fn log_in(&mut self, name: &str) -> Result<(), Failed> {
        let id = format!("{}{name}", self.name.to_uppercase());
        let mut client = Client::open(&self.target, &world()).await?;
        client.login(self.name, &self.password, Some(&id)).await?;
        let pair = Pair::new()?;
        let keys = json!({
            "user_id": self.user, "device_id": id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("curve25519:{id}"): pair.public(),
                format!("ed25519:{id}"): pair.public(),
            },
        });
        let mut device = Device {
            keys: pair.signed(&self.user, &id, keys)?,
            client,
            since: None,
            heard: Heard::default(),
            id,
        };
        device.sync().await?;
        let key = |name: &str, more: Value| {
            let mut key = more;
            key["key"] = json!(Pair::new()?.public());
            let key = pair.signed(&self.user, &device.id, key)?;
            Ok::<_, Failed>((format!("signed_curve25519:{name}"), key))
        };
        let one_time = (0..ONE_TIME_KEYS).map(|n| key(&format!("AAAAA{n}"), json!({})));
        let one_time: serde_json::Map<String, Value> = one_time.collect::<Result<_, _>>()?;
        let fallback = [key("FALLBACK", json!({ "fallback": true }))?];
        let fallback: serde_json::Map<String, Value> = fallback.into_iter().collect();
        let body = json!({
            "device_keys": device.keys, "one_time_keys": one_time, "fallback_keys": fallback,
        });
        device.post(&["keys", "upload"], body).await?;
        self.devices.push(device);
        Ok(())
    }

    /// The user's keys, which others need not have seen.
    async fn publish(&mut self, password: Option<String>) -> Result<(), Failed> {
        let mut body = self.keys.all()?;
        if let Some(password) = password {
            body["auth"] = json!({
                "type": "m.login.password", "password": password,
                "identifier": { "type": "m.id.user", "user": self.name },
            });
        }
        let path = ["keys", "device_signing", "upload"];
        self.phone().post(&path, body).await?;
        Ok(())
    }

    /// Uploads a signature that must be taken.
    async fn upload(&mut self, of: &str, item: &str, signed: Value) -> Result<(), Failed> {
        let body = json!({ of: { item: signed } });
        let told = self
            .phone()
            .post(&["keys", "signatures", "upload"], body)
            .await?;
        let failures = told["failures"].as_object();
        assert!(failures.is_none_or(serde_json::Map::is_empty), "{told}");
        Ok(())
    }

    /// Vouches for the newest device.
    async fn sign_last(&mut self) -> Result<(), Failed> {
        let device = self.devices.last().ok_or("no device")?;
        let (id, keys) = (device.id.clone(), device.keys.clone());
        let own = &self.keys.self_signing;
        let signed = own.signed(&self.user, &own.public(), keys)?;
        self.upload(&self.user.clone(), &id, signed).await
    }

    /// The ids of devices, in order.
    fn ids(&self) -> BTreeSet<String> {
        self.devices
            .iter()
            .map(|device| device.id.clone())
            .collect()
    }

    async fn connect_anew(&mut self) -> Result<(), Failed> {
        for device in &mut self.devices {
            let token = device.client.token().ok_or("a session without a token")?;
            device.client = Client::resume(&self.target, token, &world()).await?;
        }
        Ok(())
    }
}

/// Both are in an encrypted room of the hub, and have looked at each other.
async fn meet(ana: &mut Party, alice: &mut Party) -> Result<ruma::OwnedRoomId, Failed> {
    ana.log_in("PHONE").await?;
    alice.log_in("PHONE").await?;
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let wish = json!({
        "preset": "public_chat",
        "initial_state": [{ "type": "m.room.encryption", "state_key": "", "content": encryption }],
    });
    let room = ana.phone().client.create_room(wish).await?;
    join(alice, &room, &ana.server).await?;
    let (anas, alices) = (ana.user.clone(), alice.user.clone());
    let met = |user: String| move |heard: &Heard| heard.changed.contains(&user);
    ana.phone().hears("they met", met(alices)).await?;
    alice.phone().hears("they met", met(anas)).await?;
    Ok(room)
}

async fn join(who: &mut Party, room: &RoomId, via: &str) -> Result<(), Failed> {
    let mut call = Call::post(&["join", room.as_str()], json!({}));
    call.query = vec![("via", via.to_owned())];
    who.phone().client.call("join", call).await?;
    Ok(())
}

/// Waits until one sees all devices of the other signed by that user's present keys.
async fn all_are_signed(who: &mut Party, whom: &Party) -> Result<(), Failed> {
    let master = whom.keys.key("master", &whom.keys.master);
    let own = format!("ed25519:{}", whom.keys.self_signing.public());
    let what = format!("{} sees the devices of {} signed", who.user, whom.user);
    eventually(&what, async || {
        let told = who.phone().sees(&whom.user).await?;
        let user = whom.user.as_str();
        let devices = told["device_keys"][user].as_object();
        let signed = devices
            .into_iter()
            .flatten()
            .filter(|(_, keys)| keys["signatures"][user][own.as_str()].is_string());
        let signed: BTreeSet<String> = signed.map(|(device, _)| device.clone()).collect();
        let is_seen = told["master_keys"][user]["keys"] == master["keys"]
            && told["self_signing_keys"][user]["keys"][own.as_str()].is_string()
            && told["user_signing_keys"][user].is_null();
        let count = devices.map_or(0, serde_json::Map::len);
        Ok(
            if is_seen && signed == whom.ids() && count == signed.len() {
                Ok(())
            } else {
                Err(told.to_string())
            },
        )
    })
    .await
}

/// Waits until one was told of a change of the other, and sees the devices signed.
async fn is_told(who: &mut Party, whom: &Party) -> Result<(), Failed> {
    let (what, user) = (format!("{} changed", whom.user), &whom.user);
    let told = who
        .phone()
        .hears(&what, |heard| heard.changed.contains(user));
    told.await?;
    all_are_signed(who, whom).await
}

/// Keys and a new device of one, seen by the other; the new device's keys claimed, and a message to it.
async fn vouches(one: &mut Party, other: &mut Party) -> Result<(), Failed> {
    // This is also what makes the other's server keep the list.
    other.phone().sees(&one.user).await?;
    other.phone().sync().await?;
    other.phone().heard = Heard::default();
    one.publish(None).await?;
    one.sign_last().await?;
    is_told(other, one).await?;

    other.phone().sync().await?;
    other.phone().heard = Heard::default();
    one.log_in("TABLET").await?;
    one.sign_last().await?;
    is_told(other, one).await?;

    let tablet = one.devices.last_mut().ok_or("no device")?;
    let mut claimed = Vec::new();
    for _ in 0..=ONE_TIME_KEYS {
        let wanted = json!({ "one_time_keys": {
            one.user.as_str(): { tablet.id.as_str(): "signed_curve25519" } } });
        let told = other.phone().post(&["keys", "claim"], wanted).await?;
        let keys = told["one_time_keys"][one.user.as_str()][tablet.id.as_str()].as_object();
        let keys = keys.ok_or_else(|| told.to_string())?;
        claimed.extend(keys.keys().cloned());
    }
    let distinct: BTreeSet<_> = claimed.iter().collect();
    assert_eq!(distinct.len(), ONE_TIME_KEYS + 1, "{claimed:?}");
    assert_eq!(
        claimed.last().map(String::as_str),
        Some("signed_curve25519:FALLBACK")
    );

    let body = json!({ "messages": { one.user.as_str(): { tablet.id.as_str(): { "n": 7 } } } });
    let path = ["sendToDevice", "org.example.hello", "t1"];
    let sent = other
        .phone()
        .client
        .call("to device", Call::put(&path, body));
    sent.await?;
    let came = |heard: &Heard| heard.messages.iter().any(|one| one["content"]["n"] == 7);
    tablet.hears("there is a message", came).await?;
    tablet.sync().await?;
    let count = tablet
        .heard
        .messages
        .iter()
        .filter(|one| one["content"]["n"] == 7);
    assert_eq!(count.count(), 1);
    Ok(())
}

/// One vouches for the other, and alone sees it.
async fn verifies(one: &mut Party, other: &Party) -> Result<(), Failed> {
    let own = &one.keys.user_signing;
    let (id, item) = (own.public(), other.keys.master.public());
    let key = other.keys.key("master", &other.keys.master);
    let signed = own.signed(&one.user, &id, key)?;
    one.upload(&other.user, &item, signed).await?;
    let told = one.phone().sees(&other.user).await?;
    let shown = &told["master_keys"][other.user.as_str()]["signatures"][one.user.as_str()];
    assert!(shown[format!("ed25519:{id}")].is_string(), "{told}");
    Ok(())
}

/// A further device, one that goes, and other keys altogether.
async fn changes(one: &mut Party, other: &mut Party) -> Result<(), Failed> {
    other.phone().sync().await?;
    other.phone().heard = Heard::default();
    one.log_in("DESK").await?;
    one.sign_last().await?;
    is_told(other, one).await?;

    other.phone().sync().await?;
    other.phone().heard = Heard::default();
    let mut tablet = one.devices.remove(1);
    tablet.client.logout().await?;
    is_told(other, one).await?;

    other.phone().sync().await?;
    other.phone().heard = Heard::default();
    one.keys = Keys::of(&one.user)?;
    one.publish(Some(one.password.clone())).await?;
    for _ in 0..one.devices.len() {
        one.sign_last().await?;
        one.devices.rotate_right(1);
    }
    is_told(other, one).await
}

/// Who leaves, and who is left, matter to each other no more. (A Synapse whose last user leaves does not
/// say so of those who stay.)
async fn part(ana: &mut Party, alice: &mut Party, room: &RoomId) -> Result<(), Failed> {
    let is_left = |user: String| move |heard: &Heard| heard.left.contains(&user);
    let (anas, alices) = (ana.user.clone(), alice.user.clone());
    alice.phone().client.leave(room).await?;
    let left = is_left(alices.clone());
    ana.phone().hears("alice left", left).await?;

    ana.phone().heard = Heard::default();
    alice.phone().heard = Heard::default();
    join(alice, room, &ana.server).await?;
    let met = |heard: &Heard| heard.changed.contains(&anas);
    alice.phone().hears("ana is met again", met).await?;
    let met = |heard: &Heard| heard.changed.contains(&alices);
    ana.phone().hears("alice is met again", met).await?;
    ana.phone().client.leave(room).await?;
    let left = is_left(alices.clone());
    ana.phone().hears("alice is left", left).await?;
    alice.phone().hears("ana left", is_left(anas.clone())).await
}
