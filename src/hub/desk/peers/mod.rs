//! What other servers ask: the desk's side of the Matrix server-to-server API.
//!
//! Who asks was shown by a signature that the edge checked. Here is decided what that server may
//! see and do: it must be in the room, the room's ACL must let it, and what it sends must be its
//! own users'.

pub(super) mod by_time;
mod devices;
mod edu_form;
mod edus;
pub(super) mod gaps;
mod joining;
mod leaning;
mod outcomes;
pub(super) mod past;
mod policy;
mod reading;
pub(super) mod spaces;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_edus;
#[cfg(test)]
mod tests_past;
#[cfg(test)]
mod tests_policy;
#[cfg(test)]
mod tests_spaces;
#[cfg(test)]
mod tests_told;
#[cfg(test)]
mod tests_tying;
mod transaction;
pub(super) mod tying;

pub(super) use self::{
    joining::vouching,
    leaning::{Teller, Told},
    outcomes::kind_of,
    policy::must_be_vouched_for,
    transaction::take_in,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};

use crate::{
    api::{Code, Credentials, Origin, PeerCommand, PeerReply, Refusal, Why},
    hub::{
        Hub,
        desk::{access::ours, directory, remote},
    },
    room::{ServerAcl, StateKey},
    store::{EventRecord, RoomRecord},
};

/// Does what another server asks.
pub(super) async fn ask(
    hub: &Hub,
    origin: &Origin,
    command: PeerCommand,
) -> Result<PeerReply, Refusal> {
    let Credentials::Server(peer) = &origin.credentials else {
        return Err(Refusal::forbidden("only servers ask this, and sign it"));
    };
    if let Some(outbox) = &hub.outbox {
        outbox.alive(peer);
    }
    macro_rules! answered {
        ($name:ident, $answer:expr) => {
            $answer.await.map(|reply| PeerReply::$name(Box::new(reply)))
        };
    }
    match command {
        PeerCommand::MakeJoin(asked) => answered!(MakeJoin, joining::make_join(hub, peer, *asked)),
        PeerCommand::SendJoin(asked) => answered!(SendJoin, joining::send_join(hub, peer, *asked)),
        PeerCommand::MakeLeave(asked) => {
            answered!(MakeLeave, joining::make_leave(hub, peer, *asked))
        }
        PeerCommand::SendLeave(asked) => {
            answered!(SendLeave, joining::send_leave(hub, peer, *asked))
        }
        PeerCommand::MakeKnock(asked) => {
            answered!(MakeKnock, joining::make_knock(hub, peer, *asked))
        }
        PeerCommand::SendKnock(asked) => {
            answered!(SendKnock, joining::send_knock(hub, peer, *asked))
        }
        PeerCommand::Transaction(asked) => {
            answered!(
                Transaction,
                transaction::receive(hub, (peer, origin), *asked)
            )
        }
        PeerCommand::StateBefore(asked) => {
            answered!(StateBefore, reading::state(hub, peer, *asked))
        }
        PeerCommand::StateIdsBefore(asked) => {
            answered!(StateIdsBefore, reading::state_ids(hub, peer, *asked))
        }
        PeerCommand::PeerEvent(asked) => answered!(PeerEvent, reading::event(hub, peer, *asked)),
        PeerCommand::EventAuth(asked) => {
            answered!(EventAuth, reading::event_auth(hub, peer, *asked))
        }
        PeerCommand::Backfill(asked) => answered!(Backfill, reading::backfill(hub, peer, *asked)),
        PeerCommand::MissingEvents(asked) => {
            answered!(MissingEvents, reading::missing_events(hub, peer, *asked))
        }
        PeerCommand::PeerProfile(asked) => {
            answered!(PeerProfile, reading::profile(hub, *asked))
        }
        PeerCommand::PeerAlias(asked) => answered!(PeerAlias, reading::alias(hub, *asked)),
        PeerCommand::InviteHere(asked) => {
            answered!(InviteHere, remote::invited(hub, peer, *asked))
        }
        PeerCommand::OldInviteHere(_) => Err(Refusal::new(
            Code::IncompatibleRoomVersion,
            "such invites are into rooms of versions 1 and 2, which this hub does not speak",
        )
        .with("room_version", "1")),
        PeerCommand::UserDevices(asked) => {
            answered!(UserDevices, devices::devices(hub, *asked))
        }
        PeerCommand::UserKeys(asked) => answered!(UserKeys, devices::keys(hub, *asked)),
        PeerCommand::UserKeyClaim(asked) => {
            answered!(UserKeyClaim, devices::claim(hub, peer, *asked))
        }
        PeerCommand::PeerPublicRooms(asked) => {
            answered!(PeerPublicRooms, directory::peer_public_rooms(hub, *asked))
        }
        PeerCommand::PeerRoomSearch(asked) => {
            answered!(PeerRoomSearch, directory::peer_room_search(hub, *asked))
        }
        PeerCommand::PeerHierarchy(asked) => {
            answered!(PeerHierarchy, spaces::hierarchy(hub, peer, *asked))
        }
        PeerCommand::PeerEventByTime(asked) => {
            answered!(PeerEventByTime, by_time::nearest(hub, peer, *asked))
        }
        PeerCommand::PolicySign(asked) => answered!(PolicySign, policy::sign(hub, peer, *asked)),
    }
}

