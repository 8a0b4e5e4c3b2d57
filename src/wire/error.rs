//! What was wrong with bytes from outside, where in them, and in which member.
//!
//! One error for JSON and CBOR bodies, so that every door answers alike. Datagram formats have
//! their own. It says nothing about whether a value makes sense: that is a refusal, made later.

use std::fmt;

use thiserror::Error;

/// A body that is not what it claims to be, or holds what Matrix does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{fault}{}", In(.path), At(self))]
pub struct DecodeError {
    /// What was wrong.
    pub fault: Fault,
    /// Where, in bytes from the start of the body.
    ///
    /// 0 for a value that was checked after it was read ([`super::json::strict`]): it has a path,
    /// but its bytes are gone. It is told only of bytes that follow no grammar: what follows one may
    /// be a part of a larger text, and has a path.
    pub offset: usize,
    /// The way to the place, innermost first: each level adds itself while the error goes up.
    path: Vec<Step>,
}

/// Each thing that can be wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// There are no bytes.
    #[error("the body is empty")]
    Empty,
    /// The bytes stop inside a value.
    #[error("the body ends in the middle of a value")]
    Truncated,
    /// A whole value, and then more.
    #[error("{} the end of the value", following(*.bytes))]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A string, or the whole text, is not UTF-8.
    #[error("not valid UTF-8")]
    Utf8,
    /// JSON's grammar asks for something else here.
    #[error("not JSON: expected {expected}")]
    Syntax {
        /// What should have stood here.
        expected: &'static str,
    },
    /// CBOR's grammar does not allow this.
    #[error("not well-formed CBOR: {what}")]
    IllFormed {
        /// What was met.
        what: &'static str,
    },
    /// Arrays and objects go deeper than [`crate::base::limits::NESTING_MAX`].
    #[error("nested more than {max} levels deep")]
    TooDeep {
        /// The ceiling.
        max: usize,
    },
    /// One key twice in one object; the path ends in it.
    #[error("the same key twice in one object")]
    DuplicateKey,
    /// An escaped surrogate without its other half: no Unicode text holds that.
    #[error("the escape \\u{unit:04x} is half of a surrogate pair")]
    LoneSurrogate {
        /// The UTF-16 unit.
        unit: u16,
    },
    /// A fraction or an exponent where only integers are allowed.
    #[error("{number} is not an integer")]
    Float {
        /// The number, cut short if long.
        number: String,
    },
    /// `-0`, which canonical JSON cannot write.
    #[error("-0 is not allowed")]
    NegativeZero,
    /// A number that Matrix, or the form it would be kept in, has no room for.
    #[error("the number {number} is out of range")]
    NumberOutOfRange {
        /// The number, cut short if long.
        number: String,
    },
    /// An object was needed.
    #[error("expected an object, found {found}")]
    NotAnObject {
        /// What stood there.
        found: &'static str,
    },
    /// An integer key that the table does not know, perhaps of a newer version.
    #[error("the integer key {key} is not in the table")]
    UnknownIntegerKey {
        /// The key.
        key: i128,
    },
    /// A CBOR map key that is neither text nor integer.
    #[error("a map key must be text or an integer, found {found}")]
    KeyType {
        /// What stood there.
        found: &'static str,
    },
    /// A CBOR value for which JSON has no word.
    #[error("JSON has no {what}")]
    NotInJson {
        /// What was met.
        what: &'static str,
    },
    /// A CBOR tag, other than the one that says «this is CBOR».
    #[error("the CBOR tag {number} means nothing here")]
    Tag {
        /// The tag's number.
        number: u64,
    },
}

impl DecodeError {
    /// An error at a place; the levels around it add themselves with `in_member` and `in_item`.
    pub const fn new(fault: Fault, offset: usize) -> Self {
        Self {
            fault,
            offset,
            path: Vec::new(),
        }
    }

    /// The same error, seen from the object around it.
    #[must_use]
    pub fn in_member(mut self, key: &str) -> Self {
        self.path.push(Step::Member(shortened(key)));
        self
    }

    /// The same error, seen from the array around it.
    #[must_use]
    pub fn in_item(mut self, index: usize) -> Self {
        self.path.push(Step::Item(index));
        self
    }

    /// The member that was wrong, as in `content.via[2]`; empty for the body itself.
    pub fn path(&self) -> String {
        Path(&self.path).to_string()
    }

