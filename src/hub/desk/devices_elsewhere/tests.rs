//! Two hubs that ask each other: here Ana's, with a room; there Zed's, who joins it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ruma::{
    MilliSecondsSinceUnixEpoch, OneTimeKeyAlgorithm, OwnedRoomId, ServerName, UInt, UserId,
    api::{
        client::keys::{claim_keys, get_keys, upload_keys},
        federation::{
            membership::{
                create_join_event, create_leave_event, prepare_join_event, prepare_leave_event,
            },
            transactions::send_transaction_message,
        },
    },
    serde::Raw,
};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Semaphore;

use crate::{
    api::{
        Command, Credentials, Origin, PeerCommand, PeerReply, Refusal, Remote, RemoteError,
        RemoteFile, Reply, Service as _, Unverified,
    },
    hub::{
        Hub,
        desk::cross_signing::tests::{Keys, publish, seen, sign},
        testing::{self, Person, TestHub, ask},
    },
    room::testing::key,
    wire::matrix::{Pdu, PduFields, Version},
};

/// Behind everything.
pub(in crate::hub::desk) const END: crate::base::Position = crate::base::Position(u64::MAX >> 1);

pub(in crate::hub::desk) const FAR: &str = "far.example";

/// The way from the hub here to the one there.
pub(in crate::hub::desk) struct Wire {
    to: Mutex<Option<Arc<Hub>>>,
    /// What was asked, by name.
    pub(in crate::hub::desk) asked: Mutex<Vec<&'static str>>,
    pub(in crate::hub::desk) cut: AtomicBool,
    /// An answer takes one on its way back.
    pub(in crate::hub::desk) passes: Semaphore,
}

impl Wire {
    fn new() -> Self {
        Self {
            to: Mutex::default(),
            asked: Mutex::default(),
            cut: AtomicBool::new(false),
            passes: Semaphore::new(1000),
        }
    }

    /// What was asked since the last look.
    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[async_trait]
impl Remote for Wire {
    async fn ask(
        &self,
        server: &ServerName,
        command: PeerCommand,
        _patience: Duration,
    ) -> Result<PeerReply, RemoteError> {
        assert_eq!(server, FAR);
        self.asked.lock().unwrap().push(command.name());
        if self.cut.load(Ordering::Relaxed) {
            return Err(RemoteError::Unreachable {
                server: server.to_string(),
                reason: "the wire is cut".to_owned(),
            });
        }
        let hub = Arc::clone(self.to.lock().unwrap().as_ref().unwrap());
        let answer = hub.ask(server_of(testing::SERVER), Command::Peer(Box::new(command)));
        let answer = answer.await;
        self.passes.acquire().await.unwrap().forget();
        match answer {
            Ok(Reply::Peer(reply)) => Ok(*reply),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refused(server, refusal)),
        }
    }

    async fn file(
        &self,
        server: &ServerName,
        media_id: &str,
        _patience: Duration,
    ) -> Result<RemoteFile, RemoteError> {
        self.asked.lock().unwrap().push("file");
        let hub = Arc::clone(self.to.lock().unwrap().as_ref().unwrap());
        let origin = server_of(testing::SERVER);
        let file = hub.download(origin, server.as_str(), media_id).await;
        let file = file.map_err(|refusal| refused(server, refusal))?;
        Ok(RemoteFile {
            content_type: file.content_type,
            filename: file.filename,
            body: file.body,
        })
    }

    async fn verified(&self, json: &str, version: Version) -> Result<Pdu, Unverified> {
        Pdu::read(json, version).map_err(|error| Unverified::Wrong(error.to_string()))
    }
}

fn refused(server: &ServerName, refusal: Refusal) -> RemoteError {
    RemoteError::Refused {
        server: server.to_string(),
        status: refusal.status,
        code: refusal.code.errcode().to_owned(),
        message: refusal.message,
    }
}

fn server_of(name: &str) -> Origin {
    Origin {
        credentials: Credentials::Server(name.try_into().unwrap()),
        ..testing::stranger()
    }
}

/// Both hubs, and a room here.
pub(in crate::hub::desk) struct Two {
    pub(in crate::hub::desk) here: TestHub,
    pub(in crate::hub::desk) there: TestHub,
    pub(in crate::hub::desk) wire: Arc<Wire>,
    pub(in crate::hub::desk) ana: Person,
    pub(in crate::hub::desk) zed: Person,
    pub(in crate::hub::desk) room: OwnedRoomId,
}

