//! Requests of other servers: which of them sent one, and what is answered without asking the hub.
//!
//! [`Incoming::authenticate`] is the only maker of an [`Authenticated`], and that the only way to a
//! [`Credentials::Server`]: what acts for another server cannot be reached without. Paths are in
//! [`routes`]; how much is in work at a time is `gate`'s, how much is read `bodies`'.

mod bodies;
mod credit;
mod gate;
mod invite;
pub mod routes;
mod strangers;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::Method;
use ruma::{OwnedServerName, ServerName};
use serde_json::{Map, Value, json};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task::block_in_place,
    time::sleep,
};

use self::{
    bodies::Bodies,
    gate::Gate,
    routes::{Match, Paths, Target},
    strangers::Strangers,
};
pub use self::{bodies::Room, gate::Place};
use super::{Barred, Lists, endpoint::Endpoint, keys::KeyRing};
use crate::{
    api::{Code, Credentials, Refusal, Why},
    base::Timestamp,
    edge::client_api::{Path, unreadable},
    wire::{
        json::{self as wire_json, SignedText},
        matrix::{Signed, XMatrix, server_name},
    },
};

/// A request as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// `GET`, `PUT`, …
    pub method: &'a str,
    /// The path with its query, as it stands in the request line.
    pub uri: &'a str,
    /// Its body; empty if there is none.
    pub body: &'a [u8],
}

/// A request whose sender has shown who it is.
#[derive(Clone, Debug)]
pub struct Authenticated {
    origin: OwnedServerName,
}

impl Authenticated {
    /// The server that sent it.
    pub const fn origin(&self) -> &OwnedServerName {
        &self.origin
    }

    /// What it shows to the hub.
    pub fn credentials(self) -> Credentials {
        Credentials::Server(self.origin)
    }
}

/// The way in for other servers.
pub struct Incoming {
    keys: Arc<KeyRing>,
    lists: Arc<Lists>,
    paths: Paths,
    gate: Arc<Gate>,
    bodies: Arc<Bodies>,
    /// Whoever brings a body into its canonical form.
    rewriting: Semaphore,
    strangers: Arc<Strangers>,
}

impl Incoming {
    /// A way in that checks signatures with these keys.
    pub fn new(keys: Arc<KeyRing>, lists: Arc<Lists>) -> Self {
        Self {
            gate: Gate::new(keys.clock()),
            keys,
            lists,
            paths: Paths::new(),
            bodies: Bodies::new(),
            rewriting: Semaphore::new(REWRITING_MAX),
            strangers: Arc::default(),
        }
    }

    /// What a path means; nothing if it is not of this API.
    pub fn find(&self, method: &Method, path: &Path<'_>) -> Result<Option<Target>, Refusal> {
        self.paths.find(method, path)
    }

    /// Waits for room for a body of so many bytes, as far as that is known.
    pub async fn room(&self, address: IpAddr, bytes: Option<u64>) -> Result<Room, Refusal> {
        self.bodies.room(address, bytes).await
    }

    /// Waits for a place for a request among those that are in work.
    pub async fn place_for_file(&self, from: &Authenticated) -> Result<Place, Refusal> {
        self.gate.enter(from.origin(), false, 0).await
    }

    /// The same for one of `api`'s list, with a body of so many bytes.
    pub async fn place(
        &self,
        from: &Authenticated,
        asked: &Match,
        bytes: usize,
    ) -> Result<Place, Refusal> {
        let in_turn = asked.endpoint == Endpoint::Transaction;
        self.gate.enter(&from.origin, in_turn, bytes).await
    }

