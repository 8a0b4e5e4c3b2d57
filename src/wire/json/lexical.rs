//! The canonical text of a signed body whose numbers are left as they were written.
//!
//! A signature over a request covers its whole body, and what rides in it (to-device messages,
//! receipts) may hold fractions, which canonical JSON has not. Servers sign the text that they send,
//! so the text of a number is what both ends have. Events are read by [`super::read_object`], which
//! lets no fraction pass.

use std::{collections::BTreeMap, fmt::Write as _};

use ruma::CanonicalJsonObject;

use super::{Reader, Tree, canonical};
use crate::{
    base::limits::NESTING_MAX,
    wire::error::{DecodeError, Fault},
};

/// The text of a body as it is signed: keys in order, no space, numbers as written.
// spec: canonical-json §Canonical-JSON
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedText(String);

impl SignedText {
    /// Of a body that arrived. It must be an object.
    pub fn of_body(bytes: &[u8]) -> Result<Self, DecodeError> {
        let value: Written = Reader::document_within(bytes, NESTING_MAX + AROUND)?;
        let found = match &value {
            Written::Object(_) => None,
            Written::Array(_) => Some("a list"),
            Written::Text(_) => Some("a text"),
            Written::Number(_) => Some("a number"),
            Written::Plain(word) => Some(*word),
        };
        if let Some(found) = found {
            return Err(DecodeError::new(Fault::NotAnObject { found }, 0));
        }
        let mut text = String::with_capacity(bytes.len());
        value.write(&mut text);
        Ok(Self(text))
    }

    /// Of a body that was built here: it is sent as this text.
    pub fn of_object(object: &CanonicalJsonObject) -> Self {
        Self(canonical(object))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, to be sent.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// How deep what is around an event may nest: a transaction and its list of events.
const AROUND: usize = 8;

/// A value whose numbers are text.
enum Written {
    Plain(&'static str),
    Number(String),
    Text(String),
    Array(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

impl Tree for Written {
    type Members = BTreeMap<String, Self>;

    const NULL: Self = Self::Plain("null");

    fn truth(truth: bool) -> Self {
        Self::Plain(if truth { "true" } else { "false" })
    }

    fn number(text: &str, _: bool) -> Result<Self, Fault> {
        Ok(Self::Number(text.to_owned()))
    }

    fn text(text: String) -> Self {
        Self::Text(text)
    }

    fn array(items: Vec<Self>) -> Self {
        Self::Array(items)
    }

    fn object(members: Self::Members) -> Self {
        Self::Object(members)
    }

    fn has(members: &Self::Members, key: &str) -> bool {
        members.contains_key(key)
    }

    fn insert(members: &mut Self::Members, key: String, value: Self) {
        members.insert(key, value);
    }
}

impl Written {
    /// As deep as the reader lets a value nest.
    fn write(&self, out: &mut String) {
        match self {
            Self::Plain(word) => out.push_str(word),
            Self::Number(number) => out.push_str(number),
            Self::Text(text) => write_text(text, out),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_text(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// Escaped as canonical JSON wants it, which is how `serde_json` does.
fn write_text(text: &str, out: &mut String) {
    let quoted = serde_json::Value::String(text.to_owned());
    let _ = write!(out, "{quoted}"); // a String takes all that is written to it
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::wire::json;

    #[test]
    fn numbers_stay_as_they_were_written_and_keys_are_put_in_order() {
        let body = br#" {"b": [1.50, 1e10, -0, 99999999999999999999], "a": {"\u00e9": null, "z": true} } "#;

        let text = SignedText::of_body(body).unwrap();

        assert_eq!(
            text.as_str(),
            r#"{"a":{"z":true,"é":null},"b":[1.50,1e10,-0,99999999999999999999]}"#
        );
    }

    #[test]
    fn only_an_object_is_a_body() {
        for body in [&b"[]"[..], b"1", b"", b"{}x", b"{\"a\":1,\"a\":1}"] {
            assert!(SignedText::of_body(body).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_body_without_fractions_has_its_canonical_text(keys in prop::collection::vec((".{0,6}", any::<i32>()), 0..6)) {
            let object: serde_json::Map<String, Value> =
                keys.into_iter().map(|(key, number)| (key, number.into())).collect();
            let body = Value::Object(object).to_string();
            let read = json::read_object(body.as_bytes()).unwrap();

            let text = SignedText::of_body(body.as_bytes()).unwrap();

            prop_assert_eq!(text, SignedText::of_object(&read));
        }
    }
}
