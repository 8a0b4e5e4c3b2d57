//! What is told of an event whose row was changed behind the hub's back: nothing.

use ruma::api::client::{context::get_context, state::get_state_event_for_key};
use serde_json::json;

use crate::hub::{
    desk::{
        reading,
        rooms::testing::{body, texts},
    },
    testing::{TestHub, hub},
};

async fn tamper(hub: &TestHub, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(hub.dir.path().join("hub.db"));
    let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
}

#[tokio::test]
async fn a_message_changed_on_disk_reaches_nobody_and_takes_no_other_with_it() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    let before = hub.say(&ana, &room, "before").await;
    let changed = hub.say(&ana, &room, "station").await;
    hub.say(&ana, &room, "after").await;

    tamper(
        &hub,
        "UPDATE events SET json = replace(json, 'station', 'stadium')",
    )
    .await;

    let answer = hub.sync(&ana, None, json!({})).await;
    let timeline = &answer["rooms"]["join"][room.as_str()]["timeline"]["events"];
    assert_eq!(texts(timeline), ["before", "after"]);
    let page = hub.back(&ana, &room, None, 100).await.unwrap();
    assert_eq!(texts(&page["chunk"]), ["after", "before"]);
    let refusal = hub.event(&ana, &room, &changed).await.unwrap_err();
    assert_eq!(refusal.status, 500);
    let request = get_context::v3::Request::new(room.clone(), before);
    let around = reading::context(&hub.hub, &ana.caller(), request).await;
    assert_eq!(texts(&body(around.unwrap())["events_after"]), ["after"]);
    let request = get_context::v3::Request::new(room, changed);
    let around = reading::context(&hub.hub, &ana.caller(), request).await;
    assert!(around.is_err() || body(around.unwrap()).get("event").is_none());
}

#[tokio::test]
async fn a_piece_of_state_changed_on_disk_is_not_told() {
    let hub = hub().await;
    let ana = hub.account("ana").await;
    let room = hub.public_room(&ana, &[]).await;
    for name in ["Thin links", "Thick links"] {
        hub.set(&ana, &room, ("m.room.name", ""), json!({ "name": name }))
            .await
            .unwrap();
    }

    tamper(
        &hub,
        "UPDATE events SET json = replace(json, 'Thick', 'Sick')",
    )
    .await;

    let answer = hub.sync(&ana, None, json!({})).await;
    assert!(!answer.to_string().contains("Sick"));
    let request =
        get_state_event_for_key::v3::Request::new(room, "m.room.name".into(), String::new());
    let refusal = reading::state_for_key(&hub.hub, &ana.caller(), request).await;
    assert_eq!(refusal.unwrap_err().status, 500);
}
