//! A linked device over OSCORE and a user of a Synapse, in a room of each side; and what a message
//! costs on the thin link and between the servers.

use std::path::PathBuf;

use libtest_mimic::Failed;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};
use tramline::client::Call;

use super::{
    Peers,
    everyone::{Member, eventually, said},
};
use crate::{
    command_line::scrape,
    hub::{Hub, block_on, run, tramline},
    thin_client::{done, link, texts},
};

/// 22 characters, as in the README's table of bytes.
const TEXT: &str = "Meet me at the station";

pub(super) fn a_thin_client_chats_with_a_user_of_synapse() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let hub = Hub::federating(&["ana"], &peers.options()?)?;
    let told = block_on(async {
        let phone = Phone(link(&hub, "ana")?);
        let mut alice = Member::of_synapse(&peers, 0).await?;
        in_a_room_of_the_hub(&hub, &phone, &mut alice).await?;
        in_a_room_of_synapse(&phone, &mut alice).await?;
        invited_elsewhere(&hub, &phone, &mut alice).await
    });
    told.map_err(|error: Failed| format!("{}\n{}", said(&error), hub.log_text()).into())
}

/// Ana's device, whose every word goes over OSCORE.
struct Phone(PathBuf);

impl Phone {
    fn does(&self, args: &[&str]) -> Result<Vec<Value>, Failed> {
        done(&self.0, &[&["--door", "oscore"], args].concat())
    }

    /// What this verb cost: up, down.
    fn cost(lines: &[Value]) -> Result<[u64; 2], Failed> {
        let cost = lines.iter().find_map(|line| line.get("cost"));
        let cost = cost.ok_or_else(|| format!("no cost in {lines:?}"))?;
        let way = |name: &str| cost[name].as_u64().ok_or("no bytes");
        Ok([way("bytes_up")?, way("bytes_down")?])
    }

    /// Syncs until a text comes; gives what that sync cost.
    async fn hears(&self, wanted: &str) -> Result<[u64; 2], Failed> {
        eventually(&format!("the device hears {wanted:?}"), async || {
            let lines = self.does(&["-v", "sync"])?;
            Ok(if texts(&lines).iter().any(|text| text == wanted) {
                Ok(Self::cost(&lines)?)
            } else {
                Err(format!("{lines:?}"))
            })
        })
        .await
    }
}

async fn hears(
    alice: &mut Member,
    room: &RoomId,
    wanted: &str,
    times: usize,
) -> Result<(), Failed> {
    eventually(&format!("Synapse's user hears {wanted:?}"), async || {
        let page = alice.client.messages(room, None, true, 50).await?;
        let chunk = page["chunk"].as_array().into_iter().flatten();
        let heard = chunk.filter(|event| event["content"]["body"] == wanted);
        let heard = heard.count();
        Ok(if heard == times {
            Ok(())
        } else {
            Err(format!("{heard} times in {page}"))
        })
    })
    .await
}

async fn in_a_room_of_the_hub(hub: &Hub, phone: &Phone, alice: &mut Member) -> Result<(), Failed> {
    let made = phone.does(&["create", "--name", "Crew", "--invite", &alice.user])?;
    let room: OwnedRoomId = made[0]["room_id"].as_str().ok_or("no room")?.try_into()?;
    eventually("Synapse's user is invited", async || {
        let all = alice.client.sync(None, 0).await?;
        let shown = all["rooms"]["invite"][room.as_str()].to_string();
        Ok(if shown.contains("Crew") {
            Ok(())
        } else {
            Err(all["rooms"].to_string())
        })
    })
    .await?;
    alice.join(&room, hub.name()).await?;
    phone.does(&["sync"])?; // where a device begins

    // Each way once: then names, keys and connections are known on both sides.
    phone.does(&["send", room.as_str(), "from the device"])?;
    hears(alice, &room, "from the device", 1).await?;
    alice.client.say(&room, "1", "from Synapse").await?;
    phone.hears("from Synapse").await?;

    let before = quiet(hub).await?;
    let sent = Phone::cost(&phone.does(&["send", room.as_str(), TEXT])?)?;
    hears(alice, &room, TEXT, 1).await?;
    let after = quiet(hub).await?;
    let between = Bytes::between(&before, &after);
    row(
        "device to Synapse's user",
        sent,
        [between.sent, between.received],
    );
    assert!(
        between.transactions == 1 && between.sent > sent[0],
        "{before:?} {after:?}"
    );

    alice.client.say(&room, "2", &format!("{TEXT}?")).await?;
    let heard = phone.hears(&format!("{TEXT}?")).await?;
    let last = quiet(hub).await?;
    let between = Bytes::between(&after, &last);
    row(
        "Synapse's user to device",
        heard,
        [between.answered, between.asked],
    );
    assert!(between.asked > 0, "{after:?} {last:?}");

    let ledger = phone.does(&["ledger"])?;
    for line in &ledger {
        println!("ledger: {line}");
    }
    let sends = ledger.iter().find(|line| line["operation"] == "send");
    assert_eq!(sends.ok_or("no sends in the ledger")?["times"], 2);
    let read = texts(&phone.does(&["read", room.as_str()])?);
    assert_eq!(
        read,
        ["from the device", "from Synapse", TEXT, &format!("{TEXT}?")]
    );
    Ok(())
}

