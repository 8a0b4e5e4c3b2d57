//! What an inbox tells: all rooms in their order, what stands beside the logs, and rooms elsewhere.

use super::*;

#[tokio::test]
async fn the_inbox_tells_all_rooms_once_in_their_order() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    assert!(test.inbox(&bob, None, 1024).await.records.is_empty());
    let one = test.public_room(&ana, &[&bob]).await;
    let two = test.public_room(&ana, &[&bob]).await;
    let heads = test.inbox(&bob, None, 1024).await;
    assert_eq!(heads.records.len(), 2);
    let start = heads.through;
    let quiet = test.inbox(&bob, start, 1024).await;
    assert!(quiet.records.is_empty() && !quiet.more);
    assert_eq!(quiet.through, start);

    let three = test.create(&ana, wish("private_chat", &json!([]))).await;
    let three = three.unwrap();
    let mut said = Vec::new();
    for n in 0..30 {
        let room = if n % 3 == 0 { &one } else { &two };
        let what = format!("{n}");
        test.say(&ana, room, &what).await;
        test.say(&ana, &three, &format!("secret {n}")).await;
        said.push(what);
        if n == 10 {
            test.invite(&ana, &three, &bob).await.unwrap();
            said.push("invited".to_owned());
        }
        if n == 20 {
            test.kick(&ana, &one, &bob).await.unwrap();
            said.push("out".to_owned());
        }
    }
    said.retain(|what| what.parse::<u32>().map_or(true, |n| n < 20 || n % 3 != 0));
    for bytes_max in [1, 120, 700, 60_000] {
        let (mut after, mut told) = (start, Vec::new());
        loop {
            let piece = test.inbox(&bob, after, bytes_max).await;
            for (_, body) in piece.entries() {
                told.push(match body {
                    Body::Text(said) => said,
                    Body::Member {
                        membership: Membership::Invite,
                        user: 0,
                        ..
                    } => "invited".into(),
                    Body::Member {
                        membership: Membership::Leave,
                        user: 0,
                        ..
                    } => "out".into(),
                    other => panic!("{other:?}"),
                });
            }
            if piece.more {
                let last = piece.records.last().unwrap();
                let (room, seq) = piece.through.unwrap();
                let what = Shown::Covered {
                    seq: seq.0,
                    head: Some(0),
                };
                assert_eq!(
                    *last,
                    Record {
                        room: Some(room),
                        what
                    }
                );
                assert_ne!(piece.through, after, "a piece makes progress");
            }
            after = piece.through;
            if !piece.more {
                break;
            }
        }
        assert_eq!(told, said);
    }
    let nowhere = Thin::Inbox {
        after: Some((start.unwrap().0, Seq(999))),
        bytes_max: 99,
    };
    let refused = test.thin(&bob, nowhere).await.unwrap_err();
    assert_eq!(refused.code, Code::NotFound);
}

#[tokio::test]
async fn what_was_read_is_told_with_a_draft_or_without() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let room = test.public_room(&ana, &[&bob]).await;
    let alias = test.room_alias(&bob, &room).await;
    let first = test.say(&ana, &room, "one").await;
    let head = test.log(&bob, alias, 1, 9000).await.through.unwrap().1;
    let read = async |seq| test.thin(&bob, Thin::Read { room: alias, seq }).await;
    let nid = test.hub.store.room(&room).await.unwrap().unwrap().nid;
    let receipt = async || {
        let receipts = test.hub.store.receipts_of(nid, &bob.user).await.unwrap();
        receipts.into_iter().next().map(|receipt| receipt.event)
    };
    read(head).await.unwrap();
    assert_eq!(receipt().await, Some(first));
    assert!(read(Seq(head.0 + 1)).await.is_err());
    let second = test.say(&ana, &room, "two").await;
    let answered = Draft {
        read: Some(head.0 + 1),
        ..text(1, "yes")
    };
    test.append(&bob, alias, answered).await.unwrap();
    assert_eq!(receipt().await, Some(second));
    let too_far = Draft {
        read: Some(999),
        ..text(2, "yes")
    };
    test.append(&bob, alias, too_far).await.unwrap();
    for seconds in [20, 0] {
        let typing = Thin::Typing {
            room: alias,
            seconds,
        };
        test.thin(&bob, typing).await.unwrap();
    }
}

