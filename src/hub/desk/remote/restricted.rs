//! Joining a restricted room that this hub is in, by meeting its condition: one of ours who may
//! invite vouches for it, or, where none of ours may, a user of another server in the room.

use std::sync::Arc;

use ruma::{CanonicalJsonObject, OwnedServerName, RoomId, UserId};

use super::{
    Refusals, distinct,
    join::{Joining, made, sent, signed_by_all},
    lied, servers_in, turn_of,
};
use crate::{
    api::{Caller, Code, Refusal},
    hub::{
        Hub,
        desk::{access::ours, peers},
    },
    room::{MemberChange, Part, Room, StateKey},
    store::RoomRecord,
    wire::matrix::Pdu,
};

/// Lets a user of ours in who meets the room's condition. Gives whether there was anything of this
/// kind to do: if not, the room is joined like any other here.
// spec: server-server §Restricted-rooms
pub(in crate::hub::desk) async fn join_restricted(
    hub: &Hub,
    caller: &Caller,
    (room, via): (&RoomId, &[OwnedServerName]),
    content: &CanonicalJsonObject,
) -> Result<bool, Refusal> {
    let Some(record) = hub.store.room(room).await.map_err(ours)? else {
        return Ok(false);
    };
    let refusal = match peers::vouching(hub, &record, &caller.user).await {
        Ok(None) => return Ok(false),
        Ok(Some(by)) => {
            hub.desk.rates().events(caller)?;
            let join = vouched(hub, &caller.user, &record, (&by, content)).await?;
            let join = peers::must_be_vouched_for(hub, &record, join).await?;
            peers::take_in(hub, hub.key.name(), room, join).await?;
            return Ok(true);
        }
        Err(refusal) if refusal.code == Code::UnableToAuthoriseJoin => refusal,
        Err(refusal) => return Err(refusal),
    };
    // Others in the room may know more, or have somebody who may invite.
    let others = servers_in(hub, &record).await?;
    let servers = distinct(hub, via.iter().cloned().chain(others));
    if servers.is_empty() {
        return Err(Refusal::forbidden(refusal.message));
    }
    hub.desk.rates().events(caller)?;
    let joining = Joining {
        user: caller.user.clone(),
        room: room.to_owned(),
        via: servers,
        content: content.clone(),
    };
    let hub = hub.shared().ok_or_else(Refusal::internal)?;
    let joined = tokio::spawn(async move { through_others(&hub, &joining, &record).await }).await;
    joined.map_err(|_| Refusal::internal())??;
    Ok(true)
}

/// The join, vouched for by a user of ours.
async fn vouched(
    hub: &Hub,
    user: &UserId,
    record: &RoomRecord,
    (by, content): (&UserId, &CanonicalJsonObject),
) -> Result<Pdu, Refusal> {
    let part = Part::Member {
        target: user.to_owned(),
        change: MemberChange::Join,
        content: content.clone(),
    };
    let mut staged = Room::loaded(record.id.clone(), record.version, record.heads.clone());
    let mut keys = staged.needs(user, &part).state;
    keys.push(StateKey::member(by));
    let found = hub.store.current(record.nid, &keys).await.map_err(ours)?;
    for (key, event) in keys.into_iter().zip(found) {
        let event = event.map(|event| event.pdu(record)).transpose();
        staged.learn(key, event.map_err(|error| damaged(&error))?.map(Arc::new));
    }
    let mut fields = staged
        .template(user, MemberChange::Join, Some(by), hub.now())
        .map_err(|refusal| Refusal::forbidden(refusal.to_string()))?;
    for (name, value) in content {
        let own = fields.content.entry(name.clone());
        own.or_insert_with(|| value.clone());
    }
    Pdu::sign(fields, record.version, &hub.key).map_err(|error| {
        let message = error.to_string();
        Refusal::bad_json(message)
    })
}

async fn through_others(hub: &Hub, joining: &Joining, record: &RoomRecord) -> Result<(), Refusal> {
    let _turn = hub.desk.turns.take(turn_of(&joining.room)).await;
    let mut refusals = Refusals::default();
    for server in &joining.via {
        match through(hub, joining, record, server).await {
            Ok(()) => return Ok(()),
            Err(refusal) => refusals.add(server, refusal),
        }
    }
    Err(refusals.into_one(&format!("{} could not be joined", joining.room)))
}

async fn through(
    hub: &Hub,
    joining: &Joining,
    record: &RoomRecord,
    server: &OwnedServerName,
) -> Result<(), Refusal> {
    let (version, join) = made(hub, joining, server).await?;
    if version != record.version {
        return Err(lied(format!(
            "the room has version {}, not {version}",
            record.version
        )));
    }
    let told = sent(hub, joining, server, &join).await?;
    let join = signed_by_all(hub, server, version, join, told.event.as_deref()).await?;
    peers::take_in(hub, server, &record.id, Arc::new(join)).await
}

fn damaged(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error, "a stored event is damaged");
    Refusal::internal()
}
