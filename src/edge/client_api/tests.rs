mod words;

use http::Method;
use proptest::prelude::*;
use serde_json::Value;

use super::{ClientApi, Match, Path, token::credentials};
use crate::{
    api::{Code, Command, Credentials, Refusal, Reply},
    edge::client_api::{Answer, plain::assert_plain},
};

fn find(method: &str, path: &str) -> Result<Match, Refusal> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    ClientApi::new().find(&method, &Path::of_url(path)?)
}

fn read(method: &str, path: &str, body: &str) -> Result<Command, Refusal> {
    find(method, path)?.command("", body.as_bytes())
}

#[test]
fn an_encoded_slash_stays_inside_its_id() {
    let path = "/_matrix/client/v3/rooms/%21a%2Fb%3Ahub.example/send/m.room.message/t%2F1";

    let Command::Send(send) = read("PUT", path, r#"{"body":"x"}"#).unwrap() else {
        panic!("another command")
    };

    assert_eq!(send.room_id, "!a/b:hub.example");
    assert_eq!(send.txn_id, "t/1");
}

#[test]
fn the_old_and_the_new_path_are_one_endpoint() {
    for version in ["r0", "v3"] {
        let found = find("GET", &format!("/_matrix/client/{version}/sync")).unwrap();
        assert_eq!(found.endpoint.name(), "Sync");
    }
}

#[test]
fn a_state_type_without_a_key_means_the_empty_key() {
    for (end, key) in [("", ""), ("/", ""), ("/k", "k"), ("/%2F", "/")] {
        let path = format!("/_matrix/client/v3/rooms/!a:b/state/m.room.name{end}");
        let Command::StateForKey(get) = read("GET", &path, "").unwrap() else {
            panic!("another command")
        };
        assert_eq!(get.state_key, key, "{path}");
        let Command::SendState(put) = read("PUT", &path, "{}").unwrap() else {
            panic!("another command")
        };
        assert_eq!(put.state_key, key, "{path}");
    }
}

#[test]
fn a_path_is_matched_exactly() {
    let refused = [
        "/_matrix/client/v3/sync/",
        "/_matrix/client/v3//sync",
        "/_matrix/client/v3/rooms/../sync",
        "/_matrix/client/v3/%73ync",
        "/_matrix/client/v3/rooms//state",
        "/_matrix/client/v9/sync",
        "/",
        "",
        "*",
    ];
    for path in refused {
        let refusal = find("GET", path).unwrap_err();
        assert_eq!(
            (refusal.status, refusal.code),
            (404, Code::Unrecognized),
            "{path}"
        );
    }
    assert_eq!(find("GET", &"/a".repeat(5000)).unwrap_err().status, 404);
}

#[test]
fn a_known_path_with_another_method_is_405() {
    let refusal = find("DELETE", "/_matrix/client/v3/sync").unwrap_err();

    assert_eq!((refusal.status, refusal.code), (405, Code::Unrecognized));
}

#[test]
fn head_is_asked_as_get() {
    assert_eq!(
        find("HEAD", "/_matrix/client/versions")
            .unwrap()
            .endpoint
            .name(),
        "Versions"
    );
}

#[test]
fn a_path_that_does_not_decode_is_refused() {
    for path in [
        "/_matrix/client/v3/join/%zz",
        "/a/%",
        "/a/%e",
        "/a/%ff",
        "/a/%+1",
    ] {
        let refusal = Path::of_url(path).unwrap_err();
        assert_eq!(
            (refusal.status, refusal.code),
            (400, Code::InvalidParam),
            "{path}"
        );
    }
}

#[test]
fn every_endpoint_is_found_at_each_of_its_paths() {
    let api = ClientApi::new();
    for &endpoint in super::Endpoint::ALL {
        for path in endpoint.paths() {
            let found = api.find(&endpoint.method(), &Path::of_url(path).unwrap());
            assert_eq!(found.unwrap().endpoint, endpoint, "{path}");
        }
    }
}

