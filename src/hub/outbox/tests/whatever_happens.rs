//! Whatever fails and restarts: every event of ours reaches everyone it is for, in order.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::world::{Mood, World};

const SERVERS: [&str; 3] = ["far.example", "west.example", "north.example"];

#[tokio::test]
async fn every_event_reaches_everyone_in_order_whatever_happens() {
    for seed in 0..6 {
        story(seed).await;
    }
}

async fn story(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::with(&SERVERS).await;
    let mut said = Vec::new();
    for step in 0..40 {
        match rng.random_range(0..10) {
            0..5 => {
                let text = format!("{step}");
                world.say(&text).await;
                said.push(text);
            }
            5 => world.restart(true).await,
            6 => world.restart(false).await,
            7 | 8 => {
                let server = SERVERS[rng.random_range(0..SERVERS.len())];
                let mood = match rng.random_range(0..4) {
                    0 => Mood::Away,
                    1 => Mood::Refuses(500),
                    2 => Mood::TakesSilently,
                    _ => Mood::Takes,
                };
                world.others.mood(server, [mood]);
            }
            _ => world.wait(Duration::from_secs(rng.random_range(1..5000))),
        }
        for _ in 0..rng.random_range(0..20) {
            tokio::task::yield_now().await;
        }
    }
    for server in SERVERS {
        world.others.mood(server, [Mood::Takes]);
    }
    world.say("last").await;
    said.push("last".to_owned());
    for server in SERVERS {
        // Whoever began to be left alone just now is looked after again.
        let mut tries = 0;
        while world.others.texts(server).last() != said.last() {
            world.wait(Duration::from_mins(61));
            tokio::time::timeout(
                Duration::from_millis(20),
                world
                    .others
                    .until(|others| others.texts(server).last() == said.last()),
            )
            .await
            .unwrap_or_default();
            tries += 1;
            assert!(tries < 100, "seed {seed}: {server} waits for ever");
        }
        let mut first_times = Vec::new();
        for text in world.others.texts(server) {
            if !first_times.contains(&text) {
                first_times.push(text);
            }
        }
        assert_eq!(first_times, said, "seed {seed}: {server}");
    }
}
