//! TLS handshakes at this door that fail: the operator of a server that cannot reach this hub asks why,
//! and only here it is known. The log has one line for an address, a reason and a minute at most, and some
//! that nobody can use up who only sends what is no TLS.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use metrics::counter;
use rustls::{AlertDescription, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use super::traffic::Traffic;

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Failed {
    PlainHttp,
    NotTls,
    Version,
    Ciphers,
    ServerName,
    Disbelieved,
    NoCertificate,
    Protocol,
    Alert,
    Gone,
    Silent,
    Late,
    Broken,
}

impl Failed {
    /// What lies behind an error, with the first bytes that came.
    pub(super) fn of(error: &io::Error, traffic: &Traffic) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        let Some(cause) = cause else {
            return match traffic.first().as_slice() {
                [] => Self::Silent,
                _ => Self::Gone,
            };
        };
        match cause {
            rustls::Error::InvalidMessage(InvalidMessage::InvalidServerName)
            | rustls::Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => {
                Self::ServerName
            }
            rustls::Error::InvalidMessage(_) if is_http(&traffic.first()) => Self::PlainHttp,
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            rustls::Error::PeerIncompatible(why) => of_incompatible(why),
            rustls::Error::AlertReceived(alert) => of_alert(*alert),
            rustls::Error::NoApplicationProtocol => Self::Protocol,
            // the one error of ours: there is no certificate to show
            rustls::Error::General(_) => Self::NoCertificate,
            _ => Self::Broken,
        }
    }

    /// The stable code.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::PlainHttp => "TLS_PLAIN_HTTP",
            Self::NotTls => "TLS_NOT_TLS",
            Self::Version => "TLS_VERSION",
            Self::Ciphers => "TLS_CIPHERS",
            Self::ServerName => "TLS_SNI",
            Self::Disbelieved => "TLS_CERT_REFUSED",
            Self::NoCertificate => "TLS_NO_CERT",
            Self::Protocol => "TLS_ALPN",
            Self::Alert => "TLS_ALERT",
            Self::Gone => "TLS_GONE",
            Self::Silent => "TLS_SILENT",
            Self::Late => "TLS_LATE",
            Self::Broken => "TLS_BROKEN",
        }
    }

    /// What it means.
    const fn meaning(self) -> &'static str {
        match self {
            Self::PlainHttp => {
                "it speaks HTTP without TLS, and this port has TLS only: it must use https://, or the proxy \
                 in front of this hub must"
            }
            Self::NotTls => "what it sent first is no TLS: something else was meant for this port",
            Self::Version => {
                "it speaks no version of TLS that this hub speaks, which are 1.2 and 1.3: it must be updated"
            }
            Self::Ciphers => {
                "it offers no cipher suite, key exchange or signature that this hub speaks: it must be updated"
            }
            Self::ServerName => "the server name that it asks for (SNI) is no host's name",
            Self::Disbelieved => {
                "it does not believe this hub's certificate: it is of an authority that it does not know, \
                 expired, or for another name (`tramline doctor` looks at it)"
            }
            Self::NoCertificate => "this hub has no certificate to show (`tramline doctor` looks)",
            Self::Protocol => "it speaks neither HTTP/1.1 nor HTTP/2 (ALPN)",
            Self::Alert => "it broke the handshake off with an alert",
            Self::Gone => "it hung up in the middle of the handshake",
            Self::Silent => "it connected, sent nothing and hung up",
            Self::Late => "its handshake took too long",
            Self::Broken => "what it sent breaks the rules of TLS",
        }
    }

    /// Whether somebody wanted to speak with this hub and most likely never can before something is
    /// changed, here or there.
    const fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::Version | Self::Ciphers | Self::Disbelieved | Self::NoCertificate
        )
    }
}

const fn of_incompatible(why: &PeerIncompatible) -> Failed {
    match why {
        PeerIncompatible::SupportedVersionsExtensionRequired
        // which TLS 1.2 brought: it is looked for before the version is
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => Failed::Version,
        _ => Failed::Ciphers,
    }
}

const fn of_alert(alert: AlertDescription) -> Failed {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        // the certificate's signature is not of the authority that the other side knows by this name
        | AlertDescription::DecryptError
        | AlertDescription::UnrecognisedName
        | AlertDescription::BadCertificateStatusResponse => Failed::Disbelieved,
        AlertDescription::ProtocolVersion => Failed::Version,
        AlertDescription::InsufficientSecurity => Failed::Ciphers,
        AlertDescription::NoApplicationProtocol => Failed::Protocol,
        _ => Failed::Alert,
    }
}

/// Whether a connection began with a request, as far as it came.
fn is_http(first: &[u8]) -> bool {
    let methods: [&[u8]; 9] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"CONNECT ",
        b"PRI * ",
    ];
    let begins = |method: &&[u8]| method.starts_with(first) || first.starts_with(method);
    !first.is_empty() && methods.iter().any(begins)
}

/// Whose handshakes failed of late.
#[derive(Default)]
pub(super) struct Handshakes(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// An address that fails in several ways hides none of them.
    told: HashMap<(IpAddr, Failed), Told>,
    /// Failures for which there was no room.
    untold: u64,
}

struct Told {
    at: Instant,
    /// Failures since.
    more: u64,
}

/// A line that is due.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// Failures of this address for this reason since its line before, this one among them.
    times: u64,
    /// Failures of other addresses, or for other reasons, that have no line.
    untold: u64,
}

