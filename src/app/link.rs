//! `tramline link`: makes a device, writes its credential file, and what another program needs to
//! be that device.
//!
//! The device's private keys are made here and do not reach the hub.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Map, Value as Json, json};

use super::{
    cli::{ForClient, LinkArgs},
    config::Config,
    edhoc_key::EdhocKey,
    failure::Failure,
    init::shell_word,
    keys,
    operate::Desk,
    operator::Request,
    output::{self, Format},
    places::Places,
};
use crate::client::{Credentials, PskKeys, thin::StateDir};

/// Links a device and says how to go on.
pub async fn link(
    config: &Config,
    localpart: String,
    args: &LinkArgs,
    format: Format,
) -> Result<(), Failure> {
    let beside = args.client.and_then(|client| beside(client, &args.out));
    let state = StateDir::path_of(&args.out);
    for path in [Some(&args.out), Some(&state), beside.as_ref()]
        .into_iter()
        .flatten()
    {
        must_be_new(path)?;
    }
    let keys = DeviceKeys::make(args.client).map_err(|error| failed("LINK_KEYS", &error))?;
    let mut desk = Desk::open(config).await?;
    let linked = link_and_write(&mut desk, localpart, args, &keys, beside.as_deref()).await;
    desk.close().await;
    let Written {
        credentials,
        command,
        guessed,
    } = linked?;
    let places = Places::of(&credentials.server, guessed);
    let told = json!({
        "user_id": credentials.user_id, "device_id": credentials.device_id,
        "file": args.out, "command": command,
        "doors": places.doors.iter().copied().collect::<BTreeMap<_, _>>(),
        "loopback": places.loopback(), "guessed": places.guessed,
    });
    let written = args.out.display();
    let (user, device) = (&credentials.user_id, &credentials.device_id);
    let linked = format!(
        "linked {device} of {user}; its credentials are in {written}, with the addresses {}",
        places.all()
    );
    let said = match &command {
        None => format.print(&linked, &told),
        Some(command) => {
            output::note(&linked);
            format.print(command, &told)
        }
    };
    tell_of_the_program(args.client, &credentials);
    places.warnings().iter().for_each(|text| output::note(text));
    said
}

/// What has to be known before the command is used.
fn tell_of_the_program(client: Option<ForClient>, credentials: &Credentials) {
    if client.is_some() && door_of(client, credentials).is_none() {
        output::note("this hub has no such door yet: the command names where it would be");
    }
    if client == Some(ForClient::Aiocoap) {
        output::note(
            "aiocoap has OSCORE with `pip install 'aiocoap[oscore]'`; the hub's answer is its hello: bytes, no text. \
             Where DTLSSocket is installed, the same command goes over DTLS with \
             AIOCOAP_CLIENT_TRANSPORT=tinydtls and a coaps:// address",
        );
    }
    if client == Some(ForClient::CoapClient) {
        output::note(
            "warning: the command holds the device's key, which others on its machine see in `ps` \
             and in the shell's history. The hub's answer is its hello: bytes, no text",
        );
    }
}

/// A device that is linked, and its file that is written.
struct Written {
    credentials: Credentials,
    /// For another program.
    command: Option<String>,
    /// The doors whose host is taken from the server name.
    guessed: Vec<String>,
}

async fn link_and_write(
    desk: &mut Desk,
    localpart: String,
    args: &LinkArgs,
    keys: &DeviceKeys,
    beside: Option<&Path>,
) -> Result<Written, Failure> {
    let request = Request::LinkDevice {
        localpart: localpart.clone(),
        device: args.device.clone(),
        edhoc_public: hex::encode(keys.edhoc.public_x()),
        quic_spki: hex::encode(&keys.quic_spki),
        // It puts notifications in order by the outer option, which RFC 8613 has as a hint only.
        outer_observe_counted: args.client == Some(ForClient::Aiocoap),
    };
    let mut told = desk.ask(request).await?;
    let mut part = |name: &str| told.get_mut(name).map(Json::take).unwrap_or_default();
    let guessed = serde_json::from_value(part("guessed")).unwrap_or_default();
    let written = credentials_of(part("credentials"), keys)
        .and_then(|credentials| write(credentials, guessed, args, keys, beside));
    if written.is_err() {
        // What nobody has the keys of is of no use, and its name should be free.
        let device = args.device.clone();
        let undone = desk.ask(Request::RemoveDevice { localpart, device }).await;
        if let Err(failure) = undone {
            output::note(&format!(
                "the device was linked and could not be removed: {failure}"
            ));
        }
    }
    written
}

