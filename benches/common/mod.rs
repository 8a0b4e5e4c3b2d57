//! What the benches share: limits that are kept or missed, and what a process has used.
//!
//! Every figure is printed beside its limit, and a bench with a missed one ends with exit code 1.
//! `BENCH_LIMITS=off` prints the same and ends with 0, for machines that are busy or strange.
#![allow(
    clippy::allow_attributes,
    dead_code,
    reason = "each bench is a crate of its own and uses a part of this"
)]

pub(crate) mod seen;

use std::{
    error::Error,
    fs,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::Criterion;
use ruma::{CanonicalJsonObject, OwnedDeviceId, OwnedRoomId, OwnedUserId};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tramline::{
    api::{Credentials, Door, Nobody, Origin, RequestId},
    app::clock::SystemClock,
    base::Clock,
    hub::{Fanout, Policing, Submission, Writer},
    room::{Draft, Evidence, Part, PolicyRules, Preset, RoomWish, found, founding, initial_parts},
    store::{
        Batch, Commits as _, SentBy, SharedStore, TxnKey, Write,
        sqlite::{OpenOptions, Sqlite},
    },
    wire::matrix::{ServerKey, Version},
};

pub(crate) type Failed = Box<dyn Error + Send + Sync>;

/// The server name of every hub measured here.
pub(crate) const NAME: &str = "hub.example";

/// How many shards the hub has unless told otherwise.
pub(crate) const SHARDS: usize = 4;

/// A figure's limit.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
    /// Printed for what it tells.
    None,
}

/// Figures, each beside its limit.
#[derive(Default)]
pub(crate) struct Report {
    missed: usize,
}

impl Report {
    /// Prints one line. `figure` is for people, `value` is what the limit is about.
    pub(crate) fn line(
        &mut self,
        name: &str,
        figure: &str,
        (what, value): (&str, f64),
        limit: Limit,
    ) {
        let (bound, kept) = match limit {
            Limit::AtLeast(least) => (format!("limit ≥ {least}"), value >= least),
            Limit::AtMost(most) => (format!("limit ≤ {most}"), value <= most),
            Limit::None => (String::new(), true),
        };
        let verdict = match (limit, kept) {
            (Limit::None, _) => "",
            (_, true) => "OK",
            (_, false) => "MISSED",
        };
        self.missed += usize::from(!kept);
        let line = format!("{name:<34} {figure:<52} {what} {value:.3}  {bound}  {verdict}");
        println!("{}", line.trim_end());
    }

    /// How the process ends.
    pub(crate) fn exit(&self) -> ExitCode {
        if self.missed == 0 {
            return ExitCode::SUCCESS;
        }
        println!("{} limits are missed", self.missed);
        if std::env::var("BENCH_LIMITS").is_ok_and(|value| value == "off") {
            return ExitCode::SUCCESS;
        }
        ExitCode::FAILURE
    }
}

/// Runs a bench to its end on the runtime the hub has.
pub(crate) fn run(bench: impl Future<Output = Result<Report, Failed>>) -> ExitCode {
    run_on(|runtime| runtime.block_on(bench))
}

