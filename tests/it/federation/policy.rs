//! Rooms with a policy server, among real Synapses: the hub is one, and asks another one.
//!
//! What the rules refuse here is an event of more than two kilobytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::Instant,
};

use libtest_mimic::Failed;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, serde::Base64};
use serde_json::{Value, json};
use tramline::{
    client::{Call, ClientError},
    edge::matrix::{Federation, outgoing::Ask},
    room::PolicyServer,
    wire::{
        json as wire_json,
        matrix::{Pdu, PduFields, ServerKey, Version},
    },
};

use super::{
    Peers,
    everyone::{Member, all_are_in, each_reads, each_shows, eventually, plain, said},
    key_of, text,
};
use crate::hub::{Hub, block_on};

const VERSIONS: [&str; 3] = ["12", "11", "10"];

/// The rule, as the operator writes it. The join of a v11 room, the largest that has to pass, has 1.2 kB.
const RULE: &str = "event_size = \"2KiB\"\n";

pub(super) fn synapse_asks_the_hub_where_a_room_names_it() -> Result<(), Failed> {
    let peers = Peers::of(2)?;
    let mut hub = Hub::federating_with(&["ana"], &peers.options()?, guard)?;
    let told = block_on(async {
        let mut rooms = Vec::new();
        for version in VERSIONS {
            let room = Policed::of(&peers, &hub, version).await;
            let mut room = room.map_err(|error| of_version(version, &error))?;
            let told = room.is_filtered(&peers, &hub).await;
            told.map_err(|error| of_version(version, &error))?;
            rooms.push(room);
        }
        what_is_sent_while_the_policy_server_is_away(&mut hub, &mut rooms).await?;
        for room in &mut rooms {
            let told = room.is_decided_once(&peers, &hub).await;
            told.map_err(|error| of_version(room.version, &error))?;
        }
        Ok(())
    });
    ended(told, &mut [&mut hub])
}

pub(super) fn the_hub_asks_another_where_a_room_names_that() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let mut hub = Hub::federating(&["ana"], &peers.options()?)?;
    let mut other = Hub::federating_with(&["gus"], &peers.options()?, guard)?;
    let told = block_on(async {
        let mut rooms = Vec::new();
        for version in VERSIONS {
            let room = asking(&peers, &hub, &other, version).await;
            rooms.push(room.map_err(|error| of_version(version, &error))?);
        }
        the_other_is_away(&hub, &mut other, &mut rooms).await
    });
    ended(told, &mut [&mut hub, &mut other])
}

fn of_version(version: &str, error: &Failed) -> Failed {
    format!("version {version}: {}", said(error)).into()
}

fn ended(told: Result<(), Failed>, hubs: &mut [&mut Hub]) -> Result<(), Failed> {
    told.map_err(|error: Failed| {
        let logs: Vec<String> = hubs.iter().map(|hub| hub.log_text()).collect();
        Failed::from(format!("{}\n{}", said(&error), logs.join("\n\n")))
    })?;
    for hub in hubs {
        hub.stop()?;
        let (code, report) = hub.fsck()?;
        assert_eq!(code, 0, "{report}");
    }
    Ok(())
}

/// Has a hub filter, by what stands in its file: so that another start may have another rule.
fn guard(hub: &Hub) -> Result<(), Failed> {
    rule(hub, RULE)
}

fn rule(hub: &Hub, rule: &str) -> Result<(), Failed> {
    let file = fs::read_to_string(hub.config())?;
    let before = file.split("[policy]").next().unwrap_or_default();
    let text = format!("{before}[policy]\nenabled = true\n{rule}");
    Ok(fs::write(hub.config(), text)?)
}

/// What no rule refuses, and what ours does.
fn long() -> String {
    "much ".repeat(500)
}

/// What a hub vouches with, as it publishes it.
async fn published(edge: &Federation, hub: &Hub) -> Result<PolicyServer, Failed> {
    let ask = Ask::get("/.well-known/matrix/policy_server").unsigned();
    let server: OwnedServerName = hub.name().try_into()?;
    let told = edge.outgoing.ask(&server, &ask).await?;
    let told = wire_json::read_lax(told.success()?)?;
    let key = text(&told["public_keys"]["ed25519"])?;
    let content = json!({ "via": hub.name(), "public_keys": { "ed25519": key } });
    let server = PolicyServer::read(&serde_json::from_value(content)?);
    server.ok_or_else(|| format!("no policy server: {told}").into())
}

