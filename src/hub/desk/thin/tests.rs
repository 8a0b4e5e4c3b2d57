mod inbox;
mod members;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use rand::{SeedableRng, rngs::StdRng};
use ruma::OwnedRoomId;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    api::{Beside, Code, Command, Refusal, Reply, Thin, ThinReply},
    base::{Clock, Seq, Timestamp},
    hub::{
        Hub, HubParts, Settings,
        desk::rooms::testing::wish,
        testing::{self, Person, SERVER, TestHub},
    },
    store::{
        OutsideRecord, Write,
        media::MediaFiles,
        sqlite::{OpenOptions, Sqlite},
    },
    wire::{
        cbor::{self, KeyForm},
        matrix::{Pdu, PduFields, Version},
        thin::{
            Alias, Body, Draft, LinkProfile, Membership, MlsGroup, NameKind, Record, Shown,
            WholeEntry, deflate, encode_records,
        },
    },
};

impl TestHub {
    async fn thin(&self, who: &Person, wish: Thin) -> Result<ThinReply, Refusal> {
        match self.ask(&who.origin, Command::Thin(wish)).await? {
            Reply::Thin(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    async fn alias(&self, who: &Person, kind: NameKind, text: &str) -> Result<Alias, Refusal> {
        let text = text.to_owned();
        match self.thin(who, Thin::Alias { kind, text }).await? {
            ThinReply::Alias(alias) => Ok(alias),
            other => panic!("{other:?}"),
        }
    }

    async fn room_alias(&self, who: &Person, room: &OwnedRoomId) -> Alias {
        self.alias(who, NameKind::Room, room.as_str())
            .await
            .unwrap()
    }

    async fn append(&self, who: &Person, room: Alias, draft: Draft) -> Result<Seq, Refusal> {
        match self.thin(who, Thin::Append { room, draft }).await? {
            ThinReply::Appended(seq) => Ok(seq),
            other => panic!("{other:?}"),
        }
    }

    async fn log(&self, who: &Person, room: Alias, from: u64, bytes_max: u32) -> Answer {
        let from = Seq(from);
        let log = Thin::Log {
            room,
            from,
            bytes_max,
        };
        answer(self.thin(who, log).await.unwrap(), bytes_max)
    }

    async fn inbox(&self, who: &Person, after: Option<(Alias, Seq)>, bytes_max: u32) -> Answer {
        let inbox = Thin::Inbox { after, bytes_max };
        answer(self.thin(who, inbox).await.unwrap(), bytes_max)
    }

    async fn entry(&self, who: &Person, room: Alias, seq: Seq) -> Result<WholeEntry, Refusal> {
        match self.thin(who, Thin::Entry { room, seq }).await? {
            ThinReply::Entry(entry) => Ok(*entry),
            other => panic!("{other:?}"),
        }
    }

    /// The same store under a new hub.
    async fn restarted(self) -> Self {
        let Self { hub, clock, dir } = self;
        hub.drain().await;
        drop(hub);
        let options = OpenOptions::new(dir.path().join("hub.db"), SERVER.try_into().unwrap());
        let hub = Hub::start(HubParts {
            store: Arc::new(Sqlite::open(options).await.unwrap()),
            media: MediaFiles::new(dir.path().join("media")).await.unwrap(),
            key: Arc::new(testing::key()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            rng: Box::new(StdRng::seed_from_u64(8)),
            edhoc_public_x: [0; 32],
            remote: Arc::new(crate::api::Nobody),
            policy_key: None,
            settings: Settings::default(),
        });
        let hub = hub.await.unwrap();
        Self { hub, clock, dir }
    }
}

#[derive(Debug)]
struct Answer {
    records: Vec<Record>,
    through: Option<(Alias, Seq)>,
    more: bool,
}

fn answer(reply: ThinReply, bytes_max: u32) -> Answer {
    let ThinReply::Records {
        records,
        through,
        more,
    } = reply
    else {
        panic!("{reply:?}")
    };
    assert!(encode_records(&records).len() <= bytes_max.max(96) as usize);
    Answer {
        records,
        through,
        more,
    }
}

impl Answer {
    /// Every entry with its seq.
    fn entries(&self) -> Vec<(u64, Body)> {
        let entry = |record: &Record| match &record.what {
            Shown::Entry { seq, body, .. } => Some((*seq, body.clone())),
            _ => None,
        };
        self.records.iter().filter_map(entry).collect()
    }
}

fn draft(counter: u64, body: Body) -> Draft {
    Draft {
        counter,
        target: None,
        read: None,
        body,
    }
}

fn text(counter: u64, said: &str) -> Draft {
    draft(counter, Body::Text(said.to_owned()))
}

fn content(value: &Value) -> Vec<u8> {
    cbor::encode(value, KeyForm::Integer)
}

fn group() -> MlsGroup {
    MlsGroup {
        group_id: vec![7; 16],
        epoch: 300,
    }
}

async fn with_group(test: &TestHub, who: &Person) -> OwnedRoomId {
    let room = test.public_room(who, &[]).await;
    let state = json!({
        "algorithm": "org.tramline.mls.v1",
        "group_id": STANDARD_NO_PAD.encode(group().group_id),
        "epoch": group().epoch,
    });
    let set = test.set(who, &room, ("m.room.encryption", ""), state).await;
    set.unwrap();
    room
}

#[tokio::test]
async fn a_draft_of_each_kind_is_shown_back_as_it_was() {
    let test = testing::hub().await;
    let ana = test.account("ana").await;
    let room = with_group(&test, &ana).await;
    let room = test.room_alias(&ana, &room).await;
    let target = test.append(&ana, room, text(1, "first")).await.unwrap().0;
    let own = test.alias(&ana, NameKind::EventType, "com.example.own");
    let own = own.await.unwrap();
    let long = json!({"body": "m.room.message m.text m.text", "msgtype": "m.text", "x": [1, null]});
    let deflated = deflate::deflate(&content(&long)).unwrap();
    let event = |event_type, content: Vec<u8>, deflated| Body::Event {
        event_type,
        content,
        deflated,
    };
    let state = |key: &str, content: Vec<u8>, deflated| Body::State {
        event_type: own,
        state_key: key.to_owned(),
        content,
        deflated,
    };
    let small = content(&json!({"k": 1}));
    let elided = [vec![44], vec![1; 28], vec![2; 100]].concat();
    let bodies = [
        (None, Body::Text("Grüße, «Öl» 漢".to_owned())),
        (Some(target), Body::Text(String::new())),
        (None, Body::Notice("n".to_owned())),
        (Some(target), Body::Emote("e".to_owned())),
        (Some(target), Body::Reaction("👍".to_owned())),
        (None, Body::MlsElided(elided)),
        (None, Body::MlsWhole(vec![0, 1, 0, 2, 9, 9])),
        (None, event(own, small.clone(), false)),
        (None, event(21, small.clone(), false)),
        (None, state("key", small, false)),
        (None, event(own, deflated.clone(), true)),
        (None, state("", deflated, true)),
        (Some(target + 1), Body::Redaction(String::new())),
        (Some(target + 2), Body::Redaction("why".to_owned())),
    ];
    for (index, (target, body)) in bodies.into_iter().enumerate() {
        let counter = index as u64 + 2;
        let sent = Draft {
            target,
            ..draft(counter, body.clone())
        };
        test.clock.advance(Duration::from_secs(3));
        let seq = test.append(&ana, room, sent).await.unwrap();
        test.clock.advance(Duration::from_secs(5));
        let shown = test.log(&ana, room, seq.0, 1024).await;

        let what = Shown::Entry {
            seq: seq.0,
            sender: 0,
            age: 5,
            target,
            counter: Some(counter),
            body: body.clone(),
        };
        assert_eq!(shown.records[0], Record { room: None, what });
        assert_eq!((shown.through, shown.more), (Some((room, seq)), false));
        let whole = test.entry(&ana, room, seq).await.unwrap();
        assert_eq!((whole.target, whole.counter), (target, Some(counter)));
        match body {
            Body::MlsElided(elided) => {
                let message = group().rebuild(&elided).unwrap();
                assert_eq!(whole.body, Body::MlsWhole(message));
            }
            body => assert_eq!(whole.body, body),
        }
    }
}

#[tokio::test]
async fn a_draft_that_comes_again_gets_its_first_answer_also_after_a_restart() {
    let test = testing::hub().await;
    let ana = test.account("ana").await;
    let room = test.public_room(&ana, &[]).await;
    let other = test.public_room(&ana, &[]).await;
    let (room, other) = (
        test.room_alias(&ana, &room).await,
        test.room_alias(&ana, &other).await,
    );
    let first = test.append(&ana, room, text(5, "a")).await.unwrap();
    let topic = || {
        let body = Body::State {
            event_type: 6,
            state_key: String::new(),
            content: content(&json!({"topic": "t"})),
            deflated: false,
        };
        draft(6, body)
    };
    let second = test.append(&ana, room, topic()).await.unwrap();
    let already = Draft {
        counter: 7,
        ..topic()
    };
    let stood = test.append(&ana, room, already.clone()).await.unwrap();
    assert_eq!(stood, second, "it was so already");

    let test = test.restarted().await;
    let again = text(8, "b");
    assert_eq!(test.append(&ana, room, text(5, "a")).await, Ok(first));
    assert_eq!(test.append(&ana, room, topic()).await, Ok(second));
    assert_eq!(test.append(&ana, room, already).await, Ok(second));
    let third = test.append(&ana, room, again.clone()).await.unwrap();
    assert_eq!(test.append(&ana, room, again).await, Ok(third));
    assert_eq!(third, second.next());

    for (room, other) in [
        (room, text(5, "b")),
        (other, text(5, "a")),
        (room, text(6, "a")),
        (room, text(7, "a")),
        (room, draft(5, Body::Notice("a".to_owned()))),
    ] {
        let refused = test.append(&ana, room, other).await.unwrap_err();
        assert_eq!((refused.code, refused.status), (Code::DuplicateTxn, 409));
    }
    let bob = test.account("bob").await;
    let room = test.log(&ana, room, third.0 + 1, 100).await;
    assert_eq!(room.through.unwrap().1, third);
    let fresh = test.append(&bob, 0, text(5, "a")).await.unwrap_err();
    assert_eq!(fresh.code, Code::NotFound, "numbers are each device's own");
}

#[tokio::test]
async fn drafts_that_cannot_be_are_refused() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let room = test.public_room(&ana, &[]).await;
    let room = test.room_alias(&ana, &room).await;
    let refused = async |draft| test.append(&ana, room, draft).await.unwrap_err().code;
    let elided = draft(1, Body::MlsElided(vec![0; 40]));
    assert_eq!(refused(elided).await, Code::BadState);
    assert_eq!(refused(text(0, "zero")).await, Code::InvalidParam);
    let to_nothing = Draft {
        target: Some(999),
        ..text(1, "a")
    };
    assert_eq!(refused(to_nothing).await, Code::NotFound);
    let odd_target = Draft {
        target: Some(1),
        ..draft(1, Body::MlsWhole(vec![1]))
    };
    assert_eq!(refused(odd_target).await, Code::BadJson);
    for (event_type, content, deflated, code) in [
        (40, content(&json!({})), false, Code::NotFound),
        (7_000, content(&json!({})), false, Code::NotFound),
        (21, content(&json!([])), false, Code::BadJson),
        (21, content(&json!({"a": 0.5})), false, Code::BadJson),
        (21, vec![0xff], false, Code::BadJson),
        (21, vec![0xff], true, Code::BadJson),
        (8, content(&json!({})), false, Code::Forbidden),
    ] {
        let body = Body::Event {
            event_type,
            content,
            deflated,
        };
        assert_eq!(refused(draft(1, body)).await, code);
    }
    let closed = test.create(&bob, wish("private_chat", &json!([]))).await;
    let closed = closed.unwrap();
    let outside = test.alias(&ana, NameKind::Room, closed.as_str()).await;
    assert_eq!(outside.unwrap_err().code, Code::Forbidden);
    let unknown = Body::State {
        event_type: 13, // m.room.canonical_alias
        state_key: String::new(),
        content: content(&json!({"alias": "#none:hub.example"})),
        deflated: false,
    };
    assert_eq!(refused(draft(1, unknown)).await, Code::BadAlias);
    // Nothing of all this has used the counter up.
    test.append(&ana, room, text(1, "a")).await.unwrap();
}

#[tokio::test]
async fn a_log_is_read_in_pieces_of_any_size() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let room = test.public_room(&ana, &[&bob]).await;
    for n in 0..40 {
        test.say(&ana, &room, &format!("message {n}")).await;
    }
    test.say(&bob, &room, &"x".repeat(3000)).await;
    test.say(&bob, &room, "last").await;
    let alias = test.room_alias(&bob, &room).await;
    let all = test.log(&bob, alias, 1, 60_000).await;
    assert!(!all.more);
    let head = all.through.unwrap().1;
    let end = Shown::Covered {
        seq: head.0,
        head: None,
    };
    assert_eq!(all.records.last().unwrap().what, end);

    for bytes_max in [1, 96, 200, 1024] {
        let (mut from, mut pieces) = (0, Vec::new());
        loop {
            let piece = test.log(&bob, alias, from, bytes_max).await;
            pieces.extend(piece.entries());
            let through = piece.through.unwrap().1;
            if !piece.more {
                break;
            }
            assert!(through.0 >= from, "a piece makes progress");
            from = through.0 + 1;
        }
        assert_eq!(pieces.len(), all.entries().len());
        for ((seq, body), whole) in pieces.into_iter().zip(all.entries()) {
            if let Body::TooLarge { size, etag } = body {
                let entry = test.entry(&bob, alias, Seq(seq)).await.unwrap().encode();
                assert_eq!(size, entry.len() as u64);
                assert_eq!(etag, Sha256::digest(&entry)[..8]);
            } else {
                assert_eq!((seq, body), whole);
            }
        }
    }
    let beyond = test.log(&bob, alias, 9_999, 1024).await;
    assert_eq!(beyond.through, Some((alias, head)));
    assert_eq!(beyond.records.len(), 1);
}

#[tokio::test]
async fn what_one_may_not_see_has_no_record() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let hidden = json!([{"type": "m.room.history_visibility",
        "content": {"history_visibility": "joined"}}]);
    let room = test.create(&ana, wish("public_chat", &hidden)).await;
    let room = room.unwrap();
    test.say(&ana, &room, "before").await;
    let before = test.room_alias(&ana, &room).await;
    let before = test.log(&ana, before, 1, 9000).await.through.unwrap().1;
    test.join(&bob, &room).await.unwrap();
    test.say(&ana, &room, "after").await;
    let alias = test.room_alias(&bob, &room).await;

    let shown = test.log(&bob, alias, 1, 9000).await;
    let said = |entries: Vec<(u64, Body)>| -> Vec<String> {
        let texts = entries.into_iter().filter_map(|(_, body)| match body {
            Body::Text(said) => Some(said),
            _ => None,
        });
        texts.collect()
    };
    assert_eq!(said(shown.entries()), ["after"]);
    let hidden = test.entry(&bob, alias, before).await.unwrap_err();
    assert_eq!(hidden.code, Code::NotFound);
    let to_hidden = Draft {
        target: Some(before.0),
        ..draft(1, Body::Reaction("+".to_owned()))
    };
    let refused = test.append(&bob, alias, to_hidden).await.unwrap_err();
    assert_eq!(refused.code, Code::NotFound);

    test.leave(&bob, &room).await.unwrap();
    test.say(&ana, &room, "later").await;
    assert_eq!(
        said(test.log(&bob, alias, 1, 9000).await.entries()),
        ["after"]
    );
    let refused = test.append(&bob, alias, text(1, "a")).await.unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
}

#[tokio::test]
async fn names_and_numbers_belong_together() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let room = test.public_room(&ana, &[]).await;
    let closed = test.create(&ana, wish("private_chat", &json!([]))).await;
    let closed = closed.unwrap();
    test.invite(&ana, &closed, &bob).await.unwrap();
    for outside in [
        room.as_str(),
        "!nowhere:hub.example",
        "#no:hub.example",
        "x",
        "",
    ] {
        let refused = test.alias(&bob, NameKind::Room, outside).await;
        refused.unwrap_err();
    }
    let alias = async |kind, text: &str| test.alias(&bob, kind, text).await.unwrap();
    assert_eq!(alias(NameKind::User, bob.user.as_str()).await, 0);
    assert_eq!(alias(NameKind::User, ana.user.as_str()).await, 1);
    assert_eq!(alias(NameKind::EventType, "m.room.topic").await, 6);
    assert_eq!(alias(NameKind::EventType, "a.b").await, 64);
    assert_eq!(alias(NameKind::EventType, "a.b").await, 64);
    test.alias(&bob, NameKind::User, "nobody")
        .await
        .unwrap_err();

