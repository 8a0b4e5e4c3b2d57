//! Over real UDP on loopback, with a hub that is not one.

mod exchanging;
mod linked;
mod observed;

use std::{
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    driver::sleep,
    profile::{Asked, Fault},
    *,
};
use crate::{
    api::{Command, Credentials},
    base::{Timestamp, test_log::Log},
    edge::fake::Fake,
    session::coap::{Config, Event, Machine, Request, Response},
    wire::{
        cbor::{self, KeyForm},
        coap::{Code, Kind, Message, Options, Token, options::number},
    },
};

struct Wall;

impl Clock for Wall {
    #[expect(clippy::disallowed_methods, reason = "the tests' real clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }
}

struct Running {
    hub: Arc<Fake>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn quick() -> Timers {
    Timers {
        ack_timeout: Duration::from_millis(100),
        piggyback_within: Duration::from_millis(20),
        ..Timers::default()
    }
}

async fn running_with(limits: Limits) -> Running {
    let hub = Arc::new(Fake::default());
    let socket = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let door = Coap {
        front: Front::new(hub.clone()),
        clock: Arc::new(Wall),
        rng: Box::new(StdRng::seed_from_u64(1)),
        timers: quick(),
        limits,
        plainly: Plainly::Loopback,
        linked: None,
        exchanges: None,
    };
    let sockets = Sockets::new(vec![socket]).unwrap();
    let task = tokio::spawn(serve(sockets, door, stopped));
    Running {
        hub,
        address,
        stop,
        task,
    }
}

async fn running() -> Running {
    running_with(Limits::default()).await
}

/// A client at one address, made of the same machine.
struct Client {
    socket: UdpSocket,
    machine: Machine<SocketAddr>,
    server: SocketAddr,
}

impl Client {
    async fn of(door: &Running) -> Self {
        let mut config = Config::new([7; 32]);
        config.timers = quick();
        Self {
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            machine: Machine::new(config, Box::new(StdRng::seed_from_u64(2))),
            server: door.address,
        }
    }

    fn begin(&mut self, request: Request) {
        self.machine.request(Wall.now(), self.server, request);
    }

    async fn event(&mut self) -> Event<SocketAddr> {
        let mut buffer = vec![0; 2048];
        loop {
            while let Some((peer, datagram)) = self.machine.poll_transmit() {
                self.socket.send_to(&datagram, peer).await.unwrap();
            }
            if let Some(event) = self.machine.poll_event() {
                return event;
            }
            let wait = self.machine.poll_timeout().map(|due| due.since(Wall.now()));
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    let (size, peer) = received.unwrap();
                    self.machine.handle_datagram(Wall.now(), peer, &buffer[..size]);
                }
                () = sleep(wait) => self.machine.handle_timeout(Wall.now()),
            }
        }
    }

    async fn answer(&mut self) -> Response {
        match self.event().await {
            Event::Response { response, .. } | Event::Notification { response, .. } => response,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&mut self, request: Request) -> Response {
        self.begin(request);
        self.answer().await
    }
}

/// The segments of a path without parameters.
fn get(path: &str) -> Request {
    Request::new(Code::GET, &path.split('/').skip(1).collect::<Vec<_>>())
}

fn as_ana(request: Request) -> Request {
    request.option(number::ACCESS_TOKEN, "ana")
}

fn cbor_body(request: Request, body: &Value, keys: KeyForm) -> Request {
    request
        .option(number::CONTENT_FORMAT, [60])
        .body(cbor::encode(body, keys))
}

