//! What scripts rely on: exit codes, the ready line, the demo.

use std::fs;

use libtest_mimic::{Failed, Trial};

use crate::hub::{Hub, NAME, run, tramline};

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
    for wanted in ["chain", "coap", "https", "redact"] {
        if !said.to_lowercase().contains(wanted) {
            return Err(format!("the demo says nothing of {wanted}:\n{said}").into());
        }
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
        ])
        .args(["-O", "admin.listen=127.0.0.1:0"])
        .output()?;
    expect_code(second.status.code(), 3)
}

fn the_ready_line() -> Result<(), Failed> {
    let mut hub = Hub::with_users(&[])?;
    let ready = hub.ready().clone();
    for (key, wanted) in [("event", "ready"), ("server_name", NAME)] {
        if ready[key] != wanted {
            return Err(format!("{key} in {ready}").into());
        }
    }
    for door in ["https", "coap", "coaps", "admin"] {
        hub.address(door);
    }
    expect_code(Some(hub.stop()?), 0)
}

fn help() -> Result<(), Failed> {
    for verb in [
        "init",
        "serve",
        "config",
        "user add",
        "client",
        "client send",
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
    expect_code(
        tramline()
            .args(["serve", "--prot", "1"])
            .output()?
            .status
            .code(),
        2,
    )
}

fn user_add_online() -> Result<(), Failed> {
    let hub = Hub::with_users(&[])?;
    hub.add_user("late")?;
    crate::hub::block_on(async { hub.client("https", "late").await.map(drop) })
}

fn expect_code(code: Option<i32>, wanted: i32) -> Result<(), Failed> {
    if code == Some(wanted) {
        return Ok(());
    }
    Err(format!("exit code {code:?}, not {wanted}").into())
}
