//! Servers that answer what they should not, or from elsewhere.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join;
use ruma::server_name as name;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::world::World;
use crate::edge::matrix::{
    outgoing::{Ask, AskError, ConnectError, ExchangeError},
    waiting,
};

/// What a canned server does after it has answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Close,
    Stay,
}

/// A server at `host` that gives the same answer to every request; and how many connections it took.
pub(super) async fn canned(
    world: &World,
    host: &str,
    port: u16,
    answer: impl Into<String>,
    then: Then,
) -> Arc<AtomicUsize> {
    let answer: Arc<str> = answer.into().into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.lead(host, port, listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(world.tls(host));
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    if stream.write_all(answer.as_bytes()).await.is_err() || then == Then::Close {
                        let _ = stream.shutdown().await;
                        return;
                    }
                    let _ = stream.flush().await;
                }
            });
        }
    });
    taken
}

pub(super) fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_well_known_file_leads_elsewhere_and_is_asked_for_once() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let b = world.hub("b.example:8449").await;
    let file = ok(r#"{"m.server": "b.example:8449"}"#);
    let asked = canned(&world, "c.example", 443, file, Then::Close).await;
    let ask = Ask::get("/_matrix/federation/v1/version");

    for _ in 0..2 {
        let told = a
            .federation
            .outgoing
            .ask(name!("c.example"), &ask)
            .await
            .unwrap();
        assert_eq!(told.status, 200);
    }

    assert_eq!(asked.load(Ordering::SeqCst), 1);
    drop(b);
}

#[tokio::test]
async fn a_well_known_file_may_be_behind_a_redirect_but_not_behind_many() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let moved =
        |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    canned(
        &world,
        "c.example",
        443,
        moved("https://d.example:444/x"),
        Then::Close,
    )
    .await;
    let file = ok(r#"{"m.server": "b.example:8449"}"#);
    canned(&world, "d.example", 444, file, Then::Close).await;
    let looping = canned(&world, "e.example", 443, moved("/"), Then::Close).await;

    let route = a
        .federation
        .outgoing
        .find(name!("c.example"))
        .await
        .unwrap();
    let at_home = a
        .federation
        .outgoing
        .find(name!("e.example"))
        .await
        .unwrap();

    assert_eq!(route.host_header, "b.example:8449");
    assert_eq!(at_home.host_header, "e.example");
    assert_eq!(looping.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn a_well_known_file_that_is_too_large_is_none() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let large = format!(
        "{{\"m.server\": \"b.example\", \"x\": \"{}\"}}",
        "x".repeat(60_000)
    );
    canned(&world, "c.example", 443, ok(&large), Then::Close).await;

    let route = a
        .federation
        .outgoing
        .find(name!("c.example"))
        .await
        .unwrap();

    assert_eq!(route.host_header, "c.example");
}

#[tokio::test]
async fn records_lead_elsewhere_with_the_certificate_of_the_name() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let c = world.hub("c.example:1").await;
    world.record("_matrix-fed._tcp.c.example.", 4433, "box.example.");
    world.lead("box.example", 4433, c.address);
    world.forget("c.example", 1);

    let ask = Ask::get("/_matrix/federation/v1/version");
    let told = a
        .federation
        .outgoing
        .ask(name!("c.example"), &ask)
        .await
        .unwrap();

    assert_eq!(told.status, 200);
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_ceiling_and_redirects_are_not_followed() {
    let world = World::new();
    let a = world.hub("a.example").await;
    canned(&world, "b.example", 8448, ok(&"x".repeat(2000)), Then::Stay).await;
    let moved = "HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\nContent-Length: 0\r\n\r\n";
    canned(&world, "c.example", 8448, moved, Then::Stay).await;
    let outgoing = &a.federation.outgoing;

    let whole = outgoing
        .ask(name!("b.example"), &Ask::get("/").answer_bytes_max(2000))
        .await;
    let cut = outgoing
        .ask(name!("b.example"), &Ask::get("/").answer_bytes_max(1999))
        .await;
    let moved = outgoing
        .ask(name!("c.example"), &Ask::get("/"))
        .await
        .unwrap();

    assert_eq!(whole.unwrap().body.len(), 2000);
    let too_large = matches!(
        cut,
        Err(AskError::Exchange(ExchangeError::TooLarge { max: 1999 }))
    );
    assert!(too_large);
    assert_eq!(moved.status, 302);
}

#[tokio::test]
async fn a_server_that_drips_its_answer_is_given_up_in_time() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nslow";
    canned(&world, "b.example", 8448, begun, Then::Stay).await;

    let ask = Ask::get("/").within(Duration::from_millis(300));
    let asking = a.federation.outgoing.ask(name!("b.example"), &ask);
    let meanwhile = async { world.pass(Duration::from_secs(5)) };
    let (told, waited) = waiting::counted(name!("c.example"), join(asking, meanwhile)).await;

    let error = told.0.unwrap_err();
    assert!(matches!(error, AskError::Slow { .. }), "{error}");
    assert_eq!(waited, Duration::from_secs(5));
}

#[tokio::test]
async fn a_connection_is_used_again_and_replaced_when_it_was_closed() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let stays = canned(&world, "b.example", 8448, ok("{}"), Then::Stay).await;
    let closes = canned(&world, "c.example", 8448, ok("{}"), Then::Close).await;
    let outgoing = &a.federation.outgoing;

    for _ in 0..3 {
        for server in [name!("b.example"), name!("c.example")] {
            let told = outgoing.ask(server, &Ask::get("/")).await.unwrap();
            assert_eq!(told.status, 200);
        }
    }

    assert_eq!(stays.load(Ordering::SeqCst), 1);
    assert_eq!(closes.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn this_hub_and_names_that_are_none_are_not_asked() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let before = world.connections();

    let ourselves = a
        .federation
        .outgoing
        .ask(name!("a.example"), &Ask::get("/"))
        .await;
    let odd = a
        .federation
        .outgoing
        .ask(name!("127.1"), &Ask::get("/"))
        .await;

    assert!(matches!(ourselves, Err(AskError::Ourselves(_))));
    assert!(matches!(odd, Err(AskError::Name(_))));
    assert_eq!(world.connections(), before);
}

/// A proxy that connects everyone to `to` and tells where they wanted to go; or refuses.
async fn proxy(to: Option<SocketAddr>) -> (SocketAddr, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let lines = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            lines
                .lock()
                .unwrap()
                .push(head.lines().next().unwrap().to_owned());
            let Some(to) = to else {
                let refused = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
                stream.write_all(refused).await.unwrap();
                continue;
            };
            let mut onward = TcpStream::connect(to).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 200 Fine\r\nX: y\r\n\r\n")
                .await
                .unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_proxy_is_asked_to_connect_and_its_refusal_is_told() {
    let world = World::new();
    let b = world.hub("b.example:8449").await;
    let (open, asked) = proxy(Some(b.address)).await;
    let (shut, _) = proxy(None).await;
    let a = world.proxied("a.example", open).await;
    let c = world.proxied("c.example", shut).await;
    let ask = Ask::get("/_matrix/federation/v1/version");

    let told = a.federation.outgoing.ask(b.name(), &ask).await.unwrap();
    let refused = c.federation.outgoing.ask(b.name(), &ask).await.unwrap_err();

    assert_eq!(told.status, 200);
    assert_eq!(*asked.lock().unwrap(), ["CONNECT b.example:8449 HTTP/1.1"]);
    assert!(matches!(
        refused,
        AskError::Connect(ConnectError::Proxy { .. })
    ));
    assert!(refused.to_string().contains("407"), "{refused}");
}
