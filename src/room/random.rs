//! Whatever a client writes: no panic, and nothing that the rules forbid. Also how long it takes.

use std::sync::Arc;

use proptest::prelude::*;
use ruma::CanonicalJsonObject;

use super::{testing::*, *};
use crate::{
    base::Timestamp,
    wire::matrix::{Pdu, Version},
};

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let user = prop::sample::select(vec![ANA, BEN, CAT, "@far:away", "nobody", ""]);
    let word = prop::sample::select(vec![
        "join",
        "leave",
        "ban",
        "invite",
        "knock",
        "public",
        "restricted",
        "50",
        "$x",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (-200_i64..200).prop_map(Into::into),
        user.clone().prop_map(Into::into),
        word.prop_map(Into::into),
    ];
    let key = prop_oneof![
        user.prop_map(ToOwned::to_owned),
        prop::sample::select(vec![
            "membership",
            "users",
            "events",
            "ban",
            "redacts",
            "third_party_invite",
            "signed",
            "token",
            "mxid",
            "join_rule",
            "join_authorised_via_users_server",
            "notifications",
        ])
        .prop_map(ToOwned::to_owned),
    ];
    leaf.prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
            prop::collection::btree_map(key.clone(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_part() -> impl Strategy<Value = Part> {
    let kind = prop::sample::select(vec![
        "m.room.message",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.redaction",
        "m.room.create",
        "m.room.third_party_invite",
        "m.room.topic",
        "",
    ]);
    let key = prop::option::of(prop::sample::select(vec!["", ANA, BEN, "@", "x"]));
    (kind, key, any_json()).prop_map(|(kind, key, content)| {
        let mut content: CanonicalJsonObject = serde_json::from_value(content).unwrap_or_default();
        if kind != "m.room.member" {
            // ruma's `verify_event` asks for that server's signature whatever the type is.
            content.remove("join_authorised_via_users_server");
        }
        Part::Event {
            kind: kind.to_owned(),
            state_key: key.map(ToOwned::to_owned),
            content,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a client writes is taken or refused; and what is taken, the rules allow.
    #[test]
    fn nothing_a_client_writes_panics_or_passes_by_the_rules(
        parts in prop::collection::vec((0..3_usize, any_part()), 1..6),
        version in prop::sample::select(Version::ALL.to_vec()),
    ) {
        let mut table = Table::busy(version);
        for (sender, part) in parts {
            let before = table.stored.clone();
            let taken = table.take([ANA, BEN, CAT][sender], &part);
            if let Ok([Effect::Append(event), ..]) = taken.as_deref() {
                let state = |kind: &str, key: &str| before.get(&StateKey::new(kind, key)).cloned();
                prop_assert_eq!(check_auth(event.fields(), version, &state), Ok(()));
                let read = Pdu::read(event.json(), version).unwrap();
                prop_assert_eq!(&read, &**event);
            }
        }
        table.verify();
    }
}

/// Not a promise but a number to look at: `cargo test --release --lib speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, of use in release only"]
#[expect(
    clippy::disallowed_methods,
    reason = "it measures; no rule depends on it"
)]
fn the_speed_of_one_plain_message() {
    let mut table = Table::busy(Version::V12);
    let part = message("twenty-two characters.");
    table.append(BEN, &part);
    let sender = user(BEN);
    let evidence = Evidence {
        now: Timestamp(1),
        key: &table.key,
        target: None,
    };
    let rounds = 20_000_u32;
    let time = |what: &str, mut one: Box<dyn FnMut() + '_>| {
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            one();
        }
        println!("{what}: {:?}", start.elapsed() / rounds);
    };
    let room = &table.room;
    let state = |kind: &str, key: &str| room.state(kind, key).cloned();
    let event = Arc::clone(table.log.last().unwrap());
    for _ in 0..rounds {
        assert!(room.decide(&sender, &part, &evidence).is_ok()); // warm
    }
    time(
        "needs",
        Box::new(|| assert!(room.needs(&sender, &part).state.is_empty())),
    );
    time(
        "decide",
        Box::new(|| assert!(room.decide(&sender, &part, &evidence).is_ok())),
    );
    time(
        "  check_auth",
        Box::new(|| assert!(check_auth(event.fields(), Version::V12, &state).is_ok())),
    );
    time(
        "  Pdu::sign",
        Box::new(|| assert!(Pdu::sign(event.fields().clone(), Version::V12, evidence.key).is_ok())),
    );
    time(
        "    one signature",
        Box::new(|| {
            use ruma::signatures::KeyPair;
            let _ = evidence.key.pair().sign(event.json().as_bytes());
        }),
    );
    time(
        "Pdu::stored",
        Box::new(|| {
            assert!(
                Pdu::stored(
                    event.hash(),
                    room.id(),
                    Arc::clone(event.json()),
                    Version::V12
                )
                .is_ok()
            );
        }),
    );
}
