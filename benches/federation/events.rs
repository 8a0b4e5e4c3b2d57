//! What an event costs in CPU time: one that comes in, one that goes out, one that goes to fifty.

use std::{sync::Arc, time::Duration};

use ruma::{EventId, OwnedRoomId, RoomId};
use serde_json::json;
use tramline::{
    base::Clock as _,
    client::{Call, Client},
};

use crate::{
    common::{Failed, Limit, Report, median, now, rate},
    rooms::Room,
    scripted::Scripted,
    stage::{Server, Stage},
};

/// How many rounds each server has of everything.
const ROUNDS: u32 = 3;

/// How many times the hub's CPU time per event Synapse needs, at least.
const CPU_MIN: f64 = 5.0;

/// Members of the rooms in which events are sent.
const MEMBERS: usize = 10;

/// Senders at once, where it is several.
const SENDERS: usize = 16;

/// How long they send in a round.
const ROUND: Duration = Duration::from_secs(3);

/// What some events took.
#[derive(Clone, Debug, Default)]
struct Load {
    events: u64,
    cpu: f64,
    /// How long a client waited for the answer to each send, in milliseconds.
    waits: Vec<f64>,
    /// How long it took from each send to its arrival everywhere, where one waited for it.
    arrivals: Vec<f64>,
    transactions: u64,
}

impl Load {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.cpu += other.cpu;
        self.waits.extend(other.waits);
        self.arrivals.extend(other.arrivals);
        self.transactions += other.transactions;
    }

    /// CPU milliseconds an event.
    fn each(&self) -> f64 {
        self.cpu * 1000.0 / rate(self.events.max(1), Duration::from_secs(1))
    }

    fn wait(&self) -> f64 {
        median(self.waits.clone())
    }
}

/// The rooms of one server's user.
struct Rooms {
    /// With nobody else in it.
    alone: OwnedRoomId,
    /// With the scripted server.
    shared: OwnedRoomId,
    /// With all fifty of it.
    wide: OwnedRoomId,
}

pub(crate) async fn measure(stage: &mut Stage, report: &mut Report) -> Result<(), Failed> {
    let scripted = &stage.scripted;
    let servers = [&mut stage.hub, &mut stage.synapses[0]];
    let mut sides = Vec::new();
    for server in servers {
        let rooms = enter(scripted, server).await?;
        sides.push((server, rooms));
    }
    for (events, counts) in [(1, [1000, 100]), (50, [4000, 400])] {
        come_in(scripted, &mut sides, (events, counts), report).await?;
    }
    go_out(scripted, &mut sides, report).await?;
    go_out_at_once(scripted, &mut sides, report).await?;
    go_far(scripted, &mut sides, report).await
}

async fn enter(scripted: &Scripted, server: &mut Server) -> Result<Rooms, Failed> {
    let at = tramline::app::clock::SystemClock::new().now();
    let names = scripted.names();
    let shared = scripted.hold(Room::found(&names[..1], MEMBERS, at)?);
    let wide = scripted.hold(Room::found(names, names.len(), at)?);
    for room in [&shared, &wide] {
        server.join(room, scripted.name().as_str()).await?;
    }
    let wish = json!({ "room_version": "12" });
    let alone = server.client.create_room(wish).await?;
    // Where everything is in use: keys, connections, pages of the store.
    scripted.tell(&server.name, &shared, 20).await?;
    for room in [&alone, &shared, &wide] {
        server.client.say(room, "warm", "Good morning").await?;
    }
    server.rests().await?;
    Ok(Rooms {
        alone,
        shared,
        wide,
    })
}

type Sides<'a> = [(&'a mut Server, Rooms)];

