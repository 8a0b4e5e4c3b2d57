//! Keys by which users vouch, from the door's side.

use std::collections::BTreeMap;

use ruma::{
    OwnedUserId, UserId,
    api::client::{
        keys::{get_keys, upload_keys, upload_signatures, upload_signing_keys},
        uiaa::AuthData,
    },
    encryption::CrossSigningKey,
    serde::Raw,
    signatures::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::{
    api::{Code, Refusal},
    hub::testing::{Person, TestHub, ask, hub},
    wire::{json::read_object, matrix::text_to_sign},
};

/// A key pair as clients have them.
pub(in crate::hub::desk) struct Pair(Ed25519KeyPair);

impl Pair {
    pub(in crate::hub::desk) fn new() -> Self {
        let der = Ed25519KeyPair::generate();
        Self(Ed25519KeyPair::from_der(&der, "1".to_owned()).unwrap())
    }

    pub(in crate::hub::desk) fn public(&self) -> String {
        crate::wire::matrix::PublicKey(self.0.public_key()).base64()
    }

    /// The object with a signature of this key, as a user's key with this id.
    pub(in crate::hub::desk) fn signed(&self, user: &UserId, id: &str, mut object: Value) -> Value {
        let text = text_to_sign(&read_object(object.to_string().as_bytes()).unwrap()).unwrap();
        let signature = self.0.sign(text.as_bytes()).base64();
        object["signatures"][user.as_str()][format!("ed25519:{id}")] = json!(signature);
        object
    }
}

/// The three keys of a user.
pub(in crate::hub::desk) struct Keys {
    user: OwnedUserId,
    pub(in crate::hub::desk) master: Pair,
    pub(in crate::hub::desk) self_signing: Pair,
    pub(in crate::hub::desk) user_signing: Pair,
}

impl Keys {
    pub(in crate::hub::desk) fn of(user: &UserId) -> Self {
        Self {
            user: user.to_owned(),
            master: Pair::new(),
            self_signing: Pair::new(),
            user_signing: Pair::new(),
        }
    }

    fn key(&self, usage: &str, pair: &Pair) -> Value {
        let public = pair.public();
        json!({ "user_id": self.user, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
    }

    pub(in crate::hub::desk) fn master_key(&self) -> Value {
        self.key("master", &self.master)
    }

    fn below(&self, usage: &str, pair: &Pair) -> Value {
        let key = self.key(usage, pair);
        self.master.signed(&self.user, &self.master.public(), key)
    }

    pub(in crate::hub::desk) fn request(&self) -> upload_signing_keys::v3::Request {
        let mut request = upload_signing_keys::v3::Request::new();
        request.master_key = Some(raw(&self.master_key()));
        request.self_signing_key = Some(raw(&self.below("self_signing", &self.self_signing)));
        request.user_signing_key = Some(raw(&self.below("user_signing", &self.user_signing)));
        request
    }
}

fn raw(key: &Value) -> Raw<CrossSigningKey> {
    Raw::new(key).unwrap().cast_unchecked()
}

pub(in crate::hub::desk) async fn publish(
    hub: &TestHub,
    who: &Person,
    request: upload_signing_keys::v3::Request,
) -> Result<(), Refusal> {
    ask!(hub, who.origin, UploadSigningKeys(request)).map(drop)
}

/// Uploads signatures; gives what failed.
pub(in crate::hub::desk) async fn sign(
    hub: &TestHub,
    who: &Person,
    of: &UserId,
    item: &str,
    signed: &Value,
) -> Value {
    let mut keys = upload_signatures::v3::SignedKeys::new();
    keys.add_cross_signing_keys(item.into(), raw(signed));
    let request = upload_signatures::v3::Request::new([(of.to_owned(), keys)].into());
    let told = ask!(hub, who.origin, UploadSignatures(request)).unwrap();
    json!(told.failures)
}

/// The keys of a device that has a key pair, signed by it.
pub(in crate::hub::desk) async fn device(hub: &TestHub, who: &Person) -> (Pair, Value) {
    let pair = Pair::new();
    let id = who.device.as_str();
    let keys = json!({
        "user_id": who.user, "device_id": id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("curve25519:{id}"): "c", format!("ed25519:{id}"): pair.public() },
    });
    let keys = pair.signed(&who.user, id, keys);
    let mut request = upload_keys::v3::Request::new();
    request.device_keys = Some(Raw::new(&keys).unwrap().cast_unchecked());
    ask!(hub, who.origin, UploadKeys(request)).unwrap();
    (pair, keys)
}

/// What someone is told of a user: devices, then the three keys.
pub(in crate::hub::desk) async fn seen(hub: &TestHub, who: &Person, of: &UserId) -> Value {
    let mut request = get_keys::v3::Request::new();
    request.device_keys.insert(of.to_owned(), Vec::new());
    let told = ask!(hub, who.origin, QueryKeys(request)).unwrap();
    json!({
        "devices": told.device_keys.get(of),
        "master": told.master_keys.get(of),
        "self_signing": told.self_signing_keys.get(of),
        "user_signing": told.user_signing_keys.get(of),
    })
}

fn signatures(key: &Value) -> BTreeMap<String, Vec<String>> {
    let all: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_value(key["signatures"].clone()).unwrap_or_default();
    all.into_iter()
        .map(|(user, keys)| (user, keys.into_keys().collect()))
        .collect()
}

fn password(user: &str, password: &str) -> AuthData {
    let shown = json!({
        "type": "m.login.password", "session": "S", "password": password,
        "identifier": { "type": "m.id.user", "user": user },
    });
    serde_json::from_value(shown).unwrap()
}

#[tokio::test]
async fn the_first_keys_need_no_password_and_others_do() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    hub.password(&ana, "right").await;
    let first = Keys::of(&ana.user);
    publish(&hub, &ana, first.request()).await.unwrap();
    let position = hub.hub.store().position().await.unwrap();
    publish(&hub, &ana, first.request()).await.unwrap();
    assert_eq!(
        hub.hub.store().position().await.unwrap(),
        position,
        "the same again is no change"
    );

    let second = Keys::of(&ana.user);
    let refused = publish(&hub, &ana, second.request()).await.unwrap_err();
    assert_eq!(refused.status, 401);
    assert!(refused.body.unwrap().contains_key("flows"));
    let mut wrong = second.request();
    wrong.auth = Some(password("ana", "wrong"));
    assert_eq!(publish(&hub, &ana, wrong).await.unwrap_err().status, 401);
    assert_eq!(
        seen(&hub, &ana, &ana.user).await["master"],
        first.master_key()
    );
    let mut right = second.request();
    right.auth = Some(password("ana", "right"));
    publish(&hub, &ana, right).await.unwrap();
    assert_eq!(
        seen(&hub, &ana, &ana.user).await["master"],
        second.master_key()
    );
}

#[tokio::test]
async fn keys_must_be_the_users_and_signed_by_the_master_key() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let keys = Keys::of(&ana.user);
    let other = Keys::of(ruma::user_id!("@bob:hub.example"));
    let code = async |change: &dyn Fn(&mut upload_signing_keys::v3::Request)| {
        let mut request = keys.request();
        change(&mut request);
        publish(&hub, &ana, request).await.unwrap_err().code
    };
    assert_eq!(
        code(&|it| it.master_key = other.request().master_key).await,
        Code::InvalidParam
    );
    assert_eq!(
        code(&|it| it.master_key = it.self_signing_key.clone()).await,
        Code::InvalidParam
    );
    assert_eq!(code(&|it| it.master_key = None).await, Code::MissingParam);
    let mut nobodys = keys.master_key();
    nobodys.as_object_mut().unwrap().remove("user_id");
    assert_eq!(
        code(&|it| it.master_key = Some(raw(&nobodys))).await,
        Code::MissingParam
    );
    let forged = Keys::of(&ana.user);
    assert_eq!(
        code(&|it| it.user_signing_key = forged.request().user_signing_key).await,
        Code::InvalidSignature
    );
    let two = json!({ "user_id": ana.user, "usage": ["master"],
        "keys": { "ed25519:a": "a", "ed25519:b": "b" } });
    assert_eq!(
        code(&|it| it.master_key = Some(raw(&two))).await,
        Code::InvalidParam
    );
    let mut large = keys.master_key();
    large["x"] = json!("x".repeat(20_000));
    assert_eq!(
        code(&|it| it.master_key = Some(raw(&large))).await,
        Code::TooLarge
    );
    let told = seen(&hub, &ana, &ana.user).await;
    assert_eq!(told["master"], Value::Null);
}

