//! What a backup is on disk: a directory with the files of a hub where they belong, `manifest.json`
//! that names each with its size and SHA-256, and `manifest.sha256` over that.
//!
//! Files are streamed and hashed on the way; none is held in memory. What goes into a backup is
//! decided by `backup`, what becomes of it by `restore`.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What is in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the backup: [`BACKUP_FORMAT`].
    pub backup: u32,
    /// The version of the program that made it.
    pub version: String,
    /// The format of the store in it.
    pub store_format: i64,
    /// Whose hub it is.
    pub server_name: OwnedServerName,
    /// When it was begun.
    pub made: String,
    /// The hub's last commit in it.
    pub position: u64,
    /// How many rooms, each with one head of its chain.
    pub chain_heads: u64,
    /// How many events.
    pub events: u64,
    /// Which of the files is the store.
    pub store: String,
    /// The hashes of uploaded files that the store knows and that were not there.
    pub media_missing: Vec<String>,
    /// Every other file.
    pub files: Vec<FileNote>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNote {
    /// Where it is in the backup and belongs in a hub's directory.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// The format of backups that this program writes, and the newest it reads.
pub const BACKUP_FORMAT: u32 = 1;
/// The list of files, and what is said of the whole.
pub const MANIFEST: &str = "manifest.json";
/// The hash of [`MANIFEST`], as `sha256sum` writes it.
const MANIFEST_HASH: &str = "manifest.sha256";
/// The configuration, the last file that a restore writes.
pub const CONFIG: &str = "tramline.toml";

/// The longest manifest that is read, in bytes: that of some five million files.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;
/// How much of a file is read at once, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// A manifest that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// There is none, or the disk says no.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{MANIFEST} is damaged: its SHA-256 is {found}, {MANIFEST_HASH} says {expected:?}")]
    Changed {
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// It is what somebody wrote, and no manifest.
    #[error("{MANIFEST} is no manifest: {0}")]
    NotOne(String),
    /// A later program made it.
    #[error(
        "the backup was made by tramline {version} (backup format {backup}, store format \
         {store_format}); this one reads formats up to {BACKUP_FORMAT} and {}: restore it with \
         tramline {version} or newer",
        crate::store::sqlite::FORMAT
    )]
    Newer {
        /// By which.
        version: String,
        /// The format of the backup.
        backup: u32,
        /// The format of the store in it.
        store_format: i64,
    },
}

/// What every manifest says, whatever else is in it.
#[derive(Deserialize)]
struct Versions {
    backup: u32,
    version: String,
    store_format: i64,
}

