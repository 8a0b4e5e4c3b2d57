//! One room on three servers, the hub and two Synapses: everyone speaks at once and changes topic and
//! power levels against each other, and in the end all have the same.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId};
use serde_json::json;
use tramline::{
    client::{Call, Client, ClientError},
    edge::matrix::outgoing::Ask,
    wire::json as wire_json,
};

use super::{
    Peers,
    everyone::{Member, all_are_in, each_reads, each_shows, said, same_state},
    key_of,
};
use crate::hub::{Hub, block_on};

/// Connections of each user that speak at once, and how often each does.
const TALKERS: usize = 3;
const TEXTS_EACH: usize = 5;

/// How often each user changes topic and power levels, while all speak.
const ROUNDS: usize = 6;

/// How often somebody goes on at most before a ban reaches them.
const BANNED_MAX: usize = 600;

/// Between two changes of who goes on: a hub without limits would be a thousand ahead of a busy Synapse.
const PACE: Duration = Duration::from_millis(100);

/// How often somebody else changes the topic meanwhile.
const CHANGES: usize = 10;

pub(super) fn three_servers_agree_after_everyone_spoke_at_once() -> Result<(), Failed> {
    let peers = Peers::of(2)?;
    let mut hub = Hub::federating(&["ana"], &peers.options()?)?;
    let told = block_on(async {
        let mut members = vec![
            Member::of_hub(&peers, &hub, "ana").await?,
            Member::of_synapse(&peers, 0).await?,
            Member::of_synapse(&peers, 1).await?,
        ];
        // Who founds the room has the power to take another's.
        for (version, founder) in [("12", 0), ("11", 1), ("10", 0)] {
            let told = agree(&peers, &hub, &mut members, version, founder).await;
            let room = told.map_err(|error| format!("version {version}: {}", said(&error)))?;
            let told = one_is_banned(&mut members, &room, founder).await;
            told.map_err(|error| format!("version {version}, a ban: {}", said(&error)))?;
        }
        Ok(())
    });
    told.map_err(|error: Failed| Failed::from(format!("{}\n{}", said(&error), hub.log_text())))?;
    hub.stop()?;
    let (code, report) = hub.fsck()?;
    assert_eq!(code, 0, "{report}");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "it says how long it took")]
async fn agree(
    peers: &Peers,
    hub: &Hub,
    members: &mut [Member],
    version: &str,
    founder: usize,
) -> Result<OwnedRoomId, Failed> {
    let room = founded(members, version, founder).await?;
    let began = Instant::now();
    let mut done = storm(members, &room, founder).await?;
    let sent = began.elapsed();
    each_reads(members, &room, &done.messages).await?;
    let settled = began.elapsed();
    // What is said now stands on all that was said before.
    for member in &mut *members {
        let last = member.client.say(&room, "last", "that was all").await?;
        done.messages.insert(last.to_string());
    }
    each_reads(members, &room, &done.messages).await?;
    let state = same_state(members, &room).await?;
    let hidden = hidden(members, &room, &done.changes).await?;
    let merges = merges(peers, hub, &done.messages).await?;
    assert!(merges > 0, "nobody spoke at the same time");
    println!(
        "version {version}: {} messages and {} of {} state changes by 3 servers at once, sent in {sent:.1?}, \
         everywhere after {settled:.1?}; {merges} of the messages follow several; the same state of {} events \
         after {:.1?}; of the changes, {hidden} are hidden somewhere",
        done.messages.len(),
        done.changes.len(),
        done.changes.len() + done.refused,
        state.len(),
        began.elapsed(),
    );
    Ok(room)
}

