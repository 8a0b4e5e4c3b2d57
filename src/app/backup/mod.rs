//! `tramline backup`: everything a hub is, at one moment, while it goes on.
//!
//! The copy of the store is that moment. The files that it names are copied after it: they are
//! named by their content and never change. The backup gets its name when it is whole and on disk;
//! what ends before leaves at most a hidden directory whose name says that it is unfinished.

mod archive;
mod place;
#[cfg(test)]
mod tests;

use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

pub use self::archive::{
    BACKUP_FORMAT, CONFIG, Filled, MANIFEST, Manifest, ManifestError, create, make_dirs, stream,
    sync_dirs,
};
pub use self::place::said_otherwise;
use self::place::{Places, otherwise};
use super::{
    check::place,
    clock::SystemClock,
    config::{Config, Inputs, Loaded},
    failure::Failure,
    in_force, open,
    output::{self, Format, counted},
};
use crate::{
    base::{Clock as _, Position},
    store::{media::MediaFiles, sqlite::Copied},
};

/// Makes a backup and says what is in it.
pub async fn run(inputs: &Inputs, out: &Path, format: Format) -> Result<(), Failure> {
    // The hub that runs may have been given other files than are configured here.
    let (loaded, running) = in_force::load(inputs).await?;
    if let Some(broken) = running.and_then(|hub| hub.broken) {
        let reason = "a backup has the configuration in it, which cannot be read: mend that first";
        return Err(Failure::from(broken).and(Failure::failed("BACKUP", reason)));
    }
    let manifest = tokio::select! {
        made = make(&loaded, out) => made?,
        // What was written goes with the future that is dropped.
        _ = tokio::signal::ctrl_c() => return Err(Failure::failed("INTERRUPTED", "interrupted")),
    };
    if !manifest.media_missing.is_empty() {
        output::note(&format!(
            "warning: uploaded files that are not where the store expects them, so not in the \
             backup: {}; `tramline fsck` lists them",
            manifest.media_missing.len()
        ));
    }
    let otherwise = otherwise(&loaded).join(", ");
    if !otherwise.is_empty() {
        output::note(&format!(
            "the running hub has other settings than the configuration, whose values are those copied: \
             {otherwise}"
        ));
    }
    format.print(&as_text(&manifest, out), &as_json(&manifest, out))
}

/// Makes a backup at `out`.
pub async fn make(loaded: &Loaded, out: &Path) -> Result<Manifest, Failure> {
    if out.symlink_metadata().is_ok() {
        let reason = format!("{} is already there; nothing was changed", out.display());
        return Err(Failure::failed("BACKUP_EXISTS", reason));
    }
    let made = SystemClock::new().now().rfc3339();
    let unfinished = unfinished(out)?;
    let places = Places::of(loaded)?;
    let mut filled = Filled::new(unfinished.path());
    let copied = copy_store(&loaded.config, &mut filled, &places).await?;
    let media_missing = copy_files(&loaded.config, &mut filled, &places, &copied).await?;
    let manifest = Manifest {
        backup: BACKUP_FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store_format: copied.format,
        server_name: loaded.config.server_name.clone(),
        made,
        position: copied.position.0,
        chain_heads: copied.rooms,
        events: copied.events,
        store: places.store.clone(),
        media_missing,
        files: filled.files,
    };
    finish(&manifest, unfinished, out).map_err(failed(out))?;
    Ok(manifest)
}

/// A directory beside `out`, gone when it is dropped.
fn unfinished(out: &Path) -> Result<TempDir, Failure> {
    let name = out.file_name().ok_or_else(|| {
        let reason = format!("{} is no name for a backup", out.display());
        Failure::usage("BACKUP_NAME", reason)
    })?;
    let parent = beside(out);
    tempfile::Builder::new()
        .prefix(&format!(".{}.unfinished-", name.to_string_lossy()))
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(&parent)
        .map_err(failed(&parent))
}

