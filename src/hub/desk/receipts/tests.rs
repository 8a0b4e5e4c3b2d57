//! Receipts, markers and typing.

use std::time::Duration;

use ruma::{
    OwnedEventId, OwnedRoomId,
    api::client::{
        read_marker::set_read_marker,
        receipt::create_receipt::v3::Request,
        typing::create_typing_event::v3::{self as typing_now, Typing, TypingInfo},
    },
    events::receipt::ReceiptThread,
};
use serde_json::json;

use super::*;
use crate::{
    api::Code,
    base::{Clock, Timestamp},
    hub::{
        desk::rooms::testing::next,
        testing::{Person, TestHub, hub},
    },
};

async fn mark(
    hub: &TestHub,
    who: &Person,
    room: &OwnedRoomId,
    kind: &str,
    event: &OwnedEventId,
    thread: ReceiptThread,
) -> Result<(), Refusal> {
    let mut request = Request::new(room.clone(), kind.into(), event.clone());
    request.thread = thread;
    receipt(&hub.hub, &who.caller(), request).await.map(drop)
}

#[tokio::test]
async fn a_receipt_never_goes_back() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let one = hub.say(&ana, &room, "one").await;
    let two = hub.say(&ana, &room, "two").await;
    for event in [&two, &one] {
        mark(&hub, &ana, &room, READ, event, ReceiptThread::Unthreaded)
            .await
            .unwrap();
    }
    let nid = hub.hub.store.room(&room).await.unwrap().unwrap().nid;
    let kept = hub.hub.store.receipts_of(nid, &ana.user).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].event, two);
}

#[tokio::test]
async fn threads_have_receipts_of_their_own_and_markers_do_not() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let first = hub.say(&ana, &room, "first").await;
    let thread = ReceiptThread::Thread(first.clone());
    mark(&hub, &ana, &room, READ, &first, thread.clone())
        .await
        .unwrap();
    mark(&hub, &ana, &room, READ, &first, ReceiptThread::Main)
        .await
        .unwrap();
    let answer = hub.sync(&ana, None, json!({})).await;
    let events = &answer["rooms"]["join"][room.as_str()]["ephemeral"]["events"];
    assert_eq!(events.as_array().unwrap().len(), 2);
    let refusal = mark(&hub, &ana, &room, "m.fully_read", &first, thread)
        .await
        .unwrap_err();
    assert_eq!(refusal.code, Code::InvalidParam);
}

#[tokio::test]
async fn read_markers_become_account_data_and_receipts() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let said = hub.say(&ana, &room, "one").await;
    let since = next(&hub.sync(&ana, None, json!({})).await);
    let mut request = set_read_marker::v3::Request::new(room.clone());
    request.fully_read = Some(said.clone());
    request.read_receipt = Some(said.clone());
    read_markers(&hub.hub, &ana.caller(), request)
        .await
        .unwrap();
    let answer = hub.sync(&ana, Some(&since), json!({})).await;
    let section = &answer["rooms"]["join"][room.as_str()];
    let data = &section["account_data"]["events"][0];
    assert_eq!(data["type"], "m.fully_read");
    assert_eq!(data["content"]["event_id"], said.as_str());
    let read = &section["ephemeral"]["events"][0]["content"][said.as_str()]["m.read"];
    assert!(read[ana.user.as_str()]["ts"].is_u64());
}

#[tokio::test]
async fn events_of_another_room_cannot_be_marked() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let other = hub.public_room(&ana, &[]).await;
    let far = hub.say(&ana, &other, "elsewhere").await;
    for kind in [READ, READ_PRIVATE, "m.fully_read"] {
        let refusal = mark(&hub, &ana, &room, kind, &far, ReceiptThread::Unthreaded).await;
        assert_eq!(refusal.unwrap_err().code, Code::NotFound, "{kind}");
    }
    let mut request = set_read_marker::v3::Request::new(room.clone());
    request.read_receipt = Some(hub.say(&ana, &room, "here").await);
    request.fully_read = Some(far);
    let refusal = read_markers(&hub.hub, &ana.caller(), request).await;
    assert_eq!(refusal.unwrap_err().code, Code::NotFound);
    let nid = hub.hub.store.room(&room).await.unwrap().unwrap().nid;
    let kept = hub.hub.store.receipts_of(nid, &ana.user).await.unwrap();
    assert_eq!(kept, [], "a refused request marks nothing");
}

