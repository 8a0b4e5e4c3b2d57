//! A Synapse that is gone for good: who joins later believes what its user said where somebody whom the
//! operator trusts knew its keys.

use std::collections::BTreeSet;

use libtest_mimic::Failed;
use ruma::OwnedRoomId;
use serde_json::json;

use super::{
    Peers,
    everyone::{Member, all_are_in, each_reads, eventually, said},
};
use crate::hub::{Hub, block_on};

const VERSIONS: [&str; 3] = ["12", "11", "10"];

pub(super) fn what_a_server_said_that_is_gone_is_believed_by_a_notary() -> Result<(), Failed> {
    let peers = Peers::of(2)?;
    let hub = Hub::federating(&["ana"], &peers.options()?)?;
    let by = |notary: Option<&str>| {
        let mut options = peers.options()?;
        options.extend(notary.map(|name| format!("federation.notaries={name}")));
        Hub::federating(&["bea"], &options)
    };
    let (nobody, by_hub) = (by(None)?, by(Some(hub.name()))?);
    let synapse = super::text(&peers.nth(1)["server_name"])?;
    let by_synapse = by(Some(synapse))?;
    let told = block_on(async {
        let mut members = vec![
            Member::of_hub(&peers, &hub, "ana").await?,
            Member::of_synapse(&peers, 0).await?,
            Member::of_synapse(&peers, 1).await?,
        ];
        let mut rooms = Vec::new();
        for version in VERSIONS {
            rooms.push(spoken_in(&mut members, version).await?);
        }
        peers.synapse.again("kill", 0)?;
        let gone = members.remove(1).user;
        for (room, wanted) in &rooms {
            let via = hub.name();
            for (other, knows) in [(&nobody, false), (&by_hub, true), (&by_synapse, true)] {
                let mut bea = Member::of_hub(&peers, other, "bea").await?;
                bea.join(room, via).await?;
                let there = bea.joined(room).await?;
                assert_eq!(
                    there.contains(&gone),
                    knows,
                    "{there:?}\n{}",
                    other.log_text()
                );
                if knows {
                    each_reads(std::slice::from_mut(&mut bea), room, wanted).await?;
                }
            }
            eventually("everyone who came is in the room", async || {
                let there = members[0].joined(room).await?;
                let all = there.len() == 6;
                Ok(if all {
                    Ok(())
                } else {
                    Err(format!("{there:?}"))
                })
            })
            .await?;
        }
        Ok(())
    });
    told.map_err(|error: Failed| Failed::from(format!("{}\n{}", said(&error), hub.log_text())))
}

/// A room of the hub's in which each of the three has said something.
async fn spoken_in(
    members: &mut [Member],
    version: &str,
) -> Result<(OwnedRoomId, BTreeSet<String>), Failed> {
    let wish = json!({ "preset": "public_chat", "room_version": version });
    let room = members[0].client.create_room(wish).await?;
    let via = members[0].server.clone();
    for member in &mut members[1..] {
        member.join(&room, &via).await?;
    }
    all_are_in(members, &room).await?;
    let mut wanted = BTreeSet::new();
    for member in &mut *members {
        let said = member.client.say(&room, version, "I was here").await?;
        wanted.insert(said.to_string());
    }
    each_reads(members, &room, &wanted).await?;
    Ok((room, wanted))
}
