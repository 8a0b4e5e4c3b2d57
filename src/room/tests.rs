//! Whole flows through needs, learn, decide and apply, and each refusal by name.

use ruma::{CanonicalJsonObject, OwnedEventId};
use serde_json::json;

use super::{testing::*, *};
use crate::{
    base::{EventHash, Seq},
    wire::matrix::{DEPTH_MAX, PREV_EVENTS_MAX, PduError, Version, event_id},
};

fn clause(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Rules(clause) => clause.clause,
        other => unreachable!("not refused by the rules, but: {other}"),
    }
}

fn in_v12(version: Version, old: &'static str, v12: &'static str) -> &'static str {
    if version == Version::V12 { v12 } else { old }
}

#[test]
fn a_room_lives_from_its_creation_to_a_ban() {
    for version in Version::ALL {
        let mut table = Table::joined(version);
        let levels = if version == Version::V12 {
            json!({ "users": { BEN: 50 }, "invite": 50 })
        } else {
            json!({ "users": { ANA: 100, BEN: 50 }, "invite": 50 })
        };
        table.append(ANA, &state("m.room.power_levels", levels));
        table.append(
            ANA,
            &state("m.room.join_rules", json!({ "join_rule": "invite" })),
        );
        table.append(ANA, &member(BEN, MemberChange::Invite));
        table.append(BEN, &member(BEN, MemberChange::Join));
        table.append(BEN, &member(CAT, MemberChange::Invite));
        table.append(CAT, &member(CAT, MemberChange::Join));
        let said = table.append(CAT, &message("something rude"));
        table.verify();

        let redact = Part::Redact {
            target: said.id().clone(),
            reason: Some("rude".to_owned()),
        };
        let effects = table.take(BEN, &redact).unwrap();
        let [
            Effect::Append(redaction),
            Effect::Redact { target, because },
        ] = effects.as_slice()
        else {
            unreachable!("{effects:?}")
        };
        assert_eq!((target, because), (said.id(), redaction.id()));
        assert_eq!(redaction.fields().redacts.as_ref(), Some(said.id()));
        let top_level = redaction.object().contains_key("redacts");
        let in_content = redaction.fields().content.contains_key("redacts");
        assert_eq!(
            (top_level, in_content),
            (version == Version::V10, version != Version::V10)
        );
        let left = table.event(said.id()).unwrap();
        assert_eq!(left.fields().content, CanonicalJsonObject::new());

        table.append(BEN, &member(CAT, MemberChange::Ban));
        let refusal = table.refused(CAT, &message("still here"));
        assert!(matches!(refusal, Refusal::NotMember(who) if who == CAT));
        let refusal = table.refused(CAT, &member(CAT, MemberChange::Join));
        assert_eq!(clause(&refusal), in_v12(version, "4.3.3", "5.3.3"));
        table.append(BEN, &member(CAT, MemberChange::Unban));
        assert_eq!(table.room.membership(&user(CAT)), Membership::Leave);
        assert_eq!(table.room.heads().seq, Seq(table.log.len() as u64));
    }
}

#[test]
fn an_event_continues_from_every_tip_and_names_what_allows_it() {
    for version in Version::ALL {
        let mut table = Table::busy(version);
        let heads = Heads {
            tips: (0..25).map(|n| (event_id(EventHash([n; 32])), 7)).collect(),
            ..table.room.heads().clone()
        };
        table.room = Room::loaded(table.room.id().clone(), version, heads);
        let event = table.append(BEN, &message("hello"));
        let fields = event.fields();
        assert_eq!(fields.prev.len(), 20);
        assert_eq!(fields.depth, 8);
        let mut expected: Vec<OwnedEventId> = Vec::new();
        for key in auth_state_keys(fields, version) {
            expected.push(table.stored[&key].id().clone());
        }
        assert_eq!(fields.auth, expected);
        let create = table.log[0].id();
        assert_eq!(fields.auth.contains(create), version != Version::V12);
        let left = (20..25).map(|n| (event_id(EventHash([n; 32])), 7));
        let tips: Vec<_> = left.chain([(event.id().clone(), 8)]).collect();
        assert_eq!(table.room.heads().tips, tips);
    }
}

