//! Linked devices that are programs nobody here wrote, and one written from the specification alone,
//! against the running hub.

use std::{
    path::Path,
    process::{Command, Output},
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tramline::client::Credentials;

use crate::{
    hub::{self, Hub, run, tramline},
    peers::{self, Need, Peer},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        peers::trial(
            "linked::the_thin_codec_in_python_agrees_with_the_examples",
            Need::Required,
            &[Peer::Python],
            || ok(&peers::python_script("thin_client.py", &["--self-test"])?),
        ),
        peers::trial(
            "linked::a_client_written_from_the_specification",
            Need::Required,
            &[Peer::Python],
            || over_oscore("thin_client.py"),
        ),
        peers::trial(
            "linked::aiocoap_over_oscore",
            Need::Required,
            &[Peer::Python],
            || over_oscore("aiocoap_oscore.py"),
        ),
        peers::trial(
            "linked::aiocoap_over_dtls_psk",
            Need::Required,
            &[Peer::Python, Peer::Tinydtls],
            over_dtls,
        ),
        peers::trial(
            "linked::the_printed_commands_can_be_pasted",
            Need::Required,
            &[Peer::Python, Peer::Tinydtls, Peer::LibcoapOpenssl],
            pasted,
        ),
        peers::trial(
            "linked::aiocoap_agrees_on_its_keys_by_edhoc",
            Need::Required,
            &[Peer::Python],
            by_edhoc,
        ),
        peers::trial(
            "linked::aiocoap_over_websocket",
            Need::Required,
            &[Peer::Python],
            over_websocket,
        ),
        peers::trial(
            "linked::libcoap_by_its_psk_with_openssl",
            Need::Required,
            &[Peer::LibcoapOpenssl],
            || by_psk("openssl"),
        ),
        peers::trial(
            "linked::libcoap_by_its_psk_with_gnutls",
            Need::Required,
            &[Peer::LibcoapGnutls],
            || by_psk("gnutls"),
        ),
        peers::trial(
            "linked::aioquic_early_data_included",
            Need::Required,
            &[Peer::Python],
            over_quic,
        ),
    ]
}

/// Links a device; gives the command that `tramline link` prints for its program.
pub(crate) fn link(hub: &Hub, user: &str, device: &str, program: &str) -> Result<String, Failed> {
    let mut command = tramline();
    command.args(["link", user, "--device", device, "--for", program]);
    command.arg("--out").arg(file(hub, device));
    run(command.arg("--config").arg(hub.config()))
}

pub(crate) fn file(hub: &Hub, device: &str) -> std::path::PathBuf {
    hub.path().join(format!("{device}.json"))
}

/// What `link` wrote for aiocoap.
pub(crate) fn aiocoap(hub: &Hub, device: &str) -> String {
    let path = hub.path().join(format!("{device}.json.aiocoap"));
    path.join("credentials.json").display().to_string()
}

/// Two users' devices, as aiocoap's credentials.
pub(crate) fn over_oscore(script: &str) -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let [ana, bob] = two_of_aiocoap(&hub)?;
    ok(&peers::python_script(
        script,
        &["--credentials", &ana, "--other-credentials", &bob],
    )?)
}

fn over_dtls() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let [ana, bob] = two_of_aiocoap(&hub)?;
    ok(&peers::tinydtls_script(
        "aiocoap_dtls.py",
        &["--credentials", &ana, "--other-credentials", &bob],
    )?)
}

/// As a shell does them; each asks for the hub's hello, whose first byte is its version.
fn pasted() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let python = peers::python()?;
    let programs = python.parent().ok_or("an interpreter in no directory")?;
    let programs = programs.display();
    let path = std::env::var("PATH").unwrap_or_default();
    let hello = |line: &str| -> Result<(), Failed> {
        let mut shell = Command::new("sh");
        shell.env("PATH", format!("{programs}:{path}"));
        shell.env("PYTHONPATH", peers::tinydtls()?);
        let told = hub::output(shell.args(["-c", line]))?;
        if told.status.success() && told.stdout.first() == Some(&1) {
            return Ok(());
        }
        Err(format!("{line}: {told:?}").into())
    };
    let line = link(&hub, "ana", "PY", "aiocoap")?;
    for _ in 0..2 {
        hello(&line)?; // it keeps its numbers from run to run
    }
    let (coap, coaps) = (hub.coap(), format!("coaps://{}", hub.address("coaps")));
    hello(
        &line
            .replace("oscore:udp6", "tinydtls")
            .replace(&coap, &coaps),
    )?;
    hello(&link(&hub, "ana", "CC", "coap-client")?)
}

