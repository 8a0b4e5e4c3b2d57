//! Acked means durable: what a client was told stays, once, at its place, through kills and cuts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::json;
use tokio::sync::watch;
use tramline::{
    app::clock::world,
    client::{Client, Target},
};

use crate::{
    hub::{Hub, block_on},
    peers::{self, Need, Peer},
};

const KILLS: usize = 20;
const SENDERS: usize = 25;
const SENDS_EACH: usize = 80;

/// How many acknowledgements a hub lives at most; times [`KILLS`] it is below what is sent, with
/// what is acknowledged between a count and its kill.
const ACKS_BETWEEN_KILLS: usize = 60;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "durability::every_acked_message_survives_twenty_kills",
            kills,
        ),
        peers::trial(
            "durability::every_acked_message_survives_a_power_cut",
            Need::Required,
            &[Peer::Powercut],
            || power_cuts("").and_then(|lost| assert_nothing(&lost)),
        ),
        peers::trial(
            "durability::the_power_cut_shows_when_nothing_is_synced",
            Need::Required,
            &[Peer::Powercut],
            || {
                let lost = power_cuts("?synchronous=off")?;
                if lost.is_empty() {
                    return Err("with synchronous=OFF a power cut must lose something".into());
                }
                Ok(())
            },
        ),
    ]
}

fn assert_nothing(lost: &[String]) -> Result<(), Failed> {
    if lost.is_empty() {
        Ok(())
    } else {
        Err(format!("lost: {lost:#?}").into())
    }
}

/// What a sender was told: its messages in the order of their acknowledgement.
type Acked = Vec<(String, OwnedEventId)>;