#[test]
fn only_what_is_not_known_yet_is_needed() {
    let mut table = Table::busy(Version::V12);
    let heads = table.room.heads().clone();
    table.room = Room::loaded(table.room.id().clone(), Version::V12, heads);
    let ban = member(CAT, MemberChange::Ban);
    let named = table.room.needs(&user(ANA), &ban).state;
    let expected = [
        "m.room.create",
        "m.room.member",
        "m.room.member",
        "m.room.policy",
        "m.room.power_levels",
    ];
    let kinds: Vec<_> = named.iter().map(|key| key.kind.as_str()).collect();
    assert_eq!(kinds, expected);
    table.append(ANA, &ban);
    assert_eq!(table.room.needs(&user(ANA), &ban), Needs::default());
    assert_eq!(table.room.known_len(), 5);
    let said = table.append(ANA, &message("x"));
    let redact = Part::Redact {
        target: said.id().clone(),
        reason: None,
    };
    let needs = table.room.needs(&user(ANA), &redact);
    assert_eq!(
        (needs.state, needs.event.as_ref()),
        (vec![], Some(said.id()))
    );
}

#[test]
fn depth_stops_at_the_largest_integer() {
    let mut table = Table::busy(Version::V12);
    let tip = table.log[0].id().clone();
    let heads = Heads {
        tips: vec![(tip, DEPTH_MAX)],
        ..table.room.heads().clone()
    };
    table.room = Room::loaded(table.room.id().clone(), Version::V12, heads);
    assert_eq!(
        table.append(ANA, &message("deep")).fields().depth,
        DEPTH_MAX
    );
}

#[test]
fn the_room_id_of_v12_is_the_hash_of_its_create_event() {
    let table = Table::joined(Version::V12);
    let create = &table.log[0];
    assert_eq!(table.room.id().as_str()[1..], create.id().as_str()[1..]);
    assert!(!create.object().contains_key("room_id"));
    assert_eq!(create.fields().room_id, *table.room.id());
    let join = table.log[1].object();
    assert_eq!(join["room_id"].as_str(), Some(table.room.id().as_str()));
}

#[test]
fn clients_cannot_write_who_created_what() {
    let mine = json!({ "creator": "@eve:hub", "room_version": "1", "type": "m.space" });
    for version in Version::ALL {
        let table = Table::founded(version, mine.clone()).unwrap();
        let content = &table.log[0].fields().content;
        assert_eq!(content["room_version"].as_str(), Some(version.as_str()));
        assert_eq!(content["type"].as_str(), Some("m.space"));
        let creator = content.get("creator").and_then(|creator| creator.as_str());
        assert_eq!(creator, (version == Version::V10).then_some(ANA));
    }
}

#[test]
fn additional_creators_are_users_named_once() {
    let named = json!({ "additional_creators": [BEN, ANA, BEN, CAT] });
    let table = Table::founded(Version::V12, named.clone()).unwrap();
    let kept = &table.log[0].fields().content["additional_creators"];
    assert_eq!(serde_json::to_value(kept).unwrap(), json!([BEN, CAT]));

    let before = Table::founded(Version::V11, named).unwrap();
    assert!(
        !before.log[0]
            .fields()
            .content
            .contains_key("additional_creators")
    );

    for bad in [json!(["ben"]), json!(BEN), json!([7]), json!({ BEN: 1 })] {
        let refusal = Table::founded(Version::V12, json!({ "additional_creators": bad }));
        assert!(matches!(refusal.err(), Some(Refusal::Content { .. })));
    }
    let refusal = Table::founded(Version::V12, json!({ "m.federate": "no" }));
    assert!(matches!(refusal.err(), Some(Refusal::Content { .. })));
}

#[test]
fn creators_of_v12_are_above_every_number_and_named_nowhere() {
    let named = json!({ "additional_creators": [BEN] });
    let mut table = Table::founded(Version::V12, named).unwrap();
    table.append(ANA, &member(ANA, MemberChange::Join));
    for creator in [ANA, BEN] {
        let levels = state("m.room.power_levels", json!({ "users": { creator: 100 } }));
        let refusal = table.refused(ANA, &levels);
        assert_eq!(clause(&refusal), "10.4");
    }
    let top = (1_i64 << 53) - 1;
    let levels = json!({ "users": { CAT: top }, "state_default": top, "events_default": top });
    table.append(ANA, &state("m.room.power_levels", levels));
    table.append(
        ANA,
        &state("m.room.join_rules", json!({ "join_rule": "public" })),
    );
    table.append(BEN, &member(BEN, MemberChange::Join));
    table.append(CAT, &member(CAT, MemberChange::Join));
    table.append(BEN, &message("out of reach for numbers"));
    let refusal = table.refused(CAT, &member(BEN, MemberChange::Ban));
    assert_eq!(clause(&refusal), "5.6.3");
    let refusal = table.refused(ANA, &member(BEN, MemberChange::Ban)); // nor each other
    assert_eq!(clause(&refusal), "5.6.3");
    table.append(BEN, &member(CAT, MemberChange::Kick));
}

