//! Linked devices by the client's verbs, over OSCORE: the real binary on both sides.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::hub::{Hub, NAME, ended, output, run, tramline};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "thin_client::two_linked_users_talk_and_go_on_after_a_sigkill_without_relinking",
            talk,
        ),
        Trial::test(
            "thin_client::a_device_linked_by_a_code_is_in_its_users_rooms",
            by_code,
        ),
    ]
}

/// How long a follower may take to print what it was sent, on a busy machine.
const SHOWN: Duration = Duration::from_secs(40);

fn link(hub: &Hub, user: &str) -> Result<PathBuf, Failed> {
    let file = hub.path().join(format!("{user}-phone.json"));
    let mut command = tramline();
    command.args(["link", user, "--device", "PHONE", "--config"]);
    run(command.arg(hub.config()).arg("--out").arg(&file))?;
    Ok(file)
}

fn client(file: &PathBuf, args: &[&str]) -> Command {
    let mut command = tramline();
    command.args(["client", "--json", "--credentials"]);
    command.arg(file).args(args);
    command
}

/// The lines that a verb prints.
fn done(file: &PathBuf, args: &[&str]) -> Result<Vec<Value>, Failed> {
    let said = run(&mut client(file, args))?;
    let lines = said.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

fn texts(lines: &[Value]) -> Vec<String> {
    let texts = lines.iter().filter_map(|line| line["text"].as_str());
    texts.map(str::to_owned).collect()
}

fn equal<T: PartialEq + std::fmt::Debug>(found: &T, wanted: &T) -> Result<(), Failed> {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{found:?}, not {wanted:?}").into())
    }
}

/// `client sync --follow`, and what it prints.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Follower {
    fn of(file: &PathBuf) -> Result<Self, Failed> {
        let mut command = client(file, &["sync", "--follow"]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = tell.send(serde_json::from_str(&line).unwrap_or(Value::Null));
            }
        });
        Ok(Self { child, lines })
    }

    /// The texts shown until `last` is among them.
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a real program may take"
    )]
    fn texts_until(&self, last: &str) -> Result<Vec<String>, Failed> {
        let until = Instant::now() + SHOWN;
        let mut lines = Vec::new();
        while !texts(&lines).iter().any(|text| text == last) {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            lines.push(line.map_err(|_| format!("{last:?} was not shown, only {lines:?}"))?);
        }
        Ok(texts(&lines))
    }

    /// SIGINT, as Ctrl-C does; it must end with 0.
    fn end(mut self) -> Result<(), Failed> {
        let id = self.child.id().to_string();
        run(Command::new("kill").arg("-INT").arg(id))?;
        equal(&ended(&mut self.child)?.code(), &Some(0))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn talk() -> Result<(), Failed> {
    let mut hub = Hub::with_users(&["ana", "bob"])?;
    let (ana, bob) = (link(&hub, "ana")?, link(&hub, "bob")?);
    let guest = format!("@bob:{NAME}");
    let made = done(&ana, &["create", "--name", "Crew", "--invite", &guest])?;
    let room = made[0]["room_id"].as_str().ok_or("no room")?.to_owned();
    done(&bob, &["join", &room])?;
    let joined = done(&bob, &["rooms"])?;
    equal(&joined[0]["room_id"], &Value::from(room.as_str()))?;
    let said = |file: &PathBuf, text: &str| done(file, &["send", &room, text]);

    let first = said(&ana, "one")?;
    equal(&first[0]["cost"]["datagrams"].is_null(), &false)?;
    equal(
        &texts(&done(&bob, &["read", &room])?),
        &vec!["one".to_owned()],
    )?;
    // The first sync is where a device begins; what was before is for `read`.
    for file in [&ana, &bob] {
        equal(&texts(&done(file, &["sync"])?), &Vec::new())?;
    }
    let follower = Follower::of(&bob)?;
    said(&ana, "two")?;
    equal(&follower.texts_until("two")?, &vec!["two".to_owned()])?;

    // The devices know the hub's port; the hub comes back on it.
    hub.option(&format!("coap.listen={}", hub.address("coap")));
    hub.kill()?;
    let unsent = output(&mut client(&ana, &["send", &room, "three"]))?;
    equal(&unsent.status.code(), &Some(1))?;
    hub.start()?;
    said(&ana, "four")?;
    let shown = follower.texts_until("four")?;
    equal(&shown, &vec!["three".to_owned(), "four".to_owned()])?;
    follower.end()?;
    said(&bob, "five")?;

    equal(
        &texts(&done(&ana, &["sync"])?).last(),
        &Some(&"five".to_owned()),
    )?;
    let all = ["one", "two", "three", "four", "five"].map(str::to_owned);
    for file in [&ana, &bob] {
        equal(&texts(&done(file, &["read", &room])?), &all.to_vec())?;
        let ledger = done(file, &["ledger"])?;
        let total = ledger.last().ok_or("no ledger")?;
        equal(&total["bytes_up"].as_u64().is_some_and(|up| up > 0), &true)?;
    }
    // What a device says itself is in its rooms, too.
    equal(&texts(&done(&bob, &["sync"])?), &vec!["five".to_owned()])?;
    equal(&texts(&done(&bob, &["sync"])?), &Vec::new())
}

fn by_code() -> Result<(), Failed> {
    let hub = Hub::with_users(&["ana"])?;
    let laptop = hub.path().join("laptop.json");
    let mut command = tramline();
    command.args(["client", "--login", &hub.https(), "ana", "--ca"]);
    command.arg(hub.ca()).arg("--password-file");
    command.arg(hub.path().join("password-ana"));
    run(command.arg("--save").arg(&laptop))?;
    let made = done(&laptop, &["create", "--name", "Crew"])?;

    let approved = done(&laptop, &["approve", "--device", "TAB"])?;
    let code = approved[0]["code"].as_str().ok_or("no code")?;
    let tab = hub.path().join("tab.json");
    let link = |file: &PathBuf| {
        let mut command = tramline();
        command.args(["client", "link", code, "--server", &hub.https(), "--out"]);
        command.arg(file);
        command
    };
    run(&mut link(&tab))?;
    let rooms = done(&tab, &["rooms"])?;
    equal(&rooms[0]["room_id"], &made[0]["room_id"])?;
    let again = output(&mut link(&hub.path().join("again.json")))?;
    equal(&again.status.code(), &Some(1))
}
