//! The objects that the client's verbs print with `--json`: the same over HTTPS, OSCORE and QUIC.

use std::{
    fs,
    path::{Path, PathBuf},
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    command_line::expect_code,
    hub::{Hub, NAME, output, run, tramline},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "verbs::json_has_the_same_keys_over_every_door",
        same_keys,
    )]
}

/// A user at one door.
struct Way {
    door: &'static str,
    file: PathBuf,
}

impl Way {
    fn linked(hub: &Hub, user: &str, door: &'static str) -> Result<Self, Failed> {
        let file = hub.path().join(format!("{user}-{door}.json"));
        let mut command = tramline();
        command.args(["link", user, "--device", door, "--config"]);
        run(command.arg(hub.config()).arg("--out").arg(&file))?;
        Ok(Self { door, file })
    }

    fn signed_in(hub: &Hub, user: &str) -> Result<Self, Failed> {
        let file = hub.path().join(format!("{user}-https.json"));
        let mut command = tramline();
        command.args(["client", "--login", &hub.https(), user, "--ca"]);
        command.arg(hub.ca()).arg("--password-file");
        command.arg(hub.path().join(format!("password-{user}")));
        run(command.arg("--save").arg(&file))?;
        let door = "https";
        Ok(Self { door, file })
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = tramline();
        command.args(["client", "--json", "--credentials"]);
        command.arg(&self.file);
        if self.door != "https" {
            command.args(["--door", self.door]);
        }
        command.args(args);
        command
    }

    fn lines(&self, args: &[&str]) -> Result<Vec<Value>, Failed> {
        let said = run(&mut self.command(args))?;
        let lines = said.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    }
}

/// The lines of a verb, by door.
type Told = Vec<(&'static str, Vec<Value>)>;

fn keys(line: &Value) -> Vec<&str> {
    let object = line.as_object().into_iter().flatten();
    object.map(|(key, _)| key.as_str()).collect()
}

/// What `pick` finds must be the same everywhere.
fn same(
    what: &str,
    found: &[(&str, Vec<Value>)],
    pick: impl Fn(&Value) -> Value,
) -> Result<(), Failed> {
    let picked = |lines: &[Value]| -> Vec<Value> { lines.iter().map(&pick).collect() };
    let (first, wanted) = &found[0];
    for (door, lines) in &found[1..] {
        if picked(lines) != picked(wanted) {
            return Err(format!("{what}: {first} {wanted:#?}\n{door} {lines:#?}").into());
        }
    }
    Ok(())
}

fn fields(line: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| line[*name].clone()).collect()
}

fn same_keys() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let ways = [
        Way::signed_in(&hub, "ana")?,
        Way::linked(&hub, "ana", "oscore")?,
        Way::linked(&hub, "ana", "quic")?,
    ];
    let bob = Way::linked(&hub, "bob", "oscore")?;
    let guest = format!("@bob:{NAME}");
    let made = ["create", "--name", "Crew", "--alias", "crew", "--invite"];
    let made = ways[0].lines(&[&made[..], &[&guest]].concat())?;
    let room = made[0]["room_id"].as_str().ok_or("no room")?.to_owned();
    bob.lines(&["join", &room])?;
    let of_all = |args: &[&str]| -> Result<Told, Failed> {
        let lines = |way: &Way| Ok((way.door, way.lines(args)?));
        ways.iter().map(lines).collect()
    };
    rooms(&of_all, &ways, &bob, &room)?;

    let sent = of_all(&["send", &room, "hello"])?;
    same("send", &sent, |line| keys(line).into())?;
    same("send", &sent, |line| fields(line, &["room_id", "queued"]))?;
    same("status", &of_all(&["status"])?, |line| keys(line).into())?;

    of_all(&["sync"])?; // where a device begins
    bob.lines(&["send", &room, "one"])?;
    for verb in [&["sync"][..], &["read", &room, "--limit", "1"]] {
        let mut told = of_all(verb)?;
        let ends: Vec<_> = told
            .iter_mut()
            .map(|(door, lines)| (*door, lines.pop().into_iter().collect()))
            .collect();
        same("the last line", &ends, |line| keys(line).into())?;
        // A session begins at the beginning; receipts come as they may.
        for (_, lines) in &mut told {
            lines.retain(|line| line["text"] == "one");
        }
        same("an entry", &told, |line| keys(line).into())?;
        let names = [
            "kind",
            "room_id",
            "sender",
            "type",
            "state_key",
            "content",
            "text",
        ];
        same("an entry", &told, |line| fields(line, &names))?;
        if told.iter().any(|(_, lines)| lines.len() != 1) {
            return Err(format!("{verb:?}: one entry, once: {told:#?}").into());
        }
    }
    for (_, lines) in &of_all(&["read", &room, "--limit", "100"])? {
        for kind in ["text", "member", "event"] {
            if !lines.iter().any(|line| line["kind"] == kind) {
                return Err(format!("no {kind} in {lines:#?}").into());
            }
        }
    }
    files(&hub, &ways)
}

