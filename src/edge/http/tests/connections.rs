//! Connections: broken, slow, too many, of HTTP/2, and what becomes of them at the end.

use super::*;

#[tokio::test]
async fn a_client_that_breaks_the_handshake_harms_nobody() {
    let door = running(Limits::default()).await;
    let mut broken = TcpStream::connect(door.address).await.unwrap();
    broken.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = broken.read_to_end(&mut rest).await;
    let _silent = TcpStream::connect(door.address).await.unwrap();

    assert_eq!(
        door.ask("GET /_matrix/client/versions", "", "")
            .await
            .status(),
        200
    );
}

/// What the log says of handshakes after somebody wrote these bytes.
async fn told_of(door: &Running, bytes: &[u8]) -> String {
    Log::begin();
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    lines_of(&Log::text())
}

/// What an operator reads of them.
fn lines_of(log: &str) -> String {
    let lines = log.lines().filter(|line| line.contains("TLS handshake"));
    let told: Vec<_> = lines.filter(|line| !line.contains("DEBUG")).collect();
    told.join("\n")
}

/// The first message of a client that speaks nothing newer than TLS 1.1.
fn old_hello() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

#[tokio::test]
async fn a_handshake_that_fails_is_told_with_its_cause_once_a_minute_for_an_address() {
    for (bytes, code, level) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "TLS_PLAIN_HTTP", "INFO"),
        (b"SSH-2.0-x\r\n".to_vec(), "TLS_NOT_TLS", "INFO"),
        (old_hello(), "TLS_VERSION", "WARN"),
    ] {
        let door = running(Limits::default()).await;

        let first = told_of(&door, &bytes).await;
        let second = told_of(&door, &bytes).await;

        assert!(
            first.contains(code) && first.contains(level),
            "{code}: {first}"
        );
        assert!(first.contains("peer=127.0.0.1:"), "{first}");
        assert_eq!(second, "", "{code}");
    }
}

#[tokio::test]
async fn a_peer_that_does_not_believe_the_certificate_is_told_to_the_operator() {
    for roots in [certificate().1, RootCertStore::empty()] {
        let mut door = running(Limits::default()).await;
        door.roots = roots;
        Log::begin();

        let connected = door.try_connect(b"http/1.1").await;

        assert!(connected.is_err());
        // its alert is on the way
        let log = loop {
            let log = lines_of(&Log::so_far());
            if !log.is_empty() {
                break log;
            }
            tokio::task::yield_now().await;
        };
        assert!(
            log.contains("WARN") && log.contains("TLS_CERT_REFUSED"),
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_client_that_drips_its_headers_or_handshake_is_cut_off() {
    let short = Duration::from_millis(50);
    let door = running(Limits {
        header: short,
        handshake: short,
        ..Limits::default()
    })
    .await;

    let mut silent = TcpStream::connect(door.address).await.unwrap();
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await; // returns: the door closed it
    let got = door
        .send("GET /_matrix/client/versions HTTP/1.1\r\nhost:")
        .await;

    assert!(!got.head.contains("200"), "{}", got.head);
}

#[tokio::test]
async fn a_client_that_drips_its_body_is_told_so() {
    let short = Duration::from_millis(50);
    let door = running(Limits {
        body: short,
        ..Limits::default()
    })
    .await;

    let login = "POST /_matrix/client/v3/login HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{";

    assert_eq!(door.send(login).await.status(), 408);
}

#[tokio::test]
async fn an_address_has_only_so_many_connections() {
    let door = running(Limits {
        connections_per_address_max: 1,
        ..Limits::default()
    })
    .await;
    let _first = door.connect(b"http/1.1").await;

    let mut second = TcpStream::connect(door.address).await.unwrap();
    let mut rest = Vec::new();
    let _ = second.read_to_end(&mut rest).await;

    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_sync() {
    let door = running(Limits::default()).await;
    let mut stream = door.connect(b"http/1.1").await;
    let sync = "GET /_matrix/client/v3/sync?since=s1&timeout=30000 HTTP/1.1\r\nhost: a\r\n\
                authorization: Bearer ana\r\n\r\n";
    stream.write_all(sync.as_bytes()).await.unwrap();
    while door.hub.count() == 0 {
        tokio::task::yield_now().await;
    }

    drop(stream);

    door.hub.left.notified().await;
}

#[tokio::test]
async fn http_2_is_spoken_to_those_who_ask_for_it() {
    let door = running(Limits::default()).await;
    let stream = TokioIo::new(door.connect(b"h2").await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = |method, path: &str| {
        Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header("authorization", "Bearer ana")
            .body(Full::<Bytes>::default())
            .unwrap()
    };

    let path = "/_matrix/client/v3/rooms/%21a%2Fb:c/join";
    let joined = sender.send_request(request("POST", path)).await.unwrap();
    let head = sender
        .send_request(request("HEAD", "/_matrix/client/versions"))
        .await
        .unwrap();

    let body = joined.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&*body, br#"{"room_id":"!a/b:c"}"#);
    assert_eq!(head.status(), 200);
    assert!(
        head.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

#[tokio::test]
async fn shutting_down_lets_a_request_under_way_finish() {
    let door = running(Limits::default()).await;
    let mut stream = door.connect(b"http/1.1").await;
    let sync = "GET /_matrix/client/v3/sync?since=s1 HTTP/1.1\r\nhost: a\r\n\
                authorization: Bearer ana\r\n\r\n";
    stream.write_all(sync.as_bytes()).await.unwrap();
    while door.hub.count() == 0 {
        tokio::task::yield_now().await;
    }

    door.stop.send(true).unwrap();
    door.hub.news.notify_one();

    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("s1+"),
        "{text}"
    );
    door.task.await.unwrap();
    assert!(TcpStream::connect(door.address).await.is_err());
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let door = running(Limits {
        drain: Duration::from_millis(20),
        ..Limits::default()
    })
    .await;
    let mut stream = door.connect(b"http/1.1").await;
    let sync = "GET /_matrix/client/v3/sync?since=s1 HTTP/1.1\r\nhost: a\r\n\
                authorization: Bearer ana\r\n\r\n";
    stream.write_all(sync.as_bytes()).await.unwrap();
    while door.hub.count() == 0 {
        tokio::task::yield_now().await;
    }

    door.stop.send(true).unwrap();

    door.task.await.unwrap();
    door.hub.left.notified().await;
}
