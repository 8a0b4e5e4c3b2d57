//! The hub's end of the operator's socket.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::BufReader,
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    Answer, Operator, PROGRESS_WAITING_MAX, Progress, Request, read_line, short_name, write_line,
};

/// Why the socket cannot be had.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A hub answers there.
    #[error("another hub answers on {}", path.display())]
    Answered {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is there and is no socket; move it away", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Everyone may put a socket of their own there.
    #[error("{0} may be written by others (mode {mode:03o}); run: chmod go-w {0}", path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system says no.
    #[error("`admin.socket`: cannot listen on {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The listening socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
}

impl Server {
    /// Listens at `path`. Call it with the store's lock held: what is left there is then stale.
    pub async fn bind(path: &Path) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Io {
            path: path.to_owned(),
            source,
        };
        prepare_dir(path).map_err(failed)?;
        check_dir(path)?;
        remove_stale(path).await?;
        let (name, _dir) = short_name(path).map_err(failed)?;
        let listener = UnixListener::bind(&name).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let owner = fs::symlink_metadata(path).map_err(failed)?.uid();
        Ok(Self {
            listener,
            path: path.to_owned(),
            owner,
        })
    }

    /// Answers until it is dropped.
    pub async fn run(self, operator: Arc<dyn Operator>) {
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) if self.is_owner(&stream) => {
                    let operator = Arc::clone(&operator);
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, operator).await {
                            tracing::debug!(%error, "the operator's connection broke");
                        }
                        drop(permit);
                    });
                }
                Ok(_) => tracing::warn!("somebody else tried the operator's socket"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the operator's socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The file's mode says the same; this also holds where a directory is more open than ours.
    fn is_owner(&self, stream: &UnixStream) -> bool {
        stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, operator: Arc<dyn Operator>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(request) = next_request(&mut reader, &mut writer).await? {
        answer(request, &*operator, &mut writer).await?;
    }
    Ok(())
}

/// The next request; a line that is none is answered and ends the conversation.
async fn next_request(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<Option<Request>> {
    let wrong = |message: String| Answer::Refused {
        code: "OPERATOR_REQUEST".to_owned(),
        message,
    };
    let line = match timeout(IDLE_MAX, read_line(reader)).await? {
        Ok(Some(line)) => line,
        Ok(None) => return Ok(None),
        Err(error) => {
            write_line(writer, &wrong(error.to_string())).await?;
            return Ok(None);
        }
    };
    match serde_json::from_slice(&line) {
        Ok(request) => Ok(Some(request)),
        // serde's message could repeat a piece of the line, and the line may hold a password.
        Err(error) => {
            let column = error.column();
            let message = format!("not a request this hub knows, at column {column}");
            write_line(writer, &wrong(message)).await?;
            Ok(None)
        }
    }
}

async fn answer(
    request: Request,
    operator: &dyn Operator,
    writer: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let (sender, mut steps) = mpsc::channel(PROGRESS_WAITING_MAX);
    let mut work = operator.ask(request, Progress::to(sender));
    let result = loop {
        tokio::select! {
            biased;
            Some(step) = steps.recv() => write_line(writer, &Answer::Progress(step)).await?,
            result = &mut work => break result,
        }
    };
    drop(work);
    while let Ok(step) = steps.try_recv() {
        write_line(writer, &Answer::Progress(step)).await?;
    }
    let answer = result.map_or_else(Answer::from, Answer::Done);
    write_line(writer, &answer).await
}

fn prepare_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(if dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                dir
            })
    })
}

fn check_dir(path: &Path) -> Result<(), ServerError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let metadata = fs::metadata(dir).map_err(|source| ServerError::Io {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o7777;
    // In a sticky directory such as /tmp others cannot replace what is ours.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(ServerError::OpenDirectory {
            path: dir.to_owned(),
            mode,
        });
    }
    Ok(())
}

async fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let failed = |source| ServerError::Io {
        path: path.to_owned(),
        source,
    };
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ServerError::NotASocket {
            path: path.to_owned(),
        });
    }
    let (name, _dir) = short_name(path).map_err(failed)?;
    if UnixStream::connect(&name).await.is_ok() {
        return Err(ServerError::Answered {
            path: path.to_owned(),
        });
    }
    fs::remove_file(path).map_err(failed)
}

/// Operators at work at the same time; more than one script is already unusual.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may sit between two requests.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// How long to wait when the system is short of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
