//! What the hub's user says reaches a Synapse once and in order, also when either was killed while it
//! was said.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use libtest_mimic::Failed;
use ruma::{OwnedEventId, RoomId};
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Call, Client, Target},
};

use super::{Peers, text};
use crate::hub::{Hub, block_on, ended, run};

/// How long something may take to arrive: longer than the hub leaves a server alone here.
const TRIES: u32 = 240;
const PAUSE: Duration = Duration::from_millis(500);

/// How long Synapse is away: several tries of the hub.
const AWAY: Duration = Duration::from_secs(8);

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

    let mut synapse = Killed::now(peers)?;
    ana.say(&room, "1", "said 1").await?;
    tokio::time::sleep(AWAY).await;
    ana.say(&room, "2", "said 2").await?;
    hub.kill()?;
    hub.start()?;
    let mut ana = signed_in(peers, hub).await?;
    let last = ana.say(&room, "3", "said 3").await?;
    synapse.again()?;
    let mut alice = back(peers).await?;
    until(&mut alice, &room, &["said 0", "said 1", "said 2", "said 3"]).await?;
    acked(&mut ana, &room, &last, peers.name()?.as_str()).await
}

async fn signed_in(peers: &Peers, hub: &Hub) -> Result<Client, Failed> {
    let target = Target::parse(&hub.https(), Some(&peers.pem()?))?;
    let mut ana = Client::open(&target, &world()).await?;
    ana.login("ana", "secret-ana", None).await?;
    Ok(ana)
}

/// Alice, once her server is there again.
async fn back(peers: &Peers) -> Result<Client, Failed> {
    for _ in 0..TRIES {
        if let Ok(mut alice) = peers.alice().await
            && alice.whoami().await.is_ok()
        {
            return Ok(alice);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err("Synapse did not come back".into())
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

/// A Synapse that was killed, and maybe runs again.
struct Killed {
    command: Vec<String>,
    dir: String,
    again: Option<Child>,
}

impl Killed {
    fn now(peers: &Peers) -> Result<Self, Failed> {
        let server = peers.server();
        let pid = server["pid"].as_u64().ok_or("Synapse has no process id")?;
        run(Command::new("kill").args(["-KILL", &pid.to_string()]))?;
        let command = server["command"].as_array().into_iter().flatten();
        let command = command.filter_map(Value::as_str).map(str::to_owned);
        Ok(Self {
            command: command.collect(),
            dir: text(&server["dir"])?.to_owned(),
            again: None,
        })
    }

    fn again(&mut self) -> Result<(), Failed> {
        let (program, args) = self.command.split_first().ok_or("Synapse has no command")?;
        let child = Command::new(program)
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.again = Some(child);
        Ok(())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.again {
            let _ = child.kill();
            let _ = ended(child);
        }
    }
}
