//! Every path, byte by byte, against a hub that says what it was told to.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::FutureExt as _;
use proptest::prelude::*;
use ruma::api::client::{account::whoami, room::get_room_event};
use serde_json::json;

use super::{
    fake::{Bench, device, who},
    *,
};
use crate::{
    api::{
        Beside, Code as Refused, Command, Credentials, Refusal, Reply, Thin as Question, ThinReply,
    },
    base::{Position, Seq, Timestamp},
    wire::{
        cbor::{self, KeyForm},
        coap::{Code, options::number},
        matrix,
        thin::{
            Body, Hello, LinkProfile, Name, NameKind, Record, Shown, WholeEntry, decode_records,
        },
    },
};

fn asking(method: Code, path: &str, body: &str) -> Request {
    let path: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    Request::new(method, &path).body(hex::decode(body).unwrap())
}

impl Bench {
    /// Code, body in hex, and whether it is to be observed.
    async fn told(&self, request: Request) -> (Code, String, bool) {
        let answered = self.thin.answer(&who(), &request).await;
        let format = answered.response.options.content_format();
        assert_eq!(format, None, "no answer of the thin profile has one");
        let body = hex::encode(&answered.response.payload);
        (answered.response.code, body, answered.watch.is_some())
    }

    fn question(&self) -> Question {
        match self.asked() {
            (origin, Command::Thin(question)) => {
                let whose = [
                    Credentials::Device(device()),
                    Credentials::Observing(device()),
                ];
                assert!(whose.contains(&origin.credentials), "{origin:?}");
                question
            }
            (_, other) => panic!("{other:?}"),
        }
    }
}

fn text(room: Option<u64>, seq: u64, text: &str) -> Record {
    Record {
        room,
        what: Shown::Entry {
            seq,
            sender: 1,
            age: 0,
            target: None,
            counter: None,
            body: Body::Text(text.to_owned()),
        },
    }
}

fn covered(seq: u64, head: Option<u64>) -> Record {
    Record {
        room: None,
        what: Shown::Covered { seq, head },
    }
}

/// The profile's example of an answer, §7.
fn example() -> ThinReply {
    ThinReply::Records {
        records: vec![text(None, 7, "hi"), covered(8, None)],
        through: Some((64, Seq(8))),
        more: false,
    }
}

/// There may be entries.
const LOG: Sought = Sought {
    log: true,
    beside: None,
};

