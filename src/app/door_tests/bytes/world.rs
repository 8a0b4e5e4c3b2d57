//! A hub with its doors open on loopback, a room with an MLS group, and someone who talks there.
//!
//! Time stands still, so that nothing is sent twice and every answer rides on its acknowledgement.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use rand::{SeedableRng as _, rngs::StdRng};
use rcgen::{KeyPair, PublicKeyData as _};
use ruma::{
    OwnedRoomId,
    api::client::{membership::join_room_by_id, room::create_room},
    serde::Raw,
};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::{net::UdpSocket, sync::watch, task::JoinSet};

use crate::{
    api::{Command, DeviceCredentials, Links, Reply, Service, Thin as Question, ThinReply},
    app::clock,
    base::Clock,
    edge::{
        Front,
        coap::{self, Coap, Linked},
        coaps::{self, Coaps, LinkedKeys},
        linked::Answers,
        quic::{self, HubKey},
        thin::{Reach, Thin},
    },
    hub::{
        Hub, HubParts, LinkWish, Quota, Settings,
        testing::{self, EDHOC_PUBLIC_X, Person, SERVER, TestHub, ask},
    },
    session::{coap::Timers, dtls, oscore::link::Plainly},
    store::{
        media::MediaFiles,
        sqlite::{OpenOptions, Sqlite},
    },
    wire::thin::{Alias, Body, Draft, MlsGroup, NameKind},
};

/// The seq of an entry has two bytes from here on.
const SEQ_OF_TWO_BYTES: u64 = 128;

/// A partial IV has two bytes from here on.
pub(super) const PIV_OF_TWO_BYTES: u64 = 256;

/// As [`World::linked`] gives them.
const KIDS_OF_TWO_BYTES: [[u8; 2]; 3] = [[0x51, 0x52], [0x61, 0x62], [0x71, 0x72]];

pub(super) struct World {
    pub(super) hub: TestHub,
    /// Whose devices are measured.
    ana: Person,
    /// Who else talks.
    ben: Person,
    pub(super) room: OwnedRoomId,
    /// The same, to `ben`.
    room_of_ben: Alias,
    said: u64,
    linked: usize,
}

/// The group of the room: an id of 16 bytes.
pub(super) fn group() -> MlsGroup {
    MlsGroup {
        group_id: vec![7; 16],
        epoch: 300,
    }
}

fn unlimited() -> Settings {
    let off = Quota {
        per_second: 0.0,
        burst: 0,
    };
    let mut settings = Settings::default();
    settings.limits.events_per_account = off;
    settings.limits.requests_per_account = off;
    settings
}

impl World {
    pub(super) async fn new() -> Self {
        let hub = testing::hub_with(unlimited()).await;
        let (ana, ben) = (hub.account("ana").await, hub.account("ben").await);
        let encryption = json!({
            "type": "m.room.encryption",
            "content": {
                "algorithm": "org.tramline.mls.v1",
                "group_id": STANDARD_NO_PAD.encode(group().group_id),
                "epoch": group().epoch,
            },
        });
        let mut wish = create_room::v3::Request::new();
        wish.preset = Some(create_room::v3::RoomPreset::PublicChat);
        wish.initial_state = vec![Raw::new(&encryption).unwrap().cast_unchecked()];
        let room = ask!(hub, ben.origin, CreateRoom(wish)).unwrap().room_id;
        let join = join_room_by_id::v3::Request::new(room.clone());
        ask!(hub, ana.origin, Join(join)).unwrap();
        let mut world = Self {
            hub,
            ana,
            ben,
            room,
            room_of_ben: 0,
            said: 0,
            linked: 0,
        };
        let name = Question::Alias {
            kind: NameKind::Room,
            text: world.room.to_string(),
        };
        world.room_of_ben = match world.asked(name).await {
            ThinReply::Alias(alias) => alias,
            other => panic!("{other:?}"),
        };
        for _ in 0..SEQ_OF_TWO_BYTES {
            world.says(Body::Text("x".to_owned())).await;
        }
        world
    }

