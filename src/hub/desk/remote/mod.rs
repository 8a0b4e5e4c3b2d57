//! What this hub's users do in rooms that are on other servers only: join them, knock, turn invites
//! down; and invites of theirs that go there.
//!
//! Only what was built here is ever signed: a template that another server proposes is read,
//! compared with what was asked for, and rebuilt from its typed values ([`template`]). Which server
//! is asked, and for how long, is decided here; the room that a server tells of is judged by
//! [`crate::hub::graph`].

mod invite;
mod join;
mod knock;
mod leave;
mod names;
mod outside;
mod restricted;
mod template;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use ruma::{OwnedServerName, RoomId, RoomVersionId, UserId};
use tokio::sync::Semaphore;

pub(super) use self::{
    invite::{invite, invited},
    join::{Entered, Joining, join},
    knock::knock,
    leave::{leave, out},
    names::{alias, profile, shown_profile},
    outside::{forget, standing, standings, was},
    restricted::join_restricted,
};
use super::access::ours;
use crate::{
    api::{Code, Refusal, RemoteError, Unverified, Why},
    hub::Hub,
    store::RoomRecord,
    wire::matrix::Version,
};

/// How many servers are asked to let one user into one room.
const SERVERS_MAX: usize = 8;

/// How long a server may take for a template or another small answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// How long a server may take to let somebody in: the whole state of a large room is in the answer.
const ENTRY_PATIENCE: Duration = Duration::from_mins(2);

/// After this long no further server is asked: whoever waits has given up by then.
const ASKING_MAX: Duration = Duration::from_mins(1);

/// How many rooms are entered at once: each is held in memory, with thousands of members perhaps.
const ENTERED_AT_ONCE: usize = 8;

/// What is under way with other servers.
pub(super) struct Elsewhere {
    entries: Semaphore,
    names: names::Names,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self {
            entries: Semaphore::new(ENTERED_AT_ONCE),
            names: names::Names::default(),
        }
    }
}

/// Only one of ours at a time is on the way into a room, or out of it.
fn turn_of(room: &RoomId) -> (&'static str, &RoomId) {
    ("room elsewhere", room)
}

/// Where a room is, for a user of ours.
pub(super) enum Place {
    /// On this hub: somebody of ours is in it, or nobody else is.
    Here,
    /// On other servers only; these may know it.
    There(Vec<OwnedServerName>),
}

/// Where the room is for a user; `via` are the servers that they believe to be in it.
pub(super) async fn place(
    hub: &Hub,
    user: &UserId,
    (room, via): (&RoomId, &[OwnedServerName]),
) -> Result<Place, Refusal> {
    let record = hub.store.room(room).await.map_err(ours)?;
    let mut members = Vec::new();
    if let Some(record) = &record {
        if is_ours(hub, record).await? {
            return Ok(Place::Here);
        }
        members = servers_in(hub, record).await?;
        if members.is_empty() {
            return Ok(Place::Here);
        }
    }
    // The name in an older room's id is no address: whoever made it may have left long ago.
    let invited = standing(hub, user, room).await?.map(|outside| outside.via);
    let servers = distinct(hub, via.iter().cloned().chain(invited).chain(members));
    // Nobody could be asked: then it is a room that is not here.
    Ok(if servers.is_empty() {
        Place::Here
    } else {
        Place::There(servers)
    })
}

/// Whether a user of ours is joined.
async fn is_ours(hub: &Hub, room: &RoomRecord) -> Result<bool, Refusal> {
    let joined = hub.store.joined(room.nid, Some(hub.key.name())).await;
    Ok(!joined.map_err(ours)?.is_empty())
}

/// The servers in a room, as far as it is known.
async fn servers_in(hub: &Hub, room: &RoomRecord) -> Result<Vec<OwnedServerName>, Refusal> {
    let joined = hub.store.joined(room.nid, None).await.map_err(ours)?;
    let servers: BTreeSet<_> = joined.iter().map(|user| user.server_name()).collect();
    Ok(servers.into_iter().map(ToOwned::to_owned).collect())
}

