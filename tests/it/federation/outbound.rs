//! Users of the hub in rooms of a Synapse: they join, are invited and invite, knock, turn down and
//! leave, in each room version.

use std::time::Duration;

use libtest_mimic::Failed;
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Call, Client, Target},
};

use super::{Peers, text};
use crate::hub::{Hub, block_on};

/// How long something may take to come from one server to the other.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(250);

pub(super) fn a_user_of_the_hub_takes_part_in_rooms_of_synapse() -> Result<(), Failed> {
    let peers = Peers::start()?;
    let hub = Hub::federating(&["ana"], &peers.options()?)?;
    let told = block_on(async {
        let mut both = Both::of(&peers, &hub).await?;
        for version in ["12", "11", "10"] {
            let told = both.all(version).await;
            told.map_err(|error| format!("version {version}: {}", said(&error)))?;
        }
        Ok(())
    });
    told.map_err(|error: Failed| format!("{}\n{}", said(&error), hub.log_text()).into())
}

fn said(error: &Failed) -> String {
    error.message().unwrap_or_default().to_owned()
}

/// Ana on the hub, Alice on Synapse.
struct Both {
    ana: Client,
    alice: Client,
    ana_id: OwnedUserId,
    alice_id: OwnedUserId,
    /// The servers.
    hub: String,
    synapse: String,
}

impl Both {
    async fn of(peers: &Peers, hub: &Hub) -> Result<Self, Failed> {
        let target = Target::parse(&hub.https(), Some(&peers.pem()?))?;
        let mut ana = Client::open(&target, &world()).await?;
        ana.login("ana", "secret-ana", None).await?;
        let mut alice = peers.alice().await?;
        let whoami = alice.whoami().await?;
        Ok(Self {
            ana_id: format!("@ana:{}", hub.name()).try_into()?,
            alice_id: text(&whoami["user_id"])?.try_into()?,
            hub: hub.name().to_owned(),
            synapse: peers.name()?.to_string(),
            ana,
            alice,
        })
    }

    async fn all(&mut self, version: &str) -> Result<(), Failed> {
        macro_rules! step {
            ($step:ident) => {
                let told = self.$step(version).await;
                told.map_err(|error| format!("{}: {}", stringify!($step), said(&error)))?;
            };
        }
        step!(by_alias_and_by_id);
        step!(invited_and_in);
        step!(invited_and_turned_down);
        step!(invites);
        step!(knocks);
        step!(restricted_there);
        step!(restricted_here);
        Ok(())
    }

    async fn by_alias_and_by_id(&mut self, version: &str) -> Result<(), Failed> {
        let wish = json!({
            "preset": "public_chat",
            "room_version": version,
            "room_alias_name": format!("out-{version}"),
        });
        let room = self.alice.create_room(wish).await?;
        self.alice.say(&room, "before", "before").await?;
        let alias = format!("#out-{version}:{}", self.synapse);
        let joined = self.ana.call("join", join(&alias, &[])).await?;
        assert_eq!(joined["room_id"], room.as_str());
        self.talk(&room).await?;
        // Out, and in again by id; meanwhile the room went on.
        self.ana.leave(&room).await?;
        self.member_there(&room, "leave").await?;
        self.alice.say(&room, "meanwhile", "meanwhile").await?;
        let via = [self.synapse.clone()];
        self.ana.call("join", join(room.as_str(), &via)).await?;
        self.alice.say(&room, "again", "welcome back").await?;
        heard(&mut self.ana, &room, "welcome back").await
    }

    async fn invited_and_in(&mut self, version: &str) -> Result<(), Failed> {
        let room = self.private(version, json!([])).await?;
        self.alice.invite(&room, &self.ana_id).await?;
        let shown = section(&mut self.ana, "invite", &room).await?;
        let events = shown["invite_state"]["events"].to_string();
        assert!(events.contains("Teahouse"), "{events}");
        self.ana.call("join", join(room.as_str(), &[])).await?;
        self.talk(&room).await
    }

