//! The clauses that random histories reach seldom or not at all, and where the text and ruma part.

use ruma::{CanonicalJsonObject, OwnedEventId, signatures::sign_json};
use serde_json::{Value, json};

use super::{super::testing::*, *};
use crate::{
    base::{EventHash, Timestamp},
    room::{MemberChange, StateKey},
    wire::matrix::event_id,
};

fn fields(table: &Table, sender: &str, kind: &str, key: Option<&str>, content: Value) -> PduFields {
    PduFields {
        room_id: table.room.id().clone(),
        kind: kind.to_owned(),
        sender: user(sender),
        state_key: key.map(ToOwned::to_owned),
        content: json(content),
        redacts: None,
        at: Timestamp(1),
        depth: 9,
        prev: vec![event_id(EventHash([3; 32]))],
        auth: Vec::new(),
    }
}

fn check(table: &Table, fields: &PduFields) -> Result<(), &'static str> {
    let state = |kind: &str, key: &str| table.stored.get(&StateKey::new(kind, key)).cloned();
    check_auth(fields, table.room.version(), &state).map_err(|clause| clause.clause)
}

fn v12_else(version: Version, v12: &'static str, old: &'static str) -> Result<(), &'static str> {
    Err(if version == Version::V12 { v12 } else { old })
}

#[test]
fn a_create_event_is_checked_against_itself() {
    for version in Version::ALL {
        let table = Table::joined(version);
        let create = |content: Value| {
            let mut fields = fields(&table, ANA, "m.room.create", Some(""), content);
            fields.room_id = "!first:hub".try_into().unwrap();
            fields.prev.clear();
            fields
        };
        let good = create(json!({ "creator": null, "room_version": version.as_str() }));
        // The text asks for the property, not for its type; ruma takes null for absent.
        assert_eq!(check(&table, &good), Ok(()));
        let mut late = good.clone();
        late.prev = vec![event_id(EventHash([1; 32]))];
        assert_eq!(check(&table, &late), Err("1.1"));
        let mut elsewhere = good.clone();
        elsewhere.room_id = "!first:away".try_into().unwrap();
        let expected = if version == Version::V12 {
            Ok(())
        } else {
            Err("1.2")
        };
        assert_eq!(check(&table, &elsewhere), expected);
        for named in [json!("99"), json!(12), json!(null)] {
            let odd = create(json!({ "creator": ANA, "room_version": named }));
            assert_eq!(check(&table, &odd), Err("1.3"));
        }
        let expected = if version == Version::V10 {
            Err("1.4")
        } else {
            Ok(())
        };
        assert_eq!(check(&table, &create(json!({}))), expected);
        let creators = create(json!({ "creator": ANA, "additional_creators": [BEN, "ben"] }));
        let expected = if version == Version::V12 {
            Err("1.4")
        } else {
            Ok(())
        };
        assert_eq!(check(&table, &creators), expected);
    }
}

#[test]
fn the_room_id_says_which_create_event_counts() {
    for version in Version::ALL {
        let table = Table::busy(version);
        let mut other = fields(&table, BEN, "m.room.message", None, json!({}));
        assert_eq!(check(&table, &other), Ok(()));
        other.room_id = "!other:hub".try_into().unwrap();
        assert_eq!(check(&table, &other), v12_else(version, "2", "2.5"));
        let nowhere = check_auth(&other, version, &|_, _| None).unwrap_err();
        assert_eq!(Err(nowhere.clause), v12_else(version, "2", "2.4"));
    }
}

#[test]
fn the_list_of_auth_events_is_checked_entry_by_entry() {
    for version in Version::ALL {
        let table = Table::busy(version);
        let event = fields(&table, BEN, "m.room.message", None, json!({}));
        let entry = |event: &Arc<Pdu>| AuthEntry {
            event: Arc::clone(event),
            rejected: false,
        };
        let good: Vec<_> = auth_state_keys(&event, version)
            .iter()
            .map(|key| entry(&table.stored[key]))
            .collect();
        let create = entry(&table.log[0]);
        let check = |entries: &[AuthEntry]| {
            check_auth_events(&event, version, entries, Some(&create))
                .map_err(|clause| clause.clause)
        };
        assert_eq!(check(&good), Ok(()));

        let with = |extra: AuthEntry| [good.clone(), vec![extra]].concat();
        let twice = with(good.last().unwrap().clone());
        assert_eq!(check(&twice), v12_else(version, "3.1", "2.1"));
        let cat = StateKey::member(&user(CAT));
        let useless = with(entry(&table.stored[&cat]));
        assert_eq!(check(&useless), v12_else(version, "3.2", "2.2"));
        let mut rejected = good.clone();
        rejected.last_mut().unwrap().rejected = true;
        assert_eq!(check(&rejected), v12_else(version, "3.3", "2.3"));

        let mut moved = event.clone();
        moved.room_id = "!other:hub".try_into().unwrap();
        let elsewhere = check_auth_events(&moved, version, &good, Some(&create));
        assert_eq!(
            elsewhere.map_err(|clause| clause.clause),
            v12_else(version, "2", "2.5")
        );
        if version == Version::V12 {
            assert_eq!(check(&with(create.clone())), Err("3.2"));
            let without = check_auth_events(&event, version, &good, None);
            assert_eq!(without.unwrap_err().clause, "2");
        } else {
            assert_eq!(check(&good[1..]), Err("2.4"));
        }
    }
}

