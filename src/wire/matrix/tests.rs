use proptest::prelude::*;
use ruma::{
    CanonicalJsonObject, OwnedEventId,
    serde::Base64,
    signatures::{
        PublicKeyMap, Verified, hash_and_sign_event, reference_hash, sign_json, verify_event,
    },
};
use serde_json::{Value, json};

use super::*;
use crate::base::{EventHash, Timestamp};

const VECTORS: &str = include_str!("../../../conformance/vectors/matrix-signing.json");

pub(crate) fn key(name: &str) -> ServerKey {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let seed: Base64 = Base64::parse(vectors["seed"].as_str().unwrap()).unwrap();
    let mut der = hex::decode("302e020100300506032b657004220420").unwrap();
    der.extend(seed.as_bytes());
    ServerKey::from_der(name.try_into().unwrap(), &der, "1").unwrap()
}

fn fields(kind: &str, content: Value) -> PduFields {
    PduFields {
        room_id: "!room:hub".try_into().unwrap(),
        kind: kind.to_owned(),
        sender: "@ana:hub".try_into().unwrap(),
        state_key: None,
        content: serde_json::from_value(content).unwrap(),
        redacts: None,
        at: Timestamp(1_700_000_000_000),
        depth: 3,
        prev: vec![event_id(EventHash([1; 32]))],
        auth: vec![event_id(EventHash([2; 32]))],
    }
}

fn object(pdu: &Pdu) -> serde_json::Map<String, Value> {
    serde_json::from_str(pdu.json()).unwrap()
}

#[test]
fn the_vectors_of_the_specification_come_out() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let key = key("domain");
    assert_eq!(key.id(), "ed25519:1");
    for vector in vectors["json"].as_array().unwrap() {
        let mut object: CanonicalJsonObject =
            serde_json::from_value(vector["given"].clone()).unwrap();
        sign_json("domain", key.pair(), &mut object).unwrap();
        let signed = serde_json::to_value(&object).unwrap();
        assert_eq!(
            signed["signatures"]["domain"]["ed25519:1"],
            vector["signature"]
        );
    }
    for vector in vectors["events"].as_array().unwrap() {
        let mut object: CanonicalJsonObject =
            serde_json::from_value(vector["given"].clone()).unwrap();
        let rules = &Version::V10.rules().redaction;
        hash_and_sign_event("domain", key.pair(), &mut object, rules).unwrap();
        let signed = serde_json::to_value(&object).unwrap();
        assert_eq!(signed["hashes"]["sha256"], vector["sha256"]);
        assert_eq!(
            signed["signatures"]["domain"]["ed25519:1"],
            vector["signature"]
        );
    }
}

#[test]
fn what_is_signed_here_is_verified_by_ruma_and_read_back_the_same() {
    let key = key("hub");
    let public = Base64::new(key.public().to_vec());
    let keys = PublicKeyMap::from([("hub".to_owned(), [(key.id(), public)].into())]);
    for version in Version::ALL {
        let pdu = Pdu::sign(
            fields("m.room.message", json!({ "body": "x" })),
            version,
            &key,
        )
        .unwrap();
        let verified = verify_event(&keys, &pdu.object(), version.rules()).unwrap();
        assert_eq!(verified, Verified::All);
        assert_eq!(Pdu::read(pdu.json(), version).unwrap(), pdu);
        let room = pdu.fields().room_id.clone();
        let stored = Pdu::stored(pdu.hash(), &room, pdu.json().clone(), version).unwrap();
        assert_eq!(stored, pdu);
        assert_eq!(event_hash(pdu.id()), Some(pdu.hash()));
    }
}

