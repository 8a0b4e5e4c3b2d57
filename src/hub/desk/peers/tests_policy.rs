//! Rooms with a policy server: this hub, or another server whose part the test plays.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, RoomVersionId, ServerName, UInt,
    api::{
        client::{message::send_message_event, room::get_room_event, state::send_state_event},
        federation::{
            event::get_event,
            membership::{create_join_event, prepare_join_event},
            policy::sign_event,
            transactions::send_transaction_message,
        },
    },
    serde::Raw,
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::{
        Command, Credentials, Origin, PeerCommand, PeerReply, Refusal, Remote, RemoteError, Reply,
        Unverified,
    },
    hub::{
        Settings,
        testing::{self, Person, SERVER, TestHub},
    },
    room::{
        PolicyRules, PolicyServer,
        testing::{json as content, key, policy_key},
    },
    store::Status,
    wire::matrix::{Glob, Pdu, PduFields, PublicKey, ServerKey, Version},
};

const FAR: &str = "far";
const ZED: &str = "@zed:far";

/// Another server: a policy server, too.
#[derive(Default)]
struct Far {
    asked: Mutex<Vec<String>>,
    refuses: Mutex<bool>,
}

#[async_trait]
impl Remote for Far {
    async fn ask(
        &self,
        server: &ServerName,
        command: PeerCommand,
        _patience: Duration,
    ) -> Result<PeerReply, RemoteError> {
        let refused = |message: &str| RemoteError::Refused {
            server: server.to_string(),
            status: 400,
            code: "M_FORBIDDEN".to_owned(),
            message: message.to_owned(),
        };
        let PeerCommand::PolicySign(asked) = command else {
            return Err(refused("nothing else is asked"));
        };
        let event = Pdu::read(asked.pdu.get(), Version::V12).unwrap();
        let body = event.fields().content.get("body");
        let body = body.and_then(|body| body.as_str()).unwrap_or_default();
        self.asked.lock().unwrap().push(body.to_owned());
        if *self.refuses.lock().unwrap() {
            return Err(refused("this looks like spam"));
        }
        let signed = event.countersigned(Version::V12, &policy_key(FAR)).unwrap();
        let signature = super::policy::signature_of(&signed, FAR).unwrap();
        let answer = sign_event::v1::Response::new(server.to_owned(), signature);
        Ok(PeerReply::PolicySign(Box::new(answer)))
    }

    async fn verified(&self, json: &str, version: Version) -> Result<Pdu, Unverified> {
        Pdu::read(json, version).map_err(|error| Unverified::Wrong(error.to_string()))
    }
}

struct Policed {
    hub: TestHub,
    far: Arc<Far>,
    ana: Person,
    room: OwnedRoomId,
    zed: Pdu,
}

impl Policed {
    /// Ana's room, Zed of the other server in it, and a policy server.
    async fn by(key: &ServerKey) -> Self {
        let far = Arc::new(Far::default());
        let hub = testing::hub_among(Arc::clone(&far) as Arc<dyn Remote>).await;
        let ana = hub.account("ana").await;
        let room = hub.public_room(&ana, &[]).await;
        let mut asked = prepare_join_event::v1::Request::new(room.clone(), ZED.try_into().unwrap());
        asked.ver = vec![RoomVersionId::V12];
        let made = ask(&hub, PeerCommand::MakeJoin(Box::new(asked))).await;
        let Ok(PeerReply::MakeJoin(made)) = made else {
            panic!("another answer");
        };
        let fields = Pdu::read(made.event.get(), Version::V12).unwrap();
        let zed = signed(fields.fields().clone());
        let asked = create_join_event::v2::Request::new(room.clone(), zed.id().clone(), raw(&zed));
        ask(&hub, PeerCommand::SendJoin(Box::new(asked)))
            .await
            .unwrap();
        let policed = Self {
            hub,
            far,
            ana,
            room,
            zed,
        };
        let policy = json!({
            "via": key.name(),
            "public_keys": { "ed25519": PublicKey(key.public()).base64() },
        });
        let request = send_state_event::v3::Request::new_raw(
            policed.room.clone(),
            "m.room.policy".into(),
            String::new(),
            Raw::from_json_string(policy.to_string()).unwrap(),
        );
        testing::ask!(policed.hub, policed.ana.origin, SendState(request)).unwrap();
        policed
    }