#[test]
fn only_false_keeps_other_servers_out() {
    for version in Version::ALL {
        for (federate, expected) in [
            (json!(false), v12_else(version, "4", "3")),
            (json!(true), Ok(())),
        ] {
            let mut table = Table::founded(version, json!({ "m.federate": federate })).unwrap();
            table.append(ANA, &member(ANA, MemberChange::Join));
            table.append(
                ANA,
                &state("m.room.join_rules", json!({ "join_rule": "public" })),
            );
            let join = json!({ "membership": "join" });
            let join = fields(
                &table,
                "@far:away",
                "m.room.member",
                Some("@far:away"),
                join,
            );
            assert_eq!(check(&table, &join), expected);
        }
    }
}

#[test]
fn a_membership_event_names_a_user_and_a_membership() {
    for version in Version::ALL {
        let table = Table::busy(version);
        let expected = v12_else(version, "5.1", "4.1");
        let event = |key, content| fields(&table, ANA, "m.room.member", key, content);
        let ban = json!({ "membership": "ban" });
        assert_eq!(check(&table, &event(None, ban.clone())), expected);
        assert_eq!(check(&table, &event(Some("ben"), ban)), expected);
        assert_eq!(check(&table, &event(Some(BEN), json!({}))), expected);
        let owner = event(Some(BEN), json!({ "membership": "owner" }));
        assert_eq!(check(&table, &owner), v12_else(version, "5.8", "4.8"));
        let odd = json!({ "membership": "ban", "join_authorised_via_users_server": null });
        let odd = event(Some(BEN), odd);
        assert_eq!(check(&table, &odd), v12_else(version, "5.2.1", "4.2.1"));
    }
}

#[test]
fn nobody_joins_a_room_without_join_rules_but_its_creator() {
    for version in Version::ALL {
        let mut table = Table::founded(version, json!({})).unwrap();
        let refusal = table.refused(BEN, &member(BEN, MemberChange::Join));
        assert!(
            refusal.to_string().contains("join rule is \"\""),
            "{refusal}"
        );
        table.append(ANA, &member(ANA, MemberChange::Join));
        table.append(ANA, &member(BEN, MemberChange::Invite));
        let join = json!({ "membership": "join" });
        let join = fields(&table, BEN, "m.room.member", Some(BEN), join);
        assert_eq!(check(&table, &join), v12_else(version, "5.3.7", "4.3.7"));
    }
}

#[test]
fn a_restricted_room_lets_in_whom_an_inviter_vouches_for() {
    for version in Version::ALL {
        let mut table = Table::busy(version);
        let levels = json!({ "users": { BEN: 50 }, "invite": 50 });
        let mut levels = levels.as_object().unwrap().clone();
        if version != Version::V12 {
            levels["users"][ANA] = json!(100);
        }
        table.append(ANA, &state("m.room.power_levels", Value::Object(levels)));
        table.append(
            ANA,
            &state("m.room.join_rules", json!({ "join_rule": "restricted" })),
        );
        let join = |by: Option<&str>| {
            let mut content = json!({ "membership": "join" });
            if let Some(by) = by {
                content["join_authorised_via_users_server"] = json!(by);
            }
            fields(
                &table,
                "@far:away",
                "m.room.member",
                Some("@far:away"),
                content,
            )
        };
        let refused = v12_else(version, "5.3.5.2", "4.3.5.2");
        assert_eq!(check(&table, &join(Some(BEN))), Ok(()));
        assert_eq!(check(&table, &join(Some(CAT))), refused);
        assert_eq!(check(&table, &join(Some("@dan:hub"))), refused);
        assert_eq!(check(&table, &join(None)), refused);
        let keys = auth_state_keys(&join(Some(BEN)), version);
        assert!(keys.contains(&StateKey::member(&user(BEN))));
    }
}

fn signed(mxid: &str, by: &str) -> CanonicalJsonObject {
    let mut object = json(json!({ "mxid": mxid, "token": "t" }));
    sign_json(by, key(by).pair(), &mut object).unwrap();
    object
}

