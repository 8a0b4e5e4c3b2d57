//! Backups that are damaged, in the way or of another time, and what becomes of them.

use std::fs;

use super::*;
use crate::{
    app::{config, failure::Exit, init, restore::restore},
    store::{
        Batch, Commits as _, MediaIndex as _, MediaRecord, Write,
        sqlite::{FORMAT, Sqlite},
    },
};

fn load(dir: &Path) -> Loaded {
    config::load(&Inputs {
        file: Some(dir.join(CONFIG)),
        ..Inputs::default()
    })
    .unwrap()
}

/// A hub with one uploaded file, and a backup of it beside it.
async fn backed_up() -> (TempDir, PathBuf, Manifest) {
    let dir = tempfile::tempdir().unwrap();
    let hub = dir.path().join("hub");
    init::init("hub.example", &hub).unwrap();
    open::create(&hub.join(CONFIG)).await.unwrap();
    let loaded = load(&hub);
    let media = hub.join("store/media");
    let media = MediaFiles::new(media).await.unwrap();
    let upload = futures_util::stream::iter([Ok::<_, io::Error>("a cat".into())]);
    let received = media.receive(upload, 100).await.unwrap();
    let stored = media.keep(received).await.unwrap();
    let store = open::store(&loaded.config, None).await.unwrap();
    know(&store, "cat", stored.hash).await;
    know(&store, "the same cat", stored.hash).await;
    let out = dir.path().join("backup");
    // Beside whoever has the store open.
    let manifest = make(&loaded, &out).await.unwrap();
    store.close().await;
    (dir, out, manifest)
}

async fn know(store: &Sqlite, id: &str, hash: [u8; 32]) {
    let record = MediaRecord {
        id: id.to_owned(),
        user: "@ana:hub.example".try_into().unwrap(),
        hash,
        size: 5,
        content_type: None,
        filename: None,
        created: SystemClock::new().now(),
    };
    let batch = Batch {
        writes: vec![Write::Media(record)],
        may_conflict: false,
    };
    store.commit(&[batch]).await.unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Every file below `dir`, with its path from there.
fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn a_backup_has_every_file_once_and_only_its_owner_may_read_it() {
    let (dir, out, manifest) = backed_up().await;

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&out), 0o700);
    assert_eq!(names(dir.path()), ["backup", "hub"]);
    let files = all_files(&out);
    assert_eq!(files.len(), manifest.files.len() + 2);
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    // Configuration, store, six keys, one cat.
    assert_eq!(manifest.files.len(), 9);
    assert_eq!((manifest.position, manifest.store_format), (2, FORMAT));
}

#[tokio::test]
async fn a_restored_hub_opens_with_everything_in_it() {
    let (dir, out, _) = backed_up().await;
    let there = dir.path().join("restored");

    restore(&out, &there, true, Format::Json).await.unwrap();

    let config = load(&there).config;
    let store = open::store(&config, None).await.unwrap();
    let cat = store.media("cat").await.unwrap().unwrap();
    let media = MediaFiles::reading(there.join("store/media"));
    assert_eq!(fs::read(media.path(&cat.hash)).unwrap(), b"a cat");
    let key = "keys/signing.pem";
    let original = fs::read(dir.path().join("hub").join(key)).unwrap();
    assert_eq!(fs::read(there.join(key)).unwrap(), original);
}

#[tokio::test]
async fn a_verb_that_is_run_on_a_backup_by_mistake_leaves_it_as_it_was() {
    let (dir, backup, _) = backed_up().await;
    let config = load(&backup).config;
    let inputs = Inputs {
        file: Some(backup.join(CONFIG)),
        ..Inputs::default()
    };

    let listed = crate::app::operate::list_users(&config, Format::Json).await;
    let rotated = crate::app::rotate::run(&config, Format::Json).await;
    let served = crate::app::run::serve(inputs).await;

    for refused in [listed, rotated, served] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.exit, Exit::Store);
        let said = refused.to_string();
        assert!(said.starts_with("error[STORE_FORMAT]: "), "{said}");
        assert!(said.contains("`tramline restore "), "{said}");
    }
    restore(&backup, &dir.path().join("again"), true, Format::Json)
        .await
        .unwrap();
    let store = open::store_file(&config);
    let beside = fs::read_dir(store.parent().unwrap()).unwrap();
    assert!(
        beside
            .map(|file| file.unwrap().file_name())
            .all(|name| name == "media" || Some(&*name) == store.file_name())
    );
}

#[tokio::test]
async fn a_restore_tells_what_the_hub_had_otherwise_than_its_configuration() {
    let (dir, out, _) = backed_up().await;
    let mut loaded = load(&dir.path().join("hub"));
    let named = |one: &&config::Setting| one.key.name == "federation.enabled";
    loaded.otherwise = loaded.settings.iter().filter(named).cloned().collect();
    let other = dir.path().join("other");
    make(&loaded, &other).await.unwrap();

    let told = restore(&other, &dir.path().join("r1"), true, Format::Json).await;
    let none = restore(&out, &dir.path().join("r2"), true, Format::Json).await;

    assert_eq!(
        told.unwrap().otherwise.as_deref(),
        Some("federation.enabled")
    );
    assert_eq!(none.unwrap().otherwise, None);
    load(&dir.path().join("r1"));
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_a_backup_is_found_and_nothing_is_restored() {
    let (dir, out, _) = backed_up().await;
    let there = dir.path().join("restored");
    for file in all_files(&out) {
        let whole = fs::read(&file).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x20;
            fs::write(&file, &flipped).unwrap();

            let failure = restore(&out, &there, true, Format::Json).await.unwrap_err();

            assert_eq!(failure.exit, Exit::Failed);
            let name = file.file_name().unwrap().to_string_lossy();
            assert!(failure.to_string().contains(&*name), "{name}: {failure}");
            assert!(!there.exists());
        }
        fs::write(&file, &whole).unwrap();
    }
    restore(&out, &there, false, Format::Json).await.unwrap();
}

