//! What a client is told by syncing, and when.

use ruma::{
    OwnedRoomId,
    api::{
        Direction,
        client::{keys::get_key_changes, receipt::create_receipt},
    },
};
use serde_json::{Value, json};

use super::sync;
use crate::{
    api::{Code, Door},
    hub::{
        desk::{
            receipts,
            rooms::testing::{ids, next, texts, wish},
        },
        testing::{Person, TestHub, ask, hub},
    },
    store::{Write, hash_of},
};

fn joined<'a>(answer: &'a Value, room: &OwnedRoomId) -> &'a Value {
    &answer["rooms"]["join"][room.as_str()]
}

fn timeline(section: &Value) -> Vec<Value> {
    let events = section["timeline"]["events"].as_array();
    events.cloned().unwrap_or_default()
}

fn kinds(events: &Value) -> Vec<String> {
    let none = Vec::new();
    let events = events.as_array().unwrap_or(&none).iter();
    events
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect()
}

async fn receipt(hub: &TestHub, who: &Person, room: &OwnedRoomId, kind: &str, event: &str) {
    let request =
        create_receipt::v3::Request::new(room.clone(), kind.into(), event.try_into().unwrap());
    receipts::receipt(&hub.hub, &who.caller(), request)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_first_sync_and_the_pages_before_it_hold_every_event_once() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    for n in 0..30 {
        hub.say(&ana, &room, &format!("m{n}")).await;
    }
    let answer = hub.sync(&ana, None, json!({})).await;
    let section = joined(&answer, &room);
    assert_eq!(section["timeline"]["limited"], true);
    assert_eq!(timeline(section).len(), 10);
    let start = section["timeline"]["prev_batch"].as_str();
    let mut all = hub.pages(&ana, &room, Direction::Backward, start, 7).await;
    all.reverse();
    all.extend(timeline(section));
    let log = hub.pages(&ana, &room, Direction::Forward, None, 100).await;
    assert_eq!(ids(&all), ids(&log));
    assert!(
        timeline(section)
            .iter()
            .all(|event| event.get("room_id").is_none())
    );
}

#[tokio::test]
async fn a_gap_is_told_with_the_state_that_changed_in_it_and_can_be_filled() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[]).await;
    let first = hub.sync(&ana, None, json!({})).await;
    hub.join(&bob, &room).await.unwrap();
    let name = json!({ "name": "in the gap" });
    hub.set(&ana, &room, ("m.room.name", ""), name)
        .await
        .unwrap();
    for n in 0..15 {
        hub.say(&bob, &room, &format!("m{n}")).await;
    }
    let second = hub.sync(&ana, Some(&next(&first)), json!({})).await;
    let section = joined(&second, &room);
    assert_eq!(section["timeline"]["limited"], true);
    let mut changed = kinds(&section["state"]["events"]);
    changed.sort();
    assert_eq!(changed, ["m.room.member", "m.room.name"]);

    let start = section["timeline"]["prev_batch"].as_str().unwrap();
    let mut request = ruma::api::client::message::get_message_events::v3::Request::new(
        room.clone(),
        Direction::Backward,
    );
    request.from = Some(start.to_owned());
    request.to = Some(next(&first));
    request.limit = 100_u32.into();
    let gap = crate::hub::desk::reading::messages(&hub.hub, &ana.caller(), request).await;
    let gap = crate::hub::desk::rooms::testing::body(gap.unwrap());
    assert_eq!(texts(&gap["chunk"]), ["m4", "m3", "m2", "m1", "m0"]);
    assert_eq!(gap["chunk"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn state_after_the_timeline_is_told_when_asked_for() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let first = hub.sync(&ana, None, json!({})).await;
    let name = json!({ "name": "new" });
    hub.set(&ana, &room, ("m.room.name", ""), name)
        .await
        .unwrap();
    let mut request = ruma::api::client::sync::sync_events::v3::Request::new();
    request.since = Some(next(&first));
    request.use_state_after = true;
    let answer = sync(&hub.hub, Door::Https, &ana.caller(), request)
        .await
        .unwrap();
    let answer = crate::hub::desk::rooms::testing::body(answer);
    let section = joined(&answer, &room);
    assert_eq!(kinds(&section["state_after"]["events"]), ["m.room.name"]);
    assert_eq!(section.get("state"), None);
}

#[tokio::test]
async fn someone_who_joins_gets_the_whole_state_once() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[]).await;
    for n in 0..12 {
        hub.say(&ana, &room, &format!("m{n}")).await;
    }
    let before = hub.sync(&bob, None, json!({})).await;
    hub.join(&bob, &room).await.unwrap();
    let after = hub.sync(&bob, Some(&next(&before)), json!({})).await;
    let section = joined(&after, &room);
    assert!(kinds(&section["state"]["events"]).contains(&"m.room.create".to_owned()));
    assert_eq!(timeline(section).last().unwrap()["type"], "m.room.member");
    let later = hub.sync(&bob, Some(&next(&after)), json!({})).await;
    assert_eq!(later.get("rooms"), None);
}

