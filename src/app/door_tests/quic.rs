//! The QUIC door, over loopback.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use quinn::{ConnectionError, Endpoint, crypto::rustls::QuicClientConfig};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::{
    RootCertStore,
    client::ResolvesClientCert,
    crypto::ring,
    pki_types::PrivateKeyDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::hub::{Hub, ana};
use crate::{
    client::quic::{Quic, QuicError, QuicSession},
    edge::{
        Front,
        quic::{self, ALPN_X509, HubKey, Limits},
    },
    session::{
        coap::{Request, Response},
        framed::{Settings, Signal},
    },
    wire::coap::{Code, Token, options::number},
};

struct Running {
    hub: Arc<Hub>,
    address: SocketAddr,
    hub_spki: Vec<u8>,
    roots: RootCertStore,
    /// The same as a file has it.
    /// The linked device's.
    key: KeyPair,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn ed25519() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn running(limits: Limits) -> Running {
    let hub = Arc::new(Hub::default());
    let key = ed25519();
    let spki = key.subject_public_key_info();
    hub.keys.lock().unwrap().insert(spki, ana());
    let hub_key = HubKey::new(&der(&ed25519())).unwrap();
    let hub_spki = hub_key.spki().to_vec();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let chain = vec![made.cert.der().clone()];
    let shown = CertifiedKey::from_der(chain, der(&made.signing_key), &ring::default_provider());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let door = quic::Quic {
        front: Front::new(hub.clone()),
        answering: hub.clone(),
        links: hub.clone(),
        key: hub_key,
        certificate: Some(Arc::new(Shown(Arc::new(shown.unwrap())))),
        limits,
    };
    let bound = quic::open(socket, door).unwrap();
    let address = bound.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(quic::serve(bound, stopped));
    Running {
        hub,
        address,
        hub_spki,
        roots,
        key,
        stop,
        task,
    }
}

impl Running {
    fn client(&self) -> Quic {
        Quic::new(self.address, &self.hub_spki, &der(&self.key)).unwrap()
    }

    async fn connected(&self) -> QuicSession {
        self.client().connect().await.unwrap()
    }
}

fn send(bytes: &'static [u8]) -> Request {
    Request::new(Code::POST, &["A"]).body(bytes)
}

/// Whether the hub has turned a client away: the client's half of the handshake may be over by then.
async fn is_refused(client: &Quic) -> bool {
    match client.connect().await {
        Ok(session) => session.exchange(&send(b"x")).await.is_err(),
        Err(_) => true,
    }
}

fn closed_with(error: &ConnectionError) -> Option<u64> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

#[tokio::test]
async fn a_request_is_answered_on_a_stream_of_its_own_and_stays_within_its_bytes() {
    let running = running(Limits::default());
    let session = running.connected().await;
    let who = Request::new(Code::GET, &["who"]);
    let answer = session.exchange(&who).await.unwrap();
    assert_eq!(&answer.payload[..], b"PHONE");

    let before = session.cost();
    for _ in 0..10 {
        let draft = b"\x00\xac\x02Meet me at the station"; // 25 bytes
        session.exchange(&send(draft)).await.unwrap();
    }
    let cost = session.cost() - before;

    let datagrams = cost.datagrams_up + cost.datagrams_down;
    let all = cost.up + cost.down + 28 * datagrams;
    println!(
        "ten sends: {cost:?}, {} bytes each with IP and UDP",
        all / 10
    );
    // the answer repeats the request here: 23 bytes more than a seq
    assert!(all <= 10 * (210 + 23), "{all}");
}

#[tokio::test]
async fn an_observation_tells_until_the_device_has_enough() {
    let running = running(Limits::default());
    let session = running.connected().await;
    let (tell, news) = mpsc::channel(4);
    *running.hub.news.lock().unwrap() = Some(news);
    let fetch = Request::new(Code::FETCH, &["*"]).body(&b"first"[..]);

    let mut observed = session.observe(&fetch).await.unwrap();
    let first = observed.next().await.unwrap().unwrap();
    assert!(first.observing);
    assert_eq!(&first.payload[..], b"first");
    for word in ["second", "third"] {
        let response = Response::new(Code::CONTENT).saying(word);
        tell.send(response).await.unwrap();
        let news = observed.next().await.unwrap().unwrap();
        assert_eq!(&news.payload[..], word.as_bytes());
    }
    drop(observed);

    running.hub.unwatched.notified().await;
}

#[tokio::test]
async fn a_refused_observation_ends_its_stream() {
    let running = running(Limits::default());
    let session = running.connected().await;
    let fetch = Request::new(Code::FETCH, &["*"]);

    let mut observed = session.observe(&fetch).await.unwrap();

    assert!(!observed.next().await.unwrap().unwrap().observing);
    assert!(observed.next().await.unwrap().is_none());
}

#[tokio::test]
async fn early_data_is_answered_where_a_replay_does_no_harm_and_else_told_to_wait() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let running = running(Limits::default());
    let client = running.client();
    let first = client.connect().await.unwrap();
    first.exchange(&send(b"one")).await.unwrap();
    first.close();

