//! What is said of requests that cannot be read: where, what, and in whose words.

use super::{find, read};
use crate::{
    api::{Code, Command, Refusal},
    edge::client_api::plain::assert_plain,
};

/// What is said, of which another thing should be.
type Wrong = Vec<(String, String)>;

/// Notes what is said where it is not what should be, or has another code.
#[track_caller]
fn hold(wrong: &mut Wrong, outcome: Result<Command, Refusal>, code: Code, said: &str, of: &str) {
    let told = match outcome {
        Ok(_) => "it is read".to_owned(),
        Err(refusal) => {
            assert_plain(&refusal, of);
            assert_eq!(refusal.status, 400, "{of}: {refusal}");
            if (refusal.code, &*refusal.message) == (code, said) {
                return;
            }
            refusal.to_string()
        }
    };
    wrong.push((of.to_owned(), told));
}

/// Asked at a path of the client API, with the query behind it.
fn asked(method: &str, path: &str, body: &str) -> Result<Command, Refusal> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let found = find(method, &format!("/_matrix/client/v3/{path}"))?;
    found.command(query, body.as_bytes())
}

/// Bodies that cannot be read, where they are sent, and what is said of them.
const BODIES: &[(&str, &str, &str, &str)] = &[
    (
        "POST",
        "createRoom",
        r#"{"invite":[5,"@b:c.d"]}"#,
        "`invite[0]`: expected a user id, such as `@name:server.example`, found a number",
    ),
    (
        "POST",
        "createRoom",
        r#"{"invite":["@b:c.d", "bert"]}"#,
        "`invite[1]`: expected a user id, such as `@name:server.example`, found another text",
    ),
    (
        "POST",
        "createRoom",
        r#"{"invite":"@b:c.d"}"#,
        "`invite`: expected a list, found a text",
    ),
    (
        "POST",
        "createRoom",
        r#"{"is_direct":"yes", "name":"x"}"#,
        "`is_direct`: expected true or false, found a text",
    ),
    (
        "POST",
        "rooms/!a:b/kick",
        r#"{"user_id":"bert"}"#,
        "`user_id`: expected a user id, such as `@name:server.example`, found another text",
    ),
    (
        "POST",
        "rooms/!a:b/invite",
        r#"{"user_id":"bert"}"#,
        "`user_id`: expected a user id, such as `@name:server.example`, found another text",
    ),
    (
        "POST",
        "rooms/!a:b/kick",
        r#"{"user_id":"@b:c.d","reason":7}"#,
        "`reason`: expected a text, found a number",
    ),
    (
        "POST",
        "keys/query",
        r#"{"device_keys":{"@a:b":["D"],"nobody":[]}}"#,
        "`device_keys.nobody`: expected a user id, such as `@name:server.example` as the name",
    ),
    (
        "POST",
        "keys/query",
        r#"{"device_keys":{"@a:b":["D"]},"timeout":-1}"#,
        "`timeout`: expected a whole number from 0 on, found a negative number",
    ),
    (
        "POST",
        "publicRooms",
        r#"{"limit":"ten"}"#,
        "`limit`: expected a whole number from 0 on, found a text",
    ),
    (
        "POST",
        "publicRooms",
        r#"{"filter":{"generic_search_term":[]}}"#,
        "`filter.generic_search_term`: expected a text, found a list",
    ),
    (
        "POST",
        "user/@a:b/filter",
        r#"{"room":{"timeline":{"limit":1.5}}}"#,
        "`room.timeline.limit`: expected a whole number from 0 on, found a fraction",
    ),
    (
        "POST",
        "user/@a:b/filter",
        r#"{"room":{"rooms":["!a:b",3]}}"#,
        "`room.rooms[1]`: expected a room id, such as `!name:server.example`, found a number",
    ),
    (
        "PUT",
        "rooms/!a:b/typing/@a:b",
        r#"{"typing":true,"timeout":"long"}"#,
        "`timeout`: expected a whole number from 0 on, found a text",
    ),
    (
        "POST",
        "delete_devices",
        r#"{"devices":["A",{}]}"#,
        "`devices[1]`: expected a text, found an object",
    ),
    (
        "POST",
        "login",
        r#"{"type":"m.login.password","identifier":{"type":"m.id.user","user":5},"password":"x"}"#,
        "`identifier.user`: expected a text, found a number",
    ),
];

#[test]
fn a_body_that_cannot_be_read_says_where_and_what_is_right() {
    let mut wrong = Wrong::new();
    for (method, path, body, said) in BODIES.iter().copied() {
        let of = format!("{method} {path} {body}");
        hold(
            &mut wrong,
            asked(method, path, body),
            Code::BadJson,
            said,
            &of,
        );
    }
    assert_eq!(wrong, []);
}

#[test]
fn what_is_missing_is_named_with_its_way_and_has_one_code_everywhere() {
    let mut wrong = Wrong::new();
    for (method, path, body, said) in [
        ("POST", "rooms/!a:b/invite", "{}", "`user_id` is missing"),
        ("POST", "login", "{}", "`type` is missing"),
        ("POST", "delete_devices", "{}", "`devices` is missing"),
        ("PUT", "sendToDevice/m.x/1", "{}", "`messages` is missing"),
        ("POST", "keys/claim", "{}", "`one_time_keys` is missing"),
        (
            "POST",
            "user_directory/search",
            "{}",
            "`search_term` is missing",
        ),
        ("PUT", "rooms/!a:b/typing/@a:b", "{}", "`typing` is missing"),
        (
            "POST",
            "createRoom",
            r#"{"invite_3pid":[{}]}"#,
            "`invite_3pid[0].id_server` is missing",
        ),
        (
            "GET",
            "rooms/!a:b/messages?limit=1",
            "",
            "`dir` in the query is missing",
        ),
        (
            "GET",
            "keys/changes?from=a",
            "",
            "`to` in the query is missing",
        ),
    ] {
        let of = format!("{method} {path} {body}");
        hold(
            &mut wrong,
            asked(method, path, body),
            Code::MissingParam,
            said,
            &of,
        );
    }
    assert_eq!(wrong, []);
}

