//! Invites both ways, what becomes of them, and knocks.

use ruma::{
    OwnedRoomId, OwnedUserId,
    api::{
        client::{
            directory::get_public_rooms, knock::knock_room, profile::get_profile, room::create_room,
        },
        federation::membership::{RawStrippedState, create_invite},
    },
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::{Code, Command, PeerCommand, PeerReply, Refusal, Reply},
    base::Timestamp,
    hub::{
        desk::{
            remote::testing::{Node, from, net},
            rooms::{
                self,
                testing::{next, wish},
            },
        },
        testing::{self, Person, ask},
    },
    room::{Membership, testing::json as content},
    store::fsck,
    wire::matrix::{Pdu, PduFields, Version},
};

const US: &str = "hub.example";
const FAR: &str = "far.example";

/// Us with our Ana, a far hub, and Zed's private room there.
struct Pair {
    us: Node,
    far: Node,
    ana: Person,
    zed: Person,
    room: OwnedRoomId,
}

impl Pair {
    async fn of(version: Version) -> Self {
        Self::with(
            version,
            "private_chat",
            &json!([
                { "type": "m.room.topic", "content": { "topic": "tea" } },
            ]),
        )
        .await
    }

    async fn with(version: Version, preset: &str, state: &Value) -> Self {
        let [us, far] = net([US, FAR]).await;
        let ana = us.hub.account("ana").await;
        let zed = far.hub.account("zed").await;
        let mut wished = wish(preset, state);
        wished.room_version = Some(version.id());
        let room = far.hub.create(&zed, wished).await.unwrap();
        Self {
            us,
            far,
            ana,
            zed,
            room,
        }
    }

    async fn invite(&self) -> Result<(), Refusal> {
        self.far.hub.invite(&self.zed, &self.room, &self.ana).await
    }

    /// What Ana's next sync says, and its token.
    async fn news(&self, since: &mut Option<String>) -> Value {
        let answer = self
            .us
            .hub
            .sync(&self.ana, since.as_deref(), json!({}))
            .await;
        *since = Some(next(&answer));
        answer["rooms"].clone()
    }

    async fn membership_there(&self) -> Membership {
        let store = self.far.hub.hub.store();
        let room = store.room(&self.room).await.unwrap().unwrap();
        let found = store.membership(&self.ana.user, room.nid).await.unwrap();
        found.map_or(Membership::Leave, |found| found.membership)
    }

    /// What is kept of what Ana was to the room before she was out of it.
    async fn ended(&self) -> Value {
        let store = self.us.hub.hub.store();
        let kept = store.outside_of(&self.ana.user, &self.room).await;
        let kept: Value = serde_json::from_str(&kept.unwrap().unwrap().state).unwrap();
        kept[0]["content"]["membership"].clone()
    }

    fn shown<'a>(&self, news: &'a Value, section: &str) -> &'a Value {
        &news[section][self.room.as_str()]
    }
}

fn piece<'a>(events: &'a Value, kind: &str) -> Option<&'a Value> {
    events
        .as_array()?
        .iter()
        .find(|event| event["type"] == kind)
}

#[tokio::test]
async fn an_invite_from_elsewhere_is_shown_and_accepted_without_naming_a_server() {
    for version in Version::ALL {
        let pair = Pair::of(version).await;
        let mut since = None;
        pair.news(&mut since).await;

        pair.invite().await.unwrap();

        let news = pair.news(&mut since).await;
        let events = &pair.shown(&news, "invite")["invite_state"]["events"];
        assert_eq!(
            piece(events, "m.room.topic").unwrap()["content"]["topic"],
            "tea"
        );
        assert!(piece(events, "m.room.create").is_some(), "{events}");
        let own = events.as_array().unwrap().last().unwrap();
        assert_eq!(
            (&own["state_key"], &own["content"]["membership"]),
            (&json!(pair.ana.user), &json!("invite"))
        );
        assert_eq!(pair.membership_there().await, Membership::Invite);
        let report = fsck::fsck(&**pair.us.hub.hub.store(), &mut |_| {})
            .await
            .unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
        // Told once, but to a new device.
        assert_eq!(pair.news(&mut since).await, Value::Null);
        let whole = pair.us.hub.sync(&pair.ana, None, json!({})).await;
        assert!(!pair.shown(&whole["rooms"], "invite").is_null());

        pair.us
            .join_via(&pair.ana, pair.room.as_str(), &[])
            .await
            .unwrap();

        let news = pair.news(&mut since).await;
        assert!(!pair.shown(&news, "join").is_null(), "{version}: {news}");
        assert!(pair.shown(&news, "invite").is_null());
        assert_eq!(pair.membership_there().await, Membership::Join);
        let kept = pair
            .us
            .hub
            .hub
            .store()
            .outside_of(&pair.ana.user, &pair.room)
            .await;
        assert_eq!(kept.unwrap(), None);
    }
}