#[tokio::test]
async fn what_others_have_read_and_who_types_is_shown_beside_the_logs() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let room = test.public_room(&ana, &[&bob]).await;
    let closed = test.public_room(&ana, &[]).await;
    test.say(&ana, &room, "one").await;
    let of_bob = test.room_alias(&bob, &room).await;
    let head = test.log(&bob, of_bob, 1, 9000).await.through.unwrap().1;
    let of_ana = test.room_alias(&ana, &room).await;
    let closed = test.room_alias(&ana, &closed).await;
    let since = Beside {
        receipts: Some(test.hub.fanout.position()),
        typing: Some(test.hub.desk.typing.version()),
    };
    let typing = |room, seconds| Thin::Typing { room, seconds };
    let read = Thin::Read {
        room: of_ana,
        seq: head,
    };
    for wish in [typing(of_ana, 20), typing(closed, 20), read] {
        test.thin(&ana, wish).await.unwrap();
    }
    test.thin(&bob, typing(of_bob, 20)).await.unwrap();

    let beside = async |room, since, bytes_max| {
        let wish = Thin::Beside {
            room,
            since,
            bytes_max,
        };
        match test.thin(&bob, wish).await.unwrap() {
            ThinReply::Records { records, .. } => records,
            other => panic!("{other:?}"),
        }
    };
    let receipt = |room| Record {
        room,
        what: Shown::Receipt {
            seq: head.0,
            user: 1,
        },
    };
    let types = |users| Record {
        room: None,
        what: Shown::Typing(users),
    };
    let all = beside(None, since, 1024).await;
    assert_eq!(all, [receipt(Some(of_bob)), types(vec![1])]);
    let of_one = beside(Some(of_bob), since, 1024).await;
    assert_eq!(of_one, [receipt(None), types(vec![1])]);
    assert_eq!(beside(None, since, 5).await, [receipt(Some(of_bob))]);
    assert_eq!(beside(None, Beside::default(), 1024).await, []);
    let now = Beside {
        receipts: Some(test.hub.fanout.position()),
        typing: Some(test.hub.desk.typing.version()),
    };
    test.thin(&ana, typing(of_ana, 0)).await.unwrap();
    let over = beside(Some(of_bob), now, 1024).await;
    assert_eq!(over, [types(vec![])]);
}

#[tokio::test]
async fn what_cannot_be_seen_moves_the_inbox_on() {
    let test = testing::hub().await;
    let ana = test.account("ana").await;
    let room = test.public_room(&ana, &[]).await;
    let start = test.inbox(&ana, None, 1024).await.through;
    let damage = async |event: ruma::OwnedEventId| {
        let hash = crate::store::hash_of(&event).unwrap();
        let event = test.hub.store.event(hash).await.unwrap().unwrap();
        let redact = Write::Redact {
            event: event.nid,
            because: event.nid,
            json: "{".to_owned(),
        };
        super::super::super::keep(&test.hub, vec![redact], vec![])
            .await
            .unwrap();
        event.seq.unwrap()
    };
    let hidden = damage(test.say(&ana, &room, "hidden").await).await;

    let (alias, _) = start.unwrap();
    let page = test.inbox(&ana, start, 1024).await;
    let end = |seq: Seq| Record {
        room: Some(alias),
        what: Shown::Covered {
            seq: seq.0,
            head: None,
        },
    };
    assert_eq!((page.records, page.more), (vec![end(hidden)], false));
    assert_eq!(page.through, Some((alias, hidden)));
    let page = test.inbox(&ana, page.through, 1024).await;
    assert!(page.records.is_empty(), "{page:?}");

    test.say(&ana, &room, "seen").await;
    let hidden = damage(test.say(&ana, &room, "hidden, too").await).await;
    let page = test.inbox(&ana, page.through, 1024).await;
    assert_eq!(
        (page.records.len(), page.records.last()),
        (2, Some(&end(hidden)))
    );
}

