//! Against a push service on loopback that counts.

use std::sync::{
    Mutex,
    atomic::{AtomicU16, AtomicU64, Ordering},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{RootCertStore, ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    api::ThinReply,
    base::{Position, Seq},
    edge::thin::fake::{Bench, device, who},
    session::coap::Request as Asked,
    wire::{
        coap::Code,
        thin::{Body, Record, Shown},
    },
};

/// A push service.
#[derive(Default)]
struct Service {
    status: AtomicU16,
    knocks: Mutex<Vec<String>>,
    knocked: Notify,
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Empty<bytes::Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let ttl = head.headers.get("TTL").is_some();
        let told = format!("{} {} {} {ttl}", head.method, head.uri, body.len());
        self.knocks.lock().unwrap().push(told);
        self.knocked.notify_one();
        let mut response = Response::new(Empty::new());
        let status = self.status.load(Ordering::SeqCst).max(200);
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        response
    }

    fn count(&self) -> usize {
        self.knocks.lock().unwrap().len()
    }
}

/// Where a service listens, and what to believe.
async fn listen() -> (TcpListener, TlsAcceptor, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener, acceptor, roots)
}

/// Opens one; gives its port and what to believe.
async fn open(service: Arc<Service>) -> (u16, RootCertStore) {
    let (listener, acceptor, roots) = listen().await;
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let service = Arc::clone(&service);
            let answer = service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(async move {
                let _ = served.await; // the client hangs up when it likes
            });
        }
    });
    (port, roots)
}

struct Running {
    bench: Bench,
    service: Arc<Service>,
    position: AtomicU64,
    _stop: watch::Sender<bool>,
}

async fn running(retries: Vec<Duration>) -> Running {
    let service = Arc::<Service>::default();
    let (port, roots) = open(Arc::clone(&service)).await;
    let bench = Bench::new();
    let url = format!("https://localhost:{port}/up?x=1");
    bench.table.hooks.lock().unwrap().push((device(), url));
    bench.clock.0.store(1_000_000, Ordering::SeqCst);
    let (stop, stopped) = watch::channel(false);
    let wake = Wake {
        thin: Arc::clone(&bench.thin),
        links: Arc::clone(&bench.table) as Arc<dyn Links>,
        clock: Arc::clone(&bench.clock) as Arc<dyn Clock>,
        roots,
        allow_private_addresses: true,
        retries,
    };
    tokio::spawn(run(wake, stopped));
    while bench.table.told.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    Running {
        bench,
        service,
        position: AtomicU64::new(1),
        _stop: stop,
    }
}

impl Running {
    fn news(&self) {
        let position = Position(self.position.fetch_add(1, Ordering::SeqCst));
        let user = device().user;
        let told = self.bench.table.told.lock().unwrap();
        for listener in told.iter() {
            listener.news(position, &mut [&*user].into_iter());
        }
    }

    /// The device asks what there is, and is told that this is the last; then time passes.
    async fn speaks(&self) {
        self.bench.will_say(inbox(vec![]));
        let request = Asked::new(Code::FETCH, &["*"]);
        self.bench.thin.answer(&who(), &request).await;
        self.bench.clock.0.fetch_add(60_000, Ordering::SeqCst);
    }
}

fn inbox(records: Vec<Record>) -> ThinReply {
    ThinReply::Records {
        records,
        through: Some((0, Seq(5))),
        more: false,
    }
}

fn entry(counter: Option<u64>) -> Record {
    Record {
        room: Some(0),
        what: Shown::Entry {
            seq: 6,
            sender: 0,
            age: 0,
            target: None,
            counter,
            body: Body::Text("hi".to_owned()),
        },
    }
}