/// The scripted server sends transactions, one after the other.
async fn come_in(
    scripted: &Scripted,
    sides: &mut Sides<'_>,
    (each, counts): (usize, [usize; 2]),
    report: &mut Report,
) -> Result<(), Failed> {
    /// So many are on their way to a server at most before it has worked on all of them: Synapse lays
    /// them aside and drops some when there are more than a hundred.
    const AT_ONCE: usize = 50;
    let mut loads = [Load::default(), Load::default()];
    for _ in 0..ROUNDS {
        for (((server, rooms), load), count) in sides.iter_mut().zip(&mut loads).zip(counts) {
            let mut looks = server.another().await?;
            looks.whoami().await?; // the handshake
            let rests_between = server.kind != "hub"; // which answers when it has worked on them
            let work = async {
                let mut last = None;
                for sent in (0..count).step_by(each) {
                    last = Some(scripted.tell(&server.name, &rooms.shared, each).await?);
                    if rests_between && (sent + each) % AT_ONCE == 0 {
                        server.rests().await?;
                    }
                }
                let last = last.ok_or("nothing sent")?;
                is_shown(&mut looks, &rooms.shared, &last)
                    .await
                    .map_err(|error| format!("{}: {error}", server.kind).into())
            };
            let cpu = server.cost(work).await?;
            load.add(Load {
                events: count as u64,
                cpu,
                ..Load::default()
            });
        }
    }
    let [ours, theirs] = loads;
    let figure = format!(
        "hub {:.3} ms, Synapse {:.2} ms CPU an event",
        ours.each(),
        theirs.each()
    );
    let name = format!("in, {each} in a transaction");
    let ratio = ("CPU 1/", theirs.each() / ours.each());
    report.line(&name, &figure, ratio, Limit::AtLeast(CPU_MIN));
    Ok(())
}

