//! A scripted homeserver, or fifty of them in one: it lets everyone into its rooms who asks, takes
//! whatever is sent to it, and counts.
//!
//! It looks at nothing it is told, and spends as little of the machine as it can: what is measured
//! are the servers that speak with it.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path as Segments, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, put},
    serve::Listener,
};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, ServerName};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tramline::{
    app::clock::SystemClock,
    base::{Clock as _, Timestamp},
    edge::matrix::{Federation, outgoing::Ask},
    wire::matrix::{Pdu, ServerKey, Version, publish},
};

use crate::{
    common::{Failed, key_of},
    edge::edge,
    rooms::Room,
};

/// How long another server may take to answer it.
const PATIENCE: Duration = Duration::from_mins(10);

/// Its answers to a key request are good for this long.
const KEYS_LAST: Duration = Duration::from_hours(24);

/// All that it is, under its first name and the others.
pub(crate) struct Scripted {
    shared: Arc<Shared>,
    names: Vec<OwnedServerName>,
    edge: Arc<Federation>,
}

/// What all its names have in common.
struct Shared {
    rooms: Mutex<BTreeMap<OwnedRoomId, Room>>,
    taken: watch::Sender<Taken>,
    bytes: AtomicU64,
}

/// What was sent to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) events: u64,
    /// Transactions with events in them.
    pub(crate) transactions: u64,
}

/// One of its names.
struct Named {
    key: ServerKey,
    shared: Arc<Shared>,
}

impl Scripted {
    /// Listens under so many names, with a certificate that is good for `localhost`.
    pub(crate) async fn start(count: usize, ca: &Path, shown: &Value) -> Result<Self, Failed> {
        let acceptor = acceptor(shown)?;
        let shared = Arc::new(Shared {
            rooms: Mutex::default(),
            taken: watch::Sender::new(Taken::default()),
            bytes: AtomicU64::new(0),
        });
        let mut names = Vec::new();
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let port = listener.local_addr()?.port();
            let name: OwnedServerName = format!("localhost:{port}").try_into()?;
            let door_of = Arc::new(Named {
                key: key_of(name.as_str())?,
                shared: Arc::clone(&shared),
            });
            let door = Door {
                listener,
                acceptor: acceptor.clone(),
            };
            tokio::spawn(axum::serve(door, routes(door_of)).into_future());
            names.push(name);
        }
        let first = names.first().ok_or("no name")?;
        let edge = edge(key_of(first.as_str())?, ca)?;
        Ok(Self {
            shared,
            names,
            edge,
        })
    }

    /// The name it asks under, and under which it knows its rooms.
    pub(crate) fn name(&self) -> &ServerName {
        &self.names[0]
    }

    pub(crate) fn names(&self) -> &[OwnedServerName] {
        &self.names
    }

    /// Holds a room from now on.
    pub(crate) fn hold(&self, room: Room) -> OwnedRoomId {
        let id = room.id().clone();
        self.shared.rooms().insert(id.clone(), room);
        id
    }

    /// Lets go of one.
    pub(crate) fn drop_room(&self, room: &OwnedRoomId) {
        self.shared.rooms().remove(room);
    }

    /// What was sent to it so far.
    pub(crate) fn taken(&self) -> Taken {
        *self.shared.taken.borrow()
    }

    /// Waits until so many events were sent to it.
    pub(crate) async fn has_taken(&self, events: u64) -> Result<(), Failed> {
        const PATIENCE: Duration = Duration::from_mins(2);
        let mut taken = self.shared.taken.subscribe();
        let enough = taken.wait_for(|taken| taken.events >= events);
        tokio::time::timeout(PATIENCE, enough).await??;
        Ok(())
    }

    /// Bytes in bodies that came to it and that it answered, so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Says so many new things in a room, in one transaction, and gives the last one's id.
    pub(crate) async fn tell(
        &self,
        server: &ServerName,
        room: &OwnedRoomId,
        count: usize,
    ) -> Result<OwnedEventId, Failed> {
        static TXN: AtomicU64 = AtomicU64::new(0);
        let now = SystemClock::new().now();
        let said = {
            let mut rooms = self.shared.rooms();
            let room = rooms.get_mut(room).ok_or("no such room")?;
            let said = (0..count).map(|_| room.say(now));
            said.collect::<Result<Vec<_>, _>>()?
        };
        let last = said.last().ok_or("nothing said")?.id().clone();
        let pdus: Vec<CanonicalJsonObject> = said.iter().map(|event| event.object()).collect();
        let content = json!({
            "origin": self.name(),
            "origin_server_ts": now.0,
            "pdus": pdus,
        });
        let txn = TXN.fetch_add(1, Ordering::Relaxed);
        let uri = format!("/_matrix/federation/v1/send/t{txn}");
        let ask = Ask::put(uri, &serde_json::from_value(content)?).within(PATIENCE);
        let told = self.edge.outgoing.ask(server, &ask).await?;
        let answer: Value = serde_json::from_slice(told.success()?)?;
        let outcomes = answer.get("pdus").and_then(Value::as_object);
        for (id, outcome) in outcomes.ok_or("an answer without outcomes")? {
            if outcome.get("error").is_some() {
                return Err(format!("{server} does not take {id}: {outcome}").into());
            }
        }
        Ok(last)
    }
}

