//! Who takes part: the hub, two Synapses, the scripted server; a user on each of the first three.

use std::{fs, path::Path, time::Duration};

use ruma::{OwnedServerName, RoomId};
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Call, Client, Target},
};

use crate::{
    common::{Failed, cpu_seconds, disk, now},
    hub::Hub,
    peers::Synapse,
    scripted::Scripted,
};

/// Under how many names the scripted server is there.
pub(crate) const NAMES: usize = 50;

/// For how long it is watched what a server uses when nobody asks anything.
const AT_REST: Duration = Duration::from_secs(5);

pub(crate) struct Stage {
    pub(crate) hub: Server,
    /// The first is the hub's counterpart, the second only there for the first.
    pub(crate) synapses: [Server; 2],
    pub(crate) scripted: Scripted,
    _processes: (Hub, Synapse, tempfile::TempDir),
}

/// A server that is measured, and a user of it.
pub(crate) struct Server {
    pub(crate) kind: &'static str,
    pub(crate) name: OwnedServerName,
    pub(crate) pid: u32,
    pub(crate) client: Client,
    target: Target,
    /// CPU seconds in a second in which nobody asks anything.
    idle: f64,
}

impl Stage {
    pub(crate) async fn set() -> Result<Self, Failed> {
        let folder = disk()?;
        let args = ["--users", "alice", "--cert", "localhost"];
        let run = folder.path().join("run");
        let synapse = Synapse::start(&run, 2, &args).map_err(said)?;
        let ca = text(&synapse.about, "/ca_cert")?;
        let shown = synapse.about.pointer("/certs/localhost");
        let shown = shown.ok_or("no certificate for localhost")?;
        let options = [
            "federation.enabled=true".to_owned(),
            "federation.allow_private_addresses=true".to_owned(),
            format!("federation.ca_file={ca}"),
            format!("https.cert_file={}", text(shown, "/cert")?),
            format!("https.key_file={}", text(shown, "/key")?),
        ];
        let hub = Hub::federating(&["ana"], &options).map_err(said)?;
        let scripted = Scripted::start(NAMES, Path::new(ca), shown).await?;
        let pem = fs::read_to_string(ca)?;
        let mut stage = Self {
            hub: of_hub(&hub, &pem).await?,
            synapses: [
                of_synapse(&synapse, 0, &pem).await?,
                of_synapse(&synapse, 1, &pem).await?,
            ],
            scripted,
            _processes: (hub, synapse, folder),
        };
        stage.watch_at_rest().await?;
        Ok(stage)
    }

    async fn watch_at_rest(&mut self) -> Result<(), Failed> {
        let [first, second] = &mut self.synapses;
        let mut servers = [&mut self.hub, first, second];
        tokio::time::sleep(AT_REST).await; // what starting and signing in brought
        let mut before = Vec::new();
        for server in &servers {
            before.push(cpu_seconds(server.pid)?);
        }
        tokio::time::sleep(AT_REST).await;
        for (server, before) in servers.iter_mut().zip(before) {
            server.idle = (cpu_seconds(server.pid)? - before) / AT_REST.as_secs_f64();
        }
        Ok(())
    }
}

impl Server {
    /// The same user over another connection.
    pub(crate) async fn another(&self) -> Result<Client, Failed> {
        let token = self.client.token().ok_or("a session without a token")?;
        Ok(Client::resume(&self.target, token, &world()).await?)
    }

    /// The user enters a room of another server.
    pub(crate) async fn join(&mut self, room: &RoomId, via: &str) -> Result<(), Failed> {
        let mut call = Call::post(&["join", room.as_str()], json!({}));
        call.query = vec![("via", via.to_owned())];
        self.client.call("join", call).await?;
        Ok(())
    }

    /// How many members the room has there.
    pub(crate) async fn members(&mut self, room: &RoomId) -> Result<usize, Failed> {
        let call = Call::get(&["rooms", room.as_str(), "joined_members"], Vec::new());
        let answer = self.client.call("members", call).await?;
        let joined = answer.get("joined").and_then(Value::as_object);
        Ok(joined.ok_or("no members")?.len())
    }

    /// Waits until the process has nothing to do any more.
    pub(crate) async fn rests(&self) -> Result<(), Failed> {
        const STEP: Duration = Duration::from_millis(100);
        /// CPU seconds in a step: a tick of the clock may be from before.
        const STILL: f64 = 0.015;
        const STEPS_STILL: u32 = 3;
        let (mut last, mut still) = (cpu_seconds(self.pid)?, 0);
        while still < STEPS_STILL {
            tokio::time::sleep(STEP).await;
            let used = cpu_seconds(self.pid)?;
            still = if used - last < STILL { still + 1 } else { 0 };
            last = used;
        }
        Ok(())
    }

    /// Does something and waits until the server rests again; gives the CPU seconds that it took.
    pub(crate) async fn cost(
        &self,
        work: impl Future<Output = Result<(), Failed>>,
    ) -> Result<f64, Failed> {
        let (began, before) = (now(), cpu_seconds(self.pid)?);
        work.await?;
        self.rests().await?;
        let idle = began.elapsed().as_secs_f64() * self.idle;
        Ok(cpu_seconds(self.pid)? - before - idle)
    }
}

async fn of_hub(hub: &Hub, pem: &str) -> Result<Server, Failed> {
    let target = Target::parse(&hub.https(), Some(pem))?;
    let mut client = Client::open(&target, &world()).await?;
    client.login("ana", "secret-ana", None).await?;
    Ok(Server {
        kind: "hub",
        name: hub.name().try_into()?,
        pid: number(hub.ready(), "/pid")?,
        client,
        target,
        idle: 0.0,
    })
}

async fn of_synapse(synapse: &Synapse, index: usize, pem: &str) -> Result<Server, Failed> {
    let about = synapse.about.pointer(&format!("/servers/{index}"));
    let about = about.ok_or("no such server")?;
    let target = Target::parse(text(about, "/https_url")?, Some(pem))?;
    let token = text(about, "/users/0/access_token")?;
    Ok(Server {
        kind: "Synapse",
        name: text(about, "/server_name")?.try_into()?,
        pid: number(about, "/pid")?,
        client: Client::resume(&target, token, &world()).await?,
        target,
        idle: 0.0,
    })
}

fn text<'a>(about: &'a Value, path: &str) -> Result<&'a str, Failed> {
    let text = about.pointer(path).and_then(Value::as_str);
    text.ok_or_else(|| format!("no text at {path}").into())
}

fn number(about: &Value, path: &str) -> Result<u32, Failed> {
    let number = about.pointer(path).and_then(Value::as_u64);
    Ok(number
        .ok_or_else(|| format!("no number at {path}"))?
        .try_into()?)
}

#[expect(clippy::needless_pass_by_value, reason = "reads best in map_err")]
fn said(failed: libtest_mimic::Failed) -> Failed {
    failed.message().unwrap_or("failed").into()
}