impl Two {
    /// Nobody from there is in the room yet.
    pub(in crate::hub::desk) async fn apart() -> Self {
        let wire = Arc::new(Wire::new());
        let here = testing::hub_among(Arc::clone(&wire) as Arc<dyn Remote>).await;
        let there = testing::hub_named(FAR, Arc::new(crate::api::Nobody)).await;
        *wire.to.lock().unwrap() = Some(Arc::clone(&there.hub));
        let ana = here.account("ana").await;
        let room = here.public_room(&ana, &[]).await;
        let zed = there.account("zed").await;
        Self {
            here,
            there,
            wire,
            ana,
            zed,
            room,
        }
    }

    /// Zed is in the room.
    pub(in crate::hub::desk) async fn together() -> Self {
        let two = Self::apart().await;
        two.join().await;
        two
    }

    /// Asks here as the server there.
    pub(in crate::hub::desk) async fn peer(
        &self,
        command: PeerCommand,
    ) -> Result<PeerReply, Refusal> {
        let command = Command::Peer(Box::new(command));
        match self.here.ask(&server_of(FAR), command).await? {
            Reply::Peer(reply) => Ok(*reply),
            other => panic!("{other:?}"),
        }
    }

    async fn join(&self) {
        let mut asked =
            prepare_join_event::v1::Request::new(self.room.clone(), self.zed.user.clone());
        asked.ver = vec![ruma::RoomVersionId::V12];
        let made = self.peer(PeerCommand::MakeJoin(Box::new(asked))).await;
        let PeerReply::MakeJoin(made) = made.unwrap() else {
            panic!("another answer");
        };
        let (event, json) = signed(&made.event);
        let asked =
            create_join_event::v2::Request::new(self.room.clone(), event.id().clone(), json);
        let joined = self.peer(PeerCommand::SendJoin(Box::new(asked))).await;
        joined.unwrap();
    }

    async fn leave(&self) {
        let asked = prepare_leave_event::v1::Request::new(self.room.clone(), self.zed.user.clone());
        let made = self.peer(PeerCommand::MakeLeave(Box::new(asked))).await;
        let PeerReply::MakeLeave(made) = made.unwrap() else {
            panic!("another answer");
        };
        let (event, json) = signed(&made.event);
        let asked =
            create_leave_event::v2::Request::new(self.room.clone(), event.id().clone(), json);
        let left = self.peer(PeerCommand::SendLeave(Box::new(asked))).await;
        left.unwrap();
    }

    /// Sends EDUs from there to here.
    pub(in crate::hub::desk) async fn edus(&self, edus: &[Value]) -> Result<(), Refusal> {
        let mut asked = send_transaction_message::v1::Request::new(
            "t1".into(),
            FAR.try_into().unwrap(),
            MilliSecondsSinceUnixEpoch(UInt::from(1_u32)),
        );
        asked.edus = edus
            .iter()
            .map(|edu| Raw::new(edu).unwrap().cast_unchecked())
            .collect();
        let taken = self.peer(PeerCommand::Transaction(Box::new(asked))).await;
        taken.map(drop)
    }

    /// The keys of a user's devices, and who failed, as Ana's client is told.
    async fn keys(&self, user: &UserId) -> (Value, Value) {
        self.keys_for(&self.ana, user).await
    }

    async fn keys_for(&self, who: &Person, user: &UserId) -> (Value, Value) {
        let mut request = get_keys::v3::Request::new();
        request.device_keys.insert(user.to_owned(), Vec::new());
        let told = ask!(self.here, who.origin, QueryKeys(request)).unwrap();
        let keys = told.device_keys.get(user).cloned().unwrap_or_default();
        let keys: BTreeMap<_, Value> = keys
            .into_iter()
            .map(|(device, keys)| (device, serde_json::from_str(keys.json().get()).unwrap()))
            .collect();
        (json!(keys), json!(told.failures))
    }

    /// What the list there counts.
    async fn stream(&self) -> u64 {
        let store = self.there.hub.store();
        store
            .devices_changed_at(&self.zed.user, END)
            .await
            .unwrap()
            .0
    }
}

fn signed(made: &RawValue) -> (Pdu, Box<RawValue>) {
    let fields: PduFields = Pdu::read(made.get(), Version::V12)
        .unwrap()
        .fields()
        .clone();
    let event = Pdu::sign(fields, Version::V12, &key(FAR)).unwrap();
    let json = RawValue::from_string(event.json().to_string()).unwrap();
    (event, json)
}