/// The first few of the servers, each once, without this one.
fn distinct(hub: &Hub, servers: impl Iterator<Item = OwnedServerName>) -> Vec<OwnedServerName> {
    let mut kept = Vec::new();
    for server in servers {
        if server != *hub.key.name() && !kept.contains(&server) {
            kept.push(server);
        }
        if kept.len() == SERVERS_MAX {
            break;
        }
    }
    kept
}

/// The room versions that this hub speaks, as it tells other servers, the newest first.
fn spoken() -> Vec<RoomVersionId> {
    Version::ALL.iter().rev().map(|known| known.id()).collect()
}

/// The version that a server says a room has.
fn version_of(said: Option<&RoomVersionId>) -> Result<Version, Refusal> {
    // spec: server-server §Joining-Rooms. None said: a version from before these were told apart.
    let said = said.map_or("1", |version| version.as_str());
    said.parse::<Version>().map_err(|error| {
        let refusal = Refusal::new(Code::IncompatibleRoomVersion, error.to_string());
        refusal.with("room_version", said)
    })
}

/// Whether a room of this id can have this version: since v12 an id names no server.
fn may_be_of(room: &RoomId, version: Version) -> bool {
    version.room_id_is_create_hash() != room.as_str().contains(':')
}

/// Why nobody let a user in: what each server said.
#[derive(Default)]
struct Refusals(Vec<(OwnedServerName, Refusal)>);

impl Refusals {
    fn add(&mut self, server: &OwnedServerName, refusal: Refusal) {
        tracing::info!(%server, why = refusal.message, "a server was asked in vain");
        self.0.push((server.clone(), refusal));
    }

    /// One refusal for all: the code of the first server that answered at all.
    fn into_one(self, what: &str) -> Refusal {
        let messages: Vec<_> = self
            .0
            .iter()
            .map(|(server, refusal)| {
                if refusal.message.starts_with(server.as_str()) {
                    refusal.message.clone()
                } else {
                    format!("{server}: {}", refusal.message)
                }
            })
            .collect();
        let message = format!("{what}: {}", messages.join("; "));
        let answered = self.0.iter().find(|(_, refusal)| refusal.status < 500);
        match answered.or_else(|| self.0.first()) {
            Some((server, refusal)) => {
                let one = Refusal {
                    why: refusal.why.clone(),
                    body: refusal.body.clone(),
                    ..Refusal::new(refusal.code, message).with_status(refusal.status)
                };
                one.known(|why| {
                    why.server.get_or_insert_with(|| server.to_string());
                })
            }
            None => Refusal::not_found(format!("{what}: no server is known to be in it")),
        }
    }
}

/// An answer that is not one to the question.
fn odd(server: &OwnedServerName) -> RemoteError {
    RemoteError::Unreachable {
        server: server.to_string(),
        reason: "the answer is one to another question".to_owned(),
    }
}

/// What another server told that cannot be so.
fn lied(why: impl std::fmt::Display) -> Refusal {
    let message = format!("what it told cannot be so: {why}");
    let reason = Why::of("PEER_ANSWER").rule(&message);
    Refusal::new(Code::Unknown, message)
        .with_status(502)
        .because(reason)
}

/// An event that another server gave as its answer, and that is not to be believed, or not now.
fn answer_disbelieved(error: Unverified) -> Refusal {
    match error {
        Unverified::NoKey { told, whole } => no_key(&told, whole),
        Unverified::Form(why) | Unverified::Wrong(why) => lied(why),
    }
}

/// An event that another server sent, and that is not one or not to be believed.
pub(super) fn told_wrongly(what: &str, error: Unverified) -> Refusal {
    let reason = Why::of(error.code());
    match error {
        Unverified::NoKey { told, whole } => no_key(&told, whole),
        Unverified::Form(why) => {
            Refusal::bad_json(format!("the {what}: {why}")).because(reason.rule(why))
        }
        Unverified::Wrong(why) => {
            let told = format!("the {what} is not to be believed: {why}");
            Refusal::forbidden(told).because(reason.rule(why))
        }
    }
}

/// An event that cannot be checked now: the keys that signed it are not to be had.
pub(super) fn no_key(told: &str, whole: String) -> Refusal {
    let reason = Why::of("EVENT_KEY").rule(whole);
    let told = format!("{told} (EVENT_KEY): its signature cannot be checked now");
    let refusal = Refusal::new(Code::Unknown, told).with_status(502);
    refusal.because(reason)
}
