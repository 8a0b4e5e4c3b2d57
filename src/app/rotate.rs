//! `tramline keys rotate`: another signing key for this hub, from its next start on.
//!
//! What the old key signed stays believed: it is published as old, with the time at which its use
//! ended. The order makes a rotation that breaks off harmless: first the old key is written down as
//! old, and while it is still the one in use, that is passed over.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    clock::SystemClock,
    config::{Config, OldKeys},
    failure::Failure,
    keys::{self, SigningKey},
    open,
    operator::Client,
    output::Format,
};
use crate::{
    base::Clock as _,
    wire::matrix::{KeyId, OldKey, PublicKey},
};

/// Rotates the key. Nobody may have the store meanwhile: a hub that runs would go on with the old one.
pub async fn run(config: &Config, format: Format) -> Result<(), Failure> {
    must_not_run(config).await?;
    let file: &Path = config.signing_key_file.as_ref();
    let now = SigningKey::read(file)?;
    let store = open::store(config, Some(now.note())).await?;
    let rotated = rotate(config, file, &now);
    store.close().await;
    let Rotated { new, kept } = rotated?;
    let (old, new, kept) = (now.id(), new.id(), kept.display().to_string());
    let text = format!(
        "this hub signs with {new} from its next start on; {old} is published as old, and its file \
         is kept as {kept}\nback up `keys`: a backup from before holds a key that is not used any more"
    );
    let told = json!({"event": "rotated", "key_id": new, "old_key_id": old, "kept_as": kept});
    format.print(&text, &told)
}

/// Refuses while a hub runs, whatever else has the store.
async fn must_not_run(config: &Config) -> Result<(), Failure> {
    let socket = config.admin.socket.as_ref();
    match Client::connect(socket).await {
        Ok(Some(_)) => Err(Failure::store(
            "HUB_RUNNING",
            format!(
                "a hub answers on {}: it would go on signing with the old key until it is started again, \
                 while that is published as ended; nothing was changed. Stop the hub, rotate, and start it",
                socket.display()
            ),
        )),
        _ => Ok(()), // the store's lock tells the rest
    }
}

struct Rotated {
    new: SigningKey,
    /// The file of the old key.
    kept: PathBuf,
}

fn rotate(config: &Config, file: &Path, now: &SigningKey) -> Result<Rotated, Failure> {
    let wrong = |path: &Path, error: &io::Error| {
        Failure::failed("ROTATE", format!("{}: {error}", path.display()))
    };
    let id: KeyId = now
        .id()
        .parse()
        .expect("the id of a key of ours is of the grammar");
    let old = OldKey {
        public: PublicKey(now.pair.public_key()),
        expired: SystemClock::new().now(),
    };
    let list: &Path = config.federation.old_keys_file.as_ref();
    note_old(list, &OldKeys::line(&id, &old)).map_err(|error| wrong(list, &error))?;

    let name = now.pair.version();
    let kept = file.with_extension(format!("{name}.old"));
    if !kept.exists() {
        fs::hard_link(file, &kept).map_err(|error| wrong(&kept, &error))?;
    }
    let made = file.with_extension("new");
    let pem = keys::generate().map_err(|error| wrong(&made, &error))?;
    replace(&made, file, &pem).map_err(|error| wrong(&made, &error))?;
    let new = SigningKey::read(file)?;
    Ok(Rotated { new, kept })
}

/// Adds a line to the file of old keys, on disk when this returns.
fn note_old(list: &Path, line: &str) -> io::Result<()> {
    let before = match fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    // The same key, if it stands there from a rotation that broke off: it was used until now.
    let id = line.split(' ').next().unwrap_or_default();
    let others = before
        .lines()
        .filter(|old| old.split(' ').next() != Some(id));
    let mut text = String::new();
    for line in others.chain([line]) {
        text.push_str(line);
        text.push('\n');
    }
    replace(&list.with_extension("new"), list, &text)
}

/// Puts a text into a file of its owner's, whole or not at all.
fn replace(made: &Path, file: &Path, text: &str) -> io::Result<()> {
    let _ = fs::remove_file(made); // of an attempt that broke off
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut written = options.open(made)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    fs::rename(made, file)?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{
        config::{Inputs, load},
        init::init,
    };

    fn made() -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hub");
        init("hub.example", &path).unwrap();
        let file = path.join("tramline.toml");
        let inputs = Inputs {
            file: Some(file),
            ..Inputs::default()
        };
        (dir, load(&inputs).unwrap().config)
    }

    fn old(config: &Config) -> Vec<String> {
        let old = keys::old(&config.federation).unwrap();
        old.keys().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn the_store_goes_on_with_a_new_key_and_the_old_one_is_published() {
        let (_dir, config) = made();
        let file: &Path = config.signing_key_file.as_ref();
        let store = file.parent().unwrap().parent().unwrap();
        open::create(&store.join("tramline.toml")).await.unwrap();
        let first = SigningKey::read(file).unwrap();

        run(&config, Format::Json).await.unwrap();
        let second = SigningKey::read(file).unwrap();
        run(&config, Format::Json).await.unwrap();

        assert_ne!(first.id(), second.id());
        let mut wanted = vec![first.id(), second.id()];
        wanted.sort();
        assert_eq!(old(&config), wanted);
        let third = SigningKey::read(file).unwrap();
        open::is_owned(&config, third.note()).await.unwrap();
        let kept = file.with_extension(format!("{}.old", first.pair.version()));
        assert_eq!(SigningKey::read(&kept).unwrap().id(), first.id());
    }

    #[tokio::test]
    async fn while_a_hub_runs_nothing_is_changed_and_it_is_said_why() {
        let (_dir, config) = made();
        let file: &Path = config.signing_key_file.as_ref();
        let before = fs::read(file).unwrap();
        let socket: &Path = config.admin.socket.as_ref();
        let _hub = tokio::net::UnixListener::bind(socket).unwrap();

        let failure = run(&config, Format::Json).await.unwrap_err().to_string();

        assert!(
            failure.contains("HUB_RUNNING") && failure.contains("old key"),
            "{failure}"
        );
        assert_eq!(fs::read(file).unwrap(), before);
        assert!(old(&config).is_empty());
    }

    #[test]
    fn a_rotation_that_broke_off_is_begun_again_and_names_the_key_once() {
        let (_dir, config) = made();
        let list: &Path = config.federation.old_keys_file.as_ref();
        let file: &Path = config.signing_key_file.as_ref();
        let now = SigningKey::read(file).unwrap();
        let line = format!(
            "{} {} 5",
            now.id(),
            PublicKey(now.pair.public_key()).base64()
        );
        note_old(list, &line).unwrap();

        rotate(&config, file, &now).unwrap();

        assert_eq!(old(&config), [now.id()]);
        let keys = keys::old(&config.federation).unwrap();
        assert!(keys.values().all(|old| old.expired.0 > 5));
    }
}
