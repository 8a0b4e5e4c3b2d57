//! The hub and a Synapse, each killed in the middle of conversations in rooms of every version and away
//! for longer than the other waits before it tries again: nothing is lost, nothing comes twice.

use std::{collections::BTreeSet, time::Duration};

use libtest_mimic::Failed;
use ruma::OwnedRoomId;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Peers,
    everyone::{DEADLINE, Member, all_are_in, each_reads, eventually, plain, said},
    text,
};
use crate::hub::{Hub, block_on, run, tramline};

/// Between two messages of a talker: what is said while a server is away should not be thousands.
const PACE: Duration = Duration::from_millis(100);

/// How many are to be said before a server is killed.
const BEFORE: usize = 5;

/// How many by who stays in each room before the other comes back: more than is asked for at once to close a gap.
const WHILE_AWAY: usize = 80;

const VERSIONS: [&str; 3] = ["12", "11", "10"];

pub(super) fn both_are_killed_and_nothing_is_lost() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let mut hub = Hub::federating(&["ana"], &peers.options()?)?;
    let told = block_on(async {
        let mut members = vec![
            Member::of_hub(&peers, &hub, "ana").await?,
            Member::of_synapse(&peers, 0).await?,
        ];
        let mut rooms = Vec::new();
        for version in VERSIONS {
            rooms.push(Spoken::founded(&mut members, version).await?);
        }

        let mut talks = Talk::of_all(&mut members, &rooms, "first").await?;
        hub.kill()?;
        synapse_waits_longer(&peers, &hub).await?;
        let meanwhile = Talk::all_until(&mut talks, 1, WHILE_AWAY).await?;
        hub.start()?;
        Talk::end_all(&mut talks, &mut rooms).await?;
        refresh(&mut members).await?;
        all_read_all(&mut members, &rooms).await?;
        println!(
            "the hub was away: {meanwhile} messages of Synapse's user until then, {}",
            counted(&rooms)
        );

        let mut talks = Talk::of_all(&mut members, &rooms, "second").await?;
        peers.synapse.again("kill", 0)?;
        the_hub_waits_longer(&peers, &hub).await?;
        let meanwhile = Talk::all_until(&mut talks, 0, WHILE_AWAY).await?;
        peers.synapse.again("start", 0)?;
        Talk::end_all(&mut talks, &mut rooms).await?;
        refresh(&mut members).await?;
        all_read_all(&mut members, &rooms).await?;
        println!(
            "Synapse was away: {meanwhile} messages of the hub's user until then, {}",
            counted(&rooms)
        );
        nothing_waits(&peers, &hub).await
    });
    told.map_err(|error: Failed| Failed::from(format!("{}\n{}", said(&error), hub.log_text())))?;
    hub.stop()?;
    let (code, report) = hub.fsck()?;
    assert_eq!(code, 0, "{report}");
    Ok(())
}

/// A room of the hub's that both are in, and all that was said in it and acknowledged.
struct Spoken {
    version: &'static str,
    room: OwnedRoomId,
    all: BTreeSet<String>,
}

impl Spoken {
    async fn founded(members: &mut [Member], version: &'static str) -> Result<Self, Failed> {
        let wish = json!({ "preset": "public_chat", "room_version": version });
        let room = members[0].client.create_room(wish).await?;
        let via = members[0].server.clone();
        members[1].join(&room, &via).await?;
        all_are_in(members, &room).await?;
        let all = BTreeSet::new();
        Ok(Self { version, room, all })
    }
}

async fn all_read_all(members: &mut [Member], rooms: &[Spoken]) -> Result<(), Failed> {
    for one in rooms {
        let read = each_reads(members, &one.room, &one.all).await;
        read.map_err(|error| format!("version {}: {}", one.version, said(&error)))?;
    }
    Ok(())
}

fn counted(rooms: &[Spoken]) -> String {
    let each = rooms
        .iter()
        .map(|one| format!("{} in version {}", one.all.len(), one.version));
    each.collect::<Vec<_>>().join(", ")
}

/// Connections to who was away meanwhile are gone.
async fn refresh(members: &mut [Member]) -> Result<(), Failed> {
    for member in members {
        member.client = member.another().await?;
    }
    Ok(())
}

/// Waits until Synapse has tried the hub again in vain, and waits for longer now.
async fn synapse_waits_longer(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let server = peers.server();
    let path = "/_synapse/admin/v1/federation/destinations";
    let path = format!("{path}/{}", hub.name().replace(':', "%3A"));
    let token = text(&server["users"][0]["access_token"])?;
    let mut tries = BTreeSet::new();
    eventually("Synapse tries the hub twice in vain", async || {
        let (status, told) = plain(text(&server["http_url"])?, &path, token).await?;
        let last = told["retry_last_ts"].as_u64().filter(|last| *last > 0);
        tries.extend(last);
        Ok(if tries.len() > 1 {
            Ok(())
        } else {
            Err(format!("{status} {told}"))
        })
    })
    .await
}

