//! One CBOR item, read once from left to right into the JSON value it stands for.
//!
//! Lengths on the wire are never trusted: nothing is allocated before its bytes were there.

use ciborium_ll::{Error, Header, simple};
use serde_json::{Map, Number, Value};

use super::{
    super::{
        error::{DecodeError, Fault},
        keys,
    },
    Body, KeyForm,
};
use crate::base::limits::NESTING_MAX;

type Read<T> = Result<T, DecodeError>;

/// A place in a body. It never moves back, and never past the end.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    keys: KeyForm,
}

/// The head of an item and where it began.
#[derive(Clone, Copy)]
struct Head {
    header: Header,
    start: usize,
}

/// A key as it will stand in JSON.
struct Key {
    name: String,
    /// Its number in the table, when it came as one.
    number: Option<u8>,
    start: usize,
}

impl<'a> Decoder<'a> {
    /// Reads one item that fills the bytes.
    pub(super) fn document(bytes: &'a [u8]) -> Read<Body> {
        // «This is CBOR» before the first item says nothing that the content format did not.
        // spec: rfc8949 §3.4.6
        let at = if bytes.starts_with(&SELF_DESCRIBED) {
            SELF_DESCRIBED.len()
        } else {
            0
        };
        let mut decoder = Self {
            bytes,
            at,
            keys: KeyForm::Text,
        };
        let head = decoder.head()?;
        let value = decoder.value(head, 0)?;
        match bytes.len() - decoder.at {
            0 => Ok(Body {
                value,
                keys: decoder.keys,
            }),
            bytes => fail(Fault::Trailing { bytes }, decoder.at),
        }
    }

    /// `depth`: how many arrays and maps are open around this item.
    fn value(&mut self, head: Head, depth: usize) -> Read<Value> {
        let Head { header, start } = head;
        match header {
            Header::Array(_) | Header::Map(_) if depth == NESTING_MAX => {
                fail(Fault::TooDeep { max: NESTING_MAX }, start)
            }
            Header::Array(len) => self.array(len, depth + 1),
            Header::Map(len) => self.map(len, depth + 1),
            Header::Text(len) => self.text(len).map(Value::String),
            Header::Positive(number) => Ok(number.into()),
            Header::Negative(inverse) => negative(inverse, start),
            Header::Float(number) => match Number::from_f64(number) {
                Some(finite) => Ok(Value::Number(finite)),
                None => not_in_json("infinity and no NaN", start),
            },
            Header::Simple(simple::FALSE) => Ok(Value::Bool(false)),
            Header::Simple(simple::TRUE) => Ok(Value::Bool(true)),
            Header::Simple(simple::NULL) => Ok(Value::Null),
            Header::Simple(simple::UNDEFINED) => not_in_json("undefined value", start),
            Header::Simple(_) => not_in_json("such simple value", start),
            Header::Bytes(_) => not_in_json("byte string: send base64 as text", start),
            Header::Tag(number) => fail(Fault::Tag { number }, start),
            Header::Break => ill_formed("a break with nothing to end", start),
        }
    }

    fn array(&mut self, len: Option<usize>, depth: usize) -> Read<Value> {
        let mut items = Vec::new();
        while let Some(head) = self.next(len, items.len())? {
            let item = self
                .value(head, depth)
                .map_err(|error| error.in_item(items.len()))?;
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, len: Option<usize>, depth: usize) -> Read<Value> {
        let mut members = Members::default();
        let mut pairs = 0;
        while let Some(head) = self.next(len, pairs)? {
            pairs += 1;
            let key = self.key(head)?;
            let value = self.head().and_then(|head| self.value(head, depth));
            let value = value.map_err(|error| error.in_member(&key.name))?;
            members.add(key, value)?;
        }
        Ok(Value::Object(members.kept))
    }

    fn key(&mut self, head: Head) -> Read<Key> {
        let Head { header, start } = head;
        let key = match header {
            Header::Text(len) => {
                return self.text(len).map(|name| Key {
                    name,
                    number: None,
                    start,
                });
            }
            Header::Positive(number) => i128::from(number),
            Header::Negative(inverse) => -1 - i128::from(inverse),
            Header::Break => {
                return ill_formed("a break for a key", start);
            }
            other => return fail(Fault::KeyType { found: kind(other) }, start),
        };
        self.keys = KeyForm::Integer;
        let known = u64::try_from(key).ok().and_then(keys::name);
        match known {
            Some(name) => Ok(Key {
                name: name.to_owned(),
                number: u8::try_from(key).ok(),
                start,
            }),
            None => fail(Fault::UnknownIntegerKey { key }, start),
        }
    }

    fn text(&mut self, len: Option<usize>) -> Read<String> {
        if let Some(len) = len {
            return self.chunk(len).map(str::to_owned);
        }
        let mut text = String::new();
        loop {
            let Head { header, start } = self.head()?;
            match header {
                Header::Text(Some(len)) => text.push_str(self.chunk(len)?),
                Header::Break => return Ok(text),
                _ => {
                    return ill_formed("a text in parts of another kind", start);
                }
            }
        }
    }

    /// Each part of a text must be UTF-8 by itself: no character may be cut between two.
    // spec: rfc8949 §3.2.3
    fn chunk(&mut self, len: usize) -> Read<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(chunk) = rest.get(..len) else {
            return fail(Fault::Truncated, self.at);
        };
        let text = std::str::from_utf8(chunk)
            .map_err(|error| DecodeError::new(Fault::Utf8, self.at + error.valid_up_to()))?;
        self.at += len;
        Ok(text)
    }

