//! A server's name, held to the grammar and cut into what one connects to.
//!
//! ruma checks the outline of a name. Here a port is digits without a sign, and a host that ends in a
//! number is an address or nothing: resolvers read `127.1` as an address, certificates do not. Where
//! a name leads is not known here; `session::discovery` finds out.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ruma::{IdParseError, OwnedServerName, ServerName};
use thiserror::Error;

/// The part of a name in front of the port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address, written as one.
    Ip(IpAddr),
    /// A name that must be looked up.
    Dns(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Ip(IpAddr::V4(address)) => address.fmt(f),
            Self::Dns(name) => f.write_str(name),
        }
    }
}

/// A server name, or what a well-known file delegates to: both have the same form.
// spec: server-server §Server-Name
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    text: String,
    host: Host,
    port: Option<u16>,
}

/// A text that names no server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Longer than the grammar lets a name be.
    #[error("{found} bytes, and a server name has at most {NAME_BYTES_MAX}")]
    Long {
        /// Its length.
        found: usize,
    },
    /// No address and no DNS name.
    #[error("{0:?} is not a host")]
    Host(String),
    /// Behind the colon stands no port.
    #[error("{0:?} is not a port")]
    Port(String),
    /// ruma's grammar refuses it.
    #[error("not a server name")]
    Outline(#[from] IdParseError),
}

impl Place {
    /// Reads a name, or what a well-known file says.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::Long { found: text.len() });
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let wrong = || NameError::Host(text.to_owned());
                let (address, rest) = rest.split_once(']').ok_or_else(wrong)?;
                let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
                (Host::Ip(address.into()), port_behind(rest)?)
            }
            None => {
                let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                (named(host)?, port_behind(rest)?)
            }
        };
        Ok(Self {
            text: text.to_owned(),
            host,
            port,
        })
    }

    /// Where a server name points before anything was asked.
    pub fn of(name: &ServerName) -> Result<Self, NameError> {
        Self::parse(name.as_str())
    }

    /// The part in front of the port.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port, if one is named.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// As it was written: what stands in a `Host` header.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The server name that `text` is.
pub fn server_name(text: &str) -> Result<OwnedServerName, NameError> {
    Place::parse(text)?;
    Ok(ServerName::parse(text)?)
}

fn named(host: &str) -> Result<Host, NameError> {
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(address.into()));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let ok = !host.is_empty()
        && host.len() <= DNS_BYTES_MAX
        && host.bytes().all(is_plain)
        && !ends_in_a_number(host);
    if ok {
        Ok(Host::Dns(host.to_owned()))
    } else {
        Err(NameError::Host(host.to_owned()))
    }
}

/// Whether a resolver might take it for an address in one of the old ways of writing them.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next();
    last.is_some_and(|label| {
        let hex = label
            .strip_prefix("0x")
            .or_else(|| label.strip_prefix("0X"));
        label.bytes().all(|byte| byte.is_ascii_digit())
            || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    })
}

fn port_behind(rest: &str) -> Result<Option<u16>, NameError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let wrong = || NameError::Port(rest.to_owned());
    let digits = rest.strip_prefix(':').ok_or_else(wrong)?;
    if digits.len() > PORT_DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse().map(Some).map_err(|_| wrong())
}

/// A host, a colon and a port, in bytes: the most that the grammar allows.
const NAME_BYTES_MAX: usize = DNS_BYTES_MAX + 1 + PORT_DIGITS_MAX;

/// A DNS name, in bytes.
const DNS_BYTES_MAX: usize = 255;

/// A port, in digits.
const PORT_DIGITS_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_appendix_are_names() {
        for (text, host, port) in [
            ("matrix.org", "matrix.org", None),
            ("matrix.org:8888", "matrix.org", Some(8888)),
            ("1.2.3.4", "1.2.3.4", None),
            ("1.2.3.4:1234", "1.2.3.4", Some(1234)),
            ("[1234:5678::abcd]", "[1234:5678::abcd]", None),
            ("[1234:5678::abcd]:5678", "[1234:5678::abcd]", Some(5678)),
            ("localhost:00080", "localhost", Some(80)),
        ] {
            let place = Place::parse(text).unwrap();

            assert_eq!(place.host().to_string(), host);
            assert_eq!(place.port(), port);
            assert_eq!(server_name(text).unwrap(), text);
        }
        let literal = Place::parse("1.2.3.4:1").unwrap();
        assert!(matches!(literal.host(), Host::Ip(_)));
    }

    #[test]
    fn what_a_resolver_might_take_for_an_address_is_no_name() {
        for text in [
            "127.1",
            "2130706433",
            "0x7f.1",
            "a.0x7F000001",
            "1.2.3.999",
            "1.2.3.4.",
            "host:+80",
            "host:",
            "host:123456",
            "host:65536",
            "",
            ":8448",
            "a b",
            "user@host",
            "host/path",
            "[::1",
            "[::1]x",
            "[1.2.3.4]",
            "[fe80::1%1]",
            "::1",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
        assert!(Place::parse(&"a".repeat(256)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_text_gives_a_place_that_is_written_the_same_or_an_error(text in "[a-z0-9.:\\[\\]x+ -]{0,24}") {
            if let Ok(place) = Place::parse(&text) {
                prop_assert_eq!(place.as_str(), &text);
                prop_assert!(ServerName::parse(&text).is_ok(), "{} is no name to ruma", text);
            }
        }
    }
}
