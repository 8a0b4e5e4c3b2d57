//! Who did what to whom, and what one who is out of a room may still read.

use super::*;

#[tokio::test]
async fn who_did_what_to_whom_is_told() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let room = test.public_room(&ana, &[]).await;
    let alias = test.room_alias(&ana, &room).await;
    let start = test.log(&ana, alias, 1, 9000).await.through.unwrap().1;
    let by_ana = async |membership: &str| {
        let key = ("m.room.member", bob.user.as_str());
        let content = json!({ "membership": membership, "reason": "so" });
        test.set(&ana, &room, key, content).await.unwrap();
    };
    test.invite(&ana, &room, &bob).await.unwrap();
    test.kick(&ana, &room, &bob).await.unwrap(); // taken back
    test.invite(&ana, &room, &bob).await.unwrap();
    test.leave(&bob, &room).await.unwrap(); // turned down
    test.join(&bob, &room).await.unwrap();
    test.kick(&ana, &room, &bob).await.unwrap(); // removed
    test.join(&bob, &room).await.unwrap();
    test.leave(&bob, &room).await.unwrap(); // left
    test.ban(&ana, &room, &bob).await.unwrap();
    by_ana("leave").await; // the end of the ban, with a reason
    test.join(&bob, &room).await.unwrap();
    let name = json!({ "membership": "join", "displayname": "Bob" });
    let key = ("m.room.member", bob.user.as_str());
    test.set(&bob, &room, key, name).await.unwrap();

    let shown = test.log(&ana, alias, start.0 + 1, 9000).await;
    let told = |record: &Record| match &record.what {
        Shown::Entry { seq, sender, .. } => Some((*seq, *sender, record.what.membership_before())),
        _ => None,
    };
    let told: Vec<_> = shown.records.iter().filter_map(told).collect();
    let people: Vec<_> = told.iter().map(|(_, sender, _)| *sender).collect();
    assert_eq!(people, [0, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1]);
    let before: Vec<_> = told.iter().map(|(_, _, before)| *before).collect();
    let invite = Some(Membership::Invite);
    let wanted = [
        [None, invite, None, invite, None, None],
        [
            None,
            None,
            None,
            Some(Membership::Ban),
            None,
            Some(Membership::Join),
        ],
    ];
    assert_eq!(before, wanted.concat());
    // The entry in full says the same, and so do the answers of all rooms.
    for (seq, _, before) in &told {
        let whole = test.entry(&ana, alias, Seq(*seq)).await.unwrap();
        assert_eq!(whole.target, before.map(|before| before.number().into()));
    }
    let news = test.inbox(&ana, Some((alias, start)), 9000).await;
    let again: Vec<_> = news.records.iter().map(|one| one.what.clone()).collect();
    let first: Vec<_> = shown.records.iter().map(|one| one.what.clone()).collect();
    assert_eq!(again, first[..again.len()]);
    assert_eq!(again.len(), 12);
}

#[tokio::test]
async fn who_was_removed_reads_on_up_to_there_also_on_a_new_device() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let room = test.public_room(&ana, &[&bob]).await;
    test.say(&ana, &room, "hello").await;
    test.kick(&ana, &room, &bob).await.unwrap();
    test.say(&ana, &room, "without bob").await;

    let alias = test.room_alias(&bob, &room).await;
    // Beyond its end: where it is.
    let end = test.log(&bob, alias, (1 << 28) - 1, 1024).await;
    let head = end.through.unwrap().1;
    let all = test.log(&bob, alias, 1, 9000).await.entries();
    let last = all.last().unwrap();
    assert_eq!(last.0, head.0);
    assert!(matches!(
        last.1,
        Body::Member {
            user: 0,
            membership: Membership::Leave,
            ..
        }
    ));
    assert!(
        !all.iter()
            .any(|(_, body)| *body == Body::Text("without bob".to_owned()))
    );
    test.forget(&bob, &room).await.unwrap();
    let refused = test.alias(&bob, NameKind::Room, room.as_str()).await;
    assert_eq!(refused.unwrap_err().code, Code::Forbidden);
}

#[tokio::test]
async fn who_is_invited_learns_what_the_room_is_called_and_an_outsider_does_not() {
    let test = testing::hub().await;
    let [ana, bob] = [test.account("ana").await, test.account("bob").await];
    let room = test.public_room(&ana, &[]).await;
    let called = async |who: &Person, alias: Alias| {
        let wanted = vec![(NameKind::Room, alias), (NameKind::RoomName, alias)];
        match test.thin(who, Thin::Names(wanted)).await.unwrap() {
            ThinReply::Names(names) => names
                .into_iter()
                .filter(|name| name.kind == NameKind::RoomName)
                .map(|name| (name.alias, name.text))
                .next(),
            other => panic!("{other:?}"),
        }
    };
    test.invite(&ana, &room, &bob).await.unwrap();
    let alias = test.room_alias(&bob, &room).await;
    assert_eq!(called(&bob, alias).await, None, "it has none");
    let long = "n".repeat(50);
    let name = ("m.room.name", "");
    let set = test.set(&ana, &room, name, json!({ "name": long })).await;
    set.unwrap();
    assert_eq!(called(&bob, alias).await, Some((alias, "n".repeat(40))));
    test.kick(&ana, &room, &bob).await.unwrap();
    assert_eq!(called(&bob, alias).await, None);
    assert_eq!(called(&bob, 999).await, None);
    let by_name = test.alias(&bob, NameKind::RoomName, "n").await;
    assert_eq!(by_name.unwrap_err().code, Code::InvalidParam);
}

#[tokio::test]
async fn an_edit_is_shown_with_the_number_of_what_it_replaces() {
    let test = testing::hub().await;
    let ana = test.account("ana").await;
    let room = test.public_room(&ana, &[]).await;
    let alias = test.room_alias(&ana, &room).await;
    let first = test.say(&ana, &room, "one").await;
    for (n, what) in [
        ("1", first.as_str()),
        ("2", "$31hneApxJ_1o-63DmFrpeqnkFFWppnzWso1JvH3ogLM"),
    ] {
        let content = json!({"msgtype": "m.text", "body": "* two",
            "m.new_content": {"msgtype": "m.text", "body": "two"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": what}});
        let content = content.to_string();
        let sent = test.send(&ana, &room, "m.room.message", n, &content).await;
        sent.unwrap();
    }
    let shown = test.log(&ana, alias, 1, 9000).await;
    let target = |record: &Record| match &record.what {
        Shown::Entry {
            seq,
            target,
            body: Body::Event { .. } | Body::Text(_),
            ..
        } => Some((*seq, *target)),
        _ => None,
    };
    let targets: Vec<_> = shown.records.iter().filter_map(target).collect();
    let [(one, None), (_, Some(edited)), (_, None)] = targets[..] else {
        panic!("{targets:?}")
    };
    assert_eq!(edited, one);
}
