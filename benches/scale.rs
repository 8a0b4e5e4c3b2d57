//! How a hub carries ten thousand rooms and a million events: the time to be ready, memory, and
//! what state costs per event in a small and in a large room.
//!
//! The store is written by the hub's own writer, then the real binary is started on it and used
//! over HTTPS. `cargo bench --bench scale`, about three minutes and 2 GB of disk.
//!
//! Criterion measures the starts. The rest are bytes in memory and on disk, of which there is one
//! figure and no distribution; the pages and the initial sync are there to use that memory.
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
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    Desk, Failed, Limit, Report, cpu_seconds, disk, message, now, status_mib, token, user,
};
use hub::Hub;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tramline::{
    app::clock::world,
    client::{Call, Client},
    room::{Membership, Preset, StateKey},
    store::{Batch, Commits as _, Rooms as _, contract::Pen},
};

const ROOMS: u64 = 10_000;
const EVENTS: u64 = 1_000_000;

/// Seconds from the start of the process to its ready line, at most.
const READY_MAX: f64 = 3.0;
/// Resident memory of a hub that nobody has used, in MiB, at most.
const IDLE_MAX: f64 = 32.0;
/// Resident memory after every room has been read, in MiB, at most.
const USED_MAX: f64 = 256.0;
/// What state costs per change in a room of 10,000 members, of what it costs in one of 100.
const STATE_RATIO_MAX: f64 = 1.5;

fn main() -> ExitCode {
    common::run(async {
        let mut report = Report::default();
        state(&mut report).await?;
        empty(&mut report).await?;
        full(&mut report).await?;
        Ok(report)
    })
}

fn said(failed: libtest_mimic::Failed) -> Failed {
    failed.message().unwrap_or("failed").into()
}

/// A hub in which nobody has done anything.
async fn empty(report: &mut Report) -> Result<(), Failed> {
    let mut hub = Hub::init().map_err(said)?;
    hub.start().map_err(said)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let memory = status_mib(pid(&hub)?, "VmRSS")?;
    // What it allocated; the rest is the program's text, as much of it as the kernel maps at once.
    let own = status_mib(pid(&hub)?, "RssAnon")?;
    report.line(
        "empty hub",
        &format!("{own:.1} MiB of it its own, the rest mapped files"),
        ("MiB resident", memory),
        Limit::AtMost(IDLE_MAX),
    );
    Ok(())
}

/// A hub with a million events.
async fn full(report: &mut Report) -> Result<(), Failed> {
    let mut hub = Hub::init().map_err(said)?;
    let rooms = fill(&hub).await?;
    let name = format!("hub of {ROOMS} rooms, {EVENTS} events");
    starts(report, &name, &mut hub);
    hub.start().map_err(said)?;
    let pid = pid(&hub)?;
    report.line(
        &name,
        "untouched",
        ("MiB resident", status_mib(pid, "VmRSS")?),
        Limit::None,
    );

    let target = hub.target("https").map_err(said)?;
    let mut client = Client::resume(&target, &token("many"), &world()).await?;
    let (began, cpu) = (now(), cpu_seconds(pid)?);
    for room in &rooms {
        let path = ["rooms", room.as_str(), "messages"];
        let query = vec![("dir", "b".to_owned()), ("limit", "20".to_owned())];
        let page = client.call("page", Call::get(&path, query)).await?;
        if page
            .get("chunk")
            .and_then(Value::as_array)
            .is_none_or(|chunk| chunk.len() != 20)
        {
            return Err(format!("a page of {room} is not full").into());
        }
    }
    let figure = format!(
        "each room paged once: {:.1} s, {:.1} s CPU",
        began.elapsed().as_secs_f64(),
        cpu_seconds(pid)? - cpu
    );
    let used = status_mib(pid, "VmRSS")?;
    report.line(
        &name,
        &figure,
        ("MiB resident", used),
        Limit::AtMost(USED_MAX),
    );
    initial_sync(report, &name, pid, &mut client).await
}

/// From the start of the process to its ready line, some ten times; the slowest counts.
fn starts(report: &mut Report, name: &str, hub: &mut Hub) {
    let mut spans = Vec::new();
    common::criterion().bench_function("start to ready", |bencher| {
        bencher.iter_custom(|count| {
            let mut sum = Duration::ZERO;
            for _ in 0..count {
                let began = now();
                hub.start().map_err(said).expect("the hub starts");
                let span = began.elapsed();
                hub.stop().map_err(said).expect("the hub stops");
                spans.push(span.as_secs_f64());
                sum += span;
            }
            sum
        });
    });
    let slowest = spans.iter().copied().fold(0.0, f64::max);
    report.line(
        name,
        &format!("the slowest of {} starts", spans.len()),
        ("seconds to ready", slowest),
        Limit::AtMost(READY_MAX),
    );
}

