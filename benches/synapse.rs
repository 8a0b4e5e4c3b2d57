//! Messages accepted by a hub and by a real Synapse, in turns on the same machine.
//!
//! What is measured are two server processes under load, in alternating rounds, and the result is
//! a ratio. The senders share the machine's cores with the server they load, which costs the
//! faster server more. `cargo bench --bench synapse`, about two minutes.
//!
//! Not by criterion: it gives every contender the same number of iterations, and with one of them
//! sixty times slower a sample is either over before sixteen clients have shaken hands or takes
//! minutes. Rounds of the same time load all alike; and half of what counts is another process'
//! CPU time, which criterion does not read.

mod common;
#[path = "../tests/it/hub.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared with the tests, which use all of it"
)]
mod hub;
#[path = "../tests/it/peers.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    reason = "shared with the tests, which use all of it"
)]
mod peers;

use std::{
    fs,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Failed, Limit, Report, cpu_seconds, disk, now, rate};
use ruma::OwnedRoomId;
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Client, Target},
};

/// How long one round lasts.
const ROUND: Duration = Duration::from_secs(4);

/// How many rounds each server has for each number of senders.
const ROUNDS: u32 = 3;

/// How many times Synapse's messages per second the hub takes with 16 senders, at least.
const THROUGHPUT_MIN: f64 = 20.0;

/// How many times the hub's CPU time per message Synapse needs, at least.
const CPU_MIN: f64 = 20.0;

fn main() -> ExitCode {
    common::run(async {
        let folder = disk()?;
        let synapse = peers::Synapse::start(&folder.path().join("run"), 1, &["--users", "alice"]);
        let synapse = synapse.map_err(said)?;
        let hub = hub::Hub::with_users(&["ana"]).map_err(said)?;
        let servers = [
            of_synapse(&synapse.about).await?,
            of_hub(&hub, "https").await?,
            of_hub(&hub, "coap").await?,
        ];
        let mut report = Report::default();
        for senders in [1, 16] {
            let mut loads = [Load::default(); 3];
            for _ in 0..ROUNDS {
                for (load, server) in loads.iter_mut().zip(&servers) {
                    load.add(round(server, senders).await?);
                }
            }
            let [base, ours @ ..] = loads;
            let figure = format!("{:.1} msg/s", base.rate());
            let name = format!("messages, {senders} senders, Synapse");
            report.line(&name, &figure, ("CPU ms", base.cpu_ms()), Limit::None);
            for (load, server) in ours.iter().zip(&servers[1..]) {
                compare(&mut report, senders, server, &base, load);
            }
        }
        Ok(report)
    })
}

fn compare(report: &mut Report, senders: usize, server: &Server, base: &Load, load: &Load) {
    let name = format!("messages, {senders} senders, {}", server.name);
    let limit = if senders == 16 {
        Limit::AtLeast(THROUGHPUT_MIN)
    } else {
        Limit::None
    };
    let figure = format!("{:.1} msg/s", load.rate());
    report.line(
        &name,
        &figure,
        ("throughput ×", load.rate() / base.rate()),
        limit,
    );
    let figure = format!("{:.3} ms CPU a message", load.cpu_ms());
    let ratio = ("CPU 1/", base.cpu_ms() / load.cpu_ms());
    report.line("", &figure, ratio, Limit::AtLeast(CPU_MIN));
}

#[expect(clippy::needless_pass_by_value, reason = "reads best in map_err")]
fn said(failed: libtest_mimic::Failed) -> Failed {
    failed.message().unwrap_or("failed").into()
}

/// Messages accepted and CPU time used.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    messages: u64,
    time: Duration,
    cpu_seconds: f64,
}

impl Load {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.time += other.time;
        self.cpu_seconds += other.cpu_seconds;
    }

    fn rate(&self) -> f64 {
        rate(self.messages, self.time)
    }

    fn cpu_ms(&self) -> f64 {
        self.cpu_seconds * 1000.0 / rate(self.messages.max(1), Duration::from_secs(1))
    }
}

/// A server under load.
struct Server {
    name: &'static str,
    pid: u32,
    target: Target,
    token: String,
    room: OwnedRoomId,
}

async fn of_synapse(about: &Value) -> Result<Server, Failed> {
    let text = |path: &str| {
        about
            .pointer(path)
            .and_then(Value::as_str)
            .ok_or("no such field")
    };
    let ca = fs::read_to_string(text("/ca_cert")?)?;
    let target = Target::parse(text("/servers/0/https_url")?, Some(&ca))?;
    let token = text("/servers/0/users/0/access_token")?.to_owned();
    let pid = about
        .pointer("/servers/0/pid")
        .and_then(Value::as_u64)
        .ok_or("no pid")?;
    prepare("Synapse", pid, target, token).await
}

async fn of_hub(hub: &hub::Hub, door: &'static str) -> Result<Server, Failed> {
    let client = hub.client("https", "ana").await.map_err(said)?;
    let token = client.token().ok_or("not logged in")?.to_owned();
    let pid = hub
        .ready()
        .get("pid")
        .and_then(Value::as_u64)
        .ok_or("no pid")?;
    let name = if door == "coap" {
        "hub, CoAP"
    } else {
        "hub, HTTPS"
    };
    prepare(name, pid, hub.target(door).map_err(said)?, token).await
}

async fn prepare(
    name: &'static str,
    pid: u64,
    target: Target,
    token: String,
) -> Result<Server, Failed> {
    let mut client = Client::resume(&target, &token, &world()).await?;
    let room = client.create_room(json!({"room_version": "12"})).await?;
    Ok(Server {
        name,
        pid: pid.try_into()?,
        target,
        token,
        room,
    })
}

/// `senders` clients send one message after the other, each waiting for its answer.
async fn round(server: &Server, senders: usize) -> Result<Load, Failed> {
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let before = cpu_seconds(server.pid)?;
    let began = now();
    let tasks: Vec<_> = (0..senders)
        .map(|_| tokio::spawn(send(server, Arc::clone(&stop), Arc::clone(&sent))))
        .collect();
    tokio::time::sleep(ROUND).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    Ok(Load {
        messages: sent.load(Ordering::Relaxed),
        time: began.elapsed(),
        cpu_seconds: cpu_seconds(server.pid)? - before,
    })
}

/// One client; connecting and shaking hands are part of it.
fn send(
    server: &Server,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> impl Future<Output = Result<(), Failed>> + Send + 'static {
    static TXN: AtomicU64 = AtomicU64::new(0);
    let (target, token) = (server.target.clone(), server.token.clone());
    let room = server.room.clone();
    async move {
        let mut client = Client::resume(&target, &token, &world()).await?;
        while !stop.load(Ordering::Relaxed) {
            let txn = format!("m{}", TXN.fetch_add(1, Ordering::Relaxed));
            client.say(&room, &txn, "Meet me at the station").await?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
