//! Other servers, as the hub reaches them, and a room that they share with it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, ServerName,
    api::federation::{
        membership::{
            create_join_event, create_leave_event, prepare_join_event, prepare_leave_event,
        },
        query::get_profile_information,
        transactions::send_transaction_message::v1::{Request, Response},
    },
};
use serde_json::{Value, value::RawValue};
use tokio::sync::Notify;

use crate::{
    api::{
        Command, Credentials, Origin, PeerCommand, PeerReply, Remote, RemoteError, Reply,
        Unverified, Why,
    },
    hub::testing::{self, Person, StillClock, TestHub},
    room::testing::key,
    store::{SharedStore, memory::Memory},
    wire::matrix::{Pdu, PduFields, Version},
};

/// What a server does with a transaction.
#[derive(Clone)]
pub(super) enum Mood {
    /// Takes it.
    Takes,
    /// Is not there.
    Away,
    /// Is not spoken with, by a rule of this hub.
    Barred,
    /// Refuses it whole, with this status.
    Refuses(u16),
    /// Refuses a transaction whole that has an event whose text is this, with 400.
    Chokes(&'static str),
    /// Takes it, but not the event whose text is this.
    Dislikes(&'static str),
    /// Takes it and is not heard saying so.
    TakesSilently,
}

/// What a server was asked to take.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) id: String,
    pub(super) pdus: Vec<Value>,
    pub(super) edus: Vec<Value>,
    /// Whether it said that it has it.
    pub(super) acked: bool,
}

/// All other servers.
#[derive(Default)]
pub(super) struct Others {
    moods: Mutex<BTreeMap<OwnedServerName, VecDeque<Mood>>>,
    heard: Mutex<BTreeMap<OwnedServerName, Vec<Heard>>>,
    news: Notify,
}

impl Others {
    /// From now on; the last of several moods stays.
    pub(super) fn mood(&self, server: &str, moods: impl IntoIterator<Item = Mood>) {
        let server = OwnedServerName::try_from(server).unwrap();
        let moods = moods.into_iter().collect();
        self.moods.lock().unwrap().insert(server, moods);
    }

    pub(super) fn heard(&self, server: &str) -> Vec<Heard> {
        let server = OwnedServerName::try_from(server).unwrap();
        let heard = self.heard.lock().unwrap();
        heard.get(&server).cloned().unwrap_or_default()
    }

    /// The texts that a server has taken, in order.
    pub(super) fn texts(&self, server: &str) -> Vec<String> {
        let heard = self.heard(server).into_iter().filter(|one| one.acked);
        heard.flat_map(|one| texts(&one.pdus)).collect()
    }

    /// Waits until it is so.
    pub(super) async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                self.news.notified().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "{:#?}", self.heard.lock().unwrap());
    }

    fn take(&self, server: &ServerName, asked: &Request) -> Result<Response, RemoteError> {
        let mood = {
            let mut moods = self.moods.lock().unwrap();
            match moods.get_mut(server) {
                None => Mood::Takes,
                Some(moods) if moods.len() > 1 => moods.pop_front().unwrap(),
                Some(moods) => moods.front().cloned().unwrap_or(Mood::Takes),
            }
        };
        let read = |json: &str| serde_json::from_str::<Value>(json).unwrap();
        let pdus: Vec<_> = asked.pdus.iter().map(|pdu| read(pdu.get())).collect();
        let is_there = |text: &str| texts(&pdus).iter().any(|one| one == text);
        let refuses = |status| RemoteError::Refused {
            server: server.to_string(),
            status,
            code: "M_BAD_JSON".to_owned(),
            message: "no".to_owned(),
        };
        let unreachable = || RemoteError::Unreachable {
            server: server.to_string(),
            reason: "it is away".to_owned(),
        };
        let mut outcomes = BTreeMap::new();
        for pdu in &asked.pdus {
            let text = read(pdu.get())["content"]["body"].to_string();
            let id = Pdu::read(pdu.get(), Version::V12).unwrap().id().clone();
            let outcome = match &mood {
                Mood::Dislikes(what) if text == format!("{what:?}") => Err("not that".to_owned()),
                _ => Ok(()),
            };
            outcomes.insert(id, outcome);
        }
        let answer = match mood {
            Mood::Chokes(what) if is_there(what) => Err(refuses(400)),
            Mood::Takes | Mood::Dislikes(_) | Mood::Chokes(_) => Ok(Response::new(outcomes)),
            Mood::Away | Mood::TakesSilently => Err(unreachable()),
            Mood::Refuses(status) => Err(refuses(status)),
            Mood::Barred => Err(RemoteError::NotAllowed {
                server: server.to_string(),
                why: Box::new(Why::of("FEDERATION_DENY")),
            }),
        };
        let edus = asked.edus.iter();
        let heard = Heard {
            id: asked.transaction_id.to_string(),
            edus: edus.map(|edu| read(edu.json().get())).collect(),
            pdus,
            acked: answer.is_ok(),
        };
        let mut all = self.heard.lock().unwrap();
        all.entry(server.to_owned()).or_default().push(heard);
        drop(all);
        self.news.notify_one();
        answer
    }
}