#[tokio::test]
async fn a_key_is_not_named_like_a_device() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let keys = Keys::of(&ana.user);
    hub.device(&ana.user, &keys.self_signing.public()).await;
    let refused = publish(&hub, &ana, keys.request()).await.unwrap_err();
    assert_eq!((refused.code, refused.status), (Code::Forbidden, 403));
}

#[tokio::test]
async fn a_new_master_key_takes_with_it_what_the_old_one_vouched_for() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    hub.password(&ana, "right").await;
    let keys = Keys::of(&ana.user);
    publish(&hub, &ana, keys.request()).await.unwrap();
    let (_, phone) = device(&hub, &ana).await;
    let id = keys.self_signing.public();
    let signed = keys.self_signing.signed(&ana.user, &id, phone);
    assert_eq!(
        sign(&hub, &ana, &ana.user, "PHONE", &signed).await,
        json!({})
    );

    let mut master = Keys::of(&ana.user).request();
    master.self_signing_key = None;
    master.user_signing_key = None;
    master.auth = Some(password("ana", "right"));
    publish(&hub, &ana, master).await.unwrap();
    let told = seen(&hub, &ana, &ana.user).await;
    assert_eq!(told["self_signing"], Value::Null);
    assert_eq!(told["user_signing"], Value::Null);
    let own = [(ana.user.to_string(), vec!["ed25519:PHONE".to_owned()])];
    assert_eq!(signatures(&told["devices"]["PHONE"]), own.into());
}

