//! People on the way, impostors and accidents at the doors of linked devices: what comes of it, and that the next
//! honest device is unharmed.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use libtest_mimic::{Completion, Failed, Trial};
use serde_json::{Value, json};

use crate::{
    hub::{self, Hub, NAME, ended, run, tramline},
    linked::{aiocoap, file, link, ok, over_oscore, psk},
    peers::{self, Need, Peer},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        peers::trial(
            "hostile::who_is_on_the_way_of_oscore_changes_nothing_that_lasts",
            Need::Required,
            &[Peer::Python],
            || over_oscore("hostile_oscore.py"),
        ),
        peers::trial(
            "hostile::who_is_on_the_way_of_dtls_changes_nothing_by_openssl",
            Need::Required,
            &[Peer::Python, Peer::LibcoapOpenssl],
            || on_the_way_of_dtls("openssl"),
        ),
        peers::trial(
            "hostile::who_is_on_the_way_of_dtls_changes_nothing_by_gnutls",
            Need::Required,
            &[Peer::Python, Peer::LibcoapGnutls],
            || on_the_way_of_dtls("gnutls"),
        ),
        peers::trial(
            "hostile::who_is_on_the_way_of_quic_changes_nothing",
            Need::Required,
            &[Peer::Python],
            on_the_way_of_quic,
        ),
        peers::trial(
            "hostile::an_unlinked_device_is_gone_from_every_door_at_once",
            Need::Required,
            &[Peer::Python, Peer::LibcoapOpenssl],
            unlinked,
        ),
        Trial::test(
            "hostile::two_processes_on_one_credential_are_one_and_a_refusal",
            two_processes,
        ),
        peers::trial(
            "hostile::devices_of_a_restored_hub_go_on_and_no_nonce_is_used_twice",
            Need::Required,
            &[Peer::Python],
            restored,
        ),
        Trial::ignorable_test(
            "hostile::no_door_gives_a_stranger_more_than_three_times_what_came",
            amplification,
        ),
    ]
}

fn on_the_way_of_dtls(tls: &str) -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    link(&hub, "ana", "CA", "coap-client")?;
    let (identity, key) = psk(&file(&hub, "CA"))?;
    ok(&peers::python_script(
        "hostile_dtls.py",
        &[
            "--client",
            &peers::libcoap(tls)?.display().to_string(),
            "--server",
            &hub.address("coaps"),
            "--identity",
            &identity,
            "--key",
            &key,
        ],
    )?)
}

fn on_the_way_of_quic() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    link(&hub, "ana", "Q", "coap-client")?;
    let (device, ca) = (
        file(&hub, "Q").display().to_string(),
        hub.ca().display().to_string(),
    );
    ok(&peers::python_script(
        "hostile_quic.py",
        &["--credentials", &device, "--ca", &ca],
    )?)
}

fn unlinked() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    for (user, device) in [("ana", "LOST"), ("ana", "KEPT"), ("bob", "BOB")] {
        link(&hub, user, device, "aiocoap")?;
    }
    let path = |device| file(&hub, device).display().to_string();
    let config = hub.config().display().to_string();
    let unlink = json!([
        env!("CARGO_BIN_EXE_tramline"),
        "unlink",
        "ana",
        "--device",
        "LOST",
        "--config",
        config
    ]);
    ok(&peers::python_script(
        "revoked.py",
        &[
            "--credentials",
            &path("LOST"),
            "--same-user",
            &path("KEPT"),
            "--other-credentials",
            &path("BOB"),
            "--ca",
            &hub.ca().display().to_string(),
            "--client",
            &peers::libcoap("openssl")?.display().to_string(),
            "--unlink",
            &unlink.to_string(),
        ],
    )?)
}

/// A device for our own client.
fn phone(hub: &Hub, user: &str) -> Result<PathBuf, Failed> {
    let file = hub.path().join(format!("{user}-phone.json"));
    let mut command = tramline();
    command.args(["link", user, "--device", "PHONE", "--config"]);
    run(command.arg(hub.config()).arg("--out").arg(&file))?;
    Ok(file)
}

fn client(file: &Path, args: &[&str]) -> Command {
    let mut command = tramline();
    command.args(["client", "--json", "--credentials"]);
    command.arg(file).args(args);
    command
}

