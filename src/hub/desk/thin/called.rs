//! What a room is called, for a device that is told of it and may read nothing of its state: of an
//! invitation a person wants to know where to.

use super::{
    elsewhere::{self, NAME_CHARS_MAX},
    names,
};
use crate::{
    api::{Caller, Refusal},
    hub::{
        Hub,
        desk::{access::ours, remote, sync::view::Stored},
    },
    room::{Membership, StateKey},
    store::RoomNid,
    wire::thin::{Alias, NameKind},
};

/// The name of the room of a number, as far as its state is shown to the caller: who is in it, invited or
/// knocking. Nothing where there is none.
///
/// spec: thin-profile §9
pub(super) async fn room(
    hub: &Hub,
    caller: &Caller,
    alias: Alias,
) -> Result<Option<String>, Refusal> {
    let Some(id) = names::name(hub, caller, NameKind::Room, alias).await? else {
        return Ok(None);
    };
    let Ok(id) = <&ruma::RoomId>::try_from(id.as_str()) else {
        return Ok(None); // the log of rooms elsewhere
    };
    if let Some(outside) = remote::standing(hub, &caller.user, id).await? {
        return Ok(elsewhere::name(&outside.state));
    }
    let Some(room) = hub.store.room(id).await.map_err(ours)? else {
        return Ok(None);
    };
    let member = hub.store.membership(&caller.user, room.nid).await;
    let is_shown = member.map_err(ours)?.is_some_and(|member| {
        matches!(
            member.membership,
            Membership::Join | Membership::Invite | Membership::Knock
        )
    });
    if !is_shown {
        return Ok(None);
    }
    state(hub, room.nid).await
}

async fn state(hub: &Hub, room: RoomNid) -> Result<Option<String>, Refusal> {
    let key = StateKey::new("m.room.name", "");
    let found = hub.store.current(room, &[key]).await.map_err(ours)?;
    let name = found.first().and_then(Option::as_ref).and_then(|event| {
        let name = Stored::read(event)?.text("name")?;
        Some(name.chars().take(NAME_CHARS_MAX).collect::<String>())
    });
    Ok(name.filter(|name| !name.is_empty()))
}
