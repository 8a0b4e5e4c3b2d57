//! What every door has in common: the hub behind it, the routes, and around each request a number,
//! a span, two metrics and a wall that a panic does not pass.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use futures_util::FutureExt as _;
use metrics::{counter, histogram};
use serde_json::{Value, json};
use tracing::Instrument as _;

use super::client_api::{Answer, ClientApi};
use crate::{
    api::{Door, Refusal, Reply, RequestId, Service},
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

    /// Runs `work` as the request `number`: logged, counted, contained.
    ///
    /// `status` reads the HTTP status off what came out. A panic is a bug of ours and harms this
    /// request only: the log has it, the client is told so.
    pub async fn run<T>(
        &self,
        door: Door,
        endpoint: &'static str,
        number: RequestId,
        status: impl FnOnce(&T) -> u16,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let span =
            tracing::info_span!("request", request = %number, door = door.as_str(), endpoint);
        let started = stopwatch();
        let outcome = async {
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|_| {
                tracing::error!("the handler panicked");
                Err(Refusal::internal())
            });
            match &outcome {
                Ok(_) => tracing::debug!("answered"),
                Err(refusal) => tracing::debug!(status = refusal.status, %refusal, "refused"),
            }
            outcome
        }
        .instrument(span)
        .await;
        let status = outcome
            .as_ref()
            .map_or_else(|refusal| refusal.status, status);
        counter!(
            "tramline_requests_total",
            "door" => door.as_str(), "endpoint" => endpoint, "status" => status.to_string()
        )
        .increment(1);
        histogram!(
            "tramline_request_seconds",
            "door" => door.as_str(), "endpoint" => endpoint
        )
        .record(started.elapsed().as_secs_f64());
        outcome
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "it measures how long a request took, decides nothing, and a clock of milliseconds is too coarse"
)]
fn stopwatch() -> Instant {
    Instant::now()
}

/// The member of `/versions` that says where low-bandwidth clients may go: the proposal's name
/// while it is one, and the name it would have.
const LOW_BANDWIDTH: [&str; 2] = ["org.matrix.msc3079.low_bandwidth", "m.low_bandwidth"];