#[tokio::test]
async fn outsiders_mark_nothing_and_nobody_types_for_another() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[]).await;
    let said = hub.say(&ana, &room, "one").await;
    let refusal = mark(&hub, &bob, &room, READ, &said, ReceiptThread::Unthreaded).await;
    assert_eq!(refusal.unwrap_err().code, Code::Forbidden);
    let state = Typing::Yes(TypingInfo::new(Duration::from_secs(5)));
    let request = typing_now::Request::new(ana.user.clone(), room.clone(), state);
    let refusal = typing(&hub.hub, &bob.caller(), request).await.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
}

#[tokio::test]
async fn typing_that_is_not_renewed_ends_and_is_told() {
    let board = TypingBoard::default();
    let room = (RoomNid(1), <&RoomId>::try_from("!a:hub.example").unwrap());
    let ana = ruma::OwnedUserId::try_from("@ana:hub.example").unwrap();
    let now = Timestamp(1_000_000);
    assert_eq!(
        board.set(room, &ana, Some(now + Duration::from_secs(5))),
        Some(0)
    );
    assert_eq!(
        board.set(room, &ana, Some(now + Duration::from_secs(9))),
        None
    );
    let clock = Arc::new(At(now + Duration::from_secs(9)));
    let version = board.version();
    assert!(board.begin_watch(room.0, &ana));
    assert!(!board.begin_watch(room.0, &ana), "one watch is enough");
    let (rung, told) = tokio::sync::oneshot::channel();
    board
        .clone()
        .watch(room.0, ana, clock, move |before| rung.send(before).unwrap())
        .await;
    told.await.unwrap();
    let changed = board.changed(Some(version), board.version());
    assert_eq!(changed.len(), 1);
    assert!(changed[0].users.is_empty());
}

/// A clock that stands still.
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

#[test]
fn the_board_says_where_receipts_were_stored_and_when_it_does_not_know() {
    let board = TypingBoard::default();
    assert_eq!(board.receipts_since(Position(3), Position(5)), None);
    assert_eq!(board.receipts_since(Position(5), Position(9)), Some(vec![]));
    let expected = board.expect_receipts(RoomNid(1), Position(6));
    assert_eq!(
        board.receipts_since(Position(6), Position(9)),
        Some(vec![RoomNid(1)])
    );
    expected.settle(Position(7));
    assert_eq!(
        board.receipts_since(Position(6), Position(9)),
        Some(vec![RoomNid(1)])
    );
    assert_eq!(board.receipts_since(Position(7), Position(9)), Some(vec![]));
    drop(board.expect_receipts(RoomNid(2), Position(8)));
    assert_eq!(
        board.receipts_since(Position(9), Position(9)),
        Some(vec![RoomNid(2)])
    );
}

#[test]
fn a_full_board_forgets_the_oldest_and_says_so() {
    let board = TypingBoard::default();
    assert_eq!(board.receipts_since(Position(0), Position(0)), Some(vec![]));
    for n in 1..=20_000 {
        let room = RoomNid(i64::try_from(n).unwrap());
        board.expect_receipts(room, Position(n)).settle(Position(n));
    }
    assert_eq!(board.receipts_since(Position(1), Position(20_000)), None);
    let newest = board.receipts_since(Position(19_998), Position(20_000));
    assert_eq!(newest, Some(vec![RoomNid(19_999), RoomNid(20_000)]));

    let user = ruma::OwnedUserId::try_from("@ana:hub.example").unwrap();
    let id = <&RoomId>::try_from("!a:hub.example").unwrap();
    for n in 0..5000 {
        assert!(
            board
                .set((RoomNid(n), id), &user, Some(Timestamp(9)))
                .is_some()
        );
    }
    assert_eq!(board.in_room(RoomNid(0)), None);
    assert_eq!(board.in_room(RoomNid(4999)), Some(vec![user.clone()]));
    let version = board.version();
    assert_eq!(board.set((RoomNid(4000), id), &user, None), Some(version));
    let changed = board.changed(Some(version), board.version());
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].room, RoomNid(4000));
}