#[tokio::test]
async fn a_sleeping_device_is_knocked_at_once_until_it_speaks() {
    let hub = running(vec![]).await;
    hub.news();
    hub.service.knocked.notified().await;
    assert_eq!(*hub.service.knocks.lock().unwrap(), ["POST /up?x=1 0 true"]);
    hub.news();
    hub.speaks().await;
    hub.bench.will_say(inbox(vec![entry(None)]));

    hub.news();

    hub.service.knocked.notified().await;
    assert_eq!(hub.service.count(), 2);
}

#[tokio::test]
async fn its_own_words_do_not_wake_a_device() {
    let hub = running(vec![]).await;
    hub.speaks().await;
    hub.bench.will_say(inbox(vec![entry(Some(3))]));
    hub.news();
    while hub.bench.hub.asked.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    hub.bench.will_say(inbox(vec![entry(Some(3)), entry(None)]));

    hub.news();

    hub.service.knocked.notified().await;
    assert_eq!(hub.service.count(), 1);
}

#[tokio::test]
async fn a_service_in_trouble_is_asked_again_and_one_that_refuses_is_not() {
    let hub = running(vec![Duration::ZERO]).await;
    hub.service.status.store(503, Ordering::SeqCst);
    hub.news();
    hub.service.knocked.notified().await;
    while hub.service.count() < 2 {
        hub.service.knocked.notified().await;
    }
    hub.service.status.store(410, Ordering::SeqCst);
    while hub.bench.thin.reach().is_taken_on(&device()) {
        tokio::task::yield_now().await;
    }
    hub.news();
    hub.service.knocked.notified().await;
    assert_eq!(hub.service.count(), 3);
}

#[tokio::test]
async fn a_watching_device_is_not_knocked_at() {
    let bench = Bench::new();
    let reach = bench.thin.reach();
    let mut pushes = crate::edge::thin::Pushes::new(Arc::clone(reach), 1);
    let watch = crate::edge::thin::Watch::of(&Asked::new(Code::FETCH, &["*"])).unwrap();
    pushes.watch(Arc::new(device()), 1_u64, watch, ()).unwrap();

    assert_eq!(reach.take_on(&device()), None);
    pushes.forget(1);
    assert_eq!(reach.take_on(&device()), Some(Timestamp::default()));
    assert_eq!(reach.take_on(&device()), None);
}

#[tokio::test]
async fn no_knock_leads_into_private_networks_or_over_plain_http_or_to_a_stranger() {
    let service = Arc::<Service>::default();
    let (port, roots) = open(Arc::clone(&service)).await;
    let careful = Knocker::new(roots, false).unwrap();
    for url in [
        format!("https://localhost:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://2130706433:{port}/"),
        format!("http://localhost:{port}/"),
        "https:///x".to_owned(),
        "x".to_owned(),
    ] {
        assert_ne!(careful.knock(&url).await, Outcome::Knocked, "{url}");
    }
    let local = careful.knock(&format!("https://localhost:{port}/")).await;
    assert_eq!(local, Outcome::Refused);
    let distrustful = Knocker::new(RootCertStore::empty(), true).unwrap();
    let stranger = distrustful
        .knock(&format!("https://localhost:{port}/"))
        .await;
    assert_eq!(stranger, Outcome::Failed);
    assert_eq!(service.count(), 0);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let service = Arc::<Service>::default();
    let (port, roots) = open(Arc::clone(&service)).await;
    service.status.store(307, Ordering::SeqCst);
    let knocker = Knocker::new(roots, true).unwrap();

    let outcome = knocker.knock(&format!("https://localhost:{port}/")).await;

    assert_eq!((outcome, service.count()), (Outcome::Refused, 1));
}

#[tokio::test]
async fn a_host_that_hangs_up_with_its_answer_has_answered() {
    let (listener, acceptor, roots) = listen().await;
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.0 201 Created\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream.flush().await.unwrap();
    });
    let knocker = Knocker::new(roots, true).unwrap();

    let outcome = knocker.knock(&format!("https://localhost:{port}/")).await;

    assert_eq!(outcome, Outcome::Knocked);
}
