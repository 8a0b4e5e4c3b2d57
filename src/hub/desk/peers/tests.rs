//! Rooms of this hub with users of another server, whose part the test plays: it signs what it was
//! given as a template, and answers what it is asked. Signatures are the edge's business.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, ServerName, UInt,
    api::federation::{
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state_ids},
        membership::{
            create_join_event, create_leave_event, prepare_join_event, prepare_leave_event,
        },
        query::get_profile_information,
        transactions::send_transaction_message,
    },
};
use serde_json::{json, value::RawValue};

use crate::{
    api::{
        Code, Command, Credentials, Origin, PeerCommand, PeerReply, Refusal, Remote, RemoteError,
        Reply, Unverified, Why,
    },
    hub::{
        desk::rooms,
        testing::{self, Person, TestHub},
    },
    room::testing::{json as content, key},
    store::Status,
    wire::matrix::{Pdu, PduFields, Version},
};

const FAR: &str = "far";
const ZED: &str = "@zed:far";

/// Another server, as the hub reaches it.
#[derive(Default)]
pub(super) struct Far {
    /// What it would tell of a gap.
    pub(super) missing: Mutex<Vec<String>>,
    /// The events whose signatures are wrong.
    pub(super) forged: Mutex<Vec<String>>,
    /// The events whose keys are not to be had.
    pub(super) keyless: Mutex<Vec<String>>,
    /// A server that the operator has nothing to do with.
    unwelcome: Mutex<Option<&'static str>>,
}

#[async_trait]
impl Remote for Far {
    async fn ask(
        &self,
        server: &ServerName,
        command: PeerCommand,
        _patience: Duration,
    ) -> Result<PeerReply, RemoteError> {
        assert_eq!(server, FAR);
        match command {
            PeerCommand::MissingEvents(_) => {
                let missing = std::mem::take(&mut *self.missing.lock().unwrap());
                let events = missing
                    .into_iter()
                    .map(|json| RawValue::from_string(json).unwrap());
                let events = get_missing_events::v1::Response::new(events.collect());
                Ok(PeerReply::MissingEvents(Box::new(events)))
            }
            other => Err(RemoteError::Refused {
                server: server.to_string(),
                status: 404,
                code: "M_NOT_FOUND".to_owned(),
                message: format!("{} is not known here", other.name()),
            }),
        }
    }

    async fn verified(&self, json: &str, version: Version) -> Result<Pdu, Unverified> {
        if self
            .forged
            .lock()
            .unwrap()
            .iter()
            .any(|forged| forged == json)
        {
            return Err(Unverified::Wrong(
                "the signature of far is wrong".to_owned(),
            ));
        }
        if self.keyless.lock().unwrap().iter().any(|one| one == json) {
            return Err(Unverified::NoKey {
                told: "no key of far".to_owned(),
                whole: "no key of far (asking for it: 10.0.0.7:22 refuses)".to_owned(),
            });
        }
        Pdu::read(json, version).map_err(|error| Unverified::Form(error.to_string()))
    }

    fn welcomes(&self, server: &ServerName) -> Result<(), Box<Why>> {
        match *self.unwelcome.lock().unwrap() {
            Some(other) if server == other => Err(Box::new(
                Why::of("FEDERATION_DENY").rule("a list refuses it"),
            )),
            _ => Ok(()),
        }
    }
}

/// Ana's room on this hub, and that server.
pub(super) struct Shared {
    pub(super) hub: TestHub,
    pub(super) far: Arc<Far>,
    pub(super) ana: Person,
    pub(super) room: OwnedRoomId,
}

impl Shared {
    pub(super) async fn open() -> Self {
        let far = Arc::new(Far::default());
        let hub = testing::hub_among(Arc::clone(&far) as Arc<dyn Remote>).await;
        let ana = hub.account("ana").await;
        let room = hub.public_room(&ana, &[]).await;
        Self {
            hub,
            far,
            ana,
            room,
        }
    }

    pub(super) async fn ask(
        &self,
        server: &str,
        command: PeerCommand,
    ) -> Result<PeerReply, Refusal> {
        let origin = Origin {
            credentials: Credentials::Server(OwnedServerName::try_from(server).unwrap()),
            ..testing::stranger()
        };
        let reply = self
            .hub
            .ask(&origin, Command::Peer(Box::new(command)))
            .await?;
        match reply {
            Reply::Peer(reply) => Ok(*reply),
            other => panic!("{other:?}"),
        }
    }

