//! A hub with a room of two, whose work takes no time of the laboratory's.

use std::{future::Future, sync::Arc};

use ruma::{
    OwnedRoomId,
    api::client::{membership::join_room_by_id, room::create_room},
};
use tokio::runtime::{Builder, Runtime};

use crate::{
    api::{
        Command, Credentials, DeviceCredentials, DeviceName, Door, Links, Origin, Reply, RequestId,
        Service, Thin as Question, ThinReply, Upload,
    },
    base::{Clock, Seq, Timestamp},
    edge::{
        Front,
        thin::{Reach, Thin},
    },
    hub::{
        LinkWish, Quota, Settings,
        testing::{self, Person, TestHub, ask},
    },
    store::{Logged, Order, RoomNid},
    wire::{
        matrix::event_id,
        thin::{Alias, Body, Draft, NameKind},
    },
};

/// Entries looked at from a room's end backwards.
const ENTRIES_MAX: u32 = 1000;

/// The hub, and who is there.
pub(super) struct Place {
    runtime: Runtime,
    hub: TestHub,
    /// Whose device is in the laboratory.
    ana: Person,
    /// Who talks from elsewhere.
    ben: Person,
    room: OwnedRoomId,
    room_of_ben: Alias,
    said: u64,
}

/// One thing said in the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) seq: u64,
    pub(super) is_ben: bool,
    pub(super) text: String,
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

impl Place {
    pub(super) fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (hub, ana, ben, room) = runtime.block_on(async {
            let hub = testing::hub_with(unlimited()).await;
            let (ana, ben) = (hub.account("ana").await, hub.account("ben").await);
            let mut wish = create_room::v3::Request::new();
            wish.preset = Some(create_room::v3::RoomPreset::PublicChat);
            let room = ask!(hub, ben.origin, CreateRoom(wish)).unwrap().room_id;
            let join = join_room_by_id::v3::Request::new(room.clone());
            ask!(hub, ana.origin, Join(join)).unwrap();
            (hub, ana, ben, room)
        });
        let mut place = Self {
            runtime,
            hub,
            ana,
            ben,
            room,
            room_of_ben: 0,
            said: 0,
        };
        place.room_of_ben = place.alias(place.ben.origin.clone());
        place
    }

    /// Waits for the hub; no time goes by.
    pub(super) fn wait<F: Future>(&self, work: F) -> F::Output {
        self.runtime.block_on(work)
    }

    /// It is this late now.
    pub(super) fn is_now(&self, now: Timestamp) {
        let clock = &self.hub.clock;
        clock.advance(now.since(clock.now()));
    }

    /// The thin profile over this hub, as all its doors have it.
    pub(super) fn thin(&self) -> Arc<Thin> {
        let front = Front::new(Arc::clone(&self.hub.hub) as Arc<dyn Service>);
        let clock = Arc::clone(&self.hub.clock) as Arc<dyn Clock>;
        Thin::new(front, self.links(), clock, Reach::new())
    }

    pub(super) fn links(&self) -> Arc<dyn Links> {
        Arc::clone(&self.hub.hub) as Arc<dyn Links>
    }

    /// A device of `ana`, and what it calls the room.
    pub(super) fn linked(&self, quic_spki: Option<Vec<u8>>) -> (DeviceCredentials, Alias) {
        let wish = LinkWish {
            device: "TRACKER".into(),
            edhoc_public_x: None,
            quic_spki,
            outer_observe_counted: false,
        };
        let linked = self.wait(self.hub.hub.link_device(&self.ana.user, wish));
        let linked = linked.unwrap();
        let alias = self.alias(origin(linked.device.clone()));
        (linked, alias)
    }

    /// `ben` says something.
    pub(super) fn says(&mut self, text: String) {
        self.said += 1;
        let draft = Draft {
            counter: self.said,
            target: None,
            read: None,
            body: Body::Text(text),
        };
        let room = self.room_of_ben;
        self.asked(self.ben.origin.clone(), Question::Append { room, draft });
    }

    /// `ben` uploads a file; gives the path of its download.
    pub(super) fn keeps(&self, file: Vec<u8>) -> [String; 3] {
        let upload = Upload {
            content_type: None,
            filename: None,
            length: None,
            body: Box::pin(futures_util::stream::iter([Ok(file.into())])),
        };
        let stored = self.wait(self.hub.hub.upload(self.ben.origin.clone(), upload));
        let uri = stored.unwrap();
        let place = uri.strip_prefix("mxc://").unwrap();
        let (server, id) = place.split_once('/').unwrap();
        ["~m".to_owned(), server.to_owned(), id.to_owned()]
    }

    /// Where the room's log ends.
    pub(super) fn head(&self) -> u64 {
        self.room().1.0
    }

    /// What was said after this entry, in the log's order.
    pub(super) fn said_after(&self, seq: u64) -> Vec<Said> {
        let (room, head) = self.room();
        let store = self.hub.hub.store();
        let log = self.wait(store.log(room, Seq(seq), head, Order::Forward, ENTRIES_MAX));
        let said = log.unwrap().into_iter().map(|entry| {
            let Logged::Event(event) = entry.what else {
                panic!("a marker in a room without forks");
            };
            let event: serde_json::Value = serde_json::from_str(&event.json).unwrap();
            Said {
                seq: entry.seq.0,
                is_ben: event["sender"] == self.ben.user.as_str(),
                text: event["content"]["body"].as_str().unwrap().to_owned(),
            }
        });
        said.collect()
    }

    /// Up to where `ana` has read, as the others are told.
    pub(super) fn read_by_ana(&self) -> Option<u64> {
        let (room, head) = self.room();
        let store = self.hub.hub.store();
        let receipts = self.wait(store.receipts_of(room, &self.ana.user)).unwrap();
        let receipt = receipts.first()?;
        let log = self.wait(store.log(room, Seq::ZERO, head, Order::Backward, ENTRIES_MAX));
        let entry = log.unwrap().into_iter().find(|entry| match &entry.what {
            Logged::Event(event) => event_id(event.hash) == receipt.event,
            Logged::Marker(_) => false,
        });
        Some(entry.unwrap().seq.0)
    }

    fn room(&self) -> (RoomNid, Seq) {
        let store = self.hub.hub.store();
        let room = self.wait(store.room(&self.room)).unwrap().unwrap();
        (room.nid, room.heads.seq)
    }

    fn alias(&self, origin: Origin) -> Alias {
        let kind = NameKind::Room;
        let text = self.room.to_string();
        match self.asked(origin, Question::Alias { kind, text }) {
            ThinReply::Alias(alias) => alias,
            other => panic!("{other:?}"),
        }
    }

    fn asked(&self, origin: Origin, question: Question) -> ThinReply {
        let answer = self.wait(self.hub.ask(&origin, Command::Thin(question)));
        match answer.unwrap() {
            Reply::Thin(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
}

fn origin(device: DeviceName) -> Origin {
    Origin {
        door: Door::Oscore,
        address: None,
        request: RequestId(1),
        credentials: Credentials::Device(device),
    }
}
