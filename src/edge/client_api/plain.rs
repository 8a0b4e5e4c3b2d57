//! For tests: whether a refusal speaks to whoever asked, or to programmers of Rust.

use crate::api::Refusal;

/// Words that nobody knows who does not read our code, nor that of what reads for us.
const FOREIGN: &[&str] = &[
    "enum",
    "struct",
    "variant",
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
    "i64",
    "f64",
    "serde",
    "sigil",
    "untagged",
    "option",
    "digit",
    "invalid type",
    "unsupported value",
    "missing field",
    "at line",
    "column",
    "sequence",
    "boolean",
    "utf8",
    "newtype",
    "deserializ",
    "parseint",
    "some(",
    "none",
];

/// Fails where the refusal has such a word.
#[track_caller]
pub(in crate::edge) fn assert_plain(refusal: &Refusal, asked: &str) {
    let said = refusal.message.to_lowercase();
    let foreign: Vec<&&str> = FOREIGN
        .iter()
        .filter(|word| said.contains(**word))
        .collect();
    assert!(foreign.is_empty(), "{asked}: {refusal}: {foreign:?}");
}
