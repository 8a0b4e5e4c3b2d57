//! The settings of the hub that runs, as it tells them to the operator's verbs.
//!
//! `serve` may have been given `-O`s, and a file that was edited since counts from the next reload or
//! start on. Whoever looks at a hub that runs goes by what that has. Secrets are not told: each verb
//! has those that are configured where it runs. How they get here is `app::in_force`'s.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{
    Admin, Blocked, ConfigErrors, FilePath, Inputs, Key, Loaded, Reload, Setting, Source, StoreUrl,
    load, load_over, load_told, read::Reader, sections, value::Value as _,
};

/// What counts in a hub that was started with the one and has reloaded the other.
pub fn in_force(started: &Loaded, current: &Loaded) -> Vec<Setting> {
    let both = started.settings.iter().zip(&current.settings);
    let each = both.map(|(started, current)| match current.key.reload {
        Reload::Live => current,
        Reload::Restart => started,
    });
    each.filter(|setting| !setting.key.secret)
        .map(|setting| Setting {
            value: whole(setting),
            ..setting.clone()
        })
        .collect()
}

/// The value, by which a path is found from everywhere.
fn whole(setting: &Setting) -> Json {
    let absolute = |path: &str| {
        let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        path.to_string_lossy().into_owned()
    };
    match (&setting.value, setting.key.kind) {
        (Json::String(path), FilePath::KIND) => absolute(path).into(),
        (Json::String(url), StoreUrl::KIND) => match url.strip_prefix("sqlite:") {
            Some(path) => format!("sqlite:{}", absolute(path)).into(),
            None => setting.value.clone(),
        },
        (value, _) => value.clone(),
    }
}

/// Where a hub would be asked whose configuration here cannot be gone by: at the place that is
/// written all the same, or at the default one beside the file.
pub fn socket(inputs: &Inputs) -> Option<PathBuf> {
    let (path, _) = inputs.path();
    let dir = path.parent().unwrap_or_else(|| Path::new(""));
    let mut reader = Reader::new(dir);
    if let Ok(text) = std::fs::read_to_string(&path) {
        let _ = reader.add_file(&path, &text); // what is wrong with it was told by who asks for this
    }
    reader.add_env(&inputs.env);
    reader.add_options(&inputs.options);
    let key = Admin::KEYS.iter().find(|key| key.name == "admin.socket")?;
    reader.take::<FilePath>(key).map(|path| path.0)
}

/// The settings as a hub told them.
#[derive(Clone, Debug, Default)]
pub struct Told {
    settings: Vec<Setting>,
    /// The keys of values that are too long to be told, and their hashes.
    too_long: Vec<(&'static Key, String)>,
}

impl Told {
    /// One page of them as it goes over the operator's socket: those behind the key `after`, and
    /// where the next page begins.
    pub fn page(settings: &[Setting], after: Option<&str>) -> Json {
        let start = after.and_then(|after| settings.iter().position(|one| one.key.name == after));
        let rest = settings
            .get(start.map_or(0, |at| at + 1)..)
            .unwrap_or_default();
        let (mut page, mut too_long) = (Vec::new(), Vec::new());
        let (mut bytes, mut next) = (0, None);
        for (at, Setting { key, value, source }) in rest.iter().enumerate() {
            let one = json!({"key": key.name, "value": value, "from": source.json()});
            let size = one.to_string().len();
            if size > PAGE_BYTES_MAX {
                // a list of thousands is in a file, which whoever asks has; the few such keys with
                // their hashes fit in the line beside a whole page
                too_long.push(json!({"key": key.name, "sha256": hash(value)}));
                continue;
            }
            bytes += size;
            if bytes > PAGE_BYTES_MAX {
                next = at.checked_sub(1).and_then(|at| rest.get(at));
                break;
            }
            page.push(one);
        }
        json!({"settings": page, "too_long": too_long, "next": next.map(|last| last.key.name)})
    }

    /// Reads a page, and gives where the next one begins.
    pub fn add(&mut self, page: &Json) -> Option<String> {
        let settings = page.get("settings").and_then(Json::as_array);
        for told in settings.into_iter().flatten() {
            let Some(key) = key(told) else { continue };
            self.settings.push(Setting {
                key,
                value: told.get("value").cloned().unwrap_or_default(),
                source: source(told.get("from").unwrap_or(&Json::Null)),
            });
        }
        let too_long = page.get("too_long").and_then(Json::as_array);
        let too_long = too_long.into_iter().flatten();
        self.too_long.extend(too_long.filter_map(|told| {
            let hash = told.get("sha256").and_then(Json::as_str)?;
            Some((key(told)?, hash.to_owned()))
        }));
        page.get("next").and_then(Json::as_str).map(str::to_owned)
    }

