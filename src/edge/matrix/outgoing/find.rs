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

/// A step on the way from a server's name to where it is, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `https://HOST/.well-known/matrix/server` was asked for.
    WellKnown {
        /// The host.
        host: String,
        /// To whom it delegates, if to anybody.
        delegated: Option<Place>,
        /// What came of asking, where it does not delegate.
        why: String,
        /// Whether the host said so, or said nothing.
        is_said: bool,
    },
    /// SRV records were looked up.
    Records {
        /// Their name.
        name: String,
        /// How many there are, or why that is not known.
        found: Result<usize, String>,
    },
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

    /// The same with what came of each step, for whoever looks for the one that is wrong. Hosts are
    /// asked anew.
    pub(super) async fn steps(&self, name: &Place) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut next = discovery::begin(name);
        loop {
            next = match next {
                Next::WellKnown(question) => {
                    let host = question.host().to_owned();
                    let (outcome, why) = self.ask_well_known(&host).await;
                    let is_said = outcome != Outcome::Unreached;
                    let delegated = self.learn(&host, outcome);
                    let next = question.answered(delegated.as_ref());
                    steps.push(Step::WellKnown {
                        host,
                        delegated,
                        why,
                        is_said,
                    });
                    next
                }
                Next::Records(question) => {
                    let found = self.look_up(question.name()).await;
                    steps.push(Step::Records {
                        name: question.name().to_owned(),
                        found: found.as_ref().map(Vec::len).map_err(Clone::clone),
                    });
                    let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
                    question.answered(found.unwrap_or_default(), rng.as_mut())
                }
                Next::Found(_) | Next::Nowhere { .. } => return steps,
            };
        }
    }

    /// Name servers that do not answer are taken for having no records: where that leads, the
    /// certificate still has to be the server's.
    async fn records(&self, name: &str) -> Vec<Record> {
        let found = self.look_up(name).await;
        found.unwrap_or_else(|error| {
            tracing::debug!(name, %error, "SRV records could not be looked up");
            Vec::new()
        })
    }

    async fn look_up(&self, name: &str) -> Result<Vec<Record>, String> {
        let looked_up = timeout(RECORDS_TIME_MAX, self.connector.names().records(name)).await;
        match looked_up {
            Ok(found) => found.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer in {} ms", RECORDS_TIME_MAX.as_millis())),
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
        let (outcome, why) = self.ask_well_known(host).await;
        tracing::debug!(host, ?outcome, why, "asked for a well-known file");
        self.learn(host, outcome)
    }

    fn learn(&self, host: &str, outcome: Outcome) -> Option<Place> {
        let mut delegations = self
            .delegations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        delegations.learn(host, outcome, self.clock.now()).cloned()
    }

    /// What came of asking, and in words.
    async fn ask_well_known(&self, host: &str) -> (Outcome, String) {
        let outcome = timeout(WELL_KNOWN_TIME_MAX, self.well_known(host)).await;
        outcome.unwrap_or_else(|_| {
            let why = format!("no answer in {} s", WELL_KNOWN_TIME_MAX.as_secs());
            (Outcome::Unreached, why)
        })
    }

    fn known(&self, host: &str) -> Option<Known> {
        let delegations = self
            .delegations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = delegations.of(host, self.clock.now())?;
        Some(Known(known.cloned()))
    }

    async fn well_known(&self, host: &str) -> (Outcome, String) {
        let mut at = Location {
            authority: host.to_owned(),
            path: "/.well-known/matrix/server".to_owned(),
        };
        for _ in 0..=REDIRECTS_MAX {
            let exchanged = match self.fetch(&at).await {
                Ok(exchanged) => exchanged,
                Err(why) => return (Outcome::Unreached, why),
            };
            if exchanged.status.is_redirection() {
                let Some(location) = at.redirected(&exchanged.headers) else {
                    let why = "it redirects to where this is not followed".to_owned();
                    return (Outcome::Absent, why);
                };
                at = location;
                continue;
            }
            return self.read(&exchanged);
        }
        let why = format!("it redirects more than {REDIRECTS_MAX} times");
        (Outcome::Absent, why)
    }

    fn read(&self, answer: &Exchanged) -> (Outcome, String) {
        let status = answer.status;
        let said = format!("HTTP {}", status.as_u16());
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return (Outcome::Unreached, said);
        }
        if status != StatusCode::OK {
            return (Outcome::Absent, said);
        }
        let Some(delegated) = delegated_in(&answer.body) else {
            let why = "its text has no `m.server` that is a server's name".to_owned();
            return (Outcome::Absent, why);
        };
        let text = |name| answer.headers.get(name)?.to_str().ok();
        let caching = Caching {
            cache_control: text(header::CACHE_CONTROL),
            expires: text(header::EXPIRES),
        };
        let lifetime = lifetime(caching, self.clock.now());
        (Outcome::Delegated(delegated, lifetime), said)
    }

    /// One answer, whatever its status; or why there was none, or none that is bounded.
    async fn fetch(&self, at: &Location) -> Result<Exchanged, String> {
        let route = at.route().ok_or("that is no address")?;
        let stream = self.connector.connect(&route).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let connection = Connection::over(stream).await;
        let mut connection = connection.map_err(|error| error.to_string())?;
        let request = at.request().map_err(|error| error.to_string())?;
        let exchanged = connection.exchange(request, WELL_KNOWN_BYTES_MAX).await;
        exchanged.map_err(|error| error.to_string())
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
