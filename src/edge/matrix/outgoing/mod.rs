//! Requests to other servers: found, connected to, signed, bounded.
//!
//! [`Outgoing::ask`] is all there is to it. It refuses servers that the operator's lists refuse and
//! addresses that are not of the public internet, follows no redirect, reads no more of an answer
//! than its caller wants, and comes to an end in the time that its caller gives. Whether to try
//! again, and when, is the caller's business; any answer at all is a sign of life.

mod connect;
mod counted;
mod exchange;
mod find;
mod names;
mod opened;
mod pool;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use metrics::counter;
use ruma::{CanonicalJsonObject, ServerName};
use rustls::RootCertStore;
use thiserror::Error;
use tokio::time::timeout;

use self::{
    connect::Connector,
    exchange::{Connection, Exchanged},
    find::Finder,
    pool::Pool,
};
use super::{ListVersion, Lists, waiting};
use crate::{
    base::{Clock, Rng, Timestamp},
    session::{
        discovery::{Route, http_date},
        server_list::Unwelcome,
    },
    wire::{
        DecodeError,
        json::{self, SignedText},
        matrix::{NameError, Place, ServerKey, Signed, XMatrix},
        multipart::MultipartError,
    },
};

pub use connect::ConnectError;
pub use exchange::ExchangeError;
pub use find::Step;
pub use names::{Names, SystemNames};

/// What requests to other servers need.
pub struct Parts {
    /// Who we are.
    pub key: Arc<ServerKey>,
    /// With whom we speak.
    pub lists: Arc<Lists>,
    /// Whom to believe when a server shows its certificate.
    pub roots: RootCertStore,
    /// Whether servers may be in private networks and on this machine.
    pub allow_private_addresses: bool,
    /// Through which proxy to connect.
    pub proxy: Option<Place>,
    /// Who knows names.
    pub names: Arc<dyn Names>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Box<dyn Rng + Send>,
}

/// The way to other servers.
pub struct Outgoing {
    key: Arc<ServerKey>,
    lists: Arc<Lists>,
    connector: Arc<Connector>,
    finder: Finder,
    pool: Arc<Pool>,
    clock: Arc<dyn Clock>,
}

/// A request to another server.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Method,
    uri: String,
    content: Option<SignedText>,
    is_signed: bool,
    answer_bytes_max: usize,
    within: Duration,
}

impl Ask {
    /// A GET of a path with its query, both percent-encoded.
    pub fn get(uri: impl Into<String>) -> Self {
        Self::new(Method::GET, uri.into(), None)
    }

    /// A PUT of an object.
    pub fn put(uri: impl Into<String>, content: &CanonicalJsonObject) -> Self {
        let content = SignedText::of_object(content);
        Self::new(Method::PUT, uri.into(), Some(content))
    }

    /// A POST of an object.
    pub fn post(uri: impl Into<String>, content: &CanonicalJsonObject) -> Self {
        let content = SignedText::of_object(content);
        Self::new(Method::POST, uri.into(), Some(content))
    }

    /// A request as it is written, of which the body is JSON or empty.
    pub fn of(request: &Request<Vec<u8>>) -> Result<Self, DecodeError> {
        let uri = request.uri().path_and_query();
        let uri = uri.map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        let content = match request.body().as_slice() {
            [] => None,
            body => Some(SignedText::of_body(body)?),
        };
        Ok(Self::new(request.method().clone(), uri, content))
    }

    const fn new(method: Method, uri: String, content: Option<SignedText>) -> Self {
        Self {
            method,
            uri,
            content,
            is_signed: true,
            answer_bytes_max: ANSWER_BYTES_MAX,
            within: ANSWER_TIME_MAX,
        }
    }

    /// The same without saying who asks.
    #[must_use]
    pub fn unsigned(mut self) -> Self {
        self.is_signed = false;
        self
    }

    /// The same with another ceiling for the answer, in bytes.
    #[must_use]
    pub fn answer_bytes_max(mut self, max: usize) -> Self {
        self.answer_bytes_max = max;
        self
    }

    /// The same with other patience, from finding the server to the end of its answer. A server that
    /// is not known yet may take 13 s to find where name servers and hosts are silent.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }
}

/// The answer of another server, of whatever status.
#[derive(Clone, Debug)]
pub struct Told {
    /// HTTP's.
    pub status: u16,
    /// Its body, unread.
    pub body: Bytes,
    /// When the server wants to be asked again, where it says so in seconds.
    pub retry_after: Option<Duration>,
    /// The time there, as it says.
    pub date: Option<Timestamp>,
    /// What it calls the request in its log.
    pub request_id: Option<String>,
}

