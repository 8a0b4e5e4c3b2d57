//! What a sync costs that finds nothing, and one that finds a single event, for a user in one
//! room and for a user in ten thousand. Both are asked in turns, sync by sync, of one hub in this
//! process: while criterion measures the one, the other has as many. The ratio is of the medians of
//! all single syncs. `cargo bench --bench idle`, about two minutes.

mod common;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Desk, Failed, Limit, NAME, Report, disk, median, message, now, origin};
use criterion::Criterion;
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

fn main() -> ExitCode {
    common::run_on(|runtime| {
        let dir = disk()?;
        let rooms = runtime.block_on(build(&dir.path().join("hub.db")))?;
        let hub = runtime.block_on(start(dir.path()))?;
        let users = [
            User::new("one", "1 room", rooms.0),
            User::new("many", "10000 rooms", rooms.1),
        ];
        let (mut criterion, mut report) = (common::criterion(), Report::default());

        let name = "sync that finds nothing";
        let since = runtime.block_on(tokens(&hub, &users))?;
        let spans = in_turns(&mut criterion, name, &users, |count| {
            runtime.block_on(nothing(&hub, &users, &since, count))
        });
        tell(&mut report, name, spans, Limit::AtMost(RATIO_MAX));

        let name = "sync that finds one event";
        let mut since = runtime.block_on(tokens(&hub, &users))?;
        let spans = in_turns(&mut criterion, name, &users, |count| {
            runtime.block_on(something(&hub, &users, &mut since, count))
        });
        tell(&mut report, name, spans, Limit::None);

        runtime.block_on(hub.drain());
        Ok(report)
    })
}

/// A user with a session, and a room of theirs.
struct User {
    name: &'static str,
    /// How many rooms they are in, for people.
    rooms: &'static str,
    room: OwnedRoomId,
}

impl User {
    fn new(name: &'static str, rooms: &'static str, room: OwnedRoomId) -> Self {
        Self { name, rooms, room }
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
        edhoc_public_x: [0; 32], // no device links here
        remote: Arc::new(tramline::api::Nobody),
        policy_key: None,
    })
    .await?)
}

/// What both users' syncs took, one by one, in microseconds.
type Spans = [Vec<f64>; 2];

/// Measures each user by criterion, the other one always in turn; gives every sync's time.
///
/// `syncs` does so many syncs of each and gives their times.
fn in_turns(
    criterion: &mut Criterion,
    name: &str,
    users: &[User; 2],
    mut syncs: impl FnMut(u64) -> Result<[Vec<Duration>; 2], Failed>,
) -> Spans {
    let mut spans = Spans::default();
    let mut group = criterion.benchmark_group(name);
    for (index, user) in users.iter().enumerate() {
        group.bench_function(user.rooms, |bencher| {
            bencher.iter_custom(|count| {
                let sample = syncs(count).expect("a bench that breaks has no figure");
                for (spans, sample) in spans.iter_mut().zip(&sample) {
                    spans.extend(sample.iter().map(|span| span.as_secs_f64() * 1e6));
                }
                sample.get(index).into_iter().flatten().sum()
            });
        });
    }
    group.finish();
    spans
}

fn tell(report: &mut Report, name: &str, spans: Spans, limit: Limit) {
    if spans.iter().any(Vec::is_empty) {
        return; // left out on the command line
    }
    let [one, many] = spans.map(median);
    let figure = format!("1 room {one:.0} µs, {MANY} rooms {many:.0} µs");
    report.line(name, &figure, ("ratio", many / one), limit);
}

/// `count` syncs of each user, neither of whom has any news.
async fn nothing(
    hub: &Hub,
    users: &[User; 2],
    since: &[String; 2],
    count: u64,
) -> Result<[Vec<Duration>; 2], Failed> {
    let mut spans = [Vec::new(), Vec::new()];
    for _ in 0..count {
        for ((user, since), spans) in users.iter().zip(since).zip(&mut spans) {
            let began = now();
            let answer = user.sync(hub, since).await?;
            spans.push(began.elapsed());
            if !answer.rooms.is_empty() {
                return Err("there should be nothing new".into());
            }
        }
    }
    Ok(spans)
}

/// `count` syncs of each user, who has just said something in one room.
async fn something(
    hub: &Hub,
    users: &[User; 2],
    since: &mut [String; 2],
    count: u64,
) -> Result<[Vec<Duration>; 2], Failed> {
    static TXN: AtomicU64 = AtomicU64::new(0);
    let mut spans = [Vec::new(), Vec::new()];
    for _ in 0..count {
        for ((user, since), spans) in users.iter().zip(&mut *since).zip(&mut spans) {
            let txn = TXN.fetch_add(1, Ordering::Relaxed);
            user.say(hub, format!("m{txn}")).await?;
            let began = now();
            let answer = user.sync(hub, since).await?;
            spans.push(began.elapsed());
            if answer.rooms.join.len() != 1 {
                return Err("there should be one room with news".into());
            }
            *since = answer.next_batch;
        }
    }
    Ok(spans)
}

/// What each user's next sync begins with: the end of an earlier one, as clients have it. The first
/// after a start reads more, once.
async fn tokens(hub: &Hub, users: &[User; 2]) -> Result<[String; 2], Failed> {
    let mut since = [String::new(), String::new()];
    for (user, since) in users.iter().zip(&mut since) {
        let first = user.token(hub).await?;
        *since = user.sync(hub, &first).await?.next_batch;
    }
    Ok(since)
}