    /// The last refusal, as the operator is told of it.
    fn refused(&self) -> serde_json::Value {
        self.hub.hub.refusals().recent()["refusals"][0].take()
    }

    async fn make_join(&self, server: &str, user: &str) -> Result<PduFields, Refusal> {
        let mut asked =
            prepare_join_event::v1::Request::new(self.room.clone(), user.try_into().unwrap());
        asked.ver = vec![ruma::RoomVersionId::V12];
        let command = PeerCommand::MakeJoin(Box::new(asked));
        let PeerReply::MakeJoin(made) = self.ask(server, command).await? else {
            panic!("another answer");
        };
        Ok(Pdu::read(made.event.get(), Version::V12)
            .unwrap()
            .fields()
            .clone())
    }

    async fn send_join(
        &self,
        server: &str,
        event: &Pdu,
    ) -> Result<create_join_event::v2::RoomState, Refusal> {
        let asked =
            create_join_event::v2::Request::new(self.room.clone(), event.id().clone(), raw(event));
        let command = PeerCommand::SendJoin(Box::new(asked));
        match self.ask(server, command).await? {
            PeerReply::SendJoin(joined) => Ok(joined.room_state),
            other => panic!("{other:?}"),
        }
    }

    /// Ana has the room keep a server out.
    async fn keep_out(&self, server: &str) {
        let acl = json!({ "allow": ["*"], "deny": [server] }).to_string();
        let request = ruma::api::client::state::send_state_event::v3::Request::new_raw(
            self.room.clone(),
            "m.room.server_acl".into(),
            String::new(),
            ruma::serde::Raw::from_json_string(acl).unwrap(),
        );
        testing::ask!(self.hub, self.ana.origin, SendState(request)).unwrap();
    }

    /// Zed joins; gives his join.
    async fn zed(&self) -> Pdu {
        let fields = self.make_join(FAR, ZED).await.unwrap();
        let join = signed(fields);
        self.send_join(FAR, &join).await.unwrap();
        join
    }

    pub(super) async fn transaction(&self, events: &[&Pdu]) -> Vec<(String, Result<(), String>)> {
        let mut asked = send_transaction_message::v1::Request::new(
            "t1".into(),
            FAR.try_into().unwrap(),
            MilliSecondsSinceUnixEpoch(UInt::from(1_u32)),
        );
        asked.pdus = events.iter().map(|event| raw(event)).collect();
        let command = PeerCommand::Transaction(Box::new(asked));
        let PeerReply::Transaction(taken) = self.ask(FAR, command).await.unwrap() else {
            panic!("another answer");
        };
        let taken = taken.pdus.into_iter();
        taken
            .map(|(id, outcome)| (id.to_string(), outcome))
            .collect()
    }

    /// Somebody of a server joins; gives the join.
    pub(super) async fn joined(&self, server: &str) -> Pdu {
        let user = format!("@zed:{server}");
        let fields = self.make_join(server, &user).await.unwrap();
        let join = Pdu::sign(fields, Version::V12, &key(server)).unwrap();
        self.send_join(server, &join).await.unwrap();
        join
    }

    async fn status(&self, event: &Pdu) -> Option<(Status, bool)> {
        let record = self.hub.hub.store().event(event.hash()).await.unwrap()?;
        Some((record.status, record.seq.is_some()))
    }
}

/// What the far server signs.
fn signed(fields: PduFields) -> Pdu {
    Pdu::sign(fields, Version::V12, &key(FAR)).unwrap()
}

/// A message of Zed's after an event.
fn said(after: &Pdu, join: &Pdu, text: &str) -> Pdu {
    said_by(FAR, after, join, text)
}

/// The same of who has joined from another server.
pub(super) fn said_by(server: &str, after: &Pdu, join: &Pdu, text: &str) -> Pdu {
    let mut fields = join.fields().clone();
    fields.kind = "m.room.message".to_owned();
    fields.state_key = None;
    fields.content = content(json!({ "msgtype": "m.text", "body": text }));
    fields.prev = vec![after.id().clone()];
    fields.depth = after.fields().depth + 1;
    // Power levels as in the join, and the join itself.
    fields.auth.retain(|id| *id != *join.id());
    let levels = fields.auth.first().cloned();
    fields.auth = levels.into_iter().chain([join.id().clone()]).collect();
    Pdu::sign(fields, Version::V12, &key(server)).unwrap()
}

fn raw(event: &Pdu) -> Box<RawValue> {
    RawValue::from_string(event.json().to_string()).unwrap()
}

