//! What servers ask each other beside joining and talking: each question asked of the hub and of a real
//! Synapse by the other, in every room version; gaps on either side; and a new key of the hub's.

use std::time::Duration;

use libtest_mimic::Failed;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};
use tramline::{app::clock::SystemClock, base::Clock as _, client::Call};

use super::{
    Peers,
    everyone::{Member, all_are_in, each_reads, eventually, said},
    key_of, killed, text,
};
use crate::{
    command_line::scrape,
    hub::{Hub, block_on, run, tramline},
    peers,
};

/// What is said while one cannot hear it: more than is asked for at once to close a gap.
const UNHEARD: usize = 30;

fn with_log<T>(hub: &Hub, told: Result<T, Failed>) -> Result<T, Failed> {
    told.map_err(|error: Failed| format!("{}\n{}", said(&error), hub.log_text()).into())
}

/// Runs the script of these trials against both.
fn script(peers: &Peers, index: usize, hub: &Hub, args: &[&str]) -> Result<Value, Failed> {
    let server = peers.nth(index);
    let [verb, rest @ ..] = args else {
        return Err("what is it to do?".into());
    };
    let ca = peers.ca()?.display().to_string();
    let key = hub.path().join("keys/signing.pem").display().to_string();
    let (https, dir) = (hub.https(), text(&server["dir"])?);
    let their_key = format!("{dir}/signing.key");
    let mut all = vec![*verb, "--ca", &ca];
    all.extend(["--hub", &https, hub.name(), &key, "ana:secret-ana"]);
    all.extend(["--synapse", text(&server["https_url"])?]);
    all.extend([text(&server["server_name"])?, &their_key]);
    all.push(text(&server["users"][0]["access_token"])?);
    all.extend(rest);
    peers::python_script("servers.py", &all)
}

/// How often the hub has answered other servers with 200, by what they asked.
fn answered(hub: &Hub, endpoint: &str) -> Result<u64, Failed> {
    let printed = scrape(hub)?;
    let lines = printed.lines().filter(|line| {
        line.starts_with("tramline_requests_total{")
            && line.contains(&format!("endpoint=\"{endpoint}\""))
            && line.contains("status=\"200\"")
    });
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

/// How often the Synapse has answered the hub with 200, by the beginning of the path.
fn answered_there(peers: &Peers, path: &str) -> Result<usize, Failed> {
    let log = std::fs::read_to_string(text(&peers.server()["log"])?)?;
    let wanted = format!("/_matrix/federation/{path}");
    let lines = log.lines().filter(|line| {
        line.contains("Processed request")
            && line.contains("\"Tramline/")
            && line.contains("B 200 \"")
            && line.contains(&wanted)
    });
    Ok(lines.count())
}

/// All that has to have been asked and answered, of the hub.
fn each_was_answered(
    peers: &Peers,
    hub: &Hub,
    here: &[&str],
    there: &[&str],
) -> Result<(), Failed> {
    for endpoint in here {
        let count = answered(hub, endpoint)?;
        println!("the hub answered {endpoint} {count} times");
        assert!(count > 0, "nobody asked the hub for {endpoint}");
    }
    for path in there {
        let count = answered_there(peers, path)?;
        println!("the Synapse answered {path} {count} times");
        assert!(count > 0, "the hub did not ask the Synapse for {path}");
    }
    Ok(())
}

pub(super) fn what_servers_ask_each_other_is_answered_both_ways() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let mut options = peers.options()?;
    options.push("federation.share_directory=true".to_owned());
    let hub = Hub::federating(&["ana"], &options)?;
    for version in ["12", "11", "10"] {
        let told = script(&peers, 0, &hub, &["asks", "--version", version]);
        with_log(&hub, told)?;
    }
    let here = [
        "PeerProfile",
        "PeerAlias",
        "PeerPublicRooms",
        "PeerRoomSearch",
        "PeerHierarchy",
        "PeerEventByTime",
        "PeerFile",
        "PeerThumbnail",
        "UserDevices",
        "UserKeys",
        "UserKeyClaim",
        "PeerEvent",
        "StateBefore",
        "StateIdsBefore",
        "EventAuth",
        "Backfill",
        "MissingEvents",
        "MakeJoin",
        "SendJoin",
        "Transaction",
        "ServerKeys",
    ];
    let there = [
        "v1/query/profile",
        "v1/query/directory",
        "v1/publicRooms",
        "v1/hierarchy",
        "v1/timestamp_to_event",
        "v1/media/download",
        "v1/user/devices",
        "v1/user/keys/claim",
        "v1/backfill",
        "v1/make_join",
        "v2/send_join",
        "v1/send/",
    ];
    with_log(&hub, each_was_answered(&peers, &hub, &here, &there))
}

