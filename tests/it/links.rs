//! Linking devices by the operator's verb.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tramline::client::Credentials;

use crate::hub::{self, Hub, run, tramline};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "links::a_device_is_linked_listed_and_unlinked_with_and_without_a_hub",
            linked,
        ),
        Trial::test(
            "links::other_programs_get_what_they_need_and_a_command",
            programs,
        ),
    ]
}

fn verb(hub: &Hub, args: &[&str]) -> Command {
    let mut command = tramline();
    command.args(args).arg("--config").arg(hub.config());
    command
}

fn link(hub: &Hub, device: &str, more: &[&str]) -> Command {
    let out = hub.path().join(format!("{device}.json"));
    let mut command = verb(hub, &["link", "ana", "--device", device]);
    command.arg("--out").arg(out).args(more);
    command
}

fn must(is: bool, what: impl std::fmt::Display) -> Result<(), Failed> {
    if is {
        Ok(())
    } else {
        Err(what.to_string().into())
    }
}

fn mode(path: &Path) -> Result<u32, Failed> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

fn linked() -> Result<(), Failed> {
    let mut hub = Hub::with_users(&["ana"])?;
    linked_on(&hub)?;
    hub.stop()?;
    linked_on(&hub)
}

fn linked_on(hub: &Hub) -> Result<(), Failed> {
    let said = run(&mut link(hub, "TRACKER", &["--json"]))?;
    let said: Value = serde_json::from_str(&said)?;
    must(
        said["device_id"] == "TRACKER" && said["command"].is_null(),
        &said,
    )?;
    let file = hub.path().join("TRACKER.json");
    must(mode(&file)? == 0o600, "the file is not its owner's alone")?;
    let credentials = Credentials::read(&file)?;
    let edhoc = credentials.edhoc.ok_or("no edhoc")?;
    must(
        edhoc.device_key.is_some_and(|key| key.len() == 64),
        "device_key",
    )?;
    must(edhoc.hub_key.len() == 64, &edhoc.hub_key)?;
    let quic = credentials.quic.and_then(|quic| quic.client_key);
    must(quic.is_some(), "client_key")?;
    must(
        credentials.oscore.is_some() && credentials.psk.is_some(),
        "keys",
    )?;
    must(credentials.server.https.is_some(), "https")?;
    must(credentials.server.ca_pem.is_some(), "ca_pem")?;

    let again = hub::output(&mut link(hub, "TRACKER", &[]))?;
    let why = String::from_utf8_lossy(&again.stderr).into_owned();
    must(
        again.status.code() == Some(1) && why.contains("LINK_EXISTS"),
        why,
    )?;

    let listed = run(&mut verb(hub, &["user", "devices", "ana", "--json"]))?;
    let listed: Value = serde_json::from_str(listed.lines().next().unwrap_or_default())?;
    must(
        listed["device_id"] == "TRACKER" && listed["linked"] == true,
        &listed,
    )?;
    let said = run(&mut verb(
        hub,
        &["unlink", "ana", "--device", "TRACKER", "--json"],
    ))?;
    must(said.contains("\"removed\":true"), &said)?;
    let listed = run(&mut verb(hub, &["user", "devices", "ana"]))?;
    must(listed.is_empty(), &listed)?;
    fs::remove_file(file)?;
    fs::remove_dir_all(hub.path().join("TRACKER.json.state"))?;
    Ok(())
}

fn programs() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let said = run(&mut link(&hub, "A", &["--for", "aiocoap"]))?;
    must(said.starts_with("aiocoap-client --credentials "), &said)?;
    let dir = hub.path().join("A.json.aiocoap");
    for name in ["settings.json", "secret.json", "credentials.json"] {
        let text = fs::read_to_string(dir.join(name))?;
        let _: Value = serde_json::from_str(&text)?;
        must(mode(&dir.join(name))? == 0o600, name)?;
    }
    let said = run(&mut link(&hub, "C", &["--for", "coap-client"]))?;
    let psk = Credentials::read(&hub.path().join("C.json"))?.psk;
    let psk = psk.ok_or("no psk")?;
    let key = String::from_utf8(hex::decode(&psk.key)?)?;
    let wanted = format!("-u {} -k {key} ", psk.identity);
    must(said.contains(&wanted) && said.contains("coaps://"), &said)?;
    let said = run(&mut link(&hub, "Q", &["--for", "aioquic"]))?;
    must(said.starts_with("python3 "), &said)?;
    let cert = fs::read_to_string(hub.path().join("Q.json.aioquic/cert.pem"))?;
    must(cert.starts_with("-----BEGIN CERTIFICATE-----"), cert)
}