    let session = client.connect().await.unwrap();
    let fetch = Request::new(Code::FETCH, &["*"]).body(&b"news?"[..]);
    let draft = send(b"two");
    let (read, sent) = tokio::join!(session.exchange(&fetch), session.exchange(&draft));

    assert_eq!(&read.unwrap().payload[..], b"news?");
    assert_eq!(&sent.unwrap().payload[..], b"two");
    assert_eq!(running.hub.count("0.02 A"), 2); // one in each connection
    let counted = metrics.render();
    for outcome in ["answered", "too early"] {
        let line = format!("tramline_early_requests_total{{outcome=\"{outcome}\"}} 1");
        assert!(counted.contains(&line), "{counted}");
    }
}

#[tokio::test]
async fn a_revoked_device_is_out_at_once_and_does_not_come_back() {
    let running = running(Limits::default());
    let client = running.client();
    let session = client.connect().await.unwrap();
    session.exchange(&send(b"x")).await.unwrap();

    running.hub.revoke(&ana());

    assert_eq!(closed_with(&session.closed().await), Some(1));
    assert!(is_refused(&client).await); // with a session to resume
    assert!(is_refused(&running.client()).await); // without
    assert_eq!(running.hub.count("0.02 A"), 1);
}

#[tokio::test]
async fn a_key_of_nobody_is_refused_and_so_is_another_hub() {
    let running = running(Limits::default());
    let stranger = Quic::new(running.address, &running.hub_spki, &der(&ed25519())).unwrap();
    let misled = Quic::new(running.address, b"another key", &der(&running.key)).unwrap();

    assert!(is_refused(&stranger).await);
    assert!(misled.connect().await.is_err());

    let session = running.connected().await; // the next client unharmed
    assert!(session.exchange(&send(b"x")).await.is_ok());
    assert_eq!(running.hub.count("0.02 A"), 1);
}

#[tokio::test]
async fn what_is_too_large_or_no_message_ends_its_stream_and_nothing_else() {
    let running = running(Limits::default());
    let session = running.connected().await;

    let large = Request::new(Code::POST, &["A"]).body(vec![7; 300 * 1024]);
    match session.exchange(&large).await {
        Ok(answer) => assert_eq!(answer.code, Code::TOO_LARGE),
        // the hub stopped the stream while it was being sent
        Err(error) => assert!(matches!(error, QuicError::Write(_)), "{error}"),
    }
    for bytes in [
        &b""[..],
        b"\x01\x01\x00",
        b"\x00\x02\xff",
        b"\x00\x02\xb5",
        b"\xf0",
    ] {
        let (mut up, mut down) = session.raw().open_bi().await.unwrap();
        up.write_all(bytes).await.unwrap();
        up.finish().unwrap();
        assert!(down.read_to_end(100).await.is_err(), "{bytes:?}");
    }
    let unknown = send(b"x").option(65_003, [1]);
    let answer = session.exchange(&unknown).await.unwrap();
    assert_eq!(answer.code, Code::BAD_OPTION);

    assert!(session.exchange(&send(b"x")).await.is_ok());
    assert_eq!(running.hub.count("0.02 A"), 1);
}