/// What a version keeps of a redacted event depends on its type, and some of it has children.
fn sealed() -> impl Strategy<Value = (PduFields, Version)> {
    let kind = prop::sample::select(vec![
        "m.room.message",
        "m.room.member",
        "m.room.create",
        "m.room.join_rules",
        "m.room.power_levels",
        "m.room.history_visibility",
        "m.room.redaction",
        "m.room.aliases",
        "\u{1f600}\"\\\n",
    ]);
    let content = prop::sample::select(vec![
        json!({}),
        json!({ "body": "a \"quoted\" \u{7} \u{e9} \u{1f600} line\n", "b": [1, null, true] }),
        json!({ "membership": "join", "third_party_invite": { "signed": { "token": "t" }, "x": 1 },
            "join_authorised_via_users_server": "@a:b", "displayname": "x" }),
        json!({ "creator": "@a:b", "join_rule": "public", "allow": [], "aliases": [], "ban": 50,
            "invite": 0, "users": { "@a:b": 100 }, "history_visibility": "shared", "zz": {} }),
    ]);
    let version = prop::sample::select(Version::ALL.to_vec());
    let state_key = prop::option::of(".{0,4}");
    (kind, content, version, state_key, 0..3_usize, any::<bool>()).prop_map(
        |(kind, content, version, state_key, many, redacts)| {
            let mut fields = fields(kind, content);
            fields.state_key = state_key;
            fields.prev = vec![event_id(EventHash([7; 32])); many];
            fields.redacts = redacts.then(|| event_id(EventHash([9; 32])));
            (fields, version)
        },
    )
}

proptest! {
    #[test]
    fn hashes_signature_and_bytes_are_those_that_ruma_makes((fields, version) in sealed()) {
        let key = key("hub");
        let pdu = Pdu::sign(fields, version, &key).unwrap();
        let mut object = pdu.object();
        object.remove("hashes");
        object.remove("signatures");
        let rules = version.rules();
        hash_and_sign_event("hub", key.pair(), &mut object, &rules.redaction).unwrap();
        prop_assert_eq!(&*serde_json::to_string(&object).unwrap(), &**pdu.json());
        let id = format!("${}", reference_hash(&object, rules).unwrap());
        prop_assert_eq!(id, pdu.id().as_str());
    }
}

#[test]
fn redaction_keeps_the_id_and_the_signature() {
    let key = key("hub");
    let public = Base64::new(key.public().to_vec());
    let keys = PublicKeyMap::from([("hub".to_owned(), [(key.id(), public)].into())]);
    for version in Version::ALL {
        let content = json!({ "membership": "join", "displayname": "Ana" });
        let mut fields = fields("m.room.member", content);
        fields.state_key = Some("@ana:hub".to_owned());
        let pdu = Pdu::sign(fields, version, &key).unwrap();
        let left = pdu.redacted(version).unwrap();
        assert_eq!(left.id(), pdu.id());
        assert_eq!(Pdu::read(left.json(), version).unwrap(), left);
        assert_eq!(left.fields().content.len(), 1);
        let verified = verify_event(&keys, &left.object(), version.rules()).unwrap();
        assert_eq!(verified, Verified::Signatures);
    }
}

#[test]
fn redacts_stands_where_the_version_wants_it_and_only_in_redactions() {
    let target: OwnedEventId = event_id(EventHash([7; 32]));
    for version in Version::ALL {
        let mut redaction = fields("m.room.redaction", json!({ "reason": "x" }));
        redaction.redacts = Some(target.clone());
        let pdu = Pdu::sign(redaction, version, &key("hub")).unwrap();
        let object = object(&pdu);
        let at_top = object.get("redacts").is_some();
        assert_eq!(at_top, version == Version::V10);
        assert_eq!(
            object["content"].get("redacts").is_some(),
            version != Version::V10
        );
        let read = Pdu::read(pdu.json(), version).unwrap();
        assert_eq!(read.fields().redacts.as_ref(), Some(&target));

        let message = fields("m.room.message", json!({ "redacts": target.as_str() }));
        let pdu = Pdu::sign(message, version, &key("hub")).unwrap();
        let read = Pdu::read(pdu.json(), version).unwrap();
        assert_eq!(read.fields().redacts, None);
    }
}

#[test]
fn a_create_event_of_v12_with_a_room_id_is_refused() {
    for version in Version::ALL {
        let mut create = fields("m.room.create", json!({}));
        create.state_key = Some(String::new());
        let pdu = Pdu::sign(create, version, &key("hub")).unwrap();
        let mut object = object(&pdu);
        let has_room = object.contains_key("room_id");
        assert_eq!(has_room, version != Version::V12);
        object.insert("room_id".to_owned(), json!("!room:hub"));
        let read = Pdu::read(&Value::Object(object).to_string(), version);
        match version {
            Version::V12 => assert!(matches!(read, Err(PduError::CreateWithRoomId))),
            _ => assert_eq!(read.unwrap(), pdu),
        }
    }
}

