//! The reader against its own rules, the specification's examples and `serde_json`.

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::base::limits::NESTING_MAX;

#[derive(Deserialize)]
struct Example {
    given: String,
    canonical: String,
}

fn examples() -> Vec<Example> {
    let text = include_str!("../../../conformance/vectors/canonical-json/examples.json");
    serde_json::from_str(text).unwrap()
}

fn fault(text: &str) -> (Fault, usize) {
    let error = read(text.as_bytes()).unwrap_err();
    (error.fault, error.offset)
}

#[test]
fn the_examples_of_the_specification_come_out_canonical() {
    let examples = examples();
    let (last, plain) = examples.split_last().unwrap();

    assert_eq!(plain.len(), 9);
    for example in plain {
        let object = read_object(example.given.as_bytes()).unwrap();
        assert_eq!(canonical(&object), example.canonical);
    }
    let object = read_object(last.canonical.as_bytes()).unwrap();
    assert_eq!(canonical(&object), last.canonical);
}

#[test]
fn the_example_with_an_exponent_and_a_negative_zero_is_refused_as_room_version_6_asks() {
    let examples = examples();
    let given = &examples.last().unwrap().given;

    assert_eq!(
        read(given.as_bytes()).unwrap_err().fault,
        Fault::NegativeZero
    );
    assert_eq!(
        fault("1e10").0,
        Fault::Float {
            number: "1e10".to_owned()
        }
    );
    assert!(read_lax(given.as_bytes()).is_ok());
}

#[test]
fn every_character_is_written_in_its_one_canonical_form() {
    let short = [
        ('\u{8}', "\\b"),
        ('\t', "\\t"),
        ('\n', "\\n"),
        ('\u{c}', "\\f"),
        ('\r', "\\r"),
        ('"', "\\\""),
        ('\\', "\\\\"),
    ];
    for character in ('\0'..='\u{ff}').chain(['\u{2028}', '\u{fffd}', '\u{10ffff}']) {
        let wanted = match short.iter().find(|(c, _)| *c == character) {
            Some((_, escape)) => (*escape).to_owned(),
            None if character < ' ' => format!("\\u{:04x}", u32::from(character)),
            None => character.to_string(),
        };
        let object = BTreeMap::from([("k".to_owned(), character.to_string().into())]);
        let text = canonical(&object);

        assert_eq!(text, format!("{{\"k\":\"{wanted}\"}}"));
        assert_eq!(read_object(text.as_bytes()).unwrap(), object);
    }
}

#[test]
fn keys_are_sorted_by_code_point_and_not_by_utf16_unit() {
    let object =
        read_object("{\"\u{ffff}\":1,\"\u{10000}\":2,\"Z\":3,\"a\":4}".as_bytes()).unwrap();

    assert_eq!(
        canonical(&object),
        "{\"Z\":3,\"a\":4,\"\u{ffff}\":1,\"\u{10000}\":2}"
    );
}

