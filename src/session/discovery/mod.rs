//! Where a server is: from its name to places to connect to, without asking anyone.
//!
//! [`begin`] gives what is to be asked next, a well-known file or SRV records; the answer to that
//! gives the next, until there is a [`Route`]. Which answers may be remembered, and for how long, is
//! in [`Delegations`] and [`lifetime`]. The asking, the addresses of names and which of them may be
//! connected to is the edge's business.
//!
//! ```text
//! let mut next = begin(place);
//! loop {
//!     next = match next {
//!         Next::WellKnown(question) => question.answered(ask(question.host())),
//!         Next::Records(question) => question.answered(look_up(question.name()), rng),
//!         Next::Found(route) => break route,
//!         Next::Nowhere { .. } => …
//!     }
//! }
//! ```

mod delegations;
mod lifetime;
mod records;
#[cfg(test)]
mod tests;

pub use delegations::{Delegations, Outcome};
pub use lifetime::{Caching, http_date, lifetime};
pub use records::Record;

use crate::{
    base::Rng,
    wire::matrix::{Host, Place},
};

/// The port of a server whose name has none, and for which nothing else says one.
const PORT: u16 = 8448;

/// How to reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What the `Host` header of a request says.
    pub host_header: String,
    /// For which name (or address) the certificate must be.
    pub certificate_for: Host,
    /// Where to connect to, the first first. Never empty.
    pub places: Vec<(Host, u16)>,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Next {
    /// A well-known file is to be asked for.
    WellKnown(WellKnown),
    /// SRV records are to be looked up.
    Records(Records),
    /// Nothing more: this is where the server is.
    Found(Route),
    /// Its records say that it is nowhere (RFC 2782: the target `.`).
    Nowhere {
        /// The name of the records.
        records: String,
    },
}

/// Starts looking for the server of this name.
// spec: server-server §Resolving-server-names
pub fn begin(name: &Place) -> Next {
    route_of(name).map_or_else(|host| Next::WellKnown(WellKnown { host }), Next::Found)
}

/// The well-known file of a host.
#[derive(Debug)]
pub struct WellKnown {
    host: String,
}

impl WellKnown {
    /// Whose `https://HOST/.well-known/matrix/server` is to be asked for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Goes on with what the file delegates to; nothing where there is no valid one.
    pub fn answered(self, delegated: Option<&Place>) -> Next {
        let Some(delegated) = delegated else {
            return Next::Records(Records::new(self.host));
        };
        route_of(delegated).map_or_else(|host| Next::Records(Records::new(host)), Next::Found)
    }
}

/// The SRV records of a host: first of the service that is registered, then of the old one.
#[derive(Debug)]
pub struct Records {
    host: String,
    name: String,
    is_last: bool,
}

impl Records {
    fn new(host: String) -> Self {
        let name = format!("_matrix-fed._tcp.{}.", host.trim_end_matches('.'));
        Self {
            host,
            name,
            is_last: false,
        }
    }

    /// The name whose records are to be looked up, with its final dot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Goes on with the records that were found.
    pub fn answered(self, found: Vec<Record>, rng: &mut dyn Rng) -> Next {
        let places = match records::in_order(found, rng) {
            Ok(places) => places,
            Err(records::Refused) => return Next::Nowhere { records: self.name },
        };
        if !places.is_empty() {
            return Next::Found(Route {
                host_header: self.host.clone(),
                certificate_for: Host::Dns(self.host),
                places,
            });
        }
        if !self.is_last {
            let name = format!("_matrix._tcp.{}.", self.host.trim_end_matches('.'));
            return Next::Records(Self {
                name,
                is_last: true,
                ..self
            });
        }
        Next::Found(Route {
            host_header: self.host.clone(),
            certificate_for: Host::Dns(self.host.clone()),
            places: vec![(Host::Dns(self.host), PORT)],
        })
    }
}

/// The route of a name that says it all; else its host, about which others must be asked.
fn route_of(name: &Place) -> Result<Route, String> {
    let port = match (name.host(), name.port()) {
        (Host::Dns(host), None) => return Err(host.clone()),
        (_, port) => port.unwrap_or(PORT),
    };
    Ok(Route {
        host_header: name.to_string(),
        certificate_for: name.host().clone(),
        places: vec![(name.host().clone(), port)],
    })
}