#[tokio::test]
async fn every_file_that_is_missing_or_cut_short_is_named() {
    let (dir, out, _) = backed_up().await;
    fs::remove_file(out.join("keys/admin.token")).unwrap();
    fs::write(out.join("keys/https.key.pem"), "short").unwrap();

    let failure = restore(&out, &dir.path().join("r"), true, Format::Json).await;

    let said = failure.unwrap_err().to_string();
    assert!(
        said.contains("[BACKUP_FILE_MISSING]: keys/admin.token"),
        "{said}"
    );
    assert!(
        said.contains("[BACKUP_FILE_SIZE]: keys/https.key.pem: 5 bytes"),
        "{said}"
    );
}

#[tokio::test]
async fn a_directory_that_is_not_empty_is_left_as_it_is() {
    let (dir, out, _) = backed_up().await;
    let there = dir.path().join("restored");
    fs::create_dir(&there).unwrap();
    fs::write(there.join("mine"), "mine").unwrap();

    let failure = restore(&out, &there, true, Format::Json).await.unwrap_err();

    assert!(
        failure.to_string().starts_with("error[RESTORE_NOT_EMPTY]"),
        "{failure}"
    );
    assert_eq!(names(&there), ["mine"]);
    fs::remove_file(there.join("mine")).unwrap();
    restore(&out, &there, true, Format::Json).await.unwrap();
    assert_eq!(names(&there), ["keys", "run", "store", "tramline.toml"]);
}

#[tokio::test]
async fn a_backup_never_goes_over_what_is_there() {
    let (dir, out, _) = backed_up().await;
    let before = fs::read(out.join("manifest.json")).unwrap();

    let failure = make(&load(&dir.path().join("hub")), &out)
        .await
        .unwrap_err();

    assert!(
        failure.to_string().starts_with("error[BACKUP_EXISTS]"),
        "{failure}"
    );
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), before);
}

#[tokio::test]
async fn a_backup_that_fails_leaves_nothing() {
    let (dir, _, _) = backed_up().await;
    let hub = dir.path().join("hub");
    fs::remove_file(hub.join("store/tramline.db")).unwrap();

    let failure = make(&load(&hub), &dir.path().join("second"))
        .await
        .unwrap_err();

    assert_eq!(failure.exit, Exit::Store);
    assert_eq!(names(dir.path()), ["backup", "hub"]);
}

#[tokio::test]
async fn a_file_that_is_lost_already_is_told_and_stops_no_backup() {
    let (dir, _, _) = backed_up().await;
    let hub = dir.path().join("hub");
    fs::remove_dir_all(hub.join("store/media")).unwrap();

    let manifest = make(&load(&hub), &dir.path().join("second")).await.unwrap();

    assert_eq!(manifest.media_missing.len(), 1);
}

#[tokio::test]
async fn a_backup_of_a_newer_program_says_which_version_it_wants() {
    let (dir, out, manifest) = backed_up().await;
    for (backup, store_format) in [(BACKUP_FORMAT + 1, FORMAT), (BACKUP_FORMAT, FORMAT + 1)] {
        for name in ["manifest.json", "manifest.sha256"] {
            fs::remove_file(out.join(name)).unwrap();
        }
        let newer = Manifest {
            backup,
            store_format,
            version: "9.9.9".to_owned(),
            ..manifest.clone()
        };
        newer.write(&out).unwrap();

        let failure = restore(&out, &dir.path().join("r"), true, Format::Json).await;

        let failure = failure.unwrap_err();
        assert_eq!(failure.exit, Exit::Store);
        assert!(
            failure.to_string().contains("tramline 9.9.9 or newer"),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn a_manifest_that_leads_out_of_the_directory_is_none() {
    let (dir, out, mut manifest) = backed_up().await;
    for name in ["manifest.json", "manifest.sha256"] {
        fs::remove_file(out.join(name)).unwrap();
    }
    manifest.files[0].path = "../evil".to_owned();
    manifest.write(&out).unwrap();

    let failure = restore(&out, &dir.path().join("r"), true, Format::Json).await;

    let said = failure.unwrap_err().to_string();
    assert!(said.contains("\"../evil\" leads out of it"), "{said}");
}

#[tokio::test]
async fn a_backup_that_is_not_there_is_told_from_a_damaged_one() {
    let (dir, out, _) = backed_up().await;
    let restored = dir.path().join("r");
    let said = async |backup: &Path| {
        let failure = restore(backup, &restored, true, Format::Json).await;
        failure.unwrap_err().to_string()
    };

    let nowhere = said(&dir.path().join("nowhere")).await;
    fs::write(out.join("manifest.sha256"), "759  manifest.json\n").unwrap();
    let damaged = said(&out).await;

    assert!(
        nowhere.starts_with("error[BACKUP_NOT_FOUND]: "),
        "{nowhere}"
    );
    assert!(damaged.starts_with("error[BACKUP_DAMAGED]: "), "{damaged}");
    assert!(
        damaged.ends_with("says \"759  manifest.json\""),
        "{damaged}"
    );
}
