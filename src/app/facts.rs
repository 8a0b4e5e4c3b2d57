//! What this hub tells of itself to a device that is linked: where its doors are, by which keys
//! they are recognised.

use std::{net::SocketAddr, sync::Arc};

use http::uri::Authority;
use ruma::ServerName;

use super::{
    config::{BaseUrl, Config},
    ready::Listening,
    run::Material,
    tls::Certificate,
};
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
    let mut guessed = Vec::new();
    let doors = doors.iter().filter_map(|(door, addresses)| {
        let address = addresses.first()?;
        let place = public(config, door).unwrap_or_else(|| {
            if address.ip().is_unspecified() {
                guessed.push(*door);
            }
            reachable(*address, name)
        });
        Some((*door, place))
    });
    let doors = doors.collect();
    let certificate = material.certificate.clone();
    Arc::new(HubFacts {
        name: name.to_string(),
        doors,
        guessed,
        quic_spki: material.quic_key.as_ref().map(|key| key.spki().to_vec()),
        certificate: Box::new(move || certificate.as_deref().and_then(Certificate::shown)),
    })
}

/// Where the operator says that a door is.
fn public(config: &Config, door: &str) -> Option<String> {
    let said = match door {
        "coap" => &config.coap.public,
        "coaps" => &config.coaps.public,
        "quic" => &config.quic.public,
        _ => return config.https.public_url.as_ref().and_then(of_url),
    };
    said.as_ref().map(|said| said.0.clone())
}

/// `host:port` of an https URL; one of plain HTTP is no door for a device with a token.
fn of_url(url: &BaseUrl) -> Option<String> {
    let authority: Authority = url.0.strip_prefix("https://")?.parse().ok()?;
    let port = authority.port_u16().unwrap_or(443);
    Some(format!("{}:{port}", authority.host()))
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
    use crate::app::{
        config::{Inputs, load},
        init,
    };

    #[test]
    fn a_hub_that_listens_everywhere_is_reached_by_its_name() {
        let name = ServerName::parse("hub.example:8448").unwrap();
        let reached = |address: &str| reachable(address.parse().unwrap(), &name);
        assert_eq!(reached("0.0.0.0:5684"), "hub.example:5684");
        assert_eq!(reached("[::]:5684"), "hub.example:5684");
        assert_eq!(reached("127.0.0.1:5684"), "127.0.0.1:5684");
    }

    #[test]
    fn a_device_is_told_the_public_addresses_and_which_are_guessed() {
        let dir = tempfile::tempdir().unwrap();
        init::init("hub.example", dir.path()).unwrap();
        let options = [
            "https.public_url=https://matrix.hub.example",
            "coap.listen=0.0.0.0:15683",
            "coaps.listen=0.0.0.0:15684",
            "coaps.public=thin.hub.example:5684",
            "quic.listen=off",
            "quic.public=thin.hub.example:8449",
        ];
        let config = load(&Inputs {
            file: Some(dir.path().join("tramline.toml")),
            options: options.map(str::to_owned).to_vec(),
            ..Inputs::default()
        });
        let config = config.unwrap().config;
        let material = Material::read(&config).unwrap();

        let told = of_configured(&config, &material);

        let doors: Vec<_> = told.doors.iter().map(|(d, at)| (*d, at.as_str())).collect();
        let expected = [
            ("https", "matrix.hub.example:443"),
            ("coap", "hub.example:15683"),
            ("coaps", "thin.hub.example:5684"),
        ];
        assert_eq!(doors, expected);
        assert_eq!(told.guessed, ["coap"]);
    }
}