impl Shared {
    fn rooms(&self) -> std::sync::MutexGuard<'_, BTreeMap<OwnedRoomId, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer, counted.
    fn answer(&self, status: StatusCode, body: String) -> Response {
        self.count(body.len());
        (status, [(CONTENT_TYPE, "application/json")], body).into_response()
    }

    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What a room answers, or that there is none.
    fn of_room(
        &self,
        room: &str,
        ask: impl FnOnce(&mut Room) -> Result<String, Failed>,
    ) -> Response {
        let mut rooms = self.rooms();
        let room = OwnedRoomId::try_from(room).ok();
        let room = room.and_then(|room| rooms.get_mut(&room));
        match room.map(ask) {
            Some(Ok(body)) => self.answer(StatusCode::OK, body),
            Some(Err(error)) => {
                eprintln!("the scripted server: {error}");
                self.answer(StatusCode::BAD_REQUEST, error_body("M_BAD_JSON"))
            }
            None => self.answer(StatusCode::NOT_FOUND, error_body("M_NOT_FOUND")),
        }
    }
}

fn error_body(code: &str) -> String {
    json!({ "errcode": code, "error": "this server follows a script" }).to_string()
}

fn routes(named: Arc<Named>) -> Router {
    const V1: &str = "/_matrix/federation/v1";
    Router::new()
        .route("/_matrix/key/v2/server", get(keys))
        .route(&format!("{V1}/make_join/{{room}}/{{user}}"), get(make_join))
        .route(
            "/_matrix/federation/v2/send_join/{room}/{event}",
            put(send_join),
        )
        .route(&format!("{V1}/state/{{room}}"), get(state))
        .route(&format!("{V1}/state_ids/{{room}}"), get(state_ids))
        .route(&format!("{V1}/event/{{event}}"), get(event))
        .route(&format!("{V1}/send/{{txn}}"), put(send))
        .fallback(async |State(named): State<Arc<Named>>| {
            let body = error_body("M_UNRECOGNIZED");
            named.shared.answer(StatusCode::NOT_FOUND, body)
        })
        .with_state(named)
        .layer(axum::extract::DefaultBodyLimit::disable())
}

async fn keys(State(named): State<Arc<Named>>) -> Response {
    let until = SystemClock::new().now() + KEYS_LAST;
    let body = publish(&named.key, &BTreeMap::new(), until);
    let body = serde_json::to_string(&body.expect("an object of ours can be signed"));
    let body = body.expect("canonical JSON is JSON");
    named.shared.answer(StatusCode::OK, body)
}

async fn make_join(
    State(named): State<Arc<Named>>,
    Segments((room, user)): Segments<(String, String)>,
) -> Response {
    named
        .shared
        .of_room(&room, |room| room.template(&user, now()))
}

fn now() -> Timestamp {
    SystemClock::new().now()
}

async fn send_join(
    State(named): State<Arc<Named>>,
    Segments((room, _)): Segments<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Response {
    named.shared.count(body.len());
    let omit_members = query.get("omit_members").is_some_and(|omit| omit == "true");
    named.shared.of_room(&room, |room| {
        let join = Pdu::read(std::str::from_utf8(&body)?, Version::V12)?;
        room.joined(&join, omit_members)
    })
}

async fn state(State(named): State<Arc<Named>>, Segments(room): Segments<String>) -> Response {
    named.shared.of_room(&room, |room| Ok(room.state()))
}

async fn state_ids(State(named): State<Arc<Named>>, Segments(room): Segments<String>) -> Response {
    named.shared.of_room(&room, |room| Ok(room.state_ids()))
}

async fn event(State(named): State<Arc<Named>>, Segments(event): Segments<String>) -> Response {
    let shared = &named.shared;
    let found = shared.rooms().values().find_map(|room| room.event(&event));
    let Some(json) = found else {
        return shared.answer(StatusCode::NOT_FOUND, error_body("M_NOT_FOUND"));
    };
    let (origin, at) = (named.key.name(), now().0);
    let body = format!(r#"{{"origin":"{origin}","origin_server_ts":{at},"pdus":[{json}]}}"#);
    shared.answer(StatusCode::OK, body)
}

/// All that it wants to know of a transaction is how many events there are.
async fn send(State(named): State<Arc<Named>>, body: Bytes) -> Response {
    #[derive(serde::Deserialize)]
    struct Transaction {
        #[serde(default)]
        pdus: Vec<serde::de::IgnoredAny>,
    }
    let shared = &named.shared;
    shared.count(body.len());
    let events = serde_json::from_slice::<Transaction>(&body);
    let events = events.map_or(0, |transaction| transaction.pdus.len());
    if events > 0 {
        shared.taken.send_modify(|taken| {
            taken.events += events as u64;
            taken.transactions += 1;
        });
    }
    shared.answer(StatusCode::OK, r#"{"pdus":{}}"#.to_owned())
}

/// Connections with TLS around them.
struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Door {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true); // then it is slower, and no other
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

fn acceptor(shown: &Value) -> Result<TlsAcceptor, Failed> {
    let file = |name: &str| {
        shown
            .get(name)
            .and_then(Value::as_str)
            .ok_or("no such file")
    };
    let certificates = CertificateDer::pem_file_iter(file("cert")?)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            certificates.collect::<Result<_, _>>()?,
            PrivateKeyDer::from_pem_file(file("key")?)?,
        )?;
    Ok(Arc::new(config).into())
}
