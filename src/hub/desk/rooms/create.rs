//! Founding rooms.

use std::{fmt::Display, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedUserId,
    RoomAliasId, ServerName,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, Response, RoomPreset},
    },
};
use serde_json::value::RawValue;

use crate::{
    api::{Caller, Code, Refusal},
    base::Timestamp,
    hub::{
        Hub, WriteError, Writer,
        desk::{
            canonical_alias,
            peers::kind_of,
            remote,
            rooms::{content, must_be_here, no_third_party, profile},
        },
    },
    room::{
        Evidence, Founding, InitialState, Preset, Refusal as RoomRefusal, RoomWish, found,
        founding, initial_parts,
    },
    store::{Batch, RoomNid, Write},
    wire::{
        json,
        matrix::{ServerKey, Version},
    },
};

/// How many users a new room may invite.
///
/// The room is stored in one commit; each invite is an event of about a kilobyte in it.
const INVITES_MAX: usize = 200;

/// How much initial state a new room may have, in events; for the same reason.
const INITIAL_STATE_MAX: usize = 200;

/// Random bytes in the id of a room whose id is not a hash: 24 characters, none to be guessed.
const ROOM_ID_BYTES: usize = 18;

/// How many rooms one user may want alike in one millisecond.
const ALIKE_MAX: u64 = 16;

/// See `api::Command::CreateRoom`.
///
/// spec: client-server-rooms §Creation
pub(in crate::hub::desk) async fn create_room(
    hub: &Hub,
    caller: &Caller,
    request: Request,
) -> Result<Response, Refusal> {
    hub.desk.rates().events(caller)?;
    let listed = request.visibility == Visibility::Public;
    let mut wish = wish(hub, caller, request).await?;
    let (near, far) = wish
        .invite
        .into_iter()
        .partition(|user| user.server_name() == hub.key.name());
    wish.invite = near;
    let is_direct = wish.is_direct;
    let making = Making {
        writer: Arc::clone(&hub.writer),
        key: Arc::clone(&hub.key),
        founding: founding(&wish, room_id(hub)?),
        listed,
        wish,
        nid: hub.store.numbers().room(),
        now: hub.now(),
    };
    // Whoever asked may hang up; an alias that was taken must still get its room, or be let go.
    let made = tokio::spawn(making.run()).await;
    let made = made.map_err(|error| {
        tracing::error!(%error, "making a room broke off");
        Refusal::busy(Duration::ZERO)
    })?;
    let room = made?;
    invite_far(hub, caller, &room, (far, is_direct)).await?;
    Ok(Response::new(room))
}

/// Invites users of other servers, whose signatures that takes: into a room that is there.
async fn invite_far(
    hub: &Hub,
    caller: &Caller,
    room: &OwnedRoomId,
    (users, is_direct): (Vec<OwnedUserId>, bool),
) -> Result<(), Refusal> {
    for user in users {
        let mut content = remote::shown_profile(hub, &user).await;
        if is_direct {
            content.insert("is_direct".to_owned(), true.into());
        }
        let invited = remote::invite(hub, caller, room, (user.clone(), content)).await;
        invited.map_err(|refusal| Refusal {
            message: format!(
                "{room} was made, but {user} not invited: {}",
                refusal.message
            ),
            ..refusal
        })?;
    }
    Ok(())
}

/// A room on its way.
struct Making {
    writer: Arc<Writer>,
    key: Arc<ServerKey>,
    wish: RoomWish,
    founding: Founding,
    nid: RoomNid,
    /// Whether everyone may find it.
    listed: bool,
    now: Timestamp,
}

impl Making {
    async fn run(self) -> Result<OwnedRoomId, Refusal> {
        if let Some(alias) = &self.wish.alias {
            self.take_alias(alias.clone()).await?;
        }
        let made = match self.list(self.listed).await {
            Ok(()) => self.make().await,
            Err(error) => Err(error.into()),
        };
        if made.is_err() {
            self.undo().await;
        }
        made
    }

