//! The profile against the MSC's vector, RFC 8949's own examples and hostile bytes.

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::{base::limits::NESTING_MAX, wire::Fault};

#[derive(Deserialize)]
struct Vector {
    json: Value,
    cbor_hex: String,
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex.replace(' ', "")).unwrap()
}

fn value(hex: &str) -> Value {
    decode(&bytes(hex)).unwrap().value
}

fn error(hex: &str) -> DecodeError {
    decode(&bytes(hex)).unwrap_err()
}

#[test]
fn the_vector_of_msc3079_reads_and_writes() {
    let text = include_str!("../../../conformance/vectors/msc3079/body.json");
    let vector: Vector = serde_json::from_str(text).unwrap();
    let cbor = bytes(&vector.cbor_hex);
    assert_eq!(cbor.len(), 102);

    let body = decode(&cbor).unwrap();

    assert_eq!(
        body,
        Body {
            value: vector.json.clone(),
            keys: KeyForm::Integer
        }
    );
    assert_eq!(encode(&vector.json, KeyForm::Integer), cbor);
}

/// RFC 8949, appendix A: those whose encoding is deterministic, both ways.
#[test]
fn the_examples_of_rfc8949_that_json_can_hold_read_and_write() {
    let both_ways = [
        ("00", json!(0)),
        ("17", json!(23)),
        ("1818", json!(24)),
        ("1903e8", json!(1000)),
        ("1a000f4240", json!(1_000_000)),
        ("1b000000e8d4a51000", json!(1_000_000_000_000_u64)),
        ("1bffffffffffffffff", json!(u64::MAX)),
        ("20", json!(-1)),
        ("3863", json!(-100)),
        ("3903e7", json!(-1000)),
        ("3b7fffffffffffffff", json!(i64::MIN)),
        ("f90000", json!(0.0)),
        ("f93c00", json!(1.0)),
        ("fb3ff199999999999a", json!(1.1)),
        ("f97bff", json!(65504.0)),
        ("fa47c35000", json!(100_000.0)),
        ("fb7e37e43c8800759c", json!(1.0e300)),
        ("f90001", json!(5.960_464_477_539_063e-8)),
        ("f9c400", json!(-4.0)),
        ("f4", json!(false)),
        ("f5", json!(true)),
        ("f6", json!(null)),
        ("60", json!("")),
        ("62225c", json!("\"\\")),
        ("63e6b0b4", json!("水")),
        ("64f0908591", json!("\u{10151}")),
        ("80", json!([])),
        ("8301820203820405", json!([1, [2, 3], [4, 5]])),
        ("a0", json!({})),
        ("a26161016162820203", json!({"a": 1, "b": [2, 3]})),
        ("826161a161626163", json!(["a", {"b": "c"}])),
    ];
    for (hex, wanted) in both_ways {
        assert_eq!(value(hex), wanted, "{hex}");
        assert_eq!(hex::encode(encode(&wanted, KeyForm::Text)), hex);
    }
}

#[test]
fn indefinite_lengths_and_longer_heads_than_needed_are_read() {
    for (hex, wanted) in [
        ("7f657374726561646d696e67ff", json!("streaming")),
        ("7fff", json!("")),
        ("9fff", json!([])),
        ("9f018202039f0405ffff", json!([1, [2, 3], [4, 5]])),
        ("bf61610161629f0203ffff", json!({"a": 1, "b": [2, 3]})),
        ("bf6346756ef563416d7421ff", json!({"Fun": true, "Amt": -2})),
        ("1b0000000000000001", json!(1)),
        ("9b00000000000000011800", json!([0])),
        ("b90001 1802 7a00000001 61", json!({"type": "a"})),
        ("fb3ff0000000000000", json!(1.0)),
    ] {
        assert_eq!(value(hex), wanted, "{hex}");
    }
}

/// RFC 8949, appendix F: bytes that are not CBOR, but for byte strings and tags.
#[test]
fn the_ill_formed_examples_of_rfc8949_are_refused() {
    let truncated = "18,19,1a,1b,1901,1a0102,1b01020304050607,38,58,78,98,9a01ff00,b8,d8,f8,f900,\
                     fa0000,fb000000,61,7affffffff00,7b7fffffffffffffff010203,81,\
                     818181818181818181,8200,a1,a2027801,a100,7f6100,9f,9f0102,bf,819f,9f8000,\
                     9f9f9f9f9fffffffff,9f819f819f9fffffff,9affffffff,9bffffffffffffffff,\
                     baffffffff,bbffffffffffffffff,7bffffffffffffffff,";
    for hex in truncated.split(',') {
        let code = error(hex).code();
        let known_first = ["truncated", "unknown_integer_key"];
        assert!(known_first.contains(&code), "{hex}: {code}");
    }
    let ill_formed = "1c,1d,1e,3c,3d,3e,5c,5d,5e,7c,7d,7e,9c,9d,9e,bc,bd,be,dc,dd,de,fc,fd,fe,\
                      f800,f801,f814,f818,f81f,7f4100ff,7f7f6100ffff,7f00ff,ff,81ff,8200ff,a1ff,\
                      a1ff00,a101ff,9f81ff,9f829f819f9fffffffff,bf01ff,1f,3f,df";
    for hex in ill_formed.split(',') {
        assert_eq!(error(hex).code(), "not_cbor", "{hex}");
    }
}

