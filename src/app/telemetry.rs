//! Logs on stderr and metrics for whoever scrapes the admin listener.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::Value as Json;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{self, FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use super::{
    config::{Log, LogFilter, LogFormat},
    metrics,
};

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
            .with(lines(log.format, io::stderr))
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

fn lines<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // Without this a closed stderr makes the logger complain on stderr, which panics.
    let lines = fmt::layer().with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false) // the current one says it all
            .map_event_format(Arrays)
            .boxed(),
    }
}

/// JSON lines in which what is a list is an array: the library writes every list as a string.
struct Arrays<F>(F);

impl<S, N, F> FormatEvent<S, N> for Arrays<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let has = |name: &&str| event.metadata().fields().field(*name).is_some();
        if !LISTS.iter().any(has) {
            return self.0.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        match with_arrays(&line) {
            Some(line) => writeln!(writer, "{line}"),
            None => writer.write_str(&line),
        }
    }
}

/// The line with its lists as arrays. The text of a list of plain words is JSON already.
fn with_arrays(line: &str) -> Option<Json> {
    let mut line: Json = serde_json::from_str(line).ok()?;
    for name in LISTS {
        if let Some(field) = line.get_mut(name) {
            *field = serde_json::from_str(field.as_str()?).ok()?;
        }
    }
    Some(line)
}

/// The fields that are lists of words, wherever they are logged.
const LISTS: [&str; 2] = ["taken", "needs_restart"];

fn recorder() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .expect("the list of buckets is not empty")
        .build_recorder();
    let handle = recorder.handle();
    let _ = ::metrics::set_global_recorder(recorder);
    metrics::describe();
    handle
}

/// Upper bounds of durations, from a decision in memory to a long poll.
const SECONDS_BUCKETS: [f64; 12] = [
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0,
];

/// What the exporter itself does between scrapes when it runs its own listener.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is kept of a log.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lists_are_arrays_in_json_logs_and_requests_name_themselves() {
        // the log of this process belongs to the tests, and is there before this one of a thread
        crate::base::test_log::Log::install();
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber =
            tracing_subscriber::registry().with(lines(LogFormat::Json, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let taken = ["limits.media_size", "log.level"];
            tracing::info!(?taken, needs_restart = ?<[&str; 0]>::default(), "reload accepted");
            let user = tracing::field::Empty;
            let span = tracing::error_span!("request", request = %"00000007", user);
            let _entered = span.enter();
            span.record("user", "@ana:hub.example");
            tracing::info!(status = 200, code = None::<&str>, "answered");
        });

        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Json> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();

        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(
            lines[0]["taken"],
            serde_json::json!(["limits.media_size", "log.level"])
        );
        assert_eq!(lines[0]["needs_restart"], serde_json::json!([]));
        assert_eq!(lines[0]["message"], "reload accepted");
        assert_eq!(lines[1]["status"], 200);
        assert_eq!(lines[1]["span"]["user"], "@ana:hub.example");
        assert_eq!(lines[1]["span"]["request"], "00000007");
        assert!(lines[1].get("spans").is_none());
    }
}
