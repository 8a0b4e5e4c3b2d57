//! `tramline demo`: the main job, start to end, on real sockets, and every claim checked.
//!
//! A hub runs as its own process in a temporary directory, so that it can really be killed. One
//! user speaks CoAP/CBOR, the other HTTPS/JSON; two more do the same with the doors swapped, so
//! that each operation has its price over both. Two linked devices, one over OSCORE and one over QUIC,
//! talk with what the thin profile has, before the hub is killed and after. What is printed is what
//! was checked.
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value gives null where there is nothing"
)]

mod checks;
mod child;
mod phone;

use std::{collections::BTreeMap, io::Write, path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::{Value, json};

use self::{child::HubProcess, phone::Phone};
use crate::{
    app::clock::world,
    client::{Call, Client, ClientError, Cost, Target, thin::DoorChoice},
};

/// How many messages each user sends while the hub is killed.
const STREAM: usize = 60;

/// After how many acknowledged messages of the stream the hub is killed.
const KILL_AFTER: usize = 25;

/// Runs the demo. `out` gets the transcript; with `json`, one object per line instead.
pub async fn run(out: &mut dyn Write, json: bool) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let mut demo = Demo { out, json };
    demo.say("a hub in a directory of its own, on SQLite; four users")?;
    let mut hub = HubProcess::init(dir.path(), &["ana", "bob", "cy", "dee"])?;
    hub.start()?;
    demo.note("ready", hub.ready())?;

    let mut ana = User::log_in(&hub, "ana", "coap").await?;
    let mut bob = User::log_in(&hub, "bob", "https").await?;
    demo.say("ana is in over CoAP/CBOR, bob over HTTPS/JSON")?;
    let room = demo.talk(&mut ana, &mut bob).await?;
    let mut cy = User::log_in(&hub, "cy", "https").await?;
    let mut dee = User::log_in(&hub, "dee", "coap").await?;
    demo.say("the same with the doors swapped: cy is in over HTTPS/JSON, dee over CoAP/CBOR")?;
    demo.talk(&mut cy, &mut dee).await?;
    demo.say("ana links a phone: OSCORE over UDP, no token and no handshake; bob one over QUIC")?;
    let mut ana_phone = Phone::link(&hub, dir.path(), "ana", DoorChoice::Oscore)?;
    let mut bob_phone = Phone::link(&hub, dir.path(), "bob", DoorChoice::Quic)?;
    demo.talk_thin([&ana_phone, &bob_phone], &room, 1).await?;
    let acked = demo
        .kill_mid_stream(&mut hub, &mut ana, &mut bob, &room)
        .await?;
    demo.check_history(&mut ana, &room, &acked).await?;
    demo.check_history(&mut bob, &room, &acked).await?;
    demo.say("the phones go on with the keys they have: nothing is linked or agreed again")?;
    ana_phone.meet(&hub);
    bob_phone.meet(&hub);
    demo.talk_thin([&ana_phone, &bob_phone], &room, 2).await?;

    hub.stop()?;
    demo.show_log(dir.path(), &room, &acked).await?;
    demo.show_bytes(&[ana, bob, cy, dee])?;
    demo.show_ledger(&ana_phone).await?;
    demo.show_ledger(&bob_phone).await?;
    demo.say("all of it held")
}

struct Demo<'a> {
    out: &'a mut dyn Write,
    json: bool,
}

/// One of the people.
struct User {
    name: &'static str,
    door: &'static str,
    client: Client,
    costs: BTreeMap<String, (u64, Cost)>,
}

impl User {
    async fn log_in(
        hub: &HubProcess,
        name: &'static str,
        door: &'static str,
    ) -> anyhow::Result<Self> {
        let mut client = Client::open(&hub.target(door)?, &world()).await?;
        client
            .login(name, &child::password(name), None)
            .await
            .with_context(|| format!("{name} cannot log in over {door}"))?;
        Ok(Self {
            name,
            door,
            client,
            costs: BTreeMap::new(),
        })
    }

    /// The same session through the door of a hub that was started again.
    async fn come_back(&mut self, target: &Target) -> Result<(), ClientError> {
        let token = self.client.token().unwrap_or_default().to_owned();
        let fresh = Client::resume(target, &token, &world()).await?;
        let old = std::mem::replace(&mut self.client, fresh);
        self.keep(&old);
        Ok(())
    }