/// With an invitation, and without: then a device knows the names.
fn rooms(
    of_all: &dyn Fn(&[&str]) -> Result<Told, Failed>,
    ways: &[Way],
    bob: &Way,
    room: &str,
) -> Result<(), Failed> {
    let guest = format!("@ana:{NAME}");
    let other = bob.lines(&["create", "--name", "Other", "--invite", &guest])?;
    let other = other[0]["room_id"].as_str().ok_or("no room")?;
    let wanted = serde_json::json!([{"room_id": room, "name": "Crew",
        "alias": format!("#crew:{NAME}"), "membership": "join", "inviter": null}]);
    let all = |lines: &[Value]| Value::from(lines.to_vec());
    for round in 0..2 {
        let told = of_all(&["rooms"])?;
        same("rooms", &told, Value::clone)?;
        let invited = told[0].1.iter().find(|line| line["room_id"] == other);
        if invited.is_none_or(|line| line["inviter"] != format!("@bob:{NAME}")) {
            return Err(format!("round {round}: {told:#?}").into());
        }
    }
    ways[1].lines(&["leave", other])?;
    for round in 0..2 {
        for (door, lines) in of_all(&["rooms"])? {
            if all(&lines) != wanted {
                return Err(format!("round {round}, {door}: {lines:#?}").into());
            }
        }
    }
    Ok(())
}

/// What only linked devices have is the same over their doors, and refused over HTTPS.
fn files(hub: &Hub, ways: &[Way]) -> Result<(), Failed> {
    let path = hub.path().join("photo.png");
    fs::write(&path, [7; 3000])?;
    let text = |path: &Path| path.display().to_string();
    let of_two = |of: &dyn Fn(&Way) -> Vec<String>| -> Result<_, Failed> {
        let mut told = Vec::new();
        for way in &ways[1..] {
            let args = of(way);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            told.push((way.door, way.lines(&args)?));
        }
        Ok(told)
    };
    let up = of_two(&|_| vec!["upload".to_owned(), text(&path)])?;
    same("upload", &up, |line| keys(line).into())?;
    let uri = up[0].1[0]["content_uri"].as_str().ok_or("no address")?;
    let out = |way: &Way| text(&hub.path().join(format!("{}.png", way.door)));
    let down = of_two(&|way| {
        let args = ["download", uri, "--out"].map(str::to_owned);
        [&args[..], &[out(way)]].concat()
    })?;
    same("download", &down, |line| keys(line).into())?;
    let mut ledger = of_two(&|_| vec!["ledger".to_owned()])?;
    for (_, lines) in &mut ledger {
        lines.dedup_by(|one, other| keys(one) == keys(other));
    }
    same("ledger", &ledger, |line| keys(line).into())?;
    let (path, out) = (text(&path), text(&hub.path().join("none.png")));
    for args in [
        &["upload", &path][..],
        &["download", uri, "--out", &out],
        &["ledger"],
    ] {
        expect_code(output(&mut ways[0].command(args))?.status.code(), 2)?;
    }
    Ok(())
}
