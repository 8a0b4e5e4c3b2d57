//! Which files make up a hub, and where they will be in a directory of its own.
//!
//! What lies below the configuration's directory keeps its place. What lies elsewhere is moved
//! into it, and the configuration in the backup says so: a restored hub must not reach for the
//! files of the one it is a copy of.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use super::archive::below;
use crate::app::{
    config::{self, Loaded},
    failure::Failure,
    open,
};

/// Where everything will be.
#[derive(Debug)]
pub(super) struct Places {
    /// The store.
    pub(super) store: String,
    /// The directory of uploaded files.
    pub(super) media: String,
    /// Keys and other secrets: where they will be, and where they are.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// The text of the configuration that says so.
    pub(super) config: String,
}

impl Places {
    /// Looks where everything is.
    pub(super) fn of(loaded: &Loaded) -> Result<Self, Failure> {
        let config = &loaded.config;
        let file = loaded.file.as_deref();
        let dir = file.and_then(Path::parent).unwrap_or_else(|| Path::new(""));
        let dir = whole(dir)?;
        let within = |path: &Path, otherwise: &str| {
            let path = whole(path)?;
            Ok::<_, Failure>(below(&dir, &path).unwrap_or_else(|| otherwise.to_owned()))
        };
        let store = within(&open::store_file(config), "store/tramline.db")?;
        let media = within(config.store.media_dir.as_ref(), "store/media")?;
        let socket = within(config.admin.socket.as_ref(), "run/operator.sock")?;
        let mut files = BTreeMap::new();
        add_keys(&dir, &mut files)?;
        let mut wanted = vec![
            ("store.url", format!("sqlite:{store}")),
            ("store.media_dir", media.clone()),
            ("admin.socket", socket),
        ];
        for (name, path) in secret_files(loaded) {
            if !path.is_file() {
                if path == AsRef::<Path>::as_ref(&config.signing_key_file) {
                    let reason = format!("the signing key {} is not there", path.display());
                    return Err(Failure::failed("BACKUP_KEY", reason));
                }
                continue; // it need not be there while its door is off
            }
            let to = within(&path, &format!("keys/from-elsewhere/{name}"))?;
            files.insert(to.clone(), path);
            wanted.push((name, to));
        }
        let config = with_otherwise(config_text(loaded, &wanted)?, &otherwise(loaded));
        Ok(Self {
            store,
            media,
            files,
            config,
        })
    }
}

fn whole(path: &Path) -> Result<PathBuf, Failure> {
    let path = if path == Path::new("") {
        Path::new(".")
    } else {
        path
    };
    std::path::absolute(path)
        .map_err(|error| Failure::failed("BACKUP", format!("{}: {error}", path.display())))
}

/// Every setting that names a file to be read.
fn secret_files(loaded: &Loaded) -> impl Iterator<Item = (&'static str, PathBuf)> {
    let others = ["store.media_dir", "admin.socket"];
    let settings = loaded.settings.iter();
    settings
        .filter(move |setting| setting.key.kind == PATH && !others.contains(&setting.key.name))
        .filter_map(|setting| match &setting.value {
            Json::String(path) => Some((setting.key.name, PathBuf::from(path))),
            _ => None,
        })
}

/// The kind of settings that name a file, as the configuration calls it.
const PATH: &str = "path";

/// Everything in the directory `init` puts the keys in, named by a setting or not.
fn add_keys(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), Failure> {
    let mut open = vec![(dir.join("keys"), 0)];
    while let Some((keys, depth)) = open.pop() {
        let failed = |error| Failure::failed("BACKUP", format!("{}: {error}", keys.display()));
        if !keys.is_dir() || depth > KEYS_DEPTH_MAX {
            continue;
        }
        for entry in fs::read_dir(&keys).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                open.push((path, depth + 1));
            } else if path.is_file() {
                let name = below(dir, &path).ok_or_else(|| {
                    let reason = format!("{} is no name in UTF-8", path.display());
                    Failure::failed("BACKUP_NAME", reason)
                })?;
                files.insert(name, path);
            }
        }
    }
    Ok(())
}

/// How deep keys may be nested; a link may lead in a circle.
const KEYS_DEPTH_MAX: u32 = 4;

