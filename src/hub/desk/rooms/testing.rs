//! People who talk in rooms, for the tests of rooms, reading and syncing.

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedTransactionId,
    api::{
        Direction, OutgoingResponse, OutgoingResponseExt as _,
        client::{filter::FilterDefinition, knock, membership, message, redact, room, state, sync},
    },
    serde::Raw,
};
use serde_json::{Value, json};

use crate::{
    api::{Door, Refusal},
    hub::{
        desk::{reading, rooms},
        testing::{Person, TestHub},
    },
};

/// What a client would read.
pub(in crate::hub) fn body(response: impl OutgoingResponse) -> Value {
    let http = response.try_into_http_response::<Vec<u8>>().unwrap();
    serde_json::from_slice(http.body()).unwrap()
}

/// `createRoom` with these members of the body.
pub(in crate::hub) fn wish(preset: &str, state: &Value) -> room::create_room::v3::Request {
    let mut request = room::create_room::v3::Request::new();
    request.preset = Some(preset.into());
    request.initial_state = state
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| Raw::new(entry).unwrap().cast_unchecked())
        .collect();
    request
}

impl TestHub {
    pub(in crate::hub) async fn create(
        &self,
        who: &Person,
        request: room::create_room::v3::Request,
    ) -> Result<OwnedRoomId, Refusal> {
        self.clock.advance(std::time::Duration::from_secs(1));
        let made = rooms::create_room(&self.hub, &who.caller(), request).await;
        made.map(|made| made.room_id)
    }

    /// A room anyone may join, and some who did.
    pub(in crate::hub) async fn public_room(
        &self,
        who: &Person,
        others: &[&Person],
    ) -> OwnedRoomId {
        let room = self
            .create(who, wish("public_chat", &json!([])))
            .await
            .unwrap();
        for other in others {
            self.join(other, &room).await.unwrap();
        }
        room
    }

    pub(in crate::hub) async fn send(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        kind: &str,
        txn: &str,
        content: &str,
    ) -> Result<OwnedEventId, Refusal> {
        let request = message::send_message_event::v3::Request::new_raw(
            room.clone(),
            OwnedTransactionId::from(txn),
            kind.into(),
            Raw::from_json_string(content.to_owned()).unwrap(),
        );
        self.clock.advance(std::time::Duration::from_secs(1));
        let sent = rooms::send(&self.hub, &who.caller(), request).await;
        sent.map(|sent| sent.event_id)
    }

    /// Says something; the text is the transaction id too.
    pub(in crate::hub) async fn say(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        text: &str,
    ) -> OwnedEventId {
        let content = json!({ "msgtype": "m.text", "body": text }).to_string();
        self.send(who, room, "m.room.message", text, &content)
            .await
            .unwrap()
    }

    pub(in crate::hub) async fn set(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        (kind, key): (&str, &str),
        content: Value,
    ) -> Result<OwnedEventId, Refusal> {
        let request = state::send_state_event::v3::Request::new_raw(
            room.clone(),
            kind.into(),
            key.to_owned(),
            Raw::from_json_string(content.to_string()).unwrap(),
        );
        let sent = rooms::send_state(&self.hub, &who.caller(), request).await;
        sent.map(|sent| sent.event_id)
    }

    pub(in crate::hub) async fn redact(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        event: &OwnedEventId,
    ) -> Result<OwnedEventId, Refusal> {
        let request = redact::redact_event::v3::Request::new(
            room.clone(),
            event.clone(),
            OwnedTransactionId::from(format!("r{event}")),
        );
        let sent = rooms::redact(&self.hub, &who.caller(), request).await;
        sent.map(|sent| sent.event_id)
    }

    pub(in crate::hub) async fn join(
        &self,
        who: &Person,
        room: &OwnedRoomId,
    ) -> Result<(), Refusal> {
        let request = membership::join_room_by_id::v3::Request::new(room.clone());
        rooms::join(&self.hub, &who.caller(), request)
            .await
            .map(drop)
    }

    pub(in crate::hub) async fn knock(
        &self,
        who: &Person,
        room: &OwnedRoomId,
    ) -> Result<(), Refusal> {
        let request = knock::knock_room::v3::Request::new(room.clone().into());
        rooms::knock(&self.hub, &who.caller(), request)
            .await
            .map(drop)
    }

    pub(in crate::hub) async fn leave(
        &self,
        who: &Person,
        room: &OwnedRoomId,
    ) -> Result<(), Refusal> {
        let request = membership::leave_room::v3::Request::new(room.clone());
        rooms::leave(&self.hub, &who.caller(), request)
            .await
            .map(drop)
    }

