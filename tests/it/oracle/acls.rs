//! Server ACLs and globs on generated names: ours beside Synapse's.

use libtest_mimic::Failed;
use rand::{Rng, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use ruma::OwnedServerName;
use serde_json::{Value, json};
use tramline::{
    room::{Host, ServerAcl},
    wire::matrix::Glob,
};

use super::{object, seed};
use crate::peers::Oracle;

/// How many ACLs, and how many lists of globs, are compared.
const LISTS: usize = 500;

/// How many names each is asked about.
const NAMES: usize = 40;

pub(super) fn match_alike() -> Result<(), Failed> {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut oracle = Oracle::start()?;
    let (mut allowed, mut denied, mut matched) = (0, 0, 0);
    for _ in 0..LISTS {
        let names: Vec<_> = (0..NAMES).map(|_| name(&mut rng)).collect();
        let content = acl(&mut rng);
        let answer = oracle.ask(&json!({"op": "acl", "content": content, "servers": names}))?;
        let theirs: Vec<bool> = serde_json::from_value(answer["allowed"].clone())
            .map_err(|error| format!("{error}: {answer}"))?;
        let ours = ServerAcl::read(&object(content.clone()));
        for (name, theirs) in names.iter().zip(theirs) {
            let ours = ours.check(name);
            if ours.is_ok() != theirs {
                let said = format!("seed {seed}: {name} under {content}");
                return Err(format!("{said}: ours {ours:?}, Synapse {theirs}").into());
            }
            *(if theirs { &mut allowed } else { &mut denied }) += 1;
        }
        let globs: Vec<_> = (0..8).map(|_| glob(&mut rng)).collect();
        let answer = oracle.ask(&json!({"op": "globs", "globs": globs, "servers": names}))?;
        let theirs: Vec<Vec<bool>> = serde_json::from_value(answer["matches"].clone())
            .map_err(|error| format!("{error}: {answer}"))?;
        for (name, theirs) in names.iter().zip(theirs) {
            let host = Host::of(name);
            for (glob, theirs) in globs.iter().zip(theirs) {
                if host.matches(&Glob::new(glob)) != theirs {
                    let said = format!("seed {seed}: {name} and {glob:?}");
                    return Err(format!("{said}: Synapse {theirs}").into());
                }
                matched += usize::from(theirs);
            }
        }
    }
    println!("{allowed} allowed and {denied} denied alike, {matched} globs matched alike");
    let few = LISTS * NAMES / 10;
    if allowed < few || denied < few || matched < few {
        return Err(format!("too one-sided: {allowed}, {denied}, {matched}").into());
    }
    Ok(())
}

fn pick(rng: &mut StdRng, words: &[&str]) -> String {
    (*words.choose(rng).expect("not empty")).to_owned()
}

fn name(rng: &mut StdRng) -> OwnedServerName {
    let host = match rng.random_range(0..10) {
        0 => pick(
            rng,
            &["1.2.3.4", "10.0.0.1", "1.2.3.256", "1.2.3", "1.2.3.4.org"],
        ),
        1 => pick(rng, &["[::1]", "[2001:db8::a]", "[2001:DB8::A]"]),
        2 => "a".repeat(rng.random_range(60..70)) + ".org",
        _ => {
            let labels = [
                "evil", "EVIL", "good", "ss", "k", "a", "b", "ab", "a-b", "xn--e",
            ];
            let labels: Vec<_> = (0..rng.random_range(1..4))
                .map(|_| pick(rng, &labels))
                .collect();
            labels.join(".") + &pick(rng, &["", ".org", ".com", ".ORG"])
        }
    };
    let port = pick(rng, &["", "", "", ":80", ":8448"]);
    OwnedServerName::try_from(host + &port).expect("a server name")
}

fn glob(rng: &mut StdRng) -> String {
    if rng.random_bool(0.3) {
        return pick(
            rng,
            &[
                "*", "*.org", "evil.*", "*evil*", "?.?", "*.?*", "", "1.2.3.4", "[*]", "*:*",
            ],
        );
    }
    let pieces = [
        "*", "*", "?", ".", ".org", "evil", "GOOD", "a", "a", "b", "s", "K", "[a-z]", "\\", "^",
        "(?i)", "$", "|", "é", "\u{17f}", "\u{212a}", "[", ":", "1.2", "-", "{2}", "+", "\n", "#",
    ];
    (0..rng.random_range(1..6))
        .map(|_| pick(rng, &pieces))
        .collect()
}

fn acl(rng: &mut StdRng) -> Value {
    let list = |rng: &mut StdRng, count: usize| {
        let mut items: Vec<Value> = (0..count).map(|_| json!(glob(rng))).collect();
        if rng.random_bool(0.1) {
            items.push(
                [json!(1), json!(null), json!(["*"])]
                    .choose(rng)
                    .expect("not empty")
                    .clone(),
            );
        }
        if rng.random_bool(0.05) {
            json!({"*": 1})
        } else {
            json!(items)
        }
    };
    let mut content = json!({});
    if rng.random_bool(0.95) {
        let count = rng.random_range(0..5);
        content["allow"] = list(rng, count);
        if let Some(items) = content["allow"].as_array_mut()
            && rng.random_bool(0.5)
        {
            items.push(json!("*"));
        }
    }
    if rng.random_bool(0.8) {
        let count = rng.random_range(0..4);
        content["deny"] = list(rng, count);
    }
    if rng.random_bool(0.6) {
        let literals = [
            json!(false),
            json!(false),
            json!(true),
            json!("false"),
            json!(null),
        ];
        content["allow_ip_literals"] = literals.choose(rng).expect("not empty").clone();
    }
    content
}
