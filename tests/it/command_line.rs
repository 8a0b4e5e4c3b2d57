//! What scripts rely on: exit codes, the ready line, the demo.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::hub::{Hub, NAME, block_on, output, run, tramline};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "command_line::the_demo_checks_itself",
            the_demo_checks_itself,
        ),
        Trial::test(
            "command_line::init_refuses_to_overwrite",
            init_refuses_to_overwrite,
        ),
        Trial::test(
            "command_line::a_wrong_key_is_named_with_its_line",
            a_wrong_key,
        ),
        Trial::test(
            "command_line::a_second_hub_on_one_store_ends_with_3",
            a_second_hub,
        ),
        Trial::test(
            "command_line::the_ready_line_names_every_door",
            the_ready_line,
        ),
        Trial::test(
            "command_line::the_log_and_the_metrics_tell_of_a_request_and_no_secret",
            the_log_and_the_metrics,
        ),
        Trial::test(
            "command_line::a_replaced_signing_key_ends_with_3_and_says_what_to_do",
            a_replaced_key,
        ),
        Trial::test(
            "command_line::fsck_runs_beside_the_hub_and_ends_with_1_on_findings",
            fsck_beside_the_hub,
        ),
        Trial::test(
            "command_line::what_serve_was_given_is_what_config_and_doctor_go_by",
            what_serve_was_given,
        ),
        Trial::test("command_line::every_verb_has_help_with_an_example", help),
        Trial::test("command_line::wrong_usage_ends_with_2", wrong_usage),
        Trial::test(
            "command_line::a_user_is_added_while_the_hub_runs",
            user_add_online,
        ),
    ]
}

fn the_demo_checks_itself() -> Result<(), Failed> {
    let said = run(tramline().arg("demo"))?;
    for wanted in [
        "chain",
        "coap",
        "https",
        "redact",
        "phone, over oscore",
        "phone, over quic",
    ] {
        if !said.to_lowercase().contains(wanted) {
            return Err(format!("the demo says nothing of {wanted}:\n{said}").into());
        }
    }
    // Every operation has a price over both doors.
    let table = said
        .lines()
        .skip_while(|line| !line.contains("CoAP/CBOR  "));
    let rows: Vec<_> = table.filter(|line| line.contains(" = ")).collect();
    if rows.len() < 8 || rows.iter().any(|row| row.matches(" = ").count() != 2) {
        return Err(format!("an empty cell in the table of bytes:\n{said}").into());
    }
    Ok(())
}

fn init_refuses_to_overwrite() -> Result<(), Failed> {
    let hub = Hub::init()?;
    let before = fs::read(hub.config())?;
    let again = tramline()
        .args(["init", NAME, "--dir"])
        .arg(hub.path())
        .output()?;
    expect_code(again.status.code(), 1)?;
    if fs::read(hub.config())? != before {
        return Err("a refused init must change nothing".into());
    }
    Ok(())
}

fn a_wrong_key() -> Result<(), Failed> {
    let hub = Hub::init()?;
    let mut text = fs::read_to_string(hub.config())?;
    let line = text.lines().count() + 3;
    text.push_str("\n[lgo]\nlevel = \"info\"\n");
    fs::write(hub.config(), text)?;
    let output = tramline()
        .arg("config")
        .arg("--config")
        .arg(hub.config())
        .output()?;
    expect_code(output.status.code(), 2)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for wanted in ["lgo", "log", &line.to_string()] {
        if !said.contains(wanted) {
            return Err(format!("{wanted:?} is not in: {said}").into());
        }
    }
    Ok(())
}

fn a_second_hub() -> Result<(), Failed> {
    let hub = Hub::with_users(&[])?;
    let second = tramline()
        .arg("serve")
        .arg("--config")
        .arg(hub.config())
        .args([
            "-O",
            "https.listen=127.0.0.1:0",
            "-O",
            "coap.listen=127.0.0.1:0",
            "-O",
            "coaps.listen=127.0.0.1:0",
            "-O",
            "quic.listen=127.0.0.1:0",
        ])
        .args(["-O", "admin.listen=127.0.0.1:0"])
        .output()?;
    expect_code(second.status.code(), 3)
}

