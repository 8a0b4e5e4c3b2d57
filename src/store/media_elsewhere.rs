//! Files of other servers, kept for a while so that they are fetched once: a bounded cache on disk.
//!
//! A file stands below a name of ours with what is known of it in front. Which there are is looked
//! up in the directory, once; nothing of them is in the database, in a backup or in a check of the
//! store, for all of it can be fetched again.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, pin_mut};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs,
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Mutex,
};

use super::media::{MediaError, UNFINISHED};

/// The name of the directory below that of stored files.
pub const DIRECTORY: &str = "elsewhere";

/// The cache.
#[derive(Clone, Debug)]
pub struct MediaElsewhere {
    dir: PathBuf,
    bytes_max: u64,
    known: Arc<Mutex<Option<Known>>>,
}

/// What its server said of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Its media type.
    pub content_type: Option<String>,
    /// Its name.
    pub filename: Option<String>,
}

/// A kept file, at its first byte.
#[derive(Debug)]
pub struct KeptFile {
    /// What its server said of it.
    pub label: Label,
    /// Its length in bytes.
    pub length: u64,
    /// Its bytes.
    pub file: fs::File,
}

type Name = [u8; 32];

/// Which files there are, and when each was last used.
#[derive(Debug, Default)]
struct Known {
    files: HashMap<Name, (u64, u64)>,
    by_use: BTreeMap<u64, Name>,
    bytes: u64,
    uses: u64,
}

impl MediaElsewhere {
    /// A cache of so many bytes below the directory of stored files. Looks at nothing yet.
    pub fn below(dir: &Path, bytes_max: u64) -> Self {
        Self {
            dir: dir.join(DIRECTORY),
            bytes_max,
            known: Arc::default(),
        }
    }

    /// A file, if it is kept.
    pub async fn open(&self, server: &str, id: &str) -> io::Result<Option<KeptFile>> {
        let name = name(server, id);
        if !self.with(|known| known.used(&name)).await? {
            return Ok(None);
        }
        match read(&self.path(&name)).await {
            Ok(kept) => Ok(Some(kept)),
            Err(error) => {
                // Somebody tidied up, or it is damaged: it is fetched again.
                tracing::warn!(%error, "a kept file of another server cannot be read");
                self.with(|known| known.remove(&name)).await?;
                Ok(None)
            }
        }
    }

    /// Keeps a file as it comes in, of at most `max` bytes. Those longest unused make room.
    pub async fn keep<E>(
        &self,
        (server, id): (&str, &str),
        label: &Label,
        bytes: impl Stream<Item = Result<Bytes, E>>,
        max: u64,
    ) -> Result<(), MediaError<E>> {
        let name = name(server, id);
        self.with(|_| ()).await?; // the directory is there
        let unfinished = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.dir)?;
        let mut file = fs::File::from_std(unfinished.reopen()?);
        let label = serde_json::to_vec(label).map_err(io::Error::other)?;
        let length = u32::try_from(label.len()).map_err(io::Error::other)?;
        file.write_all(&length.to_be_bytes()).await?;
        file.write_all(&label).await?;
        let mut size = 0_u64;
        pin_mut!(bytes);
        while let Some(part) = bytes.next().await {
            let part = part.map_err(MediaError::Upload)?;
            size = size.saturating_add(part.len() as u64);
            if size > max.min(self.bytes_max) {
                return Err(MediaError::TooLarge { max });
            }
            file.write_all(&part).await?;
        }
        file.flush().await?;
        drop(file);
        let path = self.path(&name);
        tokio::task::spawn_blocking(move || unfinished.persist(path))
            .await
            .map_err(io::Error::other)?
            .map_err(|error| error.error)?;
        let out = self
            .with(|known| {
                known.add(name, size + label.len() as u64);
                known.shrink(self.bytes_max)
            })
            .await?;
        for name in out {
            remove(&self.path(&name)).await?;
        }
        Ok(())
    }

    /// Does something with what is known, which is looked up the first time.
    async fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> io::Result<T> {
        let mut known = self.known.lock().await;
        let known = match &mut *known {
            Some(known) => known,
            none => {
                let dir = self.dir.clone();
                let there = tokio::task::spawn_blocking(move || look(&dir)).await;
                none.insert(there.map_err(io::Error::other)??)
            }
        };
        Ok(act(known))
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.dir.join(hex::encode(name))
    }
}

fn name(server: &str, id: &str) -> Name {
    // No server name has a slash.
    Sha256::digest(format!("{server}/{id}")).into()
}

