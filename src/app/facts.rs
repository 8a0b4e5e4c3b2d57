//! What this hub tells of itself to a device that is linked: where its doors are, by which keys
//! they are recognised.

use std::{net::SocketAddr, sync::Arc};

use ruma::ServerName;

use super::{config::Config, ready::Listening, run::Material, tls::Certificate};
use crate::edge::credential_file::HubFacts;

/// The facts of a hub that listens there.
pub fn of_running(config: &Config, material: &Material, listening: &Listening) -> Arc<HubFacts> {
    facts(
        config,
        material,
        &[
            ("https", &listening.https),
            ("coap", &listening.coap),
            ("coaps", &listening.coaps),
            ("quic", &listening.quic),
        ],
    )
}

/// The facts of a hub that does not run, as it is configured.
pub fn of_configured(config: &Config, material: &Material) -> Arc<HubFacts> {
    facts(
        config,
        material,
        &[
            ("https", config.https.listen.addresses()),
            ("coap", config.coap.addresses()),
            ("coaps", config.coaps.listen.addresses()),
            ("quic", config.quic.listen.addresses()),
        ],
    )
}

fn facts(
    config: &Config,
    material: &Material,
    doors: &[(&'static str, &[SocketAddr])],
) -> Arc<HubFacts> {
    let name = &config.server_name;
    let doors = doors.iter().filter_map(|(door, addresses)| {
        let address = addresses.first()?;
        Some((*door, reachable(*address, name)))
    });
    let certificate = material.certificate.clone();
    Arc::new(HubFacts {
        name: name.to_string(),
        doors: doors.collect(),
        quic_spki: material.quic_key.as_ref().map(|key| key.spki().to_vec()),
        certificate: Box::new(move || certificate.as_deref().and_then(Certificate::shown)),
    })
}

/// `host:port` as another machine writes it: a hub that listens everywhere is reached by its name.
fn reachable(address: SocketAddr, name: &ServerName) -> String {
    if address.ip().is_unspecified() {
        format!("{}:{}", name.host(), address.port())
    } else {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_listens_everywhere_is_reached_by_its_name() {
        let name = ServerName::parse("hub.example:8448").unwrap();
        let reached = |address: &str| reachable(address.parse().unwrap(), &name);
        assert_eq!(reached("0.0.0.0:5684"), "hub.example:5684");
        assert_eq!(reached("[::]:5684"), "hub.example:5684");
        assert_eq!(reached("127.0.0.1:5684"), "127.0.0.1:5684");
    }
}
