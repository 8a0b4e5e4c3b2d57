//! What people meet who have only the binary: accounts, costs, words, errors.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tramline::{app::clock::world, client::Client};

use crate::{
    command_line::expect_code,
    hub::{self, Hub, block_on, run, tramline},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "verbs::accounts_are_listed_changed_disabled_and_enabled_with_and_without_a_hub",
            accounts,
        ),
        Trial::test(
            "verbs::logout_ends_the_session_and_takes_the_token_away",
            logout,
        ),
        Trial::test(
            "verbs::sending_says_what_it_costs_and_the_others_when_asked",
            costs,
        ),
        Trial::test("verbs::what_happened_in_a_room_is_told_in_words", words),
        Trial::test("verbs::an_error_under_json_is_one_object", json_errors),
        Trial::test("verbs::every_port_in_use_is_named_in_one_run", ports_in_use),
        Trial::test(
            "verbs::without_a_configuration_it_says_where_it_looked",
            no_configuration,
        ),
    ]
}

/// `tramline user VERB …` on this hub.
fn user(hub: &Hub, args: &[&str]) -> Command {
    let mut command = tramline();
    command
        .arg("user")
        .args(args)
        .arg("--config")
        .arg(hub.config());
    command
}

/// `tramline client --credentials FILE VERB …`.
fn client(file: &Path, args: &[&str]) -> Command {
    let mut command = tramline();
    command
        .arg("client")
        .arg("--credentials")
        .arg(file)
        .args(args);
    command
}

/// Signs in over CoAP and keeps the session in a file.
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

/// What a command that must fail says on stderr.
fn refused(command: &mut Command, code: i32) -> Result<String, Failed> {
    let output = hub::output(command)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    expect_code(output.status.code(), code).map_err(|_| -> Failed {
        let code = output.status.code();
        format!("{command:?} ended with {code:?}: {said}").into()
    })?;
    Ok(said)
}

fn holds(said: &str, wanted: &[&str]) -> Result<(), Failed> {
    match wanted.iter().find(|wanted| !said.contains(**wanted)) {
        None => Ok(()),
        Some(missing) => Err(format!("{missing:?} is not in: {said}").into()),
    }
}

fn accounts() -> Result<(), Failed> {
    let mut hub = Hub::with_users(&["ana", "bob"])?;
    accounts_on(&hub, true)?;
    hub.stop()?;
    accounts_on(&hub, false)
}

fn accounts_on(hub: &Hub, runs: bool) -> Result<(), Failed> {
    let signs_in =
        |name: &'static str| block_on(async { hub.client("https", name).await.map(drop) });
    if runs {
        signs_in("bob")?;
    }
    let said = run(&mut user(hub, &["disable", "bob", "--json"]))?;
    let said: Value = serde_json::from_str(&said)?;
    if said["disabled"] != true || said["sessions_ended"] != u64::from(runs) {
        return Err(said.to_string().into());
    }
    let listed = run(&mut user(hub, &["list", "--json"]))?;
    let listed = listed
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    let told: Vec<_> = listed
        .iter()
        .map(|user| {
            (
                user["user_id"].as_str(),
                user["disabled"] == true,
                user["devices"].as_u64(),
            )
        })
        .collect();
    let expected = [
        (Some("@ana:hub.example"), false, Some(0)),
        (Some("@bob:hub.example"), true, Some(0)),
    ];
    if told != expected {
        return Err(format!("{told:?}").into());
    }
    holds(
        &run(&mut user(hub, &["list"]))?,
        &["@bob:hub.example", "disabled", "0 devices, made 20"],
    )?;
    if runs && signs_in("bob").is_ok() {
        return Err("a disabled account could log in".into());
    }
    let taken = hub.add_user("bob");
    if taken.is_ok() {
        return Err("the name of a disabled account was given away".into());
    }
    run(&mut user(hub, &["enable", "bob"]))?;

    let file = hub.path().join("password-new");
    fs::write(&file, "another one\n")?;
    let change = |file: &Path| {
        let file = file.display().to_string();
        run(&mut user(
            hub,
            &["password", "ana", "--password-file", &file],
        ))
    };
    holds(
        &change(&file)?,
        &["@ana:hub.example has another password now; 0 sessions ended"],
    )?;
    if runs {
        signs_in("bob")?;
        if signs_in("ana").is_ok() {
            return Err("the old password still works".into());
        }
        // As it was, for the second round.
        change(&hub.path().join("password-ana"))?;
        run(&mut user(hub, &["disable", "bob"]))?;
        run(&mut user(hub, &["enable", "bob"]))?;
    }
    let said = refused(&mut user(hub, &["disable", "nobody"]), 1)?;
    holds(
        &said,
        &["error[M_NOT_FOUND]: there is no account @nobody:hub.example"],
    )
}