fn two_of_aiocoap(hub: &Hub) -> Result<[String; 2], Failed> {
    link(hub, "ana", "PY", "aiocoap")?;
    link(hub, "bob", "QY", "aiocoap")?;
    Ok([aiocoap(hub, "PY"), aiocoap(hub, "QY")])
}

/// With what `link` made for aiocoap there are notifications in the order that it wants.
fn by_edhoc() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    two_devices(&hub, "edhoc_client.py", "aiocoap", &[])
}

fn over_websocket() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let ca = hub.ca().display().to_string();
    two_devices(&hub, "websocket_client.py", "coap-client", &["--ca", &ca])
}

/// Runs a script with the credential files of two users' devices.
fn two_devices(hub: &Hub, script: &str, program: &str, more: &[&str]) -> Result<(), Failed> {
    link(hub, "ana", "PY", program)?;
    link(hub, "bob", "QY", program)?;
    let [ana, bob] = ["PY", "QY"].map(|device| file(hub, device).display().to_string());
    let mut args = vec!["--credentials", &ana, "--other-credentials", &bob];
    args.extend(more);
    ok(&peers::python_script(script, &args)?)
}

fn by_psk(tls: &str) -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    link(&hub, "ana", "CA", "coap-client")?;
    link(&hub, "bob", "CB", "coap-client")?;
    let (ana, bob) = (psk(&file(&hub, "CA"))?, psk(&file(&hub, "CB"))?);
    let get = |identity: &str, key: &str, path: &str| {
        let mut command = Command::new(peers::libcoap(tls)?);
        command.args(["-B", "10", "-u", identity, "-k", key, "-m", "get"]);
        command.arg(format!("coaps://{}/{path}", hub.address("coaps")));
        Ok::<_, Failed>(command.output()?)
    };
    let whoami = |(identity, key): &(String, String)| get(identity, key, WHOAMI);

    says(&get(&ana.0, &ana.1, VERSIONS)?, "\"versions\"")?;
    says(&whoami(&ana)?, "\"device_id\":\"CA\"")?;
    // its own name with another's key, and a name nobody has
    for (identity, key) in [(&ana.0, &bob.1), (&"0".repeat(10), &ana.1)] {
        for path in [VERSIONS, WHOAMI] {
            let output = get(identity, key, path)?;
            let said = String::from_utf8_lossy(&output.stdout);
            if said.contains('{') {
                return Err(format!("a wrong key was told {said}").into());
            }
        }
    }
    says(&whoami(&bob)?, "\"device_id\":\"CB\"")?;
    says(&whoami(&ana)?, "\"device_id\":\"CA\"")
}

const VERSIONS: &str = "_matrix/client/versions";
const WHOAMI: &str = "_matrix/client/v3/account/whoami";

pub(crate) fn psk(file: &Path) -> Result<(String, String), Failed> {
    let psk = Credentials::read(file)?.psk.ok_or("no psk")?;
    let key = String::from_utf8(hex::decode(&psk.key)?)?;
    Ok((psk.identity, key))
}

pub(crate) fn says(output: &Output, what: &str) -> Result<(), Failed> {
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains(what) {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("no {what} in: {said}\n{why}").into())
}

fn over_quic() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    link(&hub, "ana", "Q", "aioquic")?;
    let quic = Credentials::read(&file(&hub, "Q"))?.quic.ok_or("no quic")?;
    quic.server_spki.ok_or("no server_spki")?;
    let dir = hub.path().join("Q.json.aioquic");
    // The script that the printed command runs: it says hello.
    let hello = run(Command::new(peers::python()?).arg(dir.join("hello.py")))?;
    if !hello.starts_with("00 45 ") {
        return Err(format!("no hello: {hello}").into());
    }
    let address = hub.address("quic");
    let port = address.rsplit(':').next().unwrap_or_default();
    let (key, ca) = (
        dir.join("key.pem").display().to_string(),
        hub.ca().display().to_string(),
    );
    ok(&peers::python_script(
        "aioquic_client.py",
        &["--port", port, "--key", &key, "--ca", &ca],
    )?)
}

pub(crate) fn ok(report: &Value) -> Result<(), Failed> {
    println!("{report}");
    if report["ok"] == true {
        Ok(())
    } else {
        Err(format!("{report:#}").into())
    }
}
