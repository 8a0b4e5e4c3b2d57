//! JSON text from outside, read strictly, and canonical JSON written.
//!
//! The reader is our own because the usual one lets pass what Matrix cannot: of a key given twice
//! it keeps the last, and it rounds integers it has no room for. Two servers that read one text
//! differently disagree about its hash. What we read, `serde_json` reads to the same value; a
//! property test says so. This does not know events: their fields are `room`'s business.

use std::collections::BTreeMap;

use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::{Map, Number, Value};

use self::reader::Reader;
use super::error::{DecodeError, Fault, shortened};

mod lexical;
mod reader;
#[cfg(test)]
mod tests;

pub use lexical::SignedText;

/// Reads a value that can be written as canonical JSON: events, and all that is hashed or signed.
// spec: canonical-json §Canonical-JSON
pub fn read(bytes: &[u8]) -> Result<CanonicalJsonValue, DecodeError> {
    Reader::document(bytes)
}

/// Reads an object that can be written as canonical JSON.
pub fn read_object(bytes: &[u8]) -> Result<CanonicalJsonObject, DecodeError> {
    match read(bytes)? {
        CanonicalJsonValue::Object(object) => Ok(object),
        other => Err(DecodeError::new(
            Fault::NotAnObject {
                found: kind(&other),
            },
            0,
        )),
    }
}

/// Reads a request body that nobody hashes and that may therefore hold fractions.
///
/// As strict as [`read`] in all but numbers: any finite fraction and any integer of 64 bits pass.
pub fn read_lax(bytes: &[u8]) -> Result<Value, DecodeError> {
    Reader::document(bytes)
}

/// The same, where it has to be an object.
pub fn read_lax_object(bytes: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    match read_lax(bytes)? {
        Value::Object(object) => Ok(object),
        other => Err(DecodeError::new(
            Fault::NotAnObject {
                found: kind_lax(&other),
            },
            0,
        )),
    }
}

/// Checks that a value from a lax body (or a CBOR one) can be written as canonical JSON.
pub fn strict(value: Value) -> Result<CanonicalJsonValue, DecodeError> {
    Ok(match value {
        Value::Null => CanonicalJsonValue::Null,
        Value::Bool(truth) => CanonicalJsonValue::Bool(truth),
        Value::String(text) => CanonicalJsonValue::String(text),
        Value::Number(number) => canonical_number(&number.to_string(), is_integer(&number))
            .map_err(|fault| DecodeError::new(fault, 0))?,
        Value::Array(items) => {
            let items = items.into_iter().enumerate();
            let strict = items.map(|(index, item)| strict(item).map_err(|e| e.in_item(index)));
            CanonicalJsonValue::Array(strict.collect::<Result<_, _>>()?)
        }
        Value::Object(members) => CanonicalJsonValue::Object(strict_object(members)?),
    })
}

/// [`strict`], for an object.
pub fn strict_object(members: Map<String, Value>) -> Result<CanonicalJsonObject, DecodeError> {
    let strict = members.into_iter().map(|(key, value)| match strict(value) {
        Ok(value) => Ok((key, value)),
        Err(error) => Err(error.in_member(&key)),
    });
    strict.collect()
}

/// The one text of an object, which all servers hash and sign alike.
///
/// `serde_json`'s compact form is canonical for this type: its map is sorted by the bytes of UTF-8,
/// which is the order of code points, and it has no fractions. The tests hold it to the grammar.
// spec: canonical-json §Grammar
#[expect(
    clippy::missing_panics_doc,
    reason = "nothing a caller passes can make it panic"
)]
pub fn canonical(object: &CanonicalJsonObject) -> String {
    serde_json::to_string(object).expect("a map with text keys and no fractions can be written")
}

/// What the reader builds: the two kinds of value differ in numbers only.
trait Tree: Sized {
    type Members: Default;

    const NULL: Self;
    fn truth(truth: bool) -> Self;
    /// `integral`: written without fraction and exponent. The text follows JSON's grammar.
    fn number(text: &str, integral: bool) -> Result<Self, Fault>;
    fn text(text: String) -> Self;
    fn array(items: Vec<Self>) -> Self;
    fn object(members: Self::Members) -> Self;
    fn has(members: &Self::Members, key: &str) -> bool;
    fn insert(members: &mut Self::Members, key: String, value: Self);
}

impl Tree for CanonicalJsonValue {
    type Members = BTreeMap<String, Self>;

    const NULL: Self = Self::Null;

    fn truth(truth: bool) -> Self {
        Self::Bool(truth)
    }

    fn number(text: &str, integral: bool) -> Result<Self, Fault> {
        canonical_number(text, integral)
    }

    fn text(text: String) -> Self {
        Self::String(text)
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

impl Tree for Value {
    type Members = Map<String, Self>;

    const NULL: Self = Self::Null;

    fn truth(truth: bool) -> Self {
        Self::Bool(truth)
    }

    fn number(text: &str, integral: bool) -> Result<Self, Fault> {
        lax_number(text, integral)
            .map(Self::Number)
            .ok_or_else(|| Fault::NumberOutOfRange {
                number: shortened(text),
            })
    }

    fn text(text: String) -> Self {
        Self::String(text)
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

/// An integer of at most 53 bits, as canonical JSON has them.
fn canonical_number(text: &str, integral: bool) -> Result<CanonicalJsonValue, Fault> {
    if !integral {
        return Err(Fault::Float {
            number: shortened(text),
        });
    }
    if text == "-0" {
        return Err(Fault::NegativeZero);
    }
    let number = text
        .parse::<i64>()
        .ok()
        .and_then(|number| ruma::Int::try_from(number).ok());
    number
        .map(CanonicalJsonValue::Integer)
        .ok_or_else(|| Fault::NumberOutOfRange {
            number: shortened(text),
        })
}

/// A finite number, or an integer of 64 bits. A larger integer is refused, not rounded.
fn lax_number(text: &str, integral: bool) -> Option<Number> {
    if integral && text != "-0" {
        let whole = text.parse::<i64>().map(Number::from);
        return whole
            .or_else(|_| text.parse::<u64>().map(Number::from))
            .ok();
    }
    Number::from_f64(text.parse().ok()?)
}

fn is_integer(number: &Number) -> bool {
    number.is_i64() || number.is_u64()
}

/// What a value is, in words that do not repeat it.
pub fn kind(value: &CanonicalJsonValue) -> &'static str {
    match value {
        CanonicalJsonValue::Null => "null",
        CanonicalJsonValue::Bool(true) => "true",
        CanonicalJsonValue::Bool(false) => "false",
        CanonicalJsonValue::Integer(number) if *number < ruma::Int::from(0) => "a negative number",
        CanonicalJsonValue::Integer(_) => "a number",
        CanonicalJsonValue::String(text) if text.is_empty() => "an empty text",
        CanonicalJsonValue::String(_) => "a text",
        CanonicalJsonValue::Array(_) => "a list",
        CanonicalJsonValue::Object(_) => "an object",
    }
}

/// [`kind`], for a value that may be a fraction.
pub fn kind_lax(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
            "a negative number"
        }
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty text",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