    /// Makes the room. Since v12 its id is the hash of its first event: two rooms that one user
    /// wants alike in one millisecond would be one, so that the second is dated a little later.
    async fn make(&self) -> Result<OwnedRoomId, Refusal> {
        for later in 0..ALIKE_MAX {
            match self.make_at(self.now + Duration::from_millis(later)).await {
                Ok(id) => return Ok(id),
                Err(WriteError::Refused(refusal)) => return Err(invalid(refusal)),
                Err(WriteError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refusal::busy(Duration::from_millis(ALIKE_MAX)))
    }

    async fn make_at(&self, now: Timestamp) -> Result<OwnedRoomId, WriteError> {
        let evidence = Evidence {
            now,
            key: &self.key,
            target: None,
        };
        let founded = found(&self.founding, &evidence)?;
        let parts = initial_parts(&self.wish);
        let done = self.writer.found(founded, self.nid, parts).await?;
        Ok(done.room)
    }

    async fn take_alias(&self, alias: OwnedRoomAliasId) -> Result<(), Refusal> {
        let in_use = format!("the alias {alias} is taken");
        let write = Write::NewAlias {
            alias,
            room: self.nid,
            creator: self.wish.creator.clone(),
        };
        match self.writer.write(alone(write), Vec::new()).await {
            Ok(_) => Ok(()),
            Err(WriteError::Conflict(_)) => Err(Refusal::new(Code::RoomInUse, in_use)),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the room into the directory or takes it out again.
    async fn list(&self, listed: bool) -> Result<(), WriteError> {
        if !self.listed {
            return Ok(());
        }
        let room = self.nid;
        let write = alone(Write::Listed { room, listed });
        self.writer.write(write, Vec::new()).await.map(drop)
    }

    async fn undo(&self) {
        let freed = match self.wish.alias.clone() {
            Some(alias) => {
                let write = alone(Write::RemoveAlias { alias });
                self.writer.write(write, Vec::new()).await.map(drop)
            }
            None => Ok(()),
        };
        for undone in [freed, self.list(false).await] {
            if let Err(error) = undone {
                tracing::warn!(%error, alias = ?self.wish.alias,
                    "names of a room that was not made stay taken until the next start");
            }
        }
    }
}

/// What the rules turn down in a new room is the fault of what was asked for.
fn invalid(refusal: RoomRefusal) -> Refusal {
    match refusal {
        RoomRefusal::Rules(_) | RoomRefusal::Membership(_) | RoomRefusal::NotForClients(_) => {
            Refusal::new(Code::InvalidRoomState, refusal.to_string())
        }
        other => WriteError::Refused(other).into(),
    }
}

/// Reads the request.
async fn wish(hub: &Hub, caller: &Caller, request: Request) -> Result<RoomWish, Refusal> {
    if !request.invite_3pid.is_empty() {
        return Err(no_third_party());
    }
    let version = version(&request)?;
    let preset = preset(&request)?;
    at_most("invite", request.invite.len(), INVITES_MAX)?;
    at_most(
        "initial_state",
        request.initial_state.len(),
        INITIAL_STATE_MAX,
    )?;
    let near = |user: &&OwnedUserId| user.server_name() == hub.key.name();
    for user in request.invite.iter().filter(near) {
        must_be_here(hub, user).await?;
    }
    let alias = request.room_alias_name.as_deref();
    let alias = alias
        .map(|name| alias_of(name, hub.key.name()))
        .transpose()?;
    let initial_state = request.initial_state.iter().enumerate();
    let initial_state = initial_state
        .map(|(index, raw)| initial_state_of(index, object(index, raw.json())?, alias.as_deref()))
        .collect::<Result<_, _>>()?;
    Ok(RoomWish {
        creator: caller.user.clone(),
        version,
        preset,
        creation_content: optional(request.creation_content.as_ref().map(content))?,
        profile: profile(hub, &caller.user).await?,
        power_levels: optional(request.power_level_content_override.as_ref().map(content))?,
        alias,
        initial_state,
        name: request.name,
        topic: request.topic,
        invite: request.invite,
        is_direct: request.is_direct,
    })
}

fn version(request: &Request) -> Result<Version, Refusal> {
    match &request.room_version {
        None => Ok(Version::DEFAULT),
        Some(id) => id
            .as_str()
            .parse::<Version>()
            .map_err(|error| Refusal::new(Code::UnsupportedRoomVersion, error.to_string())),
    }
}

fn preset(request: &Request) -> Result<Preset, Refusal> {
    match &request.preset {
        None => Ok(Preset::of_visibility(
            request.visibility == Visibility::Public,
        )),
        Some(RoomPreset::PrivateChat) => Ok(Preset::PrivateChat),
        Some(RoomPreset::TrustedPrivateChat) => Ok(Preset::TrustedPrivateChat),
        Some(RoomPreset::PublicChat) => Ok(Preset::PublicChat),
        Some(other) => Err(Refusal::invalid_param(format!(
            "`preset` cannot be {:?}",
            other.as_str()
        ))),
    }
}

fn object(index: usize, raw: &RawValue) -> Result<CanonicalJsonObject, Refusal> {
    let wrong = match kind_of(raw) {
        "an object" => match json::read_object(raw.get().as_bytes()) {
            Ok(object) => return Ok(object),
            Err(error) => error.to_string(),
        },
        other => format!("expected an object, found {other}"),
    };
    Err(Refusal::bad_json(format!(
        "`initial_state[{index}]`: {wrong}"
    )))
}

fn initial_state_of(
    index: usize,
    mut entry: CanonicalJsonObject,
    alias: Option<&RoomAliasId>,
) -> Result<InitialState, Refusal> {
    let wrong = |name: &str, right: &str| {
        let message = format!("`initial_state[{index}].{name}`: expected {right}");
        Refusal::bad_json(message)
    };
    let missing = |name: &str| {
        let message = format!("`initial_state[{index}].{name}` is missing");
        Refusal::new(Code::MissingParam, message)
    };
    let kind = match entry.remove("type") {
        Some(CanonicalJsonValue::String(kind)) => kind,
        Some(_) => return Err(wrong("type", "a text")),
        None => return Err(missing("type")),
    };
    let state_key = match entry.remove("state_key") {
        None => String::new(),
        Some(CanonicalJsonValue::String(key)) => key,
        Some(_) => return Err(wrong("state_key", "a text")),
    };
    let content = match entry.remove("content") {
        Some(CanonicalJsonValue::Object(content)) => content,
        Some(_) => return Err(wrong("content", "an object")),
        None => return Err(missing("content")),
    };
    if kind == canonical_alias::KIND && state_key.is_empty() {
        canonical_alias::check_first(index, &content, alias)?;
    }
    Ok(InitialState {
        kind,
        state_key,
        content,
    })
}

fn alias_of(name: &str, server: &ServerName) -> Result<OwnedRoomAliasId, Refusal> {
    let wrong = |reason: &dyn Display| {
        Refusal::invalid_param(format!("`room_alias_name` cannot be {name:?}: {reason}"))
    };
    if name.is_empty() || name.contains([':', '#', '\0']) || name.contains(char::is_whitespace) {
        return Err(wrong(&"only the part before `:`"));
    }
    OwnedRoomAliasId::try_from(format!("#{name}:{server}"))
        .map_err(|_| wrong(&"it makes no room alias"))
}

fn alone(write: Write) -> Batch {
    Batch {
        writes: vec![write],
        may_conflict: true,
    }
}

/// An id for versions before 12.
fn room_id(hub: &Hub) -> Result<OwnedRoomId, Refusal> {
    let random = URL_SAFE_NO_PAD.encode(hub.random::<ROOM_ID_BYTES>());
    let id = format!("!{random}:{}", hub.key.name());
    OwnedRoomId::try_from(id).map_err(|error| {
        let error: &dyn std::error::Error = &error;
        tracing::error!(error, "the server's name is too long for a room id");
        Refusal::internal()
    })
}

fn at_most(field: &str, count: usize, max: usize) -> Result<(), Refusal> {
    if count <= max {
        return Ok(());
    }
    let message = format!("`{field}` has {count} entries, {max} are allowed");
    Err(Refusal::invalid_param(message))
}

fn optional(
    content: Option<Result<CanonicalJsonObject, Refusal>>,
) -> Result<CanonicalJsonObject, Refusal> {
    content.unwrap_or_else(|| Ok(CanonicalJsonObject::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_the_first_state_that_is_wrong_is_named() {
        for (entry, code, said) in [
            (
                "{}",
                Code::MissingParam,
                "`initial_state[3].type` is missing",
            ),
            (
                r#"{"type":5}"#,
                Code::BadJson,
                "`initial_state[3].type`: expected a text",
            ),
            (
                r#"{"type":"m.x"}"#,
                Code::MissingParam,
                "`initial_state[3].content` is missing",
            ),
        ] {
            let entry = serde_json::from_str(entry).unwrap();
            let refusal = initial_state_of(3, entry, None).err().unwrap();
            assert_eq!((refusal.code, &*refusal.message), (code, said));
        }
        let seven = RawValue::from_string("7".to_owned()).unwrap();
        let refusal = object(3, &seven).unwrap_err();
        let said = "`initial_state[3]`: expected an object, found a number";
        assert_eq!((refusal.code, &*refusal.message), (Code::BadJson, said));
    }
}
