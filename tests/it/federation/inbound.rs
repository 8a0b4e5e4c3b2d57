//! Users of a Synapse in rooms of the hub: they come in, read what was there, and are heard.

use std::time::Duration;

use libtest_mimic::Failed;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, signatures::Ed25519KeyPair};
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Call, Client, Target},
    edge::matrix::outgoing::Ask,
    wire::{json as wire_json, matrix::ServerKey},
};

use super::{Peers, text};
use crate::hub::{Hub, block_on};

pub(super) fn a_user_of_synapse_takes_part_in_rooms_of_the_hub() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let hub = Hub::federating(&["ana"], &peers.options()?)?;
    let told = block_on(async {
        let target = Target::parse(&hub.https(), Some(&peers.pem()?))?;
        let mut ana = Client::open(&target, &world()).await?;
        ana.login("ana", "secret-ana", None).await?;
        let mut alice = peers.alice().await?;
        what_is_not_served_is_said(&peers, &hub).await?;
        for version in ["12", "11", "10"] {
            let room = founded(&mut ana, version, "by-alias").await?;
            let alias = format!("#by-alias-{version}:{}", hub.name());
            joins_and_is_heard(
                &mut ana,
                &mut alice,
                &room,
                Call::post(&["join", &alias], json!({})),
            )
            .await
            .map_err(|error| format!("version {version} by alias: {}", said(&error)))?;
            let room = founded(&mut ana, version, "by-id").await?;
            let mut by_id = Call::post(&["join", room.as_str()], json!({}));
            by_id.query = vec![("via", hub.name().to_owned())];
            joins_and_is_heard(&mut ana, &mut alice, &room, by_id)
                .await
                .map_err(|error| format!("version {version} by id: {}", said(&error)))?;
        }
        Ok(())
    });
    told.map_err(|error: Failed| format!("{}\n{}", said(&error), hub.log_text()).into())
}

fn said(error: &Failed) -> String {
    error.message().unwrap_or_default().to_owned()
}

/// A public room with a past.
async fn founded(ana: &mut Client, version: &str, alias: &str) -> Result<OwnedRoomId, Failed> {
    let wish = json!({
        "preset": "public_chat",
        "room_version": version,
        "room_alias_name": format!("{alias}-{version}"),
        "name": "Outside",
    });
    let room = ana.create_room(wish).await?;
    for number in 0..3 {
        ana.say(
            &room,
            &format!("{alias}{version}{number}"),
            &format!("before {number}"),
        )
        .await?;
    }
    Ok(room)
}

async fn joins_and_is_heard(
    ana: &mut Client,
    alice: &mut Client,
    room: &RoomId,
    join: Call<'_>,
) -> Result<(), Failed> {
    let before = ana.sync(None, 0).await?;
    let since = text(&before["next_batch"])?;
    let answer = alice.call("join", join).await?;
    assert_eq!(answer["room_id"], room.as_str(), "{answer}");

    // she reads what was said before she came
    let read = until(alice, room, "before 0").await?;
    assert!(read.contains(&"before 2".to_owned()), "{read:?}");
    // the hub's user sees her
    let joined = Call::get(&["rooms", room.as_str(), "joined_members"], Vec::new());
    let joined = ana.call("members", joined).await?;
    assert_eq!(
        joined["joined"].as_object().map_or(0, serde_json::Map::len),
        2,
        "{joined}"
    );
    let news = ana.sync(Some(since), 0).await?;
    let timeline = news["rooms"]["join"][room.as_str()]["timeline"]["events"].clone();
    let came = |event: &Value| event["content"]["membership"] == "join";
    let came = timeline.as_array().is_some_and(|all| all.iter().any(came));
    assert!(came, "{news}");

    // and hears her
    let mut since = text(&news["next_batch"])?.to_owned();
    let sent = alice.say(room, "hello", "hello from outside").await?;
    let mut heard = false;
    for _ in 0..20 {
        let news = ana.sync(Some(&since), 3000).await?;
        text(&news["next_batch"])?.clone_into(&mut since);
        let timeline = &news["rooms"]["join"][room.as_str()]["timeline"]["events"];
        let hers = |event: &Value| event["event_id"] == sent.as_str();
        heard = timeline.as_array().is_some_and(|all| all.iter().any(hers));
        if heard {
            break;
        }
    }
    assert!(heard, "{sent} never came");
    let read = until(ana, room, "hello from outside").await?;
    assert!(read.contains(&"before 0".to_owned()), "{read:?}");
    ana.say(room, "back", "hello back").await?;
    until(alice, room, "hello back").await?;
    Ok(())
}

/// The texts of a room, newest first, once one of them is there.
async fn until(client: &mut Client, room: &RoomId, wanted: &str) -> Result<Vec<String>, Failed> {
    let mut texts = Vec::new();
    for _ in 0..20 {
        let page = client.messages(room, None, true, 50).await?;
        let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
        let body = |event: &Value| event["content"]["body"].as_str().map(str::to_owned);
        texts = chunk.iter().filter_map(body).collect();
        if texts.iter().any(|text| text == wanted) {
            return Ok(texts);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Err(format!("{wanted:?} is not among {texts:?}").into())
}

async fn what_is_not_served_is_said(peers: &Peers, hub: &Hub) -> Result<(), Failed> {
    let name: OwnedServerName = "localhost:1".try_into()?;
    let key = ServerKey::from_der(name, &Ed25519KeyPair::generate(), "1")?;
    let edge = peers.edge(key)?;
    let hub: OwnedServerName = hub.name().try_into()?;
    let nothing = json!({});
    let nothing = serde_json::from_value(nothing)?;
    for (ask, status) in [
        (Ask::get("/_matrix/federation/v1/nothing"), 404),
        (
            Ask::put("/_matrix/federation/v1/send_join/!a/$b", &nothing),
            404,
        ),
        (Ask::post("/_matrix/federation/v1/send/1", &nothing), 405),
        (Ask::get("/_matrix/policy/v1/sign"), 405),
    ] {
        let told = edge.outgoing.ask(&hub, &ask.unsigned()).await?;
        let body = wire_json::read_lax(&told.body)?;
        assert_eq!(told.status, status, "{body}");
        assert_eq!(body["errcode"], "M_UNRECOGNIZED");
    }
    Ok(())
}