pub(super) fn credentials_of(told: Json, keys: &DeviceKeys) -> Result<Credentials, Failure> {
    let mut credentials: Credentials =
        serde_json::from_value(told).map_err(|error| failed("LINK_ANSWER", &error))?;
    if let Some(edhoc) = &mut credentials.edhoc {
        edhoc.device_key = Some(hex::encode(keys.edhoc.private()));
    }
    if let Some(quic) = &mut credentials.quic {
        quic.client_key = Some(hex::encode(&keys.quic_pkcs8));
    }
    Ok(credentials)
}

fn write(
    credentials: Credentials,
    guessed: Vec<String>,
    args: &LinkArgs,
    keys: &DeviceKeys,
    beside: Option<&Path>,
) -> Result<Written, Failure> {
    let wrong = |error: io::Error| failed("LINK_FILE", &error);
    credentials
        .write(&args.out)
        .map_err(|error| failed("LINK_FILE", &error))?;
    // Where another program is the device, this one does not know which numbers that has used.
    if args.client.is_none() {
        StateDir::begin(&args.out, &credentials).map_err(|error| failed("LINK_FILE", &error))?;
    }
    let door = door_of(args.client, &credentials);
    let command = match (args.client, beside) {
        (Some(ForClient::Aiocoap), Some(dir)) => {
            let door = door.unwrap_or_else(|| missing(&credentials, 5683));
            Some(for_aiocoap(&credentials, &door, dir).map_err(wrong)?)
        }
        (Some(ForClient::CoapClient), _) => {
            let door = door.unwrap_or_else(|| missing(&credentials, 5684));
            credentials
                .psk
                .as_ref()
                .map(|psk| for_coap_client(psk, &door))
        }
        (Some(ForClient::Aioquic), Some(dir)) => {
            let door = door.unwrap_or_else(|| missing(&credentials, 8449));
            Some(for_aioquic(keys, &door, dir).map_err(wrong)?)
        }
        _ => None,
    };
    Ok(Written {
        credentials,
        command,
        guessed,
    })
}

/// Where the door is that a client needs.
fn door_of(client: Option<ForClient>, credentials: &Credentials) -> Option<String> {
    let server = &credentials.server;
    match client? {
        ForClient::Aiocoap => server.coap.clone(),
        ForClient::CoapClient => server.coaps.clone(),
        ForClient::Aioquic => server.quic.clone(),
    }
}

fn missing(credentials: &Credentials, port: u16) -> String {
    let name = credentials.server.name.as_str();
    let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
    format!("{host}:{port}")
}

/// A security context and a credentials file; `aiocoap-client` keeps its own state beside them.
///
/// The file has the device's DTLS key, too, for aiocoap with `DTLSSocket`.
fn for_aiocoap(credentials: &Credentials, door: &str, dir: &Path) -> io::Result<String> {
    let oscore = credentials.oscore.as_ref().ok_or(io::ErrorKind::NotFound)?;
    make_dir(dir)?;
    let dir = fs::canonicalize(dir)?;
    let settings = json!({
        "sender-id_hex": oscore.sender_id, "recipient-id_hex": oscore.recipient_id,
        "algorithm": "AES-CCM-16-64-128", "kdf-hashfun": "sha256",
    });
    let secret = json!({"secret_hex": oscore.master_secret, "salt_hex": oscore.master_salt});
    let origin = format!("coap://{}", without_default(door, 5683));
    // One entry for one context: aiocoap locks the directory for each that names it.
    let context = json!({"oscore": {"basedir": format!("{}/", dir.display())}});
    let mut entries = Map::from_iter([(format!("{origin}/*"), context)]);
    if let (Some(psk), Some(coaps)) = (&credentials.psk, &credentials.server.coaps) {
        let key =
            json!({"dtls": {"client-identity": {"ascii": psk.identity}, "psk": {"hex": psk.key}}});
        let origin = format!("coaps://{}", without_default(coaps, 5684));
        entries.insert(format!("{origin}/*"), key);
    }
    write_new(&dir.join("settings.json"), &settings.to_string())?;
    write_new(&dir.join("secret.json"), &secret.to_string())?;
    let file = dir.join("credentials.json");
    write_new(&file, &Json::Object(entries).to_string())?;
    let file = shell_word(&file.to_string_lossy());
    // Left to itself, aiocoap goes without OSCORE where it lacks what only group OSCORE wants.
    Ok(format!(
        "AIOCOAP_CLIENT_TRANSPORT=oscore:udp6 aiocoap-client --credentials {file} {origin}/"
    ))
}

