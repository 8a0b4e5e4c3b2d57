//! `tramline restore`: makes a hub of a backup, in an empty directory.
//!
//! Nothing is written before every file was compared with the manifest. The store becomes one only
//! in the step that stamps a new generation, and the configuration is written last: who is stopped
//! on the way leaves nothing that `serve` would run.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde_json::{Value as Json, json};

use super::{
    backup::{
        CONFIG, Filled, Manifest, ManifestError, create, files, make_dirs, said_otherwise, stream,
        sync_dirs,
    },
    check, clock,
    config::{self, Inputs},
    failure::Failure,
    open, operator,
    output::{self, Format, counted, counted_as},
};
use crate::{
    base::Position,
    store::{
        OpenError,
        fsck::{self, Progress},
        sqlite::{OpenOptions, Sqlite, Voided},
    },
};

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    manifest: Manifest,
    voided: Vec<Voided>,
    checked: Option<Progress>,
    /// What the hub had otherwise than the restored configuration has it.
    pub(super) otherwise: Option<String>,
}

/// Restores a backup and says what it made.
pub async fn run(backup: &Path, dir: &Path, check: bool, format: Format) -> Result<(), Failure> {
    let restored = restore(backup, dir, check, format).await?;
    format.print(&as_text(&restored, dir), &as_json(&restored, dir))
}

/// Restores a backup to `dir`. Where it fails it leaves nothing there.
pub async fn restore(
    backup: &Path,
    dir: &Path,
    check: bool,
    format: Format,
) -> Result<Restored, Failure> {
    let manifest = Manifest::read(backup).map_err(|error| match error {
        ManifestError::Newer { .. } => Failure::store("BACKUP_NEWER", error),
        ManifestError::Unreadable { .. } if !backup.exists() => {
            let reason = format!("{}: there is no such backup", backup.display());
            Failure::failed("BACKUP_NOT_FOUND", reason)
        }
        other => Failure::failed("BACKUP_DAMAGED", format!("{}: {other}", backup.display())),
    })?;
    refuse_used(dir).await?;
    verify(backup, &manifest)?;
    let place = Place::take(dir)?;
    let mut filled = Filled::new(dir);
    for file in manifest.files.iter().filter(|file| file.path != CONFIG) {
        copy(backup, &file.path, &file.sha256, &mut filled)?;
    }
    let store = dir.join(&manifest.store);
    let voided = stamp(&store, &manifest).await?;
    let checked = if check {
        Some(walk(&store, &manifest, format).await?)
    } else {
        None
    };
    make_dirs(&dir.join("run")).map_err(failed(dir))?;
    sync_dirs(dir).map_err(failed(dir))?;
    let config = manifest.files.iter().filter(|file| file.path == CONFIG);
    for file in config {
        copy(backup, CONFIG, &file.sha256, &mut filled)?;
    }
    place.done().map_err(failed(dir))?;
    let config = fs::read_to_string(dir.join(CONFIG)).unwrap_or_default(); // only to be told of
    Ok(Restored {
        otherwise: said_otherwise(&config).map(str::to_owned),
        manifest,
        voided,
        checked,
    })
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::failed("RESTORE", format!("{path}: {error}"))
}

/// Refuses a directory that is anything but empty; a hub that runs in it is told from one that
/// was.
async fn refuse_used(dir: &Path) -> Result<(), Failure> {
    let first = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed(dir))?.next(),
    };
    if first.is_none() {
        return Ok(());
    }
    let config = config::load(&Inputs {
        file: Some(dir.join(CONFIG)),
        ..Inputs::default()
    });
    if let Ok(loaded) = config {
        let socket = loaded.config.admin.socket.as_ref();
        if let Ok(Some(_)) = operator::Client::connect(socket).await {
            let reason = format!("a hub is running in {}", dir.display());
            return Err(Failure::store("HUB_RUNNING", reason));
        }
    }
    let unfinished = if dir.join(RESTORING).exists() {
        " (a restore did not come to its end: remove what it left)"
    } else {
        ""
    };
    let reason = format!(
        "{} is not empty{unfinished}; nothing was changed. Choose another --dir",
        dir.display()
    );
    Err(Failure::failed("RESTORE_NOT_EMPTY", reason))
}