#[tokio::test]
async fn a_user_of_another_server_joins_and_is_told_the_whole_room() {
    let shared = Shared::open().await;
    let join = signed(shared.make_join(FAR, ZED).await.unwrap());
    let told = shared.send_join(FAR, &join).await.unwrap();
    assert_eq!(shared.status(&join).await, Some((Status::Accepted, true)));
    let kinds: Vec<String> = told
        .state
        .iter()
        .map(|event| {
            Pdu::read(event.get(), Version::V12)
                .unwrap()
                .fields()
                .kind
                .clone()
        })
        .collect();
    for kind in [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
    ] {
        assert!(kinds.iter().any(|told| told == kind), "{kind} in {kinds:?}");
    }
    assert!(!told.auth_chain.is_empty());
    assert!(!told.members_omitted);
    // Twice is once.
    shared.send_join(FAR, &join).await.unwrap();
}

#[tokio::test]
async fn a_server_speaks_for_its_own_users_and_signs_what_the_path_names() {
    let shared = Shared::open().await;
    let refused = shared.make_join("other", ZED).await.unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    let fields = shared.make_join(FAR, ZED).await.unwrap();
    let join = signed(fields.clone());
    assert!(shared.send_join("other", &join).await.is_err());
    // Another room in the event than in the path.
    let mut elsewhere = fields.clone();
    elsewhere.room_id = "!elsewhere:far".try_into().unwrap();
    assert!(shared.send_join(FAR, &signed(elsewhere)).await.is_err());
    // A ban in the clothes of a join.
    let mut ban = fields.clone();
    ban.content = content(json!({ "membership": "ban" }));
    assert!(shared.send_join(FAR, &signed(ban)).await.is_err());
    // None at all.
    let none = [(json!({"type": 3}), Code::BadJson, "EVENT_FORM")];
    for (json, code, reason) in none {
        let raw = || RawValue::from_string(json.to_string()).unwrap();
        let (room, id) = (shared.room.clone(), join.id().clone());
        let joins = create_join_event::v2::Request::new(room.clone(), id.clone(), raw());
        let leaves = create_leave_event::v2::Request::new(room, id, raw());
        for command in [
            PeerCommand::SendJoin(Box::new(joins)),
            PeerCommand::SendLeave(Box::new(leaves)),
        ] {
            let refused = shared.ask(FAR, command).await.unwrap_err();
            let why = refused.why.as_deref().and_then(|why| why.code);
            assert_eq!((refused.code, why), (code, Some(reason)), "{refused}");
        }
    }
    // A join of somebody else.
    let mut other = fields;
    other.state_key = Some(shared.ana.user.to_string());
    assert!(shared.send_join(FAR, &signed(other)).await.is_err());
    assert_eq!(shared.status(&join).await, None);
}

#[tokio::test]
async fn what_another_server_sends_is_in_the_room_and_one_bad_event_spoils_none() {
    let shared = Shared::open().await;
    let join = shared.zed().await;
    let hello = said(&join, &join, "hello");
    let mut forged = said(&join, &join, "not mine").fields().clone();
    forged.sender = shared.ana.user.clone();
    let forged = signed(forged);
    let outcomes = shared.transaction(&[&forged, &hello]).await;
    let of = |event: &Pdu| {
        let found = outcomes.iter().find(|(id, _)| id == event.id().as_str());
        found.map(|(_, outcome)| outcome.is_ok())
    };
    assert_eq!((of(&hello), of(&forged)), (Some(true), Some(false)));
    assert_eq!(shared.status(&hello).await, Some((Status::Accepted, true)));
    // Again: known.
    assert!(shared.transaction(&[&hello]).await[0].1.is_ok());
}

#[tokio::test]
async fn an_event_that_names_no_room_is_told_to_the_operator() {
    let shared = Shared::open().await;
    shared.zed().await;
    let mut asked = send_transaction_message::v1::Request::new(
        "empty".into(),
        FAR.try_into().unwrap(),
        MilliSecondsSinceUnixEpoch(ruma::uint!(1)),
    );
    asked.pdus = vec![RawValue::from_string("{}".to_owned()).unwrap()];

    let command = PeerCommand::Transaction(Box::new(asked));
    let PeerReply::Transaction(taken) = shared.ask(FAR, command).await.unwrap() else {
        panic!("another answer");
    };

    assert!(taken.pdus.is_empty());
    let refused = shared.refused();
    assert_eq!(refused["reason"], "EVENT_FORM", "{refused}");
    assert_eq!(refused["from"], FAR, "{refused}");
    let said = refused["said"].as_str().unwrap();
    assert!(said.contains("`room_id`"), "{said}");
}