pub(in crate::hub::desk) fn device_keys(user: &UserId, device: &str, curve: &str) -> Value {
    json!({
        "user_id": user,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("curve25519:{device}"): curve },
        "signatures": { user.as_str(): { format!("ed25519:{device}"): "def" } },
    })
}

/// A device tells its own hub its keys.
pub(in crate::hub::desk) async fn upload(hub: &TestHub, who: &Person, curve: &str) {
    let mut request = upload_keys::v3::Request::new();
    let keys = device_keys(&who.user, who.device.as_str(), curve);
    request.device_keys = Some(Raw::new(&keys).unwrap().cast_unchecked());
    ask!(hub, who.origin, UploadKeys(request)).unwrap();
}

fn list_update(user: &UserId, stream: u64, prev: &[u64], device: &str, more: Value) -> Value {
    let mut content = json!({
        "user_id": user, "device_id": device, "stream_id": stream, "prev_id": prev,
    });
    let more: serde_json::Map<String, Value> = serde_json::from_value(more).unwrap();
    content.as_object_mut().unwrap().extend(more);
    json!({ "edu_type": "m.device_list_update", "content": content })
}

fn curves(keys: &Value) -> Vec<String> {
    let devices = keys.as_object().unwrap().iter();
    devices
        .map(|(device, keys)| {
            let curve = keys["keys"][format!("curve25519:{device}")].as_str();
            format!("{device} {}", curve.unwrap())
        })
        .collect()
}

#[tokio::test]
async fn the_keys_of_another_servers_user_are_asked_for_once_while_a_room_is_shared() {
    let two = Two::together().await;
    upload(&two.there, &two.zed, "one").await;

    let (keys, failures) = two.keys(&two.zed.user).await;
    assert_eq!(
        (curves(&keys), failures),
        (vec!["PHONE one".to_owned()], json!({}))
    );
    assert_eq!(two.wire.asked(), ["UserDevices"]);
    let (again, _) = two.keys(&two.zed.user).await;
    assert_eq!(again, keys);
    assert!(two.wire.asked().is_empty());

    // After a while apart nobody knows what was missed.
    two.leave().await;
    two.keys(&two.zed.user).await;
    assert_eq!(two.wire.asked(), ["UserKeys"]);
    two.join().await;
    two.keys(&two.zed.user).await;
    assert_eq!(two.wire.asked(), ["UserDevices"]);
}

#[tokio::test]
async fn who_shares_no_room_is_asked_for_each_time() {
    let two = Two::apart().await;
    upload(&two.there, &two.zed, "one").await;
    for _ in 0..2 {
        let (keys, _) = two.keys(&two.zed.user).await;
        assert_eq!(curves(&keys), ["PHONE one"]);
        assert_eq!(two.wire.asked(), ["UserKeys"]);
    }
}

#[tokio::test]
async fn a_change_that_follows_is_taken_and_a_gap_is_asked_for() {
    let two = Two::together().await;
    let zed = &two.zed.user;
    upload(&two.there, &two.zed, "one").await;
    two.keys(zed).await;
    let at = two.stream().await;
    two.wire.asked();
    let before = two.here.hub.store().position().await.unwrap();

    let keys = json!({ "keys": device_keys(zed, "TABLET", "two"), "device_display_name": "T" });
    let update = list_update(zed, at + 4, &[at], "TABLET", keys);
    two.edus(&[update.clone(), update]).await.unwrap();
    let (keys, _) = two.keys(zed).await;
    assert_eq!(curves(&keys), ["PHONE one", "TABLET two"]);
    assert_eq!(keys["TABLET"]["unsigned"]["device_display_name"], "T");
    let gone = list_update(zed, at + 6, &[at + 4], "TABLET", json!({ "deleted": true }));
    two.edus(&[gone]).await.unwrap();
    assert_eq!(curves(&two.keys(zed).await.0), ["PHONE one"]);
    assert!(two.wire.asked().is_empty());
    let store = two.here.hub.store();
    let now = store.position().await.unwrap();
    let told = store.device_changes(&two.ana.user, before, now).await;
    assert_eq!(told.unwrap(), std::slice::from_ref(zed));

    // What the change says is not looked at: one before it is missing.
    upload(&two.there, &two.zed, "three").await;
    let gap = list_update(zed, at + 9, &[at + 8], "PHONE", json!({ "deleted": true }));
    two.edus(&[gap]).await.unwrap();
    assert_eq!(curves(&two.keys(zed).await.0), ["PHONE three"]);
    assert_eq!(two.wire.asked(), ["UserDevices"]);
    two.keys(zed).await;
    assert!(two.wire.asked().is_empty());
}

