//! Independent clients against one running hub, over the real sockets.

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    hub::Hub,
    peers::{self, Need, Peer, Synapse},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        peers::trial(
            "clients::matrix_nio",
            Need::Required,
            &[Peer::Python],
            matrix_nio,
        ),
        peers::trial(
            "clients::the_matrix_nio_script_asks_nothing_that_synapse_refuses",
            Need::Required,
            &[Peer::Python],
            matrix_nio_on_synapse,
        ),
        peers::trial("clients::aiocoap", Need::Required, &[Peer::Python], aiocoap),
        peers::trial(
            "clients::libcoap",
            Need::Required,
            &[Peer::Python, Peer::Libcoap],
            libcoap,
        ),
        peers::trial(
            "clients::libcoap_over_dtls_with_openssl",
            Need::Required,
            &[Peer::Python, Peer::LibcoapOpenssl],
            || libcoap_over_dtls("openssl", true),
        ),
        peers::trial(
            "clients::libcoap_over_dtls_with_gnutls",
            Need::Required,
            &[Peer::Python, Peer::LibcoapGnutls],
            || libcoap_over_dtls("gnutls", false),
        ),
        peers::trial(
            "clients::matrix_js_sdk",
            Need::Optional,
            &[Peer::Node],
            matrix_js_sdk,
        ),
    ]
}

fn matrix_nio() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let ca = hub.ca().display().to_string();
    ok(&peers::python_script(
        "nio_client.py",
        &[
            "--url",
            &hub.https(),
            "--ca",
            &ca,
            "--user",
            ANA,
            "--other",
            BOB,
        ],
    )?)
}

/// The same script, against the server it was written for: it is not bent to ours.
fn matrix_nio_on_synapse() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let synapse = Synapse::start(&dir.path().join("run"), 1, &["--users", "ana,bob"])?;
    let server = &synapse.about["servers"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let people: Vec<String> = ["ana", "bob"]
        .iter()
        .zip(server["users"].as_array().into_iter().flatten())
        .map(|(name, user)| format!("{name}:{}", text(&user["password"])))
        .collect();
    let (url, ca) = (text(&server["https_url"]), text(&synapse.about["ca_cert"]));
    ok(&peers::python_script(
        "nio_client.py",
        &[
            "--url", &url, "--ca", &ca, "--user", &people[0], "--other", &people[1],
        ],
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
    let client = peers::libcoap("notls")?.display().to_string();
    let port = port_of(&hub.address("coap"));
    ok(&peers::python_script(
        "libcoap_client.py",
        &[
            "--port", &port, "--client", &client, "--user", ANA, "--other", BOB,
        ],
    )?)
}

/// Each of the script's commands is a process with a handshake of its own.
fn libcoap_over_dtls(tls: &str, checks_certificate: bool) -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let client = peers::libcoap(tls)?.display().to_string();
    let port = port_of(&hub.address("coaps"));
    let ca = hub.ca().display().to_string();
    let mut args = vec![
        "--scheme", "coaps", "--port", &port, "--client", &client, "--user", ANA, "--other", BOB,
        "--large", "10",
    ];
    if checks_certificate {
        args.extend(["--ca", &ca]);
    }
    ok(&peers::python_script("libcoap_client.py", &args)?)
}

fn matrix_js_sdk() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    ok(&peers::js_script(
        &hub.ca(),
        &[
            "--url",
            &hub.https(),
            "--user",
            "ana",
            "--password",
            "secret-ana",
        ],
    )?)
}

const ANA: &str = "ana:secret-ana";
const BOB: &str = "bob:secret-bob";

fn port_of(address: &str) -> String {
    address.rsplit(':').next().unwrap_or_default().to_owned()
}

fn ok(report: &Value) -> Result<(), Failed> {
    println!("{report}");
    if report["ok"] == true {
        Ok(())
    } else {
        Err(format!("{report:#}").into())
    }
}