#[test]
fn what_is_too_large_or_too_many_is_refused_with_its_measure() {
    let version = Version::V12;
    let key = key("hub");
    let large = fields("m.room.message", json!({ "body": "x".repeat(65_200) }));
    let error = Pdu::sign(large, version, &key).unwrap_err();
    assert!(matches!(error, PduError::TooLarge { bytes } if bytes > 65_536));
    let error = Pdu::read(&" ".repeat(65_537), version).unwrap_err();
    assert!(matches!(error, PduError::TooLarge { bytes: 65_537 }));

    let mut many = fields("m.room.message", json!({}));
    many.prev = vec![event_id(EventHash([1; 32])); 21];
    let error = Pdu::sign(many, version, &key).unwrap_err();
    assert!(matches!(
        error,
        PduError::TooMany {
            field: "prev_events",
            count: 21,
            max: 20
        }
    ));
    let mut many = fields("m.room.message", json!({}));
    many.auth = vec![event_id(EventHash([1; 32])); 11];
    let error = Pdu::sign(many, version, &key).unwrap_err();
    assert!(matches!(
        error,
        PduError::TooMany {
            field: "auth_events",
            count: 11,
            max: 10
        }
    ));

    let mut long = fields("m.room.message", json!({}));
    long.state_key = Some("k".repeat(256));
    let error = Pdu::sign(long, version, &key).unwrap_err();
    assert!(matches!(
        error,
        PduError::FieldTooLong {
            field: "state_key",
            bytes: 256
        }
    ));
}

#[test]
fn a_number_out_of_range_is_cut_and_never_wraps() {
    let mut odd = fields("m.room.message", json!({}));
    odd.depth = u64::MAX;
    odd.at = Timestamp(u64::MAX);
    let pdu = Pdu::sign(odd, Version::V12, &key("hub")).unwrap();
    assert_eq!(object(&pdu)["depth"], json!(DEPTH_MAX));
    assert_eq!(object(&pdu)["origin_server_ts"], json!(DEPTH_MAX));
    let read = Pdu::read(pdu.json(), Version::V12).unwrap();
    assert_eq!(read, pdu);
}

#[test]
fn bytes_that_are_not_canonical_are_kept_and_numbers_outside_it_refused() {
    let version = Version::V12;
    let pdu = Pdu::sign(
        fields("m.room.message", json!({ "body": "é" })),
        version,
        &key("hub"),
    )
    .unwrap();
    let spaced = pdu.json().replace("\":", "\": ").replace('é', "\\u00e9");
    let read = Pdu::read(&spaced, version).unwrap();
    assert_eq!((read.id(), &**read.json()), (pdu.id(), spaced.as_str()));
    for (from, to) in [
        ("\"depth\":3", "\"depth\":3.0"),
        ("\"depth\":3", "\"depth\":9007199254740992"),
        ("\"depth\":3", "\"depth\":1e400"),
        ("\"depth\":3", "\"depth\":-1"),
        ("\"depth\":3", "\"depth\":\"3\""),
        ("\"é\"", "\"\\ud800\""),
        ("\"é\"", "1.5"),
        ("@ana:hub", "ana"),
        ("\"content\":{\"body\":\"é\"}", "\"content\":[]"),
        ("\"prev_events\":[", "\"prev_events\":[7,"),
    ] {
        let bad = pdu.json().replace(from, to);
        assert_ne!(bad, **pdu.json());
        assert!(Pdu::read(&bad, version).is_err(), "{bad}");
    }
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    assert!(Pdu::read(&pdu.json().replace("\"é\"", &deep), version).is_err());
}