/// The device goes where it was not invited, by an alias of another server.
async fn in_a_room_of_synapse(phone: &Phone, alice: &mut Member) -> Result<(), Failed> {
    let wish = json!({ "preset": "public_chat", "room_alias_name": "square", "name": "Square" });
    let room = alice.client.create_room(wish).await?;
    alice.client.say(&room, "before", "before it came").await?;
    phone.does(&["join", &format!("#square:{}", alice.server)])?;
    phone.does(&["send", room.as_str(), "here I am"])?;
    hears(alice, &room, "here I am", 1).await?;
    alice.client.say(&room, "welcome", "welcome").await?;
    phone.hears("welcome").await?;
    phone.does(&["send", &format!("#square:{}", alice.server), "by its name"])?;
    hears(alice, &room, "by its name", 1).await?;

    let wish = json!({ "preset": "public_chat" });
    let nameless = alice.client.create_room(wish).await?;
    phone.does(&["join", nameless.as_str(), "--via", &alice.server])?;
    phone.does(&["send", nameless.as_str(), "by its id"])?;
    hears(alice, &nameless, "by its id", 1).await
}

/// Invitations into rooms that the hub is not in: each is seen in the device's news, once; one is
/// accepted, one turned down, one taken back.
async fn invited_elsewhere(hub: &Hub, phone: &Phone, alice: &mut Member) -> Result<(), Failed> {
    let ana = format!("@ana:{}", hub.name());
    for (name, answer) in [("Teahouse", "join"), ("Cellar", "leave"), ("Attic", "")] {
        let wish = json!({ "preset": "private_chat", "name": name, "invite": [ana] });
        let room = alice.client.create_room(wish).await?;
        let (line, cost) = notice(phone, &room, "invite").await?;
        println!(
            "an invitation of Synapse's user to the device: {} up, {} down",
            cost[0], cost[1]
        );
        assert_eq!(line["sender"], alice.user.as_str(), "{line}");
        assert_eq!(line["content"]["name"], name, "{line}");
        // The first one also asks for two names.
        assert!(
            cost[1] <= if name == "Teahouse" { 500 } else { 220 },
            "{cost:?}"
        );
        let again = phone.does(&["sync"])?;
        assert!(
            !again.iter().any(|line| line["room_id"] == room.as_str()),
            "{again:?}"
        );
        let listed = phone.does(&["rooms"])?;
        let listed = listed.iter().find(|line| line["room_id"] == room.as_str());
        assert_eq!(
            listed.ok_or("it is not among the rooms")?["membership"],
            "invite"
        );
        match answer {
            "join" => {
                phone.does(&["join", room.as_str()])?;
                phone.does(&["send", room.as_str(), "thank you"])?;
                hears(alice, &room, "thank you", 1).await?;
            }
            "leave" => {
                phone.does(&["leave", room.as_str()])?;
                eventually("Synapse's user sees it turned down", async || {
                    let path = ["rooms", room.as_str(), "state", "m.room.member", &ana];
                    let told = alice
                        .client
                        .call("member", Call::get(&path, Vec::new()))
                        .await?;
                    Ok(if told["membership"] == "leave" {
                        Ok(())
                    } else {
                        Err(told.to_string())
                    })
                })
                .await?;
            }
            _ => {
                let body = json!({ "user_id": ana });
                let kick = Call::post(&["rooms", room.as_str(), "kick"], body);
                alice.client.call("kick", kick).await?;
                let (line, _) = notice(phone, &room, "leave").await?;
                assert_eq!(line["sender"], alice.user.as_str(), "{line}");
                let was = &line["unsigned"]["prev_content"]["membership"];
                assert_eq!(was, "invite", "{line}");
            }
        }
    }
    told_in_words(phone, alice, &ana).await
}

