//! The HTTPS door: HTTP/1.1 and HTTP/2 over TLS for ordinary Matrix clients.
//!
//! The accept loop is our own, because the ceilings sit in it: connections in all and per address,
//! time for the handshake and for the headers, streams per connection. What a request means is in
//! [`super::client_api`], for other servers in [`super::matrix`]; files are in `media`. There is no plain HTTP here.

mod arriving;
mod federation;
mod handshakes;
mod link;
mod media;
mod nowhere;
mod serve;
mod stall;
#[cfg(test)]
mod tests;
pub mod tls;
mod traffic;
mod upgrade;

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::body::Body;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use hyper::body::Incoming;
use serde_json::{Value, json};

use self::{arriving::Arriving, traffic::Traffic, upgrade::Upgrades};
use super::{
    client_api::{Answer, Path, routes::allow, token},
    credential_file::HubFacts,
    front::{self, Front, Told},
    matrix::{Federation, incoming::routes},
    websocket::WebSockets,
};
use crate::api::{Code, Credentials, Door, Origin, Refusal, RequestId};

pub use serve::serve;

/// What `/.well-known/matrix/…` says; what is absent is answered with 404.
#[derive(Clone, Debug, Default)]
pub struct WellKnown {
    /// The public key with which this hub vouches for events, in base64; none unless it does.
    pub policy_key: Option<String>,
    /// `m.homeserver.base_url` for clients.
    pub client_base_url: Option<String>,
    /// `m.server` for other servers, as `host:port`.
    pub server: Option<String>,
}

/// How much and how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections. More wait in the kernel's queue.
    pub connections_max: usize,
    /// Open connections from one address. More are closed at once.
    pub connections_per_address_max: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams_max: u32,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time for the headers of a request; on HTTP/1.1 also the longest rest between two.
    pub header: Duration,
    /// Time for the body of a request, media apart, for each piece of an upload, and for a client
    /// that reads nothing of its answer.
    pub body: Duration,
    /// Time that requests under way get when the hub shuts down.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000, // ~50 kB each, TLS and HTTP/2 buffers: half a gigabyte
            connections_per_address_max: 1_000, // one NAT of a large office
            streams_max: 64, // browsers open as many as we say; a client needs a sync and a few more
            handshake: Duration::from_secs(10), // three round trips on the worst satellite link
            header: Duration::from_secs(30),
            body: Duration::from_mins(1), // 256 KiB at 35 kbit/s
            drain: Duration::from_secs(10),
        }
    }
}

/// What the door needs to be opened.
pub struct Https {
    /// The hub and what the doors share.
    pub front: Arc<Front>,
    /// The ceilings.
    pub limits: Limits,
    /// What the well-known paths say.
    pub well_known: WellKnown,
    /// CoAP over WebSocket at its well-known path; none: there is none.
    pub websockets: Option<Arc<WebSockets>>,
    /// What a device is told that is linked here; none: no device can be.
    pub facts: Option<Arc<HubFacts>>,
    /// Other servers; none: nothing is served to them.
    pub federation: Option<Arc<Federation>>,
}

/// One request's circumstances.
struct Asked {
    method: Method,
    origin: Origin,
    /// The query without the token.
    query: String,
    headers: HeaderMap,
}

/// What a request is for; its name is the `endpoint` of logs and metrics.
enum Target {
    Api(super::client_api::Match),
    Media(media::Target),
    Link(link::Target),
    Federation(routes::Target),
    WellKnownClient,
    WellKnownServer,
    WellKnownPolicyServer,
    WebSocket,
}

impl Target {
    /// What a path beneath `/.well-known` means here.
    fn well_known(path: &[&str]) -> Option<Self> {
        match path {
            [".well-known", "matrix", "client"] => Some(Self::WellKnownClient),
            [".well-known", "matrix", "server"] => Some(Self::WellKnownServer),
            [".well-known", "matrix", "policy_server"] => Some(Self::WellKnownPolicyServer),
            [".well-known", "coap"] => Some(Self::WebSocket),
            _ => None,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Api(found) => found.endpoint.name(),
            Self::Media(media) => media.name(),
            Self::Link(link) => link.name(),
            Self::Federation(federation) => federation.name(),
            Self::WellKnownClient => "WellKnownClient",
            Self::WellKnownServer => "WellKnownServer",
            Self::WellKnownPolicyServer => "WellKnownPolicyServer",
            Self::WebSocket => "WebSocket",
        }
    }
}

