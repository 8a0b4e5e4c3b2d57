//! Independent clients against one running hub, over the real sockets.

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    hub::Hub,
    peers::{self, Need, Peer},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        peers::trial("clients::matrix_nio", Need::Required, &[Peer::Python], matrix_nio),
        peers::trial("clients::aiocoap", Need::Required, &[Peer::Python], aiocoap),
        peers::trial("clients::libcoap", Need::Required, &[Peer::Python, Peer::Libcoap], libcoap),
        peers::trial("clients::matrix_js_sdk", Need::Optional, &[Peer::Node], matrix_js_sdk),
    ]
}

fn matrix_nio() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let ca = hub.ca().display().to_string();
    ok(&peers::python_script(
        "nio_client.py",
        &["--url", &hub.https(), "--ca", &ca, "--user", ANA, "--other", BOB],
    )?)
}

fn aiocoap() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let port = port_of(&hub.address("coap"));
    ok(&peers::python_script(
        "aiocoap_client.py",
        &["--port", &port, "--user", ANA, "--other", BOB],
    )?)
}

fn libcoap() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let client = peers::libcoap()?.display().to_string();
    let port = port_of(&hub.address("coap"));
    ok(&peers::python_script(
        "libcoap_client.py",
        &["--port", &port, "--client", &client, "--user", ANA, "--other", BOB],
    )?)
}

fn matrix_js_sdk() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    ok(&peers::js_script(
        &hub.ca(),
        &["--url", &hub.https(), "--user", "ana", "--password", "secret-ana"],
    )?)
}

const ANA: &str = "ana:secret-ana";
const BOB: &str = "bob:secret-bob";

fn port_of(address: &str) -> String {
    address.rsplit(':').next().unwrap_or_default().to_owned()
}

fn ok(report: &Value) -> Result<(), Failed> {
    println!("{report}");
    if report["ok"] == true { Ok(()) } else { Err(format!("{report:#}").into()) }
}
