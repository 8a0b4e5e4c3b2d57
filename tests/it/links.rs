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
            "links::a_device_is_told_public_addresses_and_its_maker_which_will_hardly_do",
            addresses,
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
    let doors = said["doors"].as_object().ok_or("no doors")?;
    must(doors.len() == 4, &said)?;
    must(said["loopback"].as_array().map(Vec::len) == Some(4), &said)?;
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
    must(listed["last_seen"].is_null(), &listed)?;
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

/// Links, and gives what was said on stderr.
fn warned(hub: &Hub, device: &str, more: &[&str]) -> Result<String, Failed> {
    let said = hub::output(&mut link(hub, device, more))?;
    let why = String::from_utf8_lossy(&said.stderr).into_owned();
    must(said.status.success(), &why)?;
    Ok(why)
}

fn addresses() -> Result<(), Failed> {
    let mut hub = Hub::with_users(&["ana"])?;
    let why = warned(&hub, "HERE", &[])?;
    must(
        why.contains("warning: only this machine reaches https 127."),
        &why,
    )?;
    must(why.contains("`coaps.public`, `quic.public`"), &why)?;

    hub.stop()?;
    let settings = [
        "https.public_url=https://matrix.hub.example",
        "coap.listen=0.0.0.0:25683",
        "coaps.public=thin.hub.example:5684",
        "quic.public=thin.hub.example:8449",
    ];
    let options: Vec<&str> = settings.iter().flat_map(|one| ["-O", *one]).collect();
    let why = warned(&hub, "THERE", &options)?;
    must(!why.contains("only this machine"), &why)?;
    must(
        why.contains("guessed from the server name: coap hub.example:25683;"),
        &why,
    )?;
    let server = Credentials::read(&hub.path().join("THERE.json"))?.server;
    let places = [server.https, server.coap, server.coaps, server.quic];
    let wanted = [
        "matrix.hub.example:443",
        "hub.example:25683",
        "thin.hub.example:5684",
        "thin.hub.example:8449",
    ];
    must(
        places.iter().map(Option::as_deref).eq(wanted.map(Some)),
        format!("{places:?}"),
    )?;

    let refused = hub::output(&mut link(&hub, "bad id!", &[]))?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    must(refused.status.code() == Some(1), &why)?;
    must(why.contains("no id for a linked device"), &why)
}

fn programs() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let said = run(&mut link(&hub, "A", &["--for", "aiocoap"]))?;
    must(said.contains(" aiocoap-client --credentials "), &said)?;
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
