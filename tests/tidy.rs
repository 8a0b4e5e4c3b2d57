//! The code read as text: modules depend one way, and spec references lead somewhere. And its
//! dependencies: their licences are on the list of `.deny.toml`.
#![expect(
    clippy::unwrap_used,
    reason = "the test allowances of clippy do not reach helpers in this file"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What each top module may use; its own name is implied.
const MAY_USE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("wire", &["base"]),
    ("room", &["wire", "base"]),
    ("group", &["wire", "base"]),
    ("session", &["wire", "base"]),
    ("api", &["room", "group", "session", "wire", "base"]),
    (
        "store",
        &["api", "room", "group", "session", "wire", "base"],
    ),
    (
        "hub",
        &["store", "api", "room", "group", "session", "wire", "base"],
    ),
    ("edge", &["api", "session", "wire", "base"]),
    ("client", &["api", "session", "wire", "base"]),
    (
        "app",
        &[
            "edge", "hub", "client", "store", "api", "room", "group", "session", "wire", "base",
        ],
    ),
];

/// Words that mean I/O, tasks or a clock: none may stand right of `store`.
const IMPURE: &[&str] = &[
    "tokio::",
    "sqlx::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "async fn",
];
const PURE: &[&str] = &["base", "wire", "room", "group", "session"];

