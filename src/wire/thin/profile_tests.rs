//! That the written profile says what the code does: its examples, its dictionary and its grammar.

use std::{collections::BTreeSet, fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use super::{deflate::DICTIONARY, *};

fn profile() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec-notes/thin-profile.md");
    fs::read_to_string(path).unwrap()
}

/// What stands between fences of a language.
fn block(profile: &str, language: &str) -> String {
    let (_, rest) = profile.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_examples_are_what_is_encoded() {
    let text = Body::Text("Meet me at the station".to_owned());
    let draft = Draft {
        counter: 300,
        target: None,
        read: None,
        body: text,
    };
    let hello = Hello {
        version: 1,
        generation: [0, 1, 2, 3, 4, 5, 6, 7],
        dictionary: 1,
        time_ms: 1_700_000_000_000,
    };
    let entry = Shown::Entry {
        seq: 7,
        sender: 1,
        age: 0,
        target: None,
        counter: None,
        body: Body::Text("hi".to_owned()),
    };
    let answer = [entry, Shown::Covered { seq: 8, head: None }];
    let answer = answer.map(|what| Record { room: None, what });
    let aside = [
        Record {
            room: Some(7),
            what: Shown::Receipt { seq: 300, user: 1 },
        },
        Record {
            room: None,
            what: Shown::Typing(vec![1, 5]),
        },
    ];
    let taken_back = Shown::Entry {
        seq: 7,
        sender: 1,
        age: 0,
        target: Some(Membership::Invite.number().into()),
        counter: None,
        body: Body::Member {
            user: 2,
            membership: Membership::Leave,
            display_name: String::new(),
        },
    };
    let taken_back = [Record {
        room: None,
        what: taken_back,
    }];
    let profile = profile();
    let examples: BTreeSet<String> = profile
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .map(|line| {
            let bytes = line.split("     ").next().unwrap_or_default();
            bytes.replace([' ', '·'], "")
        })
        .collect();

    for bytes in [
        hello.encode(),
        draft.encode(),
        encode_records(&answer),
        encode_records(&aside),
        encode_records(&taken_back),
    ] {
        let example = hex::encode(bytes);
        assert!(examples.contains(&example), "{example} in {examples:?}");
    }
}

#[test]
fn the_dictionary_is_the_one_that_is_used() {
    let profile = profile();
    let written = block(&profile, "base64").replace('\n', "");

    assert_eq!(STANDARD.decode(written).unwrap(), DICTIONARY);
    assert!(profile.contains(&hex::encode(Sha256::digest(DICTIONARY))));
    assert!(profile.contains(&format!("{} bytes, in base64", DICTIONARY.len())));
}

#[test]
fn every_rule_of_the_grammar_is_there_once() {
    let grammar = block(&profile(), "abnf");
    let lines = grammar.lines().map(|line| {
        let code = line.split(';').next().unwrap_or_default();
        code.split_once('=')
            .map_or(("", code), |(name, rule)| (name.trim(), rule))
    });
    let mut defined = BTreeSet::from(["OCTET", "ALPHA", "DIGIT", "SP"]);
    let mut used = BTreeSet::new();
    for (name, rule) in lines {
        assert!(name.is_empty() || defined.insert(name), "{name} twice");
        // values, strings and repetitions are no names
        let words = rule.split([' ', '(', ')', '[', ']', '/']);
        let words = words.filter(|word| !word.contains(['%', '"']));
        let names =
            words.map(|word| word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '*'));
        used.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    for name in used {
        assert!(defined.contains(&*name), "{name} is nowhere defined");
    }
}
