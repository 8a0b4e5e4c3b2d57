//! What goes between servers beside events: receipts and typing, each way, between the hub and a Synapse.

use libtest_mimic::Failed;
use ruma::{OwnedEventId, RoomId};
use serde_json::{Value, json};
use tramline::client::Call;

use super::{
    Peers,
    everyone::{Member, all_are_in, each_shows, eventually, said},
};
use crate::hub::{Hub, block_on};

pub(super) fn receipts_and_typing_cross_both_ways() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let hub = Hub::federating(&["ana"], &peers.options()?)?;
    let told = block_on(async {
        let mut members = [
            Member::of_hub(&peers, &hub, "ana").await?,
            Member::of_synapse(&peers, 0).await?,
        ];
        let wish = json!({ "preset": "public_chat" });
        let room = members[0].client.create_room(wish).await?;
        members[1].join(&room, hub.name()).await?;
        all_are_in(&mut members, &room).await?;
        for (from, to) in [(0, 1), (1, 0)] {
            let said = members[to].client.say(&room, "read", "read this").await?;
            each_shows(&mut members, &room, &[said.to_string()].into()).await?;
            reads(&mut members, from, to, &room, &said).await?;
            types(&mut members, from, to, &room, true).await?;
            types(&mut members, from, to, &room, false).await?;
        }
        Ok(())
    });
    told.map_err(|error: Failed| format!("{}\n{}", said(&error), hub.log_text()).into())
}

async fn reads(
    members: &mut [Member],
    from: usize,
    to: usize,
    room: &RoomId,
    event: &OwnedEventId,
) -> Result<(), Failed> {
    let path = ["rooms", room.as_str(), "receipt", "m.read", event.as_str()];
    let receipt = Call::post(&path, json!({}));
    members[from].client.call("receipt", receipt).await?;
    let user = members[from].user.clone();
    let to = &mut members[to];
    eventually(
        &format!("{} is told that {user} has read it", to.server),
        async || {
            let shown = beside(to, room, "m.receipt").await?;
            let read = &shown[event.as_str()]["m.read"][&user];
            Ok(if read["ts"].is_u64() {
                Ok(())
            } else {
                Err(shown.to_string())
            })
        },
    )
    .await
}

async fn types(
    members: &mut [Member],
    from: usize,
    to: usize,
    room: &RoomId,
    typing: bool,
) -> Result<(), Failed> {
    let user = members[from].user.clone();
    let path = ["rooms", room.as_str(), "typing", &user];
    let typed = Call::put(&path, json!({ "typing": typing, "timeout": 120_000 }));
    members[from].client.call("typing", typed).await?;
    let to = &mut members[to];
    let what = format!("{} is told that {user} types: {typing}", to.server);
    eventually(&what, async || {
        let shown = beside(to, room, "m.typing").await?;
        let users = shown["user_ids"].as_array();
        let is_shown = users.is_some_and(|all| all.iter().any(|one| *one == user.as_str()));
        Ok(if is_shown == typing {
            Ok(())
        } else {
            Err(shown.to_string())
        })
    })
    .await
}

/// What a room shows of this type that is no event.
async fn beside(member: &mut Member, room: &RoomId, kind: &str) -> Result<Value, Failed> {
    let all = member.client.sync(None, 0).await?;
    let shown = &all["rooms"]["join"][room.as_str()]["ephemeral"]["events"];
    let mut shown = shown.as_array().into_iter().flatten();
    let found = shown.find(|one| one["type"] == kind);
    Ok(found.map_or(Value::Null, |one| one["content"].clone()))
}