/// The Synapse hears the newest of thirty messages first, after it was away; then the hub does, of the
/// Synapse, and what lies between has to be asked for.
pub(super) fn what_lies_in_a_gap_is_asked_for_by_either() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let mut options = peers.options()?;
    options.push("federation.retry_max=10m".to_owned());
    let mut hub = Hub::federating(&["ana"], &options)?;
    let told = block_on(async {
        let mut members = vec![
            Member::of_hub(&peers, &hub, "ana").await?,
            Member::of_synapse(&peers, 0).await?,
        ];
        let wish = json!({ "preset": "public_chat", "room_version": "11" });
        let room = members[0].client.create_room(wish).await?;
        members[1].join(&room, hub.name()).await?;
        all_are_in(&mut members, &room).await?;
        of_the_hub(&peers, &hub, &mut members, &room).await?;
        of_synapse(&peers, &mut hub, &mut members, &room).await
    });
    with_log(&hub, told)
}

async fn of_the_hub(
    peers: &Peers,
    hub: &Hub,
    members: &mut [Member],
    room: &OwnedRoomId,
) -> Result<(), Failed> {
    peers.synapse.again("kill", 0)?;
    let mut last = None;
    for number in 0..UNHEARD {
        let text = format!("unheard {number}");
        last = Some(members[0].client.say(room, &text, &text).await?);
    }
    let last = last.ok_or("nothing was said")?;
    let pdu = script(peers, 0, hub, &["event", "--event", last.as_str()])?;
    // So that it does not try again in the moment in which the Synapse is back.
    the_hub_waits_for_long(peers, hub).await?;
    let before = answered(hub, "MissingEvents")?;
    peers.synapse.again("start", 0)?;
    members[1].client = members[1].another().await?;
    let pdu = pdu.to_string();
    script(
        peers,
        0,
        hub,
        &["gap", "--event", last.as_str(), "--pdu", &pdu],
    )?;
    let all = messages(&mut members[0], room).await?;
    each_reads(members, room, &all).await?;
    assert!(answered(hub, "MissingEvents")? > before);
    // Whether it asks for states, too, depends on how soon the hub itself tells it the rest.
    println!("state ids: {}", answered(hub, "StateIdsBefore")?);
    Ok(())
}

/// Waits until the hub will not try the Synapse again for as long as that takes to start.
async fn the_hub_waits_for_long(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    const STARTING: Duration = Duration::from_secs(20);
    eventually("the hub leaves Synapse alone", async || {
        let told = killed::status(peers, hub)?;
        let soon = (SystemClock::new().now() + STARTING).rfc3339();
        let next = told["next_try"].as_str().unwrap_or_default();
        Ok(if next > soon.as_str() {
            Ok(())
        } else {
            Err(told.to_string())
        })
    })
    .await
}

async fn messages(
    member: &mut Member,
    room: &RoomId,
) -> Result<std::collections::BTreeSet<String>, Failed> {
    let mut events = member.events(room).await?;
    events.retain(|(_, kind)| kind == "m.room.message");
    Ok(events.into_iter().map(|(id, _)| id).collect())
}