impl Handshakes {
    /// A handshake failed: it is counted, and told unless the address has had its line for that.
    pub(super) fn failed(&self, peer: SocketAddr, failed: Failed, detail: &str, now: Instant) {
        let reason = failed.code();
        counter!("tramline_tls_failures_total", "reason" => reason).increment(1);
        // what checks whether the port is open does just that
        let line = (failed != Failed::Silent).then(|| self.line(peer.ip(), failed, now));
        let Some(Line { times, untold }) = line.flatten() else {
            tracing::debug!(%peer, code = reason, detail, "a TLS handshake failed");
            return;
        };
        let meaning = failed.meaning();
        if failed.is_lasting() {
            tracing::warn!(
                %peer, code = reason, times, untold, detail, "a TLS handshake failed: {meaning}"
            );
        } else {
            tracing::info!(
                %peer, code = reason, times, untold, detail, "a TLS handshake failed: {meaning}"
            );
        }
    }

    fn line(&self, address: IpAddr, failed: Failed, now: Instant) -> Option<Line> {
        let key = (of_one_owner(address), failed);
        let max = if failed.is_lasting() {
            LINES_MAX
        } else {
            LINES_MAX - LASTING_MIN
        };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |told: &Told| now.saturating_duration_since(told.at) < LINE_EVERY;
        let mut more = 0;
        if let Some(told) = seen.told.get_mut(&key) {
            if is_recent(told) {
                told.more += 1;
                return None;
            }
            more = told.more;
        } else if seen.told.len() >= max {
            seen.told.retain(|_, told| is_recent(told));
            if seen.told.len() >= max {
                seen.untold += 1;
                return None;
            }
        }
        seen.told.insert(key, Told { at: now, more: 0 });
        Some(Line {
            times: more + 1,
            untold: std::mem::take(&mut seen.untold),
        })
    }
}

/// The address, or of version 6 the first half of it: whoever has one has all that begin so.
fn of_one_owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(long) => IpAddr::V6(Ipv6Addr::from_bits(long.to_bits() >> 64 << 64)),
        short @ IpAddr::V4(_) => short,
    }
}

/// How often an address has a line for the same reason at most.
const LINE_EVERY: Duration = Duration::from_mins(1);

/// The most lines that there are in a minute.
const LINES_MAX: usize = 256;

/// So many of these lines are only for faults that somebody has to mend: any scanner causes the others.
const LASTING_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn an_address_has_one_line_a_minute_which_counts_those_between() {
        let handshakes = Handshakes::default();
        let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let start = start();
        let first = Some(Line {
            times: 1,
            untold: 0,
        });
        assert_eq!(handshakes.line(here, Failed::Disbelieved, start), first);
        for second in 1..60 {
            let now = start + Duration::from_secs(second);
            assert_eq!(handshakes.line(here, Failed::Disbelieved, now), None);
        }
        assert_eq!(handshakes.line(there, Failed::Disbelieved, start), first);
        let minute = start + LINE_EVERY;
        let line = handshakes.line(here, Failed::Disbelieved, minute);
        assert_eq!(line.unwrap().times, 60);
    }

    #[test]
    fn who_fails_in_several_ways_has_a_line_for_each() {
        let handshakes = Handshakes::default();
        let (here, start) = ([192, 0, 2, 1].into(), start());
        for failed in [Failed::PlainHttp, Failed::Disbelieved, Failed::Version] {
            let line = handshakes.line(here, failed, start);
            assert_eq!(line.map(|line| line.times), Some(1));
            assert_eq!(handshakes.line(here, failed, start), None);
        }
    }

    #[test]
    fn addresses_beyond_the_ceiling_are_counted_and_told_later() {
        let handshakes = Handshakes::default();
        let start = start();
        let address = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        for number in 0..LINES_MAX {
            assert!(
                handshakes
                    .line(address(number), Failed::Disbelieved, start)
                    .is_some()
            );
        }
        assert_eq!(
            handshakes.line(address(LINES_MAX), Failed::Disbelieved, start),
            None
        );
        assert_eq!(
            handshakes.line(address(LINES_MAX + 1), Failed::Disbelieved, start),
            None
        );
        let line = handshakes.line(address(LINES_MAX), Failed::Disbelieved, start + LINE_EVERY);
        assert_eq!(
            line,
            Some(Line {
                times: 1,
                untold: 2
            })
        );
        assert_eq!(handshakes.0.lock().unwrap().told.len(), 1);
    }

    #[test]
    fn scanners_leave_lines_for_faults_that_somebody_has_to_mend() {
        let handshakes = Handshakes::default();
        let start = start();
        let address = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());

        let told = (0..1000).filter(|number| {
            handshakes
                .line(address(*number), Failed::PlainHttp, start)
                .is_some()
        });
        assert_eq!(told.count(), LINES_MAX - LASTING_MIN);
        let lasting = handshakes.line(address(2000), Failed::Disbelieved, start);
        assert_eq!(
            lasting.unwrap().untold,
            1000 - (LINES_MAX - LASTING_MIN) as u64
        );
    }

    #[test]
    fn one_network_of_version_6_is_one_address() {
        let handshakes = Handshakes::default();
        let start = start();
        let line = |address: &str| {
            let address = address.parse().unwrap();
            handshakes
                .line(address, Failed::Disbelieved, start)
                .is_some()
        };

        assert!(line("2001:db8:0:1::1"));
        assert!(!line("2001:db8:0:1:ffff::2"));
        assert!(line("2001:db8:0:2::1"));
        assert!(line("192.0.2.1"));
        assert!(!line("::ffff:192.0.2.1"));
        assert!(line("::ffff:192.0.2.2"), "these are of version 4");
    }

    #[test]
    fn a_request_is_known_by_what_came_of_it() {
        for first in ["G", "GET /_m", "OPTIONS", "PUT", "PRI * H"] {
            assert!(is_http(first.as_bytes()), "{first}");
        }
        for first in ["", "GOT", "\u{16}\u{3}\u{1}", "\0", "PUTS"] {
            assert!(!is_http(first.as_bytes()), "{first:?}");
        }
    }
}