impl Https {
    /// Answers one request. Never fails: what goes wrong is an answer too.
    async fn answer(
        &self,
        peer: SocketAddr,
        request: Request<Incoming>,
        upgrades: Upgrades,
    ) -> Response<Body> {
        if request.method() == Method::OPTIONS {
            return preflight();
        }
        let head = request.method() == Method::HEAD;
        let number = self.front.number();
        let (parts, body) = request.into_parts();
        let bytes_in = Arc::new(AtomicU64::new(0));
        let body = Arriving::new(body, &parts.headers, Arc::clone(&bytes_in));
        let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
        let target = self.target(&parts.method, parts.uri.path());
        let name = target.as_ref().map_or("Unknown", Target::name);
        let uri = parts.uri.clone();
        let work = async {
            fits(&parts)?;
            one_host(parts.version, &parts.headers)?;
            // Before it is looked at who asks: to servers, too, which show no token.
            let target = target
                .map_err(|refusal| nowhere::told(refusal, &parts, self.federation.is_some()))?;
            if let Target::WebSocket = target {
                return self.upgrade(peer, number, parts, upgrades).await;
            }
            if let Target::Federation(target) = target {
                if let Some(traffic) = parts.extensions.get::<Arc<Traffic>>() {
                    traffic.is_a_peers();
                }
                // boxed: every request of every client would have room for it otherwise
                return Box::pin(self.federation(target, peer, number, parts, body)).await;
            }
            let query = parts.uri.query().unwrap_or_default();
            let asked = asked(peer, number, &parts.method, query, parts.headers)?;
            self.dispatch(target, asked, body).await
        };
        let work = async { work.await.map_err(|refusal| named(refusal, uri.path())) };
        let asked = front::Asked {
            door: Door::Https,
            endpoint: name,
            number,
            bytes_in,
            repeats: false,
        };
        let mut response = self.front.run(asked, work, written).await;
        finish(&mut response, number);
        if chunked {
            // hyper hides whether there was a Content-Length too; if another server in front went
            // by that one, what follows on this connection is not what it seems
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if head {
            without_body(response)
        } else {
            response
        }
    }

    fn target(&self, method: &Method, path: &str) -> Result<Target, Refusal> {
        let path = Path::of_url(path)?;
        if let Some(federation) = &self.federation
            && let Some(target) = federation.incoming.find(method, &path)?
        {
            return Ok(Target::Federation(target));
        }
        let texts = path.texts();
        if path.plain_segments() < texts.len().min(FIXED_SEGMENTS) {
            return self.front.api.find(method, &path).map(Target::Api);
        }
        if let Some(target) = Target::well_known(&texts) {
            let is_get = method == Method::GET || method == Method::HEAD;
            let wrong = || Refusal::wrong_method(&allow([Method::GET]));
            return is_get.then_some(target).ok_or_else(wrong);
        }
        if let Some(media) = media::Target::of(method, &texts)? {
            return Ok(Target::Media(media));
        }
        if let Some(link) = link::Target::of(method, &texts)? {
            return Ok(Target::Link(link));
        }
        self.front.api.find(method, &path).map(Target::Api)
    }

    async fn dispatch(
        &self,
        target: Target,
        asked: Asked,
        body: Arriving,
    ) -> Result<Response<Body>, Refusal> {
        match target {
            Target::WellKnownClient => Ok(well_known(
                self.well_known.client_base_url.as_ref(),
                |url| json!({ "m.homeserver": { "base_url": url } }),
            )),
            Target::WellKnownServer => Ok(well_known(
                self.well_known.server.as_ref(),
                |server| json!({ "m.server": server }),
            )),
            // spec: server-server §Policy-Servers
            Target::WellKnownPolicyServer => Ok(well_known(
                self.well_known.policy_key.as_ref(),
                |key| json!({ "public_keys": { "ed25519": key } }),
            )),
            Target::Media(media) => self.media(media, asked, body).await,
            Target::WebSocket | Target::Federation(_) => Err(Refusal::internal()), // taken up before
            Target::Link(link) => self.link(link, asked, body).await,
            Target::Api(found) => {
                let body = body.whole(self.limits.body).await?;
                let command = match found.command(&asked.query, &body) {
                    Ok(command) => command,
                    Err(refusal) => {
                        return Err(self.front.service.asked_by(&asked.origin, refusal).await);
                    }
                };
                let reply = self.front.service.ask(asked.origin, command).await?;
                Ok(json_response(self.front.answer(reply)))
            }
        }
    }
}

/// A refusal with the room and the event that the path names.
fn named(refusal: Refusal, path: &str) -> Refusal {
    let Ok(path) = Path::of_url(path) else {
        return refusal;
    };
    let first = |sigil| {
        path.texts()
            .into_iter()
            .find(|text| text.starts_with(sigil))
    };
    let (room, event) = (first('!'), first('$'));
    if room.is_none() && event.is_none() {
        return refusal;
    }
    refusal.known(|why| {
        why.room = why.room.take().or_else(|| room.map(str::to_owned));
        why.event = why.event.take().or_else(|| event.map(str::to_owned));
    })
}

/// What is sent for an outcome.
fn written(outcome: Result<Response<Body>, Refusal>) -> (Response<Body>, Told) {
    let response = outcome.unwrap_or_else(|refusal| json_response(Answer::of_refusal(refusal)));
    let declared = response.headers().get(header::CONTENT_LENGTH); // a file's
    let told = Told {
        status: response.status().as_u16(),
        bytes_out: declared
            .and_then(|length| length.to_str().ok()?.parse().ok())
            .or_else(|| hyper::body::Body::size_hint(response.body()).exact()),
    };
    (response, told)
}

/// Refuses headers beyond [`HEADER_BYTES_MAX`]. What is twice as large never comes here: hyper
/// refuses it with an empty answer.
fn fits(parts: &http::request::Parts) -> Result<(), Refusal> {
    let headers = parts.headers.iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len());
    let query = parts.uri.path_and_query();
    let size = headers.sum::<usize>() + query.map_or(0, |query| query.as_str().len());
    if size <= HEADER_BYTES_MAX {
        return Ok(());
    }
    let message = format!("address and headers have {size} bytes, at most {HEADER_BYTES_MAX}");
    Err(Refusal::new(Code::TooLarge, message).with_status(431))
}

