//! Collects values from file, environment and command line, and hands them to the sections.
//!
//! Which keys exist is the tables' business (`key`), what a value means is `value`'s.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};

use super::{
    error::{ConfigError, Source},
    key::Key,
    nearest::{distance, nearest},
    sections,
    value::{Raw, Value},
};

/// Where the layers of a configuration come from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The file somebody named; without it `tramline.toml` here, if there is one.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Every `-O`, in order; the last one of a key counts.
    pub options: Vec<String>,
}

/// The variable that names the configuration file.
const FILE_VARIABLE: &str = "TRAMLINE_CONFIG";

/// The file that is read when nobody names one.
const FILE_DEFAULT: &str = "tramline.toml";

impl Inputs {
    /// What this process was started with.
    pub fn of_process(file: Option<PathBuf>, options: Vec<String>) -> Self {
        let env: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                name.starts_with("TRAMLINE_")
                    .then(|| (name, value.to_string_lossy().into_owned()))
            })
            .collect();
        let named = env
            .iter()
            .find(|(name, path)| name == FILE_VARIABLE && !path.is_empty());
        let file = file.or_else(|| named.map(|(_, path)| PathBuf::from(path)));
        Self { file, env, options }
    }

    /// The file to read, and whether it has to be there.
    pub(super) fn path(&self) -> (PathBuf, bool) {
        match &self.file {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(FILE_DEFAULT), false),
        }
    }
}

/// The value of a key as somebody wrote it, and where.
#[derive(Clone)]
pub(super) struct Found {
    raw: Raw,
    source: Source,
}

/// What a key is set to, for showing and comparing.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The key.
    pub key: &'static Key,
    /// Its value; a secret's is hidden.
    pub value: Json,
    /// Where it came from.
    pub source: Source,
}

/// Hands out values by key and keeps what was wrong.
pub(super) struct Reader<'a> {
    dir: &'a Path,
    found: BTreeMap<String, Found>,
    pub(super) settings: Vec<Setting>,
    pub(super) errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(dir: &'a Path) -> Self {
        Self {
            dir,
            found: BTreeMap::new(),
            settings: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Reads `text` as the configuration file at `path`. Where it is no TOML nothing else about
    /// it can be said.
    pub(super) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let place = |offset: usize| Source::File {
            path: path.to_owned(),
            line: line_of(text, offset),
        };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            at: place(error.span().map_or(0, |span| span.start)),
            message: syntax_message(text, &error),
        })?;
        self.add_table("", table.get_ref(), &place);
        Ok(())
    }

    fn add_table(&mut self, prefix: &str, table: &DeTable<'_>, place: &dyn Fn(usize) -> Source) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let source = place(name.span().start);
            let is_section = prefix.is_empty() && sections().any(|section| section.name == key);
            match value.get_ref() {
                // An unknown table's keys tell more than its name: «htps.listen». How deep
                // this goes is bounded by the parser.
                DeValue::Table(inner) if is_section || !inner.is_empty() => {
                    self.add_table(&format!("{key}."), inner, place);
                }
                other => self.add(key, raw_of(other), source),
            }
        }
    }

    /// Takes every setting among the environment variables.
    pub(super) fn add_env(&mut self, env: &[(String, String)]) {
        for (variable, value) in env {
            let Some(name) = variable.strip_prefix("TRAMLINE_") else {
                continue;
            };
            let source = Source::Env(variable.clone());
            let name = name.to_ascii_lowercase();
            if name.contains("__") || known(&name).is_some() {
                self.add(name.replacen("__", ".", 1), word(value), source);
            } else if let Some(meant) = misspelt_variable(&name) {
                self.errors.push(ConfigError::UnknownKey {
                    key: variable.clone(),
                    at: source,
                    fix: format!("did you mean `{}`?", meant.variable()),
                });
            }
            // Any other variable is not ours to judge: Kubernetes gives every container
            // TRAMLINE_PORT and the like as soon as there is a service of that name.
        }
    }

    /// Takes what the hub that runs has otherwise than it is written here.
    pub(super) fn add_running(&mut self, running: &[Setting]) {
        for Setting { key, value, source } in running {
            let source = Source::Running(Box::new(source.clone()));
            self.add(key.name.to_owned(), raw_of_json(value), source);
        }
    }

    /// Takes every `-O key=value`.
    pub(super) fn add_options(&mut self, options: &[String]) {
        for option in options {
            match option.split_once('=') {
                Some((key, value)) => {
                    self.add(key.trim().to_owned(), word(value), Source::Option);
                }
                None => self.errors.push(ConfigError::NotAnAssignment {
                    // What follows the key may be a secret.
                    given: option
                        .chars()
                        .take_while(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
                        .collect(),
                }),
            }
        }
    }

    fn add(&mut self, key: String, raw: Raw, source: Source) {
        if known(&key).is_some() {
            self.found.insert(key, Found { raw, source });
            return;
        }
        self.errors.push(ConfigError::UnknownKey {
            fix: fix_for_unknown(&key),
            key,
            at: source,
        });
    }

    /// Where `key` was set.
    pub(super) fn source(&self, key: &str) -> Source {
        self.found
            .get(key)
            .map_or(Source::Default, |found| found.source.clone())
    }

    /// The value of `key`; none when it was wrong, which is then among the errors.
    pub(super) fn take<T: Value>(&mut self, key: &'static Key) -> Option<T> {
        let found = self.found.get(key.name).cloned().unwrap_or_else(|| Found {
            raw: Raw::Word(key.default.to_owned()),
            source: Source::Default,
        });
        let unset = matches!(&found.raw, Raw::Word(word) if word.is_empty());
        if unset && !T::OPTIONAL {
            self.errors.push(ConfigError::Missing {
                key: key.name,
                fix: format!(
                    "set it in the configuration file, as {} or with -O {}=…; or write a \
                     configuration with `tramline init SERVER_NAME`",
                    key.variable(),
                    key.name
                ),
            });
            return None;
        }
        // On a command line paths begin where the command is given, as its other paths do.
        let dir = match found.source {
            Source::Option => Path::new(""),
            _ => self.dir,
        };
        match T::read(&found.raw, dir) {
            Ok(value) => {
                self.settings.push(Setting {
                    key,
                    value: value.json(),
                    source: found.source,
                });
                Some(value)
            }
            Err(fix) => {
                self.errors.push(ConfigError::WrongValue {
                    key: key.name.to_owned(),
                    at: found.source,
                    expected: T::KIND,
                    found: if T::SECRET {
                        "something else".to_owned()
                    } else {
                        found.raw.shown()
                    },
                    fix,
                });
                None
            }
        }
    }
}