#[test]
fn a_body_that_is_no_object_is_told_so_in_one_way_at_every_path() {
    let mut wrong = Wrong::new();
    for (method, path) in [
        ("PUT", "rooms/!a:b/send/m.room.message/t"),
        ("PUT", "rooms/!a:b/state/m.room.topic"),
        ("POST", "createRoom"),
        ("POST", "login"),
        ("POST", "keys/upload"),
    ] {
        let deep = "[".repeat(2000);
        for (body, code, said) in [
            ("[]", Code::BadJson, "expected an object, found a list"),
            ("5", Code::BadJson, "expected an object, found a number"),
            (" ", Code::NotJson, "the body is empty"),
            (
                "{}]",
                Code::NotJson,
                "1 byte follows the end of the value at byte 2",
            ),
            (
                r#"{"a":1,"b" 2}"#,
                Code::NotJson,
                "not JSON: expected a colon at byte 11",
            ),
            (
                &deep,
                Code::BadJson,
                "`[0][0][0][0][0][0][0][0]…`: nested more than 64 levels deep",
            ),
        ] {
            hold(
                &mut wrong,
                asked(method, path, body),
                code,
                said,
                &format!("{path} {body}"),
            );
        }
    }
    hold(
        &mut wrong,
        asked("POST", "login", r#"{"type":5}"#),
        Code::BadJson,
        "`type`: expected a text, found a number",
        "login",
    );
    assert_eq!(wrong, []);
}

#[test]
fn a_query_that_cannot_be_read_says_which_parameter_and_what_is_right() {
    let mut wrong = Wrong::new();
    for (path, said) in [
        (
            "rooms/!a:b/messages?dir=x",
            "`dir`: expected `b` or `f`, found another text",
        ),
        (
            "rooms/!a:b/messages?dir=b&limit=-1",
            "`limit`: expected a whole number from 0 on, found a negative number",
        ),
        (
            "rooms/!a:b/messages?dir=b&limit=abc",
            "`limit`: expected a whole number from 0 on, found a text",
        ),
        (
            "rooms/!a:b/messages?dir=b&dir=f",
            "`dir` stands in the query 2 times, it may stand there once",
        ),
        (
            "sync?set_presence=dancing",
            "`set_presence`: expected one of `online`, `unavailable`, `offline`, found another text",
        ),
        (
            "sync?filter=%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:%22x%22%7D%7D%7D",
            "`filter.room.timeline.limit`: expected a whole number from 0 on, found a text",
        ),
        (
            "rooms/!a:b/messages?dir=b&filter=%7B%22types%22:%5B%22a%22,5%5D%7D",
            "`filter.types[1]`: expected a text, found a number",
        ),
        (
            "sync?full_state=perhaps",
            "`full_state`: expected true or false, found a text",
        ),
        (
            "rooms/!a:b/members?membership=guest",
            "`membership`: expected one of `join`, `invite`, `knock`, `leave`, `ban`, found another text",
        ),
        (
            "rooms/nothing/messages?dir=b",
            "`roomId`: expected a room id, such as `!name:server.example`",
        ),
        (
            "profile/ana",
            "`userId`: expected a user id, such as `@name:server.example`",
        ),
    ] {
        hold(
            &mut wrong,
            asked("GET", path, ""),
            Code::InvalidParam,
            said,
            path,
        );
    }
    assert_eq!(wrong, []);
}

#[test]
fn servers_to_join_by_may_stand_in_the_query_as_often_as_there_are_some() {
    for ask in ["join", "knock"] {
        for key in ["server_name", "via"] {
            let path = format!("{ask}/%21a:b?{key}=a.example&{key}=b.example");
            let via = match asked("POST", &path, "{}").unwrap() {
                Command::JoinByIdOrAlias(asked) => asked.via,
                Command::Knock(asked) => asked.via,
                other => panic!("{other:?}"),
            };
            assert_eq!(via, ["a.example", "b.example"], "{path}");
        }
    }
    let refusal = asked("POST", "join/%21a:b?via=a.example&via=%20", "{}").unwrap_err();
    assert_eq!(
        refusal.message,
        "`via[1]`: expected a server's name, such as `server.example`, found another text"
    );
}

#[test]
fn who_types_need_not_say_for_how_long() {
    let path = "rooms/!a:b/typing/@a:b";
    for body in [r#"{"typing":true}"#, r#"{"typing":true,"timeout":null}"#] {
        let Command::Typing(asked) = asked("PUT", path, body).unwrap() else {
            panic!("another command")
        };
        let said = format!("{:?}", asked.state);
        assert!(said.contains("30s"), "{said}");
    }
    assert!(asked("PUT", path, r#"{"typing":false}"#).is_ok());
}

#[test]
fn a_large_body_is_not_read_without_end_and_still_says_where() {
    let users: Vec<String> = (0..3000)
        .map(|n| format!(r#""@user{n}:b.example":["D"]"#))
        .collect();
    let body = format!(r#"{{"device_keys":{{{},"@z:b":[5]}}}}"#, users.join(","));
    assert!(body.len() > 64 * 1024);

    let refusal = read("POST", "/_matrix/client/v3/keys/query", &body).unwrap_err();

    assert_eq!(
        refusal.message,
        "`device_keys.@z:b[0]`: expected a text, found a number"
    );
}