/// The most that a request's address and headers may take, in bytes: a long filter in a query, a
/// token and what proxies add come to half of it.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// Nothing here goes by the host, but what stands in front of us may have looked at the other one.
fn one_host(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let hosts = headers.get_all(header::HOST).iter().count();
    if version == Version::HTTP_11 && hosts != 1 {
        return Err(Refusal::invalid_param(format!(
            "a request has one Host header, this one has {hosts}"
        )));
    }
    Ok(())
}

fn asked(
    peer: SocketAddr,
    number: RequestId,
    method: &Method,
    query: &str,
    headers: HeaderMap,
) -> Result<Asked, Refusal> {
    let shown = headers.get_all(header::AUTHORIZATION);
    let (credentials, query) = token::credentials(shown.iter().map(HeaderValue::as_bytes), query)?;
    Ok(Asked {
        method: method.clone(),
        origin: origin(peer, number, credentials),
        query: Cow::into_owned(query),
        headers,
    })
}

const fn origin(peer: SocketAddr, request: RequestId, credentials: Credentials) -> Origin {
    Origin {
        door: Door::Https,
        address: Some(peer.ip()),
        request,
        credentials,
    }
}

fn well_known(value: Option<&String>, object: impl FnOnce(&str) -> Value) -> Response<Body> {
    // Everyone who looks for a hub asks for these: that there is none refuses nobody anything.
    let none = || Answer::of_refusal(Refusal::not_found("this hub publishes no such address"));
    let answer = value.map_or_else(none, |value| Answer::of_object(&object(value)));
    json_response(answer)
}

fn json_response(answer: Answer) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    // answers hold what only the caller may see, and change
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let allow = answer.allow.map(|allow| HeaderValue::from_str(&allow));
    if let Some(Ok(allow)) = allow {
        headers.insert(header::ALLOW, allow);
    }
    if let Some(after) = answer.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    response
}

/// Rounded up: half a second early is a second refusal.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs()
        .saturating_add(u64::from(span.subsec_nanos() > 0))
}

/// What every answer carries.
fn finish(response: &mut Response<Body>, number: RequestId) {
    let headers = response.headers_mut();
    allow_origins(headers);
    if let Ok(number) = HeaderValue::from_str(&number.to_string()) {
        headers.insert(HeaderName::from_static("x-request-id"), number);
    }
}

/// The answer to OPTIONS, anywhere: nothing of an endpoint is run for it.
// spec: client-server §Web-Browser-Clients
fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    allow_origins(response.headers_mut());
    response
}

// spec: client-server §Web-Browser-Clients
fn allow_origins(headers: &mut HeaderMap) {
    let allowed = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            "GET, HEAD, POST, PUT, DELETE, OPTIONS",
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "X-Requested-With, Content-Type, Authorization",
        ),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "Retry-After, X-Request-Id",
        ),
    ];
    for (name, value) in allowed {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The answer to a HEAD: what the GET would say of its length, and nothing of it.
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let length = hyper::body::Body::size_hint(&body).exact();
    if let Some(length) = length
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
    {
        parts
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(parts, Body::empty())
}

/// How many segments of the longest path of this door's own, beside the client API, are fixed.
const FIXED_SEGMENTS: usize = 5;