#[test]
fn what_this_hub_does_not_have_is_said_as_clients_expect_it() {
    use ruma::api::client::thirdparty::get_protocols;
    let none = get_protocols::v3::Response::new(std::collections::BTreeMap::new());
    for (path, reply, wanted) in [
        ("voip/turnServer", Reply::TurnServer, "{}"),
        ("account/3pid", Reply::ThirdPartyIds, r#"{"threepids":[]}"#),
        (
            "thirdparty/protocols",
            Reply::Protocols(Box::new(none)),
            "{}",
        ),
    ] {
        for version in ["r0", "v3"] {
            let command = read("GET", &format!("/_matrix/client/{version}/{path}"), "").unwrap();
            assert_eq!(command.name(), format!("{reply:?}"));
        }
        let answer = Answer::of(Ok(reply));
        assert_eq!((answer.status, answer.body), (200, wanted.into()), "{path}");
    }
}

#[test]
fn an_absent_body_is_an_empty_object_unless_it_would_be_kept() {
    assert!(read("POST", "/_matrix/client/v3/rooms/!a:b/leave", "").is_ok());
    let kept = read(
        "PUT",
        "/_matrix/client/v3/rooms/!a:b/send/m.room.message/1",
        "",
    );
    assert_eq!(kept.unwrap_err().code, Code::NotJson);
}

#[test]
fn what_is_not_json_and_what_has_the_wrong_shape_are_told_apart() {
    let login = "/_matrix/client/v3/login";
    assert_eq!(
        read("POST", login, "{\"type\":").unwrap_err().code,
        Code::NotJson
    );
    assert_eq!(
        read("POST", login, "\u{feff}{}").unwrap_err().code,
        Code::NotJson
    );
    assert_eq!(read("POST", login, "[]").unwrap_err().code, Code::BadJson);
    assert_eq!(read("POST", login, "3").unwrap_err().code, Code::BadJson);
}

#[test]
fn a_body_that_two_readers_could_read_differently_is_refused() {
    let send = "/_matrix/client/v3/rooms/!a:b/send/m.room.message/1";
    for body in [
        r#"{"body":"x","body":"y"}"#,
        r#"{"n":1.5}"#,
        r#"{"n":9007199254740993}"#,
        r#"{"body":"\ud800"}"#,
        &format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65)),
    ] {
        let refusal = read("PUT", send, body).unwrap_err();
        assert_eq!(
            (refusal.status, refusal.code),
            (400, Code::BadJson),
            "{body}"
        );
    }
    let receipts = "/_matrix/client/v3/user/@a:b/account_data/m.x";
    assert!(read("PUT", receipts, r#"{"order":0.5}"#).is_ok());
    let twice = read("PUT", receipts, r#"{"a":1,"a":2}"#).unwrap_err();
    assert_eq!(twice.code, Code::BadJson);
}

#[test]
fn a_login_without_a_type_is_refused() {
    let refusal = read("POST", "/_matrix/client/v3/login", r#"{"password":"x"}"#).unwrap_err();

    assert_eq!(
        (refusal.code, &*refusal.message),
        (Code::MissingParam, "`type` is missing")
    );
}

#[test]
fn what_is_of_a_closed_list_or_a_form_of_its_own_is_said_so() {
    let upload = "/_matrix/client/v3/keys/upload";
    let create = "/_matrix/client/v3/createRoom";
    let filter = "/_matrix/client/v3/user/@a:b.c/filter";
    for (path, body, wanted) in [
        (
            filter,
            r#"{"event_format":"odd"}"#,
            "`event_format`: expected one of `client`, `federation`, found another text",
        ),
        (
            create,
            r#"{"room_version":10}"#,
            "`room_version`: expected a room version, such as `12`, found a number",
        ),
        (
            upload,
            r#"{"one_time_keys":{"nocolon":{}}}"#,
            "`one_time_keys.nocolon`: expected a key's id, such as `signed_curve25519:AAAA` as the name",
        ),
    ] {
        let refusal = read("POST", path, body).unwrap_err();
        assert_eq!((refusal.status, &*refusal.message), (400, wanted));
    }
    let filter = r#"{"event_format":"federation"}"#;
    read("POST", "/_matrix/client/v3/user/@a:b.c/filter", filter).unwrap();
}

/// Keys that the client API gives a meaning to, so that chance finds the deeper parts of it.
const KEYS: &[&str] = &[
    "type",
    "identifier",
    "user",
    "user_id",
    "password",
    "auth",
    "session",
    "token",
    "content",
    "filter",
    "room",
    "timeline",
    "limit",
    "since",
    "reason",
    "visibility",
    "initial_state",
    "state_key",
    "preset",
    "device_keys",
    "one_time_keys",
    "messages",
    "from",
    "devices",
    "displayname",
    "m.fully_read",
    "typing",
    "timeout",
    "room_version",
    "creation_content",
    "via",
];

/// Anything JSON can hold, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[@!$#m.]?[a-z]{0,3}(:[a-z]{1,2})?".prop_map(Value::from),
        prop::sample::select(&["m.login.password", "m.id.user", "*", "m.room.message"][..])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            any_object(inner),
        ]
    })
}

