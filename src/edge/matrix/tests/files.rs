//! Files that another server keeps elsewhere.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use ruma::server_name as name;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::world::{Hub, World};
use crate::{api::RemoteFile, edge::matrix::outgoing::AskError};

type Heads = Arc<Mutex<Vec<String>>>;

/// A server that gives the same answer to every request, and closes; and what it was asked.
async fn serving(world: &World, host: &str, port: u16, answer: String) -> Heads {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.lead(host, port, listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(world.tls(host));
    let heads = Heads::default();
    let asked = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            asked
                .lock()
                .unwrap()
                .push(String::from_utf8_lossy(&head).to_lowercase());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    heads
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// What a server says that keeps its file at `url`.
fn at(url: &str) -> String {
    let body = format!(
        "--b\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--b\r\nLocation: {url}\r\n\r\n\r\n--b--\r\n"
    );
    let kind = "Content-Type: multipart/mixed; boundary=b\r\n";
    answer("200 OK", kind, &body)
}

async fn fetched(from: &Hub) -> Result<RemoteFile, AskError> {
    let within = Duration::from_secs(10);
    let outgoing = &from.federation.outgoing;
    outgoing.file(name!("b.example"), "abc", within).await
}

#[tokio::test]
async fn a_file_that_is_kept_elsewhere_is_fetched_from_there_without_credentials() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let url = "https://cdn.example/x/y?until=1";
    let asked = serving(&world, "b.example", 8448, at(url)).await;
    let headers =
        "Content-Type: image/png\r\nContent-Disposition: inline; filename=\"cat.png\"\r\n";
    let file = answer("200 OK", headers, "bytes of a cat");
    let kept = serving(&world, "cdn.example", 443, file).await;

    let file = fetched(&a).await.unwrap();

    assert_eq!(file.content_type.as_deref(), Some("image/png"));
    assert_eq!(file.filename.as_deref(), Some("cat.png"));
    let pieces: Vec<_> = file.body.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), b"bytes of a cat");
    assert!(asked.lock().unwrap()[0].contains("authorization: x-matrix"));
    let kept = kept.lock().unwrap();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].starts_with("get /x/y?until=1 http/1.1\r\n"));
    assert!(!kept[0].contains("authorization") && !kept[0].contains("a.example"));
}

#[tokio::test]
async fn a_file_that_is_kept_where_nothing_may_lead_is_none() {
    let world = World::new();
    let a = world.hub("a.example").await;
    let moved = answer("302 Found", "Location: https://far.example/\r\n", "");
    let moving = serving(&world, "cdn.example", 443, moved).await;
    let far = serving(&world, "far.example", 443, answer("200 OK", "", "x")).await;
    for url in [
        "http://cdn.example/x",
        "ftp://cdn.example/x",
        "/x",
        "//cdn.example/x",
        "https://u:p@cdn.example/x",
        "https://127.1/x",
        "",
    ] {
        serving(&world, "b.example", 8448, at(url)).await;
        let error = fetched(&a).await.err().unwrap();
        assert!(matches!(error, AskError::NoFile(_)), "{url:?}: {error}");
    }
    assert_eq!(moving.lock().unwrap().len(), 0);

    serving(&world, "b.example", 8448, at("https://cdn.example/x")).await;
    let error = fetched(&a).await.err().unwrap();
    assert!(
        error.to_string().contains("cdn.example: HTTP 302"),
        "{error}"
    );
    serving(&world, "b.example", 8448, at("https://gone.example/x")).await;
    let error = fetched(&a).await.err().unwrap();
    assert!(matches!(error, AskError::KeptElsewhere { .. }), "{error}");
    assert!(error.is_sign_of_life(), "the server itself has answered");
    assert_eq!(far.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn where_a_file_is_kept_may_not_be_in_a_private_network() {
    let world = World::new();
    let a = world.public_only("a.example").await;
    let inside = serving(&world, "inside.example", 443, answer("200 OK", "", "x")).await;
    for url in [
        "https://inside.example/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
    ] {
        let error = a.federation.outgoing.kept_at(url).await.err().unwrap();
        let said = error.to_string();
        assert!(said.contains("not of the public internet"), "{url}: {said}");
    }
    assert_eq!(inside.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_file_that_breaks_off_where_it_is_kept_is_not_taken_for_whole() {
    let world = World::new();
    let a = world.hub("a.example").await;
    serving(&world, "b.example", 8448, at("https://cdn.example/x")).await;
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_owned();
    serving(&world, "cdn.example", 443, cut).await;

    let file = fetched(&a).await.unwrap();

    assert!(file.body.try_collect::<Vec<_>>().await.is_err());
}
