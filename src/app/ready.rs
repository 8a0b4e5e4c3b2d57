//! The one line that `serve` prints on stdout: every listener is bound, the store is open.

use std::net::SocketAddr;

use serde::Serialize;

use super::{failure::Failure, output};

/// The ready line. Its fields stand in this order.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    event: &'static str,
    version: &'static str,
    server_name: String,
    pid: u32,
    listen: Listening,
}

/// The addresses in use, by listener; those that are off are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listening {
    /// The HTTPS door.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub https: Vec<SocketAddr>,
    /// The CoAP door.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub coap: Vec<SocketAddr>,
    /// The CoAP door behind DTLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub coaps: Vec<SocketAddr>,
    /// The QUIC door.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quic: Vec<SocketAddr>,
    /// The operator's listener.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub admin: Vec<SocketAddr>,
}

impl Ready {
    /// What this process has to tell.
    pub fn new(server_name: &str, listen: Listening) -> Self {
        Self {
            event: "ready",
            version: env!("CARGO_PKG_VERSION"),
            server_name: server_name.to_owned(),
            pid: std::process::id(),
            listen,
        }
    }

    fn line(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and addresses are JSON")
    }

    /// Prints the line.
    pub fn print(&self) -> Result<(), Failure> {
        output::line(&self.line())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_as_the_contract_prints_it() {
        let listen = Listening {
            https: vec!["127.0.0.1:8448".parse().unwrap()],
            coap: vec![
                "127.0.0.1:5683".parse().unwrap(),
                "[::1]:5683".parse().unwrap(),
            ],
            coaps: vec!["127.0.0.1:5684".parse().unwrap()],
            quic: vec!["127.0.0.1:8449".parse().unwrap()],
            admin: Vec::new(),
        };

        let line = Ready::new("hub.example", listen).line();

        assert_eq!(
            line,
            format!(
                r#"{{"event":"ready","version":"{}","server_name":"hub.example","pid":{},"listen":{{"https":["127.0.0.1:8448"],"coap":["127.0.0.1:5683","[::1]:5683"],"coaps":["127.0.0.1:5684"],"quic":["127.0.0.1:8449"]}}}}"#,
                env!("CARGO_PKG_VERSION"),
                std::process::id()
            )
        );
    }
}
