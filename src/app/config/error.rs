//! What can be wrong with a configuration: each error names the key, the place and the fix.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable, by its name.
    Env(String),
    /// `-O` on the command line.
    Option,
    /// The hub that runs has it so, and has it from there.
    Running(Box<Self>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Option => f.write_str("-O"),
            Self::Running(from) => write!(f, "{from} of the running hub"),
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration: {source}; name it with --config, or write one with `tramline init SERVER_NAME`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nobody named a file, there is none where one would be, and nothing else says whose hub
    /// this is.
    #[error("no configuration found: {} is not there, and neither --config nor TRAMLINE_CONFIG names another; write one with `tramline init SERVER_NAME`, or name one with --config FILE", path.display())]
    NotFound {
        /// Where it looked.
        path: PathBuf,
    },
    /// The file is no TOML.
    #[error("{at}: not TOML: {message}")]
    Syntax {
        /// The place.
        at: Source,
        /// What the parser says.
        message: String,
    },
    /// There is no such key.
    #[error("{at}: unknown key `{key}`: {fix}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The place.
        at: Source,
        /// What to do about it.
        fix: String,
    },
    /// The value is of the wrong kind or out of bounds.
    #[error("{at}: `{key}` takes {}, found {found}: {fix}", with_article(.expected))]
    WrongValue {
        /// The key.
        key: String,
        /// The place.
        at: Source,
        /// The kind it takes.
        expected: &'static str,
        /// What was there; hidden where the key is a secret.
        found: String,
        /// How to write it.
        fix: String,
    },
    /// A mandatory key has no value.
    #[error("`{key}` has no value: {fix}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to do about it.
        fix: String,
    },
    /// `-O` without `=`.
    #[error("-O {given}: write -O section.key=value")]
    NotAnAssignment {
        /// What was given, up to where it stops being a key.
        given: String,
    },
    /// Two settings that exclude each other.
    #[error("{at}: `{key}` and `{other}` exclude each other: {fix}")]
    Conflict {
        /// The one.
        key: &'static str,
        /// The other.
        other: &'static str,
        /// The place of the one.
        at: Source,
        /// What to do about it.
        fix: String,
    },
}

impl ConfigError {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "CONFIG_UNREADABLE",
            Self::NotFound { .. } => "CONFIG_NOT_FOUND",
            Self::Syntax { .. } => "CONFIG_SYNTAX",
            Self::UnknownKey { .. } => "CONFIG_UNKNOWN_KEY",
            Self::WrongValue { .. } => "CONFIG_WRONG_VALUE",
            Self::Missing { .. } => "CONFIG_MISSING_KEY",
            Self::NotAnAssignment { .. } => "CONFIG_NOT_AN_ASSIGNMENT",
            Self::Conflict { .. } => "CONFIG_CONFLICT",
        }
    }
}

/// Everything that is wrong with a configuration, so that one run tells all of it.
#[derive(Debug, Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            write!(f, "{line}error[{}]: {error}", error.code())?;
        }
        Ok(())
    }
}

/// `a size with its unit`, but `true or false`.
fn with_article(kind: &str) -> String {
    if kind.starts_with('"') || kind.starts_with("true") {
        return kind.to_owned();
    }
    format!("a {kind}")
}
