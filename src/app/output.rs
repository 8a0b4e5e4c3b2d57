//! What a verb prints: text for people or one JSON object per line, on stdout; on stderr notes,
//! and why it failed.
//!
//! Names, topics and reasons come from others and must not steer a terminal: what would is made
//! visible here, whoever forgot to do so before.
//!
//! A reader that goes away (`tramline config | head`) ends the printing, not the program with a
//! panic, as `println!` would.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use serde_json::Value as Json;

use super::failure::Failure;

/// Who reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// People.
    Text,
    /// Programs: one JSON object per line.
    Json,
}

impl Format {
    /// What `--json` asks for.
    pub const fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// Prints one result: `text` for people, `json` for programs.
    pub fn print(self, text: &str, json: &Json) -> Result<(), Failure> {
        match self {
            Self::Text => line(text),
            Self::Json => line(&as_line(json)),
        }
    }

    /// Says on stderr why a verb failed.
    pub fn explain(self, failure: &Failure) {
        match self {
            Self::Text => note(&failure.to_string()),
            Self::Json => note(&as_line(&failure.json())),
        }
    }
}

/// JSON on one line in which also the control characters that JSON would let through are escaped.
fn as_line(json: &Json) -> String {
    let mut line = String::new();
    for c in json.to_string().chars() {
        if steers(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(line, "\\u{unit:04x}"); // writing to a String cannot fail
            }
        } else {
            line.push(c);
        }
    }
    line
}

/// A text on one line, in which what would steer a terminal is made visible: `\n`, `\u{1b}`.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            escape(c, &mut shown);
        } else {
            shown.push(c);
        }
    }
    shown
}

fn escape(c: char, shown: &mut String) {
    if matches!(c, '\n' | '\r' | '\t') {
        shown.extend(c.escape_default());
    } else {
        shown.extend(c.escape_unicode());
    }
}

/// Whether a character moves the cursor, begins a command of the terminal, or turns around or
/// hides what is written beside it. What joins emoji and letters is no such character.
const fn steers(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e001f}')
}

/// Lines and their indentation stay as they are; everything else is made visible.
fn lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) && !matches!(c, '\n' | '\t') {
            escape(c, &mut shown);
        } else {
            shown.push(c);
        }
    }
    shown
}

/// So many of something: `1 room`, `2 rooms`.
pub fn counted(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {one}{plural}")
}

/// The same where the plural is another word.
pub fn counted_as(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Prints a line on stdout and makes sure that it is out.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let text = lines(text.trim_end_matches('\n'));
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed("STDOUT", format!("cannot print: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells a person something on stderr; nobody there is no reason to stop.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", lines(text));
}

/// Tells on stderr what a program has to hear as well.
pub fn tell(format: Format, text: &str) {
    match format {
        Format::Text => note(text),
        Format::Json => note(&as_line(&told(text))),
    }
}

/// A note for a program: without what sets it off for people.
fn told(text: &str) -> Json {
    serde_json::json!({ "note": text.strip_prefix("-- ").unwrap_or(text) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_made_visible() {
        for (text, shown) in [
            ("\u{1b}[2Jhi\nthere", "\\u{1b}[2Jhi\\nthere"),
            ("a\r\tb\u{9b}31m\u{7f}", "a\\r\\tb\\u{9b}31m\\u{7f}"),
            ("\u{202e}evil", "\\u{202e}evil"),
            ("C:\\new é 👩\u{200d}🚀", "C:\\new é 👩\u{200d}🚀"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }

    #[test]
    fn printed_lines_keep_their_breaks_and_nothing_else_that_steers() {
        assert_eq!(lines("a\n\tb\u{1b}[0m"), "a\n\tb\\u{1b}[0m");
    }

    #[test]
    fn a_note_for_a_program_has_the_words_alone() {
        assert_eq!(told("-- it answers"), json!({ "note": "it answers" }));
    }

    #[test]
    fn json_on_a_terminal_steers_nothing_and_reads_back_the_same() {
        let json = json!({"body": "\u{9b}31m\u{1b}[0m\u{202e}\u{e0001}é"});

        let line = as_line(&json);

        assert!(!line.chars().any(steers), "{line}");
        assert_eq!(serde_json::from_str::<Json>(&line).unwrap(), json);
    }
}
