//! What the hub's user says reaches a Synapse once and in order, also when either was killed while it
//! was said.

use std::{process::Command, time::Duration};

use libtest_mimic::Failed;
use ruma::{OwnedEventId, RoomId};
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Call, Client, Target},
};

use super::{Peers, killed::the_hub_waits_longer};
use crate::hub::{Hub, block_on, run, tramline};

/// How long something may take to arrive: longer than the hub leaves a server alone here.
const TRIES: u32 = 240;
const PAUSE: Duration = Duration::from_millis(500);

pub(super) fn what_is_said_while_synapse_is_away_arrives_once_and_in_order() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let mut hub = Hub::federating(&["ana"], &peers.options()?)?;
    let told = block_on(story(&peers, &mut hub));
    told.map_err(|error: Failed| {
        let said = error.message().unwrap_or_default();
        format!("{said}\n{}", hub.log_text()).into()
    })
}

async fn story(peers: &Peers, hub: &mut Hub) -> Result<(), Failed> {
    let mut ana = signed_in(peers, hub).await?;
    let wish = json!({"preset": "public_chat", "room_alias_name": "talk"});
    let room = ana.create_room(wish).await?;
    let mut alice = peers.alice().await?;
    let alias = format!("#talk:{}", hub.name());
    alice
        .call("join", Call::post(&["join", &alias], json!({})))
        .await?;
    ana.say(&room, "0", "said 0").await?;
    until(&mut alice, &room, &["said 0"]).await?;

    peers.synapse.again("kill", 0)?;
    let away = ana.say(&room, "1", "said 1").await?;
    told_by_client(peers, hub, &room, &away, &["queued", "in_flight"])?;
    the_hub_waits_longer(peers, hub).await?;
    why_it_waits(&mut ana, &room, &away).await?;
    ana.say(&room, "2", "said 2").await?;
    hub.kill()?;
    hub.start()?;
    let mut ana = signed_in(peers, hub).await?;
    let last = ana.say(&room, "3", "said 3").await?;
    peers.synapse.again("start", 0)?;
    let mut alice = peers.alice().await?;
    until(&mut alice, &room, &["said 0", "said 1", "said 2", "said 3"]).await?;
    acked(&mut ana, &room, &last, peers.name()?.as_str()).await?;
    for event in [&away, &last] {
        told_by_client(peers, hub, &room, event, &["acked"])?;
    }
    Ok(())
}

/// Who waits is told why and until when, at any moment at which nothing is under way.
async fn why_it_waits(ana: &mut Client, room: &RoomId, event: &OwnedEventId) -> Result<(), Failed> {
    let (room, event) = (room.as_str(), event.as_str());
    let path = ["_tramline", "client", "v1", "deliveries", room, event];
    let mut told = Value::Null;
    for _ in 0..TRIES {
        told = ana.call("deliveries", Call::get(&path, Vec::new())).await?;
        let server = &told["servers"][0];
        if server["state"] == "queued" && server["next_try_ts"].is_u64() {
            assert_eq!(server["reason"], "PEER_UNREACHABLE", "{told}");
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("nothing says why it waits: {told}").into())
}

/// What `client status ROOM` says of an event is one of these, over HTTPS, CoAP and as a linked device.
fn told_by_client(
    peers: &Peers,
    hub: &Hub,
    room: &RoomId,
    event: &OwnedEventId,
    wanted: &[&str],
) -> Result<(), Failed> {
    let file = hub.path().join("phone.json");
    if !file.exists() {
        let mut link = tramline();
        link.args(["link", "ana", "--device", "PHONE", "--out"]);
        run(link.arg(&file).arg("--config").arg(hub.config()))?;
    }
    let password = hub.path().join("password-ana");
    let ca = peers.ca()?;
    let (https, coap) = (hub.https(), hub.coap());
    let ca = ca.display().to_string();
    let ways: [&[&str]; 2] = [
        &["--login", &https, "ana", "--ca", &ca],
        &["--login", &coap, "ana"],
    ];
    for way in ways {
        let mut command = tramline();
        command.args(["client", "--json"]).args(way);
        command.arg("--password-file").arg(&password);
        says(
            command.args(["status", room.as_str()]),
            peers,
            event,
            wanted,
        )?;
    }
    // The hub has other ports after a restart, and the file names the old ones.
    let mut phone: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    phone["server"]["coap"] = hub.address("coap").into();
    std::fs::write(&file, phone.to_string())?;
    let mut command = tramline();
    command
        .args(["client", "--json", "--credentials"])
        .arg(&file);
    says(
        command.args(["--door", "oscore", "status", room.as_str()]),
        peers,
        event,
        wanted,
    )
}

fn says(
    command: &mut Command,
    peers: &Peers,
    event: &OwnedEventId,
    wanted: &[&str],
) -> Result<(), Failed> {
    let told = run(command)?;
    let lines: Vec<Value> = told
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let mut of_it = lines
        .iter()
        .filter(|line| line["event_id"] == event.as_str());
    let line = of_it
        .next()
        .ok_or_else(|| format!("nothing of {event} in {told}"))?;
    assert_eq!(line["server"], peers.name()?.as_str(), "{line}");
    let state = line["state"].as_str().unwrap_or_default();
    assert!(wanted.contains(&state), "{wanted:?}: {line}");
    assert!(of_it.next().is_none(), "{told}");
    Ok(())
}

async fn signed_in(peers: &Peers, hub: &Hub) -> Result<Client, Failed> {
    let target = Target::parse(&hub.https(), Some(&peers.pem()?))?;
    let mut ana = Client::open(&target, &world()).await?;
    ana.login("ana", "secret-ana", None).await?;
    Ok(ana)
}

/// Waits until what was said in a room, oldest first, is this.
async fn until(client: &mut Client, room: &RoomId, wanted: &[&str]) -> Result<(), Failed> {
    let mut texts: Vec<String> = Vec::new();
    for _ in 0..TRIES {
        let page = client.messages(room, None, true, 50).await?;
        let chunk = page["chunk"].as_array().into_iter().flatten();
        let bodies = chunk.filter_map(|event| event["content"]["body"].as_str());
        texts = bodies.map(str::to_owned).collect();
        texts.reverse();
        if texts == wanted {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{texts:?} is not {wanted:?}").into())
}

/// Waits until the sender is told that the other server has it.
async fn acked(
    ana: &mut Client,
    room: &RoomId,
    event: &OwnedEventId,
    server: &str,
) -> Result<(), Failed> {
    let path = [
        "_tramline",
        "client",
        "v1",
        "deliveries",
        room.as_str(),
        event.as_str(),
    ];
    let mut told = Value::Null;
    for _ in 0..TRIES {
        told = ana.call("deliveries", Call::get(&path, Vec::new())).await?;
        if told["servers"] == json!([{"server": server, "state": "acked"}]) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("it is not acked: {told}").into())
}
