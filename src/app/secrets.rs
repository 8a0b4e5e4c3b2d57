//! Secrets: a type that does not show itself, and reading them from files.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::config::FilePath;

/// A string that must not reach a log, a terminal or an error message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the string.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The string itself, for whoever needs it now.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `other` is the same, in a time that does not tell where they differ.
    pub fn matches(&self, other: &str) -> bool {
        let (a, b) = (self.0.as_bytes(), other.as_bytes());
        let differing = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
        a.len() == b.len() && std::hint::black_box(differing) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret could not be read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file holds nothing.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is too long to be a secret.
    #[error("{} is longer than {SECRET_BYTES_MAX} bytes; is it the right file?", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Anyone on this machine may replace the secret.
    #[error("{0} may be written by everyone (mode {mode:03o}); run: chmod 600 {0}", path.display())]
    WritableByAll {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl SecretError {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "SECRET_UNREADABLE",
            Self::Empty { .. } => "SECRET_EMPTY",
            Self::TooLong { .. } => "SECRET_TOO_LONG",
            Self::WritableByAll { .. } => "SECRET_WRITABLE_BY_ALL",
        }
    }
}

/// Reads a secret: the file's text without the line end.
///
/// A file that others may read is only warned of: container secrets come that way (mode 0444),
/// and there are no others there. One that others may write is refused.
pub fn read_file(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |source| SecretError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o777;
    // A pipe or a terminal (`--password-file <(…)`) is not a place where a secret lies around.
    if metadata.is_file() {
        if mode & 0o002 != 0 {
            return Err(SecretError::WritableByAll {
                path: path.to_owned(),
                mode,
            });
        }
        if mode & 0o004 != 0 {
            tracing::warn!(path = %path.display(), "everyone on this machine may read this secret");
        }
    }
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong {
            path: path.to_owned(),
        });
    }
    match text.trim_end_matches(['\n', '\r']) {
        "" => Err(SecretError::Empty {
            path: path.to_owned(),
        }),
        secret => Ok(Secret::new(secret)),
    }
}

/// The secret of a pair of settings: the one given directly, else the one in the file.
pub fn resolve(
    direct: Option<&Secret>,
    file: Option<&FilePath>,
) -> Result<Option<Secret>, SecretError> {
    match (direct, file) {
        (Some(secret), _) => Ok(Some(secret.clone())),
        (None, Some(path)) => read_file(path.as_ref()).map(Some),
        (None, None) => Ok(None),
    }
}

/// The longest secret, in bytes: a key in PEM fits many times.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[test]
    fn a_secret_matches_only_itself() {
        let secret = Secret::new("hunter2");

        assert!(secret.matches("hunter2"));
        assert!(!secret.matches("hunter3"));
        assert!(!secret.matches("hunter"));
        assert!(!secret.matches(""));
    }

    #[test]
    fn a_secret_is_the_file_without_its_line_end() {
        let file = file("pass word \r\n", 0o600);

        assert_eq!(read_file(file.path()).unwrap().reveal(), "pass word ");
    }

    #[test]
    fn a_secret_that_everyone_may_replace_is_refused() {
        let file = file("x", 0o646);

        let refusal = read_file(file.path()).unwrap_err();

        assert_eq!(refusal.code(), "SECRET_WRITABLE_BY_ALL");
        assert!(refusal.to_string().contains("chmod 600"), "{refusal}");
    }

    #[test]
    fn a_container_secret_that_all_may_read_is_taken() {
        assert!(read_file(file("x", 0o444).path()).is_ok());
    }

    #[test]
    fn an_empty_or_endless_file_is_no_secret() {
        assert_eq!(
            read_file(file("\n", 0o600).path()).unwrap_err().code(),
            "SECRET_EMPTY"
        );
        assert_eq!(
            read_file(Path::new("/dev/zero")).unwrap_err().code(),
            "SECRET_TOO_LONG"
        );
    }
}