    /// A word for logs, counters and tests. It stays when the sentences change.
    pub const fn code(&self) -> &'static str {
        match self.fault {
            Fault::Empty => "empty",
            Fault::Truncated => "truncated",
            Fault::Trailing { .. } => "trailing_bytes",
            Fault::Utf8 => "not_utf8",
            Fault::Syntax { .. } => "not_json",
            Fault::IllFormed { .. } => "not_cbor",
            Fault::TooDeep { .. } => "too_deep",
            Fault::DuplicateKey => "duplicate_key",
            Fault::LoneSurrogate { .. } => "lone_surrogate",
            Fault::Float { .. } => "float",
            Fault::NegativeZero => "negative_zero",
            Fault::NumberOutOfRange { .. } => "number_out_of_range",
            Fault::NotAnObject { .. } => "not_an_object",
            Fault::UnknownIntegerKey { .. } => "unknown_integer_key",
            Fault::KeyType { .. } => "key_type",
            Fault::NotInJson { .. } => "not_in_json",
            Fault::Tag { .. } => "tag",
        }
    }

    /// Whether the bytes followed the grammar and only said what Matrix does not allow.
    ///
    /// The Matrix client API tells the two apart: `M_BAD_JSON` if so, `M_NOT_JSON` if not.
    pub const fn is_well_formed(&self) -> bool {
        !matches!(
            self.fault,
            Fault::Empty
                | Fault::Truncated
                | Fault::Trailing { .. }
                | Fault::Utf8
                | Fault::Syntax { .. }
                | Fault::IllFormed { .. }
        )
    }
}

/// One level on the way to the place of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(usize),
}

/// A path as people write it, outermost first.
struct Path<'a>(&'a [Step]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (level, step) in self.0.iter().rev().take(STEPS_TOLD_MAX).enumerate() {
            match step {
                Step::Member(key) if level == 0 => f.write_str(key)?,
                Step::Member(key) => write!(f, ".{key}")?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        if self.0.len() > STEPS_TOLD_MAX {
            f.write_str("…")?;
        }
        Ok(())
    }
}

/// «`content.body`: », or nothing for the body itself.
struct In<'a>(&'a [Step]);

impl fmt::Display for In<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "`{}`: ", Path(self.0))
    }
}

/// « at byte 7», where that says more than the path.
struct At<'a>(&'a DecodeError);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_well_formed() || self.0.fault == Fault::Empty {
            return Ok(());
        }
        write!(f, " at byte {}", self.0.offset)
    }
}

fn following(bytes: usize) -> String {
    match bytes {
        1 => "1 byte follows".to_owned(),
        more => format!("{more} bytes follow"),
    }
}

/// Text from outside, fit for an error: no control characters and not long.
pub(super) fn shortened(text: &str) -> String {
    let mut kept: String = text
        .chars()
        .take(QUOTED_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        kept.push('…');
    }
    kept
}

/// How many steps of a path are told: no member of the Matrix specification lies deeper by name.
pub(crate) const STEPS_TOLD_MAX: usize = 8;

/// How much of a key or number an error repeats, in characters.
///
/// Longer than any key of the Matrix specification; 8 levels of it still fit a log line's ceiling.
const QUOTED_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_member_from_the_outside_in() {
        let error = DecodeError::new(Fault::DuplicateKey, 7)
            .in_member("url")
            .in_item(2)
            .in_member("via")
            .in_member("content");

        assert_eq!(error.path(), "content.via[2].url");
        assert_eq!(
            error.to_string(),
            "`content.via[2].url`: the same key twice in one object"
        );
    }

    #[test]
    fn an_error_about_the_whole_body_has_no_path() {
        let error = DecodeError::new(Fault::Trailing { bytes: 3 }, 9);

        assert_eq!(
            error.to_string(),
            "3 bytes follow the end of the value at byte 9"
        );
    }

    #[test]
    fn a_place_is_told_by_its_offset_only_where_the_bytes_follow_no_grammar() {
        let colon = || Fault::Syntax {
            expected: "a colon",
        };
        let said = |error: DecodeError| error.to_string();

        assert_eq!(
            said(DecodeError::new(colon(), 90).in_member("body")),
            "`body`: not JSON: expected a colon at byte 90"
        );
        assert_eq!(
            said(DecodeError::new(Fault::NotAnObject { found: "a number" }, 0).in_member("a")),
            "`a`: expected an object, found a number"
        );
        assert_eq!(said(DecodeError::new(Fault::Empty, 0)), "the body is empty");
        assert_eq!(
            said(DecodeError::new(Fault::Trailing { bytes: 1 }, 2)),
            "1 byte follows the end of the value at byte 2"
        );
    }

    #[test]
    fn of_a_long_way_only_the_beginning_is_told() {
        let mut error = DecodeError::new(Fault::TooDeep { max: 64 }, 64);
        for _ in 0..64 {
            error = error.in_item(0);
        }

        assert_eq!(
            error.to_string(),
            "`[0][0][0][0][0][0][0][0]…`: nested more than 64 levels deep"
        );
    }

    #[test]
    fn an_error_does_not_repeat_a_long_key_or_a_control_character() {
        let key = format!("\u{1b}[31m{}", "x".repeat(1000));

        let error = DecodeError::new(Fault::DuplicateKey, 0).in_member(&key);

        assert_eq!(error.path().chars().count(), QUOTED_CHARS_MAX + 1);
        assert!(!error.path().contains('\u{1b}'));
    }

    #[test]
    fn only_a_grammar_error_is_not_well_formed() {
        assert!(!DecodeError::new(Fault::Truncated, 0).is_well_formed());
        assert!(DecodeError::new(Fault::NegativeZero, 0).is_well_formed());
    }
}