fn beside(out: &Path) -> PathBuf {
    match out.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Everything is on disk before it has its name, and the name is, before anyone is told.
fn finish(manifest: &Manifest, unfinished: TempDir, out: &Path) -> io::Result<()> {
    manifest.write(unfinished.path())?;
    sync_dirs(unfinished.path())?;
    std::fs::rename(unfinished.path(), out)?;
    let _ = unfinished.keep(); // the old name leads nowhere now
    File::open(beside(out))?.sync_all()
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::failed("BACKUP", format!("{path}: {error}"))
}

async fn copy_store(
    config: &Config,
    filled: &mut Filled,
    places: &Places,
) -> Result<Copied, Failure> {
    let to = filled
        .place(&places.store)
        .map_err(failed(Path::new(&places.store)))?;
    // SQLite would let others read it.
    drop(create(&to).map_err(failed(&to))?);
    let all = open::store_bytes(config) / MIB;
    let copy = open::copy(config, &to);
    tokio::pin!(copy);
    let mut tick = tokio::time::interval(TOLD_EVERY);
    tick.tick().await; // the first comes at once
    let copied = loop {
        tokio::select! {
            copied = &mut copy => break copied?,
            _ = tick.tick() => {
                let done = std::fs::metadata(&to).map_or(0, |found| found.len()) / MIB;
                output::note(&format!("store: {done} of about {all} MiB"));
            }
        }
    };
    filled.adopt(&places.store).map_err(failed(&to))?;
    output::note(&format!(
        "the store is copied as it stood at {}; now {}",
        place(copied.position),
        files(places.files.len() + copied.media.len())
    ));
    Ok(copied)
}

/// Copies keys, configuration and uploaded files; gives the hashes of those that are not there.
async fn copy_files(
    config: &Config,
    filled: &mut Filled,
    places: &Places,
    copied: &Copied,
) -> Result<Vec<String>, Failure> {
    for (name, path) in &places.files {
        let mut file = File::open(path).map_err(failed(path))?;
        filled.add(name, &mut file).map_err(failed(path))?;
        tokio::task::yield_now().await; // so that an interruption is noticed
    }
    let mut config_text = places.config.as_bytes();
    let added = filled.add(CONFIG, &mut config_text);
    added.map_err(failed(Path::new(CONFIG)))?;
    let media = MediaFiles::reading(AsRef::<Path>::as_ref(&config.store.media_dir));
    let elsewhere = MediaFiles::reading(Path::new(&places.media));
    let mut missing = Vec::new();
    let (mut bytes, mut told) = (0, 0);
    for (n, hash) in copied.media.iter().enumerate() {
        let path = media.path(hash);
        match File::open(&path) {
            Ok(mut file) => {
                let name = elsewhere.path(hash);
                let name = name.to_string_lossy(); // of a UTF-8 directory and hex
                bytes += filled.add(&name, &mut file).map_err(failed(&path))?.size;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(hex::encode(hash));
            }
            Err(error) => return Err(failed(&path)(error)),
        }
        if bytes / MIB >= told + MIB_PER_STEP || (n + 1) % FILES_PER_STEP == 0 {
            told = bytes / MIB;
            let all = copied.media.len();
            output::note(&format!("{} of {all} uploaded files, {told} MiB", n + 1));
        }
        tokio::task::yield_now().await;
    }
    Ok(missing)
}

fn as_json(manifest: &Manifest, out: &Path) -> Json {
    json!({
        "event": "backup", "backup": out, "server_name": manifest.server_name,
        "version": manifest.version, "store_format": manifest.store_format,
        "position": manifest.position, "chain_heads": manifest.chain_heads,
        "events": manifest.events, "files": manifest.files.len(), "bytes": manifest.bytes(),
        "media_missing": manifest.media_missing.len(),
    })
}

fn as_text(manifest: &Manifest, out: &Path) -> String {
    format!(
        "{}: {} as it stood at {}: {}, {}, {}, {} MiB.\n\
         It holds the hub's keys: keep it as safe as the hub. Only `tramline restore` makes a hub \
         of it.",
        out.display(),
        manifest.server_name,
        place(Position(manifest.position)),
        counted(manifest.chain_heads, "room"),
        counted(manifest.events, "event"),
        files(manifest.files.len()),
        manifest.bytes() / MIB,
    )
}

/// So many files, for people.
pub fn files(number: usize) -> String {
    counted(u64::try_from(number).unwrap_or(u64::MAX), "file")
}

const MIB: u64 = 1024 * 1024;
/// How often it says how much of the store is copied.
const TOLD_EVERY: Duration = Duration::from_secs(2);
/// After how much it says how far it is with the files: about every second or two.
const MIB_PER_STEP: u64 = 512;
const FILES_PER_STEP: usize = 1000;