#[tokio::test]
async fn a_server_speaks_for_the_devices_of_its_own_users() {
    let two = Two::together().await;
    let before = two.here.hub.store().position().await.unwrap();
    let keys = json!({ "keys": device_keys(&two.ana.user, "NEW", "x") });
    let forged = list_update(&two.ana.user, 9, &[], "NEW", keys);
    let signing = json!({ "edu_type": "m.signing_key_update",
        "content": { "user_id": two.ana.user } });
    two.edus(&[forged, signing]).await.unwrap();
    assert_eq!(two.here.hub.store().position().await.unwrap(), before);
}

#[tokio::test]
async fn a_change_while_a_list_is_on_its_way_is_not_lost() {
    let two = Two::together().await;
    let zed = &two.zed.user;
    upload(&two.there, &two.zed, "old").await;
    two.wire.passes.forget_permits(1000);
    let asking = two.keys(zed);
    tokio::pin!(asking);
    while two.wire.asked.lock().unwrap().is_empty() {
        tokio::select! {
            _ = &mut asking => panic!("answered without an answer"),
            () = tokio::task::yield_now() => {}
        }
    }
    // The answer that is under way is from before this.
    let update = list_update(zed, two.stream().await + 1, &[], "PHONE", json!({}));
    let changed = async {
        two.edus(&[update]).await.unwrap();
        upload(&two.there, &two.zed, "new").await;
        two.wire.passes.add_permits(1000);
    };
    let (first, ()) = tokio::join!(asking, changed);
    assert!(!curves(&first.0).is_empty());

    assert_eq!(curves(&two.keys(zed).await.0), ["PHONE new"]);
    assert_eq!(two.wire.asked(), ["UserDevices", "UserDevices"]);
}