#[test]
fn a_version_is_one_of_three_words() {
    for version in Version::ALL {
        assert_eq!(version.as_str().parse(), Ok(version));
        assert_eq!(version.to_string(), version.id().as_str());
    }
    for other in ["9", "13", "012", "12 ", ""] {
        assert_eq!(
            other.parse::<Version>(),
            Err(version::UnknownVersion(other.to_owned()))
        );
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(json!("@ana:hub")),
        Just(json!("!room:hub")),
        Just(json!([])),
        Just(json!({})),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn reading_never_panics(text in "\\PC{0,200}") {
        for version in Version::ALL {
            let _ = Pdu::read(&text, version);
        }
    }

    #[test]
    fn an_event_with_anything_in_any_place_is_read_or_refused(
        field in prop::sample::select(vec![
            "type", "sender", "content", "room_id", "state_key", "prev_events", "auth_events",
            "depth", "origin_server_ts", "redacts", "hashes", "signatures", "unsigned", "other",
        ]),
        value in any_value(),
        version in prop::sample::select(Version::ALL.to_vec()),
    ) {
        let pdu = Pdu::sign(fields("m.room.message", json!({})), version, &key("hub")).unwrap();
        let mut object = object(&pdu);
        object.insert(field.to_owned(), value);
        if let Ok(read) = Pdu::read(&Value::Object(object).to_string(), version) {
            prop_assert_eq!(Pdu::read(read.json(), version).unwrap(), read.clone());
            if let Ok(left) = read.redacted(version) {
                prop_assert_eq!(left.id(), read.id());
            }
        }
    }

    #[test]
    fn signing_and_reading_back_is_the_same(
        content in prop::collection::btree_map("\\PC{0,12}", "\\PC{0,40}", 0..6),
        state_key in prop::option::of("\\PC{0,30}"),
        kind in "\\PC{0,40}",
        version in prop::sample::select(Version::ALL.to_vec()),
    ) {
        let mut fields = fields(&kind, json!(content));
        fields.state_key = state_key;
        if let Ok(pdu) = Pdu::sign(fields, version, &key("hub")) {
            prop_assert_eq!(Pdu::read(pdu.json(), version).unwrap(), pdu);
        }
    }
}

#[test]
fn an_event_is_intact_until_a_byte_of_what_it_says_changes() {
    for version in [Version::V10, Version::V11, Version::V12] {
        let content = json!({ "body": "Meet me at the station", "msgtype": "m.text" });
        let pdu = Pdu::sign(fields("m.room.message", content), version, &key("hub")).unwrap();
        let (json, hash) = (pdu.json(), pdu.hash());
        let changed = |from: &str, to: &str| {
            assert!(json.contains(from));
            check_intact(&json.replace(from, to), hash, version)
        };

        check_intact(json, hash, version).unwrap();
        // What servers add beside an event is nobody's claim.
        changed("\"depth\"", "\"unsigned\":{\"age\":1},\"depth\"").unwrap();
        let content = changed("station", "stadium");
        assert!(
            matches!(content, Err(NotIntact::Content { .. })),
            "{content:?}"
        );
        for (from, to) in [
            ("@ana", "@eve"),
            ("\"depth\":3", "\"depth\":4"),
            ("m.text", "m.text\",\"sha256\":\"x"),
        ] {
            assert!(changed(from, to).is_err(), "{from}");
        }
        assert!(matches!(changed("{", ""), Err(NotIntact::Form(_))));
        let other = check_intact(json, EventHash([9; 32]), version);
        assert!(matches!(other, Err(NotIntact::Id { .. })));
    }
}

#[test]
fn a_redacted_event_is_intact_and_what_is_put_into_it_is_not() {
    let content = json!({ "membership": "join", "displayname": "Ana" });
    let mut joining = fields("m.room.member", content);
    joining.state_key = Some("@ana:hub".to_owned());
    let pdu = Pdu::sign(joining, Version::V11, &key("hub")).unwrap();
    let redacted = pdu.redacted_json(Version::V11).unwrap();

    check_intact(&redacted, pdu.hash(), Version::V11).unwrap();

    let filled = redacted.replace("\"membership\"", "\"displayname\":\"Eve\",\"membership\"");
    assert_ne!(filled, redacted);
    let filled = check_intact(&filled, pdu.hash(), Version::V11);
    assert!(matches!(filled, Err(NotIntact::Content { .. })));
    let cut = redacted.replace("join", "leave");
    let cut = check_intact(&cut, pdu.hash(), Version::V11);
    assert!(matches!(cut, Err(NotIntact::Id { .. })));
}