#[tokio::test]
async fn an_invite_shows_what_the_room_is_and_goes_when_it_is_turned_down() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let state = json!([{ "type": "m.room.name", "content": { "name": "Mill" } }]);
    let room = hub
        .create(&ana, wish("private_chat", &state))
        .await
        .unwrap();
    let since = next(&hub.sync(&bob, None, json!({})).await);
    hub.invite(&ana, &room, &bob).await.unwrap();
    let answer = hub.sync(&bob, Some(&since), json!({})).await;
    let invite = &answer["rooms"]["invite"][room.as_str()]["invite_state"]["events"];
    let shown = kinds(invite);
    for kind in [
        "m.room.create",
        "m.room.name",
        "m.room.join_rules",
        "m.room.member",
    ] {
        assert!(shown.contains(&kind.to_owned()), "{kind} in {shown:?}");
    }
    for event in invite.as_array().unwrap() {
        let mut keys: Vec<_> = event.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, ["content", "sender", "state_key", "type"]);
    }
    hub.leave(&bob, &room).await.unwrap();
    let answer = hub.sync(&bob, Some(&next(&answer)), json!({})).await;
    let left = &answer["rooms"]["leave"][room.as_str()];
    let events = timeline(left);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["content"]["membership"], "leave");
    assert_eq!(left.get("state"), None);
}

#[tokio::test]
async fn what_was_set_after_an_invite_or_a_knock_is_not_shown_with_it() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let eve = hub.account("eve").await;
    let state = json!([
        { "type": "m.room.name", "content": { "name": "then" } },
        { "type": "m.room.join_rules", "content": { "join_rule": "knock" } },
    ]);
    let room = hub.create(&ana, wish("private_chat", &state)).await;
    let room = room.unwrap();
    hub.invite(&ana, &room, &bob).await.unwrap();
    hub.knock(&eve, &room).await.unwrap();
    for (kind, content) in [
        ("m.room.name", json!({ "name": "later" })),
        ("m.room.topic", json!({ "topic": "later" })),
    ] {
        hub.set(&ana, &room, (kind, ""), content).await.unwrap();
    }
    let invite = hub.sync(&bob, None, json!({})).await;
    let invite = invite["rooms"]["invite"][room.as_str()].to_string();
    let knock = hub.sync(&eve, None, json!({})).await;
    let knock = knock["rooms"]["knock"][room.as_str()].to_string();
    for shown in [invite, knock] {
        assert!(
            shown.contains("then") && !shown.contains("later"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_knock_shows_what_the_room_is_and_an_answer_moves_it() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let rule = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = hub.create(&ana, wish("private_chat", &rule)).await.unwrap();
    let since = next(&hub.sync(&bob, None, json!({})).await);
    hub.knock(&bob, &room).await.unwrap();
    let answer = hub.sync(&bob, Some(&since), json!({})).await;
    let knock = &answer["rooms"]["knock"][room.as_str()]["knock_state"]["events"];
    assert!(kinds(knock).contains(&"m.room.create".to_owned()));
    hub.invite(&ana, &room, &bob).await.unwrap();
    let answer = hub.sync(&bob, Some(&next(&answer)), json!({})).await;
    assert!(answer["rooms"]["invite"][room.as_str()].is_object());
    assert_eq!(answer["rooms"].get("knock"), None);
}

#[tokio::test]
async fn a_kicked_member_is_told_up_to_the_kick_and_no_further() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    let since = next(&hub.sync(&bob, None, json!({})).await);
    hub.say(&ana, &room, "before").await;
    hub.kick(&ana, &room, &bob).await.unwrap();
    hub.say(&ana, &room, "after").await;
    let answer = hub.sync(&bob, Some(&since), json!({})).await;
    let left = &answer["rooms"]["leave"][room.as_str()];
    assert_eq!(texts(&left["timeline"]["events"]), ["before"]);
    assert_eq!(timeline(left).len(), 2);
    hub.say(&ana, &room, "much later").await;
    let answer = hub.sync(&bob, Some(&next(&answer)), json!({})).await;
    assert_eq!(answer.get("rooms"), None);
    let filter = json!({ "room": { "include_leave": true } });
    let first = hub.sync(&bob, None, filter).await;
    let left = &first["rooms"]["leave"][room.as_str()];
    assert_eq!(texts(&left["timeline"]["events"]), ["before"]);
}

#[tokio::test]
async fn mail_is_told_again_until_the_next_token_says_it_arrived() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let mail = |n: u32| Write::Mail {
        user: ana.user.clone(),
        device: ana.device.clone(),
        origin: None,
        json: json!({ "type": "m.test", "sender": ana.user, "content": { "n": n } }).to_string(),
    };
    let since = next(&hub.sync(&ana, None, json!({})).await);
    hub.write(vec![mail(1)]).await;
    let count = |answer: &Value| {
        let events = answer["to_device"]["events"].as_array();
        events.map_or(0, Vec::len)
    };
    let one = hub.sync(&ana, Some(&since), json!({})).await;
    let again = hub.sync(&ana, Some(&since), json!({})).await;
    assert_eq!((count(&one), count(&again)), (1, 1));
    let after = hub.sync(&ana, Some(&next(&again)), json!({})).await;
    assert_eq!(count(&after), 0);
    let too_late = hub.sync(&ana, Some(&since), json!({})).await;
    assert_eq!(count(&too_late), 0);
}