fn for_coap_client(psk: &PskKeys, door: &str) -> String {
    let key = hex::decode(&psk.key).unwrap_or_default();
    let key = String::from_utf8_lossy(&key).into_owned();
    let identity = &psk.identity;
    format!("coap-client-openssl -u {identity} -k {key} -m get coaps://{door}/")
}

/// A certificate over the device's key, and a script that asks for the hub's hello.
fn for_aioquic(keys: &DeviceKeys, door: &str, dir: &Path) -> io::Result<String> {
    make_dir(dir)?;
    let dir = fs::canonicalize(dir)?;
    write_new(&dir.join("key.pem"), &keys.quic_pem)?;
    write_new(&dir.join("cert.pem"), &keys.quic_certificate)?;
    let (host, port) = door.rsplit_once(':').unwrap_or((door, "8449"));
    let host = host.trim_matches(['[', ']']);
    let script = AIOQUIC_SCRIPT
        .replace("@HOST@", &format!("{host:?}"))
        .replace("@PORT@", port)
        .replace("@DIR@", &format!("{:?}", dir.display().to_string()));
    let file = dir.join("hello.py");
    write_new(&file, &script)?;
    Ok(format!("python3 {}", shell_word(&file.to_string_lossy())))
}

/// The keys a new device has made itself.
pub(super) struct DeviceKeys {
    pub(super) edhoc: EdhocKey,
    quic_pkcs8: Vec<u8>,
    pub(super) quic_spki: Vec<u8>,
    quic_pem: String,
    /// Self-signed, for programs that show nothing else.
    quic_certificate: String,
}

impl DeviceKeys {
    pub(super) fn make(client: Option<ForClient>) -> Result<Self, Box<dyn std::error::Error>> {
        let edhoc = EdhocKey::generate()?;
        let (quic_pkcs8, quic_spki) = keys::generate_raw()?;
        if client == Some(ForClient::Aioquic) {
            let der = PrivatePkcs8KeyDer::from(quic_pkcs8.as_slice());
            let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519)?;
            let params = CertificateParams::new(Vec::new())?;
            return Ok(Self {
                edhoc,
                quic_certificate: unix_lines(&params.self_signed(&key)?.pem()),
                quic_pem: keys::pem(&quic_pkcs8),
                quic_pkcs8,
                quic_spki,
            });
        }
        Ok(Self {
            edhoc,
            quic_pkcs8,
            quic_spki,
            quic_pem: String::new(),
            quic_certificate: String::new(),
        })
    }
}

/// PEM as aioquic reads it, which knows neither CR nor an empty line at the end.
fn unix_lines(pem: &str) -> String {
    pem.lines().collect::<Vec<_>>().join("\n")
}

/// What is written beside the credential file for a program.
fn beside(client: ForClient, out: &Path) -> Option<PathBuf> {
    let extension = match client {
        ForClient::Aiocoap => ".aiocoap",
        ForClient::Aioquic => ".aioquic",
        ForClient::CoapClient => return None,
    };
    let mut path = out.as_os_str().to_owned();
    path.push(extension);
    Some(path.into())
}

pub(super) fn must_be_new(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let reason = format!("{} is there already; nothing was changed", path.display());
    Err(Failure::failed("LINK_EXISTS", reason))
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

/// aiocoap compares origins as they are written in URLs, where the default port is not.
fn without_default(door: &str, port: u16) -> &str {
    door.strip_suffix(&format!(":{port}")).unwrap_or(door)
}

fn failed(code: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(code, error)
}

const AIOQUIC_SCRIPT: &str = r#"# Asks the hub for its hello over QUIC; needs aioquic.
import asyncio, ssl
from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration

HOST, PORT, DIR = @HOST@, @PORT@, @DIR@

async def main():
    config = QuicConfiguration(is_client=True, alpn_protocols=["tramline-x509/1"], verify_mode=ssl.CERT_NONE)
    config.load_cert_chain(DIR + "/cert.pem", DIR + "/key.pem")
    async with connect(HOST, PORT, configuration=config) as hub:
        reader, writer = await hub.create_stream()
        writer.write(bytes([0x00, 0x01]))  # RFC 8323: no length, no token, GET
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        print(answer.hex(" "))

asyncio.run(main())
"#;
