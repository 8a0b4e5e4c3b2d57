//! Stored files, named by what they contain: `aa/bb/<sha-256 in hex>`.
//!
//! No name, type or id from outside ever becomes part of a path. Who uploaded what, and how much,
//! is in the [`MediaIndex`](crate::store::MediaIndex).

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, pin_mut};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio::{fs, io::AsyncWriteExt as _};

/// The directory of stored files.
#[derive(Clone, Debug)]
pub struct MediaFiles {
    dir: PathBuf,
}

/// A file that was stored, or was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256 of its bytes: its name.
    pub hash: [u8; 32],
    /// Its length in bytes.
    pub size: u64,
}

/// A file that has come to its end and has no name yet: gone when it is dropped. So whoever decides
/// late that it may not stay leaves nothing, and takes nothing from another upload of the same bytes.
#[derive(Debug)]
#[must_use = "a file that is not kept is gone"]
pub struct Received {
    file: NamedTempFile,
    what: Stored,
}

impl Received {
    /// What it will be stored as.
    pub fn what(&self) -> Stored {
        self.what
    }
}

/// A file was not stored.
#[derive(Debug, Error)]
pub enum MediaError<E> {
    /// It is longer than its uploader may store.
    #[error("the file has more than the {max} bytes allowed")]
    TooLarge {
        /// What is allowed.
        max: u64,
    },
    /// It did not come to its end.
    #[error("the upload broke off: {0}")]
    Upload(#[source] E),
    /// The disk said no.
    #[error("the file could not be stored: {0}")]
    Disk(#[from] io::Error),
}

impl MediaFiles {
    /// Stored files below `dir`, which is made when it is not there. Removes what uploads that
    /// never ended have left.
    pub async fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir).await?;
        let mut entries = fs::read_dir(&dir).await?;
        while let Some(entry) = entries.next_entry().await? {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_file(entry.path()).await?;
            }
        }
        Ok(Self { dir })
    }

    /// The same for who only looks, beside a hub that may be writing: changes nothing.
    pub fn reading(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Writes a file as it comes in. It stays only if it is [kept](Self::keep).
    pub async fn receive<E>(
        &self,
        bytes: impl Stream<Item = Result<Bytes, E>>,
        max: u64,
    ) -> Result<Received, MediaError<E>> {
        // Removes the file when it is dropped, also when we are.
        let unfinished = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.dir)?;
        let mut file = fs::File::from_std(unfinished.reopen()?);
        let mut hasher = Sha256::new();
        let mut size = 0_u64;
        pin_mut!(bytes);
        while let Some(part) = bytes.next().await {
            let part = part.map_err(MediaError::Upload)?;
            size = size.saturating_add(part.len() as u64);
            if size > max {
                return Err(MediaError::TooLarge { max });
            }
            hasher.update(&part);
            file.write_all(&part).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        let hash = hasher.finalize().into();
        Ok(Received {
            file: unfinished,
            what: Stored { hash, size },
        })
    }

    /// Stores what was received; it is named, and survives a power cut, when this returns. A file
    /// that is already there is not written again.
    pub async fn keep(&self, received: Received) -> io::Result<Stored> {
        let Received { file, what } = received;
        self.name(file, &what.hash).await?;
        Ok(what)
    }

    /// A stored file and its length.
    pub async fn open(&self, hash: &[u8; 32]) -> io::Result<(fs::File, u64)> {
        let file = fs::File::open(self.path(hash)).await?;
        let length = file.metadata().await?.len();
        Ok((file, length))
    }

    /// Moves a finished file to its name, and makes the name durable.
    async fn name(&self, file: NamedTempFile, hash: &[u8; 32]) -> io::Result<()> {
        let path = self.path(hash);
        if fs::try_exists(&path).await? {
            // Whoever wrote it may not have got to the end of this function.
            return sync_dirs(&self.dir, &path).await;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).await?;
        }
        let named = path.clone();
        tokio::task::spawn_blocking(move || file.persist(named))
            .await
            .map_err(io::Error::other)?
            .map_err(|error| error.error)?;
        sync_dirs(&self.dir, &path).await
    }

    /// The directory they are in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a file is.
    pub fn path(&self, hash: &[u8; 32]) -> PathBuf {
        let [first, second, ..] = *hash;
        self.dir
            .join(hex::encode([first]))
            .join(hex::encode([second]))
            .join(hex::encode(hash))
    }
}

/// Makes the directory entries between `top` and `path` durable.
async fn sync_dirs(top: &Path, path: &Path) -> io::Result<()> {
    for dir in path.ancestors().skip(1) {
        fs::File::open(dir).await?.sync_all().await?;
        if dir == top {
            break;
        }
    }
    Ok(())
}

/// How the names of files begin that are still being written; no hash in hex does.
pub(super) const UNFINISHED: &str = "unfinished-";

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn upload(parts: &[&'static str]) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| Ok(Bytes::from_static(part.as_bytes())))
            .collect();
        stream::iter(parts)
    }

    async fn store(media: &MediaFiles, parts: &[&'static str], max: u64) -> Stored {
        let received = media.receive(upload(parts), max).await.unwrap();
        media.keep(received).await.unwrap()
    }

    /// Every file below `dir`, by name.
    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                found.push(path);
            }
        }
        found
    }

    #[tokio::test]
    async fn a_file_is_stored_once_under_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let media = MediaFiles::new(dir.path()).await.unwrap();
        let stored = store(&media, &["abc", "", "def"], 6).await;
        assert_eq!(stored.size, 6);
        assert_eq!(stored.hash, <[u8; 32]>::from(Sha256::digest("abcdef")));
        let again = store(&media, &["abcdef"], 6).await;
        assert_eq!(again, stored);
        let hex = hex::encode(stored.hash);
        let wanted = dir.path().join(&hex[..2]).join(&hex[2..4]).join(&hex);
        assert_eq!(files(dir.path()), [wanted]);

        let (mut file, length) = media.open(&stored.hash).await.unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), length), ("abcdef", 6));
        assert!(media.open(&[0; 32]).await.is_err());
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let media = MediaFiles::new(dir.path()).await.unwrap();
        let refused = media.receive(upload(&["abc", "def"]), 5).await;
        assert!(matches!(refused, Err(MediaError::TooLarge { max: 5 })));
        assert!(files(dir.path()).is_empty());
    }

    #[tokio::test]
    async fn a_file_that_is_not_kept_leaves_nothing_and_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let media = MediaFiles::new(dir.path()).await.unwrap();
        let refused = media.receive(upload(&["same"]), 9).await.unwrap();
        store(&media, &["same"], 9).await;
        assert_eq!(files(dir.path()).len(), 2);
        drop(refused);
        assert_eq!(files(dir.path()).len(), 1);
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let media = MediaFiles::new(dir.path()).await.unwrap();
        let parts = [Ok(Bytes::from_static(b"abc")), Err("gone")];
        let refused = media.receive(stream::iter(parts), 100).await;
        assert!(matches!(refused, Err(MediaError::Upload("gone"))));
        assert!(files(dir.path()).is_empty());
    }

    #[tokio::test]
    async fn unfinished_files_go_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let media = MediaFiles::new(dir.path()).await.unwrap();
        store(&media, &["kept"], 9).await;
        std::fs::write(dir.path().join("unfinished-x1"), "half").unwrap();
        MediaFiles::new(dir.path()).await.unwrap();
        assert_eq!(files(dir.path()).len(), 1);
    }
}