fn json_of(response: &Response) -> Value {
    match response.options.content_format() {
        Some(profile::JSON) => serde_json::from_slice(&response.payload).unwrap(),
        Some(profile::CBOR) => cbor::decode(&response.payload).unwrap().value,
        other => panic!("{other:?}"),
    }
}

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[tokio::test]
async fn full_and_short_paths_reach_the_same_command() {
    let door = running().await;
    let mut client = Client::of(&door).await;
    let room = "!a/b:hub.example";
    let full = [
        "_matrix",
        "client",
        "v3",
        "rooms",
        room,
        "send",
        "m.room.message",
        "t",
    ];

    for path in [&["9", room, "m.room.message", "t"][..], &full] {
        let request = as_ana(Request::new(Code::PUT, path));
        let response = client
            .ask(cbor_body(request, &json!({"body": "x"}), KeyForm::Text))
            .await;

        assert_eq!(response.code, Code::CONTENT);
        assert_eq!(json_of(&response), json!({"event_id": "$sent"}));
        let Command::Send(send) = door.hub.last() else {
            panic!("another command")
        };
        assert_eq!((send.room_id.as_str(), send.txn_id.as_str()), (room, "t"));
        assert_eq!(send.body.json().get(), r#"{"body":"x"}"#);
    }
}

#[tokio::test]
async fn an_answer_has_the_format_of_the_request_unless_another_is_asked_for() {
    let door = running().await;
    let mut client = Client::of(&door).await;
    let accept = |format: u8| move |request: Request| request.option(number::ACCEPT, [format]);
    let sends_cbor = |request| cbor_body(request, &json!({}), KeyForm::Text);
    let leave = |format: &dyn Fn(Request) -> Request| {
        format(as_ana(Request::new(Code::POST, &["K", "!a:b"])))
    };

    let plain = client.ask(leave(&|request| request)).await;
    assert_eq!(plain.options.content_format(), Some(profile::JSON));
    let cbor = client.ask(leave(&sends_cbor)).await;
    assert_eq!(cbor.options.content_format(), Some(profile::CBOR));
    let wanted = client.ask(leave(&accept(60))).await;
    assert_eq!(wanted.options.content_format(), Some(profile::CBOR));
    let json = client
        .ask(leave(&|request| accept(50)(sends_cbor(request))))
        .await;
    assert_eq!(json.options.content_format(), Some(profile::JSON));
    let neither = client.ask(leave(&accept(0))).await;
    assert_eq!(neither.code, Code::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn integer_keys_go_only_to_those_who_read_them() {
    let door = running().await;
    let answers_in = async |request: Request| {
        let mut client = Client::of(&door).await; // an address of its own: nothing sticks
        let response = client
            .ask(as_ana(request).option(number::ACCEPT, [60]))
            .await;
        cbor::decode(&response.payload).unwrap().keys
    };
    let join = || Request::new(Code::POST, &["K", "!a:b"]);
    let reason = json!({"reason": "x"});

    assert_eq!(answers_in(join()).await, KeyForm::Text);
    assert_eq!(
        answers_in(join().option(number::KEY_TABLE_VERSION, [1])).await,
        KeyForm::Integer
    );
    let numeric = cbor_body(join(), &reason, KeyForm::Integer);
    assert_eq!(answers_in(numeric.clone()).await, KeyForm::Integer);
    assert_eq!(
        answers_in(cbor_body(join(), &reason, KeyForm::Text)).await,
        KeyForm::Text
    );
    assert_eq!(
        answers_in(numeric.option(number::KEY_TABLE_VERSION, [])).await,
        KeyForm::Text
    );
}

#[tokio::test]
async fn a_token_said_once_holds_for_its_peer_only() {
    let door = running().await;
    let (mut ana, mut other) = (Client::of(&door).await, Client::of(&door).await);

    assert_eq!(ana.ask(get(WHOAMI)).await.code, Code::UNAUTHORIZED);
    let with_prefix = get(WHOAMI).option(number::ACCESS_TOKEN, "Bearer ana");
    assert_eq!(ana.ask(with_prefix).await.code, Code::CONTENT);
    assert_eq!(ana.ask(get(WHOAMI)).await.code, Code::CONTENT);
    let refused = other.ask(get(WHOAMI)).await;
    assert_eq!(refused.code, Code::UNAUTHORIZED);
    assert_eq!(json_of(&refused)["errcode"], "M_MISSING_TOKEN");
    let wrong = get(WHOAMI).option(number::ACCESS_TOKEN, "eve");
    assert_eq!(json_of(&ana.ask(wrong).await)["errcode"], "M_UNKNOWN_TOKEN");
    assert_eq!(ana.ask(get(WHOAMI)).await.code, Code::UNAUTHORIZED);
    let taken_back = get(WHOAMI).option(number::ACCESS_TOKEN, "");
    assert_eq!(
        json_of(&ana.ask(taken_back).await)["errcode"],
        "M_MISSING_TOKEN"
    );
}

#[tokio::test]
async fn a_query_reaches_the_hub_as_it_was() {
    let door = running().await;
    let mut client = Client::of(&door).await;

    let sync = as_ana(Request::new(Code::GET, &["7"]))
        .option(number::URI_QUERY, "filter={\"room\":{\"a\":\"ä&b=c+d\"}}")
        .option(number::URI_QUERY, "timeout=0");
    client.ask(sync).await;

    let Command::Sync(sync) = door.hub.last() else {
        panic!("another command")
    };
    assert_eq!(sync.timeout, Some(Duration::ZERO));
    let filter = format!("{:?}", sync.filter);
    assert!(filter.contains("FilterDefinition"), "{filter}");
}

#[tokio::test]
async fn a_body_of_40_kb_passes_both_ways() {
    let door = running().await;
    let mut client = Client::of(&door).await;
    let large = json!({"body": "x".repeat(40_000)});

    let send = as_ana(Request::new(
        Code::PUT,
        &["9", "!a:b", "m.room.message", "t"],
    ));
    let answer = client.ask(cbor_body(send, &large, KeyForm::Text)).await;
    assert_eq!(answer.code, Code::CONTENT);
    let Command::Send(send) = door.hub.last() else {
        panic!("another command")
    };
    assert_eq!(
        serde_json::from_str::<Value>(send.body.json().get()).unwrap(),
        large
    );

    let state = as_ana(Request::new(Code::GET, &["8", "!a:b", "m.room.topic", ""]));
    let state = client.ask(state.option(number::ACCEPT, [60])).await;
    assert_eq!(json_of(&state), large);
}

#[tokio::test]
async fn a_refusal_has_its_code_and_a_rate_limit_its_max_age() {
    let door = running().await;
    let mut client = Client::of(&door).await;

    let knock = ["_matrix", "client", "v3", "knock", "!a:b"];
    let limited = client.ask(as_ana(Request::new(Code::POST, &knock))).await;
    assert_eq!(
        (limited.code, limited.options.max_age()),
        (Code::TOO_MANY_REQUESTS, Some(3))
    );
    assert_eq!(json_of(&limited)["retry_after_ms"], 2500);
    let unknown = client.ask(as_ana(get("/_matrix/client/v3/nothing"))).await;
    assert_eq!(
        (unknown.code, &json_of(&unknown)["errcode"]),
        (Code::NOT_FOUND, &json!("M_UNRECOGNIZED"))
    );
    let short = client.ask(as_ana(get("/v"))).await;
    assert_eq!(short.code, Code::NOT_FOUND);
    let method = client.ask(as_ana(Request::new(Code::FETCH, &["7"]))).await;
    assert_eq!(method.code, Code::METHOD_NOT_ALLOWED);
    let method = client.ask(as_ana(Request::new(Code::PUT, &["7"]))).await;
    assert_eq!(method.code, Code::METHOD_NOT_ALLOWED);
    let forbidden = client
        .ask(as_ana(Request::new(Code::POST, &["M", "!a:b"])))
        .await;
    assert_eq!(forbidden.code, Code::FORBIDDEN);
}

#[tokio::test]
async fn a_body_that_does_not_decode_is_refused_in_its_own_format() {
    let door = running().await;
    let mut client = Client::of(&door).await;
    let send = |format: u8, body: &[u8]| {
        as_ana(Request::new(
            Code::PUT,
            &["9", "!a:b", "m.room.message", "t"],
        ))
        .option(number::CONTENT_FORMAT, [format])
        .body(body.to_vec())
    };

    let torn = client.ask(send(60, &[0xa1, 0x61])).await;
    assert_eq!(
        (torn.code, torn.options.content_format()),
        (Code::BAD_REQUEST, Some(60))
    );
    let told = cbor::decode(&torn.payload).unwrap().value;
    assert_eq!(told["errcode"], "M_NOT_JSON");
    assert!(told["error"].as_str().unwrap().contains("byte"));
    let unknown_key = client.ask(send(60, &[0xa1, 0x18, 0xc8, 0x01])).await;
    assert_eq!(json_of(&unknown_key)["errcode"], "M_BAD_JSON");
    let twice = client.ask(send(50, br#"{"a":1,"a":2}"#)).await;
    assert_eq!(json_of(&twice)["errcode"], "M_BAD_JSON");
    let not_json = client.ask(send(50, b"{")).await;
    assert_eq!(json_of(&not_json)["errcode"], "M_NOT_JSON");
    let xml = client.ask(send(41, b"<x/>")).await;
    assert_eq!(xml.code, Code::UNSUPPORTED_FORMAT);
    assert_eq!(door.hub.count(), 0);
}

#[tokio::test]
async fn an_unknown_critical_option_is_named() {
    let door = running().await;
    let mut client = Client::of(&door).await;

    let response = client.ask(as_ana(get(WHOAMI)).option(65_003, "x")).await;

    assert_eq!(response.code, Code::BAD_OPTION);
    assert!(String::from_utf8_lossy(&response.payload).contains("65003"));
}

#[tokio::test]
async fn malformed_datagrams_harm_nobody_else() {
    let door = running().await;
    let bad = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in [
        &b""[..],
        b"\x40",
        b"\xff\xff\xff\xff",
        b"\x49\x01\x00\x01",
        b"\x40\x01\x00\x02\xff",
    ] {
        bad.send_to(datagram, door.address).await.unwrap();
    }
    bad.send_to(&vec![0x40; 65_000], door.address)
        .await
        .unwrap();

    let response = Client::of(&door).await.ask(as_ana(get(WHOAMI))).await;

    assert_eq!(response.code, Code::CONTENT);
}

#[tokio::test]
async fn a_panic_answers_its_own_request_with_an_error() {
    let door = running().await;
    let mut client = Client::of(&door).await;

    let path = ["_matrix", "client", "v3", "logout", "all"];
    let response = client.ask(as_ana(Request::new(Code::POST, &path))).await;

    assert_eq!(response.code, Code::INTERNAL_ERROR);
    assert_eq!(client.ask(get(WHOAMI)).await.code, Code::CONTENT);
}

#[tokio::test]
async fn a_long_poll_is_acknowledged_at_once_and_answered_later() {
    let door = running().await;
    let raw = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let sync = Message {
        kind: Kind::Con,
        code: Code::GET,
        id: 1,
        token: Token::new(b"t").unwrap(),
        options: Options::new()
            .with(number::URI_PATH, "7")
            .with(number::URI_QUERY, "since=s1")
            .with(number::ACCESS_TOKEN, "ana"),
        payload: Vec::new(),
    };
    raw.send_to(&sync.encode().unwrap(), door.address)
        .await
        .unwrap();
    let mut buffer = [0; 2048];
    let mut next = async || {
        let size = raw.recv(&mut buffer).await.unwrap();
        Message::decode(&buffer[..size]).unwrap()
    };

    let acknowledged = next().await;
    door.hub.news.notify_one();
    let answer = next().await;

    assert_eq!(acknowledged, Message::empty(Kind::Ack, 1));
    assert_eq!(
        (answer.kind, answer.code, answer.token),
        (Kind::Con, Code::CONTENT, sync.token)
    );
    let ack = Message::empty(Kind::Ack, answer.id).encode().unwrap();
    raw.send_to(&ack, door.address).await.unwrap();
}

#[tokio::test]
async fn a_full_door_says_when_to_come_back() {
    let door = running_with(Limits {
        requests_max: 1,
        ..Limits::default()
    })
    .await;
    let (mut waiting, mut late) = (Client::of(&door).await, Client::of(&door).await);
    let sync = as_ana(Request::new(Code::GET, &["7"])).option(number::URI_QUERY, "since=s1");
    waiting.begin(sync);
    tokio::select! {
        event = waiting.event() => panic!("{event:?}"),
        () = async { while door.hub.count() == 0 { tokio::task::yield_now().await; } } => {}
    }

    let response = late.ask(as_ana(get(WHOAMI))).await;

    assert_eq!(
        (response.code, response.options.max_age()),
        (Code::UNAVAILABLE, Some(10))
    );
    door.hub.news.notify_one();
    assert_eq!(waiting.answer().await.code, Code::CONTENT);
    assert_eq!(late.ask(as_ana(get(WHOAMI))).await.code, Code::CONTENT);
}

#[tokio::test]
async fn no_secret_reaches_the_log() {
    Log::begin();
    let door = running().await;
    let mut client = Client::of(&door).await;

    client
        .ask(get(WHOAMI).option(number::ACCESS_TOKEN, "planted-1"))
        .await;
    client
        .ask(get(WHOAMI).option(number::URI_QUERY, "access_token=planted-2"))
        .await;
    let login = Request::new(Code::POST, &["1"]);
    client
        .ask(cbor_body(
            login.clone(),
            &json!({"type": {"planted-3": 1}}),
            KeyForm::Text,
        ))
        .await;
    client
        .ask(
            login
                .option(number::CONTENT_FORMAT, [50])
                .body("{\"password\":\"planted-4"),
        )
        .await;

    let send = [
        "_matrix",
        "client",
        "v3",
        "rooms",
        "!planted-5:b",
        "send",
        "m.text",
        "planted-6",
    ];
    let message = as_ana(Request::new(Code::PUT, &send));
    client
        .ask(cbor_body(
            message,
            &json!({"body": "planted-7"}),
            KeyForm::Text,
        ))
        .await;

    let log = Log::text();
    assert!(
        log.contains("user=\"@ana:hub.example\"}: tramline::request: answered status=200"),
        "{log}"
    );
    assert!(
        log.contains("endpoint=\"Login\"") && log.contains("door=\"coap\""),
        "{log}"
    );
    assert!(!log.contains("planted-"), "{log}");
}

#[tokio::test]
async fn lb_defect_5_an_integer_of_the_hub_arrives_as_an_integer() {
    let door = running().await;
    let mut client = Client::of(&door).await;
    let knock = ["_matrix", "client", "v3", "knock", "!a:b"];

    let knock = as_ana(Request::new(Code::POST, &knock)).option(number::ACCEPT, [60]);
    let limited = client.ask(knock).await;

    assert_eq!(json_of(&limited)["retry_after_ms"].as_u64(), Some(2500));
}

#[tokio::test]
async fn lb_defect_7_option_257_is_the_key_table_and_nothing_else() {
    let door = running().await;
    let mut client = Client::of(&door).await;
    let signed = "X-Matrix origin=a,key=b,sig=c";

    let refused = client
        .ask(get(WHOAMI).option(number::KEY_TABLE_VERSION, signed))
        .await;

    assert_eq!(refused.code, Code::BAD_OPTION);
}

proptest! {
    #[test]
    fn any_request_is_read_or_refused(
        method in prop::sample::select(vec![Code::GET, Code::POST, Code::PUT, Code::DELETE]),
        short in "[0-9A-Za-z_]",
        path in prop::collection::vec("\\PC{0,8}|[!@#$][a-z]{1,4}:x", 0..4),
        queries in prop::collection::vec("(since|timeout|filter|access_token|\\PC)?=?\\PC{0,6}", 0..4),
        token in prop::collection::vec(any::<u8>(), 0..20),
        table in any::<u32>(),
        format in prop::sample::select(vec![None, Some(50), Some(60), Some(0), Some(65_535)]),
        payload in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        let path: Vec<&str> = [short.as_str()].into_iter().chain(path.iter().map(String::as_str)).collect();
        let mut request = Request::new(method, &path);
        for query in queries {
            request.options.push(number::URI_QUERY, query);
        }
        request.options.push(number::ACCESS_TOKEN, token);
        request.options.push_uint(number::KEY_TABLE_VERSION, table);
        if let Some(format) = format {
            request.options.push_uint(number::CONTENT_FORMAT, format);
        }
        request.payload = payload.into();

        let meant = profile::words(&request);
        let (form, body) = profile::body(&request, &meant);
        let asked = Asked::of(&crate::edge::client_api::ClientApi::new(), &request, &meant);

        let refused = match (asked, body) {
            (Ok(asked), Ok(body)) => asked.command(&body).err().map(Fault::Refused),
            (Err(refusal), _) => Some(Fault::Refused(refusal)),
            (_, Err(fault)) => Some(fault),
        };
        if let Some(fault) = refused {
            prop_assert!((400..500).contains(&fault.status()), "{:?}", fault);
            prop_assert_eq!(form.fault(fault).code.class(), 4);
        }
    }
}
