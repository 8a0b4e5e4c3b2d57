//! Where a server is: `session::discovery` with the asking done.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    connect::Connector,
    exchange::{Connection, Exchanged},
};
use crate::{
    base::{Clock, Rng},
    edge::matrix::turns::Turns,
    session::discovery::{self, Caching, Delegations, Next, Outcome, Record, Route, lifetime},
    wire::{json, matrix::Place},
};

/// The records of a server say that there is none.
pub(super) struct Nowhere {
    pub(super) records: String,
}

/// To whom a host delegates, as far as is known; nothing: to nobody.
struct Known(Option<Place>);

/// Finds servers, and remembers what their well-known files say.
pub(super) struct Finder {
    connector: Arc<Connector>,
    clock: Arc<dyn Clock>,
    rng: Mutex<Box<dyn Rng + Send>>,
    delegations: Mutex<Delegations>,
    turns: Turns,
}

impl Finder {
    pub(super) fn new(
        connector: Arc<Connector>,
        clock: Arc<dyn Clock>,
        rng: Box<dyn Rng + Send>,
    ) -> Self {
        Self {
            connector,
            clock,
            rng: Mutex::new(rng),
            delegations: Mutex::default(),
            turns: Turns::default(),
        }
    }

    // spec: server-server §Resolving-server-names
    pub(super) async fn find(&self, name: &Place) -> Result<Route, Nowhere> {
        let mut next = discovery::begin(name);
        loop {
            next = match next {
                Next::WellKnown(question) => {
                    let delegated = self.delegated(question.host()).await;
                    question.answered(delegated.as_ref())
                }
                Next::Records(question) => {
                    let found = self.records(question.name()).await;
                    let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
                    question.answered(found, rng.as_mut())
                }
                Next::Found(route) => return Ok(route),
                Next::Nowhere { records } => return Err(Nowhere { records }),
            };
        }
    }

    /// Name servers that do not answer are taken for having no records: where that leads, the
    /// certificate still has to be the server's.
    async fn records(&self, name: &str) -> Vec<Record> {
        let looked_up = timeout(RECORDS_TIME_MAX, self.connector.names().records(name)).await;
        match looked_up {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "SRV records could not be looked up");
                Vec::new()
            }
            Err(_) => {
                tracing::debug!(name, "SRV records could not be looked up in time");
                Vec::new()
            }
        }
    }

    async fn delegated(&self, host: &str) -> Option<Place> {
        if let Some(Known(delegated)) = self.known(host) {
            return delegated;
        }
        let _turn = self.turns.of(host).await;
        if let Some(Known(delegated)) = self.known(host) {
            return delegated; // someone else's turn brought it
        }
        let outcome = timeout(WELL_KNOWN_TIME_MAX, self.well_known(host)).await;
        let outcome = outcome.unwrap_or(Outcome::Unreached);
        tracing::debug!(host, ?outcome, "asked for a well-known file");
        let mut delegations = self
            .delegations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        delegations.learn(host, outcome, self.clock.now()).cloned()
    }

    fn known(&self, host: &str) -> Option<Known> {
        let delegations = self
            .delegations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = delegations.of(host, self.clock.now())?;
        Some(Known(known.cloned()))
    }

    async fn well_known(&self, host: &str) -> Outcome {
        let mut at = Location {
            authority: host.to_owned(),
            path: "/.well-known/matrix/server".to_owned(),
        };
        for _ in 0..=REDIRECTS_MAX {
            let Some(exchanged) = self.fetch(&at).await else {
                return Outcome::Unreached;
            };
            if exchanged.status.is_redirection() {
                match at.redirected(&exchanged.headers) {
                    Some(location) => at = location,
                    None => return Outcome::Absent,
                }
                continue;
            }
            return self.read(&exchanged);
        }
        Outcome::Absent
    }

    fn read(&self, answer: &Exchanged) -> Outcome {
        let status = answer.status;
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Outcome::Unreached;
        }
        if status != StatusCode::OK {
            return Outcome::Absent;
        }
        let Some(delegated) = delegated_in(&answer.body) else {
            return Outcome::Absent;
        };
        let text = |name| answer.headers.get(name)?.to_str().ok();
        let caching = Caching {
            cache_control: text(header::CACHE_CONTROL),
            expires: text(header::EXPIRES),
        };
        Outcome::Delegated(delegated, lifetime(caching, self.clock.now()))
    }

    /// One answer, whatever its status; nothing when there was none, or none that is bounded.
    async fn fetch(&self, at: &Location) -> Option<Exchanged> {
        let route = at.route()?;
        let stream = self.connector.connect(&route).await;
        let stream = stream
            .inspect_err(|error| tracing::debug!(%error, "no well-known file"))
            .ok()?;
        let mut connection = Connection::over(stream).await.ok()?;
        let request = at.request().ok()?;
        let exchanged = connection.exchange(request, WELL_KNOWN_BYTES_MAX).await;
        exchanged
            .inspect_err(|error| tracing::debug!(%error, "no well-known file"))
            .ok()
    }
}

