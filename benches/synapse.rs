//! Messages accepted by a hub and by a real Synapse, in turns on the same machine.
//!
//! Not a criterion bench: what is measured are two server processes under load, in alternating
//! rounds, and the result is a ratio. `cargo bench --bench synapse`, about two minutes.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a bench reads the clock and ends at the first surprise"
)]

#[path = "../tests/it/hub.rs"]
#[expect(dead_code, reason = "shared with the tests, which use all of it")]
mod hub;
#[path = "../tests/it/peers.rs"]
#[expect(dead_code, reason = "shared with the tests, which use all of it")]
mod peers;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libtest_mimic::Failed;
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Client, Target},
};

/// How long one round lasts.
const ROUND: Duration = Duration::from_secs(5);

/// How many rounds each server has for each number of senders.
const ROUNDS: usize = 3;

fn main() {
    if let Err(failed) = run() {
        eprintln!("{}", failed.message().unwrap_or("failed"));
        std::process::exit(1);
    }
}

/// Messages accepted and CPU time used.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    messages: u64,
    seconds: f64,
    cpu_seconds: f64,
}

impl Load {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.seconds += other.seconds;
        self.cpu_seconds += other.cpu_seconds;
    }

    fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    fn cpu_ms(&self) -> f64 {
        self.cpu_seconds * 1000.0 / self.messages.max(1) as f64
    }
}

/// A server under load.
struct Server {
    name: &'static str,
    pid: u64,
    target: Target,
    token: String,
    room: ruma::OwnedRoomId,
}

fn run() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let synapse = peers::Synapse::start(&folder.path().join("run"), 1, &["--users", "alice"])?;
    let hub = hub::Hub::with_users(&["ana"])?;
    hub::block_on(async {
        let theirs = of_synapse(&synapse.about).await?;
        let https = of_hub(&hub, "https").await?;
        let coap = of_hub(&hub, "coap").await?;
        for senders in [1, 16] {
            let mut loads = [Load::default(); 3];
            for _ in 0..ROUNDS {
                for (load, server) in loads.iter_mut().zip([&theirs, &https, &coap]) {
                    load.add(round(server, senders).await?);
                }
            }
            report(senders, &[&theirs, &https, &coap], &loads);
        }
        Ok(())
    })
}

fn report(senders: usize, servers: &[&Server], loads: &[Load]) {
    let base = loads[0];
    for (server, load) in servers.iter().zip(loads) {
        println!(
            "{senders:>3} senders  {:<12} {:>8.1} msg/s  {:>7.3} ms CPU/msg   throughput x{:.1}   CPU 1/{:.1}",
            server.name,
            load.rate(),
            load.cpu_ms(),
            load.rate() / base.rate(),
            base.cpu_ms() / load.cpu_ms(),
        );
    }
}

async fn of_synapse(about: &Value) -> Result<Server, Failed> {
    let server = &about["servers"][0];
    let ca = fs::read_to_string(about["ca_cert"].as_str().expect("a CA file"))?;
    let target = Target::parse(server["https_url"].as_str().expect("a URL"), Some(&ca))?;
    let token = server["users"][0]["access_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let pid = server["pid"].as_u64().expect("a pid");
    prepare("synapse", pid, target, token).await
}

async fn of_hub(hub: &hub::Hub, door: &'static str) -> Result<Server, Failed> {
    let client = hub.client("https", "ana").await?;
    let token = client.token().expect("logged in").to_owned();
    let pid = hub.ready()["pid"].as_u64().expect("a pid");
    let name = if door == "coap" {
        "hub, CoAP"
    } else {
        "hub, HTTPS"
    };
    prepare(name, pid, hub.target(door)?, token).await
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
        pid,
        target,
        token,
        room,
    })
}

/// `senders` clients send one message after the other, each waiting for its answer.
async fn round(server: &Server, senders: usize) -> Result<Load, Failed> {
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let run = Instant::now()
        .duration_since(*START.get_or_init(Instant::now))
        .as_nanos();
    let before = cpu_seconds(server.pid)?;
    let began = Instant::now();
    let tasks: Vec<_> = (0..senders)
        .map(|index| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let (target, token, room) = (
                server.target.clone(),
                server.token.clone(),
                server.room.clone(),
            );
            tokio::spawn(async move {
                let mut client = Client::resume(&target, &token, &world()).await?;
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let txn = format!("{run}-{index}-{number}");
                    client.say(&room, &txn, "Meet me at the station").await?;
                    sent.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                }
                Ok::<_, Failed>(())
            })
        })
        .collect();
    tokio::time::sleep(ROUND).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    Ok(Load {
        messages: sent.load(Ordering::Relaxed),
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds(server.pid)? - before,
    })
}

static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

/// User and system time of a process, from `/proc`, in seconds.
fn cpu_seconds(pid: u64) -> Result<f64, Failed> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}