fn a_replaced_key() -> Result<(), Failed> {
    let (hub, other) = (Hub::init()?, Hub::init()?);
    let key = |hub: &Hub| hub.path().join("keys/signing.pem");
    let ours = fs::read(key(&hub))?;
    fs::write(key(&hub), fs::read(key(&other))?)?;
    let serve = || {
        tramline()
            .arg("serve")
            .arg("--config")
            .arg(hub.config())
            .output()
    };
    let output = serve()?;
    expect_code(output.status.code(), 3)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wanted = [
        "error[STORE_OF_ANOTHER_KEY]",
        "signing.pem",
        "ed25519:",
        "signing_key_file",
        "back",
    ];
    for wanted in wanted {
        if !said.contains(wanted) {
            return Err(format!("{wanted:?} is not in: {said}").into());
        }
    }
    fs::write(key(&hub), ours)?;
    hub.add_user("ana") // opens the store as `serve` does
}

fn fsck_beside_the_hub() -> Result<(), Failed> {
    let hub = Hub::with_users(&[])?;
    let (code, report) = hub.fsck()?;
    expect_code(Some(code), 0)?;
    let summary: serde_json::Value = serde_json::from_str(&report)?;
    if summary["event"] != "summary" || summary["findings"] != 0 {
        return Err(format!("no summary: {report}").into());
    }
    let stray = hub.path().join("store/media/notes.txt");
    fs::write(&stray, "mine")?;
    fs::File::options()
        .write(true)
        .open(&stray)?
        .set_modified(std::time::SystemTime::UNIX_EPOCH)?;
    let (code, report) = hub.fsck()?;
    expect_code(Some(code), 1)?;
    let finding: serde_json::Value =
        serde_json::from_str(report.lines().next().unwrap_or_default())?;
    if finding["code"] != "FILE_UNINDEXED" || finding["file"] != "notes.txt" {
        return Err(format!("no finding: {report}").into());
    }
    Ok(())
}

fn the_ready_line() -> Result<(), Failed> {
    let mut hub = Hub::with_users(&[])?;
    let ready = hub.ready().clone();
    for (key, wanted) in [("event", "ready"), ("server_name", NAME)] {
        if ready[key] != wanted {
            return Err(format!("{key} in {ready}").into());
        }
    }
    for door in ["https", "coap", "coaps", "quic", "admin"] {
        hub.address(door);
    }
    expect_code(Some(hub.stop()?), 0)
}

fn the_log_and_the_metrics() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let talk = async {
        for door in ["https", "coap"] {
            let mut client = hub.client(door, "ana").await?;
            let room = client.create_room(json!({"name": "planted-name"})).await?;
            client.say(&room, "planted-txn", "planted-text").await?;
        }
        Ok::<_, Failed>(())
    };
    block_on(talk)?;

    let log = hub.log_text();
    for secret in ["planted-", "secret-ana"] {
        if log.contains(secret) {
            return Err(format!("{secret} is in the log:\n{log}").into());
        }
    }
    for (door, endpoint) in [("https", "Login"), ("coap", "Send")] {
        let span = format!("door=\"{door}\" endpoint=\"{endpoint}\" user=\"@ana:{NAME}\"");
        let of_it = |line: &&str| line.contains(&span) && line.contains("answered status=200");
        if log.lines().filter(of_it).count() != 1 {
            return Err(format!("there is not one line of {span} in:\n{log}").into());
        }
    }

    let printed = scrape(&hub)?;
    let named = |mark: &str| -> BTreeSet<String> {
        let lines = printed.lines().filter_map(|line| line.strip_prefix(mark));
        let names = lines.filter_map(|line| line.split(' ').next());
        names.map(ToOwned::to_owned).collect()
    };
    let (typed, helped) = (named("# TYPE "), named("# HELP "));
    if typed != helped || !typed.contains("tramline_requests_total") {
        return Err(format!("some metric lacks HELP or TYPE:\n{printed}").into());
    }
    Ok(())
}

