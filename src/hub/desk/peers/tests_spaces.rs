//! What servers ask about a space, and for the event nearest to a time.

use std::{sync::Arc, time::Duration};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId, UInt,
    api::{
        Direction,
        client::{message::send_message_event, state::send_state_event},
        federation::{
            event::get_event_by_timestamp,
            membership::{create_join_event, prepare_join_event},
            space::get_hierarchy,
        },
    },
    serde::Raw,
};
use serde_json::{json, value::RawValue};

use super::tests::Far;
use crate::{
    api::{Code, Command, Credentials, Origin, PeerCommand, PeerReply, Refusal, Remote, Reply},
    hub::{
        desk::rooms,
        testing::{self, Person, TestHub},
    },
    room::testing::key,
    wire::matrix::{Pdu, Version},
};

async fn ask(hub: &TestHub, command: PeerCommand) -> Result<PeerReply, Refusal> {
    let origin = Origin {
        credentials: Credentials::Server(OwnedServerName::try_from("far").unwrap()),
        ..testing::stranger()
    };
    match hub.ask(&origin, Command::Peer(Box::new(command))).await? {
        Reply::Peer(reply) => Ok(*reply),
        other => panic!("{other:?}"),
    }
}

async fn hub() -> (TestHub, Person) {
    let hub = testing::hub_among(Arc::new(Far::default()) as Arc<dyn Remote>).await;
    let ana = hub.account("ana").await;
    (hub, ana)
}

async fn room(hub: &TestHub, ana: &Person, preset: &str) -> OwnedRoomId {
    let wished = rooms::testing::wish(preset, &json!([]));
    hub.create(ana, wished).await.unwrap()
}

async fn child(
    hub: &TestHub,
    ana: &Person,
    space: &OwnedRoomId,
    child: &str,
    content: serde_json::Value,
) {
    let request = send_state_event::v3::Request::new_raw(
        space.clone(),
        "m.space.child".into(),
        child.to_owned(),
        Raw::from_json_string(content.to_string()).unwrap(),
    );
    testing::ask!(hub, ana.origin, SendState(request)).unwrap();
}

#[tokio::test]
async fn a_space_is_told_as_far_as_the_asking_server_may_look() {
    let (hub, ana) = hub().await;
    let space = room(&hub, &ana, "public_chat").await;
    let open = room(&hub, &ana, "public_chat").await;
    let closed = room(&hub, &ana, "private_chat").await;
    let via = json!({ "via": [testing::SERVER], "suggested": true });
    child(&hub, &ana, &space, open.as_str(), via).await;
    child(
        &hub,
        &ana,
        &space,
        closed.as_str(),
        json!({ "via": [testing::SERVER] }),
    )
    .await;
    child(
        &hub,
        &ana,
        &space,
        "!elsewhere:near",
        json!({ "via": ["near"] }),
    )
    .await;
    child(&hub, &ana, &space, "!gone:near", json!({})).await;
    let told = async |room: &OwnedRoomId, suggested_only: bool| {
        let mut asked = get_hierarchy::v1::Request::new(room.clone());
        asked.suggested_only = suggested_only;
        match ask(&hub, PeerCommand::PeerHierarchy(Box::new(asked))).await? {
            PeerReply::PeerHierarchy(told) => Ok(*told),
            other => panic!("{other:?}"),
        }
    };
    let all = told(&space, false).await.unwrap();
    assert_eq!(all.room.children_state.len(), 3);
    let children: Vec<_> = all.children.iter().map(|child| &child.room_id).collect();
    assert_eq!(children, [&open]);
    assert_eq!(all.inaccessible_children, std::slice::from_ref(&closed));
    let suggested = told(&space, true).await.unwrap();
    assert_eq!(suggested.room.children_state.len(), 1);
    let refused: Result<_, Refusal> = told(&closed, false).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, Code::NotFound);
}

#[tokio::test]
async fn the_event_nearest_to_a_time_is_found_in_both_directions() {
    let (hub, ana) = hub().await;
    let room = room(&hub, &ana, "public_chat").await;
    let mut asked =
        prepare_join_event::v1::Request::new(room.clone(), "@zed:far".try_into().unwrap());
    asked.ver = vec![RoomVersionId::V12];
    let made = ask(&hub, PeerCommand::MakeJoin(Box::new(asked))).await;
    let Ok(PeerReply::MakeJoin(made)) = made else {
        panic!("another answer");
    };
    let fields = Pdu::read(made.event.get(), Version::V12).unwrap();
    let zed = Pdu::sign(fields.fields().clone(), Version::V12, &key("far")).unwrap();
    let pdu = RawValue::from_string(zed.json().to_string()).unwrap();
    let asked = create_join_event::v2::Request::new(room.clone(), zed.id().clone(), pdu);
    ask(&hub, PeerCommand::SendJoin(Box::new(asked)))
        .await
        .unwrap();
    let mut said: Vec<(u64, OwnedEventId)> = Vec::new();
    for text in ["one", "two", "three"] {
        hub.clock.advance(Duration::from_mins(1));
        let body = json!({ "msgtype": "m.text", "body": text }).to_string();
        let request = send_message_event::v3::Request::new_raw(
            room.clone(),
            text.into(),
            "m.room.message".into(),
            Raw::from_json_string(body).unwrap(),
        );
        let sent = testing::ask!(hub, ana.origin, Send(request)).unwrap();
        said.push((hub.hub.now().0, sent.event_id));
    }
    let nearest = async |at: u64, dir: Direction| {
        let at = MilliSecondsSinceUnixEpoch(UInt::try_from(at).unwrap());
        let asked = get_event_by_timestamp::v1::Request::new(room.clone(), at, dir);
        match ask(&hub, PeerCommand::PeerEventByTime(Box::new(asked))).await? {
            PeerReply::PeerEventByTime(told) => Ok(told.event_id),
            other => panic!("{other:?}"),
        }
    };
    let between = said[1].0 - 1000;
    assert_eq!(
        nearest(between, Direction::Forward).await.unwrap(),
        said[1].1
    );
    assert_eq!(
        nearest(between, Direction::Backward).await.unwrap(),
        said[0].1
    );
    assert_eq!(
        nearest(said[2].0, Direction::Forward).await.unwrap(),
        said[2].1
    );
    let late: Result<_, Refusal> = nearest(said[2].0 + 1, Direction::Forward).await;
    assert_eq!(late.unwrap_err().code, Code::NotFound);
}
