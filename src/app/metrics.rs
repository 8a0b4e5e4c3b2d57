//! The metrics that `/metrics` prints: every one by name, with what it means.
//!
//! They are counted where the things happen; here is what they are called. Tests hold this list,
//! the code and the README's table together.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// One metric, as Prometheus names and types it.
struct Metric {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    /// What it counts, and the values of its labels.
    meaning: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Says what each metric means to the recorder of this process (or, in a test, of this thread).
pub(super) fn describe() {
    for &Metric {
        name,
        kind,
        unit,
        meaning,
    } in METRICS
    {
        match kind {
            Kind::Counter => describe_counter!(name, unit, meaning),
            Kind::Gauge => describe_gauge!(name, unit, meaning),
            Kind::Histogram => describe_histogram!(name, unit, meaning),
        }
    }
}

/// All of them.
const METRICS: &[Metric] = &[
    Metric {
        name: "tramline_requests_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Requests answered, by door, endpoint and status (HTTP's numbers on every door).",
    },
    Metric {
        name: "tramline_request_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        meaning: "Time from a request's head to its answer, by door and endpoint; a Sync may wait.",
    },
    Metric {
        name: "tramline_body_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes of bodies, by door and direction (up: from clients), without any headers.",
    },
    Metric {
        name: "tramline_connections",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "Connections open now, by door.",
    },
    Metric {
        name: "tramline_connections_refused_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Connections closed because their address had too many, by door.",
    },
    Metric {
        name: "tramline_datagrams_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Datagrams, by door and direction (up: from clients).",
    },
    Metric {
        name: "tramline_datagram_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes in datagrams, by door and direction, without IP and UDP headers.",
    },
    Metric {
        name: "tramline_early_requests_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Requests in QUIC's early data, by outcome: answered, or too early (asked again later).",
    },
    Metric {
        name: "tramline_changed_events_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Stored events that were changed on disk and not delivered.",
    },
    Metric {
        name: "tramline_dtls_connections",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "DTLS connections that are established.",
    },
    Metric {
        name: "tramline_dtls_handshakes",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "DTLS handshakes under way.",
    },
    Metric {
        name: "tramline_dtls_events_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "DTLS connections made, moved to another address and closed, by event.",
    },
    Metric {
        name: "tramline_link_exchanges_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Exchanges of linked devices, pushes included, by operation.",
    },
    Metric {
        name: "tramline_link_datagrams_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Datagrams of linked devices, by operation and direction (up: from devices).",
    },
    Metric {
        name: "tramline_link_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes in these datagrams, by operation and direction, with IP and UDP headers.",
    },
    Metric {
        name: "tramline_link_wakeups_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "First datagrams of a linked device after 10 s of silence.",
    },
    Metric {
        name: "tramline_wake_hooks_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Knocks at wake hooks, by result: knocked, refused, failed, or full (not tried).",
    },
    Metric {
        name: "tramline_peer_requests_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Requests to other servers, by result: answered, refused, in trouble (HTTP 5xx), failed, or not asked.",
    },
    Metric {
        name: "tramline_peer_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes on connections to other servers, by direction (out: from here), TLS included, IP and TCP headers not.",
    },
    Metric {
        name: "tramline_peer_inbound_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes on connections that other servers made, by direction (in: to here), TLS included, IP and TCP headers not.",
    },
    Metric {
        name: "tramline_outbox_transactions_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Transactions to other servers, by outcome: taken, refused (the whole of it), or failed.",
    },
    Metric {
        name: "tramline_outbox_events_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Events for other servers, one for each server, by outcome: taken, refused, or expired.",
    },
    Metric {
        name: "tramline_outbox_in_flight",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "Servers that are being told something now.",
    },
    Metric {
        name: "tramline_outbox_failing",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "Servers that took nothing the last time, and are tried again later.",
    },
    Metric {
        name: "tramline_key_claims_spared_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Claims of other servers that took many keys of one device and were given its fallback key, or none.",
    },
    Metric {
        name: "tramline_commits_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Commits stored, each one fsync.",
    },
    Metric {
        name: "tramline_batches_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Batches in these commits; divided by the commits, how well they are grouped.",
    },
    Metric {
        name: "tramline_failed_commits_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Commits that failed or whose outcome is unknown; their senders were told.",
    },
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::PathBuf};

    use metrics::{Key, KeyName, Label, Level, Metadata, Recorder as _};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// The names in the first argument of `counter!`, `gauge!` and `histogram!`, in all of `src`
    /// but here.
    fn counted() -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut places = vec![PathBuf::from("src")];
        while let Some(place) = places.pop() {
            if place.is_dir() {
                places.extend(fs::read_dir(&place).unwrap().map(|e| e.unwrap().path()));
                continue;
            }
            if place.ends_with("app/metrics.rs") {
                continue;
            }
            let text = fs::read_to_string(&place).unwrap();
            for called in ["counter!(", "gauge!(", "histogram!("] {
                let calls = text.split(called).skip(1).map(str::trim_start);
                let found = calls.filter_map(|call| call.strip_prefix('"')?.split('"').next());
                names.extend(found.map(ToOwned::to_owned));
            }
        }
        names
    }

    #[test]
    fn every_metric_that_is_counted_is_described_and_no_other() {
        let described = METRICS.iter().map(|metric| metric.name.to_owned());
        assert_eq!(counted(), described.collect());
    }

    #[test]
    fn everything_the_exporter_prints_has_its_help_and_type() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, describe);
        let origin = Metadata::new("here", Level::INFO, None);
        for metric in METRICS {
            let key = Key::from_parts(
                KeyName::from(metric.name),
                vec![Label::from_static_parts("door", "coap")],
            );
            match metric.kind {
                Kind::Counter => recorder.register_counter(&key, &origin).increment(1),
                Kind::Gauge => recorder.register_gauge(&key, &origin).set(1.0),
                Kind::Histogram => recorder.register_histogram(&key, &origin).record(1.0),
            }
        }

        let printed = recorder.handle().render();

        for metric in METRICS {
            let help = format!("# HELP {} {}\n", metric.name, metric.meaning);
            assert!(printed.contains(&help), "{} in {printed}", metric.name);
        }
        let types = printed.lines().filter(|line| line.starts_with("# TYPE "));
        assert_eq!(types.count(), METRICS.len(), "{printed}");
    }

    #[test]
    fn the_readme_lists_every_metric_with_type_and_unit() {
        let readme = fs::read_to_string("README.md").unwrap();
        for metric in METRICS {
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let row = format!("| `{}` | {kind} | {} |", metric.name, unit(metric.unit));
            assert!(readme.contains(&row), "README has no row {row}");
        }
    }

    fn unit(unit: Unit) -> &'static str {
        match unit {
            Unit::Count => "1",
            other => other.as_str(),
        }
    }
}
