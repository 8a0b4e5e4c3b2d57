//! What can stand in a request: one of each kind to be tried, and the words for it.

use serde_json::Value;

use crate::wire::json::kind_lax;

/// A kind, and something of it.
struct Kind {
    words: &'static str,
    json: &'static str,
}

pub(super) const USER_ID: &str = "a user id, such as `@name:server.example`";
pub(super) const ROOM_ID: &str = "a room id, such as `!name:server.example`";
pub(super) const ROOM_ALIAS: &str = "a room alias, such as `#name:server.example`";
pub(super) const EVENT_ID: &str = "an event id, which begins with `$`";
pub(super) const SERVER_NAME: &str = "a server's name, such as `server.example`";
const ROOM_VERSION: &str = "a room version, such as `12`";

/// What is told of names that have a colon somewhere, and may be anything else.
const ANY_KEY_ID: &str = "a key's id, such as `signed_curve25519:AAAA`";

/// The widest first: where one is right, those after it are right as well and are not told.
const TEXTS: &[Kind] = &[
    kind("a text", r#""¿ …?""#),
    kind("a text of letters, digits and `_`", r#""a_b""#),
];

const NARROW_TEXTS: &[Kind] = &[
    kind(USER_ID, r#""@a:b.c""#),
    kind(ROOM_ID, r#""!a:b.c""#),
    kind(ROOM_ALIAS, r##""#a:b.c""##),
    kind(EVENT_ID, r#""$a""#),
    // With its port it is no room version, and without one each of those is a name.
    kind(SERVER_NAME, r#""b.c:1""#),
    kind(ROOM_VERSION, r#""b.c""#),
    kind(
        "a file's address, such as `mxc://server.example/id`",
        r#""mxc://b.c/a""#,
    ),
    kind("a key's id, such as `ed25519:id`", r#""ed25519:a""#),
    kind(
        "a key's id, such as `signed_curve25519:id`",
        r#""signed_curve25519:a""#,
    ),
];

/// Told where none of those before is right.
const OTHER_TEXTS: &[Kind] = &[
    kind("base64", r#""YWJj""#),
    kind("a number in quotes", r#""1""#),
];
const NUMBERS: &[Kind] = &[
    kind("a number", "1.5"),
    kind("a whole number", "-1"),
    kind("a whole number from 0 on", "1"),
];

const OTHERS: &[Kind] = &[
    kind("true or false", "true"),
    kind("a list", "[]"),
    kind("an object", "{}"),
];

const fn kind(words: &'static str, json: &'static str) -> Kind {
    Kind { words, json }
}

/// The words for all that `takes` takes, if it takes anything.
pub(super) fn taken(mut takes: impl FnMut(Value) -> bool) -> Option<String> {
    let mut takes = |kind: &&Kind| serde_json::from_str(kind.json).is_ok_and(&mut takes);
    let mut told = texts(&mut takes);
    told.extend(NUMBERS.iter().find(&mut takes).map(|kind| kind.words));
    told.extend(OTHERS.iter().filter(&mut takes).map(|kind| kind.words));
    in_words(&told)
}

/// The same for a query, where all is text: what is taken as text is not told as something else.
pub(super) fn taken_of_query(mut takes: impl FnMut(&str) -> bool) -> Option<String> {
    let mut takes = |kind: &&Kind| match serde_json::from_str(kind.json) {
        Ok(Value::String(text)) => takes(&text),
        _ => takes(kind.json),
    };
    let number = NUMBERS.iter().find(&mut takes);
    let truth = OTHERS.iter().find(|kind| kind.json == "true");
    let wide = TEXTS.iter().find(&mut takes);
    let mut told: Vec<&str> = wide.map(|kind| kind.words).into_iter().collect();
    if told.is_empty() {
        told.extend(narrow(&mut takes));
    }
    if told.is_empty() {
        told.extend(number.map(|kind| kind.words));
        told.extend(truth.filter(&mut takes).map(|kind| kind.words));
    }
    in_words(&told)
}

/// The words for all texts that `takes` takes as the name of a member.
pub(super) fn taken_as_name(mut takes: impl FnMut(&str) -> bool) -> Option<String> {
    let told = texts(|kind| match serde_json::from_str(kind.json) {
        Ok(Value::String(text)) => takes(&text),
        _ => false,
    });
    in_words(&told)
}

/// Whether the value is already as expected: then something else is wrong than that.
pub(super) fn is_of(expected: &str, value: &Value) -> bool {
    let words = match value {
        Value::String(_) => "a text",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        _ => return false,
    };
    let rest = expected.strip_prefix(words);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(", ") || rest.starts_with(" or "))
}

fn texts(mut takes: impl FnMut(&&Kind) -> bool) -> Vec<&'static str> {
    if let Some(wide) = TEXTS.iter().find(&mut takes) {
        return vec![wide.words];
    }
    let told = narrow(&mut takes);
    if !told.is_empty() {
        return told;
    }
    let others = OTHER_TEXTS.iter().filter(&mut takes);
    others.map(|kind| kind.words).collect()
}

fn narrow(takes: impl FnMut(&&Kind) -> bool) -> Vec<&'static str> {
    let texts = NARROW_TEXTS.iter().filter(takes);
    let mut told: Vec<&str> = texts.map(|kind| kind.words).collect();
    if told.contains(&SERVER_NAME) {
        told.retain(|words| *words != ROOM_VERSION);
    }
    if [USER_ID, ROOM_ALIAS, SERVER_NAME]
        .iter()
        .all(|words| told.contains(words))
    {
        return vec![ANY_KEY_ID];
    }
    told
}

fn in_words(told: &[&str]) -> Option<String> {
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    (!told.is_empty()).then(|| one_of(&told))
}

/// `a, b or c`.
pub(super) fn one_of(these: &[String]) -> String {
    match these {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// What stands somewhere, in words that do not repeat it, where it is said what is expected: a text is
/// not expected to be a text.
pub(super) fn found_beside(expected: Option<&str>, value: &Value) -> &'static str {
    let expects = |word| expected.is_some_and(|expected| expected.contains(word));
    match (kind_lax(value), value) {
        ("a text", _) if expects("`") || expects("a text") || expects("base64") => "another text",
        ("a number", _) if expects("a whole number") => "a larger number",
        ("an object", _) if expects("an object") => "another object",
        ("a list", _) if expects("a list") => "another list",
        (other, _) => other,
    }
}

/// What stands in a query, where all is text.
pub(super) fn found_in_query(expected: Option<&str>, text: &str) -> &'static str {
    if text.is_empty() {
        return "nothing";
    }
    let expects_number = expected.is_some_and(|expected| expected.contains("number"));
    match serde_json::from_str(text) {
        Ok(number @ Value::Number(_)) if expects_number => found_beside(expected, &number),
        _ => found_beside(expected, &Value::String(text.to_owned())),
    }
}