#[test]
fn what_json_has_no_word_for_is_refused() {
    for hex in [
        "f7",
        "f0",
        "f8ff",
        "40",
        "4401020304",
        "5f42010243030405ff",
        "f97c00",
        "f97e00",
    ] {
        assert_eq!(error(hex).code(), "not_in_json", "{hex}");
    }
    for hex in ["fa7f800000", "fbfff0000000000000", "fb7ff8000000000000"] {
        assert_eq!(error(hex).code(), "not_in_json", "{hex}");
    }
    assert_eq!(error("a1034101").path(), "content");
}

#[test]
fn no_tag_is_understood_but_the_one_that_says_this_is_cbor() {
    for (hex, number) in [
        ("c11a514b67b0", 1),
        ("c249010000000000000000", 2),
        ("d650", 22),
    ] {
        assert_eq!(error(hex).fault, Fault::Tag { number });
    }
    assert_eq!(value("d9d9f7 a10161 78"), json!({"event_id": "x"}));
    assert_eq!(error("81 d9d9f7 00").fault, Fault::Tag { number: 55799 });
}

#[test]
fn a_key_in_text_stays_what_it_is_even_when_it_looks_like_a_number() {
    let body = decode(&bytes("a1 6138 01")).unwrap();

    assert_eq!(
        body,
        Body {
            value: json!({"8": 1}),
            keys: KeyForm::Text
        }
    );
    assert_eq!(encode(&body.value, KeyForm::Integer), bytes("a1 6138 01"));
}

#[test]
fn of_a_key_in_both_forms_the_text_wins_whichever_came_first() {
    let integer_first = "a2 02 6161 6474797065 6162";
    let text_first = "a2 6474797065 6162 02 6161";

    assert_eq!(value(integer_first), json!({"type": "b"}));
    assert_eq!(value(text_first), json!({"type": "b"}));
}

#[test]
fn a_key_twice_in_one_form_is_refused() {
    for (hex, offset) in [
        ("a2 02 00 02 01", 3),
        ("a2 02 00 1802 01", 3),
        ("a2 6161 00 6161 01", 4),
        ("a2 6474797065 00 6474797065 01", 7),
        ("bf 02 00 6474797065 00 02 00 ff", 9),
        ("a3 6474797065 00 02 00 6474797065 01", 9),
    ] {
        let error = error(hex);
        assert_eq!(
            (error.code(), error.offset),
            ("duplicate_key", offset),
            "{hex}"
        );
    }
    assert_eq!(error("a1 03 a2 02 00 02 01").path(), "content.type");
}

#[test]
fn a_key_that_is_neither_text_nor_integer_is_refused() {
    for hex in [
        "a1 4101 00",
        "a1 f93c00 00",
        "a1 f5 00",
        "a1 80 00",
        "a1 a0 00",
        "a1 c101 00",
    ] {
        assert_eq!(error(hex).code(), "key_type", "{hex}");
    }
}

#[test]
fn lb_defect_5_an_integer_stays_an_integer_in_both_directions() {
    let retry = json!({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 2000});

    let cbor = encode(&retry, KeyForm::Integer);

    assert!(
        hex::encode(&cbor).ends_with("1907d0"),
        "2000 in three bytes"
    );
    assert_eq!(decode(&cbor).unwrap().value, retry);
    let large = json!([u64::MAX, i64::MIN, 9_007_199_254_740_993_i64]);
    assert_eq!(decode(&encode(&large, KeyForm::Text)).unwrap().value, large);
    // And a float stays one, though it is whole.
    assert!(value("fb409f400000000000").is_f64());
}

#[test]
fn lb_defect_6_an_unknown_integer_key_is_refused_and_never_becomes_its_digits() {
    for (hex, key) in [
        ("a1 1869 00", 105),
        ("a1 00 00", 0),
        ("a1 20 00", -1),
        ("a1 1bffffffffffffffff 00", i128::from(u64::MAX)),
        ("a1 3bffffffffffffffff 00", -1 - i128::from(u64::MAX)),
    ] {
        assert_eq!(error(hex).fault, Fault::UnknownIntegerKey { key }, "{hex}");
    }
    let nested = error("a1 03 a1 1869 00");
    assert_eq!(
        nested.to_string(),
        "`content`: the integer key 105 is not in the table"
    );
}

