//! Where a linked device is told to find the hub: what is said of these addresses to whoever links
//! it, and which of them will hardly do.

use std::net::{IpAddr, SocketAddr};

use crate::client::ServerInfo;

/// The addresses in a credential file.
pub(super) struct Places<'a> {
    /// Door and `host:port`.
    pub(super) doors: Vec<(&'static str, &'a str)>,
    /// The doors whose host is only taken from the server name.
    pub(super) guessed: Vec<String>,
}

impl<'a> Places<'a> {
    pub(super) fn of(server: &'a ServerInfo, guessed: Vec<String>) -> Self {
        let doors = [
            ("https", &server.https),
            ("coap", &server.coap),
            ("coaps", &server.coaps),
            ("quic", &server.quic),
        ];
        let doors = doors.into_iter();
        let doors = doors.filter_map(|(door, place)| Some((door, place.as_deref()?)));
        Self {
            doors: doors.collect(),
            guessed,
        }
    }

    /// All of them, for people.
    pub(super) fn all(&self) -> String {
        listed(&self.doors)
    }

    /// The doors that only this machine reaches.
    pub(super) fn loopback(&self) -> Vec<&'static str> {
        let doors = self.doors.iter().filter(|(_, place)| is_loopback(place));
        doors.map(|(door, _)| *door).collect()
    }

    /// What is to be said of those that will hardly do.
    pub(super) fn warnings(&self) -> Vec<String> {
        let loopback = self.loopback();
        let some = |wanted: &dyn Fn(&str) -> bool| -> Vec<_> {
            let doors = self.doors.iter().copied();
            doors.filter(|(door, _)| wanted(door)).collect()
        };
        let here = some(&|door| loopback.contains(&door));
        let guessed = some(&|door| self.guessed.iter().any(|one| one == door));
        let mut warnings = Vec::new();
        if !here.is_empty() {
            warnings.push(format!(
                "warning: only this machine reaches {}; for a device elsewhere set {} (or listen \
                 elsewhere), start the hub again and link anew",
                listed(&here),
                settings(&here)
            ));
        }
        if !guessed.is_empty() {
            warnings.push(format!(
                "warning: guessed from the server name: {}; where that is wrong, set {}, start \
                 the hub again and link anew",
                listed(&guessed),
                settings(&guessed)
            ));
        }
        warnings
    }
}

fn listed(doors: &[(&str, &str)]) -> String {
    let each = doors.iter().map(|(door, place)| format!("{door} {place}"));
    each.collect::<Vec<_>>().join(", ")
}

/// The settings that name a door's place.
fn settings(doors: &[(&str, &str)]) -> String {
    let each = doors.iter().map(|(door, _)| match *door {
        "https" => "`https.public_url`".to_owned(),
        other => format!("`{other}.public`"),
    });
    each.collect::<Vec<_>>().join(", ")
}

fn is_loopback(place: &str) -> bool {
    if let Ok(address) = place.parse::<SocketAddr>() {
        return address.ip().to_canonical().is_loopback();
    }
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_links_is_told_the_addresses_and_warned_of_those_that_will_hardly_do() {
        let server = ServerInfo {
            https: Some("matrix.hub.example:443".to_owned()),
            coap: Some("hub.example:25683".to_owned()),
            coaps: Some("127.0.0.1:25684".to_owned()),
            quic: Some("[::1]:8449".to_owned()),
            ..ServerInfo::default()
        };
        let places = Places::of(&server, vec!["coap".to_owned()]);

        assert_eq!(
            places.all(),
            "https matrix.hub.example:443, coap hub.example:25683, coaps 127.0.0.1:25684, \
             quic [::1]:8449"
        );
        assert_eq!(places.loopback(), ["coaps", "quic"]);
        let warnings = places.warnings();
        let [here, guessed] = warnings.as_slice() else {
            panic!("{warnings:?}")
        };
        assert!(
            here.contains("coaps 127.0.0.1:25684, quic [::1]:8449;"),
            "{here}"
        );
        assert!(here.contains("`coaps.public`, `quic.public`"), "{here}");
        assert!(guessed.contains(": coap hub.example:25683;"), "{guessed}");
        assert!(guessed.contains("set `coap.public`,"), "{guessed}");
    }

    #[test]
    fn an_address_that_others_reach_is_no_reason_for_a_warning() {
        for (place, here) in [
            ("localhost:5683", true),
            ("127.0.0.9:5683", true),
            ("[::ffff:127.0.0.1]:5683", true),
            ("192.0.2.7:5683", false),
            ("hub.example:5683", false),
        ] {
            assert_eq!(is_loopback(place), here, "{place}");
        }
    }
}
