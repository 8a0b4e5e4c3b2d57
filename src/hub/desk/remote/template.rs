//! A membership event for one of our users in a room elsewhere: from what a server of the room
//! proposes, read and compared with what was asked for, to what we sign.

use ruma::{CanonicalJsonObject, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::value::RawValue;

use crate::{
    api::Refusal,
    hub::Hub,
    room::Membership,
    wire::matrix::{Pdu, PduFields, Version},
};

use super::{lied, may_be_of};

/// Names who lets a user into a restricted room; that user's server has to sign, too.
pub(super) const VOUCHING: &str = "join_authorised_via_users_server";

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) room: &'a RoomId,
    pub(super) user: &'a UserId,
    pub(super) membership: Membership,
    /// What of ours is in the event beside the membership.
    pub(super) content: &'a CanonicalJsonObject,
}

/// Our event in the place that a server proposes for it.
///
/// Only that place is taken over: the events that it follows and leans on, its depth, and who
/// vouches for a join into a restricted room.
// spec: server-server §Joining-Rooms
pub(super) fn rebuilt(
    hub: &Hub,
    resident: &ServerName,
    wanted: Wanted<'_>,
    (version, template): (Version, &RawValue),
) -> Result<Pdu, Refusal> {
    if !may_be_of(wanted.room, version) {
        let why = format!("{} is no room of version {version}", wanted.room);
        return Err(lied(why));
    }
    let read = Pdu::read(template.get(), version);
    let read = read.map_err(|error| lied(format!("the template: {error}")))?;
    let proposed = read.fields();
    compared(wanted, proposed)?;
    let mut content = wanted.content.clone();
    content.insert("membership".to_owned(), wanted.membership.as_str().into());
    content.remove(VOUCHING);
    if let Some(by) = vouching(resident, wanted.membership, proposed)? {
        content.insert(VOUCHING.to_owned(), by.as_str().into());
    }
    let fields = PduFields {
        room_id: wanted.room.to_owned(),
        kind: "m.room.member".to_owned(),
        sender: wanted.user.to_owned(),
        state_key: Some(wanted.user.to_string()),
        content,
        redacts: None,
        at: hub.now(),
        depth: proposed.depth,
        prev: proposed.prev.clone(),
        auth: proposed.auth.clone(),
    };
    Pdu::sign(fields, version, &hub.key).map_err(lied)
}

fn compared(wanted: Wanted<'_>, proposed: &PduFields) -> Result<(), Refusal> {
    let user = wanted.user.as_str();
    let wrong = |what: &str, said: &str| Err(lied(format!("its template is of {what} {said:?}")));
    if proposed.room_id != wanted.room {
        return wrong("the room", proposed.room_id.as_str());
    }
    if proposed.kind != "m.room.member" {
        return wrong("the type", &proposed.kind);
    }
    if proposed.sender != wanted.user {
        return wrong("the sender", proposed.sender.as_str());
    }
    if proposed.state_key.as_deref() != Some(user) {
        return wrong(
            "the user",
            proposed.state_key.as_deref().unwrap_or("nobody"),
        );
    }
    if Membership::named_in(&proposed.content) != Some(wanted.membership) {
        return wrong("the membership", Membership::of(proposed).as_str());
    }
    if proposed.prev.is_empty() {
        return Err(lied("its template follows no event"));
    }
    Ok(())
}

/// Who lets the user in, where the server says so: one of its own users, for it is the one to sign.
fn vouching(
    resident: &ServerName,
    membership: Membership,
    proposed: &PduFields,
) -> Result<Option<OwnedUserId>, Refusal> {
    let Some(named) = proposed.content.get(VOUCHING) else {
        return Ok(None);
    };
    let named = named.as_str().and_then(|id| OwnedUserId::try_from(id).ok());
    match named {
        Some(user) if membership == Membership::Join && user.server_name() == resident => {
            Ok(Some(user))
        }
        _ => Err(lied("its template names somebody else's user to vouch")),
    }
}
