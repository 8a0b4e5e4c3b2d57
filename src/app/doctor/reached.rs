//! A server as the network shows it: its name, its certificate, its keys, its clock, and whether it
//! believes us.

use std::{sync::Arc, time::Duration};

use ruma::{OwnedServerName, ServerName, signatures::Ed25519KeyPair};
use rustls::CertificateError;

use super::{Finding, Level};
use crate::{
    app::{
        clock::{Stopwatch, SystemClock},
        config::Config,
        failure::Failure,
        federation::{self, Keeper},
        keys::SigningKey,
    },
    base::{Clock as _, Timestamp},
    edge::matrix::{
        Federation, Lists,
        keys::Pinned,
        outgoing::{Ask, AskError, ConnectError, Step, Told},
    },
    wire::matrix::{ServerKey, ServerKeys},
};

/// The ways out that are used for looking.
pub(super) struct Reach {
    /// Nobody that others know: it may ask this hub, too, and signs nothing.
    pub(super) stranger: Arc<Federation>,
    /// This hub; none while it does not run, for others could not fetch its key.
    ours: Option<Arc<Federation>>,
    lists: Arc<Lists>,
    pinned: Pinned,
    /// By whom certificates are believed, in words.
    believed: String,
}

/// What came of looking for a server.
pub(super) struct Reached {
    pub(super) findings: Vec<Finding>,
    /// Its keys, if they could be read.
    pub(super) keys: Option<ServerKeys>,
    /// Whether it was reached at all.
    pub(super) answers: bool,
}

/// Why what comes after a server's answer was not looked at.
pub(super) const UNREACHED: &str = "the server was not reached";

impl Reach {
    pub(super) fn new(config: &Config, runs: bool) -> Result<Self, Failure> {
        let lists = Lists::new(config.federation.lists());
        // what the lists say is a finding of its own, and keeps nothing from being looked at
        let mut open = config.clone();
        open.federation.allow = None;
        open.federation.deny = None;
        let wrong = |error: &dyn std::fmt::Display| Failure::failed("DOCTOR", error.to_string());
        let name = OwnedServerName::try_from("doctor.invalid").map_err(|error| wrong(&error))?;
        let made = Ed25519KeyPair::generate();
        let key = ServerKey::from_der(name, &made, "doctor").map_err(|error| wrong(&error))?;
        let way = |key| {
            let opened = federation::open(&open, &Arc::new(key), Arc::new(Keeper::default()))?;
            opened.ok_or_else(|| wrong(&"federation is off"))
        };
        let ours = match SigningKey::read(config.signing_key_file.as_ref()) {
            Ok(SigningKey { pair }) if runs => {
                Some(way(ServerKey::new(config.server_name.clone(), pair))?)
            }
            _ => None,
        };
        Ok(Self {
            believed: federation::authorities(&config.federation)?.to_string(),
            stranger: way(key)?,
            ours,
            lists,
            pinned: config
                .federation
                .pinned_keys
                .as_ref()
                .map(|pinned| pinned.0.clone())
                .unwrap_or_default(),
        })
    }

    /// All that is to be said of another server.
    pub(super) async fn look_at(&self, server: &ServerName) -> Vec<Finding> {
        let mut findings = vec![self.listed(server)];
        let Reached {
            findings: found,
            keys,
            answers,
        } = self.reach(server, "PEER").await;
        findings.extend(found);
        match &keys {
            Some(keys) => findings.extend(self.pinned(server, keys)),
            None if self.pinned.contains_key(server) => {
                findings.push(Finding::skipped(
                    "PEER_PINNED",
                    server,
                    "its keys could not be had",
                ));
            }
            None => {}
        }
        findings.push(if answers {
            self.believes_us(server).await
        } else {
            Finding::skipped("PEER_BELIEVES_US", server, UNREACHED)
        });
        findings
    }