/// How the hub stands with the Synapse.
pub(super) fn status(peers: &Peers, hub: &Hub) -> Result<Value, Failed> {
    let name = peers.name()?;
    let mut command = tramline();
    command.args(["peer", "status", name.as_str(), "--json", "--config"]);
    let line = run(command.arg(hub.config()))?;
    Ok(serde_json::from_str(
        line.lines().next().unwrap_or_default(),
    )?)
}

/// The same of the hub and Synapse.
pub(super) async fn the_hub_waits_longer(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let mut tries = BTreeSet::new();
    eventually("the hub tries Synapse twice in vain", async || {
        let told = status(peers, hub)?;
        tries.extend(told["next_try"].as_str().map(str::to_owned));
        Ok(if tries.len() > 2 {
            Ok(())
        } else {
            Err(told.to_string())
        })
    })
    .await
}

async fn nothing_waits(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    eventually("nothing waits for Synapse", async || {
        let told = status(peers, hub)?;
        Ok(if told["waiting"] == 0 {
            Ok(())
        } else {
            Err(told.to_string())
        })
    })
    .await
}

/// Someone who says one thing after the other in one room, also while their server is away.
struct Talk {
    /// Whose: their place among the members.
    member: usize,
    /// Where: its place among the rooms.
    room: usize,
    stop: watch::Sender<bool>,
    acked: watch::Receiver<usize>,
    task: Option<JoinHandle<Result<Vec<String>, Failed>>>,
}

impl Talk {
    /// Everyone begins in every room, and was heard there by their own server before this ends.
    async fn of_all(
        members: &mut [Member],
        rooms: &[Spoken],
        name: &str,
    ) -> Result<Vec<Self>, Failed> {
        let mut talks = Vec::new();
        for (room, spoken) in rooms.iter().enumerate() {
            for (index, member) in members.iter_mut().enumerate() {
                let (stop, is_over) = watch::channel(false);
                let (count, acked) = watch::channel(0);
                let talker = Talker {
                    member: member.again().await?,
                    room: spoken.room.clone(),
                    name: format!("{name}-{}", spoken.version),
                    is_over,
                    count,
                };
                talks.push(Self {
                    member: index,
                    room,
                    stop,
                    acked,
                    task: Some(tokio::spawn(talker.talk())),
                });
            }
        }
        for talk in &mut talks {
            talk.until(BEFORE).await?;
        }
        Ok(talks)
    }

    /// Waits until so many of one member's were acknowledged in every room; how many these are together.
    async fn all_until(talks: &mut [Self], member: usize, count: usize) -> Result<usize, Failed> {
        let mut together = 0;
        for talk in talks.iter_mut().filter(|talk| talk.member == member) {
            talk.until(count).await?;
        }
        for talk in talks.iter().filter(|talk| talk.member == member) {
            together += talk.acked();
        }
        Ok(together)
    }

    /// Waits until so many were acknowledged.
    async fn until(&mut self, count: usize) -> Result<(), Failed> {
        let enough = self.acked.wait_for(|acked| *acked >= count);
        match tokio::time::timeout(DEADLINE, enough).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => {} // it ended, and knows why
            Err(_) => return Err(format!("no {count} messages were taken").into()),
        }
        let task = self.task.take().ok_or("it was ended before")?;
        task.await?.map(drop)
    }

    fn acked(&self) -> usize {
        *self.acked.borrow()
    }

    /// Everyone says one thing more, and has all that they said acknowledged: the rooms hold it then.
    async fn end_all(talks: &mut [Self], rooms: &mut [Spoken]) -> Result<(), Failed> {
        for talk in &mut *talks {
            talk.until(talk.acked() + 1).await?;
            let _ = talk.stop.send(true);
        }
        for talk in talks {
            let task = talk.task.take().ok_or("it was ended before")?;
            rooms[talk.room].all.extend(task.await??);
        }
        Ok(())
    }
}

struct Talker {
    member: Member,
    room: OwnedRoomId,
    name: String,
    is_over: watch::Receiver<bool>,
    count: watch::Sender<usize>,
}

impl Talker {
    async fn talk(mut self) -> Result<Vec<String>, Failed> {
        let mut ids = Vec::new();
        while !*self.is_over.borrow() {
            let text = format!("{}-{}", self.name, ids.len());
            match self.member.client.say(&self.room, &text, &text).await {
                Ok(id) => {
                    ids.push(id.to_string());
                    self.count.send_replace(ids.len());
                }
                // The same again under the same number: it may have been taken.
                Err(error) if error.is_temporary() => {
                    self.member.client = self.member.another().await?;
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(PACE).await;
        }
        Ok(ids)
    }
}