#[test]
fn what_is_already_so_is_answered_with_the_event_that_made_it_so() {
    let mut table = Table::busy(Version::V12);
    let topic = state("m.room.topic", json!({ "topic": "bees" }));
    let event = table.append(ANA, &topic);
    let len = table.log.len();
    for (sender, part, event) in [
        (ANA, topic.clone(), Some(event.id().clone())),
        (BEN, member(BEN, MemberChange::Join), None),
    ] {
        let effects = table.take(sender, &part).unwrap();
        let [Effect::Already { event: was, user }] = effects.as_slice() else {
            unreachable!("{effects:?}")
        };
        assert_eq!(user, sender);
        assert!(event.is_none() || *was == event);
    }
    assert_eq!(table.log.len(), len);

    table.append(BEN, &member(BEN, MemberChange::Leave));
    let effects = table.take(BEN, &member(BEN, MemberChange::Leave)).unwrap();
    assert!(matches!(effects.as_slice(), [Effect::Already { .. }]));
    let refusal = table.refused("@dan:hub", &member("@dan:hub", MemberChange::Leave));
    assert!(matches!(refusal, Refusal::NotMember(_)));
    // Someone else's equal words are a new event, and a new name is one too.
    table.append(
        ANA,
        &state("m.room.power_levels", json!({ "state_default": 0 })),
    );
    table.append(CAT, &topic);
    let renamed = Part::Member {
        target: user(CAT),
        change: MemberChange::Join,
        content: json(json!({ "displayname": "Cat" })),
    };
    table.append(CAT, &renamed);
}

#[test]
fn membership_calls_say_what_they_presuppose() {
    for version in Version::ALL {
        let mut table = Table::busy(version);
        for part in [
            member("@dan:hub", MemberChange::Kick),
            member(BEN, MemberChange::Unban),
            member(BEN, MemberChange::Leave),
            member(BEN, MemberChange::Join),
            member(BEN, MemberChange::Knock),
        ] {
            let refusal = table.refused(ANA, &part);
            assert!(matches!(refusal, Refusal::Membership(_)), "{refusal}");
        }
        table.append(ANA, &member("@dan:hub", MemberChange::Invite));
        table.append("@dan:hub", &member("@dan:hub", MemberChange::Leave));
        let refusal = table.refused(BEN, &member(CAT, MemberChange::Kick));
        assert_eq!(clause(&refusal), in_v12(version, "4.5.5", "5.5.5"));
        let refusal = table.refused("@dan:hub", &member(CAT, MemberChange::Invite));
        assert!(matches!(refusal, Refusal::NotMember(_)));
    }
}

#[test]
fn membership_written_as_state_goes_the_same_way() {
    let mut table = Table::busy(Version::V11);
    let write = |target: &str, membership: &str| Part::Event {
        kind: "m.room.member".to_owned(),
        state_key: Some(target.to_owned()),
        content: json(json!({
            "membership": membership,
            "join_authorised_via_users_server": ANA,
        })),
    };
    let join = table.append("@dan:hub", &write("@dan:hub", "join"));
    assert_eq!(
        join.fields().content,
        json(json!({ "membership": "join" })),
        "who vouches is ours to say"
    );
    table.append(ANA, &write("@dan:hub", "ban"));
    table.append(ANA, &write("@dan:hub", "leave")); // an unban
    let refusal = table.refused(ANA, &write("@dan:hub", "leave")); // a kick of nobody
    assert!(matches!(refusal, Refusal::Membership(_)));
    table.append(ANA, &write("@dan:hub", "invite"));
    table.append("@dan:hub", &write("@dan:hub", "leave"));
    let refusal = table.refused(ANA, &write("@dan:hub", "owner"));
    let words = "must be one of `join`, `invite`, `knock`, `leave`, `ban`";
    assert!(refusal.to_string().contains(words), "{refusal}");
    for (target, membership) in [("@dan:hub", "owner"), ("dan", "join")] {
        let refusal = table.refused(ANA, &write(target, membership));
        assert!(matches!(refusal, Refusal::Content { .. }));
        // Who is not in the room is not told what is wrong with what they wrote.
        let refusal = table.refused("@dan:hub", &write(target, membership));
        assert!(matches!(refusal, Refusal::NotMember(_)));
    }
}