#[tokio::test]
async fn many_who_want_one_list_ask_once() {
    let two = Two::together().await;
    upload(&two.there, &two.zed, "one").await;
    let bob = two.here.account("bob").await;
    two.here.join(&bob, &two.room).await.unwrap();
    let all = tokio::join!(
        two.keys(&two.zed.user),
        two.keys_for(&bob, &two.zed.user),
        two.keys(&two.zed.user),
    );
    assert_eq!((&all.0, &all.0), (&all.1, &all.2));
    assert_eq!(curves(&all.0.0), ["PHONE one"]);
    assert_eq!(two.wire.asked(), ["UserDevices"]);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_named_beside_what_others_gave() {
    let two = Two::together().await;
    upload(&two.here, &two.ana, "mine").await;
    two.wire.cut.store(true, Ordering::Relaxed);
    let mut request = get_keys::v3::Request::new();
    for user in [&two.ana.user, &two.zed.user] {
        request.device_keys.insert(user.clone(), Vec::new());
    }
    let told = ask!(two.here, two.ana.origin, QueryKeys(request)).unwrap();
    assert_eq!(told.device_keys.keys().collect::<Vec<_>>(), [&two.ana.user]);
    assert_eq!(told.failures[FAR]["status"], 502);

    let wanted = BTreeMap::from([("PHONE".into(), OneTimeKeyAlgorithm::SignedCurve25519)]);
    let request = claim_keys::v3::Request::new([(two.zed.user.clone(), wanted)].into());
    let told = ask!(two.here, two.ana.origin, ClaimKeys(request)).unwrap();
    assert!(told.one_time_keys.is_empty());
    assert_eq!(told.failures[FAR]["status"], 502);
}

#[tokio::test]
async fn a_one_time_key_of_another_servers_device_is_claimed_there_once() {
    let two = Two::apart().await;
    let mut upload = upload_keys::v3::Request::new();
    let key = json!({ "signed_curve25519:A": { "key": "k", "signatures": {} } });
    upload.one_time_keys = serde_json::from_value(key).unwrap();
    ask!(two.there, two.zed.origin, UploadKeys(upload)).unwrap();
    let claim = async || {
        let wanted = BTreeMap::from([("PHONE".into(), OneTimeKeyAlgorithm::SignedCurve25519)]);
        let request = claim_keys::v3::Request::new([(two.zed.user.clone(), wanted)].into());
        let told = ask!(two.here, two.ana.origin, ClaimKeys(request)).unwrap();
        json!(told.one_time_keys)
    };
    assert_eq!(
        claim().await,
        json!({ two.zed.user.as_str(): { "PHONE": {
            "signed_curve25519:A": { "key": "k", "signatures": {} } } } })
    );
    assert_eq!(claim().await, json!({}));
}

#[tokio::test]
async fn cross_signing_keys_are_told_and_changed() {
    let two = Two::together().await;
    let zed = &two.zed.user;
    two.keys(zed).await;
    let master =
        |key: &str| json!({ "user_id": zed, "usage": ["master"], "keys": { "ed25519:K": key } });
    let update = |key: Value| {
        json!({ "edu_type": "m.signing_key_update",
            "content": { "user_id": zed, "master_key": key } })
    };
    let told = async || {
        let mut request = get_keys::v3::Request::new();
        request.device_keys.insert(zed.clone(), Vec::new());
        let told = ask!(two.here, two.ana.origin, QueryKeys(request)).unwrap();
        json!(told.master_keys.get(zed))
    };
    two.edus(&[update(master("one"))]).await.unwrap();
    assert_eq!(told().await, master("one"));
    // Somebody else's is none.
    let other = json!({ "user_id": "@a:b", "usage": ["master"], "keys": {} });
    two.edus(&[update(other)]).await.unwrap();
    assert_eq!(told().await, master("one"));
}

#[tokio::test]
async fn what_a_user_here_signs_of_another_servers_user_they_alone_are_shown() {
    let two = Two::together().await;
    let zed = &two.zed.user;
    let bob = two.here.account("bob").await;
    two.here.join(&bob, &two.room).await.unwrap();
    let (own, theirs) = (Keys::of(&two.ana.user), Keys::of(zed));
    publish(&two.here, &two.ana, own.request()).await.unwrap();
    publish(&two.there, &two.zed, theirs.request())
        .await
        .unwrap();
    let (id, master) = (own.user_signing.public(), theirs.master.public());
    let signed = own
        .user_signing
        .signed(&two.ana.user, &id, theirs.master_key());
    let unknown = Keys::of(zed);
    let (name, other) = (unknown.master.public(), unknown.master_key());
    let other = own.user_signing.signed(&two.ana.user, &id, other);
    let failures = sign(&two.here, &two.ana, zed, &name, &other).await;
    assert_eq!(failures[zed.as_str()][&name]["errcode"], "M_NOT_FOUND");
    let failures = sign(&two.here, &two.ana, zed, &master, &signed).await;
    assert_eq!(failures, json!({}));

    assert_eq!(seen(&two.here, &two.ana, zed).await["master"], signed);
    assert_eq!(
        seen(&two.here, &bob, zed).await["master"],
        theirs.master_key()
    );
}

#[test]
fn of_what_a_server_tells_only_what_was_asked_is_kept() {
    use super::checked;
    let zed = ruma::user_id!("@zed:far.example");
    let device = |id: &str, keys: Value| json!({ "device_id": id, "keys": keys });
    let told = |user: &str, devices: Value| {
        let json = json!({ "user_id": user, "stream_id": 5, "devices": devices });
        let mut told = ruma::api::federation::device::get_devices::v1::Response::new(
            UserId::parse(user).unwrap(),
            UInt::from(5_u32),
        );
        told.devices = serde_json::from_value(json["devices"].clone()).unwrap();
        checked::list(zed, crate::base::Position(3), &told)
    };
    let list = told(
        zed.as_str(),
        json!([
            device("GOOD", device_keys(zed, "GOOD", "k")),
            device("OTHER", device_keys(zed, "GOOD", "k")),
            device("ALIEN", device_keys(ruma::user_id!("@a:b"), "ALIEN", "k")),
            device("LARGE", device_keys(zed, "LARGE", &"k".repeat(20_000))),
            device(
                "FLOAT",
                json!({ "user_id": zed, "device_id": "FLOAT", "x": 1.5 })
            ),
        ]),
    );
    let list = list.unwrap();
    let kept: Vec<_> = list.devices.iter().map(|one| one.device.as_str()).collect();
    assert_eq!((kept, list.user.stream), (vec!["GOOD"], 5));
    assert!(told("@yan:far.example", json!([])).is_err());
}