/// Two invitations at once, into a room with a name and one without: each under its own heading.
async fn told_in_words(phone: &Phone, alice: &mut Member, ana: &str) -> Result<(), Failed> {
    let mut headings = Vec::new();
    for name in [json!({ "name": "Loft" }), json!({})] {
        let mut wish = name.clone();
        wish["preset"] = "private_chat".into();
        wish["invite"] = json!([ana]);
        let room = alice.client.create_room(wish).await?;
        let name = name["name"].as_str();
        let name = name.map_or(String::new(), |name| format!(" \"{name}\""));
        headings.push(format!("{room}{name}"));
    }
    let mut said = String::new();
    let asked = format!("{} invites you: `join` it", alice.user);
    eventually("both invitations are told", async || {
        let mut command = tramline();
        command.args(["client", "--credentials"]).arg(&phone.0);
        said += &run(command.arg("sync"))?;
        Ok(if said.matches(&asked).count() == 2 {
            Ok(())
        } else {
            Err(said.clone())
        })
    })
    .await?;
    let told: Vec<_> = said.lines().filter(|line| line.starts_with('!')).collect();
    assert_eq!(told, headings, "{said}");
    Ok(())
}

/// Syncs until the device is told what it is to a room elsewhere.
async fn notice(phone: &Phone, room: &RoomId, wanted: &str) -> Result<(Value, [u64; 2]), Failed> {
    eventually(&format!("the device is told of {wanted}"), async || {
        let lines = phone.does(&["-v", "sync"])?;
        let found = lines.iter().find(|line| {
            line["room_id"] == room.as_str() && line["content"]["membership"] == wanted
        });
        Ok(match found {
            Some(line) => Ok((line.clone(), Phone::cost(&lines)?)),
            None => Err(format!("{lines:?}")),
        })
    })
    .await
}

fn row(what: &str, thin: [u64; 2], servers: [u64; 2]) {
    println!(
        "{what}: thin link {} up, {} down (IP and UDP included); between the servers {} out, {} in",
        thin[0], thin[1], servers[0], servers[1]
    );
}

/// What the hub has counted so far.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bytes {
    /// On connections that it made, with TLS.
    sent: u64,
    received: u64,
    transactions: u64,
    /// On connections that others made to it, with TLS.
    asked: u64,
    answered: u64,
}

impl Bytes {
    fn of(hub: &Hub) -> Result<Self, Failed> {
        let printed = scrape(hub)?;
        let sum = |name: &str, label: &str| -> u64 {
            let lines = printed.lines().filter(|line| line.starts_with(name));
            let values = lines.filter(|line| line.contains(label));
            let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            values.sum()
        };
        Ok(Self {
            sent: sum("tramline_peer_bytes_total{", "\"out\""),
            received: sum("tramline_peer_bytes_total{", "\"in\""),
            transactions: sum("tramline_outbox_transactions_total{", "\"taken\""),
            asked: sum("tramline_peer_inbound_bytes_total{", "\"in\""),
            answered: sum("tramline_peer_inbound_bytes_total{", "\"out\""),
        })
    }

    fn between(before: &Self, after: &Self) -> Self {
        Self {
            sent: after.sent - before.sent,
            received: after.received - before.received,
            transactions: after.transactions - before.transactions,
            asked: after.asked - before.asked,
            answered: after.answered - before.answered,
        }
    }
}

/// What is counted once nothing is under way any more.
async fn quiet(hub: &Hub) -> Result<Bytes, Failed> {
    /// Looks in a row at which nothing had changed.
    const STILL: usize = 8;
    let (mut last, mut still) = (Bytes::of(hub)?, 0);
    eventually("the servers have nothing more to say", async || {
        let now = Bytes::of(hub)?;
        still = if now == last { still + 1 } else { 0 };
        last = now;
        Ok(if still >= STILL {
            Ok(last.clone())
        } else {
            Err(format!("{last:?}"))
        })
    })
    .await
}
