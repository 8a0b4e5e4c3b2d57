//! The contract on SQLite, and what only a file can show: reopening, refusals, plans, sizes.

use std::{future::poll_fn, sync::Arc, task::Poll};

use ruma::{OwnedServerName, OwnedUserId};
use sqlx::Row as _;
use tempfile::TempDir;

use super::*;
use crate::{
    base::Position,
    room::{Membership, StateKey},
    store::{
        Accounts as _, Batch, Commits as _, Devices as _, Kinds, Rooms as _, Servers as _, Store,
        Write,
        contract::{self, Pen},
    },
};

fn options(dir: &TempDir) -> OpenOptions {
    OpenOptions::new(dir.path().join("store.db"), name("hub.example"))
}

fn name(name: &str) -> OwnedServerName {
    OwnedServerName::try_from(name).unwrap()
}

async fn open(dir: &TempDir) -> Sqlite {
    Sqlite::open(options(dir)).await.unwrap()
}

async fn commit(store: &Sqlite, pen: &mut Pen) -> Position {
    let batch = Batch {
        writes: pen.take(),
        may_conflict: false,
    };
    store.commit(&[batch]).await.unwrap().position
}

async fn sql(store: &Sqlite, text: &'static str) -> Vec<sqlx::sqlite::SqliteRow> {
    let mut conn = store.read.acquire().await.unwrap();
    sqlx::query(text).fetch_all(&mut *conn).await.unwrap()
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let dirs = std::sync::Mutex::new(Vec::new());
    contract::run(async || {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(open(&dir).await);
        dirs.lock().unwrap().push(dir);
        store
    })
    .await;
}

#[tokio::test]
async fn a_store_that_rested_reads_and_commits_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let mut pen = Pen::new(&store, "room");
    for _ in 0..3 {
        let stored = commit(&store, &mut pen).await;
        store.rest().await;
        assert_eq!(store.position().await.unwrap(), stored);
    }
}

#[tokio::test]
async fn a_reopened_store_tells_the_same_and_gives_new_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    contract::states_equal_a_model(&store, 5, 100).await;
    let before = contract::describe(&store).await.unwrap();
    let last = store.numbers().event();
    store.close().await;

    let store = open(&dir).await;
    assert_eq!(contract::describe(&store).await.unwrap(), before);
    assert!(store.numbers().event() >= last);
    let mut room = Pen::new(&store, "after");
    room.message(&store);
    commit(&store, &mut room).await;
    drop(store);
    let store = open(&dir).await; // without a clean end
    assert!(store.room(&room.id).await.unwrap().is_some());
}

#[tokio::test]
async fn an_open_store_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let _open = open(&dir).await;
    let second = Sqlite::open(options(&dir)).await;
    assert!(matches!(second.err(), Some(OpenError::Locked { .. })));
}

#[tokio::test]
async fn the_alias_of_a_room_that_was_never_made_is_free_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let alias = ruma::OwnedRoomAliasId::try_from("#lost:hub.example").unwrap();
    let take = |room| Batch {
        writes: vec![Write::NewAlias {
            alias: alias.clone(),
            room,
            creator: OwnedUserId::try_from("@ana:hub.example").unwrap(),
        }],
        may_conflict: true,
    };
    let store = open(&dir).await;
    let lost = store.numbers().room();
    store.commit(&[take(lost)]).await.unwrap();
    store.close().await;

    let store = open(&dir).await;
    let mut next = Pen::new(&store, "next");
    commit(&store, &mut next).await;
    assert_eq!(next.nid, lost);
    assert_eq!(store.alias(&alias).await.unwrap(), None);
    let done = store.commit(&[take(next.nid)]).await.unwrap();
    assert_eq!(done.outcomes, [Ok(Vec::new())]);
}

#[tokio::test]
async fn another_servers_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).await.close().await;
    let other = OpenOptions::new(options(&dir).path(), name("other.example"));
    let refused = Sqlite::open(other).await.err();
    assert!(
        matches!(refused, Some(OpenError::OtherServer { .. })),
        "{refused:?}"
    );
}

