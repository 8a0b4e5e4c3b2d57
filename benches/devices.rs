//! How a hub carries fifty thousand linked devices: memory while nothing happens, and one message
//! pushed to all of them.
//!
//! Users, their devices and links are written by the hub's own writer, then the real binary is
//! started on the store. Each device is an OSCORE context that observes the one room they share,
//! eight devices at each address of 127/8.
//!
//! ```text
//! ulimit -n 16384                             # a socket for each eight devices
//! cargo bench --bench devices                 # 50,000 devices of 25,000 users
//! BENCH_DEVICES=1000 cargo bench --bench devices
//! ```
//!
//! Memory is that of the hub's process, everything in it included: the store's caches, too. The
//! devices share the machine with the hub, and their CPU is not counted.
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

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

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Desk, Failed, Limit, Report, cpu_seconds, now, rate, status_mib, token, user};
use futures_util::{StreamExt as _, stream};
use hub::Hub;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::{net::UdpSocket, sync::Semaphore, task::JoinSet, time::timeout};
use tramline::{
    api::{DeviceName, OscoreLink, Secret},
    app::clock::world,
    base::Seq,
    client::Client,
    hub::Submission,
    room::{Draft, MemberChange, Part, Preset},
    session::oscore::{Id, Parameters, RequestBinding, SecurityContext},
    store::{Batch, LinkRecord, Rooms as _, Write, first_alias},
    wire::{
        coap::{Code, Kind, Message, Options, Token, options::number as option},
        thin::{LinkProfile, NameKind, number},
    },
};

/// Devices, unless `BENCH_DEVICES` says otherwise.
const DEVICES: usize = 50_000;
/// What an idle device takes of the hub's memory, in bytes, at most.
const BYTES_MAX: f64 = 1500.0;
/// Devices at one address: the door remembers sixteen.
const PER_SOCKET: usize = 8;
/// Devices of one user.
const PER_USER: usize = 2;
/// Addresses whose devices register at a time.
const REGISTERING: usize = 64;
/// How long a device waits for an answer before it sends its request again, and how often it does.
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: usize = 10;
/// Messages that are pushed. For the first of them every device learns its sender's number.
const MESSAGES: u64 = 3;
/// How long a message may take to all.
const PUSH_TIME_MAX: Duration = Duration::from_mins(10);
const MIB: f64 = 1024.0 * 1024.0;

fn main() -> ExitCode {
    common::run(async {
        let mut report = Report::default();
        let devices = match std::env::var("BENCH_DEVICES") {
            Ok(devices) => devices.parse()?,
            Err(_) => DEVICES,
        };
        bench(&mut report, devices).await?;
        Ok(report)
    })
}

async fn bench(report: &mut Report, devices: usize) -> Result<(), Failed> {
    let name = format!("{devices} devices");
    let memory = |report: &mut Report, pid, when: &str| -> Result<f64, Failed> {
        let mib = status_mib(pid, "VmRSS")?;
        report.line(&name, when, ("MiB resident", mib), Limit::None);
        Ok(mib)
    };
    let mut hub = Hub::init().map_err(said)?;
    let shared = fill(&hub, devices).await?;
    hub.start().map_err(said)?;
    settle().await;
    let before = memory(report, pid(&hub)?, "users in a room, none linked")?;
    hub.stop().map_err(said)?;

    link_all(&hub, &shared, devices).await?;
    let began = now();
    hub.start().map_err(said)?;
    eprintln!("ready after {:.1} s", began.elapsed().as_secs_f64());
    settle().await;
    let pid = pid(&hub)?;
    memory(report, pid, "all linked")?;

    let (began, cpu) = (now(), cpu_seconds(pid)?);
    let fleet = Fleet::register(&hub, &shared, devices).await?;
    let figure = format!(
        "all observe, after {:.1} s, {:.1} s CPU, {} sent again",
        began.elapsed().as_secs_f64(),
        cpu_seconds(pid)? - cpu,
        fleet.counts.again.load(Ordering::Relaxed)
    );
    settle().await;
    let after = memory(report, pid, &figure)?;
    report.line(
        &name,
        "each, idle",
        ("bytes", (after - before) * MIB / devices as f64),
        Limit::AtMost(BYTES_MAX),
    );

    let target = hub.target("https").map_err(said)?;
    let mut client = Client::resume(&target, &token("u0"), &world()).await?;
    for message in 1..=MESSAGES {
        push(
            report,
            &name,
            pid,
            &fleet,
            (&mut client, &shared.room, message),
        )
        .await?;
    }
    memory(report, pid, "afterwards")?;
    let peak = status_mib(pid, "VmHWM")?;
    report.line(&name, "at its most", ("MiB resident", peak), Limit::None);
    let log = hub.log_text();
    eprintln!("{} lines of log; the last:", log.lines().count());
    for line in log.lines().rev().take(5) {
        eprintln!("  {line}");
    }
    Ok(())
}