fn keys() -> impl Iterator<Item = &'static Key> {
    sections().flat_map(|section| section.keys)
}

fn known(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.name == name)
}

fn fix_for_unknown(key: &str) -> String {
    // «limits.shards = 3» below [log] is log.limits.shards to TOML.
    let whole = |known: &&Key| {
        key.strip_suffix(known.name)
            .is_some_and(|p| p.ends_with('.'))
    };
    if let Some(known) = keys()
        .filter(|known| known.name.contains('.'))
        .find(|known| whole(known))
    {
        let section = key.split('.').next().unwrap_or_default();
        return format!(
            "did you mean `{}`? Here it belongs to [{section}]; move it above the first section, \
             or into its own",
            known.name
        );
    }
    if sections().any(|section| section.name == key) {
        return format!("`{key}` is a section; write [{key}] and its keys below it");
    }
    match nearest(key, keys()) {
        Some(key) => format!("did you mean `{}`?", key.name),
        None => "`tramline config` lists the known ones".to_owned(),
    }
}

/// A variable without `__` that still was meant as a setting.
fn misspelt_variable(name: &str) -> Option<&'static Key> {
    let flat = |key: &Key| key.name.replace('.', "_");
    keys().find(|key| {
        flat(key) == name || (key.section().is_empty() && distance(key.name, name) <= 2)
    })
}

/// A value from the environment or the command line: TOML where it is quoted or a list, else
/// the words as they stand, because a shell has already taken the quotes away.
fn word(text: &str) -> Raw {
    if text.starts_with(['"', '\'', '['])
        && let Ok(value) = DeValue::parse(text)
    {
        return raw_of(value.get_ref());
    }
    Raw::Word(text.to_owned())
}

fn raw_of(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("number past 64 bits"), Raw::Integer),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Array(items) => Raw::List(items.iter().map(|v| raw_of(v.get_ref())).collect()),
        other => Raw::Other(other.type_str()),
    }
}

/// A value as it is shown, which is as one would write it.
fn raw_of_json(value: &Json) -> Raw {
    match value {
        Json::Null => Raw::Word(String::new()),
        Json::Bool(flag) => Raw::Flag(*flag),
        Json::Number(number) => number.as_i64().map_or(Raw::Other("number"), Raw::Integer),
        Json::String(text) => Raw::Text(text.clone()),
        Json::Array(items) => Raw::List(items.iter().map(raw_of_json).collect()),
        Json::Object(_) => Raw::Other("table"),
    }
}

/// What the parser says, and the key where a key is what it complains about. Other text is not
/// repeated: an unquoted value may be a secret.
fn syntax_message(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', ", ");
    let key = error.span().and_then(|span| text.get(span));
    match key {
        Some(key) if message == "duplicate key" => {
            format!("`{key}` is set twice; remove one of them")
        }
        _ => message,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}