#[test]
fn an_integer_beyond_64_bits_is_refused() {
    for (hex, number) in [
        ("3b8000000000000000", "-9223372036854775809"),
        ("3bffffffffffffffff", "-18446744073709551616"),
    ] {
        assert_eq!(
            error(hex).fault,
            Fault::NumberOutOfRange {
                number: number.to_owned()
            }
        );
    }
}

#[test]
fn a_text_must_be_utf8_and_so_must_each_of_its_parts() {
    let whole = error("82 00 63 61ff61");
    let cut = error("7f 61c3 61bc ff");

    assert_eq!((whole.fault, whole.offset), (Fault::Utf8, 4));
    assert_eq!((cut.fault, cut.offset), (Fault::Utf8, 2));
}

#[test]
fn nesting_ends_at_its_ceiling() {
    let arrays = |depth| [vec![0x81; depth], vec![0x00]].concat();
    assert!(decode(&arrays(NESTING_MAX)).is_ok());

    let deep = decode(&arrays(NESTING_MAX + 1)).unwrap_err();

    assert_eq!(
        (deep.fault, deep.offset),
        (Fault::TooDeep { max: NESTING_MAX }, NESTING_MAX)
    );
    for opening in [&b"\x81"[..], b"\x9f", b"\xa1\x01", b"\xbf\x01"] {
        assert_eq!(
            decode(&opening.repeat(200_000)).unwrap_err().code(),
            "too_deep"
        );
    }
    assert_eq!(decode(&b"\xc1".repeat(200_000)).unwrap_err().code(), "tag");
}

#[test]
fn bytes_after_the_item_are_refused() {
    let error = error("a0 f6f6");

    assert_eq!(
        (error.fault, error.offset),
        (Fault::Trailing { bytes: 2 }, 1)
    );
    assert_eq!(decode(&[]).unwrap_err().fault, Fault::Truncated);
}

#[test]
fn keys_are_sorted_by_their_encoded_bytes() {
    let object = json!({"aa": 1, "z": 2, "room_alias": 3, "event_id": 4, "rooms": 5, "join": 6});

    let integers = hex::encode(encode(&object, KeyForm::Integer));
    let texts = hex::encode(encode(&object, KeyForm::Text));

    assert_eq!(
        integers,
        "a6 0104 1705 181806 186803 617a02 62616101".replace(' ', "")
    );
    let order = "a6 617a02 62616101 646a6f696e06 65726f6f6d7305 686576656e745f696404 6a726f6f6d5f616c69617303";
    assert_eq!(texts, order.replace(' ', ""));
}

#[test]
fn a_body_tells_in_which_form_its_keys_came() {
    let object = json!({"type": "x", "other": {"body": 1}});

    for keys in [KeyForm::Text, KeyForm::Integer] {
        assert_eq!(decode(&encode(&object, keys)).unwrap().keys, keys);
    }
}

/// Any JSON value, with many keys of the table.
fn any_value() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        (1_u64..=104).prop_map(|number| keys::name(number).unwrap().to_owned()),
        (0_u8..110).prop_map(|number| number.to_string()),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000_i64..1000).prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |n| Number::from_f64(n).map(Value::Number)),
        any::<f32>().prop_filter_map("finite", |n| {
            Number::from_f64(f64::from(n)).map(Value::Number)
        }),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// CBOR with mistakes: heads and small pieces in any order.
fn nearly_cbor() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        &b"\xa1"[..],
        b"\xa2",
        b"\xbf",
        b"\x82",
        b"\x9f",
        b"\xff",
        b"\x01",
        b"\x02",
        b"\x18\x69",
        b"\x64type",
        b"\x61a",
        b"\x7f",
        b"\x41\x00",
        b"\xc1",
        b"\xf6",
        b"\xf9\x3c\x00",
        b"\x20",
    ]);
    let piece =
        prop_oneof![4 => pieces.prop_map(<[u8]>::to_vec), 1 => any::<u8>().prop_map(|b| vec![b])];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_value_survives_both_key_forms(value in any_value()) {
        for keys in [KeyForm::Text, KeyForm::Integer] {
            prop_assert_eq!(&decode(&encode(&value, keys)).unwrap().value, &value);
        }
    }

    #[test]
    fn any_bytes_give_a_body_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn what_was_read_writes_and_reads_to_the_same(bytes in nearly_cbor()) {
        if let Ok(body) = decode(&bytes) {
            let again = encode(&body.value, body.keys);
            prop_assert_eq!(decode(&again).unwrap().value, body.value);
        }
    }

    #[test]
    fn what_is_read_ciborium_reads_too(bytes in nearly_cbor()) {
        if decode(&bytes).is_ok() {
            prop_assert!(ciborium::from_reader::<ciborium::Value, _>(&bytes[..]).is_ok());
        }
    }

    #[test]
    fn a_written_body_is_what_ciborium_reads(value in any_value()) {
        let written = encode(&value, KeyForm::Text);
        let theirs: Value = ciborium::from_reader(&written[..]).unwrap();
        prop_assert_eq!(theirs, value);
    }
}
