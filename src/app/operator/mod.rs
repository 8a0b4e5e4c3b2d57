//! The operator's socket: a Unix socket in the hub's directory that only its owner may use.
//!
//! One JSON object per line. The operator's program sends a [`Request`]; the hub answers with
//! any number of [`Answer::Progress`] and then one [`Answer::Done`] or [`Answer::Refused`]. A
//! connection carries one request after the other. The protocol is private to one release: both
//! ends are this program.

mod client;
mod server;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};

pub use client::{Client, ClientError};
pub use server::{Server, ServerError};

use super::secrets::Secret;
use crate::api::Refusal;

/// What an operator's verb asks of the hub, running or opened for the purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you, and how are you?
    Status,
    /// Make an account.
    AddUser {
        /// Its localpart.
        localpart: String,
        /// Its password.
        password: Secret,
        /// Whether it is an operator's.
        admin: bool,
    },
    /// Tell the accounts, a page at a time.
    ListUsers {
        /// The user id that the page before ended with.
        after: Option<OwnedUserId>,
    },
    /// Give an account another password and end all its sessions.
    SetPassword {
        /// Its localpart.
        localpart: String,
        /// The password.
        password: Secret,
    },
    /// End all sessions of an account and let nobody log in to it.
    DisableUser {
        /// Its localpart.
        localpart: String,
    },
    /// Make a device of an account and link it.
    LinkDevice {
        /// Its account's localpart.
        localpart: String,
        /// Its id.
        device: String,
        /// Its EDHOC public key, x coordinate, in hex.
        edhoc_public: String,
        /// Its QUIC public key as `SubjectPublicKeyInfo`, in hex.
        quic_spki: String,
        /// Whether it orders notifications by the outer Observe option.
        outer_observe_counted: bool,
    },
    /// End a device on every door.
    RemoveDevice {
        /// Its account's localpart.
        localpart: String,
        /// Its id.
        device: String,
    },
    /// Tell the devices of an account.
    ListDevices {
        /// Its localpart.
        localpart: String,
    },
    /// Tell how other servers take what is for them, a page at a time.
    ListPeers {
        /// Only this one.
        server: Option<OwnedServerName>,
        /// The server that the page before ended with.
        after: Option<OwnedServerName>,
    },
    /// Tell why a request was refused.
    Explain {
        /// Its id.
        id: String,
    },
    /// Tell what was refused lately.
    RecentRefusals,
    /// Tell the rooms in which events are missing that were not to be had.
    ListGaps,
    /// Tell the settings that count, a page at a time.
    Settings {
        /// The key that the page before ended with.
        after: Option<String>,
    },
    /// Let somebody log in again.
    EnableUser {
        /// Its localpart.
        localpart: String,
    },
}

/// What the hub answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How far it is.
    Progress(Json),
    /// It is done; this is the result.
    Done(Json),
    /// It is not done, and this is why.
    Refused {
        /// The stable code.
        code: String,
        /// The reason.
        message: String,
    },
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused {
            code: refusal.code.errcode().to_owned(),
            message: refusal.message,
        }
    }
}

/// Whoever does what operators ask.
#[async_trait]
pub trait Operator: Send + Sync + 'static {
    /// Does it; long work tells its progress.
    async fn ask(&self, request: Request, progress: Progress) -> Result<Json, Refusal>;
}

/// Where long work says how far it is.
#[derive(Clone, Debug)]
pub struct Progress(Option<mpsc::Sender<Json>>);

impl Progress {
    /// Progress that nobody watches.
    pub const fn unwatched() -> Self {
        Self(None)
    }

    /// Progress that goes into a channel.
    pub const fn to(sender: mpsc::Sender<Json>) -> Self {
        Self(Some(sender))
    }

    /// Says how far it is. A watcher who does not keep up misses some of it.
    pub fn tell(&self, how_far: Json) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(how_far);
        }
    }
}

/// The longest line on the socket, in bytes: a request is a few hundred, an answer a few thousand.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// How much progress may wait to be sent.
const PROGRESS_WAITING_MAX: usize = 16;

/// Reads one line; none at the end of the stream.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = reader
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if read as u64 == LINE_BYTES_MAX => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("a line is longer than {LINE_BYTES_MAX} bytes"),
        )),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn write_line(
    writer: &mut (impl AsyncWrite + Unpin),
    value: &impl Serialize,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await
}

/// A way to name the socket that fits the 107 bytes the system has for it.
///
/// A deep directory does not fit; an open handle on it, named through /proc, always does. The
/// handle has to live as long as the name is used.
fn short_name(path: &Path) -> io::Result<(PathBuf, Option<std::fs::File>)> {
    use std::os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _};

    if path.as_os_str().as_bytes().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok((path.to_owned(), None));
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let dir = std::fs::File::open(dir)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    Ok((through.join(name), Some(dir)))
}

/// `sun_path` without its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