async fn read(path: &Path) -> io::Result<KeptFile> {
    let mut file = fs::File::open(path).await?;
    let all = file.metadata().await?.len();
    let length = file.read_u32().await?;
    if length > LABEL_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut label = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact(&mut label).await?;
    let length = all.checked_sub(4 + u64::from(length));
    Ok(KeptFile {
        label: serde_json::from_slice(&label)?,
        length: length.ok_or(io::ErrorKind::InvalidData)?,
        file,
    })
}

async fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()), // who reads it still has it open
    }
}

/// Looks which files there are, the oldest first, and removes what never came to its end.
fn look(dir: &Path) -> io::Result<Known> {
    std::fs::create_dir_all(dir)?;
    let mut there = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let mut name: Name = [0; 32];
        if hex::decode_to_slice(file_name.as_encoded_bytes(), &mut name).is_ok() {
            let meta = entry.metadata()?;
            let at = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            there.push((at, name, meta.len()));
        } else if file_name
            .as_encoded_bytes()
            .starts_with(UNFINISHED.as_bytes())
        {
            std::fs::remove_file(entry.path())?;
        }
    }
    there.sort_unstable();
    let mut known = Known::default();
    for (_, name, size) in there {
        known.add(name, size);
    }
    Ok(known)
}

impl Known {
    fn add(&mut self, name: Name, size: u64) {
        self.remove(&name);
        self.uses += 1;
        self.files.insert(name, (size, self.uses));
        self.by_use.insert(self.uses, name);
        self.bytes += size;
    }

    fn remove(&mut self, name: &Name) {
        if let Some((size, used)) = self.files.remove(name) {
            self.by_use.remove(&used);
            self.bytes -= size;
        }
    }

    /// Whether it is there; if so, it is now the last one used.
    fn used(&mut self, name: &Name) -> bool {
        let there = self.files.get(name).map(|(size, _)| *size);
        if let Some(size) = there {
            self.add(*name, size);
        }
        there.is_some()
    }

    /// Takes out those longest unused until the others fit.
    fn shrink(&mut self, bytes_max: u64) -> Vec<Name> {
        let mut out = Vec::new();
        while self.bytes > bytes_max
            && let Some((_, name)) = self.by_use.first_key_value()
        {
            let name = *name;
            self.remove(&name);
            out.push(name);
        }
        out
    }
}

/// The longest label, in bytes: two texts of 255 bytes each, escaped.
const LABEL_BYTES_MAX: u32 = 8 * 1024;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    async fn keep(cache: &MediaElsewhere, id: &str, text: &'static str, max: u64) -> bool {
        let label = Label {
            content_type: Some(format!("text/{id}")),
            filename: None,
        };
        let bytes = stream::iter([Ok::<_, Infallible>(Bytes::from_static(text.as_bytes()))]);
        cache.keep(("far", id), &label, bytes, max).await.is_ok()
    }

    async fn kept(cache: &MediaElsewhere, id: &str) -> Option<String> {
        let mut kept = cache.open("far", id).await.unwrap()?;
        assert_eq!(kept.label.content_type.unwrap(), format!("text/{id}"));
        let mut text = String::new();
        kept.file.read_to_string(&mut text).await.unwrap();
        assert_eq!(kept.length, text.len() as u64);
        Some(text)
    }

    #[tokio::test]
    async fn a_file_is_kept_over_a_restart_until_others_need_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let cache = MediaElsewhere::below(dir.path(), 120);
        assert_eq!(kept(&cache, "a").await, None);
        assert!(keep(&cache, "a", "one", 9).await);
        assert!(keep(&cache, "b", "two", 9).await);
        assert_eq!(kept(&cache, "a").await.as_deref(), Some("one"));
        std::fs::write(dir.path().join("elsewhere/unfinished-x"), "x").unwrap();

        // Another process: the cache is read from the directory.
        let cache = MediaElsewhere::below(dir.path(), 120);
        assert_eq!(kept(&cache, "b").await.as_deref(), Some("two"));
        assert_eq!(kept(&cache, "a").await.as_deref(), Some("one"));
        assert!(keep(&cache, "c", "three", 9).await);
        assert_eq!(kept(&cache, "b").await, None, "the one longest unused");
        let there = std::fs::read_dir(dir.path().join(DIRECTORY)).unwrap();
        assert_eq!(there.count(), 2);
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_or_gone_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = MediaElsewhere::below(dir.path(), 150);
        assert!(!keep(&cache, "a", "long", 3).await);
        assert_eq!(kept(&cache, "a").await, None);
        assert!(keep(&cache, "a", "long", 4).await);
        let path = cache.path(&name("far", "a"));
        std::fs::write(&path, [0, 0, 1]).unwrap();
        assert_eq!(kept(&cache, "a").await, None);
        assert!(keep(&cache, "a", "long", 4).await);
        assert_eq!(kept(&cache, "a").await.as_deref(), Some("long"));
    }
}
