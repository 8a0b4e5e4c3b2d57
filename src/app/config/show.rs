//! Everything that prints keys: `tramline config`, the file of `init`, the README's table.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::{Key, Loaded, Setting, Source, sections};

/// Every key with its value, default, source and reload class, for people.
pub fn as_text(loaded: &Loaded) -> String {
    let rows: Vec<[String; 5]> = loaded
        .settings
        .iter()
        .map(|setting| {
            [
                setting.key.name.to_owned(),
                toml_of(&setting.value),
                toml_of(&(setting.key.default_json)()),
                setting.source.to_string(),
                setting.key.reload.as_str().to_owned(),
            ]
        })
        .collect();
    let heads = ["key", "value", "default", "from", "reload"].map(str::to_owned);
    let width = |column: fn(&[String; 5]) -> &String| {
        rows.iter()
            .chain([&heads])
            .map(|row| column(row).chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths = [
        width(|[a, ..]| a),
        width(|[_, b, ..]| b),
        width(|[_, _, c, ..]| c),
        width(|[_, _, _, d, _]| d),
    ];
    let mut out = String::new();
    for [key, value, default, source, reload] in [&heads].into_iter().chain(&rows) {
        let [a, b, c, d] = widths;
        let _ = writeln!(
            out,
            "{key:a$}  {value:b$}  {default:c$}  {source:d$}  {reload}"
        );
    }
    out
}

/// The same, one object per key.
pub fn as_json(loaded: &Loaded) -> impl Iterator<Item = Json> {
    loaded.settings.iter().map(|setting| {
        let Setting { key, value, source } = setting;
        let mut shown = json!({
            "key": key.name,
            "value": value,
            "default": (key.default_json)(),
            "from": source.json(),
            "reload": key.reload.as_str(),
            "secret": key.secret,
            "doc": key.doc.trim(),
        });
        let here = loaded
            .otherwise
            .iter()
            .find(|here| here.key.name == key.name);
        let is_untold = loaded.untold.iter().any(|untold| untold.name == key.name);
        if let (Some(here), Some(shown)) = (here, shown.as_object_mut()) {
            shown.insert("configured".to_owned(), here.value.clone());
        }
        if let (true, Some(shown)) = (is_untold, shown.as_object_mut()) {
            let has = "another, too long to tell";
            shown.insert("running_hub".to_owned(), has.into());
        }
        shown
    })
}

impl Source {
    /// For programs.
    pub(super) fn json(&self) -> Json {
        match self {
            Self::Default => json!({"kind": "default"}),
            Self::File { path, line } => json!({"kind": "file", "path": path, "line": line}),
            Self::Env(name) => json!({"kind": "env", "variable": name}),
            Self::Option => json!({"kind": "option"}),
            Self::Running(from) => {
                let mut from = from.json();
                if let Some(from) = from.as_object_mut() {
                    from.insert("running_hub".to_owned(), true.into());
                }
                from
            }
        }
    }
}

/// The configuration file that `init` writes: every key with its default, switched off, but for those
/// that are given a value.
pub fn file_for(server_name: &str, set: &[(&str, String)]) -> String {
    let mut out = format!(
        "# The configuration of a Tramline hub. A line with a # before it shows the default.\n\
         # Stronger than this file: TRAMLINE_SECTION__KEY in the environment, then\n\
         # -O section.key=value. `tramline config` shows what counts, and where it came from.\n\
         \nserver_name = {}\n",
        toml_of(&json!(server_name))
    );
    for section in sections() {
        if !section.name.is_empty() {
            let _ = write!(out, "\n[{}]", section.name);
        }
        let _ = write!(out, "\n{}", comment(section.about));
        for key in section.keys.iter().filter(|key| key.name != "server_name") {
            let given = set.iter().find(|(name, _)| *name == key.name);
            let line = match given {
                Some((_, value)) => format!("{} = {}\n", key.short(), toml_of(&json!(value))),
                None => default_line(key),
            };
            let _ = write!(out, "\n{}{line}", comment(key.doc));
        }
    }
    out
}

/// The README's table of keys.
pub fn as_markdown() -> String {
    let mut out = "| key | default | reload | what |\n|---|---|---|---|\n".to_owned();
    for key in sections().flat_map(|section| section.keys) {
        let default = match (key.default_json)() {
            Json::Null if key.optional => "unset".to_owned(),
            Json::Null => "**mandatory**".to_owned(),
            value => format!("`{}`", toml_of(&value)),
        };
        let _ = writeln!(
            out,
            "| `{}` | {default} | {} | {} |",
            key.name,
            key.reload.as_str(),
            key.doc.trim().replace('\n', " ").replace('|', "\\|"),
        );
    }
    out
}

fn default_line(key: &Key) -> String {
    match (key.default_json)() {
        Json::Null if key.kind.starts_with("list") => format!("# {} = [\"…\"]\n", key.short()),
        Json::Null => format!("# {} = \"…\"\n", key.short()),
        value => format!("# {} = {}\n", key.short(), toml_of(&value)),
    }
}

fn comment(text: &str) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "# {}", line.trim());
        out
    })
}

/// A value as one would write it in the file. Our strings, numbers and lists are the same in JSON.
fn toml_of(value: &Json) -> String {
    match value {
        Json::Null => "(unset)".to_owned(),
        other => other.to_string(),
    }
}
