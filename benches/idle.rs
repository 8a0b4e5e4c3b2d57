//! What a sync costs that finds nothing, and one that finds a single event, for a user in one
//! room and for a user in ten thousand. Both are asked in turns, of one hub in this process.
//! `cargo bench --bench idle`, about a minute.

mod common;

use std::{process::ExitCode, sync::Arc, time::Duration};

use common::{Desk, Failed, Limit, NAME, Report, cpu_seconds, disk, median, message, now, origin};
use rand::SeedableRng as _;
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::{filter::FilterDefinition, message::send_message_event, sync::sync_events},
};
use tramline::{
    api::{Command, Reply, Service as _},
    base::Clock as _,
    hub::{Hub, HubParts, Limits, Quota, Settings},
    room::Preset,
    store::{SharedStore, media::MediaFiles},
};

/// How many rooms the busy user is in.
const MANY: usize = 10_000;

/// What the busy user's sync may cost of the other's, at most.
const RATIO_MAX: f64 = 1.2;

/// How many rounds each user has, and how many syncs a round is; the middle ratio counts.
const ROUNDS: usize = 5;
const SYNCS: u32 = 1000;

/// How many single events are synced by each.
const EVENTS: usize = 200;

fn main() -> ExitCode {
    common::run(async {
        let dir = disk()?;
        let rooms = build(&dir.path().join("hub.db")).await?;
        let hub = start(dir.path()).await?;
        let users = [User::new("one", rooms.0), User::new("many", rooms.1)];
        let mut report = Report::default();
        nothing(&hub, &users, &mut report).await?;
        something(&hub, &users, &mut report).await?;
        hub.drain().await;
        Ok(report)
    })
}

/// A user with a session, and a room of theirs.
struct User {
    name: &'static str,
    room: OwnedRoomId,
}

impl User {
    fn new(name: &'static str, room: OwnedRoomId) -> Self {
        Self { name, room }
    }

    async fn sync(&self, hub: &Hub, since: &str) -> Result<sync_events::v3::Response, Failed> {
        let mut request = sync_events::v3::Request::new();
        request.since = Some(since.to_owned());
        let asked = hub
            .ask(origin(self.name), Command::Sync(Box::new(request)))
            .await?;
        let Reply::Sync(answer) = asked else {
            return Err("not a sync's answer".into());
        };
        Ok(*answer)
    }

    /// A token of this moment. Nothing is told with it: all of ten thousand rooms takes long.
    async fn token(&self, hub: &Hub) -> Result<String, Failed> {
        let mut request = sync_events::v3::Request::new();
        request.filter = Some(sync_events::v3::Filter::FilterDefinition(
            FilterDefinition::ignore_all(),
        ));
        let asked = hub
            .ask(origin(self.name), Command::Sync(Box::new(request)))
            .await?;
        let Reply::Sync(answer) = asked else {
            return Err("not a sync's answer".into());
        };
        Ok(answer.next_batch)
    }

    async fn say(&self, hub: &Hub, txn: String) -> Result<(), Failed> {
        let content = ruma::events::room::message::RoomMessageEventContent::text_plain("Hello");
        let request =
            send_message_event::v3::Request::new(self.room.clone(), txn.into(), &content)?;
        hub.ask(origin(self.name), Command::Send(Box::new(request)))
            .await?;
        Ok(())
    }
}

/// Makes the store; gives a room of each user.
async fn build(path: &std::path::Path) -> Result<(OwnedRoomId, OwnedRoomId), Failed> {
    let desk = Arc::new(Desk::open(path).await?);
    let one = desk.account("one").await?;
    let many = desk.account("many").await?;
    let single = desk.found(&one, Preset::PrivateChat).await?;
    let last = found_many(&desk, &many).await?;
    let sender = message(&many, &last, "first".to_owned());
    desk.writer.submit(&last, sender).await?;
    Arc::into_inner(desk)
        .ok_or("still building")?
        .close()
        .await?;
    Ok((single, last))
}

