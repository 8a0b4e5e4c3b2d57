//! Who is there, both ways between the hub and a Synapse, where that is on; and nothing of it on the
//! wire where it is off, as it is unless configured.

use libtest_mimic::Failed;
use ruma::OwnedRoomId;
use serde_json::{Value, json};
use tramline::client::Call;

use super::{
    Peers,
    everyone::{Member, all_are_in, each_reads, eventually, plain_text, said},
    text,
};
use crate::hub::{Hub, block_on};

pub(super) fn who_is_there_is_told_both_ways_where_that_is_on_and_nowhere_else()
-> Result<(), Failed> {
    let peers = Peers::start()?;
    let mut options = peers.options()?;
    let off = Hub::federating(&["ana"], &options)?;
    let told = block_on(nothing_is_told(&peers, &off));
    told.map_err(|error: Failed| format!("{}\n{}", said(&error), off.log_text()))?;
    drop(off);

    options.push("presence.enabled=true".to_owned());
    let on = Hub::federating(&["ana"], &options)?;
    let told = block_on(each_sees_the_other(&peers, &on));
    told.map_err(|error: Failed| format!("{}\n{}", said(&error), on.log_text()).into())
}

async fn each_sees_the_other(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let mut members = both(peers, hub).await?;
    let before = edus_received(peers).await?;
    for _ in 0..2 {
        let [from, to] = &mut members;
        let user = from.user.clone();
        for (state, status) in [("unavailable", "lunch"), ("online", "back")] {
            let what = format!("{} is shown that {user} is {state}", to.server);
            eventually(&what, async || {
                // Again and again: who neither syncs nor says so is gone after half a minute.
                shows(from, state, status).await?;
                let seen = seen(to, &user).await?;
                let is_so = seen["presence"] == state && seen["status_msg"] == status;
                Ok(if is_so { Ok(()) } else { Err(seen.to_string()) })
            })
            .await?;
            let asked = Call::get(&["presence", &user, "status"], Vec::new());
            let asked = to.client.call("presence", asked).await?;
            assert_eq!(asked["presence"], state, "{asked}");
            assert_eq!(asked["status_msg"], status, "{asked}");
        }
        members.swap(0, 1);
    }
    assert!(edus_received(peers).await? > before);
    Ok(())
}

/// The same steps where presence is off: Synapse gets no EDU at all, and nobody sees anything.
async fn nothing_is_told(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let mut members = both(peers, hub).await?;
    let room = room_of(&mut members).await?;
    let before = edus_received(peers).await?;
    for member in &mut members {
        shows(member, "online", "here").await?;
        member.client.sync(None, 0).await?;
    }
    // What is said afterwards has arrived: so would what came before it.
    let mut texts = std::collections::BTreeSet::new();
    for member in &mut members {
        let event = member.client.say(&room, "after", "after").await?;
        texts.insert(event.to_string());
    }
    each_reads(&mut members, &room, &texts).await?;
    let after = edus_received(peers).await?;
    assert!((after - before).abs() < 0.5, "{before} EDUs, then {after}");

    let alice = members[1].user.clone();
    assert_eq!(seen(&mut members[0], &alice).await?, Value::Null);
    let ana = members[0].user.clone();
    let asked = Call::get(&["presence", &ana, "status"], Vec::new());
    let asked = members[1].client.call("presence", asked).await?;
    assert_eq!(asked["presence"], "offline", "{asked}");
    Ok(())
}

/// Ana of the hub and Alice of the Synapse, in one room of the hub.
async fn both(peers: &Peers, hub: &Hub) -> Result<[Member; 2], Failed> {
    let mut members = [
        Member::of_hub(peers, hub, "ana").await?,
        Member::of_synapse(peers, 0).await?,
    ];
    let wish = json!({ "preset": "public_chat" });
    let room = members[0].client.create_room(wish).await?;
    members[1].join(&room, hub.name()).await?;
    all_are_in(&mut members, &room).await?;
    Ok(members)
}

async fn room_of(members: &mut [Member; 2]) -> Result<OwnedRoomId, Failed> {
    let rooms = Call::get(&["joined_rooms"], Vec::new());
    let rooms = members[0].client.call("rooms", rooms).await?;
    Ok(text(&rooms["joined_rooms"][0])?.try_into()?)
}

async fn shows(member: &mut Member, state: &str, status: &str) -> Result<(), Failed> {
    let user = member.user.clone();
    let path = ["presence", user.as_str(), "status"];
    let shown = Call::put(&path, json!({ "presence": state, "status_msg": status }));
    member.client.call("presence", shown).await?;
    Ok(())
}

/// What a first sync shows of a user.
async fn seen(member: &mut Member, user: &str) -> Result<Value, Failed> {
    let mut sync = Call::get(&["sync"], Vec::new());
    sync.query = vec![("set_presence", "offline".to_owned())];
    let all = member.client.call("sync", sync).await?;
    let events = all["presence"]["events"].as_array().into_iter().flatten();
    let mut of_user = events.filter(|event| event["sender"] == user);
    Ok(of_user
        .next()
        .map_or(Value::Null, |event| event["content"].clone()))
}

/// How many EDUs the Synapse has been sent.
async fn edus_received(peers: &Peers) -> Result<f64, Failed> {
    let url = text(&peers.server()["http_url"])?;
    let (status, told) = plain_text(url, "/_synapse/metrics", "").await?;
    assert_eq!(status, 200, "{told}");
    let name = "synapse_federation_server_received_edus_total";
    let mut lines = told.lines().filter(|line| line.starts_with(name));
    let count = lines.next().and_then(|line| line.rsplit(' ').next());
    Ok(count.map_or(Ok(0.0), |count| count.trim().parse())?)
}