    /// The configuration as the hub has it, but for what this command line says.
    pub fn over(self, inputs: &Inputs) -> Result<Loaded, ConfigErrors> {
        let here = load(inputs)?;
        let mut otherwise = Vec::new();
        let mut running = Vec::new();
        let mut kept = Vec::new();
        for told in self.settings {
            let mut settings = here.settings.iter();
            let Some(ours) = settings.find(|ours| ours.key.name == told.key.name) else {
                continue;
            };
            if ours.source == Source::Option {
                continue;
            }
            if whole(ours) != told.value {
                if is_kept(&told.source, &ours.source) {
                    kept.push(told.clone());
                }
                otherwise.push(ours.clone());
                running.push(told);
            } else if !is_same_place(&ours.source, &told.source) {
                running.push(told);
            }
        }
        let mut loaded = load_over(inputs, &running)?;
        loaded.otherwise = otherwise;
        let next = load_over(inputs, &kept).ok();
        loaded.next = next.map(|next| Box::new(next.config));
        let is_same = |key: &Key, told: &str| {
            let mut settings = here.settings.iter();
            settings
                .find(|ours| ours.key.name == key.name)
                .is_some_and(|ours| ours.source == Source::Option || hash(&whole(ours)) == told)
        };
        let others = self.too_long.iter();
        let others = others.filter(|(key, told)| !is_same(key, told));
        loaded.untold = others.map(|(key, _)| *key).collect();
        Ok(loaded)
    }

    /// The same where what is configured here cannot be gone by.
    pub fn alone(self, inputs: &Inputs) -> Result<Loaded, ConfigErrors> {
        let mut loaded = load_told(inputs, &self.settings)?;
        let is_said_here = |key: &Key| {
            let mut settings = loaded.settings.iter();
            settings.any(|ours| ours.key.name == key.name && ours.source == Source::Option)
        };
        let untold = self.too_long.iter().map(|(key, _)| *key);
        loaded.untold = untold.filter(|key| !is_said_here(key)).collect();
        Ok(loaded)
    }
}

/// Whether the hub has a value from where no edit of a file reaches it.
fn is_kept(hub: &Source, here: &Source) -> bool {
    matches!(hub, Source::Option | Source::Env(_)) || matches!(here, Source::Env(_))
}

/// Whether a value comes from the same place here and in the hub; the lines of a file move.
fn is_same_place(here: &Source, hub: &Source) -> bool {
    matches!((here, hub), (Source::File { .. }, Source::File { .. })) || here == hub
}

/// Which setting is told; none that only another release knows, which says nothing here.
fn key(told: &Json) -> Option<&'static Key> {
    let name = told.get("key").and_then(Json::as_str);
    let mut keys = sections().flat_map(|section| section.keys);
    keys.find(|key| Some(key.name) == name)
}

/// By which a value that is too long is compared.
fn hash(value: &Json) -> String {
    hex::encode(Sha256::digest(value.to_string()))
}

/// Where a hub says that it has a value from.
fn source(told: &Json) -> Source {
    let text = |name: &str| told.get(name).and_then(Json::as_str);
    match text("kind") {
        Some("file") => Source::File {
            path: text("path").unwrap_or_default().into(),
            line: told
                .get("line")
                .and_then(Json::as_u64)
                .and_then(|line| usize::try_from(line).ok())
                .unwrap_or_default(),
        },
        Some("env") => Source::Env(text("variable").unwrap_or_default().to_owned()),
        Some("option") => Source::Option,
        _ => Source::Default,
    }
}

impl Loaded {
    /// What is configured here and does not count in the hub that runs: each key, and why not.
    pub fn said_otherwise(&self) -> Vec<String> {
        let said = self.otherwise.iter().map(|here| {
            let mut settings = self.settings.iter();
            let hub = settings.find(|one| one.key.name == here.key.name);
            let why = hub.map_or("", |hub| why_otherwise(here, &hub.source, self.blocked));
            format!("{} ({why})", here.key.name)
        });
        let untold = self.untold.iter().map(|key| {
            let why = "the running hub's is another, and too long to tell";
            format!("{} ({why})", key.name)
        });
        said.chain(untold).collect()
    }
}

