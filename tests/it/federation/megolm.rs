//! End-to-end encryption between servers: one user on a Synapse and one on the hub, each with a
//! client that does Megolm, talk and give each other files; neither is in the hub's store.

use std::{fs, path::Path};

use libtest_mimic::Failed;

use super::{Peers, text};
use crate::{hub::Hub, peers};

/// What every text and file holds.
const MARKER: &str = "tramline-planted-marker-5d0c";

pub(super) fn encrypted_messages_and_files_cross_and_the_hub_keeps_ciphertext() -> Result<(), Failed>
{
    let peers = Peers::start()?;
    let hub = Hub::federating(&["ana"], &peers.options()?)?;
    let clients = tempfile::tempdir()?;
    let there = peers.server();
    let alice = &there["users"][0];
    let alice = format!("alice:{}", text(&alice["password"])?);
    let done = peers::python_script(
        "megolm.py",
        &[
            "--ca",
            &peers.ca()?.display().to_string(),
            "--here",
            &hub.https(),
            "ana:secret-ana",
            "--there",
            text(&there["https_url"])?,
            &alice,
            "--marker",
            MARKER,
            "--store",
            &clients.path().display().to_string(),
        ],
    );
    let done = done.map_err(|error| {
        let said = error.message().unwrap_or_default().to_owned();
        Failed::from(format!("{said}\n{}", hub.log_text()))
    })?;
    assert_eq!((&done["messages"], &done["files"]), (&6.into(), &2.into()));

    // What is in clear is found, so the marker would be.
    let clear = found(hub.path(), b"m.megolm.v1.aes-sha2")?;
    assert!(
        clear.iter().any(|file| file.contains("tramline.db")),
        "{clear:?}"
    );
    let planted = found(hub.path(), MARKER.as_bytes())?;
    assert!(planted.is_empty(), "the marker is in {planted:?}");
    Ok(())
}

/// The files below a directory that hold these bytes.
fn found(dir: &Path, wanted: &[u8]) -> Result<Vec<String>, Failed> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(self::found(&path, wanted)?);
        } else if path.is_file() {
            let bytes = fs::read(&path)?;
            if bytes.windows(wanted.len()).any(|window| window == wanted) {
                found.push(path.display().to_string());
            }
        }
    }
    Ok(found)
}