/// The configuration file as it is, or with the places that it does not name by itself.
fn config_text(loaded: &Loaded, wanted: &[(&str, String)]) -> Result<String, Failure> {
    let name = &loaded.config.server_name;
    let text = match &loaded.file {
        Some(path) => fs::read_to_string(path)
            .map_err(|error| Failure::failed("BACKUP", format!("{}: {error}", path.display())))?,
        None => config::file_for(name.as_str(), &[]),
    };
    let unread = |error: &dyn std::fmt::Display| Failure::failed("BACKUP", error);
    let mut table: toml::Table = text.parse().map_err(|error| unread(&error))?;
    let mut edited = text.clone();
    let mut change = |table: &mut toml::Table, key: &str, value: &str| {
        set(table, key, value);
        edited = with_set(&edited, key, value);
    };
    if table.get("server_name").is_none() {
        change(&mut table, "server_name", name.as_str());
    }
    for (key, value) in wanted {
        if said(&table, key).as_deref() != Some(value) {
            change(&mut table, key, value);
        }
    }
    if edited == text {
        return Ok(text);
    }
    // Inline tables, dotted keys and texts of several lines are no lines to be replaced.
    if edited.parse::<toml::Table>().ok().as_ref() != Some(&table) {
        edited = toml::to_string_pretty(&table).map_err(|error| unread(&error))?;
    }
    let edited = edited.strip_prefix(CHANGED).unwrap_or(&edited);
    Ok(format!("{CHANGED}{edited}"))
}

/// The text with another value for a key: everything else stays as it was written, and the line of
/// before stays as a comment.
fn with_set(text: &str, key: &str, value: &str) -> String {
    let (section, short) = key.split_once('.').unwrap_or(("", key));
    let line = format!("{short} = {}", toml::Value::from(value));
    let is_it = |line: &str| {
        let rest = line.trim_start().strip_prefix(short);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let mut lines = Vec::new();
    let (mut here, mut head, mut is_done) = ("", None, false);
    for old in text.lines() {
        let name = old
            .trim()
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'));
        if let Some((name, _)) = name {
            here = name.trim();
        }
        if here == section && !is_done && is_it(old) {
            lines.push(format!("# before: {}", old.trim_start()));
            lines.push(line.clone());
            is_done = true;
            continue;
        }
        lines.push(old.to_owned());
        if here == section && name.is_some() {
            head = Some(lines.len());
        }
    }
    match (is_done, section, head) {
        (true, ..) => {}
        (false, _, Some(head)) => lines.insert(head, line),
        (false, "", None) => lines.insert(0, line),
        (false, section, None) => lines.extend([String::new(), format!("[{section}]"), line]),
    }
    lines.join("\n") + "\n"
}

/// What the running hub has otherwise than the copied configuration will have it. The places of files
/// are written into that.
pub(super) fn otherwise(loaded: &Loaded) -> Vec<&'static str> {
    let others = loaded.otherwise.iter().map(|here| here.key);
    let others = others.chain(loaded.untold.iter().copied());
    let others = others.filter(|key| key.kind != PATH && key.name != "store.url");
    others.map(|key| key.name).collect()
}

/// The text with a first line that keeps these for `restore`; one of an earlier backup goes.
fn with_otherwise(text: String, otherwise: &[&str]) -> String {
    let text = match (said_otherwise(&text), text.split_once('\n')) {
        (Some(_), Some((_, rest))) => rest.to_owned(),
        _ => text,
    };
    if otherwise.is_empty() {
        return text;
    }
    format!("{OTHERWISE}{}\n{text}", otherwise.join(", "))
}

/// The settings that the hub of a copied configuration had otherwise, as its first line keeps them.
pub fn said_otherwise(text: &str) -> Option<&str> {
    text.lines().next()?.strip_prefix(OTHERWISE)
}

const OTHERWISE: &str =
    "# Written by `tramline backup`: the hub ran with other values than these of: ";

const CHANGED: &str =
    "# Written by `tramline backup`: the original names files by other paths.\n\n";

/// What a file says of a key, or the default of one that it does not name.
fn said(table: &toml::Table, key: &str) -> Option<String> {
    let value = match key.split_once('.') {
        Some((section, key)) => table.get(section).and_then(|table| table.get(key)),
        None => table.get(key),
    };
    if let Some(value) = value {
        return value.as_str().map(str::to_owned);
    }
    let mut keys = config::sections().flat_map(|section| section.keys);
    let default = keys.find(|known| known.name == key)?.default;
    Some(default.to_owned())
}

