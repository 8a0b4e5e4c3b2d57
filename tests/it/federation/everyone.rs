//! What trials of several servers share: who takes part, asking until it is so, and whole rooms as
//! each server shows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use libtest_mimic::Failed;
use ruma::RoomId;
use serde_json::{Value, json};
use tramline::{
    app::clock::world,
    client::{Call, Client, Target},
};

use super::{Peers, text};
use crate::hub::Hub;

/// How long something may take to be so everywhere, on a busy machine.
pub(super) const DEADLINE: Duration = Duration::from_mins(3);
const PAUSE: Duration = Duration::from_millis(250);

/// A user, signed in on a server of theirs.
pub(super) struct Member {
    /// The server's name.
    pub(super) server: String,
    pub(super) user: String,
    pub(super) client: Client,
    target: Target,
}

impl Member {
    /// Alice of a Synapse.
    pub(super) async fn of_synapse(peers: &Peers, index: usize) -> Result<Self, Failed> {
        let server = peers.nth(index);
        let user = &server["users"][0];
        let target = Target::parse(text(&server["https_url"])?, Some(&peers.pem()?))?;
        let token = text(&user["access_token"])?;
        Ok(Self {
            server: text(&server["server_name"])?.to_owned(),
            user: text(&user["user_id"])?.to_owned(),
            client: Client::resume(&target, token, &world()).await?,
            target,
        })
    }

    /// A user of the hub, by the password that these trials give.
    pub(super) async fn of_hub(peers: &Peers, hub: &Hub, name: &str) -> Result<Self, Failed> {
        let target = Target::parse(&hub.https(), Some(&peers.pem()?))?;
        let mut client = Client::open(&target, &world()).await?;
        client.login(name, &format!("secret-{name}"), None).await?;
        Ok(Self {
            server: hub.name().to_owned(),
            user: format!("@{name}:{}", hub.name()),
            client,
            target,
        })
    }

    /// Another connection of the same session.
    pub(super) async fn another(&mut self) -> Result<Client, Failed> {
        let token = self.client.token().ok_or("a session without a token")?;
        Ok(Client::resume(&self.target, token, &world()).await?)
    }

    /// The same user over another connection.
    pub(super) async fn again(&mut self) -> Result<Self, Failed> {
        Ok(Self {
            server: self.server.clone(),
            user: self.user.clone(),
            client: self.another().await?,
            target: self.target.clone(),
        })
    }

    pub(super) async fn join(&mut self, room: &RoomId, via: &str) -> Result<(), Failed> {
        let mut call = Call::post(&["join", room.as_str()], json!({}));
        call.query = vec![("via", via.to_owned())];
        self.client.call("join", call).await?;
        Ok(())
    }

    /// Who is in a room, as this server has it.
    pub(super) async fn joined(&mut self, room: &RoomId) -> Result<BTreeSet<String>, Failed> {
        let call = Call::get(&["rooms", room.as_str(), "joined_members"], Vec::new());
        let answer = self.client.call("members", call).await?;
        let joined = answer["joined"].as_object().ok_or("no members")?;
        Ok(joined.keys().cloned().collect())
    }

    /// Every event of a room with its type, oldest first, as this server's pages have them.
    pub(super) async fn events(&mut self, room: &RoomId) -> Result<Vec<(String, String)>, Failed> {
        let (mut from, mut events) = (None::<String>, Vec::new());
        loop {
            let page = self.client.messages(room, from.as_deref(), true, 100);
            let page = page.await?;
            let chunk = page["chunk"].as_array().ok_or("no chunk")?;
            for event in chunk {
                let part = |name: &str| text(&event[name]).map(str::to_owned);
                events.push((part("event_id")?, part("type")?));
            }
            match page["end"].as_str() {
                Some(end) if !chunk.is_empty() => from = Some(end.to_owned()),
                _ => break,
            }
        }
        events.reverse();
        Ok(events)
    }

    /// The ids of all messages among them.
    async fn messages(&mut self, room: &RoomId) -> Result<Vec<String>, Failed> {
        let mut events = self.events(room).await?;
        events.retain(|(_, kind)| kind == "m.room.message");
        Ok(events.into_iter().map(|(id, _)| id).collect())
    }

    /// A room's current state: the event of each type and key.
    pub(super) async fn state(&mut self, room: &RoomId) -> Result<State, Failed> {
        let call = Call::get(&["rooms", room.as_str(), "state"], Vec::new());
        let answer = self.client.call("state", call).await?;
        let mut state = State::new();
        for event in answer.as_array().ok_or("no state")? {
            let part = |name: &str| text(&event[name]).map(str::to_owned);
            state.insert((part("type")?, part("state_key")?), part("event_id")?);
        }
        Ok(state)
    }
}

pub(super) type State = BTreeMap<(String, String), String>;