    /// Which server sent a request.
    ///
    /// 401 `M_UNAUTHORIZED` where it has not shown that it is the one it says, 403 `M_FORBIDDEN`
    /// where it has a name that the operator's lists refuse: those are not asked for their keys.
    // spec: server-server §Request-Authentication
    pub async fn authenticate<'a>(
        &self,
        address: IpAddr,
        arrived: Arrived<'_>,
        authorization: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Authenticated, Refusal> {
        let headers = self.headers(authorization)?;
        let claimed = headers.first().map(|header| header.origin.clone());
        let (mut code, mut reason, mut whole) = ("SIGNATURE", String::new(), None);
        let mut body = Body::of(arrived.body);
        for header in headers {
            let _waiting = if self.keys.is_held_for_request(&header.origin, &header.key) {
                None
            } else {
                let waiting = self.strangers.wait(address, &header.origin);
                let busy = || {
                    log_claimed(&header.origin);
                    let why = Why::default().claimed_by(&header.origin);
                    Refusal::busy(STRANGERS_AGAIN).because(why)
                };
                Some(waiting.ok_or_else(busy)?)
            };
            let key = match self.keys.for_request(&header.origin, &header.key).await {
                Ok(key) => key,
                Err(error) => {
                    // Nobody has shown who they are: what came of asking is the operator's.
                    (code, reason) = ("SIGNATURE_KEY", error.told());
                    whole = Some(error.to_string());
                    continue;
                }
            };
            let ours = self.keys.name();
            let verify = |content| {
                let request = Signed {
                    method: arrived.method,
                    uri: arrived.uri,
                    content,
                };
                header.verify(&key, ours, request)
            };
            let mut verified = aside(arrived.body.len(), || verify(body.as_written()));
            if verified.is_err() && !arrived.body.is_empty() {
                let rewritten = body.rewritten(&self.rewriting).await;
                let rewritten = rewritten.map_err(|unreadable| {
                    log_claimed(&header.origin);
                    unreadable.because(Why::default().claimed_by(&header.origin))
                })?;
                verified = aside(arrived.body.len(), || verify(Some(rewritten)));
            }
            match verified {
                Ok(()) => {
                    let origin = header.origin;
                    tracing::Span::current().record("server", origin.as_str());
                    return Ok(Authenticated { origin });
                }
                Err(error) => {
                    reason = format!("{} of {}: {error}", header.key, header.origin);
                    (code, whole) = ("SIGNATURE", None);
                }
            }
        }
        let mut why = Why::of(code);
        why.rule = whole;
        if let Some(claimed) = claimed {
            log_claimed(&claimed);
            why = why.claimed_by(claimed);
        }
        // Whoever it is used our time: the next one over this connection comes later.
        let mebibytes = u32::try_from(arrived.body.len() / (1024 * 1024)).unwrap_or(u32::MAX);
        sleep(UNSIGNED_PAUSE.saturating_mul(mebibytes.saturating_add(1))).await;
        Err(Refusal::unauthorized(reason).because(why))
    }

    /// The headers, all of one origin that may speak with us, and meant for us.
    fn headers<'a>(
        &self,
        authorization: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<XMatrix>, Refusal> {
        let mut headers: Vec<XMatrix> = Vec::new();
        for value in authorization.take(HEADERS_MAX) {
            let header = XMatrix::parse(value).map_err(|error| {
                Refusal::unauthorized(format!("the Authorization header: {error}"))
                    .because(Why::of("SIGNATURE_FORM"))
            })?;
            if headers
                .first()
                .is_some_and(|first| first.origin != header.origin)
            {
                let message = "two Authorization headers name two servers";
                let why = Why::of("SIGNATURE_FORM");
                return Err(Refusal::unauthorized(message).because(why));
            }
            headers.push(header);
        }
        let Some(first) = headers.first() else {
            let message = "servers sign their requests: there is no Authorization header";
            let why = Why::of("SIGNATURE_ABSENT");
            return Err(Refusal::unauthorized(message).because(why));
        };
        let ours = self.keys.name();
        for header in &headers {
            let meant_for = header.destination.as_ref();
            if let Some(other) = meant_for.filter(|destination| *destination != ours) {
                log_claimed(&first.origin);
                let message = format!("the request is for {other}, this is {ours}");
                let why = Why::of("SIGNATURE_DESTINATION").claimed_by(&first.origin);
                return Err(Refusal::unauthorized(message).because(why));
            }
        }
        if first.origin == ours {
            let message = "this hub does not send requests to itself";
            return Err(Refusal::unauthorized(message));
        }
        self.lists.check(&first.origin).map_err(|barred| {
            let Barred { rule, version } = &barred;
            log_claimed(&first.origin);
            tracing::info!(%rule, lists = %version, "a request was refused by the lists");
            // which patterns there are is nobody's business but the operator's
            Refusal::forbidden(format!("this server does not speak with {}", first.origin))
                .because(barred.why().claimed_by(&first.origin))
        })?;
        Ok(headers)
    }

    /// The answer of `/_matrix/key/v2/server`.
    pub fn server_keys(&self) -> Value {
        value(self.keys.ours())
    }