fn texts(pdus: &[Value]) -> Vec<String> {
    let texts = pdus
        .iter()
        .filter_map(|pdu| pdu["content"]["body"].as_str());
    texts.map(str::to_owned).collect()
}

#[async_trait]
impl Remote for Others {
    async fn ask(
        &self,
        server: &ServerName,
        command: PeerCommand,
        _patience: Duration,
    ) -> Result<PeerReply, RemoteError> {
        match command {
            PeerCommand::Transaction(asked) => {
                assert!(asked.pdus.len() <= 50 && asked.edus.len() <= 100);
                let answer = self.take(server, &asked)?;
                Ok(PeerReply::Transaction(Box::new(answer)))
            }
            other => panic!("{}", other.name()),
        }
    }

    async fn verified(&self, json: &str, version: Version) -> Result<Pdu, Unverified> {
        Pdu::read(json, version).map_err(|error| Unverified::Wrong(error.to_string()))
    }
}

/// Ana's room on this hub, and other servers.
pub(super) struct World {
    pub(super) hub: TestHub,
    pub(super) store: SharedStore,
    pub(super) others: Arc<Others>,
    pub(super) ana: Person,
    pub(super) room: OwnedRoomId,
    clock: Arc<StillClock>,
    starts: u64,
    presence: bool,
}

impl World {
    /// A room with a user `zed` of each of these servers.
    pub(super) async fn with(servers: &[&str]) -> Self {
        Self::of(servers, false).await
    }

    /// The same where users see who is there.
    pub(super) async fn seeing(servers: &[&str]) -> Self {
        Self::of(servers, true).await
    }

    async fn of(servers: &[&str], presence: bool) -> Self {
        let store: SharedStore = Arc::new(Memory::new());
        let clock = Arc::new(StillClock::new());
        let others = Arc::new(Others::default());
        let hub = start(&store, &clock, &others, 1, presence).await;
        let ana = hub.account("ana").await;
        let room = hub.public_room(&ana, &[]).await;
        let world = Self {
            hub,
            store,
            others,
            ana,
            room,
            clock,
            starts: 1,
            presence,
        };
        for server in servers {
            world.join(server).await;
        }
        world
    }

    /// Another hub over the same store; `cleanly`, when the one before was asked to end.
    pub(super) async fn restart(&mut self, cleanly: bool) {
        self.starts += 1;
        if cleanly {
            self.hub.hub.drain().await;
        } else {
            self.hub.hub.outbox().unwrap().kill();
        }
        let (store, clock, others) = (&self.store, &self.clock, &self.others);
        let next = start(store, clock, others, self.starts, self.presence).await;
        self.hub = next;
    }

