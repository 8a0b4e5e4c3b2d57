//! Connections that are never done, and answers that lead elsewhere.

use std::time::Duration;

use libtest_mimic::Failed;
use serde_json::json;
use tramline::client::Call;

use super::{Evil, now, text};
use crate::{
    federation::{Together, explained::explain},
    hub::block_on,
};

/// How long the hub's own user may wait while others are slow.
const PROMPT: Duration = Duration::from_secs(2);

pub(super) fn who_is_slow_holds_nobody_up() -> Result<(), Failed> {
    Evil::trial(4, async |evil| {
        let room = evil.room("12").await?;
        let slow = json!({
            "op": "slow", "to": evil.hub, "count": 40, "seconds": 34, "server": 3,
            "kinds": ["no_handshake", "header", "body", "chunks", "large_body"],
        });
        evil.ask(&slow)?;
        // Three servers that answer a join slowly, or not at all.
        let mut joins = Vec::new();
        for (server, how) in [
            (1, json!({"trickle": 1.0})),
            (2, json!({"hang": true})),
            (3, json!({"trickle_head": 1.0})),
        ] {
            let made = evil.ask(&json!({"op": "room", "version": "11", "server": server}))?;
            let mut lie = how.clone();
            lie["op"] = json!("override");
            lie["endpoint"] = json!("make_join");
            lie["server"] = json!(server);
            evil.ask(&lie)?;
            let (room, via) = (
                text(&made["room_id"])?.to_owned(),
                evil.servers[server].clone(),
            );
            let mut ana = evil.here.client("ana").await?;
            joins.push(tokio::spawn(async move {
                let begun = now();
                let mut join = Call::post(&["join", &room], json!({}));
                join.query = vec![("via", via)];
                let joined = ana
                    .call("join", join)
                    .await
                    .map_err(|error| error.to_string());
                (how, joined, begun.elapsed())
            }));
        }
        let mut worst = Duration::ZERO;
        for _ in 0..20 {
            let begun = now();
            evil.still_talks(&room).await?;
            let say = json!({
                "op": "say", "room_id": room.as_str(), "user": "mal", "body": "honestly", "to": [evil.hub],
            });
            let said = evil.ask(&say)?;
            assert_eq!(said["results"][&evil.hub][0], 200, "{said}");
            worst = worst.max(begun.elapsed());
        }
        println!(
            "the slowest of twenty rounds took {worst:?}, peak {} MiB",
            evil.peak_mib()?
        );
        assert!(worst < PROMPT, "{worst:?}");
        for join in joins {
            let (how, joined, took) = join.await?;
            assert!(joined.is_err(), "{how}");
            assert!(took < Duration::from_secs(30), "{how}: {took:?}");
        }
        let left = evil.ask(&json!({"op": "slow_left", "server": 3}))?;
        assert_eq!(left["left"]["no_handshake"], 0);
        assert_eq!(left["left"]["header"], 0);
        evil.still_talks(&room).await
    })
}

pub(super) fn nobody_is_led_astray() -> Result<(), Failed> {
    Evil::trial(2, async |evil| {
        let made = evil.ask(&json!({"op": "room", "version": "11"}))?;
        let room = text(&made["room_id"])?.to_owned();
        let (other, own) = (evil.servers[1].clone(), evil.servers[0].clone());
        for (status, location) in [
            (
                301,
                format!("https://{other}/_matrix/federation/v1/version"),
            ),
            (302, format!("https://{other}/")),
            (307, "http://127.0.0.1:22/".to_owned()),
            (308, "https://169.254.169.254/latest/meta-data".to_owned()),
            (303, "/_matrix/federation/v1/version".to_owned()),
            (300, format!("https://{own}/")),
        ] {
            let lie = json!({
                "op": "override", "endpoint": "make_join", "status": status, "raw": "{}",
                "headers": {"Location": location},
            });
            evil.ask(&lie)?;
            let mut join = Call::post(&["join", &room], json!({}));
            join.query = vec![("via", own.clone())];
            let joined = evil.ana.call("join", join).await;
            let why = joined
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(
                why.contains(&status.to_string()),
                "{status} {location}: {why}"
            );
        }
        let seen = evil.ask(&json!({"op": "seen", "server": 1}))?;
        assert_eq!(seen["requests"], json!([]));
        let seen = evil.ask(&json!({"op": "seen", "endpoint": "version"}))?;
        assert_eq!(seen["requests"], json!([]));
        Ok(())
    })?;
    // A hub that does not speak with private addresses does not come here at all.
    let more = ["federation.allow_private_addresses=false"];
    let mut here = Together::start_with("evil.py", 1, &more)?;
    block_on(async {
        let made = here.scripted.ask(&json!({"op": "room", "version": "11"}))?;
        let room = text(&made["room_id"])?.to_owned();
        let mut ana = here.client("ana").await?;
        let mut join = Call::post(&["join", &room], json!({}));
        join.query = vec![("via", here.scripted.servers[0].clone())];
        let why = ana
            .call("join", join)
            .await
            .err()
            .map(|error| error.to_string());
        let why = why.unwrap_or_default();
        // She is told what she would be told of a closed port; why it is, the operator is.
        assert!(why.contains("is not reached (PEER_UNREACHABLE)"), "{why}");
        let recent = explain(&here.hub, &["--recent"])?;
        let recent = json!(recent).to_string();
        assert!(recent.contains("not of the public internet"), "{recent}");
        let ask = json!({
            "op": "ask", "to": here.hub.name(), "method": "GET",
            "path": "/_matrix/federation/v1/query/profile?user_id=%40ana%3Ax",
        });
        assert_eq!(here.scripted.ask(&ask)?["status"], 401);
        let seen = here.scripted.ask(&json!({"op": "seen"}))?;
        assert_eq!(seen["requests"], json!([]));
        Ok(())
    })
}
