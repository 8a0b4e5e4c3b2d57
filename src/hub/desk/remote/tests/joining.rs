//! Joining rooms elsewhere.

use ruma::{OwnedRoomId, api::federation::membership::create_join_event};
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::{Code, Command, PeerCommand, PeerReply, Refusal},
    hub::{
        desk::{
            remote::testing::{Node, from, net},
            rooms::testing::{next, texts, wish},
        },
        testing::{self, Person},
    },
    room::{StateKey, testing::json as content},
    store::fsck,
    wire::matrix::{Pdu, PduFields, Version, event_id},
};

const US: &str = "hub.example";
const FAR: &str = "far.example";

/// Us, a far hub, our Ana, and Zed's public room there in which something was said.
struct Pair {
    us: Node,
    far: Node,
    ana: Person,
    zed: Person,
    room: OwnedRoomId,
}

impl Pair {
    async fn of(version: Version) -> Self {
        let [us, far] = net([US, FAR]).await;
        let ana = us.hub.account("ana").await;
        let zed = far.hub.account("zed").await;
        let mut wished = wish("public_chat", &json!([]));
        wished.room_version = Some(version.id());
        wished.room_alias_name = Some("teahouse".to_owned());
        let room = far.hub.create(&zed, wished).await.unwrap();
        far.hub.say(&zed, &room, "before").await;
        Self {
            us,
            far,
            ana,
            zed,
            room,
        }
    }

    async fn join(&self) -> Result<OwnedRoomId, Refusal> {
        self.us
            .join_via(&self.ana, self.room.as_str(), &[FAR])
            .await
    }

    /// Joins over a wire that twists the answer to `make_join`.
    async fn join_by(&self, twist: impl Fn(&mut Value) + Send + Sync + 'static) -> Refusal {
        self.us.wire.twist(move |answer| {
            if let PeerReply::MakeJoin(made) = answer {
                twisted(&mut made.event, &twist);
            }
        });
        self.join().await.unwrap_err()
    }

    async fn is_sound(&self) {
        for node in [&self.us, &self.far] {
            let report = fsck::fsck(&**node.hub.hub.store(), &mut |_| {})
                .await
                .unwrap();
            assert!(report.is_clean(), "{:?}", report.findings);
        }
    }
}

fn twisted(json: &mut Box<RawValue>, twist: &dyn Fn(&mut Value)) {
    let mut value: Value = serde_json::from_str(json.get()).unwrap();
    twist(&mut value);
    *json = RawValue::from_string(value.to_string()).unwrap();
}

#[tokio::test]
async fn a_room_elsewhere_is_joined_and_talked_in_both_ways() {
    for version in Version::ALL {
        let pair = Pair::of(version).await;
        let since = next(&pair.us.hub.sync(&pair.ana, None, json!({})).await);

        assert_eq!(pair.join().await.unwrap(), pair.room);

        let answer = pair.us.hub.sync(&pair.ana, Some(&since), json!({})).await;
        let shown = &answer["rooms"]["join"][pair.room.as_str()];
        let state = shown["state"]["events"].as_array().unwrap().iter();
        let timeline = shown["timeline"]["events"].as_array().unwrap().iter();
        let kinds: Vec<_> = state
            .chain(timeline)
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        for kind in ["m.room.create", "m.room.power_levels", "m.room.member"] {
            assert!(kinds.contains(&kind), "{version}: {kind} in {kinds:?}");
        }
        pair.us.hub.say(&pair.ana, &pair.room, "hello").await;
        pair.us.deliver(&pair.far, &pair.room, 1).await;
        pair.far.hub.say(&pair.zed, &pair.room, "welcome").await;
        pair.far.deliver(&pair.us, &pair.room, 1).await;
        let since = next(&answer);
        let answer = pair.us.hub.sync(&pair.ana, Some(&since), json!({})).await;
        let shown = &answer["rooms"]["join"][pair.room.as_str()];
        assert_eq!(texts(&shown["timeline"]["events"]), ["hello", "welcome"]);
        pair.is_sound().await;
    }
}