    /// The answer of `/_matrix/key/v2/query/{server}`.
    // spec: server-server §Retrieving-server-keys
    pub async fn query(&self, server: &str, query: &str) -> Result<Value, Refusal> {
        let server = server_name(server)
            .map_err(|error| Refusal::invalid_param(format!("`serverName`: {error}")))?;
        let mut untils = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("minimum_valid_until_ts="));
        let until = untils.next().map(str::parse).transpose().map_err(|_| {
            Refusal::invalid_param("`minimum_valid_until_ts`: expected a number of milliseconds")
        })?;
        if untils.next().is_some() {
            return Err(Refusal::invalid_param(
                "`minimum_valid_until_ts` stands in the query twice, it may stand there once",
            ));
        }
        let found = self.keys.vouched(&server, until.map(Timestamp)).await;
        Ok(json!({ "server_keys": found.map(value).as_slice() }))
    }

    /// The answer of `/_matrix/key/v2/query`.
    pub async fn query_many(&self, body: &[u8]) -> Result<Value, Refusal> {
        let body = wire_json::read_lax_object(body).map_err(|error| unreadable(&error))?;
        let Some(wanted) = body.get("server_keys") else {
            return Err(Refusal::new(Code::MissingParam, "`server_keys` is missing"));
        };
        let not_an_object = || {
            let found = wire_json::kind_lax(wanted);
            Refusal::bad_json(format!("`server_keys`: expected an object, found {found}"))
        };
        let wanted = wanted.as_object().ok_or_else(not_an_object)?;
        if wanted.len() > QUERIED_MAX {
            let found = wanted.len();
            let message = format!("{found} servers in one question, at most {QUERIED_MAX}");
            return Err(Refusal::bad_json(message));
        }
        let mut found = Vec::new();
        for (server, keys) in wanted {
            // a name that is none has no keys, and must not spoil the others' answer
            let Ok(server) = server_name(server) else {
                continue;
            };
            found.extend(self.keys.vouched(&server, latest(keys)).await.map(value));
        }
        Ok(json!({ "server_keys": found }))
    }
}

/// Names the server in every log line about its request, whose signature nobody has found right.
fn log_claimed(origin: &ServerName) {
    tracing::Span::current().record("server_unverified", origin.as_str());
}

/// The latest time that is asked for in the criteria of one server.
fn latest(criteria: &Value) -> Option<Timestamp> {
    let none = Map::new();
    let keys = criteria.as_object().unwrap_or(&none).values();
    let times = keys.filter_map(|key| key.get("minimum_valid_until_ts")?.as_u64());
    times.max().map(Timestamp)
}

fn value(object: ruma::CanonicalJsonObject) -> Value {
    Value::Object(
        object
            .into_iter()
            .map(|(key, value)| (key, value.into()))
            .collect(),
    )
}

/// A body as it was signed.
///
/// Nearly everyone sends the very text. What it says is read by who knows that it is the sender's;
/// brought into the canonical form, a body takes many times its bytes.
struct Body<'a> {
    bytes: &'a [u8],
    rewritten: Option<SignedText>,
}

impl<'a> Body<'a> {
    const fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            rewritten: None,
        }
    }

    fn as_written(&self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes)
            .ok()
            .filter(|text| text.starts_with('{') && text.ends_with('}'))
    }

    async fn rewritten(&mut self, places: &Semaphore) -> Result<&str, Refusal> {
        let text = if let Some(text) = self.rewritten.take() {
            text
        } else {
            let _place = places.acquire().await;
            let text = aside(self.bytes.len(), || SignedText::of_body(self.bytes));
            text.map_err(|error| unreadable(&error))?
        };
        Ok(self.rewritten.insert(text).as_str())
    }
}

/// Does work on so many bytes. Where they are many, whoever else is served by this thread goes on with
/// another one meanwhile.
pub fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if bytes > ASIDE_BYTES_MIN && matches!(flavor, Ok(RuntimeFlavor::MultiThread)) {
        return block_in_place(work);
    }
    work()
}

/// From how many bytes on work on a body takes milliseconds.
const ASIDE_BYTES_MIN: usize = 256 * 1024;

/// Bodies that are brought into their canonical form at a time. Few are: those that unusual servers
/// write, and those whose signature is wrong.
const REWRITING_MAX: usize = 2;

/// How long the refusal is held of a request that is not signed as it must be, for each mebibyte begun.
const UNSIGNED_PAUSE: Duration = Duration::from_millis(100);

/// When an address that names too many servers may come again.
const STRANGERS_AGAIN: Duration = Duration::from_secs(20);

/// Authorization headers of one request: one for each key that its sender has.
const HEADERS_MAX: usize = 4;

/// Servers in one question for keys: each costs us a signature.
const QUERIED_MAX: usize = 256;