/// Changes a store file behind our back.
async fn tamper(dir: &TempDir, text: &'static str) {
    let mut conn = sqlx::ConnectOptions::connect(&options(dir).writer())
        .await
        .unwrap();
    sqlx::raw_sql(text).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
}

async fn refused_format(dir: &TempDir) -> String {
    match Sqlite::open(options(dir)).await.err() {
        Some(OpenError::Format { what }) => what,
        other => panic!("{other:?}"),
    }
}

/// Every file of a directory, byte by byte.
fn bytes(dir: &TempDir) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(dir.path()).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let mut all: Vec<_> = files
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn what_is_no_store_of_ours_is_refused_without_a_byte_written() {
    let (dir, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(&dir).await.close().await;
    Sqlite::copy(&options(&dir), options(&backup).path())
        .await
        .unwrap();
    let newer = tempfile::tempdir().unwrap();
    std::fs::copy(options(&dir).path(), options(&newer).path()).unwrap();
    tamper(&newer, "PRAGMA user_version = 999").await;
    let other = tempfile::tempdir().unwrap();
    tamper(&other, "PRAGMA application_id = 7").await;
    let unnamed = tempfile::tempdir().unwrap();
    tamper(&unnamed, "CREATE TABLE recipes (name TEXT)").await;
    let text = tempfile::tempdir().unwrap();
    std::fs::write(options(&text).path(), "recipes".repeat(100)).unwrap();

    for (dir, said) in [
        (&backup, "the store of a backup"),
        (&newer, "the store has format 999"),
        (&other, "a database of another program (application id 0x7)"),
        (&unnamed, "a database of another program"),
        (&text, "not a SQLite file"),
    ] {
        let before = bytes(dir);
        let refused = Sqlite::open(options(dir)).await.err().unwrap().to_string();
        assert!(refused.contains(said), "{refused}");
        assert!(before == bytes(dir), "{refused}: it was written to");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).await.close().await;
    tamper(&dir, "PRAGMA user_version = 999").await;
    let refused = refused_format(&dir).await;
    assert!(
        refused.starts_with("the store has format 999, and"),
        "{refused}"
    );
}

#[tokio::test]
async fn mail_that_waited_before_it_was_counted_by_server_counts() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).await.close().await;
    tamper(
        &dir,
        r#"DROP TABLE withheld;
           ALTER TABLE mail DROP COLUMN origin;
           DELETE FROM _sqlx_migrations WHERE version = 12;
           INSERT INTO mail VALUES
               ('@a:hub.example', 'D', 1, 1, '{"sender":"@z:far.example:8448"}'),
               ('@a:hub.example', 'D', 1, 2, '{"sender":"@b:hub.example"}'),
               ('@a:hub.example', 'D', 1, 3, 'no JSON');"#,
    )
    .await;
    let store = open(&dir).await;
    let ana = OwnedUserId::try_from("@a:hub.example").unwrap();
    let far = name("far.example:8448");
    let waiting = store.mail_waiting(&ana, "D", Some(&far)).await.unwrap();
    let counts = [waiting.all, waiting.elsewhere, waiting.origin].map(|pile| pile.count);
    assert_eq!(counts, [3, 1, 1]);
    assert_eq!(waiting.origin.bytes, 32);
    assert_eq!(store.strays(9).await.unwrap(), []);
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).await.close().await;
    tamper(&dir, "UPDATE _sqlx_migrations SET checksum = x'00'").await;
    assert!(refused_format(&dir).await.contains("modified"));
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    tamper(&dir, "CREATE TABLE recipes (name TEXT)").await;
    assert!(refused_format(&dir).await.contains("another program"));

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        options(&dir).path(),
        "not a database, but long enough".repeat(99),
    )
    .unwrap();
    assert!(refused_format(&dir).await.contains("not a SQLite file"));
}