fn kills() -> Result<(), Failed> {
    let seed = std::env::var("TRAMLINE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("TRAMLINE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut hub = Hub::with_users(&["ana"])?;
    block_on(async {
        let mut ana = hub.client("https", "ana").await?;
        let room = ana.create_room(json!({"preset": "public_chat"})).await?;
        let token = ana.token().expect("logged in").to_owned();
        let (tell, target) = watch::channel(hub.target("https")?);
        let acks = watch::Sender::new(0_usize);
        let mut counted = acks.subscribe();
        let senders: Vec<_> = (0..SENDERS)
            .map(|index| {
                tokio::spawn(send_all(
                    index,
                    room.clone(),
                    token.clone(),
                    target.clone(),
                    acks.clone(),
                ))
            })
            .collect();
        let mut known: Vec<String> = Vec::new();
        for _ in 0..KILLS {
            // By acknowledgements, not by time: each kill falls into the sending on any machine.
            let due = *counted.borrow() + rng.random_range(1..=ACKS_BETWEEN_KILLS);
            let due = due.min(SENDERS * SENDS_EACH); // there are no more to wait for
            counted.wait_for(|acks| *acks >= due).await?;
            hub.kill()?;
            hub.start()?;
            tell.send_replace(hub.target("https")?);
            let now = history(&hub, &room, &token).await?;
            if !now.starts_with(&known) {
                return Err("what was in the log before a kill is not a prefix after it".into());
            }
            known = now;
        }
        let mut acked = Vec::new();
        for sender in senders {
            acked.push(sender.await??);
        }
        let log = history(&hub, &room, &token).await?;
        if !log.starts_with(&known) {
            return Err("the log before the last kill is not a prefix of the log".into());
        }
        check(&log, &acked)
    })?;
    if hub.stop()? != 0 {
        return Err("SIGTERM must end in exit code 0".into());
    }
    let (code, report) = hub.fsck()?;
    if code != 0 {
        return Err(format!("fsck found something: {report}").into());
    }
    Ok(())
}

/// Sends until everything is acknowledged, with the same transaction id for a retry.
async fn send_all(
    index: usize,
    room: OwnedRoomId,
    token: String,
    mut target: watch::Receiver<Target>,
    acks: watch::Sender<usize>,
) -> Result<Acked, Failed> {
    let mut acked = Acked::new();
    let now = target.borrow_and_update().clone();
    let mut client = Client::resume(&now, &token, &world()).await?;
    for number in 0..SENDS_EACH {
        let text = format!("{index}/{number}");
        loop {
            match client.say(&room, &text.replace('/', "-"), &text).await {
                Ok(event) => {
                    acked.push((text, event));
                    acks.send_modify(|acks| *acks += 1);
                    break;
                }
                Err(error) if error.is_temporary() => {
                    // Until the hub is told to be elsewhere, a short pause: it may only be busy.
                    let _ = tokio::time::timeout(Duration::from_millis(50), target.changed()).await;
                    let now = target.borrow_and_update().clone();
                    client = Client::resume(&now, &token, &world()).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(acked)
}

/// Every event id of a room, oldest first.
pub(crate) async fn history(
    hub: &Hub,
    room: &OwnedRoomId,
    token: &str,
) -> Result<Vec<String>, Failed> {
    let mut client = Client::resume(&hub.target("https")?, token, &world()).await?;
    let mut from: Option<String> = None;
    let mut ids = Vec::new();
    loop {
        let page = client.messages(room, from.as_deref(), true, 500).await?;
        let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
        ids.extend(
            chunk
                .iter()
                .filter_map(|event| event["event_id"].as_str())
                .map(str::to_owned),
        );
        match page["end"].as_str() {
            Some(end) if !chunk.is_empty() => from = Some(end.to_owned()),
            _ => break,
        }
    }
    ids.reverse();
    Ok(ids)
}

fn check(log: &[String], acked: &[Acked]) -> Result<(), Failed> {
    let mut place = BTreeMap::new();
    for (index, id) in log.iter().enumerate() {
        if place.insert(id.as_str(), index).is_some() {
            return Err(format!("{id} is in the log twice").into());
        }
    }
    let mut ids = BTreeSet::new();
    for sender in acked {
        let mut last = None;
        for (text, id) in sender {
            let at = place.get(id.as_str());
            let Some(at) = at else {
                return Err(format!("{text} was acked and is gone").into());
            };
            if last.is_some_and(|last| last >= at) {
                return Err(format!("{text} stands before what its sender sent earlier").into());
            }
            if !ids.insert(id) {
                return Err(format!("{text} was acked as an event of another message").into());
            }
            last = Some(at);
        }
    }
    if ids.len() != SENDERS * SENDS_EACH {
        return Err(format!("{} messages acked", ids.len()).into());
    }
    Ok(())
}

/// Runs hubs under the power-cut model and tells which acked messages were lost.
fn power_cuts(parameter: &str) -> Result<Vec<String>, Failed> {
    let shim = peers::powercut()?;
    let mut lost = Vec::new();
    for round in 0..5_usize {
        let mut hub = Hub::init()?;
        hub.add_user("ana")?;
        let disk = hub.path().canonicalize()?;
        let shadow = tempfile::tempdir()?;
        let kept = shadow.path().join("disk"); // the shim makes it, as a copy
        hub.env("LD_PRELOAD", shim.display().to_string());
        hub.env("POWERCUT_DIR", disk.display().to_string());
        hub.env("POWERCUT_SHADOW", kept.display().to_string());
        hub.env("POWERCUT_SEED", round.to_string());
        let store = disk.join("store/tramline.db");
        hub.option(&format!("store.url=sqlite:{}{parameter}", store.display()));
        hub.start()?;
        let acked = block_on(async {
            let mut ana = hub.client("https", "ana").await?;
            let room = ana.create_room(json!({})).await?;
            let acked = Arc::new(std::sync::Mutex::new(Vec::new()));
            let (acks, mut counted) = watch::channel(0_usize);
            let token = ana.token().expect("logged in").to_owned();
            let senders: Vec<_> = (0..8)
                .map(|index| {
                    let (acked, room, token) = (Arc::clone(&acked), room.clone(), token.clone());
                    let (target, acks) = (hub.target("https"), acks.clone());
                    tokio::spawn(async move {
                        let mut client = Client::resume(&target?, &token, &world()).await?;
                        for number in 0.. {
                            let text = format!("{index}-{number}");
                            let Ok(event) = client.say(&room, &text, &text).await else {
                                break;
                            };
                            acked.lock().expect("nobody panics").push((text, event));
                            acks.send_modify(|acks| *acks += 1);
                        }
                        Ok::<_, Failed>(())
                    })
                })
                .collect();
            counted.wait_for(|acks| *acks >= 40 + 60 * round).await?;
            hub.kill()?;
            for sender in senders {
                sender.await??;
            }
            let acked = acked.lock().expect("nobody panics").clone();
            Ok((room, token, acked))
        })?;
        lost.extend(after_the_cut(&kept, &acked)?);
    }
    Ok(lost)
}

/// Starts a hub on what the disk kept, and tells what is missing from it.
fn after_the_cut(
    disk: &std::path::Path,
    (room, token, acked): &(OwnedRoomId, String, Acked),
) -> Result<Vec<String>, Failed> {
    if acked.is_empty() {
        return Err("nothing was acked before the cut".into());
    }
    let mut hub = Hub::adopt(disk);
    if hub.start().is_err() {
        return Ok(vec![format!("the store does not open: {}", hub.log_text())]);
    }
    let log = block_on(async { history(&hub, room, token).await });
    let Ok(log) = log else {
        return Ok(vec!["the room, or its sender's session".to_owned()]);
    };
    let there: BTreeSet<&str> = log.iter().map(String::as_str).collect();
    let mut lost: Vec<String> = acked
        .iter()
        .filter(|(_, id)| !there.contains(id.as_str()))
        .map(|(text, _)| text.clone())
        .collect();
    if log.len() != there.len() {
        lost.push("an event is in the log twice".to_owned());
    }
    hub.stop()?;
    let (code, report) = hub.fsck()?;
    if code != 0 {
        lost.push(format!("fsck: {report}"));
    }
    Ok(lost)
}
