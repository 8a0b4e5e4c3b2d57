//! Which member of a JSON text stands at a line and column, as `serde_json` counts them.
//!
//! ruma's errors say where, not what; people want `content.via[2]`.

use std::fmt::Write as _;

/// The member that ends at or around that place; nothing for the top level, or without a place.
///
/// `text` is valid JSON. On any other text the answer is of no use, but there is one.
pub(super) fn named(text: &[u8], line: usize, column: usize) -> Option<String> {
    let offset = offset(text, line, column)?;
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
    Some(path(&open)).filter(|path| !path.is_empty())
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

fn path(open: &[Level<'_>]) -> String {
    let mut path = String::new();
    for level in open {
        match level {
            Level::Object { key: Some(key), .. } => {
                let dot = if path.is_empty() { "" } else { "." };
                let key: String = String::from_utf8_lossy(key)
                    .chars()
                    .take(KEY_CHARS_MAX)
                    .collect();
                let _ = write!(path, "{dot}{key}"); // writing to a String cannot fail
            }
            Level::Array { index } => {
                let _ = write!(path, "[{index}]");
            }
            Level::Object { key: None, .. } => {}
        }
    }
    path
}

/// How much of a key is shown, in characters: longer than any of the specification's.
const KEY_CHARS_MAX: usize = 64;