#[tokio::test]
async fn an_invite_is_turned_down_there_and_here() {
    let pair = Pair::of(Version::V12).await;
    let mut since = None;
    pair.invite().await.unwrap();
    pair.news(&mut since).await;
    // Not forgotten before it is answered.
    assert!(pair.us.hub.forget(&pair.ana, &pair.room).await.is_err());

    pair.us.hub.leave(&pair.ana, &pair.room).await.unwrap();

    let news = pair.news(&mut since).await;
    let timeline = &pair.shown(&news, "leave")["timeline"]["events"];
    assert_eq!(timeline[0]["content"]["membership"], "leave");
    let before = &timeline[0]["unsigned"]["prev_content"];
    assert_eq!(before["membership"], "invite");
    assert_eq!(pair.ended().await, "invite");
    assert_eq!(pair.membership_there().await, Membership::Leave);
    let whole = pair.us.hub.sync(&pair.ana, None, json!({})).await;
    assert!(whole["rooms"].is_null(), "{whole}");
    // Twice is once; then it is forgotten, and invited anew.
    pair.us.hub.leave(&pair.ana, &pair.room).await.unwrap();
    pair.us.hub.forget(&pair.ana, &pair.room).await.unwrap();
    pair.invite().await.unwrap();
    let news = pair.news(&mut since).await;
    assert!(!pair.shown(&news, "invite").is_null());
}

#[tokio::test]
async fn an_invite_is_turned_down_also_when_nobody_listens() {
    let pair = Pair::of(Version::V11).await;
    let mut since = None;
    pair.invite().await.unwrap();
    pair.news(&mut since).await;
    pair.us.wire.cut(FAR);
    pair.us.hub.leave(&pair.ana, &pair.room).await.unwrap();
    let news = pair.news(&mut since).await;
    assert!(!pair.shown(&news, "leave").is_null());
    assert_eq!(pair.membership_there().await, Membership::Invite);
}

#[tokio::test]
async fn an_invite_that_is_taken_back_is_gone_and_nobody_else_takes_it_back() {
    let pair = Pair::of(Version::V12).await;
    let mut since = None;
    pair.invite().await.unwrap();
    pair.news(&mut since).await;
    // Somebody's word, in the name of the invited room.
    let forged = PduFields {
        room_id: pair.room.clone(),
        kind: "m.room.member".to_owned(),
        sender: "@eve:evil.example".try_into().unwrap(),
        state_key: Some(pair.ana.user.to_string()),
        content: content(json!({ "membership": "leave" })),
        redacts: None,
        at: Timestamp(1),
        depth: 9,
        prev: vec!["$x".try_into().unwrap()],
        auth: Vec::new(),
    };
    let forged = Pdu::sign(forged, Version::V12, &testing::key_of("evil.example")).unwrap();
    let taken = pair.far.send(&pair.us, &[forged.json().to_string()]).await;
    assert!(taken[0].is_err());
    assert_eq!(pair.news(&mut since).await, Value::Null);

    pair.far
        .hub
        .kick(&pair.zed, &pair.room, &pair.ana)
        .await
        .unwrap();
    pair.far.deliver(&pair.us, &pair.room, 1).await;

    let news = pair.news(&mut since).await;
    assert!(!pair.shown(&news, "leave").is_null(), "{news}");
    assert_eq!(pair.ended().await, "invite");
    let refused = pair
        .us
        .join_via(&pair.ana, pair.room.as_str(), &[FAR])
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    let first = format!("your invitation to {} was taken back; ", pair.room);
    assert!(refused.message.starts_with(&first), "{refused}");
    assert!(
        !refused.message.contains("(5."),
        "a rule's number: {refused}"
    );
}