/// The hub is away, the Synapse's user goes on, and somebody new joins there; the Synapse starts again,
/// which makes it tell its newest event only.
async fn of_synapse(
    peers: &Peers,
    hub: &mut Hub,
    members: &mut [Member],
    room: &OwnedRoomId,
) -> Result<(), Failed> {
    hub.kill()?;
    for number in 0..UNHEARD {
        let text = format!("unheard there {number}");
        members[1].client.say(room, &text, &text).await?;
        if number == 0 {
            // Another room state, on which the later ones lean.
            let path = [
                "rooms",
                room.as_str(),
                "state",
                "m.room.member",
                &members[1].user,
            ];
            let named = json!({ "membership": "join", "displayname": "Alice, again" });
            members[1]
                .client
                .call("state", Call::put(&path, named))
                .await?;
        }
    }
    peers.synapse.again("kill", 0)?;
    peers.synapse.again("start", 0)?;
    hub.start()?;
    for member in &mut *members {
        member.client = member.another().await?;
    }
    members[0] = Member::of_hub(peers, hub, "ana").await?;
    members[1].client.say(room, "newest", "the newest").await?;
    let all = messages(&mut members[1], room).await?;
    eventually("the hub has what lay in the gap", async || {
        let shown = messages(&mut members[0], room).await?;
        let missing: Vec<_> = all.difference(&shown).collect();
        Ok(if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{} of {} missing", missing.len(), all.len()))
        })
    })
    .await?;
    let there = ["v1/get_missing_events", "v1/state_ids", "v1/event/"];
    each_was_answered(peers, hub, &[], &there)
}

/// A Synapse that knew the hub before its key was changed goes on with it, and one that never met it
/// believes what the old key has signed.
pub(super) fn a_new_key_is_taken_and_what_the_old_one_signed_stays_believed() -> Result<(), Failed>
{
    let peers = Peers::of(2)?;
    let mut hub = Hub::federating(&["ana"], &peers.options()?)?;
    let told = block_on(async {
        let mut members = vec![
            Member::of_hub(&peers, &hub, "ana").await?,
            Member::of_synapse(&peers, 0).await?,
        ];
        let wish = json!({ "preset": "public_chat", "room_version": "12" });
        let room = members[0].client.create_room(wish).await?;
        members[1].join(&room, hub.name()).await?;
        members[0].client.say(&room, "1", "by the old key").await?;
        let all = messages(&mut members[0], &room).await?;
        each_reads(&mut members, &room, &all).await?;

        let old = key_of(&hub)?.id();
        hub.stop()?;
        let mut rotate = tramline();
        rotate.args(["keys", "rotate", "--json", "--config"]);
        let told = run(rotate.arg(hub.config()))?;
        let told: Value = serde_json::from_str(told.trim())?;
        assert_eq!(told["old_key_id"], old.as_str(), "{told}");
        hub.start()?;
        assert_eq!(told["key_id"], key_of(&hub)?.id().as_str(), "{told}");

        members[0] = Member::of_hub(&peers, &hub, "ana").await?;
        members.push(Member::of_synapse(&peers, 1).await?);
        members[0].client.say(&room, "2", "by the new key").await?;
        members[2].join(&room, hub.name()).await?;
        all_are_in(&mut members, &room).await?;
        members[1].client.say(&room, "3", "heard").await?;
        eventually("everything is everywhere", async || {
            let all = messages(&mut members[0], &room).await?;
            Ok(if all.len() == 3 {
                Ok(())
            } else {
                Err(format!("{all:?}"))
            })
        })
        .await?;
        let all = messages(&mut members[0], &room).await?;
        each_reads(&mut members, &room, &all).await?;
        script(&peers, 0, &hub, &["keys", "--old-key", &old])
    });
    let told = with_log(&hub, told)?;
    println!(
        "the hub signs with {}, and published {} as old",
        told["now"], told["old"]
    );
    Ok(())
}