#[test]
fn a_third_party_invite_needs_a_signature_by_a_key_it_names() {
    for version in Version::ALL {
        let mut table = Table::busy(version);
        let public = ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(
            table.key.public().to_vec(),
        )
        .encode();
        let invite = third_party_invite(&public);
        table.append(ANA, &invite);
        let event = |invite: Value| {
            let content = json!({ "membership": "invite", "third_party_invite": invite });
            fields(&table, ANA, "m.room.member", Some("@dan:hub"), content)
        };
        let good = signed("@dan:hub", "id.example");
        let clause = |v12, old| v12_else(version, v12, old);
        assert_eq!(check(&table, &event(json!({ "signed": good }))), Ok(()));
        for (invite, expected) in [
            (json!(null), clause("5.4.1.2", "4.4.1.2")),
            (json!({}), clause("5.4.1.2", "4.4.1.2")),
            (json!({ "signed": {} }), clause("5.4.1.3", "4.4.1.3")),
            (
                json!({ "signed": signed("@eve:hub", "id.example") }),
                clause("5.4.1.4", "4.4.1.4"),
            ),
            (
                json!({ "signed": { "mxid": "@dan:hub", "token": "u" } }),
                clause("5.4.1.5", "4.4.1.5"),
            ),
            (
                json!({ "signed": { "mxid": "@dan:hub", "token": "t", "signatures": {
                    "id.example": { "ed25519:1": "AAAA" },
                } } }),
                clause("5.4.1.8", "4.4.1.8"),
            ),
        ] {
            assert_eq!(check(&table, &event(invite)), expected);
        }
        let mut other = event(json!({ "signed": good }));
        other.sender = user(BEN);
        assert_eq!(check(&table, &other), clause("5.4.1.6", "4.4.1.6"));
    }
}

#[test]
fn hundreds_of_signatures_and_keys_cost_no_more_than_the_ceiling() {
    let mut table = Table::busy(Version::V12);
    let keys: Vec<_> = (0..300_u16)
        .map(|n| json!({ "public_key": format!("{n:043}") }))
        .collect();
    let invite = crate::room::Part::Event {
        kind: "m.room.third_party_invite".to_owned(),
        state_key: Some("t".to_owned()),
        content: json(json!({ "public_keys": keys })),
    };
    table.append(ANA, &invite);
    let signature = "A".repeat(86);
    let signatures: serde_json::Map<_, _> = (0..300_u16)
        .map(|n| (format!("ed25519:{n}"), json!(signature)))
        .collect();
    let content = json!({ "membership": "invite", "third_party_invite": { "signed": {
        "mxid": "@dan:hub", "token": "t", "signatures": { "id.example": signatures },
    } } });
    let event = fields(&table, ANA, "m.room.member", Some("@dan:hub"), content);
    assert_eq!(check(&table, &event), Err("5.4.1.8"));
}

fn third_party_invite(public: &str) -> crate::room::Part {
    crate::room::Part::Event {
        kind: "m.room.third_party_invite".to_owned(),
        state_key: Some("t".to_owned()),
        content: json(json!({ "public_keys": [{ "public_key": "%" }, { "public_key": public }] })),
    }
}

#[test]
fn who_lacks_the_power_is_told_for_which_type() {
    let mut table = Table::joined(Version::V12);
    table.append(
        ANA,
        &state("m.room.join_rules", json!({ "join_rule": "public" })),
    );
    table.append(BEN, &member(BEN, MemberChange::Join));

    let refusal = table.refused(BEN, &state("m.room.topic", json!({ "topic": "x" })));

    let said = refusal.to_string();
    assert!(said.contains("to send `m.room.topic` needs"), "{said}");
}

