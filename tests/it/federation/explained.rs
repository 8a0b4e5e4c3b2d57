//! A server that the operator keeps out: what it is told, what the operator is told of that, and how
//! it comes in. Then what `doctor` says of both.

use std::{process::Command, time::Duration};

use libtest_mimic::Failed;
use ruma::{OwnedRoomId, OwnedServerName, signatures::Ed25519KeyPair};
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Call, Client, Target},
    edge::matrix::outgoing::Ask,
    wire::matrix::ServerKey,
};

use super::{Peers, text};
use crate::hub::{Hub, block_on, output, run, tramline};

pub(super) fn a_refusal_is_explained_and_a_reload_lets_the_server_in() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let denied = peers.name()?;
    let options = peers.options()?;
    // In the file, as an operator has it: a reload takes nothing from the command line anew.
    let hub = Hub::federating_with(&["ana"], &options, |hub| deny(hub, Some(&denied)))?;
    let told = block_on(async {
        let target = Target::parse(&hub.https(), Some(&peers.pem()?))?;
        let mut ana = Client::open(&target, &world()).await?;
        ana.login("ana", "secret-ana", None).await?;
        let mut alice = peers.alice().await?;
        let wish = json!({"preset": "public_chat", "room_version": "11"});
        let room = ana.create_room(wish).await?;

        an_answer_names_its_request(&peers, &hub, &room).await?;
        a_join_is_refused_both_ways(&peers, &hub, &room, &mut ana, &mut alice).await?;
        deny(&hub, None)?;
        hub.reload()?;
        accepted(&hub).await?;
        let mut join = Call::post(&["join", room.as_str()], json!({}));
        join.query = vec![("via", hub.name().to_owned())];
        let joined = alice.call("join", join).await?;
        assert_eq!(joined["room_id"], room.as_str(), "{joined}");
        the_doctor_finds_both_well(&peers, &hub)?;
        a_wrong_authority_is_found(&peers, &hub)
    });
    told.map_err(|error: Failed| {
        let said = error.message().unwrap_or_default();
        format!("{said}\n{}", hub.log_text()).into()
    })
}

/// Writes the deny list into the configuration file, or takes it out.
fn deny(hub: &Hub, server: Option<&OwnedServerName>) -> Result<(), Failed> {
    let text = std::fs::read_to_string(hub.config())?;
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("deny = ")) {
        lines.push(line.to_owned());
        if let (Some(server), "[federation]") = (server, line) {
            lines.push(format!("deny = [\"{server}\"]"));
        }
    }
    std::fs::write(hub.config(), lines.join("\n") + "\n")?;
    Ok(())
}

pub(super) fn explain(hub: &Hub, args: &[&str]) -> Result<Vec<Value>, Failed> {
    let told = run(tramline()
        .args(["explain", "--json"])
        .args(args)
        .arg("--config")
        .arg(hub.config()))?;
    let lines = told.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// Whoever has that name, even if the signature would be wrong: the lists come first.
async fn an_answer_names_its_request(
    peers: &Peers,
    hub: &Hub,
    room: &OwnedRoomId,
) -> Result<(), Failed> {
    let key = ServerKey::from_der(peers.name()?, &Ed25519KeyPair::generate(), "1")?;
    let edge = peers.edge(key)?;
    let user = peers.name()?.as_str().replace(':', "%3A");
    let room_id = room.as_str().replace('!', "%21").replace(':', "%3A");
    let uri = format!("/_matrix/federation/v1/make_join/{room_id}/%40alice%3A{user}?ver=11");
    let ask = Ask::get(uri);
    let server: OwnedServerName = hub.name().try_into()?;
    let told = edge.outgoing.ask(&server, &ask).await?;
    assert_eq!(told.status, 403, "{:?}", told.body);
    let id = told.request_id.ok_or("no X-Request-Id")?;

    let told = explain(hub, &[&id])?;
    let [refusal] = told.as_slice() else {
        return Err(format!("not one refusal: {told:?}").into());
    };
    assert_eq!(refusal["reason"], "FEDERATION_DENY", "{refusal}");
    assert_eq!(refusal["from"], peers.name()?.as_str(), "{refusal}");
    assert_eq!(refusal["endpoint"], "MakeJoin", "{refusal}");
    assert_eq!(refusal["room_id"], room.as_str(), "{refusal}");
    assert!(text(&refusal["rule"])?.contains(peers.name()?.as_str()));
    assert!(text(&refusal["list_version"])?.starts_with("1 ("));
    assert!(text(&refusal["do"])?.contains("kill -HUP"));
    let mut command = tramline();
    command.args(["explain", &id, "--config"]).arg(hub.config());
    print!("{}", run(&mut command)?);
    Ok(())
}

async fn a_join_is_refused_both_ways(
    peers: &Peers,
    hub: &Hub,
    room: &OwnedRoomId,
    ana: &mut Client,
    alice: &mut Client,
) -> Result<(), Failed> {
    let mut join = Call::post(&["join", room.as_str()], json!({}));
    join.query = vec![("via", hub.name().to_owned())];
    assert!(alice.call("join", join).await.is_err(), "Synapse joined");
    let recent = explain(hub, &["--recent"])?;
    let hers = |one: &&Value| one["reason"] == "FEDERATION_DENY" && one["endpoint"] == "MakeJoin";
    assert!(recent.iter().filter(hers).count() >= 2, "{recent:?}");

    let theirs = alice.create_room(json!({"preset": "public_chat"})).await?;
    let mut join = Call::post(&["join", theirs.as_str()], json!({}));
    join.query = vec![("via", peers.name()?.to_string())];
    assert!(ana.call("join", join).await.is_err(), "the hub joined");
    let recent = explain(hub, &["--recent"])?;
    let newest = recent.first().ok_or("nothing was refused")?;
    assert_eq!(newest["from"], format!("@ana:{}", hub.name()), "{newest}");
    assert_eq!(newest["reason"], "FEDERATION_DENY", "{newest}");

    let unknown = output(
        tramline()
            .args(["explain", "ffffffff", "--config"])
            .arg(hub.config()),
    )?;
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(1), "{said}");
    assert!(said.contains("the latest 4096"), "{said}");
    Ok(())
}

