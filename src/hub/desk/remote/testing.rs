//! Hubs that are wired to each other inside the test: what one asks, another's desk answers. A
//! wire may be cut, and what comes over it twisted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use async_trait::async_trait;
use ruma::{
    OwnedRoomId, OwnedServerName, ServerName,
    api::{client::membership::join_room_by_id_or_alias, federation::transactions},
    serde::Base64,
    signatures::{PublicKeyMap, Verified, verify_event},
};
use serde_json::value::RawValue;

use crate::{
    api::{
        Command, Credentials, Origin, PeerCommand, PeerReply, Refusal, Remote, RemoteError, Reply,
        Service as _, Unverified,
    },
    base::Seq,
    hub::{
        Hub,
        desk::rooms,
        testing::{self, Person, TestHub},
    },
    store::{Logged, Order},
    wire::matrix::{Pdu, Version, check_intact},
};

/// What becomes of an answer on its way.
type Twist = Box<dyn Fn(&mut PeerReply) + Send + Sync>;

/// All servers there are.
type Net = Arc<Mutex<BTreeMap<OwnedServerName, Weak<Hub>>>>;

/// The other servers, as one hub reaches them.
pub(in crate::hub::desk) struct Wire {
    me: OwnedServerName,
    net: Net,
    twist: Mutex<Option<Twist>>,
    /// What stands in events whose keys are not to be had.
    keyless: Mutex<Option<&'static str>>,
    /// Servers that do not answer.
    down: Mutex<Vec<OwnedServerName>>,
    /// What was asked, and of whom.
    asked: Mutex<Vec<(OwnedServerName, &'static str)>>,
}

impl Wire {
    pub(in crate::hub::desk) fn twist(
        &self,
        twist: impl Fn(&mut PeerReply) + Send + Sync + 'static,
    ) {
        *self.twist.lock().unwrap() = Some(Box::new(twist));
    }

    pub(in crate::hub::desk) fn untwist(&self) {
        *self.twist.lock().unwrap() = None;
    }

    pub(in crate::hub::desk) fn keyless(&self, text: &'static str) {
        *self.keyless.lock().unwrap() = Some(text);
    }

    pub(in crate::hub::desk) fn cut(&self, server: &str) {
        self.down.lock().unwrap().push(server.try_into().unwrap());
    }

    /// What was asked since this was last asked.
    pub(in crate::hub::desk) fn asked(&self) -> Vec<(String, &'static str)> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let asked = asked.into_iter();
        asked
            .map(|(server, what)| (server.to_string(), what))
            .collect()
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
        self.asked
            .lock()
            .unwrap()
            .push((server.to_owned(), command.name()));
        let hub = self.net.lock().unwrap().get(server).and_then(Weak::upgrade);
        let is_down = self.down.lock().unwrap().iter().any(|down| down == server);
        let Some(hub) = hub.filter(|_| !is_down) else {
            return Err(RemoteError::Unreachable {
                server: server.to_string(),
                reason: "the wire is cut".to_owned(),
            });
        };
        let answer = hub
            .ask(from(&self.me), Command::Peer(Box::new(command)))
            .await;
        let mut answer = match answer {
            Ok(Reply::Peer(answer)) => *answer,
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => {
                return Err(RemoteError::Refused {
                    server: server.to_string(),
                    status: refusal.status,
                    code: refusal.code.errcode().to_owned(),
                    message: refusal.message,
                });
            }
        };
        if let Some(twist) = &*self.twist.lock().unwrap() {
            twist(&mut answer);
        }
        Ok(answer)
    }

