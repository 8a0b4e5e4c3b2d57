//! `FILE.state/`: what changes with use, beside the credential file FILE.
//!
//! Locked while it is open: a second use at the same time would send two messages under one
//! number. Every change is on the disk before it has an effect.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{disk::Disk, nat::NatTimer};
use crate::{
    client::{Credentials, OscoreKeys},
    session::oscore::{DeriveError, Id, Parameters, SecurityContext},
    wire::thin::{Alias, LinkProfile, NameKind},
};

/// The version of `state.json`.
const VERSION: u32 = 1;

/// Names kept, of each kind: a device knows the people of its rooms, not of the world.
pub const NAMES_MAX: usize = 4096;

/// What changes with use.
#[derive(Clone, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// SHA-256 of the OSCORE section that this began with: with another one, it is another link.
    made_for: String,
    /// The context in use: that of the credential file, until a fresh one was agreed.
    oscore: OscoreKeys,
    /// Numbers below may have been used.
    sequence_below: u64,
    /// The last draft's number.
    counter: u64,
    /// The hub's generation; aliases are void in another one.
    #[serde(default)]
    generation: Option<String>,
    #[serde(default)]
    rooms: BTreeMap<Alias, String>,
    #[serde(default)]
    users: BTreeMap<Alias, String>,
    #[serde(default)]
    event_types: BTreeMap<Alias, String>,
    /// What rooms are called of which that alone is known, by their aliases.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    called: BTreeMap<Alias, String>,
    /// What was dealt with, without a gap, per room.
    #[serde(default)]
    pub through: BTreeMap<Alias, u64>,
    /// The last record of all rooms that was dealt with.
    #[serde(default)]
    pub inbox: Option<(Alias, u64)>,
    /// The class of the link that the hub was told, and kilobytes per day.
    #[serde(default)]
    link: (u8, u64),
    /// What is known of the NAT in front of us.
    #[serde(default)]
    pub nat: NatTimer,
    /// What rooms are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) titles: Option<Titles>,
    /// What was said of rooms by their ids, where nothing else is known of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) noted: BTreeMap<String, NotedRoom>,
    /// When the hub last said that it does not know this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unlinked_ms: Option<u64>,
}

/// What was said of a room in passing: in an invitation, or by whoever joined it by its alias.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedRoom {
    /// Its name, empty where none was said.
    pub name: String,
    /// An alias of it, empty where none was said.
    pub alias: String,
    /// What the user was to it last: `invite`, `join`, `leave`.
    pub membership: String,
}

/// What rooms are called, as it was told at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Titles {
    pub(super) told_ms: u64,
    /// By the room's id: its name and its main alias, empty where it has none.
    pub(super) rooms: BTreeMap<String, (String, String)>,
    /// Rooms that the user is invited to, or has asked to join.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) open: BTreeMap<String, OpenRoom>,
}

/// A room that the user is not in yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRoom {
    /// Its name, empty where it has none.
    pub name: String,
    /// Its main alias, empty where it has none.
    pub alias: String,
    /// Who invites; none where the user has asked to join.
    pub inviter: Option<String>,
    /// What the user is to it: `invite` or `knock`.
    pub membership: String,
}

/// Why the state of a credential file cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// It cannot be read or written.
    #[error("{path}: {}", crate::client::plain::io(.source))]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "{path} is in use by another process: one device speaks with one voice; end that one first (a `sync --follow` with Ctrl-C), or link another device for this"
    )]
    Locked {
        /// The directory.
        path: String,
    },
    /// It is not what this program wrote.
    #[error("{path} is not a device's state: {source}")]
    Format {
        /// The file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// It is of another version.
    #[error("{path} has version {found}; this program reads version {VERSION}")]
    Version {
        /// The file.
        path: String,
        /// What it says.
        found: u32,
    },
    /// It is not there: which numbers were used is unknown, and none may be used twice.
    #[error(
        "{path} is gone, and with it which numbers were used: a fresh context must be agreed. Bring the directory back from where the credential file came, or link the device anew"
    )]
    Gone {
        /// The directory.
        path: String,
    },
    /// It belongs to another link.
    #[error(
        "{path} belongs to another link than the credential file: move it away and link the device anew"
    )]
    OtherLink {
        /// The directory.
        path: String,
    },
    /// It is there already.
    #[error("{path} is there already: a context in use does not begin again")]
    Begun {
        /// The directory.
        path: String,
    },
    /// The credential file has no OSCORE section.
    #[error("the credential file has no oscore section: link the device first")]
    NotLinked,
    /// What the credential file says is no context.
    #[error("the oscore section: {0}")]
    Context(#[from] ContextError),
    /// A message is too long.
    #[error("a message has at most {max} bytes")]
    TooLong {
        /// How many it may have.
        max: usize,
    },
    /// A ceiling of this program's.
    #[error("{what}: at most {max}")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
}