pub(super) fn said(error: &Failed) -> String {
    error.message().unwrap_or_default().to_owned()
}

/// Looks until it is so; says what was seen last where it never is.
pub(super) async fn eventually<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Result<T, String>, Failed>,
) -> Result<T, Failed> {
    let mut not_yet = String::new();
    let found = tokio::time::timeout(DEADLINE, async {
        loop {
            match look().await? {
                Ok(found) => return Ok::<_, Failed>(found),
                Err(why) => not_yet = why,
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await;
    found.unwrap_or_else(|_| Err(format!("never: {what}: {not_yet}").into()))
}

/// Waits until everyone is in a room, as each of their servers has it.
pub(super) async fn all_are_in(members: &mut [Member], room: &RoomId) -> Result<(), Failed> {
    let all: BTreeSet<String> = members.iter().map(|one| one.user.clone()).collect();
    for member in members {
        let what = format!("everyone is in the room of {}", member.server);
        eventually(&what, async || {
            let joined = member.joined(room).await?;
            Ok(if joined == all {
                Ok(())
            } else {
                Err(format!("{joined:?}"))
            })
        })
        .await?;
    }
    Ok(())
}

/// Waits until each server shows these messages, each once and none besides.
pub(super) async fn each_reads(
    members: &mut [Member],
    room: &RoomId,
    wanted: &BTreeSet<String>,
) -> Result<(), Failed> {
    for member in members {
        let what = format!("{} shows what was said", member.server);
        eventually(&what, async || {
            let shown = member.messages(room).await?;
            let once: BTreeSet<String> = shown.iter().cloned().collect();
            if once.len() != shown.len() {
                let server = &member.server;
                return Err(format!("{server} shows something twice: {shown:?}").into());
            }
            if once == *wanted {
                return Ok(Ok(()));
            }
            let missing: Vec<&String> = wanted.difference(&once).collect();
            let besides: Vec<&String> = once.difference(wanted).collect();
            Ok(Err(format!(
                "{} of {} missing: {missing:?}; besides: {besides:?}",
                missing.len(),
                wanted.len()
            )))
        })
        .await?;
    }
    Ok(())
}

/// Waits until each server shows these messages, perhaps among others.
pub(super) async fn each_shows(
    members: &mut [Member],
    room: &RoomId,
    wanted: &BTreeSet<String>,
) -> Result<(), Failed> {
    for member in members {
        let what = format!("{} shows {wanted:?}", member.server);
        eventually(&what, async || {
            let shown = member.messages(room).await?;
            let found = shown.iter().filter(|id| wanted.contains(*id)).count();
            Ok(if found == wanted.len() {
                Ok(())
            } else {
                Err(format!("{shown:?}"))
            })
        })
        .await?;
    }
    Ok(())
}

/// Waits until the state of a room is the same on every server.
pub(super) async fn same_state(members: &mut [Member], room: &RoomId) -> Result<State, Failed> {
    eventually("the state is the same everywhere", async || {
        let mut states = Vec::new();
        for member in &mut *members {
            states.push((member.server.clone(), member.state(room).await?));
        }
        let (_, first) = states.first().ok_or("nobody")?;
        if states.iter().all(|(_, state)| state == first) {
            return Ok(Ok(first.clone()));
        }
        let keys: BTreeSet<_> = states.iter().flat_map(|(_, state)| state.keys()).collect();
        let differs = keys.into_iter().filter_map(|key| {
            let each: Vec<_> = states.iter().map(|(_, state)| state.get(key)).collect();
            let is_same = each.iter().all(|one| *one == each[0]);
            (!is_same).then(|| format!("{key:?}: {each:?}"))
        });
        let servers: Vec<_> = states.iter().map(|(server, _)| server).collect();
        Ok(Err(format!(
            "{servers:?}: {}",
            differs.collect::<Vec<_>>().join("; ")
        )))
    })
    .await
}

/// What a server says at a path that clients do not have, over plain HTTP; with a token of its.
pub(super) async fn plain(url: &str, path: &str, token: &str) -> Result<(u16, Value), Failed> {
    let (status, body) = plain_text(url, path, token).await?;
    // Whether it comes in one chunk or as it is.
    let object = body.find('{').zip(body.rfind('}'));
    let object = object.map_or(Value::Null, |(from, to)| {
        serde_json::from_str(&body[from..=to]).unwrap_or(Value::Null)
    });
    Ok((status, object))
}

/// The same as it comes.
pub(super) async fn plain_text(
    url: &str,
    path: &str,
    token: &str,
) -> Result<(u16, String), Failed> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let place = url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(place).await?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n");
    let head = format!("{head}Authorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .ok_or("an answer without a body")?;
    Ok((status.ok_or("an answer without a status")?, body.to_owned()))
}
