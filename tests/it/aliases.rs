//! Aliases of rooms by the client's verb, over a session and a linked device; and what is said where
//! another server is away.

use std::path::{Path, PathBuf};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    command_line::expect_code,
    hub::{self, Hub, run, tramline},
    thin_client::{done, link},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "verbs::a_room_is_given_aliases_over_a_session_and_a_linked_device",
            aliases,
        ),
        Trial::test(
            "verbs::who_waits_for_a_server_that_is_away_is_told_which_and_why",
            away,
        ),
    ]
}

fn sign_in(hub: &Hub, name: &str) -> Result<PathBuf, Failed> {
    let file = hub.path().join(format!("{name}.json"));
    let mut command = tramline();
    command.args(["client", "--login", &hub.coap(), name]);
    command
        .arg("--password-file")
        .arg(hub.path().join(format!("password-{name}")));
    run(command.arg("--save").arg(&file))?;
    Ok(file)
}

/// What a verb that must fail says.
fn refused(file: &Path, args: &[&str]) -> Result<String, Failed> {
    let mut command = tramline();
    command.args(["client", "--credentials"]).arg(file);
    let output = hub::output(command.args(args))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    expect_code(output.status.code(), 1).map_err(|_| format!("{args:?}: {said}"))?;
    Ok(said)
}

fn holds(said: &str, wanted: &str) -> Result<(), Failed> {
    if said.contains(wanted) {
        return Ok(());
    }
    Err(format!("{wanted:?} is not in: {said}").into())
}

/// The aliases that are listed, the main one first.
fn listed(file: &PathBuf, room: &str) -> Result<Vec<(String, bool)>, Failed> {
    let lines = done(file, &["alias", room])?;
    let line = |line: &Value| {
        let alias = line["alias"].as_str().unwrap_or_default().to_owned();
        (alias, line["main"] == true)
    };
    Ok(lines.iter().map(line).collect())
}

fn aliases() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let (session, phone) = (sign_in(&hub, "ana")?, link(&hub, "ana")?);
    let whole = |name: &str| format!("#{name}:{}", hub.name());
    for (file, other) in [(&session, &phone), (&phone, &session)] {
        let made = done(file, &["create", "--name", "Crew"])?;
        let room = made[0]["room_id"].as_str().ok_or("no room")?;
        let name = |what: &str| format!("{what}{}", usize::from(file == &phone));
        let (one, two) = (name("one"), name("two"));

        done(file, &["alias", room, &one])?;
        done(file, &["alias", room, &format!("#{two}")])?;
        done(file, &["alias", room, &whole(&two)])?; // it is so already
        let both = [(whole(&two), true), (whole(&one), false)];
        if listed(other, room)? != both {
            return Err(format!("{:?}", listed(other, room)).into());
        }
        let rooms = done(other, &["rooms"])?;
        if !rooms
            .iter()
            .any(|known| known["alias"] == whole(&two).as_str())
        {
            return Err(format!("{rooms:#?}").into());
        }
        done(other, &["alias", &whole(&one), &two, "--remove"])?;
        if listed(file, room)? != [(whole(&one), false)] {
            return Err(format!("{:?}", listed(file, room)).into());
        }
        holds(&refused(file, &["join", &whole(&two)])?, "M_NOT_FOUND")?;
        let elsewhere = done(file, &["create"])?;
        let elsewhere = elsewhere[0]["room_id"].as_str().ok_or("no room")?;
        holds(
            &refused(file, &["alias", elsewhere, &one])?,
            "M_ROOM_IN_USE",
        )?;
    }
    Ok(())
}

fn away() -> Result<(), Failed> {
    // Nobody listens at port 1.
    let free = "127.0.0.1:1";
    let options = [
        "federation.enabled=true".to_owned(),
        "federation.allow_private_addresses=true".to_owned(),
    ];
    let hub = Hub::federating(&["ana"], &options)?;
    let (session, phone) = (sign_in(&hub, "ana")?, link(&hub, "ana")?);
    let made = done(&session, &["create"])?;
    let room = made[0]["room_id"].as_str().ok_or("no room")?;
    let (alias, user) = (format!("#crew:{free}"), format!("@bob:{free}"));
    for file in [&session, &phone] {
        for verb in [
            &["join", &alias][..],
            &["join", "!elsewhere", "--via", free],
            &["invite", room, &user],
            &["alias", room, &alias],
        ] {
            let said = refused(file, verb)?;
            let wanted = format!("{free} is not reached (PEER_UNREACHABLE): ");
            holds(&said, &wanted)?;
            if said.contains("os error") || said.contains("refused") {
                return Err(said.into());
            }
        }
    }
    let mut status = tramline();
    status.args(["peer", "status", "far.example", "--config"]);
    let status = hub::output(status.arg(hub.config()))?;
    expect_code(status.status.code(), 1)?;
    holds(&String::from_utf8(status.stderr)?, "error[PEER_UNKNOWN]")
}
