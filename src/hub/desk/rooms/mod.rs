//! Changing rooms: founding them, who is in them, what is said in them.
//!
//! Everything here ends in the room's writer, whose rules decide; this reads requests, adds what
//! only the hub knows and says what other servers' names would need.

mod create;
mod membership;
mod send;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId,
    UserId, serde::Raw,
};

pub(super) use self::{
    create::create_room,
    membership::{ban, forget, invite, join, join_by_id_or_alias, kick, knock, leave, unban},
    send::{redact, send, send_state},
};
use crate::{
    api::{Caller, Code, Refusal},
    hub::{
        Hub, Submission, Submitted, WriteError,
        desk::{
            access::ours,
            reading::outsider::{banned, outsider},
            remote,
        },
    },
    room::{self, Draft, MemberChange, Part},
    wire::json,
};

/// Appends one part as the caller.
pub(super) async fn submit(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    part: Part,
) -> Result<Submitted, Refusal> {
    hub.desk.rates().events(caller)?;
    charged(hub, caller, room, part).await
}

/// The same where it was counted against the caller's rate already.
async fn charged(
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
    part: Part,
) -> Result<Submitted, Refusal> {
    let submission = Submission {
        draft: Draft {
            sender: caller.user.clone(),
            parts: vec![part],
        },
        txn: None,
        sent_by: None,
    };
    let is_entering = matches!(
        &submission.draft.parts[..],
        [Part::Member {
            change: MemberChange::Join | MemberChange::Knock,
            ..
        }]
    );
    match hub.writer.submit(room, submission).await {
        Ok(done) => Ok(done),
        Err(WriteError::NoSuchRoom(_))
            if is_entering && room.server_name().is_none_or(|name| name != hub.key.name()) =>
        {
            Err(elsewhere(room.as_str()))
        }
        Err(error) => Err(refusal(error, hub, caller, room).await),
    }
}

/// The refusal for a write: whoever is not in the room is told why, rather than by which rule; whether
/// there is such a room makes no difference to whoever has nothing to do with it.
pub(in crate::hub::desk) async fn refusal(
    error: WriteError,
    hub: &Hub,
    caller: &Caller,
    room: &RoomId,
) -> Refusal {
    let user = &caller.user;
    match &error {
        WriteError::Refused(room::Refusal::NotMember(who)) if who == user => {
            outsider(hub, user, room).await
        }
        WriteError::NoSuchRoom(_) => outsider(hub, user, room).await,
        WriteError::Refused(room::Refusal::Rules(_)) => {
            let banned = banned(hub, user, room).await;
            banned.unwrap_or_else(|| error.into())
        }
        _ => error.into(),
    }
}

/// The content of a request, as events hold it.
fn content<T>(raw: &Raw<T>) -> Result<CanonicalJsonObject, Refusal> {
    json::read_object(raw.json().get().as_bytes())
        .map_err(|error| Refusal::bad_json(error.to_string()))
}

/// What a user's profile says of them in a member event.
async fn profile(hub: &Hub, user: &UserId) -> Result<CanonicalJsonObject, Refusal> {
    let fields = hub.store.profile(user).await.map_err(ours)?;
    let known = fields.into_iter().filter_map(|(field, value)| {
        let text: String = serde_json::from_str(&value).ok()?;
        let is_shown = matches!(field.as_str(), "displayname" | "avatar_url");
        is_shown.then_some((field, CanonicalJsonValue::String(text)))
    });
    Ok(known.collect())
}

/// A room, and servers that may be in it.
struct Name {
    room: OwnedRoomId,
    via: Vec<OwnedServerName>,
}

/// The room an id or an alias names.
async fn named(
    hub: &Hub,
    name: &RoomOrAliasId,
    mut via: Vec<OwnedServerName>,
) -> Result<Name, Refusal> {
    let alias = match <&RoomId>::try_from(name) {
        Ok(id) => {
            let room = id.to_owned();
            return Ok(Name { room, via });
        }
        Err(alias) => alias,
    };
    if alias.server_name() != hub.key.name() {
        let told = remote::alias(hub, alias).await?;
        via.extend(told.servers);
        return Ok(Name {
            room: told.room,
            via,
        });
    }
    let record = hub.store.alias(alias).await.map_err(ours)?;
    match record {
        Some(record) => Ok(Name {
            room: record.room_id,
            via,
        }),
        None => Err(Refusal::not_found(format!("no room has the alias {alias}"))),
    }
}

/// Refuses users of this server that there are not.
async fn must_be_here(hub: &Hub, user: &UserId) -> Result<(), Refusal> {
    match hub.store.user(user).await.map_err(ours)? {
        Some(_) => Ok(()),
        None => Err(Refusal::not_found(format!("there is no user {user}"))),
    }
}

fn elsewhere(name: &str) -> Refusal {
    Refusal::not_found(format!(
        "{name} is not on this server; name one that is in it with `via`"
    ))
}

fn no_third_party() -> Refusal {
    let message = "invites by e-mail address or phone number are not supported: there is no \
                   identity server here";
    Refusal::new(Code::Unknown, message).with_status(400)
}
