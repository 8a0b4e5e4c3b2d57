//! A room's state: as it is for who is in the room, as it was for who left.

use ruma::api::client::state::{
    get_state_event_for_key::v3 as for_key, get_state_events::v3 as all,
};

use crate::{
    api::{Caller, Refusal},
    hub::{
        Hub,
        desk::{
            access::ours,
            reading::{standing, state_events, viewer, visibility::Horizon},
            sync::view::{self, Stored},
        },
    },
    room::StateKey,
};

/// See `api::Command::State`.
///
/// spec: client-server-rooms §Getting-events-for-a-room
pub(in crate::hub::desk) async fn state(
    hub: &Hub,
    caller: &Caller,
    request: all::Request,
) -> Result<all::Response, Refusal> {
    let standing = standing(hub, caller, &request.room_id).await?;
    let state = match standing.horizon(&hub.store).await? {
        Horizon::Current => hub.store.current_all(standing.room.nid, None).await,
        Horizon::Left(event) => state_events(&hub.store, event.state_after, &|_| true).await,
    };
    let viewer = viewer(hub, caller, &standing);
    let shown = view::show_state(&hub.store, viewer, &state.map_err(ours)?).await;
    Ok(all::Response::new(shown.map_err(ours)?))
}

/// See `api::Command::StateForKey`.
pub(in crate::hub::desk) async fn state_for_key(
    hub: &Hub,
    caller: &Caller,
    request: for_key::Request,
) -> Result<for_key::Response, Refusal> {
    let standing = standing(hub, caller, &request.room_id).await?;
    let room = standing.room.nid;
    let key = StateKey::new(request.event_type.to_string(), &request.state_key);
    let keys = std::slice::from_ref(&key);
    let found = match standing.horizon(&hub.store).await? {
        Horizon::Current => hub.store.current(room, keys).await,
        Horizon::Left(event) => hub.store.state_entries(room, event.state_after, keys).await,
    };
    let event = found
        .map_err(ours)?
        .into_iter()
        .flatten()
        .next()
        .ok_or_else(|| Refusal::not_found(format!("the room has no {key}")))?;
    if request.format == for_key::StateEventFormat::Event {
        let viewer = viewer(hub, caller, &standing);
        let shown = view::show_state(&hub.store, viewer, &[event]).await;
        let shown: Option<ruma::serde::Raw<ruma::events::AnyStateEvent>> =
            shown.map_err(ours)?.into_iter().next();
        return shown.map(Into::into).ok_or_else(Refusal::internal);
    }
    let stored = Stored::intact(&standing.room, &event).ok_or_else(Refusal::internal)?;
    Ok(for_key::Response::new(stored.content.to_owned()))
}