fn logout() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let file = sign_in(&hub, "ana")?;
    let token: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let token = token["access_token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();

    let said = run(&mut client(&file, &["logout"]))?;

    holds(
        &said,
        &[
            "logged out @ana:hub.example",
            "took the access token out of",
        ],
    )?;
    if token.is_empty() || fs::read_to_string(&file)?.contains(&token) {
        return Err("the token is still in the file".into());
    }
    block_on(async {
        let target = hub.target("coap")?;
        let mut old = Client::resume(&target, &token, &world()).await?;
        match old.whoami().await {
            Err(error) if error.errcode() == Some("M_UNKNOWN_TOKEN") => Ok(()),
            other => Err(format!("the session goes on: {other:?}").into()),
        }
    })?;
    let said = refused(&mut client(&file, &["status"]), 2)?;
    holds(&said, &["is logged out; sign in again"])?;
    sign_in(&hub, "ana").map(drop) // over the file that has no session any more
}

fn costs() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let file = sign_in(&hub, "ana")?;
    let room = run(&mut client(&file, &["create", "--name", "Crew"]))?;
    let room = room.trim();

    let sent = hub::output(&mut client(&file, &["send", room, "hello"]))?;
    let said = String::from_utf8_lossy(&sent.stderr).into_owned();
    let figures: Vec<u64> = said
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect();
    if !said.starts_with("cost: ") || !said.ends_with(" datagrams\n") || figures.len() != 3 {
        return Err(format!("no cost of sending: {said:?}").into());
    }
    let sent = run(&mut client(&file, &["send", room, "hello", "--json"]))?;
    let sent: Value = serde_json::from_str(&sent)?;
    if sent["cost"]["bytes_up"].as_u64() == Some(0) || sent["cost"]["datagrams"] != 2 {
        return Err(format!("no cost of sending: {sent}").into());
    }
    for verb in ["rooms", "status", "sync"] {
        let quiet = hub::output(&mut client(&file, &[verb]))?;
        if !quiet.stderr.is_empty() {
            return Err(format!("{verb} says more than asked").into());
        }
        for flag in ["-v", "--cost"] {
            let told = hub::output(&mut client(&file, &[verb, flag]))?;
            holds(
                &String::from_utf8_lossy(&told.stderr),
                &["cost: ", " bytes up, "],
            )?;
        }
        let told = run(&mut client(&file, &[verb, "--cost", "--json"]))?;
        let last: Value = serde_json::from_str(told.lines().last().unwrap_or_default())?;
        if !last["cost"]["bytes_down"].is_u64() {
            return Err(format!("{verb} has no field `cost`: {told}").into());
        }
    }
    Ok(())
}

fn words() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let (ana, bob) = (sign_in(&hub, "ana")?, sign_in(&hub, "bob")?);
    let made = [
        "create",
        "--name",
        "Crew \u{1b}[2J",
        "--alias",
        "crew",
        "--invite",
        "@bob:hub.example",
    ];
    let room = run(&mut client(&ana, &made))?;
    let room = room.trim();

    let rooms = run(&mut client(&bob, &["rooms"]))?;
    holds(
        &rooms,
        &[room, "\"Crew \\u{1b}[2J\"", "invited by @ana:hub.example"],
    )?;
    let rooms = run(&mut client(&bob, &["rooms", "--json"]))?;
    let rooms: Value = serde_json::from_str(&rooms)?;
    if rooms["membership"] != "invite" || rooms["inviter"] != "@ana:hub.example" {
        return Err(rooms.to_string().into());
    }
    run(&mut client(&bob, &["join", "#crew:hub.example"]))?;
    run(&mut client(&ana, &["send", room, "two\nlines \u{1b}[31m"]))?;

    let read = run(&mut client(&bob, &["read", room]))?;
    holds(
        &read,
        &[
            "Z $",
            "@ana:hub.example created the room (version 12)",
            "@ana:hub.example set the room's name to \"Crew \\u{1b}[2J\"",
            "@bob:hub.example joined",
            "@ana:hub.example: two\\nlines \\u{1b}[31m",
        ],
    )?;
    let sync = run(&mut client(&ana, &["sync"]))?;
    holds(
        &sync,
        &[
            &format!("{room} \"Crew "),
            "  20",
            "@ana:hub.example: two\\nlines",
        ],
    )?;
    for said in [read, sync, run(&mut client(&ana, &["rooms"]))?] {
        if said.contains('\u{1b}') {
            return Err(format!("an escape reaches the terminal: {said:?}").into());
        }
    }
    holds(&run(&mut client(&ana, &["rooms"]))?, &["#crew:hub.example"])
}