#[tokio::test]
async fn an_alias_elsewhere_names_a_room_and_who_knows_it() {
    let pair = Pair::of(Version::V12).await;
    let alias = format!("#teahouse:{FAR}");
    assert_eq!(
        pair.us.join_via(&pair.ana, &alias, &[]).await.unwrap(),
        pair.room
    );
    // The second one of us finds it here.
    let bea = pair.us.hub.account("bea").await;
    pair.us.wire.asked();
    pair.us.join_via(&bea, &alias, &[]).await.unwrap();
    assert_eq!(
        pair.us.wire.asked(),
        [],
        "neither the alias nor the room was asked for"
    );
    let refused = pair.us.join_via(&bea, &format!("#none:{FAR}"), &[]).await;
    assert_eq!(refused.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn two_of_us_who_join_at_once_enter_one_after_the_other() {
    let pair = Pair::of(Version::V11).await;
    let bea = pair.us.hub.account("bea").await;
    let (one, two) = tokio::join!(
        pair.join(),
        pair.us.join_via(&bea, pair.room.as_str(), &[FAR])
    );
    assert_eq!(
        (one.unwrap(), two.unwrap()),
        (pair.room.clone(), pair.room.clone())
    );
    let asked = pair.us.wire.asked();
    let entered = asked.iter().filter(|(_, what)| *what == "SendJoin").count();
    assert_eq!(entered, 1, "{asked:?}");
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_does_not_answer() {
    let pair = Pair::of(Version::V12).await;
    let joined = pair
        .us
        .join_via(&pair.ana, pair.room.as_str(), &["gone.example", US, FAR])
        .await;
    assert_eq!(joined.unwrap(), pair.room);
    // And each says why not, when none lets us in.
    let bea = pair.us.hub.account("bea").await;
    let secret = wish("private_chat", &json!([]));
    let secret = pair.far.hub.create(&pair.zed, secret).await.unwrap();
    let refused = pair
        .us
        .join_via(&bea, secret.as_str(), &["gone.example", FAR])
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    assert!(
        refused
            .message
            .contains("gone.example is not reached (PEER_UNREACHABLE)"),
        "{}",
        refused.message
    );
    assert!(
        refused.message.contains("far.example refused"),
        "{}",
        refused.message
    );
    let nowhere = pair.us.join_via(&bea, secret.as_str(), &[]).await;
    assert_eq!(nowhere.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_template_of_something_else_is_not_signed() {
    let pair = Pair::of(Version::V11).await;
    #[expect(clippy::type_complexity, reason = "a table")]
    let tricks: [(&str, fn(&mut Value)); 8] = [
        ("of the room", |event| {
            event["room_id"] = json!("!other:far.example");
        }),
        ("of the type", |event| {
            event["type"] = json!("m.room.power_levels");
        }),
        ("of the sender", |event| {
            event["sender"] = json!("@bea:hub.example");
        }),
        ("of the user", |event| {
            event["state_key"] = json!("@bea:hub.example");
        }),
        ("of the membership", |event| {
            event["content"]["membership"] = json!("ban");
        }),
        ("follows no event", |event| event["prev_events"] = json!([])),
        ("`state_key`", |event| event["state_key"] = json!(7)),
        ("to vouch", |event| {
            event["content"]["join_authorised_via_users_server"] = json!("@bea:hub.example");
        }),
    ];
    for (said, trick) in tricks {
        let refused = pair.join_by(trick).await;
        assert!(
            refused.message.contains(said),
            "{said}: {}",
            refused.message
        );
        assert_eq!(refused.status, 502, "{said}");
    }
    let asked = pair.us.wire.asked();
    assert!(
        asked.iter().all(|(_, what)| *what == "MakeJoin"),
        "{asked:?}"
    );
    assert!(
        pair.us
            .hub
            .hub
            .store()
            .room(&pair.room)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn nothing_of_a_template_but_its_place_is_signed() {
    let pair = Pair::of(Version::V11).await;
    pair.us.wire.twist(|answer| {
        if let PeerReply::MakeJoin(made) = answer {
            twisted(&mut made.event, &|event| {
                event["content"]["displayname"] = json!("Not Ana");
                event["content"]["evil"] = json!(true);
                event["redacts"] = json!("$evil");
                event["origin_server_ts"] = json!(1);
                event["unsigned"] = json!({ "evil": true });
            });
        }
    });
    pair.join().await.unwrap();
    let members = pair.far.hub.hub.store();
    let room = members.room(&pair.room).await.unwrap().unwrap();
    let key = StateKey::member(&pair.ana.user);
    let join = members
        .current(room.nid, &[key])
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    assert!(
        !join.json.contains("evil") && !join.json.contains("Not Ana"),
        "{}",
        join.json
    );
    let join = join.pdu(&room).unwrap();
    assert_eq!(join.fields().at, pair.us.hub.hub.now());
}

#[tokio::test]
async fn a_version_that_the_room_was_not_founded_in_is_refused() {
    let pair = Pair::of(Version::V10).await;
    for (said, code) in [
        ("11", Code::Unknown),
        ("9", Code::IncompatibleRoomVersion),
        ("org.example.evil", Code::IncompatibleRoomVersion),
    ] {
        pair.us.wire.twist(move |answer| {
            if let PeerReply::MakeJoin(made) = answer {
                made.room_version = Some(said.try_into().unwrap());
            }
        });
        let refused = pair.join().await.unwrap_err();
        // Signed by the rules of the wrong version, the join is refused over there already.
        assert!(
            refused.code == code || refused.code == Code::Forbidden,
            "{refused:?}"
        );
        assert!(
            pair.us
                .hub
                .hub
                .store()
                .room(&pair.room)
                .await
                .unwrap()
                .is_none()
        );
    }
}

#[tokio::test]
async fn a_room_that_is_not_the_one_asked_for_is_not_taken() {
    for version in Version::ALL {
        let pair = Pair::of(version).await;
        // The state of another room of that version, under this name.
        let mut wished = wish("public_chat", &json!([]));
        wished.room_version = Some(version.id());
        let other = pair.far.hub.create(&pair.zed, wished).await.unwrap();
        let store = pair.far.hub.hub.store();
        let record = store.room(&other).await.unwrap().unwrap();
        let events = store.current_all(record.nid, None).await.unwrap();
        let other: Vec<_> = events.iter().map(|event| event.json.to_string()).collect();
        pair.us.wire.twist(move |answer| {
            if let PeerReply::SendJoin(told) = answer {
                let raw = |json: &String| RawValue::from_string(json.clone()).unwrap();
                told.room_state.state = other.iter().map(raw).collect();
                told.room_state.auth_chain = told.room_state.state.clone();
            }
        });
        let refused = pair.join().await.unwrap_err();
        assert!(
            refused.message.contains("no event founded"),
            "{}",
            refused.message
        );
        assert!(
            pair.us
                .hub
                .hub
                .store()
                .room(&pair.room)
                .await
                .unwrap()
                .is_none()
        );
    }
}

#[tokio::test]
async fn forged_events_of_an_answer_are_left_out() {
    let pair = Pair::of(Version::V11).await;
    pair.us.wire.twist(|answer| {
        if let PeerReply::SendJoin(told) = answer {
            let forged = |kind: &str, sender: &str| {
                let fields = PduFields {
                    room_id: "!x:far.example".try_into().unwrap(),
                    kind: kind.to_owned(),
                    sender: sender.try_into().unwrap(),
                    state_key: Some("forged".to_owned()),
                    content: content(json!({ "evil": 1 })),
                    redacts: None,
                    at: crate::base::Timestamp(1),
                    depth: 3,
                    prev: Vec::new(),
                    auth: Vec::new(),
                };
                let forged = Pdu::sign(fields, Version::V11, &testing::key_of("third.example"));
                RawValue::from_string(forged.unwrap().json().to_string()).unwrap()
            };
            // Of another room, and signed by another server.
            told.room_state
                .state
                .push(forged("m.a", "@a:third.example"));
            told.room_state
                .state
                .push(forged("m.b", "@zed:far.example"));
            told.room_state
                .state
                .push(RawValue::from_string("[7]".to_owned()).unwrap());
            let changed = told.room_state.state[0]
                .get()
                .replace("far.example", "fax.example");
            told.room_state
                .state
                .push(RawValue::from_string(changed).unwrap());
        }
    });
    pair.join().await.unwrap();
    let store = pair.us.hub.hub.store();
    let room = store.room(&pair.room).await.unwrap().unwrap();
    let state = store.current_all(room.nid, None).await.unwrap();
    assert!(state.iter().all(|event| !event.json.contains("evil")));
    pair.is_sound().await;
}

#[tokio::test]
async fn a_partial_answer_is_followed_by_asking_for_the_whole() {
    let pair = Pair::of(Version::V12).await;
    pair.us.wire.twist(|answer| {
        if let PeerReply::SendJoin(told) = answer {
            told.room_state.members_omitted = true;
            told.room_state
                .state
                .retain(|event| !event.get().contains("m.room.member"));
        }
    });
    pair.join().await.unwrap();
    let store = pair.us.hub.hub.store();
    let room = store.room(&pair.room).await.unwrap().unwrap();
    let joined = store.joined(room.nid, None).await.unwrap();
    assert_eq!(joined, [pair.ana.user.clone(), pair.zed.user.clone()]);
    let asked = pair.us.wire.asked();
    assert!(
        asked.contains(&(FAR.to_owned(), "StateBefore")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn who_was_in_the_room_before_comes_back_to_it_as_it_is_now() {
    let pair = Pair::of(Version::V12).await;
    pair.join().await.unwrap();
    pair.us.hub.leave(&pair.ana, &pair.room).await.unwrap();
    pair.us.deliver(&pair.far, &pair.room, 1).await;
    // We hear nothing of this.
    let topic = json!({ "topic": "tea" });
    pair.far
        .hub
        .set(&pair.zed, &pair.room, ("m.room.topic", ""), topic)
        .await
        .unwrap();
    let since = next(&pair.us.hub.sync(&pair.ana, None, json!({})).await);

    pair.join().await.unwrap();

    let answer = pair.us.hub.sync(&pair.ana, Some(&since), json!({})).await;
    let shown = &answer["rooms"]["join"][pair.room.as_str()];
    assert!(shown.to_string().contains("tea"), "{shown}");
    pair.far.hub.say(&pair.zed, &pair.room, "again").await;
    pair.far.deliver(&pair.us, &pair.room, 1).await;
    pair.is_sound().await;
}

#[tokio::test]
async fn who_is_in_the_room_that_a_restricted_one_names_joins_it_elsewhere() {
    let pair = Pair::of(Version::V11).await;
    pair.join().await.unwrap();
    let rules = json!([{ "type": "m.room.join_rules", "content": {
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": pair.room }],
    }}]);
    let mut wished = wish("private_chat", &rules);
    wished.room_version = Some(Version::V11.id());
    let room = pair.far.hub.create(&pair.zed, wished).await.unwrap();
    // Without the signature of who vouches, it is no join.
    pair.us.wire.twist(|answer| {
        if let PeerReply::SendJoin(told) = answer {
            told.room_state.event = None;
        }
    });
    let refused = pair
        .us
        .join_via(&pair.ana, room.as_str(), &[FAR])
        .await
        .unwrap_err();
    assert!(refused.message.contains("vouches"), "{}", refused.message);
    pair.us.wire.untwist();
    pair.us
        .join_via(&pair.ana, room.as_str(), &[FAR])
        .await
        .unwrap();
    // Who meets no condition is told so.
    let bea = pair.us.hub.account("bea").await;
    let other = pair
        .far
        .hub
        .create(&pair.zed, wish("private_chat", &rules))
        .await
        .unwrap();
    let refused = pair
        .us
        .join_via(&bea, other.as_str(), &[FAR])
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
}

#[tokio::test]
async fn a_join_that_nobody_may_vouch_for_gets_no_signature() {
    let pair = Pair::of(Version::V11).await;
    let rules = json!([{ "type": "m.room.join_rules", "content": {
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": pair.room }],
    }}]);
    let mut wished = wish("private_chat", &rules);
    wished.room_version = Some(Version::V11.id());
    let room = pair.far.hub.create(&pair.zed, wished).await.unwrap();
    // Without asking for a template: nobody has looked at the condition.
    let store = pair.far.hub.hub.store();
    let record = store.room(&room).await.unwrap().unwrap();
    let kinds = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
    let mut keys: Vec<_> = kinds.map(|kind| StateKey::new(kind, "")).into();
    keys.push(StateKey::member(&pair.zed.user));
    let leans_on = store.current(record.nid, &keys).await.unwrap();
    let fields = PduFields {
        room_id: room.clone(),
        kind: "m.room.member".to_owned(),
        sender: pair.ana.user.clone(),
        state_key: Some(pair.ana.user.to_string()),
        content: content(json!({
            "membership": "join",
            "join_authorised_via_users_server": pair.zed.user,
        })),
        redacts: None,
        at: pair.us.hub.hub.now(),
        depth: 99,
        prev: vec![record.heads.tips[0].0.clone()],
        auth: leans_on
            .into_iter()
            .flatten()
            .map(|event| event_id(event.hash))
            .collect(),
    };
    let join = Pdu::sign(fields, Version::V11, &testing::key_of(US)).unwrap();
    let raw = RawValue::from_string(join.json().to_string()).unwrap();
    let asked = create_join_event::v2::Request::new(room.clone(), join.id().clone(), raw);
    let command = Command::Peer(Box::new(PeerCommand::SendJoin(Box::new(asked))));
    let refused = pair.far.hub.ask(&from(pair.us.name()), command).await;
    assert_eq!(refused.unwrap_err().code, Code::UnableToAuthoriseJoin);
}

#[tokio::test]
async fn restricted_rooms_that_we_are_in_are_joined_by_who_meets_the_condition() {
    let pair = Pair::of(Version::V12).await;
    let [bea, cat] = [
        pair.us.hub.account("bea").await,
        pair.us.hub.account("cat").await,
    ];
    let hall = pair.us.hub.public_room(&pair.ana, &[&bea]).await;
    let rules = json!([{ "type": "m.room.join_rules", "content": {
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": hall }],
    }}]);
    let ours = pair
        .us
        .hub
        .create(&pair.ana, wish("private_chat", &rules))
        .await
        .unwrap();
    // By one of us who may invite.
    pair.us.hub.join(&bea, &ours).await.unwrap();
    let refused = pair.us.hub.join(&cat, &ours).await.unwrap_err();
    assert_eq!(refused.code, Code::Forbidden, "{refused}");
    // By one of another server: of us nobody may.
    let rules = json!([{ "type": "m.room.join_rules", "content": {
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": pair.room }],
    }}]);
    let mut wished = wish("private_chat", &rules);
    wished.power_level_content_override =
        Some(ruma::serde::Raw::from_json_string(json!({ "invite": 50 }).to_string()).unwrap());
    let theirs = pair.far.hub.create(&pair.zed, wished).await.unwrap();
    pair.join().await.unwrap();
    pair.us
        .join_via(&pair.ana, theirs.as_str(), &[FAR])
        .await
        .unwrap();
    pair.us.hub.join(&bea, &pair.room).await.unwrap();
    pair.us.deliver(&pair.far, &pair.room, 1).await;
    pair.us.join_via(&bea, theirs.as_str(), &[]).await.unwrap();
    pair.is_sound().await;
}

impl Pair {
    /// Zed changes who may do what, so that what was before leans on events that are not current any
    /// more, and the answer to a join tells none of these.
    async fn without_its_auth_chain(
        &self,
        version: Version,
        twist: impl Fn(&mut Value) + Send + Sync + 'static,
    ) {
        for level in [10, 20, 30] {
            let mut content = json!({ "events": { "m.room.topic": level } });
            if version != Version::V12 {
                content["users"] = json!({ self.zed.user.as_str(): 100 }); // since then it is who founded it
            }
            let content = content.to_string();
            let request = ruma::api::client::state::send_state_event::v3::Request::new_raw(
                self.room.clone(),
                "m.room.power_levels".into(),
                String::new(),
                ruma::serde::Raw::from_json_string(content).unwrap(),
            );
            testing::ask!(self.far.hub, self.zed.origin, SendState(request)).unwrap();
        }
        self.us.wire.twist(move |answer| match answer {
            PeerReply::SendJoin(told) => told.room_state.auth_chain.clear(),
            PeerReply::PeerEvent(told) => twisted(&mut told.pdu, &twist),
            _ => {}
        });
    }

    async fn state_of(&self, node: &Node) -> std::collections::BTreeSet<String> {
        let store = node.hub.hub.store();
        let room = store.room(&self.room).await.unwrap().unwrap();
        let state = store.current_all(room.nid, None).await.unwrap();
        state.iter().map(|event| event.json.to_string()).collect()
    }
}

#[tokio::test]
async fn what_the_state_leans_on_and_was_not_told_is_asked_for() {
    for version in Version::ALL {
        let pair = Pair::of(version).await;
        pair.without_its_auth_chain(version, |_| {}).await;

        pair.join().await.unwrap();

        let asked = pair.us.wire.asked();
        let singly = asked.iter().filter(|(_, what)| *what == "PeerEvent");
        assert!((1..=4).contains(&singly.count()), "{asked:?}");
        assert_eq!(
            pair.state_of(&pair.us).await,
            pair.state_of(&pair.far).await
        );
        pair.is_sound().await;
    }
}

#[tokio::test]
async fn what_it_leans_on_must_be_believable_too() {
    let pair = Pair::of(Version::V12).await;
    let twist = |event: &mut Value| event["depth"] = 7.into();
    pair.without_its_auth_chain(Version::V12, twist).await;

    let refused = pair.join().await.unwrap_err();

    assert_eq!(refused.status, 502, "{refused}");
    let why = refused.why.unwrap();
    assert!(why.code.is_some_and(|code| code != "M_UNKNOWN"), "{why:?}");
    assert!(why.server.is_some(), "doctor is to look at it: {why:?}");
    let asked = pair.us.wire.asked();
    let singly = asked.iter().filter(|(_, what)| *what == "PeerEvent");
    assert!(singly.count() <= 4, "{asked:?}");
}