/// Who is banned goes on talking and changing the topic until their own server hears of it, a third one
/// changes it at the same time; those who stay have the same state, and so have all once the
/// banned one is let in again.
async fn one_is_banned(
    members: &mut Vec<Member>,
    room: &RoomId,
    founder: usize,
) -> Result<(), Failed> {
    empowered(members, room, founder).await?;
    let mut banned = members.remove(victim_of(founder));
    let (founder, third) = (0, 1); // the founder is the first of those who stay
    let whom = json!({ "user_id": banned.user });
    let until_banned = tokio::spawn(goes_on(
        banned.another().await?,
        room.to_owned(),
        "banned",
        BANNED_MAX,
    ));
    let third = tokio::spawn(goes_on(
        members[third].another().await?,
        room.to_owned(),
        "third",
        CHANGES,
    ));
    let ban = Call::post(&["rooms", room.as_str(), "ban"], whom.clone());
    members[founder].client.call("ban", ban).await?;
    let (until_banned, third) = (until_banned.await??, third.await??);
    assert!(until_banned < BANNED_MAX, "their server never heard of it");
    assert_eq!(third, CHANGES);
    // What is said now stands on the ban and on all that went on beside it.
    say_and_show(members, room, "without").await?;
    let state = same_state(members, room).await?;
    let key = ("m.room.member".to_owned(), banned.user.clone());
    let ban = state.get(&key).ok_or("no ban in the state")?.clone();

    let unban = Call::post(&["rooms", room.as_str(), "unban"], whom);
    members[founder].client.call("unban", unban).await?;
    banned.join(room, &members[founder].server).await?;
    members.push(banned);
    all_are_in(members, room).await?;
    say_and_show(members, room, "with").await?;
    let state = same_state(members, room).await?;
    assert_ne!(state.get(&key), Some(&ban));
    println!(
        "  one is banned after {until_banned} more of their changes, beside {third} of a third one: the same \
         state where it holds, and everywhere once they are back"
    );
    members.sort_by_key(|member| !member.user.starts_with("@ana:"));
    Ok(())
}

/// Gives everyone the power to change the topic, whatever became of it, and has everyone know.
async fn empowered(members: &mut [Member], room: &RoomId, founder: usize) -> Result<(), Failed> {
    let path = ["rooms", room.as_str(), "state", "m.room.power_levels"];
    let users: Vec<String> = members.iter().map(|member| member.user.clone()).collect();
    let client = &mut members[founder].client;
    let mut levels = client.call("state", Call::get(&path, Vec::new())).await?;
    for (index, user) in users.into_iter().enumerate() {
        if index != founder {
            levels["users"][user] = 50.into();
        }
    }
    let set = client.set_state(room, "m.room.power_levels", "", levels);
    set.await?;
    same_state(members, room).await.map(drop)
}