/// Why an OSCORE section is no context.
#[derive(Debug, Error)]
pub enum ContextError {
    /// A field is not hex, or too long.
    #[error("`{0}` is not what it should be")]
    Field(&'static str),
    /// An algorithm this program does not have.
    #[error("`{field}` is {found:?}; this program has {wanted}")]
    Algorithm {
        /// Which.
        field: &'static str,
        /// What it says.
        found: String,
        /// What there is.
        wanted: &'static str,
    },
    /// No keys come of it.
    #[error(transparent)]
    Derive(#[from] DeriveError),
}

/// The state of one credential file, locked for as long as this lives.
pub struct StateDir {
    dir: PathBuf,
    disk: Disk,
    state: State,
    _lock: File,
}

impl StateDir {
    /// Where the state of a credential file is. A link to the file is the file.
    pub fn path_of(file: &Path) -> PathBuf {
        let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let mut name = file.into_os_string();
        name.push(".state");
        name.into()
    }

    /// Begins the state of a context that nobody has used: when the credential file is made, and
    /// only then.
    pub fn begin(file: &Path, credentials: &Credentials) -> Result<Self, StateError> {
        let keys = credentials.oscore.as_ref().ok_or(StateError::NotLinked)?;
        parameters(keys, |_| ())?;
        let dir = Self::path_of(file);
        let io = |source| io_error(&dir, source);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(io)?;
        let lock = lock(&dir)?;
        if dir.join(STATE).exists() {
            return Err(StateError::Begun {
                path: dir.display().to_string(),
            });
        }
        let state = State {
            version: VERSION,
            made_for: fingerprint(keys),
            oscore: keys.clone(),
            sequence_below: 0,
            counter: 0,
            generation: None,
            rooms: BTreeMap::new(),
            users: BTreeMap::new(),
            event_types: BTreeMap::new(),
            called: BTreeMap::new(),
            through: BTreeMap::new(),
            inbox: None,
            link: (0, 0),
            nat: NatTimer::default(),
            titles: None,
            noted: BTreeMap::new(),
            unlinked_ms: None,
        };
        let begun = Self {
            dir,
            disk: Disk::default(),
            state,
            _lock: lock,
        };
        begun.save(&begun.state)?;
        Ok(begun)
    }

    /// Begins again where the state is lost: which numbers were used is unknown, so none is left,
    /// and the context is good only for being replaced. Drafts are numbered from `counter` on.
    pub fn begin_without_numbers(
        file: &Path,
        credentials: &Credentials,
        counter: u64,
    ) -> Result<Self, StateError> {
        let mut begun = Self::begin(file, credentials)?;
        begun.change(|state| {
            state.sequence_below = u64::MAX;
            state.counter = counter;
        })?;
        Ok(begun)
    }

    /// Opens the state, for this process alone.
    pub fn open(file: &Path, credentials: &Credentials) -> Result<Self, StateError> {
        Self::open_on(file, credentials, Disk::default())
    }

    pub(super) fn open_on(
        file: &Path,
        credentials: &Credentials,
        disk: Disk,
    ) -> Result<Self, StateError> {
        let keys = credentials.oscore.as_ref().ok_or(StateError::NotLinked)?;
        let dir = Self::path_of(file);
        let path = dir.join(STATE);
        let gone = || StateError::Gone {
            path: dir.display().to_string(),
        };
        if !dir.is_dir() {
            return Err(gone());
        }
        let lock = lock(&dir)?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone()),
            Err(error) => return Err(io_error(&path, error)),
        };
        let state = read(&path, &text)?;
        if state.made_for != fingerprint(keys) {
            return Err(StateError::OtherLink {
                path: dir.display().to_string(),
            });
        }
        Ok(Self {
            dir,
            disk,
            state,
            _lock: lock,
        })
    }

