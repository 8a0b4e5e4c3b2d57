//! Addresses of hosts and SRV records, from the system and its name servers.

use std::{io, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use hickory_resolver::{TokioResolver, net::NetError, proto::rr::RData};

use crate::session::discovery::Record;

/// Who knows names. Tests bring their own.
#[async_trait]
pub trait Names: Send + Sync + 'static {
    /// The addresses of a host, the first first.
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// The SRV records of a name that ends with a dot; empty where there are none.
    async fn records(&self, name: &str) -> io::Result<Vec<Record>>;
}

/// The names that this machine knows: addresses as every other program here gets them (also from
/// `/etc/hosts`), records from the name servers of `/etc/resolv.conf`.
pub struct SystemNames {
    /// None where the system names no name servers.
    resolver: Option<TokioResolver>,
}

impl SystemNames {
    /// Reads how this machine asks.
    pub fn new() -> Self {
        let resolver = Self::resolver().inspect_err(|error| {
            tracing::warn!(%error, "no name servers: SRV records are not looked up");
        });
        Self {
            resolver: resolver.ok(),
        }
    }

    fn resolver() -> Result<TokioResolver, NetError> {
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        options.timeout = LOOK_UP_TIME_MAX;
        options.attempts = 2;
        options.cache_size = CACHED_MAX;
        builder.build()
    }
}

impl Default for SystemNames {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Names for SystemNames {
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }

    async fn records(&self, name: &str) -> io::Result<Vec<Record>> {
        let Some(resolver) = &self.resolver else {
            return Ok(Vec::new());
        };
        let found = match resolver.srv_lookup(name).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
            Err(error) => return Err(io::Error::other(error)),
        };
        let records = found.answers().iter().filter_map(|record| {
            let RData::SRV(srv) = &record.data else {
                return None;
            };
            Some(Record {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_string(),
            })
        });
        Ok(records.collect())
    }
}

/// One question to one name server.
const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(1);

/// Answers remembered, at some hundreds of bytes each.
const CACHED_MAX: u64 = 1024;