impl Bench {
    /// What is pushed of a log.
    async fn entries(&self, watch: &Watch, bytes_max: usize) -> (Response, Watch, bool) {
        match self.thin.news(&who(), watch, LOG, bytes_max).await {
            News::Entries {
                response,
                next,
                more,
            } => (response, next, more),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table of all paths")]
async fn each_path_asks_what_the_profile_says_and_answers_in_its_bytes() {
    let bench = Bench::new();
    let hello = Hello {
        version: 1,
        generation: [0, 1, 2, 3, 4, 5, 6, 7],
        dictionary: 1,
        time_ms: 1_700_000_000_000,
    };
    let name = Name {
        kind: NameKind::Room,
        alias: 300,
        text: "!r".to_owned(),
    };
    let draft = "00ac024d656574206d65206174207468652073746174696f6e";
    for (method, path, body, reply, code, told, asks) in [
        (
            Code::GET,
            "",
            "",
            ThinReply::Hello(hello),
            "2.05",
            "010001020304050607\
            0180d095ffbc31",
            "Hello",
        ),
        (
            Code::POST,
            "BA",
            draft,
            ThinReply::Appended(Seq(300)),
            "2.04",
            "ac02",
            "Append { room: 64, draft: Draft { counter: 300, target: None, read: None, body: Text(\"Meet me at the station\") } }",
        ),
        (
            Code::FETCH,
            "BA",
            "07",
            example(),
            "2.05",
            "800701000268690f08",
            "Log { room: 64, from: Seq(7), bytes_max: 1024 }",
        ),
        (
            Code::FETCH,
            "BA",
            "07ac02",
            example(),
            "2.05",
            "800701000268690f08",
            "Log { room: 64, from: Seq(7), bytes_max: 300 }",
        ),
        (
            Code::FETCH,
            "BA",
            "07ffff7f",
            example(),
            "2.05",
            "800701000268690f08",
            "Log { room: 64, from: Seq(7), bytes_max: 65536 }",
        ),
        (
            Code::PUT,
            "A",
            "ac02",
            ThinReply::Done,
            "2.04",
            "",
            "Read { room: 0, seq: Seq(300) }",
        ),
        (
            Code::PUT,
            "_/!",
            "1e",
            ThinReply::Done,
            "2.04",
            "",
            "Typing { room: 63, seconds: 30 }",
        ),
        (
            Code::FETCH,
            "*",
            "",
            ThinReply::Records {
                records: vec![],
                through: None,
                more: false,
            },
            "2.05",
            "",
            "Inbox { after: None, bytes_max: 1024 }",
        ),
        (
            Code::FETCH,
            "*",
            "4007",
            ThinReply::Records {
                records: vec![],
                through: None,
                more: false,
            },
            "2.03",
            "",
            "Inbox { after: Some((64, Seq(7))), bytes_max: 1024 }",
        ),
        (
            Code::FETCH,
            "*",
            "400764",
            ThinReply::Records {
                records: vec![text(Some(2), 7, "hi")],
                through: Some((2, Seq(7))),
                more: false,
            },
            "2.05",
            "40020701006869",
            "Inbox { after: Some((64, Seq(7))), bytes_max: 100 }",
        ),
        (
            Code::FETCH,
            "@",
            "",
            ThinReply::Names(vec![name.clone()]),
            "2.05",
            "00ac02022172",
            "Names([])",
        ),
        (
            Code::FETCH,
            "@",
            "00ac020101",
            ThinReply::Names(vec![name]),
            "2.05",
            "00ac02022172",
            "Names([(Room, 300), (User, 1)])",
        ),
        (
            Code::POST,
            "@",
            "004062",
            ThinReply::Alias(300),
            "2.04",
            "ac02",
            "Alias { kind: Room, text: \"@b\" }",
        ),
        (
            Code::PUT,
            "=",
            "01f403",
            ThinReply::Done,
            "2.04",
            "",
            "LinkProfile(LinkProfile { class: 1, daily_kilobytes: 500 })",
        ),
        (
            Code::PUT,
            "^",
            "68747470733a2f2f702e6578616d706c652f78",
            ThinReply::Done,
            "2.04",
            "",
            "WakeHook(Some(\"https://p.example/x\"))",
        ),
        (
            Code::PUT,
            "^",
            "",
            ThinReply::Done,
            "2.04",
            "",
            "WakeHook(None)",
        ),
    ] {
        bench.will_say(reply);
        let (got, bytes, is_watched) = bench.told(asking(method, path, body)).await;
        let got = format!("{}.{:02}", got.class(), got.detail());
        assert_eq!(
            (&*got, &*bytes, is_watched),
            (code, told, false),
            "{path} {body}"
        );
        assert_eq!(format!("{:?}", bench.question()), asks);
    }
}

#[tokio::test]
async fn an_entry_in_full_has_an_etag_and_is_not_sent_twice() {
    let bench = Bench::new();
    let entry = WholeEntry {
        seq: 5,
        sender: 1,
        time_ms: 1,
        target: None,
        counter: None,
        id: [9; 32],
        body: Body::Text("hi".to_owned()),
    };
    let bytes = format!("00050101{}6869", "09".repeat(32));
    bench.will_say(ThinReply::Entry(Box::new(entry.clone())));
    let get = asking(Code::GET, "BA/F", "");
    let first = bench.thin.answer(&who(), &get).await.response;
    let etag = first.options.first(number::ETAG).unwrap().to_vec();
    assert_eq!(
        (first.code, hex::encode(&first.payload)),
        (Code::CONTENT, bytes)
    );
    assert_eq!(etag.len(), 8);

    bench.will_say(ThinReply::Entry(Box::new(entry.clone())));
    let again = get.clone().option(number::ETAG, etag.clone());
    let second = bench.thin.answer(&who(), &again).await.response;
    assert_eq!((second.code, second.payload.len()), (Code::VALID, 0));
    assert_eq!(second.options.first(number::ETAG), Some(&*etag));

    let event = json!({"type": "m.room.message", "content": {"body": "hi"}});
    let raw = serde_json::value::to_raw_value(&event).unwrap();
    let named = Name {
        kind: NameKind::Room,
        alias: 64,
        text: "!r:hub.example".to_owned(),
    };
    bench.will_say(ThinReply::Entry(Box::new(entry)));
    bench.will_say(ThinReply::Names(vec![named]));
    let reply = get_room_event::v3::Response::new(ruma::serde::Raw::from_json(raw));
    bench.will(Ok(Reply::Event(Box::new(reply))));
    let whole = bench
        .thin
        .answer(&who(), &get.option(number::ACCEPT, [60]))
        .await;
    assert_eq!(
        whole.response.payload,
        cbor::encode(&event, KeyForm::Integer)
    );
    let (_, Command::Event(asked)) = bench.asked() else {
        panic!("another command")
    };
    assert_eq!(asked.room_id, "!r:hub.example");
    assert_eq!(
        asked.event_id,
        matrix::event_id(crate::base::EventHash([9; 32]))
    );
}

#[tokio::test]
async fn what_is_wrong_is_told_by_code_and_in_words() {
    let bench = Bench::new();
    let get = |path: &str| asking(Code::GET, path, "");
    for (request, code, words) in [
        (get("AB"), Code::NOT_FOUND, "M_UNRECOGNIZED "),
        (get("%"), Code::NOT_FOUND, "M_UNRECOGNIZED "),
        (get("B/B/B"), Code::NOT_FOUND, "M_UNRECOGNIZED "),
        (get("*/B"), Code::NOT_FOUND, "M_UNRECOGNIZED "),
        (get("B"), Code::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED "),
        (get("*"), Code::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED "),
        (get("B/!"), Code::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED "),
        (
            asking(Code::PUT, "", ""),
            Code::METHOD_NOT_ALLOWED,
            "M_UNRECOGNIZED ",
        ),
        (
            asking(Code::PUT, "B/B", ""),
            Code::METHOD_NOT_ALLOWED,
            "M_UNRECOGNIZED ",
        ),
        (
            get("B/B").option(number::ACCEPT, [50]),
            Code::NOT_ACCEPTABLE,
            "M_INVALID_PARAM ",
        ),
        (
            asking(Code::POST, "B", "40"),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM the draft: a reserved bit",
        ),
        (
            asking(Code::FETCH, "B", ""),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM [from",
        ),
        (
            asking(Code::FETCH, "B", "8000"),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM [from, max_bytes]: a number",
        ),
        (
            asking(Code::FETCH, "*", "01"),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM [room",
        ),
        (
            asking(Code::PUT, "B", ""),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM the receipt",
        ),
        (
            asking(Code::PUT, "B/!", "0102"),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM typing",
        ),
        (
            asking(Code::PUT, "=", "07"),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM the link profile",
        ),
        // http://a, https://u@a
        (
            asking(Code::PUT, "^", "687474703a2f2f61"),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM the wake hook must be",
        ),
        (
            asking(Code::PUT, "^", "68747470733a2f2f754061"),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM the wake hook must name",
        ),
        (
            asking(Code::FETCH, "@", "03"),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM the names",
        ),
        (
            asking(Code::FETCH, "?", ""),
            Code::BAD_REQUEST,
            "M_INVALID_PARAM the seconds",
        ),
        (get("~/nothing/here"), Code::NOT_FOUND, ""),
    ] {
        let answered = bench.thin.answer(&who(), &request).await;
        assert_eq!(answered.response.code, code, "{request:?}");
        let said = String::from_utf8_lossy(&answered.response.payload).into_owned();
        assert!(said.starts_with(words), "{said}");
        assert_eq!(answered.operation, "Unknown");
    }
    assert!(bench.hub.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_of_the_hub_keeps_its_code_and_says_when_to_come_back() {
    let bench = Bench::new();
    let slow = Refusal::new(Refused::LimitExceeded, "slow down");
    for (refusal, code, max_age, said) in [
        (
            slow.retry_after(Duration::from_millis(2500)),
            "4.29",
            Some(3),
            "M_LIMIT_EXCEEDED slow down",
        ),
        (
            Refusal::forbidden("you are not in this room"),
            "4.03",
            None,
            "M_FORBIDDEN you are not in this room",
        ),
        (
            Refusal::not_found("no").with_status(409),
            "4.09",
            None,
            "M_NOT_FOUND no",
        ),
        (Refusal::not_found("no"), "4.04", None, "M_NOT_FOUND no"),
    ] {
        bench.will(Err(refusal));
        let request = asking(Code::FETCH, "B", "01").observing();
        let answered = bench.thin.answer(&who(), &request).await;
        let (got, response) = (answered.response.code, answered.response);
        assert_eq!(format!("{}.{:02}", got.class(), got.detail()), code);
        assert_eq!(response.options.max_age(), max_age);
        assert_eq!(response.payload, said.as_bytes());
        assert!(answered.watch.is_none());
    }
}

#[tokio::test]
async fn an_answer_of_several_blocks_has_an_etag() {
    let bench = Bench::new();
    for (length, tagged) in [(1020, false), (1021, true)] {
        bench.will_say(ThinReply::Records {
            records: vec![text(None, 7, &"x".repeat(length))],
            through: None,
            more: false,
        });
        let request = asking(Code::FETCH, "B", "01ffff03");
        let response = bench.thin.answer(&who(), &request).await.response;
        assert_eq!(
            response.options.has(number::ETAG),
            tagged,
            "{}",
            response.payload.len()
        );
        assert_eq!(response.payload.len() > 1024, tagged);
    }
}

#[tokio::test]
async fn the_rest_is_msc3079_without_a_token() {
    let bench = Bench::new();
    let user = ruma::user_id!("@ana:hub.example").to_owned();
    let reply = || Reply::Whoami(Box::new(whoami::v3::Response::new(user.clone(), false)));
    bench.will(Ok(reply()));
    let path = "~/_matrix/client/v3/account/whoami";
    let answered = bench
        .thin
        .answer(&who(), &asking(Code::GET, path, ""))
        .await;
    assert_eq!(
        (answered.operation, answered.response.code),
        ("Whoami", Code::CONTENT)
    );
    let told = cbor::decode(&answered.response.payload).unwrap();
    assert_eq!(told.keys, KeyForm::Integer);
    assert_eq!(told.value["user_id"], "@ana:hub.example");
    assert_eq!(bench.asked().0.credentials, Credentials::Device(device()));

    let request = asking(Code::GET, path, "").option(number::ACCESS_TOKEN, *b"other");
    bench.will(Ok(reply()));
    bench.thin.answer(&who(), &request).await;
    let both = Credentials::DeviceAndToken(device(), "other".to_owned());
    assert_eq!(bench.asked().0.credentials, both);

    // {"body": "x"} as `~/9/ROOM/TYPE/TXN`
    let body = hex::encode(cbor::encode(&json!({"body": "x"}), KeyForm::Integer));
    let request = asking(Code::PUT, "~/9/!r:hub.example/m.room.message/1", &body);
    let answered = bench.thin.answer(&who(), &request).await;
    assert_eq!(
        (answered.operation, answered.response.code),
        ("Send", Code::NOT_FOUND)
    );
    let (_, Command::Send(send)) = bench.asked() else {
        panic!("another command")
    };
    assert_eq!(
        (send.room_id.as_str(), send.txn_id.as_str()),
        ("!r:hub.example", "1")
    );
}

#[tokio::test]
async fn an_observed_log_goes_on_where_its_answer_ended() {
    let bench = Bench::new();
    bench.will_say(example());
    let request = asking(Code::FETCH, "BA", "07c801").observing();
    let answered = bench.thin.answer(&who(), &request).await;
    assert!(!answered.response.observing, "that is the door's to say");
    let watch = answered.watch.unwrap();
    let expected = |from, class| Watch::Room {
        room: 64,
        from: Seq(from),
        bytes_max: 200,
        class,
    };
    assert_eq!(watch, expected(9, 0));

    bench.will_say(ThinReply::Records {
        records: vec![text(None, 9, "x"), covered(9, None)],
        through: Some((64, Seq(9))),
        more: false,
    });
    let (response, next, more) = bench.entries(&watch, 150).await;
    assert_eq!((next, more), (expected(10, 0), false));
    assert_eq!(hex::encode(&response.payload), "0009010078");
    let asks = "Log { room: 64, from: Seq(9), bytes_max: 150 }";
    let as_who = bench.asked().0.credentials;
    assert_eq!(as_who, Credentials::Observing(device()), "nobody spoke");
    assert_eq!(format!("{:?}", bench.question()), asks);

    bench.will_say(ThinReply::Records {
        records: vec![covered(9, None)],
        through: Some((64, Seq(9))),
        more: false,
    });
    let nothing = bench.thin.news(&who(), &next, LOG, 2000).await;
    assert!(matches!(nothing, News::Nothing { next: same } if same == next));

    bench.will_say(ThinReply::Records {
        records: vec![covered(12, None)],
        through: Some((64, Seq(12))),
        more: false,
    });
    let nothing = bench.thin.news(&who(), &next, LOG, 2000).await;
    let News::Nothing { next } = nothing else {
        panic!("{nothing:?}")
    };
    assert_eq!(
        next,
        expected(13, 0),
        "what cannot be seen is not looked at again"
    );

    bench.will(Err(Refusal::forbidden("you are not in this room")));
    let (over, ..) = bench.entries(&next, 2000).await;
    assert_eq!(over.code, Code::FORBIDDEN);
}

#[tokio::test]
async fn a_push_keeps_to_the_class_of_the_link_that_was_said_before_a_restart() {
    let bench = Bench::new();
    *bench.table.profile.lock().unwrap() = LinkProfile {
        class: 1,
        daily_kilobytes: 0,
    };
    bench.will_say(example());
    let request = asking(Code::FETCH, "*", "4006").observing();
    let watch = bench.thin.answer(&who(), &request).await.watch.unwrap();
    assert_eq!(
        (watch.class(), watch),
        (
            1,
            Watch::Inbox {
                after: Some((64, Seq(8))),
                bytes_max: 1024,
                class: 1,
            }
        )
    );
    bench.will_say(example());
    bench.entries(&watch, 1024).await;
    let asks = "Inbox { after: Some((64, Seq(8))), bytes_max: 256 }";
    assert_eq!(format!("{:?}", bench.question()), asks);
    assert_eq!(bench.thin.link(&device()).await.push_bytes_max, 256);

    bench.will_say(ThinReply::Done);
    bench.told(asking(Code::PUT, "=", "06")).await;
    bench.will_say(example());
    let (_, next, _) = bench.entries(&watch, 1024).await;
    assert_eq!(next.class(), 6);
}

#[tokio::test]
async fn beyond_the_daily_allowance_a_push_only_announces() {
    let bench = Bench::new();
    bench.will_say(ThinReply::Done);
    bench.told(asking(Code::PUT, "=", "0001")).await;
    let down = Traffic {
        datagrams: 5,
        bytes: 1000,
    };
    bench
        .thin
        .count(&Arc::new(device()), PUSH, Traffic::NONE, down);
    let watch = Watch::of(&asking(Code::FETCH, "BA", "07")).unwrap();
    bench.will_say(example());
    let (response, ..) = bench.entries(&watch, 1024).await;
    let told = decode_records(&response.payload).unwrap();
    assert_eq!(told, [covered(6, Some(8))]);

    bench.clock.0.store(86_400_000, Ordering::SeqCst);
    bench.will_say(example());
    let (response, ..) = bench.entries(&watch, 1024).await;
    assert_eq!(hex::encode(&response.payload), "000701006869");
}

#[tokio::test]
async fn receipts_and_typing_go_along_with_entries_or_alone_and_unconfirmed_until_half_of_the_day_is_used()
 {
    let bench = Bench::new();
    let watch = Watch::of(&asking(Code::FETCH, "BA", "07")).unwrap();
    let since = Beside {
        receipts: Some(Position(9)),
        typing: None,
    };
    let receipt = || ThinReply::Records {
        records: vec![Record {
            room: None,
            what: Shown::Receipt { seq: 6, user: 2 },
        }],
        through: None,
        more: false,
    };
    let sought = |log| Sought {
        log,
        beside: Some(since),
    };

    bench.will_say(example());
    bench.will_say(receipt());
    let News::Entries { response, .. } = bench.thin.news(&who(), &watch, sought(true), 100).await
    else {
        panic!("entries are confirmed")
    };
    assert_eq!(hex::encode(&response.payload), "800701000268690d0602");
    let asks = "Beside { room: Some(64), since: Beside { receipts: Some(Position(9)), typing: None }, bytes_max: 94 }";
    assert_eq!(format!("{:?}", bench.question()), asks);

    bench.will_say(receipt());
    let alone = bench.thin.news(&who(), &watch, sought(false), 100).await;
    let News::Aside { response, next } = alone else {
        panic!("{alone:?}")
    };
    assert_eq!(
        (hex::encode(&response.payload), next),
        ("0d0602".to_owned(), watch)
    );

    bench.will_say(ThinReply::Done);
    bench.told(asking(Code::PUT, "=", "0001")).await;
    bench.thin.count(
        &Arc::new(device()),
        PUSH,
        Traffic::NONE,
        Traffic {
            datagrams: 5,
            bytes: 500,
        },
    );
    let nothing = bench.thin.news(&who(), &watch, sought(false), 100).await;
    assert!(matches!(nothing, News::Nothing { .. }), "{nothing:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_to_come_later_comes_then_and_only_so_many_wait() {
    let bench = Bench::new();
    let within = |seconds, request: Request| {
        let thin = Arc::clone(&bench.thin);
        async move {
            let by = who();
            let answer = thin.answer(&by, &request);
            let answered = tokio::time::timeout(Duration::from_secs(seconds), answer).await;
            answered.ok().map(|answered| answered.response.code)
        }
    };
    let later = asking(Code::FETCH, "?", "78"); // 120 s
    assert_eq!(within(119, later.clone()).await, None);
    assert_eq!(within(121, later.clone()).await, Some(Code::CHANGED));
    let latest = asking(Code::FETCH, "?", "ffffff7f");
    assert_eq!(within(299, latest.clone()).await, None);
    assert_eq!(within(301, latest).await, Some(Code::CHANGED));

    let _all = bench.thin.later.try_acquire_many(512).unwrap();
    let full = bench.thin.answer(&who(), &later).await.response;
    assert_eq!(full.code, Code::UNAVAILABLE);
    assert_eq!(full.options.max_age(), Some(600));
}

#[tokio::test]
async fn the_ledger_is_told_in_cbor_with_its_sums() {
    let bench = Bench::new();
    let peer = "192.0.2.7:4444".parse().unwrap();
    bench.will_say(ThinReply::Done);
    bench.told(asking(Code::PUT, "B", "05")).await;
    let (up, down) = (Traffic::datagram(&peer, 12), Traffic::datagram(&peer, 2));
    bench.thin.count(&Arc::new(device()), "ThinRead", up, down);

    let answered = bench.thin.answer(&who(), &asking(Code::GET, "$", "")).await;

    // {"": [1, 40, 30, 1, 1, 1], "ThinRead": [1, 40, 30, 1, 1]}
    let told = "a260860118281 81e010101 685468696e52656164 850118281 81e0101";
    assert_eq!(
        hex::encode(&answered.response.payload),
        told.replace(' ', "")
    );
    assert_eq!(answered.operation, "ThinLedger");
    let shown = bench.books.json(Timestamp(0));
    assert_eq!(shown["devices"][0]["device_id"], "RADIO");
    assert_eq!(
        shown["devices"][0]["operations"]["read receipt"],
        json!({"times": 1, "bytes_up": 40, "bytes_down": 30, "datagrams_up": 1,
            "datagrams_down": 1})
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_request_is_answered(
        method in 0_u8..=8,
        path in proptest::collection::vec("[*@=^$~!A-D0-9_.-]|\\PC{0,4}|_matrix|client|v3", 0..5),
        body in proptest::collection::vec(any::<u8>(), 0..60),
        options in proptest::collection::vec((0_u16..300, proptest::collection::vec(any::<u8>(), 0..9)), 0..4),
        observe: bool,
    ) {
        let bench = Bench::new();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let mut request = Request::new(Code(method), &path).body(body);
        request.observe = observe;
        for (number, value) in options {
            request.options.push(number, value);
        }
        bench.will_say(example());
        let answered = bench.thin.answer(&who(), &request).now_or_never();
        let answered = answered.expect("the fake hub does not wait");
        prop_assert!(answered.response.code.is_response());
        if let Some(watch) = answered.watch {
            prop_assert!(observe);
            prop_assert_eq!(Watch::of(&watch.request()).is_ok(), true);
        }
    }
}