    fn keep(&mut self, client: &Client) {
        for (operation, count, cost) in client.ledger().lines() {
            let line = self.costs.entry(operation.to_owned()).or_default();
            line.0 += count;
            line.1 += cost;
        }
    }
}

impl Demo<'_> {
    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.note("demo", &json!({ "text": text }))
    }

    fn note(&mut self, event: &str, body: &Value) -> anyhow::Result<()> {
        if self.json {
            let mut line = json!({ "event": event });
            if let (Some(line), Some(body)) = (line.as_object_mut(), body.as_object()) {
                line.extend(body.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            return Ok(writeln!(self.out, "{line}")?);
        }
        match body.get("text").and_then(Value::as_str) {
            Some(text) => writeln!(self.out, "{text}")?,
            None => writeln!(self.out, "  {event}: {body}")?,
        }
        Ok(())
    }

    fn did(&mut self, user: &User, what: &str) -> anyhow::Result<()> {
        if self.json {
            let line = json!({"event": "did", "who": user.name, "door": user.door, "what": what});
            return Ok(writeln!(self.out, "{line}")?);
        }
        Ok(writeln!(
            self.out,
            "  {:<3} {:<5}  {what}",
            user.name, user.door
        )?)
    }

    /// Create, invite, join, talk, change state, redact, page back.
    async fn talk(&mut self, host: &mut User, guest: &mut User) -> anyhow::Result<OwnedRoomId> {
        let wish = json!({
            "room_version": "12", "preset": "private_chat", "name": "Thin links",
            "invite": [format!("@{}:demo.example", guest.name)],
        });
        let room = host.client.create_room(wish).await?;
        ensure!(
            !room.as_str().contains(':'),
            "a v12 room id names no server, this is {room}"
        );
        let what = format!("creates a v12 room and invites {}: {room}", guest.name);
        self.did(host, &what)?;

        let invited = guest.client.sync(None, 0).await?;
        ensure!(
            !invited["rooms"]["invite"][room.as_str()].is_null(),
            "{}'s first sync shows no invite: {invited}",
            guest.name
        );
        guest.client.join(room.as_str()).await?;
        self.did(guest, "sees the invite in the first sync and joins")?;

        let hello = host
            .client
            .say(&room, "hello", "Meet me at the station")
            .await?;
        self.did(host, &format!("«Meet me at the station»  {hello}"))?;
        let since = invited["next_batch"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let news = guest.client.sync(Some(&since), 5_000).await?;
        ensure!(
            timeline_has(&news, &room, &hello),
            "{}'s sync misses {hello}: {news}",
            guest.name
        );
        self.did(guest, "reads it in the next sync")?;

        let again = host
            .client
            .say(&room, "hello", "Meet me at the station")
            .await?;
        ensure!(again == hello, "a retry made a second event: {again}");
        self.did(
            host,
            "sends it again with the same transaction id: same event, no second one",
        )?;

        let answer = guest.client.say(&room, "answer", "Which one?").await?;
        self.did(guest, &format!("«Which one?»  {answer}"))?;
        let topic = json!({"topic": "the one by the river"});
        host.client
            .set_state(&room, "m.room.topic", "", topic)
            .await?;
        self.did(host, "sets the topic")?;
        host.client.redact(&room, &hello, "redact-hello").await?;
        self.did(host, "redacts the first message")?;
        self.check_page(guest, &room, &hello, &answer).await?;
        self.check_refusal(guest, &room).await?;
        Ok(room)
    }

    async fn check_page(
        &mut self,
        user: &mut User,
        room: &OwnedRoomId,
        redacted: &OwnedEventId,
        kept: &OwnedEventId,
    ) -> anyhow::Result<()> {
        let page = user.client.messages(room, None, true, 50).await?;
        let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
        let find = |id: &OwnedEventId| chunk.iter().find(|event| event["event_id"] == id.as_str());
        let gone = find(redacted).context("the redacted event is still in the log")?;
        ensure!(
            gone["content"] == json!({}),
            "redacted, but not empty: {gone}"
        );
        let there = find(kept).context("the other message is in the log")?;
        ensure!(
            there["content"]["body"] == "Which one?",
            "not as sent: {there}"
        );
        self.did(
            user,
            &format!(
                "pages back over {} events: the first is empty now",
                chunk.len()
            ),
        )
    }

    async fn check_refusal(&mut self, user: &mut User, room: &OwnedRoomId) -> anyhow::Result<()> {
        let name = json!({"name": "My room"});
        let path = ["rooms", room.as_str(), "state", "m.room.name", ""];
        let refused = user.client.call("be refused", Call::put(&path, name)).await;
        match refused {
            Err(ClientError::Refused { errcode, error, .. }) if errcode == "M_FORBIDDEN" => {
                self.did(user, &format!("may not rename the room: {error}"))
            }
            other => bail!("{} could rename the room: {other:?}", user.name),
        }
    }

    /// Both send; the hub is killed in the middle and started again; what was not acknowledged is
    /// sent again. Gives what was acknowledged, in each one's order.
    async fn kill_mid_stream(
        &mut self,
        hub: &mut HubProcess,
        ana: &mut User,
        bob: &mut User,
        room: &OwnedRoomId,
    ) -> anyhow::Result<Vec<Vec<OwnedEventId>>> {
        let (counted, mut acks) = tokio::sync::mpsc::channel(STREAM * 2);
        let first = stream(ana, room, 0, counted.clone());
        let second = stream(bob, room, 0, counted);
        let kill = async {
            for _ in 0..KILL_AFTER {
                acks.recv().await;
            }
            hub.kill()
        };
        let (from_ana, from_bob, killed) = tokio::join!(first, second, kill);
        killed?;
        let before = from_ana.len() + from_bob.len();
        ensure!(
            before < STREAM * 2,
            "the hub was killed too late to cut anything"
        );
        self.say(&format!(
            "SIGKILL after {before} acknowledged messages of {}",
            STREAM * 2
        ))?;

        hub.start()?;
        ana.come_back(&hub.target(ana.door)?).await?;
        bob.come_back(&hub.target(bob.door)?).await?;
        let (counted, _acks) = tokio::sync::mpsc::channel(STREAM * 2);
        let rest = tokio::join!(
            stream(ana, room, from_ana.len(), counted.clone()),
            stream(bob, room, from_bob.len(), counted)
        );
        let acked: Vec<Vec<_>> = vec![
            from_ana.into_iter().chain(rest.0).collect(),
            from_bob.into_iter().chain(rest.1).collect(),
        ];
        ensure!(
            acked.iter().all(|acked| acked.len() == STREAM),
            "after the restart not everything could be sent"
        );
        self.say("started again; the same sessions send what was not acknowledged")?;
        Ok(acked)
    }

    async fn check_history(
        &mut self,
        user: &mut User,
        room: &OwnedRoomId,
        acked: &[Vec<OwnedEventId>],
    ) -> anyhow::Result<()> {
        let log = checks::history(&mut user.client, room).await?;
        checks::once_and_in_order(&log, acked)?;
        let bodies = checks::bodies(&log);
        ensure!(
            bodies.values().all(|count| *count == 1),
            "a message stands in the log twice: {bodies:?}"
        );
        let total: usize = acked.iter().map(Vec::len).sum();
        self.did(
            user,
            &format!("pages back: {total} acknowledged messages, each once, in order"),
        )
    }

    async fn show_log(
        &mut self,
        dir: &Path,
        room: &OwnedRoomId,
        acked: &[Vec<OwnedEventId>],
    ) -> anyhow::Result<()> {
        let log = checks::read_log(dir, room).await?;
        checks::chain(room, &log)?;
        let ids: Vec<_> = log.iter().map(|line| line.id.clone()).collect();
        for id in acked.iter().flatten() {
            ensure!(
                ids.contains(id),
                "{id} was acknowledged and is not in the store"
            );
        }
        if !self.json {
            writeln!(self.out, "the log of {room}, as stored:")?;
            writeln!(
                self.out,
                "  {:>4}  {:<16}  {:<22}  event",
                "seq", "chain", "type"
            )?;
        }
        let shown = log
            .iter()
            .filter(|line| line.seq <= 16 || line.seq + 3 > log.len() as u64);
        for line in shown {
            let chain: String = line.chain.chars().take(16).collect();
            if self.json {
                let line = json!({"event": "log", "seq": line.seq, "chain": line.chain,
                    "type": line.kind, "event_id": line.id});
                writeln!(self.out, "{line}")?;
            } else {
                writeln!(
                    self.out,
                    "  {:>4}  {chain}  {:<22}  {}",
                    line.seq, line.kind, line.id
                )?;
                if line.seq == 16 && log.len() > 20 {
                    writeln!(self.out, "   ...")?;
                }
            }
        }
        self.say(&format!(
            "{} entries, no gap, chain recomputed; fsck finds nothing",
            log.len()
        ))
    }

    fn show_bytes(&mut self, users: &[User]) -> anyhow::Result<()> {
        let [coap, https] = ["coap", "https"].map(|door| costs(users, door));
        for (door, other) in [(&coap, &https), (&https, &coap)] {
            let missing = other
                .keys()
                .find(|operation| !door.contains_key(*operation));
            ensure!(missing.is_none(), "{missing:?} was done over one door only");
        }
        if !self.json {
            writeln!(
                self.out,
                "bytes per operation, up + down, without IP headers"
            )?;
            writeln!(
                self.out,
                "(CoAP: datagrams; HTTPS: what TCP carried, TLS included):"
            )?;
            writeln!(
                self.out,
                "  {:<14} {:>22} {:>22}",
                "operation", "CoAP/CBOR", "HTTPS/JSON"
            )?;
        }
        let names: std::collections::BTreeSet<_> = coap.keys().chain(https.keys()).collect();
        for name in names {
            let (coap, https) = (coap.get(name), https.get(name));
            if self.json {
                let line = json!({"event": "bytes", "operation": name,
                    "coap": coap.map(average), "https": https.map(average)});
                writeln!(self.out, "{line}")?;
            } else {
                let cell = |line: Option<&(u64, Cost)>| {
                    line.map_or_else(String::new, |line| {
                        let [up, down] = average(line);
                        format!("{up} + {down} = {}", up + down)
                    })
                };
                writeln!(
                    self.out,
                    "  {name:<14} {:>22} {:>22}",
                    cell(coap),
                    cell(https)
                )?;
            }
        }
        Ok(())
    }
}

/// What everyone spent at a door, by operation.
fn costs(users: &[User], door: &str) -> BTreeMap<String, (u64, Cost)> {
    let mut all: BTreeMap<String, (u64, Cost)> = BTreeMap::new();
    for user in users.iter().filter(|user| user.door == door) {
        let earlier = user
            .costs
            .iter()
            .map(|(name, (n, cost))| (name.as_str(), *n, *cost));
        for (operation, count, cost) in earlier.chain(user.client.ledger().lines()) {
            let line = all.entry(operation.to_owned()).or_default();
            line.0 += count;
            line.1 += cost;
        }
    }
    all
}

fn average((count, cost): &(u64, Cost)) -> [u64; 2] {
    let count = (*count).max(1);
    [cost.up / count, cost.down / count]
}

/// Sends the user's messages from number `from` on, until the end or the first failure.
async fn stream(
    user: &mut User,
    room: &OwnedRoomId,
    from: usize,
    counted: tokio::sync::mpsc::Sender<()>,
) -> Vec<OwnedEventId> {
    let mut acked = Vec::new();
    for number in from..STREAM {
        let text = format!("{} {number}", user.name);
        let txn = format!("stream-{number}");
        let sent = user.client.say(room, &txn, &text);
        // A killed hub answers nothing: over UDP only time can tell.
        match tokio::time::timeout(Duration::from_secs(3), sent).await {
            Ok(Ok(event)) => acked.push(event),
            _ => break,
        }
        let _ = counted.send(()).await; // once the kill is on its way nobody counts any more
    }
    acked
}

fn timeline_has(sync: &Value, room: &OwnedRoomId, event: &OwnedEventId) -> bool {
    let timeline = &sync["rooms"]["join"][room.as_str()]["timeline"]["events"];
    timeline.as_array().is_some_and(|events| {
        events
            .iter()
            .any(|found| found["event_id"] == event.as_str())
    })
}
