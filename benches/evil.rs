//! How long an honest user's message takes while an evil server floods the hub, beside how long it
//! takes when nobody does. `cargo bench --bench evil`, about three minutes; with `-- KIND` (see `flood`
//! in `tests/peers/evil.py`) only that kind of flood.
//!
//! There are the hub, a real Synapse with a user in a room of the hub, and two servers of the evil peer,
//! all on the same machine. From the call that sends to the answer of the sync that waits on the other
//! server, both ways, in rounds: quiet, then under the flood, and again. The flood is prepared: signed
//! once and replayed as fast as it is answered, over a dozen connections: events with bad signatures,
//! ten thousand forks, transactions of nine mebibytes that are signed and that are not, reads of the
//! room's state, and fifty connections that send a byte a second. Who floods shares the two cores with
//! everybody who is flooded, which makes it worse than it is.

mod common;
#[path = "../tests/it/hub.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared with the tests, which use all of it"
)]
mod hub;
#[path = "../tests/it/peers.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    reason = "shared with the tests, which use all of it"
)]
mod peers;
#[path = "../tests/it/scripted.rs"]
#[expect(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "shared with the tests, which use all of it"
)]
mod scripted;

use std::{fs, process::ExitCode, time::Duration};

use common::{
    Failed, Limit, Report, disk,
    seen::{crossed, next},
};
use ruma::OwnedRoomId;
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Call, Client, Target},
};

use crate::{hub::Hub, peers::Synapse, scripted::Scripted};

/// Rounds of each kind.
const ROUNDS: usize = 4;

/// Messages each way in a round.
const MESSAGES: usize = 15;

/// How many times as long as when all is quiet a message may take.
const RATIO_MAX: f64 = 2.0;

/// Before each message: by then the other side's sync waits.
const PAUSE: Duration = Duration::from_millis(100);

/// After the flood: what it left is done by then.
const CALM: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    common::run(async {
        let kinds: Vec<String> = std::env::args()
            .skip(1)
            .filter(|word| !word.starts_with('-'))
            .collect();
        let folder = disk()?;
        let args = ["--users", "alice", "--cert", "localhost", "--no-presence"];
        let synapse = Synapse::start(&folder.path().join("run"), 1, &args).map_err(said)?;
        let options = options(&synapse.about)?;
        let hub = Hub::federating(&["ana"], &options).map_err(said)?;
        let evil = Scripted::start("evil.py", &synapse.about, 2).map_err(said)?;
        let mut bench = Bench::set(&hub, &synapse.about, evil).await?;
        bench.measure(&kinds).await
    })
}

struct Bench {
    evil: Scripted,
    hub: String,
    /// The room that is flooded; the honest ones are in another one.
    flooded: OwnedRoomId,
    ways: [Way; 2],
}

/// From one user to the other.
struct Way {
    name: &'static str,
    room: OwnedRoomId,
    from: Client,
    to: Client,
    since: String,
    quiet: Vec<f64>,
    flooded: Vec<f64>,
}

impl Bench {
    async fn set(hub: &Hub, about: &Value, mut evil: Scripted) -> Result<Self, Failed> {
        let pem = fs::read_to_string(text(about, "/ca_cert")?)?;
        let ours = Target::parse(&hub.https(), Some(&pem))?;
        let theirs = Target::parse(text(about, "/servers/0/https_url")?, Some(&pem))?;
        let mut ana = Client::open(&ours, &world()).await?;
        ana.login("ana", "secret-ana", None).await?;
        let token = text(about, "/servers/0/users/0/access_token")?;
        let mut alice = Client::resume(&theirs, token, &world()).await?;
        let wish = || json!({ "preset": "public_chat", "room_version": "12" });
        let (honest, flooded) = (
            ana.create_room(wish()).await?,
            ana.create_room(wish()).await?,
        );
        let mut join = Call::post(&["join", honest.as_str()], json!({}));
        join.query = vec![("via", hub.name().to_owned())];
        alice.call("join", join).await?;
        for server in 0..2 {
            let join = json!({
                "op": "join", "server": server, "via": hub.name(),
                "room_id": flooded.as_str(), "user": "mal",
            });
            evil.ask(&join).map_err(said)?;
        }
        let again = |client: &Client, target: Target| {
            let token = client.token().map(str::to_owned);
            async move {
                let token = token.ok_or("a session without a token")?;
                Ok::<Client, Failed>(Client::resume(&target, &token, &world()).await?)
            }
        };
        let (ana_too, alice_too) = (
            again(&ana, ours.clone()).await?,
            again(&alice, theirs.clone()).await?,
        );
        let room = honest;
        let ways = [
            Way::of("hub to Synapse", room.clone(), ana, alice_too).await?,
            Way::of("Synapse to hub", room, alice, ana_too).await?,
        ];
        Ok(Self {
            evil,
            hub: hub.name().to_owned(),
            flooded,
            ways,
        })
    }