/// Why what is configured here does not count in a hub that has it from there.
fn why_otherwise(here: &Setting, hub: &Source, blocked: Blocked) -> &'static str {
    let Source::Running(hub) = hub else {
        return "an -O of this command";
    };
    match (&**hub, &here.source, here.key.reload) {
        (Source::Option, ..) => "the hub was given -O",
        (Source::Env(_), ..) => "the hub has it from its environment",
        (_, Source::Env(_), _) => "only here it is in the environment",
        _ if here.key.name == SERVER_NAME => "no start takes it: a hub keeps its name",
        (_, _, Reload::Live) if blocked.reload => {
            "no reload takes it before what is wrong here is mended"
        }
        (_, _, Reload::Restart) if blocked.start => {
            "no start takes it before what is wrong here is mended"
        }
        (_, _, Reload::Live) => "a reload takes it",
        (_, _, Reload::Restart) => "the next start takes it",
    }
}

/// The one setting that no reload and no start takes.
pub const SERVER_NAME: &str = "server_name";

/// The most that settings take in one answer: with what is around them they fit the socket's line.
const PAGE_BYTES_MAX: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn inputs(dir: &Path, text: &str, options: &[&str]) -> Inputs {
        let file = dir.join("tramline.toml");
        fs::write(&file, format!("server_name = \"hub.example\"\n{text}")).unwrap();
        Inputs {
            file: Some(file),
            options: options.iter().map(ToString::to_string).collect(),
            ..Inputs::default()
        }
    }

    /// Everything over the socket, as many answers as it takes.
    fn told(settings: &[Setting]) -> Told {
        let (mut told, mut after) = (Told::default(), None);
        loop {
            let page = Told::page(settings, after.as_deref());
            assert!(page.to_string().len() < 40 * 1024);
            after = told.add(&page);
            if after.is_none() {
                return told;
            }
        }
    }

    fn value(loaded: &Loaded, key: &str) -> Json {
        let mut settings = loaded.settings.iter();
        settings
            .find(|one| one.key.name == key)
            .unwrap()
            .value
            .clone()
    }

    #[test]
    fn what_serve_was_given_counts_for_who_was_not_given_it() {
        let dir = tempfile::tempdir().unwrap();
        let given = [
            "federation.enabled=true",
            "https.listen=127.0.0.1:18448,127.0.0.1:18449",
            "federation.ca_file=ca.pem",
            "federation.deny=evil.example,*.bad",
            "limits.shards=3",
            "registration.token=planted",
        ];
        let hub = load(&inputs(dir.path(), "", &given)).unwrap();

        let settings = in_force(&hub, &hub);
        let page = Told::page(&settings, None).to_string();
        let here = inputs(dir.path(), "", &["limits.shards=5"]);
        let loaded = told(&settings).over(&here).unwrap();

        assert!(!page.contains("planted") && !page.contains("registration.token\""));
        assert!(loaded.config.federation.enabled);
        assert_eq!(loaded.config.https.listen.addresses().len(), 2);
        let cwd = std::env::current_dir().unwrap();
        let ca = loaded.config.federation.ca_file.as_ref().unwrap();
        assert_eq!(ca.0, cwd.join("ca.pem"));
        assert_eq!(loaded.config.federation.lists().deny.len(), 2);
        assert_eq!(
            loaded.config.limits.shards.0, 5,
            "what is said here is stronger"
        );
        let otherwise = loaded.said_otherwise().join("; ");
        assert!(otherwise.contains("federation.deny (the hub was given -O)"));
        assert!(otherwise.contains("federation.enabled") && !otherwise.contains("shards"));
        let shown = super::super::as_text(&loaded);
        let line = shown
            .lines()
            .find(|line| line.starts_with("federation.enabled"));
        assert!(line.unwrap().contains("-O of the running hub"), "{shown}");
        let json = super::super::as_json(&loaded);
        let mut json = json.filter(|key| key["key"] == "federation.enabled");
        let key = json.next().unwrap();
        assert_eq!(
            (&key["value"], &key["configured"]),
            (&json!(true), &json!(false))
        );
    }

    #[test]
    fn what_the_hub_was_given_and_the_file_says_too_is_from_where_the_hub_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[limits]\nshards = 3\n";
        let hub = load(&inputs(dir.path(), text, &["limits.shards=3"])).unwrap();
        let here = inputs(dir.path(), text, &[]);

        let loaded = told(&in_force(&hub, &hub)).over(&here).unwrap();

        let shown = super::super::as_text(&loaded);
        let line = shown.lines().find(|line| line.starts_with("limits.shards"));
        assert!(line.unwrap().contains("-O of the running hub"), "{shown}");
        let name = shown.lines().find(|line| line.starts_with("server_name"));
        assert!(name.unwrap().contains("tramline.toml:1 "), "{shown}");
        assert_eq!(loaded.said_otherwise(), [""; 0]);
    }

    #[test]
    fn a_file_that_was_edited_counts_as_far_as_it_was_reloaded() {
        let dir = tempfile::tempdir().unwrap();
        let before = "[limits]\nshards = 2\nmedia_size = \"1MiB\"\n";
        let started = load(&inputs(dir.path(), before, &[])).unwrap();
        let after = "[limits]\nshards = 4\nmedia_size = \"2MiB\"\n";
        let edited = inputs(dir.path(), after, &[]);
        let current = load(&edited).unwrap();

        let not_yet = told(&in_force(&started, &started)).over(&edited).unwrap();
        let reloaded = told(&in_force(&started, &current)).over(&edited).unwrap();

        assert_eq!(value(&not_yet, "limits.media_size"), "1MiB");
        let said = not_yet.said_otherwise().join("; ");
        assert!(
            said.contains("limits.media_size (a reload takes it)"),
            "{said}"
        );
        assert_eq!(value(&reloaded, "limits.media_size"), "2MiB");
        assert_eq!(value(&reloaded, "limits.shards"), 2);
        assert_eq!(
            reloaded.said_otherwise(),
            ["limits.shards (the next start takes it)"]
        );
    }

    #[test]
    fn a_secret_that_moved_out_of_its_file_is_no_conflict_before_the_reload() {
        for (key, file) in [
            ("token", "[admin]\ntoken"),
            ("token", "[registration]\ntoken"),
            ("shared_secret", "[registration]\nshared_secret"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let hub = load(&inputs(dir.path(), &format!("{file}_file = \"x\""), &[])).unwrap();
            let long = "a secret that is long enough to be one";
            let edited = inputs(dir.path(), &format!("{file} = \"{long}\""), &[]);

            let loaded = told(&in_force(&hub, &hub)).over(&edited).unwrap();

            let said = loaded.said_otherwise().join("; ");
            assert!(
                said.contains(&format!("{key}_file (a reload takes it)")),
                "{said}"
            );
            let both = inputs(
                dir.path(),
                &format!("{file} = \"{long}\"\n{key}_file = \"x\""),
                &[],
            );
            let refused = told(&in_force(&hub, &hub)).over(&both).unwrap_err();
            assert!(refused.to_string().contains("CONFIG_CONFLICT"), "{refused}");
        }
    }

    #[test]
    fn every_setting_is_heard_as_it_was_told_however_many_answers_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..1300).map(|n| format!("\"s{n}.example\"")).collect();
        let names = names.join(", ");
        let lists = format!("[federation]\nallow = [{names}]\ndeny = [{names}]\n");
        let hub = inputs(dir.path(), &lists, &["log.level=debug"]);
        let hub = load(&hub).unwrap();
        let here = inputs(dir.path(), "", &[]);

        let settings = in_force(&hub, &hub);
        let loaded = told(&settings).over(&here).unwrap();

        assert!(Told::page(&settings, None)["next"].is_string());
        for (hub, here) in settings.iter().zip(in_force(&loaded, &loaded)) {
            assert_eq!(hub.value, here.value, "{}", hub.key.name);
        }
    }

    #[test]
    fn a_setting_that_is_too_long_to_tell_is_named_where_it_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let list = |count| {
            let names = (0..count).map(|n| format!("\"server{n}.example\""));
            let names = names.collect::<Vec<_>>().join(", ");
            format!("[federation]\ndeny = [{names}]\n")
        };
        let hub = load(&inputs(dir.path(), &list(3000), &["limits.shards=3"])).unwrap();
        let settings = in_force(&hub, &hub);
        let over = |text: &str, options: &[&str]| {
            let here = inputs(dir.path(), text, options);
            told(&settings).over(&here).unwrap()
        };

        let same = over(&list(3000), &[]);
        let edited = over(&list(3001), &[]);
        let given = over(&list(3001), &["federation.deny=evil.example"]);

        let other = "limits.shards (the hub was given -O)";
        assert_eq!(same.said_otherwise(), [other]);
        assert_eq!(given.said_otherwise(), [other]);
        let untold = "federation.deny (the running hub's is another, and too long to tell)";
        assert_eq!(edited.said_otherwise(), [other, untold]);
        let mut json = super::super::as_json(&edited);
        let deny = json.find(|key| key["key"] == "federation.deny").unwrap();
        assert_eq!(deny["running_hub"], "another, too long to tell");
    }
}