#[test]
fn power_levels_are_integers_and_stay_within_reach() {
    for version in Version::ALL {
        let mut table = Table::joined(version);
        let mut users = json!({ BEN: 60, CAT: 60 });
        if version != Version::V12 {
            users[ANA] = json!(100);
        }
        let first = json!({ "users": users, "events": { "m.room.power_levels": 50, "high": 70 } });
        table.append(ANA, &state("m.room.power_levels", first.clone()));
        table.append(
            ANA,
            &state("m.room.join_rules", json!({ "join_rule": "public" })),
        );
        table.append(BEN, &member(BEN, MemberChange::Join));
        let with = |name: &str, value: Value| {
            let mut content = first.clone();
            content[name] = value;
            fields(&table, BEN, "m.room.power_levels", Some(""), content)
        };
        let users_with = |user: &str, level: Option<i64>| {
            let mut users = users.clone();
            match level {
                Some(level) => users[user] = json!(level),
                None => drop(users.as_object_mut().unwrap().remove(user)),
            }
            with("users", users)
        };
        let clause = |v12, old| v12_else(version, v12, old);
        for (event, expected) in [
            (with("ban", json!("50")), clause("10.1", "9.1")),
            (with("ban", json!(null)), clause("10.1", "9.1")),
            (with("events", json!([])), clause("10.2", "9.2")),
            (
                with("notifications", json!({ "room": "50" })),
                clause("10.2", "9.2"),
            ),
            (with("users", json!({ "ben": 1 })), clause("10.3", "9.3")),
            (with("users", json!(null)), clause("10.3", "9.3")),
            (with("invite", json!(61)), clause("10.6.2", "9.5.2")),
            (with("invite", json!(60)), Ok(())),
            (with("events", json!({})), clause("10.7.1", "9.6.1")),
            (
                with("notifications", json!({ "room": 61 })),
                clause("10.8.1", "9.7.1"),
            ),
            (users_with(CAT, Some(0)), clause("10.9.1", "9.8.1")),
            (users_with(CAT, None), clause("10.9.1", "9.8.1")),
            (users_with("@dan:hub", Some(61)), clause("10.10.1", "9.9.1")),
            (users_with(BEN, Some(0)), Ok(())),
            (users_with(BEN, None), Ok(())),
            (users_with("@dan:hub", Some(60)), Ok(())),
        ] {
            assert_eq!(check(&table, &event), expected, "{version} {event:#?}");
        }
    }
}

#[test]
fn a_level_that_is_not_written_counts_as_its_default() {
    // Synapse would let Ben do this: it compares only levels that are written.
    let mut table = Table::joined(Version::V11);
    let first = json!({ "users": { ANA: 100, BEN: 30 }, "events": { "m.room.power_levels": 30 } });
    table.append(ANA, &state("m.room.power_levels", first.clone()));
    table.append(
        ANA,
        &state("m.room.join_rules", json!({ "join_rule": "public" })),
    );
    table.append(BEN, &member(BEN, MemberChange::Join));
    let mut content = first;
    content["ban"] = json!(20);
    let event = fields(&table, BEN, "m.room.power_levels", Some(""), content);
    assert_eq!(check(&table, &event), Err("9.5.1"));
}

#[test]
fn the_selection_is_in_the_order_of_the_text_and_names_nothing_twice() {
    for version in Version::ALL {
        let table = Table::busy(version);
        let token = json!({ "signed": { "token": "t" } });
        let content = json!({ "membership": "invite", "third_party_invite": token });
        let invite = fields(&table, ANA, "m.room.member", Some(BEN), content);
        let keys: Vec<_> = auth_state_keys(&invite, version)
            .into_iter()
            .map(|key| (key.kind, key.key))
            .collect();
        let mut expected = vec![
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.member", ANA),
            ("m.room.member", BEN),
            ("m.room.join_rules", ""),
            ("m.room.third_party_invite", "t"),
        ];
        if version == Version::V12 {
            expected.remove(0);
        }
        let keys: Vec<_> = keys
            .iter()
            .map(|(kind, key)| (kind.as_str(), key.as_str()))
            .collect();
        assert_eq!(keys, expected);
        let leave = json!({ "membership": "leave" });
        let leave = fields(&table, ANA, "m.room.member", Some(ANA), leave);
        let few = if version == Version::V12 { 2 } else { 3 };
        assert_eq!(auth_state_keys(&leave, version).len(), few);
        let create = fields(&table, ANA, "m.room.create", Some(""), json!({}));
        assert_eq!(auth_state_keys(&create, version), []);
    }
}

#[test]
fn the_creator_may_join_right_after_the_create_event_and_only_then() {
    for version in Version::ALL {
        let table = Table::founded(version, json!({})).unwrap();
        let join = json!({ "membership": "join" });
        let mut event = fields(&table, ANA, "m.room.member", Some(ANA), join);
        let create: OwnedEventId = table.log[0].id().clone();
        event.prev = vec![create.clone()];
        assert_eq!(check(&table, &event), Ok(()));
        event.prev = vec![create.clone(), create];
        assert_eq!(check(&table, &event), v12_else(version, "5.3.7", "4.3.7"));
    }
}

#[test]
fn a_refusal_quotes_no_more_than_a_few_lines() {
    let table = Table::busy(Version::V12);
    let long = json!({ "ban": "é".repeat(30_000) });
    let event = fields(&table, ANA, "m.room.power_levels", Some(""), long);
    let state = |kind: &str, key: &str| table.stored.get(&StateKey::new(kind, key)).cloned();
    let clause = check_auth(&event, Version::V12, &state).unwrap_err();
    assert_eq!(clause.clause, "10.1");
    assert_eq!(clause.rule.chars().count(), 401);
}