#[test]
fn knocking_needs_a_room_that_wants_it() {
    for version in Version::ALL {
        let mut table = Table::busy(version);
        let knock = member("@dan:hub", MemberChange::Knock);
        let refusal = table.refused("@dan:hub", &knock);
        assert_eq!(clause(&refusal), in_v12(version, "4.7.1", "5.7.1"));
        table.append(
            ANA,
            &state(
                "m.room.join_rules",
                json!({ "join_rule": "knock_restricted" }),
            ),
        );
        table.append("@dan:hub", &knock);
        let refusal = table.refused("@dan:hub", &member("@dan:hub", MemberChange::Join));
        assert!(matches!(refusal, Refusal::Membership(_)));
        table.append(ANA, &member("@dan:hub", MemberChange::Invite));
        table.append("@dan:hub", &member("@dan:hub", MemberChange::Join));
    }
}

#[test]
fn a_redaction_needs_its_target_and_power_over_it() {
    for version in Version::ALL {
        let mut table = Table::busy(version);
        let said = table.append(BEN, &message("mine"));
        let redact = |target: &OwnedEventId| Part::Redact {
            target: target.clone(),
            reason: None,
        };
        let unknown = event_id(EventHash([9; 32]));
        let refusal = table.refused(BEN, &redact(&unknown));
        assert!(matches!(refusal, Refusal::UnknownTarget));
        let refusal = table.refused(CAT, &redact(said.id()));
        assert!(matches!(
            refusal,
            Refusal::MayNotRedact { needed: 50, has: 0 }
        ));
        let create = table.log[0].id().clone();
        let refusal = table.refused(ANA, &redact(&create));
        assert!(matches!(refusal, Refusal::Content { .. }));
        table.append(BEN, &redact(said.id()));

        let said = table.append(BEN, &message("mine too"));
        let written = Part::Event {
            kind: "m.room.redaction".to_owned(),
            state_key: None,
            content: json(json!({ "redacts": said.id().as_str(), "reason": "moved" })),
        };
        let event = table.append(ANA, &written);
        assert_eq!(event.fields().redacts.as_ref(), Some(said.id()));
        assert_eq!(event.fields().content["reason"].as_str(), Some("moved"));
        assert_eq!(table.event(said.id()).unwrap().fields().content.len(), 0);
        let nothing = Part::Event {
            kind: "m.room.redaction".to_owned(),
            state_key: None,
            content: CanonicalJsonObject::new(),
        };
        assert!(matches!(
            table.refused(ANA, &nothing),
            Refusal::Content { .. }
        ));
    }
}

#[test]
fn redacted_state_stays_in_force_with_what_is_left_of_it() {
    let mut table = Table::busy(Version::V11);
    let topic = table.append(ANA, &state("m.room.topic", json!({ "topic": "bees" })));
    let redact = Part::Redact {
        target: topic.id().clone(),
        reason: None,
    };
    table.take(ANA, &redact).unwrap();
    let left = table.room.state("m.room.topic", "").unwrap();
    assert_eq!(left.id(), topic.id());
    assert_eq!(left.fields().content, CanonicalJsonObject::new());
    table.append(ANA, &state("m.room.topic", json!({ "topic": "bees" }))); // not «already»
}

#[test]
fn clients_send_no_create_event_and_no_one_elses_state() {
    for version in Version::ALL {
        let mut table = Table::busy(version);
        let refusal = table.refused(ANA, &state("m.room.create", json!({})));
        assert!(matches!(refusal, Refusal::NotForClients(_)));
        let refusal = table.refused(ANA, &state("m.room.redaction", json!({})));
        assert!(matches!(refusal, Refusal::NotForClients(_)));
        let theirs = |key: &str| Part::Event {
            kind: "org.example.status".to_owned(),
            state_key: Some(key.to_owned()),
            content: CanonicalJsonObject::new(),
        };
        let refusal = table.refused(ANA, &theirs(BEN));
        assert_eq!(clause(&refusal), in_v12(version, "8", "9"));
        table.append(ANA, &theirs(ANA));
        let refusal = table.refused(BEN, &theirs(BEN));
        assert_eq!(clause(&refusal), in_v12(version, "7", "8"));
    }
}

#[test]
fn an_event_over_the_ceiling_is_refused_with_its_size() {
    let mut table = Table::busy(Version::V12);
    for bytes in [65_300, 65_536, 70_000, 200_000] {
        let refusal = table.refused(BEN, &message(&"x".repeat(bytes)));
        assert!(
            matches!(refusal, Refusal::Pdu(PduError::TooLarge { bytes: was }) if was > bytes),
            "{refusal}"
        );
    }
    let event = table.append(BEN, &message(&"x".repeat(64_000)));
    assert!(event.json().len() <= 65_536);
    let kind = Part::Event {
        kind: "k".repeat(256),
        state_key: None,
        content: CanonicalJsonObject::new(),
    };
    let refusal = table.refused(BEN, &kind);
    assert!(matches!(
        refusal,
        Refusal::Pdu(PduError::FieldTooLong { field: "type", .. })
    ));
}

