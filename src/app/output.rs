//! What a verb prints: text for people or one JSON object per line, on stdout.
//!
//! A reader that goes away (`tramline config | head`) ends the printing, not the program with a
//! panic, as `println!` would.

use std::io::{self, Write as _};

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
            Self::Json => line(&json.to_string()),
        }
    }
}

/// Prints a line on stdout and makes sure that it is out.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed("STDOUT", format!("cannot print: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells a person something on stderr; nobody there is no reason to stop.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
