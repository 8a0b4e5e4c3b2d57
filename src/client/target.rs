//! Where a hub is, as a user writes it.

use std::net::{SocketAddr, ToSocketAddrs};

use thiserror::Error;

/// A hub's door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// HTTPS.
    Https(HttpsTarget),
    /// CoAP over plain UDP.
    Coap(SocketAddr),
}

/// An HTTPS door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsTarget {
    /// The name or address, which the certificate must be for.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Certificates to trust, as PEM; none: those that this system trusts.
    pub ca_pem: Option<String>,
}

/// A URL that names no door of a hub.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// Neither `https://` nor `coap://`.
    #[error("{0:?} is not a hub's address; write https://HOST:PORT or coap://HOST:PORT")]
    Scheme(String),
    /// The port is not a number.
    #[error("the port of {0:?} is not a number from 1 to 65535")]
    Port(String),
    /// The name has no address.
    #[error("{0:?} has no address")]
    Unresolved(String),
}

impl Target {
    /// Reads `https://host[:port]` or `coap://host[:port]`. `ca_pem` is for HTTPS, instead of what this
    /// system trusts.
    pub fn parse(url: &str, ca_pem: Option<&str>) -> Result<Self, TargetError> {
        let trimmed = url.trim_end_matches('/');
        if let Some(place) = trimmed.strip_prefix("https://") {
            let (host, port) = split(place, 8448)?;
            let ca_pem = ca_pem.map(str::to_owned);
            return Ok(Self::Https(HttpsTarget { host, port, ca_pem }));
        }
        let place = trimmed
            .strip_prefix("coap://")
            .ok_or_else(|| TargetError::Scheme(url.to_owned()))?;
        let (host, port) = split(place, 5683)?;
        let address = (host.as_str(), port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or(TargetError::Unresolved(host))?;
        Ok(Self::Coap(address))
    }
}

/// Host and port; IPv6 addresses stand in brackets.
fn split(place: &str, default: u16) -> Result<(String, u16), TargetError> {
    let after_host = place.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match place.get(after_host..).and_then(|rest| rest.rfind(':')) {
        Some(at) => place.split_at(after_host + at),
        None => (place, ""),
    };
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = match port.strip_prefix(':') {
        None => default,
        Some(port) => port
            .parse()
            .map_err(|_| TargetError::Port(place.to_owned()))?,
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_door() {
        assert_eq!(
            Target::parse("coap://127.0.0.1:9", None),
            Ok(Target::Coap("127.0.0.1:9".parse().unwrap()))
        );
        assert_eq!(
            Target::parse("coap://[::1]", None),
            Ok(Target::Coap("[::1]:5683".parse().unwrap()))
        );
        let Ok(Target::Https(https)) = Target::parse("https://hub.example/", Some("pem")) else {
            panic!("an https URL names a door")
        };
        assert_eq!((https.host.as_str(), https.port), ("hub.example", 8448));
        let without = Target::parse("https://hub.example", None).unwrap();
        assert!(matches!(
            without,
            Target::Https(HttpsTarget { ca_pem: None, .. })
        ));
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(
            Target::parse("http://a", None),
            Err(TargetError::Scheme("http://a".into()))
        );
        assert_eq!(
            Target::parse("coap://a:high", None),
            Err(TargetError::Port("a:high".into()))
        );
    }
}