#[tokio::test]
async fn a_full_mailbox_is_emptied_over_several_syncs_and_loses_nothing() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let mut since = next(&hub.sync(&ana, None, json!({})).await);
    for batch in 0..5_u32 {
        let mails = (0..60).map(|n| Write::Mail {
            user: ana.user.clone(),
            device: ana.device.clone(),
            origin: None,
            json: json!({ "type": "t", "sender": ana.user, "content": { "n": batch * 60 + n } })
                .to_string(),
        });
        hub.write(mails.collect()).await;
    }
    let mut told = Vec::new();
    for _ in 0..10 {
        let answer = hub.sync(&ana, Some(&since), json!({})).await;
        since = next(&answer);
        let none = Vec::new();
        let events = answer["to_device"]["events"]
            .as_array()
            .unwrap_or(&none)
            .clone();
        told.extend(
            events
                .iter()
                .map(|event| event["content"]["n"].as_u64().unwrap()),
        );
    }
    assert_eq!(told, (0..300).collect::<Vec<u64>>());
}

#[tokio::test]
async fn whoever_waits_is_woken_by_whatever_is_new() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    let said = hub.say(&ana, &room, "hello").await;
    let mut since = next(&hub.sync(&bob, None, json!({})).await);
    for step in 0..5 {
        let wait = hub.sync_waiting(&bob, Some(&since), json!({}), 60_000);
        let act = async {
            match step {
                0 => drop(hub.say(&ana, &room, "news").await),
                1 => receipt(&hub, &ana, &room, "m.read", said.as_str()).await,
                2 => typing(&hub, &ana, &room).await,
                3 => receipt(&hub, &bob, &room, "m.read.private", said.as_str()).await,
                _ => drop(hub.leave(&bob, &room).await),
            }
        };
        let (answer, ()) = tokio::join!(wait, act);
        since = next(&answer);
        let section = joined(&answer, &room);
        match step {
            0 => assert_eq!(texts(&section["timeline"]["events"]), ["news"]),
            1 | 3 => assert_eq!(kinds(&section["ephemeral"]["events"]), ["m.receipt"]),
            2 => assert_eq!(kinds(&section["ephemeral"]["events"]), ["m.typing"]),
            _ => assert!(answer["rooms"]["leave"][room.as_str()].is_object()),
        }
    }
}

async fn typing(hub: &TestHub, who: &Person, room: &OwnedRoomId) {
    use ruma::api::client::typing::create_typing_event::v3::{Request, Typing, TypingInfo};
    let state = Typing::Yes(TypingInfo::new(std::time::Duration::from_secs(30)));
    let request = Request::new(who.user.clone(), room.clone(), state);
    receipts::typing(&hub.hub, &who.caller(), request)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_concerns_others_wakes_nobody_and_an_empty_answer_moves_on() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[]).await;
    let since = next(&hub.sync(&bob, None, json!({})).await);
    let wait = hub.sync_waiting(&bob, Some(&since), json!({}), 20);
    let (answer, _) = tokio::join!(wait, hub.say(&ana, &room, "not for bob"));
    assert_eq!(answer.get("rooms"), None);
    let after = hub.sync(&bob, Some(&next(&answer)), json!({})).await;
    assert_ne!(next(&after), since);
    assert_eq!(after.get("rooms"), None);
}

