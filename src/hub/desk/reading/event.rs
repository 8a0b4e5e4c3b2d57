//! One event, and the aliases of a room.

use ruma::api::client::room;

use crate::{
    api::{Caller, Refusal},
    hub::{
        Hub,
        desk::{
            access::ours,
            reading::{page::Seen, standing, viewer, visibility::Standing},
            sync::view,
        },
    },
    store::{Status, hash_of},
};

/// See `api::Command::Event`.
pub(in crate::hub::desk) async fn event(
    hub: &Hub,
    caller: &Caller,
    request: room::get_room_event::v3::Request,
) -> Result<room::get_room_event::v3::Response, Refusal> {
    let standing = standing(hub, caller, &request.room_id)
        .await
        .map_err(|refusal| hidden(refusal, &request.event_id))?;
    let seen = visible(hub, &standing, &request.event_id).await?;
    let viewer = viewer(hub, caller, &standing);
    let shown = view::show(&hub.store, viewer, &[seen])
        .await
        .map_err(ours)?;
    let event = shown.into_iter().next().ok_or_else(Refusal::internal)?;
    Ok(room::get_room_event::v3::Response::new(event))
}

/// An event of a room, if the reader may see it. What is hidden and what is not there look alike.
///
/// spec: client-server-rooms §Getting-events-for-a-room
pub(super) async fn visible(
    hub: &Hub,
    standing: &Standing,
    id: &ruma::EventId,
) -> Result<Seen, Refusal> {
    let not_found = || unknown(id);
    let hash = hash_of(id).ok_or_else(not_found)?;
    let event = hub.store.event(hash).await.map_err(ours)?;
    let event = event
        .filter(|event| {
            event.room == standing.room.nid
                && event.status == Status::Accepted
                && !event.soft_failed
        })
        .ok_or_else(not_found)?;
    let sees = standing.sees(&hub.store, &event).await.map_err(ours)?;
    let (before, membership) = sees.ok_or_else(not_found)?;
    Ok(Seen {
        event,
        before,
        membership,
    })
}

/// See `api::Command::RoomAliases`.
pub(in crate::hub::desk) async fn room_aliases(
    hub: &Hub,
    caller: &Caller,
    request: room::aliases::v3::Request,
) -> Result<room::aliases::v3::Response, Refusal> {
    let standing = standing(hub, caller, &request.room_id).await?;
    if standing.must_be_joined().is_err()
        && !standing.is_open_now(&hub.store).await.map_err(ours)?
    {
        standing.must_be_joined()?;
    }
    let aliases = hub.store.aliases(standing.room.nid).await.map_err(ours)?;
    Ok(room::aliases::v3::Response::new(
        aliases.into_iter().map(|record| record.alias).collect(),
    ))
}

fn unknown(id: &ruma::EventId) -> Refusal {
    Refusal::not_found(format!("no event {id} that you may see in this room"))
}

/// A room the reader knows nothing of hides its events like any other.
fn hidden(refusal: Refusal, id: &ruma::EventId) -> Refusal {
    if refusal.code == crate::api::Code::Forbidden {
        unknown(id)
    } else {
        refusal
    }
}