    /// Whether it signs with a key that the operator has written down for it, if there is one.
    fn pinned(&self, server: &ServerName, keys: &ServerKeys) -> Option<Finding> {
        let pinned = self.pinned.get(server)?;
        let mut current = keys.current.iter();
        if current.any(|(id, key)| pinned.get(id) == Some(key)) {
            let cause = "it publishes a key of `federation.pinned_keys`".to_owned();
            return Some(Finding::ok("PEER_PINNED", server, cause));
        }
        let cause =
            "it publishes none of the keys that `federation.pinned_keys` has for it".to_owned();
        let finding = Finding::new("PEER_PINNED", Level::Fail, server, cause);
        Some(finding.mended_by("ask its operator which key is right, write that into `federation.pinned_keys` and start the hub again"))
    }

    fn listed(&self, server: &ServerName) -> Finding {
        match self.lists.check(server) {
            Ok(()) => Finding::ok(
                "PEER_LISTS",
                server,
                format!("the lists ({}) let it in", self.lists.version().hash()),
            ),
            Err(barred) => {
                let why = barred.why();
                let code = why.code.unwrap_or("PEER_LISTS");
                let finding = Finding::new(code, Level::Warn, server, barred.rule.to_string());
                finding.mended_by(
                    "edit `federation.deny` and `federation.allow`, then `kill -HUP` the hub",
                )
            }
        }
    }

    /// Finds a server, connects to it and takes its keys.
    pub(super) async fn reach(&self, server: &ServerName, prefix: &'static str) -> Reached {
        let mut findings = Vec::new();
        if let Ok(steps) = self.stranger.outgoing.steps(server).await {
            findings.extend(steps.iter().map(|step| step_taken(server, prefix, step)));
        }
        match self.stranger.outgoing.find(server).await {
            Ok(route) => {
                let places = route
                    .places
                    .iter()
                    .map(|(host, port)| format!("{host}:{port}"));
                let places = places.collect::<Vec<_>>().join(", ");
                let host = &route.certificate_for;
                let cause = format!("it is at {places}, with a certificate for {host}");
                findings.push(Finding::ok(format!("{prefix}_NAME"), server, cause));
            }
            Err(error) => return self.not_reached(findings, server, prefix, &error),
        }
        let ask = Ask::get("/_matrix/key/v2/server")
            .unsigned()
            .within(PATIENCE);
        let clock = Stopwatch::start();
        let told = match self.stranger.outgoing.ask(server, &ask).await {
            Ok(told) => told,
            Err(error) => return self.not_reached(findings, server, prefix, &error),
        };
        let took = clock.elapsed().as_millis();
        let cause = format!("its certificate is good; it answered in {took} ms");
        findings.push(Finding::ok(format!("{prefix}_TLS"), server, cause));
        let now = SystemClock::new().now();
        findings.extend(skew(server, prefix, &told, now));
        let read = read_keys(&told, server);
        findings.push(keys(server, prefix, &read, now));
        Reached {
            findings,
            keys: read.ok(),
            answers: true,
        }
    }

    /// What kept a server from being reached, and what is not looked at because of that.
    fn not_reached(
        &self,
        mut findings: Vec<Finding>,
        server: &ServerName,
        prefix: &str,
        error: &AskError,
    ) -> Reached {
        let mut found = unreached(server, prefix, error);
        let is_tls = matches!(error, AskError::Connect(ConnectError::Tls { .. }));
        if is_tls {
            found.cause = format!("{}; believed are {}", found.cause, self.believed);
        }
        findings.push(found);
        let left = ["TLS", "CLOCK", "KEYS"]
            .into_iter()
            .skip(usize::from(is_tls));
        let left = left.map(|what| Finding::skipped(format!("{prefix}_{what}"), server, UNREACHED));
        findings.extend(left);
        Reached {
            findings,
            keys: None,
            answers: false,
        }
    }