    /// What Zed says.
    fn said(&self, kind: &str, text: &str) -> Pdu {
        let mut fields = self.zed.fields().clone();
        fields.kind = kind.to_owned();
        fields.state_key = None;
        fields.content = content(json!({ "msgtype": "m.text", "body": text }));
        fields.prev = vec![self.zed.id().clone()];
        fields.depth = self.zed.fields().depth + 1;
        let levels = fields.auth.first().cloned();
        fields.auth = levels.into_iter().chain([self.zed.id().clone()]).collect();
        signed(fields)
    }

    async fn sign(&self, event: &Pdu) -> Result<String, Refusal> {
        let asked = sign_event::v1::Request::new(raw(event));
        match ask(&self.hub, PeerCommand::PolicySign(Box::new(asked))).await? {
            PeerReply::PolicySign(answer) => {
                let signature = answer.ed25519_signature(SERVER.try_into().unwrap());
                Ok(signature.unwrap().to_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    async fn receive(&self, event: &Pdu) -> Option<(Status, bool)> {
        let mut asked = send_transaction_message::v1::Request::new(
            "t1".into(),
            FAR.try_into().unwrap(),
            MilliSecondsSinceUnixEpoch(UInt::from(1_u32)),
        );
        asked.pdus = vec![raw(event)];
        let taken = ask(&self.hub, PeerCommand::Transaction(Box::new(asked))).await;
        assert!(matches!(taken, Ok(PeerReply::Transaction(_))));
        let record = self.hub.hub.store().event(event.hash()).await.unwrap()?;
        Some((record.status, record.seq.is_some()))
    }

    async fn say(&self, text: &str) -> Result<Value, Refusal> {
        let request = send_message_event::v3::Request::new_raw(
            self.room.clone(),
            text.into(),
            "m.room.message".into(),
            Raw::from_json_string(json!({ "msgtype": "m.text", "body": text }).to_string())
                .unwrap(),
        );
        let sent = testing::ask!(self.hub, self.ana.origin, Send(request))?;
        let stored = crate::store::hash_of(&sent.event_id).unwrap();
        let record = self.hub.hub.store().event(stored).await.unwrap().unwrap();
        let request = get_room_event::v3::Request::new(self.room.clone(), sent.event_id);
        testing::ask!(self.hub, self.ana.origin, Event(request)).unwrap();
        Ok(serde_json::from_str(&record.json).unwrap())
    }

    fn rules(&self, rules: PolicyRules) {
        self.hub.hub.reconfigure(Settings {
            policy: rules,
            ..Settings::default()
        });
    }
}

async fn ask(hub: &TestHub, command: PeerCommand) -> Result<PeerReply, Refusal> {
    let origin = Origin {
        credentials: Credentials::Server(OwnedServerName::try_from(FAR).unwrap()),
        ..testing::stranger()
    };
    match hub.ask(&origin, Command::Peer(Box::new(command))).await? {
        Reply::Peer(reply) => Ok(*reply),
        other => panic!("{other:?}"),
    }
}

fn signed(fields: PduFields) -> Pdu {
    Pdu::sign(fields, Version::V12, &key(FAR)).unwrap()
}

fn raw(event: &Pdu) -> Box<RawValue> {
    RawValue::from_string(event.json().to_string()).unwrap()
}

fn no_calls() -> PolicyRules {
    PolicyRules {
        deny_types: vec![Glob::new("m.call.*")],
        ..PolicyRules::default()
    }
}

#[tokio::test]
async fn this_hub_signs_what_its_rules_let_through_and_decides_once() {
    let key = policy_key(SERVER);
    let policed = Policed::by(&key).await;
    policed.rules(no_calls());
    let (said, call) = (
        policed.said("m.room.message", "hello"),
        policed.said("m.call.invite", "ring"),
    );
    let signature = policed.sign(&said).await.unwrap();
    let server = PolicyServer {
        via: SERVER.try_into().unwrap(),
        key: PublicKey(key.public()),
    };
    let vouched = said.signed_by(&server.via, "ed25519:policy_server", &signature);
    assert!(server.vouches_for(&vouched.unwrap(), Version::V12));
    let refused = policed.sign(&call).await.unwrap_err();
    assert!(
        refused.message.starts_with("POLICY_TYPE: "),
        "{}",
        refused.message
    );
    let why = refused.why.as_deref().unwrap();
    assert_eq!(why.code, Some("POLICY_TYPE"));
    assert_eq!(why.event.as_deref(), Some(call.id().as_str()));
    let rule = why.rule.as_deref().unwrap();
    assert!(
        !rule.contains("POLICY_"),
        "the code stands beside it: {rule}"
    );
    // What was decided stays, whatever the rules become.
    policed.rules(PolicyRules {
        deny_servers: vec![Glob::new("far")],
        ..PolicyRules::default()
    });
    assert_eq!(policed.sign(&said).await.unwrap(), signature);
    assert_eq!(
        policed.sign(&call).await.unwrap_err().message,
        refused.message
    );
    let late = policed.said("m.room.message", "late");
    assert!(
        policed
            .sign(&late)
            .await
            .unwrap_err()
            .message
            .starts_with("POLICY_SERVER")
    );
}

#[tokio::test]
async fn the_first_event_of_a_room_names_none_and_is_decided_on_all_the_same() {
    let policed = Policed::by(&policy_key(SERVER)).await;
    let first = policed.room.as_str().replacen('!', "$", 1);
    let asked = get_event::v1::Request::new(first.try_into().unwrap());
    let told = ask(&policed.hub, PeerCommand::PeerEvent(Box::new(asked))).await;
    let Ok(PeerReply::PeerEvent(told)) = told else {
        panic!("another answer");
    };
    let first = Pdu::read(told.pdu.get(), Version::V12).unwrap();
    policed.sign(&first).await.unwrap();
}

#[tokio::test]
async fn only_rooms_that_name_this_hub_and_its_key_are_vouched_for() {
    let policed = Policed::by(&policy_key("other")).await;
    let said = policed.said("m.room.message", "hello");
    assert_eq!(
        policed.sign(&said).await.unwrap_err().code,
        crate::api::Code::NotFound
    );
    let mut elsewhere = said.fields().clone();
    elsewhere.room_id = "!elsewhere:far".try_into().unwrap();
    let refused = policed.sign(&signed(elsewhere)).await.unwrap_err();
    assert_eq!(refused.code, crate::api::Code::NotFound);
}

#[tokio::test]
async fn what_comes_without_a_signature_is_judged_on_arrival_and_hidden_if_refused() {
    let policed = Policed::by(&policy_key(SERVER)).await;
    policed.rules(no_calls());
    let said = policed.said("m.room.message", "hello");
    assert_eq!(policed.receive(&said).await, Some((Status::Accepted, true)));
    let call = policed.said("m.call.invite", "ring");
    assert_eq!(
        policed.receive(&call).await,
        Some((Status::Accepted, false))
    );
}

#[tokio::test]
async fn our_own_users_are_judged_alike_and_their_events_carry_the_signature() {
    let policed = Policed::by(&policy_key(SERVER)).await;
    policed.rules(PolicyRules {
        events_per_minute: Some(2),
        ..PolicyRules::default()
    });
    for text in ["one", "two"] {
        let event = policed.say(text).await.unwrap();
        assert!(event["signatures"][SERVER]["ed25519:policy_server"].is_string());
        assert!(event["signatures"][SERVER]["ed25519:1"].is_string());
    }
    let refused = policed.say("three").await.unwrap_err();
    assert_eq!(refused.why.as_ref().unwrap().code, Some("POLICY_RATE"));
    assert!(
        refused.message.contains("2 events of a user in a minute"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn another_policy_server_is_asked_before_anything_is_stored() {
    let policed = Policed::by(&policy_key(FAR)).await;
    let event = policed.say("hello").await.unwrap();
    assert!(event["signatures"][FAR]["ed25519:policy_server"].is_string());
    // A retry is answered from what is stored.
    policed.say("hello").await.unwrap();
    assert_eq!(*policed.far.asked.lock().unwrap(), ["hello"]);
    *policed.far.refuses.lock().unwrap() = true;
    let refused = policed.say("buy this").await.unwrap_err();
    assert_eq!(refused.why.as_ref().unwrap().code, Some("POLICY_ELSEWHERE"));
    assert!(
        refused.message.contains("this looks like spam"),
        "{}",
        refused.message
    );
    let unsigned = policed.said("m.room.message", "and this");
    assert_eq!(
        policed.receive(&unsigned).await,
        Some((Status::Accepted, false))
    );
}