#[test]
fn modules_depend_one_way() {
    let may_use: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = BTreeSet::new();
    for (path, text) in sources("src") {
        let own = top_module(&path);
        if own == "lib" || own == "main" {
            continue;
        }
        let allowed = may_use
            .get(own.as_str())
            .unwrap_or_else(|| panic!("{own} has no row in MAY_USE"));
        for used in crate_paths(&text) {
            if used != own && !allowed.contains(&used.as_str()) {
                wrong.insert(format!("{}: {own} may not use {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rules_machines_and_codecs_do_no_io() {
    let mut wrong = BTreeSet::new();
    for (path, text) in sources("src") {
        if !PURE.contains(&top_module(&path).as_str()) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for word in IMPURE {
                if code.contains(word) {
                    wrong.insert(format!("{}:{}: {word}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn spec_references_lead_to_a_note() {
    let mut lost = BTreeSet::new();
    for (path, text) in sources("src") {
        for cited in text.lines().filter_map(|line| line.split_once("spec: ")) {
            let mut words = cited.1.split_whitespace();
            let (Some(spec), Some(section)) = (words.next(), words.next()) else {
                continue;
            };
            let section = section.trim_end_matches(['.', ',', ';', ':', ')']);
            let note = fs::read_to_string(format!("spec-notes/{spec}.md")).unwrap_or_default();
            let heading = format!("{section} ");
            let found = note
                .lines()
                .filter(|line| line.starts_with('#'))
                .any(|line| {
                    format!("{line} ")
                        .trim_start_matches(['#', ' '])
                        .starts_with(&heading)
                });
            if !found {
                lost.insert(format!("{}: {spec} {section}", path.display()));
            }
        }
    }
    assert!(lost.is_empty(), "no such heading in spec-notes: {lost:#?}");
}

/// Every `code:` and `test:` of a note names a file, and after `::` a word in it.
#[test]
fn spec_notes_name_code_and_tests_that_exist() {
    let mut lost = BTreeSet::new();
    for entry in fs::read_dir("spec-notes").unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            for mark in ["code: `", "test: `"] {
                for (at, _) in line.match_indices(mark) {
                    let named = line[at + mark.len()..].split('`').next().unwrap();
                    let (source_file, inner) = named.split_once("::").unwrap_or((named, ""));
                    let source = fs::read_to_string(source_file).unwrap_or_default();
                    let word = inner.rsplit("::").next().unwrap();
                    if source.is_empty() || !source.contains(word) {
                        lost.insert(format!("{}:{}: {named}", path.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(
        lost.is_empty(),
        "named in spec-notes, but not there: {lost:#?}"
    );
}

/// The same list that cargo-deny reads, held without that tool; it sees what is built here only.
#[test]
fn every_dependency_has_a_licence_on_the_list() {
    let (allowed, exceptions) = licences();
    let mut refused = BTreeSet::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or(""));
        let exempt = |one: &str| exceptions.contains(&(name.as_str().unwrap().into(), one.into()));
        if !may_be_used(licence, |one| allowed.contains(one) || exempt(one)) {
            refused.insert(format!("{name}: {licence:?}"));
        }
    }
    assert!(
        refused.is_empty(),
        "not on the list of .deny.toml: {refused:#?}"
    );
}

#[test]
fn copyleft_is_refused_unless_there_is_a_choice() {
    let (allowed, _) = licences();
    let may = |licence| may_be_used(licence, |one| allowed.contains(one));
    for licence in [
        "GPL-3.0-only",
        "AGPL-3.0-or-later",
        "GPL-2.0 WITH Classpath-exception-2.0",
        "MIT AND GPL-3.0-only",
        "(MIT OR Apache-2.0) AND AGPL-3.0-only",
        "MIT AND (GPL-2.0-only OR LGPL-2.1-only)",
        "",
    ] {
        assert!(!may(licence), "{licence}");
    }
    for licence in [
        "MIT/Apache-2.0",
        "LGPL-2.1-only OR MIT",
        "(GPL-2.0-only OR ISC) AND Zlib",
    ] {
        assert!(may(licence), "{licence}");
    }
}

/// What `.deny.toml` allows everyone, and what it allows one crate.
fn licences() -> (BTreeSet<String>, BTreeSet<(String, String)>) {
    let deny: toml::Value = toml::from_str(&fs::read_to_string(".deny.toml").unwrap()).unwrap();
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    let list = |table: &toml::Value| -> Vec<_> {
        table["allow"]
            .as_array()
            .unwrap()
            .iter()
            .map(text)
            .collect()
    };
    let licenses = deny.get("licenses").unwrap();
    let exceptions = licenses["exceptions"].as_array().unwrap().iter();
    let exceptions = exceptions.flat_map(|one| {
        let name = text(&one["crate"]);
        list(one)
            .into_iter()
            .map(move |licence| (name.clone(), licence))
    });
    (list(licenses).into_iter().collect(), exceptions.collect())
}

/// What cargo knows of the packages that are built on this machine: only those are downloaded.
fn metadata() -> serde_json::Value {
    let output = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let version = output(Command::new("rustc").arg("-vV"));
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let asked = output(Command::new(cargo).args([
        "metadata",
        "--format-version=1",
        "--offline",
        "--locked",
        "--filter-platform",
        host.unwrap(),
    ]));
    serde_json::from_str(&asked).unwrap()
}

/// Whether the SPDX expression (or the older form with `/`) can be met with what is allowed.
fn may_be_used(expression: &str, allowed: impl Fn(&str) -> bool) -> bool {
    fn any(words: &mut Vec<&str>, allowed: &dyn Fn(&str) -> bool) -> bool {
        let mut met = all(words, allowed);
        while words.pop_if(|word| *word == "OR").is_some() {
            met |= all(words, allowed);
        }
        met
    }
    fn all(words: &mut Vec<&str>, allowed: &dyn Fn(&str) -> bool) -> bool {
        let mut met = one(words, allowed);
        while words.pop_if(|word| *word == "AND").is_some() {
            met &= one(words, allowed);
        }
        met
    }
    fn one(words: &mut Vec<&str>, allowed: &dyn Fn(&str) -> bool) -> bool {
        match words.pop() {
            None => false,
            Some("(") => {
                let met = any(words, allowed);
                words.pop() == Some(")") && met
            }
            Some(licence) if words.pop_if(|word| *word == "WITH").is_some() => allowed(&format!(
                "{licence} WITH {}",
                words.pop().unwrap_or_default()
            )),
            Some(licence) => allowed(licence),
        }
    }
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words: Vec<_> = spaced.split_whitespace().rev().collect();
    any(&mut words, &allowed) && words.is_empty()
}

/// The module named first in every `crate::…` path, `crate::{a, b::C}` groups included.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect();
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(module_name(rest));
            continue;
        };
        let mut depth = 0_usize;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.extend(module_name(&group[start..i]));
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn module_name(text: &str) -> Option<String> {
    let word = text
        .trim_start()
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()?;
    let is_macro = text.trim_start()[word.len()..].starts_with('!');
    (word.starts_with(char::is_lowercase) && !is_macro).then(|| word.to_owned())
}

fn top_module(path: &Path) -> String {
    let first = path.components().nth(1).unwrap();
    Path::new(&first)
        .file_stem()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

fn sources(root: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from(root)];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}