/// Founds the many rooms, some side by side; gives the last one.
async fn found_many(desk: &Arc<Desk>, user: &OwnedUserId) -> Result<OwnedRoomId, Failed> {
    const AT_ONCE: usize = 50;
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (desk, user) = (Arc::clone(desk), user.clone());
            tokio::spawn(async move {
                let mut last = Err(Failed::from("no room"));
                for _ in 0..MANY / AT_ONCE {
                    last = desk.found(&user, Preset::PrivateChat).await;
                    if last.is_err() {
                        break;
                    }
                }
                last
            })
        })
        .collect();
    let mut last = Err("no room".into());
    for task in tasks {
        last = Ok(task.await??);
    }
    last
}

async fn start(dir: &std::path::Path) -> Result<Arc<Hub>, Failed> {
    use tramline::{app::clock, store::sqlite};
    let options = sqlite::OpenOptions::new(dir.join("hub.db"), NAME.try_into()?);
    let store: SharedStore = Arc::new(sqlite::Sqlite::open(options).await?);
    let off = Quota {
        per_second: 0.0,
        burst: 0,
    };
    let limits = Limits {
        requests_per_account: off,
        events_per_account: off,
        ..Limits::default()
    };
    let clock = Arc::new(clock::SystemClock::new());
    assert!(clock.now().0 > 0);
    Ok(Hub::start(HubParts {
        store,
        media: MediaFiles::new(dir.join("media")).await?,
        key: common::key()?,
        clock,
        rng: Box::new(rand::rngs::StdRng::from_os_rng()),
        settings: Settings {
            limits,
            ..Settings::default()
        },
    })
    .await?)
}

async fn nothing(hub: &Hub, users: &[User; 2], report: &mut Report) -> Result<(), Failed> {
    let (mut ratios, mut costs) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        let mut cost = [0.0; 2];
        for ((user, cost), costs) in users.iter().zip(&mut cost).zip(&mut costs) {
            let since = user.token(hub).await?;
            let before = cpu_seconds(std::process::id())?;
            for _ in 0..SYNCS {
                let answer = user.sync(hub, &since).await?;
                if !answer.rooms.is_empty() {
                    return Err("there should be nothing new".into());
                }
            }
            *cost = (cpu_seconds(std::process::id())? - before) / f64::from(SYNCS) * 1e6;
            costs.push(*cost);
        }
        ratios.push(cost[1] / cost[0]);
    }
    let [one, many] = costs.map(median);
    let figure = format!("1 room {one:.0} µs CPU, {MANY} rooms {many:.0} µs CPU");
    let ratio = ("ratio", median(ratios));
    report.line(
        "sync that finds nothing",
        &figure,
        ratio,
        Limit::AtMost(RATIO_MAX),
    );
    Ok(())
}

async fn something(hub: &Hub, users: &[User; 2], report: &mut Report) -> Result<(), Failed> {
    let mut since = [String::new(), String::new()];
    for (user, since) in users.iter().zip(&mut since) {
        *since = user.token(hub).await?;
    }
    let mut spans = [Vec::new(), Vec::new()];
    for number in 0..EVENTS {
        for ((user, since), spans) in users.iter().zip(&mut since).zip(&mut spans) {
            user.say(hub, format!("m{number}")).await?;
            let began = now();
            let answer = user.sync(hub, since).await?;
            spans.push(micros(began.elapsed()));
            if answer.rooms.join.len() != 1 {
                return Err("there should be one room with news".into());
            }
            *since = answer.next_batch;
        }
    }
    let [one, many] = spans.map(median);
    let figure = format!("1 room {one:.0} µs, {MANY} rooms {many:.0} µs");
    report.line(
        "sync that finds one event",
        &figure,
        ("ratio", many / one),
        Limit::None,
    );
    Ok(())
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}