    /// What there is.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn disk(&self) -> Disk {
        self.disk.clone()
    }

    /// The context, which goes on above every number that may have been used.
    pub fn context(&self) -> Result<SecurityContext, StateError> {
        let below = self.state.sequence_below;
        let made = parameters(&self.state.oscore, |parameters| {
            SecurityContext::resumed(parameters, below)
        })?;
        Ok(made.map_err(ContextError::Derive)?)
    }

    /// Changes the state, durably, or not at all.
    pub fn change(&mut self, change: impl FnOnce(&mut State)) -> Result<(), StateError> {
        let mut changed = self.state.clone();
        change(&mut changed);
        self.save(&changed)?;
        self.state = changed;
        Ok(())
    }

    /// Allows numbers below `ceiling`. None of them may be used before this is done.
    pub fn reserve(&mut self, ceiling: u64) -> Result<(), StateError> {
        self.change(|state| state.sequence_below = state.sequence_below.max(ceiling))
    }

    /// A number for a draft, never given before and never given again.
    pub fn next_counter(&mut self) -> Result<u64, StateError> {
        self.change(|state| state.counter = state.counter.saturating_add(1))?;
        Ok(self.state.counter)
    }

    /// A fresh context was agreed, of which numbers below `sequence_below` may have been used.
    pub fn renew(&mut self, keys: OscoreKeys, sequence_below: u64) -> Result<(), StateError> {
        parameters(&keys, |_| ())?;
        self.change(|state| {
            state.oscore = keys;
            state.sequence_below = sequence_below;
        })
    }

    /// What the hub says of itself. Aliases of another generation are void.
    pub fn met(&mut self, generation: [u8; 8]) -> Result<(), StateError> {
        let said = hex::encode(generation);
        if self.state.generation.as_ref() == Some(&said) {
            return Ok(());
        }
        self.change(|state| {
            if state.generation.replace(said).is_some() {
                state.rooms.clear();
                state.users.clear();
                state.event_types.clear();
                state.called.clear();
                state.through.clear();
                state.inbox = None;
            }
        })
    }

    /// Keeps what names stand for.
    pub fn named(
        &mut self,
        names: impl IntoIterator<Item = (NameKind, Alias, String)>,
    ) -> Result<(), StateError> {
        let mut changed = self.state.clone();
        for (kind, alias, text) in names {
            let of_kind = changed.names_mut(kind);
            // The oldest were named for a room that is long quiet; they are asked for again.
            if of_kind.len() >= NAMES_MAX && !of_kind.contains_key(&alias) {
                of_kind.pop_first();
            }
            of_kind.insert(alias, text);
        }
        self.save(&changed)?;
        self.state = changed;
        Ok(())
    }

    fn save(&self, state: &State) -> Result<(), StateError> {
        let path = self.dir.join(STATE);
        let text = serde_json::to_vec(state).expect("a struct of strings and numbers is JSON");
        let saved = self.disk.replace(&path, &text);
        saved.map_err(|source| io_error(&path, source))
    }
}

impl State {
    /// What an alias stands for.
    pub fn name(&self, kind: NameKind, alias: Alias) -> Option<&str> {
        let names = match kind {
            NameKind::Room => &self.rooms,
            NameKind::User => &self.users,
            NameKind::EventType => &self.event_types,
            NameKind::RoomName => &self.called,
        };
        names.get(&alias).map(String::as_str)
    }

    /// The alias of a name.
    pub fn alias(&self, kind: NameKind, text: &str) -> Option<Alias> {
        let names = match kind {
            NameKind::Room => &self.rooms,
            NameKind::User => &self.users,
            NameKind::EventType => &self.event_types,
            NameKind::RoomName => &self.called,
        };
        let found = names.iter().find(|(_, name)| *name == text);
        found.map(|(alias, _)| *alias)
    }