    /// The next item of an array or map that gave `so_far`, or nothing at its end.
    fn next(&mut self, len: Option<usize>, so_far: usize) -> Read<Option<Head>> {
        if len == Some(so_far) {
            return Ok(None);
        }
        let head = self.head()?;
        if len.is_none() && head.header == Header::Break {
            return Ok(None);
        }
        Ok(Some(head))
    }

    fn head(&mut self) -> Read<Head> {
        let start = self.at;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let mut reader = ciborium_ll::Decoder::from(rest);
        let header = reader.pull().map_err(|error| match error {
            Error::Io(_) => DecodeError::new(Fault::Truncated, start),
            Error::Syntax(_) => DecodeError::new(
                Fault::IllFormed {
                    what: "a reserved head",
                },
                start,
            ),
        })?;
        // ciborium-ll reads `f8 14` as false.
        // spec: rfc8949 §3.3
        if matches!(rest, [0xf8, ..0x20, ..]) {
            return ill_formed("a small simple value in two bytes", start);
        }
        self.at += reader.offset();
        Ok(Head { header, start })
    }
}

/// The members of one map, and in which form each key of the table came: bit n is the key n.
#[derive(Default)]
struct Members {
    kept: Map<String, Value>,
    as_integer: u128,
    as_text: u128,
}

impl Members {
    /// Of one key in both forms the text wins, whichever came first; twice in one form is refused.
    fn add(&mut self, key: Key, value: Value) -> Read<()> {
        let Key {
            name,
            number,
            start,
        } = key;
        let came_as_integer = number.is_some();
        let bit = number
            .or_else(|| keys::number(&name))
            .map_or(0, |number| 1_u128 << number);
        let seen = if came_as_integer {
            &mut self.as_integer
        } else {
            &mut self.as_text
        };
        let not_in_table = bit == 0;
        if *seen & bit != 0 || not_in_table && self.kept.contains_key(&name) {
            return Err(DecodeError::new(Fault::DuplicateKey, start).in_member(&name));
        }
        *seen |= bit;
        let loses = came_as_integer && self.as_text & bit != 0;
        if !loses {
            self.kept.insert(name, value);
        }
        Ok(())
    }
}

/// `inverse` counts from -1 down; `serde_json` keeps negative numbers in an `i64`.
fn negative(inverse: u64, start: usize) -> Read<Value> {
    let Ok(inverse) = i64::try_from(inverse) else {
        let number = (-1 - i128::from(inverse)).to_string();
        return fail(Fault::NumberOutOfRange { number }, start);
    };
    Ok((!inverse).into())
}

fn kind(header: Header) -> &'static str {
    match header {
        Header::Positive(_) | Header::Negative(_) => "an integer",
        Header::Float(_) => "a float",
        Header::Simple(_) => "a simple value",
        Header::Tag(_) => "a tag",
        Header::Break => "a break",
        Header::Bytes(_) => "a byte string",
        Header::Text(_) => "a text",
        Header::Array(_) => "an array",
        Header::Map(_) => "a map",
    }
}

fn not_in_json<T>(what: &'static str, at: usize) -> Read<T> {
    fail(Fault::NotInJson { what }, at)
}

fn ill_formed<T>(what: &'static str, at: usize) -> Read<T> {
    fail(Fault::IllFormed { what }, at)
}

fn fail<T>(fault: Fault, at: usize) -> Read<T> {
    Err(DecodeError::new(fault, at))
}

/// The tag 55799, as it stands before an item.
const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];

// The bits of `Members` reach to 127.
const _: () = assert!(keys::COUNT < 128);