impl Told {
    /// The bytes that a 200 brought.
    pub fn success(&self) -> Result<&Bytes, AskError> {
        if self.status == 200 {
            return Ok(&self.body);
        }
        Err(AskError::Refused {
            status: self.status,
            errcode: self.error("errcode"),
            error: self.error("error"),
        })
    }

    /// The object that a 200 brought; as strict as events are read.
    pub fn object(&self) -> Result<CanonicalJsonObject, AskError> {
        Ok(json::read_object(self.success()?)?)
    }

    /// A member of an error's body, cut short.
    fn error(&self, name: &str) -> String {
        let body = json::read_lax(&self.body).unwrap_or_default();
        let text = body.get(name).and_then(serde_json::Value::as_str);
        text.unwrap_or_default()
            .chars()
            .filter(|char| !char.is_control())
            .take(ERROR_CHARS_MAX)
            .collect()
    }
}

/// A server was not asked, or gave no answer that can be used.
#[derive(Debug, Error)]
pub enum AskError {
    /// The operator does not want it.
    #[error("{server} is not to be spoken with: {source}")]
    Unwelcome {
        /// The server.
        server: String,
        /// The rule.
        source: Unwelcome,
        /// Of which lists.
        version: ListVersion,
    },
    /// It is this hub.
    #[error("{0} is this hub itself")]
    Ourselves(String),
    /// Its name leads nowhere.
    #[error("its name: {0}")]
    Name(#[from] NameError),
    /// Its records say that there is no such server.
    #[error("the SRV records {records} say that there is no server")]
    Nowhere {
        /// Their name.
        records: String,
    },
    /// There is no connection to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection brought no whole answer.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// No answer in time.
    #[error("no answer in {} s", within.as_secs())]
    Slow {
        /// How long it had.
        within: Duration,
    },
    /// The request cannot be written; ours to fix.
    #[error("not a request: {0}")]
    Request(#[from] http::Error),
    /// It answered that it will not.
    #[error("HTTP {status} {errcode}: {error}")]
    Refused {
        /// HTTP's.
        status: u16,
        /// Matrix's code, if it sent one.
        errcode: String,
        /// Its words.
        error: String,
    },
    /// It answered something else.
    #[error("its answer: {0}")]
    Form(#[from] DecodeError),
    /// It was asked for a file, and the answer holds none.
    #[error("its answer holds no file: {0}")]
    NoFile(&'static str),
    /// The same, and the server keeps it elsewhere, where it could not be had.
    #[error("the file is kept at {at}: {why}")]
    KeptElsewhere {
        /// Where.
        at: String,
        /// Why it could not be had there.
        why: String,
    },
    /// The same, and the answer is not what one with a file looks like.
    #[error("its answer holds no file: {0}")]
    Parts(#[from] MultipartError),
}

impl AskError {
    /// Whether the server was there: it answered, if only with a refusal.
    pub const fn is_sign_of_life(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::Form(_)
                | Self::NoFile(_)
                | Self::KeptElsewhere { .. }
                | Self::Parts(_)
        )
    }
}

impl Outgoing {
    /// A way to other servers.
    pub fn new(parts: Parts) -> Result<Self, rustls::Error> {
        let connector = Connector::new(
            parts.roots,
            parts.names,
            parts.allow_private_addresses,
            parts.proxy,
        )?;
        let connector = Arc::new(connector);
        Ok(Self {
            key: parts.key,
            lists: parts.lists,
            finder: Finder::new(Arc::clone(&connector), Arc::clone(&parts.clock), parts.rng),
            connector,
            pool: Pool::new(Arc::clone(&parts.clock)),
            clock: parts.clock,
        })
    }

    /// Asks another server.
    pub async fn ask(&self, server: &ServerName, ask: &Ask) -> Result<Told, AskError> {
        let told = waiting::elsewhere(&*self.clock, server, self.told(server, ask)).await;
        let result = match &told {
            Ok(told) => match told.status {
                200..=299 => "answered",
                500..=599 => "in trouble",
                _ => "refused",
            },
            Err(AskError::Unwelcome { .. } | AskError::Ourselves(_)) => "not asked",
            Err(_) => "failed",
        };
        counter!("tramline_peer_requests_total", "result" => result).increment(1);
        told
    }

    async fn told(&self, server: &ServerName, ask: &Ask) -> Result<Told, AskError> {
        let place = self.welcome(server)?;
        let within = ask.within;
        let exchanged = timeout(within, self.exchange(server, &place, ask))
            .await
            .map_err(|_| AskError::Slow { within })??;
        let retry_after = exchanged.headers.get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|after| after.to_str().ok()?.parse().ok());
        let text = |name: &str| exchanged.headers.get(name)?.to_str().ok();
        let date = text(header::DATE.as_str()).and_then(http_date);
        let request_id = text("x-request-id").map(str::to_owned);
        Ok(Told {
            date,
            request_id,
            status: exchanged.status.as_u16(),
            body: exchanged.body,
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    /// Whether a server would be asked at all.
    pub fn is_welcome(&self, server: &ServerName) -> bool {
        self.welcome(server).is_ok()
    }

    /// A server with whom we speak, by its name.
    fn welcome(&self, server: &ServerName) -> Result<Place, AskError> {
        if server == self.key.name() {
            return Err(AskError::Ourselves(server.to_string()));
        }
        self.lists
            .check(server)
            .map_err(|barred| AskError::Unwelcome {
                server: server.to_string(),
                source: barred.rule,
                version: barred.version,
            })?;
        Ok(Place::of(server)?)
    }

    async fn route(&self, place: &Place) -> Result<Route, AskError> {
        let found = self.finder.find(place).await;
        found.map_err(|nowhere| AskError::Nowhere {
            records: nowhere.records,
        })
    }

    /// Where a server is now, without asking it anything but that.
    pub async fn find(&self, server: &ServerName) -> Result<Route, AskError> {
        self.route(&Place::of(server)?).await
    }

    /// The steps on the way there, and what came of each.
    pub async fn steps(&self, server: &ServerName) -> Result<Vec<Step>, AskError> {
        Ok(self.finder.steps(&Place::of(server)?).await)
    }

    async fn exchange(
        &self,
        server: &ServerName,
        place: &Place,
        ask: &Ask,
    ) -> Result<Exchanged, AskError> {
        let route = self.route(place).await?;
        // A resting connection may be closed just as the request goes out, and then nobody knows
        // whether it was taken. GET and PUT may be asked twice; a claim of keys may not.
        let resting = if ask.method == Method::POST {
            None
        } else {
            self.pool.take(server, &route)
        };
        if let Some(mut connection) = resting {
            let request = self.request(server, &route, ask)?;
            match connection.exchange(request, ask.answer_bytes_max).await {
                Ok(exchanged) => {
                    self.pool.put(server, route, connection);
                    return Ok(exchanged);
                }
                Err(ExchangeError::Broken(error)) => {
                    tracing::debug!(%server, %error, "a resting connection was closed");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let stream = self.connector.connect(&route).await?;
        let mut connection = Connection::over(stream).await?;
        let request = self.request(server, &route, ask)?;
        let exchanged = connection.exchange(request, ask.answer_bytes_max).await?;
        self.pool.put(server, route, connection);
        Ok(exchanged)
    }

    // spec: server-server §Request-Authentication
    fn request(
        &self,
        server: &ServerName,
        route: &Route,
        ask: &Ask,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(&ask.uri)
            .header(header::HOST, &route.host_header)
            .header(header::USER_AGENT, USER_AGENT);
        if ask.is_signed {
            let signed = Signed {
                method: ask.method.as_str(),
                uri: &ask.uri,
                content: ask.content.as_ref().map(SignedText::as_str),
            };
            let shown = XMatrix::sign(&self.key, server, signed).header();
            request = request.header(header::AUTHORIZATION, shown);
        }
        let body = ask.content.as_ref().map_or_else(Bytes::new, |content| {
            Bytes::copy_from_slice(content.as_str().as_bytes())
        });
        if ask.content.is_some() {
            let json = HeaderValue::from_static("application/json");
            request = request.header(header::CONTENT_TYPE, json);
        }
        request.body(Full::new(body))
    }
}

/// Who we are to those who read logs.
const USER_AGENT: &str = concat!("Tramline/", env!("CARGO_PKG_VERSION"));

/// An answer, in bytes, unless its caller wants more: an event and its envelope, a profile, a
/// refusal.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// From finding a server to the end of its answer, unless its caller says otherwise.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// What is quoted of another server's words, in characters.
const ERROR_CHARS_MAX: usize = 200;