#[tokio::test]
async fn two_hundred_requests_at_once_are_all_answered() {
    let running = running(Limits::default());
    let session = running.connected().await;

    let asked = (0..200_u8).map(|number| {
        let request = Request::new(Code::POST, &["A"]).body(vec![number; 900]);
        let session = &session;
        async move { session.exchange(&request).await.unwrap().payload }
    });
    let answers = futures_util::future::join_all(asked).await;

    for (number, answer) in (0..200_u8).zip(answers) {
        assert_eq!(answer, vec![number; 900]);
    }
}

#[tokio::test]
async fn a_megabyte_goes_up_and_comes_down_in_pieces() {
    let running = running(Limits::default());
    let session = running.connected().await;
    let file: Vec<u8> = (0..1024 * 1024).map(|n: u32| n.to_le_bytes()[1]).collect();

    let upload = Request::new(Code::POST, &["~m"]).body(file.clone());
    let stored = session.exchange(&upload).await.unwrap();
    assert_eq!(&stored.payload[..], b"mxc://hub.example/0");
    let before = session.cost();
    let (mut received, mut pieces) = (Vec::new(), 0);
    let download = Request::new(Code::GET, &["~m", "hub.example", "0"]);
    let head = session
        .receive(&download, |_, piece| {
            received.extend_from_slice(&piece);
            pieces += 1;
            Ok(())
        })
        .await
        .unwrap();

    assert_eq!(head.code, Code::CONTENT);
    assert_eq!(head.options.uint(number::SIZE2), Some(1024 * 1024));
    assert!(received == file && pieces > 10);
    println!("1 MiB down: {:?}", session.cost() - before);
    let none = Request::new(Code::GET, &["~m", "hub.example", "7"]);
    let refused = session.exchange(&none).await.unwrap();
    assert_eq!(refused.code, Code::NOT_FOUND);
    assert!(refused.payload.starts_with(b"M_NOT_FOUND "));
}

#[tokio::test]
async fn a_hub_that_goes_tells_observers_when_to_come_back() {
    let running = running(Limits::default());
    let session = running.connected().await;
    let (_tell, news) = mpsc::channel(1);
    *running.hub.news.lock().unwrap() = Some(news);
    let fetch = Request::new(Code::FETCH, &["*"]);
    let mut observed = session.observe(&fetch).await.unwrap();
    observed.next().await.unwrap();

    running.stop.send(true).unwrap();

    let farewell = observed.next().await.unwrap().unwrap();
    assert_eq!(farewell.code, Code::UNAVAILABLE);
    assert!(farewell.options.max_age().is_some());
    assert_eq!(closed_with(&session.closed().await), Some(0));
    running.task.await.unwrap();
}

#[tokio::test]
async fn under_load_clients_show_their_address_first_and_then_are_refused() {
    let unproved = running(Limits {
        handshakes_unproved_max: 0,
        ..Limits::default()
    });
    let full = running(Limits {
        handshakes_max: 0,
        handshakes_unproved_max: 1,
        ..Limits::default()
    });

    let session = unproved.connected().await;
    assert!(session.exchange(&send(b"x")).await.is_ok());
    assert!(is_refused(&full.client()).await);
}

#[tokio::test]
async fn a_connection_moves_with_its_device() {
    let running = running(Limits::default());
    let client = running.client();
    let session = client.connect().await.unwrap();
    session.exchange(&send(b"x")).await.unwrap();

    client
        .rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
        .unwrap();

    assert!(session.exchange(&send(b"y")).await.is_ok());
    assert_eq!(running.hub.count("0.02 A"), 2);
}

