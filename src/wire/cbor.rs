//! CBOR bodies of the low-bandwidth profile, to and from JSON values.
//!
//! ciborium-ll reads and writes the heads of items; what stands between the heads is ours, because
//! a general decoder keeps the last of two equal keys and knows no integer keys. This does not
//! know Matrix: a body that becomes an event goes through [`super::json::strict`] next.

use ciborium_ll::{Encoder, Header, simple};
use serde_json::{Map, Number, Value};

use self::decoder::Decoder;
use super::{error::DecodeError, keys};

mod decoder;
#[cfg(test)]
mod tests;

/// How the keys of a body are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyForm {
    /// As text, all of them: what any CBOR reader understands.
    #[default]
    Text,
    /// As integers where [`keys`] has one.
    Integer,
}

/// A body as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// What it says.
    pub value: Value,
    /// [`KeyForm::Integer`] if any key was one. The sender then reads integer keys as well, unless
    /// it negotiated otherwise.
    // spec: msc3079 §Versioning
    pub keys: KeyForm,
}

/// Reads one body. Any bytes give a body or an error.
// spec: msc3079 §JSON-CBOR
pub fn decode(bytes: &[u8]) -> Result<Body, DecodeError> {
    Decoder::document(bytes)
}

/// Writes a value; the same value gives the same bytes.
// spec: rfc8949 §4.2.1
pub fn encode(value: &Value, keys: KeyForm) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value, keys);
    out
}

fn write(out: &mut Vec<u8>, value: &Value, keys: KeyForm) {
    match value {
        Value::Null => head(out, Header::Simple(simple::NULL)),
        Value::Bool(false) => head(out, Header::Simple(simple::FALSE)),
        Value::Bool(true) => head(out, Header::Simple(simple::TRUE)),
        Value::Number(number) => head(out, number_header(number)),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            head(out, Header::Array(Some(items.len())));
            for item in items {
                write(out, item, keys);
            }
        }
        Value::Object(members) => write_map(out, members, keys),
    }
}

/// Sorted by the bytes of the encoded keys: integers first, then short texts before long ones.
fn write_map(out: &mut Vec<u8>, members: &Map<String, Value>, keys: KeyForm) {
    let encoded = members
        .iter()
        .map(|(key, value)| (encoded_key(key, keys), value));
    let mut sorted: Vec<_> = encoded.collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));

    head(out, Header::Map(Some(sorted.len())));
    for (key, value) in sorted {
        out.extend(key);
        write(out, value, keys);
    }
}

fn encoded_key(key: &str, keys: KeyForm) -> Vec<u8> {
    let mut out = Vec::new();
    match (keys, keys::number(key)) {
        (KeyForm::Integer, Some(number)) => head(&mut out, Header::Positive(number.into())),
        _ => write_text(&mut out, key),
    }
    out
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    head(out, Header::Text(Some(text.len())));
    out.extend(text.as_bytes());
}

/// An integer stays an integer, a fraction becomes the shortest float that keeps its value.
fn number_header(number: &Number) -> Header {
    if let Some(whole) = number.as_u64() {
        return Header::Positive(whole);
    }
    if let Some(negative) = number.as_i64() {
        // CBOR counts negative numbers from -1 up; in two's complement that is the inverse.
        return Header::Negative((!negative).cast_unsigned());
    }
    let number = number.as_f64();
    Header::Float(number.expect("serde_json keeps numbers as u64, i64 or f64"))
}

fn head(out: &mut Vec<u8>, header: Header) {
    Encoder::from(out)
        .push(header)
        .expect("writing to memory does not fail");
}
