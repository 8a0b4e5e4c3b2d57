//! What the operator can learn of what another server sent: each part of a transaction, and gaps that
//! stay open.

use ruma::{MilliSecondsSinceUnixEpoch, api::federation::transactions::send_transaction_message};
use serde_json::{Value, json, value::RawValue};

use super::tests::{Shared, said_by};
use crate::{
    api::{PeerCommand, PeerReply},
    base::test_log::Log,
    store::Write,
    wire::matrix::Pdu,
};

const FAR: &str = "far";

impl Shared {
    /// Sends these parts; gives what is then told of the request.
    async fn explained(&self, pdus: &[&str], edus: &[Value]) -> Value {
        let mut asked = send_transaction_message::v1::Request::new(
            "told".into(),
            FAR.try_into().unwrap(),
            MilliSecondsSinceUnixEpoch(ruma::uint!(1)),
        );
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        asked.pdus = pdus.iter().map(|json| raw(json)).collect();
        let edus = edus.iter().map(|edu| raw(&edu.to_string()));
        asked.edus = edus.map(ruma::serde::Raw::from_json).collect();
        let command = PeerCommand::Transaction(Box::new(asked));
        let PeerReply::Transaction(_) = self.ask(FAR, command).await.unwrap() else {
            panic!("another answer");
        };
        self.hub.hub.refusals().explain("1").unwrap()
    }
}

fn of<'a>(told: &'a Value, part: &str) -> &'a Value {
    let parts = told["transaction"]["parts"].as_array().unwrap();
    let part = parts.iter().find(|one| one["part"] == part);
    part.unwrap_or_else(|| panic!("{told:#}"))
}

