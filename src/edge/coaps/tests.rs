//! Over real UDP on loopback, with a hub that is not one: our own DTLS client, and libcoap's
//! where it is installed.

use std::{
    collections::BTreeMap,
    process::{Output, Stdio},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{net::UdpSocket, process::Command, task::JoinHandle};

use super::*;
use crate::{
    api::{Credentials, Refusal, Reply, ThinReply},
    base::{Clock, Timestamp},
    edge::{
        Front,
        coap::{Limits, Linked},
        fake::Fake,
        thin::{
            Books, Reach, Thin,
            fake::{Hub, Table, device},
        },
    },
    session::{
        coap::{self, Config, Machine, Request, Response, Timers},
        dtls::{
            Certificate, Client as Dtls, ClientCloseReason, ClientEvent, Pinned, Proof, PskSource,
            Secret,
        },
        oscore::link::Plainly,
    },
    wire::coap::{Code, options::number},
};

struct Wall;

impl Clock for Wall {
    #[expect(clippy::disallowed_methods, reason = "the tests' real clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests' real clock")]
fn base() -> Instant {
    Instant::now()
}

struct Keys(BTreeMap<&'static [u8], &'static [u8]>);

impl PskSource for Keys {
    fn key(&self, identity: &[u8]) -> Option<Secret> {
        self.0.get(identity).map(|key| Secret::new(*key))
    }
}

const NAME: &[u8] = b"device-1";
const KEY: &[u8] = b"secretPSK1234567";

struct Running {
    hub: Arc<Fake>,
    address: SocketAddr,
    certificate: rcgen::CertifiedKey<rcgen::KeyPair>,
    renew: watch::Sender<Certificate>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn pair() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    rcgen::generate_simple_self_signed(names).unwrap()
}

fn in_der(pair: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Certificate {
    Certificate::new(pair.cert.der().to_vec(), pair.signing_key.serialize_der())
}

async fn running() -> Running {
    let hub = Arc::new(Fake::default());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let certificate = pair();
    let (renew, renewed) = watch::channel(in_der(&certificate));
    let door = Coaps {
        coap: Coap {
            front: Front::telling(hub.clone(), Some(address.port())),
            clock: Arc::new(Wall),
            rng: Box::new(StdRng::seed_from_u64(1)),
            timers: Timers::default(),
            limits: Limits::default(),
            plainly: Plainly::Nobody,
            linked: None,
            exchanges: None,
        },
        dtls: ServerConfig {
            certificate: Some(in_der(&certificate)),
            psk: Some(Arc::new(Keys([(NAME, KEY)].into()))),
            ..ServerConfig::default()
        },
        certificate: Some(renewed),
        base: base(),
    };
    let sockets = Sockets::new(vec![socket]).unwrap();
    let task = tokio::spawn(serve(sockets, door, stopped).unwrap());
    Running {
        hub,
        address,
        certificate,
        renew,
        stop,
        task,
    }
}

/// A CoAP client over DTLS, made of the same machines.
struct Client {
    socket: UdpSocket,
    dtls: Dtls,
    machine: Machine<SocketAddr>,
    server: SocketAddr,
    over: Option<ClientCloseReason>,
    /// Datagrams up and down until it was connected.
    shaken: (u64, u64),
}

impl Client {
    async fn with(door: &Running, proof: Proof) -> Self {
        Self::to(door.address, proof).await
    }

    async fn to(server: SocketAddr, proof: Proof) -> Self {
        Self {
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            dtls: Dtls::new(proof, base(), Wall.now()).unwrap(),
            machine: Machine::new(Config::new([7; 32]), Box::new(StdRng::seed_from_u64(2))),
            server,
            over: None,
            shaken: (0, 0),
        }
    }

    async fn with_key(door: &Running) -> Self {
        let proof = Proof::Psk {
            identity: Identity(NAME.to_vec()),
            key: Secret::new(KEY),
        };
        Self::with(door, proof).await
    }

    async fn with_certificate(door: &Running) -> Self {
        let proof = Proof::Certificate {
            check: Box::new(Pinned(door.certificate.cert.der().to_vec())),
            own: in_der(&pair()),
        };
        Self::with(door, proof).await
    }

    /// The next thing that happens, or nothing when the connection is over.
    async fn event(&mut self) -> Option<coap::Event<SocketAddr>> {
        let mut buffer = vec![0; 2048];
        loop {
            let now = Wall.now();
            while let Some(event) = self.dtls.poll_event() {
                match event {
                    ClientEvent::Connected => {}
                    ClientEvent::Data(bytes) => {
                        self.machine.handle_datagram(now, self.server, &bytes);
                    }
                    ClientEvent::Closed(reason) => self.over = Some(reason),
                }
            }
            if self.dtls.is_connected() {
                while let Some((_, message)) = self.machine.poll_transmit() {
                    self.dtls.send(now, &message).unwrap();
                }
            }
            while let Some(datagram) = self.dtls.poll_transmit() {
                self.shaken.0 += u64::from(!self.dtls.is_connected());
                self.socket.send_to(&datagram, self.server).await.unwrap();
            }
            if let Some(event) = self.machine.poll_event() {
                return Some(event);
            }
            if self.over.is_some() {
                return None;
            }
            let size = self.socket.recv(&mut buffer).await.unwrap();
            self.shaken.1 += u64::from(!self.dtls.is_connected());
            self.dtls.handle_datagram(Wall.now(), &buffer[..size]);
        }
    }

    async fn answer(&mut self) -> Response {
        match self.event().await {
            Some(
                coap::Event::Response { response, .. } | coap::Event::Notification { response, .. },
            ) => response,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&mut self, request: Request) -> Response {
        self.machine.request(Wall.now(), self.server, request);
        self.answer().await
    }
}

fn whoami() -> Request {
    Request::new(Code::GET, &["_matrix", "client", "v3", "account", "whoami"])
}

fn as_ana(request: Request) -> Request {
    request.option(number::ACCESS_TOKEN, "ana")
}

#[tokio::test]
async fn another_certificate_is_shown_to_who_comes_next_and_nobody_is_dropped() {
    let mut door = running().await;
    let mut before = Client::with_certificate(&door).await;
    assert_eq!(before.ask(whoami()).await.code, Code::UNAUTHORIZED);

    door.certificate = pair();
    door.renew.send(in_der(&door.certificate)).unwrap();
    let mut after = Client::with_certificate(&door).await;

    assert_eq!(after.ask(whoami()).await.code, Code::UNAUTHORIZED);
    assert_eq!(before.ask(whoami()).await.code, Code::UNAUTHORIZED);
}

#[tokio::test]
async fn a_client_with_a_key_and_one_that_checks_the_certificate_are_both_served() {
    let door = running().await;
    for mut client in [
        Client::with_key(&door).await,
        Client::with_certificate(&door).await,
    ] {
        let response = client.ask(as_ana(whoami())).await;

        assert_eq!(response.code, Code::CONTENT);
        let origin = door.hub.last_origin();
        assert_eq!(origin.door, Door::Coaps);
        assert_eq!(origin.address, Some(door.address.ip()));
    }
}

#[tokio::test]
async fn a_key_alone_gives_no_rights() {
    let door = running().await;
    let mut client = Client::with_key(&door).await;

    client.ask(whoami()).await;

    assert_eq!(door.hub.last_origin().credentials, Credentials::Nothing);
}

#[tokio::test]
async fn a_token_said_once_holds_for_its_connection_only() {
    let door = running().await;
    let mut client = Client::with_key(&door).await;
    client.ask(as_ana(whoami())).await;
    let mut other = Client::with_key(&door).await;

    other.ask(whoami()).await;
    assert_eq!(door.hub.last_origin().credentials, Credentials::Nothing);
    client.ask(whoami()).await;
    let ana = Credentials::Token("ana".to_owned());
    assert_eq!(door.hub.last_origin().credentials, ana);
}

#[tokio::test]
async fn versions_say_where_the_door_is() {
    let door = running().await;
    let mut client = Client::with_certificate(&door).await;

    let versions = Request::new(Code::GET, &["_matrix", "client", "versions"]);
    let answer = client.ask(versions).await;

    let body: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    let tables = serde_json::json!({
        "dtls": door.address.port(), "cbor_enum_version": 1, "coap_enum_version": 1,
    });
    assert_eq!(body["org.matrix.msc3079.low_bandwidth"], tables);
    assert_eq!(body["m.low_bandwidth"], tables);
    let plain = Front::new(door.hub.clone());
    let versions = ruma::api::client::discovery::get_supported_versions::Response::new(Vec::new());
    let answer = plain.answer(Reply::Versions(Box::new(versions)));
    assert_eq!(answer.body, b"{\"versions\":[]}");
}

#[tokio::test]
async fn an_observed_sync_is_pushed_and_ends_with_a_farewell_when_the_hub_stops() {
    let door = running().await;
    let mut client = Client::with_key(&door).await;
    let sync = as_ana(Request::new(Code::GET, &["7"])).observing();
    assert!(client.ask(sync).await.observing);

    door.hub.news.notify_one();
    assert_eq!(client.answer().await.code, Code::CONTENT);
    client.ask(whoami()).await; // the push is acknowledged by now
    door.stop.send(true).unwrap();

    assert_eq!(client.answer().await.code, Code::UNAVAILABLE);
    assert!(client.event().await.is_none());
    assert_eq!(client.over, Some(ClientCloseReason::Peer));
    door.task.await.unwrap();
}

#[tokio::test]
async fn when_a_client_closes_nobody_asks_for_its_news_any_more() {
    let door = running().await;
    let mut client = Client::with_key(&door).await;
    let sync = as_ana(Request::new(Code::GET, &["7"])).observing();
    assert!(client.ask(sync).await.observing);
    while door.hub.count() < 2 {
        tokio::task::yield_now().await; // until it waits for news
    }

    client.dtls.close(Wall.now());
    let farewell = client.dtls.poll_transmit().unwrap();
    client
        .socket
        .send_to(&farewell, door.address)
        .await
        .unwrap();

    door.hub.left.notified().await;
}

#[tokio::test]
async fn noise_and_wrong_keys_leave_the_next_client_unharmed() {
    let door = running().await;
    let noise = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in [
        &b""[..],
        b"\x40\x01\x00\x01",
        &[22; 60],
        &[0x2f; 40],
        &[23; 2000],
    ] {
        noise.send_to(datagram, door.address).await.unwrap();
    }
    let proof = Proof::Psk {
        identity: Identity(NAME.to_vec()),
        key: Secret::new(b"another key".as_slice()),
    };
    let mut wrong = Client::with(&door, proof).await;
    wrong.machine.request(Wall.now(), door.address, whoami());
    tokio::select! {
        biased;
        event = wrong.event() => panic!("{event:?}"),
        response = async { Client::with_key(&door).await.ask(as_ana(whoami())).await } => {
            assert_eq!(response.code, Code::CONTENT);
        }
    }
    assert_eq!(door.hub.count(), 1);
}

#[tokio::test]
async fn a_device_with_its_key_is_itself_on_both_kinds_of_paths_whatever_token_it_shows() {
    let hub = Arc::<Hub>::default();
    let other = || Err(Refusal::forbidden("the token of another device"));
    let records = ThinReply::Records {
        records: Vec::new(),
        through: None,
        more: false,
    };
    let mine = ruma::api::client::account::whoami::v3::Response::new(device().user, false);
    let answers = [
        Ok(Reply::Thin(records)),
        Ok(Reply::Whoami(Box::new(mine))),
        other(),
    ];
    hub.answers.lock().unwrap().extend(answers);
    let links: Arc<dyn Links> = Arc::new(Table {
        psk: Some((NAME.to_vec(), crate::api::Secret(KEY.to_vec()))),
        ..Table::default()
    });
    let front = Front::new(hub.clone());
    let (clock, books) = (Arc::new(Wall), Books::new());
    let thin = Thin::with_books(
        Arc::clone(&front),
        Arc::clone(&links),
        clock.clone(),
        Reach::new(),
        Arc::clone(&books),
    );
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    let door = Coaps {
        coap: Coap {
            front,
            clock,
            rng: Box::new(StdRng::seed_from_u64(1)),
            timers: Timers::default(),
            limits: Limits::default(),
            plainly: Plainly::Nobody,
            linked: Some(Linked {
                links: Arc::clone(&links),
                thin,
            }),
            exchanges: None,
        },
        dtls: ServerConfig {
            psk: Some(Arc::new(LinkedKeys(links))),
            ..ServerConfig::default()
        },
        certificate: None,
        base: base(),
    };
    let sockets = Sockets::new(vec![socket]).unwrap();
    let _task = tokio::spawn(serve(sockets, door, stopped).unwrap());
    let proof = Proof::Psk {
        identity: Identity(NAME.to_vec()),
        key: Secret::new(KEY),
    };
    let mut client = Client::to(address, proof).await;

    let read = Request::new(Code::FETCH, &["BA"]).body(vec![7]);
    assert_eq!(client.ask(read).await.code, Code::CONTENT);
    assert_eq!(client.ask(whoami()).await.code, Code::CONTENT);
    assert_eq!(client.ask(as_ana(whoami())).await.code, Code::FORBIDDEN);

    let asked = hub.asked.lock().unwrap();
    let credentials: Vec<_> = asked.iter().map(|(by, _)| by.credentials.clone()).collect();
    let itself = Credentials::Device(device());
    let shown = Credentials::DeviceAndToken(device(), "ana".to_owned());
    assert_eq!(credentials, [itself.clone(), itself, shown]);
    assert!(asked.iter().all(|(by, _)| by.door == Door::Coaps));
    let told = books.json(Timestamp(0));
    let read = &told["devices"][0]["operations"]["read"];
    assert_eq!(read["datagrams_up"], 1, "{told}");
    assert_eq!(read["datagrams_down"], 1, "{told}");
    // Two hellos and the client's last flight up; the cookie, the hub's flight and its last down.
    let shaken = &told["devices"][0]["operations"]["connection"];
    assert_eq!(shaken["datagrams_up"], client.shaken.0, "{told}");
    assert_eq!(shaken["datagrams_down"], client.shaken.1, "{told}");
    assert!(shaken["bytes_up"].as_u64() > Some(300), "{told}");
}

/// What libcoap's client prints; nothing where it is not installed. It exits with 0 in any case.
async fn libcoap(program: &str, name: &str, key: &str, url: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.args(["-B", "5", "-u", name, "-k", key, "-m", "get", url]);
    let run = command.stdin(Stdio::null()).output();
    let Output { stdout, stderr, .. } = run.await.ok()?;
    Some(String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

#[tokio::test]
async fn libcoap_is_served_with_a_key_and_not_with_a_wrong_one() {
    let door = running().await;
    let url = format!("coaps://{}/_matrix/client/versions", door.address);
    let name = std::str::from_utf8(NAME).unwrap();
    let right = std::str::from_utf8(KEY).unwrap();
    for program in ["coap-client-openssl", "coap-client-gnutls"] {
        // side by side: a client with a wrong key waits for its time-out
        let (served, wrong, unknown) = tokio::join!(
            libcoap(program, name, right, &url),
            libcoap(program, name, "a wrong key", &url),
            libcoap(program, "nobody", right, &url),
        );
        let (Some(served), Some(wrong), Some(unknown)) = (served, wrong, unknown) else {
            return eprintln!("{program} is not here; on Debian it is in libcoap3-bin");
        };
        assert!(served.contains("\"versions\""), "{program}: {served}");
        assert!(!wrong.contains("\"versions\""), "{program}: {wrong}");
        assert!(!unknown.contains("\"versions\""), "{program}: {unknown}");
    }
}