/// Compares every file with the manifest; tells of each that differs.
fn verify(backup: &Path, manifest: &Manifest) -> Result<(), Failure> {
    let mut found: Option<Failure> = None;
    let (mut wrong, mut bytes, mut told) = (0_usize, 0, 0);
    for file in &manifest.files {
        let looked =
            File::open(backup.join(&file.path)).and_then(|mut opened| stream(&mut opened, None));
        bytes += file.size;
        if bytes / MIB >= told + MIB_PER_STEP {
            told = bytes / MIB;
            output::note(&format!(
                "compared {told} of {} MiB",
                manifest.bytes() / MIB
            ));
        }
        let name = &file.path;
        let (code, what) = match looked {
            Ok((size, _)) if size != file.size => {
                let expected = file.size;
                ("BACKUP_FILE_SIZE", format!("{size} bytes, not {expected}"))
            }
            Ok((_, sha256)) if sha256 != file.sha256 => {
                let expected = &file.sha256;
                (
                    "BACKUP_FILE_CHANGED",
                    format!("SHA-256 {sha256}, not {expected}"),
                )
            }
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                ("BACKUP_FILE_MISSING", "not there".to_owned())
            }
            Err(error) => ("BACKUP_FILE_UNREADABLE", error.to_string()),
        };
        wrong += 1;
        if wrong <= FINDINGS_SHOWN_MAX {
            let one = Failure::failed(code, format!("{name}: {what}"));
            found = Some(match found {
                Some(found) => found.and(one),
                None => one,
            });
        }
    }
    let more = wrong.saturating_sub(FINDINGS_SHOWN_MAX);
    match found {
        None => Ok(()),
        Some(found) if more == 0 => Err(found),
        Some(found) => {
            let rest = format!("{more} more files are damaged");
            Err(found.and(Failure::failed("BACKUP_DAMAGED", rest)))
        }
    }
}

/// How many damaged files are named.
const FINDINGS_SHOWN_MAX: usize = 100;
const MIB: u64 = 1024 * 1024;
/// After how much it says how far it is: about every second or two.
const MIB_PER_STEP: u64 = 512;

/// Copies one file; it must still be what it was when it was compared.
fn copy(backup: &Path, name: &str, sha256: &str, filled: &mut Filled) -> Result<(), Failure> {
    let from = backup.join(name);
    let mut file = File::open(&from).map_err(failed(&from))?;
    let copied = filled.add(name, &mut file).map_err(failed(&from))?;
    if copied.sha256 != sha256 {
        let reason = format!("{name} changed while it was copied");
        return Err(Failure::failed("BACKUP_FILE_CHANGED", reason));
    }
    Ok(())
}

fn options(store: &Path, manifest: &Manifest) -> OpenOptions {
    OpenOptions::new(store, manifest.server_name.clone())
}

async fn stamp(store: &Path, manifest: &Manifest) -> Result<Vec<Voided>, Failure> {
    let mut generation = [0; 8];
    clock::fill_from_system(&mut generation)
        .map_err(|error| Failure::failed("RESTORE", format!("no randomness: {error}")))?;
    let stamped = Sqlite::restored(&options(store, manifest), generation).await;
    stamped.map_err(|error| not_stamped(&error))
}

fn not_stamped(error: &OpenError) -> Failure {
    match error {
        OpenError::Format { .. } | OpenError::Backup => Failure::store("STORE_FORMAT", error),
        OpenError::OtherServer { .. } => Failure::store("STORE_OF_ANOTHER_SERVER", error),
        _ => Failure::failed("STORE", open::with_causes(error)),
    }
}