    /// A signed question whose answer does not matter: only whether the signature is believed.
    async fn believes_us(&self, server: &ServerName) -> Finding {
        let code = "PEER_BELIEVES_US";
        let Some(ours) = &self.ours else {
            let cause = "not asked: it could not fetch the keys of a hub that does not run";
            let finding = Finding::new(code, Level::Skip, server, cause.to_owned());
            return finding.mended_by(super::SERVE);
        };
        let uri = format!(
            "/_matrix/federation/v1/query/profile?user_id={}",
            encoded(&format!("@tramline-doctor:{server}"))
        );
        let told = match ours
            .outgoing
            .ask(server, &Ask::get(uri).within(PATIENCE))
            .await
        {
            Ok(told) => told,
            Err(error) => return unreached(server, "PEER", &error),
        };
        let said = told.success().err().map(|error| error.to_string());
        let said = said.unwrap_or_default();
        match told.status {
            200 | 404 => Finding::ok(code, server, "it believes this hub's signature".to_owned()),
            401 => Finding::new(code, Level::Fail, server, said).mended_by(
                "see that every OUR_ finding is ok from where that server is: it has to fetch this hub's keys by its name",
            ),
            _ => Finding::new(code, Level::Warn, server, said)
                .mended_by("ask its operator whether its lists name this hub"),
        }
    }
}

/// A step from a name to a place, and what it came to. One that came to nothing is not wrong by itself:
/// the next one is taken.
fn step_taken(server: &ServerName, prefix: &str, step: &Step) -> Finding {
    match step {
        Step::WellKnown {
            host,
            delegated,
            why,
            is_said,
        } => {
            let code = format!("{prefix}_DELEGATION");
            let url = format!("https://{host}/.well-known/matrix/server");
            match delegated {
                Some(place) => {
                    let cause = format!("{url} delegates to {place}");
                    Finding::ok(code, server, cause)
                }
                None if *is_said => {
                    let cause = format!("{url} delegates to nobody ({why}): SRV records are next");
                    Finding::ok(code, server, cause)
                }
                None => {
                    let cause = format!("{url} is out of reach ({why}): SRV records are next");
                    let finding = Finding::new(code, Level::Warn, server, cause);
                    finding.mended_by(format!("curl -v {url}"))
                }
            }
        }
        Step::Records { name, found } => {
            let code = format!("{prefix}_SRV");
            match found {
                Ok(0) => {
                    let next = match name.strip_prefix("_matrix-fed._tcp.") {
                        Some(host) => format!("_matrix._tcp.{host} is next"),
                        None => "port 8448 of the name is next".to_owned(),
                    };
                    Finding::ok(code, server, format!("{name} has no SRV records: {next}"))
                }
                Ok(count) => {
                    let cause = format!("{name} has {count} SRV records, which are gone by");
                    Finding::ok(code, server, cause)
                }
                Err(why) => {
                    let cause = format!("{name} could not be looked up ({why}): taken for none");
                    let finding = Finding::new(code, Level::Warn, server, cause);
                    finding.mended_by(format!("dig SRV {name}"))
                }
            }
        }
    }
}

fn read_keys(told: &Told, server: &ServerName) -> Result<ServerKeys, String> {
    let body = told.success().map_err(|error| error.to_string())?;
    ServerKeys::read(body, server).map_err(|error| error.to_string())
}

fn keys(
    server: &ServerName,
    prefix: &str,
    read: &Result<ServerKeys, String>,
    now: Timestamp,
) -> Finding {
    let code = format!("{prefix}_KEYS");
    let mend = format!("look at https://{server}/_matrix/key/v2/server; its operator mends it");
    match read {
        Ok(keys) if keys.valid_until < now => {
            let until = keys.valid_until.rfc3339();
            let cause = format!("its keys are valid until {until}, which is over");
            Finding::new(code, Level::Fail, server, cause).mended_by(mend)
        }
        Ok(keys) => {
            let ids: Vec<_> = keys.current.keys().map(ToString::to_string).collect();
            let until = keys.valid_until.rfc3339();
            let cause = format!("it signs with {}, valid until {until}", ids.join(", "));
            Finding::ok(code, server, cause)
        }
        Err(wrong) => Finding::new(code, Level::Fail, server, wrong.clone()).mended_by(mend),
    }
}