/// What another server has told of a room of its own.
fn elsewhere(who: &Person, membership: crate::room::Membership, name: &str, at: u64) -> Write {
    let content = serde_json::from_value(json!({ "membership": membership.as_str() }));
    let fields = PduFields {
        room_id: "!tea:far".try_into().unwrap(),
        kind: "m.room.member".to_owned(),
        sender: "@zed:far".try_into().unwrap(),
        state_key: Some(who.user.to_string()),
        content: content.unwrap(),
        redacts: None,
        at: Timestamp(at),
        depth: 5,
        prev: Vec::new(),
        auth: Vec::new(),
    };
    let key = crate::room::testing::key("far");
    let event = Pdu::sign(fields, Version::V11, &key).unwrap();
    let shown = json!([{"type": "m.room.name", "state_key": "", "content": {"name": name}}]);
    Write::Outside(Box::new(OutsideRecord {
        user: who.user.clone(),
        room_id: "!tea:far".try_into().unwrap(),
        membership,
        version: Version::V11,
        via: "far".try_into().unwrap(),
        event: event.json().clone(),
        state: shown.to_string().into(),
        position: crate::base::Position::ZERO,
    }))
}

#[tokio::test]
async fn invitations_into_rooms_elsewhere_come_in_their_place_and_once() {
    use crate::room::Membership as Is;
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let here = test.public_room(&ana, &[&bob]).await;
    let start = test.inbox(&bob, None, 1024).await.through;
    test.say(&ana, &here, "before").await;
    let now = test.hub.now().0;
    let long = "A teahouse with a name that goes on and on and on";
    test.write(vec![elsewhere(&bob, Is::Invite, long, now)])
        .await;
    test.say(&ana, &here, "between").await;
    test.write(vec![elsewhere(&bob, Is::Leave, long, now)])
        .await;
    test.write(vec![elsewhere(&bob, Is::Invite, "Teahouse", now)])
        .await;

    for bytes_max in [120, 1024] {
        let (mut after, mut told) = (start, Vec::new());
        loop {
            let piece = test.inbox(&bob, after, bytes_max).await;
            for record in &piece.records {
                let Shown::Entry { body, .. } = &record.what else {
                    continue;
                };
                told.push(match body {
                    Body::Text(said) => said.clone(),
                    Body::State { content, .. } => {
                        let bytes = record.encoded_len();
                        assert!(bytes <= 40, "{bytes} bytes: {record:?}");
                        cbor::decode(content).unwrap().value.to_string()
                    }
                    other => panic!("{other:?}"),
                });
            }
            after = piece.through;
            if !piece.more {
                break;
            }
        }
        // Of one room the last word counts; what it was before is not told any more.
        let invited = r#"{"membership":"invite","name":"Teahouse"}"#;
        assert_eq!(told, ["before", "between", invited], "{bytes_max}");
        let quiet = test.inbox(&bob, after, 1024).await;
        assert!(quiet.records.is_empty() && quiet.through == after);
    }
    let ThinReply::Names(names) = test.thin(&bob, Thin::Names(Vec::new())).await.unwrap() else {
        panic!("another answer");
    };
    assert!(names.iter().any(|name| name.text == "!tea:far"));
    let gone = Thin::Inbox {
        after: Some((names.len() as u64, Seq(u64::from(u32::MAX)))),
        bytes_max: 99,
    };
    test.thin(&bob, gone).await.unwrap_err();
}

#[tokio::test]
async fn the_end_of_an_invitation_elsewhere_says_that_it_was_one() {
    use crate::room::Membership as Is;
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    test.public_room(&ana, &[&bob]).await;
    let start = test.inbox(&bob, None, 1024).await.through;
    let now = test.hub.now().0;
    let ended = async |kept: Value| {
        let mut write = elsewhere(&bob, Is::Leave, "", now);
        if let Write::Outside(record) = &mut write {
            record.state = kept.to_string().into();
        }
        test.write(vec![write]).await;
        let piece = test.inbox(&bob, start, 1024).await;
        piece.records.last().unwrap().what.clone()
    };
    let invited = json!([{"type": "m.room.member", "state_key": bob.user, "sender": "@zed:far",
        "content": {"membership": "invite"}}]);
    let told = ended(invited).await;
    assert_eq!(told.membership_before(), Some(Membership::Invite));
    // Rows of before say nothing of it.
    assert_eq!(ended(json!([])).await.membership_before(), None);
}