#[tokio::test]
async fn a_gap_is_asked_for_and_closed() {
    let shared = Shared::open().await;
    let join = shared.zed().await;
    let one = said(&join, &join, "one");
    let two = said(&one, &join, "two");
    *shared.far.missing.lock().unwrap() = vec![one.json().to_string()];
    assert!(shared.transaction(&[&two]).await[0].1.is_ok());
    assert_eq!(shared.status(&one).await, Some((Status::Accepted, true)));
    // One that stays open takes nothing in.
    let four = said(&said(&two, &join, "three"), &join, "four");
    assert!(shared.transaction(&[&four]).await[0].1.is_err());
    assert_eq!(shared.status(&four).await, None);
}

#[tokio::test]
async fn only_who_is_in_the_room_reads_it() {
    let shared = Shared::open().await;
    let join = shared.zed().await;
    let event =
        |id: &Pdu| PeerCommand::PeerEvent(Box::new(get_event::v1::Request::new(id.id().clone())));
    assert!(shared.ask("other", event(&join)).await.is_err());
    let PeerReply::PeerEvent(told) = shared.ask(FAR, event(&join)).await.unwrap() else {
        panic!("another answer");
    };
    assert_eq!(told.pdu.get(), &**join.json());
    let ids = get_room_state_ids::v1::Request::new(join.id().clone(), shared.room.clone());
    let ids = PeerCommand::StateIdsBefore(Box::new(ids));
    let PeerReply::StateIdsBefore(state) = shared.ask(FAR, ids).await.unwrap() else {
        panic!("another answer");
    };
    assert!(!state.pdu_ids.contains(join.id()), "the state before it");
    let back = get_backfill::v1::Request::new(
        shared.room.clone(),
        vec![join.id().clone()],
        UInt::from(3_u32),
    );
    let PeerReply::Backfill(page) = shared
        .ask(FAR, PeerCommand::Backfill(Box::new(back)))
        .await
        .unwrap()
    else {
        panic!("another answer");
    };
    assert_eq!(page.pdus.len(), 3);
    assert_eq!(page.pdus[0].get(), &**join.json(), "newest first");
}

#[tokio::test]
async fn a_server_that_does_not_speak_the_rooms_version_is_told_it() {
    let shared = Shared::open().await;
    let mut asked =
        prepare_join_event::v1::Request::new(shared.room.clone(), ZED.try_into().unwrap());
    asked.ver = vec![ruma::RoomVersionId::V9];

    let refused = shared
        .ask(FAR, PeerCommand::MakeJoin(Box::new(asked)))
        .await;

    let refusal = refused.unwrap_err();
    assert_eq!(refusal.code, Code::IncompatibleRoomVersion);
    assert_eq!(refusal.body.unwrap()["room_version"], "12");
    let passes = refusal.why.unwrap().passes.unwrap();
    assert_eq!(passes, "the joining server speaks the room's version 12");
}

#[tokio::test]
async fn a_profile_is_told_of_users_of_this_hub_only() {
    let shared = Shared::open().await;
    let of = |user: &str| {
        let asked = get_profile_information::v1::Request::new(user.try_into().unwrap());
        PeerCommand::PeerProfile(Box::new(asked))
    };

    let ours = shared.ask(FAR, of("@ana:hub.example")).await;
    let theirs = shared.ask(FAR, of(ZED)).await.unwrap_err();

    assert!(ours.is_ok());
    assert_eq!(theirs.status, 400);
}

#[tokio::test]
async fn who_leaves_is_out_and_reads_no_more() {
    let shared = Shared::open().await;
    let join = shared.zed().await;
    let asked = prepare_leave_event::v1::Request::new(shared.room.clone(), ZED.try_into().unwrap());
    let PeerReply::MakeLeave(made) = shared
        .ask(FAR, PeerCommand::MakeLeave(Box::new(asked)))
        .await
        .unwrap()
    else {
        panic!("another answer");
    };
    let fields = Pdu::read(made.event.get(), Version::V12)
        .unwrap()
        .fields()
        .clone();
    let leave = signed(fields);
    let asked =
        create_leave_event::v2::Request::new(shared.room.clone(), leave.id().clone(), raw(&leave));
    shared
        .ask(FAR, PeerCommand::SendLeave(Box::new(asked)))
        .await
        .unwrap();
    let asked = get_event::v1::Request::new(join.id().clone());
    let refused = shared
        .ask(FAR, PeerCommand::PeerEvent(Box::new(asked)))
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
}

