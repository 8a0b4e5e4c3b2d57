//! One simulation: hubs that live one after the other over one store.

use std::{cell::Cell, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use rand::{Rng as _, SeedableRng, rngs::StdRng, seq::IndexedRandom as _};
use tokio::task::JoinHandle;
use tramline::{hub::Hub, store::fsck};

use crate::{
    acts,
    flaky::Weather,
    model::now,
    world::{Person, World, people_arrive},
};

thread_local! {
    /// Tasks of a runtime take their panics with them; a hub that panics is wrong all the same.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Counts panics of this thread from now on.
pub(crate) fn watch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with(|count| count.set(count.get() + 1));
            before(info);
        }));
    });
    PANICS.with(|count| count.set(0));
}

/// What a simulation came to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) trace: String,
    pub(crate) lines: Vec<String>,
    pub(crate) asked: u64,
    pub(crate) acked: u64,
    pub(crate) faults: u64,
    pub(crate) crashes: u64,
}

/// Runs a simulation; an error says what was wrong and what came just before.
pub(crate) fn run(seed: u64, print: bool) -> Result<Report, String> {
    watch_panics();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut people = vec![Person::new("ana", "PHONE"), Person::new("bob", "PHONE")];
    let more = [("ana", "TABLET"), ("cem", "PHONE"), ("cem", "LAPTOP")];
    let count = rng.random_range(0..=more.len());
    people.extend(
        more[..count]
            .iter()
            .map(|(name, device)| Person::new(name, device)),
    );
    let world = Arc::new(World::new(seed ^ 0x5eed, people, print));
    people_arrive(&*world.inner, &world.people)
        .now_or_never()
        .expect("memory does not wait");
    let shards = rng.random_range(2..=4);
    let mut crashes = 0;
    for life in 0..rng.random_range(1..=4) {
        let ended = in_runtime(live(&world, &mut rng, shards, life))?;
        crashes += u64::from(ended == Ended::Crashed);
        verdict(&world)?;
    }
    in_runtime(last(&world, shards));
    verdict(&world)?;
    let model = world.model();
    Ok(Report {
        trace: world.trace_hash(),
        lines: world.lines(),
        asked: model.asked,
        acked: model.acks,
        faults: world.flaky.faults(),
        crashes,
    })
}

/// A runtime of its own, with time that moves when all wait. Dropping it is the crash: every task
/// ends where it stands.
fn in_runtime<T>(life: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(life)
}

fn verdict(world: &World) -> Result<(), String> {
    let mut wrong = world.model().wrong.clone();
    match PANICS.with(Cell::get) {
        0 => {}
        panics => wrong.push(format!("{panics} panics")),
    }
    wrong.extend(
        world
            .flaky
            .refused()
            .map(|why| format!("the hub wrote nonsense: {why}")),
    );
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.truncate(10);
    Err(format!(
        "{}\n  at the end of the trace:\n{}",
        wrong.join("\n  "),
        world.tail()
    ))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Crashed,
    Drained,
}

struct Life {
    world: Arc<World>,
    hub: Arc<Hub>,
    flying: Vec<JoinHandle<()>>,
    faults_before: u64,
}

impl Life {
    fn spawn(&mut self, deed: usize) {
        let hub = Arc::clone(&self.hub);
        let attempt = acts::perform(&self.world, hub, deed, self.faults_before);
        self.flying.push(tokio::spawn(attempt));
    }

    async fn land(&mut self) {
        for task in self.flying.drain(..) {
            let _ = task.await; // cancelled ones, too
        }
    }
}

