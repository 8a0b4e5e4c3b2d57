//! What the graph of a room can be burdened with.

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::{Evil, MIB_MAX, cases, now, text};

pub(super) fn whatever_lies_behind_a_gap_costs_little() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        let room = evil.room("12").await?;
        for (kind, depth) in [("prev", 10_000), ("auth", 10_100)] {
            let burdened = evil.room("11").await?;
            let told = evil.ask(&json!({
                "op": "chain", "to": evil.hub, "room_id": burdened.as_str(), "depth": depth,
                "kind": kind, "beside": room.as_str(),
            }))?;
            println!(
                "a line of {depth} by {kind}: {} in {} s, peak {} MiB",
                told["result"],
                told["seconds"],
                evil.peak_mib()?
            );
            // It was asked for a bounded part of it; what came beside it was taken.
            assert_eq!(told["status"], 200, "{told}");
            assert_eq!(told["beside"], json!({}), "{told}");
            let asked = told["asked"].as_object().ok_or("nothing was asked")?;
            let asked: u64 = asked.values().filter_map(Value::as_u64).sum();
            assert!(asked < 30, "{told}");
            assert!(evil.peak_mib()? < MIB_MAX, "{} MiB", evil.peak_mib()?);
            evil.still_talks(&burdened).await?;
        }
        let endless = json!({"op": "endless", "to": evil.hub, "room_id": room.as_str()});
        let told = evil.ask(&endless)?;
        let results = told["result"].as_object().ok_or("no results")?;
        assert!(
            results.values().all(|result| result["error"].is_string()),
            "{told}"
        );
        assert!(
            told["asked"].as_u64().is_some_and(|asked| asked < 30),
            "{told}"
        );

        evil.ask(&json!({"op": "renewed", "to": evil.hub, "room_id": room.as_str()}))?;
        let before = evil.state(&room).await?;
        let told = evil.ask(&json!({
            "op": "state_lies", "to": evil.hub, "room_id": room.as_str(), "victim": evil.ana_id(),
        }))?;
        for (name, case) in cases(&told)? {
            // Taken or not, by the state that was told or without it: the room's own is what it was.
            assert_eq!(case["status"], 200, "{name}: {case}");
        }
        assert_eq!(before, evil.state(&room).await?);
        evil.still_talks(&room).await
    })
}

pub(super) fn ten_thousand_forks_silence_nobody() -> Result<(), Failed> {
    Evil::trial(8, async |evil| {
        for (kind, count) in [("message", 10_000), ("state", 1_000)] {
            let room = evil.room("12").await?;
            let honest = json!({
                "op": "join", "via": evil.hub, "room_id": room.as_str(), "user": "bob", "server": 1,
            });
            evil.ask(&honest)?;
            let sent = evil.ana.say(&room, "before", "before").await?;
            for server in [0, 1] {
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
            let begun = now();
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
            let begun = now();
            evil.still_talks(&room).await?;
            println!("Ana after {count} forks of {kind}: {:?}", begun.elapsed());
        }
        Ok(())
    })
}
