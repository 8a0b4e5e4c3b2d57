//! The hub from a seed: desk, shards, committer and store in one process, with a clock that moves
//! when told, a store that fails, clients that go away, and hubs that crash.
//!
//! [`life`] is one simulation, [`acts`] what people do in it, [`model`] and [`syncing`] what must
//! hold, [`flaky`] the store; [`loops`] fails the n-th operation of a fixed story, for every n.
//! Nothing here opens a socket.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the test allowances of clippy do not reach helpers"
)]

mod acts;
mod flaky;
mod life;
mod loops;
mod model;
mod syncing;
mod world;

use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};

use life::{Report, run};

/// How many seeds each commit brings.
const SEEDS: u64 = 200;

/// The first of this commit's seeds: other seeds with every commit, the same for one commit.
fn first_seed() -> u64 {
    let head = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "HEAD"])
        .output();
    let head = match head {
        Ok(output) if output.status.success() => output.stdout,
        _ => b"not a checkout".to_vec(),
    };
    let hash = Sha256::digest(head);
    u64::from(u32::from_be_bytes(*hash.first_chunk().unwrap())) * 1_000_000
}

fn replay() -> Option<u64> {
    let seed = std::env::var("TRAMLINE_SEED").ok()?;
    Some(seed.parse().expect("TRAMLINE_SEED is a number"))
}

/// Runs seeds on two threads; the first that fails ends it.
fn run_all(first: u64, count: u64, each: &(dyn Fn(u64, &Report) + Sync)) {
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::SeqCst);
            if n >= count {
                return Ok(());
            }
            let seed = first + n;
            let report = run(seed, false).map_err(|what| failure(seed, &what))?;
            each(n, &report);
        }
    };
    let outcomes = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|thread| thread.join().unwrap())
    });
    for outcome in outcomes {
        outcome.unwrap_or_else(|what: String| panic!("{what}"));
    }
}

fn failure(seed: u64, what: &str) -> String {
    format!(
        "seed {seed}: {what}\nreplay: TRAMLINE_SEED={seed} cargo test --test sim seeds_of_this_commit -- --nocapture"
    )
}

#[test]
fn seeds_of_this_commit() {
    if let Some(seed) = replay() {
        let report = run(seed, true).unwrap_or_else(|what| panic!("{}", failure(seed, &what)));
        println!(
            "{} {} asked, {} acknowledged",
            report.trace, report.asked, report.acked
        );
        return;
    }
    let sums = [const { AtomicU64::new(0) }; 4];
    run_all(first_seed(), SEEDS, &|_, report| {
        let parts = [report.asked, report.acked, report.faults, report.crashes];
        for (sum, part) in sums.iter().zip(parts) {
            sum.fetch_add(part, Ordering::Relaxed);
        }
    });
    let [asked, acks, faults, crashes] = sums.map(AtomicU64::into_inner);
    println!(
        "{SEEDS} seeds: {asked} asked, {acks} acknowledged, {faults} faults, {crashes} crashes"
    );
    // A simulation in which nothing happens shows nothing.
    assert!(acks > SEEDS * 5 && faults > SEEDS && crashes > SEEDS / 4);
}

#[test]
fn a_seed_repeats_to_the_letter() {
    for seed in 0..10 {
        let [one, two] = [(); 2]
            .map(|()| run(seed, false).unwrap_or_else(|what| panic!("{}", failure(seed, &what))));
        let differs = one
            .lines
            .iter()
            .zip(&two.lines)
            .find(|(one, two)| one != two);
        assert_eq!(one.trace, two.trace, "seed {seed}: {differs:?}");
    }
}

#[test]
#[ignore = "minutes in release: cargo test --release --test sim ten_thousand_seeds -- --ignored --nocapture"]
fn ten_thousand_seeds() {
    let first = replay().unwrap_or_else(first_seed);
    let done = AtomicU64::new(0);
    run_all(first, 10_000, &|_, _| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(500) {
            println!("{done} of 10000 seeds");
        }
    });
}