async fn live(
    world: &Arc<World>,
    rng: &mut StdRng,
    shards: usize,
    life: u64,
) -> Result<Ended, String> {
    world.note(format!("life {life} begins"));
    world.flaky.set(Weather::BREEZE);
    let faults_before = world.flaky.faults();
    let hub = world
        .start(rng.random(), shards)
        .await
        .map_err(|error| error.to_string())?;
    let mut life = Life {
        world: Arc::clone(world),
        hub,
        flying: Vec::new(),
        faults_before,
    };
    let calm_life = rng.random_range(0..4) == 0;
    for _ in 0..rng.random_range(5..40) {
        if !calm_life && rng.random_range(0..6) == 0 {
            let all = [
                Weather::BREEZE,
                Weather::CALM,
                Weather::STORM,
                Weather::STORM,
            ];
            let weather = match rng.random_range(0..10) {
                0 => Weather::BROKEN_DISK,
                _ => *all.choose(rng).expect("there are four"),
            };
            world.note(format!("weather {weather:?}"));
            world.flaky.set(weather);
        }
        match rng.random_range(0..20) {
            0 => world.clock.forward(rng.random_range(1..600_000)),
            1 => world.clock.back(rng.random_range(1..5_000)),
            _ => world.clock.forward(rng.random_range(0..20)),
        }
        if rng.random_range(0..2000) == 0 {
            burst(&mut life, rng);
        }
        for _ in 0..rng.random_range(1..8) {
            let deed = acts::plan(&mut world.model(), &world.people, rng);
            if let Some(deed) = deed {
                life.spawn(deed);
            }
        }
        rest(rng).await;
        if rng.random_range(0..5) == 0
            && let Some(task) = life.flying.choose(rng)
        {
            task.abort(); // that client goes away
        }
        life.flying.retain(|task| !task.is_finished());
        if !world.model().wrong.is_empty() {
            break;
        }
    }
    Ok(end(&mut life, rng).await)
}

/// More at once than a shard's queue holds.
fn burst(life: &mut Life, rng: &mut StdRng) {
    let world = Arc::clone(&life.world);
    let Some(room) = world.model().rooms.choose(rng).cloned() else {
        return;
    };
    world.note("a burst".to_owned());
    let who = rng.random_range(0..world.people.len());
    for _ in 0..1100 {
        let deed = {
            let mut model = world.model();
            let (command, what) = acts::said(&world.people[who], &room, model.deeds.len());
            model.add(who, command, what)
        };
        life.spawn(deed);
    }
}

async fn rest(rng: &mut StdRng) {
    match rng.random_range(0..4) {
        0 => {}
        1 => tokio::task::yield_now().await,
        _ => tokio::time::sleep(Duration::from_millis(rng.random_range(0..20))).await,
    }
}

async fn end(life: &mut Life, rng: &mut StdRng) -> Ended {
    match rng.random_range(0..3) {
        0 => {
            life.world.note("crash".to_owned());
            return Ended::Crashed;
        }
        1 => life.world.note("drain".to_owned()),
        _ => {
            life.world.note("drain when quiet".to_owned());
            life.world.flaky.set(Weather::CALM);
            life.land().await;
        }
    }
    life.hub.drain().await;
    life.land().await;
    Ended::Drained
}

/// How often a client asks again when nothing stands in its way.
const TRIES: usize = 3;

/// A last hub on a healthy store: what is open is asked for again, everyone catches up, and then
/// everything is looked at.
async fn last(world: &Arc<World>, shards: usize) {
    world.note("the last life begins".to_owned());
    world.flaky.set(Weather::CALM);
    let hub = world.start(7, shards).await.expect("a healthy store");
    let mut life = Life {
        world: Arc::clone(world),
        hub,
        flying: Vec::new(),
        faults_before: world.flaky.faults(),
    };
    let open: Vec<usize> = {
        let model = world.model();
        let deeds = model.deeds.iter().enumerate();
        let open = deeds.filter(|(_, deed)| !deed.done && deed.unsure && deed.what.key().is_some());
        open.map(|(index, _)| index).collect()
    };
    for deed in open {
        life.spawn(deed);
        life.land().await;
    }
    for who in 0..world.people.len() {
        for _ in 0..TRIES {
            let deed = acts::look_for(&mut world.model(), who, 0, true);
            life.spawn(deed.expect("all have landed"));
            life.land().await;
        }
    }
    life.hub.drain().await;
    let report = fsck::fsck(&*world.inner, &mut |_| {})
        .await
        .expect("memory does not fail");
    let mut model = world.model();
    for finding in &report.findings {
        model.wrong.push(format!("fsck: {finding}"));
    }
    model.last_look(&world.inner, &world.people);
    account_data(world, &mut model);
}

/// What was acknowledged last stands, or something later whose answer was lost.
fn account_data(world: &World, model: &mut crate::model::Model) {
    use tramline::store::Accounts as _;
    for (user, acked) in model.account_data.clone() {
        let json = now(world.inner.account_data_of(&user, None, "sim.data"));
        let json: serde_json::Value =
            serde_json::from_str(&json.unwrap_or_default()).unwrap_or_default();
        if json["n"].as_u64().is_none_or(|n| n < acked) {
            model.wrong.push(format!(
                "{user}: account data {json}, {acked} was acknowledged"
            ));
        }
    }
}