    async fn measure(&mut self, kinds: &[String]) -> Result<Report, Failed> {
        let flood = json!({
            "op": "flood", "to": self.hub, "room_id": self.flooded.as_str(), "kinds": kinds,
        });
        for round in 0..ROUNDS {
            for way in &mut self.ways {
                for number in 0..MESSAGES {
                    let span = way.cross(&format!("quiet {round} {number}")).await?;
                    way.quiet.push(span);
                }
            }
            self.evil.ask(&flood).map_err(said)?;
            tokio::time::sleep(CALM).await;
            for way in &mut self.ways {
                for number in 0..MESSAGES {
                    let span = way.cross(&format!("flooded {round} {number}")).await?;
                    way.flooded.push(span);
                }
            }
            let ebb = self.evil.ask(&json!({"op": "ebb"})).map_err(said)?;
            println!(
                "round {round}: {}",
                ebb.get("counts").unwrap_or(&Value::Null)
            );
            tokio::time::sleep(CALM).await;
        }
        let mut report = Report::default();
        for way in &mut self.ways {
            let (quiet, flooded) = (shown(&mut way.quiet), shown(&mut way.flooded));
            let figure = format!("quiet {}, flooded {}", quiet.1, flooded.1);
            let ratio = ("p50 ×", flooded.0 / quiet.0);
            report.line(way.name, &figure, ratio, Limit::AtMost(RATIO_MAX));
        }
        Ok(report)
    }
}

impl Way {
    async fn of(
        name: &'static str,
        room: OwnedRoomId,
        from: Client,
        mut to: Client,
    ) -> Result<Self, Failed> {
        let since = next(&to.sync(None, 0).await?)?;
        let mut way = Self {
            name,
            room,
            from,
            to,
            since,
            quiet: Vec::new(),
            flooded: Vec::new(),
        };
        for number in 0..5 {
            way.cross(&format!("warming up {number}")).await?;
        }
        Ok(way)
    }

    /// Milliseconds from sent here to seen there.
    async fn cross(&mut self, text: &str) -> Result<f64, Failed> {
        let Self {
            room,
            from,
            to,
            since,
            ..
        } = self;
        let text = format!("{text} {}", self.name);
        let span = crossed((from, to), since, (room, &text), PAUSE).await?;
        Ok(span.as_secs_f64() * 1000.0)
    }
}

/// The p50, and how it is told.
fn shown(spans: &mut [f64]) -> (f64, String) {
    spans.sort_by(f64::total_cmp);
    let at = |part: usize| {
        let index = spans.len() * part / 100;
        spans.get(index).copied().unwrap_or(f64::NAN)
    };
    (at(50), format!("p50 {:.1} p90 {:.1} ms", at(50), at(90)))
}

fn options(about: &Value) -> Result<Vec<String>, Failed> {
    Ok(vec![
        "federation.enabled=true".to_owned(),
        "federation.allow_private_addresses=true".to_owned(),
        format!("federation.ca_file={}", text(about, "/ca_cert")?),
        format!("https.cert_file={}", text(about, "/certs/localhost/cert")?),
        format!("https.key_file={}", text(about, "/certs/localhost/key")?),
    ])
}

fn text<'a>(about: &'a Value, path: &str) -> Result<&'a str, Failed> {
    let text = about.pointer(path).and_then(Value::as_str);
    text.ok_or_else(|| format!("no text at {path}").into())
}

#[expect(clippy::needless_pass_by_value, reason = "reads best in map_err")]
fn said(failed: libtest_mimic::Failed) -> Failed {
    failed.message().unwrap_or("failed").into()
}