/// A room of this hub that the server may speak of: its ACL does not keep it out.
async fn room_for(hub: &Hub, peer: &ServerName, room: &RoomId) -> Result<RoomRecord, Refusal> {
    let record = hub.store.room(room).await.map_err(ours)?;
    let record = record.ok_or_else(|| unknown(room))?;
    must_be_let_in(hub, peer, &record).await?;
    Ok(record)
}

fn unknown(room: &RoomId) -> Refusal {
    let why = Why::of("ROOM_UNKNOWN").room(room);
    Refusal::not_found(format!("no such room here: {room}")).because(why)
}

/// Refuses a server that the room's ACL keeps out.
pub(super) async fn must_be_let_in(
    hub: &Hub,
    peer: &ServerName,
    room: &RoomRecord,
) -> Result<(), Refusal> {
    if let Some(acl) = acl(hub, room).await? {
        acl.check(peer)?;
    }
    Ok(())
}

/// The same, and the server is in it.
async fn room_of(hub: &Hub, peer: &ServerName, room: &RoomId) -> Result<RoomRecord, Refusal> {
    let record = room_for(hub, peer, room).await?;
    if is_in(hub, &record, peer).await? {
        return Ok(record);
    }
    let why = Why::of("NOT_IN_ROOM").room(room);
    Err(Refusal::forbidden(format!("{peer} is not in {room}")).because(why))
}

async fn is_in(hub: &Hub, room: &RoomRecord, server: &ServerName) -> Result<bool, Refusal> {
    let joined = hub
        .store
        .joined(room.nid, Some(server))
        .await
        .map_err(ours)?;
    Ok(!joined.is_empty())
}

/// Whom the room lets in; everyone without one.
async fn acl(hub: &Hub, room: &RoomRecord) -> Result<Option<Acl>, Refusal> {
    let keys = [Acl::state_key()];
    let found = hub.store.current(room.nid, &keys).await.map_err(ours)?;
    acl_of(room, found.into_iter().flatten().next())
}

/// The same where the event is read already.
fn acl_of(room: &RoomRecord, event: Option<EventRecord>) -> Result<Option<Acl>, Refusal> {
    let Some(event) = event else {
        return Ok(None);
    };
    let event = event.pdu(room).map_err(|error| damaged(&error))?;
    Ok(Some(Acl {
        list: ServerAcl::read(&event.fields().content),
        event: event.id().clone(),
        room: room.id.clone(),
    }))
}

/// A room's list of servers, and the event that says it.
struct Acl {
    list: ServerAcl,
    event: OwnedEventId,
    room: OwnedRoomId,
}

impl Acl {
    fn state_key() -> StateKey {
        StateKey::new("m.room.server_acl", "")
    }

    fn check(&self, server: &ServerName) -> Result<(), Refusal> {
        self.list.check(server).map_err(|refused| {
            let mut why = Why::of("SERVER_ACL")
                .rule(refused.to_string())
                .room(&self.room);
            why.list = Some(format!("m.room.server_acl {}", self.event));
            Refusal::forbidden(refused.to_string()).because(why)
        })
    }
}

/// A user that a server speaks for must be its own.
fn must_be_of(peer: &OwnedServerName, user: &UserId) -> Result<(), Refusal> {
    if user.server_name() == peer {
        return Ok(());
    }
    Err(Refusal::forbidden(format!(
        "{peer} does not speak for {user}"
    )))
}

fn raw(event: &EventRecord) -> Result<Box<serde_json::value::RawValue>, Refusal> {
    raw_json(event.json.to_string())
}

fn raw_json(json: String) -> Result<Box<serde_json::value::RawValue>, Refusal> {
    serde_json::value::RawValue::from_string(json).map_err(|error| damaged(&error))
}

fn damaged(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error, "a stored event is damaged");
    Refusal::internal()
}