async fn accepted(hub: &Hub) -> Result<(), Failed> {
    for _ in 0..80 {
        let log = hub.log_text();
        let mut lines = log.lines();
        if lines.any(|line| line.contains("reload accepted") && line.contains("2 (")) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Err("the reload was not accepted".into())
}

fn doctor(
    hub: &Hub,
    peers: &Peers,
    options: &[String],
) -> Result<(Option<i32>, Vec<Value>), Failed> {
    let mut command: Command = tramline();
    command.args(["doctor", "--json", "--peer", peers.name()?.as_str()]);
    // What `serve` was given, the hub tells.
    for option in options {
        command.args(["-O", option]);
    }
    let told = output(command.arg("--config").arg(hub.config()))?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let findings = text.lines().map(serde_json::from_str);
    Ok((told.status.code(), findings.collect::<Result<_, _>>()?))
}

fn the_doctor_finds_both_well(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let (code, findings) = doctor(hub, peers, &[])?;
    for wanted in [
        "SIGNING_KEY",
        "STORE_KEY",
        "CERTIFICATE_NAME",
        "HUB_RUNS",
        "FEDERATION_CA",
        "OUR_NAME",
        "OUR_TLS",
        "OUR_CLOCK",
        "OUR_KEYS",
        "OUR_KEY",
        "OUR_WELL_KNOWN",
        "PEER_LISTS",
        "PEER_NAME",
        "PEER_TLS",
        "PEER_KEYS",
        "PEER_BELIEVES_US",
    ] {
        let is_it = |one: &Value| one["code"] == wanted && one["level"] == "ok";
        assert!(findings.iter().any(is_it), "{wanted}: {findings:#?}");
    }
    assert_eq!(code, Some(0), "{findings:#?}");
    let found = |code: &str| findings.iter().find(|one| one["code"] == code);
    let runs = text(&found("HUB_RUNS").ok_or("it runs")?["cause"])?.to_owned();
    assert!(runs.contains("federation.ca_file"), "{runs}");
    // What doctor asks for is no refusal, and the log says who asked for what.
    let recent = explain(hub, &["--recent"])?;
    let probed = |one: &Value| one["endpoint"] == "WellKnownServer";
    assert!(!recent.iter().any(probed), "{recent:?}");
    let log = hub.log_text();
    for (endpoint, field) in [("SendJoin", "server"), ("MakeJoin", "server_unverified")] {
        let endpoint = format!("endpoint=\"{endpoint}\"");
        let server = format!(" {field}=\"{}\"", peers.name()?);
        let mut lines = log.lines();
        let named = lines.any(|line| line.contains(&endpoint) && line.contains(&server));
        assert!(named, "{endpoint} {server}: {log}");
    }
    Ok(())
}

fn a_wrong_authority_is_found(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let wrong = format!("federation.ca_file={}", hub.ca().display());
    let (code, findings) = doctor(hub, peers, &[wrong])?;
    assert_eq!(code, Some(1), "{findings:#?}");
    for left in ["OUR_KEYS", "OUR_KEY", "OUR_WELL_KNOWN", "PEER_BELIEVES_US"] {
        let is_it = |one: &Value| one["code"] == left && one["level"] == "skip";
        assert!(findings.iter().any(is_it), "{left}: {findings:#?}");
    }
    for wanted in ["OUR_TLS", "PEER_TLS"] {
        let mut failing = findings.iter();
        let failing = failing.find(|one| one["code"] == wanted && one["level"] == "fail");
        let failing = failing.ok_or_else(|| format!("no {wanted}: {findings:#?}"))?;
        assert!(
            text(&failing["do"])?.contains("openssl s_client"),
            "{failing}"
        );
        assert!(
            text(&failing["do"])?.contains("federation.ca_file"),
            "{failing}"
        );
        let ca = hub.ca().display().to_string();
        assert!(text(&failing["cause"])?.contains(&ca), "{failing}");
    }
    Ok(())
}