#[tokio::test]
async fn a_server_that_the_room_keeps_out_is_told_so() {
    let shared = Shared::open().await;
    shared.keep_out("far").await;
    let refused = shared.make_join(FAR, ZED).await.unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    assert!(
        refused.message.contains("server ACL"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn who_is_in_the_room_that_a_restricted_one_names_is_vouched_for_and_others_are_not() {
    let mut shared = Shared::open().await;
    shared.zed().await;
    let rules = json!([{ "type": "m.room.join_rules", "content": {
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": shared.room }],
    }}]);
    let wished = rooms::testing::wish("private_chat", &rules);
    shared.room = shared.hub.create(&shared.ana, wished).await.unwrap();
    let refused = shared.make_join(FAR, "@yan:far").await.unwrap_err();
    assert_eq!(refused.code, Code::UnableToAuthoriseJoin);

    let fields = shared.make_join(FAR, ZED).await.unwrap();
    let by = fields.content.get("join_authorised_via_users_server");
    assert_eq!(by.unwrap().as_str(), Some(shared.ana.user.as_str()));
    let told = shared.send_join(FAR, &signed(fields)).await.unwrap();

    let join: serde_json::Value = serde_json::from_str(told.event.unwrap().get()).unwrap();
    let signatures = join["signatures"].as_object().unwrap();
    let servers: Vec<_> = signatures.keys().map(String::as_str).collect();
    assert_eq!(servers, [FAR, testing::SERVER]);
}

/// Yan of a third server joins, and says something that Zed's server passes on with an answer of Zed's.
async fn passed_on(
    shared: &Shared,
    keep_out: impl AsyncFnOnce(&Shared),
) -> [Option<(Status, bool)>; 2] {
    let zed = shared.zed().await;
    let fields = shared.make_join("near", "@yan:near").await.unwrap();
    let yan = Pdu::sign(fields, Version::V12, &key("near")).unwrap();
    shared.send_join("near", &yan).await.unwrap();
    keep_out(shared).await;
    let mut fields = said(&yan, &zed, "hidden").fields().clone();
    fields.sender = "@yan:near".try_into().unwrap();
    fields.auth.retain(|id| id != zed.id());
    fields.auth.push(yan.id().clone());
    let hidden = Pdu::sign(fields, Version::V12, &key("near")).unwrap();
    let answer = said(&hidden, &zed, "an answer to it");
    let outcomes = shared.transaction(&[&hidden, &answer]).await;
    assert!(
        outcomes.iter().all(|(_, outcome)| outcome.is_ok()),
        "{outcomes:?}"
    );
    [shared.status(&hidden).await, shared.status(&answer).await]
}

#[tokio::test]
async fn events_of_a_server_that_is_kept_out_are_hidden_and_those_after_them_are_not_held_up() {
    let outcome = [
        Some((Status::Accepted, false)),
        Some((Status::Accepted, true)),
    ];
    let shared = Shared::open().await;
    let by_the_room = passed_on(&shared, async |shared: &Shared| {
        shared.keep_out("near").await;
    });
    assert_eq!(by_the_room.await, outcome);
    let told = shared.refused();
    assert_eq!(told["reason"], "SERVER_ACL", "{told}");
    assert_eq!(told["room_id"], shared.room.as_str(), "{told}");
    assert!(told["event_id"].is_string(), "{told}");
    let list = told["list_version"].as_str().unwrap();
    assert!(list.starts_with("m.room.server_acl $"), "{told}");
    let shared = Shared::open().await;
    let by_the_operator = passed_on(&shared, async |shared: &Shared| {
        *shared.far.unwelcome.lock().unwrap() = Some("near");
    });
    assert_eq!(by_the_operator.await, outcome);
    let told = shared.refused();
    assert_eq!(told["reason"], "FEDERATION_DENY", "{told}");
    assert_eq!(told["rule"], "a list refuses it", "{told}");
    assert_eq!(told["from"], FAR, "{told}");
}

#[tokio::test]
async fn events_of_a_server_that_the_room_keeps_out_are_each_answered_with_why() {
    let shared = Shared::open().await;
    let join = shared.zed().await;
    shared.keep_out("far").await;
    let late = said(&join, &join, "too late");
    let outcomes = shared.transaction(&[&late]).await;
    let why = outcomes[0].1.as_ref().unwrap_err();
    assert!(why.contains("server ACL"), "{why}");
    assert_eq!(shared.refused()["reason"], "SERVER_ACL");
    assert_eq!(shared.status(&late).await, None);
}