/// By its Date header, which is cut to the second.
fn skew(server: &ServerName, prefix: &str, told: &Told, now: Timestamp) -> Option<Finding> {
    let theirs = told.date?;
    let code = format!("{prefix}_CLOCK");
    let apart = theirs.since(now).max(now.since(theirs));
    let cause = format!("its clock is {} s from this machine's", apart.as_secs());
    let level = match apart {
        _ if apart <= SKEW_OK => return Some(Finding::ok(code, server, cause)),
        _ if apart <= SKEW_MAX => Level::Warn,
        _ => Level::Fail,
    };
    let mend = "set the clock that is wrong: `timedatectl set-ntp true`, `chronyc tracking`";
    Some(Finding::new(code, level, server, cause).mended_by(mend))
}

/// What kept a server from being asked, and what mends it.
fn unreached(server: &ServerName, prefix: &str, error: &AskError) -> Finding {
    let (kind, mend) = match error {
        AskError::Unwelcome { .. } => (
            "LISTS",
            "edit `federation.deny` and `federation.allow`, then `kill -HUP` the hub".to_owned(),
        ),
        AskError::Ourselves(_) => ("NAME", "name another server".to_owned()),
        AskError::Name(_) => (
            "NAME",
            "write the name as it stands behind the colon of user ids".to_owned(),
        ),
        AskError::Nowhere { records } => ("NAME", format!("dig SRV {records}")),
        AskError::Connect(error) => match error {
            ConnectError::NoAddress { host, .. } => ("DNS", format!("getent hosts {host}")),
            ConnectError::Private { .. } => (
                "PRIVATE_ADDRESS",
                "set `federation.allow_private_addresses = true`, if it is meant to be there"
                    .to_owned(),
            ),
            ConnectError::Unreached { to, .. } => {
                let (host, port) = to.rsplit_once(':').unwrap_or((to, "8448"));
                let kind = if port == "8448" {
                    "PORT_8448"
                } else {
                    "UNREACHED"
                };
                (kind, format!("nc -vz {host} {port}"))
            }
            ConnectError::Proxy { .. } => ("PROXY", "mend `federation.proxy`".to_owned()),
            ConnectError::Tls { to, name, source } => {
                let look = format!(
                    "openssl s_client -connect {to} -servername {name} -showcerts </dev/null"
                );
                (
                    "TLS",
                    format!("{look}; {}", believed_when(source, name, prefix)),
                )
            }
        },
        AskError::Exchange(_) | AskError::Slow { .. } => (
            "SILENT",
            format!("curl -v https://{server}/_matrix/key/v2/server"),
        ),
        _ => (
            "ANSWER",
            format!("curl -v https://{server}/_matrix/key/v2/server"),
        ),
    };
    let code = format!("{prefix}_{kind}");
    Finding::new(code, Level::Fail, server, error.to_string()).mended_by(mend)
}

/// What makes a certificate believed that is not.
fn believed_when(source: &std::io::Error, name: &str, prefix: &str) -> String {
    let error = source.get_ref();
    let error = error.and_then(|error| error.downcast_ref::<rustls::Error>());
    let wanted = match error {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => "one that counts now",
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "one with this name in it",
        _ => {
            return "where its authority is one of your own, name that in `federation.ca_file` and start the \
                    hub again"
                .to_owned();
        }
    };
    if prefix == "OUR" {
        return format!(
            "put {wanted} for {name} into `https.cert_file` and `https.key_file`, then `kill -HUP` the hub"
        );
    }
    format!("its operator has to get {wanted} for {name}: nothing here mends it")
}

/// As it stands in a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Whole days of a span.
pub(super) const fn days(span: Duration) -> u64 {
    span.as_secs() / (24 * 60 * 60)
}

/// From finding a server to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Clocks that are so far apart are as good as equal.
const SKEW_OK: Duration = Duration::from_secs(10);