fn set(table: &mut toml::Table, key: &str, value: &str) {
    let value = toml::Value::from(value);
    let Some((section, key)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let section = table
        .entry(section)
        .or_insert_with(|| toml::Table::new().into());
    if let Some(section) = section.as_table_mut() {
        section.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{config::Inputs, init};

    fn load(file: &Path, options: &[String]) -> Loaded {
        config::load(&Inputs {
            file: Some(file.to_owned()),
            options: options.to_vec(),
            ..Inputs::default()
        })
        .unwrap()
    }

    #[test]
    fn a_hub_as_init_makes_it_keeps_its_places_and_its_configuration() {
        let dir = tempfile::tempdir().unwrap();
        init::init("hub.example", dir.path()).unwrap();
        let file = dir.path().join("tramline.toml");

        let places = Places::of(&load(&file, &[])).unwrap();

        assert_eq!(places.store, "store/tramline.db");
        assert_eq!(places.media, "store/media");
        let names: Vec<_> = places.files.keys().map(String::as_str).collect();
        let keys = [
            "keys/admin.token",
            "keys/edhoc.key",
            "keys/https.cert.pem",
            "keys/https.key.pem",
            "keys/quic.key",
            "keys/signing.pem",
        ];
        assert_eq!(names, keys);
        assert_eq!(places.config, fs::read_to_string(&file).unwrap());
    }

    #[test]
    fn what_the_hub_had_otherwise_is_kept_on_the_first_line_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        init::init("hub.example", dir.path()).unwrap();
        let file = dir.path().join("tramline.toml");
        let original = fs::read_to_string(&file).unwrap();
        let mut loaded = load(&file, &[]);
        let named = |one: &&config::Setting| {
            ["limits.shards", "federation.enabled", "https.key_file"].contains(&one.key.name)
        };
        loaded.otherwise = loaded.settings.iter().filter(named).cloned().collect();

        let with = Places::of(&loaded).unwrap().config;
        fs::write(&file, &with).unwrap();
        let again = Places::of(&load(&file, &[])).unwrap().config;

        let said = said_otherwise(&with).unwrap();
        assert_eq!(said, "federation.enabled, limits.shards");
        assert!(with.ends_with(&original));
        assert_eq!(again, original);
    }

    #[test]
    fn what_is_elsewhere_is_taken_in_and_the_configuration_says_so() {
        let dir = tempfile::tempdir().unwrap();
        init::init("hub.example", dir.path()).unwrap();
        let far = tempfile::tempdir().unwrap();
        let key = far.path().join("key.pem");
        fs::copy(dir.path().join("keys/https.key.pem"), &key).unwrap();
        let file = dir.path().join("tramline.toml");
        let options = [
            format!("store.url=sqlite:{}", far.path().join("hub.db").display()),
            format!("https.key_file={}", key.display()),
            // Below the directory, but by a name that another directory does not have.
            format!("store.media_dir={}", dir.path().join("media").display()),
        ];

        let places = Places::of(&load(&file, &options)).unwrap();

        assert_eq!(places.store, "store/tramline.db");
        let moved = "keys/from-elsewhere/https.key_file";
        assert_eq!(places.files.get(moved), Some(&key));
        let restored = tempfile::tempdir().unwrap();
        let file = restored.path().join("tramline.toml");
        fs::write(&file, &places.config).unwrap();
        let config = load(&file, &[]).config;
        let within = |name: &str| restored.path().join(name);
        assert_eq!(config.https.key_file.as_ref(), within(moved));
        assert_eq!(config.store.media_dir.as_ref(), within("media"));
        assert_eq!(open::store_file(&config), within("store/tramline.db"));
        // Nothing of what the operator wrote is gone.
        let original = fs::read_to_string(dir.path().join("tramline.toml")).unwrap();
        for line in original.lines() {
            assert!(places.config.contains(line), "{line}");
        }
    }

    #[test]
    fn a_value_that_is_replaced_leaves_what_stood_there_as_a_comment() {
        let text = "# ours\nserver_name = \"h\" # us\n[https]\n# key\nkey_file = \"/a/b\" # old\n[quic]\nkey_file = \"c\"\n";

        let text = with_set(text, "https.key_file", "keys/k");
        let text = with_set(&text, "store.media_dir", "media");
        let text = with_set(&text, "quic.listen", "off");

        let wanted = "# ours\nserver_name = \"h\" # us\n[https]\n# key\n# before: key_file = \"/a/b\" # old\nkey_file = \"keys/k\"\n[quic]\nlisten = \"off\"\nkey_file = \"c\"\n\n[store]\nmedia_dir = \"media\"\n";
        assert_eq!(text, wanted);
    }
}