    async fn invited_and_turned_down(&mut self, version: &str) -> Result<(), Failed> {
        let room = self.private(version, json!([])).await?;
        self.alice.invite(&room, &self.ana_id).await?;
        section(&mut self.ana, "invite", &room).await?;
        self.ana.leave(&room).await?;
        self.member_there(&room, "leave").await?;
        // Again, and Alice takes it back.
        self.alice.invite(&room, &self.ana_id).await?;
        section(&mut self.ana, "invite", &room).await?;
        let body = json!({ "user_id": self.ana_id });
        let kick = Call::post(&["rooms", room.as_str(), "kick"], body);
        self.alice.call("kick", kick).await?;
        for _ in 0..TRIES {
            let all = self.ana.sync(None, 0).await?;
            if all["rooms"]["invite"][room.as_str()].is_null() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err("the invite is still there".into())
    }

    async fn invites(&mut self, version: &str) -> Result<(), Failed> {
        let wish = json!({
            "preset": "private_chat",
            "room_version": version,
            "name": "Ours",
            "invite": [self.alice_id],
        });
        let room = self.ana.create_room(wish).await?;
        let shown = section(&mut self.alice, "invite", &room).await?;
        assert!(shown.to_string().contains("Ours"), "{shown}");
        let via = [self.hub.clone()];
        self.alice.call("join", join(room.as_str(), &via)).await?;
        self.ana.say(&room, "hi", "hi from the hub").await?;
        heard(&mut self.alice, &room, "hi from the hub").await?;
        // One whom she turns down.
        let wish = json!({ "preset": "private_chat", "room_version": version });
        let room = self.ana.create_room(wish).await?;
        self.ana.invite(&room, &self.alice_id).await?;
        section(&mut self.alice, "invite", &room).await?;
        self.alice.leave(&room).await?;
        let alice = self.alice_id.clone();
        member(&mut self.ana, &room, &alice, "leave").await
    }

    async fn knocks(&mut self, version: &str) -> Result<(), Failed> {
        let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
        let room = self.private(version, rules).await?;
        let knock = || {
            let mut call = Call::post(&["knock", room.as_str()], json!({ "reason": "tea" }));
            call.query = vec![("via", self.synapse.clone())];
            call
        };
        self.ana.call("knock", knock()).await?;
        let shown = section(&mut self.ana, "knock", &room).await?;
        assert!(shown.to_string().contains("Teahouse"), "{shown}");
        self.member_there(&room, "knock").await?;
        self.ana.leave(&room).await?;
        self.member_there(&room, "leave").await?;
        let knock = {
            let mut call = Call::post(&["knock", room.as_str()], json!({}));
            call.query = vec![("via", self.synapse.clone())];
            call
        };
        self.ana.call("knock", knock).await?;
        self.member_there(&room, "knock").await?;
        self.alice.invite(&room, &self.ana_id).await?;
        section(&mut self.ana, "invite", &room).await?;
        self.ana.call("join", join(room.as_str(), &[])).await?;
        self.talk(&room).await
    }

    async fn restricted_there(&mut self, version: &str) -> Result<(), Failed> {
        let wish = json!({ "preset": "public_chat", "room_version": version });
        let outer = self.alice.create_room(wish).await?;
        let via = [self.synapse.clone()];
        let inner = self.private(version, restricted(&outer)).await?;
        let refused = self.ana.call("join", join(inner.as_str(), &via)).await;
        assert!(refused.is_err(), "who meets no condition is let in");
        self.ana.call("join", join(outer.as_str(), &via)).await?;
        self.ana.call("join", join(inner.as_str(), &via)).await?;
        self.talk(&inner).await
    }

    async fn restricted_here(&mut self, version: &str) -> Result<(), Failed> {
        let wish = json!({ "preset": "public_chat", "room_version": version });
        let outer = self.ana.create_room(wish).await?;
        let wish = json!({
            "preset": "private_chat",
            "room_version": version,
            "initial_state": restricted(&outer),
        });
        let inner = self.ana.create_room(wish).await?;
        let via = [self.hub.clone()];
        let refused = self.alice.call("join", join(inner.as_str(), &via)).await;
        assert!(refused.is_err(), "who meets no condition is let in");
        self.alice.call("join", join(outer.as_str(), &via)).await?;
        self.alice.call("join", join(inner.as_str(), &via)).await?;
        self.ana.say(&inner, "inner", "inside").await?;
        heard(&mut self.alice, &inner, "inside").await
    }

    /// A room of Alice's that nobody else is in.
    async fn private(&mut self, version: &str, state: Value) -> Result<OwnedRoomId, Failed> {
        let wish = json!({
            "preset": "private_chat",
            "room_version": version,
            "name": "Teahouse",
            "initial_state": state,
        });
        Ok(self.alice.create_room(wish).await?)
    }

    /// Each says something, and the other hears it.
    async fn talk(&mut self, room: &RoomId) -> Result<(), Failed> {
        self.ana.say(room, "from-the-hub", "from the hub").await?;
        heard(&mut self.alice, room, "from the hub").await?;
        self.alice.say(room, "from-outside", "from outside").await?;
        heard(&mut self.ana, room, "from outside").await
    }

    /// What Ana is to a room of Alice's, there.
    async fn member_there(&mut self, room: &RoomId, wanted: &str) -> Result<(), Failed> {
        let ana = self.ana_id.clone();
        member(&mut self.alice, room, &ana, wanted).await
    }
}

fn restricted(outer: &RoomId) -> Value {
    json!([{ "type": "m.room.join_rules", "content": {
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": outer }],
    }}])
}

fn join<'a>(name: &'a str, via: &[String]) -> Call<'a> {
    let mut call = Call::post(&["join", name], json!({}));
    call.query = via.iter().map(|server| ("via", server.clone())).collect();
    call
}

/// A room's section of a whole sync, once it is there.
async fn section(client: &mut Client, name: &str, room: &RoomId) -> Result<Value, Failed> {
    let mut all = Value::Null;
    for _ in 0..TRIES {
        all = client.sync(None, 0).await?;
        let shown = &all["rooms"][name][room.as_str()];
        if !shown.is_null() {
            return Ok(shown.clone());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{room} is not under {name}: {}", all["rooms"]).into())
}

/// Waits until a text is among the newest of a room.
async fn heard(client: &mut Client, room: &RoomId, wanted: &str) -> Result<(), Failed> {
    let mut page = Value::Null;
    for _ in 0..TRIES {
        page = client.messages(room, None, true, 20).await?;
        let mut chunk = page["chunk"].as_array().into_iter().flatten();
        if chunk.any(|event| event["content"]["body"] == wanted) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{wanted:?} never came: {page}").into())
}

/// Waits until a user's membership is the wanted one, as a member of the room sees it.
async fn member(
    client: &mut Client,
    room: &RoomId,
    user: &OwnedUserId,
    wanted: &str,
) -> Result<(), Failed> {
    let mut found = Value::Null;
    for _ in 0..TRIES {
        let path = [
            "rooms",
            room.as_str(),
            "state",
            "m.room.member",
            user.as_str(),
        ];
        found = client.call("member", Call::get(&path, Vec::new())).await?;
        if found["membership"] == wanted {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{user} is not {wanted}: {found}").into())
}
