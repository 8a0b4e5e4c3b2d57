//! CoAP over WebSocket, over TLS on loopback, by a client of a few lines: RFC 6455 frames by hand.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::hub::{Hub, ana};
use crate::{
    edge::{
        Front,
        http::{self, Https, Limits, WellKnown, tls},
        websocket::WebSockets,
    },
    session::{
        coap::{Request, Response},
        framed::{Form, Framed, MESSAGE_BYTES_MAX, Settings, Signal},
    },
    wire::coap::{Code, Token},
};

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

struct Running {
    hub: Arc<Hub>,
    address: SocketAddr,
    roots: RootCertStore,
    stop: watch::Sender<bool>,
}

async fn running() -> Running {
    let hub = Arc::new(Hub::default());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = vec![made.cert.der().clone()];
    let shown = CertifiedKey::from_der(chain, key, &ring::default_provider()).unwrap();
    let tls = tls::server_config(Arc::new(Shown(Arc::new(shown)))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let links = Arc::clone(&hub) as Arc<dyn crate::api::Links>;
    let door = Https {
        front: Front::new(hub.clone()),
        limits: Limits::default(),
        well_known: WellKnown::default(),
        facts: None,
        federation: None,
        websockets: Some(WebSockets::new(hub.clone(), &links)),
    };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(http::serve(listener, tls, door, stopped));
    Running {
        hub,
        address,
        roots,
        stop,
    }
}

struct Socket(TlsStream<TcpStream>);

impl Running {
    /// Asks for the upgrade; gives the connection and the status of the answer.
    async fn upgrade(&self, headers: &str) -> (Socket, String) {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = format!(
            "GET /.well-known/coap HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        (Socket(stream), head)
    }

    async fn connected(&self) -> Socket {
        let headers = "authorization: Bearer ana\r\nsec-websocket-protocol: coap\r\n";
        let (mut socket, head) = self.upgrade(headers).await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("sec-websocket-protocol: coap"), "{head}");
        let settings = Settings {
            message_bytes_max: Some(4000),
            block_wise: false,
        };
        socket
            .send(&Signal::Settings(settings).write(Token::EMPTY))
            .await;
        let csm = Signal::read(&socket.next().await.unwrap()).unwrap();
        assert!(matches!(csm, Signal::Settings(_)), "{csm:?}");
        socket
    }
}

impl Socket {
    async fn send(&mut self, message: &Framed) {
        self.frame(2, &message.encode(Form::Alone).unwrap()).await;
    }

    async fn frame(&mut self, kind: u8, bytes: &[u8]) {
        let mut frame = vec![0x80 | kind];
        if let Ok(length @ 0..126) = u8::try_from(bytes.len()) {
            frame.push(0x80 | length);
        } else {
            frame.push(0x80 | 0x7e);
            frame.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        }
        frame.extend([0; 4]); // the mask
        frame.extend(bytes);
        self.0.write_all(&frame).await.unwrap();
    }

    /// The next message; none when it was closed.
    async fn next(&mut self) -> Option<Framed> {
        let kind = self.0.read_u8().await.ok()? & 0x0f;
        let length = match self.0.read_u8().await.ok()? {
            126 => usize::from(self.0.read_u16().await.ok()?),
            127 => usize::try_from(self.0.read_u64().await.ok()?).unwrap(),
            short => usize::from(short),
        };
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await.ok()?;
        (kind == 2).then(|| Framed::decode(&bytes, MESSAGE_BYTES_MAX).unwrap())
    }
}

fn token(byte: u8) -> Token {
    Token::new(&[byte]).unwrap()
}

fn draft(bytes: &[u8], by: u8) -> Framed {
    Framed::of_request(
        &Request::new(Code::POST, &["A"]).body(bytes.to_vec()),
        token(by),
    )
}

#[tokio::test]
async fn requests_are_answered_by_token_and_pings_too() {
    let running = running().await;
    let mut socket = running.connected().await;

    socket.send(&draft(b"one", 1)).await;
    let answer = socket.next().await.unwrap();
    assert_eq!((answer.token, &answer.payload[..]), (token(1), &b"one"[..]));
    let who = Framed::of_request(&Request::new(Code::GET, &["who"]), token(2));
    socket.send(&who).await;
    assert_eq!(&socket.next().await.unwrap().payload[..], b"PHONE");
    socket
        .send(&Signal::Ping { custody: false }.write(token(3)))
        .await;
    let pong = socket.next().await.unwrap();
    assert_eq!(pong.token, token(3));
    assert_eq!(Signal::read(&pong), Ok(Signal::Pong { custody: false }));
    socket.send(&draft(&[7; 5000], 4)).await; // more than this device takes back
    assert_eq!(socket.next().await.unwrap().code, Code::INTERNAL_ERROR);
}

#[tokio::test]
async fn an_observation_tells_until_its_token_is_deregistered() {
    let running = running().await;
    let mut socket = running.connected().await;
    let (tell, news) = mpsc::channel(4);
    *running.hub.news.lock().unwrap() = Some(news);
    let fetch = Request::new(Code::FETCH, &["*"]);

    socket
        .send(&Framed::of_request(&fetch.clone().observing(), token(1)))
        .await;
    let first = socket.next().await.unwrap().into_response().unwrap();
    assert!(first.observing);
    tell.send(Response::new(Code::CONTENT).saying("news"))
        .await
        .unwrap();
    let told = socket.next().await.unwrap();
    assert_eq!((told.token, &told.payload[..]), (token(1), &b"news"[..]));
    let mut over = Framed::of_request(&fetch, token(1));
    over.options
        .push_uint(crate::wire::coap::options::number::OBSERVE, 1);
    socket.send(&over).await;

    running.hub.unwatched.notified().await;
}

#[tokio::test]
async fn who_has_no_token_or_speaks_something_else_is_refused() {
    let running = running().await;
    let status = async |headers| running.upgrade(headers).await.1[9..12].to_owned();

    assert_eq!(status("sec-websocket-protocol: coap\r\n").await, "403");
    assert_eq!(status("authorization: Bearer ana\r\n").await, "400");
    let mut socket = running.connected().await;
    socket.frame(1, b"hello").await;
    let abort = Signal::read(&socket.next().await.unwrap()).unwrap();
    assert!(matches!(abort, Signal::Abort { .. }), "{abort:?}");
    assert!(socket.next().await.is_none());
    let mut socket = running.connected().await;
    socket.frame(2, &[0x10, 0x01]).await;
    assert!(matches!(
        Signal::read(&socket.next().await.unwrap()),
        Ok(Signal::Abort { .. })
    ));
    let headers = "authorization: Bearer ana\r\nsec-websocket-protocol: coap\r\n";
    let (mut hasty, _) = running.upgrade(headers).await;
    hasty.send(&draft(b"x", 1)).await; // before its CSM
    hasty.next().await.unwrap(); // the hub's
    assert!(matches!(
        Signal::read(&hasty.next().await.unwrap()),
        Ok(Signal::Abort { .. })
    ));
}

#[tokio::test]
async fn a_revoked_device_is_out_and_a_hub_that_goes_says_so() {
    let running = running().await;
    let mut socket = running.connected().await;
    running.hub.revoke(&ana());
    assert!(socket.next().await.is_none());

    let mut socket = running.connected().await;
    running.stop.send(true).unwrap();
    let release = Signal::read(&socket.next().await.unwrap()).unwrap();
    assert!(matches!(release, Signal::Release { .. }), "{release:?}");
    assert!(socket.next().await.is_none());
}