    pub(in crate::hub) async fn forget(
        &self,
        who: &Person,
        room: &OwnedRoomId,
    ) -> Result<(), Refusal> {
        let request = membership::forget_room::v3::Request::new(room.clone());
        rooms::forget(&self.hub, &who.caller(), request)
            .await
            .map(drop)
    }

    pub(in crate::hub) async fn invite(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        whom: &Person,
    ) -> Result<(), Refusal> {
        use membership::invite_user::v3::{InviteUserId, Request};
        let recipient = InviteUserId::new(whom.user.clone()).into();
        let request = Request::new(room.clone(), recipient);
        rooms::invite(&self.hub, &who.caller(), request)
            .await
            .map(drop)
    }

    pub(in crate::hub) async fn kick(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        whom: &Person,
    ) -> Result<(), Refusal> {
        let request = membership::kick_user::v3::Request::new(room.clone(), whom.user.clone());
        rooms::kick(&self.hub, &who.caller(), request)
            .await
            .map(drop)
    }

    pub(in crate::hub) async fn ban(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        whom: &Person,
    ) -> Result<(), Refusal> {
        let request = membership::ban_user::v3::Request::new(room.clone(), whom.user.clone());
        rooms::ban(&self.hub, &who.caller(), request)
            .await
            .map(drop)
    }

    pub(in crate::hub) async fn event(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        event: &OwnedEventId,
    ) -> Result<Value, Refusal> {
        let request = room::get_room_event::v3::Request::new(room.clone(), event.clone());
        reading::event(&self.hub, &who.caller(), request)
            .await
            .map(body)
    }

    /// A page of a room's log, backwards from `from`.
    pub(in crate::hub) async fn back(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        from: Option<&str>,
        limit: u32,
    ) -> Result<Value, Refusal> {
        self.page(who, room, Direction::Backward, from, limit).await
    }

    pub(in crate::hub) async fn page(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        dir: Direction,
        from: Option<&str>,
        limit: u32,
    ) -> Result<Value, Refusal> {
        let mut request = message::get_message_events::v3::Request::new(room.clone(), dir);
        request.from = from.map(ToOwned::to_owned);
        request.limit = limit.into();
        reading::messages(&self.hub, &who.caller(), request)
            .await
            .map(body)
    }

    /// Everything in a direction, page by page.
    pub(in crate::hub) async fn pages(
        &self,
        who: &Person,
        room: &OwnedRoomId,
        dir: Direction,
        from: Option<&str>,
        limit: u32,
    ) -> Vec<Value> {
        let mut all = Vec::new();
        let mut from = from.map(ToOwned::to_owned);
        loop {
            let page = self
                .page(who, room, dir, from.as_deref(), limit)
                .await
                .unwrap();
            all.extend(page["chunk"].as_array().unwrap().clone());
            match page["end"].as_str() {
                None => return all,
                Some(end) => {
                    assert_ne!(from.as_deref(), Some(end), "a page makes progress");
                    from = Some(end.to_owned());
                }
            }
        }
    }

    /// A sync that does not wait.
    pub(in crate::hub) async fn sync(
        &self,
        who: &Person,
        since: Option<&str>,
        filter: Value,
    ) -> Value {
        self.sync_waiting(who, since, filter, 0).await
    }

    pub(in crate::hub) async fn sync_waiting(
        &self,
        who: &Person,
        since: Option<&str>,
        filter: Value,
        wait_ms: u64,
    ) -> Value {
        let mut request = sync::sync_events::v3::Request::new();
        request.since = since.map(ToOwned::to_owned);
        request.timeout = Some(std::time::Duration::from_millis(wait_ms));
        let filter: FilterDefinition = serde_json::from_value(filter).unwrap();
        request.filter = Some(filter.into());
        let answer =
            crate::hub::desk::sync::sync(&self.hub, Door::Https, &who.caller(), request).await;
        body(answer.unwrap())
    }
}

/// The texts of messages, in their order.
pub(in crate::hub) fn texts(events: &Value) -> Vec<String> {
    let none = Vec::new();
    let events = events.as_array().unwrap_or(&none).iter();
    events
        .filter_map(|event| event["content"]["body"].as_str())
        .map(ToOwned::to_owned)
        .collect()
}

/// The ids of events, in their order.
pub(in crate::hub) fn ids(events: &[Value]) -> Vec<String> {
    let ids = events
        .iter()
        .map(|event| event["event_id"].as_str().unwrap());
    ids.map(ToOwned::to_owned).collect()
}

/// The token for the next sync.
pub(in crate::hub) fn next(answer: &Value) -> String {
    answer["next_batch"].as_str().unwrap().to_owned()
}