#[tokio::test]
async fn a_large_room_tells_only_the_members_who_speak() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    for n in 0..30 {
        let other = hub.account(&format!("user{n}")).await;
        hub.join(&other, &room).await.unwrap();
    }
    for n in 0..10 {
        hub.say(&ana, &room, &format!("m{n}")).await;
    }
    let filter = json!({ "room": { "state": { "lazy_load_members": true } } });
    let answer = hub.sync(&bob, None, filter.clone()).await;
    let section = joined(&answer, &room);
    let state = section["state"]["events"].as_array().unwrap();
    let members = state
        .iter()
        .filter(|event| event["type"] == "m.room.member");
    let members: Vec<_> = members
        .map(|event| event["state_key"].as_str().unwrap())
        .collect();
    let summary = &section["summary"];
    assert_eq!(summary["m.joined_member_count"], 32);
    let heroes = summary["m.heroes"].as_array().unwrap();
    assert_eq!(heroes.len(), 5);
    assert!(members.contains(&ana.user.as_str()) && members.contains(&bob.user.as_str()));
    assert!(members.len() <= 7, "{members:?}");
    let all = hub.sync(&bob, None, json!({})).await;
    let state = joined(&all, &room)["state"]["events"].as_array().unwrap();
    let members = state
        .iter()
        .filter(|event| event["type"] == "m.room.member");
    assert_eq!(members.count(), 32);

    hub.say(&ana, &room, "more").await;
    let answer = hub.sync(&bob, Some(&next(&answer)), filter).await;
    let state = joined(&answer, &room)["state"]["events"]
        .as_array()
        .unwrap();
    assert_eq!(state.len(), 1, "the sender's member event, told again");
}

#[tokio::test]
async fn unread_counts_follow_receipts_and_own_messages() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    let counts = async || {
        let answer = hub.sync(&bob, None, json!({})).await;
        let counts = joined(&answer, &room)["unread_notifications"].clone();
        (
            counts["notification_count"].as_u64(),
            counts["highlight_count"].as_u64(),
        )
    };
    hub.say(&ana, &room, "one").await;
    let two = hub.say(&ana, &room, "two").await;
    let mention = json!({
        "msgtype": "m.text", "body": "hey", "m.mentions": { "user_ids": [bob.user] },
    });
    hub.send(&ana, &room, "m.room.message", "x", &mention.to_string())
        .await
        .unwrap();
    assert_eq!(counts().await, (Some(3), Some(1)));
    receipt(&hub, &bob, &room, "m.read.private", two.as_str()).await;
    assert_eq!(counts().await, (Some(1), Some(1)));
    hub.say(&bob, &room, "mine").await;
    assert_eq!(counts().await, (Some(0), Some(0)));
}

#[tokio::test]
async fn a_private_receipt_is_its_owners_only() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    let said = hub.say(&ana, &room, "hello").await;
    receipt(&hub, &bob, &room, "m.read.private", said.as_str()).await;
    let to_ana = hub.sync(&ana, None, json!({})).await;
    assert_eq!(joined(&to_ana, &room).get("ephemeral"), None);
    let to_bob = hub.sync(&bob, None, json!({})).await;
    let events = &joined(&to_bob, &room)["ephemeral"]["events"];
    let mark = &events[0]["content"][said.as_str()]["m.read.private"];
    assert!(mark[bob.user.as_str()]["ts"].is_u64());
}

#[tokio::test]
async fn one_damaged_event_is_left_out_and_nothing_else() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    hub.say(&ana, &room, "good").await;
    let bad = hub.say(&ana, &room, "bad").await;
    hub.say(&ana, &room, "also good").await;
    let bad = hub
        .hub
        .store()
        .event(hash_of(&bad).unwrap())
        .await
        .unwrap()
        .unwrap();
    hub.write(vec![Write::Redact {
        event: bad.nid,
        because: bad.nid,
        json: "{".to_owned(),
    }])
    .await;
    let answer = hub.sync(&ana, None, json!({})).await;
    let section = joined(&answer, &room);
    assert_eq!(texts(&section["timeline"]["events"]), ["good", "also good"]);
}

#[tokio::test]
async fn tokens_that_are_not_ours_are_refused() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    for token in ["", "x", "t1", "s999999999_0", "s-1_0"] {
        let mut request = ruma::api::client::sync::sync_events::v3::Request::new();
        request.since = Some(token.to_owned());
        let refusal = sync(&hub.hub, Door::Https, &ana.caller(), request)
            .await
            .unwrap_err();
        assert_eq!(
            (refusal.code, refusal.status),
            (Code::InvalidParam, 400),
            "{token}"
        );
        assert!(refusal.message.starts_with("`since`"), "{refusal}");
    }
}

