//! The directory of rooms and the search for users, from the door's side.

use ruma::api::federation::directory::{
    get_public_rooms as peer_rooms, get_public_rooms_filtered as peer_search,
};
use ruma::{
    OwnedRoomId,
    api::client::{
        directory::{
            get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility,
        },
        room::{Visibility, create_room},
        user_directory::search_users,
    },
    directory::{PublicRoomsChunk, RoomTypeFilter},
};
use serde_json::json;

use crate::{
    api::{Code, Command, Credentials, Origin, PeerCommand, PeerReply, Refusal, Reply},
    hub::{
        Settings,
        desk::rooms::testing::wish,
        testing::{Person, TestHub, ask, hub, stranger},
    },
    store::Write,
};

fn named(name: &str, visibility: Visibility) -> create_room::v3::Request {
    let mut request = wish("private_chat", &json!([]));
    request.visibility = visibility;
    request.name = Some(name.to_owned());
    request
}

async fn search(hub: &TestHub, who: &Person, term: &str) -> Vec<PublicRoomsChunk> {
    let mut request = get_public_rooms_filtered::v3::Request::new();
    request.filter.generic_search_term = Some(term.to_owned());
    ask!(hub, who.origin, SearchPublicRooms(request))
        .unwrap()
        .chunk
}

async fn list(
    hub: &TestHub,
    who: &Person,
    room: &OwnedRoomId,
    visibility: Visibility,
) -> Result<(), Refusal> {
    let request = set_room_visibility::v3::Request::new(room.clone(), visibility);
    ask!(hub, who.origin, SetRoomVisibility(request)).map(drop)
}

#[tokio::test]
async fn a_room_made_to_be_found_is_found_by_its_words_and_others_are_not() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let mut open = named("Thin Links", Visibility::Public);
    open.topic = Some("Ångström and other lengths".to_owned());
    open.preset = Some(create_room::v3::RoomPreset::PublicChat);
    open.room_alias_name = Some("thin".to_owned());
    let open = hub.create(&ana, open).await.unwrap();
    hub.create(&ana, named("thin secrets", Visibility::Private))
        .await
        .unwrap();

    for term in ["thin links", "ångström", "#thin:", ""] {
        let found = search(&hub, &bob, term).await;
        assert_eq!(found.len(), 1, "{term}");
        let room = serde_json::to_value(&found[0]).unwrap();
        assert_eq!(
            room,
            json!({
                "canonical_alias": "#thin:hub.example",
                "guest_can_join": false,
                "name": "Thin Links",
                "num_joined_members": 1,
                "room_id": open,
                "topic": "Ångström and other lengths",
                "world_readable": false,
            })
        );
    }
    assert!(search(&hub, &bob, "secret").await.is_empty());
    let mut spaces = get_public_rooms_filtered::v3::Request::new();
    spaces.filter.room_types = vec![RoomTypeFilter::Space];
    let spaces = ask!(hub, bob.origin, SearchPublicRooms(spaces)).unwrap();
    assert!(spaces.chunk.is_empty());
}

#[tokio::test]
async fn pages_of_the_directory_hold_every_room_once_the_largest_first() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let mut rooms = Vec::new();
    for n in 0..5 {
        let mut request = named(&format!("room {n}"), Visibility::Public);
        request.preset = Some(create_room::v3::RoomPreset::PublicChat);
        rooms.push(hub.create(&ana, request).await.unwrap());
    }
    hub.join(&bob, &rooms[3]).await.unwrap();
    let mut told = Vec::new();
    let mut since = None;
    loop {
        let mut request = get_public_rooms::v3::Request::new();
        request.limit = Some(2_u32.into());
        request.since = since;
        let page = ask!(hub, bob.origin, PublicRooms(request)).unwrap();
        assert!(page.chunk.len() <= 2);
        told.extend(page.chunk.into_iter().map(|room| room.room_id));
        since = page.next_batch;
        if since.is_none() {
            break;
        }
    }
    let wanted = [3, 0, 1, 2, 4].map(|n: usize| rooms[n].clone());
    assert_eq!(told, wanted);

    let mut odd = get_public_rooms::v3::Request::new();
    odd.since = Some("s17".to_owned());
    let refusal = ask!(hub, bob.origin, PublicRooms(odd)).unwrap_err();
    assert_eq!(refusal.code, Code::InvalidParam);
    let mut far = get_public_rooms::v3::Request::new();
    far.server = Some("elsewhere.example".try_into().unwrap());
    let refusal = ask!(hub, bob.origin, PublicRooms(far)).unwrap_err();
    assert!(refusal.message.contains("federation is off on this hub"));
    let nobody = get_public_rooms::v3::Request::new();
    let refusal = ask!(hub, stranger(), PublicRooms(nobody)).unwrap_err();
    assert_eq!(refusal.code, Code::MissingToken);
}