#[test]
fn a_url_names_a_file_and_one_parameter() {
    let dir = Path::new("/var/lib/hub");
    let read = |url: &str| OpenOptions::from_url(url, dir, name("hub.example"));
    assert_eq!(
        read("sqlite:store.db").unwrap().path(),
        dir.join("store.db")
    );
    assert_eq!(read("sqlite:///x.db").unwrap().path(), Path::new("/x.db"));
    assert!(
        format!("{:?}", read("sqlite:x.db?synchronous=off").unwrap()).contains("synced: false")
    );
    for wrong in ["postgres:x", "sqlite:", "sqlite:x?mode=ro"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

async fn pragma(options: &OpenOptions, text: &'static str) -> i64 {
    let mut conn = sqlx::ConnectOptions::connect(&options.writer())
        .await
        .unwrap();
    sqlx::query_scalar(text).fetch_one(&mut conn).await.unwrap()
}

#[tokio::test]
async fn commits_are_synced_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(pragma(&options(&dir), "PRAGMA synchronous").await, 2);
    let off = OpenOptions::from_url("sqlite:s.db?synchronous=off", dir.path(), name("h.example"));
    assert_eq!(pragma(&off.unwrap(), "PRAGMA synchronous").await, 0);
}

/// How SQLite goes about a statement, a line for each table.
async fn plan(store: &Sqlite, statement: &str) -> String {
    let mut conn = store.read.acquire().await.unwrap();
    let text = format!("EXPLAIN QUERY PLAN {statement}");
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .fetch_all(&mut *conn)
        .await
        .unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
    lines.join("\n")
}

#[tokio::test]
async fn hot_statements_scan_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    for statement in [
        memberships::ALL,
        memberships::BY_CHANGE,
        memberships::BY_USER,
        rooms::SEQ_AT,
        devices::DEVICE_CHANGES,
        remote::IN_TOUCH,
        remote::NEIGHBOURS_OF,
        pending::rooms_statement(),
        pieces::current_statement(),
    ] {
        let plan = plan(&store, statement).await;
        for line in plan.lines().filter(|line| line.starts_with("SCAN")) {
            let small = [
                "SCAN s",
                "SCAN search",
                "SCAN v",
                "SCAN 16-ROW VALUES CLAUSE",
                "SCAN CONSTANT ROW",
            ];
            assert!(small.contains(&line), "{statement}\n{plan}");
        }
    }
    let ranges = pieces::ranges(Kinds::Without(&["m.room.member"]));
    let of_kinds = |select| pieces::by_kind(select, &ranges).0;
    let current = plan(&store, &of_kinds(pieces::CURRENT_OF_KIND)).await;
    for range in ["kind<?", "kind>?"] {
        let wanted = format!("SEARCH c USING PRIMARY KEY (room=? AND {range})");
        assert!(current.contains(&wanted), "{current}");
    }
    let older = plan(&store, &of_kinds(pieces::CANDIDATES_OF_KIND)).await;
    for range in ["kind<?", "kind>?"] {
        let wanted = format!("USING COVERING INDEX events_by_key (room=? AND {range})");
        assert!(older.contains(&wanted), "{older}");
    }
    let by_change = plan(&store, memberships::BY_CHANGE).await;
    assert!(
        by_change.contains("SEARCH r USING INDEX rooms_by_position"),
        "{by_change}"
    );
    assert!(
        by_change.contains("SEARCH m USING PRIMARY KEY (user=? AND room=?)"),
        "{by_change}"
    );
    let by_user = plan(&store, memberships::BY_USER).await;
    assert!(
        by_user.contains("SEARCH r USING INTEGER PRIMARY KEY"),
        "{by_user}"
    );
    let heads = plan(&store, pending::rooms_statement()).await;
    assert!(
        heads.contains("SEARCH rooms USING INTEGER PRIMARY KEY"),
        "{heads}"
    );
}

/// The two join orders give the same, also beyond the border between them.
#[tokio::test]
async fn many_changed_rooms_are_told_like_few() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let [few, many] =
        ["few", "many"].map(|n| OwnedUserId::try_from(format!("@{n}:h.example")).unwrap());
    for n in 0..260 {
        let mut room = Pen::new(&store, &format!("r{n}"));
        room.member(&store, &many, Membership::Join);
        if n % 100 == 0 {
            room.member(&store, &few, Membership::Join);
        }
        commit(&store, &mut room).await;
    }
    for user in [&few, &many] {
        let all = store.memberships(user, None).await.unwrap();
        assert_eq!(
            store.memberships(user, Some(Position::ZERO)).await.unwrap(),
            all
        );
        let since = Position(150);
        let new: Vec<_> = all
            .into_iter()
            .filter(|m| m.room_position > since)
            .collect();
        assert_eq!(store.memberships(user, Some(since)).await.unwrap(), new);
    }
}