#[tokio::test]
async fn devices_are_vouched_for_by_the_self_signing_key_and_everyone_sees_it() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let (phone, keys_of_phone) = device(&hub, &ana).await;
    let keys = Keys::of(&ana.user);
    publish(&hub, &ana, keys.request()).await.unwrap();
    let id = keys.self_signing.public();

    // By another key, on other keys, of no device, and without a signature.
    let wrong = keys
        .user_signing
        .signed(&ana.user, &id, keys_of_phone.clone());
    let mut other = keys_of_phone.clone();
    other["algorithms"] = json!([]);
    let other = keys.self_signing.signed(&ana.user, &id, other);
    let right = keys
        .self_signing
        .signed(&ana.user, &id, keys_of_phone.clone());
    for (item, signed, code) in [
        ("PHONE", &wrong, "M_INVALID_SIGNATURE"),
        ("PHONE", &other, "M_INVALID_SIGNATURE"),
        ("TABLET", &right, "M_NOT_FOUND"),
        ("PHONE", &keys_of_phone, "M_INVALID_SIGNATURE"),
    ] {
        let failures = sign(&hub, &ana, &ana.user, item, signed).await;
        assert_eq!(failures[ana.user.as_str()][item]["errcode"], code);
    }
    assert_eq!(
        sign(&hub, &ana, &ana.user, "PHONE", &right).await,
        json!({})
    );
    let told = seen(&hub, &bob, &ana.user).await;
    assert_eq!(told["devices"]["PHONE"], right);
    assert_eq!(told["user_signing"], Value::Null, "that is ana's own");

    // The master key by the device.
    let master = keys.master.public();
    let by_phone = phone.signed(&ana.user, "PHONE", keys.master_key());
    assert_eq!(
        sign(&hub, &ana, &ana.user, &master, &by_phone).await,
        json!({})
    );
    assert_eq!(seen(&hub, &bob, &ana.user).await["master"], by_phone);
    let forged = keys
        .user_signing
        .signed(&ana.user, "PHONE", keys.master_key());
    let failures = sign(&hub, &ana, &ana.user, &master, &forged).await;
    assert_eq!(
        failures[ana.user.as_str()][&master]["errcode"],
        "M_INVALID_SIGNATURE"
    );

    // The same keys again lose nothing; others are not what was signed.
    let mut again = upload_keys::v3::Request::new();
    again.device_keys = Some(Raw::new(&keys_of_phone).unwrap().cast_unchecked());
    ask!(hub, ana.origin, UploadKeys(again)).unwrap();
    assert_eq!(seen(&hub, &bob, &ana.user).await["devices"]["PHONE"], right);
    let (_, new) = device(&hub, &ana).await;
    assert_eq!(seen(&hub, &bob, &ana.user).await["devices"]["PHONE"], new);
}

#[tokio::test]
async fn who_vouches_for_another_user_alone_sees_it() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    hub.public_room(&ana, &[&bob]).await;
    let (anas, bobs) = (Keys::of(&ana.user), Keys::of(&bob.user));
    publish(&hub, &ana, anas.request()).await.unwrap();
    publish(&hub, &bob, bobs.request()).await.unwrap();
    let position = hub.hub.store().position().await.unwrap();
    let (id, master) = (anas.user_signing.public(), bobs.master.public());
    let signed = anas.user_signing.signed(&ana.user, &id, bobs.master_key());
    let forged = anas.self_signing.signed(&ana.user, &id, bobs.master_key());
    let failures = sign(&hub, &ana, &bob.user, &master, &forged).await;
    assert_eq!(
        failures[bob.user.as_str()][&master]["errcode"],
        "M_INVALID_SIGNATURE"
    );
    assert_eq!(
        sign(&hub, &ana, &bob.user, &master, &signed).await,
        json!({})
    );

    assert_eq!(seen(&hub, &ana, &bob.user).await["master"], signed);
    assert_eq!(
        seen(&hub, &bob, &bob.user).await["master"],
        bobs.master_key()
    );
    let now = hub.hub.store().position().await.unwrap();
    let changed = async |who: &UserId| {
        let told = hub.hub.store().device_changes(who, position, now).await;
        told.unwrap()
    };
    assert_eq!(changed(&ana.user).await, std::slice::from_ref(&bob.user));
    assert!(changed(&bob.user).await.is_empty());
}

#[tokio::test]
async fn nothing_of_an_ended_account_vouches() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    hub.password(&ana, "right").await;
    publish(&hub, &ana, Keys::of(&ana.user).request())
        .await
        .unwrap();
    let mut end = ruma::api::client::account::deactivate::v3::Request::new();
    end.auth = Some(password("ana", "right"));
    ask!(hub, ana.origin, Deactivate(end)).unwrap();
    assert_eq!(seen(&hub, &bob, &ana.user).await["master"], Value::Null);
}
