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
use tracing::Instrument as _;

use super::client_api::ClientApi;
use crate::api::{Door, Refusal, RequestId, Service};

/// The hub as the doors see it.
pub struct Front {
    /// The hub.
    pub service: Arc<dyn Service>,
    /// The routes of the client API.
    pub api: ClientApi,
    requests: AtomicU64,
}

impl Front {
    /// One for all doors of a process: they share the request numbers.
    pub fn new(service: Arc<dyn Service>) -> Arc<Self> {
        Arc::new(Self {
            service,
            api: ClientApi::new(),
            requests: AtomicU64::new(1),
        })
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