/// Walks every room. The files need no second look: each is what the manifest says.
async fn walk(store: &Path, manifest: &Manifest, format: Format) -> Result<Progress, Failure> {
    let snapshot = Sqlite::snapshot(&options(store, manifest)).await;
    let snapshot = snapshot.map_err(|error| not_stamped(&error))?;
    let mut last = Progress::default();
    let report = fsck::fsck(&snapshot, &mut |step| check::tell_some(step, &mut last)).await;
    snapshot.close().await;
    let report = report.map_err(|error| Failure::failed("STORE", open::with_causes(&error)))?;
    if report.is_clean() {
        return Ok(report.checked);
    }
    check::print(&report, None, format)?;
    let reason = format!(
        "{} found in the backup's store, each is listed on stdout; nothing was restored. With \
         --no-check it is restored as it is",
        report.total()
    );
    Err(Failure::failed("FSCK_FINDINGS", reason))
}

/// A directory that is being restored to; what is in it goes when this is dropped before it is
/// [done](Place::done).
struct Place {
    dir: PathBuf,
    made: bool,
    done: bool,
}

/// Stands in the directory while a restore is under way. Nobody else's restore begins there, and
/// after a kill it tells what the rest is.
const RESTORING: &str = ".restoring";

impl Place {
    fn take(dir: &Path) -> Result<Self, Failure> {
        let made = !dir.exists();
        make_dirs(dir).map_err(failed(dir))?;
        create(&dir.join(RESTORING)).map_err(failed(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            made,
            done: false,
        })
    }

    fn done(mut self) -> io::Result<()> {
        fs::remove_file(self.dir.join(RESTORING))?;
        sync_dirs(&self.dir)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // It was empty: whatever is in it is ours.
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
        if self.made {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

fn as_json(restored: &Restored, dir: &Path) -> Json {
    let Restored {
        manifest,
        voided,
        checked,
        otherwise,
    } = restored;
    let otherwise = otherwise.iter().flat_map(|keys| keys.split(", "));
    let voided: serde_json::Map<_, _> = voided
        .iter()
        .map(|voided| (voided.what.to_owned(), voided.rows.into()))
        .collect();
    json!({
        "event": "restored", "dir": dir, "server_name": manifest.server_name,
        "made": manifest.made, "position": manifest.position,
        "files": manifest.files.len(), "bytes": manifest.bytes(),
        "media_missing": manifest.media_missing.len(), "voided": voided,
        "rooms_checked": checked.map(|checked| checked.rooms),
        "entries_checked": checked.map(|checked| checked.entries),
        "otherwise": otherwise.collect::<Vec<_>>(),
    })
}

fn as_text(restored: &Restored, dir: &Path) -> String {
    let Restored {
        manifest,
        voided,
        checked,
        otherwise,
    } = restored;
    let otherwise = otherwise.as_ref().map_or_else(String::new, |keys| {
        format!(
            "Not in the backup: the values that the hub had from its -O, its environment or an older file, of\n  \
             {}\nWrite them into {} before you start it, or give them again with -O.\n",
            keys.replace(", ", "\n  "),
            dir.join(CONFIG).display(),
        )
    });
    let checked = checked.map_or("not checked".to_owned(), |checked| {
        format!(
            "{} and {} looked through, all right",
            counted(checked.rooms, "room"),
            counted_as(checked.entries, "entry", "entries")
        )
    });
    let voided: Vec<String> = voided
        .iter()
        .map(|voided| format!("{} {}", voided.rows, voided.what))
        .collect();
    format!(
        "{}: {} as it stood at {} ({}): {}, {checked}.\n\
         Voided: {}.\n\
         {otherwise}Never run the original again. Next:\n  tramline serve --config {}",
        dir.display(),
        manifest.server_name,
        manifest.made,
        check::place(Position(manifest.position)),
        files(manifest.files.len()),
        voided.join(", "),
        dir.join(CONFIG).display(),
    )
}