fn done(file: &Path, args: &[&str]) -> Result<Vec<Value>, Failed> {
    let said = run(&mut client(file, args))?;
    let lines = said.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .filter_map(|line| line["text"].as_str())
        .collect()
}

fn must(is: bool, what: impl std::fmt::Display) -> Result<(), Failed> {
    if is {
        Ok(())
    } else {
        Err(what.to_string().into())
    }
}

/// A room of ana's with bob in it.
fn meet(ana: &Path, bob: &Path) -> Result<String, Failed> {
    let guest = format!("@bob:{NAME}");
    let made = done(ana, &["create", "--name", "Crew", "--invite", &guest])?;
    let room = made[0]["room_id"].as_str().ok_or("no room")?.to_owned();
    done(bob, &["join", &room])?;
    Ok(room)
}

/// A child that is killed when this is dropped; its stdout comes line by line.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// How long a program may take to say something, on a busy machine.
const SAID: Duration = Duration::from_mins(1);

impl Running {
    fn of(command: &mut Command) -> Result<Self, Failed> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Ok(Self { child, lines })
    }

    /// The next line that has `what` in it.
    fn says(&self, what: &str) -> Result<String, Failed> {
        loop {
            let line = self.lines.recv_timeout(SAID);
            let line = line.map_err(|_| format!("{what:?} was not said"))?;
            if line.contains(what) {
                return Ok(line);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The one that came first goes on, the other says so with a code of its own; then it is as before.
fn two_processes() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana", "bob"])?;
    let (ana, bob) = (phone(&hub, "ana")?, phone(&hub, "bob")?);
    let room = meet(&ana, &bob)?;
    done(&ana, &["sync"])?;
    done(&bob, &["send", &room, "before"])?;
    let mut first = Running::of(&mut client(&ana, &["sync", "--follow"]))?;
    first.says("before")?;

    for verb in [
        &["send", &room, "twice"][..],
        &["rooms"],
        &["status"],
        &["sync"],
    ] {
        let second = hub::output(&mut client(&ana, verb))?;
        let why = String::from_utf8_lossy(&second.stderr).into_owned();
        let refused = second.status.code() == Some(1) && why.contains("IN_USE");
        must(refused, format!("{verb:?}: {:?} {why}", second.status))?;
    }

    done(&bob, &["send", &room, "after"])?;
    first.says("after")?;
    let id = first.child.id().to_string();
    run(Command::new("kill").args(["-INT", &id]))?;
    must(ended(&mut first.child)?.success(), "it ends with 0")?;
    done(&ana, &["send", &room, "alone"])?;
    let read = done(&bob, &["read", &room])?;
    must(
        texts(&read) == ["before", "after", "alone"],
        format!("{read:?}"),
    )
}

/// How long a device of a restored hub waits for its first answer.
const GOES_ON: Duration = Duration::from_secs(20);

/// Killed, backed up, ahead of the backup, restored: all seen by somebody on the way who looks for a nonce used
/// twice.
fn restored() -> Result<(), Failed> {
    let mut hub = Hub::with_users(&["ana", "bob"])?;
    let coap = hub.address("coap");
    hub.option(&format!("coap.listen={coap}"));
    let mut relay = Running::of(
        Command::new(peers::python()?)
            .arg(peers::script("relay.py"))
            .args(["--to", &coap])
            .stdin(Stdio::piped()),
    )?;
    let port: Value = serde_json::from_str(&relay.says("port")?)?;
    let (ana, bob) = (phone(&hub, "ana")?, phone(&hub, "bob")?);
    let others = [("ana", "PY"), ("bob", "QY")].map(|(user, device)| {
        link(&hub, user, device, "aiocoap")?;
        Ok::<_, Failed>(file(&hub, device).display().to_string())
    });
    for file in [&ana, &bob] {
        let mut credentials: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
        credentials["server"]["coap"] = format!("127.0.0.1:{}", port["port"]).into();
        fs::write(file, credentials.to_string())?;
    }
    let room = meet(&ana, &bob)?;
    done(&ana, &["send", &room, "one"])?;
    hub.kill()?;
    hub.start()?;
    done(&ana, &["send", &room, "two"])?;
    done(&bob, &["send", &room, "three"])?;

    let beside = tempfile::tempdir()?;
    let (out, there) = (beside.path().join("backup"), beside.path().join("hub"));
    let mut backup = tramline();
    backup.args(["backup", "--config"]).arg(hub.config());
    run(backup.arg("--out").arg(&out))?;
    for _ in 0..3 {
        done(&ana, &["send", &room, "of the lost time"])?;
    }
    hub.kill()?;
    run(tramline().args(["restore", "--dir"]).arg(&there).arg(&out))?;
    let mut hub = Hub::adopt(&there);
    hub.option(&format!("coap.listen={coap}"));
    hub.start()?;

    for (file, text) in [(&ana, "four"), (&bob, "five")] {
        let took = took(|| done(file, &["send", &room, text]).map(drop))?;
        println!("{text:?} took {took:?}");
        must(took < GOES_ON, format!("{text:?} took {took:?}"))?;
    }
    done(&ana, &["send", &room, "six"])?;
    let read = done(&bob, &["read", &room])?;
    must(
        texts(&read) == ["one", "two", "three", "four", "five", "six"],
        format!("{read:?}"),
    )?;

    drop(relay.child.stdin.take());
    let seen: Value = serde_json::from_str(&relay.says("reused")?)?;
    let agreed = seen["exchanges"].as_u64().unwrap_or_default();
    must(agreed >= 2, format!("both agree on new keys: {seen}"))?;
    ok(&seen)?;
    // and those that are not ours
    let [ana, bob] = others;
    ok(&peers::python_script(
        "edhoc_client.py",
        &["--credentials", &ana?, "--other-credentials", &bob?],
    )?)
}

#[expect(clippy::disallowed_methods, reason = "how long a real program takes")]
fn took(work: impl FnOnce() -> Result<(), Failed>) -> Result<Duration, Failed> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

/// An address of this machine that is not loopback: whoever sends from there has to show that it is there.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // sends nothing
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// With everybody allowed to ask without protection, and with nobody; and what was captured, after a restart.
fn amplification() -> Result<Completion, Failed> {
    let Some(address) = outward() else {
        let reason =
            "this machine has no address but loopback, and who is there is trusted to be there";
        return Ok(Completion::ignored_with(reason));
    };
    if let Err(reason) = peers::python() {
        return if peers::in_ci() {
            Err(reason.into())
        } else {
            Ok(Completion::ignored_with(reason))
        };
    }
    let mut hub = Hub::init()?;
    hub.add_user("ana")?;
    for door in ["coap", "coaps", "quic"] {
        hub.option(&format!("{door}.listen={address}:0"));
    }
    hub.option("coap.plain=any");
    hub.start()?;
    hub.option(&format!("coap.listen={}", hub.address("coap")));
    link(&hub, "ana", "CAPTURED", "aiocoap")?;
    let captured = hub.path().join("captured.json").display().to_string();
    let doors = [
        hub.address("coap"),
        hub.address("coaps"),
        hub.address("quic"),
    ];
    let credentials = aiocoap(&hub, "CAPTURED");
    let device = file(&hub, "CAPTURED").display().to_string();
    let ca = hub.ca().display().to_string();
    let [coap, coaps, quic] = doors.each_ref().map(String::as_str);
    let mut args = vec!["--coap", coap, "--captured", &captured];
    measured(
        &[
            &args[..],
            &["--coaps", coaps, "--quic", quic],
            &["--credentials", &credentials, "--quic-device", &device],
            &["--ca", &ca],
        ]
        .concat(),
    )?;
    hub.kill()?;
    hub.option("coap.plain=loopback");
    hub.start()?;
    measured(&args)?;
    args.truncate(2);
    measured(&args)?;
    Ok(Completion::Completed)
}

/// Shows the tables, too: what strangers get is a number to be known.
fn measured(args: &[&str]) -> Result<(), Failed> {
    let mut command = Command::new(peers::python()?);
    command.arg(peers::script("amplification.py")).args(args);
    let output = hub::output(&mut command)?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{told}");
    let why = String::from_utf8_lossy(&output.stderr);
    must(output.status.success(), format!("{why}\n{told}"))
}
