//! Who is there, to other servers and from them.

use std::time::Duration;

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{
        client::presence::{get_presence, set_presence},
        federation::transactions::send_transaction_message,
    },
    presence::PresenceState,
    serde::Raw,
};
use serde_json::{Value, json};

use super::world::World;
use crate::{
    api::PeerCommand,
    hub::{desk::presence, testing::ask},
};

const FAR: &str = "far.example";
const WEST: &str = "west.example";

impl World {
    async fn shows(&self, state: PresenceState) {
        let request = set_presence::v3::Request::new(self.ana.user.clone(), state);
        ask!(self.hub, self.ana.origin, SetPresence(request)).unwrap();
    }

    /// What a server was told of who is there, in order.
    fn presence(&self, server: &str) -> Vec<Value> {
        let heard = self.others.heard(server).into_iter();
        let edus = heard.flat_map(|one| one.edus);
        let told = edus.filter(|edu| edu["edu_type"] == "m.presence");
        told.flat_map(|edu| edu["content"]["push"].as_array().unwrap().clone())
            .collect()
    }

    async fn until_told(&self, server: &str, wanted: &[&str]) {
        let states = |told: Vec<Value>| {
            let told = told.into_iter();
            told.map(|one| one["presence"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        self.others
            .until(|_| states(self.presence(server)) == wanted)
            .await;
    }

    async fn later(&self, seconds: u64) {
        self.wait(Duration::from_secs(seconds));
        presence::look(&self.hub.hub).await;
    }

    /// A server sends these updates.
    async fn hears(&self, server: &str, push: Value) {
        let now = MilliSecondsSinceUnixEpoch(UInt::from(1_u32));
        let name = server.try_into().unwrap();
        let mut asked = send_transaction_message::v1::Request::new("t".into(), name, now);
        let edu = json!({ "edu_type": "m.presence", "content": { "push": push } });
        asked.edus = vec![Raw::new(&edu).unwrap().cast_unchecked()];
        self.ask(server, PeerCommand::Transaction(Box::new(asked)))
            .await;
    }

    /// What Ana sees of a user.
    async fn sees(&self, user: &str) -> Option<get_presence::v3::Response> {
        let asked = get_presence::v3::Request::new(user.try_into().unwrap());
        ask!(self.hub, self.ana.origin, Presence(asked)).ok()
    }

    async fn presence_of(&self, user: &str) -> Option<String> {
        self.sees(user).await.map(|told| told.presence.to_string())
    }
}

fn online(user: &str) -> Value {
    json!({ "user_id": user, "presence": "online", "last_active_ago": 5000,
        "currently_active": true, "status_msg": "here" })
}

#[tokio::test]
async fn servers_in_a_room_are_told_who_is_there_the_last_of_several_changes_only() {
    let world = World::seeing(&[FAR]).await;
    world.say("hello").await;
    world.until_has(FAR, &["hello"]).await;
    world.shows(PresenceState::Online).await;
    world.shows(PresenceState::Unavailable).await;
    world.later(0).await;
    world.until_told(FAR, &["unavailable"]).await;
    let told = &world.presence(FAR)[0];
    assert_eq!(told["user_id"], world.ana.user.as_str());
    assert_eq!(told["last_active_ago"], 0);
    assert_eq!(told["currently_active"], false);

    world.shows(PresenceState::Online).await;
    world.shows(PresenceState::Offline).await;
    world.later(9).await;
    assert_eq!(world.presence(FAR).len(), 1, "too soon");
    world.later(1).await;
    world.until_told(FAR, &["unavailable", "offline"]).await;
    assert!(world.presence(WEST).is_empty());
}

#[tokio::test]
async fn a_server_that_comes_into_a_room_is_told_who_is_there() {
    let world = World::seeing(&[]).await;
    world.shows(PresenceState::Online).await;
    world.later(0).await;
    world.join(FAR).await;
    world.later(10).await;
    world.until_told(FAR, &["online"]).await;
}

#[tokio::test]
async fn a_server_speaks_for_its_own_users_who_share_a_room_and_what_is_wrong_spoils_nothing() {
    let world = World::seeing(&[FAR, WEST]).await;
    let (zed, ana) = ("@zed:far.example", world.ana.user.to_string());
    let push = json!([
        online("@zed:west.example"),
        online(&ana),
        online("@nobody:far.example"),
        { "user_id": zed, "presence": "busy", "last_active_ago": 1 },
        { "user_id": zed },
        { "user_id": "no user", "presence": "online" },
        7,
        online(zed),
    ]);
    world.hears(FAR, push).await;
    let told = world.sees(zed).await.unwrap();
    assert_eq!(told.presence, PresenceState::Online);
    assert_eq!(told.status_msg.as_deref(), Some("here"));
    assert_eq!(told.currently_active, Some(true));
    assert_eq!(told.last_active_ago, Some(Duration::from_secs(5)));
    assert_eq!(
        world.presence_of("@zed:west.example").await.unwrap(),
        "offline"
    );
    assert_eq!(world.presence_of(&ana).await.unwrap(), "offline");
    assert_eq!(world.presence_of("@nobody:far.example").await, None);

    let long = json!([{ "user_id": zed, "presence": "offline", "status_msg": "é".repeat(999) }]);
    world.hears(FAR, long).await;
    let told = world.sees(zed).await.unwrap();
    assert_eq!(told.presence, PresenceState::Offline);
    assert_eq!(told.status_msg, Some("é".repeat(256)));
    assert_eq!(told.last_active_ago, None);
}

#[tokio::test]
async fn an_edu_of_which_nothing_is_taken_is_refused_and_what_is_wrong_is_told_with_its_place() {
    let zed = "@zed:far.example";
    let edu = |push: Value| json!({ "edu_type": "m.presence", "content": { "push": push } });
    let strangers = json!([online("@nobody:far.example"), online("@zed:west.example")]);
    let half = json!([online(zed), { "presence": "online" }]);
    let cases = [
        (
            edu(strangers),
            "refused",
            "EDU_NOT_JOINED",
            "2 of its 2 updates",
        ),
        (
            edu(json!([online("@zed:west.example")])),
            "refused",
            "EDU_SENDER",
            "far.example",
        ),
        (
            edu(json!([{ "presence": "online" }])),
            "refused",
            "EDU_FORM",
            "`user_id` is missing",
        ),
        (
            edu(json!([{ "user_id": 5 }])),
            "refused",
            "EDU_FORM",
            "is no user's id",
        ),
        (edu(half), "taken", "", "1 of its 2 updates were not"),
        (edu(json!([online(zed)])), "taken", "", ""),
        (
            json!({ "edu_type": "m.presence" }),
            "refused",
            "EDU_FORM",
            "`content` is missing",
        ),
        (
            json!({ "edu_type": "m.presence", "content": {} }),
            "refused",
            "EDU_FORM",
            "`push` is missing",
        ),
        (
            json!({ "content": { "push": 5 }, "edu_type": "m.presence" }),
            "refused",
            "EDU_FORM",
            "`push`: expected a list, found a number",
        ),
    ];
    let world = World::seeing(&[FAR]).await;
    let now = MilliSecondsSinceUnixEpoch(UInt::from(1_u32));
    let name = FAR.try_into().unwrap();
    let mut asked = send_transaction_message::v1::Request::new("t".into(), name, now);
    let raw = |edu: &Value| Raw::new(edu).unwrap().cast_unchecked();
    asked.edus = cases.iter().map(|(edu, ..)| raw(edu)).collect();
    world
        .ask(FAR, PeerCommand::Transaction(Box::new(asked)))
        .await;

    let told = world.hub.hub.refusals().explain("1").unwrap();
    for (at, (_, outcome, reason, said)) in cases.iter().enumerate() {
        let told = &told["transaction"]["parts"][at];
        assert_eq!(told["outcome"], *outcome, "{told}");
        assert_eq!(
            told["reason"].as_str().unwrap_or_default(),
            *reason,
            "{told}"
        );
        let words = told["said"].as_str().unwrap_or_default();
        assert!(words.contains(said), "{said} in {told}");
    }
}

#[tokio::test]
async fn a_server_that_says_too_much_is_not_listened_to_for_a_while() {
    let world = World::seeing(&[FAR, WEST]).await;
    let (far, west) = ("@zed:far.example", "@zed:west.example");
    for _ in 0..2 {
        let noise: Vec<Value> = (0..500).map(|_| online("@nobody:far.example")).collect();
        world.hears(FAR, json!(noise)).await;
    }
    world.hears(FAR, json!([online(far)])).await;
    assert_eq!(world.presence_of(far).await.unwrap(), "offline");
    world.hears(WEST, json!([online(west)])).await;
    assert_eq!(world.presence_of(west).await.unwrap(), "online");
    world.later(1).await;
    world.hears(FAR, json!([online(far)])).await;
    assert_eq!(world.presence_of(far).await.unwrap(), "online");
}

#[tokio::test]
async fn where_presence_is_off_no_server_is_told_of_it_and_what_they_say_is_passed_over() {
    let world = World::with(&[FAR]).await;
    world.shows(PresenceState::Online).await;
    world.hears(FAR, json!([online("@zed:far.example")])).await;
    world.later(10).await;
    world.say("hello").await;
    world.until_has(FAR, &["hello"]).await;
    assert!(world.presence(FAR).is_empty());
    let asked = get_presence::v3::Request::new(world.ana.user.clone());
    let told = ask!(world.hub, world.ana.origin, Presence(asked)).unwrap();
    assert_eq!(told.presence, PresenceState::Offline);
    assert_eq!(
        world.presence_of("@zed:far.example").await,
        None,
        "there is no such user here"
    );
}
