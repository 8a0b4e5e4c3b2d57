//! What the graph of a room can be burdened with.

use std::time::Instant;

use libtest_mimic::Failed;
use serde_json::json;

use super::{Evil, cases, text};

pub(super) fn whatever_lies_behind_a_gap_costs_little() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        let room = evil.room("12").await?;
        let before = evil.state(&room).await?;
        for kind in ["prev", "auth"] {
            let room = evil.room("11").await?;
            let told = evil.ask(&json!({
                "op": "chain", "to": evil.hub, "room_id": room.as_str(), "depth": 10_000, "kind": kind,
            }))?;
            println!(
                "a chain of 10,000 by {kind}: {told}, peak {} MiB",
                evil.peak_mib()?
            );
            evil.still_talks(&room).await?;
        }
        let told = evil.ask(&json!({"op": "endless", "to": evil.hub, "room_id": room.as_str()}))?;
        println!("endless: {told}");
        evil.ask(&json!({"op": "renewed", "to": evil.hub, "room_id": room.as_str()}))?;
        let told = evil.ask(&json!({
            "op": "state_lies", "to": evil.hub, "room_id": room.as_str(), "victim": evil.ana_id(),
        }))?;
        for (name, case) in cases(&told)? {
            println!("lies {name} {case}");
        }
        let after = evil.state(&room).await?;
        let differs: Vec<_> = after
            .iter()
            .filter(|piece| !before.contains(piece))
            .collect();
        println!("differs {differs:?}");
        assert_eq!(before.len(), after.len());
        evil.still_talks(&room).await
    })
}

pub(super) fn ten_thousand_forks_silence_nobody() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        for (kind, count) in [("message", 10_000), ("state", 1_000)] {
            let room = evil.room("12").await?;
            let honest = json!({
                "op": "join", "via": evil.hub, "room_id": room.as_str(), "user": "bob", "server": 1,
            });
            evil.ask(&honest)?;
            let sent = evil.ana.say(&room, "before", "before").await?;
            for server in 0..2 {
                let heard = json!({"op": "heard", "room_id": room.as_str(), "event_id": sent, "server": server});
                assert_eq!(evil.ask(&heard)?["found"], true);
            }
            let told = evil.ask(&json!({
                "op": "forks", "to": evil.hub, "room_id": room.as_str(), "count": count, "kind": kind,
            }))?;
            println!(
                "{count} forks of {kind}: {} s, slowest {} s, {}, peak {} MiB",
                told["seconds"],
                told["slowest"],
                told["results"],
                evil.peak_mib()?
            );
            // Bob has heard of none of them; what he says is shown all the same.
            let begun = Instant::now();
            let say = json!({
                "op": "say", "server": 1, "room_id": room.as_str(), "user": "bob",
                "body": "I am Bob", "to": [evil.hub],
            });
            let said = evil.ask(&say)?;
            println!("Bob: {} in {:?}", said["results"], begun.elapsed());
            let page = evil.ana.messages(&room, None, true, 10).await?;
            assert_eq!(
                text(&page["chunk"][0]["event_id"])?,
                text(&said["event_id"])?,
                "Bob is hidden"
            );
            let begun = Instant::now();
            evil.still_talks(&room).await?;
            println!("Ana after {count} forks of {kind}: {:?}", begun.elapsed());
        }
        Ok(())
    })
}
