//! Rooms whose past is not as it should be.

use std::time::Duration;

use libtest_mimic::Failed;
use ruma::OwnedRoomId;
use serde_json::json;
use tramline::client::Call;

use super::{Evil, now, text};

pub(super) fn a_past_full_of_rejected_events_is_read_to_its_beginning() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        for version in ["12", "11"] {
            let made = json!({"op": "past", "version": version, "accepted": 5, "rejected": 250});
            let made = evil.ask(&made)?;
            let room: OwnedRoomId = text(&made["room_id"])?.try_into()?;
            let mut join = Call::post(&["join", room.as_str()], json!({}));
            join.query = vec![("via", evil.servers[0].clone())];
            evil.ana.call("join", join).await?;
            let shown = evil.timeline(&room).await?;
            let shown: Vec<_> = shown
                .iter()
                .map(|event| event["event_id"].clone())
                .collect();
            for good in made["good"].as_array().ok_or("none")? {
                assert!(
                    shown.contains(good),
                    "version {version}: {good} of {} is not shown",
                    shown.len()
                );
            }
            for bad in made["bad"].as_array().ok_or("none")? {
                assert!(!shown.contains(bad), "version {version}: {bad} is shown");
            }
        }
        Ok(())
    })
}

pub(super) fn a_past_that_is_made_up_comes_to_an_end() -> Result<(), Failed> {
    const LONG: Duration = Duration::from_secs(20);
    Evil::trial(2, async |evil| {
        for how in [
            "another_room",
            "always_the_same",
            "newer_ones",
            "always_more",
            "unsigned",
            "numbers",
            "nothing",
            "a_new_beginning",
            "an_error",
        ] {
            let made = json!({"op": "past", "version": "11", "accepted": 5, "rejected": 0});
            let made = evil.ask(&made)?;
            let room: OwnedRoomId = text(&made["room_id"])?.try_into()?;
            evil.ask(&json!({"op": "backfill", "room_id": room.as_str(), "how": how}))?;
            let mut join = Call::post(&["join", room.as_str()], json!({}));
            join.query = vec![("via", evil.servers[0].clone())];
            evil.ana.call("join", join).await?;
            let begun = now();
            let shown = evil.newest(&room, 250).await?;
            assert!(begun.elapsed() < LONG, "{how} takes {:?}", begun.elapsed());
            let is_foreign = |event: &&serde_json::Value| event["room_id"] != room.as_str();
            assert!(shown.iter().find(is_foreign).is_none(), "{how}");
            evil.ask(&json!({"op": "honest"}))?;
            evil.still_talks(&room).await?;
        }
        Ok(())
    })
}