/// The same for a bench that enters the runtime by itself, sample by sample.
pub(crate) fn run_on(bench: impl FnOnce(&Runtime) -> Result<Report, Failed>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(Failed::from)
        .and_then(|runtime| bench(&runtime));
    match done {
        Ok(report) => report.exit(),
        Err(error) => {
            eprintln!("the bench broke: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Criterion with few samples: what is measured here takes milliseconds, and its limits are ratios.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(10))
        .configure_from_args()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench is there to read the clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Events per second.
#[expect(clippy::cast_precision_loss, reason = "a bench counts far below 2^52")]
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// The middle of some figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// User and system time of a process so far, from `/proc`, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64, Failed> {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, the same on every Linux there is
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || -> Result<f64, Failed> { Ok(fields.next().ok_or("a short stat")?.parse()?) };
    Ok((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// A line of `/proc/PID/status` such as `VmRSS`, in MiB.
pub(crate) fn status_mib(pid: u32, name: &str) -> Result<f64, Failed> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .ok_or("no such line")?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .ok_or("an empty line")?
        .parse()?;
    Ok(kib / 1024.0)
}

/// A directory on the disk under `target`, which is what `/tmp` may not be.
pub(crate) fn disk() -> Result<TempDir, Failed> {
    Ok(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

/// The signing key of every hub measured here: the seed of RFC 8032's first vector.
pub(crate) fn key() -> Result<Arc<ServerKey>, Failed> {
    Ok(Arc::new(key_of(NAME)?))
}

/// The same key for a server of another name.
pub(crate) fn key_of(name: &str) -> Result<ServerKey, Failed> {
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let der = hex::decode(format!("302e020100300506032b657004220420{SEED}"))?;
    Ok(ServerKey::from_der(name.try_into()?, &der, "1")?)
}

/// A store and the write side over it.
pub(crate) struct Desk {
    pub(crate) store: Arc<Sqlite>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) key: Arc<ServerKey>,
}

impl Desk {
    /// Opens the store in the file `path` and starts a writer on it.
    pub(crate) async fn open(path: &Path) -> Result<Self, Failed> {
        let options = OpenOptions::new(path, NAME.try_into()?);
        let store = Arc::new(Sqlite::open(options).await?);
        let shared: SharedStore = Arc::clone(&store) as SharedStore;
        let (key, clock) = (key()?, Arc::new(SystemClock::new()) as Arc<dyn Clock>);
        let fanout = Arc::new(Fanout::new(store.position().await?));
        let writer = Arc::new(Writer::start(
            shared,
            Arc::clone(&key),
            Arc::clone(&clock),
            fanout,
            Arc::new(Policing::new(
                None,
                PolicyRules::default(),
                Arc::new(Nobody),
            )),
            SHARDS,
        ));
        Ok(Self {
            store,
            writer,
            clock,
            key,
        })
    }

    /// Founds a room as `createRoom` does.
    pub(crate) async fn found(
        &self,
        creator: &OwnedUserId,
        preset: Preset,
    ) -> Result<OwnedRoomId, Failed> {
        let nid = self.store.numbers().room();
        // The id of a room of version 12 is the hash of its create event: something must be new.
        let number = ("n".to_owned(), nid.0.to_string().into());
        let wish = RoomWish {
            creator: creator.clone(),
            version: Version::DEFAULT,
            preset,
            creation_content: [number].into_iter().collect(),
            profile: CanonicalJsonObject::new(),
            power_levels: CanonicalJsonObject::new(),
            alias: None,
            initial_state: Vec::new(),
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
        };
        let evidence = Evidence {
            now: self.clock.now(),
            key: &self.key,
            target: None,
        };
        let founding = founding(&wish, format!("!r{}:{NAME}", nid.0).try_into()?);
        let (room, create) = found(&founding, &evidence)?;
        let done = self
            .writer
            .found((room, create), nid, initial_parts(&wish))
            .await?;
        Ok(done.room)
    }

    /// An account without a password, and a session of its device `PHONE`.
    pub(crate) async fn account(&self, localpart: &str) -> Result<OwnedUserId, Failed> {
        let user = user(localpart)?;
        let at = self.clock.now();
        let made = Write::NewUser {
            user: user.clone(),
            password: None,
            admin: false,
            at,
        };
        let session = Write::Session {
            user: user.clone(),
            device: device(),
            token: Sha256::digest(token(localpart)).into(),
            name: None,
            at,
        };
        let batch = Batch {
            writes: vec![made, session],
            may_conflict: true,
        };
        self.writer.write(batch, Vec::new()).await?;
        Ok(user)
    }

    /// Finishes, and closes the store.
    pub(crate) async fn close(self) -> Result<(), Failed> {
        self.writer.drain().await;
        drop(self.writer);
        let mut store = self.store;
        for _ in 0..1000 {
            match Arc::try_unwrap(store) {
                Ok(store) => {
                    store.close().await;
                    return Ok(());
                }
                Err(shared) => store = shared,
            }
            tokio::time::sleep(Duration::from_millis(1)).await; // an aborted task lets go of it
        }
        Err("the store is still in use".into())
    }
}

/// `@localpart:hub.example`.
pub(crate) fn user(localpart: &str) -> Result<OwnedUserId, Failed> {
    Ok(OwnedUserId::try_from(format!("@{localpart}:{NAME}"))?)
}

/// The one device everyone has.
pub(crate) fn device() -> OwnedDeviceId {
    "PHONE".into()
}

/// The token [`Desk::account`] gives.
pub(crate) fn token(localpart: &str) -> String {
    format!("tl_bench_{localpart}")
}

/// A request of that session.
pub(crate) fn origin(localpart: &str) -> Origin {
    Origin {
        door: Door::Local,
        address: None,
        request: RequestId(1),
        credentials: Credentials::Token(token(localpart)),
    }
}

/// A message as the desk submits it.
pub(crate) fn message(sender: &OwnedUserId, room: &OwnedRoomId, txn: String) -> Submission {
    let content = [("msgtype", "m.text"), ("body", "Meet me at the station")]
        .map(|(key, value)| (key.to_owned(), value.to_owned().into()));
    let kind = "m.room.message".to_owned();
    let endpoint = format!("send {room} {kind}");
    let part = Part::Event {
        kind,
        state_key: None,
        content: content.into_iter().collect(),
    };
    Submission {
        draft: Draft {
            sender: sender.clone(),
            parts: vec![part],
        },
        sent_by: Some(SentBy {
            device: device(),
            txn: txn.clone(),
        }),
        txn: Some(TxnKey {
            user: sender.clone(),
            device: device(),
            endpoint,
            txn,
        }),
    }
}