/// Bytes of `states` for each state event of a room with so many members.
async fn state_bytes(members: u32) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let mut room = Pen::new(&store, "big");
    for n in 0..members {
        room.state(
            &store,
            &StateKey::new("m.room.member", format!("@u{n}:h.example")),
        );
        if n % 1000 == 999 {
            commit(&store, &mut room).await;
        }
    }
    commit(&store, &mut room).await;
    let before = state_size(&store).await;
    // As many changes as members, so that snapshots are paid for.
    let changes = members * 2;
    for n in 0..changes {
        let name = format!("@u{}:h.example", n.wrapping_mul(7919) % members);
        room.state(&store, &StateKey::new("m.room.member", name));
        if n % 1000 == 999 {
            commit(&store, &mut room).await;
        }
    }
    commit(&store, &mut room).await;
    #[expect(clippy::cast_precision_loss, reason = "a few million bytes")]
    let bytes = (state_size(&store).await - before) as f64;
    bytes / f64::from(changes)
}

async fn state_size(store: &Sqlite) -> i64 {
    let rows = sql(
        store,
        "SELECT coalesce(sum(length(deltas) + coalesce(length(snapshot), 0)), 0) FROM states",
    )
    .await;
    rows[0].get(0)
}

#[tokio::test]
async fn a_state_event_costs_the_same_in_a_large_room() {
    let small = state_bytes(100).await;
    let large = state_bytes(10_000).await;
    assert!(
        small < 12.0 && large < 12.0,
        "{small} and {large} bytes a state event"
    );
    assert!(
        large < small * 1.6,
        "{small} and {large} bytes a state event"
    );
}

#[tokio::test]
async fn a_commit_dropped_half_way_stores_nothing_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let mut room = Pen::new(&store, "dropped");
    for _ in 0..500 {
        room.message(&store);
    }
    let mut half = room.clone();
    let batch = Batch {
        writes: half.take(),
        may_conflict: false,
    };
    let batches = [batch];
    {
        let mut commit = Box::pin(store.commit(&batches));
        for _ in 0..3 {
            let pending =
                poll_fn(|context| Poll::Ready(commit.as_mut().poll(context).is_pending()));
            assert!(pending.await);
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(commit(&store, &mut room).await, Position(1));
    let stored = store.room(&room.id).await.unwrap().unwrap();
    assert_eq!(stored.heads, room.heads);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(8))]

    #[test]
    fn any_run_of_state_changes_equals_a_model(seed: u64, steps in 1_u32..150) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            contract::states_equal_a_model(&open(&dir).await, seed, steps).await;
        });
    }
}

#[tokio::test]
async fn a_reader_sees_whole_commits_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir).await);
    let mut room = Pen::new(&*store, "whole");
    let nid = room.nid;
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for _ in 0..40 {
                for _ in 0..7 {
                    room.message(&*store);
                }
                commit(&store, &mut room).await;
            }
        }
    });
    let (forward, all) = (crate::store::Order::Forward, crate::base::Seq(u64::MAX));
    while !writer.is_finished() {
        let from = crate::base::Seq::ZERO;
        let log = store.log(nid, from, all, forward, 1000).await.unwrap();
        assert_eq!(log.len() % 7, 0);
        let told = log.last().map_or(Position::ZERO, |entry| entry.position);
        assert!(told <= store.position().await.unwrap());
        assert_eq!(told.0 * 7, log.len() as u64);
    }
    writer.await.unwrap();
}