fn naming(server: &PolicyServer) -> Value {
    json!({ "via": server.via, "public_keys": { "ed25519": server.key.base64() } })
}

/// The key of a Synapse: whoever has it is that server.
fn key_of_synapse(peers: &Peers, index: usize) -> Result<ServerKey, Failed> {
    let server = peers.nth(index);
    let file = fs::read_to_string(format!("{}/signing.key", text(&server["dir"])?))?;
    let words: Vec<&str> = file.split_whitespace().collect();
    let ["ed25519", version, seed] = words.as_slice() else {
        return Err("its signing key has another form".into());
    };
    let mut der = vec![
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    der.extend(Base64::<ruma::serde::base64::Standard>::parse(seed)?.into_inner());
    let name = text(&server["server_name"])?.try_into()?;
    Ok(ServerKey::from_der(name, &der, version)?)
}

/// A room of the hub's with both Synapses in it, of which the hub is the policy server.
struct Policed {
    version: &'static str,
    room: OwnedRoomId,
    /// Ana of the hub, Alice of the first Synapse and Alice of the second.
    members: Vec<Member>,
    server: PolicyServer,
    /// As the first Synapse, as the second, as the hub.
    edges: [Arc<Federation>; 3],
    second: ServerKey,
    /// Messages that everyone has to show.
    wanted: BTreeSet<String>,
    /// An event of the second Synapse's that the hub refused, and one that it signed, with the signature.
    refused: Option<Pdu>,
    signed: Option<(Pdu, String)>,
}

impl Policed {
    async fn of(peers: &Peers, hub: &Hub, version: &'static str) -> Result<Self, Failed> {
        let edges = [
            peers.edge(key_of_synapse(peers, 0)?)?,
            peers.edge(key_of_synapse(peers, 1)?)?,
            peers.edge(key_of(hub)?)?,
        ];
        let mut members = vec![
            Member::of_hub(peers, hub, "ana").await?,
            Member::of_synapse(peers, 0).await?,
            Member::of_synapse(peers, 1).await?,
        ];
        let wish = json!({ "preset": "public_chat", "room_version": version });
        let room = members[0].client.create_room(wish).await?;
        for member in &mut members[1..] {
            member.join(&room, hub.name()).await?;
        }
        all_are_in(&mut members, &room).await?;
        let server = published(&edges[0], hub).await?;
        names(&mut members, 0, &room, &server).await?;
        Ok(Self {
            version,
            room,
            members,
            server,
            edges,
            second: key_of_synapse(peers, 1)?,
            wanted: BTreeSet::new(),
            refused: None,
            signed: None,
        })
    }

    fn version(&self) -> Result<Version, Failed> {
        read_version(self.version)
    }

    async fn is_filtered(&mut self, peers: &Peers, hub: &Hub) -> Result<(), Failed> {
        let edge = Arc::clone(&self.edges[2]);
        for index in 0..3 {
            let client = &mut self.members[index].client;
            let id = client.say(&self.room, "fine", "this is fine").await?;
            self.wanted.insert(id.to_string());
            let from: OwnedServerName = self.members[1].server.as_str().try_into()?;
            let member = &mut self.members[1..2];
            each_shows(member, &self.room, &[id.to_string()].into()).await?;
            let event = event_of(&edge, &from, id.as_str(), self.version()?).await?;
            assert!(
                self.server.vouches_for(&event, self.version()?),
                "no signature of the hub: {}",
                event.json()
            );
        }
        each_reads(&mut self.members, &self.room, &self.wanted).await?;
        // Refused, and refused again: nowhere is it shown.
        for _ in 0..2 {
            let sent = self.members[1]
                .client
                .say(&self.room, "long", &long())
                .await;
            refused_by(sent, "POLICY_SIZE")?;
        }
        let state = json!({ "topic": long() });
        let alice = &mut self.members[0].client;
        let set = alice.set_state(&self.room, "m.room.topic", "", state).await;
        refused_by(set, "at most 2048 bytes")?;
        self.unsigned(peers, hub).await?;
        each_reads(&mut self.members, &self.room, &self.wanted).await
    }

    /// A server that does not ask: what it says is asked about by those who hear it.
    async fn unsigned(&mut self, peers: &Peers, hub: &Hub) -> Result<(), Failed> {
        let hub_name: OwnedServerName = hub.name().try_into()?;
        let fine = self.by_second("this is fine, too").await?;
        self.taken(&fine, &[&peers.name()?, &hub_name]).await?;
        self.wanted.insert(fine.id().to_string());
        // The second Synapse has it from the others' events, or asks for it.
        each_shows(&mut self.members[..2], &self.room, &self.wanted).await?;

        let long = self.by_second(&long()).await?;
        self.taken(&long, &[&peers.name()?, &hub_name]).await?;
        let server = peers.server();
        let id = long.id().as_str().replace('$', "%24");
        let path = format!("/_synapse/admin/v1/fetch_event/{id}");
        let token = text(&server["users"][0]["access_token"])?;
        let told = eventually("Synapse has what was refused", async || {
            let (status, told) = plain(text(&server["http_url"])?, &path, token).await?;
            Ok(if status == 200 {
                Ok(told)
            } else {
                Err(told.to_string())
            })
        })
        .await?;
        let about = &told["event"]["unsigned"];
        assert_eq!(about["io.element.synapse.soft_failed"], true, "{told}");
        assert_eq!(
            about["io.element.synapse.policy_server_spammy"], true,
            "{told}"
        );
        // The hub has it as well, for the graph's sake.
        let event = event_of(
            &self.edges[0],
            &hub_name,
            long.id().as_str(),
            self.version()?,
        )
        .await?;
        assert!(!self.server.vouches_for(&event, self.version()?));
        let signature = self.asked(&hub_name, &fine).await?;
        self.signed = Some((fine, signature?));
        self.refused = Some(long);
        // What is said now stands beside it, and everyone has everything.
        for member in &mut self.members {
            let id = member.client.say(&self.room, "on", "on it goes").await?;
            self.wanted.insert(id.to_string());
        }
        Ok(())
    }

    /// An event of the second Synapse's user that follows the newest, without a policy signature.
    async fn by_second(&mut self, body: &str) -> Result<Pdu, Failed> {
        let version = self.version()?;
        let state = self.members[0].state(&self.room).await?;
        let sender = self.members[2].user.clone();
        let mut auth = Vec::new();
        for (kind, key) in [
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.member", sender.as_str()),
        ] {
            if kind == "m.room.create" && self.version == "12" {
                continue; // the room's id says it
            }
            let id = state.get(&(kind.to_owned(), key.to_owned()));
            auth.push(id.ok_or("no such state")?.as_str().try_into()?);
        }
        let events = self.members[0].events(&self.room).await?;
        let (last, _) = events.last().ok_or("an empty room")?;
        let from: OwnedServerName = self.members[0].server.as_str().try_into()?;
        let last = event_of(&self.edges[0], &from, last, version).await?;
        let content = json!({ "msgtype": "m.text", "body": body });
        let fields = PduFields {
            room_id: self.room.clone(),
            kind: "m.room.message".to_owned(),
            sender: sender.try_into()?,
            state_key: None,
            content: serde_json::from_value(content)?,
            redacts: None,
            at: last.fields().at,
            depth: last.fields().depth + 1,
            prev: vec![last.id().clone()],
            auth,
        };
        Ok(Pdu::sign(fields, version, &self.second)?)
    }

    /// Sends an event as the second Synapse would; each takes it.
    async fn taken(&self, event: &Pdu, servers: &[&OwnedServerName]) -> Result<(), Failed> {
        let pdu: Value = serde_json::from_str(event.json())?;
        let from = &self.members[2].server;
        let now = event.fields().at.0;
        let body = json!({ "origin": from, "origin_server_ts": now, "pdus": [pdu] });
        let body = serde_json::from_value(body)?;
        for server in servers {
            let txn = event.id().as_str().replace(['$', '/'], "");
            let ask = Ask::put(format!("/_matrix/federation/v1/send/{txn}"), &body);
            let told = self.edges[1].outgoing.ask(server, &ask).await?;
            let told = wire_json::read_lax(told.success()?)?;
            assert_eq!(
                told["pdus"][event.id().as_str()],
                json!({}),
                "{server}: {told}"
            );
        }
        Ok(())
    }

    /// What the hub says, asked to sign an event: the signature, or its refusal.
    async fn asked(
        &self,
        hub: &OwnedServerName,
        event: &Pdu,
    ) -> Result<Result<String, String>, Failed> {
        let body = serde_json::from_str(event.json())?;
        let ask = Ask::post("/_matrix/policy/v1/sign", &body);
        let told = self.edges[1].outgoing.ask(hub, &ask).await?;
        let answer = wire_json::read_lax(&told.body)?;
        if told.status == 200 {
            let signature = &answer[hub.as_str()]["ed25519:policy_server"];
            return Ok(Ok(text(signature)?.to_owned()));
        }
        assert_eq!(
            (told.status, &answer["errcode"]),
            (400, &json!("M_FORBIDDEN"))
        );
        Ok(Err(text(&answer["error"])?.to_owned()))
    }

    /// With other rules since, the hub stands by what it said.
    async fn is_decided_once(&mut self, peers: &Peers, hub: &Hub) -> Result<(), Failed> {
        let name: OwnedServerName = hub.name().try_into()?;
        let (fine, signature) = self.signed.as_ref().ok_or("nothing was signed")?;
        assert_eq!(self.asked(&name, fine).await?.as_ref(), Ok(signature));
        let long = self.refused.as_ref().ok_or("nothing was refused")?;
        let refused = self
            .asked(&name, long)
            .await?
            .expect_err("it is signed now");
        assert!(refused.starts_with("POLICY_SIZE: "), "{refused}");
        // As long, and new: by the rules of today.
        let member = &mut self.members[1];
        member.client = member.another().await?;
        let id = member.client.say(&self.room, "new", &self::long()).await?;
        self.wanted.insert(id.to_string());
        let member = &mut self.members[0];
        *member = Member::of_hub(peers, hub, "ana").await?;
        each_reads(&mut self.members, &self.room, &self.wanted).await
    }
}

/// Who founded a room names its policy server, and everyone comes to know.
async fn names(
    members: &mut [Member],
    founder: usize,
    room: &RoomId,
    server: &PolicyServer,
) -> Result<(), Failed> {
    let client = &mut members[founder].client;
    let named = client.set_state(room, "m.room.policy", "", naming(server));
    let named = named.await?.to_string();
    let key = ("m.room.policy".to_owned(), String::new());
    for member in members {
        eventually("everyone knows the policy server", async || {
            let state = member.state(room).await?;
            let known = state.get(&key) == Some(&named);
            Ok(if known {
                Ok(())
            } else {
                Err(member.server.clone())
            })
        })
        .await?;
    }
    Ok(())
}

fn read_version(version: &str) -> Result<Version, Failed> {
    Ok(version.parse()?)
}

/// An event as a server tells it to another one.
async fn event_of(
    edge: &Federation,
    server: &OwnedServerName,
    id: &str,
    version: Version,
) -> Result<Pdu, Failed> {
    let id = id.replace('$', "%24");
    let ask = Ask::get(format!("/_matrix/federation/v1/event/{id}"));
    let told = edge.outgoing.ask(server, &ask).await?;
    let told = wire_json::read_lax(told.success()?)?;
    Ok(Pdu::read(&told["pdus"][0].to_string(), version)?)
}

fn refused_by<T>(sent: Result<T, ClientError>, words: &str) -> Result<(), Failed> {
    match sent {
        Err(ClientError::Refused { errcode, error, .. })
            if errcode == "M_FORBIDDEN" && error.contains(words) =>
        {
            Ok(())
        }
        Err(error) => Err(format!("refused otherwise: {error}").into()),
        Ok(_) => Err(format!("taken, in spite of {words}").into()),
    }
}

/// The sender's request fails, in a time that a person waits, and what was to be said is nowhere. Once
/// the hub is back it is said.
#[expect(clippy::disallowed_methods, reason = "it says how long it took")]
async fn what_is_sent_while_the_policy_server_is_away(
    hub: &mut Hub,
    rooms: &mut [Policed],
) -> Result<(), Failed> {
    hub.kill()?;
    for room in &mut *rooms {
        let began = Instant::now();
        let client = &mut room.members[1].client;
        let sent = client.say(&room.room, "away", "is anybody there").await;
        let Err(ClientError::Refused {
            status,
            errcode,
            error,
            ..
        }) = sent
        else {
            return Err(format!("taken without the policy server: {sent:?}").into());
        };
        assert!(status >= 500, "{status} {errcode} {error}");
        println!(
            "version {}: the policy server is away: {status} {errcode} after {:.1?}: {error}",
            room.version,
            began.elapsed()
        );
        each_reads(&mut room.members[1..2], &room.room, &room.wanted).await?;
    }
    rule(hub, "")?;
    hub.start()?;
    for room in rooms {
        let (client, id) = (&mut room.members[1].client, &room.room);
        let sent = eventually("the hub is asked again", async || {
            let sent = client.say(id, "away", "is anybody there").await;
            Ok(sent.map_err(|error| error.to_string()))
        });
        room.wanted.insert(sent.await?.to_string());
    }
    Ok(())
}

/// A room of Synapse's, of which another hub is the policy server: ours asks that.
async fn asking(
    peers: &Peers,
    hub: &Hub,
    other: &Hub,
    version: &'static str,
) -> Result<(OwnedRoomId, Vec<Member>, BTreeSet<String>), Failed> {
    let edge = peers.edge(key_of(hub)?)?;
    let mut members = vec![
        Member::of_synapse(peers, 0).await?,
        Member::of_hub(peers, hub, "ana").await?,
        Member::of_hub(peers, other, "gus").await?,
    ];
    let wish = json!({ "preset": "public_chat", "room_version": version });
    let room = members[0].client.create_room(wish).await?;
    let via = members[0].server.clone();
    for member in &mut members[1..] {
        member.join(&room, &via).await?;
    }
    all_are_in(&mut members, &room).await?;
    let server = published(&edge, other).await?;
    names(&mut members, 0, &room, &server).await?;
    let mut wanted = BTreeSet::new();
    for index in [1, 0, 2] {
        let client = &mut members[index].client;
        let id = client.say(&room, "fine", "this is fine").await?;
        wanted.insert(id.to_string());
        each_shows(&mut members[..1], &room, &wanted).await?;
        let from = peers.name()?;
        let event = event_of(&edge, &from, id.as_str(), read_version(version)?).await?;
        let vouched = server.vouches_for(&event, read_version(version)?);
        assert!(vouched, "no signature of the other: {}", event.json());
    }
    for _ in 0..2 {
        let sent = members[1].client.say(&room, "long", &long()).await;
        refused_by(sent, "POLICY_SIZE")?;
    }
    let call = Call::post(
        &["rooms", room.as_str(), "leave"],
        json!({ "reason": long() }),
    );
    refused_by(members[1].client.call("leave", call).await, "POLICY_SIZE")?;
    each_reads(&mut members, &room, &wanted).await?;
    Ok((room, members, wanted))
}

#[expect(clippy::disallowed_methods, reason = "it says how long it took")]
async fn the_other_is_away(
    hub: &Hub,
    other: &mut Hub,
    rooms: &mut [(OwnedRoomId, Vec<Member>, BTreeSet<String>)],
) -> Result<(), Failed> {
    other.kill()?;
    let mut took = BTreeMap::new();
    for (room, members, wanted) in &mut *rooms {
        let began = Instant::now();
        let sent = members[1].client.say(room, "away", "anybody there").await;
        let Err(ClientError::Refused {
            status: 502, error, ..
        }) = sent
        else {
            return Err(format!("not refused as it should be: {sent:?}").into());
        };
        took.insert(room.clone(), (began.elapsed(), error));
        each_reads(&mut members[..2], room, wanted).await?;
    }
    println!("{}: the other is away: {took:?}", hub.name());
    other.start()?;
    for (room, members, wanted) in rooms {
        let client = &mut members[1].client;
        let sent = eventually("the other is asked again", async || {
            let sent = client.say(room, "away", "anybody there").await;
            Ok(sent.map_err(|error| error.to_string()))
        });
        wanted.insert(sent.await?.to_string());
        members[2].client = members[2].another().await?;
        each_reads(members, room, wanted).await?;
    }
    Ok(())
}
