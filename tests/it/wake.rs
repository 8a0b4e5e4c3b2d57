//! The wake hook of the running hub, knocking at a push service on loopback.

use libtest_mimic::{Failed, Trial};

use crate::{
    hub::Hub,
    linked::{aiocoap, link, ok},
    peers::{self, Need, Peer},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![peers::trial(
        "wake::a_sleeping_device_is_knocked_at_once_without_room_or_sender",
        Need::Required,
        &[Peer::Python],
        knocked,
    )]
}

fn knocked() -> Result<(), Failed> {
    let mut hub = Hub::init()?;
    for user in ["ana", "bob"] {
        hub.add_user(user)?;
    }
    let [certificate, key] = ["push.cert.pem", "push.key.pem"].map(|name| hub.path().join(name));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    ok(&peers::python_script(
        "wake.py",
        &["--make", &certificate, &key],
    )?)?;
    hub.env("SSL_CERT_FILE", certificate.as_str());
    hub.option("wake.allow_private_addresses=true");
    hub.start()?;
    link(&hub, "ana", "WA", "aiocoap")?;
    link(&hub, "bob", "WB", "aiocoap")?;
    ok(&peers::python_script(
        "wake.py",
        &[
            "--certificate",
            &certificate,
            "--key",
            &key,
            "--credentials",
            &aiocoap(&hub, "WA"),
            "--other-credentials",
            &aiocoap(&hub, "WB"),
        ],
    )?)
}