/// Appends a second through the store, and through the same statements without it. By hand, in
/// release: `cargo test --release --lib store::sqlite -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement, not a check"]
#[expect(clippy::disallowed_methods, reason = "it measures real time")]
async fn how_fast_messages_are_appended() {
    for (rooms, per_commit) in [(1, 1), (1, 64), (50, 64), (1, 256), (50, 256)] {
        let dir = tempfile::tempdir_in("target").unwrap();
        let store = open(&dir).await;
        let mut pens: Vec<Pen> = (0..rooms)
            .map(|n| Pen::new(&store, &format!("r{n}")))
            .collect();
        for pen in &mut pens {
            commit(&store, pen).await;
        }
        let commits = 4096 / per_commit;
        let mut spent = std::time::Duration::ZERO;
        for c in 0..commits {
            let mut batches = Vec::new();
            for n in 0..per_commit {
                let pen = &mut pens[n % rooms];
                let event = pen.event(&store, "m.room.message", None);
                let answer =
                    crate::store::TxnAnswer::Event(crate::wire::matrix::event_id(event.hash));
                let mut event = event;
                event.json = Arc::from("x".repeat(600));
                event.prev = vec![event.hash];
                event.auth = vec![event.hash; 3];
                pen.append(event);
                pen.also(Write::Txn {
                    key: Arc::new(crate::store::TxnKey {
                        user: OwnedUserId::try_from("@ana:hub.example").unwrap(),
                        device: "PHONE".into(),
                        endpoint: format!("send {} m.room.message", pen.id),
                        txn: format!("m{}", c * per_commit + n),
                    }),
                    answer,
                    at: crate::base::Timestamp(1),
                });
                batches.push(Batch {
                    writes: pen.take(),
                    may_conflict: false,
                });
            }
            let started = tokio::time::Instant::now();
            store.commit(&batches).await.unwrap();
            spent += started.elapsed();
        }
        let rate = f64::from(u32::try_from(commits * per_commit).unwrap()) / spent.as_secs_f64();
        println!("{rooms} rooms, {per_commit} a commit: {rate:.0} appends/s");
    }
}

/// What a sync costs that finds nothing new, for a user of one room and one of ten thousand; and
/// how much memory the process has then. By hand, as above.
#[tokio::test]
#[ignore = "a measurement, not a check"]
#[expect(clippy::disallowed_methods, reason = "it measures real time")]
async fn how_much_many_rooms_cost() {
    let dir = tempfile::tempdir_in("target").unwrap();
    let store = open(&dir).await;
    let [one, all] =
        ["one", "all"].map(|n| OwnedUserId::try_from(format!("@{n}:h.example")).unwrap());
    let mut pens: Vec<Pen> = (0..10_000)
        .map(|n| Pen::new(&store, &format!("r{n}")))
        .collect();
    for (n, pens) in pens.chunks_mut(100).enumerate() {
        let mut batches = Vec::new();
        for pen in pens {
            pen.member(&store, &all, Membership::Join);
            if n == 0 {
                pen.member(&store, &one, Membership::Join);
            }
            for _ in 0..messages_per_room() {
                pen.message(&store);
            }
            batches.push(Batch {
                writes: pen.take(),
                may_conflict: false,
            });
        }
        store.commit(&batches).await.unwrap();
    }
    let last = store.position().await.unwrap();
    for round in 0..3 {
        for (user, since) in [(&one, last), (&all, last), (&all, Position(last.0 - 1))] {
            let started = tokio::time::Instant::now();
            for _ in 0..500 {
                store.memberships(user, Some(since)).await.unwrap();
                store.device_changes(user, since, last).await.unwrap();
                store.account_data(user, since).await.unwrap();
            }
            println!(
                "{round} {user} since {since} of {last}: {:?}",
                started.elapsed() / 500
            );
        }
    }
    drop(pens);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let totals = store.totals().await.unwrap();
    println!(
        "{totals:?} {:?}",
        status.lines().find(|line| line.starts_with("VmRSS"))
    );
    store.close().await;
    let started = tokio::time::Instant::now();
    let store = open(&dir).await;
    println!("opened in {:?}", started.elapsed());
    drop(store);
}

fn messages_per_room() -> u32 {
    let asked = std::env::var("MESSAGES_PER_ROOM").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(10)
}