fn json_errors() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let ana = sign_in(&hub, "ana")?;
    let mut wrong_password = tramline();
    wrong_password.args(["--json", "client", "--login", &hub.coap(), "ana"]);
    wrong_password
        .arg("--password-file")
        .arg(hub.config())
        .arg("rooms");
    let none = "!31hneApxJ_1o-63DmFrpeqnkFFWppnzWso1JvH3ogLM";
    for (mut command, code, name) in [
        (client(&ana, &["read", "crew", "--json"]), 2, "ROOM_ID"),
        (
            client(&ana, &["invite", none, "bob", "--json"]),
            2,
            "USER_ID",
        ),
        (
            client(&ana, &["create", "--alias", "#a:b", "--json"]),
            2,
            "ALIAS",
        ),
        (client(&ana, &["leave", none, "--json"]), 1, "M_"),
        (client(&ana, &["send", none, "hi", "--json"]), 1, "M_"),
        (wrong_password, 1, "M_FORBIDDEN"),
        (
            user(&hub, &["enable", "Ana", "--json"]),
            1,
            "M_INVALID_USERNAME",
        ),
        (user(&hub, &["sreve", "--json"]), 2, "USAGE"),
        (
            client(&ana, &["read", none, "--limit", "5000", "--json"]),
            2,
            "USAGE",
        ),
    ] {
        let said = refused(&mut command, code)?;
        let error: Value = serde_json::from_str(&said)
            .map_err(|error| format!("{command:?}: {error}: {said:?}"))?;
        let found = error["error"]["code"].as_str().unwrap_or_default();
        if !found.starts_with(name) || error["error"]["message"].as_str().is_none_or(str::is_empty)
        {
            return Err(format!("{command:?}: {said}").into());
        }
    }
    let said = refused(&mut client(&ana, &["read", none, "--limit", "5000"]), 2)?;
    holds(&said, &["'5000' for '--limit", "not above 1000"])?;
    let mut without_ca = tramline();
    without_ca.args(["client", "--login", &hub.https(), "ana"]);
    without_ca.arg("--password-file").arg(hub.config());
    let said = refused(without_ca.arg("rooms"), 1)?;
    holds(&said, &["error[UNREACHABLE]", "with --ca FILE (a hub"])?;
    let other = Hub::init()?;
    let mut of_another = tramline();
    of_another.args(["client", "--login", &hub.https(), "ana"]);
    of_another.arg("--password-file").arg(hub.config());
    of_another.arg("--ca").arg(other.ca());
    let said = refused(of_another.arg("rooms"), 1)?;
    holds(
        &said,
        &[
            "error[UNREACHABLE]",
            "(given with --ca) does not vouch for the certificate this server shows",
        ],
    )
}

fn ports_in_use() -> Result<(), Failed> {
    let hub = Hub::init()?;
    let taken = ["https", "coap", "admin"].map(|door| {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address)?;
        Ok::<_, std::io::Error>((door, address, tcp, udp))
    });
    let mut serve = tramline();
    serve.arg("serve").arg("--config").arg(hub.config());
    let mut wanted = Vec::new();
    for taken in &taken {
        let (door, address, ..) = taken.as_ref().map_err(ToString::to_string)?;
        serve.args(["-O", &format!("{door}.listen={address}")]);
        wanted.push(format!("`{door}.listen`: cannot listen on {address}"));
    }
    let said = refused(&mut serve, 1)?;
    holds(
        &said,
        &wanted.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

fn no_configuration() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let said = refused(tramline().arg("serve").current_dir(&dir), 2)?;
    holds(
        &said,
        &[
            "no configuration found",
            &dir.path().join("tramline.toml").display().to_string(),
            "tramline init",
            "--config FILE",
        ],
    )
}