fn assert_told(told: &Value, expected: &[(&str, &str, &str, &str)]) {
    let parts = told["transaction"]["parts"].as_array().unwrap();
    let order: Vec<_> = parts
        .iter()
        .map(|part| part["part"].as_str().unwrap())
        .collect();
    let expected_order: Vec<_> = expected.iter().map(|(part, ..)| *part).collect();
    assert_eq!(order, expected_order);
    for (part, outcome, reason, said) in expected {
        let told = of(told, part);
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
async fn what_came_of_asking_for_a_key_is_told_to_the_operator_and_not_to_the_sender() {
    let shared = Shared::open().await;
    let join = shared.joined(FAR).await;
    let hello = said_by(FAR, &join, &join, "hello");
    shared
        .far
        .keyless
        .lock()
        .unwrap()
        .push(hello.json().to_string());

    let outcomes = shared.transaction(&[&hello]).await;
    let told = shared.explained(&[hello.json()], &[]).await;

    assert_eq!(
        outcomes,
        [(hello.id().to_string(), Err("no key of far".to_owned()))]
    );
    assert_told(
        &told,
        &[("pdus[0]", "refused", "EVENT_KEY", "10.0.0.7:22 refuses")],
    );
}

#[tokio::test]
async fn each_event_of_a_transaction_has_an_outcome_under_its_place_also_without_an_id() {
    let shared = Shared::open().await;
    let join = shared.joined(FAR).await;
    let hello = said_by(FAR, &join, &join, "hello");
    let elsewhere = r#"{"room_id": "!elsewhere:far", "type": "m.x"}"#;
    let formless = format!(r#"{{"room_id": "{}", "type": 5}}"#, shared.room);
    Log::begin();

    let told = shared
        .explained(
            &[
                elsewhere,
                "5",
                &formless,
                hello.json(),
                "[1]",
                "{}",
                r#"{"room_id": 7}"#,
                r#"{"room_id": "lobby"}"#,
                r#"{"room_id": "!a:b", "room_id": "!a:b"}"#,
            ],
            &[],
        )
        .await;

    assert_told(
        &told,
        &[
            ("pdus[0]", "refused", "ROOM_UNKNOWN", "!elsewhere:far"),
            (
                "pdus[1]",
                "refused",
                "EVENT_FORM",
                "it is a number, not an object",
            ),
            ("pdus[2]", "refused", "EVENT_FORM", "`type`"),
            ("pdus[3]", "taken", "", ""),
            (
                "pdus[4]",
                "refused",
                "EVENT_FORM",
                "it is a list, not an object",
            ),
            ("pdus[5]", "refused", "EVENT_FORM", "`room_id` is missing"),
            (
                "pdus[6]",
                "refused",
                "EVENT_FORM",
                "`room_id` is a number, not a text",
            ),
            ("pdus[7]", "refused", "EVENT_FORM", "\"lobby\""),
            (
                "pdus[8]",
                "refused",
                "EVENT_FORM",
                "`room_id` is there twice",
            ),
        ],
    );
    assert_eq!(of(&told, "pdus[3]")["event_id"], hello.id().as_str());
    let refused = told["refusals"].as_array().unwrap();
    let places: Vec<_> = refused
        .iter()
        .map(|one| one["part"].as_str().unwrap())
        .collect();
    assert_eq!(places.first(), Some(&"pdus[0]"), "in their order");
    assert!(places.is_sorted(), "{places:?}");
    let log = Log::text();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("parts of a transaction"))
        .collect();
    let [line] = lines[..] else { panic!("{log}") };
    for said in [
        "refused=8 of=9",
        "pdus[1] EVENT_FORM: it is a number, not an object",
        "and 4 more",
    ] {
        assert!(line.contains(said), "{said} in {line}");
    }
}

#[tokio::test]
async fn each_edu_of_a_transaction_has_an_outcome_under_its_place() {
    let shared = Shared::open().await;
    shared.joined(FAR).await;
    let typing = |user: &str, room: &str| json!({"edu_type": "m.typing", "content": {"room_id": room, "user_id": user, "typing": true}});
    let (zed, room) = ("@zed:far", shared.room.as_str());
    let receipt = |user: &str| {
        json!({"edu_type": "m.receipt", "content": {room: {"m.read": {
            user: {"data": {"ts": 5}, "event_ids": ["$e"]}}}}})
    };
    let mut half = receipt(zed);
    half["content"][room]["m.read"]["@ana:hub.example"] =
        json!({"data": {"ts": 5}, "event_ids": ["$e"]});

    let told = shared
        .explained(
            &[],
            &[
                typing(zed, room),
                json!(5),
                json!({"content": {}}),
                json!({"edu_type": [], "content": {}}),
                typing("@ana:hub.example", room),
                typing(zed, "!elsewhere:far"),
                typing("@eve:far", room),
                json!({"edu_type": "m.typing", "content": {"room_id": room}}),
                json!({"edu_type": "m.new", "content": {}}),
                json!({"edu_type": "m.presence", "content": {"push": []}}),
                receipt(zed),
                receipt("@ana:hub.example"),
                half,
                json!({"edu_type": "m.direct_to_device", "content": {"sender": zed, "type": "m.x",
                    "message_id": "1", "messages": {"@a:elsewhere": {"*": {}}}}}),
                json!({"edu_type": "m.x", "content": {"text": "x".repeat(1024 * 1024)}}),
            ],
        )
        .await;

    assert_told(
        &told,
        &[
            ("edus[0]", "taken", "", ""),
            (
                "edus[1]",
                "refused",
                "EDU_FORM",
                "it is a number, not an object",
            ),
            ("edus[2]", "refused", "EDU_FORM", "`edu_type` is missing"),
            (
                "edus[3]",
                "refused",
                "EDU_FORM",
                "`edu_type` is a list, not a text",
            ),
            (
                "edus[4]",
                "refused",
                "EDU_SENDER",
                "far does not speak for @ana:hub.example",
            ),
            ("edus[5]", "refused", "ROOM_UNKNOWN", "!elsewhere:far"),
            ("edus[6]", "refused", "EDU_NOT_JOINED", "@eve:far is not in"),
            ("edus[7]", "refused", "EDU_FORM", "`user_id` is missing"),
            ("edus[8]", "ignored", "EDU_UNKNOWN", "nothing"),
            (
                "edus[9]",
                "ignored",
                "EDU_PRESENCE_OFF",
                "`presence.enabled`",
            ),
            ("edus[10]", "taken", "", ""),
            ("edus[11]", "refused", "EDU_SENDER", "far does not speak"),
            ("edus[12]", "taken", "", "1 of its 2 receipts were not"),
            (
                "edus[13]",
                "ignored",
                "EDU_NOBODY_HERE",
                "no user of this hub",
            ),
            (
                "edus[14]",
                "refused",
                "EDU_TOO_MUCH",
                "1048576 are the most",
            ),
        ],
    );
    assert_eq!(of(&told, "edus[8]")["type"], "m.new");
    let refused = told["refusals"].as_array().unwrap();
    assert_eq!(refused.len(), 1, "one stands for all EDUs: {refused:?}");
    assert_eq!(refused[0]["part"], "edus[1]");
    assert!(
        refused[0]["said"]
            .as_str()
            .unwrap()
            .contains("and 8 more EDUs")
    );
}

#[tokio::test]
async fn messages_that_find_no_device_or_a_full_mailbox_are_told_as_not_taken() {
    let shared = Shared::open().await;
    let ana = &shared.ana;
    shared.hub.device(&ana.user, "TABLET").await;
    let mail = Write::Mail {
        user: ana.user.clone(),
        device: ana.device.clone(),
        origin: Some("evil.example".try_into().unwrap()),
        json: "{}".to_owned(),
    };
    shared.hub.write(vec![mail; 2500]).await;
    let to = |id: &str, user: &str, devices: Value| {
        json!({"edu_type": "m.direct_to_device", "content": {"sender": "@zed:far",
            "type": "m.x", "message_id": id, "messages": {user: devices}}})
    };
    let full = to("1", ana.user.as_str(), json!({ana.device.as_str(): {}}));
    let half = to("2", ana.user.as_str(), json!({"*": {}}));
    let gone = to("3", "@gone:hub.example", json!({"*": {}}));

    let told = shared.explained(&[], &[full, half, gone]).await;

    let lost = "1 of its messages were not: the mailboxes of their devices are full";
    assert_told(
        &told,
        &[
            ("edus[0]", "refused", "EDU_TOO_MUCH", lost),
            ("edus[1]", "taken", "", lost),
            (
                "edus[2]",
                "ignored",
                "EDU_NOBODY_HERE",
                "no device of its users",
            ),
        ],
    );
}

#[tokio::test]
async fn what_was_taken_whole_is_told_too_and_nothing_of_it_was_refused() {
    let shared = Shared::open().await;
    let join = shared.joined(FAR).await;
    let hello = said_by(FAR, &join, &join, "hello");

    let told = shared.explained(&[hello.json()], &[]).await;

    assert_eq!(told["refusals"], json!([]));
    assert_told(&told, &[("pdus[0]", "taken", "", "")]);
    assert_eq!(told["transaction"]["from"], FAR);
}

#[tokio::test]
async fn a_gap_of_which_a_forged_event_is_told_is_warned_of_once_and_told_with_its_cause() {
    let shared = Shared::open().await;
    let join = shared.joined(FAR).await;
    let one = said_by(FAR, &join, &join, "one");
    let two = said_by(FAR, &one, &join, "two");
    let tell = |event: &Pdu| *shared.far.missing.lock().unwrap() = vec![event.json().to_string()];
    shared
        .far
        .forged
        .lock()
        .unwrap()
        .push(one.json().to_string());
    Log::begin();

    tell(&one);
    let told = shared.explained(&[two.json()], &[]).await;
    tell(&one);
    shared.transaction(&[&two]).await;

    let log = Log::text();
    let warned: Vec<_> = log
        .lines()
        .filter(|line| line.contains("GAP_OPEN"))
        .collect();
    let [line] = warned[..] else { panic!("{log}") };
    for said in [
        "WARN",
        shared.room.as_str(),
        "peer=far",
        "missing=1",
        "EVENT_SIGNATURE",
        "the signature of far is wrong",
        "tramline doctor --peer far",
    ] {
        assert!(line.contains(said), "{said} in {line}");
    }
    let refused = &told["refusals"][0];
    assert_eq!(refused["reason"], "EVENTS_MISSING");
    let cause = refused["cause"].as_str().unwrap();
    assert!(
        cause.starts_with("EVENT_SIGNATURE: far told an event that is not taken: ")
            && cause.contains(one.id().as_str()),
        "{cause}"
    );
    let open = shared.hub.hub.open_gaps().await.unwrap();
    let [(room, gap)] = &open[..] else {
        panic!("{open:?}")
    };
    assert_eq!(
        (room, gap.server.as_str(), gap.missing),
        (&shared.room, FAR, 1)
    );
    assert_eq!(gap.code, "EVENT_SIGNATURE");

    shared.far.forged.lock().unwrap().clear();
    tell(&one);
    assert!(shared.transaction(&[&two]).await[0].1.is_ok());
    assert!(shared.hub.hub.open_gaps().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_gap_of_which_nothing_is_told_says_what_the_server_answered() {
    let shared = Shared::open().await;
    let join = shared.joined(FAR).await;
    let one = said_by(FAR, &join, &join, "one");
    let two = said_by(FAR, &one, &join, "two");

    let told = shared.explained(&[two.json()], &[]).await;

    let cause = told["refusals"][0]["cause"].as_str().unwrap();
    assert!(
        cause.starts_with("PEER_HAS_NOT: far refused with 404"),
        "{cause}"
    );
}