    let names = async |wanted| match test.thin(&bob, Thin::Names(wanted)).await.unwrap() {
        ThinReply::Names(names) => names
            .into_iter()
            .map(|name| (name.kind, name.alias, name.text))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let invited = (NameKind::Room, 0, closed.to_string());
    assert_eq!(names(vec![]).await, std::slice::from_ref(&invited));
    let wanted = vec![
        (NameKind::User, 0),
        (NameKind::User, 9),
        (NameKind::EventType, 6),
        (NameKind::EventType, 40),
        (NameKind::EventType, 64),
        (NameKind::Room, 0),
    ];
    assert_eq!(
        names(wanted).await,
        [
            (NameKind::User, 0, bob.user.to_string()),
            (NameKind::EventType, 6, "m.room.topic".to_owned()),
            (NameKind::EventType, 64, "a.b".to_owned()),
            invited,
        ]
    );
}

#[tokio::test]
async fn a_hello_tells_the_time_and_only_https_is_a_wake_hook() {
    let test = testing::hub().await;
    let ana = test.account("ana").await;
    let hello = async |test: &TestHub| match test.thin(&ana, Thin::Hello).await.unwrap() {
        ThinReply::Hello(hello) => hello,
        other => panic!("{other:?}"),
    };
    let before = hello(&test).await;
    assert_eq!(before.time_ms, test.hub.now().0);
    assert_ne!(before.generation, [0; 8]);
    let profile = LinkProfile {
        class: 1,
        daily_kilobytes: 50,
    };
    test.thin(&ana, Thin::LinkProfile(profile)).await.unwrap();
    let hook = async |url: &str| {
        let wish = Thin::WakeHook(Some(url.to_owned()));
        test.thin(&ana, wish).await.map(drop)
    };
    hook("https://up.example/abc").await.unwrap();
    for odd in [
        "http://up.example",
        "https://",
        "https:///x",
        "https://a b",
        "",
    ] {
        assert_eq!(hook(odd).await.unwrap_err().code, Code::InvalidParam);
    }
    let test = test.restarted().await;
    assert_eq!(hello(&test).await.generation, before.generation);
    test.thin(&ana, Thin::WakeHook(None)).await.unwrap();
}