#[test]
fn a_room_that_is_not_federated_invites_only_its_own() {
    let mut table = Table::founded(Version::V12, json!({ "m.federate": false })).unwrap();
    table.append(ANA, &member(ANA, MemberChange::Join));
    let refusal = table.refused(ANA, &member("@far:away", MemberChange::Invite));
    assert!(matches!(refusal, Refusal::Membership(_)));
    table.append(ANA, &member(BEN, MemberChange::Invite));
}

fn wish(version: Version, preset: Preset) -> RoomWish {
    RoomWish {
        creator: user(ANA),
        version,
        preset,
        creation_content: CanonicalJsonObject::new(),
        profile: json(json!({ "displayname": "Ana" })),
        power_levels: json(json!({ "invite": 50 })),
        alias: Some("#bees:hub".try_into().unwrap()),
        initial_state: vec![InitialState {
            kind: "m.room.history_visibility".to_owned(),
            state_key: String::new(),
            content: json(json!({ "history_visibility": "joined" })),
        }],
        name: Some("Bees".to_owned()),
        topic: Some("All about bees".to_owned()),
        invite: vec![user(BEN), user(CAT), user(BEN)],
        is_direct: true,
    }
}

#[test]
fn a_preset_gives_a_whole_room_in_the_order_of_the_specification() {
    for version in Version::ALL {
        for preset in [
            Preset::PrivateChat,
            Preset::TrustedPrivateChat,
            Preset::PublicChat,
        ] {
            let wish = wish(version, preset);
            let founding = founding(&wish, "!first:hub".try_into().unwrap());
            let content = serde_json::to_value(&founding.content).unwrap();
            let mut table = Table::founded(version, content).unwrap();
            for part in initial_parts(&wish) {
                table.append(ANA, &part);
            }
            table.verify();
            let kinds: Vec<_> = table
                .log
                .iter()
                .map(|event| event.fields().kind.trim_start_matches("m.room."))
                .collect();
            assert_eq!(
                kinds,
                [
                    "create",
                    "member",
                    "power_levels",
                    "canonical_alias",
                    "join_rules",
                    "guest_access",
                    "history_visibility",
                    "name",
                    "topic",
                    "member",
                    "member"
                ]
            );
            let levels = table.room.levels().unwrap();
            let trusted = preset == Preset::TrustedPrivateChat;
            let expected = match (trusted, version) {
                (true, Version::V12) => Level::Creator,
                (true, _) => Level::Finite(100),
                (false, _) => Level::Finite(0),
            };
            assert_eq!(levels.of(BEN), expected);
            assert_eq!(levels.of(ANA) == Level::Creator, version == Version::V12);
            let tombstone = if version == Version::V12 { 150 } else { 100 };
            assert_eq!(levels.needed_for("m.room.tombstone", true), tombstone);
            let invite = &table.log.last().unwrap().fields().content;
            assert_eq!(invite["is_direct"].as_bool(), Some(true));
        }
    }
}

#[test]
fn visibility_stands_for_a_preset() {
    assert_eq!(Preset::of_visibility(true), Preset::PublicChat);
    assert_eq!(Preset::of_visibility(false), Preset::PrivateChat);
}

proptest::proptest! {
    /// However many branches a room has, what is appended leaves exactly those that it does not follow,
    /// and after a few more there is one.
    #[test]
    fn what_an_event_does_not_follow_stays_a_tip(count in 1_u8..40, depths in 1_u64..1000) {
        let mut table = Table::busy(Version::V12);
        let tip = |number: u8| (event_id(EventHash([number; 32])), depths + u64::from(number));
        let tips: Vec<_> = (0..count).map(tip).collect();
        table.room.settle(tips.clone(), []);
        let event = table.append(BEN, &message("one"));
        let left = &table.room.heads().tips;
        let mut expected: Vec<_> = tips.into_iter().skip(PREV_EVENTS_MAX).collect();
        expected.push((event.id().clone(), event.fields().depth));
        proptest::prop_assert_eq!(left, &expected);
        proptest::prop_assert!(event.fields().prev.len() <= PREV_EVENTS_MAX);
        table.append(BEN, &message("two"));
        table.append(BEN, &message("three"));
        proptest::prop_assert_eq!(table.room.heads().tips.len(), 1);
    }
}