#[tokio::test]
async fn what_the_invited_server_refuses_is_not_part_of_the_room() {
    let pair = Pair::of(Version::V12).await;
    let nobody = Person {
        user: OwnedUserId::try_from("@nobody:hub.example").unwrap(),
        ..pair.ana.clone()
    };
    let refused = pair
        .far
        .hub
        .invite(&pair.zed, &pair.room, &nobody)
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::NotFound, "{refused}");
    // It gives back something else, or does not sign.
    let twists: [fn(&mut Value); 2] = [
        |event| event["content"]["displayname"] = json!("Eve"),
        |event| drop(event["signatures"].as_object_mut().unwrap().remove(US)),
    ];
    for twist in twists {
        pair.far.wire.twist(move |answer| {
            if let PeerReply::InviteHere(signed) = answer {
                let mut event: Value = serde_json::from_str(signed.event.get()).unwrap();
                twist(&mut event);
                signed.event = RawValue::from_string(event.to_string()).unwrap();
            }
        });
        assert_eq!(pair.invite().await.unwrap_err().status, 502);
    }
    pair.far.wire.cut(US);
    assert_eq!(pair.invite().await.unwrap_err().status, 502);
    assert_eq!(pair.membership_there().await, Membership::Leave);
}

#[tokio::test]
async fn who_may_not_invite_asks_nobody() {
    let pair = Pair::of(Version::V11).await;
    let yan = pair.far.hub.account("yan").await;
    let refused = pair
        .far
        .hub
        .invite(&yan, &pair.room, &pair.ana)
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    let asked = pair.far.wire.asked();
    assert!(
        asked.iter().all(|(_, what)| *what != "InviteHere"),
        "{asked:?}"
    );
}

/// Sends us an invite for Ana as the far server might, without its desk.
async fn invited(
    pair: &Pair,
    from_server: &str,
    fields: PduFields,
    told: Vec<RawStrippedState>,
) -> Result<(), Refusal> {
    invited_in(Version::V12, pair, from_server, fields, told).await
}

/// The same into a room of this version, as it says.
async fn invited_in(
    version: Version,
    pair: &Pair,
    from_server: &str,
    fields: PduFields,
    told: Vec<RawStrippedState>,
) -> Result<(), Refusal> {
    let server = fields.sender.server_name().to_string();
    let event = Pdu::sign(fields, version, &testing::key_of(&server)).unwrap();
    let raw = RawValue::from_string(event.json().to_string()).unwrap();
    let asked = create_invite::v2::Request::new(
        event.fields().room_id.clone(),
        event.id().clone(),
        version.id(),
        raw,
        told,
    );
    let command = Command::Peer(Box::new(PeerCommand::InviteHere(Box::new(asked))));
    let origin = from(from_server.try_into().unwrap());
    match pair.us.hub.ask(&origin, command).await? {
        Reply::Peer(_) => Ok(()),
        other => panic!("{other:?}"),
    }
}

/// An invite of Ana by Zed, which nobody has signed yet.
fn zeds_invite(pair: &Pair) -> PduFields {
    PduFields {
        room_id: pair.room.clone(),
        kind: "m.room.member".to_owned(),
        sender: pair.zed.user.clone(),
        state_key: Some(pair.ana.user.to_string()),
        content: content(json!({ "membership": "invite" })),
        redacts: None,
        at: Timestamp(1),
        depth: 9,
        prev: vec!["$x".try_into().unwrap()],
        auth: Vec::new(),
    }
}

#[tokio::test]
async fn an_invite_that_nobody_signed_is_refused_for_its_signature() {
    let pair = Pair::of(Version::V12).await;
    let signed = Pdu::sign(zeds_invite(&pair), Version::V12, &testing::key_of(FAR)).unwrap();
    let mut unsigned: Value = serde_json::from_str(signed.json()).unwrap();
    unsigned["signatures"] = json!({});
    let event = RawValue::from_string(unsigned.to_string()).unwrap();
    let id = signed.id().clone();
    let version = Version::V12.id();
    let asked = create_invite::v2::Request::new(pair.room.clone(), id, version, event, Vec::new());
    let command = Command::Peer(Box::new(PeerCommand::InviteHere(Box::new(asked))));

    let origin = from(FAR.try_into().unwrap());
    let refused = pair.us.hub.ask(&origin, command).await.unwrap_err();

    let why = refused.why.as_deref().and_then(|why| why.code);
    assert_eq!(
        (refused.code, why),
        (Code::Forbidden, Some("EVENT_SIGNATURE")),
        "{refused}"
    );
}

