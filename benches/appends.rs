//! Appends through the whole writer, against the same rows inserted raw, against bare fdatasync.
//!
//! Each line is one ratio from alternating rounds on one disk. *Raw* is what the database itself
//! can do: the rows a commit of that many senders writes (event, log, transaction, room,
//! position), with every index, in multi-row prepared statements on one connection,
//! `synchronous=FULL`, nothing decided, hashed or signed. *fdatasync* appends as many bytes to a
//! file. `cargo bench --bench appends`, about two minutes; `BENCH_SENDERS=256` for that part alone.

mod common;

use std::{
    fmt::Write as _,
    fs::File,
    io::Write as _,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    Desk, Failed, Limit, Report, cpu_seconds, device, disk, median, message, now, rate, user,
};
use ruma::{OwnedRoomId, OwnedUserId};
use sha2::{Digest as _, Sha256};
use sqlx::{
    AssertSqlSafe, Connection as _, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tramline::room::Preset;

/// How long one round lasts.
const ROUND: Duration = Duration::from_millis(1500);

/// How many rounds each side has; the middle ratio counts.
const ROUNDS: usize = 5;

/// What the writer reaches of the raw rate with 256 senders, at least.
const RATIO_MIN: f64 = 0.7;

fn main() -> ExitCode {
    common::run(async {
        let mut report = Report::default();
        let only = std::env::var("BENCH_SENDERS").ok();
        for rooms in [1, 50] {
            for senders in [1, 64, 256] {
                if only
                    .as_ref()
                    .is_some_and(|only| *only != senders.to_string())
                {
                    continue;
                }
                compare(&mut report, senders, rooms).await?;
            }
        }
        Ok(report)
    })
}

async fn compare(report: &mut Report, senders: usize, rooms: usize) -> Result<(), Failed> {
    let dir = disk()?;
    let whole = Whole::open(&dir.path().join("whole.db"), senders, rooms).await?;
    whole.round(Duration::from_millis(200)).await?; // something to take the raw rows' sizes from
    let sizes = Sizes::read(&dir.path().join("whole.db")).await?;
    let mut raw = Raw::open(&dir.path().join("raw.db"), senders, rooms, sizes).await?;
    let mut bare = File::create(dir.path().join("bare"))?;
    let (mut ratios, mut rates) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
    let mut batches = Vec::new();
    let (mut whole_costs, mut raw_costs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let cpu = Cpu::now()?;
        let (whole, batch, sent) = whole.round(ROUND).await?;
        whole_costs.push(cpu.micros_each(sent)?);
        let cpu = Cpu::now()?;
        let (raw_rate, written) = raw.round(ROUND).await?;
        raw_costs.push(cpu.micros_each(written)?);
        let bare = synced(&mut bare, raw.bytes_per_commit(), senders)?;
        ratios.push(whole / raw_rate);
        batches.push(batch);
        for (rates, rate) in rates.iter_mut().zip([whole, raw_rate, bare]) {
            rates.push(rate);
        }
    }
    let [whole_rate, raw_rate, bare_rate] = rates.map(median);
    let name = format!("appends, {senders} senders, {rooms} rooms");
    let [whole_cost, raw_cost] = [whole_costs, raw_costs].map(median);
    let figure = format!(
        "writer {whole_rate:.0}/s ({:.0} a commit), raw {raw_rate:.0}/s",
        median(batches)
    );
    let limit = if senders == 256 {
        Limit::AtLeast(RATIO_MIN)
    } else {
        Limit::None
    };
    report.line(&name, &figure, ("writer/raw", median(ratios)), limit);
    let figure = format!("CPU µs an event: writer {whole_cost:.0}, raw {raw_cost:.0}");
    report.line(
        "",
        &figure,
        ("writer/raw", whole_cost / raw_cost),
        Limit::None,
    );
    let figure = format!("write and fdatasync {bare_rate:.0}/s");
    report.line(
        "",
        &figure,
        ("writer/fdatasync", whole_rate / bare_rate),
        Limit::None,
    );
    whole.close().await
}

/// User and system time of this process from some point on. Where others use the same cores it
/// tells more than a rate.
struct Cpu(f64);

impl Cpu {
    fn now() -> Result<Self, Failed> {
        Ok(Self(cpu_seconds(std::process::id())?))
    }

    /// What each of `count` events has cost.
    fn micros_each(&self, count: u64) -> Result<f64, Failed> {
        let spent = cpu_seconds(std::process::id())? - self.0;
        Ok(1e6 / rate(count, Duration::from_secs_f64(spent.max(1e-6))))
    }
}

/// The writer with senders that each wait for their answer.
struct Whole {
    desk: Desk,
    rooms: Vec<OwnedRoomId>,
    sender: OwnedUserId,
    senders: usize,
    sent: Arc<AtomicU64>,
}

impl Whole {
    async fn open(path: &Path, senders: usize, rooms: usize) -> Result<Self, Failed> {
        let desk = Desk::open(path).await?;
        let sender = desk.account("ana").await?;
        let mut ids = Vec::new();
        for _ in 0..rooms {
            ids.push(desk.found(&sender, Preset::PrivateChat).await?);
        }
        Ok(Self {
            desk,
            rooms: ids,
            sender,
            senders,
            sent: Arc::default(),
        })
    }

    /// Events per second, and per commit, and how many.
    async fn round(&self, span: Duration) -> Result<(f64, f64, u64), Failed> {
        let stop = Arc::new(AtomicBool::new(false));
        let commits = self.desk.writer.stats().commits.load(Ordering::Relaxed);
        let before = self.sent.load(Ordering::Relaxed);
        let began = now();
        let rooms = self.rooms.iter().cycle();
        let tasks: Vec<_> = rooms
            .take(self.senders)
            .map(|room| tokio::spawn(self.sender(room.clone(), Arc::clone(&stop))))
            .collect();
        tokio::time::sleep(span).await;
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await??;
        }
        let sent = self.sent.load(Ordering::Relaxed) - before;
        let time = began.elapsed();
        let commits = self.desk.writer.stats().commits.load(Ordering::Relaxed) - commits;
        Ok((
            rate(sent, time),
            rate(sent, Duration::from_secs(commits.max(1))),
            sent,
        ))
    }

    fn sender(
        &self,
        room: OwnedRoomId,
        stop: Arc<AtomicBool>,
    ) -> impl Future<Output = Result<(), Failed>> + Send + 'static {
        let (writer, sender) = (Arc::clone(&self.desk.writer), self.sender.clone());
        let sent = Arc::clone(&self.sent);
        async move {
            while !stop.load(Ordering::Relaxed) {
                static TXN: AtomicU64 = AtomicU64::new(0);
                let txn = format!("m{:012}", TXN.fetch_add(1, Ordering::Relaxed));
                writer.submit(&room, message(&sender, &room, txn)).await?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    }

    async fn close(self) -> Result<(), Failed> {
        self.desk.close().await
    }
}

/// What the rows hold that the writer wrote.
struct Sizes {
    json: String,
    prev: Vec<u8>,
    auth: Vec<u8>,
    tips: Vec<u8>,
    endpoint: String,
    answer: String,
}

impl Sizes {
    async fn read(path: &Path) -> Result<Self, Failed> {
        let mut conn = connect(path).await?;
        let row = sqlx::query(
            "SELECT e.json, e.prev, e.auth, r.tips, t.endpoint, t.answer
             FROM events e JOIN rooms r ON r.nid = e.room JOIN txns t ON t.txn = e.sent_txn
             WHERE e.nid = (SELECT max(nid) FROM events)",
        )
        .fetch_one(&mut conn)
        .await?;
        conn.close().await?;
        Ok(Self {
            json: row.try_get(0)?,
            prev: row.try_get(1)?,
            auth: row.try_get(2)?,
            tips: row.try_get(3)?,
            endpoint: row.try_get(4)?,
            answer: row.try_get(5)?,
        })
    }
}

/// The same rows, inserted by nobody in particular.
struct Raw {
    conn: SqliteConnection,
    sizes: Sizes,
    senders: usize,
    /// For each room, its number and its last seq.
    rooms: Vec<(i64, i64)>,
    nid: i64,
    position: i64,
    sql: Vec<Sql>,
}

/// The statements for one number of rows.
struct Sql {
    rows: usize,
    events: &'static str,
    log: &'static str,
    txns: &'static str,
    rooms: &'static str,
}

impl Sql {
    fn new(rows: usize) -> Self {
        let many = |head: &str, columns: usize, tail: &str| {
            let row = format!("({})", vec!["?"; columns].join(","));
            let mut sql = head.to_owned();
            let _ = write!(sql, "{}{tail}", vec![row; rows].join(","));
            &*sql.leak() // a few, for as long as the process lives
        };
        Self {
            rows,
            events: many(
                "INSERT INTO events (nid, hash, room, seq, kind, depth, status, soft_failed, \
                 state_after, prev, auth, sent_device, sent_txn, json) VALUES ",
                14,
                "",
            ),
            log: many(
                "INSERT INTO log (room, seq, position, chain, event) VALUES ",
                5,
                "",
            ),
            txns: many(
                "INSERT INTO txns (user, device, endpoint, txn, answer, at) VALUES ",
                6,
                "",
            ),
            rooms: many(
                "UPDATE rooms SET seq = v.column2, chain = v.column3, tips = v.column4, \
                 position = v.column5 FROM (VALUES ",
                5,
                ") AS v WHERE rooms.nid = v.column1",
            ),
        }
    }
}

/// Writes some rows with as few statements as there are, largest first.
macro_rules! bulk {
    ($raw:ident, $table:ident, $items:expr, |$query:ident, $item:ident| $bind:expr) => {{
        let mut rest = $items;
        for sql in &$raw.sql {
            while let Some((chunk, after)) = rest.split_at_checked(sql.rows) {
                rest = after;
                let mut $query = sqlx::query(AssertSqlSafe(sql.$table));
                for $item in chunk {
                    $query = $bind;
                }
                $query.execute(&mut $raw.conn).await?;
            }
        }
    }};
}

/// A row of `events`, and where it goes in its room.
struct New {
    nid: i64,
    hash: Vec<u8>,
    room: i64,
    seq: i64,
    txn: String,
}

impl Raw {
    async fn open(path: &Path, senders: usize, rooms: usize, sizes: Sizes) -> Result<Self, Failed> {
        let desk = Desk::open(path).await?; // the schema, and rooms to write to
        let sender = desk.account("ana").await?;
        for _ in 0..rooms {
            desk.found(&sender, Preset::PrivateChat).await?;
        }
        desk.close().await?;
        let mut conn = connect(path).await?;
        let rooms = sqlx::query_as("SELECT nid, seq FROM rooms")
            .fetch_all(&mut conn)
            .await?;
        let (nid, position) =
            sqlx::query_as("SELECT (SELECT max(nid) FROM events), (SELECT position FROM hub)")
                .fetch_one(&mut conn)
                .await?;
        let sql = [64, 16, 4, 1].map(Sql::new).into();
        Ok(Self {
            conn,
            sizes,
            senders,
            rooms,
            nid,
            position,
            sql,
        })
    }

    /// What a commit writes in bytes, about.
    fn bytes_per_commit(&self) -> usize {
        const REST_OF_ROWS: usize = 350; // keys, hashes and numbers of event, log and transaction
        let Sizes {
            json,
            endpoint,
            answer,
            ..
        } = &self.sizes;
        self.senders * (json.len() + endpoint.len() + answer.len() + REST_OF_ROWS)
    }

    /// Events per second, and how many.
    async fn round(&mut self, span: Duration) -> Result<(f64, u64), Failed> {
        let (began, mut written) = (now(), 0);
        while began.elapsed() < span {
            self.commit().await?;
            written += self.senders as u64;
        }
        Ok((rate(written, began.elapsed()), written))
    }

    /// One message of each sender.
    async fn commit(&mut self) -> Result<(), Failed> {
        self.position += 1;
        let events: Vec<New> = (0..self.senders)
            .map(|sender| self.new_event(sender))
            .collect();
        let user = user("ana")?;
        let device = device();
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut self.conn)
            .await?;
        bulk!(self, events, events.as_slice(), |query, event| query
            .bind(event.nid)
            .bind(event.hash.as_slice())
            .bind(event.room)
            .bind(event.seq)
            .bind("m.room.message")
            .bind(event.seq)
            .bind(0)
            .bind(false)
            .bind(7)
            .bind(self.sizes.prev.as_slice())
            .bind(self.sizes.auth.as_slice())
            .bind(device.as_str())
            .bind(event.txn.as_str())
            .bind(self.sizes.json.as_str()));
        bulk!(self, log, events.as_slice(), |query, event| query
            .bind(event.room)
            .bind(event.seq)
            .bind(self.position)
            .bind(event.hash.as_slice())
            .bind(event.nid));
        bulk!(self, txns, events.as_slice(), |query, event| query
            .bind(user.as_str())
            .bind(device.as_str())
            .bind(self.sizes.endpoint.as_str())
            .bind(event.txn.as_str())
            .bind(self.sizes.answer.as_str())
            .bind(1_700_000_000_000_i64));
        let touched = self.rooms.len().min(self.senders);
        let rooms = self.rooms.split_at(touched).0;
        bulk!(self, rooms, rooms, |query, room| query
            .bind(room.0)
            .bind(room.1)
            .bind(events.first().map(|event| event.hash.as_slice()))
            .bind(self.sizes.tips.as_slice())
            .bind(self.position));
        sqlx::query("UPDATE hub SET position = ?, events = events + ?")
            .bind(self.position)
            .bind(i64::try_from(self.senders)?)
            .execute(&mut self.conn)
            .await?;
        sqlx::query("COMMIT").execute(&mut self.conn).await?;
        Ok(())
    }

    fn new_event(&mut self, sender: usize) -> New {
        self.nid += 1;
        let at = sender % self.rooms.len();
        let (room, seq) = self.rooms.get_mut(at).map_or((0, 0), |(room, seq)| {
            *seq += 1;
            (*room, *seq)
        });
        New {
            nid: self.nid,
            hash: Sha256::digest(self.nid.to_be_bytes()).to_vec(),
            room,
            seq,
            txn: format!("m{:012}", self.nid),
        }
    }
}

/// A connection as the hub's writer has it.
async fn connect(path: &Path) -> Result<SqliteConnection, Failed> {
    use sqlx::ConnectOptions as _;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        .pragma("wal_autocheckpoint", "4000")
        .pragma("journal_size_limit", (16 * 1024 * 1024).to_string())
        .pragma("cache_size", (-16 * 1024).to_string())
        .statement_cache_capacity(160)
        .disable_statement_logging();
    Ok(options.connect().await?)
}

/// Appends what a commit of `senders` events writes, and waits for the disk, again and again.
fn synced(file: &mut File, bytes: usize, senders: usize) -> Result<f64, Failed> {
    let block = vec![7; bytes];
    let (began, mut written) = (now(), 0);
    while began.elapsed() < ROUND / 3 {
        file.write_all(&block)?;
        file.sync_data()?;
        written += senders as u64;
    }
    Ok(rate(written, began.elapsed()))
}
