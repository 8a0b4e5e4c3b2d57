//! The metrics that `/metrics` prints: every one by name, with what it means.
//!
//! They are counted where the things happen; here is what they are called. Tests hold this list,
//! the code and the README's table together.

use metrics::{Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// One metric, as Prometheus names and types it.
struct Metric {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    /// What it counts, and the values of its labels.
    meaning: &'static str,
    /// What is there from the start on, with 0: each is a label and all its values. None where the
    /// values are not known before: a metric by endpoint appears with its first one.
    from_start: Option<&'static [(&'static str, &'static [&'static str])]>,
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
        from_start,
    } in METRICS
    {
        match kind {
            Kind::Counter => describe_counter!(name, unit, meaning),
            Kind::Gauge => describe_gauge!(name, unit, meaning),
            Kind::Histogram => describe_histogram!(name, unit, meaning),
        }
        for labels in from_start.map(series).unwrap_or_default() {
            match kind {
                Kind::Counter => counter!(name, labels).increment(0),
                Kind::Gauge => gauge!(name, labels).set(0.0),
                Kind::Histogram => {} // without a value there is nothing to tell
            }
        }
    }
}

/// Every combination of the labels' values.
fn series(labels: &[(&'static str, &'static [&'static str])]) -> Vec<Vec<Label>> {
    let mut all = vec![Vec::new()];
    for (name, values) in labels {
        let with = |one: &Vec<Label>| {
            let with = values.iter().map(|value| {
                let label = Label::from_static_parts(name, value);
                one.iter().cloned().chain([label]).collect()
            });
            with.collect::<Vec<_>>()
        };
        all = all.iter().flat_map(with).collect();
    }
    all
}

/// The doors that have connections.
const CONNECTED: (&str, &[&str]) = ("door", &["https", "quic", "websocket"]);
/// The doors of datagrams.
const DATAGRAMS: (&str, &[&str]) = ("door", &["coap", "coaps", "quic"]);
/// Both ways between clients and the hub.
const DIRECTIONS: (&str, &[&str]) = ("direction", &["up", "down"]);
/// Both ways between servers.
const BETWEEN: (&str, &[&str]) = ("direction", &["in", "out"]);

/// All of them.
const METRICS: &[Metric] = &[
    Metric {
        name: "tramline_requests_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Requests answered, by door, endpoint and status (HTTP's numbers on every door).",
        from_start: None,
    },
    Metric {
        name: "tramline_request_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        meaning: "Time from a request's head to its answer, by door and endpoint; a Sync may wait.",
        from_start: None,
    },
    Metric {
        name: "tramline_body_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes of bodies, by door and direction (up: from clients), without any headers.",
        from_start: None,
    },
    Metric {
        name: "tramline_connections",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "Connections open now, by door.",
        from_start: Some(&[CONNECTED]),
    },
    Metric {
        name: "tramline_connections_refused_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Connections closed because their address had too many, by door.",
        from_start: Some(&[("door", &["https", "quic"])]),
    },
    Metric {
        name: "tramline_tls_failures_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "TLS handshakes at the HTTPS door that failed, by reason (the log's codes).",
        from_start: Some(&[(
            "reason",
            &[
                "TLS_PLAIN_HTTP",
                "TLS_NOT_TLS",
                "TLS_VERSION",
                "TLS_CIPHERS",
                "TLS_SNI",
                "TLS_CERT_REFUSED",
                "TLS_NO_CERT",
                "TLS_ALPN",
                "TLS_ALERT",
                "TLS_GONE",
                "TLS_SILENT",
                "TLS_LATE",
                "TLS_BROKEN",
            ],
        )]),
    },
    Metric {
        name: "tramline_datagrams_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Datagrams, by door and direction (up: from clients).",
        from_start: Some(&[DATAGRAMS, DIRECTIONS]),
    },
    Metric {
        name: "tramline_datagram_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes in datagrams, by door and direction, without IP and UDP headers.",
        from_start: Some(&[DATAGRAMS, DIRECTIONS]),
    },
    Metric {
        name: "tramline_early_requests_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Requests in QUIC's early data, by outcome: answered, or too early (asked again later).",
        from_start: Some(&[("outcome", &["answered", "too early"])]),
    },
    Metric {
        name: "tramline_changed_events_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Stored events that were changed on disk and not delivered.",
        from_start: Some(&[]),
    },
    Metric {
        name: "tramline_dtls_connections",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "DTLS connections that are established.",
        from_start: Some(&[]),
    },
    Metric {
        name: "tramline_dtls_handshakes",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "DTLS handshakes under way.",
        from_start: Some(&[]),
    },
    Metric {
        name: "tramline_dtls_events_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "DTLS connections made, moved to another address and closed, by event.",
        from_start: Some(&[(
            "event",
            &[
                "connected",
                "moved",
                "closed_by_peer",
                "closed",
                "replaced",
                "idle",
                "evicted",
                "failed",
            ],
        )]),
    },
    Metric {
        name: "tramline_link_exchanges_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Exchanges of linked devices, pushes included, by operation.",
        from_start: None,
    },
    Metric {
        name: "tramline_link_datagrams_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Datagrams of linked devices, by operation and direction (up: from devices).",
        from_start: None,
    },
    Metric {
        name: "tramline_link_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes in these datagrams, by operation and direction, with IP and UDP headers.",
        from_start: None,
    },
    Metric {
        name: "tramline_link_wakeups_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "First datagrams of a linked device after 10 s of silence.",
        from_start: Some(&[]),
    },
    Metric {
        name: "tramline_wake_hooks_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Knocks at wake hooks, by result: knocked, refused, failed, or full (not tried).",
        from_start: Some(&[("result", &["knocked", "refused", "failed", "full"])]),
    },
    Metric {
        name: "tramline_peer_requests_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Requests to other servers, by result: answered, refused, in trouble (HTTP 5xx), failed, or not asked.",
        from_start: Some(&[(
            "result",
            &["answered", "refused", "in trouble", "failed", "not asked"],
        )]),
    },
    Metric {
        name: "tramline_peer_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes on connections to other servers, by direction (out: from here), TLS included, IP and TCP headers not.",
        from_start: Some(&[BETWEEN]),
    },
    Metric {
        name: "tramline_peer_inbound_bytes_total",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        meaning: "Bytes on connections that other servers made, by direction (in: to here), TLS included, IP and TCP headers not.",
        from_start: Some(&[BETWEEN]),
    },
    Metric {
        name: "tramline_outbox_transactions_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Transactions to other servers, by outcome: taken, refused (the whole of it), or failed.",
        from_start: Some(&[("outcome", &["taken", "refused", "failed"])]),
    },
    Metric {
        name: "tramline_outbox_events_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Events for other servers, one for each server, by outcome: taken, refused, or expired.",
        from_start: Some(&[("outcome", &["taken", "refused", "expired"])]),
    },
    Metric {
        name: "tramline_outbox_in_flight",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "Servers that are being told something now.",
        from_start: Some(&[]),
    },
    Metric {
        name: "tramline_outbox_failing",
        kind: Kind::Gauge,
        unit: Unit::Count,
        meaning: "Servers that took nothing the last time, and are tried again later.",
        from_start: Some(&[]),
    },
    Metric {
        name: "tramline_key_claims_spared_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Claims of other servers that took many keys of one device and were given its fallback key, or none.",
        from_start: Some(&[]),
    },
    Metric {
        name: "tramline_policy_requests_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Events that other servers asked this hub as a policy server about, by outcome: vouched, refused (by its rules), or not judged (not its room, or no event).",
        from_start: Some(&[("outcome", &["vouched", "refused", "not judged"])]),
    },
    Metric {
        name: "tramline_commits_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Commits stored, each one fsync.",
        from_start: Some(&[]),
    },
    Metric {
        name: "tramline_batches_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Batches in these commits; divided by the commits, how well they are grouped.",
        from_start: Some(&[]),
    },
    Metric {
        name: "tramline_failed_commits_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        meaning: "Commits that failed or whose outcome is unknown; their senders were told.",
        from_start: Some(&[]),
    },
];

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    use metrics::{Key, KeyName, Level, Metadata, Recorder as _};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// Where something is counted.
    struct Call {
        file: PathBuf,
        name: String,
        /// Each label, and the expression of its value.
        labels: Vec<(String, String)>,
    }

    /// Every `counter!`, `gauge!` and `histogram!` with a name, in all of `src` but here.
    fn calls() -> Vec<Call> {
        let mut all = Vec::new();
        let mut places = vec![PathBuf::from("src")];
        while let Some(file) = places.pop() {
            if file.is_dir() {
                places.extend(fs::read_dir(&file).unwrap().map(|e| e.unwrap().path()));
                continue;
            }
            if file.ends_with("app/metrics.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            for called in ["counter!(", "gauge!(", "histogram!("] {
                let calls = text.split(called).skip(1).map(str::trim_start);
                for call in calls.filter(|call| call.starts_with('"')) {
                    let mut arguments = call.split(')').next().unwrap().split(',').map(str::trim);
                    let name = arguments.next().unwrap().trim_matches('"').to_owned();
                    let labels = arguments.filter_map(|label| label.split_once(" => "));
                    let owned = |(label, value): (&str, &str)| {
                        (label.trim_matches('"').to_owned(), value.to_owned())
                    };
                    let (file, labels) = (file.clone(), labels.map(owned).collect());
                    all.push(Call { file, name, labels });
                }
            }
        }
        all
    }

    fn counted() -> BTreeSet<String> {
        calls().into_iter().map(|call| call.name).collect()
    }

    /// The code of a file and of the modules below it, tests left out.
    fn code(file: &Path) -> String {
        let whole = fs::read_to_string(file).unwrap();
        let own = whole.split("\nmod tests {").next().unwrap().to_owned();
        let below = fs::read_dir(file.with_extension("")).into_iter().flatten();
        let below = below.map(|entry| entry.unwrap().path());
        let below = below.filter(|path| path.is_file() && !path.ends_with("tests.rs"));
        below.fold(own, |all, path| all + &code(&path))
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
    fn what_is_known_before_it_happens_is_there_with_nothing_from_the_start_on() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, describe);

        let printed = recorder.handle().render();

        for line in [
            "tramline_outbox_failing 0",
            "tramline_changed_events_total 0",
            "tramline_connections{door=\"quic\"} 0",
            "tramline_datagrams_total{door=\"coaps\",direction=\"up\"} 0",
            "tramline_policy_requests_total{outcome=\"not judged\"} 0",
        ] {
            assert!(
                printed.lines().any(|one| one == line),
                "{line} is not in {printed}"
            );
        }
        for metric in METRICS.iter().filter(|metric| metric.from_start.is_some()) {
            assert!(
                printed.contains(&format!("\n{}", metric.name)),
                "{}",
                metric.name
            );
        }
    }

    /// A value that stands in the call is compared; of one that is a variable there, it is only seen
    /// that its file has such a text: a value that moved to another metric of that file is not found.
    #[test]
    fn what_is_there_from_the_start_has_labels_that_are_counted_under() {
        let calls = calls();
        for metric in METRICS {
            let Some(labels) = metric.from_start else {
                continue;
            };
            let calls: Vec<_> = calls
                .iter()
                .filter(|call| call.name == metric.name)
                .collect();
            for call in &calls {
                let counted = call.labels.iter().map(|(label, _)| label.as_str());
                let listed = labels.iter().map(|(label, _)| *label);
                assert!(counted.eq(listed), "{} in {:?}", metric.name, call.file);
            }
            for (at, (label, values)) in labels.iter().enumerate() {
                let told = calls
                    .iter()
                    .map(|call| (&call.file, call.labels[at].1.as_str()));
                let (texts, variables): (Vec<_>, Vec<_>) =
                    told.partition(|(_, value)| value.starts_with('"'));
                let texts: BTreeSet<_> = texts
                    .iter()
                    .map(|(_, text)| text.trim_matches('"'))
                    .collect();
                let mut missing: BTreeSet<_> = values.iter().copied().collect();
                let unlisted = texts.iter().find(|text| !missing.remove(**text));
                assert_eq!(unlisted, None, "{} {label}", metric.name);
                for (file, variable) in variables {
                    let code = match variable {
                        // the two doors of one driver have their names from where all have theirs
                        "door" => code(Path::new("src/api/caller.rs")),
                        _ => code(file),
                    };
                    missing.retain(|value| !code.contains(&format!("\"{value}\"")));
                }
                assert!(missing.is_empty(), "{} {label}: {missing:?}", metric.name);
            }
        }
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