/// One message, until it is with all devices.
async fn push(
    report: &mut Report,
    name: &str,
    pid: u32,
    fleet: &Fleet,
    (client, room, message): (&mut Client, &OwnedRoomId, u64),
) -> Result<(), Failed> {
    let counts = &fleet.counts;
    let wanted = message * fleet.devices as u64;
    let had = counts.pushed.load(Ordering::Relaxed);
    let again = counts.copies.load(Ordering::Relaxed);
    let (began, cpu) = (now(), cpu_seconds(pid)?);
    let text = format!("Meet me at the station, {message}");
    client.say(room, &format!("m{message}"), &text).await?;
    let mut told = now();
    while counts.pushed.load(Ordering::Relaxed) < wanted {
        if began.elapsed() > PUSH_TIME_MAX {
            break;
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = now();
            eprintln!(
                "{} of {wanted} pushes",
                counts.pushed.load(Ordering::Relaxed)
            );
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let span = began.elapsed();
    let pushed = counts.pushed.load(Ordering::Relaxed) - had;
    let cpu = cpu_seconds(pid)? - cpu;
    let figure = format!(
        "message {message}: {pushed} in {:.1} s, {cpu:.1} s CPU, {:.0} µs each, {} sent again",
        span.as_secs_f64(),
        cpu * 1e6 / pushed as f64,
        counts.copies.load(Ordering::Relaxed) - again,
    );
    report.line(name, &figure, ("pushes/s", rate(pushed, span)), Limit::None);
    if had + pushed < wanted {
        return Err(format!("{} pushes did not come", wanted - had - pushed).into());
    }
    settle().await; // the last acknowledgements
    Ok(())
}

fn said(failed: libtest_mimic::Failed) -> Failed {
    failed.message().unwrap_or("failed").into()
}

async fn settle() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

fn pid(hub: &Hub) -> Result<u32, Failed> {
    let pid = hub.ready().get("pid").and_then(Value::as_u64);
    Ok(pid.ok_or("no pid")?.try_into()?)
}

/// What the devices share.
struct Shared {
    room: OwnedRoomId,
    head: Seq,
    users: Vec<OwnedUserId>,
}

/// Writes the users and the room they are in.
async fn fill(hub: &Hub, devices: usize) -> Result<Shared, Failed> {
    let desk = Desk::open(&hub.path().join("store/tramline.db")).await?;
    let mut users = Vec::new();
    for number in 0..devices.div_ceil(PER_USER) {
        users.push(user(&format!("u{number}"))?);
    }
    desk.account("u0").await?;
    for some in users.get(1..).unwrap_or_default().chunks(500) {
        let at = desk.clock.now();
        let writes = some.iter().map(|user| Write::NewUser {
            user: user.clone(),
            password: None,
            admin: false,
            at,
        });
        write(&desk, writes.collect()).await?;
    }
    let first = users.first().ok_or("no users")?;
    let room = desk.found(first, Preset::PublicChat).await?;
    let mut joins = stream::iter(users.get(1..).unwrap_or_default())
        .map(|user| desk.writer.submit(&room, join(user)))
        .buffer_unordered(256);
    let mut joined = 1;
    while let Some(done) = joins.next().await {
        done?;
        joined += 1;
        progress(joined, users.len(), "users joined");
    }
    drop(joins);
    let record = desk.store.room(&room).await?.ok_or("no room")?;
    let head = record.heads.seq;
    desk.close().await?;
    Ok(Shared { room, head, users })
}

fn join(user: &OwnedUserId) -> Submission {
    let part = Part::Member {
        target: user.clone(),
        change: MemberChange::Join,
        content: ruma::CanonicalJsonObject::new(),
    };
    Submission {
        draft: Draft {
            sender: user.clone(),
            parts: vec![part],
        },
        sent_by: None,
        txn: None,
    }
}

/// A line for each tenth.
fn progress(done: usize, all: usize, what: &str) {
    if done * 10 / all > (done - 1) * 10 / all {
        eprintln!("{done} of {all} {what}");
    }
}

async fn write(desk: &Desk, writes: Vec<Write>) -> Result<(), Failed> {
    let batch = Batch {
        writes,
        may_conflict: true,
    };
    desk.writer.write(batch, Vec::new()).await?;
    Ok(())
}

/// Links the devices, as the operator's verb would: a session, keys for all doors; and each knows
/// the room's number.
async fn link_all(hub: &Hub, shared: &Shared, devices: usize) -> Result<(), Failed> {
    const AT_ONCE: usize = 200;
    let desk = Desk::open(&hub.path().join("store/tramline.db")).await?;
    for first in (0..devices).step_by(AT_ONCE) {
        let mut writes = Vec::new();
        let last = devices.min(first + AT_ONCE);
        for number in first..last {
            writes.extend(link(&desk, shared, number)?);
        }
        write(&desk, writes).await?;
        for done in first + 1..=last {
            progress(done, devices, "devices linked");
        }
    }
    desk.close().await
}

fn link(desk: &Desk, shared: &Shared, number: usize) -> Result<[Write; 3], Failed> {
    let user = shared
        .users
        .get(number / PER_USER)
        .ok_or("no user")?
        .clone();
    let device = OwnedDeviceId::from(format!("D{number}"));
    let session = Write::Session {
        user: user.clone(),
        device: device.clone(),
        token: Sha256::digest(format!("tl_device_{number}")).into(),
        name: None,
        at: desk.clock.now(),
    };
    let key = |what: &str| Sha256::digest(format!("{what} {number}"));
    let link = LinkRecord {
        oscore: OscoreLink {
            device: DeviceName {
                user: user.clone(),
                device: device.clone(),
            }
            .into(),
            master_secret: Secret(secret(number).to_vec()),
            master_salt: vec![7; 8],
            id_context: None,
            recipient_id: kid(number)?,
            sender_id: Vec::new(),
            reserved_below: 0,
            outer_observe_counted: false,
        },
        generation: 0,
        psk_identity: hex::encode(key("identity").get(..8).unwrap_or_default()),
        psk: Secret(key("psk").to_vec()),
        edhoc_kid: kid(number)?,
        edhoc_public_x: Some(key("edhoc").into()),
        quic_spki: Some([[0x30_u8; 12].as_slice(), key("quic").as_slice()].concat()),
        profile: LinkProfile::default(),
        wake_url: None,
    };
    let names = Write::ThinNames {
        user,
        device,
        names: vec![(NameKind::Room, shared.room.to_string())],
    };
    Ok([session, Write::Link(Box::new(link)), names])
}

fn secret(number: usize) -> [u8; 16] {
    let whole: [u8; 32] = Sha256::digest(format!("secret {number}")).into();
    let mut half = [0; 16];
    half.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
    half
}

/// Three bytes, as the hub gives them when the short ones are used up.
fn kid(number: usize) -> Result<Vec<u8>, Failed> {
    let number = u32::try_from(number)?.to_be_bytes();
    Ok(number.get(1..).unwrap_or_default().to_vec())
}

#[derive(Default)]
struct Counts {
    registered: AtomicU64,
    /// Requests sent again.
    again: AtomicU64,
    pushed: AtomicU64,
    /// Notifications that came before.
    copies: AtomicU64,
}

/// All devices; they are there until this is dropped.
struct Fleet {
    devices: usize,
    counts: Arc<Counts>,
    _groups: JoinSet<Result<(), Failed>>,
}

impl Fleet {
    async fn register(hub: &Hub, shared: &Shared, devices: usize) -> Result<Self, Failed> {
        let address: SocketAddr = hub.address("coap").parse()?;
        let (counts, places) = (
            Arc::<Counts>::default(),
            Arc::new(Semaphore::new(REGISTERING)),
        );
        let mut groups = JoinSet::new();
        for first in (0..devices).step_by(PER_SOCKET) {
            let mut group = Group::open(first, devices.min(first + PER_SOCKET), address).await?;
            let (counts, places) = (Arc::clone(&counts), Arc::clone(&places));
            let from = shared.head.0 + 1;
            groups.spawn(async move {
                let place = places.acquire_owned().await?;
                for at in 0..group.devices.len() {
                    group.register(at, from, &counts).await?;
                }
                drop(place);
                group.listen(&counts).await
            });
        }
        let mut told = 0;
        loop {
            let registered = counts.registered.load(Ordering::Relaxed);
            if registered * 10 / devices as u64 > told {
                told = registered * 10 / devices as u64;
                eprintln!("{registered} of {devices} devices observe");
            }
            if registered == devices as u64 {
                break;
            }
            if let Some(ended) = groups.try_join_next() {
                ended??;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Self {
            devices,
            counts,
            _groups: groups,
        })
    }
}

struct Device {
    number: usize,
    context: SecurityContext,
    binding: Option<RequestBinding>,
}

/// The devices at one address; each one's token is its place.
struct Group {
    socket: UdpSocket,
    devices: Vec<Device>,
    next_id: u16,
}

impl Group {
    async fn open(first: usize, end: usize, hub: SocketAddr) -> Result<Self, Failed> {
        // A /24 for each, as devices of many networks would have.
        let [_, _, high, low] = u32::try_from(first / PER_SOCKET + 256)?.to_be_bytes();
        let socket = UdpSocket::bind((Ipv4Addr::new(127, high, low, 1), 0)).await?;
        socket.connect(hub).await?;
        let mut devices = Vec::with_capacity(end - first);
        for number in first..end {
            let kid = Id::new(&kid(number)?).ok_or("a long id")?;
            let secret = secret(number);
            let mut parameters = Parameters::new(&secret, kid, Id::default());
            parameters.master_salt = &[7; 8];
            let mut context = SecurityContext::new(&parameters)?;
            context.reserved(1 << 20);
            devices.push(Device {
                number,
                context,
                binding: None,
            });
        }
        Ok(Self {
            socket,
            devices,
            next_id: 1,
        })
    }

    /// FETCH with Observe on the room, sent until it is answered.
    async fn register(&mut self, at: usize, from: u64, counts: &Counts) -> Result<(), Failed> {
        let mut payload = Vec::new();
        number::write(&mut payload, from);
        self.next_id += 1;
        let room = number::segment(first_alias(NameKind::Room));
        let request = Message {
            kind: Kind::Con,
            code: Code::FETCH,
            id: self.next_id,
            token: Token::new(&[u8::try_from(at)?]).ok_or("a long token")?,
            options: Options::new()
                .with(option::OBSERVE, Vec::new())
                .with(option::URI_PATH, room),
            payload,
        };
        let device = self.devices.get_mut(at).ok_or("no device")?;
        let (outer, binding) = device.context.protect_request(&request)?;
        device.binding = Some(binding);
        let datagram = outer.encode()?;
        for _ in 0..TRIES {
            self.socket.send(&datagram).await?;
            match timeout(PATIENCE, self.answer(at, counts)).await {
                Ok(answered) => {
                    counts.registered.fetch_add(1, Ordering::Relaxed);
                    return answered;
                }
                Err(_) => {
                    counts.again.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let number = self.devices.get(at).map(|device| device.number);
        Err(format!("device {number:?} is not answered").into())
    }

    async fn answer(&mut self, at: usize, counts: &Counts) -> Result<(), Failed> {
        loop {
            let Some((whose, answer)) = self.receive(counts).await? else {
                continue;
            };
            if whose != at {
                continue;
            }
            if answer.code != Code::CONTENT || !answer.options.has(option::OBSERVE) {
                let why = String::from_utf8_lossy(&answer.payload);
                return Err(format!("not observed: {} {why}", answer.code).into());
            }
            return Ok(());
        }
    }

    async fn listen(&mut self, counts: &Counts) -> Result<(), Failed> {
        loop {
            if self.receive(counts).await?.is_some() {
                counts.pushed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The next answer or notification that is new, acknowledged.
    async fn receive(&mut self, counts: &Counts) -> Result<Option<(usize, Message)>, Failed> {
        let mut buffer = [0; 1500];
        let size = self.socket.recv(&mut buffer).await?;
        let outer = Message::decode(buffer.get(..size).unwrap_or_default())?;
        if outer.kind == Kind::Con {
            let ack = Message::empty(Kind::Ack, outer.id).encode()?;
            self.socket.send(&ack).await?;
        }
        let &[at] = outer.token.as_bytes() else {
            return Ok(None); // an Empty acknowledgement
        };
        let at = usize::from(at);
        let device = self.devices.get_mut(at).ok_or("a strange token")?;
        let binding = device.binding.as_mut().ok_or("an early answer")?;
        let Ok(inner) = device.context.unprotect_response(binding, &outer) else {
            counts.copies.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        Ok(Some((at, inner)))
    }
}