#[tokio::test]
async fn who_may_name_a_room_puts_it_into_the_directory_and_takes_it_out() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let eve = hub.account("eve").await;
    let room = hub.public_room(&ana, &[&bob]).await;

    for (who, code) in [(&bob, Code::Forbidden), (&eve, Code::Forbidden)] {
        let refusal = list(&hub, who, &room, Visibility::Public).await;
        assert_eq!(refusal.unwrap_err().code, code);
    }
    assert!(search(&hub, &eve, "").await.is_empty());
    list(&hub, &ana, &room, Visibility::Public).await.unwrap();
    assert_eq!(search(&hub, &eve, "").await.len(), 1);
    let asked = get_room_visibility::v3::Request::new(room.clone());
    let told = ask!(hub, stranger(), RoomVisibility(asked)).unwrap();
    assert_eq!(told.visibility, Visibility::Public);
    list(&hub, &ana, &room, Visibility::Private).await.unwrap();
    assert!(search(&hub, &eve, "").await.is_empty());
}

#[tokio::test]
async fn a_room_that_could_not_be_made_is_not_in_the_directory() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let mut bad = wish(
        "private_chat",
        &json!([{ "type": "m.room.create", "content": {} }]),
    );
    bad.visibility = Visibility::Public;
    bad.room_alias_name = Some("mill".to_owned());
    hub.create(&ana, bad).await.unwrap_err();
    let next = hub.hub.store.numbers().room();
    let last = crate::store::RoomNid(next.0 - 1);
    assert!(!hub.hub.store.is_listed(last).await.unwrap());
}

#[tokio::test]
async fn one_finds_those_one_meets_and_those_in_listed_rooms_by_id_and_by_name() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let near = hub.account("nearby").await;
    let listed = hub.account("listed").await;
    let hidden = hub.account("hidden").await;
    for (who, name) in [(&near, "Bertha"), (&listed, "Lisa"), (&hidden, "Bertha")] {
        hub.write(vec![Write::Profile {
            user: who.user.clone(),
            field: "displayname".to_owned(),
            json: Some(json!(name).to_string()),
        }])
        .await;
    }
    hub.public_room(&ana, &[&near]).await;
    hub.public_room(&hidden, &[]).await;
    let found = hub.public_room(&listed, &[]).await;
    list(&hub, &listed, &found, Visibility::Public)
        .await
        .unwrap();

    for (term, expected) in [
        ("bertha", vec![&near]),
        ("@Near", vec![&near]),
        ("lis", vec![&listed]),
        ("hub.example", vec![&listed, &near]),
        ("ana:", vec![]),
        ("hidden", vec![]),
        (" ", vec![]),
    ] {
        let request = search_users::v3::Request::new(term.to_owned());
        let told = ask!(hub, ana.origin, SearchUsers(request)).unwrap();
        let told: Vec<_> = told.results.iter().map(|user| &user.user_id).collect();
        let expected: Vec<_> = expected.into_iter().map(|who| &who.user).collect();
        assert_eq!(told, expected, "{term}");
    }
    let mut one = search_users::v3::Request::new("hub.example".to_owned());
    one.limit = 1_u32.into();
    let told = ask!(hub, ana.origin, SearchUsers(one)).unwrap();
    assert_eq!((told.results.len(), told.limited), (1, true));
    assert_eq!(told.results[0].display_name.as_deref(), Some("Lisa"));
}

/// What another server is shown, by either way to ask.
async fn shown_elsewhere(hub: &TestHub) -> [Result<usize, Refusal>; 2] {
    let origin = Origin {
        credentials: Credentials::Server("far".try_into().unwrap()),
        ..stranger()
    };
    let mut told = Vec::new();
    for asked in [
        PeerCommand::PeerPublicRooms(Box::new(peer_rooms::v1::Request::new())),
        PeerCommand::PeerRoomSearch(Box::new(peer_search::v1::Request::new())),
    ] {
        let reply = hub.ask(&origin, Command::Peer(Box::new(asked))).await;
        told.push(reply.map(|reply| match reply {
            Reply::Peer(reply) => match *reply {
                PeerReply::PeerPublicRooms(rooms) => rooms.chunk.len(),
                PeerReply::PeerRoomSearch(rooms) => rooms.chunk.len(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }));
    }
    told.try_into().unwrap()
}

#[tokio::test]
async fn other_servers_see_the_directory_only_where_the_operator_shares_it() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    hub.create(&ana, named("Square", Visibility::Public))
        .await
        .unwrap();

    for refusal in shown_elsewhere(&hub).await {
        let refusal = refusal.unwrap_err();
        assert_eq!((refusal.code, refusal.status), (Code::Forbidden, 403));
        assert_eq!(refusal.why.unwrap().code, Some("DIRECTORY_CLOSED"));
    }
    hub.hub.reconfigure(Settings {
        share_directory: true,
        ..Settings::default()
    });
    for shown in shown_elsewhere(&hub).await {
        assert_eq!(shown.unwrap(), 1);
    }
}