#[tokio::test]
async fn a_first_sync_brings_push_rules_and_account_data() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let data = |room: Option<OwnedRoomId>| Write::AccountData {
        user: ana.user.clone(),
        room,
        kind: "m.test".to_owned(),
        json: json!({ "n": 1 }).to_string(),
    };
    hub.write(vec![data(None), data(Some(room.clone()))]).await;
    let answer = hub.sync(&ana, None, json!({})).await;
    let global = kinds(&answer["account_data"]["events"]);
    assert_eq!(global, ["m.test", "m.push_rules"]);
    let in_room = &joined(&answer, &room)["account_data"]["events"];
    assert_eq!(kinds(in_room), ["m.test"]);
    hub.write(vec![data(Some(room.clone()))]).await;
    let answer = hub.sync(&ana, Some(&next(&answer)), json!({})).await;
    assert_eq!(answer.get("account_data"), None);
    let in_room = &joined(&answer, &room)["account_data"]["events"];
    assert_eq!(kinds(in_room), ["m.test"]);
}

#[tokio::test]
async fn filters_choose_rooms_and_types() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let other = hub.public_room(&ana, &[]).await;
    hub.say(&ana, &room, "hello").await;
    let filter = json!({ "room": { "rooms": [room], "timeline": { "types": ["m.room.mess*"] } } });
    let answer = hub.sync(&ana, None, filter).await;
    assert!(joined(&answer, &other).is_null());
    assert_eq!(
        kinds(&joined(&answer, &room)["timeline"]["events"]),
        ["m.room.message"]
    );
}

#[tokio::test]
async fn meeting_and_parting_in_encrypted_rooms_changes_the_device_lists() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let encryption = json!([
        { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
    ]);
    let room = hub
        .create(&ana, wish("public_chat", &encryption))
        .await
        .unwrap();
    let since = next(&hub.sync(&ana, None, json!({})).await);
    let bobs = next(&hub.sync(&bob, None, json!({})).await);
    hub.join(&bob, &room).await.unwrap();
    let met = hub.sync(&ana, Some(&since), json!({})).await;
    assert_eq!(met["device_lists"]["changed"], json!([bob.user]));
    let met_too = hub.sync(&bob, Some(&bobs), json!({})).await;
    assert_eq!(met_too["device_lists"]["changed"], json!([ana.user]));
    hub.leave(&bob, &room).await.unwrap();
    let parted = hub.sync(&ana, Some(&next(&met)), json!({})).await;
    assert_eq!(parted["device_lists"]["left"], json!([bob.user]));
    let parted_too = hub.sync(&bob, Some(&next(&met_too)), json!({})).await;
    assert_eq!(parted_too["device_lists"]["left"], json!([ana.user]));

    // The same between tokens of long ago.
    let between = async |who: &Person, from: &str, to: &str| {
        let asked = get_key_changes::v3::Request::new(from.to_owned(), to.to_owned());
        let told = ask!(hub, who.origin, KeyChanges(asked)).unwrap();
        (told.changed, told.left)
    };
    let [met, met_too, parted, parted_too] = [met, met_too, parted, parted_too].map(|it| next(&it));
    let (ana_is, bob_is) = (vec![ana.user.clone()], vec![bob.user.clone()]);
    assert_eq!(between(&ana, &met, &parted).await, (vec![], bob_is.clone()));
    assert_eq!(between(&bob, &met_too, &parted_too).await, (vec![], ana_is));
    assert_eq!(between(&ana, &parted, &parted).await, (vec![], vec![]));
    assert_eq!(between(&ana, &since, &parted).await, (vec![], bob_is));
}

#[tokio::test]
async fn other_devices_learn_of_a_room_that_was_left_and_forgotten() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let bob = hub.account("bob").await;
    let tablet = hub.device(&bob.user, "TABLET").await;
    let room = hub.public_room(&ana, &[&bob]).await;
    let since = next(&hub.sync(&tablet, None, json!({})).await);

    hub.leave(&bob, &room).await.unwrap();
    hub.forget(&bob, &room).await.unwrap();
    hub.say(&ana, &room, "gone").await;

    let answer = hub.sync(&tablet, Some(&since), json!({})).await;
    let left = &answer["rooms"]["leave"][room.as_str()];
    let events = left["timeline"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["content"]["membership"], "leave");
    let since = next(&answer);
    let answer = hub.sync(&tablet, Some(&since), json!({})).await;
    assert!(answer["rooms"]["leave"].is_null(), "{answer}");
}