    pub(super) async fn say(&self, text: &str) -> OwnedEventId {
        self.hub.say(&self.ana, &self.room, text).await
    }

    /// Says several things.
    pub(super) async fn say_all(&self, texts: &[&str]) {
        for text in texts {
            self.say(text).await;
        }
    }

    /// Lets time pass, and the outbox see that it has.
    pub(super) fn wait(&self, span: Duration) {
        self.clock.advance(span);
        self.hub.hub.outbox().unwrap().look();
    }

    /// Waits until a server has taken these texts.
    pub(super) async fn until_has(&self, server: &str, wanted: &[&str]) {
        let has = |others: &Others| others.texts(server) == wanted;
        self.others.until(has).await;
    }

    /// As a server asks.
    pub(super) async fn ask(&self, server: &str, command: PeerCommand) -> PeerReply {
        let origin = Origin {
            credentials: Credentials::Server(OwnedServerName::try_from(server).unwrap()),
            ..testing::stranger()
        };
        let command = Command::Peer(Box::new(command));
        match self.hub.ask(&origin, command).await.unwrap() {
            Reply::Peer(reply) => *reply,
            other => panic!("{other:?}"),
        }
    }

    /// A server asks something that changes nothing.
    pub(super) async fn is_heard_of(&self, server: &str) {
        let asked = get_profile_information::v1::Request::new(self.ana.user.clone());
        self.ask(server, PeerCommand::PeerProfile(Box::new(asked)))
            .await;
    }

    /// The user `zed` of a server joins.
    pub(super) async fn join(&self, server: &str) -> Pdu {
        let user = format!("@zed:{server}");
        let user = user.as_str().try_into().unwrap();
        let mut asked = prepare_join_event::v1::Request::new(self.room.clone(), user);
        asked.ver = vec![ruma::RoomVersionId::V12];
        let made = self
            .ask(server, PeerCommand::MakeJoin(Box::new(asked)))
            .await;
        let PeerReply::MakeJoin(made) = made else {
            panic!("another answer")
        };
        let join = signed(server, fields(&made.event));
        let (room, id) = (self.room.clone(), join.id().clone());
        let asked = create_join_event::v2::Request::new(room, id, raw(&join));
        self.ask(server, PeerCommand::SendJoin(Box::new(asked)))
            .await;
        join
    }

    /// The user `zed` of a server leaves.
    pub(super) async fn leave(&self, server: &str) -> Pdu {
        let user = format!("@zed:{server}");
        let user = user.as_str().try_into().unwrap();
        let asked = prepare_leave_event::v1::Request::new(self.room.clone(), user);
        let made = self
            .ask(server, PeerCommand::MakeLeave(Box::new(asked)))
            .await;
        let PeerReply::MakeLeave(made) = made else {
            panic!("another answer")
        };
        let leave = signed(server, fields(&made.event));
        let (room, id) = (self.room.clone(), leave.id().clone());
        let asked = create_leave_event::v2::Request::new(room, id, raw(&leave));
        self.ask(server, PeerCommand::SendLeave(Box::new(asked)))
            .await;
        leave
    }
}

async fn start(
    store: &SharedStore,
    clock: &Arc<StillClock>,
    others: &Arc<Others>,
    seed: u64,
    presence: bool,
) -> TestHub {
    let remote = Arc::clone(others) as Arc<dyn Remote>;
    testing::hub_sending(Arc::clone(store), Arc::clone(clock), remote, seed, presence).await
}

fn fields(template: &RawValue) -> PduFields {
    let read = Pdu::read(template.get(), Version::V12).unwrap();
    read.fields().clone()
}

fn signed(server: &str, fields: PduFields) -> Pdu {
    Pdu::sign(fields, Version::V12, &key(server)).unwrap()
}

fn raw(event: &Pdu) -> Box<RawValue> {
    RawValue::from_string(event.json().to_string()).unwrap()
}
