//! A scripted homeserver and the hub in each other's rooms, in each version: what the evil peer
//! changes is then known to be the only thing that is wrong.

use libtest_mimic::Failed;
use ruma::OwnedRoomId;
use serde_json::{Value, json};
use tramline::client::Call;

use super::{Together, text};
use crate::hub::block_on;

pub(super) fn a_scripted_server_and_the_hub_are_in_each_others_rooms() -> Result<(), Failed> {
    let mut here = Together::start("scripted.py", 1)?;
    let told = block_on(both_ways(&mut here));
    told.map_err(|error: Failed| {
        let said = error.message().unwrap_or_default().to_owned();
        format!("{said}\n{}", here.hub.log_text()).into()
    })
}

async fn both_ways(here: &mut Together) -> Result<(), Failed> {
    let (hub, name) = (here.hub.name().to_owned(), here.scripted.servers[0].clone());
    let mut ana = here.client("ana").await?;
    for version in ["12", "11", "10"] {
        // She joins there, of a hundred members …
        let made = json!({"op": "room", "version": version, "members": 100});
        let made = here.scripted.ask(&made)?;
        let room = text(&made["room_id"])?.to_owned();
        let mut join = Call::post(&["join", &room], json!({}));
        join.query = vec![("via", name.clone())];
        ana.call("join", join).await?;
        let members = Call::get(&["rooms", &room, "joined_members"], Vec::new());
        let members = ana.call("members", members).await?;
        let joined = members["joined"]
            .as_object()
            .map_or(0, serde_json::Map::len);
        assert_eq!(joined, 102, "version {version}");
        // … is told what is said there, and is heard.
        let say =
            json!({"op": "say", "room_id": room, "user": "mal", "body": "there", "to": [hub]});
        let told = here.scripted.ask(&say)?;
        taken(&told["results"][&hub], &told["event_id"])?;
        let room: OwnedRoomId = room.try_into()?;
        let sent = ana.say(&room, &format!("t{version}"), "here").await?;
        let heard = json!({"op": "heard", "room_id": room.as_str(), "event_id": sent});
        assert_eq!(
            here.scripted.ask(&heard)?["found"],
            true,
            "version {version}"
        );

        // And the scripted user in a room of hers.
        let wish = json!({"preset": "public_chat", "room_version": version});
        let room = ana.create_room(wish).await?;
        let join = json!({"op": "join", "via": hub, "room_id": room.as_str(), "user": "mal"});
        here.scripted.ask(&join)?;
        let say = json!({"op": "say", "room_id": room.as_str(), "user": "mal", "body": "hello", "to": [hub]});
        let told = here.scripted.ask(&say)?;
        taken(&told["results"][&hub], &told["event_id"])?;
        let page = ana.messages(&room, None, true, 5).await?;
        assert_eq!(page["chunk"][0]["event_id"], told["event_id"], "{page}");
    }
    Ok(())
}

fn taken(told: &Value, event: &Value) -> Result<(), Failed> {
    assert_eq!(told[0], 200, "{told}");
    assert_eq!(told[1]["pdus"][text(event)?], json!({}), "{told}");
    Ok(())
}
