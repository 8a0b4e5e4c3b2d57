//! `public`: where other machines reach a door, when that is not where it listens.

use std::path::Path;

use http::uri::Authority;
use serde_json::{Value as Json, json};

use super::value::{Raw, Value};

/// `host:port` as other machines write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicAddress(pub String);

impl Value for PublicAddress {
    const KIND: &'static str = "\"host:port\"";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let fix = || {
            "write a host and a port: \"hub.example:5683\", \"192.0.2.7:5683\" or \
             \"[2001:db8::7]:5683\""
                .to_owned()
        };
        let text = raw.text().map_err(|_| fix())?;
        let authority: Authority = text.parse().map_err(|_| fix())?;
        let has_port = authority.port_u16().is_some_and(|port| port > 0);
        if !has_port || authority.host().is_empty() || text.contains('@') {
            return Err(fix());
        }
        Ok(Self(text.to_owned()))
    }

    fn json(&self) -> Json {
        json!(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PublicAddress, String> {
        PublicAddress::read(&Raw::Text(text.to_owned()), Path::new(""))
    }

    #[test]
    fn a_public_address_has_a_host_and_a_port() {
        for text in ["hub.example:5683", "192.0.2.7:1", "[2001:db8::7]:65535"] {
            assert_eq!(read(text).unwrap().0, text);
        }
        for text in [
            "",
            ":5683",
            "hub.example",
            "hub.example:",
            "hub.example:0",
            "hub.example:70000",
            "2001:db8::7",
            "coap://hub.example:5683",
            "hub.example:5683/path",
            "ana@hub.example:5683",
            "a hub:5683",
        ] {
            assert!(
                read(text).unwrap_err().contains("host and a port"),
                "{text}"
            );
        }
    }
}
