use super::*;

fn member(sender: &str, whom: &str, content: Json, was: Option<Membership>) -> Happened {
    Happened {
        sender: sender.into(),
        event_type: "m.room.member".into(),
        state_key: whom.into(),
        content,
        unsigned: was.map_or(Json::Null, ended),
        ..Happened::default()
    }
}

#[test]
fn a_membership_says_who_did_what_to_whom() {
    use Membership::{Ban, Invite, Join, Knock};
    let whole = Body::Member {
        user: 1,
        membership: Membership::Leave,
        display_name: String::new(),
    };
    // With a reason it is no kind of its own.
    let general = Body::State {
        event_type: 4,
        state_key: "@bob:h".to_owned(),
        content: Vec::new(),
        deflated: false,
    };
    for (sender, membership, was, wanted) in [
        ("@ana:h", "leave", None, "@ana:h removed @bob:h"),
        (
            "@ana:h",
            "leave",
            Some(Invite),
            "@ana:h took back the invitation of @bob:h",
        ),
        (
            "@ana:h",
            "leave",
            Some(Knock),
            "@ana:h did not let @bob:h in",
        ),
        ("@ana:h", "leave", Some(Ban), "@ana:h unbanned @bob:h"),
        ("@ana:h", "ban", None, "@ana:h banned @bob:h"),
        ("@ana:h", "invite", None, "@ana:h invited @bob:h"),
        (
            "@ana:h",
            "invite",
            Some(Knock),
            "@ana:h let @bob:h in: invited",
        ),
        ("@bob:h", "leave", None, "@bob:h left"),
        (
            "@bob:h",
            "leave",
            Some(Invite),
            "@bob:h declined the invitation",
        ),
        (
            "@bob:h",
            "leave",
            Some(Knock),
            "@bob:h no longer asks to join",
        ),
        ("@bob:h", "join", None, "@bob:h joined"),
        (
            "@bob:h",
            "join",
            Some(Join),
            "@bob:h changed their name or picture",
        ),
    ] {
        let said = |body, content| words(body, &member(sender, "@bob:h", content, was), None);
        assert_eq!(said(&whole, json!({ "membership": membership })), wanted);
        let reason = json!({ "membership": membership, "reason": "late" });
        let said = said(&general, reason);
        assert!(said.starts_with(wanted), "{said}");
        let is_renamed = was == Some(Join);
        assert_eq!(said.ends_with(": \"late\""), !is_renamed, "{said}");
    }
}

#[test]
fn an_invitation_says_who_invites_you_and_what_to_do_wherever_it_is_from() {
    for is_elsewhere in [true, false] {
        let told = |sender, membership: &str, was| {
            let content = json!({ "membership": membership });
            let happened = member(sender, "@me:h", content, was);
            invitation(&happened, ("@me:h", "\"Tea\""), (is_elsewhere, true))
        };
        let told = |sender, membership, was| told(sender, membership, was).unwrap();
        let zed = "@zed:far";
        let invited = "@zed:far invites you: `join` it, or `leave` it";
        assert_eq!(told(zed, "invite", None), invited);
        let let_in = "@zed:far lets you in: `join` it, or `leave` it";
        assert_eq!(told(zed, "invite", Some(Membership::Knock)), let_in);
        let back = "your invitation to \"Tea\" was taken back by @zed:far";
        assert_eq!(told(zed, "leave", Some(Membership::Invite)), back);
        let declined = "you declined the invitation to \"Tea\"";
        assert_eq!(told("@me:h", "leave", Some(Membership::Invite)), declined);
    }
    let of = |whom, membership: &str, was, is_elsewhere| {
        let content = json!({ "membership": membership });
        invitation(
            &member("@zed:far", whom, content, was),
            ("@me:h", "!r"),
            (is_elsewhere, true),
        )
    };
    assert!(of("@me:h", "leave", None, true).is_some(), "an earlier hub");
    assert_eq!(of("@me:h", "leave", None, false), None, "removed");
    assert_eq!(of("@me:h", "leave", Some(Membership::Knock), true), None);
    assert_eq!(of("@bob:h", "invite", None, false), None);
}

