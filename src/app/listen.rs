//! Binding every listener before anything is served, so that a hub is whole or does not start.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, UdpSocket};

use super::{config::Config, failure::Failure, ready::Listening};
use crate::edge;

/// The bound listeners.
#[derive(Debug, Default)]
pub struct Listeners {
    /// The HTTPS door.
    pub https: Vec<TcpListener>,
    /// The CoAP door.
    pub coap: Vec<UdpSocket>,
    /// The CoAP door behind DTLS.
    pub coaps: Vec<UdpSocket>,
    /// The operator's listener.
    pub admin: Vec<TcpListener>,
}

impl Listeners {
    /// Binds what the configuration names; an error names everything that could not be bound.
    pub async fn bind(config: &Config) -> Result<Self, Failure> {
        let mut bound = Self::default();
        let mut wrong = Vec::new();
        for address in config.https.listen.addresses() {
            match TcpListener::bind(address).await {
                Ok(listener) => bound.https.push(listener),
                Err(error) => wrong.push(refused("https.listen", *address, &error)),
            }
        }
        for address in config.coap.addresses() {
            match edge::coap::bind(*address).await {
                Ok(socket) => bound.coap.push(socket),
                Err(error) => wrong.push(refused("coap.listen", *address, &error)),
            }
        }
        for address in config.coaps.listen.addresses() {
            let socket = UdpSocket::bind(address).await;
            bound
                .coaps
                .push(socket.map_err(|e| refused("coaps.listen", *address, &e))?);
        }
        for address in config.admin.listen.addresses() {
            match TcpListener::bind(address).await {
                Ok(listener) => bound.admin.push(listener),
                Err(error) => wrong.push(refused("admin.listen", *address, &error)),
            }
        }
        wrong
            .into_iter()
            .reduce(Failure::and)
            .map_or(Ok(bound), Err)
    }

    /// Where they listen: port 0 has become a number.
    pub fn addresses(&self) -> io::Result<Listening> {
        Ok(Listening {
            https: each(&self.https, TcpListener::local_addr)?,
            coap: each(&self.coap, UdpSocket::local_addr)?,
            coaps: each(&self.coaps, UdpSocket::local_addr)?,
            admin: each(&self.admin, TcpListener::local_addr)?,
        })
    }
}

fn each<T>(all: &[T], address: fn(&T) -> io::Result<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    all.iter().map(address).collect()
}

fn refused(key: &str, address: SocketAddr, error: &io::Error) -> Failure {
    let fix = match error.kind() {
        io::ErrorKind::AddrInUse => "another process has it; stop that, or choose another port",
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "ports below 1024 need a privilege; choose a higher one"
        }
        io::ErrorKind::PermissionDenied => "choose an address that is allowed",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        _ => "choose another address",
    };
    Failure::failed(
        "LISTEN",
        format!("`{key}`: cannot listen on {address}: {error}; {fix}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::{Inputs, load};

    fn config(options: &[&str]) -> Config {
        let inputs = Inputs {
            options: ["server_name=hub.example"]
                .iter()
                .chain(options)
                .map(ToString::to_string)
                .collect(),
            ..Inputs::default()
        };
        load(&inputs).unwrap().config
    }

    #[tokio::test]
    async fn port_0_becomes_the_port_in_use_and_off_is_absent() {
        let config = config(&[
            "https.listen=127.0.0.1:0,127.0.0.1:0",
            "coap.listen=127.0.0.1:0",
            "coaps.listen=127.0.0.1:0",
            "admin.listen=off",
        ]);

        let listeners = Listeners::bind(&config).await.unwrap();
        let addresses = listeners.addresses().unwrap();

        assert_eq!(addresses.https.len(), 2);
        assert_eq!(addresses.coap.len(), 1);
        assert!(addresses.https.iter().all(|address| address.port() != 0));
        assert_eq!(addresses.admin, []);
    }

    #[tokio::test]
    async fn coap_is_not_bound_while_nobody_may_speak_it_in_clear() {
        let config = config(&[
            "https.listen=off",
            "coap.listen=127.0.0.1:0",
            "coap.plain=off",
            "coaps.listen=off",
            "admin.listen=off",
        ]);

        let listeners = Listeners::bind(&config).await.unwrap();

        assert!(listeners.coap.is_empty());
    }

    #[tokio::test]
    async fn every_address_in_use_is_named_in_one_error() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let busy = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (tcp, udp) = (taken.local_addr().unwrap(), busy.local_addr().unwrap());
        let config = config(&[
            &format!("https.listen=127.0.0.1:0,{tcp}"),
            &format!("coap.listen={udp}"),
            "admin.listen=192.0.2.1:0",
        ]);

        let failure = Listeners::bind(&config).await.unwrap_err().to_string();

        let named: Vec<_> = failure.lines().collect();
        assert_eq!(named.len(), 3, "{failure}");
        for (line, key) in named.iter().zip(["https", "coap", "admin"]) {
            let expected = format!("error[LISTEN]: `{key}.listen`: cannot listen on ");
            assert!(line.starts_with(&expected), "{line}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_names_the_setting() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let config = config(&[&format!("https.listen={address}")]);

        let failure = Listeners::bind(&config).await.unwrap_err().to_string();

        assert!(
            failure.starts_with("error[LISTEN]: `https.listen`"),
            "{failure}"
        );
    }
}