#[tokio::test]
async fn invites_that_cannot_be_are_refused_and_plant_nothing() {
    let pair = Pair::of(Version::V12).await;
    let store = pair.far.hub.hub.store();
    let record = store.room(&pair.room).await.unwrap().unwrap();
    let state = store.current_all(record.nid, None).await.unwrap();
    let raw = |json: &str| RawStrippedState::Pdu(RawValue::from_string(json.to_owned()).unwrap());
    let told: Vec<_> = state.iter().map(|event| raw(&event.json)).collect();
    let good = zeds_invite(&pair);
    let changed = |change: fn(&mut PduFields)| {
        let mut fields = good.clone();
        change(&mut fields);
        fields
    };
    // Another server's user; no invite; nobody of ours; another room's name.
    let eve = changed(|event| event.sender = "@eve:evil.example".try_into().unwrap());
    let joined = changed(|event| event.content = content(json!({ "membership": "join" })));
    let topic = changed(|event| event.kind = "m.room.topic".to_owned());
    let other = changed(|event| event.state_key = Some("@zed:far.example".to_owned()));
    let ghost = changed(|event| event.state_key = Some("@ghost:hub.example".to_owned()));
    let victim = changed(|event| {
        event.room_id = "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
            .try_into()
            .unwrap();
    });
    for (what, fields) in [
        ("eve", eve),
        ("joined", joined),
        ("topic", topic),
        ("other", other),
        ("ghost", ghost),
        ("victim", victim),
    ] {
        assert!(
            invited(&pair, FAR, fields, told.clone()).await.is_err(),
            "{what}"
        );
    }
    // What the room shows: not its founding; forged; stripped; too much.
    let without: Vec<_> = state
        .iter()
        .filter(|event| !event.json.contains("m.room.create"))
        .map(|event| raw(&event.json))
        .collect();
    let forged: Vec<_> = state
        .iter()
        .map(|event| raw(&event.json.replace("tea", "evil")))
        .collect();
    let stripped: Vec<RawStrippedState> = serde_json::from_value(json!([
        { "type": "m.room.create", "state_key": "", "sender": pair.zed.user, "content": {} },
    ]))
    .unwrap();
    let many: Vec<_> = std::iter::repeat_n(told.clone(), 20).flatten().collect();
    for (what, shown) in [
        ("nothing", Vec::new()),
        ("without", without),
        ("forged", forged),
        ("stripped", stripped),
        ("many", many),
    ] {
        let refused = invited(&pair, FAR, good.clone(), shown).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidParam, "{what}: {refused}");
    }
    pair.us.wire.keyless("m.room.create");
    let refused = invited(&pair, FAR, good.clone(), told.clone())
        .await
        .unwrap_err();
    assert!(
        refused.message.ends_with(": no key of far.example"),
        "{refused}"
    );
    let rule = refused.why.unwrap().rule.unwrap();
    assert!(rule.contains("10.0.0.7:22"), "the operator's alone: {rule}");
    pair.us.wire.keyless("nothing is without a key");
    let none = pair
        .us
        .hub
        .hub
        .store()
        .outside(&pair.ana.user, crate::base::Position::ZERO);
    assert_eq!(none.await.unwrap(), []);
    invited(&pair, FAR, good, told).await.unwrap();
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
async fn an_invite_that_gives_a_room_of_ours_another_version_is_told_the_right_one() {
    let pair = Pair::of(Version::V10).await;
    let bea = pair.us.hub.account("bea").await;
    pair.invite().await.unwrap();
    let entered = pair.us.join_via(&pair.ana, pair.room.as_str(), &[]);
    entered.await.unwrap();
    let invite = PduFields {
        room_id: pair.room.clone(),
        kind: "m.room.member".to_owned(),
        sender: pair.zed.user.clone(),
        state_key: Some(bea.user.to_string()),
        content: content(json!({ "membership": "invite" })),
        redacts: None,
        at: Timestamp(1),
        depth: 9,
        prev: vec!["$x".try_into().unwrap()],
        auth: Vec::new(),
    };

    let refused = invited_in(Version::V11, &pair, FAR, invite, Vec::new()).await;

    let refused = refused.unwrap_err();
    assert_eq!(refused.code, Code::IncompatibleRoomVersion, "{refused}");
    assert_eq!(refused.body.unwrap()["room_version"], "10");
}