    /// What `ben` asks.
    async fn asked(&self, question: Question) -> ThinReply {
        let command = Command::Thin(question);
        match self.hub.ask(&self.ben.origin, command).await.unwrap() {
            Reply::Thin(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// `ben` says something in the room.
    pub(super) async fn says(&mut self, body: Body) {
        self.said += 1;
        let draft = Draft {
            counter: self.said,
            target: None,
            read: None,
            body,
        };
        let room = self.room_of_ben;
        self.asked(Question::Append { room, draft }).await;
    }

    /// A device of `ana`, whose kid has two bytes and for which the hub has used 256 numbers.
    pub(super) async fn linked(&mut self, quic_spki: Option<Vec<u8>>) -> DeviceCredentials {
        let kid = KIDS_OF_TWO_BYTES[self.linked];
        self.linked += 1;
        let wish = LinkWish {
            device: format!("TRACKER{}", self.linked).into(),
            edhoc_public_x: None,
            quic_spki,
            outer_observe_counted: false,
        };
        let hub = &self.hub.hub;
        let made = hub.link_device(&self.ana.user, wish).await;
        let mut device = made.unwrap();
        let link = hub.oscore(&device.sender_id).await.unwrap();
        let mut link = link.unwrap();
        link.recipient_id = kid.to_vec();
        hub.renew_oscore(link).await.unwrap();
        hub.reserve(&kid, PIV_OF_TWO_BYTES).await.unwrap();
        device.sender_id = kid.to_vec();
        device
    }

    /// The same store under a new hub.
    pub(super) async fn restarted(self) -> Self {
        let TestHub { hub, clock, dir } = self.hub;
        hub.drain().await;
        drop(hub);
        let options = OpenOptions::new(dir.path().join("hub.db"), SERVER.try_into().unwrap());
        let hub = Hub::start(HubParts {
            store: Arc::new(Sqlite::open(options).await.unwrap()),
            media: MediaFiles::new(dir.path().join("media")).await.unwrap(),
            key: Arc::new(testing::key()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            rng: Box::new(StdRng::seed_from_u64(8)),
            settings: unlimited(),
            edhoc_public_x: EDHOC_PUBLIC_X,
            remote: Arc::new(crate::api::Nobody),
            policy_key: None,
        });
        let hub = hub.await.unwrap();
        let hub = TestHub { hub, clock, dir };
        Self { hub, ..self }
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.hub.clock) as Arc<dyn Clock>
    }
}

/// Open doors.
pub(super) struct Doors {
    pub(super) coap: SocketAddr,
    pub(super) coaps: SocketAddr,
    pub(super) quic: SocketAddr,
    /// What devices know the QUIC door by.
    pub(super) spki: Vec<u8>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

pub(super) fn ed25519() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

pub(super) fn spki(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

pub(super) fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

impl Doors {
    /// All of them, as the hub opens them. `seed` is their chance: each life of a hub has its own.
    pub(super) async fn open(world: &World, seed: u64) -> Self {
        let front = Front::new(Arc::clone(&world.hub.hub) as Arc<dyn Service>);
        let links = Arc::clone(&world.hub.hub) as Arc<dyn Links>;
        let thin = Thin::new(
            Arc::clone(&front),
            Arc::clone(&links),
            world.clock(),
            Reach::new(),
        );
        let (answers, pusher) = Answers::new(Arc::clone(&thin), &links, world.clock());
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tokio::spawn(pusher); // ends with the doors that hold `answers`
        let door = |seed| Coap {
            front: Arc::clone(&front),
            clock: world.clock(),
            rng: Box::new(StdRng::seed_from_u64(seed)),
            timers: Timers::default(),
            limits: coap::Limits::default(),
            plainly: Plainly::Nobody,
            linked: Some(Linked {
                links: Arc::clone(&links),
                thin: Arc::clone(&thin),
            }),
            exchanges: None,
        };

        let socket = coap::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let coap = socket.local_addr().unwrap();
        let sockets = coap::Sockets::new(vec![socket]).unwrap();
        tasks.spawn(coap::serve(sockets, door(seed), stopped.clone()));

        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let coaps = socket.local_addr().unwrap();
        let secured = Coaps {
            coap: door(seed + 1),
            dtls: dtls::ServerConfig {
                psk: Some(Arc::new(LinkedKeys(Arc::clone(&links)))),
                ..dtls::ServerConfig::default()
            },
            certificate: None,
            base: clock::instant(),
        };
        let sockets = coap::Sockets::new(vec![socket]).unwrap();
        tasks.spawn(coaps::serve(sockets, secured, stopped.clone()).unwrap());

        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let key = HubKey::new(&der(&ed25519())).unwrap();
        let spki = key.spki().to_vec();
        let quic = quic::Quic {
            front,
            answering: answers,
            links,
            key,
            certificate: None,
            limits: quic::Limits::default(),
        };
        let bound = quic::open(socket, quic).unwrap();
        let quic = bound.local_addr().unwrap();
        tasks.spawn(quic::serve(bound, stopped));
        Self {
            coap,
            coaps,
            quic,
            spki,
            stop,
            tasks,
        }
    }

    pub(super) async fn close(mut self) {
        self.stop.send(true).unwrap();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}
