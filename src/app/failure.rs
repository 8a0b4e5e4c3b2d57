//! How a verb ends when it does not do what was asked: exit code, stable code, reason.

use std::{fmt, process::ExitCode};

use serde_json::{Value as Json, json};

use super::config::ConfigErrors;
use crate::api::Refusal;

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Refused or failed.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// The store belongs to another version, program or running process.
    Store = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a verb did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the exit code says.
    pub exit: Exit,
    /// Everything that was wrong; never empty.
    reasons: Vec<Reason>,
}

/// One thing that was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reason {
    code: String,
    message: String,
}

impl Failure {
    /// Refused or failed: exit code 1.
    pub fn failed(code: &str, reason: impl fmt::Display) -> Self {
        Self::with(Exit::Failed, code, reason)
    }

    /// Wrong usage or configuration: exit code 2.
    pub fn usage(code: &str, reason: impl fmt::Display) -> Self {
        Self::with(Exit::Usage, code, reason)
    }

    /// The store is somebody else's: exit code 3.
    pub fn store(code: &str, reason: impl fmt::Display) -> Self {
        Self::with(Exit::Store, code, reason)
    }

    /// Both, so that one run tells all of it; the exit code is this one's.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.reasons.extend(other.reasons);
        self
    }

    fn with(exit: Exit, code: &str, reason: impl fmt::Display) -> Self {
        let reason = Reason {
            code: code.to_owned(),
            message: reason.to_string(),
        };
        Self {
            exit,
            reasons: vec![reason],
        }
    }

    /// The same for a program: one object. Where several things were wrong, `code` is the first
    /// one's, `message` has them all, and `errors` has each.
    pub fn json(&self) -> Json {
        let messages: Vec<_> = self.reasons.iter().map(|r| r.message.as_str()).collect();
        let mut error = json!({
            "code": self.reasons.first().map(|reason| &reason.code),
            "message": messages.join("\n"),
        });
        if let (Some(error), true) = (error.as_object_mut(), self.reasons.len() > 1) {
            let each = |r: &Reason| json!({"code": r.code, "message": r.message});
            let all: Vec<_> = self.reasons.iter().map(each).collect();
            error.insert("errors".to_owned(), all.into());
        }
        json!({ "error": error })
    }
}

/// What stands on stderr: one `error[CODE]: reason` per line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Reason { code, message }) in self.reasons.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            write!(f, "{line}error[{code}]: {message}")?;
        }
        Ok(())
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        let reason = |error: &super::config::ConfigError| Reason {
            code: error.code().to_owned(),
            message: error.to_string(),
        };
        Self {
            exit: Exit::Usage,
            reasons: errors.0.iter().map(reason).collect(),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::failed(refusal.code.errcode(), &refusal.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_is_one_line_or_one_object() {
        let failure = Failure::failed("M_NOT_FOUND", "there is none");

        assert_eq!(failure.to_string(), "error[M_NOT_FOUND]: there is none");
        let expected = json!({"error": {"code": "M_NOT_FOUND", "message": "there is none"}});
        assert_eq!(failure.json(), expected);
    }

    #[test]
    fn several_reasons_are_several_lines_and_still_one_object() {
        let failure = Failure::usage("ONE", "first").and(Failure::failed("TWO", "second"));

        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.to_string(), "error[ONE]: first\nerror[TWO]: second");
        let expected = json!({"error": {"code": "ONE", "message": "first\nsecond",
            "errors": [{"code": "ONE", "message": "first"}, {"code": "TWO", "message": "second"}]}});
        assert_eq!(failure.json(), expected);
    }
}