async fn initial_sync(
    report: &mut Report,
    name: &str,
    pid: u32,
    client: &mut Client,
) -> Result<(), Failed> {
    let (began, cpu) = (now(), cpu_seconds(pid)?);
    let filter = r#"{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}"#;
    let query = vec![("filter", filter.to_owned())];
    let answer = client
        .call("initial sync", Call::get(&["sync"], query))
        .await?;
    let joined = answer
        .pointer("/rooms/join")
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len);
    if joined as u64 != ROOMS {
        return Err(format!("the initial sync tells of {joined} rooms").into());
    }
    let figure = format!(
        "initial sync: {:.1} MiB, {:.1} s, {:.1} s CPU",
        answer.to_string().len() as f64 / 1024.0 / 1024.0,
        began.elapsed().as_secs_f64(),
        cpu_seconds(pid)? - cpu
    );
    let after = status_mib(pid, "VmRSS")?;
    report.line(
        name,
        &figure,
        ("MiB resident", after),
        Limit::AtMost(USED_MAX),
    );
    let peak = status_mib(pid, "VmHWM")?;
    report.line(name, "at its most", ("MiB resident", peak), Limit::None);
    Ok(())
}

fn pid(hub: &Hub) -> Result<u32, Failed> {
    let pid = hub
        .ready()
        .get("pid")
        .and_then(Value::as_u64)
        .ok_or("no pid")?;
    Ok(pid.try_into()?)
}

/// Writes rooms and events; all rooms are of the user `many`.
async fn fill(hub: &Hub) -> Result<Vec<OwnedRoomId>, Failed> {
    const AT_ONCE: u64 = 250;
    let desk = Arc::new(Desk::open(&hub.path().join("store/tramline.db")).await?);
    let many = desk.account("many").await?;
    let written = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            tokio::spawn(fill_rooms(
                Arc::clone(&desk),
                many.clone(),
                ROOMS / AT_ONCE,
                Arc::clone(&written),
            ))
        })
        .collect();
    let mut rooms = Vec::new();
    let mut told = 0;
    for task in tasks {
        rooms.extend(task.await??);
        let written = written.load(Ordering::Relaxed);
        // A line for each tenth: whoever keeps them in a log has ten.
        let tenths = written * 10 / EVENTS;
        if tenths > told {
            told = tenths;
            eprintln!("{written} of {EVENTS} events written");
        }
    }
    let totals = desk.store.totals().await?;
    if totals.rooms != ROOMS || totals.events < EVENTS {
        return Err(format!("{totals:?} are not what was meant to be written").into());
    }
    Arc::into_inner(desk)
        .ok_or("still writing")?
        .close()
        .await?;
    Ok(rooms)
}

async fn fill_rooms(
    desk: Arc<Desk>,
    user: OwnedUserId,
    count: u64,
    written: Arc<AtomicU64>,
) -> Result<Vec<OwnedRoomId>, Failed> {
    let mut rooms = Vec::new();
    for _ in 0..count {
        let room = desk.found(&user, Preset::PrivateChat).await?;
        for number in 0..EVENTS / ROOMS {
            let mut message = message(&user, &room, format!("m{number}"));
            message.txn = None; // ten thousand endpoints of one device are not what is measured
            desk.writer.submit(&room, message).await?;
            written.fetch_add(1, Ordering::Relaxed);
        }
        rooms.push(room);
    }
    Ok(rooms)
}

/// Bytes of state per change of state, once the members are there.
async fn state(report: &mut Report) -> Result<(), Failed> {
    let small = state_bytes(100).await?;
    let large = state_bytes(10_000).await?;
    let figure = format!("{small:.1} bytes with 100 members, {large:.1} with 10000");
    let ratio = ("ratio", large / small);
    report.line(
        "state per change of state",
        &figure,
        ratio,
        Limit::AtMost(STATE_RATIO_MAX),
    );
    Ok(())
}

async fn state_bytes(members: usize) -> Result<f64, Failed> {
    const CHANGES: usize = 50_000;
    let dir = disk()?;
    let path = dir.path().join("state.db");
    let desk = Desk::open(&path).await?;
    let mut pen = Pen::new(&*desk.store, "room");
    let users = (0..members)
        .map(|n| user(&format!("u{n}")))
        .collect::<Result<Vec<_>, _>>()?;
    for member in &users {
        pen.member(&*desk.store, member, Membership::Join);
    }
    store(&desk, &mut pen).await?;
    let before = held(&path).await?;
    for (number, member) in users.iter().cycle().take(CHANGES).enumerate() {
        pen.state(&*desk.store, &StateKey::member(member)); // someone has a new name
        if number % 1000 == 999 {
            store(&desk, &mut pen).await?;
        }
    }
    store(&desk, &mut pen).await?;
    let grown = held(&path).await? - before;
    desk.close().await?;
    Ok(grown as f64 / CHANGES as f64)
}

async fn store(desk: &Desk, pen: &mut Pen) -> Result<(), Failed> {
    let batch = Batch {
        writes: pen.take(),
        may_conflict: false,
    };
    desk.store.commit(&[batch]).await?;
    Ok(())
}

/// Bytes in the table of states: its columns, each number as eight.
async fn held(path: &std::path::Path) -> Result<i64, Failed> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut conn = SqliteConnection::connect_with(&options).await?;
    let bytes = sqlx::query_scalar(
        "SELECT sum(24 + length(deltas) + coalesce(length(snapshot), 0)) FROM states",
    )
    .fetch_one(&mut conn)
    .await?;
    conn.close().await?;
    Ok(bytes)
}