#[tokio::test]
async fn an_invite_into_a_room_that_we_are_in_is_an_event_of_it() {
    let pair = Pair::of(Version::V12).await;
    let bea = pair.us.hub.account("bea").await;
    pair.invite().await.unwrap();
    pair.us
        .join_via(&pair.ana, pair.room.as_str(), &[])
        .await
        .unwrap();

    pair.far
        .hub
        .invite(&pair.zed, &pair.room, &bea)
        .await
        .unwrap();

    let store = pair.us.hub.hub.store();
    assert_eq!(store.outside_of(&bea.user, &pair.room).await.unwrap(), None);
    let answer = pair.us.hub.sync(&bea, None, json!({})).await;
    assert!(
        !answer["rooms"]["invite"][pair.room.as_str()].is_null(),
        "{answer}"
    );
    pair.us.hub.join(&bea, &pair.room).await.unwrap();
    // And out again, by the other server's hand.
    pair.us.deliver(&pair.far, &pair.room, 1).await;
    pair.far
        .hub
        .kick(&pair.zed, &pair.room, &bea)
        .await
        .unwrap();
    pair.far.deliver(&pair.us, &pair.room, 1).await;
    let room = store.room(&pair.room).await.unwrap().unwrap();
    let bea = store
        .membership(&bea.user, room.nid)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bea.membership, Membership::Leave);
}