    async fn verified(&self, json: &str, version: Version) -> Result<Pdu, Unverified> {
        let keyless = *self.keyless.lock().unwrap();
        if keyless.is_some_and(|text| json.contains(text)) {
            return Err(Unverified::NoKey {
                told: "no key of far.example".to_owned(),
                whole: "no key of far.example (asking for it: 10.0.0.7:22 refuses)".to_owned(),
            });
        }
        let wrong = |error: &dyn std::fmt::Display| Unverified::Wrong(error.to_string());
        let event = Pdu::read(json, version).map_err(|error| wrong(&error))?;
        check_intact(json, event.hash(), version).map_err(|error| wrong(&error))?;
        let object = event.object();
        let mut keys = PublicKeyMap::new();
        if let Some(signatures) = object.get("signatures").and_then(|all| all.as_object()) {
            for server in signatures.keys() {
                let key = testing::key_of(server);
                let public = Base64::new(key.public().to_vec());
                keys.insert(server.clone(), [(key.id(), public)].into());
            }
        }
        match verify_event(&keys, &object, version.rules()) {
            Ok(Verified::All) => Ok(event),
            Ok(Verified::Signatures) => Err(Unverified::Wrong("its hash".to_owned())),
            Err(error) => Err(wrong(&error)),
        }
    }
}

/// Another server that asks.
pub(in crate::hub::desk) fn from(server: &ServerName) -> Origin {
    Origin {
        credentials: Credentials::Server(server.to_owned()),
        ..testing::stranger()
    }
}

/// A hub and its wire to the others.
pub(in crate::hub::desk) struct Node {
    pub(in crate::hub::desk) hub: TestHub,
    pub(in crate::hub::desk) wire: Arc<Wire>,
}

/// Hubs of these names that reach each other.
pub(in crate::hub::desk) async fn net<const N: usize>(names: [&str; N]) -> [Node; N] {
    let net = Net::default();
    let mut nodes = Vec::new();
    for name in names {
        let me = OwnedServerName::try_from(name).unwrap();
        let wire = Arc::new(Wire {
            me: me.clone(),
            net: Arc::clone(&net),
            twist: Mutex::default(),
            keyless: Mutex::default(),
            down: Mutex::default(),
            asked: Mutex::default(),
        });
        let hub = testing::hub_named(name, Arc::clone(&wire) as Arc<dyn Remote>).await;
        net.lock().unwrap().insert(me, Arc::downgrade(&hub.hub));
        nodes.push(Node { hub, wire });
    }
    nodes.try_into().ok().unwrap()
}

impl Node {
    pub(in crate::hub::desk) fn name(&self) -> &OwnedServerName {
        &self.wire.me
    }

    /// Joins by id through a server.
    pub(in crate::hub::desk) async fn join_via(
        &self,
        who: &Person,
        room: &str,
        via: &[&str],
    ) -> Result<OwnedRoomId, Refusal> {
        let mut request = join_room_by_id_or_alias::v3::Request::new(room.try_into().unwrap());
        request.via = via.iter().map(|name| (*name).try_into().unwrap()).collect();
        let joined = rooms::join_by_id_or_alias(&self.hub.hub, &who.caller(), request).await;
        joined.map(|joined| joined.room_id)
    }

    /// Sends another hub the newest events of our users in a room, as an outbox would; all of them
    /// must be taken.
    pub(in crate::hub::desk) async fn deliver(&self, to: &Self, room: &OwnedRoomId, newest: usize) {
        let store = self.hub.hub.store();
        let record = store.room(room).await.unwrap().unwrap();
        let log = store
            .log(
                record.nid,
                Seq::ZERO,
                record.heads.seq,
                Order::Forward,
                1000,
            )
            .await
            .unwrap();
        let ours = log.into_iter().filter_map(|entry| match entry.what {
            Logged::Event(event) => Some(event),
            Logged::Marker(_) => None,
        });
        let ours = ours.filter(|event| {
            let pdu = event.pdu(&record).unwrap();
            pdu.fields().sender.server_name() == self.name()
        });
        let ours: Vec<_> = ours.map(|event| event.json.to_string()).collect();
        assert!(newest <= ours.len());
        for taken in self.send(to, &ours[ours.len() - newest..]).await {
            taken.unwrap();
        }
    }

    /// Sends another hub events.
    pub(in crate::hub::desk) async fn send(
        &self,
        to: &Self,
        events: &[String],
    ) -> Vec<Result<(), String>> {
        let mut asked = transactions::send_transaction_message::v1::Request::new(
            "t1".into(),
            self.name().clone(),
            ruma::MilliSecondsSinceUnixEpoch(1_u32.into()),
        );
        let raw = |json: &String| RawValue::from_string(json.clone()).unwrap();
        asked.pdus = events.iter().map(raw).collect();
        let command = Command::Peer(Box::new(PeerCommand::Transaction(Box::new(asked))));
        let answer = to.hub.ask(&from(self.name()), command).await.unwrap();
        let Reply::Peer(answer) = answer else {
            panic!("{answer:?}");
        };
        let PeerReply::Transaction(answer) = *answer else {
            panic!("{answer:?}");
        };
        answer.pdus.into_values().collect()
    }
}
