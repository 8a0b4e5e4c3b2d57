//! Knocking at a room that is on other servers only.

use ruma::{
    OwnedServerName,
    api::federation::membership::{create_knock_event, prepare_knock_event},
};
use serde_json::value::RawValue;

use super::{
    ANSWER_PATIENCE, ASKING_MAX, Entered, Joining, Place, Refusals, lied, odd,
    outside::{Outside, keep, only_own, shown},
    place, spoken,
    template::{Wanted, rebuilt},
    turn_of, version_of,
};
use crate::{
    api::{PeerCommand, PeerReply, Refusal},
    hub::Hub,
    room::Membership,
};

/// Knocks at a room that is elsewhere. Who hangs up has knocked all the same.
pub(in crate::hub::desk) async fn knock(hub: &Hub, knocking: Joining) -> Result<Entered, Refusal> {
    let hub = hub.shared().ok_or_else(Refusal::internal)?;
    let knocked = tokio::spawn(async move { at(&hub, &knocking).await }).await;
    knocked.map_err(|_| Refusal::internal())?
}

async fn at(hub: &Hub, knocking: &Joining) -> Result<Entered, Refusal> {
    let _turn = hub.desk.turns.take(turn_of(&knocking.room)).await;
    let Place::There(servers) = place(hub, &knocking.user, (&knocking.room, &knocking.via)).await?
    else {
        return Ok(Entered::Here);
    };
    let began = hub.now();
    let mut refusals = Refusals::default();
    for server in &servers {
        if hub.now() > began + ASKING_MAX {
            break;
        }
        match through(hub, knocking, server).await {
            Ok(()) => return Ok(Entered::Joined),
            Err(refusal) => refusals.add(server, refusal),
        }
    }
    Err(refusals.into_one(&format!("nobody lets you knock at {}", knocking.room)))
}

// spec: server-server §Knocking-upon-a-room
async fn through(hub: &Hub, knocking: &Joining, server: &OwnedServerName) -> Result<(), Refusal> {
    let (user, room) = (&knocking.user, &knocking.room);
    let mut asked = prepare_knock_event::v1::Request::new(room.clone(), user.clone());
    asked.ver = spoken();
    let command = PeerCommand::MakeKnock(Box::new(asked));
    let answer = hub.remote.ask(server, command, ANSWER_PATIENCE).await?;
    let PeerReply::MakeKnock(made) = answer else {
        return Err(odd(server).into());
    };
    let version = version_of(Some(&made.room_version))?;
    let wanted = Wanted {
        room,
        user,
        membership: Membership::Knock,
        content: &knocking.content,
    };
    let event = rebuilt(hub, server, wanted, (version, &made.event))?;
    let raw = RawValue::from_string(event.json().to_string()).map_err(lied)?;
    let asked = create_knock_event::v1::Request::new(room.clone(), event.id().clone(), raw);
    let command = PeerCommand::SendKnock(Box::new(asked));
    let answer = hub.remote.ask(server, command, ANSWER_PATIENCE).await?;
    let PeerReply::SendKnock(told) = answer else {
        return Err(odd(server).into());
    };
    let told = told.knock_room_state;
    // It knows of the knock: what it shows of the room is the smaller part.
    let shown = match shown(hub, (room, version), told, &event).await {
        Ok(shown) => shown,
        Err(refusal) => {
            tracing::info!(%room, %server, why = refusal.message, "a room shows itself wrongly");
            only_own(&event)
        }
    };
    let outside = Outside {
        user,
        room,
        version,
        via: server,
        membership: Membership::Knock,
        event: &event,
        shown,
    };
    keep(hub, outside).await
}
