//! The link laboratory between programs: a stock CoAP client reaches a running hub through it.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use bytes::Bytes;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tramline::session::lab::{Direction, Link, Micros, Origin, Ppm, Profile};

use crate::{
    hub::{self, Hub, run, tramline},
    peers::{self, Need, Peer},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        peers::trial(
            "lab::a_perfect_link_adds_nothing_and_counts_everything",
            Need::Required,
            &[Peer::Libcoap],
            a_perfect_link,
        ),
        peers::trial(
            "lab::what_a_bad_link_loses_is_sent_again_and_arrives",
            Need::Required,
            &[Peer::Libcoap],
            a_lossy_link,
        ),
        peers::trial(
            "lab::a_rebinding_shows_the_hub_a_new_port",
            Need::Required,
            &[Peer::Libcoap],
            a_rebinding_link,
        ),
        Trial::test("lab::the_list_names_every_profile", the_list),
    ]
}

fn a_perfect_link() -> Result<(), Failed> {
    let hub = Hub::with_users(&[])?;
    let mut lab = Lab::start(&hub, &["--profile", "none"])?;
    ask(&lab)?;
    let summary = lab.stop()?;
    for way in ["up", "down"] {
        let stats = &summary[way];
        let (datagrams, bytes) = (&stats["offered"]["datagrams"], &stats["offered"]["bytes"]);
        check(stats["delivered"] == stats["offered"], &summary)?;
        let headers = datagrams.as_u64().unwrap_or(0) * 28;
        check(headers > 0, &summary)?;
        let all = bytes.as_u64().map(|bytes| bytes + headers);
        check(
            stats["offered"]["bytes_with_headers"].as_u64() == all,
            &summary,
        )?;
    }
    check(summary["wakeups"] == 1, &summary)
}

fn a_lossy_link() -> Result<(), Failed> {
    let hub = Hub::with_users(&[])?;
    let seed = seed_that_loses_the_first().to_string();
    let mut lab = Lab::start(&hub, &["--loss", "50%", "--delay", "20ms", "--seed", &seed])?;
    ask(&lab)?;
    let summary = lab.stop()?;
    check(summary["up"]["lost"]["chance"]["datagrams"] == 1, &summary)
}

fn a_rebinding_link() -> Result<(), Failed> {
    let hub = Hub::with_users(&[])?;
    // Every datagram comes from another port, before the answer to the last one can be sent: the
    // answer finds no mapping, as long as it takes longer than this.
    let mut lab = Lab::start(&hub, &["--nat-timeout", "1us"])?;
    let answer = client(&lab, &["-B", "4"])?;
    let summary = lab.stop()?;
    check(answer.is_empty(), &answer)?;
    let lost = &summary["down"]["lost"]["nat"]["datagrams"];
    check(lost.as_u64() >= Some(1), &summary)?;
    check(summary["nat"]["rebindings"].as_u64() >= Some(1), &summary)
}

fn the_list() -> Result<(), Failed> {
    let text = run(tramline().args(["lab", "--list"]))?;
    let help = run(tramline().args(["lab", "--help"]))?;
    let json = run(tramline().args(["lab", "--list", "--json"]))?;
    for line in json.lines() {
        let profile: Value = serde_json::from_str(line)?;
        let name = profile["name"].as_str().unwrap_or_default().to_owned();
        check(
            !name.is_empty() && text.contains(&name) && help.contains(&name),
            &name,
        )?;
    }
    check(json.lines().count() > 10, &json)
}

/// `tramline lab` between anyone and a hub's CoAP door.
struct Lab {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Lab {
    fn start(hub: &Hub, args: &[&str]) -> Result<Self, Failed> {
        let mut child = tramline()
            .args(["lab", "--json", "--listen", "127.0.0.1:0", "--to"])
            .arg(hub.address("coap"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut lab = Self {
            child,
            stdout: BufReader::new(stdout),
            address: String::new(),
        };
        let mut line = String::new();
        lab.stdout.read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line)?;
        check(ready["event"] == "ready", &ready)?;
        let address = ready["listen"]["lab"][0].as_str();
        lab.address.push_str(address.unwrap_or_default());
        Ok(lab)
    }

    /// SIGTERM; the summary.
    fn stop(&mut self) -> Result<Value, Failed> {
        let pid = self.child.id().to_string();
        run(Command::new("kill").args(["-TERM", &pid]))?;
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        let code = hub::ended(&mut self.child)?.code();
        check(code == Some(0), code)?;
        let summary: Value = serde_json::from_str(&rest)?;
        check(summary["event"] == "summary", &summary)?;
        Ok(summary)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks the hub for its versions, in JSON.
fn ask(lab: &Lab) -> Result<(), Failed> {
    let answer = client(lab, &["-B", "60"])?;
    check(answer.contains("versions"), &answer)
}

fn client(lab: &Lab, args: &[&str]) -> Result<String, Failed> {
    let url = format!("coap://{}/_matrix/client/versions", lab.address);
    run(Command::new(peers::libcoap("notls")?)
        .args(["-m", "get", "-A", "50"])
        .args(args)
        .arg(url))
}

/// A seed with which half of everything is lost, but of the first few only the very first up.
fn seed_that_loses_the_first() -> u64 {
    const FEW: usize = 4;
    let profile = Profile {
        loss: Ppm::percent(50),
        ..Profile::PERFECT
    };
    let fits = |seed: &u64| {
        let mut link = Link::new(profile.clone(), *seed);
        let now = Micros::ZERO;
        let mut came = Vec::new();
        for _ in 0..FEW {
            link.offer(now, Origin::Client(0), Bytes::new());
            let port = link.poll(now).map(|up| up.via);
            came.push(port.is_some());
            let Some(port) = port else { continue };
            link.offer(now, Origin::Hub(port), Bytes::new());
            let down = link.poll(now).map(|down| down.direction);
            came.push(down == Some(Direction::Down));
        }
        came.iter().position(|came| !came) == Some(0) && came.iter().skip(1).all(|came| *came)
    };
    (0..100_000)
        .find(fits)
        .expect("one seed in a hundred or so does")
}

fn check(holds: bool, what: impl std::fmt::Debug) -> Result<(), Failed> {
    if holds {
        return Ok(());
    }
    Err(format!("{what:?}").into())
}
