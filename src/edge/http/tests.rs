//! Over real TLS connections on loopback, with a hub that is not one.

mod connections;
mod files;

use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{api::Command, base::limits::BODY_BYTES_MAX, base::test_log::Log, edge::fake::Fake};

struct Running {
    hub: Arc<Fake>,
    address: SocketAddr,
    roots: RootCertStore,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    certificate: Arc<Shown>,
}

/// The certificate that the door shows to the next connection.
#[derive(Debug)]
struct Shown(Mutex<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap()))
    }
}

/// A certificate of its own, and what a client needs to trust it.
fn certificate() -> (Arc<CertifiedKey>, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = vec![made.cert.der().clone()];
    let shown = CertifiedKey::from_der(chain, key, &ring::default_provider()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (Arc::new(shown), roots)
}

async fn running(limits: Limits) -> Running {
    let hub = Arc::new(Fake::default());
    let (shown, roots) = certificate();
    let certificate = Arc::new(Shown(Mutex::new(shown)));
    let tls = tls::server_config(certificate.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let door = Https {
        front: Front::new(hub.clone()),
        limits,
        well_known: WellKnown {
            client_base_url: Some("https://hub.example".to_owned()),
            server: None,
            ..WellKnown::default()
        },
        websockets: None,
        facts: None,
        federation: None,
    };
    let task = tokio::spawn(serve(listener, tls, door, stopped));
    Running {
        hub,
        address,
        roots,
        stop,
        task,
        certificate,
    }
}

impl Running {
    async fn connect(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        self.try_connect(alpn).await.unwrap()
    }

    async fn try_connect(&self, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    /// Sends the text of a request on a connection of its own; gives head and body of the answer.
    async fn send(&self, request: &str) -> Got {
        let mut stream = self.connect(b"http/1.1").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // an end without a TLS close is still an end
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Got {
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn ask(&self, line: &str, headers: &str, body: &str) -> Got {
        let length = body.len();
        self.send(&format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        ))
        .await
    }

    async fn as_ana(&self, line: &str, body: &str) -> Got {
        self.ask(line, "authorization: Bearer ana\r\n", body).await
    }
}

struct Got {
    head: String,
    body: String,
}

impl Got {
    fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    fn errcode(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["errcode"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

#[tokio::test]
async fn an_id_with_an_encoded_slash_reaches_the_hub_whole() {
    let door = running(Limits::default()).await;

    let got = door
        .as_ana("POST /_matrix/client/v3/rooms/%21a%2Fb:c/join", "{}")
        .await;

    assert_eq!(got.status(), 200, "{}", got.body);
    assert_eq!(got.body, r#"{"room_id":"!a/b:c"}"#);
    assert_eq!(got.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn every_answer_carries_cors_headers_and_a_request_id() {
    let door = running(Limits::default()).await;

    for line in [
        "GET /nowhere",
        "GET /_matrix/client/versions",
        "OPTIONS /_matrix/client/v3/sync",
    ] {
        let got = door.ask(line, "", "").await;
        assert_eq!(
            got.header("access-control-allow-origin"),
            Some("*"),
            "{line}"
        );
        let methods = got.header("access-control-allow-methods").unwrap();
        assert!(methods.contains("options"), "{line}");
        assert!(
            got.header("access-control-allow-headers")
                .unwrap()
                .contains("authorization")
        );
        assert!(got.header("server").is_none());
        if !line.starts_with("OPTIONS") {
            assert!(got.header("x-request-id").is_some(), "{line}");
        }
    }
}

#[tokio::test]
async fn options_never_reaches_the_hub() {
    let door = running(Limits::default()).await;

    let got = door
        .as_ana("OPTIONS /_matrix/client/v3/account/whoami", "")
        .await;

    assert_eq!((got.status(), door.hub.count()), (204, 0));
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405() {
    let door = running(Limits::default()).await;

    let unknown = door.as_ana("GET /_matrix/client/v3/nothing", "").await;
    assert_eq!(
        (unknown.status(), &*unknown.errcode()),
        (404, "M_UNRECOGNIZED")
    );
    // A server that signs is told the same: it goes by that, and shows no token.
    let signed = "Authorization: X-Matrix origin=\"far\",key=\"ed25519:1\",sig=\"AA\"\r\n";
    let unknown = door
        .ask("GET /_matrix/federation/v1/nothing", signed, "")
        .await;
    assert_eq!(
        (unknown.status(), &*unknown.errcode()),
        (404, "M_UNRECOGNIZED")
    );
    let wrong = door.as_ana("PATCH /_matrix/client/v3/sync", "").await;
    assert_eq!((wrong.status(), &*wrong.errcode()), (405, "M_UNRECOGNIZED"));
    let wrong = door.as_ana("GET /_matrix/media/v3/upload", "").await;
    assert_eq!((wrong.status(), &*wrong.errcode()), (405, "M_UNRECOGNIZED"));
}

#[tokio::test]
async fn what_is_not_served_is_explained_by_the_setting_or_by_the_path() {
    let door = running(Limits::default()).await; // without federation

    door.as_ana("GET /_matrix/federation/v1/version", "").await;
    let why = door.hub.refusal.lock().unwrap().take().unwrap().why;
    assert_eq!(why.code, Some("FEDERATION_OFF"));
    assert_eq!(why.passes, None);

    door.as_ana("GET /_matrix/client/v3/nothing", "").await;
    let why = door.hub.refusal.lock().unwrap().take().unwrap().why;
    assert_eq!(why.code, None);
    let passes = why.passes.unwrap();
    assert!(passes.contains("/_matrix/client/v3/nothing"), "{passes}");
}

#[tokio::test]
async fn who_sent_a_body_that_cannot_be_read_is_named_to_the_operator() {
    let door = running(Limits::default()).await;
    for line in [
        "PUT /_matrix/client/v3/rooms/!r:h/send/m.room.message/t",
        "POST /_matrix/client/v3/keys/upload",
    ] {
        let got = door.as_ana(line, r#"{"a":"#).await;

        assert_eq!((got.status(), &*got.errcode()), (400, "M_NOT_JSON"));
        let refused = door.hub.refusal.lock().unwrap().take().unwrap();
        assert_eq!(
            (refused.why.who.as_deref(), refused.why.is_claimed),
            (Some("@ana:hub.example"), false)
        );
        assert_eq!(
            refused.message,
            "`a`: the body ends in the middle of a value at byte 5"
        );
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_methods_that_the_path_knows() {
    let door = running(Limits::default()).await;

    for (line, allow) in [
        ("PATCH /_matrix/client/v3/sync", "GET, HEAD, OPTIONS"),
        ("GET /_matrix/media/v3/upload", "OPTIONS, POST"),
        (
            "DELETE /_matrix/client/v1/media/download/a/b",
            "GET, HEAD, OPTIONS",
        ),
        ("PUT /.well-known/matrix/server", "GET, HEAD, OPTIONS"),
        ("GET /_tramline/client/v1/link/redeem", "OPTIONS, POST"),
        ("PATCH /_matrix/client/v3/login", "GET, HEAD, OPTIONS, POST"),
    ] {
        let got = door.as_ana(line, "").await;

        assert_eq!(
            (got.status(), &*got.errcode()),
            (405, "M_UNRECOGNIZED"),
            "{line}"
        );
        let allow = allow.to_lowercase();
        assert_eq!(got.header("allow"), Some(allow.as_str()), "{line}");
    }
}

#[tokio::test]
async fn the_operator_is_told_path_method_and_who_claims_to_ask_for_what_is_not_served() {
    let door = running(Limits::default()).await;
    let sig = "A".repeat(86);
    let signed = format!(
        "Authorization: X-Matrix origin=\"far.example\",key=\"ed25519:1\",sig=\"{sig}\"\r\n"
    );
    Log::begin();

    let got = door
        .ask("PUT /_matrix/federation/v1/no_%0a?q=hunter2", &signed, "")
        .await;

    let log = Log::text();
    assert_eq!(got.status(), 404);
    let refused = door.hub.refusal.lock().unwrap().take().unwrap();
    let asked = ("PUT".to_owned(), "/_matrix/federation/v1/no_%0a".to_owned());
    assert_eq!(refused.why.asked, Some(asked));
    assert_eq!(refused.why.who.as_deref(), Some("far.example"));
    assert!(refused.why.is_claimed);
    let line = log.lines().find(|line| line.contains("answered")).unwrap();
    for part in [
        "method=\"PUT\"",
        "path=\"/_matrix/federation/v1/no_%0a\"",
        "server_unverified=\"far.example\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn a_path_with_a_slash_at_its_end_is_unknown_in_the_ordinary_words() {
    let door = running(Limits::default()).await;

    for path in [
        "/_matrix/federation/v1/version/",
        "/_matrix/key/v2/server/",
        "/_matrix/",
        "/_matrix",
        "/_matrix//",
        "//_matrix/federation/v1/version",
    ] {
        let got = door.ask(&format!("GET {path}"), "", "").await;

        assert_eq!(
            (got.status(), &*got.errcode()),
            (404, "M_UNRECOGNIZED"),
            "{path}"
        );
        assert_eq!(
            got.header("content-type"),
            Some("application/json"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn head_says_what_get_would_without_the_body() {
    let door = running(Limits::default()).await;
    let get = door.ask("GET /_matrix/client/versions", "", "").await;

    let head = door.ask("HEAD /_matrix/client/versions", "", "").await;

    assert_eq!((head.status(), &*head.body), (200, ""));
    assert_eq!(head.header("content-length"), get.header("content-length"));
}

#[tokio::test]
async fn a_body_too_large_is_413_and_one_of_40_kb_passes_both_ways() {
    let door = running(Limits::default()).await;
    let send = "PUT /_matrix/client/v3/rooms/!a:b/send/m.room.message/1";

    let large = door.as_ana(send, &"x".repeat(BODY_BYTES_MAX + 1)).await;
    assert_eq!((large.status(), &*large.errcode()), (413, "M_TOO_LARGE"));
    let fits = door
        .as_ana(send, &format!(r#"{{"body":"{}"}}"#, "x".repeat(40_000)))
        .await;
    assert_eq!(fits.status(), 200, "{}", fits.body);
    let state = door
        .as_ana("GET /_matrix/client/v3/rooms/!a:b/state/m.room.topic", "")
        .await;
    assert_eq!(state.status(), 200);
    assert!(state.body.len() > 40_000);
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused_with_an_error_of_matrix() {
    let door = running(Limits::default()).await;
    let versions = "GET /_matrix/client/versions";

    let many = format!("x-filler: {}\r\n", "x".repeat(40_000));
    let got = door.ask(versions, &many, "").await;
    assert_eq!((got.status(), &*got.errcode()), (431, "M_TOO_LARGE"));
    let line = format!("{versions}?filter={}", "x".repeat(40_000));
    let got = door.ask(&line, "", "").await;
    assert_eq!((got.status(), &*got.errcode()), (431, "M_TOO_LARGE"));
    assert_eq!(door.hub.count(), 0);
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let door = running(Limits::default()).await;
    let chunk = format!("{:x}\r\n{}\r\n", 0x8000, "x".repeat(0x8000));

    let got = door
        .send(&format!(
            "POST /_matrix/client/v3/login HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
             transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(9)
        ))
        .await;

    assert_eq!((got.status(), &*got.errcode()), (413, "M_TOO_LARGE"));
}

#[tokio::test]
async fn a_client_that_sends_it_all_first_still_gets_its_refusal() {
    let door = running(Limits::default()).await;
    let large = "x".repeat(8 * 1024 * 1024);

    let login = door.as_ana("POST /_matrix/client/v3/login", &large).await;
    assert_eq!((login.status(), &*login.errcode()), (413, "M_TOO_LARGE"));
    assert_eq!(
        door.as_ana("POST /_matrix/client/v3/none", &large)
            .await
            .status(),
        404
    );
    assert_eq!(
        door.ask("POST /_matrix/media/v3/upload", "", &large)
            .await
            .status(),
        401
    );
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_before_it_sends() {
    let door = running(Limits::default()).await;

    let got = door
        .send(
            "POST /_matrix/client/v3/login HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
             content-length: 8000000\r\nexpect: 100-continue\r\n\r\n",
        )
        .await;

    assert_eq!(got.status(), 413);
}

#[tokio::test]
async fn a_request_hidden_behind_another_is_not_served() {
    let door = running(Limits::default()).await;
    let hidden = "GET /_matrix/client/v3/account/whoami HTTP/1.1\r\nhost: a\r\n\
                  authorization: Bearer ana\r\n\r\n";
    let length = hidden.len() + 5;

    let got = door
        .send(&format!(
            "POST /_matrix/client/v3/login HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\
             transfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
        ))
        .await;

    assert_eq!(got.status(), 400);
    assert!(!got.body.contains("HTTP/1.1"), "{}", got.body);
    assert_eq!(door.hub.count(), 0);
    let two_lengths = "GET /_matrix/client/versions HTTP/1.1\r\nhost: a\r\n\
                       content-length: 0\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(door.send(two_lengths).await.status(), 400);
}

#[tokio::test]
async fn a_request_with_no_host_or_with_two_is_refused() {
    let door = running(Limits::default()).await;

    for hosts in ["", "host: a\r\nhost: b\r\n", "host: a\r\nhost: a\r\n"] {
        let got = door
            .send(&format!(
                "GET /_matrix/client/versions HTTP/1.1\r\n{hosts}connection: close\r\n\r\n"
            ))
            .await;

        assert_eq!(got.status(), 400, "{hosts}");
        assert_eq!(got.errcode(), "M_INVALID_PARAM");
    }
    assert_eq!(door.hub.count(), 0);
    let old = "GET /_matrix/client/versions HTTP/1.0\r\n\r\n";
    assert_eq!(door.send(old).await.status(), 200);
}

#[tokio::test]
async fn two_authorization_headers_are_refused() {
    let door = running(Limits::default()).await;
    let two = "authorization: Bearer ana\r\nauthorization: Bearer bob\r\n";

    let got = door
        .ask("GET /_matrix/client/v3/account/whoami", two, "")
        .await;

    assert_eq!((got.status(), door.hub.count()), (400, 0));
}

#[tokio::test]
async fn a_token_in_the_query_is_taken_and_a_missing_one_is_401() {
    let door = running(Limits::default()).await;

    let whoami = "GET /_matrix/client/v3/account/whoami";
    let got = door
        .ask(&format!("{whoami}?access_token=ana"), "", "")
        .await;
    assert_eq!(got.status(), 200, "{}", got.body);
    let got = door.ask(whoami, "", "").await;
    assert_eq!((got.status(), &*got.errcode()), (401, "M_MISSING_TOKEN"));
    let origin = door.hub.last_origin();
    assert_eq!(
        (origin.door, origin.address),
        (Door::Https, Some("127.0.0.1".parse().unwrap()))
    );
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back() {
    let door = running(Limits::default()).await;

    let got = door
        .as_ana("POST /_matrix/client/v3/knock/!a:b", "{}")
        .await;

    assert_eq!((got.status(), got.header("retry-after")), (429, Some("3")));
    assert!(got.body.contains(r#""retry_after_ms":2500"#));
}

#[tokio::test]
async fn a_panic_harms_its_request_only() {
    let door = running(Limits::default()).await;
    let mut stream = door.connect(b"http/1.1").await;
    let panics = "POST /_matrix/client/v3/logout/all HTTP/1.1\r\nhost: a\r\n\
                  authorization: Bearer ana\r\ncontent-length: 0\r\n\r\n";
    let works = "GET /_matrix/client/versions HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

    stream
        .write_all(format!("{panics}{works}").as_bytes())
        .await
        .unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;

    assert!(text.starts_with("HTTP/1.1 500"), "{text}");
    assert!(
        text.contains("M_UNKNOWN") && text.contains("HTTP/1.1 200"),
        "{text}"
    );
}

#[tokio::test]
async fn well_known_addresses_come_from_the_configuration() {
    let door = running(Limits::default()).await;

    let client = door.ask("GET /.well-known/matrix/client", "", "").await;
    assert_eq!(
        client.body,
        r#"{"m.homeserver":{"base_url":"https://hub.example"}}"#
    );
    let server = door.ask("GET /.well-known/matrix/server", "", "").await;
    assert_eq!((server.status(), &*server.errcode()), (404, "M_NOT_FOUND"));
    // Whoever looks for a hub asks; what is kept for the operator is who was kept out.
    door.ask("GET /_matrix/client/v3/nothing", "", "").await;
    assert_eq!(*door.hub.refused.lock().unwrap(), ["Unknown"]);
}

#[tokio::test]
async fn a_refusal_does_not_repeat_what_was_sent() {
    let door = running(Limits::default()).await;
    let login = "POST /_matrix/client/v3/login";

    for (line, body) in [
        (login, r#"{"type":{"p":"hunter2"}}"#),
        (login, r#"{"password":"hunter2""#),
        ("GET /_matrix/client/v3/sync?full_state=hunter2", ""),
    ] {
        let got = door.as_ana(line, body).await;
        assert_eq!(got.status(), 400, "{line} {body}");
        assert!(!got.body.contains("hunter2"), "{}", got.body);
    }
    assert_eq!(door.hub.count(), 0);
    let whoami = "GET /_matrix/client/v3/account/whoami?access_token=hunter2";
    let got = door.ask(whoami, "", "").await;
    assert_eq!(got.status(), 401);
    assert!(!got.body.contains("hunter2"));
    assert!(matches!(door.hub.last(), Command::Whoami(_)));
}

#[tokio::test]
async fn no_secret_reaches_the_log() {
    Log::begin();
    let door = running(Limits::default()).await;

    let path = "/_matrix/client/v3/rooms/!planted-room:b/join";
    door.ask(
        &format!("POST {path}?access_token=planted-1"),
        "",
        r#"{"reason":"planted-2"}"#,
    )
    .await;
    let bearer = "authorization: Bearer planted-3\r\n";
    door.ask(
        "POST /_matrix/client/v3/login",
        bearer,
        r#"{"type":{"planted-4":1}}"#,
    )
    .await;
    door.ask(
        "POST /_matrix/client/v3/login",
        "",
        r#"{"password":"planted-5"#,
    )
    .await;

    door.as_ana(SEND, r#"{"body":"planted-6"}"#).await;

    let log = Log::text();
    assert!(
        log.contains("endpoint=\"Login\"") && log.contains("door=\"https\""),
        "{log}"
    );
    assert!(!log.contains("planted-"), "{log}");
}

/// The sending of a message whose transaction is a secret too.
const SEND: &str = "PUT /_matrix/client/v3/rooms/!planted-room:b/send/m.room.message/planted-txn";

#[tokio::test]
async fn a_request_is_one_line_of_the_log() {
    Log::begin();
    let door = running(Limits::default()).await;

    let sent = door
        .as_ana(SEND, r#"{"body":"twenty-two characters"}"#)
        .await;
    let refused = door.ask(SEND, "", "{}").await;

    assert_eq!((sent.status(), refused.status()), (200, 401));
    let log = Log::text();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" tramline::request: "))
        .collect();
    let [sent_line, refused_line] = lines.as_slice() else {
        panic!("{log}")
    };
    let number = sent.header("x-request-id").unwrap();
    let bytes = sent.body.len();
    for told in [
        "INFO request{",
        &format!("request={number} door=\"https\" endpoint=\"Send\" user=\"@ana:hub.example\"}}"),
        &format!("answered status=200 bytes_in=32 bytes_out={bytes} took_us="),
    ] {
        assert!(sent_line.contains(told), "{told} in {sent_line}");
    }
    assert!(
        refused_line.contains("status=401 code=\"M_MISSING_TOKEN\""),
        "{refused_line}"
    );
    assert!(!refused_line.contains("user="), "{refused_line}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_the_next_connection() {
    let mut door = running(Limits::default()).await;
    door.ask("GET /_matrix/client/versions", "", "").await;

    let (renewed, roots) = certificate();
    *door.certificate.0.lock().unwrap() = renewed;
    door.roots = roots;

    assert_eq!(
        door.ask("GET /_matrix/client/versions", "", "")
            .await
            .status(),
        200
    );
}