/// Beyond this, keys and invites are taken for outdated, or for the future's.
const SKEW_MAX: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use std::io;

    use ruma::server_name as name;

    use super::*;
    use crate::wire::matrix::Place;

    #[test]
    fn what_keeps_a_server_from_being_asked_has_a_code_and_a_command() {
        let server = name!("a.example");
        let tls = ConnectError::Tls {
            to: "192.0.2.1:8448".to_owned(),
            name: "a.example".to_owned(),
            source: io::Error::other("unknown issuer"),
        };
        let found = unreached(server, "PEER", &tls.into());

        assert_eq!(
            (found.code.as_str(), found.level),
            ("PEER_TLS", Level::Fail)
        );
        assert!(found.cause.contains("unknown issuer"), "{found:?}");
        let mend = found.mend.unwrap_or_default();
        assert!(mend.contains("openssl s_client -connect 192.0.2.1:8448"));
        assert!(mend.contains("federation.ca_file"));
    }

    #[test]
    fn an_authority_is_not_to_be_named_for_a_certificate_that_is_over_or_another_names() {
        let server = name!("a.example");
        for (wrong, said) in [
            (CertificateError::Expired, "counts now"),
            (CertificateError::NotValidForName, "this name in it"),
        ] {
            for (prefix, who) in [("PEER", "its operator"), ("OUR", "`https.cert_file`")] {
                let wrong = rustls::Error::InvalidCertificate(wrong.clone());
                let tls = ConnectError::Tls {
                    to: "192.0.2.1:8448".to_owned(),
                    name: "a.example".to_owned(),
                    source: io::Error::other(wrong),
                };

                let mend = unreached(server, prefix, &tls.into()).mend.unwrap();

                assert!(mend.contains(said) && mend.contains(who), "{mend}");
                assert!(!mend.contains("ca_file"), "{mend}");
            }
        }
    }

    #[test]
    fn each_step_to_a_server_says_what_it_came_to_and_what_is_next() {
        let server = name!("a.example");
        let step = |delegated: Option<&str>, is_said| Step::WellKnown {
            host: "a.example".to_owned(),
            delegated: delegated.map(|place| Place::parse(place).unwrap()),
            why: "HTTP 404".to_owned(),
            is_said,
        };
        let records = |name: &str, found: Result<usize, &str>| Step::Records {
            name: name.to_owned(),
            found: found.map_err(str::to_owned),
        };
        for (step, code, level, said) in [
            (
                step(Some("b.example:443"), true),
                "PEER_DELEGATION",
                Level::Ok,
                "to b.example:443",
            ),
            (
                step(None, true),
                "PEER_DELEGATION",
                Level::Ok,
                "SRV records are next",
            ),
            (
                step(None, false),
                "PEER_DELEGATION",
                Level::Warn,
                "out of reach",
            ),
            (
                records("_matrix-fed._tcp.a", Ok(0)),
                "PEER_SRV",
                Level::Ok,
                "_matrix._tcp.a is next",
            ),
            (
                records("_matrix._tcp.a", Ok(0)),
                "PEER_SRV",
                Level::Ok,
                "port 8448",
            ),
            (
                records("_matrix._tcp.a", Ok(2)),
                "PEER_SRV",
                Level::Ok,
                "2 SRV records",
            ),
            (
                records("_matrix._tcp.a", Err("silent")),
                "PEER_SRV",
                Level::Warn,
                "silent",
            ),
        ] {
            let found = step_taken(server, "PEER", &step);
            assert_eq!(
                (found.code.as_str(), found.level),
                (code, level),
                "{found:?}"
            );
            assert!(found.cause.contains(said), "{found:?}");
            assert_eq!(found.mend.is_some(), level == Level::Warn, "{found:?}");
        }
    }

    #[test]
    fn a_clock_is_good_watched_or_wrong() {
        let told = |ms| Told {
            status: 200,
            body: Vec::new().into(),
            retry_after: None,
            date: Some(Timestamp(ms)),
            request_id: None,
        };
        let now = Timestamp(10_000_000);
        for (ms, level) in [
            (9_995_000, Level::Ok),
            (10_060_000, Level::Warn),
            (9_000_000, Level::Fail),
        ] {
            let found = skew(name!("a.example"), "PEER", &told(ms), now).unwrap();
            assert_eq!(found.level, level, "{found:?}");
        }
    }
}