#[test]
fn a_key_given_twice_is_refused_also_when_one_is_escaped() {
    let error = read(br#"{"a": {"key": 1, "k\u0065y": 2}}"#).unwrap_err();

    assert_eq!(error.fault, Fault::DuplicateKey);
    assert_eq!((error.offset, error.path().as_str()), (17, "a.key"));
    assert_eq!(
        read_lax(br#"{"a":1,"a":1}"#).unwrap_err().fault,
        Fault::DuplicateKey
    );
}

#[test]
fn the_error_names_the_member_and_the_byte() {
    let error = read(br#"{"content": {"via": ["a", 0.5]}}"#).unwrap_err();

    assert_eq!(error.to_string(), "`content.via[1]`: 0.5 is not an integer");
}

#[test]
fn an_integer_fits_a_double_exactly_or_is_refused() {
    for (text, wanted) in [("9007199254740991", 1_i64), ("-9007199254740991", -1)] {
        let value = read(text.as_bytes()).unwrap();
        assert_eq!(
            value.as_integer().map(i64::from),
            Some(wanted * ((1 << 53) - 1))
        );
    }
    for text in [
        "9007199254740992",
        "-9007199254740992",
        "18446744073709551616",
    ] {
        assert_eq!(
            fault(text),
            (
                Fault::NumberOutOfRange {
                    number: text.to_owned()
                },
                0
            )
        );
    }
}

#[test]
fn a_number_that_is_no_plain_integer_is_refused() {
    for text in ["1.0", "1e2", "1E+2", "0.5", "-0.0", "10e-1"] {
        assert_eq!(
            fault(text),
            (
                Fault::Float {
                    number: text.to_owned()
                },
                0
            ),
            "{text}"
        );
    }
    assert_eq!(fault("-0"), (Fault::NegativeZero, 0));
}

#[test]
fn a_lax_body_keeps_fractions_and_whole_64_bit_integers() {
    let text = b"[0.5, 1e10, -0, 18446744073709551615, -9223372036854775808]";

    let value = read_lax(text).unwrap();

    assert_eq!(value, json!([0.5, 1e10, -0.0, u64::MAX, i64::MIN]));
}

#[test]
fn a_lax_body_is_not_rounded_to_fit() {
    for text in [
        "18446744073709551616",
        "-9223372036854775809",
        "1e400",
        "-1e400",
    ] {
        let error = read_lax(text.as_bytes()).unwrap_err();
        assert_eq!(
            error.fault,
            Fault::NumberOutOfRange {
                number: text.to_owned()
            }
        );
    }
}

#[test]
fn half_a_surrogate_pair_is_refused() {
    for (text, unit, offset) in [
        (r#""\ud800""#, 0xd800, 1),
        (r#""a\udfff""#, 0xdfff, 2),
        (r#""\ud83dx""#, 0xd83d, 1),
        (r#""\ud83d\u0041""#, 0xd83d, 1),
        (r#""\ude00\ud83d""#, 0xde00, 1),
    ] {
        assert_eq!(
            fault(text),
            (Fault::LoneSurrogate { unit }, offset),
            "{text}"
        );
        assert_eq!(
            read_lax(text.as_bytes()).unwrap_err().fault,
            Fault::LoneSurrogate { unit }
        );
    }
    assert_eq!(read(br#""\ud83d\ude00""#).unwrap().as_str(), Some("😀"));
}

#[test]
fn nesting_ends_at_its_ceiling() {
    let nested = |depth| [vec![b'['; depth], vec![b']'; depth]].concat();

    assert!(read(&nested(NESTING_MAX)).is_ok());
    let error = read(&nested(NESTING_MAX + 1)).unwrap_err();
    assert_eq!(
        (error.fault, error.offset),
        (Fault::TooDeep { max: NESTING_MAX }, NESTING_MAX)
    );
    assert!(read(&vec![b'['; 1_000_000]).is_err());
    assert!(read_lax("{\"a\":".repeat(1_000_000).as_bytes()).is_err());
}

#[test]
fn bytes_after_the_value_are_refused() {
    assert_eq!(fault("{} {}"), (Fault::Trailing { bytes: 2 }, 3));
    assert_eq!(fault("01"), (Fault::Trailing { bytes: 1 }, 1));
    assert!(read(b" \t\r\n{} \t\r\n").is_ok());
}

#[test]
fn bytes_that_are_not_utf8_are_refused_where_they_stand() {
    let overlong = read(b"{\"a\":\"\xc0\xaf\"}").unwrap_err();
    let surrogate = read(b"\"\xed\xa0\x80\"").unwrap_err();

    assert_eq!((overlong.fault, overlong.offset), (Fault::Utf8, 6));
    assert_eq!((surrogate.fault, surrogate.offset), (Fault::Utf8, 1));
}

#[test]
fn text_that_only_looks_like_json_is_refused() {
    let wrong = [
        "\u{feff}{}",
        "{a:1}",
        "{'a':1}",
        "{\"a\" 1}",
        "{\"a\":1,}",
        "{,}",
        "[1,]",
        "[1 2]",
        "nul",
        "True",
        "NaN",
        "Infinity",
        "+1",
        ".5",
        "1.x",
        "1ex",
        "-x",
        "// x",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"a\tb\"",
        "\"a\nb\"",
        "\u{a0}1",
    ];
    for text in wrong {
        assert_eq!(
            read(text.as_bytes()).unwrap_err().code(),
            "not_json",
            "{text}"
        );
        assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
    }
}

#[test]
fn text_that_stops_early_is_called_truncated() {
    for text in [
        "{", "{\"a\"", "{\"a\":", "{\"a\":1", "[", "[1,", "\"", "\"\\", "\"\\u", "-",
    ] {
        assert_eq!(fault(text).0, Fault::Truncated, "{text}");
    }
}

#[test]
fn a_text_with_nothing_in_it_is_called_empty() {
    for text in ["", " ", "\r\n"] {
        assert_eq!(
            read(text.as_bytes()).unwrap_err().to_string(),
            "the body is empty"
        );
    }
}

#[test]
fn only_an_object_is_read_as_an_object() {
    let error = read_object(b"[1]").unwrap_err();

    assert_eq!(error.fault, Fault::NotAnObject { found: "a list" });
}

#[test]
fn a_lax_value_becomes_strict_or_names_the_member_that_cannot() {
    let plain = json!({"a": [1, -1, true, null, "x", {"b": 9_007_199_254_740_991_i64}]});
    let fraction = json!({"a": [1, {"b": 1.0}]});

    assert_eq!(
        strict(plain.clone()).unwrap(),
        read(plain.to_string().as_bytes()).unwrap()
    );
    let error = strict(fraction).unwrap_err();
    assert_eq!((error.code(), error.path().as_str()), ("float", "a[1].b"));
    assert_eq!(
        strict(json!(u64::MAX)).unwrap_err().code(),
        "number_out_of_range"
    );
}

/// Any value that canonical JSON can write.
fn strict_value() -> impl Strategy<Value = CanonicalJsonValue> {
    let integer = -9_007_199_254_740_991_i64..=9_007_199_254_740_991;
    let leaf = prop_oneof![
        Just(CanonicalJsonValue::Null),
        any::<bool>().prop_map(CanonicalJsonValue::Bool),
        integer.prop_map(|n| CanonicalJsonValue::Integer(n.try_into().unwrap())),
        any::<String>().prop_map(CanonicalJsonValue::String),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(CanonicalJsonValue::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(CanonicalJsonValue::Object),
        ]
    })
}

/// Text that is nearly JSON: pieces of it in any order.
fn nearly_json() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"b\"",
        "\"\\u0061\"",
        "\\u0061",
        "\\ud800",
        "\\n",
        "1",
        "0",
        "-",
        "1.5",
        "e3",
        "true",
        "null",
        " ",
        "\u{7f}",
        "é",
        "{\"a\":",
        "[1,",
    ]);
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = read(&bytes);
        let _ = read_lax(&bytes);
    }

    #[test]
    fn canonical_text_reads_back_to_the_same_value(value in strict_value()) {
        let object = BTreeMap::from([("k".to_owned(), value)]);
        let text = canonical(&object);

        prop_assert_eq!(read_object(text.as_bytes()).unwrap(), object);
    }

    #[test]
    fn what_is_read_strictly_serde_json_reads_to_the_same_value(text in nearly_json()) {
        if let Ok(value) = read(text.as_bytes()) {
            let theirs: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(Value::from(value), theirs);
        }
    }

    // Not to the same value: serde_json may round the last bit of a fraction another way.
    #[test]
    fn what_is_read_laxly_serde_json_reads_too(text in nearly_json()) {
        if read_lax(text.as_bytes()).is_ok() {
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
    }

    #[test]
    fn what_serde_json_reads_is_refused_for_a_stated_reason_only(text in nearly_json()) {
        let Err(error) = read_lax(text.as_bytes()) else { return Ok(()) };
        if serde_json::from_str::<Value>(&text).is_ok() {
            prop_assert_eq!(error.code(), "duplicate_key");
        }
    }

    #[test]
    fn a_lax_body_reads_back_to_the_same_fractions(number in any::<f64>()) {
        prop_assume!(number.is_finite());
        let value = json!([number]);

        prop_assert_eq!(read_lax(value.to_string().as_bytes()).unwrap(), value);
    }
}
