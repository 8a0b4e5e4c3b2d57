//! The offline queue: drafts that no answer has come for, on the disk, in order.
//!
//! A draft is queued before it is sent, with its number and its exact bytes; what is encrypted is
//! encrypted already. It leaves the queue when the hub has answered. Sent twice, it is the same
//! draft to the hub, and the first answer counts.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    disk::{self, Disk},
    state::{StateDir, StateError, io_error},
};

/// Drafts that may wait: more than anyone writes while offline.
pub const DRAFTS_MAX: usize = 1000;

/// The largest draft, in bytes: an event's ceiling.
pub const DRAFT_BYTES_MAX: usize = 65_536;

/// A draft that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// The room's id: aliases may change before it is sent.
    pub room: String,
    /// The draft, encoded; never made anew.
    #[serde(with = "in_hex")]
    pub draft: Vec<u8>,
    /// When it was written, milliseconds since 1970.
    pub at_ms: u64,
}

/// All that wait, by their numbers.
pub struct Queue {
    dir: PathBuf,
    disk: Disk,
    drafts: BTreeMap<u64, Queued>,
}

impl Queue {
    /// The queue of a state, which must be open: its lock is this one's too.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        let dir = state.dir().join("queue");
        let io = |source| io_error(&dir, source);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(io)?;
        let mut drafts = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if disk::is_unfinished(&path) {
                fs::remove_file(&path).map_err(|source| io_error(&path, source))?;
            } else if let Some(counter) = counter_of(&path) {
                drafts.insert(counter, read(&path)?);
            }
        }
        Ok(Self {
            dir,
            disk: state.disk(),
            drafts,
        })
    }

    /// Puts a draft at the end. It is on the disk when this returns.
    pub fn push(&mut self, counter: u64, queued: Queued) -> Result<(), StateError> {
        self.check(queued.draft.len())?;
        let path = self.path(counter);
        let text = serde_json::to_vec(&queued).expect("a struct of strings and numbers is JSON");
        let written = self.disk.replace(&path, &text);
        written.map_err(|source| io_error(&path, source))?;
        self.drafts.insert(counter, queued);
        Ok(())
    }

    /// Whether a draft of so many bytes may be queued; ask before a number is taken for it.
    pub fn check(&self, draft_bytes: usize) -> Result<(), StateError> {
        if self.drafts.len() >= DRAFTS_MAX {
            return Err(StateError::Full {
                what: "drafts waiting to be sent",
                max: DRAFTS_MAX,
            });
        }
        if draft_bytes > DRAFT_BYTES_MAX {
            let max = DRAFT_BYTES_MAX;
            return Err(StateError::TooLong { max });
        }
        Ok(())
    }

    /// The hub has answered this one, with whatever.
    pub fn done(&mut self, counter: u64) -> Result<(), StateError> {
        let path = self.path(counter);
        let removed = self.disk.remove(&path);
        removed.map_err(|source| io_error(&path, source))?;
        self.drafts.remove(&counter);
        Ok(())
    }

    /// What waits, oldest first.
    pub fn drafts(&self) -> impl Iterator<Item = (u64, &Queued)> {
        self.drafts
            .iter()
            .map(|(counter, queued)| (*counter, queued))
    }

    /// The oldest.
    pub fn first(&self) -> Option<(u64, Queued)> {
        let (counter, queued) = self.drafts.first_key_value()?;
        Some((*counter, queued.clone()))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.drafts.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    fn path(&self, counter: u64) -> PathBuf {
        self.dir.join(format!("{counter:020}.draft"))
    }
}

fn counter_of(path: &Path) -> Option<u64> {
    let is_draft = path.extension().is_some_and(|end| end == "draft");
    let stem = path.file_stem()?.to_str()?;
    is_draft.then(|| stem.parse().ok()).flatten()
}

fn read(path: &Path) -> Result<Queued, StateError> {
    let text = fs::read(path).map_err(|source: io::Error| io_error(path, source))?;
    serde_json::from_slice(&text).map_err(|source| StateError::Format {
        path: path.display().to_string(),
        source,
    })
}

mod in_hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &Vec<u8>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        hex::decode(text).map_err(D::Error::custom)
    }
}