fn delegated_in(body: &[u8]) -> Option<Place> {
    let Value::Object(object) = json::read_lax(body).ok()? else {
        return None;
    };
    Place::parse(object.get("m.server")?.as_str()?).ok()
}

/// Where a file is: always by HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Host and perhaps port.
    authority: String,
    path: String,
}

impl Location {
    /// Reads a URL, unless it is of another scheme, or of something that has no name.
    pub(super) fn read(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let authority = uri
            .authority()
            .filter(|_| uri.scheme_str() == Some("https"));
        let authority = authority?.as_str().to_owned();
        Place::parse(&authority).ok()?; // no user name, no strange host
        let path = uri.path_and_query()?.as_str().to_owned();
        Some(Self { authority, path })
    }

    /// Its host, and perhaps its port.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The way there: the name's own addresses, whatever a server of that name has delegated.
    pub(super) fn route(&self) -> Option<Route> {
        let place = Place::parse(&self.authority).ok()?;
        Some(Route {
            host_header: self.authority.clone(),
            certificate_for: place.host().clone(),
            places: vec![(place.host().clone(), place.port().unwrap_or(HTTPS_PORT))],
        })
    }

    /// A question for it that says nothing of who asks.
    pub(super) fn request(&self) -> Result<Request<Full<Bytes>>, http::Error> {
        Request::builder()
            .uri(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, super::USER_AGENT)
            .body(Full::new(Bytes::new()))
    }

    /// Where the answer sends us, unless that is away from HTTPS, or to somewhere that has no name.
    fn redirected(&self, headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::LOCATION)?.to_str().ok()?;
        // `//host/path` would be another host's
        if text.starts_with('/') && !text.starts_with("//") {
            let uri: Uri = text.parse().ok()?;
            return Some(Self {
                authority: self.authority.clone(),
                path: uri.path_and_query()?.as_str().to_owned(),
            });
        }
        Self::read(text)
    }
}

/// All of asking for a well-known file, redirects included. With two look-ups of records it must be
/// over before those who ask lose their patience: what it came to is remembered only then.
const WELL_KNOWN_TIME_MAX: Duration = Duration::from_secs(8);

/// Looking up the records of one name.
const RECORDS_TIME_MAX: Duration = Duration::from_millis(2500);

/// A well-known file, in bytes: what Synapse reads of one, too. One that is valid has a hundred.
const WELL_KNOWN_BYTES_MAX: usize = 50 * 1024;

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;

/// RFC 9110 §4.2.2.
const HTTPS_PORT: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_stays_with_https_and_with_names() {
        let at = Location {
            authority: "a.example".to_owned(),
            path: "/x".to_owned(),
        };
        let to = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, location.parse().unwrap());
            let to = at.redirected(&headers)?;
            Some(format!("{} {}", to.authority, to.path))
        };
        assert_eq!(
            to("https://b.example/y?z").as_deref(),
            Some("b.example /y?z")
        );
        assert_eq!(to("https://b.example:1").as_deref(), Some("b.example:1 /"));
        assert_eq!(to("/y").as_deref(), Some("a.example /y"));
        for refused in [
            "http://b.example/y",
            "ftp://b.example/",
            "//b.example/y",
            "y",
            "https://u:p@b.example/",
            "https://127.1/",
            "",
        ] {
            assert_eq!(to(refused), None, "{refused}");
        }
    }

    #[test]
    fn only_a_server_name_is_a_delegation() {
        let read = |body: &str| delegated_in(body.as_bytes()).map(|place| place.to_string());
        assert_eq!(
            read(r#"{"m.server": "b.example:443", "x": 1.5}"#).as_deref(),
            Some("b.example:443")
        );
        for body in [
            "",
            "{}",
            "[]",
            r#"{"m.server": 1}"#,
            r#"{"m.server": "https://b.example"}"#,
            r#"{"m.server": ""}"#,
        ] {
            assert_eq!(read(body), None, "{body}");
        }
    }
}
