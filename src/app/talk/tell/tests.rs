use serde_json::json;

use super::*;

/// What is said of an event of ana's.
fn said(kind: &str, more: Json) -> String {
    let mut event = json!({"type": kind, "sender": "@ana:hub.example",
        "event_id": "$Zk3f9aQxAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "origin_server_ts": 0});
    let fields = event.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    let line = super::event(&event);
    let rest = line.strip_prefix("1970-01-01T00:00:00Z $Zk3f9aQx… ");
    let rest = rest.unwrap_or_else(|| panic!("{line}"));
    rest.replace(":hub.example", "")
}

fn message(content: Json) -> String {
    said("m.room.message", json!({ "content": content }))
}

fn state(kind: &str, content: Json) -> String {
    said(kind, json!({"state_key": "", "content": content}))
}

fn member(whom: &str, was: &str, now: &str) -> String {
    let before = if was.is_empty() {
        json!({})
    } else {
        json!({"prev_content": {"membership": was}})
    };
    said(
        "m.room.member",
        json!({"state_key": format!("@{whom}:hub.example"), "unsigned": before,
            "content": {"membership": now, "reason": "so\n"}}),
    )
}

#[test]
fn a_message_says_when_which_who_and_what() {
    let event = json!({"type": "m.room.message", "sender": "@ana:hub.example",
        "event_id": "$short", "origin_server_ts": 1_709_251_199_999_u64,
        "content": {"msgtype": "m.text", "body": "hello"}});

    let line = super::event(&event);

    assert_eq!(line, "2024-02-29T23:59:59Z $short @ana:hub.example: hello");
}

#[test]
fn what_others_wrote_does_not_steer_the_terminal() {
    let body = "\u{1b}[2Jhi\n2024-02-29T23:59:59Z $fake @bob:hub.example: yes\r\u{9b}1A\u{202e}";

    let line = message(json!({ "body": body }));

    assert_eq!(
        line,
        "@ana: \\u{1b}[2Jhi\\n2024-02-29T23:59:59Z $fake @bob: yes\\r\\u{9b}1A\\u{202e}"
    );
}

#[test]
fn every_text_of_anothers_is_made_visible() {
    let evil = "\u{1b}]0;x\u{7}";
    let whole = json!({"type": evil, "sender": evil, "event_id": evil, "state_key": evil,
        "content": {"body": evil, "topic": evil, "reason": evil, "membership": evil,
            "name": evil, "room_version": evil, "displayname": evil, "redacts": evil,
            "users": {evil: evil}, "m.relates_to": {"key": evil, "event_id": evil}},
        "unsigned": {"prev_content": {"membership": "join"}}});
    for kind in [
        "m.room.message",
        "m.room.member",
        "m.room.create",
        "m.room.topic",
        "m.room.power_levels",
        "m.room.tombstone",
        "m.room.redaction",
        "m.reaction",
        evil,
    ] {
        for is_state in [true, false] {
            for redacted in [true, false] {
                let mut event = whole.clone();
                event["type"] = kind.into();
                if !is_state {
                    event["state_key"] = Json::Null;
                }
                if redacted {
                    event["unsigned"]["redacted_because"] = json!({ "sender": evil });
                }
                let line = super::event(&event);
                assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }
}

#[test]
fn kinds_of_messages_are_told_apart() {
    let emote = json!({"msgtype": "m.emote", "body": "waves"});
    let image = json!({"msgtype": "m.image", "body": "map.png", "url": "mxc://a/b"});
    assert_eq!(message(emote), "* @ana waves");
    assert_eq!(message(image), "@ana: (image) map.png");
    assert_eq!(message(json!({})), "@ana: (redacted)");
    assert_eq!(message(json!({"body": 3})), "@ana: (no text)");
    let redacted = json!({"content": {}, "unsigned":
        {"redacted_because": {"sender": "@bob:hub.example"}}});
    assert_eq!(
        said("m.room.message", redacted.clone()),
        "@ana: (redacted by @bob)"
    );
    assert_eq!(
        said("m.room.topic", redacted),
        "@ana: (m.room.topic, redacted by @bob)"
    );
    let redaction = json!({"content": {"redacts": "$0123456789", "reason": "oops"}});
    assert_eq!(
        said("m.room.redaction", redaction),
        "@ana redacted $01234567…: \"oops\""
    );
    let thumb = json!({"content": {"m.relates_to": {"key": "👍", "event_id": "$0123456789"}}});
    assert_eq!(
        said("m.reaction", thumb),
        "@ana reacted with \"👍\" to $01234567…"
    );
    assert_eq!(said("x.y", json!({"content": {}})), "@ana sent x.y");
}

#[test]
fn a_membership_is_told_by_what_it_was_before() {
    for (whom, was, now, words) in [
        ("ana", "", "join", "@ana joined: \"so\\n\""),
        (
            "ana",
            "invite",
            "join",
            "@ana joined: \"so\\n\"", // what it ended is told to no linked device, either
        ),
        ("bo", "", "invite", "@ana invited @bo: \"so\\n\""),
        (
            "bo",
            "knock",
            "invite",
            "@ana let @bo in: invited: \"so\\n\"",
        ),
        ("ana", "", "knock", "@ana asked to join: \"so\\n\""),
        ("ana", "join", "leave", "@ana left: \"so\\n\""),
        (
            "ana",
            "invite",
            "leave",
            "@ana declined the invitation: \"so\\n\"",
        ),
        (
            "bo",
            "invite",
            "leave",
            "@ana took back the invitation of @bo: \"so\\n\"",
        ),
        ("bo", "join", "leave", "@ana removed @bo: \"so\\n\""),
        ("bo", "ban", "leave", "@ana unbanned @bo: \"so\\n\""),
        ("bo", "join", "ban", "@ana banned @bo: \"so\\n\""),
    ] {
        assert_eq!(member(whom, was, now), words);
    }
    let renamed = json!({"state_key": "@ana:hub.example",
        "content": {"membership": "join", "displayname": "A \"B\""},
        "unsigned": {"prev_content": {"membership": "join"}}});
    assert_eq!(
        said("m.room.member", renamed),
        "@ana is now called \"A \\\"B\\\"\""
    );
}

#[test]
fn a_change_of_state_is_told_in_words() {
    for (kind, content, words) in [
        (
            "m.room.create",
            json!({"room_version": "12"}),
            "created the room (version 12)",
        ),
        (
            "m.room.topic",
            json!({"topic": "tea"}),
            "set the topic to \"tea\"",
        ),
        ("m.room.topic", json!({}), "removed the topic"),
        (
            "m.room.name",
            json!({"name": "Crew"}),
            "set the room's name to \"Crew\"",
        ),
        (
            "m.room.join_rules",
            json!({"join_rule": "public"}),
            "let anyone join",
        ),
        (
            "m.room.power_levels",
            json!({"users": {}}),
            "set the power levels",
        ),
        (
            "m.room.encryption",
            json!({}),
            "switched on end-to-end encryption",
        ),
        ("x.unknown", json!({}), "set x.unknown"),
    ] {
        assert_eq!(state(kind, content), format!("@ana {words}"));
    }
    let levels = json!({"state_key": "", "content": {"users": {"@bo:hub.example": 50}},
        "unsigned": {"prev_content": {"users": {"@cy:hub.example": 50}}}});
    assert_eq!(
        said("m.room.power_levels", levels),
        "@ana set the power level of @bo to 50, @cy to the default"
    );
}

#[test]
fn the_inviter_is_who_sent_the_invite() {
    let events = [
        json!({"type": "m.room.name", "sender": "@cy:hub.example"}),
        json!({"type": "m.room.member", "sender": "@cy:hub.example",
            "content": {"membership": "join"}}),
        json!({"type": "m.room.member", "sender": "@ana:hub.example",
            "content": {"membership": "invite"}}),
    ];
    assert_eq!(inviter(&events).as_deref(), Some("@ana:hub.example"));
}

#[test]
fn an_edit_says_what_it_replaces() {
    let content = json!({"msgtype": "m.text", "body": "* better",
        "m.new_content": {"msgtype": "m.text", "body": "better"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$abcdefghijkl"}});

    assert_eq!(message(content), "@ana edited $abcdefgh…: better");
}

#[test]
fn a_reply_says_what_it_answers() {
    let reply = json!({"m.in_reply_to": {"event_id": "$abcdefghijkl"}});
    let said = |kind: &str, relation: &Json| {
        message(json!({"msgtype": kind, "body": "yes", "m.relates_to": relation}))
    };
    assert_eq!(said("m.text", &reply), "@ana (to $abcdefgh…): yes");
    assert_eq!(said("m.emote", &reply), "* @ana (to $abcdefgh…) yes");
    let mut in_thread = reply;
    in_thread["is_falling_back"] = true.into();
    assert_eq!(said("m.text", &in_thread), "@ana: yes");
}

#[test]
fn only_where_one_was_out_and_nothing_is_told_of_it_something_is_left_out() {
    let member = |membership: &str| {
        json!({"type": "m.room.member", "state_key": "@me:h",
            "content": {"membership": membership}})
    };
    let told = |events: &[Json]| -> Vec<bool> {
        let mut absence = Absence::default();
        let ends = events.iter().map(|event| absence.ends_with(event, "@me:h"));
        ends.collect()
    };
    let said = json!({"type": "m.room.message", "content": {"body": "hi"}});
    let [leave, invite, join] = ["leave", "invite", "join"].map(member);
    let back = [leave.clone(), invite.clone(), join.clone(), said.clone()];
    assert_eq!(told(&back), [false, false, true, false]);
    assert_eq!(told(&[leave.clone(), said, join.clone()]), [false; 3]);
    assert_eq!(told(&[invite, join.clone(), join]), [false; 3]);
    let at = |mut event: Json| {
        event["origin_server_ts"] = 5000.into();
        event
    };
    let since = ended(&[at(leave.clone())], "@me:h").unwrap();
    assert_eq!(
        since,
        "-- you are not in this room any more, since 1970-01-01T00:00:05Z"
    );
    assert_eq!(ended(&[at(leave)], "@you:h"), None);
}