#[test]
fn an_invitation_that_was_answered_asks_for_nothing() {
    let told = |was| {
        let content = json!({ "membership": "invite" });
        let happened = member("@zed:far", "@me:h", content, was);
        invitation(&happened, ("@me:h", "!r"), (false, false)).unwrap()
    };
    assert_eq!(told(None), "@zed:far invited you");
    assert_eq!(told(Some(Membership::Knock)), "@zed:far let you in");
}

#[test]
fn only_a_log_that_does_not_begin_with_the_making_of_its_room_began_elsewhere() {
    let first = |seq, kind| is_arrival(&json!({ "seq": seq, "type": kind }));
    assert!(first(2, "m.room.member"));
    assert!(!first(1, "m.room.create"));
    assert!(
        !first(5, "m.room.member"),
        "they may not read what was before"
    );
}

#[test]
fn what_is_done_to_an_entry_is_told_as_over_https_by_its_number() {
    let said = |body: Body, content: Json, target| {
        let happened = Happened {
            sender: "@ana:h".into(),
            content,
            ..Happened::default()
        };
        words(&body, &happened, target)
    };
    let oops = json!({ "reason": "oops" });
    let redaction = || Body::Redaction("oops".to_owned());
    assert_eq!(
        said(redaction(), oops.clone(), Some(5)),
        "@ana:h redacted 5: \"oops\""
    );
    assert_eq!(
        said(redaction(), oops, None),
        "@ana:h redacted what has no number here: \"oops\""
    );
    let thumb = Body::Reaction("👍".to_owned());
    assert_eq!(
        said(thumb, json!({}), Some(5)),
        "@ana:h reacted with \"👍\" to 5"
    );
    let emote = Body::Emote("waves".to_owned());
    assert_eq!(said(emote, json!({}), None), "* @ana:h waves");
    let reply = Body::Text("yes".to_owned());
    assert_eq!(said(reply, json!({}), Some(15)), "@ana:h (to 15): yes");
}

fn me() -> Credentials {
    Credentials::new("@me:h".to_owned(), "D".to_owned(), String::new())
}

fn entry(seq: u64, body: Body) -> Record {
    let what = Shown::Entry {
        seq,
        sender: 1,
        age: 0,
        target: None,
        counter: None,
        body,
    };
    Record {
        room: Some(7),
        what,
    }
}

#[test]
fn what_was_said_while_one_was_out_is_said_to_be_left_out() {
    use Membership::{Invite, Join, Leave};
    let own = |seq, membership| {
        let display_name = String::new();
        let user = 0;
        entry(
            seq,
            Body::Member {
                user,
                membership,
                display_name,
            },
        )
    };
    let text = |seq| entry(seq, Body::Text("hi".to_owned()));
    let told = |mut gaps: Gaps, records: &[Record]| -> Vec<bool> {
        records
            .iter()
            .map(|record| gaps.end_with(&me(), record))
            .collect()
    };
    let kicked = [
        text(4),
        own(5, Leave),
        own(8, Invite),
        own(9, Join),
        text(10),
    ];
    assert_eq!(
        told(Gaps::default(), &kicked),
        [false, false, false, true, false]
    );
    // The last that was told may be of an earlier run.
    let later = Gaps(BTreeMap::from([(7, 5)]));
    assert_eq!(told(later, &kicked[2..]), [false, true, false]);
    let nothing_said = [own(5, Leave), own(6, Invite), own(7, Join)];
    assert_eq!(told(Gaps::default(), &nothing_said), [false; 3]);
    let seen = [own(5, Leave), text(6), own(7, Join), text(9)];
    assert_eq!(told(Gaps::default(), &seen), [false; 4]);
}

#[test]
fn a_heading_has_the_id_and_what_else_is_known_but_no_empty_quotes() {
    let title = |name: &str| Some((name.to_owned(), "#a:h".to_owned()));
    assert_eq!(heading("!a:h", None, None), "!a:h");
    assert_eq!(heading("!a:h", None, title("Crew")), "!a:h \"Crew\"");
    assert_eq!(heading("!a:h", None, title("")), "!a:h #a:h");
    let told = json!({ "membership": "invite", "name": "Tea\u{1b}" });
    assert_eq!(heading("!b:h", Some(&told), None), "!b:h \"Tea\\u{1b}\"");
    let unnamed = json!({ "membership": "invite" });
    assert_eq!(heading("!b:h", Some(&unnamed), None), "!b:h");
}