/// What `/metrics` says to the operator.
pub(crate) fn scrape(hub: &Hub) -> Result<String, Failed> {
    let token = fs::read_to_string(hub.path().join("keys/admin.token"))?;
    let mut stream = TcpStream::connect(hub.address("admin"))?;
    let head = "GET /metrics HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n";
    write!(
        stream,
        "{head}Authorization: Bearer {}\r\n\r\n",
        token.trim()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn help() -> Result<(), Failed> {
    for verb in [
        "init",
        "serve",
        "config",
        "user add",
        "user list",
        "user password",
        "user disable",
        "user enable",
        "client logout",
        "client",
        "client send",
        "client status",
        "keys rotate",
        "demo",
        "fsck",
    ] {
        let said = run(tramline().args(verb.split(' ')).arg("--help"))?;
        if !said.contains("tramline ") || !said.to_lowercase().contains("example") {
            return Err(format!("{verb} --help has no example:\n{said}").into());
        }
    }
    Ok(())
}

fn wrong_usage() -> Result<(), Failed> {
    let nobody = tramline().args(["client", "rooms"]).output()?;
    expect_code(nobody.status.code(), 2)?;
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    if !(said.contains("--credentials") && said.contains("--login")) {
        return Err(format!("it does not say how to sign in: {said}").into());
    }
    expect_code(tramline().arg("sreve").output()?.status.code(), 2)?;
    let object = tramline().args(["init", "--json"]).output()?;
    let object: serde_json::Value = serde_json::from_slice(&object.stderr)?;
    let said = object["error"]["message"].as_str().unwrap_or_default();
    if said.contains('\n') || !said.contains("<SERVER_NAME>; Usage: tramline init") {
        return Err(format!("not one line: {object}").into());
    }
    expect_code(
        tramline()
            .args(["serve", "--prot", "1"])
            .output()?
            .status
            .code(),
        2,
    )
}

fn what_serve_was_given() -> Result<(), Failed> {
    let options = ["federation.enabled=true", "registration.token=planted"];
    let hub = Hub::federating(&[], &options.map(str::to_owned))?;
    let asked = |line: &str| {
        let mut command = tramline();
        command
            .args(line.split(' '))
            .arg("--config")
            .arg(hub.config());
        output(&mut command)
    };
    let shown = asked("config --json")?;
    let shown = String::from_utf8(shown.stdout)?;
    let keys = shown.lines().map(serde_json::from_str);
    let keys: Vec<serde_json::Value> = keys.collect::<Result<_, _>>()?;
    let key = |name: &str| keys.iter().find(|key| key["key"] == name).cloned();
    let enabled = key("federation.enabled").ok_or("no such key")?;
    assert_eq!(enabled["value"], true, "{enabled}");
    assert_eq!(enabled["configured"], false, "{enabled}");
    assert_eq!(enabled["from"]["running_hub"], true, "{enabled}");
    assert!(!shown.contains("planted"), "a secret is told: {shown}");
    let text = asked("config")?;
    let note = String::from_utf8(text.stderr)?;
    assert!(note.contains("as the running hub has it"), "{note}");
    let given = note.contains("federation.enabled") && note.contains("(the hub was given -O)");
    assert!(given, "{note}");

    let found = asked("doctor --json --peer nonsense/name")?;
    expect_code(found.status.code(), 1)?;
    let found = String::from_utf8(found.stdout)?;
    assert!(
        found.contains("FEDERATION_CA") && !found.contains("FEDERATION_OFF"),
        "{found}"
    );
    assert!(
        found.contains("nonsense/name") && found.contains("\"OUR_"),
        "{found}"
    );

    for (line, said) in [
        ("peer status", "no other server is known yet"),
        ("user list", "there is no account yet"),
        ("explain --recent", "nothing was refused since"),
    ] {
        let found = asked(line)?;
        assert!(found.stdout.is_empty(), "{line} has no lines");
        let told = String::from_utf8(found.stderr)?;
        assert!(told.contains(said), "{line}: {told}");
        let json = asked(&format!("{line} --json"))?;
        assert!(json.stdout.is_empty(), "{line} --json has none");
    }
    let rotated = asked("keys rotate")?;
    expect_code(rotated.status.code(), 3)?;
    let why = String::from_utf8(rotated.stderr)?;
    assert!(
        why.contains("HUB_RUNNING") && why.contains("old key"),
        "{why}"
    );
    Ok(())
}

fn user_add_online() -> Result<(), Failed> {
    let hub = Hub::with_users(&[])?;
    hub.add_user("late")?;
    block_on(async { hub.client("https", "late").await.map(drop) })
}

pub(crate) fn expect_code(code: Option<i32>, wanted: i32) -> Result<(), Failed> {
    if code == Some(wanted) {
        return Ok(());
    }
    Err(format!("exit code {code:?}, not {wanted}").into())
}
