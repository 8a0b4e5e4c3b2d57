//! How a verb ends when it does not do what was asked: exit code, stable code, reason.

use std::{fmt, process::ExitCode};

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
    /// What stands on stderr: one `error[CODE]: reason` per line.
    lines: String,
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

    fn with(exit: Exit, code: &str, reason: impl fmt::Display) -> Self {
        Self {
            exit,
            lines: format!("error[{code}]: {reason}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines)
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self {
            exit: Exit::Usage,
            lines: errors.to_string(),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::failed(refusal.code.errcode(), &refusal.message)
    }
}