fn any_object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop::sample::select(KEYS).prop_map(str::to_owned);
    prop::collection::vec((key, value), 0..5)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_request_makes_reading_panic_or_speak_of_rust(
        body in any_object(any_json()),
        argument in "[@!$#]?[a-z%/]{1,5}(:[a-z]{1,3})?",
        query in "((since|filter|timeout|limit|kind|server_name|dir)=[a-z0-9%{}\"]{0,6}&){0,3}",
    ) {
        let body = body.to_string();
        for &endpoint in super::Endpoint::ALL {
            let arguments = vec![argument.clone(); 4];
            for count in 0..=4 {
                let found = Match { endpoint, arguments: arguments[..count].to_vec() };
                match found.command(&query, body.as_bytes()) {
                    Ok(command) => assert_eq!(command.name(), endpoint.name()),
                    Err(refusal) => assert_plain(&refusal, &body),
                }
            }
        }
    }

    #[test]
    fn no_path_makes_finding_panic(path in "(/|%|2F|[a-z_.*]|\\PC|_matrix/client/v3/|rooms/){0,12}") {
        let _ = Path::of_url(&path).and_then(|path| ClientApi::new().find(&Method::GET, &path));
    }

    #[test]
    fn what_is_encoded_in_a_path_is_read_back(text in "\\PC{1,20}") {
        let encoded: Vec<String> = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let encoded = encoded.concat();
        let path = format!("/_matrix/client/v3/join/{encoded}");
        let path = Path::of_url(&path).unwrap();
        prop_assert_eq!(path.texts()[4], text);
    }

    #[test]
    fn no_text_makes_naming_a_place_in_it_panic(
        text in "([\\[\\]{}\",:\\\\\n]|a|\\PC){0,24}", line in 0..6_usize, column in 0..40_usize,
    ) {
        let _ = super::place::steps(text.as_bytes(), line, column);
    }

    #[test]
    fn no_query_makes_the_token_panic(query in "(access_token=|&|=|%|2F|\\PC){0,8}", header in ".{0,12}") {
        let _ = credentials([header.as_bytes()], &query);
    }
}

#[test]
fn a_wrong_field_is_named_and_its_value_is_not_repeated() {
    let body = r#"{"username":"ana", "inhibit_login": "hunter2"}"#;

    let refusal = read("POST", "/_matrix/client/v3/register", body).unwrap_err();

    assert_eq!(refusal.code, Code::BadJson);
    assert_eq!(
        refusal.message,
        "`inhibit_login`: expected true or false, found a text"
    );
}

#[test]
fn a_wrong_field_inside_is_named_with_its_way() {
    let body = "{\n \"device_keys\": {\"@a:b\": [\"x\"], \"@b:c\":\n [\"d\", 5]}}";

    let refusal = read("POST", "/_matrix/client/v3/keys/query", body).unwrap_err();

    assert_eq!(
        refusal.message,
        "`device_keys.@b:c[1]`: expected a text, found a number"
    );
}

