//! Small files that are there whole or not at all, whenever the power goes.
//!
//! Written beside, synced, renamed into place, and the directory synced: a crash leaves the old
//! file or the new one. In tests each of these steps can be the last.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// What ends in this was being written when the power went.
const UNFINISHED: &str = "new";

/// Writes files; see above.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    steps_left: Option<std::sync::Arc<std::sync::atomic::AtomicU32>>,
}

impl Disk {
    /// Puts `bytes` at `path`, durably. Only its owner can read it.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let unfinished = path.with_extension(UNFINISHED);
        self.step()?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        file.write_all(first)?;
        self.step()?;
        file.write_all(second)?;
        self.step()?;
        self.sync(&file)?;
        self.step()?;
        fs::rename(&unfinished, path)?;
        self.step()?;
        self.sync_dir_of(path)
    }

    /// Takes a file away, durably; one that is not there is away already.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.step()?;
        self.sync_dir_of(path)
    }

    fn sync_dir_of(&self, path: &Path) -> io::Result<()> {
        path.parent()
            .map_or(Ok(()), |dir| self.sync(&File::open(dir)?))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if self.is_played() {
            return Ok(());
        }
        file.sync_all()
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests play it")]
    const fn is_played(&self) -> bool {
        false
    }

    /// Whether the power only seems to go: then waiting for the disk shows nothing.
    #[cfg(test)]
    const fn is_played(&self) -> bool {
        self.steps_left.is_some()
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests stop here"
    )]
    const fn step(&self) -> io::Result<()> {
        Ok(())
    }

    /// The power goes after so many steps.
    #[cfg(test)]
    pub(super) fn dying_after(steps: u32) -> Self {
        Self {
            steps_left: Some(std::sync::Arc::new(steps.into())),
        }
    }

    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        let Some(left) = &self.steps_left else {
            return Ok(());
        };
        left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
            .map(|_| ())
            .map_err(|_| io::Error::other("the power is gone"))
    }
}

/// Whether a name is that of a file whose writing did not end.
pub(super) fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == UNFINISHED)
}