impl Manifest {
    /// Writes it below `dir`, and its hash.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let mut file = create(&dir.join(MANIFEST))?;
        let mut text = io::BufWriter::new(&mut file);
        serde_json::to_writer_pretty(&mut text, self)?;
        text.write_all(b"\n")?;
        text.flush()?;
        drop(text);
        file.sync_all()?;
        let (_, hash) = stream(&mut File::open(dir.join(MANIFEST))?, None)?;
        let mut file = create(&dir.join(MANIFEST_HASH))?;
        file.write_all(hash_line(&hash).as_bytes())?;
        file.sync_all()
    }

    /// Reads the one of the backup in `dir`, if it is whole and of no later program.
    pub fn read(dir: &Path) -> Result<Self, ManifestError> {
        let expected = read_text(dir, MANIFEST_HASH)?;
        let text = read_text(dir, MANIFEST)?;
        let found = hex::encode(Sha256::digest(&text));
        if expected != hash_line(&found).as_bytes() {
            let expected = String::from_utf8_lossy(&expected);
            let expected = expected.trim_end().chars().take(HASH_SHOWN_MAX).collect();
            return Err(ManifestError::Changed { found, expected });
        }
        let not_one = |error: serde_json::Error| ManifestError::NotOne(error.to_string());
        let versions: Versions = serde_json::from_slice(&text).map_err(not_one)?;
        let store_known = versions.store_format <= crate::store::sqlite::FORMAT;
        if versions.backup > BACKUP_FORMAT || !store_known {
            let Versions {
                backup,
                version,
                store_format,
            } = versions;
            return Err(ManifestError::Newer {
                version,
                backup,
                store_format,
            });
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(not_one)?;
        manifest.check_paths()?;
        Ok(manifest)
    }

    /// A path leads nowhere but below the directory that the hub is restored to.
    fn check_paths(&self) -> Result<(), ManifestError> {
        let mut files = self.files.iter();
        if let Some(file) = files.find(|file| !is_below(&file.path)) {
            let why = format!("the path {:?} leads out of it", file.path);
            return Err(ManifestError::NotOne(why));
        }
        for needed in [&self.store, CONFIG] {
            if !self.files.iter().any(|file| file.path == *needed) {
                return Err(ManifestError::NotOne(format!(
                    "it does not list {needed:?}"
                )));
            }
        }
        Ok(())
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// How much of a damaged hash is shown, in characters: a whole line of `sha256sum`.
const HASH_SHOWN_MAX: usize = 80;

fn hash_line(hash: &str) -> String {
    format!("{hash}  {MANIFEST}\n")
}

fn read_text(dir: &Path, name: &'static str) -> Result<Vec<u8>, ManifestError> {
    let read = || {
        let mut text = Vec::new();
        let file = File::open(dir.join(name))?;
        file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| ManifestError::Unreadable { path: name, source })
}

/// Whether a path has nothing but names in it.
fn is_below(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// `path` below `dir` as a manifest names it, if it is below `dir`.
pub(super) fn below(dir: &Path, path: &Path) -> Option<String> {
    let rest = path.strip_prefix(dir).ok()?.to_str()?;
    is_below(rest).then(|| rest.to_owned())
}

/// A directory that is being filled with files that nobody but their owner may read.
#[derive(Debug)]
pub struct Filled {
    dir: PathBuf,
    /// What is in it so far.
    pub files: Vec<FileNote>,
}

impl Filled {
    /// Begins with an empty directory.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            files: Vec::new(),
        }
    }

    /// Where a file will be; the directories above it are made.
    pub fn place(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            make_dirs(parent)?;
        }
        Ok(path)
    }

    /// Copies a file to its place. It survives a power cut once the directories are synced.
    pub fn add(&mut self, name: &str, from: &mut dyn Read) -> io::Result<&FileNote> {
        let mut file = create(&self.place(name)?)?;
        let (size, sha256) = stream(from, Some(&mut file))?;
        file.sync_all()?;
        Ok(self.note(name, size, sha256))
    }

    /// Takes in a file that is at its place already.
    pub fn adopt(&mut self, name: &str) -> io::Result<&FileNote> {
        let mut file = File::open(self.dir.join(name))?;
        let (size, sha256) = stream(&mut file, None)?;
        file.sync_all()?;
        Ok(self.note(name, size, sha256))
    }

    fn note(&mut self, path: &str, size: u64, sha256: String) -> &FileNote {
        let path = path.to_owned();
        self.files.push(FileNote { path, size, sha256 });
        self.files.last().expect("it was just pushed")
    }
}

/// Makes directories that only their owner may enter.
pub fn make_dirs(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Makes a file that was not there, for its owner.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// Makes every name below `dir` durable.
pub fn sync_dirs(dir: &Path) -> io::Result<()> {
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
        }
        File::open(&dir)?.sync_all()?;
    }
    Ok(())
}

/// Reads to the end; gives the length and the SHA-256 in hex.
pub fn stream(from: &mut dyn Read, mut to: Option<&mut File>) -> io::Result<(u64, String)> {
    let mut buffer = vec![0; READ_BYTES];
    let mut hasher = Sha256::new();
    let mut size = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok((size, hex::encode(hasher.finalize()))),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let part = buffer.get(..read).unwrap_or_default();
        hasher.update(part);
        if let Some(to) = &mut to {
            to.write_all(part)?;
        }
        size += read as u64;
    }
}