    fn names_mut(&mut self, kind: NameKind) -> &mut BTreeMap<Alias, String> {
        match kind {
            NameKind::Room => &mut self.rooms,
            NameKind::User => &mut self.users,
            NameKind::EventType => &mut self.event_types,
            NameKind::RoomName => &mut self.called,
        }
    }

    /// A room is called this now; an empty name is none.
    pub(super) fn call(&mut self, room: Alias, name: String) {
        if name.is_empty() {
            self.called.remove(&room);
        } else if self.called.len() < NAMES_MAX || self.called.contains_key(&room) {
            self.called.insert(room, name);
        }
    }

    /// What the hub was told of the link.
    pub const fn link(&self) -> LinkProfile {
        LinkProfile {
            class: self.link.0,
            daily_kilobytes: self.link.1,
        }
    }

    /// The hub was told this of the link.
    pub const fn set_link(&mut self, link: LinkProfile) {
        self.link = (link.class, link.daily_kilobytes);
    }

    /// What the device is to be called by in its next context: nothing its context now has.
    pub(super) fn recipient_id(&self) -> Option<Id> {
        Id::new(&hex::decode(&self.oscore.recipient_id).ok()?)
    }

    /// The hub's generation.
    pub(super) fn generation(&self) -> Option<&str> {
        self.generation.as_deref()
    }

    /// Whether the hub has been spoken to.
    pub const fn has_met(&self) -> bool {
        self.generation.is_some()
    }

    /// The last draft's number.
    pub const fn counter(&self) -> u64 {
        self.counter
    }
}

const STATE: &str = "state.json";

fn lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| io_error(&path, source))?;
    // A program that is just being started from this process holds our open files for a moment, and
    // with them a lock that was given back.
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(source)) => return Err(io_error(&path, source)),
        }
    }
    Err(StateError::Locked {
        path: dir.display().to_string(),
    })
}

/// How often the lock is tried, and how long in between: a tenth of a second in all.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

fn read(path: &Path, text: &[u8]) -> Result<State, StateError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let format = |source| StateError::Format {
        path: path.display().to_string(),
        source,
    };
    let Versioned { version } = serde_json::from_slice(text).map_err(format)?;
    if version != VERSION {
        return Err(StateError::Version {
            path: path.display().to_string(),
            found: version,
        });
    }
    serde_json::from_slice(text).map_err(format)
}

fn fingerprint(keys: &OscoreKeys) -> String {
    let text = serde_json::to_vec(keys).expect("a struct of strings is JSON");
    hex::encode(Sha256::digest(text))
}

/// A context that nobody has used.
pub(super) fn fresh_context(keys: &OscoreKeys) -> Result<SecurityContext, StateError> {
    let made = parameters(keys, |parameters| SecurityContext::resumed(parameters, 0))?;
    Ok(made.map_err(ContextError::Derive)?)
}

/// Lends the keys as the session layer wants them.
fn parameters<T>(
    keys: &OscoreKeys,
    with: impl FnOnce(&Parameters<'_>) -> T,
) -> Result<T, ContextError> {
    let algorithms = [
        ("aead", &keys.aead, "AES-CCM-16-64-128"),
        ("hkdf", &keys.hkdf, "SHA-256"),
    ];
    for (field, found, wanted) in algorithms {
        if found != wanted {
            let found = found.clone();
            return Err(ContextError::Algorithm {
                field,
                found,
                wanted,
            });
        }
    }
    let bytes = |field, text: &str| hex::decode(text).map_err(|_| ContextError::Field(field)); // no more is told of secrets
    let id = |field, text: &str| {
        let bytes = bytes(field, text)?;
        Id::new(&bytes).ok_or(ContextError::Field(field))
    };
    let secret = bytes("master_secret", &keys.master_secret)?;
    let salt = bytes("master_salt", &keys.master_salt)?;
    let id_context = keys.id_context.as_deref();
    let id_context = id_context
        .map(|text| bytes("id_context", text))
        .transpose()?;
    let mut parameters = Parameters::new(
        &secret,
        id("sender_id", &keys.sender_id)?,
        id("recipient_id", &keys.recipient_id)?,
    );
    parameters.master_salt = &salt;
    parameters.id_context = id_context.as_deref();
    Ok(with(&parameters))
}

pub(super) fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io {
        path: path.display().to_string(),
        source,
    }
}