/// Changes the topic and says something, again and again until that is not allowed any more; how often
/// it was.
async fn goes_on(
    mut client: Client,
    room: OwnedRoomId,
    who: &'static str,
    max: usize,
) -> Result<usize, Failed> {
    for number in 0..max {
        let text = format!("{who} {number}");
        let topic = json!({ "topic": text });
        let set = client.set_state(&room, "m.room.topic", "", topic).await;
        let done = match set {
            Ok(_) => client.say(&room, &text.replace(' ', "-"), &text).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(_) => {}
            Err(ClientError::Refused { status: 403, .. }) => return Ok(number),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(max)
}

/// Everyone says something, and everyone is shown it.
async fn say_and_show(members: &mut [Member], room: &RoomId, txn: &str) -> Result<(), Failed> {
    let mut said = BTreeSet::new();
    for member in &mut *members {
        said.insert(member.client.say(room, txn, txn).await?.to_string());
    }
    each_shows(members, room, &said).await
}

/// Whose power the founder of a room takes, and whom they ban.
fn victim_of(founder: usize) -> usize {
    usize::from(founder == 0)
}

/// A room that all are in. The founder has 100, or whatever a creator has, the others 50: enough to
/// change the power levels and to be in each other's way.
async fn founded(
    members: &mut [Member],
    version: &str,
    founder: usize,
) -> Result<OwnedRoomId, Failed> {
    let mut users = serde_json::Map::new();
    for (index, member) in members.iter().enumerate() {
        if index != founder {
            users.insert(member.user.clone(), 50.into());
        } else if version != "12" {
            users.insert(member.user.clone(), 100.into());
        }
    }
    let wish = json!({
        "preset": "public_chat",
        "room_version": version,
        "power_level_content_override": {
            "users": users,
            "events": { "m.room.power_levels": 50, "m.room.topic": 50 },
        },
    });
    let room = members[founder].client.create_room(wish).await?;
    let via = members[founder].server.clone();
    for (index, member) in members.iter_mut().enumerate() {
        if index != founder {
            member.join(&room, &via).await?;
        }
    }
    all_are_in(members, &room).await?;
    Ok(room)
}

#[derive(Default)]
struct Done {
    messages: BTreeSet<String>,
    /// State events that were taken.
    changes: BTreeSet<String>,
    /// Those that came too late to be allowed.
    refused: usize,
}

async fn storm(members: &mut [Member], room: &RoomId, founder: usize) -> Result<Done, Failed> {
    // The founder takes the power of one who goes on changing things.
    let victim = members[victim_of(founder)].user.clone();
    let (mut talkers, mut staters) = (Vec::new(), Vec::new());
    for (index, member) in members.iter_mut().enumerate() {
        for talker in 0..TALKERS {
            let client = member.another().await?;
            talkers.push(tokio::spawn(talk(client, room.to_owned(), talker)));
        }
        let change = Change {
            client: member.another().await?,
            room: room.to_owned(),
            server: member.server.clone(),
            index,
            victim: (index == founder).then(|| victim.clone()),
        };
        staters.push(tokio::spawn(change.all()));
    }
    let mut done = Done::default();
    for talker in talkers {
        done.messages.extend(talker.await??);
    }
    for stater in staters {
        let (changes, refused) = stater.await??;
        done.changes.extend(changes);
        done.refused += refused;
    }
    assert_eq!(done.messages.len(), members.len() * TALKERS * TEXTS_EACH);
    Ok(done)
}

async fn talk(mut client: Client, room: OwnedRoomId, talker: usize) -> Result<Vec<String>, Failed> {
    let mut ids = Vec::new();
    for number in 0..TEXTS_EACH {
        let text = format!("{talker}-{number}");
        ids.push(client.say(&room, &text, &text).await?.to_string());
    }
    Ok(ids)
}

/// Who changes the state of a room, knowing what one server has at that moment.
struct Change {
    client: Client,
    room: OwnedRoomId,
    server: String,
    index: usize,
    /// Who loses their power in the middle of it.
    victim: Option<String>,
}

impl Change {
    /// The changes that were taken, and how many were refused.
    async fn all(mut self) -> Result<(Vec<String>, usize), Failed> {
        let mut counted = (Vec::new(), 0);
        let mut count = |done: Result<OwnedEventId, ClientError>| {
            match done {
                Ok(id) => counted.0.push(id.to_string()),
                Err(ClientError::Refused { status: 403, .. }) => counted.1 += 1,
                Err(error) => return Err(error),
            }
            Ok(())
        };
        for round in 0..ROUNDS {
            let topic = json!({ "topic": format!("{} {round}", self.server) });
            let set = self.client.set_state(&self.room, "m.room.topic", "", topic);
            count(set.await)?;
            let path = ["rooms", self.room.as_str(), "state", "m.room.power_levels"];
            let now = self.client.call("state", Call::get(&path, Vec::new()));
            let mut levels = now.await?;
            levels["invite"] = (10 * self.index + round).into();
            levels["users"][format!("@nobody-{round}:{}", self.server)] = self.index.into();
            if let Some(victim) = self.victim.as_ref().filter(|_| round == ROUNDS / 2) {
                levels["users"][victim] = 0.into();
            }
            let set = self
                .client
                .set_state(&self.room, "m.room.power_levels", "", levels);
            count(set.await)?;
        }
        Ok(counted)
    }
}

/// How many changes of the state are not shown by every server: who lost the power for one meanwhile is
/// not heard where that was known first.
async fn hidden(
    members: &mut [Member],
    room: &RoomId,
    changes: &BTreeSet<String>,
) -> Result<usize, Failed> {
    let mut shown = changes.clone();
    for member in &mut *members {
        let events = member.events(room).await?;
        let ids: BTreeSet<String> = events.into_iter().map(|(id, _)| id).collect();
        shown.retain(|id| ids.contains(id));
    }
    Ok(changes.len() - shown.len())
}

/// How many messages follow more than one event: where branches that grew at the same time meet.
async fn merges(peers: &Peers, hub: &Hub, ids: &BTreeSet<String>) -> Result<usize, Failed> {
    let edge = peers.edge(key_of(hub)?)?;
    let server: OwnedServerName = peers.name()?;
    let mut merges = 0;
    for id in ids {
        let ask = Ask::get(format!(
            "/_matrix/federation/v1/event/{}",
            id.replace('$', "%24")
        ));
        let told = edge.outgoing.ask(&server, &ask).await?;
        let event = wire_json::read_lax(told.success()?)?;
        let before = event["pdus"][0]["prev_events"].as_array();
        merges += usize::from(before.is_some_and(|before| before.len() > 1));
    }
    Ok(merges)
}