#[test]
fn a_missing_field_is_a_missing_parameter() {
    let refusal = read("POST", "/_matrix/client/v3/rooms/!a:b/kick", "{}").unwrap_err();

    assert_eq!((refusal.status, refusal.code), (400, Code::MissingParam));
    assert_eq!(refusal.message, "`user_id` is missing");
}

#[test]
fn a_wrong_id_in_the_path_is_an_invalid_parameter() {
    let refusal = read("POST", "/_matrix/client/v3/rooms/nonsense/join", "{}").unwrap_err();

    assert_eq!((refusal.status, refusal.code), (400, Code::InvalidParam));
    assert!(refusal.message.starts_with("`roomId`: "), "{refusal}");
}

#[test]
fn a_wrong_parameter_of_the_query_is_named_and_its_value_is_not_repeated() {
    for (path, query, name) in [
        ("sync", "since=a&timeout=planted&full_state=true", "timeout"),
        ("sync", "full_state=planted", "full_state"),
        ("rooms/!a:b/messages", "dir=b&limit=planted", "limit"),
        ("rooms/!a:b/messages", "limit=1&dir=planted", "dir"),
    ] {
        let found = find("GET", &format!("/_matrix/client/v3/{path}")).unwrap();

        let refusal = found.command(query, b"").unwrap_err();

        assert_eq!(refusal.code, Code::InvalidParam, "{query}");
        assert!(
            refusal.message.starts_with(&format!("`{name}`: ")),
            "{refusal}"
        );
        assert!(!refusal.message.contains("planted"), "{refusal}");
    }
}

#[test]
fn a_query_that_repeats_a_parameter_is_refused() {
    let found = find("GET", "/_matrix/client/v3/sync").unwrap();

    let refusal = found.command("since=a&since=b", b"").unwrap_err();

    assert_eq!(refusal.code, Code::InvalidParam);
    assert!(refusal.message.contains("since"), "{}", refusal.message);
}

#[test]
fn a_token_comes_from_the_header_or_the_query() {
    let token = |text: &str| Credentials::Token(text.to_owned());
    let none: [&[u8]; 0] = [];

    assert_eq!(
        credentials(none, "a=b").unwrap(),
        (Credentials::Nothing, "a=b".into())
    );
    assert_eq!(
        credentials([&b"bearer x"[..]], "").unwrap(),
        (token("x"), "".into())
    );
    let (found, query) = credentials(none, "a=b&access_token=x%2F&c=d").unwrap();
    assert_eq!((found, &*query), (token("x/"), "a=b&c=d"));
    assert!(credentials([&b"Bearer x"[..]], "access_token=x").is_ok());
}

#[test]
fn two_tokens_are_refused() {
    let none: [&[u8]; 0] = [];
    assert!(credentials([&b"Bearer x"[..], b"Bearer x"], "").is_err());
    assert!(credentials([&b"Bearer x"[..]], "access_token=y").is_err());
    assert!(credentials(none, "access_token=y&access_token=y").is_err());
    assert_eq!(
        credentials([&b"Basic x"[..]], "").unwrap_err().code,
        Code::MissingToken
    );
}

#[test]
fn a_refusal_is_a_standard_error_with_what_it_adds() {
    let mut refusal = Refusal::new(Code::LimitExceeded, "slow down")
        .retry_after(std::time::Duration::from_millis(2500));
    refusal.body = Some(serde_json::Map::from_iter([(
        "soft_logout".to_owned(),
        true.into(),
    )]));

    let answer = Answer::of_refusal(refusal);

    assert_eq!(answer.status, 429);
    assert_eq!(
        serde_json::from_slice::<Value>(&answer.body).unwrap(),
        serde_json::json!({
            "errcode": "M_LIMIT_EXCEEDED", "error": "slow down",
            "retry_after_ms": 2500, "soft_logout": true,
        })
    );
}

#[test]
fn a_reply_is_its_json() {
    let answer = Answer::of(Ok(Reply::RegisterNonce {
        nonce: "n".to_owned(),
    }));

    assert_eq!(
        (answer.status, &*answer.body),
        (200, &br#"{"nonce":"n"}"#[..])
    );
}
