//! The check of uploaded files: what the index says of them against what is on disk.
//!
//! A hub may be running beside it. A file is named before it is in the index, so one that is not in
//! the snapshot's index may have come since: only [`unindexed`], against a later look at the index,
//! makes a finding of it, and never of a file as young as an upload under way.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use super::{Finding, Report, Tell, Wrong, or_damaged};
use crate::{
    base::Timestamp,
    store::{
        Store, StoreError,
        media::{MediaFiles, UNFINISHED},
        media_elsewhere::DIRECTORY,
    },
};

/// A file on disk that the index does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    path: PathBuf,
    hash: Option<[u8; 32]>,
}

/// What the index says of one file.
#[derive(Clone, Copy)]
struct Known {
    size: u64,
    uses: u64,
}

type Index = BTreeMap<[u8; 32], Known>;

/// Checks every file the index knows, and gives those it does not know. Fails only when the
/// backend does.
pub async fn files(
    store: &dyn Store,
    media: &MediaFiles,
    now: Timestamp,
    report: &mut Report,
    progress: Tell<'_>,
) -> Result<Vec<Stray>, StoreError> {
    let known = index(store, Some(report)).await?;
    report.checked.files_all = known.len() as u64;
    for (hash, known) in &known {
        let path = media.path(hash);
        let looked = tokio::task::spawn_blocking(move || look(&path)).await;
        let looked = looked.map_err(io::Error::other).and_then(|looked| looked);
        report.checked.files += 1;
        report.checked.bytes += looked.as_ref().map_or(0, |(size, _)| *size);
        if let Some(wrong) = compare(hash, *known, looked) {
            report.add(Finding::of_file(shown(media, &media.path(hash)), wrong));
        }
        progress(report.checked);
    }
    let dir = media.dir().to_owned();
    let strays = tokio::task::spawn_blocking(move || strays(&dir, &known, now)).await;
    match strays.map_err(io::Error::other).and_then(|strays| strays) {
        Ok(strays) => Ok(strays),
        Err(error) => {
            let why = error.to_string();
            let dir = media.dir().display().to_string();
            report.add(Finding::of_file(dir, Wrong::FileUnreadable { why }));
            Ok(Vec::new())
        }
    }
}

/// Reports files that a later look at the index does not know either.
pub async fn unindexed(
    later: &dyn Store,
    media: &MediaFiles,
    strays: Vec<Stray>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let known = index(later, None).await?;
    for stray in strays {
        if stray.hash.is_none_or(|hash| !known.contains_key(&hash)) {
            let file = shown(media, &stray.path);
            report.add(Finding::of_file(file, Wrong::FileUnindexed));
        }
    }
    Ok(())
}

/// Everything the index knows; rows that cannot be read are reported, if anywhere.
async fn index(store: &dyn Store, mut report: Option<&mut Report>) -> Result<Index, StoreError> {
    let mut index = Index::new();
    let mut after = Vec::new();
    loop {
        let rows = store.media_rows(&after, ROWS_PAGE).await?;
        let Some(last) = rows.last() else {
            return Ok(index);
        };
        after.clone_from(&last.key);
        for row in rows {
            match or_damaged(row.record)? {
                Ok(file) => {
                    let known = index.entry(file.hash).or_insert(Known {
                        size: file.size,
                        uses: 0,
                    });
                    known.uses += 1;
                }
                Err(why) => {
                    let id = String::from_utf8_lossy(&row.key).into_owned();
                    if let Some(report) = report.as_deref_mut() {
                        report.add(Finding::of_file(id, Wrong::FileRow { why }));
                    }
                }
            }
        }
    }
}

/// The size and hash of a file.
fn look(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut size = 0;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok((size, hasher.finalize().into())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..read).unwrap_or_default());
        size += read as u64;
    }
}

fn compare(hash: &[u8; 32], known: Known, looked: io::Result<(u64, [u8; 32])>) -> Option<Wrong> {
    match looked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(Wrong::FileMissing { uses: known.uses })
        }
        Err(error) => Some(Wrong::FileUnreadable {
            why: error.to_string(),
        }),
        Ok((size, _)) if size != known.size => Some(Wrong::FileSize {
            expected: known.size,
            found: size,
        }),
        Ok((_, found)) if found != *hash => Some(Wrong::FileContent {
            found: hex::encode(found),
        }),
        Ok(_) => None,
    }
}

/// The files below `dir` that are not in the index, but for those that may be being uploaded.
fn strays(dir: &Path, known: &Index, now: Timestamp) -> io::Result<Vec<Stray>> {
    let mut strays = Vec::new();
    let mut open = vec![(dir.to_owned(), 0)];
    while let Some((dir, depth)) = open.pop() {
        let entries = match std::fs::read_dir(&dir) {
            // Nothing was ever uploaded.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth == 0 => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if depth == 0 && name == DIRECTORY {
                continue; // of other servers: all of it can be fetched again
            }
            let is_unfinished = depth == 0 && name.starts_with(UNFINISHED);
            if entry.file_type()?.is_dir() && depth < DEPTH {
                open.push((entry.path(), depth + 1));
            } else if !is_unfinished && !is_young(&entry, now) {
                let hash = (depth == DEPTH).then(|| hash_in(&name)).flatten();
                if hash.is_none_or(|hash| !known.contains_key(&hash)) {
                    let path = entry.path();
                    strays.push(Stray { path, hash });
                }
            }
        }
    }
    strays.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(strays)
}

/// Young enough that its upload may be under way; so is a file that has just gone.
fn is_young(entry: &std::fs::DirEntry, now: Timestamp) -> bool {
    let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else {
        return true;
    };
    let age = SystemTime::UNIX_EPOCH + Duration::from_millis(now.0);
    age.duration_since(modified)
        .map_or(true, |age| age < UPLOAD_MAX)
}

fn hash_in(name: &str) -> Option<[u8; 32]> {
    hex::decode(name).ok()?.try_into().ok()
}

fn shown(media: &MediaFiles, path: &Path) -> String {
    let below = path.strip_prefix(media.dir()).unwrap_or(path);
    below.display().to_string()
}

/// How many rows of the index are read at once.
const ROWS_PAGE: u32 = 1024;
/// How much of a file is read at once, in bytes.
const READ_BYTES: usize = 256 * 1024;
/// How many directories are above a file: `aa/bb/`.
const DEPTH: u32 = 2;
/// How long after its last byte an upload may take to get into the index. It takes milliseconds;
/// this also forgives clocks and slow disks.
const UPLOAD_MAX: Duration = Duration::from_mins(10);
