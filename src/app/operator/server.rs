//! The hub's end of the operator's socket.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::BufReader,
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
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
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let lobby = Arc::new(Lobby::default());
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if self.is_owner(&stream) => {
                    let Some(place) = place(&places, &lobby).await else {
                        return;
                    };
                    let (operator, lobby) = (Arc::clone(&operator), Arc::clone(&lobby));
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, operator, &lobby).await {
                            tracing::debug!(%error, "the operator's connection broke");
                        }
                        drop(place);
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

/// A place for whoever came: a free one, or that of the connection which has asked nothing for
/// longest. When all are at work, the first that is done.
async fn place(places: &Arc<Semaphore>, lobby: &Lobby) -> Option<OwnedSemaphorePermit> {
    if let Ok(free) = Arc::clone(places).try_acquire_owned() {
        return Some(free);
    }
    lobby.dismiss_the_first();
    Arc::clone(places).acquire_owned().await.ok()
}

/// The connections that ask nothing at the moment, in the order in which they fell silent.
#[derive(Default)]
struct Lobby(Mutex<Silent>);

#[derive(Default)]
struct Silent {
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

impl Lobby {
    /// Waits for `request`; none when the place is needed for somebody else. A request that has
    /// been read is always answered.
    async fn wait<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        let dismissed = Arc::new(Notify::new());
        let turn = self.enter(Arc::clone(&dismissed));
        let request = tokio::select! {
            request = request => request,
            () = dismissed.notified() => return None,
        };
        self.leave(turn).then_some(request)
    }

    fn enter(&self, dismissed: Arc<Notify>) -> u64 {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = silent.next;
        silent.next += 1;
        silent.waiting.insert(turn, dismissed);
        turn
    }

    /// Whether it was still there.
    fn leave(&self, turn: u64) -> bool {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        silent.waiting.remove(&turn).is_some()
    }

    fn dismiss_the_first(&self) {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, first)) = silent.waiting.pop_first() {
            first.notify_one();
        }
    }
}

async fn converse(
    stream: UnixStream,
    operator: Arc<dyn Operator>,
    lobby: &Lobby,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(request) = next_request(&mut reader, &mut writer, lobby).await? {
        answer(request, &*operator, &mut writer).await?;
    }
    Ok(())
}

/// The next request; a line that is none is answered and ends the conversation.
async fn next_request(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    lobby: &Lobby,
) -> io::Result<Option<Request>> {
    let wrong = |message: String| Answer::Refused {
        code: "OPERATOR_REQUEST".to_owned(),
        message,
    };
    let read = lobby.wait(timeout(IDLE_MAX, read_line(reader))).await;
    let Some(read) = read else {
        return Ok(None);
    };
    let line = match read? {
        Ok(Some(line)) => line,
        Ok(None) => return Ok(None),
        Err(error) => {
            tell(writer, &wrong(error.to_string())).await?;
            return Ok(None);
        }
    };
    match serde_json::from_slice(&line) {
        Ok(request) => Ok(Some(request)),
        // serde's message could repeat a piece of the line, and the line may hold a password.
        Err(error) => {
            let column = error.column();
            let message = format!("not a request this hub knows, at column {column}");
            tell(writer, &wrong(message)).await?;
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
            Some(step) = steps.recv() => tell(writer, &Answer::Progress(step)).await?,
            result = &mut work => break result,
        }
    };
    drop(work);
    while let Ok(step) = steps.try_recv() {
        tell(writer, &Answer::Progress(step)).await?;
    }
    let answer = result.map_or_else(Answer::from, Answer::Done);
    tell(writer, &answer).await
}

/// Says something to who may have stopped reading.
async fn tell(writer: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    timeout(WRITE_MAX, write_line(writer, answer)).await?
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
pub(super) const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take to send a request, the first as any other: a program on this
/// machine has it ready when it connects.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// How long a line may wait for an operator's program that does not read.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long to wait when the system is short of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
