//! Which member of a JSON text stands at a line and column, as `serde_json` counts them.
//!
//! ruma's errors say where, and not always that; people want `content.via[2]`.

use std::fmt::Write as _;

use crate::wire::STEPS_TOLD_MAX;

/// One step into a JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The way to the member that ends at or around that place; empty for the top level.
///
/// `text` is valid JSON. On any other text the answer is of no use, but there is one. In a list it may
/// be the item behind the one that is meant: `serde_json` looks for the end of the list before it
/// counts.
pub(super) fn steps(text: &[u8], line: usize, column: usize) -> Vec<Step> {
    let Some(offset) = offset(text, line, column) else {
        return Vec::new();
    };
    let mut open: Vec<Level<'_>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at).filter(|_| at < offset) {
        match byte {
            b'{' => open.push(Level::Object {
                key: None,
                reading_key: true,
            }),
            b'[' => open.push(Level::Array { index: 0 }),
            b'}' | b']' => drop(open.pop()),
            b',' => match open.last_mut() {
                Some(Level::Object { reading_key, .. }) => *reading_key = true,
                Some(Level::Array { index }) => *index += 1,
                None => {}
            },
            b'"' => {
                let end = string_end(text, at);
                if let Some(Level::Object {
                    key,
                    reading_key: reading_key @ true,
                }) = open.last_mut()
                {
                    *key = text.get(at + 1..end);
                    *reading_key = false;
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    let steps = open.iter().filter_map(|level| match level {
        Level::Object { key, .. } => {
            let key = serde_json::from_slice(&quoted((*key)?));
            Some(Step::Key(key.unwrap_or_default()))
        }
        Level::Array { index } => Some(Step::Index(*index)),
    });
    steps.collect()
}

/// The key as it stood.
fn quoted(key: &[u8]) -> Vec<u8> {
    [b"\"", key, b"\""].concat()
}

enum Level<'a> {
    Object {
        key: Option<&'a [u8]>,
        reading_key: bool,
    },
    Array {
        index: usize,
    },
}

/// The byte at a line and column, both counted from 1; a column of 0 is the line's start.
fn offset(text: &[u8], line: usize, column: usize) -> Option<usize> {
    let mut start = 0;
    for _ in 1..line.max(1) {
        let rest = text.get(start..)?;
        start += rest.iter().position(|&byte| byte == b'\n')? + 1;
    }
    (line > 0).then_some(start + column)
}

/// The index of the quote that closes the string opened at `start`.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

/// `content.via[2]`.
pub(super) fn path(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps.iter().take(STEPS_TOLD_MAX) {
        match step {
            Step::Key(key) => {
                let dot = if path.is_empty() { "" } else { "." };
                let key: String = key.chars().take(KEY_CHARS_MAX).collect();
                let _ = write!(path, "{dot}{key}"); // writing to a String cannot fail
            }
            Step::Index(index) => {
                let _ = write!(path, "[{index}]");
            }
        }
    }
    if steps.len() > STEPS_TOLD_MAX {
        path.push('…');
    }
    path
}

/// How much of a key is shown, in characters: longer than any of the specification's.
const KEY_CHARS_MAX: usize = 64;