/// Waits until a server shows an event to its user; at the first look, as a rule.
async fn is_shown(client: &mut Client, room: &RoomId, event: &EventId) -> Result<(), Failed> {
    const TRIES: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(200);
    let path = ["rooms", room.as_str(), "event", event.as_str()];
    for _ in 1..TRIES {
        let look = Call::get(&path, Vec::new());
        if client.call("event", look).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    client.call("event", Call::get(&path, Vec::new())).await?;
    Ok(())
}

/// A user sends one message after the other, the next when the last has arrived.
async fn go_out(
    scripted: &Scripted,
    sides: &mut Sides<'_>,
    report: &mut Report,
) -> Result<(), Failed> {
    const COUNTS: [u64; 2] = [600, 60];
    let mut loads = [
        [Load::default(), Load::default()],
        [Load::default(), Load::default()],
    ];
    for _ in 0..ROUNDS {
        for (((server, rooms), loads), count) in sides.iter_mut().zip(&mut loads).zip(COUNTS) {
            let [alone, out] = loads;
            alone.add(one_by_one(scripted, server, (&rooms.alone, 0), count).await?);
            out.add(one_by_one(scripted, server, (&rooms.shared, 1), count).await?);
        }
    }
    tell(report, "out, one by one", &loads);
    Ok(())
}

/// What it is to send with nobody else in the room, and with others.
fn tell(report: &mut Report, name: &str, [ours, theirs]: &[[Load; 2]; 2]) {
    let beyond = |[alone, out]: &[Load; 2]| out.each() - alone.each();
    let figure = format!(
        "hub {:.3} ms, Synapse {:.2} ms CPU a message",
        ours[1].each(),
        theirs[1].each()
    );
    let ratio = theirs[1].each() / ours[1].each();
    report.line(name, &figure, ("CPU 1/", ratio), Limit::AtLeast(CPU_MIN));
    let figure = format!(
        "beyond a room of one's own: {:.3} ms, {:.2} ms",
        beyond(ours),
        beyond(theirs)
    );
    let ratio = beyond(theirs) / beyond(ours);
    report.line("", &figure, ("CPU 1/", ratio), Limit::AtLeast(CPU_MIN));
    let figure = format!(
        "a client's wait: hub {:.2} ms ({:.2} alone), Synapse {:.1} ms ({:.1})",
        ours[1].wait(),
        ours[0].wait(),
        theirs[1].wait(),
        theirs[0].wait()
    );
    let ratio = ours[1].wait() / ours[0].wait();
    report.line("", &figure, ("of alone ×", ratio), Limit::None);
    if !ours[1].arrivals.is_empty() {
        let [ours, theirs] = [ours, theirs].map(|[_, out]| median(out.arrivals.clone()));
        let figure = format!("arrived everywhere: hub {ours:.2} ms, Synapse {theirs:.1} ms");
        report.line("", &figure, ("time 1/", theirs / ours), Limit::None);
    }
    let per = |load: &Load| rate(load.events, Duration::from_secs(1)) / transactions(load);
    let figure = format!(
        "events in a transaction: hub {:.1}, Synapse {:.1}",
        per(&ours[1]),
        per(&theirs[1])
    );
    report.line("", &figure, ("", per(&ours[1])), Limit::None);
}

fn transactions(load: &Load) -> f64 {
    rate(load.transactions, Duration::from_secs(1))
}

async fn one_by_one(
    scripted: &Scripted,
    server: &Server,
    (room, destinations): (&RoomId, u64),
    count: u64,
) -> Result<Load, Failed> {
    let mut client = server.another().await?;
    client.whoami().await?; // the handshake
    let before = scripted.taken();
    let (mut waits, mut arrivals) = (Vec::new(), Vec::new());
    let work = async {
        for number in 1..=count {
            let began = now();
            client.say(room, &txn(), "Meet me at the station").await?;
            waits.push(began.elapsed().as_secs_f64() * 1000.0);
            let expected = before.events + number * destinations;
            scripted.has_taken(expected).await?;
            arrivals.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(())
    };
    let cpu = server.cost(work).await?;
    Ok(Load {
        events: count,
        cpu,
        waits,
        arrivals,
        transactions: scripted.taken().transactions - before.transactions,
    })
}

/// A transaction id that nobody has used.
fn txn() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static TXN: AtomicU64 = AtomicU64::new(0);
    format!("m{}", TXN.fetch_add(1, Ordering::Relaxed))
}

/// Sixteen connections of a user send all the time.
async fn go_out_at_once(
    scripted: &Scripted,
    sides: &mut Sides<'_>,
    report: &mut Report,
) -> Result<(), Failed> {
    let mut loads = [
        [Load::default(), Load::default()],
        [Load::default(), Load::default()],
    ];
    for _ in 0..ROUNDS {
        for ((server, rooms), loads) in sides.iter_mut().zip(&mut loads) {
            let [alone, out] = loads;
            alone.add(at_once(scripted, server, (&rooms.alone, 0)).await?);
            out.add(at_once(scripted, server, (&rooms.shared, 1)).await?);
        }
    }
    tell(report, &format!("out, {SENDERS} senders"), &loads);
    Ok(())
}

async fn at_once(
    scripted: &Scripted,
    server: &Server,
    (room, destinations): (&OwnedRoomId, u64),
) -> Result<Load, Failed> {
    let before = scripted.taken();
    let mut clients = Vec::new();
    for _ in 0..SENDERS {
        let mut client = server.another().await?;
        client.whoami().await?;
        clients.push(client);
    }
    let room = Arc::new(room.clone());
    let mut waits = Vec::new();
    let work = async {
        let began = now();
        let senders: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let room = Arc::clone(&room);
                tokio::spawn(async move {
                    let mut waits = Vec::new();
                    while began.elapsed() < ROUND {
                        let began = now();
                        client.say(&room, &txn(), "Meet me at the station").await?;
                        waits.push(began.elapsed().as_secs_f64() * 1000.0);
                    }
                    Ok::<_, Failed>(waits)
                })
            })
            .collect();
        for sender in senders {
            waits.extend(sender.await??);
        }
        let sent = waits.len() as u64;
        scripted
            .has_taken(before.events + sent * destinations)
            .await
    };
    let cpu = server.cost(work).await?;
    Ok(Load {
        events: waits.len() as u64,
        cpu,
        waits,
        arrivals: Vec::new(),
        transactions: scripted.taken().transactions - before.transactions,
    })
}

/// A user sends to fifty servers.
async fn go_far(
    scripted: &Scripted,
    sides: &mut Sides<'_>,
    report: &mut Report,
) -> Result<(), Failed> {
    const COUNTS: [u64; 2] = [60, 10];
    let names = scripted.names().len() as u64;
    let mut loads = [
        [Load::default(), Load::default()],
        [Load::default(), Load::default()],
    ];
    for _ in 0..ROUNDS {
        for (((server, rooms), loads), count) in sides.iter_mut().zip(&mut loads).zip(COUNTS) {
            let [alone, out] = loads;
            alone.add(one_by_one(scripted, server, (&rooms.alone, 0), count).await?);
            out.add(one_by_one(scripted, server, (&rooms.wide, names), count).await?);
        }
    }
    for [_, out] in &mut loads {
        out.transactions /= names;
    }
    tell(
        report,
        &format!("out to {names} servers, one by one"),
        &loads,
    );
    Ok(())
}