#[tokio::test]
async fn a_connection_that_ends_leaves_the_next_one_alone() {
    let running = running(Limits::default());
    let client = running.client();
    let first = client.connect().await.unwrap();
    first.exchange(&send(b"x")).await.unwrap();
    let second = client.connect().await.unwrap();
    second.exchange(&send(b"y")).await.unwrap();
    first.exchange(&send(b"z")).await.unwrap();

    first.close();
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(5)).await; // until nothing is known of it any more
    tokio::time::resume();

    let request = send(b"y");
    let answer = tokio::time::timeout(Duration::from_secs(20), second.exchange(&request)).await;
    assert_eq!(&answer.unwrap().unwrap().payload[..], b"y");
}

#[tokio::test]
async fn a_device_that_was_idle_for_too_long_hears_it_in_time() {
    let running = running(Limits::default());
    let session = running.connected().await;
    session.exchange(&send(b"x")).await.unwrap();
    tokio::time::pause();
    let idle = Limits::default().idle;
    let second = Duration::from_secs(1);

    let early = tokio::time::timeout(idle.saturating_sub(second), session.closed()).await;
    assert!(early.is_err(), "{early:?}");
    let closed = tokio::time::timeout(2 * second, session.closed()).await;
    assert_eq!(closed.unwrap(), ConnectionError::TimedOut);
}

#[tokio::test]
async fn what_a_device_cannot_take_is_not_sent_to_it() {
    let running = running(Limits::default());
    let session = running.connected().await;
    let settings = Signal::Settings(Settings {
        message_bytes_max: Some(100),
        block_wise: false,
    });
    let csm = settings.write(Token::EMPTY);
    let csm = csm.encode(crate::session::framed::Form::Prefixed).unwrap();
    let mut stream = session.raw().open_uni().await.unwrap();
    stream.write_all(&csm).await.unwrap();
    let large = Request::new(Code::POST, &["A"]).body(vec![7; 200]);

    let refused = loop {
        let answer = session.exchange(&large).await.unwrap();
        if answer.code != Code::CONTENT {
            break answer; // the two streams have no order
        }
    };

    assert_eq!(refused.code, Code::INTERNAL_ERROR);
    assert!(session.exchange(&send(b"x")).await.is_ok());
    stream.write_all(b"\xf0\xff\xff\xff\xff").await.unwrap();
    assert_eq!(closed_with(&session.closed().await), Some(3));
}

/// A client without raw keys, as aioquic is: the same port, the device's key in a certificate.
async fn x509(running: &Running, key: &KeyPair) -> Result<quinn::Connection, ConnectionError> {
    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);
    impl ResolvesClientCert for Shows {
        fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let certificate = CertificateParams::default().self_signed(key).unwrap();
    let chain = vec![certificate.der().clone()];
    let provider = ring::default_provider();
    let shows = CertifiedKey::from_der(chain, der(key), &provider).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(running.roots.clone())
        .with_client_cert_resolver(Arc::new(Shows(Arc::new(shows))));
    config.alpn_protocols = vec![ALPN_X509.to_vec()];
    let config = QuicClientConfig::try_from(config).unwrap();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(config));
    endpoint
        .connect_with(config, running.address, "localhost")
        .unwrap()
        .await
}

#[tokio::test]
async fn a_client_with_certificates_only_is_known_by_the_key_in_its_own() {
    let running = running(Limits::default());
    let ask = async |connection: &quinn::Connection| {
        let (mut up, mut down) = connection.open_bi().await.ok()?;
        up.write_all(b"\x00\x01\xb3who").await.ok()?;
        up.finish().ok()?;
        down.read_to_end(100).await.ok()
    };

    let known = x509(&running, &running.key).await.unwrap();
    assert_eq!(ask(&known).await.unwrap(), b"\x00\x45\xffPHONE");

    if let Ok(unknown) = x509(&running, &ed25519()).await {
        assert_eq!(ask(&unknown).await, None);
    }
    running.hub.revoke(&ana());
    assert_eq!(closed_with(&known.closed().await), Some(1));
}