#[tokio::test]
async fn a_room_is_made_with_a_friend_on_another_server() {
    let pair = Pair::of(Version::V12).await;
    let mut wished = create_room::v3::Request::new();
    wished.invite = vec![pair.zed.user.clone()];
    wished.is_direct = true;
    let room = pair.us.hub.create(&pair.ana, wished).await.unwrap();
    let answer = pair.far.hub.sync(&pair.zed, None, json!({})).await;
    let events = &answer["rooms"]["invite"][room.as_str()]["invite_state"]["events"];
    let own = events.as_array().unwrap().last().unwrap();
    assert_eq!(own["content"]["is_direct"], true);
    pair.far
        .join_via(&pair.zed, room.as_str(), &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_knock_elsewhere_is_shown_taken_back_and_let_in() {
    for version in Version::ALL {
        let rules = json!([
            { "type": "m.room.join_rules", "content": { "join_rule": "knock" } },
            { "type": "m.room.topic", "content": { "topic": "tea" } },
        ]);
        let pair = Pair::with(version, "private_chat", &rules).await;
        let mut since = None;
        pair.news(&mut since).await;
        let knock = async || {
            let mut request = knock_room::v3::Request::new(pair.room.clone().into());
            request.via = vec![FAR.try_into().unwrap()];
            request.reason = Some("thirst".to_owned());
            rooms::knock(&pair.us.hub.hub, &pair.ana.caller(), request).await
        };
        knock().await.unwrap();

        let news = pair.news(&mut since).await;
        let events = &pair.shown(&news, "knock")["knock_state"]["events"];
        assert_eq!(
            piece(events, "m.room.topic").unwrap()["content"]["topic"],
            "tea"
        );
        assert_eq!(pair.membership_there().await, Membership::Knock);

        pair.us.hub.leave(&pair.ana, &pair.room).await.unwrap();
        assert_eq!(
            pair.membership_there().await,
            Membership::Leave,
            "{version}"
        );
        let news = pair.news(&mut since).await;
        assert!(!pair.shown(&news, "leave").is_null());

        knock().await.unwrap();
        pair.invite().await.unwrap();
        let news = pair.news(&mut since).await;
        assert!(!pair.shown(&news, "invite").is_null(), "{news}");
        pair.us
            .join_via(&pair.ana, pair.room.as_str(), &[])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn whoever_may_invite_cannot_fill_a_list_without_end() {
    let pair = Pair::of(Version::V12).await;
    let max = crate::hub::desk::remote::outside::OUTSIDE_MAX;
    let made = |n: usize, membership| {
        crate::store::Write::Outside(Box::new(crate::store::OutsideRecord {
            user: pair.ana.user.clone(),
            room_id: OwnedRoomId::try_from(format!("!r{n}:far.example")).unwrap(),
            membership,
            version: Version::V11,
            // of one server there are never so many
            via: format!("far{}.example", n / 50).try_into().unwrap(),
            event: "{}".into(),
            state: "[]".into(),
            position: crate::base::Position::ZERO,
        }))
    };
    let all = (0..max).map(|n| made(n, Membership::Invite)).collect();
    pair.us.hub.write(all).await;
    let refused = pair.invite().await.unwrap_err();
    assert_eq!(refused.code, Code::Forbidden, "{refused}");
    // What was left makes room.
    pair.us.hub.write(vec![made(7, Membership::Leave)]).await;
    pair.invite().await.unwrap();
    let store = pair.us.hub.hub.store();
    let all = store
        .outside(&pair.ana.user, crate::base::Position::ZERO)
        .await
        .unwrap();
    assert_eq!(all.len(), max);
    // And those that no event stands behind are found.
    let report = fsck::fsck(&**store, &mut |_| {}).await.unwrap();
    assert_eq!(report.total(), max as u64 - 1);
    assert!(matches!(
        report.findings[0].what,
        fsck::Wrong::Outside { .. }
    ));
}

#[tokio::test]
async fn one_server_that_invites_to_everything_leaves_room_for_the_others() {
    let pair = Pair::of(Version::V12).await;
    let made = |n: usize| {
        crate::store::Write::Outside(Box::new(crate::store::OutsideRecord {
            user: pair.ana.user.clone(),
            room_id: OwnedRoomId::try_from(format!("!r{n}:far.example")).unwrap(),
            membership: Membership::Invite,
            version: Version::V11,
            via: FAR.try_into().unwrap(),
            event: "{}".into(),
            state: "[]".into(),
            position: crate::base::Position::ZERO,
        }))
    };
    let max = crate::hub::desk::remote::outside::INVITES_PER_SERVER_MAX;
    pair.us.hub.write((0..max).map(made).collect()).await;
    let refused = pair.invite().await.unwrap_err();
    assert!(refused.message.contains("invites of"), "{refused}");
    let gone = crate::store::Write::NotOutside {
        user: pair.ana.user.clone(),
        room_id: OwnedRoomId::try_from("!r0:far.example").unwrap(),
    };
    pair.us.hub.write(vec![gone]).await;
    pair.invite().await.unwrap();
}

#[tokio::test]
async fn other_servers_are_asked_for_profiles_and_rooms_of_theirs() {
    let pair = Pair::of(Version::V12).await;
    pair.far
        .hub
        .write(vec![crate::store::Write::Profile {
            user: pair.zed.user.clone(),
            field: "displayname".to_owned(),
            json: Some("\"Zed\"".to_owned()),
        }])
        .await;
    let request = get_profile::v3::Request::new(pair.zed.user.clone());
    let told = ask!(pair.us.hub, pair.ana.origin, Profile(request)).unwrap();
    assert_eq!(told.get("displayname"), Some(&json!("Zed")));
    let request = get_profile::v3::Request::new(pair.zed.user.clone());
    assert!(ask!(pair.us.hub, testing::stranger(), Profile(request)).is_err());

    let mut listed = wish("public_chat", &json!([]));
    listed.visibility = ruma::api::client::room::Visibility::Public;
    listed.name = Some("Teahouse".to_owned());
    let listed = pair.far.hub.create(&pair.zed, listed).await.unwrap();
    pair.far.hub.hub.reconfigure(crate::hub::Settings {
        share_directory: true,
        ..crate::hub::Settings::default()
    });
    let mut request = get_public_rooms::v3::Request::new();
    request.server = Some(FAR.try_into().unwrap());
    let told = ask!(pair.us.hub, pair.ana.origin, PublicRooms(request)).unwrap();
    assert_eq!(told.chunk.len(), 1);
    assert_eq!(told.chunk[0].room_id, listed);
}
