//! Logs on stderr and metrics for whoever scrapes the admin listener.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use super::config::{Log, LogFilter, LogFormat};

/// A process' logs and metrics.
pub struct Telemetry {
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Telemetry {
    /// Begins to log and to count.
    ///
    /// Once per process: what is already there (another hub in a test) stays in charge.
    pub fn start(log: &Log) -> Self {
        let (filter, handle) = reload::Layer::new(env_filter(&log.level));
        let _ = tracing_subscriber::registry()
            .with(filter)
            .with(lines(log.format))
            .try_init();
        Self {
            metrics: recorder(),
            filter: handle,
        }
    }

    /// Changes which lines are logged.
    pub fn set_level(&self, level: &LogFilter) {
        // Fails only when the logs of this process are somebody else's.
        let _ = self.filter.reload(env_filter(level));
    }
}

/// Keeps what the metrics hold between two scrapes small; runs until it is dropped.
pub async fn upkeep(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

fn env_filter(level: &LogFilter) -> EnvFilter {
    EnvFilter::try_new(&level.0).unwrap_or_else(|_| EnvFilter::new("info"))
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    // Without this a closed stderr makes the logger complain on stderr, which panics.
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

fn recorder() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BUCKETS)
        })
        .expect("the lists of buckets are not empty")
        .build_recorder();
    let handle = recorder.handle();
    let _ = metrics::set_global_recorder(recorder);
    handle
}

/// Upper bounds of durations, from a decision in memory to a long poll.
const SECONDS_BUCKETS: [f64; 12] = [
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0,
];

/// Upper bounds of sizes, from a CoAP datagram to a large sync.
const BYTES_BUCKETS: [f64; 8] = [
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    1_048_576.0,
    16_777_216.0,
];

/// What the exporter itself does between scrapes when it runs its own listener.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
