//! Joining rooms of ten, a thousand and ten thousand members, and leaving them again.

use std::{
    fs,
    time::{Duration, Instant},
};

use ruma::OwnedRoomId;
use serde_json::json;
use tramline::{app::clock::SystemClock, base::Clock as _, client::Call};

use crate::{
    common::{Failed, Limit, Report, cpu_seconds, now, status_mib},
    rooms::Room,
    scripted::Scripted,
    stage::{Server, Stage},
};

/// Members of the rooms.
const MEMBERS: [usize; 3] = [10, 1_000, 10_000];

/// Beside what a server had before it joined: what it may have after it left, in MiB, at most.
const LEFT_MAX: f64 = 10.0;

/// How long Synapse may take until it has all of a room.
const PATIENCE: Duration = Duration::from_mins(5);

/// After leaving: how long memory is given to come back. The outbox notes where it is within some
/// seconds, the store rests three later, and the allocator gives back what is free for ten.
const AFTER: Duration = Duration::from_secs(30);

/// What a join was.
struct Joined {
    room: OwnedRoomId,
    answered: Duration,
    /// When all members are shown; none: they never were.
    usable: Option<Duration>,
    bytes: u64,
    cpu: f64,
    /// Resident memory in MiB: before, at most, after.
    memory: [f64; 3],
}

pub(crate) async fn measure(stage: &mut Stage, report: &mut Report) -> Result<(), Failed> {
    let Stage {
        hub,
        synapses: [synapse, _],
        scripted,
        ..
    } = stage;
    // Whatever is made once is made before the first one.
    for server in [&mut *hub, &mut *synapse] {
        let first = join(scripted, server, 10).await?;
        leave(scripted, server, &first.room).await?;
    }
    let baseline = status_mib(hub.pid, "VmRSS")?;
    for members in MEMBERS {
        let mut base = None;
        for server in [&mut *synapse, &mut *hub] {
            let joined = join(scripted, server, members).await?;
            tell(report, server, members, &joined, base.as_ref());
            base = Some(joined);
            let room = base.as_ref().map(|joined| joined.room.clone());
            leave(scripted, server, &room.ok_or("no room")?).await?;
            let left = status_mib(server.pid, "VmRSS")?;
            let name = format!("left, {}", server.kind);
            report.line(&name, "", ("MiB resident", left), Limit::None);
        }
    }
    let left = status_mib(hub.pid, "VmRSS")?;
    let figure = format!("from {baseline:.1} MiB before the first to {left:.1}");
    report.line(
        "hub, all rooms left",
        &figure,
        ("MiB more", left - baseline),
        Limit::AtMost(LEFT_MAX),
    );
    Ok(())
}

fn tell(
    report: &mut Report,
    server: &Server,
    members: usize,
    joined: &Joined,
    base: Option<&Joined>,
) {
    let name = format!("join of {members}, {}", server.kind);
    // Of one that never had it all, the time in which it had not.
    let seconds = |joined: &Joined| joined.usable.unwrap_or(PATIENCE).as_secs_f64();
    let usable = seconds(joined);
    let figure = format!(
        "{:.2} s, usable {} {usable:.2} s, {:.2} s CPU",
        joined.answered.as_secs_f64(),
        joined.usable.map_or("NOT within", |_| "after"),
        joined.cpu
    );
    let ratio = base.map_or(("seconds", usable), |base| {
        ("time 1/", seconds(base) / usable)
    });
    report.line(&name, &figure, ratio, Limit::None);
    let [before, peak, after] = joined.memory;
    let figure = format!(
        "{} kB in bodies; {before:.0} MiB, at most {peak:.0}, then {after:.0}",
        joined.bytes / 1000
    );
    report.line("", &figure, ("peak MiB more", peak - before), Limit::None);
}

async fn join(scripted: &Scripted, server: &mut Server, members: usize) -> Result<Joined, Failed> {
    let room = Room::found(&scripted.names()[..1], members, SystemClock::new().now())?;
    let room = scripted.hold(room);
    server.rests().await?;
    fs::write(format!("/proc/{}/clear_refs", server.pid), "5")?; // VmHWM counts from here
    let before = status_mib(server.pid, "VmRSS")?;
    let (bytes, cpu, began) = (scripted.bytes(), cpu_seconds(server.pid)?, now());
    entered(server, &room, scripted.name().as_str(), began).await?;
    let answered = began.elapsed();
    let usable = tokio::time::timeout(PATIENCE, async {
        while server.members(&room).await? != members + 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, Failed>(began.elapsed())
    });
    let usable = usable.await.ok().transpose()?;
    if usable.is_none() {
        server.client = server.another().await?; // the call that was given up may still be answered
    }
    server.rests().await?;
    Ok(Joined {
        room,
        answered,
        usable,
        bytes: scripted.bytes() - bytes,
        cpu: cpu_seconds(server.pid)? - cpu,
        memory: [
            before,
            status_mib(server.pid, "VmHWM")?,
            status_mib(server.pid, "VmRSS")?,
        ],
    })
}

/// Joins; a client that is told to wait asks again, as they do.
async fn entered(
    server: &mut Server,
    room: &OwnedRoomId,
    via: &str,
    began: Instant,
) -> Result<(), Failed> {
    loop {
        let Err(error) = server.join(room, via).await else {
            return Ok(());
        };
        if began.elapsed() > PATIENCE {
            return Err(error);
        }
        eprintln!("{} again: {error}", server.kind);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn leave(scripted: &Scripted, server: &mut Server, room: &OwnedRoomId) -> Result<(), Failed> {
    server.client.leave(room).await?;
    let forget = Call::post(&["rooms", room.as_str(), "forget"], json!({}));
    server.client.call("forget", forget).await?;
    server.rests().await?;
    tokio::time::sleep(AFTER).await;
    scripted.drop_room(room);
    Ok(())
}
