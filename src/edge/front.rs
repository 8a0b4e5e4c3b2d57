//! What every door has in common: the hub behind it, the routes, and around each request a number,
//! a span, a line in the log, metrics and a wall that a panic does not pass.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use metrics::{counter, histogram};
use serde_json::{Value, json};
use tracing::Instrument as _;

use super::client_api::{Answer, ClientApi};
use crate::{
    api::{Door, Refusal, Refused, Reply, RequestId, Service},
    wire::{keys, paths},
};

/// The hub as the doors see it.
pub struct Front {
    /// The hub.
    pub service: Arc<dyn Service>,
    /// The routes of the client API.
    pub api: ClientApi,
    requests: AtomicU64,
    dtls_port: Option<u16>,
}

impl Front {
    /// One for all doors of a process: they share the request numbers.
    pub fn new(service: Arc<dyn Service>) -> Arc<Self> {
        Self::telling(service, None)
    }

    /// The same for a hub that has a DTLS door, at this port.
    pub fn telling(service: Arc<dyn Service>, dtls_port: Option<u16>) -> Arc<Self> {
        Arc::new(Self {
            service,
            api: ClientApi::new(),
            requests: AtomicU64::new(1),
            dtls_port,
        })
    }

    /// The answer that a reply is. Which doors there are is no business of the hub's, so what
    /// `/versions` says of them is added here.
    // spec: msc3079 §Versioning
    pub fn answer(&self, reply: Reply) -> Answer {
        let port = self
            .dtls_port
            .filter(|_| matches!(reply, Reply::Versions(_)));
        let mut answer = Answer::of(Ok(reply));
        let body = port.and_then(|port| Some((port, serde_json::from_slice(&answer.body).ok()?)));
        if let Some((port, Value::Object(mut body))) = body {
            let tables = json!({
                "dtls": port,
                "cbor_enum_version": keys::VERSION,
                "coap_enum_version": paths::VERSION,
            });
            for name in LOW_BANDWIDTH {
                body.insert(name.to_owned(), tables.clone());
            }
            answer.body = Value::Object(body).to_string().into_bytes();
        }
        answer
    }

    /// The number of the next request.
    pub fn number(&self) -> RequestId {
        RequestId(self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs `work` as the request that `asked` names: logged, counted, contained.
    ///
    /// `finish` makes of its outcome what the door sends, and says what the log tells of that. A
    /// panic is a bug of ours and harms this request only: the log has it, the client is told so.
    pub async fn run<T, R>(
        &self,
        asked: Asked,
        work: impl Future<Output = Result<T, Refusal>>,
        finish: impl FnOnce(Result<T, Refusal>) -> (R, Told),
    ) -> R {
        let (door, endpoint) = (asked.door.as_str(), asked.endpoint);
        // An error's span, so that a hub that logs errors only still says whose they were. The desk
        // fills in the user, and what checks signatures the server. Method and path are those of a
        // request that nothing is served for.
        let span = tracing::error_span!(
            "request",
            request = %asked.number, door, endpoint, user = tracing::field::Empty,
            server = tracing::field::Empty, server_unverified = tracing::field::Empty,
            method = tracing::field::Empty, path = tracing::field::Empty
        );
        let started = stopwatch();
        let (answer, told) = async {
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|_| {
                tracing::error!("the handler panicked");
                Err(Refusal::internal())
            });
            let code = outcome.as_ref().err().map(|refusal| refusal.code.errcode());
            if let Err(refusal) = &outcome {
                tracing::debug!(%refusal, "refused"); // its words may quote the request
                if !asked.repeats {
                    let request = (asked.number, asked.door, endpoint);
                    self.service.refused(Refused::answer(request, refusal));
                }
            }
            let (answer, told) = finish(outcome);
            asked.log(&told, code, started.elapsed());
            (answer, told)
        }
        .instrument(span)
        .await;
        asked.count(&told, started.elapsed());
        answer
    }
}

/// A request as log and metrics name it.
pub struct Asked {
    /// The way it came.
    pub door: Door,
    /// What it is for.
    pub endpoint: &'static str,
    /// Its number.
    pub number: RequestId,
    /// The bytes of its body that have been read so far.
    pub bytes_in: Arc<AtomicU64>,
    /// Whether the hub asks itself, on behalf of someone who observes.
    pub repeats: bool,
}

/// What log and metrics tell of an answer.
pub struct Told {
    /// Its status, as HTTP numbers them.
    pub status: u16,
    /// The length of its body, where it is known by now.
    pub bytes_out: Option<u64>,
}

impl Asked {
    /// The one line per request. Nothing in it is the client's own words, but for a path at which
    /// nothing is served.
    fn log(&self, told: &Told, code: Option<&'static str>, took: Duration) {
        let &Told { status, bytes_out } = told;
        let bytes_in = self.bytes_in.load(Ordering::Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if status >= 500 && status != 503 {
            tracing::warn!(target: REQUESTS, status, code, bytes_in, bytes_out, took_us, "failed");
        } else if self.repeats {
            tracing::debug!(target: REQUESTS, status, code, bytes_in, bytes_out, took_us, "looked");
        } else {
            tracing::info!(target: REQUESTS, status, code, bytes_in, bytes_out, took_us, "answered");
        }
    }

    fn count(&self, told: &Told, took: Duration) {
        let (door, endpoint) = (self.door.as_str(), self.endpoint);
        counter!(
            "tramline_requests_total",
            "door" => door, "endpoint" => endpoint, "status" => told.status.to_string()
        )
        .increment(1);
        histogram!("tramline_request_seconds", "door" => door, "endpoint" => endpoint)
            .record(took.as_secs_f64());
        let bytes = |direction| counter!("tramline_body_bytes_total", "door" => door, "direction" => direction);
        bytes("up").increment(self.bytes_in.load(Ordering::Relaxed));
        bytes("down").increment(told.bytes_out.unwrap_or_default());
    }
}

/// What the lines about requests are logged as: `log.level = "info,tramline::request=warn"` leaves
/// the ordinary ones out.
const REQUESTS: &str = "tramline::request";

#[expect(
    clippy::disallowed_methods,
    reason = "it measures how long a request took, decides nothing, and a clock of milliseconds is too coarse"
)]
pub(super) fn stopwatch() -> Instant {
    Instant::now()
}

/// The member of `/versions` that says where low-bandwidth clients may go: the proposal's name
/// while it is one, and the name it would have.
const LOW_BANDWIDTH: [&str; 2] = ["org.matrix.msc3079.low_bandwidth", "m.low_bandwidth"];
